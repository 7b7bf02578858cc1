//! The network between the ends: loopback in a namespace of its own, or two namespaces with a shaped veth between them; without root the host's loopback.
//!
//! Only `ip`, `tc` and `nsenter` touch the kernel here. What was made is removed on drop.

use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::str::FromStr;

use super::End;
use crate::problem::{Doing, Problem, Result};

const SENDER_IP: &str = "10.213.0.1";
const RECEIVER_IP: &str = "10.213.0.2";
/// Ports in a namespace are all free.
const PORT: u16 = 8730;

/// What `--shape` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// As `tc` has it (`100mbit`); of each direction.
    rate: Option<String>,
    /// As `tc` has it (`20ms`); one way, so the round trip is twice that.
    delay: Option<String>,
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let mut shape = Self { rate: None, delay: None };
        for part in text.split(',') {
            let (key, value) = part.split_once('=').ok_or(format!("{part:?} is no KEY=VALUE"))?;
            if value.is_empty() || !value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.') {
                return Err(format!("{value:?} is no value for tc"));
            }
            match key {
                "rate" => shape.rate = Some(value.into()),
                "delay" => shape.delay = Some(value.into()),
                _ => return Err(format!("{key:?} is neither rate nor delay")),
            }
        }
        Ok(shape)
    }
}

enum Kind {
    /// The host's own loopback: other programs' bytes are on it too.
    Host,
    /// Loopback in one namespace.
    Loopback(Namespace),
    /// Two namespaces.
    Pair { near: Namespace, far: Namespace },
}

/// See the module's comment.
pub struct Net {
    kind: Kind,
    /// In words, for reports.
    pub what: String,
}

impl Net {
    /// The host's loopback.
    pub fn none() -> Self {
        Self { kind: Kind::Host, what: "loopback of the host; bytes on the wire are not counted (needs root and ip, nsenter)".into() }
    }

    /// Makes it. Without a shape, what is missing for a namespace only means that bytes are not counted.
    ///
    /// # Errors
    /// With a shape: what is missing, by name.
    pub fn make(shape: Option<Shape>) -> Result<Self> {
        let Some(shape) = shape else {
            return Ok(Self::loopback().unwrap_or_else(|_| Self::none()));
        };
        if !nix::unistd::geteuid().is_root() {
            return Err(Problem::Failed("--shape needs root, for network namespaces".into()));
        }
        let (near, far) = (Namespace::new("a")?, Namespace::new("b")?);
        let peer = ["type", "veth", "peer", "name", "veth0", "netns", &far.name];
        ip(&[&["-n", &near.name, "link", "add", "veth0"], &peer[..]].concat())?;
        for (ns, address) in [(&near, SENDER_IP), (&far, RECEIVER_IP)] {
            ip(&["-n", &ns.name, "addr", "add", &format!("{address}/30"), "dev", "veth0"])?;
            ip(&["-n", &ns.name, "link", "set", "veth0", "up"])?;
            ip(&["-n", &ns.name, "link", "set", "lo", "up"])?;
            shape.apply(ns)?;
        }
        let words = [("rate ", &shape.rate), ("one-way delay ", &shape.delay)];
        let words: Vec<String> = words.iter().filter_map(|(word, value)| value.as_ref().map(|v| format!("{word}{v}"))).collect();
        Ok(Self { kind: Kind::Pair { near, far }, what: format!("veth between two namespaces, {} each way", words.join(", ")) })
    }

    fn loopback() -> Result<Self> {
        let ns = Namespace::new("l")?;
        ip(&["-n", &ns.name, "link", "set", "lo", "up"])?;
        run(Command::new("nsenter").arg(ns.arg()).arg("true"))?;
        Ok(Self {
            kind: Kind::Loopback(ns),
            what: "loopback in a namespace of its own; bytes on the wire are its counter's, headers and acknowledgements too".into(),
        })
    }

    /// A command that runs at this end.
    pub fn command(&self, end: End, program: &OsStr) -> Command {
        let ns = match &self.kind {
            Kind::Host => return Command::new(program),
            Kind::Loopback(ns) => ns,
            Kind::Pair { near, far } => match end {
                End::Sender => near,
                End::Receiver => far,
            },
        };
        // nsenter executes the program in its own place: the process id stays.
        let mut command = Command::new("nsenter");
        command.arg(ns.arg()).arg(program);
        command
    }

    /// Where the receiver listens.
    pub fn receiver_ip(&self) -> &'static str {
        if matches!(self.kind, Kind::Pair { .. }) { RECEIVER_IP } else { "127.0.0.1" }
    }

    /// A port that is free at the receiver's end.
    ///
    /// # Errors
    /// When the host has none.
    pub fn port(&self) -> Result<u16> {
        if !matches!(self.kind, Kind::Host) {
            return Ok(PORT);
        }
        let listener = TcpListener::bind("127.0.0.1:0").doing(|| "find a free port".into())?;
        listener.local_addr().map(|a| a.port()).doing(|| "find a free port".into())
    }

    /// Bytes that have passed so far, both directions, seen from the process `receiver`. `None` where they cannot be told from other programs'.
    pub fn bytes(&self, receiver: u32) -> Option<u64> {
        let (device, both) = match &self.kind {
            Kind::Host => return None,
            // Each packet is sent and received on the one device.
            Kind::Loopback(_) => ("lo", false),
            Kind::Pair { .. } => ("veth0", true),
        };
        let text = fs::read_to_string(format!("/proc/{receiver}/net/dev")).ok()?;
        let line = text.lines().find_map(|l| l.trim_start().strip_prefix(device)?.strip_prefix(':'))?;
        let fields: Vec<u64> = line.split_whitespace().filter_map(|f| f.parse().ok()).collect();
        Some(fields.first()? + if both { *fields.get(8)? } else { 0 })
    }
}

/// Whether the process sees a listener at the TCP port in its network.
pub fn listens(pid: u32, port: u16) -> bool {
    const LISTEN: &str = "0A";
    let end = format!(":{port:04X}");
    ["tcp", "tcp6"].iter().any(|table| {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        text.lines().skip(1).any(|line| {
            let mut fields = line.split_whitespace().skip(1);
            fields.next().is_some_and(|local| local.ends_with(&end)) && fields.nth(1) == Some(LISTEN)
        })
    })
}

impl Shape {
    fn apply(&self, ns: &Namespace) -> Result<()> {
        let at = ["-n", ns.name.as_str(), "qdisc", "add", "dev", "veth0", "root"];
        let mut netem = vec!["netem", "limit", "100000"];
        netem.extend(self.delay.iter().flat_map(|d| ["delay", d.as_str()]));
        netem.extend(self.rate.iter().flat_map(|r| ["rate", r.as_str()]));
        let Err(refused) = run(Command::new("tc").args(at).args(&netem)) else { return Ok(()) };
        match (&self.rate, &self.delay) {
            (_, Some(delay)) => {
                Err(Problem::Failed(format!("a delay of {delay} needs netem (kernel module sch_netem), which is not there: {refused}")))
            }
            (Some(rate), None) => run(Command::new("tc").args(at).args(["tbf", "rate", rate, "burst", "256kb", "latency", "100ms"])),
            (None, None) => Ok(()),
        }
    }
}

/// A named network namespace; deleted on drop, with every device in it.
struct Namespace {
    name: String,
}

impl Namespace {
    fn new(suffix: &str) -> Result<Self> {
        let name = format!("syncbench-{}-{suffix}", std::process::id());
        ip(&["netns", "add", &name])?;
        Ok(Self { name })
    }

    fn arg(&self) -> String {
        format!("--net=/run/netns/{}", self.name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(problem) = ip(&["netns", "del", &self.name]) {
            eprintln!("syncbench: {problem}");
        }
    }
}

fn ip(args: &[&str]) -> Result<()> {
    run(Command::new("ip").args(args))
}

fn run(command: &mut Command) -> Result<()> {
    let words: Vec<_> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(|w| w.to_string_lossy().into_owned()).collect();
    let output = command.stdin(Stdio::null()).output().doing(|| format!("start {}", words[0]))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Problem::Failed(format!("{}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim())))
}
