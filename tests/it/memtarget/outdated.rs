//! Contents that failed to come: what is there in their place gets no other metadata while the client may not know.

use ringsync::apply::Errno;
use ringsync::delta::patch::patched;
use ringsync::limits::CYCLES_IN_FLIGHT_MAX;
use ringsync::model::meta::Meta;
use ringsync::model::op::Spot;

use crate::memtarget::{Body, MemTarget};

impl MemTarget {
    pub(super) fn content_came(&mut self, at: &Spot, done: Result<(), Errno>) -> Result<(), Errno> {
        if let Err(errno) = done
            && let Some(there) = self.resolve(&at.dir).ok().and_then(|dir| self.lookup(dir, at.name.as_name()))
            && matches!(self.nodes[&there].body, Body::File(_))
        {
            self.outdated.insert(there, (errno, self.cycle));
        }
        done
    }

    pub(super) fn current(&self, ino: u64) -> Result<(), Errno> {
        self.outdated.get(&ino).map_or(Ok(()), |(errno, _)| Err(*errno))
    }

    pub(super) fn forget_outdated(&mut self) {
        self.cycle += 1;
        let now = self.cycle;
        self.outdated.retain(|_, (_, cycle)| *cycle + CYCLES_IN_FLIGHT_MAX as u64 > now);
    }

    pub(super) fn patched(&self, at: &Spot, meta: &Meta, digest: &[u8; 32], delta: &[u8]) -> Result<Vec<u8>, Errno> {
        let dir = self.resolve(&at.dir)?;
        let there = self.lookup(dir, at.name.as_name()).ok_or(libc::ENOENT)?;
        let Body::File(base) = &self.nodes[&there].body else { return Err(libc::ESTALE) };
        patched(base, delta, meta.size, digest).map_err(|_| libc::EPROTO)?.ok_or(libc::ESTALE)
    }
}
