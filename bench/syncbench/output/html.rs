//! The report: one HTML file with its style and charts inside, so that it needs no network and no script.

use super::svg::{Bar, chart, escape};
use super::table::{notes, rows};
use crate::record::Records;
use crate::summary::{Metric, Summary, metric, show};

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#222;background:#fff}\
h1{font-size:1.6rem}h2{margin-top:2.5rem;border-bottom:1px solid #ccc}h3{font-size:1rem;margin:1.2rem 0 .2rem}\
table{border-collapse:collapse;font-size:.85rem;display:block;overflow-x:auto}td,th{padding:.2rem .6rem;text-align:right;white-space:nowrap}\
td:first-child,th:first-child{text-align:left}tr:nth-child(odd) td{background:#f4f4f4}\
svg{max-width:100%;height:auto;font-size:13px}.label{text-anchor:end}.grid{stroke:#ddd}.ours{fill:#1668b8}.peer{fill:#9a9a9a}.range{stroke:#000;stroke-width:2}\
code{font-size:.85rem;word-break:break-all}li{margin:.2rem 0}";

/// Charts of a load, where it has the figures.
const CHARTS: &[&str] = &["equal_s", "p50_ms", "p99_ms", "cpu_s", "wire_bytes", "mem_sender", "wakeups"];

/// The whole page.
pub fn render(records: &Records) -> String {
    let summary = Summary::of(&records.runs);
    let mut out = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>syncbench</title><style>{STYLE}</style><h1>syncbench</h1>"
    );
    if let Some(host) = &records.host {
        out += &format!(
            "<p>{}, Linux {}, {} cores; {}; {}. Started {} s after 1970. Scale {}, seed {}.</p><p><code>{}</code></p><ul>",
            escape(&host.host),
            escape(&host.kernel),
            host.cores,
            escape(&host.filesystem),
            escape(&host.network),
            host.started,
            host.scale,
            host.seed,
            escape(&host.command)
        );
        for (peer, version) in &host.peers {
            out += &format!("<li>{}: {}</li>", escape(peer), escape(version));
        }
        for (peer, why) in &records.absent {
            out += &format!("<li>{}: absent: {}</li>", escape(peer), escape(why));
        }
        out += "</ul>";
    }
    out += "<p>Bars are medians on a logarithmic axis (a line for each power of ten), the black line is the range of the runs. \
        “Equal after” counts from the load's last operation (first, noop: from the start) until the mirror's last change before it was found equal in full.</p>";
    for load in &summary.loads {
        out += &format!("<h2>{}</h2>", escape(load));
        for metric in CHARTS.iter().filter_map(|key| metric(key)) {
            let bars = bars(&summary, load, metric);
            if bars.iter().any(|b| b.values.is_some()) {
                out += &format!("<h3>{}</h3>{}", metric.title, chart(&bars));
            }
        }
        out += &table(&rows(&summary, load));
        let notes = notes(&summary, load);
        if !notes.is_empty() {
            out += "<ul>";
            out.extend(notes.iter().map(|note| format!("<li>{}</li>", escape(note))));
            out += "</ul>";
        }
    }
    out + "</html>\n"
}

fn bars(summary: &Summary<'_>, load: &str, metric: &Metric) -> Vec<Bar> {
    let peers = summary.of_load(load).filter(|(peer, _)| *peer != "none");
    let bar = |(peer, cell): (&str, &crate::summary::Cell<'_>)| {
        let spread = cell.spread(metric);
        let text = match (spread, cell.unequal()) {
            (_, (1.., left)) if metric.key == "equal_s" => format!("never equal: {left} differ"),
            (Some(spread), _) => show(spread.median, metric.unit),
            (None, _) => String::new(),
        };
        Bar { label: peer.to_owned(), text, values: spread.map(|s| (s.median, s.min, s.max)), is_ours: peer.starts_with("ringsync") }
    };
    peers.map(bar).collect()
}

fn table(rows: &[Vec<String>]) -> String {
    let mut out = String::from("<table>");
    for (number, row) in rows.iter().enumerate() {
        let tag = if number == 0 { "th" } else { "td" };
        out += "<tr>";
        out.extend(row.iter().map(|text| format!("<{tag}>{}</{tag}>", escape(text))));
        out += "</tr>";
    }
    out + "</table>"
}
