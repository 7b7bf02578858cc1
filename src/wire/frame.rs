//! Frames: the envelope around a payload, and the deframer that finds payloads in a stream of bytes.
//!
//! No I/O. A frame that is not complete is no error; a header beyond the limits, a wrong checksum or anything else that no peer of this
//! protocol sends is one, and after it the stream is dead. Used by the links, and by the tests of the protocol's document.

use crate::limits::{COMPRESS_BYTES_MIN, COMPRESS_SAMPLE_BYTES, DIRECT_BYTES_MIN, FRAME_PAYLOAD_BYTES_MAX};
use crate::sys::uring::Packet;
use crate::wire::WireError;
use crate::wire::judge::Judge;
use crate::wire::pool::Pool;
use std::time::Instant;

use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};

/// Length of a header.
pub const HEADER_BYTES: usize = 16;
/// First bytes of every frame. The first is in no UTF-8 text, so that no greeting of another protocol begins like it.
pub const FRAME_MAGIC: [u8; 3] = [0xf5, b'R', b'S'];
/// Flag: the body is one lz4 block.
pub const FLAG_LZ4: u8 = 1;
/// How rsync's daemon and its clients greet.
const RSYNC_GREETING: &[u8] = b"@RSYNCD:";
/// The line that a server sends to a stock rsync client, which shows it to its user.
pub const RSYNC_ANSWER: &[u8] = b"@ERROR: this port speaks ringsync's protocol, not rsync's\n";

// Offsets in the header; all numbers are little-endian.
const FLAGS_AT: usize = 3;
const LENGTH_AT: usize = 4;
const RAW_AT: usize = 8;
const CRC_AT: usize = 12;
const _: () = assert!(CRC_AT + 4 == HEADER_BYTES && FRAME_PAYLOAD_BYTES_MAX <= u32::MAX as usize);

/// Makes frames of payloads, compressed where that shrinks them if it was asked for.
#[derive(Default)]
pub struct Framer {
    table: Option<CompressTable>,
    /// Says whether compression pays, where that is asked.
    judge: Option<Judge>,
    pool: Pool,
}

impl Framer {
    /// One that compresses, or not.
    pub fn new(compress: bool) -> Self {
        Self { table: compress.then(CompressTable::large), judge: None, pool: Pool::default() }
    }

    /// One that compresses while that pays: whoever uses it has to ask the [`Judge`] for its verdict when that is due.
    pub fn judged() -> Self {
        Self { judge: Some(Judge::default()), ..Self::new(true) }
    }

    /// The judge, if there is one.
    pub fn judge(&mut self) -> Option<&mut Judge> {
        self.judge.as_mut()
    }

    /// The frame around `payload`, which has 1 to [`FRAME_PAYLOAD_BYTES_MAX`] bytes.
    pub fn frame(&mut self, payload: Vec<u8>) -> Packet {
        debug_assert!((1..=FRAME_PAYLOAD_BYTES_MAX).contains(&payload.len()), "{} bytes in a payload", payload.len());
        let raw = payload.len() as u32;
        let (flags, body) = match self.compressed(&payload) {
            Some(body) => {
                self.pool.put(payload);
                (FLAG_LZ4, body)
            }
            None => (0, payload),
        };
        let mut header = [0; HEADER_BYTES];
        header[..3].copy_from_slice(&FRAME_MAGIC);
        header[FLAGS_AT] = flags;
        header[LENGTH_AT..RAW_AT].copy_from_slice(&(body.len() as u32).to_le_bytes());
        header[RAW_AT..CRC_AT].copy_from_slice(&raw.to_le_bytes());
        let crc = checksum(&header, &body);
        header[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        Packet { head: header, body }
    }

    /// An empty buffer.
    pub fn buffer(&mut self) -> Vec<u8> {
        self.pool.get()
    }

    /// Takes a buffer back for reuse.
    pub fn recycle(&mut self, buffer: Vec<u8>) {
        self.pool.put(buffer);
    }

    fn compressed(&mut self, payload: &[u8]) -> Option<Vec<u8>> {
        let table = self.table.as_mut()?;
        if payload.len() < COMPRESS_BYTES_MIN {
            return None;
        }
        if let Some(judge) = self.judge.as_mut().filter(|judge| !judge.wants()) {
            judge.passed(payload.len());
            return None;
        }
        let mut out = self.pool.get();
        out.resize(get_maximum_output_size(payload.len()), 0);
        // A sample from the middle, where content is, says whether the whole is worth the time.
        if payload.len() >= 4 * COMPRESS_SAMPLE_BYTES {
            let sample = payload.get(payload.len() / 2..)?.get(..COMPRESS_SAMPLE_BYTES)?;
            if !shrinks(compress_into_with_table(sample, &mut out, table).ok()?, sample.len()) {
                self.pool.put(out);
                return None;
            }
        }
        let began = self.judge.is_some().then(Instant::now);
        let len = compress_into_with_table(payload, &mut out, table).ok()?;
        if let (Some(judge), Some(began)) = (&mut self.judge, began) {
            judge.compressed(payload.len(), len, began.elapsed().as_nanos() as u64);
        }
        if !shrinks(len, payload.len()) {
            self.pool.put(out);
            return None;
        }
        out.truncate(len);
        Some(out)
    }
}

/// Whether compression saved enough (an eighth) to be worth the other side's decompression.
fn shrinks(compressed: usize, raw: usize) -> bool {
    compressed <= raw - raw / 8
}

/// CRC-32 (IEEE) of the header before the checksum, and the body.
fn checksum(header: &[u8; HEADER_BYTES], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header[..CRC_AT]);
    hasher.update(body);
    hasher.finalize()
}

/// A header that passed its checks.
#[derive(Debug, Clone, Copy)]
struct Header {
    bytes: [u8; HEADER_BYTES],
    lz4: bool,
    length: usize,
    raw: usize,
    crc: u32,
}

fn u32_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

impl Header {
    fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Self, WireError> {
        if bytes[..FLAGS_AT] != FRAME_MAGIC {
            return Err(WireError::Frame("it does not begin with the magic number"));
        }
        if bytes[FLAGS_AT] & !FLAG_LZ4 != 0 {
            return Err(WireError::Frame("unknown flag"));
        }
        let lz4 = bytes[FLAGS_AT] & FLAG_LZ4 != 0;
        let length = u32_at(bytes, LENGTH_AT) as usize;
        let raw = u32_at(bytes, RAW_AT) as usize;
        if raw == 0 || raw > FRAME_PAYLOAD_BYTES_MAX {
            return Err(WireError::Frame("payload empty or beyond its limit"));
        }
        if length == 0 || length > raw || lz4 == (length == raw) {
            return Err(WireError::Frame("lengths do not fit"));
        }
        Ok(Self { bytes: *bytes, lz4, length, raw, crc: u32_at(bytes, CRC_AT) })
    }
}

/// A frame whose checksum is right, as it came: its payload may be 255 times as long.
pub struct Packed {
    body: Vec<u8>,
    /// The payload's length, if it is compressed.
    raw: Option<usize>,
}

impl Packed {
    /// Memory that it takes while it waits, in bytes.
    pub fn memory(&self) -> usize {
        size_of::<Self>() + self.body.capacity()
    }
}

/// Finds frames in a stream, however it is cut into pieces.
///
/// Invariant: `have < HEADER_BYTES` and no header, or a header and `body.len() < header.length`. Memory follows the bytes that came, not what a header claims.
#[derive(Default)]
pub struct Deframer {
    head: [u8; HEADER_BYTES],
    have: usize,
    header: Option<Header>,
    body: Vec<u8>,
    started: bool,
    /// The frame before was.
    was_large: bool,
    pool: Pool,
}

impl Deframer {
    /// One at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the stream stands between two frames: here it may end.
    pub fn is_between(&self) -> bool {
        self.have == 0 && self.header.is_none()
    }

    /// Takes a buffer back for reuse.
    pub fn recycle(&mut self, buffer: Vec<u8>) {
        self.pool.put(buffer);
    }

    /// An empty buffer.
    pub fn buffer(&mut self) -> Vec<u8> {
        self.pool.get()
    }

    /// Takes bytes off the front of `bytes` until a frame is complete or none is left. `Some`: the payload of a frame, checked and decompressed; call again.
    ///
    /// # Errors
    /// What is wrong. The stream is dead then.
    pub fn feed(&mut self, bytes: &mut &[u8]) -> Result<Option<Vec<u8>>, WireError> {
        match self.feed_packed(bytes)? {
            Some(packed) => self.unpack(packed).map(Some),
            None => Ok(None),
        }
    }

    /// As [`Deframer::feed`], without decompressing: for whoever has to keep frames that wait.
    ///
    /// # Errors
    /// As [`Deframer::feed`].
    pub fn feed_packed(&mut self, bytes: &mut &[u8]) -> Result<Option<Packed>, WireError> {
        let header = match self.header {
            Some(header) => header,
            None => match self.feed_header(bytes)? {
                Some(header) => header,
                None => return Ok(None),
            },
        };
        let (part, rest) = bytes.split_at(bytes.len().min(header.length - self.body.len()));
        self.body.extend_from_slice(part);
        *bytes = rest;
        if self.body.len() < header.length {
            return Ok(None);
        }
        self.header = None;
        self.was_large = header.length >= DIRECT_BYTES_MIN;
        let body = std::mem::take(&mut self.body);
        if checksum(&header.bytes, &body) != header.crc {
            return Err(WireError::Frame("wrong checksum"));
        }
        Ok(Some(Packed { body, raw: header.lz4.then_some(header.raw) }))
    }

    /// The payload of a frame.
    ///
    /// # Errors
    /// It does not decompress. The stream is dead then.
    pub fn unpack(&mut self, packed: Packed) -> Result<Vec<u8>, WireError> {
        let Packed { body, raw: Some(raw) } = packed else { return Ok(packed.body) };
        let mut payload = self.pool.get();
        payload.resize(raw, 0);
        let len = decompress_into(&body, &mut payload);
        self.pool.put(body);
        if len.is_ok_and(|len| len == raw) { Ok(payload) } else { Err(WireError::Frame("body does not decompress to its length")) }
    }

    /// The memory of a large frame, behind which the next bytes of the stream may be put, and how many of them at the most; then [feed](Deframer::feed_packed)
    /// nothing to learn whether it is complete. `None`: what comes next is to be fed.
    pub fn room(&mut self) -> Option<(&mut Vec<u8>, usize)> {
        let missing = self.header?.length - self.body.len();
        let spare = self.body.capacity() - self.body.len();
        // No more than twice what came, but in memory that is there already.
        let most = missing.min(spare.max(self.body.len()));
        (most >= DIRECT_BYTES_MIN).then_some((&mut self.body, most))
    }

    /// How many bytes of a header are missing, where a large frame is likely to follow: one went before.
    pub fn head_before_large(&self) -> Option<usize> {
        (self.header.is_none() && self.was_large).then_some(HEADER_BYTES - self.have)
    }

    fn feed_header(&mut self, bytes: &mut &[u8]) -> Result<Option<Header>, WireError> {
        let (part, rest) = bytes.split_at(bytes.len().min(HEADER_BYTES - self.have));
        if let Some(space) = self.head.get_mut(self.have..self.have + part.len()) {
            space.copy_from_slice(part);
        }
        self.have += part.len();
        *bytes = rest;
        if !self.started {
            self.look_for_strangers()?;
        }
        if self.have < HEADER_BYTES {
            return Ok(None);
        }
        let header = Header::parse(&self.head)?;
        self.started = true;
        self.have = 0;
        self.body = self.pool.get();
        self.header = Some(header);
        Ok(Some(header))
    }

    /// At the start of the stream: does a peer speak here that is none of ours?
    fn look_for_strangers(&self) -> Result<(), WireError> {
        let common = |known: &[u8]| {
            let len = self.have.min(known.len());
            self.head[..len] == known[..len]
        };
        if common(&FRAME_MAGIC) {
            Ok(())
        } else if !common(RSYNC_GREETING) {
            Err(WireError::Foreign)
        } else if self.have >= RSYNC_GREETING.len() {
            Err(WireError::Rsync)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_wire(framer: &mut Framer, payload: &[u8]) -> Vec<u8> {
        let frame = framer.frame(payload.to_vec());
        [&frame.head[..], &frame.body].concat()
    }

    fn all(deframer: &mut Deframer, mut bytes: &[u8]) -> Result<Vec<Vec<u8>>, WireError> {
        let mut payloads = Vec::new();
        while let Some(payload) = deframer.feed(&mut bytes)? {
            payloads.push(payload);
        }
        assert!(bytes.is_empty());
        Ok(payloads)
    }

    #[test]
    fn frames_come_back_however_the_stream_is_cut() {
        let text = b"the same words again and again, ".repeat(5000);
        let noise: Vec<u8> = (0..70_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let payloads = [&b"x"[..], &text, &noise, &text[..300], &text[..7]];
        for compress in [false, true] {
            let mut framer = Framer::new(compress);
            let stream: Vec<u8> = payloads.iter().flat_map(|p| on_wire(&mut framer, p)).collect();
            assert_eq!(stream.len() < 150_000, compress, "{}", stream.len());
            for piece in [1, 2, 15, 16, 17, 4096, usize::MAX] {
                let mut deframer = Deframer::new();
                let mut got = Vec::new();
                for bytes in stream.chunks(piece.min(stream.len())) {
                    got.extend(all(&mut deframer, bytes).unwrap());
                }
                assert!(deframer.is_between());
                assert!(got.iter().eq(&payloads));
            }
        }
    }

    #[test]
    fn a_large_frame_can_be_put_into_its_memory_which_follows_what_came() {
        let payloads: Vec<Vec<u8>> =
            [900_000, 100, DIRECT_BYTES_MIN, 900_000].map(|len| (0..len).map(|n| ((n * n) >> 5) as u8).collect()).into();
        let mut framer = Framer::new(false);
        let stream: Vec<u8> = payloads.iter().flat_map(|p| on_wire(&mut framer, p)).collect();
        let mut deframer = Deframer::new();
        let (mut rest, mut got, mut put) = (&stream[..], Vec::new(), 0);
        while !rest.is_empty() {
            let came = deframer.body.len();
            let len = match deframer.room() {
                Some((body, most)) => {
                    assert!(most <= came.max(body.capacity() - came), "{most} bytes of memory for {came} that came");
                    let part = &rest[..most.min(130_000)];
                    body.extend_from_slice(part);
                    put += part.len();
                    part.len()
                }
                None => deframer.head_before_large().unwrap_or(70_000).min(rest.len()),
            };
            let (mut part, behind) = rest.split_at(len);
            if came != deframer.body.len() {
                part = &[];
            }
            while let Some(payload) = deframer.feed(&mut part).unwrap() {
                deframer.recycle(payload.clone());
                got.push(payload);
            }
            rest = behind;
        }
        assert!(got == payloads && deframer.is_between());
        assert!(put > 1_500_000, "{put} bytes went into the frames' memory");
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let mut framer = Framer::new(true);
        let good = on_wire(&mut framer, &b"abcd".repeat(100));
        assert_eq!(good[FLAGS_AT], FLAG_LZ4);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let mut deframer = Deframer::new();
            // A larger length waits for more: it is found with what follows.
            let mut got = all(&mut deframer, &bad);
            if got == Ok(Vec::new()) {
                got = all(&mut deframer, &good.repeat(2000));
            }
            assert!(got.is_err(), "bit {bit}: {got:?}");
        }
    }

    #[test]
    fn strangers_are_told_apart_by_their_first_bytes() {
        for (bytes, error) in [
            (&b"@RSYNCD: 31.0 sha512\n"[..], Some(WireError::Rsync)),
            (b"@RSYNCD", None),
            (b"@RSYNCX:", Some(WireError::Foreign)),
            (b"GET / HTTP/1.1\r\n", Some(WireError::Foreign)),
            (b"\xf5R", None),
            (b"\xf5RX", Some(WireError::Foreign)),
            (b"S", Some(WireError::Foreign)),
        ] {
            assert_eq!(all(&mut Deframer::new(), bytes).err(), error, "{bytes:?}");
            let mut deframer = Deframer::new();
            let one_by_one = bytes.iter().find_map(|b| all(&mut deframer, &[*b]).err());
            assert_eq!(one_by_one, error, "{bytes:?}");
        }
    }
}
