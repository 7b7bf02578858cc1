//! Two runs side by side: what moved beyond noise, by the spread of the runs themselves.

use crate::problem::{EXIT_DONE, EXIT_WORSE};
use crate::record::Records;
use crate::summary::{METRICS, Metric, Spread, Summary, show};

/// What became of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Noise,
    Better,
    Worse,
}

/// A figure moved when the ranges do not overlap, and the medians differ by more than `least` (parts of one) and the metric's floor.
fn change(metric: &Metric, a: Spread, b: Spread, least: f64) -> Change {
    let apart = a.max < b.min || b.max < a.min;
    let moved = (a.median - b.median).abs();
    if !apart || moved <= metric.floor || moved <= least * a.median.abs() {
        return Change::Noise;
    }
    if b.median < a.median { Change::Better } else { Change::Worse }
}

/// The text, and the exit code: whether something became worse.
pub fn render(a: &Records, b: &Records, least: f64) -> (String, u8) {
    let (before, after) = (Summary::of(&a.runs), Summary::of(&b.runs));
    let (mut out, mut worse, mut figures, mut single) = (String::new(), false, 0, false);
    if let (Some(x), Some(y)) = (&a.host, &b.host) {
        let differ = [
            ("host", &x.host, &y.host),
            ("kernel", &x.kernel, &y.kernel),
            ("filesystem", &x.filesystem, &y.filesystem),
            ("network", &x.network, &y.network),
        ];
        for (what, x, y) in differ.iter().filter(|(_, x, y)| x != y) {
            out += &format!("{what} is another one: {x} | {y}\n");
        }
        if (x.scale, x.seed) != (y.scale, y.seed) {
            out += &format!("the loads differ: scale {} seed {} | scale {} seed {}\n", x.scale, x.seed, y.scale, y.seed);
        }
    }
    for load in &before.loads {
        for (peer, cell) in before.of_load(load) {
            let Some(other) = after.cell(load, peer) else {
                out += &format!("{load} {peer}: only before\n");
                continue;
            };
            let (x, y) = (cell.unequal(), other.unequal());
            if (x.0 > 0) != (y.0 > 0) {
                worse |= y.0 > 0;
                out += &format!(
                    "{load} {peer}: {}\n",
                    if y.0 > 0 { format!("WORSE: no longer equal, {} differ", y.1) } else { "better: equal now".into() }
                );
            }
            for metric in METRICS {
                let (Some(x), Some(y)) = (cell.spread(metric), other.spread(metric)) else { continue };
                figures += 1;
                single |= x.runs == 1 || y.runs == 1;
                let change = change(metric, x, y, least);
                if change == Change::Noise {
                    continue;
                }
                worse |= change == Change::Worse;
                let word = if change == Change::Worse { "WORSE" } else { "better" };
                let factor = if x.median == 0.0 { String::new() } else { format!(", {:+.0} %", (y.median / x.median - 1.0) * 100.0) };
                let show = |value| show(value, metric.unit);
                out += &format!(
                    "{load} {peer}: {word}: {} {} → {}{factor} (ranges {}–{}, {}–{})\n",
                    metric.title,
                    show(x.median),
                    show(y.median),
                    show(x.min),
                    show(x.max),
                    show(y.min),
                    show(y.max)
                );
            }
        }
    }
    for load in &after.loads {
        for (peer, _) in after.of_load(load).filter(|(peer, _)| before.cell(load, peer).is_none()) {
            out += &format!("{load} {peer}: only after\n");
        }
    }
    if single {
        out += "some figures come from a single run: they have no spread, so noise may look like a move\n";
    }
    out += &format!("{figures} figures compared; {}", if worse { "something became worse" } else { "nothing became worse" });
    (out, if worse { EXIT_WORSE } else { EXIT_DONE })
}
