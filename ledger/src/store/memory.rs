//! A store in memory, for tests and throw-away chains.

use std::collections::BTreeMap;
use std::ops::Bound;

use parking_lot::RwLock;

use super::{Batch, Column, Direction, Durability, Read, Store, StoreError, Visitor};

/// All rows, ordered by column and key.
#[derive(Debug, Clone, Default)]
pub struct Rows(pub(crate) BTreeMap<(Column, Vec<u8>), Vec<u8>>);

impl Rows {
    /// Applies a batch in its order.
    pub(crate) fn apply(&mut self, batch: Batch) {
        for (column, key, value) in batch.rows {
            match value {
                Some(value) => self.0.insert((column, key), value),
                None => self.0.remove(&(column, key)),
            };
        }
    }

    /// Removes all rows of a column.
    pub(crate) fn clear(&mut self, column: Column) {
        self.0.retain(|(other, _), _| *other != column);
    }
}

impl Read for Rows {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.get(&(column, key.to_vec())).cloned())
    }

    fn scan(
        &self,
        column: Column,
        from: &[u8],
        direction: Direction,
        visit: &mut Visitor<'_>,
    ) -> Result<(), StoreError> {
        let edge = Bound::Included((column, from.to_vec()));
        let range: Box<dyn Iterator<Item = _>> = match direction {
            Direction::Forward => Box::new(self.0.range((edge, Bound::Unbounded))),
            Direction::Backward => Box::new(self.0.range((Bound::Unbounded, edge)).rev()),
        };
        for ((found, key), value) in range {
            if *found != column || visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// The store.
#[derive(Debug, Default)]
pub struct MemoryStore {
    rows: RwLock<Rows>,
}

impl MemoryStore {
    /// A store that holds `rows`.
    pub fn new(rows: Rows) -> MemoryStore {
        MemoryStore { rows: RwLock::new(rows) }
    }

    /// What it holds.
    pub fn rows(&self) -> Rows {
        self.rows.read().clone()
    }
}

impl Read for MemoryStore {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.rows.read().get(column, key)
    }

    fn scan(
        &self,
        column: Column,
        from: &[u8],
        direction: Direction,
        visit: &mut Visitor<'_>,
    ) -> Result<(), StoreError> {
        self.rows.read().scan(column, from, direction, visit)
    }
}

impl Store for MemoryStore {
    fn write(&self, batch: Batch, _: Durability) -> Result<(), StoreError> {
        self.rows.write().apply(batch);
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn snapshot(&self, work: &mut dyn FnMut(&dyn Read)) -> Result<(), StoreError> {
        work(&self.rows());
        Ok(())
    }

    fn recover(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn clear(&self, column: Column) -> Result<(), StoreError> {
        self.rows.write().clear(column);
        Ok(())
    }

    fn purge(&self, _: &[(Column, Vec<u8>)]) -> Result<(), StoreError> {
        Ok(())
    }

    fn free_space(&self) -> Option<u64> {
        None
    }
}
