//! What people use for a live mirror today: inotifywait with rsync, lsyncd, sersync. Each with the options its own documentation gives, and
//! `--modify-window=-1`: without it rsync takes a file that was changed again within the same second, at the same size, for equal.

use std::fs;
use std::path::Path;

use super::Prepared;
use super::rsyncd::Rsyncd;
use crate::lab::{End, Lab};
use crate::problem::{Doing, Result};

/// Arguments: source, destination. Events are read until there are none for 0.1 s (or very many have come), then everything is synchronized.
const LOOP: &str = r#"
inotifywait -m -r -q -e modify,attrib,close_write,move,create,delete --format x "$1" | {
    rsync -a --modify-window=-1 --delete "$1/" "$2"
    while read -r line; do
        events=0
        while [ $events -lt 50000 ] && read -r -t 0.1 line; do events=$((events + 1)); done
        rsync -a --modify-window=-1 --delete "$1/" "$2"
    done
}
"#;

pub(super) fn watch_loop(lab: &Lab) -> Result<Prepared<'_>> {
    let daemon = Rsyncd::start(lab)?;
    let mut command = lab.command(End::Sender, "bash");
    command.args(["-c", LOOP, "loop"]).arg(lab.src()).arg(daemon.url());
    Ok(Prepared { lab, receiver: Some(daemon.process), command: Some(command), name: "the inotifywait loop".into() })
}

pub(super) fn lsyncd(lab: &Lab) -> Result<Prepared<'_>> {
    let daemon = Rsyncd::start(lab)?;
    let text = format!(
        "settings {{ nodaemon = true, insist = true, logfile = \"{}\" }}\n\
         sync {{ default.rsync, source = \"{}\", target = \"{}\", delay = 1, delete = true, rsync = {{ archive = true, compress = false, _extra = {{ \"--modify-window=-1\" }} }} }}\n",
        lab.file("lsyncd.log").display(),
        lab.src().display(),
        daemon.url()
    );
    let config = lab.file("lsyncd.lua");
    fs::write(&config, text).doing(|| format!("write {}", config.display()))?;
    let mut command = lab.command(End::Sender, "lsyncd");
    command.arg(config);
    Ok(Prepared { lab, receiver: Some(daemon.process), command: Some(command), name: "lsyncd".into() })
}

pub(super) fn sersync<'a>(lab: &'a Lab, program: &Path) -> Result<Prepared<'a>> {
    let daemon = Rsyncd::start(lab)?;
    let text = format!(
        r#"<?xml version="1.0" encoding="ISO-8859-1"?>
<head version="2.5">
    <host hostip="localhost" port="8008"></host>
    <debug start="false"/>
    <fileSystem xfs="false"/>
    <filter start="false"></filter>
    <inotify>
        <delete start="true"/> <createFolder start="true"/> <createFile start="false"/> <closeWrite start="true"/>
        <moveFrom start="true"/> <moveTo start="true"/> <attrib start="true"/> <modify start="false"/>
    </inotify>
    <sersync>
        <localpath watch="{src}"><remote ip="{ip}" name="m"/></localpath>
        <rsync>
            <commonParams params="-a --modify-window=-1"/>
            <auth start="false" users="root" passwordfile="/etc/rsync.pas"/>
            <userDefinedPort start="true" port="{port}"/>
            <timeout start="false" time="100"/>
            <ssh start="false"/>
        </rsync>
        <failLog path="{fail}" timeToExecute="1"/>
        <crontab start="false" schedule="600"><crontabfilter start="false"></crontabfilter></crontab>
        <plugin start="false" name="command"/>
    </sersync>
</head>
"#,
        src = lab.src().display(),
        ip = daemon.ip,
        port = daemon.port,
        fail = lab.file("rsync_fail_log.sh").display()
    );
    let config = lab.file("confxml.xml");
    fs::write(&config, text).doing(|| format!("write {}", config.display()))?;
    let mut command = lab.command(End::Sender, program);
    command.args(["-r", "-n", "10", "-o"]).arg(config);
    Ok(Prepared { lab, receiver: Some(daemon.process), command: Some(command), name: "sersync2".into() })
}
