//! What happens, for those who watch: blocks and their transactions, which are on the ledger for ever, and mounts, of which
//! this node remembers the latest. A watcher that was away says where it was and misses nothing that is still known.

use super::history::Names;
use super::{Node, trouble};
use crate::error::{Error, Kind, Result};
use crate::name::BucketName;
use crate::rest::wire::{self, Event};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// Mounts and unmounts that are remembered.
const KEPT: usize = 1024;

/// What this node remembers itself, and the bell that rings for every event.
pub(super) struct Events {
    /// Tells the memory of this process from another's.
    session: u64,
    kept: Mutex<Kept>,
    bell: watch::Sender<u64>,
}

#[derive(Default)]
struct Kept {
    /// Number of the next one.
    next: u64,
    /// Each with the height of the ledger when it happened.
    events: VecDeque<(u64, Event)>,
}

/// Where a watcher is: the next block, how much of it was told, and the next of this node's own events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    height: u64,
    /// 0: nothing of that block; 1: the block itself; then one more for each of its transactions.
    told: u64,
    session: u64,
    own: u64,
}

impl Cursor {
    /// One that is ahead of the ledger, which was made anew or restored since, waits for what comes next.
    fn not_after(&mut self, tip: u64) {
        if (self.height, self.told) > (tip + 1, 0) {
            (self.height, self.told) = (tip + 1, 0);
        }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{:x}-{}", self.height, self.told, self.session, self.own)
    }
}

impl FromStr for Cursor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Cursor> {
        let parse = || {
            let mut parts = text.split('-');
            let mut number = |radix| u64::from_str_radix(parts.next()?, radix).ok();
            let cursor = Cursor { height: number(10)?, told: number(10)?, session: number(16)?, own: number(10)? };
            parts.next().is_none().then_some(cursor)
        };
        parse().ok_or_else(|| Error::new(Kind::Usage, format!("{text:?} is not the id of an event")))
    }
}

impl Events {
    pub(super) fn new() -> Events {
        let session = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
        Events { session, kept: Mutex::default(), bell: watch::Sender::new(0) }
    }

    /// Something is new on the ledger.
    pub(super) fn ring(&self) {
        self.bell.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn tell(&self, height: u64, event: Event) {
        let mut kept = self.kept.lock();
        kept.next += 1;
        kept.events.push_back((height, event));
        if kept.events.len() > KEPT {
            kept.events.pop_front();
        }
        drop(kept);
        self.ring();
    }

    pub(super) fn mounted(&self, height: u64, bucket: &BucketName, mountpoint: &Path, read_only: bool) {
        let (bucket, mountpoint) = (bucket.clone(), mountpoint.to_owned());
        self.tell(height, Event::Mount(wire::MountEvent { v: wire::V, time: now(), bucket, mountpoint, read_only }));
    }

    pub(super) fn unmounted(&self, height: u64, bucket: &BucketName, mountpoint: &Path, detached: bool) {
        let (bucket, mountpoint) = (bucket.clone(), mountpoint.to_owned());
        self.tell(height, Event::Unmount(wire::UnmountEvent { v: wire::V, time: now(), bucket, mountpoint, detached }));
    }

    /// Own events from the cursor on, up to the first that happened after a block that was not told yet; of those that are
    /// forgotten, and of another process's, nothing is known.
    fn own_after(&self, cursor: &mut Cursor) -> Vec<(Cursor, Event)> {
        let kept = self.kept.lock();
        let oldest = kept.next - kept.events.len() as u64;
        if cursor.session != self.session || cursor.own > kept.next {
            (cursor.session, cursor.own) = (self.session, oldest);
        }
        let mut told = Vec::new();
        let (first, at) = (cursor.own, cursor.height);
        let next = (oldest..).zip(&kept.events).filter(|(number, _)| *number >= first);
        for (number, (_, event)) in next.take_while(|(_, (height, _))| *height < at) {
            cursor.own = number + 1;
            told.push((*cursor, event.clone()));
        }
        told
    }
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

impl Node {
    /// Where a watcher begins that wants only what is to come.
    pub fn watch_from_now(&self) -> Cursor {
        let own = self.events.kept.lock().next;
        Cursor { height: self.height() + 1, told: 0, session: self.events.session, own }
    }

    /// Height of the newest block.
    pub(super) fn height(&self) -> u64 {
        self.ledger.tip().header.height
    }

    /// Changes with every event.
    pub fn bell(&self) -> watch::Receiver<u64> {
        self.events.bell.subscribe()
    }

    /// What happened after `cursor`, which is moved: not all at once when it is much. Each comes with the place after it.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn events_after(&self, cursor: &mut Cursor) -> Result<Vec<(Cursor, Event)>> {
        /// Transactions told at once.
        const MOST: u64 = 256;
        cursor.not_after(self.height());
        let mut told = self.events.own_after(cursor);
        let Some(block) = self.ledger.block(cursor.height).map_err(trouble::ledger)? else { return Ok(told) };
        let header = &block.header;
        if cursor.told == 0 {
            cursor.told = 1;
            let event = wire::BlockEvent {
                v: wire::V,
                height: header.height,
                hash: block.hash().to_string(),
                time: wire::time(i64::try_from(header.time_us).unwrap_or(i64::MAX)),
                first_index: header.first_index,
                count: header.count,
            };
            told.push((*cursor, Event::Block(event)));
        }
        let mut names = Names::default();
        // A watcher says where it was; it may say anything.
        let next = header.first_index.saturating_add(cursor.told - 1);
        let end = header.log_size.min(next.saturating_add(MOST));
        for index in next..end {
            cursor.told += 1;
            if let Some(logged) = self.ledger.transaction_at(index).map_err(trouble::ledger)? {
                told.push((*cursor, Event::Transaction(Box::new(names.line(self, &logged)?))));
            }
        }
        if end == header.log_size {
            (cursor.height, cursor.told) = (cursor.height + 1, 0);
        }
        Ok(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_survives_the_wire() {
        let cursor = Cursor { height: 7, told: 3, session: 0xabc, own: 12 };
        assert_eq!(cursor.to_string(), "7-3-abc-12");
        assert_eq!("7-3-abc-12".parse::<Cursor>().unwrap(), cursor);
        for odd in ["", "7", "7-3-abc", "7-3-abc-12-1", "a-3-abc-12", "7-3--12", "99999999999999999999-0-0-0"] {
            assert_eq!(odd.parse::<Cursor>().unwrap_err().kind, Kind::Usage, "{odd}");
        }
    }

    #[test]
    fn own_events_are_told_once_each_and_from_the_start_to_strangers() {
        let events = Events::new();
        let name = BucketName::new("docs").unwrap();
        let told = |cursor: &mut Cursor| events.own_after(cursor).len();
        let mut watcher = Cursor { height: 1, told: 0, session: events.session, own: 0 };
        assert_eq!(told(&mut watcher), 0);
        events.mounted(0, &name, Path::new("/m"), false);
        events.unmounted(0, &name, Path::new("/m"), false);
        assert_eq!((told(&mut watcher), told(&mut watcher)), (2, 0));
        let mut stranger = Cursor { height: 1, told: 0, session: 1, own: 900 };
        assert_eq!((told(&mut stranger), told(&mut stranger)), (2, 0));
        for _ in 0..KEPT {
            events.mounted(0, &name, Path::new("/m"), false);
        }
        assert_eq!(told(&mut watcher), KEPT);
        let mut late = Cursor { height: 1, told: 0, session: events.session, own: 0 };
        assert_eq!(told(&mut late), KEPT, "the oldest are forgotten");
    }

    #[test]
    fn own_events_come_after_the_blocks_before_them() {
        let events = Events::new();
        let name = BucketName::new("docs").unwrap();
        events.mounted(5, &name, Path::new("/m"), false);
        events.unmounted(7, &name, Path::new("/m"), false);
        let mut watcher = Cursor { height: 5, told: 1, session: events.session, own: 0 };
        for (height, expect) in [(5, 0), (6, 1), (7, 0), (8, 1), (9, 0)] {
            watcher.height = height;
            assert_eq!(events.own_after(&mut watcher).len(), expect, "{height}");
        }
    }

    #[test]
    fn a_place_after_the_end_is_the_end() {
        fn check((height, told): (u64, u64), expect: (u64, u64)) {
            let mut cursor = Cursor { height, told, session: 1, own: 0 };
            cursor.not_after(7);
            assert_eq!((cursor.height, cursor.told), expect, "{height} {told}");
        }
        check((7, 3), (7, 3));
        check((8, 0), (8, 0));
        check((8, 2), (8, 0));
        check((50, 0), (8, 0));
    }
}
