//! `syncbench` from outside: its loads repeat themselves, its check sees what is wrong, its comparison tells a move from noise, and it leaves nothing behind. No time is asserted.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::place::{deadline, until};

fn syncbench() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_syncbench"));
    command.stdin(Stdio::null());
    command
}

fn output(args: &[&OsStr]) -> Output {
    syncbench().args(args).output().expect("syncbench starts")
}

fn temporary() -> TempDir {
    tempfile::Builder::new().prefix("syncbench-it-").tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a temporary directory")
}

/// Mode, and content or target, by path.
fn contents(root: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).expect("list") {
            let path = entry.expect("list").path();
            let meta = path.symlink_metadata().expect("stat");
            let content = if meta.is_dir() {
                todo.push(path.clone());
                Vec::new()
            } else if meta.is_symlink() {
                fs::read_link(&path).expect("read a link").into_os_string().into_encoded_bytes()
            } else {
                fs::read(&path).expect("read")
            };
            all.insert(path.strip_prefix(root).expect("beneath").to_owned(), (meta.permissions().mode(), content));
        }
    }
    all
}

/// Makes a load in a new directory.
fn load(name: &str, seed: u32) -> TempDir {
    let dir = temporary();
    let seed = seed.to_string();
    let args = ["load", name, "--scale", "0.02", "--rate", "500", "--seed", &seed];
    let made = syncbench().args(args).arg(dir.path()).output().expect("syncbench starts");
    assert!(made.status.success(), "{name}: {}", String::from_utf8_lossy(&made.stderr));
    dir
}

#[test]
fn a_load_repeats_itself_for_its_seed() {
    for name in ["storm", "deep", "churn", "append", "rewrite", "insert", "rename", "latency", "replace", "steady", "first", "noop", "idle"]
    {
        let [a, again, other] = [1, 1, 2].map(|seed| load(name, seed));
        let (a, again, other) = (contents(a.path()), contents(again.path()), contents(other.path()));
        assert!(!a.is_empty(), "{name} makes nothing");
        assert!(a == again, "{name} does not repeat itself");
        assert!(a != other, "{name} does not heed its seed");
    }
    assert!(contents(load("delete", 1).path()).is_empty());
}

#[test]
fn the_check_sees_every_planted_difference() {
    let src = load("churn", 3);
    fs::create_dir(src.path().join("dir")).expect("mkdir");
    fs::write(src.path().join("dir/file"), "content").expect("write");
    symlink("target", src.path().join("dir/link")).expect("symlink");
    let keeping_time = |path: &Path, change: &dyn Fn(&Path)| {
        let time = fs::metadata(path).and_then(|m| m.modified()).expect("stat");
        change(path);
        fs::File::open(path).and_then(|f| f.set_modified(time)).expect("set a time");
    };
    type Plant<'a> = (&'a str, &'a dyn Fn(&Path));
    let plants: &[Plant<'_>] = &[
        ("bytes differ", &|d| keeping_time(&d.join("dir/file"), &|f| fs::write(f, "CONTENT").expect("write"))),
        ("sizes differ", &|d| keeping_time(&d.join("dir/file"), &|f| fs::write(f, "longer content").expect("write"))),
        ("times differ", &|d| fs::File::open(d.join("dir/file")).and_then(|f| f.set_modified(std::time::UNIX_EPOCH)).expect("set a time")),
        ("modes differ", &|d| fs::set_permissions(d.join("dir/file"), Permissions::from_mode(0o700)).expect("chmod")),
        ("missing in the mirror", &|d| keeping_time(&d.join("dir"), &|d| fs::remove_file(d.join("file")).expect("unlink"))),
        ("only in the mirror", &|d| keeping_time(&d.join("dir"), &|d| fs::write(d.join("more"), "").expect("write"))),
        ("kinds differ", &|d| {
            keeping_time(&d.join("dir"), &|d| {
                fs::remove_file(d.join("file")).expect("unlink");
                symlink("content", d.join("file")).expect("symlink");
            });
        }),
        ("targets differ", &|d| {
            keeping_time(&d.join("dir"), &|d| {
                fs::remove_file(d.join("link")).expect("unlink");
                symlink("tarGet", d.join("link")).expect("symlink");
            });
        }),
        ("1 directories with another time", &|d| {
            fs::File::open(d.join("dir")).and_then(|f| f.set_modified(std::time::UNIX_EPOCH)).expect("set a time")
        }),
    ];
    let copy = || {
        let dst = temporary();
        let copied = Command::new("cp").args(["-a", "-T"]).args([src.path(), dst.path()]).status().expect("cp starts");
        assert!(copied.success());
        dst
    };
    let dst = copy();
    assert_eq!(output(&["verify".as_ref(), src.path().as_ref(), dst.path().as_ref()]).status.code(), Some(0));
    for (what, plant) in plants {
        let dst = copy();
        plant(dst.path());
        let found = output(&["verify".as_ref(), src.path().as_ref(), dst.path().as_ref()]);
        let text = String::from_utf8_lossy(&found.stdout);
        assert_eq!(found.status.code(), Some(23), "{what}: {text}");
        assert!(text.contains(what), "{what}: {text}");
    }
}

/// A file of JSON lines with three runs of one load that took these seconds.
fn runs(dir: &Path, name: &str, seconds: [f64; 3]) -> PathBuf {
    let lines = seconds.iter().enumerate().map(|(run, s)| {
        let line =
            json!({"kind": "run", "load": "storm", "peer": "ringsync", "run": run + 1, "ops": 100, "equal_s": s, "cpu_sender_s": 0.5});
        format!("{line}\n")
    });
    let path = dir.join(name);
    fs::write(&path, lines.collect::<String>()).expect("write");
    path
}

#[test]
fn compare_tells_a_move_from_noise() {
    let dir = temporary();
    let before = runs(dir.path(), "before", [1.0, 1.1, 1.2]);
    for (name, seconds, code, says, says_not) in [
        ("noise", [1.15, 1.25, 1.3], 0, "nothing became worse", "WORSE"),
        ("slower", [2.0, 2.1, 2.2], 2, "WORSE: time to equal", "better:"),
        ("faster", [0.5, 0.6, 0.7], 0, "better: time to equal", "WORSE"),
        ("little", [1.21, 1.22, 1.23], 2, "WORSE", "better:"),
    ] {
        let after = runs(dir.path(), name, seconds);
        let found = output(&["compare".as_ref(), before.as_ref(), after.as_ref()]);
        let text = String::from_utf8_lossy(&found.stdout);
        assert_eq!(found.status.code(), Some(code), "{name}: {text}");
        assert!(text.contains(says) && !text.contains(says_not) && !text.contains("CPU"), "{name}: {text}");
    }
    let little = output(&["compare".as_ref(), "--least=20".as_ref(), before.as_ref(), dir.path().join("little").as_ref()]);
    assert_eq!(little.status.code(), Some(0), "less than --least is no move");
    let broken = dir.path().join("broken");
    fs::write(&broken, "no JSON\n").expect("write");
    let found = output(&["compare".as_ref(), before.as_ref(), broken.as_ref()]);
    assert_eq!(found.status.code(), Some(11));
    assert!(String::from_utf8_lossy(&found.stderr).contains("line 1"));
}

#[test]
fn the_budget_is_read_and_judged() {
    let dir = temporary();
    let budget = Path::new(env!("CARGO_MANIFEST_DIR")).join("perf/budget.toml");
    for (name, seconds, code) in [("met", [0.1; 3], 0), ("missed", [1.0; 3], 2)] {
        let run = runs(dir.path(), name, seconds);
        let found = output(&["budget".as_ref(), budget.as_ref(), run.as_ref()]);
        assert_eq!(
            found.status.code(),
            Some(code),
            "{name}: {}{}",
            String::from_utf8_lossy(&found.stdout),
            String::from_utf8_lossy(&found.stderr)
        );
    }
}

fn run_command(dir: &Path, args: &[&str]) -> Command {
    let mut command = syncbench();
    command.args(["run", "--ringsync", env!("CARGO_BIN_EXE_ringsync"), "--dir"]).arg(dir).args(args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn a_run_with_ringsync_makes_json_and_a_report() {
    let (dir, out) = (temporary(), temporary());
    let (json, report) = (out.path().join("run.json"), out.path().join("run.html"));
    let args = "storm rename latency first --scale 0.02 --runs 2 --peers ringsync-local,ringsync-inotify-epoll,ringsync-once --deadline 50";
    let mut command = run_command(dir.path(), &args.split(' ').collect::<Vec<_>>());
    let done = command.arg("--json").arg(&json).arg("--report").arg(&report).output().expect("syncbench starts");
    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert_eq!(done.status.code(), Some(0), "{said}");
    assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 0, "something is left behind");
    let text = fs::read_to_string(&json).expect("the JSON lines");
    let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).expect("a JSON line")).collect();
    assert_eq!(lines[0]["kind"], "host");
    for (load, peer, figure) in [
        ("storm", "none", "load_s"),
        ("storm", "ringsync-local", "equal_s"),
        ("storm", "ringsync-inotify-epoll", "cpu_receiver_s"),
        ("rename", "ringsync-inotify-epoll", "equal_s"),
        ("latency", "ringsync-local", "p99_ms"),
        ("first", "ringsync-once", "equal_s"),
        ("first", "ringsync-inotify-epoll", "equal_s"),
    ] {
        let of: Vec<&Value> = lines.iter().filter(|l| l["load"] == load && l["peer"] == peer).collect();
        assert_eq!(of.len(), 2, "{load} {peer}: two runs\n{text}");
        assert!(of.iter().all(|m| m["differences"] == 0 && m[figure].is_number()), "{load} {peer} {figure}: {of:?}");
    }
    let html = fs::read_to_string(&report).expect("the report");
    assert!(html.contains("<svg") && !html.contains("http"), "charts, and nothing from the network");
    let same = output(&["compare".as_ref(), json.as_ref(), json.as_ref()]);
    assert_eq!(same.status.code(), Some(0), "a run is no worse than itself");
}

#[test]
fn an_interrupted_run_leaves_nothing_behind() {
    let dir = temporary();
    let mut child = run_command(dir.path(), &["storm", "--scale", "0.05", "--runs", "1000", "--peers", "ringsync-local"])
        .spawn()
        .expect("syncbench starts");
    // Once the load alone is measured, the next is with a peer.
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    assert!(lines.any(|line| line.is_ok_and(|l| l.contains("ringsync-local"))), "it ended by itself");
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).expect("kill");
    let rest = std::thread::spawn(move || lines.map_while(Result::ok).collect::<Vec<_>>().join("\n"));
    let ended = until(deadline(), || child.try_wait().expect("wait").is_some());
    if !ended {
        let _ = child.kill();
    }
    assert_eq!(child.wait().expect("wait").code(), Some(20), "{:?}", rest.join());
    assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 0, "something is left behind");
    let mine = dir.path().as_os_str().as_encoded_bytes();
    let left = fs::read_dir("/proc").expect("list").flatten().filter_map(|p| fs::read(p.path().join("cmdline")).ok());
    assert_eq!(left.filter(|line| line.windows(mine.len()).any(|w| w == mine)).count(), 0, "a peer is left behind");
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (args, code, says) in [
        (&["run", "untar"][..], 1, "--archive"),
        (&["run", "storm", "--scale", "0"][..], 1, "above 0"),
        (&["run", "storm", "--shape", "speed=1"][..], 1, "neither rate nor delay"),
        (&["run", "storm", "--dir", "/nonexistent"][..], 11, "/nonexistent"),
        (&["load", "storm", "/"][..], 1, "not empty"),
    ] {
        let found = syncbench().args(args).output().expect("syncbench starts");
        let text = String::from_utf8_lossy(&found.stderr);
        assert_eq!(found.status.code(), Some(code), "{args:?}: {text}");
        assert!(text.contains(says), "{args:?}: {text}");
    }
}
