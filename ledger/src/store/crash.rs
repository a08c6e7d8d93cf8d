//! A store that dies: after a given number of writes nothing more gets through, as when the process or the machine stops.

use parking_lot::Mutex;

use super::memory::{MemoryStore, Rows};
use super::{Batch, Column, Direction, Durability, Read, Store, StoreError, Visitor};

/// What a crash leaves of writes that were not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unsynced {
    /// All: the process was killed.
    Kept,
    /// None: the power was cut.
    Lost,
}

#[derive(Debug, Default)]
struct Disk {
    current: Rows,
    synced: Rows,
    writes_left: u64,
    full: bool,
    free: Option<u64>,
}

/// The store.
#[derive(Debug)]
pub(crate) struct CrashStore(Mutex<Disk>);

impl CrashStore {
    /// Starts from `rows` and dies after `writes` writes.
    pub(crate) fn new(rows: Rows, writes: u64) -> CrashStore {
        let (current, synced) = (rows.clone(), rows);
        CrashStore(Mutex::new(Disk { current, synced, writes_left: writes, full: false, free: None }))
    }

    /// What a restart finds.
    pub(crate) fn restart(&self, unsynced: Unsynced) -> Rows {
        let disk = self.0.lock();
        match unsynced {
            Unsynced::Kept => disk.current.clone(),
            Unsynced::Lost => disk.synced.clone(),
        }
    }

    /// Has these rows and no others, as a store that lost its end when it was opened again.
    pub(crate) fn set_rows(&self, rows: Rows) {
        let mut disk = self.0.lock();
        (disk.current, disk.synced) = (rows.clone(), rows);
    }

    /// Says that so many bytes are free.
    pub(crate) fn set_free(&self, free: u64) {
        self.0.lock().free = Some(free);
    }

    /// Refuses writes for want of space, or takes them again.
    pub(crate) fn set_full(&self, full: bool) {
        self.0.lock().full = full;
    }
}

impl Read for CrashStore {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.0.lock().current.get(column, key)
    }

    fn scan(
        &self,
        column: Column,
        from: &[u8],
        direction: Direction,
        visit: &mut Visitor<'_>,
    ) -> Result<(), StoreError> {
        let rows = self.0.lock().current.clone();
        rows.scan(column, from, direction, visit)
    }
}

impl Disk {
    /// Counts one more write; an error when it died before.
    fn write(&mut self) -> Result<(), StoreError> {
        self.writes_left = self.writes_left.checked_sub(1).ok_or(StoreError::Io("crashed".into()))?;
        Ok(())
    }
}

impl Store for CrashStore {
    fn write(&self, batch: Batch, durability: Durability) -> Result<(), StoreError> {
        let mut disk = self.0.lock();
        if disk.full {
            return Err(StoreError::Full);
        }
        disk.write()?;
        disk.current.apply(batch);
        if durability == Durability::Synced {
            disk.synced = disk.current.clone();
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        let mut disk = self.0.lock();
        disk.write()?;
        disk.synced = disk.current.clone();
        Ok(())
    }

    fn snapshot(&self, work: &mut dyn FnMut(&dyn Read)) -> Result<(), StoreError> {
        MemoryStore::new(self.restart(Unsynced::Kept)).snapshot(work)
    }

    fn recover(&self) -> Result<(), StoreError> {
        if self.0.lock().full { Err(StoreError::Full) } else { Ok(()) }
    }

    fn clear(&self, column: Column) -> Result<(), StoreError> {
        let mut disk = self.0.lock();
        disk.write()?;
        disk.current.clear(column);
        disk.synced.clear(column);
        Ok(())
    }

    fn purge(&self, _: &[(Column, Vec<u8>)]) -> Result<(), StoreError> {
        self.0.lock().write()
    }

    fn free_space(&self) -> Option<u64> {
        self.0.lock().free
    }
}
