//! The smallest pieces of a message: a checked reader over a payload, and the writers that match it.
//!
//! The reader takes what it is asked for or says why not; it never panics, never indexes and allocates nothing. Used by the decoder and the builder only.

use crate::wire::WireError;

/// Longest varint: 64 bits, 7 a byte.
const VARINT_BYTES_MAX: usize = 10;

/// What is left of a payload.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(WireError::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(WireError::Short)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, WireError> {
        self.array::<1>().map(|[b]| b)
    }

    pub(super) fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_le_bytes)
    }

    /// An unsigned LEB128 number in its shortest form: one value has one encoding.
    pub(super) fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0u64;
        for at in 0..VARINT_BYTES_MAX {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            let shift = 7 * at;
            if (bits << shift) >> shift != bits {
                return Err(WireError::Value("varint beyond 64 bits"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return if byte == 0 && at > 0 { Err(WireError::Value("varint longer than needed")) } else { Ok(value) };
            }
        }
        Err(WireError::Value("varint beyond 64 bits"))
    }

    pub(super) fn varint_u32(&mut self) -> Result<u32, WireError> {
        self.varint()?.try_into().map_err(|_| WireError::Value("number beyond 32 bits"))
    }

    /// A signed number, zigzag.
    pub(super) fn signed(&mut self) -> Result<i64, WireError> {
        let raw = self.varint()?;
        Ok((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed())
    }

    /// Bytes behind their varint length, at most `max`.
    pub(super) fn bytes(&mut self, max: usize) -> Result<&'a [u8], WireError> {
        let len = self.varint()?;
        match usize::try_from(len) {
            Ok(len) if len <= max => self.take(len),
            _ => Err(WireError::Value("length beyond its limit")),
        }
    }

    /// UTF-8 without control characters behind its length, at most `max` bytes: can break neither a line nor a terminal.
    pub(super) fn text(&mut self, max: usize) -> Result<&'a str, WireError> {
        let text = std::str::from_utf8(self.bytes(max)?).map_err(|_| WireError::Value("text is not UTF-8"))?;
        if text.chars().any(char::is_control) { Err(WireError::Value("control character in text")) } else { Ok(text) }
    }
}

pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Writes `text` as [`Reader::text`] takes it: control characters become `?`, what is beyond `max` bytes is cut at a character.
pub(super) fn put_text(out: &mut Vec<u8>, text: &str, max: usize) {
    let clean: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    let end = (0..=max.min(clean.len())).rev().find(|at| clean.is_char_boundary(*at)).unwrap_or(0);
    put_bytes(out, &clean.as_bytes()[..end]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_and_have_one_form() {
        for shift in 0..64 {
            for value in [1u64 << shift, (1u64 << shift) - 1, u64::MAX >> shift] {
                let mut out = Vec::new();
                put_varint(&mut out, value);
                assert!(out.len() <= VARINT_BYTES_MAX);
                assert_eq!(Reader::new(&out).varint().unwrap(), value);
                let signed = value.cast_signed();
                for signed in [signed, signed.wrapping_neg()] {
                    out.clear();
                    put_signed(&mut out, signed);
                    assert_eq!(Reader::new(&out).signed().unwrap(), signed);
                }
            }
        }
        for bad in [&[0x80, 0x00][..], &[0xff; 10], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02], &[0x80], &[]] {
            assert!(Reader::new(bad).varint().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn text_is_cut_and_cleaned_by_the_writer_and_refused_by_the_reader() {
        let mut out = Vec::new();
        put_text(&mut out, "a\nb\u{e9}\u{e9}", 4);
        assert_eq!(Reader::new(&out).text(4).unwrap(), "a?b");
        assert!(Reader::new(&out).text(2).is_err());
        assert!(Reader::new(b"\x01\x1b").text(9).is_err());
        assert!(Reader::new(b"\x01\xff").text(9).is_err());
    }
}
