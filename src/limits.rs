//! Every limit of the project, in one place, each with its reason.
//!
//! Decoders refuse what is beyond; senders never make it.

/// Longest name of an entry: `NAME_MAX` of every Linux filesystem.
pub const NAME_BYTES_MAX: usize = 255;

/// Longest path relative to a root. Beyond `PATH_MAX` (4096), since directories are walked by descriptor; a 16-bit length on the wire.
pub const PATH_BYTES_MAX: usize = 65_535;

/// Longest target of a symbolic link: `PATH_MAX` without its NUL.
pub const LINK_TARGET_BYTES_MAX: usize = 4095;

/// Content of a file up to here goes inside one frame; what is larger goes through staging in pieces, so that it holds no cycle up and no buffer
/// has to be larger than this.
pub const INLINE_FILE_BYTES_MAX: usize = 512 * 1024;

/// One piece of a staged file.
pub const STAGE_CHUNK_BYTES: usize = 512 * 1024;

/// From here on content is mapped, below it is read: `pread` wins below 64 to 128 KiB, mapping above.
pub const MMAP_BYTES_MIN: u64 = 128 * 1024;

/// Largest payload of one frame, before compression: one whole inline file with the largest name, path and headers fits, and so does the longest single operation.
pub const FRAME_PAYLOAD_BYTES_MAX: usize = 1024 * 1024;

/// A frame that collects small operations is sent when it is this full. Coalescing wins up to here; from 64 KiB on it is all noise.
pub const FRAME_FILL_BYTES: usize = 128 * 1024;

/// Operations of one cycle. Bounds the receiver's list of errors and the sender's memory of what is in flight.
pub const CYCLE_OPS_MAX: usize = 4 * 1024 * 1024;

/// Dirty names taken into one cycle.
pub const CYCLE_NODES_MAX: usize = 4096;

/// Cycles that may be on their way, not acknowledged. Enough to hide a round trip, few enough to forget after a lost link.
pub const CYCLES_IN_FLIGHT_MAX: usize = 16;

/// Workers, and so content connections, of one session.
pub const THREADS_MAX: usize = 256;

/// Longest include or exclude rule: `PATH_MAX`, as rsync has it.
pub const FILTER_RULE_BYTES_MAX: usize = 4095;

/// Largest file of rules that is read: more than anyone writes, and an end for `/dev/zero`.
pub const FILTER_FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Longest name of a module: one byte holds its length, and it is as long as a file's name may be.
pub const MODULE_NAME_BYTES_MAX: usize = 255;

/// Longest host name: what DNS allows.
pub const HOST_BYTES_MAX: usize = 253;

const _: () = {
    assert!(FRAME_PAYLOAD_BYTES_MAX >= INLINE_FILE_BYTES_MAX + 2 * PATH_BYTES_MAX + 4096);
    assert!(FRAME_PAYLOAD_BYTES_MAX >= STAGE_CHUNK_BYTES + 4096);
    assert!(FRAME_FILL_BYTES <= FRAME_PAYLOAD_BYTES_MAX);
    assert!(MMAP_BYTES_MIN as usize <= INLINE_FILE_BYTES_MAX);
};
