//! What a person sees: progress while it runs, the table, the report, the comparison of two runs. Nothing here measures.

pub mod compare;
pub mod html;
pub mod progress;
mod svg;
pub mod table;
