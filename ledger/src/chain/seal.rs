//! Sealing: from pending transactions to a block, in one synced write.

use std::collections::BTreeMap;

use super::index::index_rows;
use super::*;
use crate::block::{CertificateKind, Header, HeaderVersion};
use crate::log::put_tile;
use parking_lot::MutexGuard;

use crate::mine::stamp;
use crate::state::row;
use crate::store::{Batch, Durability, Read};
use crate::transaction::{Coinbase, Envelope, Version};

/// What a block is made from, besides its transactions.
struct Parent<'a> {
    genesis: &'a Genesis,
    /// None below genesis.
    tip: Option<&'a Block>,
    edge: Edge,
}

/// A block and everything to be written with it.
struct Sealing {
    block: Block,
    checkpoint: String,
    edge: Edge,
    batch: Batch,
}

impl Ledger {
    /// Seals the pending transactions below `cut` into a block: coinbase first, stamped on the caller's thread, durable
    /// when this returns. None when there are none.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn seal(&self, cut: u64) -> Result<Option<Block>> {
        self.revive()?;
        let sealer = self.sealer.lock();
        self.check_health()?;
        if self.live.lock().mempool.range(0, cut).is_empty() {
            return Ok(None);
        }
        self.seal_locked(&sealer, cut).map(Some)
    }

    /// Seals a block even when nothing is pending: it makes a reward, and vouches for the state after the block before.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn seal_always(&self, cut: u64) -> Result<Block> {
        self.revive()?;
        let sealer = self.sealer.lock();
        self.seal_locked(&sealer, cut)
    }

    /// Seals the pending transactions below `cut`, also none.
    pub(super) fn seal_locked(&self, _sealer: &MutexGuard<'_, ()>, cut: u64) -> Result<Block> {
        self.check_health()?;
        self.make_room()?;
        let (sealed, tip, edge, first) = {
            let live = self.live.lock();
            (live.mempool.range(0, cut), live.tip.clone(), live.edge.clone(), live.mempool.span().first)
        };
        let first_pending = sealed.last().map_or(first, |(last, _)| last + 1);
        let waiting: Vec<&Waiting> = sealed.iter().map(|(_, waiting)| &**waiting).collect();
        let parent = Parent { genesis: &self.genesis, tip: Some(&tip), edge };
        let made = assemble(&*self.store, parent, &waiting, &self.wallet, &self.log_key);
        let mut made = made.map_err(|error| self.unread(error))?;
        for (number, _) in &sealed {
            made.batch.delete(Column::Mempool, number.to_be_bytes());
        }
        made.batch.put(Column::Meta, FIRST_PENDING, first_pending.to_be_bytes());
        self.store.write(made.batch, Durability::Synced).map_err(|error| self.failed(error))?;
        if let Some(dir) = &self.dir
            && let Err(error) = tip::note(dir, &made.block)
        {
            tracing::warn!(%error, "cannot note the last block in the tip file");
        }
        let mut live = self.live.lock();
        live.tip = made.block.clone();
        live.checkpoint = made.checkpoint;
        live.edge = made.edge;
        live.mempool.sealed(first_pending);
        self.revised();
        self.room.notify_all();
        Ok(made.block)
    }
}

/// Everything a new chain's store starts with.
pub(super) fn genesis_block(
    read: &dyn Read,
    genesis: &Genesis,
    wallet: &Wallet,
    log_key: &LogKey,
) -> std::result::Result<Batch, StoreError> {
    let parent = Parent { genesis, tip: None, edge: Edge::default() };
    let mut made = assemble(read, parent, &[], wallet, log_key)?;
    made.batch.put(Column::Meta, GENESIS, encode(genesis));
    made.batch.put(Column::Meta, FIRST_PENDING, 0u64.to_be_bytes());
    Ok(made.batch)
}

/// The coinbase a block on this parent starts with.
pub(crate) fn coinbase(genesis: &Genesis, tip: Option<&Block>) -> Transaction {
    let coinbase = Coinbase {
        height: tip.map_or(0, |tip| tip.header.height + 1),
        previous_block: tip.map_or(Hash::ZERO, Block::hash),
        previous_state: tip.map_or(map::EMPTY_ROOT, |tip| tip.header.state_root),
        address: genesis.wallet.address(),
        reward: if tip.is_none() { genesis.emission } else { genesis.reward },
    };
    Transaction { version: Version::V1, chain: genesis.chain_id(), envelope: Envelope::Coinbase(coinbase) }
}

fn assemble(
    read: &dyn Read,
    mut parent: Parent<'_>,
    waiting: &[&Waiting],
    wallet: &Wallet,
    log_key: &LogKey,
) -> std::result::Result<Sealing, StoreError> {
    let mut batch = Batch::default();
    let coinbase = coinbase(parent.genesis, parent.tip);
    let height = parent.tip.map_or(0, |tip| tip.header.height + 1);
    let bytes = coinbase.to_bytes();
    let txid = Transaction::id(&bytes);
    let effects = match apply(&Sealed(read), txid, &coinbase) {
        Ok(effects) => effects,
        Err(other) => return Err(StoreError::Corrupt(format!("coinbase of block {height}: {other}"))),
    };
    let coinbase = Waiting::new(txid, &coinbase, bytes, effects);
    let first_index = parent.edge.size();
    let leaves: Vec<&Waiting> = std::iter::once(&coinbase).chain(waiting.iter().copied()).collect();
    for (index, leaf) in (first_index..).zip(&leaves) {
        batch.put(Column::Transactions, index.to_be_bytes(), leaf.bytes.clone());
        index_rows(index, &leaf.txid, &leaf.transaction(), &mut |key, value| batch.put(Column::Index, key, value));
    }
    let hashes: Vec<Hash> = leaves.iter().map(|leaf| leaf.txid).collect();
    parent.edge.append(&hashes, &mut |level, number, hashes| put_tile(&mut batch, level, number, hashes));
    let previous = parent.tip.map(|tip| tip.header.state_root);
    let state_root = write_state(read, height, previous, &leaves, &mut batch)?;
    let header = stamp(Header {
        version: HeaderVersion::V1,
        chain: parent.genesis.chain_id(),
        height,
        previous: parent.tip.map_or(Hash::ZERO, Block::hash),
        time_us: parent.tip.map_or(parent.genesis.time_us, |tip| tip.header.time_us.max(now_us())),
        sealer: *wallet.public(),
        first_index,
        count: leaves.len() as u32,
        log_size: parent.edge.size(),
        log_root: parent.edge.root(),
        state_root,
        stamp_bits: parent.genesis.stamp_bits,
        certificate: CertificateKind::Solo,
        nonce: 0,
    });
    let log = Checkpoint { origin: origin(&header.chain), size: header.log_size, root: header.log_root };
    let checkpoint = log.sign(log_key);
    let block = Block::sign(header, wallet);
    batch.put(Column::Blocks, height.to_be_bytes(), block.to_bytes());
    for (key, value) in index::block_rows(&block) {
        batch.put(Column::Index, key, value);
    }
    batch.put(Column::Meta, TIP, height.to_be_bytes());
    batch.put(Column::Meta, LATEST_CHECKPOINT, checkpoint.clone());
    Ok(Sealing { block, checkpoint, edge: parent.edge, batch })
}

/// Writes what the transactions do together, the last one winning, and updates the state map, whose root is `previous` when
/// that is known.
pub(crate) fn write_state(
    read: &dyn Read,
    height: u64,
    previous: Option<Hash>,
    leaves: &[&Waiting],
    batch: &mut Batch,
) -> std::result::Result<Hash, StoreError> {
    let mut rows: BTreeMap<&[u8], Option<&Vec<u8>>> = BTreeMap::new();
    let effects = leaves.iter().flat_map(|leaf| &leaf.effects);
    for (row, value) in effects {
        rows.insert(row, value.as_ref());
    }
    let mut updates = Vec::with_capacity(rows.len());
    for (row, value) in rows {
        let key = row::map_key(row);
        match value {
            Some(value) => batch.put(Column::State, row, value.clone()),
            // Made and removed within this block: neither the store nor the map ever knew it.
            None if read.get(Column::State, row)?.is_none() => continue,
            None => batch.delete(Column::State, row),
        }
        updates.extend(key.map(|key| (key, value.cloned())));
    }
    map::update(read, height, previous, updates, batch)
}
