//! How the mirror is held against the source beyond what events and times tell, and the words for it: rates and durations. Pure.

use std::time::Duration;

use crate::error::{Error, Result};

/// See the module's comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scrub {
    /// The run only compares, once; what differs is told.
    pub verify: bool,
    /// What differs is repaired.
    pub repair: bool,
    /// Of a live mirror: a pass begins so long after the last one ended.
    pub interval: Option<Duration>,
    /// Bytes that each side reads and digests in a second; 0: no bound.
    pub bytes_per_sec: u64,
}

impl Default for Scrub {
    /// No pass; a difference would be repaired.
    fn default() -> Self {
        Self { verify: false, repair: true, interval: None, bytes_per_sec: 0 }
    }
}

impl Scrub {
    /// Whether nothing is changed in the mirror.
    pub fn is_read_only(&self) -> bool {
        self.verify && !self.repair
    }
}

/// Reads a rate as rsync does: a number, with a fraction perhaps, of units of 1024 bytes; or with a suffix `B`, `K`, `M`, `G`, `T` (or `KiB` …: powers of 1024;
/// `KB` …: of 1000), in either case. 0 is no bound; anything else is at least 512 bytes.
///
/// # Errors
/// [`Error::Usage`] with what to write.
pub fn parse_rate(text: &str) -> Result<u64> {
    let wrong =
        || Error::Usage(format!("rate {text:?}: write a number of KiB a second, or with a suffix, as in 500, 1.5M or 2G; 0 is no limit"));
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..end].parse().map_err(|_| wrong())?;
    let suffix = text[end..].to_ascii_lowercase();
    let unit: f64 = match suffix.as_bytes() {
        [] => 1024.0,
        b"b" => 1.0,
        [letter, rest @ ..] => {
            let power = b"kmgtp".iter().position(|l| l == letter).ok_or_else(wrong)? as i32 + 1;
            match rest {
                b"" | b"ib" => 1024f64.powi(power),
                b"b" => 1000f64.powi(power),
                _ => return Err(wrong()),
            }
        }
    };
    let rate = number * unit;
    match rate {
        0.0 => Ok(0),
        512.0..=1e18 => Ok(rate as u64),
        _ => Err(wrong()),
    }
}

/// Reads a duration: a number of seconds, or numbers with `s`, `m`, `h`, `d` or `w`, as in `90s`, `1d12h`. 0 is `None`.
///
/// # Errors
/// [`Error::Usage`] with what to write.
pub fn parse_duration(text: &str) -> Result<Option<Duration>> {
    let wrong = || Error::Usage(format!("duration {text:?}: write a number and s, m, h or d, as in 90s, 12h or 7d; 0 is never"));
    let mut seconds: u64 = 0;
    let mut rest = text;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number: u64 = rest[..end].parse().map_err(|_| wrong())?;
        let unit = match rest[end..].chars().next() {
            None if end == text.len() => 1,
            Some('s') => 1,
            Some('m') => 60,
            Some('h') => 3600,
            Some('d') => 86_400,
            Some('w') => 7 * 86_400,
            _ => return Err(wrong()),
        };
        seconds = number.checked_mul(unit).and_then(|part| seconds.checked_add(part)).ok_or_else(wrong)?;
        rest = rest.get(end + 1..).unwrap_or_default();
    }
    // What the clock can hold, by far.
    if seconds > 100 * 365 * 86_400 {
        return Err(wrong());
    }
    Ok((seconds > 0).then_some(Duration::from_secs(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_rsync_reads_them() {
        for (text, expected) in [
            ("0", 0),
            ("1", 1024),
            ("1.5m", 3 << 19),
            ("2M", 2 << 20),
            ("2MB", 2_000_000),
            ("2MiB", 2 << 20),
            ("1G", 1 << 30),
            ("700b", 700),
            ("0.5", 512),
        ] {
            assert_eq!(parse_rate(text).unwrap(), expected, "{text}");
        }
        for text in ["", "x", "-1", "1x", "1kx", "1.2.3", "100b", "9999999999T", "1 M"] {
            assert!(matches!(parse_rate(text), Err(Error::Usage(_))), "{text}");
        }
    }

    #[test]
    fn durations_are_numbers_with_units() {
        for (text, expected) in [("90", 90), ("90s", 90), ("5m", 300), ("1d12h", 129_600), ("7d", 604_800), ("1w", 604_800)] {
            assert_eq!(parse_duration(text).unwrap(), Some(Duration::from_secs(expected)), "{text}");
        }
        assert_eq!([parse_duration("0").unwrap(), parse_duration("0d").unwrap()], [None; 2]);
        for text in ["", "d", "1x", "-1", "1d5", "99999999999999999999", "1000000000d", "1.5h"] {
            assert!(matches!(parse_duration(text), Err(Error::Usage(_))), "{text}");
        }
    }
}
