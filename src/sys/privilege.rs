//! What this process may do, as `/proc/self` says. Asked once a session, by the receiver and the sender.

use nix::unistd::geteuid;

/// Number of the capability to administer the system: `trusted.*` and most of `security.*` need it.
pub const CAP_SYS_ADMIN: u32 = 21;
/// Number of the capability to give files capabilities.
pub const CAP_SETFCAP: u32 = 31;

/// See the module's comment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Privilege {
    /// Effective capabilities, one bit each (capabilities(7)).
    pub capabilities: u64,
    /// Users are the whole system's: the process is in no user namespace of its own.
    pub whole_system: bool,
    /// The permission bits that new files do not get, where they can be told.
    pub umask: Option<u32>,
}

impl Privilege {
    /// Of this process, now.
    pub fn of_process() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let capabilities = field("CapEff:").and_then(|hex| u64::from_str_radix(hex, 16).ok());
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        Self {
            // Without /proc the user number has to do.
            capabilities: capabilities.unwrap_or(if geteuid().is_root() { u64::MAX } else { 0 }),
            whole_system: map.is_empty() || map.split_whitespace().eq(["0", "0", "4294967295"]),
            umask: field("Umask:").and_then(|octal| u32::from_str_radix(octal, 8).ok()),
        }
    }

    /// Whether it has a capability over the whole system.
    pub fn can(self, capability: u32) -> bool {
        self.whole_system && self.capabilities & (1 << capability) != 0
    }
}
