//! Micro-benchmarks of what every event or file goes through: ring, tree, reconcile, signatures, frames, compression. They touch no file and no socket; `syncbench` measures the whole.
//!
//! `cargo bench --bench micro -- NAME` runs those whose names hold NAME. Each iteration does as many elements as the throughput says.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

use ringsync::delta::{Differ, Shape, Signer};
use ringsync::model::meta::{Ident, Kind, Meta, Stat, Time};
use ringsync::model::op::Spot;
use ringsync::model::options::Options;
use ringsync::model::path::{Name, NameBuf, RelPath};
use ringsync::model::probe::Seen;
use ringsync::plan::Guard;
use ringsync::plan::halves::Halves;
use ringsync::plan::reconcile::{Verdict, wants};
use ringsync::plan::round::{Round, Slot};
use ringsync::plan::tree::{ROOT, Tree};
use ringsync::ring::ring;
use ringsync::wire::frame::{Deframer, Framer};
use ringsync::wire::{Messages, Payload};

const SEED: u64 = 1;
const DIRS: u64 = 100;
const FILES: u64 = 10_000;

fn name(n: u64) -> NameBuf {
    Name::new(format!("file{n:05}.dat").as_bytes()).expect("a plain name").to_owned()
}

fn meta(kind: Kind, size: u64) -> Meta {
    Meta { kind, mode: 0o644, uid: 1000, gid: 1000, mtime: Time { sec: 1_700_000_000, nsec: size as u32 }, size, rdev: 0, attrs: 0 }
}

fn ident(n: u64) -> Ident {
    Ident { dev: 7, ino: 1000 + n, birth_ns: 1_700_000_000_000_000_000 + n as i64 }
}

/// [`DIRS`] directories with [`FILES`] files in all, as the mirror of a source at rest has them.
fn tree() -> Tree {
    let mut tree = Tree::new(SEED);
    for d in 0..DIRS {
        let dir = tree.child_or_insert(ROOT, name(d).as_name());
        tree.set_meta(dir, &meta(Kind::Dir, 0));
        tree.set_ident(dir, &ident(d));
        for f in 0..FILES / DIRS {
            let n = d * FILES / DIRS + f;
            let file = tree.child_or_insert(dir, name(f).as_name());
            tree.set_meta(file, &meta(Kind::File, n));
            tree.set_ident(file, &ident(DIRS + n));
        }
    }
    tree
}

fn bench_ring(c: &mut Criterion) {
    const BATCH: u64 = 512;
    let mut group = c.benchmark_group("ring");
    group.throughput(Throughput::Elements(BATCH));
    let (mut producer, mut consumer) = ring::<u64>(1024);
    group.bench_function("push and pop", |b| {
        b.iter(|| {
            (0..BATCH).for_each(|n| producer.push(n).expect("room for a batch"));
            (0..BATCH).for_each(|_| assert!(black_box(consumer.pop()).is_some()));
        });
    });
    group.throughput(Throughput::Elements(100_000));
    group.bench_function("across threads", |b| {
        b.iter(|| {
            let (mut producer, mut consumer) = ring::<u64>(1024);
            std::thread::scope(|scope| {
                scope.spawn(move || {
                    for n in 0..100_000 {
                        let mut value = n;
                        while let Err(back) = producer.push(value) {
                            value = back;
                            std::thread::yield_now();
                        }
                    }
                });
                let mut got = 0;
                while got < 100_000 {
                    match consumer.pop() {
                        Some(_) => got += 1,
                        None => std::thread::yield_now(),
                    }
                }
            });
        });
    });
    group.finish();
}

fn bench_tree(c: &mut Criterion) {
    let mut group = c.benchmark_group("tree");
    group.throughput(Throughput::Elements(FILES));
    group.bench_function("insert", |b| b.iter_with_large_drop(tree));
    let full = tree();
    let dirs: Vec<_> = full.children(ROOT).collect();
    let names: Vec<_> = (0..FILES / DIRS).map(name).collect();
    group.bench_function("look up by name", |b| {
        b.iter(|| {
            for dir in &dirs {
                for name in &names {
                    black_box(full.child(*dir, name.as_bytes()));
                }
            }
        });
    });
    group.bench_function("look up by identity", |b| {
        b.iter(|| (0..FILES).filter_map(|n| full.of_ident(&ident(DIRS + n)).next()).count());
    });
    let mut moving = tree();
    group.throughput(Throughput::Elements(DIRS));
    let (from, to): (Vec<_>, Vec<_>) = dirs.iter().zip(0..).map(|(dir, n)| ((*dir, name(n)), (*dir, name(1000 + n)))).unzip();
    group.bench_function("reparent directories of 100 files", |b| {
        let mut there = false;
        b.iter(|| {
            for (dir, name) in if there { &from } else { &to } {
                moving.reparent(*dir, ROOT, name.as_name());
            }
            there = !there;
        });
    });
    group.finish();
}

/// A round that looked at every file of ten directories; `grown` bytes were added to each.
fn round(tree: &Tree, grown: u64) -> Round {
    let mut round = Round::default();
    for dir in tree.children(ROOT).take(10) {
        for file in tree.children(dir) {
            let (Some(mut meta), Some(ident), Some(name)) = (tree.meta(file), tree.ident(file), tree.name_buf(file)) else {
                unreachable!("the tree was filled with all of it");
            };
            meta.size += grown;
            let node = tree.reference(file);
            let stat = Stat { meta, ident, nlink: 1, ctime: meta.mtime };
            let seen = Seen::Present { stat, target: None, key: None };
            round.slot_of.insert(node, round.slots.len());
            round.asked.insert(node);
            round.slots.push(Slot { node, parent: tree.reference(dir), name, seen, deep: false, listed: false, dirs_stay: false });
        }
    }
    round
}

fn bench_reconcile(c: &mut Criterion) {
    let (tree, options) = (tree(), Options::mirror());
    let mut group = c.benchmark_group("reconcile");
    for (title, grown) in [("equal files", 0), ("grown files", 1)] {
        let round = round(&tree, grown);
        group.throughput(Throughput::Elements(round.slots.len() as u64));
        group.bench_function(title, |b| {
            let halves = Halves::default();
            b.iter(|| match wants(&tree, &round, &Guard::default(), &halves, &options) {
                Verdict::Wants(wants, _) => wants.len(),
                Verdict::LookAgain(_) | Verdict::Need(_) => unreachable!("no file was moved"),
            });
        });
    }
    group.finish();
}

fn bench_signature(c: &mut Criterion) {
    const BYTES: usize = 1 << 20;
    let content: Vec<u8> = (0..BYTES as u64).map(|at| (at.wrapping_mul(6_364_136_223_846_793_005) >> 56) as u8).collect();
    let shape = Shape::of(BYTES as u64).expect("small");
    let sign = |content: &[u8]| {
        let mut signer = Signer::new(shape);
        signer.update(content).expect("as long as it is");
        signer.finish().expect("complete")
    };
    let mut group = c.benchmark_group("signature");
    group.throughput(Throughput::Bytes(BYTES as u64));
    group.bench_function("sign", |b| b.iter(|| sign(black_box(&content))));
    let base = sign(&content);
    let mut edited = content.clone();
    edited[BYTES / 2] ^= 1;
    group.bench_function("delta, a byte changed", |b| {
        b.iter(|| {
            let read = |at: u64, out: &mut [u8]| {
                out.copy_from_slice(&edited[at as usize..][..out.len()]);
                Ok::<_, std::convert::Infallible>(())
            };
            let Ok(outcome) = Differ::new(&base, BYTES as u64).expect("small").run(read, |_| Ok(()));
            outcome.work.copied
        });
    });
    group.finish();
}

/// A payload of `files` small files with `bytes` each, half of them text, half noise.
fn payload(files: u32, bytes: usize) -> Payload {
    let mut payload = Payload::new();
    let dir = RelPath::new(b"srv/www/static").expect("a plain path");
    let mut state = SEED;
    for index in 0..files {
        let at = Spot { dir: dir.clone(), name: name(u64::from(index)) };
        let content = payload.put(index, &at, &meta(Kind::File, bytes as u64), bytes, true);
        for (place, byte) in content.iter_mut().enumerate() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = if index % 2 == 0 { b"the same words again and again. "[place % 32] } else { (state >> 33) as u8 };
        }
    }
    payload
}

fn bench_wire(c: &mut Criterion) {
    const FILES: u32 = 64;
    const BYTES: usize = 4096;
    let mut group = c.benchmark_group("wire");
    let plain = payload(FILES, BYTES).take();
    group.throughput(Throughput::Elements(FILES.into()));
    group.bench_function("decode messages", |b| b.iter(|| Messages::new(&plain).filter(Result::is_ok).count()));
    group.throughput(Throughput::Bytes(plain.len() as u64));
    for (title, compress) in [("frame, plain", false), ("frame, lz4", true)] {
        let mut framer = Framer::new(compress);
        group.bench_function(title, |b| {
            b.iter_batched(|| plain.clone(), |payload| framer.frame(payload).body.len(), BatchSize::SmallInput);
        });
        let packet = framer.frame(plain.clone());
        let stream: Vec<u8> = packet.head.iter().chain(&packet.body).copied().collect();
        let mut deframer = Deframer::new();
        group.bench_function(format!("de{title}"), |b| {
            b.iter(|| {
                let mut rest = stream.as_slice();
                let payload = deframer.feed(&mut rest).expect("a good frame").expect("a whole frame");
                deframer.recycle(black_box(payload));
            });
        });
    }
    group.finish();
}

criterion_group!(benches, bench_ring, bench_tree, bench_reconcile, bench_signature, bench_wire);
criterion_main!(benches);
