//! What `status` tells: plain values with the names that the JSON has. Names and meanings stay; what is new is added.

use serde::{Deserialize, Serialize};

/// The version of these names: raised only if one of them changes its meaning.
pub const STATUS_VERSION: u32 = 1;

/// Who is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Status {
    /// A mirror.
    Mirror(MirrorStatus),
    /// A server.
    Serve(ServeStatus),
}

/// What a mirror is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Connecting for the first time.
    #[default]
    Starting,
    /// The receiver tells what it has.
    Listing,
    /// The whole source is looked at, and what differs is sent.
    Syncing,
    /// The mirror has been equal, and follows the source.
    Live,
    /// The connection is lost; it is made again.
    Reconnecting,
    /// Deletions are held, or the source is not there.
    Held,
    /// It was asked to end.
    Stopping,
}

/// A mirror.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct MirrorStatus {
    /// [`STATUS_VERSION`].
    pub version: u32,
    /// Version of the program.
    pub program: String,
    /// Its process.
    pub pid: u32,
    /// What is mirrored.
    pub source: String,
    /// What it is at.
    pub state: State,
    /// Why, where that needs a word.
    pub reason: Option<String>,
    /// Seconds since it was started.
    pub uptime_seconds: f64,
    /// Seconds since these figures were taken: more than 0 while there is no session, or it is too busy to answer.
    pub age_seconds: f64,
    /// How changes are found, by mount.
    pub watch: Vec<WatchStatus>,
    /// Events read from the kernel.
    pub events: u64,
    /// Overflows of a queue of the kernel.
    pub overflows: u64,
    /// Entries that wait to be looked at.
    pub dirty: u64,
    /// Entries that wait for a time: to settle, or for another try.
    pub delayed: u64,
    /// Entries that are known of the mirror.
    pub entries: u64,
    /// One for each destination.
    pub receivers: Vec<ReceiverStatus>,
}

/// How one mount is watched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchStatus {
    /// The first directory that was watched there.
    pub place: String,
    /// Type of its filesystem.
    pub filesystem: String,
    /// `fanotify` or `inotify`.
    pub backend: String,
    /// What it can do there, or why it is not a better one.
    pub detail: String,
}

/// One destination.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ReceiverStatus {
    /// Where it is.
    pub dest: String,
    /// `io_uring`, `epoll` or `in-process`; empty without a connection.
    pub link: String,
    /// What it is at.
    pub state: State,
    /// Age of the oldest change that was noticed and is not acknowledged; 0: there is none. Without a connection at least as long as that lasts. Entries that
    /// fail, and deletions that are held, do not count.
    pub lag_seconds: f64,
    /// The last cycle that was made.
    pub cycle_sent: u64,
    /// The last one that is acknowledged.
    pub cycle_acknowledged: u64,
    /// How much waits where.
    pub queues: Queues,
    /// Files whose content has to be sent, found so far.
    pub files_found: u64,
    /// Their bytes.
    pub bytes_found: u64,
    /// Files whose content was sent.
    pub files_sent: u64,
    /// Their bytes.
    pub bytes_sent: u64,
    /// Other operations that were sent.
    pub operations: u64,
    /// Entries deleted.
    pub deleted: u64,
    /// Bytes on the wire.
    pub wire_bytes: u64,
    /// Operations and reads that failed and were, or will be, tried again.
    pub retries: u64,
    /// Connections made again.
    pub reconnects: u64,
    /// How often the mirror was gone on with after that, without its manifest.
    pub resumed: u64,
    /// Entries that fail now.
    pub failing: u64,
    /// Some of them.
    pub failures: Vec<FailureStatus>,
    /// Deletions that are held.
    pub held: Option<HeldStatus>,
}

/// How much waits where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Queues {
    /// Cycles and requests that are not sent to their end.
    pub outbox: u64,
    /// Cycles that are not acknowledged.
    pub in_flight: u64,
    /// Files and questions with workers.
    pub workers: u64,
}

/// An entry that fails.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FailureStatus {
    /// The entry, relative to the source; what is no text in it as octal numbers.
    pub path: String,
    /// What failed.
    pub operation: String,
    /// Why, as the system has it.
    pub errno: i32,
    /// Why, in words.
    pub cause: String,
    /// Tries so far.
    pub tries: u32,
    /// When it is tried again; `None`: when something changes there.
    pub next_try_seconds: Option<f64>,
}

/// Deletions that are held.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeldStatus {
    /// `emptied`, `max_delete` or `source_lost`.
    pub cause: String,
    /// The same in words, with what ends it.
    pub reason: String,
    /// Entries that are not deleted.
    pub count: u64,
    /// Since when.
    pub since_seconds: f64,
    /// Some of them; of a directory only itself.
    pub paths: Vec<String>,
}

/// A server.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ServeStatus {
    /// [`STATUS_VERSION`].
    pub version: u32,
    /// Version of the program.
    pub program: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since it was started.
    pub uptime_seconds: f64,
    /// What it listens on.
    pub listen: Vec<String>,
    /// What it offers.
    pub modules: Vec<ModuleStatus>,
    /// Who mirrors into it now.
    pub sessions: Vec<SessionStatus>,
}

/// A module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleStatus {
    /// Its name.
    pub name: String,
    /// Its directory.
    pub path: String,
    /// It cannot be changed.
    pub read_only: bool,
}

/// A session of a server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// The module.
    pub module: String,
    /// The directory in it; `.` for the module's root.
    pub path: String,
    /// Its connections.
    pub connections: u64,
    /// The last cycle that was begun.
    pub cycle: u64,
    /// Seconds since it began.
    pub age_seconds: f64,
}
