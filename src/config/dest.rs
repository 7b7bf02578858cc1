//! Reads a destination: a local path, `HOST::MODULE[/PATH]` or `ringsync://HOST[:PORT]/MODULE[/PATH]`.
//!
//! As in rsync, a colon before the first slash makes it remote; `./a:b` is a local file name. Pure: no name is looked up. Called by the cli.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::limits::{HOST_BYTES_MAX, MODULE_NAME_BYTES_MAX};
use crate::model::path::{RelPath, Shown};

/// The port of `HOST::MODULE`: rsync's own.
const PORT_RSYNC: u16 = 873;
/// The port of `ringsync://`.
pub(super) const PORT_RINGSYNC: u16 = 8730;

/// Where a mirror goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dest {
    /// A directory of this host, written by this process.
    Local(PathBuf),
    /// A module of a ringsync server.
    Tcp {
        /// Name or address, without brackets.
        host: String,
        /// TCP port, not 0.
        port: u16,
        /// Name of the module.
        module: String,
        /// Directory in the module.
        path: RelPath,
    },
}

impl fmt::Display for Dest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => write!(f, "{}", Shown(path.as_os_str().as_bytes())),
            Self::Tcp { host, port, module, path } => {
                let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
                write!(f, "ringsync://{open}{host}{close}:{port}/{module}")?;
                if path.is_root() { Ok(()) } else { write!(f, "/{path}") }
            }
        }
    }
}

fn usage<T>(dest: &[u8], reason: impl fmt::Display) -> Result<T> {
    Err(Error::Usage(format!("destination \"{}\": {reason}", Shown(dest))))
}

impl Dest {
    /// Reads `text`; `port` is what `--port` says, which goes with `HOST::MODULE` only.
    ///
    /// # Errors
    /// [`Error::Usage`] that says what to write instead.
    pub fn parse(text: &OsStr, port: Option<u16>) -> Result<Self> {
        let all = text.as_bytes();
        if all.is_empty() {
            return usage(all, "is empty; write \".\" for the working directory");
        }
        if port == Some(0) {
            return usage(all, "port 0 cannot be connected to");
        }
        if let Some(rest) = all.strip_prefix(b"ringsync://") {
            if port.is_some() {
                return usage(all, "--port goes with HOST::MODULE; here write ringsync://HOST:PORT/MODULE");
            }
            return url(all, rest);
        }
        if all.starts_with(b"rsync://") {
            return usage(all, "rsync's own protocol comes later; for a ringsync server write HOST::MODULE or ringsync://HOST/MODULE");
        }
        if let Some(at) = find(all, b"://").filter(|at| all[..*at].iter().all(u8::is_ascii_alphanumeric)) {
            return usage(all, format_args!("unknown scheme \"{}\"; write ringsync://HOST/MODULE", Shown(&all[..at])));
        }
        match remote(all) {
            None if port.is_some() => usage(all, "is a local path, and --port goes with HOST::MODULE"),
            None => Ok(Self::Local(PathBuf::from(text))),
            Some((host, Some(module))) => tcp(all, host, port.unwrap_or(PORT_RSYNC), module),
            Some((host, None)) => usage(
                all,
                format_args!(
                    "ssh and other remote shells come later; write {host}::MODULE for a ringsync server, or \"./{all}\" for a local path",
                    host = Shown(host),
                    all = Shown(all)
                ),
            ),
        }
    }
}

/// Splits at the colon that stands before the first slash: the host as it is written, and what stands behind `::`. `None` for a local path.
fn remote(all: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    // The colons of an IPv6 address in brackets do not count.
    let skip = if all[0] == b'[' { all.iter().position(|b| matches!(b, b']' | b'/')).unwrap_or(0) } else { 0 };
    let at = skip + all[skip..].iter().position(|b| matches!(b, b':' | b'/')).filter(|at| all[skip + at] == b':')?;
    Some((&all[..at], all[at + 1..].strip_prefix(b":")))
}

/// What follows `ringsync://`.
fn url(all: &[u8], rest: &[u8]) -> Result<Dest> {
    let slash = rest.iter().position(|b| *b == b'/').unwrap_or(rest.len());
    let (authority, module) = (&rest[..slash], rest.get(slash + 1..).unwrap_or_default());
    // The port's colon stands behind the bracket of an IPv6 address.
    let bracket = authority.iter().rposition(|b| *b == b']').unwrap_or(0);
    match authority[bracket..].iter().position(|b| *b == b':').map(|at| bracket + at) {
        None => tcp(all, authority, PORT_RINGSYNC, module),
        Some(at) => match std::str::from_utf8(&authority[at + 1..]).ok().and_then(|port| port.parse().ok()).filter(|port| *port != 0) {
            Some(port) => tcp(all, &authority[..at], port, module),
            None => usage(all, "the port is a number from 1 to 65535, and an IPv6 address stands in brackets"),
        },
    }
}

fn tcp(all: &[u8], host: &[u8], port: u16, module_and_path: &[u8]) -> Result<Dest> {
    if host.contains(&b'@') {
        return usage(all, "users and passwords come later; write it without USER@");
    }
    let host = match host {
        [b'[', inner @ .., b']'] => match std::str::from_utf8(inner).ok().filter(|s| s.parse::<std::net::Ipv6Addr>().is_ok()) {
            Some(address) => address,
            None => return usage(all, "no IPv6 address in the brackets"),
        },
        [] => return usage(all, "the host is missing"),
        name => match std::str::from_utf8(name).ok().filter(|s| s.len() <= HOST_BYTES_MAX && s.bytes().all(is_host_byte)) {
            Some(name) => name,
            None => return usage(all, "no host name or address"),
        },
    };
    let slash = module_and_path.iter().position(|b| *b == b'/').unwrap_or(module_and_path.len());
    let (module, path) = (&module_and_path[..slash], module_and_path.get(slash + 1..).unwrap_or_default());
    let module = match module_name(module) {
        Ok(module) => module,
        Err(reason) => return usage(all, reason),
    };
    // Doubled and trailing slashes and "." say nothing; ".." is refused by `RelPath`.
    let parts: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    let path = match RelPath::new(&parts.join(&b'/')) {
        Ok(path) => path,
        Err(error) => return usage(all, format_args!("path in the module: {error}")),
    };
    if path.names().any(|name| name.is_reserved()) {
        return usage(all, "the path holds a name that ringsync keeps for itself");
    }
    Ok(Dest::Tcp { host: host.into(), port, module, path })
}

fn is_host_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_') || !b.is_ascii()
}

/// Checks the name of a module.
pub(super) fn module_name(name: &[u8]) -> std::result::Result<String, String> {
    if name.is_empty() {
        return Err("the module is missing".into());
    }
    if name.len() > MODULE_NAME_BYTES_MAX {
        return Err(format!("the module's name is longer than {MODULE_NAME_BYTES_MAX} bytes"));
    }
    match std::str::from_utf8(name) {
        Ok(name) if !name.chars().any(|c| c.is_control() || matches!(c, '/' | '[' | ']')) => Ok(name.into()),
        _ => Err("the module's name has to be UTF-8 without control characters, \"/\" and brackets".into()),
    }
}

fn find(all: &[u8], what: &[u8]) -> Option<usize> {
    all.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, port: Option<u16>) -> Result<Dest> {
        Dest::parse(OsStr::new(text), port)
    }

    #[test]
    fn local_paths_stay_as_they_are() {
        for text in ["/a/b", "a", "./a:b", "a/b::c", "/x:y", ".", "[x", "[x]/a:b", "dir/"] {
            assert_eq!(parse(text, None).unwrap(), Dest::Local(text.into()), "{text}");
        }
        let odd = OsStr::from_bytes(b"\xff\n");
        assert_eq!(Dest::parse(odd, None).unwrap(), Dest::Local(odd.into()));
    }

    #[test]
    fn remote_ones_are_read() {
        for (text, port, shown) in [
            ("host::mod", None, "ringsync://host:873/mod"),
            ("host::mod/", None, "ringsync://host:873/mod"),
            ("host::mod/a//b/./c/", Some(9000), "ringsync://host:9000/mod/a/b/c"),
            ("[::1]::mod/x", None, "ringsync://[::1]:873/mod/x"),
            ("127.0.0.1::mod:x", None, "ringsync://127.0.0.1:873/mod:x"),
            ("ringsync://host/mod", None, "ringsync://host:8730/mod"),
            ("ringsync://host:99/mod/p", None, "ringsync://host:99/mod/p"),
            ("ringsync://[fe80::1]/mod", None, "ringsync://[fe80::1]:8730/mod"),
            ("ringsync://[fe80::1]:7/mod", None, "ringsync://[fe80::1]:7/mod"),
        ] {
            assert_eq!(parse(text, port).unwrap().to_string(), shown, "{text}");
        }
    }

    #[test]
    fn errors_say_what_to_write() {
        for (text, port, part) in [
            ("", None, "empty"),
            ("host:path", None, "host::MODULE"),
            ("user@host:path", None, "ssh"),
            ("user@host::mod", None, "USER@"),
            ("ringsync://user@host/mod", None, "USER@"),
            ("ringsync://user:word@host/mod", None, "port"),
            ("rsync://host/mod", None, "later"),
            ("ssh://host/mod", None, "unknown scheme"),
            ("::mod", None, "host is missing"),
            ("ringsync:///mod", None, "host is missing"),
            ("host::", None, "module is missing"),
            ("ringsync://host", None, "module is missing"),
            ("ringsync://host:0/mod", None, "port"),
            ("ringsync://host:70000/mod", None, "port"),
            ("ringsync://::1/mod", None, "brackets"),
            ("ringsync://[x]/mod", None, "IPv6"),
            ("host::mod/../x", None, "\"..\""),
            ("host::mod/.ringsync-staging", None, "keeps for itself"),
            ("ho st::mod", None, "no host name"),
            ("/local", Some(1), "--port"),
            ("ringsync://host/mod", Some(1), "--port"),
            ("host::mod", Some(0), "port 0"),
        ] {
            let error = parse(text, port).unwrap_err();
            assert!(matches!(error, Error::Usage(_)), "{text}");
            assert!(error.to_string().contains(part), "{text}: {error}");
        }
    }
}
