//! Every limit of the project, in one place, each with its reason.
//!
//! Decoders refuse what is beyond; senders never make it.

use std::time::Duration;

/// Longest name of an entry: `NAME_MAX` of every Linux filesystem.
pub const NAME_BYTES_MAX: usize = 255;

/// Longest path relative to a root. Beyond `PATH_MAX` (4096), since directories are walked by descriptor; a 16-bit length on the wire.
pub const PATH_BYTES_MAX: usize = 65_535;

/// Longest target of a symbolic link: `PATH_MAX` without its NUL.
pub const LINK_TARGET_BYTES_MAX: usize = 4095;

/// Content of a file up to here goes inside one frame; what is larger goes through staging in pieces, so that it holds no cycle up and no buffer
/// has to be larger than this.
pub const INLINE_FILE_BYTES_MAX: usize = 512 * 1024;

/// Two shapes, each a number and a byte.
pub const SHAPES_BYTES_MAX: usize = 22;

/// What a receiver copies and hashes for a patch before it looks for other work: some milliseconds.
pub const PATCH_SLICE_BYTES: u64 = 8 * 1024 * 1024;

/// Patches of one session that are not complete, each with two open files. What is beyond waits for one that is sealed, or is sent whole.
pub const PATCHES_MAX: usize = 256;

/// Copies and holes of a patch that wait; what is beyond is done at once.
pub const PATCH_PIECES_MAX: usize = 64 * 1024;

/// What of a patch is read, hashed and written at a time: it stays in the processor's second-level cache between those.
pub const PATCH_BUFFER_BYTES: u64 = 128 * 1024;

/// Ranges that one patch of a file that is written in place may have: 16 MiB of memory. A patch of more is refused, and the file comes whole.
pub const PATCH_RANGES_MAX: usize = 1024 * 1024;

/// One piece of a staged file.
pub const STAGE_CHUNK_BYTES: usize = 512 * 1024;

/// How much of it one call writes. The page cache of some filesystems takes memory in pieces as long as the call's: long ones are hardly cheaper, and dear where free
/// memory is not in one piece (perf/profiles.md).
pub const STAGE_WRITE_BYTES: usize = 128 * 1024;

/// Shorter holes inside of data are sent as the zeros that they are read as: no filesystem that matters has smaller blocks.
pub const HOLE_BYTES_MIN: u64 = 4096;

/// Files that go inside a frame are asked for holes from this length on: a call that says no costs a tenth of reading as much. Before they are read: to read a hole of
/// tmpfs through a mapping fills it.
pub const HOLES_LOOK_BYTES_MIN: usize = 32 * 1024;

/// A hole of the source that is so long is told in every delta, so that it becomes one in the mirror even where that has the zeros written out; shorter ones are told only where
/// the content differs: a message for a million of small ones is not worth it.
pub const HOLE_TOLD_BYTES_MIN: u64 = 1024 * 1024;

/// Pieces of data of a small file with holes; one with more is sent with its zeros.
pub const PUT_EXTENTS_MAX: usize = 64;

/// A file that is as long as this is asked for before it is sent: perhaps an earlier session left a part of it. Shorter ones are sent in the time that it takes to ask
/// (0.6 s at 100 Mbit/s).
pub const RESUME_BYTES_MIN: u64 = 8 * 1024 * 1024;

/// Parts of large files that a receiver keeps for the next session. One for each content connection is usual.
pub const PARTIALS_KEPT_MAX: usize = 64;

/// How long it keeps them: a link that is down for the night.
pub const PARTIAL_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// From here on content that is compared, or goes whole in a frame, is mapped, below it is read: `pread` wins below 64 to 128 KiB, mapping above. Pieces of
/// large files are read, see perf/delta.md.
pub const MMAP_BYTES_MIN: u64 = 128 * 1024;

/// Longest name of an extended attribute: `XATTR_NAME_MAX`.
pub const ATTR_NAME_BYTES_MAX: usize = 255;

/// Longest value of one: `XATTR_SIZE_MAX`.
pub const ATTR_VALUE_BYTES_MAX: usize = 64 * 1024;

/// All attributes of an entry together, names and lengths included. Three of the longest values and many short ones; and they, what came before them, and the
/// longest operation after them fit one frame. An entry with more is reported, and not carried.
pub const ATTRS_BYTES_MAX: usize = 240 * 1024;

/// Longest list of names of an entry's attributes: `XATTR_LIST_MAX`.
pub const ATTR_LIST_BYTES_MAX: usize = 64 * 1024;

/// How often attributes that change while they are read are read again.
pub const ATTRS_TRIES_MAX: usize = 8;

/// Filesystems beneath a source of which it is known whether they have attributes: beyond, each directory is asked for its own.
pub const ATTRS_FILESYSTEMS_MAX: usize = 1024;

/// Largest payload of one frame, before compression: one whole inline file with the largest name, path and headers fits, and so does the longest single operation.
pub const FRAME_PAYLOAD_BYTES_MAX: usize = 1024 * 1024;

/// A frame that collects small operations is sent when it is this full. Coalescing wins up to here; from 64 KiB on it is all noise.
pub const FRAME_FILL_BYTES: usize = 128 * 1024;

/// Operations of one cycle. Bounds the receiver's list of errors and the sender's memory of what is in flight.
pub const CYCLE_OPS_MAX: usize = 4 * 1024 * 1024;

/// Dirty names taken into one cycle.
pub const CYCLE_NODES_MAX: usize = 4096;

/// Directories that `--durability=file` writes one by one before an acknowledgement; what is beyond is written with its filesystem. Each is held open until then.
pub const DURABLE_DIRS_MAX: usize = 256;

/// Complete files that wait for their content to be written before they get their names, each held open: from here on one call for all is cheap for each.
pub const DURABLE_FILES_MAX: usize = 256;

/// So few files are written one by one even where one call for the filesystem could do: that may have more to write.
pub const DURABLE_FILES_BY_ONE: usize = 2;

/// Operations of a cycle that failed and are held until it is acknowledged; with more of them the next cycle waits for that.
pub const DURABLE_FAILURES_MAX: usize = 64 * 1024;

/// Objects of a mirror that are known to have kept an old content; with more of them no object's metadata is set for some cycles.
pub const OUTDATED_MAX: usize = 64 * 1024;

/// Cycles that may be on their way, not acknowledged. Enough to hide a round trip, few enough to forget after a lost link.
pub const CYCLES_IN_FLIGHT_MAX: usize = 16;

/// While so many operations beside deletions are on their way, no cycle is begun: what changes meanwhile gathers for a larger one, with less work for
/// each file. The receiver has some 20 ms to do with them, more than it takes to look at the next ones.
pub const OPS_AHEAD_MAX: usize = 1024;

/// The same as long as a first look at all of the source goes on, where nothing gathers: the next directories are listed and compared meanwhile.
pub const OPS_AHEAD_BEHIND_MAX: usize = 16 * 1024;

/// Workers, and so content connections, of one session.
pub const THREADS_MAX: usize = 256;

/// Longest include or exclude rule: `PATH_MAX`, as rsync has it.
pub const FILTER_RULE_BYTES_MAX: usize = 4095;
/// Directories that one applying thread holds open within a frame. A frame of small files rarely touches more; all threads of a session together stay well
/// below the usual 1024 descriptors for the usual number of threads.
pub const HELD_DIRS_MAX: usize = 32;

/// Directories whose permissions are loosened at one time, each held by a descriptor until its cycle ends.
pub const LOOSENED_DIRS_MAX: usize = 64;

/// Large files that one session may have in staging, complete or not. Bounds the receiver's memory of them.
pub const STAGED_FILES_MAX: usize = 4096;

/// Large files that a sender has on their way, from when they are given to a worker until their place is acknowledged; what is beyond waits. Far below what a receiver
/// takes, since one that is dropped counts no more before the receiver has heard of it.
pub const STAGES_MAX: usize = 1024;

/// Large files that all workers together have open: enough to hide a round trip, far below the usual 1024 descriptors. As many shorter ones again (below
/// [`RESUME_BYTES_MIN`]), so that these do not wait for long ones to end.
pub const STAGES_OPEN_MAX: usize = 128;

/// Connections that have not said what they want, at one time. Enough for a client that opens all its content connections at once; bounds what
/// strangers can hold.
pub const HANDSHAKES_MAX: usize = 512;

/// How long a connection may take to say what it wants.
pub const HANDSHAKE_TIME_MAX: std::time::Duration = std::time::Duration::from_secs(10);

/// How long a server may take to answer a Hello, unless a timeout is given: a session that waits for an older one to leave takes [`TAKEOVER_TIME_MAX`].
pub const GREET_TIME_MAX: Duration = Duration::from_secs(45);

/// Sessions of one receiver: each has up to [`THREADS_MAX`] threads.
pub const SESSIONS_MAX: usize = 128;

/// Directories of which a receiver remembers who wrote to them last; of more, clients that come back begin with a manifest. Some 100 bytes each.
pub const PLACES_MAX: usize = 64;

/// How long an older session of the same directory may take to say farewell to its client before its connections are cut.
pub const TAKEOVER_TIME: Duration = Duration::from_secs(2);

/// How long a new session waits then for the older one, which it has ended, to be gone. One file operation on a slow disk fits.
pub const TAKEOVER_TIME_MAX: std::time::Duration = std::time::Duration::from_secs(30);

/// How long a cycle may wait for its next file before its session ends: a client that announced more than it sends. One inline file at 2 KiB/s fits.
pub const FILES_STALL_MAX: std::time::Duration = std::time::Duration::from_secs(300);

/// How long a connection that is about to be closed is kept for the peer to read why.
pub const LINGER_TIME_MAX: std::time::Duration = std::time::Duration::from_secs(1);

/// Pause of a listener after an accept failed for want of descriptors or memory.
pub const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// Names tried for a temporary file before giving up. Names are numbered from a random start, so that one collision is rare already.
pub const TEMP_NAME_TRIES_MAX: usize = 16;
/// Room of one buffer of events: some 700 of them. From here on the system call is noise beside the events; a kernel queue at its default takes 25 reads.
pub const WATCH_BATCH_BYTES: usize = 64 * 1024;

/// Buffers of events between watcher and planner: 8 MiB when all are full. Behind them the kernel's queue takes the slack, and then it overflows.
pub const WATCH_BATCHES_MAX: usize = 128;

/// Niceness of a live mirror and of a server, unless told otherwise: on a machine with two cores the writer of 10,000 small files is slowed by half, which is the
/// kernel's own cost of telling of its changes, and not by 150 %; the mirror is equal 0.1 s later.
pub const NICE_DEFAULT: i32 = 10;

/// The watcher reads at most this often under load, so that events gather and the kernel can merge them: draining eagerly costs four to eight times the CPU.
pub const WATCH_GATHER: Duration = Duration::from_micros(500);

/// Reads in a row that need not wait for [`WATCH_GATHER`]: the few events of one small file are seen as they come.
pub const WATCH_EAGER_READS: u32 = 6;

/// A read that gave this many events is load: the next one waits.
pub const WATCH_LOAD_EVENTS: u64 = 32;

/// Pause after a read of a kernel queue that failed, which no documented cause can make happen: never a busy loop.
pub const WATCH_ERROR_PAUSE: Duration = Duration::from_secs(1);

/// Filesystems that one watcher tells apart; directories on further ones are watched by inotify.
pub const WATCH_FILESYSTEMS_MAX: usize = 4096;

/// Kernel memory of one inotify watch with the inode that it pins, in bytes.
pub const TUNE_WATCH_BYTES: u64 = 1024;

/// `fs.inotify.max_user_watches` wanted at least: a tree of a million directories, where memory allows.
pub const TUNE_WATCHES_WANTED: u64 = 1024 * 1024;

/// Share of memory (one in this many) that all watches may pin.
pub const TUNE_WATCHES_MEMORY_SHARE: u64 = 4;

/// Kernel memory of one queued event with its name, in bytes, rounded up.
pub const TUNE_EVENT_BYTES: u64 = 160;

/// `max_queued_events` wanted: 5 s of 100,000 events a second. A queue only costs what is in it.
pub const TUNE_EVENTS_WANTED: u64 = 512 * 1024;

/// Share of memory (one in this many) that one full event queue may take.
pub const TUNE_EVENTS_MEMORY_SHARE: u64 = 64;

/// `fs.fanotify.max_user_marks` wanted: the kernel's own lowest default. One mark a filesystem is in use.
pub const TUNE_MARKS_WANTED: u64 = 8192;

/// Largest file of rules that is read: more than anyone writes, and an end for `/dev/zero`.
pub const FILTER_FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Longest name of a module: one byte holds its length, and it is as long as a file's name may be.
pub const MODULE_NAME_BYTES_MAX: usize = 255;

/// Longest host name: what DNS allows.
pub const HOST_BYTES_MAX: usize = 253;
/// Longest name of a module: shown in messages, compared with a small table.
pub const MODULE_BYTES_MAX: usize = 255;

/// Longest text of a peer that reaches a person: a few lines.
pub const TEXT_BYTES_MAX: usize = 1024;

/// Largest error number of the kernel (`MAX_ERRNO`).
pub const ERRNO_MAX: i32 = 4095;

/// All of one message but its directories and its content: names, metadata, the target of a link, numbers.
pub const MESSAGE_FIELDS_BYTES_MAX: usize = 8192;

/// Longest message: a rename between two of the longest directories, a whole inline file, or a staged piece.
pub const MESSAGE_BYTES_MAX: usize = MESSAGE_FIELDS_BYTES_MAX
    + 2 * PATH_BYTES_MAX
    + if INLINE_FILE_BYTES_MAX > STAGE_CHUNK_BYTES { INLINE_FILE_BYTES_MAX } else { STAGE_CHUNK_BYTES };

/// Payloads below this are never compressed: the table's set-up costs more than the bytes.
pub const COMPRESS_BYTES_MIN: usize = 256;

/// How much of a payload is compressed first to see whether it shrinks: at the slowest stage of all, 4 KiB is 9 µs against 280 µs for a full frame.
pub const COMPRESS_SAMPLE_BYTES: usize = 4096;

/// So much has to be compressed before it is judged whether that pays on a link: some milliseconds of compressing, eight frames at least.
pub const COMPRESS_JUDGED_BYTES: u64 = 1024 * 1024;

/// While it does not pay, it is tried again after so much was sent: 2 % of the time that it would take.
pub const COMPRESS_TRIAL_BYTES: u64 = 64 * 1024 * 1024;

/// Frames waiting inside an in-process link, one way.
pub const LOCAL_QUEUE_FRAMES_MAX: usize = 64;

/// Their bytes. At least one frame always passes.
pub const LOCAL_QUEUE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes of frames that a link holds for its user because they came while it was blocked in sending. Beyond it the link stops reading: two peers
/// that both get here, each sending without end and reading nothing, are parted by the socket's timeout.
pub const INBOX_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The same of a server's links, where whoever connects decides how many there are: a client that is blocked goes on reading, so the server need not. At least one frame.
pub const SERVER_INBOX_BYTES_MAX: usize = 1024 * 1024;

/// Memory of buffers that a link keeps for reuse: a few of the largest frames, or many small ones.
pub const POOL_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Queued frames go to the kernel as soon as they are this many bytes: from here on a larger send gains nothing.
pub const SEND_GATHER_BYTES: usize = 64 * 1024;

/// Bytes that a link queues beyond what the kernel took before its user is blocked.
pub const SEND_QUEUE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Pieces (two a frame) that go in one send: 64 frames. The kernel takes 1024.
pub const SEND_PIECES_MAX: usize = 128;

/// A frame is received into its own memory as long as it lacks so many bytes; others by way of a buffer, which takes many small ones at once.
pub const DIRECT_BYTES_MIN: usize = 64 * 1024;

/// One read of a socket under epoll.
pub const RECEIVE_BYTES: usize = 128 * 1024;

/// Receive buffers of one ring; a power of two. Few and long: 4 of 128 KiB carry 128 KiB frames twice as fast as 16 of 32 KiB, and small ones no slower.
pub const RING_BUFFERS: u16 = 4;

/// Length of each: 512 KiB together.
pub const RING_BUFFER_BYTES: usize = 131072;

/// Entries of a ring's submission queue: a receive, a poll, a send and a cancel are all it ever holds.
pub const RING_ENTRIES: u32 = 8;

/// Entries of its completion queue: every receive buffer once, and as many again for all else.
pub const RING_COMPLETIONS: u32 = 64;

/// How long a peer may leave sent bytes or keepalive probes unanswered by its kernel before the connection counts as lost, unless a timeout is given.
pub const SOCKET_SILENCE_MAX: std::time::Duration = std::time::Duration::from_secs(60);

/// Smallest block of a signature: a page, which is what databases and virtual machines write in place. A changed byte costs one block.
pub const DELTA_BLOCK_BYTES_MIN: u64 = 4096;

/// Smallest file that goes as a delta although it would fit into one message: several blocks, so that a delta can be worth its head.
pub const SMALL_DELTA_BYTES_MIN: u64 = 16 * 1024;

/// Largest block of a signature: two of them, and as much again, are held in memory while a delta is made.
pub const DELTA_BLOCK_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Blocks grow so that a new signature has no more than this many: 4 KiB up to files of 2 GiB, 64 KiB for 20 GiB. 12 MiB in memory.
pub const SIGNATURE_BLOCKS_WANTED: u64 = 512 * 1024;

/// Blocks of any signature. Twice what is wanted, so that a file that grows by appending keeps its block length, and so its deltas, for a while.
/// Longer files than this many of the largest blocks (16 TiB) have no signature and are sent whole.
pub const SIGNATURE_BLOCKS_MAX: u64 = 2 * SIGNATURE_BLOCKS_WANTED;

/// A file that shrinks keeps the block length of its base while it is at most this many times what its own length asks for.
pub const DELTA_BLOCK_EXCESS_MAX: u64 = 4;

/// New content is read in pieces of this many bytes at least while a delta is made: large enough to amortise a call, small enough for the cache.
pub const DELTA_READ_BYTES: usize = 256 * 1024;

/// Longest literal of one step of a delta. Half of a staged piece, so that a message carries one with room for copies beside it.
pub const DELTA_LITERAL_BYTES_MAX: usize = 256 * 1024;

/// So much of the new content a delta describes before that is sent, however few bytes it takes: the receiver makes it while the sender looks at what follows.
pub const DELTA_AHEAD_BYTES: u64 = 8 * 1024 * 1024;

/// Places of the search's table that are looked at for one hash. The table is half full at most, and then longer chains are rare; equal rolling hashes are an
/// attack.
pub const DELTA_CHAIN_MAX: usize = 16;

/// Strong hashes that the search may take on suspicion beyond one a block searched and two for each success.
pub const DELTA_CHECKS_FREE: u64 = 64;

/// The search gets sparser, by one block skipped for each one searched, whenever it has searched this much in vain.
pub const DELTA_BARREN_BYTES: u64 = 16 * 1024 * 1024;

/// Blocks skipped for each one searched at the most. Content that moved is found at its first block searched, so that it costs at most this many of its blocks.
pub const DELTA_SKIP_BLOCKS_MAX: u64 = 15;

/// Signatures kept of what the mirror holds, all together: some 40 GiB of content in blocks of 4 KiB.
pub const SIGNATURE_CACHE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Files in one question for digests: enough that its way and its answer are nothing beside opening them.
pub const SUM_FILES_MAX: usize = 128;

/// Bytes of a file in one question for digests. A larger file is asked for part by part, so that the asker alone sets the pace; a part this long hides the round trip.
pub const SUM_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// Questions for digests and looks that one connection may leave unanswered: each waits until there is nothing else to do.
pub const SUMS_WAITING_MAX: usize = 64;

/// A file of as many bytes is signed when it has been sent, if it is the only large one: shorter ones are signed in less time than anybody would notice.
pub const SIGN_LATER_BYTES_MIN: u64 = 64 * 1024 * 1024;

/// Share of memory (one in this many) that a file may fill to be signed when it has been sent: it is read again, and should be in the page cache then.
pub const SIGN_LATER_MEMORY_SHARE: u64 = 4;

/// Signatures that a worker asks for and has not got, each held in memory: see [`SIGNATURE_BLOCKS_MAX`].
pub const SIGNS_ASKED_MAX: usize = 4;

/// What the mirror has of a file, to be worth a question for its signature.
pub const SIGN_BASE_BYTES_MIN: u64 = 64 * 1024;

/// What is read and digested before other work is looked for: less than a millisecond from memory, some from a disk.
pub const SUM_SLICE_BYTES: u64 = 1024 * 1024;

/// One read of a content that is digested: stays in the cache of the core until it is.
pub const SUM_READ_BYTES: usize = 128 * 1024;

/// Entries in one part of the answer to a look.
pub const LOOK_ENTRIES_MAX: usize = 4096;

/// A part of the answer to a look is sent when it is this long: with one more of the longest entries it fits into any frame.
pub const LOOK_FILL_BYTES: usize = 64 * 1024;

/// Operations of cycles remembered while a mirror is scrubbed, to tell what was under way from what is wrong; with more, what differs is looked at again.
pub const SCRUB_RECENT_OPS_MAX: usize = 256 * 1024;

/// How often one entry is looked at again in one pass of a scrub before it is left for the next.
pub const SCRUB_TRIES_MAX: u32 = 10;

/// Differences of one pass that are named in the log; more are only counted.
pub const SCRUB_NAMED_MAX: u64 = 1000;

const _: () = {
    assert!(SUM_FILES_MAX * (NAME_BYTES_MAX + 24) + PATH_BYTES_MAX <= MESSAGE_BYTES_MAX);
    assert!(LOOK_FILL_BYTES + LINK_TARGET_BYTES_MAX + NAME_BYTES_MAX + 256 <= MESSAGE_BYTES_MAX);
    assert!(DELTA_BLOCK_BYTES_MIN.is_power_of_two() && DELTA_BLOCK_BYTES_MAX.is_power_of_two());
    assert!(SIGNATURE_BLOCKS_MAX <= u32::MAX as u64 / 2);
    assert!(DELTA_LITERAL_BYTES_MAX + 4096 <= STAGE_CHUNK_BYTES);
    assert!(HANDSHAKES_MAX > THREADS_MAX);
    assert!(GREET_TIME_MAX.as_secs() > TAKEOVER_TIME.as_secs() + TAKEOVER_TIME_MAX.as_secs());
    assert!(RING_BUFFERS.is_power_of_two() && RING_COMPLETIONS >= 2 * RING_BUFFERS as u32 + 8);
    assert!(SEND_QUEUE_BYTES_MAX >= FRAME_PAYLOAD_BYTES_MAX && SEND_PIECES_MAX <= 1024);
    assert!(FRAME_FILL_BYTES + 8 + ATTRS_BYTES_MAX + MESSAGE_BYTES_MAX <= FRAME_PAYLOAD_BYTES_MAX);
    assert!(ATTRS_BYTES_MAX >= 3 * (ATTR_VALUE_BYTES_MAX + ATTR_NAME_BYTES_MAX + 5));
    assert!(MESSAGE_FIELDS_BYTES_MAX >= LINK_TARGET_BYTES_MAX + 2 * NAME_BYTES_MAX + TEXT_BYTES_MAX + 256);
    assert!(LOCAL_QUEUE_BYTES_MAX >= FRAME_PAYLOAD_BYTES_MAX);
    assert!(FRAME_PAYLOAD_BYTES_MAX >= INLINE_FILE_BYTES_MAX + 2 * PATH_BYTES_MAX + 4096);
    assert!(FRAME_PAYLOAD_BYTES_MAX >= STAGE_CHUNK_BYTES + 4096);
    assert!(FRAME_FILL_BYTES <= FRAME_PAYLOAD_BYTES_MAX);
    assert!(WATCH_BATCH_BYTES >= 4096);
    assert!(MMAP_BYTES_MIN as usize <= INLINE_FILE_BYTES_MAX);
};

/// How often a round of probes is widened by names that a rename or hard link points to, before the rest is copied instead of moved. Chains are rare; each
/// step is one more round trip to the workers.
pub const RENAME_PROBES_MAX: u32 = 6;

/// Directories of the mirror that are noted as tops of other filesystems: far more than are mounted in any mirror, few enough to be asked one by one. What is
/// beyond is found when a rename over it fails.
pub const BORDERS_MAX: usize = 1024;

/// Names of one object of the mirror that are noted as its hard links: some more than ext4 allows. What is beyond is linked again.
pub const LINK_NAMES_MAX: u32 = 65_536;

/// Share of memory (one in this many) that a receiver's manifest may make the planner's tree take. Twice that much is needed when a table grows.
pub const MANIFEST_MEMORY_SHARE: u64 = 4;

/// Threads of one manifest: on a disk some more than one are of use, in memory as many as there are processors.
pub const MANIFEST_THREADS_MAX: usize = 8;

/// Entries that a thread of a manifest passes on at once, and batches of them that wait: some hundred kilobytes.
pub const MANIFEST_BATCH_ENTRIES: usize = 256;
/// See [`MANIFEST_BATCH_ENTRIES`].
pub const MANIFEST_BATCHES_MAX: usize = 8;

/// Bytes of names that a manifest may bring: the tree finds them by 32 bits, and the source needs room for its own.
pub const MANIFEST_NAMES_BYTES_MAX: usize = 3 << 30;

/// How many keys of directories not known yet are remembered while directories are being listed; beyond, all directories listed then are listed again.
pub const UNKNOWN_KEYS_MAX: usize = 4096;

/// Renames of which the second half may be told later: as many as happen at the very same time.
pub const HALVES_APART_MAX: usize = 8;

/// So long after something that was written was renamed, what is found in a directory that is listed for the first time may be that. Then it is sent, not moved.
pub const HALF_OPEN_NS: u64 = 600_000_000_000;

/// How many names that were written, and were gone when they were looked at, are remembered; as many to which such files were renamed, and as many of which events told
/// that something went or appeared: 24 KiB.
pub const WRITTEN_NAMES_GONE_MAX: usize = 1024;

/// How many objects that were told to have changed are remembered while names are being looked at; beyond, all names looked at then are looked at again.
/// Their table has 1.5 MiB then.
pub const TOLD_OBJECTS_MAX: usize = 32_768;

/// So many directories, and so many files, of the first directory of a filesystem have to agree on where a handle holds the inode number.
pub const HANDLE_SAMPLES_MAX: usize = 4;

/// A directory to be listed counts as so many names of a cycle: it stands for as many entries on average.
pub const SCAN_WEIGHT: usize = 64;

/// Deletions within this time are one burst, which `--max-delete` bounds: long enough for an `rm -rf` that is under way, short enough that a day's ordinary
/// deletions do not add up.
pub const DELETE_BURST_NS: u64 = 60_000_000_000;

/// A root that loses all its entries at once is held if so many entries would be deleted: the only file of a spool comes and goes.
pub const EMPTIED_ENTRIES_MIN: u64 = 2;

/// What goes from the root is judged together when nothing has gone from it for so long: a loop of renames has no such gap, though others have the processor for a while.
pub const BURST_OF_ROOT_QUIET_NS: u64 = 50_000_000;

/// But so long at most: a root from which something goes all the time is used so.
pub const BURST_OF_ROOT_MAX_NS: u64 = 2_000_000_000;

/// After so long what goes from the root is judged for itself again.
pub const BURST_OF_ROOT_OVER_NS: u64 = 1_000_000_000;

/// Clients of a control socket at one time; more wait in the kernel. A few people and scripts.
pub const CONTROL_CLIENTS_MAX: usize = 32;

/// Longest request of a control client: a word and a number.
pub const CONTROL_REQUEST_BYTES_MAX: usize = 256;

/// How long a control client waits for a status before it gets the last one known.
pub const CONTROL_PATIENCE: Duration = Duration::from_secs(2);

/// How long a control client may take for its line, or for taking the answer: one that gets hardly any of a busy processor is not sent away.
pub const CONTROL_CLIENT_TIME_MAX: Duration = Duration::from_secs(10);

/// Failing entries, and held deletions, that a status names: what a person reads, and a bound for the answer.
pub const STATUS_PATHS_MAX: usize = 100;

/// Longest path that a status shows; the rest is left out. One of `PATH_MAX` fits.
pub const STATUS_PATH_CHARS_MAX: usize = 4096;

/// Longest answer that a control client reads: twice as many of the longest paths as a status has, each character of four bytes.
pub const CONTROL_REPLY_BYTES_MAX: usize = 4 * STATUS_PATH_CHARS_MAX * 2 * STATUS_PATHS_MAX + 1024 * 1024;

/// Lines that a failure log gets in one second: a full disk under a million files must not fill another one.
pub const FAILURE_LINES_PER_SECOND_MAX: u64 = 500;

/// Names that a round looks at for lost events, beside those that events tell, in directories of at least one: 5 ms of two workers. What events tell
/// meanwhile waits no longer.
pub const SWEEP_NAMES_MAX: usize = 4096;

/// Longest timeout: what `TCP_KEEPIDLE` takes.
pub const TIMEOUT_SECONDS_MAX: u32 = 32_767;

/// While so many names wait to be looked at, new ones are left to a listing of their directory: a receiver that takes nothing for long must not make the
/// sender remember each temporary file. 100 MiB of nodes.
pub const NAMES_WAITING_MAX: usize = 1024 * 1024;

/// Numbers of what a sender parked that it knows to be its own, with cycles that fail again and again; some 1 MiB.
pub const PARKS_MAX: usize = 65_536;

/// Names of its own that a receiver could not remove and tries again with each cycle; each holds a descriptor. More are left to the next session.
pub const LEFTOVERS_MAX: usize = 64;
