//! Fuzz target of the planner: manifests, answers and acknowledgements of a receiver that lies, beside a source that changes as it likes.
//!
//! A plain function without a fuzzer, as those of `targets`.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU32;
use std::sync::{Arc, LazyLock};

use ringsync::limits::INLINE_FILE_BYTES_MAX;
use ringsync::model::attrs::UNKNOWN;
use ringsync::model::cycle::{Cycle, FileDone, Racy, Read, StageDone, StageTask};
use ringsync::model::event::{Event, Hint, Key};
use ringsync::model::filter::Filter;
use ringsync::model::meta::{Ident, Kind, Meta, Stat, Time};
use ringsync::model::op::{Abilities, Entry, OpError, Section};
use ringsync::model::options::Options;
use ringsync::model::path::{Name, NameBuf, RelPath};
use ringsync::model::probe::{Ask, DirSeen, Probe, ProbeError, Probed, Seen};
use ringsync::plan::{Action, Planner};
use ringsync::wire::{Message, Messages};

use super::document;
use super::targets::Bytes;

/// So few names that they meet often; one is a reserved one.
const NAMES: [&[u8]; 6] = [b"a", b"b", b"c", b"d", b".ringsync-staging-p1", b"\xff\n"];
const KINDS: [Kind; 7] = [Kind::Dir, Kind::File, Kind::Dir, Kind::Symlink, Kind::Fifo, Kind::Char, Kind::File];
/// More than any input of a useful length asks for.
const TURNS_MAX: usize = 4000;

/// Metadata to be changed: that of the document's entry.
static META: LazyLock<Meta> = LazyLock::new(|| {
    let vectors = document::blocks("payload");
    let Some(Ok(Message::Entry(entry))) = Messages::new(&vectors["entry-file"].bytes).next() else { unreachable!("it is an entry") };
    entry.meta
});

fn name(input: &mut Bytes<'_>) -> NameBuf {
    Name::new(NAMES[input.below(NAMES.len())]).expect("a name").to_owned()
}

fn path(input: &mut Bytes<'_>) -> RelPath {
    (0..input.below(4)).fold(RelPath::root(), |path, _| path.join(name(input).as_name()).expect("short"))
}

fn meta(input: &mut Bytes<'_>, kind: Kind) -> Meta {
    let bits = input.byte();
    let size = if bits & 1 == 0 { u64::from(bits) } else { input.number() };
    let mtime = if bits & 2 == 0 {
        Time { sec: i64::from(bits & 4), nsec: 0 }
    } else {
        Time { sec: input.number().cast_signed(), nsec: 999_999_999 }
    };
    Meta { kind, mode: u32::from(bits) << 4 & 0o7777, mtime, size, rdev: if kind.is_device() { size } else { 0 }, ..*META }
}

fn target(input: &mut Bytes<'_>, kind: Kind) -> Option<Box<[u8]>> {
    (kind == Kind::Symlink && input.byte() & 3 != 0).then(|| [&b"t"[..], input.some(40)].concat().into())
}

/// The sender's side without threads and files.
struct Sender {
    planner: Planner,
    now: u64,
    asked: VecDeque<Probe>,
    /// Files with a worker.
    files: VecDeque<(u64, Arc<Cycle>, usize, usize)>,
    stages: VecDeque<StageTask>,
    cycles: VecDeque<u64>,
    lists: usize,
}

impl Sender {
    fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Probe(probe) => self.asked.push_back(probe),
                Action::Cycle(cycle) => {
                    for (at, batch) in cycle.batches.iter().enumerate() {
                        self.files.extend((0..batch.files.len()).map(|file| (cycle.number, cycle.clone(), at, file)));
                    }
                    self.cycles.push_back(cycle.number);
                }
                Action::Stage(task) => self.stages.push_back(task),
                Action::List(_) => self.lists += 1,
                Action::DropStage { .. } | Action::Forget(_) => {}
            }
        }
    }

    fn next(&mut self) {
        let mut actions = Vec::new();
        self.planner.next(self.now, &mut actions);
        self.act(actions);
    }

    /// What a source may say of an object.
    fn stat(&mut self, input: &mut Bytes<'_>) -> Stat {
        let kind = KINDS[input.below(KINDS.len())];
        let bits = input.byte();
        // An object is of one kind for good; one of a few directories is at one name or another.
        let ino = u64::from(bits & 7) * 16 + kind as u64;
        Stat {
            meta: meta(input, kind),
            ident: Ident { dev: 1 + u64::from(bits & 8), ino, birth_ns: i64::from(bits >> 7) },
            nlink: 1 + u32::from(bits >> 5 & 1),
            ctime: Time { sec: i64::from(bits >> 6), nsec: 0 },
        }
    }

    fn seen(&mut self, input: &mut Bytes<'_>) -> Seen {
        match input.below(6) {
            0 => Seen::Absent,
            1 => Seen::Failed(1 + input.below(40) as i32),
            _ => {
                let stat = self.stat(input);
                let key = (stat.meta.kind == Kind::Dir && input.byte() & 1 == 0).then(|| Key([stat.ident.ino as u8].into()));
                Seen::Present {
                    stat,
                    target: target(input, stat.meta.kind).or((stat.meta.kind == Kind::Symlink).then(|| (*b"x").into())),
                    key,
                }
            }
        }
    }

    fn answer(&mut self, input: &mut Bytes<'_>) {
        let Some(probe) = self.asked.pop_front() else { return };
        let outcome = match input.below(10) {
            0 => Err(ProbeError::Stale),
            1 => Err(ProbeError::Failed(1 + input.below(40) as i32)),
            _ => {
                let mut names = BTreeMap::new();
                match &probe.ask {
                    Ask::Names(asked) => {
                        for name in asked {
                            names.insert(name.clone(), self.seen(input));
                        }
                    }
                    Ask::List => {
                        for _ in 0..input.below(5) {
                            let name = name(input);
                            let seen = self.seen(input);
                            if seen != Seen::Absent {
                                names.insert(name, seen);
                            }
                        }
                    }
                }
                for seen in names.values_mut().filter(|_| probe.lazy) {
                    if let Seen::Present { stat, .. } = seen
                        && stat.meta.kind == Kind::File
                        && stat.nlink == 1
                        && stat.meta.size <= INLINE_FILE_BYTES_MAX as u64
                    {
                        stat.meta.attrs = UNKNOWN;
                    }
                }
                let mut stat = self.stat(input);
                stat.meta.kind = Kind::Dir;
                stat.ident = probe.expect.unwrap_or(stat.ident);
                Ok(DirSeen {
                    stat,
                    key: (probe.ask == Ask::List && input.byte() & 1 == 0).then(|| Key([stat.ident.ino as u8].into())),
                    unwatched: input.byte() & 7 == 7,
                    names: names.into_iter().collect(),
                    attrs: Vec::new(),
                    list_error: (input.byte() & 7 == 7).then_some(5),
                })
            }
        };
        let mut actions = Vec::new();
        self.planner.probed(Probed { id: probe.id, outcome }, self.now, &mut actions);
        self.act(actions);
    }

    fn read(input: &mut Bytes<'_>, meta: Meta) -> Read {
        match input.below(6) {
            0 => Read::Gone,
            1 => Read::Changed,
            2 => Read::Failed(5),
            bits => Read::Sent {
                meta,
                ctime: Time { sec: 1, nsec: 0 },
                racy: [Racy::No, Racy::Reuse, Racy::Yes][bits - 3],
                changed: input.byte() & 7 == 7,
            },
        }
    }

    fn worker(&mut self, input: &mut Bytes<'_>) {
        if let Some((number, cycle, batch, file)) = self.files.pop_front() {
            let node = cycle.batches[batch].files[file].node;
            let meta = meta(input, Kind::File);
            let read = Self::read(input, meta);
            self.planner.file_done(&FileDone { cycle: number, node, read }, self.now);
        }
        if let Some(task) = self.stages.pop_front() {
            let meta = Meta { size: task.size, ..meta(input, Kind::File) };
            let read = Self::read(input, meta);
            self.planner.stage_done(&StageDone { stage: task.stage, node: task.node, worker: 0, read }, self.now);
        }
    }

    /// What a receiver that lies may say. False: it broke the protocol, and the session ends.
    fn receiver(&mut self, input: &mut Bytes<'_>) -> bool {
        match input.below(8) {
            0 if self.lists > 0 => {
                self.lists -= 1;
                self.planner.list_end();
                self.planner.tree().check();
            }
            1 | 2 if self.lists > 0 => self.planner.listing(&path(input), &meta(input, Kind::Dir)),
            3..=5 if self.lists > 0 => {
                let kind = KINDS[input.below(KINDS.len())];
                let link_group = if kind == Kind::Dir { u64::from(input.byte() & 1) } else { u64::from(input.byte() & 3) };
                let entry = Entry { name: name(input), meta: meta(input, kind), target: target(input, kind), link_group };
                self.planner.entry(&entry);
            }
            6 if self.lists > 0 => self.planner.list_error(&path(input), 1 + input.below(40) as i32, self.now),
            bits @ 0..=2 => {
                if let Some(oldest) = self.cycles.front() {
                    let section = [Section::Pre, Section::Files, Section::Post][bits];
                    let errno = [2, 17, 13, 18, 16, 116, 28, 40][input.below(8)];
                    return self.planner.failed(*oldest, OpError { section, index: input.below(6) as u32, errno }, self.now).is_ok();
                }
            }
            _ => {
                // Its files have to be with it first: the sender says Close only then.
                if let Some(oldest) = self.cycles.front().copied().filter(|oldest| self.files.front().is_none_or(|f| f.0 > *oldest)) {
                    self.cycles.pop_front();
                    self.planner.acked(oldest).expect("the oldest");
                }
            }
        }
        true
    }
}

/// A receiver that lies, whatever the source is like.
pub fn manifest(data: &[u8]) {
    let mut input = Bytes(data);
    let bits = input.byte();
    let mut options = Options::mirror();
    options.delete = bits & 1 == 0;
    options.delete_excluded = bits & 2 != 0;
    let mut filter = Filter::default();
    if bits & 4 != 0 {
        filter.push_exclude(b"/c/").expect("a rule");
    }
    let planner = Planner::new(options, Arc::new(filter), u64::from(bits));
    let mut sender = Sender {
        planner,
        now: 1,
        asked: VecDeque::new(),
        files: VecDeque::new(),
        stages: VecDeque::new(),
        cycles: VecDeque::new(),
        lists: 0,
    };
    let mut actions = Vec::new();
    sender.planner.connected(Abilities { chown: true, mknod: true, ..Abilities::default() }, 0, &mut actions);
    sender.act(actions);
    let mut turns = 0;
    while !input.is_empty() && turns < TURNS_MAX {
        turns += 1;
        sender.now += 1000;
        match input.below(9) {
            0 => sender.next(),
            1 => sender.answer(&mut input),
            2 => sender.worker(&mut input),
            3 => sender.now = sender.planner.next_at().map_or(sender.now, |at| at.max(sender.now)),
            4 => {
                let (key, hint) = ([input.byte()], Hint(u16::from(input.byte())));
                let event = match input.below(4) {
                    0 => Event::Overflow,
                    1 => Event::At { key: &key, name: b"", hint, object: None, rename: None },
                    bits => {
                        let object = (bits == 3).then(|| (1, u64::from(key[0])));
                        Event::At { key: &key, name: NAMES[input.below(NAMES.len())], hint, object, rename: NonZeroU32::new(key[0].into()) }
                    }
                };
                sender.planner.event(event, sender.now);
            }
            _ => {
                if !sender.receiver(&mut input) {
                    return;
                }
            }
        }
        sender.planner.take_reports();
    }
    sender.planner.tree().check();
}
