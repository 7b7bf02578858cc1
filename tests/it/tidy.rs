//! Holds the shape of the source: who may use whom, where unsafe code may stand, how a file opens and how long it may be.
//!
//! The table is the project's; a change of it is a change of the design, and belongs into ARCHITECTURE.md first.

use std::fs;
use std::path::{Path, PathBuf};

const LINES_MAX: usize = 600;

const BASE: &[&str] = &["model", "limits", "error", "buffer", "stats", "stop"];

/// What a room may use beside itself.
fn allowed(room: &str) -> Option<Vec<&'static str>> {
    let with = |more: &[&'static str]| Some(BASE.iter().chain(more).copied().collect());
    match room {
        "model" | "limits" | "error" | "buffer" | "stats" | "stop" | "ring" | "plan" | "delta" => with(&[]),
        "sys" => with(&[]),
        "watch" => with(&["sys", "ring"]),
        "wire" => with(&["sys", "ring"]),
        "work" | "apply" => with(&["sys", "ring", "wire", "delta"]),
        "config" => with(&[]),
        "control" => with(&["sys"]),
        "sender" => with(&["sys", "ring", "watch", "plan", "work", "wire", "config", "control", "receiver"]),
        "receiver" => with(&["sys", "ring", "wire", "apply", "config", "control"]),
        "cli" => with(&["config", "control", "sender", "receiver"]),
        // The crate's root and its programs only name rooms.
        "lib" | "bin" => {
            with(&["cli", "config", "control", "ring", "sys", "watch", "plan", "delta", "work", "wire", "apply", "sender", "receiver"])
        }
        _ => None,
    }
}

/// The room that a file under `src/` belongs to.
fn room(path: &str) -> &str {
    path.split('/').next().unwrap_or(path).trim_end_matches(".rs")
}

/// What follows each `crate::` in a line of code: the first name, or every first name in braces.
fn used(code: &str) -> Vec<String> {
    let word = |text: &str| text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = code[at + "crate::".len()..].trim_start();
        match rest.strip_prefix('{') {
            None => found.push(word(rest)),
            Some(rest) => {
                // Names at the first level of the braces.
                let mut depth = 1;
                let mut fresh = true;
                for (at, c) in rest.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        ',' => fresh = depth == 1,
                        _ if fresh && depth == 1 && !c.is_whitespace() => {
                            found.push(word(&rest[at..]));
                            fresh = false;
                        }
                        _ => {}
                    }
                    if depth == 0 {
                        break;
                    }
                }
            }
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

/// The source without comments and without the contents of plain string literals: what is left is code.
fn code_only(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut chars = source.chars().peekable();
    let mut in_string = false;
    while let Some(c) = chars.next() {
        match (in_string, c) {
            (true, '\\') => drop(chars.next()),
            (true, '"') => in_string = false,
            (true, _) => {}
            (false, '"') => in_string = true,
            // A quoted quote or backslash is no string.
            (false, '\'') if matches!(chars.peek(), Some('"' | '\\')) => {
                chars.next().filter(|c| *c == '\\').and_then(|_| chars.next());
                chars.next();
            }
            (false, '/') if chars.peek() == Some(&'/') => {
                chars.by_ref().find(|c| *c == '\n');
                code.push('\n');
            }
            (false, c) => code.push(c),
        }
    }
    code
}

/// Everything that is wrong with one file; `path` is relative to `src/`.
fn problems(path: &str, source: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let room = room(path);
    if !source.starts_with("//! ") {
        problems.push(format!("{path}: has to open with `//!`: what it is, what it never does, who calls it"));
    }
    let lines = source.lines().count();
    if lines > LINES_MAX {
        problems.push(format!("{path}: {lines} lines, the most is {LINES_MAX}"));
    }
    let code = code_only(source);
    let mentions = |word: &str| code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|found| found == word);
    if !matches!(room, "sys" | "ring") && (mentions("unsafe") || mentions("unsafe_code")) {
        problems.push(format!("{path}: unsafe code stands in sys and ring only"));
    }
    if mentions("dead_code") {
        problems.push(format!("{path}: dead code is deleted, not allowed"));
    }
    match allowed(room) {
        None => problems.push(format!("{path}: room {room} is not in the table of who may use whom")),
        Some(allowed) => {
            for name in used(&code) {
                if name != room && !allowed.contains(&name.as_str()) {
                    problems.push(format!("{path}: {room} may not use {name}"));
                }
            }
        }
    }
    problems
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("list the sources") {
        let path = entry.expect("list the sources").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn the_source_keeps_its_shape() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    assert!(files.len() > 10, "the sources were not found");
    let mut found = Vec::new();
    for file in files {
        let source = fs::read_to_string(&file).expect("read a source");
        let path = file.strip_prefix(root.join("src")).expect("found beneath it");
        found.extend(problems(path.to_str().expect("a plain name"), &source));
    }
    let mut others = Vec::new();
    sources(&root.join("tests"), &mut others);
    sources(&root.join("bench"), &mut others);
    for file in others {
        let source = fs::read_to_string(&file).expect("read a source");
        if !source.starts_with("//! ") {
            found.push(format!("{}: has to open with `//!`", file.display()));
        }
        if source.lines().count() > LINES_MAX {
            found.push(format!("{}: longer than {LINES_MAX} lines", file.display()));
        }
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// The canary: made-up sources that break each rule must be found out, and a good one must not.
#[test]
fn the_checker_sees_what_is_wrong() {
    let good = "//! Good.\nuse crate::model::path::Name;\nuse crate::{error::Error, limits, sys::dir::{Dir, stat_fd}};\n// crate::cli\nfn f() { let _ = \"unsafe crate::cli\"; }\n";
    assert_eq!(problems("watch/good.rs", good), [""; 0]);
    for (path, source, part) in [
        ("watch/bad.rs", "//! Bad.\nuse crate::plan::Planner;\n", "watch may not use plan"),
        ("model/bad.rs", "//! Bad.\nfn f() -> crate::sys::dir::Dir { loop {} }\n", "model may not use sys"),
        ("apply/bad.rs", "//! Bad.\nuse crate::{\n    model::path::{Name, RelPath},\n    watch::Watch,\n};\n", "apply may not use watch"),
        ("plan/bad.rs", "//! Bad.\nfn f(c: char) { if c == '\"' { crate::sys::f() } }\n", "plan may not use sys"),
        ("wire/bad.rs", "//! Bad.\nfn f() { unsafe { g() } }\n", "sys and ring only"),
        ("wire/bad.rs", "//! Bad.\n#![allow(unsafe_code)]\n", "sys and ring only"),
        ("wire/bad.rs", "//! Bad.\n#[allow(dead_code)]\nfn f() {}\n", "dead code"),
        ("wire/bad.rs", "use std::io;\n", "open with"),
        ("attic/new.rs", "//! New.\n", "not in the table"),
    ] {
        let found = problems(path, source);
        assert!(found.iter().any(|problem| problem.contains(part)), "{path} {source:?}: {found:?}");
    }
    let long = format!("//! Long.\n{}", "\n".repeat(LINES_MAX));
    assert!(problems("wire/long.rs", &long).iter().any(|problem| problem.contains("lines")));
}
