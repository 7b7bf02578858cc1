//! Which session wrote last to which directory, so that a client that lost it may go on from there.
//!
//! It knows nothing of what was written, only that nobody else did so through this receiver. Bounded: the directories that were opened least lately are forgotten, and their clients begin with a manifest.
//! Asked and told by the receiver when sessions are opened and end.

use std::collections::VecDeque;
use std::path::PathBuf;

use crate::limits::PLACES_MAX;
use crate::model::attrs::Namespaces;
use crate::model::meta::Ident;
use crate::model::options::Writing;
use crate::wire::Token;

/// A writing session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Writer {
    /// Its token: random, and known to its client only.
    pub token: Token,
    /// The directory.
    pub ident: Ident,
    /// Where that is, as far as it can be told.
    pub path: Option<PathBuf>,
    /// What it carries, and how it writes.
    pub how: (Namespaces, Writing),
}

impl Writer {
    /// Whether what it writes may be what the other does, under whatever name, or above or below it.
    fn overlaps(&self, other: &Self) -> bool {
        match (&self.path, &other.path) {
            (Some(path), Some(there)) => self.ident == other.ident || path.starts_with(there) || there.starts_with(path),
            _ => true,
        }
    }
}

/// The last writer of a directory.
#[derive(Debug)]
struct Last {
    writer: Writer,
    /// The token of the session that it went on from.
    went_on: Option<Token>,
    /// It ended without having done anything: the mirror is as that session left it.
    unused: bool,
}

impl Last {
    /// Whether the mirror is as the session with this token left it.
    fn is_of(&self, token: &Token) -> bool {
        self.writer.token == *token || (self.unused && self.went_on == Some(*token))
    }
}

/// The last writer of each of some directories, the newest last. Invariant: no more than [`PLACES_MAX`], none of which overlaps another.
#[derive(Debug, Default)]
pub(super) struct Places(VecDeque<Last>);

impl Places {
    /// A writing session begins; whatever else was open in its directory has ended. Whether the mirror is as the session `last` left it.
    pub(super) fn begin(&mut self, writer: Writer, last: &Token) -> bool {
        // Where a filesystem tells no time of birth, another directory may have the number of one that was removed.
        let is_certain = writer.ident.birth_ns != 0;
        let same = |known: &Writer| known.ident == writer.ident && known.how == writer.how;
        let continued = is_certain && self.0.iter().any(|known| known.is_of(last) && same(&known.writer));
        self.0.retain(|known| !known.writer.overlaps(&writer));
        if self.0.len() >= PLACES_MAX {
            self.0.pop_front();
        }
        self.0.push_back(Last { writer, went_on: continued.then_some(*last), unused: false });
        continued
    }

    /// What the session left is not what its client will take it for.
    pub(super) fn forget(&mut self, token: &Token) {
        self.0.retain(|known| known.writer.token != *token);
    }

    /// The session has ended and was never used: its client, which may have given up before it heard of it, may go on from the one before.
    pub(super) fn was_unused(&mut self, token: &Token) {
        self.0.iter_mut().filter(|known| known.writer.token == *token).for_each(|known| known.unused = true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(token: u8, ino: u64, path: &str) -> Writer {
        let ident = Ident { dev: 1, ino, birth_ns: 5 };
        Writer { token: [token; 16], ident, path: Some(path.into()), how: (Namespaces::ALL, Writing::default()) }
    }

    #[test]
    fn only_the_last_writer_of_the_same_directory_is_gone_on_from() {
        let mut places = Places::default();
        assert!(!places.begin(writer(1, 7, "/a"), &[0; 16]));
        assert!(places.begin(writer(2, 7, "/a"), &[1; 16]));
        assert!(!places.begin(writer(3, 7, "/a"), &[1; 16]), "another was between");
        assert!(!places.begin(writer(4, 8, "/a"), &[3; 16]), "another directory at the name");
        assert!(!places.begin(writer(5, 9, "/b"), &[4; 16]), "the token of another directory");
        let in_place = (Namespaces::ALL, Writing { in_place: true, ..Writing::default() });
        assert!(!places.begin(Writer { how: in_place, ..writer(6, 9, "/b") }, &[5; 16]), "another way of writing");
        places.forget(&[6; 16]);
        assert!(!places.begin(Writer { how: in_place, ..writer(7, 9, "/b") }, &[6; 16]), "in doubt");
        let unborn = |token| Writer { ident: Ident { dev: 1, ino: 9, birth_ns: 0 }, ..writer(token, 9, "/b") };
        places.begin(unborn(8), &[0; 16]);
        assert!(!places.begin(unborn(9), &[8; 16]), "perhaps another directory");
    }

    #[test]
    fn a_session_that_was_not_used_breaks_no_chain() {
        let mut places = Places::default();
        places.begin(writer(1, 7, "/a"), &[0; 16]);
        for attempt in 2..5 {
            assert!(places.begin(writer(attempt, 7, "/a"), &[1; 16]), "attempt {attempt}");
            places.was_unused(&[attempt; 16]);
        }
        assert!(places.begin(writer(5, 7, "/a"), &[4; 16]), "or it had heard of that one");
        assert!(!places.begin(writer(6, 7, "/a"), &[1; 16]), "that one was used");
        assert!(!places.begin(writer(7, 7, "/a"), &[1; 16]), "and what follows it went on from nothing");
        places.was_unused(&[7; 16]);
        assert!(!places.begin(writer(8, 7, "/a"), &[1; 16]));
    }

    #[test]
    fn a_writer_above_or_below_is_another() {
        for other in ["/m/a", "/m", "/", "/m/a/b/c", "/m/a/b"] {
            let mut places = Places::default();
            places.begin(writer(1, 7, "/m/a/b"), &[0; 16]);
            places.begin(writer(2, 8, other), &[0; 16]);
            assert!(!places.begin(writer(3, 7, "/m/a/b"), &[1; 16]), "{other}");
        }
        let mut places = Places::default();
        places.begin(writer(1, 7, "/m/a/b"), &[0; 16]);
        places.begin(writer(2, 7, "/mounted/elsewhere"), &[0; 16]);
        assert!(!places.begin(writer(3, 7, "/m/a/b"), &[1; 16]), "the same under another name");
        for other in ["/m/a/bc", "/m/a/c", "/n"] {
            let mut places = Places::default();
            places.begin(writer(1, 7, "/m/a/b"), &[0; 16]);
            places.begin(writer(2, 8, other), &[0; 16]);
            assert!(places.begin(writer(3, 7, "/m/a/b"), &[1; 16]), "{other}");
        }
    }

    #[test]
    fn the_table_is_bounded() {
        let mut places = Places::default();
        for at in 0..=PLACES_MAX as u8 {
            places.begin(writer(at + 1, u64::from(at), &format!("/{at}")), &[0; 16]);
        }
        assert_eq!(places.0.len(), PLACES_MAX);
        assert!(!places.begin(writer(100, 0, "/0"), &[1; 16]));
        assert!(places.begin(writer(101, PLACES_MAX as u64, &format!("/{PLACES_MAX}")), &[PLACES_MAX as u8 + 1; 16]));
    }
}
