//! The table of a run, for a terminal: one block for each load, one row for each peer.

use crate::record::{Measured, Records};
use crate::summary::{Cell, Spread, Summary, Unit, metric, show};

/// Columns: heading and the text of a cell.
type Column = (&'static str, fn(&Cell<'_>, &Context<'_>) -> String);

/// What a cell's text depends on beside the cell.
pub struct Context<'a> {
    summary: &'a Summary<'a>,
    load: &'a str,
    peer: &'a str,
}

const COLUMNS: &[Column] = &[
    ("equal after", |cell, _| match cell.unequal() {
        (0, _) => spread(cell, "equal_s"),
        (_, n) => format!("never: {n} differ"),
    }),
    ("×", |cell, at| at.ratio(cell).map_or_else(String::new, |r| format!("{r:.1}"))),
    ("p50", |cell, _| median(cell, "p50_ms")),
    ("p99", |cell, _| median(cell, "p99_ms")),
    ("load", |cell, _| median(cell, "load_s")),
    ("slowed", |_, at| at.summary.slowdown(at.load, at.peer).map_or_else(String::new, |s| show(s, Unit::Share))),
    ("ops/s", |cell, _| {
        Spread::of(cell.runs.iter().filter_map(|m| m.ops_per_s).collect()).map_or_else(String::new, |s| show(s.median, Unit::Count))
    }),
    ("MB/s", |cell, _| {
        Spread::of(cell.runs.iter().filter_map(|m| m.bytes_per_s).collect()).map_or_else(String::new, |s| format!("{:.1}", s.median / 1e6))
    }),
    ("wire", |cell, _| median(cell, "wire_bytes")),
    ("cpu snd", |cell, _| median(cell, "cpu_sender_s")),
    ("cpu rcv", |cell, _| median(cell, "cpu_receiver_s")),
    ("mem snd", |cell, _| median(cell, "mem_sender")),
    ("mem rcv", |cell, _| median(cell, "mem_receiver")),
    ("wakes", |cell, _| median(cell, "wakeups")),
];

impl Context<'_> {
    /// How many times as long as ringsync it takes.
    fn ratio(&self, cell: &Cell<'_>) -> Option<f64> {
        let key = if cell.median("p50_ms").is_some() { "p50_ms" } else { "equal_s" };
        let ours = self.summary.cell(self.load, "ringsync")?.median(key)?;
        (ours > 0.0).then_some(cell.median(key)? / ours)
    }
}

fn median(cell: &Cell<'_>, key: &str) -> String {
    metric(key).and_then(|m| Some(show(cell.spread(m)?.median, m.unit))).unwrap_or_default()
}

fn spread(cell: &Cell<'_>, key: &str) -> String {
    let Some((spread, unit)) = metric(key).and_then(|m| Some((cell.spread(m)?, m.unit))) else { return String::new() };
    if spread.runs == 1 {
        return show(spread.median, unit);
    }
    format!("{} ({}–{})", show(spread.median, unit), show(spread.min, unit), show(spread.max, unit))
}

/// The rows of a load: heading first, then one for each peer; columns that say nothing are left out.
pub fn rows<'a>(summary: &'a Summary<'a>, load: &'a str) -> Vec<Vec<String>> {
    let mut rows = vec![std::iter::once("").chain(COLUMNS.iter().map(|(title, _)| *title)).map(str::to_owned).collect::<Vec<_>>()];
    for (peer, cell) in summary.of_load(load) {
        let at = Context { summary, load, peer };
        rows.push(std::iter::once(peer.to_owned()).chain(COLUMNS.iter().map(|(_, text)| text(cell, &at))).collect());
    }
    let empty: Vec<usize> = (1..rows[0].len()).filter(|c| rows[1..].iter().all(|r| r[*c].is_empty())).collect();
    for row in &mut rows {
        let mut column = 0;
        row.retain(|_| {
            column += 1;
            !empty.contains(&(column - 1))
        });
    }
    rows
}

/// What is to be said of a load beside figures.
pub fn notes(summary: &Summary<'_>, load: &str) -> Vec<String> {
    let mut notes = Vec::new();
    for (peer, cell) in summary.of_load(load) {
        let dir_times = cell.runs.iter().map(|m| m.dir_times).max().unwrap_or(0);
        if dir_times > 0 {
            notes.push(format!("{peer}: {dir_times} directories keep another time"));
        }
        if let Some(n) = cell.runs.iter().filter_map(|m| m.overflows).max().filter(|n| *n > 0) {
            notes.push(format!("{peer}: tells of {n} overflows"));
        }
        let mut said: Vec<&String> = cell.runs.iter().flat_map(|m| &m.notes).collect();
        said.dedup();
        notes.extend(said.into_iter().take(3).map(|note| format!("{peer}: {note}")));
    }
    notes
}

/// The whole table.
pub fn render(records: &Records) -> String {
    let summary = Summary::of(&records.runs);
    let mut out = String::new();
    if let Some(host) = &records.host {
        out += &format!("{}, Linux {}, {} cores; {}; {}\n", host.host, host.kernel, host.cores, host.filesystem, host.network);
    }
    for load in &summary.loads {
        let rows = rows(&summary, load);
        let widths: Vec<usize> = (0..rows[0].len()).map(|c| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0)).collect();
        let runs = summary.of_load(load).map(|(_, cell)| cell.runs.len()).max().unwrap_or(0);
        let highest = |count: fn(&Measured) -> u64| records.runs.iter().filter(|m| m.load == *load).map(count).max().unwrap_or(0);
        out += &format!("\n{load}: {} operations, {} entries in the end, medians of {runs}\n", highest(|m| m.ops), highest(|m| m.entries));
        for row in &rows {
            let mut line = String::new();
            for (column, (text, width)) in row.iter().zip(&widths).enumerate() {
                let pad = " ".repeat(width - text.chars().count());
                line += &if column == 0 { format!("  {text}{pad}") } else { format!("  {pad}{text}") };
            }
            out += line.trim_end();
            out.push('\n');
        }
        for note in notes(&summary, load) {
            out += &format!("  - {note}\n");
        }
    }
    for (peer, why) in &records.absent {
        out += &format!("\n{peer} is absent: {why}");
    }
    out
}
