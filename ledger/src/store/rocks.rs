//! The store on disk: the only file that names RocksDB.
