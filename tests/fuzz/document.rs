//! The test vectors of PROTOCOL.md, read out of the document itself.
//!
//! Shared by the tests that hold the document against the code and by the fuzz targets, which start from its messages.

use std::collections::BTreeMap;

/// The document.
pub const DOCUMENT: &str = include_str!("../../PROTOCOL.md");

/// A vector of the document.
pub struct Block {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// What stands behind `#`: the error, for what is wrong.
    pub error: String,
}

/// The blocks fenced as `kind`, by name.
pub fn blocks(kind: &str) -> BTreeMap<String, Block> {
    let mut found = BTreeMap::new();
    let mut lines = DOCUMENT.lines();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("```").and_then(|l| l.strip_prefix(kind)).and_then(|l| l.strip_prefix(' ')) else { continue };
        let mut error = String::new();
        let mut digits = Vec::new();
        for line in lines.by_ref().take_while(|l| !l.starts_with("```")) {
            let (hex, comment) = line.split_once('#').unwrap_or((line, ""));
            error.push_str(comment.trim());
            digits.extend(hex.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16).expect("a hex digit") as u8));
        }
        assert!(digits.len().is_multiple_of(2), "{name}: half a byte");
        let bytes = digits.chunks(2).map(|pair| pair[0] * 16 + pair[1]).collect();
        assert!(found.insert(name.to_owned(), Block { bytes, error }).is_none(), "{name} stands twice");
    }
    found
}
