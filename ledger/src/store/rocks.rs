//! The store on disk: the only file that names RocksDB.

use std::path::{Path, PathBuf};

use parking_lot::{MappedRwLockReadGuard, RwLock, RwLockReadGuard};
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, BottommostLevelCompaction, Cache, ColumnFamily, ColumnFamilyDescriptor,
    CompactOptions, DB, DBCompressionType, DBPinnableSlice, DBRawIterator, ErrorKind, FlushOptions, LogLevel, Options,
    ReadOptions, Snapshot, WriteBatch, WriteOptions,
};

use super::{Batch, Column, Direction, Durability, Read, Store, StoreError, Visitor};

/// Memory of a store, in bytes.
#[derive(Debug, Clone, Copy)]
struct Budget {
    /// Blocks read from disk, shared by all columns; indexes and filters live in it too.
    cache: usize,
    /// Rows not yet in table files: per column, and in all.
    column_buffer: usize,
    all_buffers: usize,
}

/// The ledger's.
const LEDGER: Budget = Budget { cache: 32 << 20, column_buffer: 16 << 20, all_buffers: 32 << 20 };
/// What a check writes down: it stands beside the ledger's, and only one column of it is used.
const SCRATCH: Budget = Budget { cache: 8 << 20, column_buffer: 8 << 20, all_buffers: 8 << 20 };
/// Write-ahead log kept at most, in bytes: what opening after a crash may have to replay.
const WAL: u64 = 32 << 20;
/// Table files kept open at most.
const OPEN_FILES: i32 = 256;

/// The store.
pub struct RocksStore {
    dir: PathBuf,
    budget: Budget,
    /// None only when reopening after a full disk failed.
    db: RwLock<Option<DB>>,
}

impl RocksStore {
    /// Opens the store in `dir`, or makes one.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn open(dir: &Path) -> Result<RocksStore, StoreError> {
        RocksStore::open_with(dir, true, LEDGER)
    }

    /// Opens the store that is in `dir`: nothing missing is made anew, which would seal a loss.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn open_existing(dir: &Path) -> Result<RocksStore, StoreError> {
        RocksStore::open_with(dir, false, LEDGER)
    }

    /// Makes a store in `dir` that takes little memory, for what is thrown away soon.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub(crate) fn open_scratch(dir: &Path) -> Result<RocksStore, StoreError> {
        RocksStore::open_with(dir, true, SCRATCH)
    }

    fn open_with(dir: &Path, create: bool, budget: Budget) -> Result<RocksStore, StoreError> {
        let db = open_db(dir, create, budget)?;
        Ok(RocksStore { dir: dir.to_path_buf(), budget, db: RwLock::new(Some(db)) })
    }

    /// Opens the store in `dir` for reading, as far as its damage allows.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn open_read_only(dir: &Path) -> Result<impl Read + use<>, StoreError> {
        let mut options = options(false, LEDGER);
        options.set_paranoid_checks(false);
        let db = DB::open_cf_descriptors_read_only(&options, dir, columns(LEDGER), false).map_err(classify)?;
        Ok(ReadOnly(db))
    }

    /// Rewrites all tables as small as they get; how many bytes those of each column take then.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn compact(&self) -> Result<Vec<(Column, u64)>, StoreError> {
        let db = self.db()?;
        let mut compact = CompactOptions::default();
        compact.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        let mut sizes = Vec::new();
        for column in Column::ALL {
            let rows = handle(&db, column)?;
            db.flush_cf(rows).map_err(classify)?;
            db.compact_range_cf_opt(rows, None::<&[u8]>, None::<&[u8]>, &compact);
            let size = db.property_int_value_cf(rows, "rocksdb.total-sst-files-size").map_err(classify)?;
            sizes.push((column, size.unwrap_or_default()));
        }
        Ok(sizes)
    }

    /// Whether a store is in `dir`.
    pub fn exists(dir: &Path) -> bool {
        dir.join("CURRENT").exists()
    }

    fn db(&self) -> Result<MappedRwLockReadGuard<'_, DB>, StoreError> {
        let closed = |_| StoreError::Io("the ledger could not be reopened after the disk was full".into());
        RwLockReadGuard::try_map(self.db.read(), Option::as_ref).map_err(closed)
    }
}

fn open_db(dir: &Path, create: bool, budget: Budget) -> Result<DB, StoreError> {
    if !create {
        // RocksDB looks for missing columns only after it has replayed and dropped its write-ahead log.
        let known = DB::list_cf(&options(false, budget), dir).map_err(classify)?;
        if let Some(missing) = Column::ALL.iter().find(|column| !known.iter().any(|name| name == column.name())) {
            return Err(StoreError::Corrupt(format!("the column {} is missing", missing.name())));
        }
    }
    DB::open_cf_descriptors(&options(create, budget), dir, columns(budget)).map_err(classify)
}

fn options(create: bool, budget: Budget) -> Options {
    let mut options = Options::default();
    options.create_if_missing(create);
    options.create_missing_column_families(create);
    options.set_db_write_buffer_size(budget.all_buffers);
    options.set_max_total_wal_size(WAL);
    options.set_max_open_files(OPEN_FILES);
    options.set_max_background_jobs(2);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(1 << 20);
    options.set_log_level(LogLevel::Warn);
    options.set_bytes_per_sync(1 << 20);
    options
}

fn columns(budget: Budget) -> Vec<ColumnFamilyDescriptor> {
    let cache = Cache::new_lru_cache(budget.cache);
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&cache);
    table.set_cache_index_and_filter_blocks(true);
    // In small parts: whole filters of large files would push each other out of the cache at every lookup.
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_partition_filters(true);
    table.set_metadata_block_size(4 << 10);
    table.set_pin_top_level_index_and_filter(true);
    table.set_bloom_filter(10.0, false);
    table.set_block_size(8 << 10);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_write_buffer_size(budget.column_buffer);
    let describe = |column: Column| {
        let mut options = options.clone();
        // Hashes do not get smaller.
        if matches!(column, Column::Nodes | Column::Tiles) {
            options.set_compression_type(DBCompressionType::None);
        }
        ColumnFamilyDescriptor::new(column.name(), options)
    };
    std::iter::once(ColumnFamilyDescriptor::new("default", options.clone()))
        .chain(Column::ALL.into_iter().map(describe))
        .collect()
}

fn classify(error: rocksdb::Error) -> StoreError {
    let message = error.as_ref().to_owned();
    let full = ["No space left", "Disk quota exceeded"].iter().any(|text| message.contains(text));
    match error.kind() {
        _ if full => StoreError::Full,
        ErrorKind::Corruption => StoreError::Corrupt(message),
        _ if message.contains("lock") && message.contains("LOCK") => StoreError::Locked(message),
        // A missing or unparsable file of the store itself.
        ErrorKind::InvalidArgument | ErrorKind::NotFound => StoreError::Corrupt(message),
        ErrorKind::IOError if message.contains("No such file") => StoreError::Corrupt(message),
        _ => StoreError::Io(message),
    }
}

fn handle(db: &DB, column: Column) -> Result<&ColumnFamily, StoreError> {
    db.cf_handle(column.name()).ok_or_else(|| StoreError::Corrupt(format!("no column {}", column.name())))
}

fn get(value: Result<Option<DBPinnableSlice<'_>>, rocksdb::Error>) -> Result<Option<Vec<u8>>, StoreError> {
    Ok(value.map_err(classify)?.map(|slice| slice.to_vec()))
}

fn walk(
    mut rows: DBRawIterator<'_>,
    from: &[u8],
    direction: Direction,
    visit: &mut Visitor<'_>,
) -> Result<(), StoreError> {
    match direction {
        Direction::Forward => rows.seek(from),
        Direction::Backward => rows.seek_for_prev(from),
    }
    while let Some((key, value)) = rows.item() {
        if visit(key, value).is_break() {
            return Ok(());
        }
        match direction {
            Direction::Forward => rows.next(),
            Direction::Backward => rows.prev(),
        }
    }
    rows.status().map_err(classify)
}

impl Read for RocksStore {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let db = self.db()?;
        get(db.get_pinned_cf(handle(&db, column)?, key))
    }

    fn scan(
        &self,
        column: Column,
        from: &[u8],
        direction: Direction,
        visit: &mut Visitor<'_>,
    ) -> Result<(), StoreError> {
        let db = self.db()?;
        walk(db.raw_iterator_cf(handle(&db, column)?), from, direction, visit)
    }
}

/// A snapshot of an open store.
struct View<'a> {
    db: &'a DB,
    snapshot: Snapshot<'a>,
}

impl Read for View<'_> {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let mut options = ReadOptions::default();
        options.set_snapshot(&self.snapshot);
        get(self.db.get_pinned_cf_opt(handle(self.db, column)?, key, &options))
    }

    fn scan(
        &self,
        column: Column,
        from: &[u8],
        direction: Direction,
        visit: &mut Visitor<'_>,
    ) -> Result<(), StoreError> {
        walk(self.snapshot.raw_iterator_cf(handle(self.db, column)?), from, direction, visit)
    }
}

/// A store opened for reading.
struct ReadOnly(DB);

impl Read for ReadOnly {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        get(self.0.get_pinned_cf(handle(&self.0, column)?, key))
    }

    fn scan(
        &self,
        column: Column,
        from: &[u8],
        direction: Direction,
        visit: &mut Visitor<'_>,
    ) -> Result<(), StoreError> {
        walk(self.0.raw_iterator_cf(handle(&self.0, column)?), from, direction, visit)
    }
}

impl Store for RocksStore {
    fn write(&self, batch: Batch, durability: Durability) -> Result<(), StoreError> {
        let db = self.db()?;
        let mut rows = WriteBatch::default();
        for (column, key, value) in &batch.rows {
            match value {
                Some(value) => rows.put_cf(handle(&db, *column)?, key, value),
                None => rows.delete_cf(handle(&db, *column)?, key),
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(durability == Durability::Synced);
        db.write_opt(rows, &options).map_err(classify)
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.db()?.flush_wal(true).map_err(classify)
    }

    fn snapshot(&self, work: &mut dyn FnMut(&dyn Read)) -> Result<(), StoreError> {
        let db = self.db()?;
        work(&View { db: &db, snapshot: db.snapshot() });
        Ok(())
    }

    /// RocksDB refuses every write after a failed one until it is reopened, which replays the whole records of its
    /// write-ahead log and drops a torn one.
    fn recover(&self) -> Result<(), StoreError> {
        // A snapshot in use holds the store open; the caller tries again later.
        let mut slot = self.db.try_write().ok_or(StoreError::Full)?;
        drop(slot.take());
        *slot = Some(open_db(&self.dir, false, self.budget)?);
        Ok(())
    }

    /// The old bytes may be in table files of this column and of the mempool, and in the write-ahead log, which goes when
    /// all columns are written to table files.
    fn purge(&self, column: Column, key: &[u8]) -> Result<(), StoreError> {
        let db = self.db()?;
        let handles = Column::ALL.into_iter().map(|column| handle(&db, column)).collect::<Result<Vec<_>, _>>()?;
        let mut flush = FlushOptions::default();
        flush.set_wait(true);
        db.flush_cfs_opt(&handles, &flush).map_err(classify)?;
        let mut compact = CompactOptions::default();
        compact.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        db.compact_range_cf_opt(handle(&db, column)?, Some(key), Some(key), &compact);
        db.compact_range_cf_opt(handle(&db, Column::Mempool)?, None::<&[u8]>, None::<&[u8]>, &compact);
        Ok(())
    }

    fn free_space(&self) -> Option<u64> {
        crate::reserve::free_space(&self.dir)
    }
}
