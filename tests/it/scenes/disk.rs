//! A virtual machine's disk: a file of some GiB, of which little is there; written to at random, trimmed, enlarged.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use ringsync::sys::holes::punch;

use super::{numbers, pause, rounds};
use crate::place::{Place, deadline, heavy, until};
use crate::program::{As, Mirror, Way};
use crate::rng::Rng;
use crate::sparse::{allocated, data};
use crate::tools::{has, tool};

const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const LEN_MAX: u64 = 5 * GIB;

/// Where a guest writes: mostly in a few places.
fn place_in(rng: &mut Rng, len: u64) -> u64 {
    let spread = if rng.chance(70) { (rng.below(12) as u64) * (len / 12) + rng.below(300) as u64 * PAGE } else { rng.next() % len };
    spread.min(len - PAGE) & !(PAGE - 1)
}

fn change(rng: &mut Rng, file: &File, len: &mut u64) {
    let at = place_in(rng, *len);
    let most = if rng.chance(5) { 256 } else { 16 };
    let some = (PAGE * (1 + rng.below(most) as u64)).min(*len - at);
    match rng.below(100) {
        0 => {
            *len = (*len + 64 * MIB * (1 + rng.below(4) as u64)).min(LEN_MAX);
            file.set_len(*len).unwrap();
        }
        // What a guest's trim does.
        1..20 => punch(file, at, some * 4).unwrap(),
        // Zeros that are written out; they are dug out later.
        20..28 => file.write_all_at(&vec![0; some as usize], at).unwrap(),
        // Not on borders of pages.
        28..40 => file.write_all_at(&rng.next().to_le_bytes(), at + 100).unwrap(),
        _ => {
            let mut bytes = vec![0; some as usize];
            bytes.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&rng.next().to_le_bytes()));
            file.write_all_at(&bytes, at).unwrap();
        }
    }
    if rng.chance(3) {
        file.sync_data().unwrap();
    }
    pause(rng, 100, 2000);
}

/// Equal by its data: to read the holes would take most of the time.
fn settle(mirror: &Mirror, src: &Path, dst: &Path, when: &str) {
    let same = || data(dst).is_some() && data(dst) == data(src);
    let equal = until(deadline(), || same() || !mirror.program.lock().unwrap().runs());
    assert!(equal && same(), "{when}: the disk's mirror{} is not equal:\n{}", mirror.gone(), mirror.stderr());
    let room = (allocated(src), allocated(dst));
    assert!(room.1 <= room.0 + room.0 / 4 + 4 * MIB, "{when}: {room:?} are allocated");
    println!("{when}: {} of {} MiB are allocated, {} in the mirror", room.0 / MIB, src.metadata().unwrap().len() / MIB, room.1 / MIB);
}

fn a_disk(way: Way) {
    let _one = heavy();
    let (seed, mut rng) = numbers();
    let place = Place::new();
    let (src, dst) = (place.src.join("disk.img"), place.dst.join("disk.img"));
    let file = OpenOptions::new().create_new(true).read(true).write(true).open(&src).unwrap();
    let mut len = 3 * GIB;
    file.set_len(len).unwrap();
    (0..300).for_each(|_| change(&mut rng, &file, &mut len));
    let mirror = Mirror::start(As::Us, way, &place, &["-v"]).skipping([&b"disk.img"[..]]);
    settle(&mirror, &src, &dst, &format!("RINGSYNC_SEED={seed}, {way:?}: the first sync"));
    let digs = has("a_disk", "fallocate");
    let mut steps = 0;
    rounds(
        || {
            change(&mut rng, &file, &mut len);
            steps += 1;
            if digs && steps % 150 == 0 {
                tool(&place.src, "fallocate", &["-d", "disk.img"]);
            }
        },
        |round| settle(&mirror, &src, &dst, &format!("RINGSYNC_SEED={seed}, {way:?}: {round}")),
    );
    // Most of it is trimmed at once.
    punch(&file, MIB, len / 2).unwrap();
    settle(&mirror, &src, &dst, &format!("RINGSYNC_SEED={seed}, {way:?}: half of it trimmed"));
    mirror.terminate();
}

#[test]
fn a_disk_of_some_gib_local() {
    a_disk(Way::Local);
}

#[test]
fn a_disk_of_some_gib_tcp() {
    a_disk(Way::Tcp);
}
