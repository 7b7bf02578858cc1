//! What a server offers: addresses and modules.
//!
//! Reading the words is pure; [`Serve::prepare`] only looks at the modules' directories. Nothing here binds a socket.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use super::dest::{PORT_RINGSYNC, module_name};
use super::{ControlPlace, place};
use crate::error::{Error, Result};
use crate::model::options::IoChoice;

/// A server.
#[derive(Debug, Clone)]
pub struct Serve {
    /// Where to listen, at least one.
    pub listen: Vec<SocketAddr>,
    /// What is offered, at least one; names are unique.
    pub modules: Vec<ModuleConfig>,
    /// How sockets are driven.
    pub io: IoChoice,
    /// Niceness (setpriority(2)), -20 to 19.
    pub nice: i32,
    /// A client whose host answers nothing for so long is given up.
    pub timeout: Option<Duration>,
    /// Where it can be asked what it does.
    pub control: ControlPlace,
}

/// A directory that is offered under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleConfig {
    /// Its name.
    pub name: String,
    /// Its root.
    pub path: PathBuf,
    /// Nothing may be changed.
    pub read_only: bool,
}

impl ModuleConfig {
    /// Reads `NAME=PATH[,ro|,rw]`. A path that itself ends in `,ro` is written `PATH,ro,rw`.
    ///
    /// # Errors
    /// [`Error::Usage`] with the reason.
    pub fn parse(text: &OsStr) -> Result<Self> {
        let usage = |reason: &str| Err(Error::Usage(format!("module {text:?}: {reason}; write NAME=PATH or NAME=PATH,ro")));
        let bytes = text.as_bytes();
        let Some(at) = bytes.iter().position(|b| *b == b'=') else {
            return usage("no \"=\"");
        };
        let name = match module_name(&bytes[..at]) {
            Ok(name) => name,
            Err(reason) => return usage(&reason),
        };
        let (path, read_only) = match &bytes[at + 1..] {
            [path @ .., b',', b'r', b'o'] => (path, true),
            [path @ .., b',', b'r', b'w'] => (path, false),
            path => (path, false),
        };
        if path.is_empty() {
            return usage("the path is missing");
        }
        Ok(Self { name, path: OsStr::from_bytes(path).into(), read_only })
    }
}

/// Reads an address to listen on: `ADDR:PORT`, `ADDR` (port 8730), `:PORT` or `PORT` (loopback). An IPv6 address with a port stands in brackets.
///
/// # Errors
/// [`Error::Usage`] with what to write.
pub fn parse_listen(text: &str) -> Result<SocketAddr> {
    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let text = text.replacen("localhost", "127.0.0.1", usize::from(text == "localhost" || text.starts_with("localhost:")));
    let address = text.parse().ok();
    let address = address.or_else(|| text.parse().ok().map(|ip: IpAddr| SocketAddr::new(ip, PORT_RINGSYNC)));
    let in_brackets =
        || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(|ip: Ipv6Addr| SocketAddr::new(ip.into(), PORT_RINGSYNC));
    let only_port = || text.strip_prefix(':').unwrap_or(&text).parse().ok().map(|port| SocketAddr::new(LOOPBACK, port));
    address.or_else(in_brackets).or_else(only_port).ok_or_else(|| {
        Error::Usage(format!(
            "cannot listen on {text:?}: write an IP address and a port, as in 127.0.0.1:8730, [::]:8730 or :8730 (loopback)"
        ))
    })
}

impl Serve {
    /// Checks what needs no look at the filesystem.
    ///
    /// # Errors
    /// [`Error::Usage`] with the reason.
    pub fn check(&self) -> Result<()> {
        if self.listen.is_empty() {
            return Err(Error::Usage("no address to listen on".into()));
        }
        if self.modules.is_empty() {
            return Err(Error::Usage("no module to offer; give at least one --module NAME=PATH".into()));
        }
        for (at, module) in self.modules.iter().enumerate() {
            if self.modules[..at].iter().any(|other| other.name == module.name) {
                return Err(Error::Usage(format!("two modules are named {:?}", module.name)));
            }
        }
        Ok(())
    }

    /// Checks the modules' directories too.
    ///
    /// # Errors
    /// [`Error::File`] for a root that is missing or no directory.
    pub fn prepare(&self) -> Result<()> {
        self.check()?;
        self.modules.iter().try_for_each(|module| place::check_module(&module.name, &module.path))
    }

    /// The addresses that other hosts may reach, too.
    pub fn exposed(&self) -> impl Iterator<Item = &SocketAddr> {
        self.listen.iter().filter(|address| !address.ip().to_canonical().is_loopback())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_host_is_loopback() {
        for (text, expected) in [
            ("8000", "127.0.0.1:8000"),
            (":8000", "127.0.0.1:8000"),
            ("localhost", "127.0.0.1:8730"),
            ("localhost:1", "127.0.0.1:1"),
            ("0.0.0.0", "0.0.0.0:8730"),
            ("10.0.0.1:9", "10.0.0.1:9"),
            ("::1", "[::1]:8730"),
            ("[::]", "[::]:8730"),
            ("[::]:7", "[::]:7"),
            ("127.0.0.1:0", "127.0.0.1:0"),
        ] {
            assert_eq!(parse_listen(text).unwrap().to_string(), expected);
        }
        for text in ["", ":", "host:1", "localhost:x", "70000", "1.2.3.4:99999"] {
            assert!(parse_listen(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_loopback_is_not_exposed() {
        let listen = ["127.0.0.2:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "0.0.0.0:1", "[::]:1"].map(|a| a.parse().unwrap()).to_vec();
        let serve = Serve { listen, modules: Vec::new(), io: IoChoice::Auto, nice: 0, timeout: None, control: ControlPlace::None };
        assert_eq!(serve.exposed().map(ToString::to_string).collect::<Vec<_>>(), ["0.0.0.0:1", "[::]:1"]);
    }

    #[test]
    fn modules_are_read_and_unique() {
        let parse = |text: &str| ModuleConfig::parse(OsStr::new(text));
        let module = |path: &str, read_only| ModuleConfig { name: "m".into(), path: path.into(), read_only };
        assert_eq!(parse("m=/a=b").unwrap(), module("/a=b", false));
        assert_eq!(parse("m=/a,ro").unwrap(), module("/a", true));
        assert_eq!(parse("m=/a,ro,rw").unwrap(), module("/a,ro", false));
        for text in ["m", "=x", "m=", "m=,ro", "a/b=x", "a\nb=x"] {
            assert!(parse(text).is_err(), "{text}");
        }
        let listen = vec![parse_listen("1").unwrap()];
        let twice = Serve {
            listen,
            modules: vec![module("/a", false), module("/b", true)],
            io: IoChoice::Auto,
            nice: 0,
            timeout: None,
            control: ControlPlace::None,
        };
        assert!(twice.check().unwrap_err().to_string().contains("two modules"));
    }
}
