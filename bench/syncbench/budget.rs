//! The goals of perf/budget.toml, and a run held against them. A goal is a bound of one figure, or of its ratio to a peer's in the same run.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::problem::{Doing, EXIT_DONE, EXIT_WORSE, Problem, Result};
use crate::record::Records;
use crate::summary::{Summary, Unit, metric, show};

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    goal: Vec<Goal>,
}

/// One goal. Exactly one of `max` and `max_ratio` is there.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Goal {
    load: String,
    /// Whose figure.
    #[serde(default = "ringsync")]
    peer: String,
    /// A metric's key, or `slowdown`.
    metric: String,
    /// Highest value, in the metric's unit.
    max: Option<f64>,
    /// Highest ratio to the peer in `of`; `best` is the best one that is not ringsync's.
    max_ratio: Option<f64>,
    of: Option<String>,
}

fn ringsync() -> String {
    "ringsync".into()
}

impl Budget {
    /// Reads it.
    ///
    /// # Errors
    /// What cannot be read, or makes no sense.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).doing(|| format!("read {}", path.display()))?;
        let budget: Self = toml::from_str(&text).doing(|| path.display().to_string())?;
        for goal in &budget.goal {
            let one = goal.max.is_some() != goal.max_ratio.is_some() && goal.max_ratio.is_some() == goal.of.is_some();
            if !one || (goal.metric != "slowdown" && metric(&goal.metric).is_none()) {
                let text = format!(
                    "{}: the goal of {} {} needs a known metric and either max, or max_ratio and of",
                    path.display(),
                    goal.load,
                    goal.metric
                );
                return Err(Problem::Failed(text));
            }
        }
        Ok(budget)
    }

    /// The text, and the exit code: whether a goal is missed. Goals of loads and peers that were not run are named.
    ///
    /// # Errors
    /// When no goal could be judged.
    pub fn judge(&self, records: &Records) -> Result<(String, u8)> {
        let summary = Summary::of(&records.runs);
        let (mut out, mut missed, mut judged) = (String::new(), 0, 0);
        for goal in &self.goal {
            let name = format!("{} {} {}", goal.load, goal.peer, goal.metric);
            let Some((value, bound, text)) = goal.measure(&summary) else {
                out += &format!("  ?     {name}: not measured\n");
                continue;
            };
            judged += 1;
            let met = value <= bound && summary.cell(&goal.load, &goal.peer).is_some_and(|c| c.unequal().0 == 0);
            missed += u32::from(!met);
            out += &format!("  {}  {name}: {text}\n", if met { "ok  " } else { "MISS" });
        }
        if judged == 0 {
            return Err(Problem::Failed("the run has none of the figures that the goals are about".into()));
        }
        out += &format!("{judged} of {} goals measured, {missed} missed", self.goal.len());
        Ok((out, if missed > 0 { EXIT_WORSE } else { EXIT_DONE }))
    }
}

impl Goal {
    /// Value, bound, and both in words.
    fn measure(&self, summary: &Summary<'_>) -> Option<(f64, f64, String)> {
        let figure = |peer: &str| match self.metric.as_str() {
            "slowdown" => summary.slowdown(&self.load, peer),
            key => summary.cell(&self.load, peer).filter(|c| c.unequal().0 == 0)?.median(key),
        };
        let unit = metric(&self.metric).map_or(Unit::Share, |m| m.unit);
        let value = figure(&self.peer)?;
        if let Some(max) = self.max {
            return Some((value, max, format!("{}, at most {}", show(value, unit), show(max, unit))));
        }
        let (bound, of) = (self.max_ratio?, self.of.as_deref()?);
        let (of, other) = if of == "best" {
            let load = summary.loads.iter().find(|l| **l == self.load)?;
            let others = summary.of_load(load).map(|(peer, _)| peer).filter(|p| *p != "none" && !p.starts_with("ringsync"));
            others.filter_map(|p| Some((p, figure(p)?))).min_by(|a, b| a.1.total_cmp(&b.1))?
        } else {
            (of, figure(of)?)
        };
        let ratio = value / other;
        Some((ratio, bound, format!("{} is {ratio:.3} of {of}'s {}, at most {bound}", show(value, unit), show(other, unit))))
    }
}
