//! Histories: all transactions, a bucket's, or one path's through every rename of it and of directories above it.
//!
//! A path's history is followed backwards along trails. A trail is a path and the position below which it is still to be
//! followed; meeting a rename to its path, or to a directory above, it goes on at the old path. Positions are log
//! indexes; pending transactions have those that would follow.

use super::index::{bucket_of, bucket_prefix, index_in, path_prefix};
use super::*;
use crate::transaction::FileOp;

/// One moment's transactions: those in the log, then those pending.
struct Timeline<'a> {
    ledger: &'a Ledger,
    size: u64,
    pending: Vec<(Arc<Waiting>, Transaction)>,
}

/// A path being followed backwards.
struct Trail {
    path: TreePath,
    /// Only what lies before this position is still to be followed.
    before: u64,
    /// Whether earlier, other lives of the path belong too: only for the path asked for.
    whole: bool,
}

impl Ledger {
    /// The transactions of a history in order, pending ones last in time. `from` is the first log index to return
    /// (newest first: the highest; oldest first: the lowest); without it, from the end the order starts at. At most
    /// `limit` of them.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn history(&self, which: &History, order: Order, from: Option<u64>, limit: usize) -> Result<Vec<Logged>> {
        let timeline = self.timeline();
        let wanted = |position: u64| match (order, from) {
            (_, None) => true,
            (Order::NewestFirst, Some(from)) => position <= from,
            (Order::OldestFirst, Some(from)) => position >= from,
        };
        let end = timeline.end();
        let mut positions: Vec<u64> = match which {
            History::All => match order {
                Order::NewestFirst => {
                    (0..from.map_or(end, |from| from.saturating_add(1).min(end))).rev().take(limit).collect()
                }
                Order::OldestFirst => (from.unwrap_or(0)..end).take(limit).collect(),
            },
            History::Bucket(bucket) => timeline.of_bucket(bucket, order, from, limit)?,
            History::Path(bucket, path) => {
                let is_directory =
                    path.is_root() || self.entry(bucket, path)?.is_some_and(|entry| entry.is_directory());
                // Oldest first needs all of them before the first can be told.
                let enough = if order == Order::NewestFirst { limit } else { usize::MAX };
                let mut positions = match is_directory {
                    true => timeline.below(bucket, path, &wanted, enough)?,
                    false => timeline.of_path(bucket, path, &wanted, enough)?,
                };
                if order == Order::OldestFirst {
                    positions.reverse();
                }
                positions
            }
        };
        positions.truncate(limit);
        timeline.read(&positions)
    }

    fn timeline(&self) -> Timeline<'_> {
        let live = self.live.lock();
        let (size, waiting) = (live.tip.header.log_size, live.mempool.range(0, u64::MAX));
        drop(live);
        let decode = |(_, waiting): (u64, Arc<Waiting>)| {
            let transaction = waiting.transaction();
            (waiting, transaction)
        };
        Timeline { ledger: self, size, pending: waiting.into_iter().map(decode).collect() }
    }
}

impl Timeline<'_> {
    fn end(&self) -> u64 {
        self.size + self.pending.len() as u64
    }

    fn pending_at(&self, position: u64) -> Option<&(Arc<Waiting>, Transaction)> {
        self.pending.get(position.checked_sub(self.size)? as usize)
    }

    /// The transaction at a position; none when erased.
    fn transaction(&self, position: u64) -> Result<Option<Transaction>> {
        if let Some((_, transaction)) = self.pending_at(position) {
            return Ok(Some(transaction.clone()));
        }
        Ok(self.ledger.transaction_at(position)?.and_then(|logged| logged.transaction))
    }

    fn read(&self, positions: &[u64]) -> Result<Vec<Logged>> {
        let mut block: Option<Block> = None;
        let mut found = Vec::with_capacity(positions.len());
        for position in positions {
            if let Some((waiting, _)) = self.pending_at(*position) {
                found.push(Logged::pending(waiting));
                continue;
            }
            let holds = |block: &Block| {
                let first = block.header.first_index;
                (first..first + u64::from(block.header.count)).contains(position)
            };
            if !block.as_ref().is_some_and(holds) {
                block = self.ledger.block_of(*position)?;
            }
            if let Some(block) = &block {
                found.push(self.ledger.logged(*position, block)?);
            }
        }
        Ok(found)
    }

    /// Positions in the index rows under `prefix`, from `start` on in the given direction, until `visit` breaks.
    fn scan(
        &self,
        prefix: &[u8],
        start: u64,
        order: Order,
        visit: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<()> {
        let key = [prefix, &start.to_be_bytes()].concat();
        let direction = match order {
            Order::NewestFirst => Direction::Backward,
            Order::OldestFirst => Direction::Forward,
        };
        let scanned = self.ledger.store.scan(Column::Index, &key, direction, &mut |key, _| match index_in(key) {
            // Rows written by a seal after this timeline was taken show up as its pending ones.
            Some(index) if key.starts_with(prefix) && index < self.size => visit(index),
            Some(_) if key.starts_with(prefix) => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        });
        self.ledger.read(scanned)
    }

    fn of_bucket(&self, bucket: &BucketId, order: Order, from: Option<u64>, limit: usize) -> Result<Vec<u64>> {
        let ours = |(waiting, transaction): &(Arc<Waiting>, Transaction)| {
            bucket_of(&waiting.txid, transaction) == Some(*bucket)
        };
        let pending = (self.size..self.end()).zip(&self.pending).filter(|(_, pending)| ours(pending)).map(|(at, _)| at);
        let pending: Vec<u64> = pending.collect();
        let mut positions = Vec::new();
        if order == Order::NewestFirst && from.is_none_or(|from| from >= self.size) {
            positions.extend(pending.iter().rev().filter(|at| from.is_none_or(|from| **at <= from)));
        }
        let start = from.unwrap_or(if order == Order::NewestFirst { u64::MAX } else { 0 });
        if positions.len() < limit {
            self.scan(&bucket_prefix(bucket), start, order, &mut |index| {
                positions.push(index);
                if positions.len() >= limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
        }
        if order == Order::OldestFirst {
            positions.extend(pending.into_iter().filter(|at| from.is_none_or(|from| *at >= from)));
        }
        Ok(positions)
    }

    /// The last position before `before` of a transaction that names `path`.
    fn last_naming(&self, bucket: &BucketId, path: &TreePath, before: u64) -> Result<Option<u64>> {
        let above = before.saturating_sub(self.size) as usize;
        let names = |(_, transaction): &(Arc<Waiting>, Transaction)| {
            transaction.file().is_some_and(|file| {
                let (end, other) = file.op.paths();
                file.bucket == *bucket && (end == path || other == Some(path))
            })
        };
        let pending = &self.pending[..above.min(self.pending.len())];
        if let Some(at) = pending.iter().rposition(names) {
            return Ok(Some(self.size + at as u64));
        }
        let Some(start) = before.min(self.size).checked_sub(1) else { return Ok(None) };
        let mut last = None;
        self.scan(&path_prefix(bucket, path), start, Order::NewestFirst, &mut |index| {
            last = Some(index);
            ControlFlow::Break(())
        })?;
        Ok(last)
    }

    /// The next step back on a trail: the last position that names its path or a directory above it.
    fn step(&self, bucket: &BucketId, trail: &Trail) -> Result<Option<u64>> {
        let mut last = None;
        let mut path = Some(trail.path.clone());
        while let Some(here) = path.filter(|path| !path.is_root()) {
            last = last.max(self.last_naming(bucket, &here, trail.before)?);
            path = here.split().map(|(parent, _)| parent);
        }
        Ok(last)
    }

    /// Positions of a file's history, newest first.
    fn of_path(
        &self,
        bucket: &BucketId,
        path: &TreePath,
        wanted: &dyn Fn(u64) -> bool,
        limit: usize,
    ) -> Result<Vec<u64>> {
        let mut positions: Vec<u64> = Vec::new();
        let mut trails = vec![Trail { path: path.clone(), before: self.end(), whole: true }];
        while positions.len() < limit {
            let mut latest: Option<(u64, usize)> = None;
            for (number, trail) in trails.iter().enumerate() {
                latest = latest.max(self.step(bucket, trail)?.map(|at| (at, number)));
            }
            let Some((at, number)) = latest else { break };
            let trail = trails.swap_remove(number);
            let transaction = self.transaction(at)?;
            let op = transaction.as_ref().and_then(Transaction::file).filter(|file| file.bucket == *bucket);
            let Some(file) = op else {
                // Erased: what it did to the path is unknown, but it named it.
                trails.push(Trail { before: at, ..trail });
                continue;
            };
            let ours = walk_back(trail, at, &file.op, file.prior.is_none(), &mut trails);
            if ours && wanted(at) && positions.last() != Some(&at) {
                positions.push(at);
            }
        }
        Ok(positions)
    }

    /// Positions of a directory's history and all below it, newest first.
    fn below(
        &self,
        bucket: &BucketId,
        directory: &TreePath,
        wanted: &dyn Fn(u64) -> bool,
        limit: usize,
    ) -> Result<Vec<u64>> {
        let mut prefixes = vec![directory.clone()];
        let mut positions = Vec::new();
        for at in self.of_bucket(bucket, Order::NewestFirst, None, usize::MAX)? {
            let Some(transaction) = self.transaction(at)? else { continue };
            let Some(file) = transaction.file() else {
                // The bucket's own creation and deletion are its root's.
                if directory.is_root() && wanted(at) {
                    positions.push(at);
                }
                continue;
            };
            let (path, other) = file.op.paths();
            let inside = |path: &TreePath| prefixes.iter().any(|prefix| path.below(prefix).is_some());
            if (inside(path) || other.is_some_and(inside)) && wanted(at) {
                positions.push(at);
            }
            let came_from = |(to, from): (&TreePath, &TreePath)| {
                prefixes.iter().filter_map(|prefix| prefix.rebased(to, from)).collect::<Vec<_>>()
            };
            let earlier: Vec<TreePath> = moves(&file.op).into_iter().flat_map(came_from).collect();
            prefixes.extend(earlier);
            prefixes.sort_unstable();
            prefixes.dedup();
            if positions.len() >= limit {
                break;
            }
        }
        Ok(positions)
    }
}

/// What an operation moved: new path, old path.
fn moves(op: &FileOp) -> Vec<(&TreePath, &TreePath)> {
    match op {
        FileOp::Rename { from, to } => vec![(to, from)],
        FileOp::Exchange { a, b } => vec![(b, a), (a, b)],
        _ => Vec::new(),
    }
}

/// Takes a trail one step back over `op` at position `at`, which names its path or a directory above it; where it goes on
/// is added to `trails`. Says whether the operation belongs to the path's history: it names the path itself.
fn walk_back(trail: Trail, at: u64, op: &FileOp, first: bool, trails: &mut Vec<Trail>) -> bool {
    let (path, other) = op.paths();
    let names = *path == trail.path || other == Some(&trail.path);
    let arrived = moves(op).into_iter().find_map(|(to, from)| trail.path.rebased(to, from));
    if let Some(earlier) = arrived {
        // What stood here before was replaced by what came; it is a part of the whole path's history only.
        if trail.whole {
            trails.push(Trail { path: trail.path, before: at, whole: true });
        }
        trails.push(Trail { path: earlier, before: at, whole: trail.whole && !names });
        return names;
    }
    let is_end = match op {
        FileOp::Put(_) | FileOp::Accept(_) => !names,
        FileOp::Mkdir { .. } => false,
        FileOp::Remove { .. } | FileOp::Rmdir { .. } | FileOp::Rename { .. } | FileOp::Exchange { .. } => true,
    };
    if is_end && !trail.whole {
        // An earlier life of the same path, ended before this one began.
        return false;
    }
    let is_start = names && first && !is_end;
    if trail.whole || !is_start {
        trails.push(Trail { before: at, ..trail });
    }
    names
}
