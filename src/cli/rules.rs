//! Gathers the filter rules in the order in which they were typed, whichever of the four options each came by.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::ArgMatches;

use super::args::FilterArgs;
use crate::error::{Error, Result};
use crate::limits::FILTER_FILE_BYTES_MAX;
use crate::model::filter::{Decision, Filter};
use crate::model::options::{Options, Writing};
use crate::model::path::Shown;

enum Source<'a> {
    Rule(&'a OsString),
    File(&'a PathBuf),
}

/// What else the words about deletion mean.
pub(super) fn options(args: &FilterArgs) -> Options {
    Options {
        delete: !args.no_delete,
        delete_excluded: args.delete_excluded,
        hard_links: args.hard_links || !args.no_hard_links,
        acls: args.acls || !args.no_acls,
        xattrs: args.xattrs || !args.no_xattrs,
        sparse: args.sparse || !args.no_sparse,
        writing: Writing { in_place: args.inplace, preallocate: args.preallocate },
        ..Options::mirror()
    }
}

/// The filter of a command line.
pub(super) fn filter(matches: &ArgMatches) -> Result<Filter> {
    use Decision::{Excluded, Included};
    let mut typed: Vec<(usize, Decision, Source<'_>)> = Vec::new();
    for (id, decision) in [("include", Included), ("exclude", Excluded)] {
        let (indices, rules) = (matches.indices_of(id), matches.get_many(id));
        typed.extend(indices.into_iter().flatten().zip(rules.into_iter().flatten()).map(|(at, rule)| (at, decision, Source::Rule(rule))));
    }
    for (id, decision) in [("include_from", Included), ("exclude_from", Excluded)] {
        let (indices, files) = (matches.indices_of(id), matches.get_many(id));
        typed.extend(indices.into_iter().flatten().zip(files.into_iter().flatten()).map(|(at, file)| (at, decision, Source::File(file))));
    }
    typed.sort_by_key(|(at, ..)| *at);

    let mut filter = Filter::default();
    for (_, decision, source) in typed {
        match (source, decision) {
            (Source::Rule(rule), Included) => filter.push_include(rule.as_bytes()).map_err(|e| Error::Usage(format!("--include: {e}")))?,
            (Source::Rule(rule), Excluded) => filter.push_exclude(rule.as_bytes()).map_err(|e| Error::Usage(format!("--exclude: {e}")))?,
            (Source::File(path), decision) => {
                let name = Shown(path.as_os_str().as_bytes());
                let content = read(path).map_err(|e| Error::file(format!("filter rules {name}"), e))?;
                filter.push_lines(&content, decision).map_err(|e| Error::Usage(format!("filter rules {name}, {e}")))?;
            }
        }
    }
    Ok(filter)
}

/// Whether a file of rules is standard input.
pub(super) fn come_from_standard_input(matches: &ArgMatches) -> bool {
    (["include_from", "exclude_from"].iter())
        .any(|id| matches.get_many(id).into_iter().flatten().any(|file: &PathBuf| file == Path::new("-")))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    let mut source: Box<dyn Read> = if path == Path::new("-") { Box::new(io::stdin().lock()) } else { Box::new(File::open(path)?) };
    source.by_ref().take(FILTER_FILE_BYTES_MAX + 1).read_to_end(&mut content)?;
    if content.len() as u64 > FILTER_FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {FILTER_FILE_BYTES_MAX} bytes")));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Cli;
    use clap::CommandFactory;

    fn decide(words: &[&str], path: &[u8]) -> Result<Decision> {
        let all = ["ringsync", "mirror", "src", "dst"].iter().chain(words);
        let matches = Cli::command().try_get_matches_from(all).unwrap();
        filter(matches.subcommand().unwrap().1).map(|filter| filter.decide(path, false))
    }

    #[test]
    fn the_order_typed_is_the_order_tried() {
        let tmp = tempfile::tempdir().unwrap();
        let file = tmp.path().join("rules");
        std::fs::write(&file, "# all\n*\n").unwrap();
        let from = format!("--exclude-from={}", file.display());
        assert_eq!(decide(&["--include=a", "--exclude", "*"], b"a").unwrap(), Decision::Included);
        assert_eq!(decide(&["--exclude", "*", "--include=a"], b"a").unwrap(), Decision::Excluded);
        assert_eq!(decide(&["--exclude=x", "--include=a", &from], b"a").unwrap(), Decision::Included);
        assert_eq!(decide(&[&from, "--include=a"], b"a").unwrap(), Decision::Excluded);
        assert_eq!(decide(&["--exclude", "- *"], b"a").unwrap(), Decision::Excluded);
        assert_eq!(decide(&["--exclude", "+ a", "--exclude=*"], b"a").unwrap(), Decision::Included);
        assert_eq!(decide(&[], b"a").unwrap(), Decision::Included);
    }

    #[test]
    fn a_wrong_rule_names_its_place() {
        let tmp = tempfile::tempdir().unwrap();
        let file = tmp.path().join("rules");
        std::fs::write(&file, "a\n- \n").unwrap();
        let error = decide(&[&format!("--include-from={}", file.display())], b"a").unwrap_err();
        assert!(matches!(&error, Error::Usage(text) if text.contains("line 2")), "{error}");
        assert!(matches!(decide(&["--exclude="], b"a"), Err(Error::Usage(_))));
        assert!(matches!(decide(&["--exclude-from=/nowhere/at/all"], b"a"), Err(Error::File { .. })));
        assert!(matches!(decide(&["--exclude-from=/dev/zero"], b"a"), Err(Error::File { .. })));
    }
}
