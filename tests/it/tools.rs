//! Other programs that tests call, to make a source what it is or to judge a mirror.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::place::skipped;

/// Runs a tool to its end, in `dir`. Returns what it wrote to stdout.
///
/// # Panics
/// When it fails: the source is not as the test thinks, or the mirror not as it should be.
pub fn tool(dir: &Path, program: &str, args: &[&str]) -> Vec<u8> {
    tool_with(dir, program, args, "")
}

/// The same with `input`.
///
/// # Panics
/// As [`tool`].
pub fn tool_with(dir: &Path, program: &str, args: &[&str], input: &str) -> Vec<u8> {
    let mut command = Command::new(program);
    // A build inside the source, not in our own target directory; a repository without this user's settings, which is not written to by looking at it.
    command.env_remove("CARGO_TARGET_DIR").envs([("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_OPTIONAL_LOCKS", "0")]);
    command.envs(["GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"].map(|name| (name, "it")));
    command.args(args).current_dir(dir).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{program}: {e}"));
    let output = std::thread::scope(|scope| {
        let mut stdin = child.stdin.take().expect("it is piped");
        // One that ends before it has read everything fails by its status.
        scope.spawn(move || drop(stdin.write_all(input.as_bytes())));
        child.wait_with_output().expect("wait")
    });
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Whether this machine has the tool; says so when it does not.
pub fn has(test: &str, program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        skipped(test, format_args!("{program} is not installed"));
    }
    found
}
