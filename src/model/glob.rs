//! Wildcard patterns as rsync has them: `*` stops at a slash, `**` does not, `?`, `[…]` with ranges, classes and negation, backslash escapes.
//!
//! Knows nothing of rules, paths or which part of a path is compared: that is the filter's, its only caller.

/// What a wildcard pattern is compared with: bytes, and perhaps a slash before and after them.
#[derive(Clone, Copy)]
pub(super) struct Text<'a> {
    /// The bytes.
    pub(super) bytes: &'a [u8],
    /// A slash stands before them.
    pub(super) before: bool,
    /// A slash stands behind them.
    pub(super) after: bool,
}

impl Text<'_> {
    /// Length with the slashes.
    pub(super) fn len(self) -> usize {
        self.bytes.len() + usize::from(self.before) + usize::from(self.after)
    }

    /// The byte at `index`, `None` behind the end.
    pub(super) fn at(self, index: usize) -> Option<u8> {
        let index = match index.checked_sub(usize::from(self.before)) {
            Some(index) => index,
            None => return Some(b'/'),
        };
        match self.bytes.get(index) {
            None if self.after && index == self.bytes.len() => Some(b'/'),
            byte => byte.copied(),
        }
    }
}

/// One piece of a wildcard pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// This byte.
    Byte(u8),
    /// `?`: any byte but a slash.
    One,
    /// `[…]`: a byte of the set, which never has the slash.
    Set(Box<ByteSet>),
    /// `*`: any bytes but slashes.
    Star,
    /// `**`: any bytes.
    Deep,
    /// What is malformed: nothing.
    Never,
}

impl Token {
    fn takes(&self, byte: u8) -> bool {
        match self {
            Self::Byte(b) => *b == byte,
            Self::One => byte != b'/',
            Self::Set(set) => set.has(byte),
            Self::Star | Self::Deep | Self::Never => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct ByteSet([u64; 4]);

impl ByteSet {
    fn add(&mut self, byte: u8) {
        self.0[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }

    fn has(&self, byte: u8) -> bool {
        self.0[usize::from(byte >> 6)] & 1 << (byte & 63) != 0
    }
}

/// A wildcard pattern, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern(Box<[Token]>);

impl Pattern {
    /// Reads `pattern`; one that is malformed matches nothing.
    pub(super) fn new(pattern: &[u8]) -> Self {
        Self(tokens(pattern))
    }

    /// Whether the pattern matches `text` from `start` to its end.
    pub(super) fn matches(&self, text: Text<'_>, start: usize) -> bool {
        matches_at(&self.0, text, start)
    }
}

fn tokens(pattern: &[u8]) -> Box<[Token]> {
    let mut tokens = Vec::with_capacity(pattern.len());
    let mut rest = pattern;
    while let [first, after @ ..] = rest {
        rest = after;
        tokens.push(match first {
            b'?' => Token::One,
            b'*' => {
                let more = after.iter().take_while(|b| **b == b'*').count();
                rest = &after[more..];
                if more > 0 { Token::Deep } else { Token::Star }
            }
            b'[' => match byte_set(after) {
                Some((set, after)) => {
                    rest = after;
                    Token::Set(Box::new(set))
                }
                None => return [Token::Never].into(),
            },
            b'\\' => match after {
                [escaped, after @ ..] => {
                    rest = after;
                    Token::Byte(*escaped)
                }
                [] => return [Token::Never].into(),
            },
            byte => Token::Byte(*byte),
        });
    }
    tokens.into()
}

/// The set behind a `[`, and what follows its `]`. `None` if it does not end, or names a class that does not exist.
fn byte_set(pattern: &[u8]) -> Option<(ByteSet, &[u8])> {
    let (negated, mut rest) = match pattern {
        [b'!' | b'^', rest @ ..] => (true, rest),
        all => (false, all),
    };
    let mut set = ByteSet::default();
    // The byte that a following `-` makes a range from. `None` at the start and behind a range or class, where `-` is itself.
    let mut from: Option<u8> = None;
    let mut first = true;
    loop {
        let (member, after) = rest.split_first()?;
        rest = after;
        let single = match (member, from) {
            // A `]` that stands first is a member.
            (b']', _) if !first => break,
            (b'\\', _) => take(&mut rest)?,
            (b'-', Some(low)) if !matches!(after.first(), None | Some(b']')) => {
                let high = match take(&mut rest)? {
                    b'\\' => take(&mut rest)?,
                    plain => plain,
                };
                (low..=high).for_each(|b| set.add(b));
                from = None;
                continue;
            }
            (b'[', _) if after.first() == Some(&b':') => {
                let end = after.iter().skip(1).position(|b| *b == b']')? + 1;
                match &after[1..end] {
                    [name @ .., b':'] => {
                        let class = class(name)?;
                        (0..=u8::MAX).filter(|b| class(*b)).for_each(|b| set.add(b));
                        rest = &after[end + 1..];
                        from = None;
                        first = false;
                        continue;
                    }
                    _ => b'[',
                }
            }
            (byte, _) => *byte,
        };
        set.add(single);
        from = Some(single);
        first = false;
    }
    if negated {
        set.0.iter_mut().for_each(|word| *word = !*word);
    }
    set.0[usize::from(b'/' >> 6)] &= !(1 << (b'/' & 63));
    Some((set, rest))
}

fn take(rest: &mut &[u8]) -> Option<u8> {
    let (byte, after) = rest.split_first()?;
    *rest = after;
    Some(*byte)
}

/// The members of `[:name:]`, ASCII only.
fn class(name: &[u8]) -> Option<fn(u8) -> bool> {
    Some(match name {
        b"alnum" => |b| b.is_ascii_alphanumeric(),
        b"alpha" => |b| b.is_ascii_alphabetic(),
        b"blank" => |b| matches!(b, b' ' | b'\t'),
        b"cntrl" => |b| b.is_ascii_control(),
        b"digit" => |b| b.is_ascii_digit(),
        b"graph" => |b| b.is_ascii_graphic(),
        b"lower" => |b| b.is_ascii_lowercase(),
        b"print" => |b| b.is_ascii_graphic() || b == b' ',
        b"punct" => |b| b.is_ascii_punctuation(),
        b"space" => |b| matches!(b, b' ' | 9..=13),
        b"upper" => |b| b.is_ascii_uppercase(),
        b"xdigit" => |b| b.is_ascii_hexdigit(),
        _ => return None,
    })
}

/// Whether `tokens` match `text` from `start` to its end.
///
/// Only the last `*` and the last `**` are ever tried again, since what an earlier one could take differently the later one can take as well (a `*` cannot pass
/// a slash, so a later `*` in the same component sees all that it could); so the time is a polynomial of the lengths, whatever the pattern.
fn matches_at(tokens: &[Token], text: Text<'_>, start: usize) -> bool {
    let (mut token, mut at) = (0, start);
    let mut star: Option<(usize, usize)> = None;
    let mut deep: Option<(usize, usize)> = None;
    loop {
        let byte = text.at(at);
        match tokens.get(token) {
            Some(Token::Star) => {
                token += 1;
                star = Some((token, at));
                continue;
            }
            Some(Token::Deep) => {
                token += 1;
                if token == tokens.len() {
                    return true;
                }
                deep = Some((token, at));
                star = None;
                continue;
            }
            Some(other) => match byte {
                Some(byte) if other.takes(byte) => {
                    token += 1;
                    at += 1;
                    continue;
                }
                Some(_) => {}
                // The text has run out too early, and every other way leaves even less of it.
                None => return false,
            },
            None if byte.is_none() => return true,
            None => {}
        }
        let again = match (star, deep) {
            (Some((next, from)), _) if text.at(from).is_some_and(|b| b != b'/') => {
                star = Some((next, from + 1));
                star
            }
            (_, Some((next, from))) if text.at(from).is_some() => {
                star = None;
                deep = Some((next, from + 1));
                deep
            }
            _ => None,
        };
        match again {
            Some(place) => (token, at) = place,
            None => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::path::Shown;

    /// The plain definition: every way that each token can take.
    fn defined(tokens: &[Token], text: &[u8]) -> bool {
        let Some((first, rest)) = tokens.split_first() else { return text.is_empty() };
        match first {
            Token::Star | Token::Deep => {
                (0..=text.len()).take_while(|n| *first == Token::Deep || !text[..*n].contains(&b'/')).any(|n| defined(rest, &text[n..]))
            }
            other => text.split_first().is_some_and(|(b, after)| other.takes(*b) && defined(rest, after)),
        }
    }

    #[test]
    fn two_restarts_are_enough() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = |n: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % n
        };
        let mut matched = 0;
        for _ in 0..200_000 {
            let pattern: Vec<&str> = (0..next(8)).map(|_| ["a", "b", "/", "*", "**", "?", "[!a]"][next(7) as usize]).collect();
            let text: Vec<u8> = (0..next(11)).map(|_| b"aab/"[next(4) as usize]).collect();
            let tokens = tokens(pattern.concat().as_bytes());
            let found = matches_at(&tokens, Text { bytes: &text, before: false, after: false }, 0);
            assert_eq!(found, defined(&tokens, &text), "{pattern:?} on {}", Shown(&text));
            matched += u32::from(found);
        }
        assert!(matched > 2000, "too few matches to mean anything: {matched}");
    }
}
