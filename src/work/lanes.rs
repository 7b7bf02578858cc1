//! Large files that wait for a worker to open them: a few at a time, and short ones need not wait for long ones.

use std::collections::VecDeque;

use crate::limits::{RESUME_BYTES_MIN, STAGES_OPEN_MAX};
use crate::model::cycle::StageTask;

#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<StageTask>,
    /// Those that have begun and not ended.
    open: usize,
}

/// A worker's large files before they begin, in two lanes: short ones and long ones.
#[derive(Debug)]
pub struct Lanes {
    lanes: [Lane; 2],
    /// How many of each may be open.
    most: usize,
}

fn lane(task: &StageTask) -> usize {
    usize::from(task.size >= RESUME_BYTES_MIN)
}

impl Lanes {
    /// Those of one of so many workers.
    pub fn of_one_in(workers: usize) -> Self {
        Self { lanes: Default::default(), most: (STAGES_OPEN_MAX / workers.max(1)).max(4) }
    }

    /// It is to be sent.
    pub(super) fn add(&mut self, task: StageTask) {
        self.lanes[lane(&task)].waiting.push_back(task);
    }

    /// One that may begin now, and has begun with that.
    pub(super) fn begin(&mut self) -> Option<StageTask> {
        let most = self.most;
        let lane = self.lanes.iter_mut().find(|lane| lane.open < most && !lane.waiting.is_empty())?;
        lane.open += 1;
        lane.waiting.pop_front()
    }

    /// One that had begun is reported.
    pub(super) fn ended(&mut self, task: &StageTask) {
        let lane = &mut self.lanes[lane(task)];
        lane.open = lane.open.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::cycle::NodeRef;
    use crate::model::meta::Ident;
    use crate::model::path::{Name, RelPath};

    fn task(stage: u64, size: u64) -> StageTask {
        let ident = Ident { dev: 1, ino: stage, birth_ns: 0 };
        StageTask {
            stage,
            node: NodeRef { id: 1, generation: 0 },
            dir: RelPath::root(),
            expect: ident,
            name: Name::new(b"a").unwrap().to_owned(),
            ident,
            base: None,
            there: 0,
            size,
            insist: false,
        }
    }

    #[test]
    fn short_files_do_not_wait_for_long_ones_and_few_are_open() {
        let mut lanes = Lanes::of_one_in(32);
        (0..9).for_each(|stage| lanes.add(task(stage, RESUME_BYTES_MIN)));
        lanes.add(task(9, RESUME_BYTES_MIN - 1));
        let begun: Vec<u64> = std::iter::from_fn(|| lanes.begin()).map(|task| task.stage).collect();
        assert_eq!(begun, [9, 0, 1, 2, 3]);
        lanes.ended(&task(9, 1));
        assert!(lanes.begin().is_none(), "room for a short one is none for a long one");
        lanes.ended(&task(2, RESUME_BYTES_MIN));
        assert_eq!(lanes.begin().map(|task| task.stage), Some(4));
        assert!(lanes.begin().is_none());
    }
}
