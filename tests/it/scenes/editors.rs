//! Editors at their saves. Of those that replace a file as a whole no reader of the mirror ever sees a part, nothing, or an older text again.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::{numbers, pause, rounds, watched};
use crate::content::{judge, whole};
use crate::place::Place;
use crate::program::{As, Mirror, Way};
use crate::rng::Rng;

/// Around each way of carrying content.
const SIZES: [usize; 8] = [100, 2000, 5000, 20_000, 70_000, 140_000, 400_000, 600_000];

type Save = fn(&Path, &[u8], &mut Rng);

fn beside(path: &Path, before: &str, after: &str) -> PathBuf {
    path.with_file_name(format!("{before}{}{after}", path.file_name().unwrap().to_str().unwrap()))
}

/// Writes in pieces, as buffered writers do.
fn write_to(mut file: File, bytes: &[u8], rng: &mut Rng) {
    for piece in bytes.chunks(bytes.len() / (1 + rng.below(4)) + 1) {
        file.write_all(piece).unwrap();
        pause(rng, 10, 500);
    }
    if rng.chance(50) {
        file.sync_all().unwrap();
    }
}

fn write(path: &Path, bytes: &[u8], rng: &mut Rng) {
    write_to(File::create(path).unwrap(), bytes, rng);
}

/// Beside it, then over it: most that know better.
fn replace(path: &Path, bytes: &[u8], rng: &mut Rng) {
    let temporary = beside(path, ".", &format!(".{:06x}", rng.below(1 << 24)));
    let mode = fs::metadata(path).map_or(0o644, |meta| meta.mode() & 0o7777);
    write_to(OpenOptions::new().create_new(true).write(true).mode(mode).open(&temporary).unwrap(), bytes, rng);
    fs::rename(temporary, path).unwrap();
}

/// The same, always under the same name.
fn replace_by_one_name(path: &Path, bytes: &[u8], rng: &mut Rng) {
    let temporary = beside(path, "", ".tmp");
    write(&temporary, bytes, rng);
    fs::rename(temporary, path).unwrap();
}

/// The old text is kept under a second name; then the new one takes the first. What had several names has one less.
fn replace_with_linked_backup(path: &Path, bytes: &[u8], rng: &mut Rng) {
    let backup = beside(path, "", "~");
    let _ = fs::remove_file(&backup);
    fs::hard_link(path, backup).unwrap();
    replace(path, bytes, rng);
}

/// Made in another directory.
fn replace_from_elsewhere(path: &Path, bytes: &[u8], rng: &mut Rng) {
    let temporary = path.parent().unwrap().join("scratch").join(path.file_name().unwrap());
    write(&temporary, bytes, rng);
    fs::rename(temporary, path).unwrap();
}

/// Both change places, then the old one goes.
fn exchange(path: &Path, bytes: &[u8], rng: &mut Rng) {
    let temporary = beside(path, ".", ".swap");
    write(&temporary, bytes, rng);
    renameat2(AT_FDCWD, path, AT_FDCWD, &temporary, RenameFlags::RENAME_EXCHANGE).unwrap();
    fs::remove_file(temporary).unwrap();
}

/// The old one is moved away, a new one made: for a moment there is none.
fn rename_away(path: &Path, bytes: &[u8], rng: &mut Rng) {
    fs::rename(path, beside(path, "", "~")).unwrap();
    write(path, bytes, rng);
}

/// As vim: a swap file that grows, a file that shows whether one can be made, the old one moved away and removed in the end.
fn like_vim(path: &Path, bytes: &[u8], rng: &mut Rng) {
    let swap = beside(path, ".", ".swp");
    let mut swapped = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&swap).unwrap();
    swapped.write_all(&bytes[..bytes.len() / 2]).unwrap();
    let probe = path.with_file_name("4913");
    File::create(&probe).unwrap();
    fs::remove_file(probe).unwrap();
    let backup = beside(path, "", "~");
    fs::rename(path, &backup).unwrap();
    write(path, bytes, rng);
    fs::remove_file(backup).unwrap();
    swapped.write_all(&bytes[bytes.len() / 2..]).unwrap();
    fs::remove_file(swap).unwrap();
}

/// As Emacs: a lock that is a symbolic link to nowhere, what is saved by itself meanwhile, a backup that is the old file.
fn like_emacs(path: &Path, bytes: &[u8], rng: &mut Rng) {
    let (lock, automatic) = (beside(path, ".#", ""), beside(path, "#", "#"));
    symlink(format!("it@host.{}:1700000000", rng.below(10_000)), &lock).unwrap();
    write(&automatic, &bytes[..bytes.len() / 3], rng);
    rename_away(path, bytes, rng);
    fs::remove_file(automatic).unwrap();
    fs::remove_file(lock).unwrap();
}

/// Cut and written where it is: all its names see it.
fn in_place(path: &Path, bytes: &[u8], rng: &mut Rng) {
    write(path, bytes, rng);
}

/// Removed, then made anew.
fn remove_first(path: &Path, bytes: &[u8], rng: &mut Rng) {
    fs::remove_file(path).unwrap();
    write(path, bytes, rng);
}

/// How; whether the name holds a whole text at every moment.
const SAVES: [(&str, Save, bool); 10] = [
    ("replace", replace, true),
    ("replace by one name", replace_by_one_name, true),
    ("replace with linked backup", replace_with_linked_backup, true),
    ("replace from elsewhere", replace_from_elsewhere, true),
    ("exchange", exchange, true),
    ("rename away", rename_away, false),
    ("like vim", like_vim, false),
    ("like Emacs", like_emacs, false),
    ("in place", in_place, false),
    ("remove first", remove_first, false),
];

fn editors(way: Way) {
    let (seed, mut rng) = numbers();
    let place = Place::new();
    let mut saved = 0;
    fs::create_dir(place.src.join("scratch")).unwrap();
    let text = |rng: &mut Rng, saved: &mut u64| {
        *saved += 1;
        whole(seed, *saved, rng.pick(&SIZES) + rng.below(100))
    };
    for (name, ..) in SAVES {
        fs::write(place.src.join(name), text(&mut rng, &mut saved)).unwrap();
    }
    let mirror = Mirror::start(As::Us, way, &place, &[]);
    mirror.settle("the first texts");
    let mut newest = vec![0; SAVES.len()];
    let look = || {
        for (n, (name, _, atomic)) in SAVES.iter().enumerate() {
            if !atomic {
                continue;
            }
            let bytes = match fs::read(place.dst.join(name)) {
                Ok(bytes) => bytes,
                // Two names that change places are for a moment one.
                Err(_) if *name == "exchange" => continue,
                Err(e) => return Err(format!("{name}: {e}")),
            };
            judge(&bytes).map_err(|e| format!("{name}: {e}"))?;
            let Some(version) = bytes.get(8..16).and_then(|word| word.try_into().ok()).map(u64::from_le_bytes) else {
                return Err(format!("{name}: it has {} bytes", bytes.len()));
            };
            if version < newest[n] {
                return Err(format!("{name}: it was text {} and is {version} again", newest[n]));
            }
            newest[n] = version;
        }
        Ok(())
    };
    let looks = watched(&format!("RINGSYNC_SEED={seed}, {way:?}"), look, || {
        rounds(
            || {
                let (name, save, _) = SAVES[rng.below(SAVES.len())];
                let path = place.src.join(name);
                // A second name, which the next save leaves behind or writes through.
                if rng.chance(10) {
                    let second = beside(&path, "second name of ", "");
                    let _ = fs::remove_file(&second);
                    fs::hard_link(&path, second).unwrap();
                }
                let bytes = text(&mut rng, &mut saved);
                save(&path, &bytes, &mut rng);
                pause(&mut rng, 30, 5000);
            },
            |round| mirror.settle(&format!("RINGSYNC_SEED={seed}, {way:?}: {round}")),
        );
    });
    println!("{way:?}: {saved} saves, {looks} looks");
    mirror.terminate();
}

#[test]
fn editors_save_local() {
    editors(Way::Local);
}

#[test]
fn editors_save_tcp() {
    editors(Way::Tcp);
}
