//! A status in words, for people. The wording may change; scripts read the JSON.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use crate::control::status::{HeldStatus, MirrorStatus, ReceiverStatus, ServeStatus, State, Status};

impl Display for Status {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mirror(mirror) => mirror.fmt(f),
            Self::Serve(serve) => serve.fmt(f),
        }
    }
}

impl Display for State {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Listing => "listing the mirror",
            Self::Syncing => "syncing",
            Self::Live => "live",
            Self::Reconnecting => "waiting to reconnect",
            Self::Held => "held",
            Self::Stopping => "stopping",
        })
    }
}

impl Display for MirrorStatus {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "mirror    of {}, process {}, up {}", self.source, self.pid, Span(self.uptime_seconds))?;
        write!(f, "state     {}", self.state)?;
        if let Some(reason) = &self.reason {
            write!(f, ": {reason}")?;
        }
        if self.age_seconds >= 1.0 {
            write!(f, " (figures of {} ago)", Span(self.age_seconds))?;
        }
        writeln!(f)?;
        for watch in &self.watch {
            let detail = if watch.detail.is_empty() { String::new() } else { format!(" ({})", watch.detail) };
            writeln!(f, "watch     {}{detail}: {} {}", watch.backend, watch.place, watch.filesystem)?;
        }
        writeln!(f, "events    {}, {} overflows", self.events, self.overflows)?;
        writeln!(f, "entries   {} known, {} dirty, {} wait for a time", self.entries, self.dirty, self.delayed)?;
        self.receivers.iter().try_for_each(|receiver| receiver.fmt(f))
    }
}

impl Display for ReceiverStatus {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let link = if self.link.is_empty() { "not connected" } else { &self.link };
        writeln!(f, "receiver  {}, {link}", self.dest)?;
        writeln!(f, "lag       {:.1} s", self.lag_seconds)?;
        let queues = &self.queues;
        writeln!(
            f,
            "cycles    {} sent, {} acknowledged; {} in flight, {} to be sent, {} files and questions with workers",
            self.cycle_sent, self.cycle_acknowledged, queues.in_flight, queues.outbox, queues.workers
        )?;
        writeln!(
            f,
            "files     {} of {} sent, {} of {} bytes; {} other operations, {} deleted; {} bytes on the wire",
            self.files_sent, self.files_found, self.bytes_sent, self.bytes_found, self.operations, self.deleted, self.wire_bytes
        )?;
        writeln!(
            f,
            "faults    {} retries, {} reconnects ({} resumed), {} entries fail",
            self.retries, self.reconnects, self.resumed, self.failing
        )?;
        for failure in &self.failures {
            let next = failure.next_try_seconds.map_or("when it changes".to_owned(), |s| format!("in {}", Span(s)));
            writeln!(f, "  {}: {}: {}; {} tries, again {next}", failure.path, failure.operation, failure.cause, failure.tries)?;
        }
        if self.failing > self.failures.len() as u64 {
            writeln!(f, "  and {} more", self.failing - self.failures.len() as u64)?;
        }
        self.held.iter().try_for_each(|held| held.fmt(f))
    }
}

impl Display for HeldStatus {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "held      {} deletions for {}: {}", self.count, Span(self.since_seconds), self.reason)?;
        self.paths.iter().try_for_each(|path| writeln!(f, "  {path}"))
    }
}

impl Display for ServeStatus {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "server    process {}, up {}", self.pid, Span(self.uptime_seconds))?;
        writeln!(f, "listens   {}", self.listen.join(", "))?;
        for module in &self.modules {
            let how = if module.read_only { ", read only" } else { "" };
            writeln!(f, "module    {} at {}{how}", module.name, module.path)?;
        }
        for session in &self.sessions {
            let path = if session.path == "." { String::new() } else { format!("/{}", session.path) };
            let (connections, cycle, age) = (session.connections, session.cycle, Span(session.age_seconds));
            writeln!(f, "session   {}{path}, {connections} connections, cycle {cycle}, for {age}", session.module)?;
        }
        Ok(())
    }
}

/// Seconds in the two largest units.
struct Span(f64);

impl Display for Span {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let seconds = Duration::try_from_secs_f64(self.0).unwrap_or_default().as_secs();
        match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
            (0, 0, 0, s) => write!(f, "{s} s"),
            (0, 0, m, s) => write!(f, "{m} min {s} s"),
            (0, h, m, _) => write!(f, "{h} h {m} min"),
            (d, h, ..) => write!(f, "{d} d {h} h"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::status::FailureStatus;

    #[test]
    fn a_status_is_said_in_words() {
        let failure = FailureStatus {
            path: "a/b".into(),
            operation: "write".into(),
            errno: 28,
            cause: "No space left on device".into(),
            tries: 3,
            next_try_seconds: Some(4.2),
        };
        let held =
            HeldStatus { cause: "emptied".into(), reason: "it is empty".into(), count: 7, since_seconds: 3700.0, paths: vec!["c".into()] };
        let receiver = ReceiverStatus {
            dest: "/d".into(),
            failing: 2,
            failures: vec![failure],
            held: Some(held),
            lag_seconds: 0.25,
            ..Default::default()
        };
        let status =
            Status::Mirror(MirrorStatus { source: "/s".into(), receivers: vec![receiver], age_seconds: 90.0, ..Default::default() });
        let text = status.to_string();
        for part in [
            "mirror    of /s",
            "state     starting (figures of 1 min 30 s ago)",
            "receiver  /d, not connected",
            "lag       0.2 s",
            "  a/b: write: No space left on device; 3 tries, again in 4 s",
            "  and 1 more",
            "held      7 deletions for 1 h 1 min: it is empty",
            "\n  c\n",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }
}
