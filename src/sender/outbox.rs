//! What goes out on the control link, in order: cycles, one complete before the next begins, and requests for manifests between them.
//!
//! Invariant: a cycle's Begin is sent when it comes to the front, its Close when all its files are reported; nothing behind it is sent before its Commit.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::error::Result;
use crate::model::cycle::Cycle;
use crate::model::path::RelPath;
use crate::wire::session::ControlClient;
use crate::wire::{Link, Payload};
use crate::work::link::send;

/// A cycle that is going out.
struct Going {
    cycle: Arc<Cycle>,
    begun: bool,
    /// Batches and placings with workers that are not reported.
    outstanding: usize,
    /// FILES that were sent so far, on all connections.
    sent: u32,
}

enum Item {
    Cycle(Going),
    List(RelPath),
}

/// What the outbox asks for when it comes to it.
pub(super) trait Feed {
    /// Reads and packs the batches of a cycle that are not with workers; how many files were sent.
    ///
    /// # Errors
    /// Of the link.
    fn pack(&mut self, link: &mut Link, payload: &mut Payload, cycle: &Cycle) -> Result<u32>;

    /// All files of the cycle are reported: which operations of POST cannot be done, by index, rising.
    fn unfit(&mut self, cycle: &Cycle) -> Vec<u32>;
}

/// See the module's comment.
#[derive(Default)]
pub(super) struct Outbox {
    queue: VecDeque<Item>,
}

impl Outbox {
    /// Whether all has been sent.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Cycles and requests that are not sent to their end.
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Adds a cycle of which `outstanding` batches and placings are with workers.
    pub(super) fn cycle(&mut self, cycle: Arc<Cycle>, outstanding: usize) {
        self.queue.push_back(Item::Cycle(Going { cycle, begun: false, outstanding, sent: 0 }));
    }

    /// Adds a request for a manifest.
    pub(super) fn list(&mut self, dir: RelPath) {
        self.queue.push_back(Item::List(dir));
    }

    /// A worker reports a batch, or placings, of which `sent` files were sent.
    pub(super) fn reported(&mut self, number: u64, sent: u32) {
        let going = self.queue.iter_mut().find_map(|item| match item {
            Item::Cycle(going) if going.cycle.number == number => Some(going),
            _ => None,
        });
        if let Some(going) = going {
            going.outstanding -= 1;
            going.sent += sent;
        }
    }

    /// Sends what can be sent now.
    ///
    /// # Errors
    /// Of the link.
    pub(super) fn send(&mut self, link: &mut Link, payload: &mut Payload, checker: &mut ControlClient, feed: &mut impl Feed) -> Result<()> {
        while let Some(item) = self.queue.front_mut() {
            match item {
                Item::List(dir) => {
                    checker.sent_list();
                    payload.list(dir);
                }
                Item::Cycle(going) => {
                    if !going.begun {
                        going.begun = true;
                        checker.sent_begin(going.cycle.number);
                        begin(link, payload, going)?;
                        going.sent += feed.pack(link, payload, &going.cycle)?;
                    }
                    if going.outstanding > 0 {
                        break;
                    }
                    let unfit = feed.unfit(&going.cycle);
                    end(link, payload, going, &unfit)?;
                }
            }
            self.queue.pop_front();
            send_if_full(link, payload)?;
        }
        send(link, payload)
    }
}

fn begin(link: &mut Link, payload: &mut Payload, going: &mut Going) -> Result<()> {
    payload.begin(going.cycle.number);
    for op in &going.cycle.pre {
        payload.attrs_of(op, &going.cycle.attrs);
        payload.op(op);
        send_if_full(link, payload)?;
    }
    payload.open();
    for (index, op) in &going.cycle.metas {
        payload.attrs_of(op, &going.cycle.attrs);
        payload.file(*index, op);
        going.sent += 1;
        send_if_full(link, payload)?;
    }
    Ok(())
}

fn end(link: &mut Link, payload: &mut Payload, going: &Going, unfit: &[u32]) -> Result<()> {
    payload.close(going.sent);
    for (index, op) in going.cycle.post.iter().enumerate() {
        if unfit.binary_search(&(index as u32)).is_ok() {
            payload.skip();
        } else {
            payload.attrs_of(op, &going.cycle.attrs);
            payload.op(op);
        }
        send_if_full(link, payload)?;
    }
    payload.commit();
    Ok(())
}

fn send_if_full(link: &mut Link, payload: &mut Payload) -> Result<()> {
    if payload.is_full() { send(link, payload) } else { Ok(()) }
}
