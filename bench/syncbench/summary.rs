//! Figures of several runs made one: median and range for each load, peer and metric. The table, the report, `compare` and `budget` all read it.

use std::collections::BTreeMap;

use crate::record::Measured;

/// A figure that can be compared.
pub struct Metric {
    /// As budget.toml and the JSON lines name it.
    pub key: &'static str,
    /// In words.
    pub title: &'static str,
    /// How to write it.
    pub unit: Unit,
    /// A change below this is none, whatever the runs' spread says.
    pub floor: f64,
    get: fn(&Measured) -> Option<f64>,
}

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Millis,
    /// Bytes.
    Bytes,
    /// A plain number.
    Count,
    /// Parts of one, written as percent.
    Share,
}

/// All figures; less is better in each.
pub const METRICS: &[Metric] = &[
    Metric { key: "equal_s", title: "time to equal", unit: Unit::Seconds, floor: 0.008, get: |m| m.equal_s },
    Metric { key: "load_s", title: "load's own time", unit: Unit::Seconds, floor: 0.01, get: |m| m.load_s },
    Metric { key: "p50_ms", title: "latency, median", unit: Unit::Millis, floor: 0.02, get: |m| m.p50_ms },
    Metric { key: "p99_ms", title: "latency, 99th percentile", unit: Unit::Millis, floor: 0.1, get: |m| m.p99_ms },
    Metric { key: "max_ms", title: "latency, highest", unit: Unit::Millis, floor: 1.0, get: |m| m.max_ms },
    Metric { key: "cpu_s", title: "CPU, both ends", unit: Unit::Seconds, floor: 0.02, get: cpu },
    Metric { key: "cpu_sender_s", title: "CPU, sender", unit: Unit::Seconds, floor: 0.02, get: |m| m.cpu_sender_s },
    Metric { key: "cpu_receiver_s", title: "CPU, receiver", unit: Unit::Seconds, floor: 0.02, get: |m| m.cpu_receiver_s },
    Metric { key: "mem_sender", title: "memory, sender", unit: Unit::Bytes, floor: 1e6, get: |m| Some(m.mem_sender_kib? as f64 * 1024.0) },
    Metric {
        key: "mem_receiver",
        title: "memory, receiver",
        unit: Unit::Bytes,
        floor: 1e6,
        get: |m| Some(m.mem_receiver_kib? as f64 * 1024.0),
    },
    Metric { key: "mem_growth", title: "memory growth", unit: Unit::Bytes, floor: 1e6, get: |m| Some(m.mem_growth_kib? as f64 * 1024.0) },
    Metric { key: "wire_bytes", title: "bytes on the wire", unit: Unit::Bytes, floor: 8192.0, get: |m| m.wire_bytes.map(|b| b as f64) },
    Metric { key: "wakeups", title: "wake-ups, both ends", unit: Unit::Count, floor: 2.0, get: wakeups },
    Metric { key: "overflows", title: "overflows told", unit: Unit::Count, floor: 0.5, get: |m| m.overflows.map(|n| n as f64) },
];

fn cpu(m: &Measured) -> Option<f64> {
    Some(m.cpu_sender_s? + m.cpu_receiver_s.unwrap_or(0.0))
}

fn wakeups(m: &Measured) -> Option<f64> {
    Some((m.wakeups_sender? + m.wakeups_receiver.unwrap_or(0)) as f64)
}

/// The metric of this name.
pub fn metric(key: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|m| m.key == key)
}

/// Median and range.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Median; of an even number of values the mean of the two in the middle.
    pub median: f64,
    /// Lowest.
    pub min: f64,
    /// Highest.
    pub max: f64,
    /// Of how many.
    pub runs: usize,
}

impl Spread {
    /// Of values; `None` of none.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max, runs) = (*values.first()?, *values.last()?, values.len());
        let median = (values[(runs - 1) / 2] + values[runs / 2]) / 2.0;
        Some(Self { median, min, max, runs })
    }
}

/// The runs of one load with one peer.
#[derive(Debug, Default)]
pub struct Cell<'a> {
    /// In the order they were made.
    pub runs: Vec<&'a Measured>,
}

impl Cell<'_> {
    /// A metric over the runs that became equal. A peer that does not always become equal has no times.
    pub fn spread(&self, metric: &Metric) -> Option<Spread> {
        Spread::of(self.runs.iter().filter_map(|m| (metric.get)(m)).collect())
    }

    /// Median of [`spread`](Self::spread) of the metric with this key.
    pub fn median(&self, key: &str) -> Option<f64> {
        self.spread(metric(key)?).map(|s| s.median)
    }

    /// Runs that did not become equal, and the most differences that were left.
    pub fn unequal(&self) -> (usize, u64) {
        let left = self.runs.iter().filter(|m| m.differences > 0);
        (left.clone().count(), left.map(|m| m.differences).max().unwrap_or(0))
    }
}

/// All runs, by load and then peer, both in the order in which they first came.
#[derive(Debug, Default)]
pub struct Summary<'a> {
    /// Loads.
    pub loads: Vec<&'a str>,
    /// Peers of each load.
    peers: BTreeMap<&'a str, Vec<&'a str>>,
    cells: BTreeMap<(&'a str, &'a str), Cell<'a>>,
}

impl<'a> Summary<'a> {
    /// Of these runs.
    pub fn of(runs: &'a [Measured]) -> Self {
        let mut all = Self::default();
        for run in runs {
            let (load, peer) = (run.load.as_str(), run.peer.as_str());
            if !all.loads.contains(&load) {
                all.loads.push(load);
            }
            let peers = all.peers.entry(load).or_default();
            if !peers.contains(&peer) {
                peers.push(peer);
            }
            all.cells.entry((load, peer)).or_default().runs.push(run);
        }
        all
    }

    /// Peers that ran the load, and what they did.
    pub fn of_load(&self, load: &'a str) -> impl Iterator<Item = (&'a str, &Cell<'a>)> {
        self.peers.get(load).into_iter().flatten().filter_map(move |peer| Some((*peer, self.cells.get(&(load, *peer))?)))
    }

    /// One load with one peer.
    pub fn cell(&self, load: &str, peer: &str) -> Option<&Cell<'a>> {
        self.cells.iter().find(|((l, p), _)| *l == load && *p == peer).map(|(_, cell)| cell)
    }

    /// How much longer the load takes with the peer than alone: 0.4 is 40 %.
    pub fn slowdown(&self, load: &str, peer: &str) -> Option<f64> {
        let alone = self.cell(load, "none")?.median("load_s")?;
        (peer != "none").then_some(self.cell(load, peer)?.median("load_s")? / alone - 1.0)
    }
}

/// A value in words.
pub fn show(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Seconds if value.abs() < 0.0995 => format!("{:.0} ms", value * 1e3),
        Unit::Seconds if value.abs() < 9.95 => format!("{value:.2} s"),
        Unit::Seconds => format!("{value:.1} s"),
        Unit::Millis if value.abs() < 9.95 => format!("{value:.2} ms"),
        Unit::Millis => format!("{value:.0} ms"),
        Unit::Bytes if value.abs() < 1e4 => format!("{value:.0} B"),
        Unit::Bytes if value.abs() < 1e6 => format!("{:.0} kB", value / 1e3),
        Unit::Bytes if value.abs() < 1e8 => format!("{:.1} MB", value / 1e6),
        Unit::Bytes => format!("{:.0} MB", value / 1e6),
        Unit::Count => format!("{value:.0}"),
        Unit::Share => format!("{:+.0} %", value * 100.0),
    }
}
