//! Finds what new content has in common with a base, in one pass and with bounded work.
//!
//! Reads only through the reader it is given and keeps no content. Used by `work`.

use crate::delta::index::Index;
use crate::delta::roll::{self, Roller, Sums};
use crate::delta::strong::{self, LANE_BYTES, LANES, Lanes, Strong};
use crate::delta::window::Window;
use crate::delta::{Shape, Signature, Signer, Step};
use crate::limits::{
    DELTA_AHEAD_BYTES, DELTA_BARREN_BYTES, DELTA_CHECKS_FREE, DELTA_LITERAL_BYTES_MAX, DELTA_SKIP_BLOCKS_MAX, HOLE_TOLD_BYTES_MIN,
};

/// Makes the delta from a base, of which only the signature is known, to new content of a known length.
#[derive(Debug, Clone, Copy)]
pub struct Differ<'a> {
    base: &'a Signature,
    shape: Shape,
}

/// What a delta came to.
#[derive(Debug)]
pub struct Outcome {
    /// The new content's signature.
    pub signature: Signature,
    /// What it took.
    pub work: Work,
}

/// What a delta consists of and what finding it took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Bytes that are copied from the base.
    pub copied: u64,
    /// Bytes that are literal.
    pub literal: u64,
    /// Bytes that are holes, without those that are copied.
    pub holes: u64,
    /// Strong hashes taken beside those of the new content's own blocks.
    pub hashes: u64,
    /// Of these, those that the rolling hash gave reason for.
    pub checks: u64,
    /// Blocks found by the rolling hash.
    pub hits: u64,
    /// Positions that the rolling hash was looked up for.
    pub searched: u64,
}

impl<'a> Differ<'a> {
    /// From `base` to content of `len` bytes. `None` if that is too long for a signature.
    pub fn new(base: &'a Signature, len: u64) -> Option<Self> {
        Some(Self { base, shape: Shape::after(len, base.shape())? })
    }

    /// The shape that the new content's signature and digest will have.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Reads the new content, each byte once and in order, and gives the steps that make it. `read` fills the whole slice it is given from that offset.
    /// Literals are bytes that were hashed: what is read from a file that changes meanwhile is torn, but steps, signature and digest fit each other.
    ///
    /// # Errors
    /// What `read` or `emit` fails with, at once.
    pub fn run<E>(
        self,
        read: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
        emit: impl FnMut(Step<'_>) -> Result<(), E>,
    ) -> Result<Outcome, E> {
        self.run_sparse(read, |_| 0, emit)
    }

    /// Whether content and base are cut into blocks of one length: only then holes are passed over without being read.
    pub fn passes_holes(&self) -> bool {
        self.base.shape().block() == self.shape.block()
    }

    /// [`Differ::run`] of content with holes: `hole` says how long the hole is that an offset is in, 0 for data. Whole blocks of a hole are not read. They
    /// become [`Step::Hole`]s where the base differs there, and everywhere if there are many in a row ([`HOLE_TOLD_BYTES_MIN`]).
    ///
    /// # Errors
    /// As [`Differ::run`].
    pub fn run_sparse<E>(
        self,
        read: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
        mut hole: impl FnMut(u64) -> u64,
        emit: impl FnMut(Step<'_>) -> Result<(), E>,
    ) -> Result<Outcome, E> {
        let base = self.base.shape();
        let window = Window::new(read, self.shape.len(), base.block() as usize);
        let search = Search {
            base: self.base,
            shape: self.shape,
            block: base.block(),
            one_grid: base.block() == self.shape.block(),
            signer: Signer::new(self.shape),
            window,
            out: Out { emit, copy: None, hole: None },
            lanes: Lanes::new(),
            at: 0,
            literal: 0,
            follow: 0,
            run: 0,
            ends: self.shape.len() as i64 - base.len() as i64,
            ahead: None,
            rolled: None,
            tools: None,
            look: 0,
            skip: 0,
            barren: 0,
            work: Work::default(),
        };
        search.run(&mut hole)
    }
}

/// Gives steps out, and joins copies that continue each other.
struct Out<S> {
    emit: S,
    /// A copy that may go on: at, from, len.
    copy: Option<(u64, u64, u64)>,
    /// A hole that may go on: at, len. Not both.
    hole: Option<(u64, u64)>,
}

impl<S> Out<S> {
    fn copy<E>(&mut self, at: u64, from: u64, len: u64) -> Result<(), E>
    where
        S: FnMut(Step<'_>) -> Result<(), E>,
    {
        match &mut self.copy {
            Some((to, source, so_far)) if *to + *so_far == at && *source + *so_far == from && *so_far < DELTA_AHEAD_BYTES => *so_far += len,
            _ => {
                // A hole before it goes out first.
                self.flush()?;
                self.copy = Some((at, from, len));
            }
        }
        Ok(())
    }

    fn hole<E>(&mut self, at: u64, len: u64) -> Result<(), E>
    where
        S: FnMut(Step<'_>) -> Result<(), E>,
    {
        match &mut self.hole {
            // Nothing was given out since.
            Some((from, so_far)) if *from + *so_far == at => *so_far += len,
            _ => {
                self.flush()?;
                self.hole = Some((at, len));
            }
        }
        Ok(())
    }

    fn literal<E>(&mut self, at: u64, bytes: &[u8]) -> Result<(), E>
    where
        S: FnMut(Step<'_>) -> Result<(), E>,
    {
        self.flush()?;
        (self.emit)(Step::Literal { at, bytes })
    }

    fn flush<E>(&mut self) -> Result<(), E>
    where
        S: FnMut(Step<'_>) -> Result<(), E>,
    {
        if let Some((at, len)) = self.hole.take() {
            (self.emit)(Step::Hole { at, len })?;
        }
        match self.copy.take() {
            Some((at, from, len)) => (self.emit)(Step::Copy { at, from, len }),
            None => Ok(()),
        }
    }
}

/// One delta in the making.
///
/// Invariant: `literal <= at`; what is before `literal` was given out; the window and the signer have all from `literal` to two blocks behind `at`, or to the end.
struct Search<'a, R, S> {
    base: &'a Signature,
    shape: Shape,
    /// The base's block length.
    block: u64,
    /// Whether new content and base are cut into blocks of one length.
    one_grid: bool,
    signer: Signer,
    window: Window<R>,
    out: Out<S>,
    lanes: Lanes,
    /// Where we are in the new content.
    at: u64,
    /// From here on it is literal.
    literal: u64,
    /// How much further in the new content the last copy was than in the base.
    follow: i64,
    /// Blocks copied with that shift, one after the other, up to our position.
    run: u64,
    /// That shift for files whose ends are aligned.
    ends: i64,
    /// Strong hashes of eight blocks from a position on.
    ahead: Option<(u64, [Strong; LANES])>,
    /// A position and the sums of the block that begins there.
    rolled: Option<(u64, Sums)>,
    /// What the rolling search needs, made when it begins.
    tools: Option<(Index<'a>, Roller)>,
    /// Positions to search before the next are skipped.
    look: u64,
    /// Positions to skip before the next are searched.
    skip: u64,
    /// Positions searched since the last hit.
    barren: u64,
    work: Work,
}

impl<E, R, S> Search<'_, R, S>
where
    R: FnMut(u64, &mut [u8]) -> Result<(), E>,
    S: FnMut(Step<'_>) -> Result<(), E>,
{
    fn run(mut self, hole: &mut impl FnMut(u64) -> u64) -> Result<Outcome, E> {
        while self.at < self.shape.len() {
            if self.one_grid
                && let Some(end) = self.whole_blocks(hole(self.at))
            {
                self.pass_hole(end)?;
                continue;
            }
            let like = if self.one_grid { self.base.blocks() } else { &[] };
            self.window.fill(self.literal, self.at + 2 * self.block, |fresh| {
                self.signer.update_beside(fresh, like).expect("the window ends where the content ends");
            })?;
            let found = match self.guess() {
                Some(from) => Some(from),
                None => {
                    let stop = self.next_guess();
                    self.search(stop)
                }
            };
            match found {
                Some(from) => self.copy(from)?,
                None => self.give_literal(DELTA_LITERAL_BYTES_MAX as u64)?,
            }
        }
        self.give_literal(1)?;
        self.out.flush()?;
        let signature = self.signer.finish().expect("the window was read to the end of the content");
        Ok(Outcome { signature, work: self.work })
    }

    /// Where the whole blocks end that the next `len` bytes have, if there are any.
    fn whole_blocks(&self, len: u64) -> Option<u64> {
        if len == 0 {
            return None;
        }
        let end = self.at.saturating_add(len);
        let end = if end >= self.shape.len() { self.shape.len() } else { end & !(self.block - 1) };
        (end > self.at.next_multiple_of(self.block)).then_some(end)
    }

    /// Goes on to `end`, where a block begins or the content ends; all up to there is a hole.
    fn pass_hole(&mut self, end: u64) -> Result<(), E> {
        self.give_literal(1)?;
        let high = self.window.high();
        if end > high {
            self.signer.zeros(end - high).expect("the hole ends where the content ends, or before");
            self.window.skip(end);
        }
        let told = end - self.at >= HOLE_TOLD_BYTES_MIN;
        while self.at < end {
            let base = self.base.shape();
            if !told && base.starts(self.at) && base.len_at(self.at) == self.shape.len_at(self.at) && self.equal(self.at) {
                self.copy(self.at)?;
                continue;
            }
            // A copy from elsewhere may have ended within a block.
            let len = if told { end - self.at } else { (self.block - self.at % self.block).min(end - self.at) };
            self.out.hole(self.at, len)?;
            self.at += len;
            self.literal = self.at;
            self.work.holes += len;
        }
        Ok(())
    }

    /// A block of the base that is where one of the guesses says.
    fn guess(&mut self) -> Option<u64> {
        let shifts = [0, self.follow, self.ends];
        for (number, shift) in shifts.into_iter().enumerate() {
            if shifts[..number].contains(&shift) {
                continue;
            }
            let from = self.at.checked_add_signed(-shift).filter(|from| self.base.shape().starts(*from));
            if let Some(from) = from
                && self.equal(from)
            {
                return Some(from);
            }
        }
        None
    }

    /// The next position that a guess can be made for: at most a block further.
    fn next_guess(&self) -> u64 {
        let next = |shift: i64| {
            // Two's complement makes this right for shifts either way.
            let beyond = self.at.wrapping_sub(shift.cast_unsigned()) & (self.block - 1);
            self.at + self.block - beyond
        };
        next(0).min(next(self.follow)).min(next(self.ends)).min(self.shape.len())
    }

    /// Whether the base's block at `from` is at our position.
    fn equal(&mut self, from: u64) -> bool {
        let base = self.base.shape();
        let len = base.len_at(from);
        if self.at + len > self.shape.len() {
            return false;
        }
        let block = &self.base.blocks()[base.number(from)];
        if self.one_grid && self.shape.starts(self.at) && self.shape.len_at(self.at) == len {
            return self.signer.blocks()[self.shape.number(self.at)].strong == block.strong;
        }
        if let Some((at, sums)) = self.rolled
            && at == self.at
            && len == self.block
            && roll::kept(sums.mixed()) != block.weak
        {
            return false;
        }
        self.strong(len) == block.strong
    }

    /// The strong hash of the next `len` bytes.
    fn strong(&mut self, len: u64) -> Strong {
        if len == self.block && len == LANE_BYTES as u64 {
            if let Some(hash) = self.known_ahead() {
                return hash;
            }
            // In a long run the next blocks will be asked for as well.
            let lanes = (LANES * LANE_BYTES) as u64;
            if self.run >= LANES as u64
                && self.window.high() - self.at >= lanes
                && let Some(eight) = self.window.get(self.at, lanes).first_chunk()
            {
                let hashes = self.lanes.hash(eight);
                self.ahead = Some((self.at, hashes));
                self.work.hashes += LANES as u64;
                return hashes[0];
            }
        }
        self.work.hashes += 1;
        strong::hash(self.window.get(self.at, len))
    }

    /// The strong hash of the block at our position, if it was taken together with those of blocks before it.
    fn known_ahead(&self) -> Option<Strong> {
        let (from, hashes) = self.ahead?;
        let ahead = self.at.checked_sub(from).filter(|ahead| ahead % self.block == 0)?;
        hashes.get((ahead / self.block) as usize).copied()
    }

    /// Takes the base's block at `from` for our position.
    fn copy(&mut self, from: u64) -> Result<(), E> {
        self.give_literal(1)?;
        let len = self.base.shape().len_at(from);
        self.out.copy(self.at, from, len)?;
        let shift = self.at.wrapping_sub(from).cast_signed();
        self.run = if shift == self.follow { self.run + 1 } else { 1 };
        self.follow = shift;
        self.at += len;
        self.literal = self.at;
        self.work.copied += len;
        Ok(())
    }

    /// Gives out what is literal, in the longest pieces, while it is at least this long.
    fn give_literal(&mut self, least: u64) -> Result<(), E> {
        while self.at - self.literal >= least {
            let len = (self.at - self.literal).min(DELTA_LITERAL_BYTES_MAX as u64);
            self.out.literal(self.literal, self.window.get(self.literal, len))?;
            self.literal += len;
            self.work.literal += len;
        }
        Ok(())
    }

    /// Goes on to `stop`, or to the first position before it where the rolling hash finds a block of the base.
    fn search(&mut self, stop: u64) -> Option<u64> {
        self.run = 0;
        // The last position that a whole block begins at, and one.
        let end = stop.min((self.shape.len() + 1).saturating_sub(self.block));
        let nothing = self.base.shape().len() < self.block;
        while self.at < end && !nothing {
            if self.skip > 0 {
                let skipped = self.skip.min(end - self.at);
                self.skip -= skipped;
                self.at += skipped;
                continue;
            }
            if self.look == 0 {
                self.look = self.block;
            }
            let before = self.at;
            let found = self.look_up(self.at + self.look.min(end - self.at));
            let searched = self.at - before;
            self.look -= searched;
            self.barren += searched;
            if found.is_some() {
                (self.look, self.skip, self.barren) = (0, 0, 0);
                return found;
            }
            if self.look == 0 {
                self.skip = (self.barren / DELTA_BARREN_BYTES).min(DELTA_SKIP_BLOCKS_MAX) * self.block;
            }
        }
        self.at = stop;
        None
    }

    /// Looks the positions up to `end` up, of which each begins a whole block.
    fn look_up(&mut self, end: u64) -> Option<u64> {
        let (index, roller) = self.tools.get_or_insert_with(|| (Index::new(self.base), Roller::new(self.block as u32)));
        let block = self.block as usize;
        // One byte more than the last position's block, to roll on to the position behind it, if there is one.
        let len = (end - self.at + self.block).min(self.shape.len() - self.at);
        let bytes = self.window.get(self.at, len);
        let start = self.at;
        let mut sums = match self.rolled {
            Some((at, sums)) if at == start => sums,
            _ => Sums::default().extend(&bytes[..block]),
        };
        let mut offset = 0;
        let count = (end - start) as usize;
        let found = loop {
            sums = pass(index, roller, sums, &bytes[..count], &bytes[block..], &mut offset);
            if offset == count {
                break None;
            }
            let mut suspects = index.find(sums.mixed()).peekable();
            let searched = self.work.searched + offset as u64;
            let allowed = DELTA_CHECKS_FREE + 2 * self.work.hits + searched / self.block;
            if suspects.peek().is_some() && self.work.checks < allowed {
                self.work.checks += 1;
                self.work.hashes += 1;
                let strong = strong::hash(&bytes[offset..offset + block]);
                if let Some(number) = suspects.find(|number| self.base.blocks()[*number].strong == strong) {
                    self.work.hits += 1;
                    break Some(number as u64 * self.block);
                }
            }
            // The last window has no byte behind it to roll on to.
            if let Some(new) = bytes.get(block + offset) {
                sums = roller.roll(sums, bytes[offset], *new);
            }
            offset += 1;
            if offset == count {
                break None;
            }
        };
        self.at = start + offset as u64;
        self.work.searched += offset as u64;
        self.rolled = (offset < count || len == end - start + self.block).then_some((self.at, sums));
        found
    }
}

/// Rolls on from `offset` to the first position whose hash is in the index, or to the end of `old`. `new` is what follows the windows: as long as `old` or longer, or
/// one byte shorter, and then the hash is not rolled beyond the last position.
fn pass(index: &Index<'_>, roller: &Roller, mut sums: Sums, old: &[u8], new: &[u8], offset: &mut usize) -> Sums {
    let groups = old[*offset..].as_chunks::<4>().0.iter().zip(new[*offset..].as_chunks::<4>().0);
    for (old, new) in groups {
        let mut next = sums;
        let four: [Sums; 4] = std::array::from_fn(|at| {
            let this = next;
            next = roller.roll(this, old[at], new[at]);
            this
        });
        if index.may_have_any(four.map(Sums::mixed))
            && let Some(at) = four.iter().position(|sums| index.has(sums.mixed()))
        {
            *offset += at;
            return four[at];
        }
        sums = next;
        *offset += 4;
    }
    for (old, new) in old[*offset..].iter().zip(&new[*offset..]) {
        if index.has(sums.mixed()) {
            return sums;
        }
        sums = roller.roll(sums, *old, *new);
        *offset += 1;
    }
    if *offset < old.len() && !index.has(sums.mixed()) {
        *offset += 1;
    }
    sums
}
