//! Contents that describe themselves: from the bytes alone it can be told whether they are a whole file.
//!
//! A file is a row of 32-byte records: seed, operation, length of the whole, number of the record, each a little-endian u64; the last may be cut short.

const RECORD_BYTES: usize = 32;

/// A file of `len` bytes, made by operation `op` of the run with this `seed`.
pub fn whole(seed: u64, op: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + RECORD_BYTES);
    for record in 0..len.div_ceil(RECORD_BYTES) {
        for part in [seed, op, len as u64, record as u64] {
            bytes.extend_from_slice(&part.to_le_bytes());
        }
    }
    bytes.truncate(len);
    bytes
}

/// Checks that `bytes` are one whole file; those below one record cannot tell and pass.
///
/// # Errors
/// What is wrong with them.
pub fn judge(bytes: &[u8]) -> Result<(), String> {
    let part = |at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
    let (Some(seed), Some(op), Some(len), Some(0)) = (part(0), part(8), part(16), part(24)) else {
        return if bytes.len() < RECORD_BYTES { Ok(()) } else { Err("does not begin with the first record".to_owned()) };
    };
    if len != bytes.len() as u64 {
        return Err(format!("operation {op} made {len} bytes, these are {}", bytes.len()));
    }
    match whole(seed, op, bytes.len()).iter().zip(bytes).position(|(a, b)| a != b) {
        None => Ok(()),
        Some(at) => Err(format!("operation {op}: another content from offset {at} of {len}")),
    }
}

#[test]
fn parts_and_mixtures_are_recognised() {
    let file = whole(7, 42, 5000);
    assert_eq!(judge(&file), Ok(()));
    assert_eq!(judge(&[]), Ok(()));
    for cut in [4999, 4096, 2500, 32] {
        assert!(judge(&file[..cut]).is_err(), "{cut}");
    }
    let other = whole(7, 43, 5000);
    assert!(judge(&[&file[..4096], &other[4096..]].concat()).is_err());
    assert!(judge(&[&file[..], b"x"].concat()).is_err());
    assert!(judge(&[&file[..4096], &[0; 904]].concat()).is_err());
    assert!(judge(&file[32..]).is_err());
}
