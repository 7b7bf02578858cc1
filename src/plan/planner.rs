//! The planner's state and its inputs: what comes in, what is asked next. The cycle itself is built in `emit`.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::num::NonZeroU32;
use std::sync::Arc;

use foldhash::fast::FixedState;

use crate::limits::{CYCLE_NODES_MAX, CYCLES_IN_FLIGHT_MAX, OPS_AHEAD_BEHIND_MAX, OPS_AHEAD_MAX, SCAN_WEIGHT};
use crate::model::cycle::{Cycle, NodeRef, StageTask};
use crate::model::event::{Event, Hint, Key};
use crate::model::filter::Filter;
use crate::model::op::Abilities;
use crate::model::options::Options;
use crate::model::path::{Name, NameBuf, RelPath};
use crate::model::probe::{Ask, DirSeen, Probe, ProbeError, Probed, Seen};
use crate::plan::debt::Debt;
use crate::plan::dirty::Dirty;
use crate::plan::distrust::Distrust;
use crate::plan::fill::{FILLS_AT_ONCE, Fill};
use crate::plan::flight::Flight;
use crate::plan::guard::Guard;
use crate::plan::lag::Lag;
use crate::plan::reconcile::{self, Verdict};
use crate::plan::round::{Asked, Round, Slot};
use crate::plan::staged::Staging;
use crate::plan::tree::{NONE, NodeId, ROOT, Tree, flag};
use crate::plan::troubles::{Failing, READ_DIRECTORY, Trouble, TroubleKey};
use crate::plan::{NodeMap, NodeSet, undeleted};

/// A directory without watch is listed so often.
const POLL_NS: u64 = 10_000_000_000;
/// What the planner wants done.
#[derive(Debug)]
pub enum Action {
    /// Look at the source.
    Probe(Probe),
    /// Send a cycle.
    Cycle(Arc<Cycle>),
    /// Read a large file into staging.
    Stage(StageTask),
    /// A staged file is not wanted any more: the worker that sent it is to drop it.
    DropStage {
        /// The worker.
        worker: usize,
        /// Number of the staged file.
        stage: u64,
    },
    /// Ask the receiver for the manifest of a directory, after all cycles so far.
    List(RelPath),
    /// Stop watching a directory that left the tree.
    Forget(Key),
}

/// See the module's comment.
pub struct Planner {
    pub(super) tree: Tree,
    pub(super) dirty: Dirty,
    pub(super) options: Options,
    wanted: Options,
    pub(super) filter: Arc<Filter>,
    pub(super) fill: Option<Fill>,
    pub(super) wanted_lists: NodeSet<NodeRef>,
    /// Directories that the last manifest which was to tell of them lacked.
    pub(super) unlisted: NodeSet<NodeRef>,
    pub(super) distrust: Distrust,
    pub(super) last_fill: u64,
    pub(super) fills_in_row: u32,
    /// Each round since the manifest came has listed some directory: the first look at the source is not over.
    pub(super) behind: bool,
    pub(super) round: Option<Round>,
    pub(super) flights: VecDeque<Flight>,
    pub(super) next_cycle: u64,
    pub(super) next_id: u64,
    pub(super) next_group: u32,
    pub(super) abilities: Abilities,
    pub(super) staged: Staging,
    pub(super) troubles: BTreeMap<TroubleKey, Failing>,
    /// The cycle of the failure that is being noted.
    pub(super) judged: Option<u64>,
    pub(super) reports: Vec<(TroubleKey, Trouble)>,
    pub(super) guard: Guard,
    pub(super) debt: Debt,
    pub(super) lag: Lag,
    /// Staged files, by worker, that could not be put in place.
    pub(super) drops: Vec<(usize, u64)>,
    pub(super) restless: NodeMap<NodeRef, super::reports::Restless>,
    /// Content that workers have and did not report.
    pub(super) busy: usize,
    /// Keys of events that no directory has, while listings are out.
    pub(super) unknown_keys: HashSet<Box<[u8]>>,
    pub(super) unknown_keys_lost: bool,
    /// Nothing was looked at since all directories were queued to be listed again.
    pub(super) all_queued: bool,
    /// Device and inode number of what events told to have changed since the round began.
    pub(super) told: HashMap<(u64, u64), Hint, FixedState>,
    pub(super) told_lost: bool,
    pub(super) halves: crate::plan::halves::Halves,
    /// Empty: room for the names of one object.
    pub(super) names_told: Vec<NodeId>,
    pub(super) online: bool,
    /// There is no connection, and the tree is kept for the next: see `suspend`.
    pub(super) suspended: bool,
    pub(super) scrub: crate::plan::scrub::Scrub,
    pub(super) beyond: crate::plan::beyond::Beyond,
    seed: u64,
}

impl Planner {
    /// A planner that waits for a connection. `seed` is that of [`Tree::new`].
    pub fn new(options: Options, filter: Arc<Filter>, seed: u64) -> Self {
        Self {
            tree: Tree::new(seed),
            seed,
            dirty: Dirty::default(),
            wanted: options.clone(),
            options,
            filter,
            fill: None,
            wanted_lists: NodeSet::default(),
            unlisted: NodeSet::default(),
            distrust: Distrust::default(),
            last_fill: 0,
            fills_in_row: 0,
            behind: false,
            round: None,
            flights: VecDeque::new(),
            next_cycle: 1,
            next_id: 1,
            next_group: 0,
            abilities: Abilities::default(),
            staged: Staging::default(),
            troubles: BTreeMap::new(),
            judged: None,
            reports: Vec::new(),
            guard: Guard::default(),
            debt: Debt::default(),
            lag: Lag::default(),
            drops: Vec::new(),
            restless: NodeMap::default(),
            busy: 0,
            unknown_keys: HashSet::new(),
            unknown_keys_lost: false,
            all_queued: false,
            told: HashMap::with_hasher(FixedState::with_seed(seed)),
            told_lost: false,
            halves: crate::plan::halves::Halves::default(),
            names_told: Vec::new(),
            online: false,
            suspended: false,
            scrub: Default::default(),
            beyond: Default::default(),
        }
    }

    /// A session began that does not go on with what is known: the manifest is asked for, then the whole source is looked at.
    pub fn connected(&mut self, abilities: Abilities, now: u64, actions: &mut Vec<Action>) {
        self.disconnected();
        self.abilities = abilities;
        self.options.owner &= abilities.chown;
        self.options.group &= abilities.chown;
        self.options.held = abilities.times;
        self.online = true;
        self.relist(ROOT);
        self.start_fill(now, actions);
    }

    /// The session ended, and the next one begins with a manifest: all is forgotten but what that does not tell. Events go on being heard, for the same reason.
    pub fn disconnected(&mut self) {
        self.give_up_round(0);
        self.doubt_flights();
        self.keep_doubts(ROOT, true);
        let distrust = std::mem::take(&mut self.distrust);
        *self = Self { distrust, ..Self::new(self.wanted.clone(), self.filter.clone(), self.seed) };
    }

    /// As [`Planner::disconnected`], and the next session has other rules.
    pub fn set_filter(&mut self, filter: Arc<Filter>) {
        self.filter = filter;
        self.disconnected();
    }

    /// The tree, for tests and figures.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Names that wait for the next cycle.
    pub fn dirty(&self) -> usize {
        self.dirty.len()
    }

    /// What is still to be done, in entries: what waits, is looked at, or is on its way. An estimate, for people.
    pub fn left(&self) -> usize {
        let looked_at = self.round.as_ref().map_or(0, |round| round.slots.len());
        let sent: usize = self.flights.iter().map(|flight| flight.pre.len() + flight.files.len() + flight.post.len()).sum();
        self.dirty.len() + looked_at + self.staged.len() + sent
    }

    /// Names that wait for a time.
    pub fn delayed(&self) -> usize {
        self.dirty.delayed(&self.tree).count()
    }

    /// Whether a manifest is on its way.
    pub fn is_filling(&self) -> bool {
        self.fill.is_some()
    }

    /// The last cycle that was made, and the last one that is acknowledged; 0: none.
    pub fn cycles(&self) -> (u64, u64) {
        let made = self.next_cycle - 1;
        (made, self.flights.front().map_or(made, |flight| flight.cycle.number - 1))
    }

    /// Cycles on their way.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Whether all that is known to differ has been sent and acknowledged, or waits for another try after a failure.
    pub fn is_idle(&self) -> bool {
        self.online
            && self.fill.is_none()
            && (self.wanted_lists.is_empty() || self.fills_in_row > FILLS_AT_ONCE + 5)
            && self.round.is_none()
            && self.dirty.is_empty()
            && self.flights.is_empty()
            && self.busy == 0
            && self.staged.are_complete()
            && self.dirty.delayed(&self.tree).all(|id| self.waits_for_cause(id))
    }

    /// Whether a delayed node waits for a failure to end, or is listed from time to time only: not for something that is about to happen.
    pub(super) fn waits_for_cause(&self, id: NodeId) -> bool {
        let troubled = |id: NodeId| id != NONE && self.is_troubled(id);
        troubled(id) || troubled(self.tree.parent(id)) || (self.tree.has(id, flag::UNWATCHED) && !self.tree.has(id, flag::LOOK | flag::OWN))
    }

    /// When [`Planner::next`] should be called again without any input.
    pub fn next_at(&self) -> Option<u64> {
        let fill = self.fill_at().filter(|_| self.fill.is_none() && self.round.is_none());
        self.dirty.next_at().into_iter().chain(fill).min().filter(|_| self.online)
    }

    /// An event of a watcher.
    pub fn event(&mut self, event: Event<'_>, now: u64) {
        let Event::At { key, name, hint, object, rename } = event else {
            self.rescan(now);
            return;
        };
        self.halves.used |= object.is_none() && hint.has(Hint::WRITTEN | Hint::CLOSED);
        self.name_told(key, name, hint, rename, now);
        if let Some(object) = object.or_else(|| self.object_at(key, name, hint)) {
            self.object_told(object, hint, now);
        }
    }

    fn name_told(&mut self, key: &[u8], name: &[u8], hint: Hint, rename: Option<NonZeroU32>, now: u64) {
        let Some(dir) = self.tree.of_key(key) else {
            self.stray_told(key, name, hint);
            self.unknown_key(key);
            return;
        };
        if hint.has(Hint::KEY_DEAD) {
            // Who is being listed may be about to get it.
            self.unknown_key(key);
            self.tree.take_key(dir);
            let why = if dir == ROOT { flag::SCAN } else { flag::LOOK };
            self.dirty.mark(&mut self.tree, dir, why);
        } else if name.is_empty() {
            self.dirty.mark(&mut self.tree, dir, flag::OWN);
        } else if let Ok(name) = Name::new(name)
            && !name.is_reserved()
        {
            if self.tree.has(dir, flag::UNKNOWN) {
                self.unlisted_told(dir, name, hint);
                return;
            }
            if self.is_left_to_listing(dir, name) {
                return;
            }
            let id = self.tree.child_or_insert(dir, name);
            if hint.has(Hint::WRITTEN | Hint::CLOSED) {
                self.tree.set(id, flag::WROTE);
                self.staged.written(self.tree.reference(id));
            }
            if hint.has(Hint::CLOSED) {
                // Stores through a mapping change no time on tmpfs, and are told by the close only.
                self.tree.forget_ctime(id);
            }
            if hint.has(Hint::APPEARED) {
                self.tree.set(id, flag::CAME);
            }
            self.dirty.mark_told(&mut self.tree, id, hint, now);
            self.half_told((dir, id), hint, rename, now);
        }
    }

    /// What is to be done next. Called after inputs, and when the time of [`Planner::next_at`] has come.
    pub fn next(&mut self, now: u64, actions: &mut Vec<Action>) {
        if !self.online {
            self.pass_time(now);
            return;
        }
        actions.extend(self.drops.drain(..).map(|(worker, stage)| Action::DropStage { worker, stage }));
        self.hand_out_stages(actions);
        self.dirty.advance(&mut self.tree, now);
        self.note_age(now);
        if self.round.is_some() || self.fill.is_some() {
            return;
        }
        if self.fill_at().is_some_and(|at| at <= now) {
            self.start_fill(now, actions);
            return;
        }
        self.forget_strays(now, actions);
        self.halves.give_up(now);
        if (self.guard.is_concerned() || !self.troubles.is_empty()) && self.is_idle() {
            self.heal_unwaited();
            self.guard_rests();
        }
        let ahead: usize = self.flights.iter().map(Flight::weight).sum();
        // What is behind does not gather: there is no reason to let the receiver run dry.
        let ahead_max = if self.behind { OPS_AHEAD_BEHIND_MAX } else { OPS_AHEAD_MAX };
        if self.flights.len() < CYCLES_IN_FLIGHT_MAX && ahead < ahead_max && !self.dirty.is_empty() {
            self.begin_round(now, actions);
        }
    }

    /// Takes dirty nodes and asks what the source has at their names.
    fn begin_round(&mut self, now: u64, actions: &mut Vec<Action>) {
        self.forget_unknown_keys();
        self.all_queued = false;
        self.round = Some(Round { oldest: self.oldest_dirty(), ..Round::default() });
        let mut names: NodeMap<NodeId, Vec<NodeId>> = NodeMap::default();
        let mut lists: Vec<(NodeId, bool)> = Vec::new();
        let mut order = Vec::new();
        let mut weight = 0;
        let mut swept = 0;
        loop {
            let first = if weight < CYCLE_NODES_MAX { self.dirty.take(&mut self.tree) } else { None };
            let Some(id) = first.or_else(|| self.sweep(&mut swept)) else { break };
            if self.tree.has(id, flag::BUSY) {
                // Queued again when the report is back.
                continue;
            }
            if self.debt.is_on() {
                self.debt_taken(id);
            }
            if self.is_left_alone(id) {
                continue;
            }
            if self.tree.has(id, flag::RELIST) {
                self.relist_again(id, now);
            }
            if self.tree.has(id, flag::SCAN) {
                weight += SCAN_WEIGHT;
                lists.push((id, self.tree.has(id, flag::DEEP)));
            }
            if self.tree.has(id, flag::LOOK) && id != ROOT {
                weight += 1;
                let parent = self.tree.parent(id);
                let of_dir = names.entry(parent).or_insert_with(|| {
                    order.push(parent);
                    Vec::new()
                });
                if self.is_parked(id) { self.parked_slot(id) } else { of_dir.push(id) }
            } else if self.tree.has(id, flag::OWN | flag::LOOK) && !self.tree.has(id, flag::SCAN) {
                weight += 1;
                names.entry(id).or_insert_with(|| {
                    order.push(id);
                    Vec::new()
                });
            }
            // What the mirror has in an unlisted directory stays unknown until the manifest comes.
            self.tree.clear(id, (flag::DIRTY | flag::DEEP) & !flag::RELIST);
        }
        self.behind &= !lists.is_empty();
        for (id, deep) in &lists {
            // A listing tells all names, if it can be made.
            let told = names.remove(id).unwrap_or_default();
            self.ask(*id, &told, Some(*deep), actions, now);
        }
        for parent in order {
            if let Some(children) = names.remove(&parent) {
                self.ask(parent, &children, None, actions, now);
            }
        }
        self.finish_if_answered(now, actions);
    }

    pub(super) fn ask(&mut self, dir: NodeId, names: &[NodeId], list: Option<bool>, actions: &mut Vec<Action>, now: u64) {
        let nodes: Vec<NodeRef> = names.iter().map(|n| self.tree.reference(*n)).collect();
        let asked = Asked { dir: self.tree.reference(dir), names: nodes, list: list.is_some(), deep: list == Some(true) };
        let path = match self.tree.path(dir) {
            Ok(path) if !self.tree.has(dir, flag::UNKNOWN) => path,
            Ok(_) => return,
            Err(_) => {
                self.unreadable(&asked, dir, libc::ENAMETOOLONG, now);
                return;
            }
        };
        let ask = if list.is_some() { Ask::List } else { Ask::Names(names.iter().filter_map(|n| self.tree.name_buf(*n)).collect()) };
        self.next_id += 1;
        let Some(round) = &mut self.round else { return };
        round.asked.extend(&asked.names);
        round.open.insert(self.next_id, asked);
        let lazy = self.is_lazy(dir, names, list.is_some());
        actions.push(Action::Probe(Probe { id: self.next_id, dir: path, expect: self.tree.ident(dir), ask, lazy }));
    }

    /// The answer to a probe.
    pub fn probed(&mut self, answer: Probed, now: u64, actions: &mut Vec<Action>) {
        self.all_queued = false;
        let Some(asked) = self.round.as_mut().and_then(|r| r.open.remove(&answer.id)) else { return };
        if let Some(dir) = self.tree.resolve(asked.dir) {
            match answer.outcome {
                Ok(seen) => self.seen(&asked, dir, seen, now, actions),
                Err(ProbeError::Stale) => self.stale(&asked, dir, now),
                Err(ProbeError::Failed(errno)) => self.unreadable(&asked, dir, errno, now),
            }
        }
        self.finish_if_answered(now, actions);
    }

    fn seen(&mut self, asked: &Asked, dir: NodeId, seen: DirSeen, now: u64, actions: &mut Vec<Action>) {
        // A directory that cannot be listed may well be entered.
        if !self.troubles.is_empty() && seen.list_error.is_none() && (asked.list || !self.tree.has(dir, flag::SCAN)) {
            self.heal_read(dir);
        }
        if dir == ROOT || self.tree.ident(dir).is_none() {
            self.tree.set_ident(dir, &seen.stat.ident);
        }
        let came = self.tree.has(dir, flag::CAME);
        if asked.list {
            self.listed(asked, dir, &seen, now, actions);
        }
        if let Some(round) = &mut self.round {
            round.dirs.insert(asked.dir, seen.stat);
            round.listed.extend(Some(asked.dir).filter(|_| asked.list && seen.list_error.is_none()));
            round.attrs.extend(seen.attrs.into_iter().map(|attrs| (attrs.digest(), attrs)));
        }
        let complete = asked.list && seen.list_error.is_none();
        let mut present: NodeSet<NodeId> = NodeSet::default();
        let mut id = NONE;
        for (name, what) in seen.names.into_iter().filter_map(|(name, what)| undeleted::as_seen(name, what, asked.list)) {
            id = self.tree.child_or_insert_beside(dir, name.as_name(), id);
            if complete {
                present.insert(id);
            }
            self.doubt_another(id, &what, came);
            self.slot(dir, id, name, what, asked);
        }
        if complete {
            for id in self.tree.children(dir).filter(|c| !present.contains(c)).collect::<Vec<_>>() {
                if let Some(name) = self.tree.name_buf(id) {
                    self.slot(dir, id, name, Seen::Absent, asked);
                }
            }
            self.heal_vanished(asked.dir);
        }
    }

    fn listed(&mut self, asked: &Asked, dir: NodeId, seen: &DirSeen, now: u64, actions: &mut Vec<Action>) {
        let deep = if asked.deep { flag::DEEP } else { 0 };
        if let Some(errno) = seen.list_error {
            self.trouble(dir, READ_DIRECTORY, errno, now);
            let at = self.retry_at(dir, now);
            self.dirty.mark_at(&mut self.tree, dir, flag::SCAN | deep, at);
            self.ask_by_name(asked);
        } else if !self.tree.has(dir, flag::LOOK) {
            // What it holds now is looked at by name and identity: its doubt is theirs.
            self.tree.clear(dir, flag::CAME);
        }
        if let Some(key) = &seen.key {
            self.distrust.found(&key.0);
        }
        match &seen.key {
            Some(key) if self.tree.key(dir) != Some(key) => {
                actions.extend(self.drop_key(dir).map(Action::Forget));
                // Events of a directory that moved here have been taken for those of its former node until now.
                let inherited = self.tree.of_key(&key.0).is_some();
                self.tree.set_key(dir, key.clone());
                if inherited || self.unknown_keys_lost || self.unknown_keys.contains(&key.0[..]) {
                    self.dirty.mark(&mut self.tree, dir, flag::SCAN);
                }
            }
            _ => {}
        }
        if seen.unwatched {
            self.tree.set(dir, flag::UNWATCHED);
            self.dirty.mark_at(&mut self.tree, dir, flag::SCAN, now + POLL_NS);
        } else {
            self.tree.clear(dir, flag::UNWATCHED);
        }
    }

    pub(super) fn slot(&mut self, dir: NodeId, id: NodeId, name: NameBuf, seen: Seen, asked: &Asked) {
        if asked.list && self.debt.is_on() {
            self.debt_listed(dir, id);
        }
        if self.tree.has(id, flag::BUSY) {
            // Its report is not back: looked at again then. An event may have been lost.
            self.tree.set(id, if asked.list { flag::LOOK | flag::CAME } else { flag::LOOK });
            return;
        }
        let Some(round) = &mut self.round else { return };
        let (node, parent) = (self.tree.reference(id), self.tree.reference(dir));
        if let Some(at) = round.slot_of.get(&node).copied() {
            round.see_again(at, seen);
            return;
        }
        round.slot_of.insert(node, round.slots.len());
        round.slots.push(Slot { node, parent, name, seen, deep: asked.deep, listed: asked.list, dirs_stay: false });
    }

    pub(super) fn finish_if_answered(&mut self, now: u64, actions: &mut Vec<Action>) {
        if self.round.as_ref().is_none_or(|r| !r.open.is_empty()) {
            return;
        }
        self.screen(now);
        let Some(mut round) = self.round.take() else { return };
        round.agree();
        match reconcile::wants(&self.tree, &round, &self.guard, &self.halves, &self.options) {
            Verdict::Wants(mut wants, later) => {
                self.note_gone(&round);
                for (id, why) in later {
                    // It waits for the same content as the name that was looked at.
                    if !self.options.hard_links && why == 0 && self.staged.has(self.tree.reference(id)) {
                        continue;
                    }
                    // What failed waits for its time: two names that fail would be tried for each other without end.
                    if self.tree.has(id, flag::DELAYED) && self.is_troubled(id) {
                        self.tree.set(id, flag::LOOK | why);
                    } else {
                        self.dirty.mark(&mut self.tree, id, flag::LOOK | why);
                    }
                    self.owe_after(id);
                }
                self.guard_round(&round, &mut wants, now);
                let seen = self.told_lost.then(|| round.slots.iter().map(|s| (s.parent, s.name.clone())).collect());
                let tried = self.tried_again(&round);
                self.emit(round, wants, now, actions);
                self.heal_settled(tried);
                self.debt_round_over();
                self.look_at_told(seen, now);
            }
            Verdict::LookAgain(slots) => self.look_for_attrs(round, &slots, now, actions),
            Verdict::Need(nodes) => {
                round.widened += 1;
                round.asked.extend(nodes.iter().map(|n| self.tree.reference(*n)));
                self.debt_widened(&nodes);
                self.round = Some(round);
                let mut by_dir: BTreeMap<NodeId, Vec<NodeId>> = BTreeMap::new();
                for id in nodes {
                    by_dir.entry(self.tree.parent(id)).or_default().push(id);
                }
                for (dir, names) in by_dir {
                    self.ask(dir, &names, None, actions, now);
                }
                self.finish_if_answered(now, actions);
            }
        }
    }
}
