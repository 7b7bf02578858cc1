//! rsync's include and exclude rules: an ordered list, of which the first rule that matches decides.
//!
//! Pure and on bytes: nothing here reads a file, knows a tree or walks one. The command line fills a [`Filter`]; the planner and the workers ask it
//! about one name at a time, from the root downwards, and never look beneath a directory that is excluded.
//!
//! What a rule is compared with depends on how it is written, as in rsync: a leading `/` anchors it to the root of the transfer; with a `/` inside it is
//! compared with that many components at the end of the path; with `**` it may start at any component; otherwise only the last component counts. A
//! trailing `/` means directories only, and `dir/***` the directory and all beneath it. A rule without `*`, `?` and `[` is compared byte by byte; in
//! one that has them, a backslash takes the meaning from what follows.

use crate::limits::FILTER_RULE_BYTES_MAX;
use crate::model::glob::{Pattern, Text};
use crate::model::path::Shown;

/// What a filter says of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The entry is mirrored: also what no rule speaks of.
    Included,
    /// The entry is neither mirrored nor deleted, and nothing beneath it is looked at.
    Excluded,
}

/// Why a rule is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// No pattern, or none behind `+ ` or `- `.
    #[error("unexpected end of filter rule: \"{}\"", Shown(rule))]
    Empty {
        /// What was given.
        rule: Box<[u8]>,
    },
    /// Longer than [`FILTER_RULE_BYTES_MAX`].
    #[error("filter rule of {bytes} bytes; the most is {FILTER_RULE_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
}

/// A line of a file of rules that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {error}")]
pub struct LineError {
    /// Number of the line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub error: FilterError,
}

/// Ordered include and exclude rules. The empty one includes everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    rules: Vec<Rule>,
}

impl Filter {
    /// Adds what `--include` says: an include rule, or what its `+ `, `- ` or `!` makes of it.
    ///
    /// # Errors
    /// An empty or over-long rule.
    pub fn push_include(&mut self, rule: &[u8]) -> Result<(), FilterError> {
        self.push(rule, Decision::Included)
    }

    /// Adds what `--exclude` says: an exclude rule, or what its `+ `, `- ` or `!` makes of it.
    ///
    /// # Errors
    /// An empty or over-long rule.
    pub fn push_exclude(&mut self, rule: &[u8]) -> Result<(), FilterError> {
        self.push(rule, Decision::Excluded)
    }

    /// Adds the lines of a file of rules (`--include-from`, `--exclude-from`); `decision` is that of a line without a prefix. Empty lines and lines
    /// that start with `;` or `#` are skipped; spaces count.
    ///
    /// # Errors
    /// The first line that is no rule; those before it are in.
    pub fn push_lines(&mut self, content: &[u8], decision: Decision) -> Result<(), LineError> {
        // A carriage return ends a line too, so that a file from Windows means the same.
        for (number, line) in content.split(|b| *b == b'\n').enumerate() {
            for rule in line.split(|b| *b == b'\r') {
                if !matches!(rule.first(), None | Some(b';' | b'#')) {
                    self.push(rule, decision).map_err(|error| LineError { line: number + 1, error })?;
                }
            }
        }
        Ok(())
    }

    /// `rule` with its old-style prefix: `+ ` and `- ` override `decision`, `!` alone forgets all rules so far.
    fn push(&mut self, rule: &[u8], decision: Decision) -> Result<(), FilterError> {
        if rule == b"!" {
            self.rules.clear();
            return Ok(());
        }
        let (decision, pattern) = match rule {
            [b'+', b' ', pattern @ ..] => (Decision::Included, pattern),
            [b'-', b' ', pattern @ ..] => (Decision::Excluded, pattern),
            pattern => (decision, pattern),
        };
        if pattern.is_empty() {
            return Err(FilterError::Empty { rule: rule.into() });
        }
        if pattern.len() > FILTER_RULE_BYTES_MAX {
            return Err(FilterError::TooLong { bytes: pattern.len() });
        }
        self.rules.push(Rule::new(pattern, decision));
        Ok(())
    }

    /// Whether there is no rule: everything is included.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether any rule looks beyond the last component. If not, [`Filter::decide`] may be given that alone.
    pub fn needs_path(&self) -> bool {
        self.rules.iter().any(|rule| rule.scope != Scope::Name)
    }

    /// The decision for the entry at `path` (relative to the root, never the root itself), given that the directories above it are included.
    pub fn decide(&self, path: &[u8], is_dir: bool) -> Decision {
        self.rules.iter().find(|rule| rule.matches(path, is_dir)).map_or(Decision::Included, |rule| rule.decision)
    }
}

/// Which part of the path a pattern is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// The last component.
    Name,
    /// The whole path.
    Whole,
    /// As many components at the end as the pattern has.
    Last(usize),
    /// The path from its start, or from behind any of its slashes.
    Anywhere,
    /// A slash and the whole path, so that a leading `**/` also stands for the root.
    Slashed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Body {
    /// Compared byte by byte.
    Plain(Box<[u8]>),
    /// Compared as a wildcard pattern.
    Wild(Pattern),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    decision: Decision,
    scope: Scope,
    /// Trailing `/`.
    dirs_only: bool,
    /// Trailing `***`: a directory is compared as if its path ended in a slash.
    dir_slash: bool,
    body: Body,
}

impl Rule {
    /// Reads a pattern, not empty. Which marks it carries is read from the raw bytes, escapes and sets included, as rsync does.
    fn new(pattern: &[u8], decision: Decision) -> Self {
        let (pattern, dirs_only) = match pattern {
            [rest @ .., b'/'] if !rest.is_empty() => (rest, true),
            all => (all, false),
        };
        let deep = pattern.windows(2).position(|pair| pair == b"**");
        let slashes = pattern.iter().filter(|b| **b == b'/').count();
        let (pattern, anchored) = match pattern {
            [b'/', rest @ ..] => (rest, true),
            all => (all, false),
        };
        let scope = match (anchored, deep) {
            (true, _) => Scope::Whole,
            (false, Some(0)) => Scope::Slashed,
            (false, Some(_)) => Scope::Anywhere,
            (false, None) if slashes > 0 => Scope::Last(slashes + 1),
            (false, None) => Scope::Name,
        };
        let wild = pattern.iter().any(|b| matches!(b, b'*' | b'?' | b'['));
        let body = if wild { Body::Wild(Pattern::new(pattern)) } else { Body::Plain(pattern.into()) };
        Self { decision, scope, dirs_only, dir_slash: pattern.ends_with(b"***"), body }
    }

    fn matches(&self, path: &[u8], is_dir: bool) -> bool {
        if self.dirs_only && !is_dir {
            return false;
        }
        let text = match self.scope {
            Scope::Name => last_components(path, 1),
            Scope::Last(count) => last_components(path, count),
            Scope::Whole | Scope::Anywhere | Scope::Slashed => Some(path),
        };
        let Some(bytes) = text else { return false };
        match &self.body {
            Body::Plain(pattern) => **pattern == *bytes,
            Body::Wild(pattern) => {
                let text = Text { bytes, before: self.scope == Scope::Slashed, after: self.dir_slash && is_dir };
                pattern.matches(text, 0)
                    || self.scope == Scope::Anywhere && (0..text.len()).any(|at| text.at(at) == Some(b'/') && pattern.matches(text, at + 1))
            }
        }
    }
}

/// The last `count` components of `path`; `None` if it has fewer.
fn last_components(path: &[u8], count: usize) -> Option<&[u8]> {
    let mut slashes = path.iter().enumerate().rev().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
    match slashes.nth(count - 1) {
        Some(at) => Some(&path[at + 1..]),
        None if path.iter().filter(|b| **b == b'/').count() + 1 == count => Some(path),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn excludes(rules: &[&str], path: &str) -> bool {
        let mut filter = Filter::default();
        for rule in rules {
            filter.push_exclude(rule.as_bytes()).unwrap();
        }
        let (path, is_dir) = path.strip_suffix('/').map_or((path, false), |dir| (dir, true));
        filter.decide(path.as_bytes(), is_dir) == Decision::Excluded
    }

    #[test]
    fn rules_mean_what_the_rsync_manual_says() {
        for (rule, path, expected) in [
            ("*.o", "a/b.o", true),
            ("*.o", "a.o/b", false),
            ("/foo", "foo", true),
            ("/foo", "a/foo", false),
            ("foo/", "foo", false),
            ("foo/", "a/foo/", true),
            ("/foo/*/bar", "foo/x/bar", true),
            ("/foo/*/bar", "foo/x/y/bar", false),
            ("/foo/**/bar", "foo/x/y/bar", true),
            ("a/b", "x/a/b", true),
            ("a/b", "xa/b", false),
            ("**/b", "b", true),
            ("**/b", "x/y/b", true),
            ("dir/***", "dir/", true),
            ("dir/***", "dir", false),
            ("dir/***", "dir/x", true),
            ("dir/**", "dir/", false),
            ("foo\\bar", "foo\\bar", true),
            ("foo\\\\b*", "foo\\bar", true),
            ("foo\\b*", "foo\\bar", false),
            ("[[:digit:]x-z]?", "y7", true),
            ("[!a]", "a", false),
            ("[^a]", "b", true),
            ("[]]", "]", true),
            ("[a", "[a", false),
            ("a?b", "a/b", false),
            ("a[!x]b", "a/b", false),
        ] {
            assert_eq!(excludes(&[rule], path), expected, "{rule} on {path}");
        }
    }

    #[test]
    fn the_first_match_wins_and_prefixes_override() {
        assert!(!excludes(&["+ keep*", "*"], "keep.me"));
        assert!(excludes(&["+ keep*", "*"], "other"));
        assert!(!excludes(&["*", "!"], "other"));
        assert!(excludes(&["!x"], "!x"));
        let mut filter = Filter::default();
        assert_eq!(filter.push_include(b"- "), Err(FilterError::Empty { rule: b"- ".as_slice().into() }));
        assert!(filter.push_include(b"").is_err());
        assert!(filter.push_exclude(&[b'x'; FILTER_RULE_BYTES_MAX + 1]).is_err());
        assert!(filter.is_empty());
    }

    #[test]
    fn files_of_rules_skip_comments_and_empty_lines() {
        let mut filter = Filter::default();
        filter.push_lines(b"# no\n; no\n\n+ *.rs\r\n*.o\n \n", Decision::Excluded).unwrap();
        assert_eq!(filter.rules.len(), 3);
        assert_eq!(filter.decide(b"a.o", false), Decision::Excluded);
        assert_eq!(filter.decide(b" ", false), Decision::Excluded);
        assert!(!filter.needs_path());
        let error = filter.push_lines(b"a\n+ \n", Decision::Excluded).unwrap_err();
        assert_eq!(error.to_string(), "line 2: unexpected end of filter rule: \"+ \"");
        filter.push_lines(b"a/b", Decision::Excluded).unwrap();
        assert!(filter.needs_path());
    }

    #[test]
    fn no_pattern_takes_exponential_time() {
        let short = "a/".repeat(200);
        let long = [&[b'a'; 255][..]; 16].join(&b'/');
        let start = Instant::now();
        for pattern in ["*a".repeat(60) + "b", "**a".repeat(60) + "b", "**a*a*a*a".repeat(10) + "b", "a**/".repeat(20) + "*b*b"] {
            assert!(!excludes(&[&pattern], std::str::from_utf8(&long).unwrap()), "{pattern}");
            assert!(!excludes(&[&pattern], &short), "{pattern}");
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }
}
