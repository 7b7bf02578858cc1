//! A whole run: each load, as often as asked, with each peer in turn; so that what drifts on the host drifts for all of them.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::args::RunArgs;
use crate::course::{Course, fits};
use crate::lab::{Lab, adopt_orphans, kill_orphans};
use crate::load::{Load, Name};
use crate::output::progress::Progress;
use crate::output::{html, table};
use crate::peer::{Peer, Programs, installed};
use crate::problem::{Doing, EXIT_DONE, EXIT_UNEQUAL, Problem, Result};
use crate::record::{Host, Line, Measured, Records, Sink};
use crate::summary::Summary;
use crate::warm::Warm;

/// Does it. Returns the exit code.
///
/// # Errors
/// What hinders the run as a whole, or the wish to end. A peer that fails is a result.
pub fn run(args: &RunArgs) -> Result<u8> {
    let programs = programs(args)?;
    let loads = loads(args)?;
    adopt_orphans()?;
    let mut sink = Sink::open(args.json.as_deref())?;
    if let Some(path) = &args.report {
        fs::File::create(path).doing(|| format!("make {}", path.display()))?;
    }
    let lab = Lab::new(&args.dir, args.mirror_dir.as_deref().unwrap_or(&args.dir), args.shape.clone())?;
    let mut records = Records::default();
    let mut keep = |records: &mut Records, line: Line| -> Result<()> {
        sink.write(&line)?;
        records.add(line);
        Ok(())
    };
    let mut peers = vec![Peer::None];
    let mut absent = Vec::new();
    for peer in args.peers() {
        match peer.absent(&programs) {
            None => peers.push(peer),
            Some(why) => absent.push(Line::Absent { peer: peer.text(), why }),
        }
    }
    keep(&mut records, Line::Host(host(args, &lab, &peers, &programs)))?;
    for line in absent {
        if let Line::Absent { peer, why } = &line {
            eprintln!("syncbench: {peer} is absent: {why}");
        }
        keep(&mut records, line)?;
    }
    let _warm = (args.warm > 0).then(|| Warm::up(args.warm)).transpose()?;
    let (deadline, budget) = (args.deadline(), args.budget());
    let course = Course { lab: &lab, programs: &programs, deadline, budget, profile: args.profile.as_deref() };
    let todo: Vec<(&Load, Vec<Peer>)> = loads.iter().map(|l| (l, peers.iter().copied().filter(|p| fits(l.name, *p)).collect())).collect();
    let progress = Progress::new(todo.iter().map(|(_, peers)| peers.len() as u64 * u64::from(args.runs)).sum());
    // A peer that does not become equal would cost the deadline each time.
    let mut hopeless: HashMap<(Name, Peer), u32> = HashMap::new();
    for (load, peers) in &todo {
        for run in 1..=args.runs {
            for peer in peers {
                let failures = hopeless.entry((load.name, *peer)).or_default();
                if *failures >= args.give_up {
                    progress.step();
                    continue;
                }
                progress.begin(&load.name.text(), &peer.text(), run, args.runs);
                let mut measured = measure(&course, load, *peer)?;
                measured.run = run;
                *failures += u32::from(measured.differences > 0);
                progress.end(&measured);
                keep(&mut records, Line::Run(Box::new(measured)))?;
            }
        }
    }
    progress.finish();
    drop(lab);
    finish(args, &records)
}

/// One measurement, and the place cleared after it. What a peer cannot do is a result without figures.
fn measure(course: &Course<'_>, load: &Load, peer: Peer) -> Result<Measured> {
    course.lab.clear()?;
    let measured = course.run(load, peer);
    kill_orphans();
    match measured {
        Err(Problem::Failed(why)) if peer != Peer::None => {
            Ok(Measured { load: load.name.text(), peer: peer.text(), differences: 1, notes: vec![why], ..Measured::default() })
        }
        other => other,
    }
}

fn finish(args: &RunArgs, records: &Records) -> Result<u8> {
    println!("{}", table::render(records));
    if let Some(path) = &args.report {
        fs::write(path, html::render(records)).doing(|| format!("write {}", path.display()))?;
        eprintln!("syncbench: the report is in {}", path.display());
    }
    let ours: Vec<String> = args.peers().into_iter().filter(|p| p.is_ours()).map(Peer::text).collect();
    let summary = Summary::of(&records.runs);
    let failed =
        summary.loads.iter().any(|load| summary.of_load(load).any(|(peer, cell)| ours.iter().any(|o| o == peer) && cell.unequal().0 > 0));
    Ok(if failed { EXIT_UNEQUAL } else { EXIT_DONE })
}

fn programs(args: &RunArgs) -> Result<Programs> {
    let absolute = |path: &Path| fs::canonicalize(path).doing(|| format!("find {}", path.display()));
    let ringsync = match &args.ringsync {
        Some(path) => absolute(path)?,
        None => std::env::current_exe().doing(|| "find this program".into())?.with_file_name("ringsync"),
    };
    Ok(Programs { ringsync, sersync: args.sersync.as_deref().map(absolute).transpose()?, with: args.with.clone() })
}

fn loads(args: &RunArgs) -> Result<Vec<Load>> {
    let absolute = |path: &Option<std::path::PathBuf>| {
        path.as_deref().map(|p| fs::canonicalize(p).doing(|| format!("find {}", p.display()))).transpose()
    };
    let (archive, repo) = (absolute(&args.load.archive)?, absolute(&args.load.repo)?);
    let names = args.loads();
    for (name, given, option, tool) in [(Name::Untar, &archive, "--archive FILE", "tar"), (Name::Checkout, &repo, "--repo DIR", "git")] {
        if names.contains(&name) && given.is_none() {
            return Err(Problem::Usage(format!("{} needs {option}", name.text())));
        }
        if names.contains(&name) && !installed(tool) {
            return Err(Problem::Failed(format!("{} needs {tool}, which is not installed", name.text())));
        }
    }
    let mut loads: Vec<Load> = names.into_iter().map(|name| args.load.load(name)).collect();
    for load in &mut loads {
        load.archive.clone_from(&archive);
        load.repo.clone_from(&repo);
    }
    Ok(loads)
}

fn host(args: &RunArgs, lab: &Lab, peers: &[Peer], programs: &Programs) -> Host {
    let text = |path: &str| fs::read_to_string(path).map(|t| t.trim().to_owned()).unwrap_or_default();
    let (src, dst) = (filesystem(&lab.src()), filesystem(&lab.dst()));
    let same = args.mirror_dir.is_none();
    Host {
        started: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
        host: text("/proc/sys/kernel/hostname"),
        kernel: text("/proc/sys/kernel/osrelease"),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        filesystem: if same { format!("{src}, both ends on it") } else { format!("{src} to {dst}") },
        network: lab.net.what.clone(),
        command: std::env::args().collect::<Vec<_>>().join(" "),
        seed: args.load.seed,
        scale: args.load.scale,
        peers: peers.iter().filter_map(|p| Some((p.text(), p.version(programs)?))).collect(),
    }
}

/// The type of the filesystem that holds the path, from the longest mount point that is a prefix of it.
fn filesystem(path: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let fields = mounts.lines().filter_map(|l| {
        let mut fields = l.split(' ').skip(1);
        Some((Path::new(fields.next()?), fields.next()?))
    });
    let holding = fields.filter(|(at, _)| path.starts_with(at)).max_by_key(|(at, _)| at.as_os_str().len());
    holding.map_or_else(|| "unknown".into(), |(at, kind)| format!("{kind} at {}", at.display()))
}
