//! The chain replayed from genesis, block by block.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::Path;
use std::thread;

use super::rows::Rows;
use super::signatures::{Signatures, Signed, queue};
use super::trie::Trie;
use super::{Progress, Report, erased_leaf};
use crate::block::{Block, Genesis};
use crate::chain::index::{block_rows, index_rows, txid_key};
use crate::chain::{TIP, coinbase};
use crate::codec::encode;
use crate::hash::Hash;
use crate::log::{Edge, TILE, read_tile};
use crate::state::apply::apply;
use crate::state::{Effect, Look, row};
use crate::store::{Column, Direction, Read, StoreError};
use crate::transaction::{Envelope, Erased, Transaction};

/// What the chain says must be stored besides it.
pub(super) struct Replayed {
    pub(super) tip: Option<Block>,
    pub(super) edge: Edge,
    pub(super) rows: Rows,
    pub(super) trie: Trie,
    /// Sum over the index rows that must be there.
    pub(super) index: RowSum,
    /// Tiles that must be there.
    pub(super) tiles: u64,
    /// Whether the chain could be followed to its last block.
    pub(super) complete: bool,
    /// Whether the state could be followed to the end; else there is nothing to compare it with.
    pub(super) state_known: bool,
    /// Whether it could not, and only because an erased transaction states something that a later one builds on.
    pub(super) fogged: bool,
    /// What the wanted transaction did to the state.
    pub(super) wanted: Option<Vec<Effect>>,
}

/// A replay to be made.
pub(super) struct Run<'a> {
    pub(super) read: &'a dyn Read,
    pub(super) genesis: &'a Genesis,
    /// Where rows may be written down.
    pub(super) scratch: Option<&'a Path>,
    /// Replay only as far as this log index, for what it does to the state; signatures are not checked then.
    pub(super) wanted: Option<u64>,
}

/// A sum over rows that does not depend on their order: two sets of rows with one sum are the same set.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct RowSum {
    rows: u64,
    sum: u128,
}

impl RowSum {
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) {
        let hash = Hash::of(&[&(key.len() as u64).to_le_bytes(), key, value]);
        let mut half = [0; 16];
        half.copy_from_slice(&hash.0[..16]);
        self.rows += 1;
        self.sum = self.sum.wrapping_add(u128::from_le_bytes(half));
    }
}

impl Run<'_> {
    /// Replays all blocks; what is wrong goes to the report.
    pub(super) fn replay(
        &mut self,
        report: &mut Report,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Replayed {
        let total = stored_size(self.read);
        let (sender, receiver) = queue();
        thread::scope(|scope| {
            let mut replay = Replay {
                read: self.read,
                genesis: self.genesis,
                chain: self.genesis.chain_id(),
                wanted: self.wanted,
                report,
                signatures: Signatures::start(scope, sender, &receiver),
                done: Replayed {
                    tip: None,
                    edge: Edge::default(),
                    rows: Rows::new(self.scratch),
                    trie: Trie::default(),
                    index: RowSum::default(),
                    tiles: 0,
                    complete: false,
                    state_known: true,
                    fogged: false,
                    wanted: None,
                },
            };
            let last = replay.last_height();
            for height in 0..=last {
                if !replay.block(height) || replay.is_over() {
                    break;
                }
                let done = replay.done.edge.size();
                if progress(Progress { done, total: total.max(done) }).is_break() {
                    replay.report.cancelled = true;
                    break;
                }
            }
            let Replay { signatures, done, report, .. } = replay;
            for (block, index) in signatures.finish() {
                report.add(Some(block), Some(index), "the signature does not hold");
            }
            report.height = done.tip.as_ref().map_or(0, |tip| tip.header.height);
            report.transactions = done.edge.size();
            let complete = done.tip.as_ref().is_some_and(|tip| tip.header.height == last);
            Replayed { complete, ..done }
        })
    }
}

/// Height of the block that holds log entry `index`, one of those up to `last`; none when the blocks themselves do not tell.
pub(super) fn block_of(read: &dyn Read, index: u64, last: u64) -> Option<u64> {
    let (mut low, mut high) = (0, last);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        let block = Block::from_bytes(&read.get(Column::Blocks, &middle.to_be_bytes()).ok()??).ok()?;
        if block.header.first_index <= index { low = middle } else { high = middle - 1 }
    }
    Some(low)
}

/// Transactions read in one go at most: no block of ours has more, and a damaged header may claim any number.
const AHEAD: usize = 8_192;

/// The stored transactions of a block in order, as far as they can be read in one go: one by one takes longer, and tells
/// which it is that cannot.
fn read_ahead(read: &dyn Read, first: u64, count: u32) -> VecDeque<(u64, Vec<u8>)> {
    let (mut found, end) = (VecDeque::new(), first + u64::from(count));
    let scanned = read.scan(Column::Transactions, &first.to_be_bytes(), Direction::Forward, &mut |key, bytes| {
        match <[u8; 8]>::try_from(key).map(u64::from_be_bytes) {
            Ok(index) if index < end && found.len() < AHEAD => found.push_back((index, bytes.to_vec())),
            _ => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    });
    if let Err(error) = scanned {
        tracing::debug!(%error, first, "transactions are read one by one");
    }
    found
}

/// Transactions stored, for the progress only.
fn stored_size(read: &dyn Read) -> u64 {
    let mut size = 0;
    let scanned = read.scan(Column::Transactions, &[0xff; 8], Direction::Backward, &mut |key, _| {
        size = <[u8; 8]>::try_from(key).map_or(0, |key| u64::from_be_bytes(key).saturating_add(1));
        ControlFlow::Break(())
    });
    // A failure shows again, with its place, when the transactions themselves are read.
    scanned.map_or(0, |()| size)
}

struct Replay<'s, 'a> {
    read: &'a dyn Read,
    genesis: &'a Genesis,
    chain: Hash,
    wanted: Option<u64>,
    report: &'a mut Report,
    signatures: Signatures<'s>,
    done: Replayed,
}

impl Replay<'_, '_> {
    /// Whether what is wanted is found, or nothing can be found any more.
    fn is_over(&self) -> bool {
        let Replayed { wanted, state_known, rows, .. } = &self.done;
        rows.failure().is_some() || self.wanted.is_some() && (wanted.is_some() || !state_known)
    }

    /// The stored number of the last block; when unreadable, as far as there are blocks.
    fn last_height(&mut self) -> u64 {
        let stored = self.report.note(None, None, self.read.get(Column::Meta, TIP)).flatten();
        match stored.and_then(|bytes| <[u8; 8]>::try_from(bytes.as_slice()).ok()) {
            Some(height) => u64::from_be_bytes(height),
            None => {
                self.report.add(None, None, "the number of the last block is missing or malformed");
                u64::MAX
            }
        }
    }

    /// Replays one block; false when the chain cannot be followed further.
    fn block(&mut self, height: u64) -> bool {
        let bytes = self.read.get(Column::Blocks, &height.to_be_bytes());
        let Some(bytes) = self.report.note(Some(height), None, bytes).flatten() else {
            self.report.add(Some(height), None, "the block is missing");
            return false;
        };
        let block = match Block::from_bytes(&bytes) {
            Ok(block) => block,
            Err(error) => {
                self.report.add(Some(height), None, format!("the block is {error}"));
                return false;
            }
        };
        for problem in self.header_problems(height, &block) {
            self.report.add(Some(height), None, problem);
        }
        let first = self.done.edge.size();
        let count = block.header.count;
        if block.header.first_index != first || count == 0 || block.header.log_size != first + u64::from(count) {
            self.report.add(Some(height), None, "the block's place in the log is not where the one before ends");
            return false;
        }
        let Some(leaves) = self.transactions(height, first, count) else { return false };
        self.advance_log(height, &block, leaves);
        if self.done.state_known && self.done.trie.root() != block.header.state_root {
            self.report.add(Some(height), None, "the state root does not follow from the transactions");
            self.done.state_known = false;
        }
        for (key, value) in block_rows(&block) {
            self.done.index.add(&key, &value);
        }
        self.done.tip = Some(block);
        true
    }

    fn header_problems(&self, height: u64, block: &Block) -> Vec<&'static str> {
        let header = &block.header;
        let tip = self.done.tip.as_ref();
        let rules = [
            (header.chain == self.chain, "the header is of another chain"),
            (header.height == height, "the header has another height"),
            (header.previous == tip.map_or(Hash::ZERO, Block::hash), "the previous block's hash is another"),
            (header.time_us >= tip.map_or(0, |tip| tip.header.time_us), "the time is before the previous block's"),
            (header.sealer == self.genesis.wallet, "the sealer is not the chain's"),
            (header.stamp_bits == self.genesis.stamp_bits, "the stamp asked for is not the chain's"),
            (block.hash().leading_zero_bits() >= u32::from(header.stamp_bits), "the stamp does not hold"),
            (block.signature_holds(), "the block's signature does not hold"),
        ];
        rules.into_iter().filter(|(holds, _)| !holds).map(|(_, problem)| problem).collect()
    }

    /// Checks a block's transactions; for each its leaf hash, none when it cannot be read.
    fn transactions(&mut self, height: u64, first: u64, count: u32) -> Option<Vec<Option<Hash>>> {
        let mut ahead = read_ahead(self.read, first, count);
        let mut leaves = Vec::with_capacity(ahead.len());
        for index in first..first + u64::from(count) {
            let bytes = match ahead.pop_front_if(|(found, _)| *found == index) {
                Some((_, bytes)) => Ok(Some(bytes)),
                None => self.read.get(Column::Transactions, &index.to_be_bytes()),
            };
            let Some(bytes) = self.report.note(Some(height), Some(index), bytes).flatten() else {
                self.report.add(Some(height), Some(index), "the transaction is missing");
                self.done.state_known = false;
                leaves.push(None);
                // A header may claim any number of them: without the first few there is no point in asking for all.
                if leaves.len() as u64 > 1 && leaves.iter().rev().take(64).filter(|leaf| leaf.is_none()).count() == 64 {
                    return None;
                }
                continue;
            };
            leaves.push(match bytes.first() {
                Some(0) => self.erased(height, index, &bytes),
                _ => self.transaction(height, index, index == first, bytes),
            });
        }
        Some(leaves)
    }

    /// An erased transaction: its stub stands for it in the state, its leaf hash in the log.
    fn erased(&mut self, height: u64, index: u64, bytes: &[u8]) -> Option<Hash> {
        let Ok(stub) = crate::codec::decode::<Erased>(bytes) else {
            self.report.add(Some(height), Some(index), "the erased transaction's stub is malformed");
            self.done.state_known = false;
            return None;
        };
        self.report.erased += 1;
        if self.done.state_known {
            self.follow_stub(height, index, &stub);
        }
        // Its leaf hash stands in the log alone; that the log's root is right vouches for it.
        match erased_leaf(self.read, index) {
            Ok(txid) => {
                self.done.index.add(&txid_key(&txid), &encode(&index));
                Some(txid)
            }
            Err(error) => {
                let problem = format!("the hash of the erased transaction is lost: {error}");
                self.report.add(Some(height), Some(index), problem);
                None
            }
        }
    }

    fn follow_stub(&mut self, height: u64, index: u64, stub: &Erased) {
        if stub.updates.is_empty() {
            // What it did could not be found out any more when it was erased.
            self.done.state_known = false;
            self.done.fogged = true;
            return;
        }
        let due = Look(&self.done.rows).sequence(&stub.author);
        if due.is_ok_and(|due| due != stub.sequence) {
            self.report.add(Some(height), Some(index), "the erased transaction's sequence number is not the one due");
            self.done.state_known = false;
            return;
        }
        for update in &stub.updates {
            match update.value {
                Some(value) => self.done.trie.set(update.key, value),
                None => self.done.trie.remove(&update.key),
            }
            self.done.rows.hide(update.key);
        }
        let row = row::author(&stub.author);
        self.set_row(height, index, row, Some(encode(&stub.sequence.wrapping_add(1))));
    }

    fn set_row(&mut self, height: u64, index: u64, row: Vec<u8>, value: Option<Vec<u8>>) {
        let set = self.done.rows.set(row, value);
        if self.report.note(Some(height), Some(index), set).is_none() {
            self.done.state_known = false;
        }
    }

    fn transaction(&mut self, height: u64, index: u64, is_first: bool, bytes: Vec<u8>) -> Option<Hash> {
        let txid = Transaction::id(&bytes);
        let transaction = match Transaction::from_bytes(&bytes) {
            Ok(transaction) => transaction,
            Err(error) => {
                self.report.add(Some(height), Some(index), format!("the transaction is {error}"));
                self.done.state_known = false;
                return Some(txid);
            }
        };
        let is_coinbase = matches!(transaction.envelope, Envelope::Coinbase(_));
        if transaction.chain != self.chain {
            self.report.add(Some(height), Some(index), "the transaction is of another chain");
        } else if is_coinbase != is_first {
            self.report.add(Some(height), Some(index), "a coinbase is the first transaction of a block and no other");
        } else if is_coinbase && transaction != coinbase(self.genesis, self.done.tip.as_ref()) {
            self.report.add(Some(height), Some(index), "the coinbase is not what the block before makes it");
        }
        if self.done.state_known {
            self.apply(height, index, txid, &transaction);
        }
        let sum = &mut self.done.index;
        index_rows(index, &txid, &transaction, &mut |key, value| sum.add(&key, &value));
        if !is_coinbase && self.wanted.is_none() {
            self.signatures.check(Signed { block: height, index, transaction, bytes });
        }
        Some(txid)
    }

    fn apply(&mut self, height: u64, index: u64, txid: Hash, transaction: &Transaction) {
        let effects = match apply(&self.done.rows, txid, transaction) {
            Ok(effects) => effects,
            Err(_) if self.done.rows.took_fog() => {
                self.done.state_known = false;
                self.done.fogged = true;
                return;
            }
            Err(error) => {
                self.report.add(Some(height), Some(index), format!("the transaction does not apply: {error}"));
                self.done.state_known = false;
                return;
            }
        };
        if self.wanted == Some(index) {
            self.done.wanted = Some(effects.clone());
        }
        for (row, value) in effects {
            match (row::map_key(&row), &value) {
                (None, _) => {}
                (Some(key), Some(value)) => self.done.trie.set(key, Hash::of(&[value])),
                (Some(key), None) => self.done.trie.remove(&key),
            }
            self.set_row(height, index, row, value);
        }
    }

    /// Appends a block's leaves to the log. When that does not give the header's root, the stored tiles tell whether a
    /// transaction was altered: with their leaf in its place the root is right.
    fn advance_log(&mut self, height: u64, block: &Block, leaves: Vec<Option<Hash>>) {
        let first = self.done.edge.size();
        let stored = match self.stored_leaves(first, leaves.len()) {
            Ok(stored) => stored,
            Err(error) => {
                self.report.add_derived(Some(height), None, error.to_string());
                leaves.iter().map(|leaf| leaf.unwrap_or_default()).collect()
            }
        };
        let computed: Vec<Hash> = leaves.iter().zip(&stored).map(|(leaf, stored)| leaf.unwrap_or(*stored)).collect();
        let mut edge = self.done.edge.clone();
        let mut tiles = Vec::new();
        edge.append(&computed, &mut |level, number, hashes| tiles.push((level, number, hashes.to_vec())));
        if edge.root() != block.header.log_root {
            let mut other = self.done.edge.clone();
            let mut other_tiles = Vec::new();
            other.append(&stored, &mut |level, number, hashes| other_tiles.push((level, number, hashes.to_vec())));
            if other.root() == block.header.log_root {
                for (index, _) in (first..).zip(computed.iter().zip(&stored)).filter(|(_, (ours, leaf))| ours != leaf) {
                    self.report.add(Some(height), Some(index), "the transaction is not the one in the log");
                }
                (edge, tiles) = (other, other_tiles);
            } else {
                self.report.add(Some(height), None, "the log root does not follow from the transactions");
            }
        }
        for (level, number, hashes) in tiles {
            if hashes.len() == TILE {
                self.done.tiles += 1;
                self.tile(height, level, number, &hashes);
            }
        }
        self.done.edge = edge;
    }

    /// Compares a tile with the stored one.
    fn tile(&mut self, height: u64, level: u8, number: u64, hashes: &[Hash]) {
        match read_tile(self.read, level, number, hashes.len()) {
            Ok(stored) => {
                if let Some(at) = stored.iter().zip(hashes).position(|(stored, hash)| stored != hash) {
                    let first = (number * TILE as u64 + at as u64) << (8 * u32::from(level));
                    let block = block_of(self.read, first, height);
                    self.report.add_derived(block, Some(first), format!("log tile {level}/{number} differs"));
                }
            }
            Err(error) => self.report.add_derived(Some(height), None, error.to_string()),
        }
    }

    /// Leaf hashes as the stored tiles have them.
    fn stored_leaves(&self, first: u64, count: usize) -> Result<Vec<Hash>, StoreError> {
        let end = first + count as u64;
        let mut leaves = Vec::with_capacity(count);
        let mut at = first;
        while at < end {
            let (number, offset) = (at / TILE as u64, (at % TILE as u64) as usize);
            let width = ((end - number * TILE as u64) as usize).min(TILE);
            leaves.extend_from_slice(&read_tile(self.read, 0, number, width)?[offset..]);
            at = (number + 1) * TILE as u64;
        }
        Ok(leaves)
    }
}
