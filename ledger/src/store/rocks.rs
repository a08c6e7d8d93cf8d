//! The store on disk: the only file that names RocksDB.

use std::path::{Path, PathBuf};

use parking_lot::{MappedRwLockReadGuard, RwLock, RwLockReadGuard};
use rocksdb::properties::BACKGROUND_ERRORS;
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, BottommostLevelCompaction, Cache, ColumnFamily, ColumnFamilyDescriptor,
    CompactOptions, DB, DBCompressionType, DBPinnableSlice, DBRawIterator, DBRecoveryMode, ErrorKind, FlushOptions,
    LogLevel, Options, ReadOptions, Snapshot, WriteBatch, WriteOptions,
};

use crate::reserve::PLENTY;

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

/// Table files below this size, in bytes, are put together when there are so many.
const SMALL: usize = 1 << 20;
const MANY: usize = 64;

/// What opening may make anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opening {
    /// The whole store.
    Create,
    /// Nothing.
    Existing,
    /// Derived columns; and files that cannot be read are in the way only of who reads them.
    Damaged,
}

/// How table files are written and read; one cache serves all columns.
#[derive(Clone)]
struct Tables {
    budget: Budget,
    cache: Cache,
}

/// The store.
pub struct RocksStore {
    dir: PathBuf,
    /// How it is opened again.
    opening: Opening,
    tables: Tables,
    /// None only when reopening after a full disk failed.
    db: RwLock<Option<DB>>,
}

impl RocksStore {
    /// Opens the store in `dir`, or makes one.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn open(dir: &Path) -> Result<RocksStore, StoreError> {
        RocksStore::open_with(dir, Opening::Create, LEDGER)
    }

    /// Opens the store that is in `dir`: nothing missing is made anew, which would seal a loss.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn open_existing(dir: &Path) -> Result<RocksStore, StoreError> {
        RocksStore::open_with(dir, Opening::Existing, LEDGER)
    }

    /// Opens the store that is in `dir` to make derived columns anew: these may be damaged or missing.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub(crate) fn open_damaged(dir: &Path) -> Result<RocksStore, StoreError> {
        RocksStore::open_with(dir, Opening::Damaged, LEDGER)
    }

    /// Makes a store in `dir` that takes little memory, for what is thrown away soon.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub(crate) fn open_scratch(dir: &Path) -> Result<RocksStore, StoreError> {
        RocksStore::open_with(dir, Opening::Create, SCRATCH)
    }

    fn open_with(dir: &Path, opening: Opening, budget: Budget) -> Result<RocksStore, StoreError> {
        let tables = Tables::new(budget);
        let db = open_db(dir, opening, &tables)?;
        // What was made is there.
        let opening = if opening == Opening::Create { Opening::Existing } else { opening };
        Ok(RocksStore { dir: dir.to_path_buf(), opening, tables, db: RwLock::new(Some(db)) })
    }

    /// Opens the store in `dir` for reading, as far as its damage allows.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn open_read_only(dir: &Path) -> Result<impl Read + use<>, StoreError> {
        read_only(dir, &options(Opening::Damaged, LEDGER))
    }

    /// Opens the store in `dir` for reading: it shows what [`RocksStore::open_existing`] would, and changes nothing.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub(crate) fn open_existing_read_only(dir: &Path) -> Result<impl Read + use<>, StoreError> {
        read_only(dir, &options(Opening::Existing, LEDGER))
    }

    /// Whether every byte of the write-ahead log in `dir` can be read. Where one cannot, opening takes it and what follows for
    /// the torn tail that a power cut leaves.
    pub(crate) fn is_log_whole(dir: &Path) -> bool {
        let mut options = options(Opening::Existing, LEDGER);
        options.set_wal_recovery_mode(DBRecoveryMode::AbsoluteConsistency);
        read_only(dir, &options).is_ok()
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

    /// Puts the small files together at the end of the columns that grow there alone. Each opening leaves one, and because they
    /// do not overlap, RocksDB only moves them: after years of commands without a node there would be a million.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub(crate) fn gather(&self) -> Result<(), StoreError> {
        // What a compaction that fails leaves is a store that takes no writes.
        if self.free_space().is_some_and(|free| free < PLENTY) {
            return Ok(());
        }
        let db = self.db()?;
        let files = db.live_files().map_err(classify)?;
        let mut compact = CompactOptions::default();
        compact.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        for column in [Column::Transactions, Column::Blocks] {
            let mut own: Vec<_> = files.iter().filter(|file| file.column_family_name == column.name()).collect();
            own.sort_by(|one, other| one.end_key.cmp(&other.end_key));
            let small: Vec<_> = own.iter().rev().take_while(|file| file.size < SMALL).collect();
            if let Some(first) = small.last().filter(|_| small.len() >= MANY) {
                let from = first.start_key.as_deref();
                db.compact_range_cf_opt(handle(&db, column)?, from, None::<&[u8]>, &compact);
            }
        }
        Ok(())
    }

    /// Whether a store is in `dir`, or one was begun.
    pub fn exists(dir: &Path) -> bool {
        dir.join("CURRENT").exists() || RocksStore::holds_rows(dir)
    }

    /// Whether files in `dir` hold rows of a store, whatever else of it is missing: a store made there would delete them.
    pub fn holds_rows(dir: &Path) -> bool {
        let Ok(entries) = std::fs::read_dir(dir) else { return false };
        entries.flatten().any(|entry| match entry.path().extension().and_then(|ending| ending.to_str()) {
            Some("sst") => true,
            Some("log") => entry.metadata().is_ok_and(|log| log.len() > 0),
            _ => false,
        })
    }

    fn db(&self) -> Result<MappedRwLockReadGuard<'_, DB>, StoreError> {
        RwLockReadGuard::try_map(self.db.read(), Option::as_ref).map_err(|_| closed())
    }

    /// Takes a column away with all its files.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub(crate) fn drop_column(&self, column: Column) -> Result<(), StoreError> {
        self.db.write().as_mut().ok_or_else(closed)?.drop_cf(column.name()).map_err(classify)
    }
}

fn closed() -> StoreError {
    StoreError::Io("the ledger could not be reopened after the disk was full".into())
}

/// The columns that the store in `dir` lacks.
fn missing_columns(dir: &Path, options: &Options) -> Result<Vec<Column>, StoreError> {
    let known = DB::list_cf(options, dir).map_err(classify)?;
    Ok(Column::ALL.into_iter().filter(|column| !known.iter().any(|name| name == column.name())).collect())
}

fn read_only(dir: &Path, options: &Options) -> Result<ReadOnly, StoreError> {
    let missing = missing_columns(dir, options)?;
    // Reading one that is missing fails, and so says which it is.
    let tables = Tables::new(LEDGER);
    let columns = tables.columns().filter(|column| missing.iter().all(|missing| missing.name() != column.name()));
    DB::open_cf_descriptors_read_only(options, dir, columns, false).map(ReadOnly).map_err(classify)
}

fn open_db(dir: &Path, opening: Opening, tables: &Tables) -> Result<DB, StoreError> {
    let options = options(opening, tables.budget);
    if opening != Opening::Create {
        // RocksDB looks for missing columns only after it has replayed and dropped its write-ahead log.
        let missing = missing_columns(dir, &options)?;
        let is_lost = |column: &&Column| opening == Opening::Existing || !column.is_derived();
        if let Some(missing) = missing.iter().find(is_lost) {
            return Err(StoreError::Corrupt(format!("the column {} is missing", missing.name())));
        }
    }
    DB::open_cf_descriptors(&options, dir, tables.columns()).map_err(classify)
}

fn options(opening: Opening, budget: Budget) -> Options {
    let mut options = Options::default();
    options.create_if_missing(opening == Opening::Create);
    options.create_missing_column_families(opening != Opening::Existing);
    options.set_paranoid_checks(opening != Opening::Damaged);
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

impl Tables {
    fn new(budget: Budget) -> Tables {
        Tables { budget, cache: Cache::new_lru_cache(budget.cache) }
    }

    /// The options of a column; none for RocksDB's own, which is empty.
    fn options(&self, column: Option<Column>) -> Options {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&self.cache);
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
        // Hashes do not get smaller.
        options.set_compression_type(match column {
            Some(Column::Nodes | Column::Tiles) => DBCompressionType::None,
            _ => DBCompressionType::Lz4,
        });
        options.set_write_buffer_size(self.budget.column_buffer);
        options
    }

    fn columns(&self) -> impl Iterator<Item = ColumnFamilyDescriptor> {
        let own = ColumnFamilyDescriptor::new("default", self.options(None));
        let describe = |column: Column| ColumnFamilyDescriptor::new(column.name(), self.options(Some(column)));
        std::iter::once(own).chain(Column::ALL.into_iter().map(describe))
    }
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
        // Nothing but a file that is gone, or no file, is at fault there: a disk that fails says something else.
        ErrorKind::IOError if ["No such file", "Is a directory"].iter().any(|text| message.contains(text)) => {
            StoreError::Corrupt(message)
        }
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

/// The first key after all that begin so; none when there is no key after them.
fn end_of(beginning: &[u8]) -> Option<Vec<u8>> {
    let last = beginning.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = beginning[..=last].to_vec();
    end[last] += 1;
    Some(end)
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
        *slot = Some(open_db(&self.dir, self.opening, &self.tables)?);
        Ok(())
    }

    fn clear(&self, column: Column) -> Result<(), StoreError> {
        self.drop_column(column)?;
        let mut slot = self.db.write();
        let db = slot.as_mut().ok_or_else(closed)?;
        db.create_cf(column.name(), &self.tables.options(Some(column))).map_err(classify)
    }

    /// The old bytes may be in table files, and in the write-ahead log, which goes when all columns are written to table files.
    fn purge(&self, beginnings: &[(Column, Vec<u8>)]) -> Result<(), StoreError> {
        let db = self.db()?;
        let failures = || db.property_int_value(BACKGROUND_ERRORS).map(Option::unwrap_or_default).map_err(classify);
        let before = failures()?;
        let handles = Column::ALL.into_iter().map(|column| handle(&db, column)).collect::<Result<Vec<_>, _>>()?;
        let mut flush = FlushOptions::default();
        flush.set_wait(true);
        db.flush_cfs_opt(&handles, &flush).map_err(classify)?;
        let mut compact = CompactOptions::default();
        compact.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        for (column, beginning) in beginnings {
            db.compact_range_cf_opt(handle(&db, *column)?, Some(beginning), end_of(beginning), &compact);
        }
        // It does not say itself whether it was done.
        if failures()? != before {
            return Err(match self.free_space() {
                Some(..crate::reserve::LOW) => StoreError::Full,
                _ => StoreError::Io("the files that hold what was erased could not be written anew".into()),
            });
        }
        Ok(())
    }

    fn free_space(&self) -> Option<u64> {
        crate::reserve::free_space(&self.dir)
    }
}
