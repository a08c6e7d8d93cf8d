//! What nothing above it can beat: signing, checking signatures, and writing the same rows.

use std::error::Error;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use wizefs_ledger::Wallet;
use wizefs_ledger::store::rocks::RocksStore;
use wizefs_ledger::store::{Batch, Column, Direction, Durability, Read, Store};

/// Signatures made and checked.
const SIGNATURES: u64 = 4_000;

/// Signatures per second of one core, by k256.
pub(crate) fn signing(wallet: &Wallet) -> f64 {
    let started = Instant::now();
    for number in 0..SIGNATURES {
        std::hint::black_box(wallet.sign(&[&number.to_le_bytes(), &[0; 400]]));
    }
    super::per_second(SIGNATURES, started.elapsed())
}

/// Checked signatures per second of one core, by libsecp256k1.
pub(crate) fn verifying(wallet: &Wallet) -> f64 {
    let signature = wallet.sign(&[&[0; 400]]);
    let started = Instant::now();
    for _ in 0..SIGNATURES {
        std::hint::black_box(wallet.public().verify(&[&[0; 400]], &signature));
    }
    super::per_second(SIGNATURES, started.elapsed())
}

/// A column being copied.
struct Copied {
    column: Column,
    /// Where it goes on; none at its end.
    next: Option<Vec<u8>>,
    /// Rows that go with a block's worth of transactions.
    rows: u64,
}

/// Writes every row of the ledger in `from` into a new store in `to`: for each `block` transactions one batch of all columns
/// and one fsync. How long the writes took.
pub(crate) fn same_rows(from: &Path, to: &Path, count: u64, block: u64) -> Result<Duration, Box<dyn Error>> {
    let source = RocksStore::open_existing(from)?;
    std::fs::create_dir(to)?;
    let store = RocksStore::open(to)?;
    let mut columns = Vec::new();
    for column in Column::ALL {
        let mut rows = 0u64;
        source.scan(column, b"", Direction::Forward, &mut |_, _| {
            rows += 1;
            ControlFlow::Continue(())
        })?;
        columns.push(Copied { column, next: Some(Vec::new()), rows: rows.div_ceil(count.div_ceil(block)) });
    }
    let mut took = Duration::ZERO;
    while columns.iter().any(|column| column.next.is_some()) {
        let mut batch = Batch::default();
        for copied in &mut columns {
            take(&source, copied, &mut batch)?;
        }
        let started = Instant::now();
        store.write(batch, Durability::Synced)?;
        took += started.elapsed();
    }
    Ok(took)
}

fn take(source: &RocksStore, copied: &mut Copied, batch: &mut Batch) -> Result<(), Box<dyn Error>> {
    let Some(from) = copied.next.take() else { return Ok(()) };
    let mut left = copied.rows;
    source.scan(copied.column, &from, Direction::Forward, &mut |key, value| {
        if left == 0 {
            copied.next = Some(key.to_vec());
            return ControlFlow::Break(());
        }
        left -= 1;
        batch.put(copied.column, key, value);
        ControlFlow::Continue(())
    })?;
    Ok(())
}
