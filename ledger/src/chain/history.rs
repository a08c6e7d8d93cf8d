//! Histories: all transactions, a bucket's, or one path's through every rename of it and of directories above it.
//!
//! A path's history is followed backwards along trails. A trail is a path that is still to be followed; meeting a rename to
//! its path, or to a directory above, it goes on at the old path. Trails that come to one path go on as one. Positions are
//! log indexes; pending transactions have those that would follow.

use std::collections::BTreeMap;

use super::index::{bucket_of, bucket_prefix, index_in, path_prefix};
use super::*;
use crate::transaction::FileOp;

/// Index rows read at a time.
const PAGE: usize = 256;

/// One moment's transactions: those in the log, then those pending.
struct Timeline<'a> {
    ledger: &'a Ledger,
    size: u64,
    pending: Vec<(Arc<Waiting>, Transaction)>,
    /// The block read last: the next transaction is often in it too.
    block: Option<Block>,
}

/// Paths being followed backwards. Those with true in full: earlier, other lives of the path belong too.
pub(super) type Trails = BTreeMap<TreePath, bool>;

/// Hears the position that was looked at, and the transaction there if it belongs to the history.
type Step<'a> = dyn FnMut(u64, Option<Logged>) -> ControlFlow<()> + 'a;

impl Ledger {
    /// The transactions of a history in order, pending ones last in time. `from` is the first log index to return
    /// (newest first: the highest; oldest first: the lowest); without it, from the end the order starts at. At most
    /// `limit` of them.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn history(&self, which: &History, order: Order, from: Option<u64>, limit: usize) -> Result<Vec<Logged>> {
        let mut found = Vec::new();
        if limit > 0 {
            self.visit_history(which, order, from, &mut |logged| {
                found.extend(logged);
                if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
        }
        Ok(found)
    }

    /// As [`Ledger::history`], each transaction as it is found, until `visit` breaks. It hears nothing, too, for each that
    /// was looked at and does not belong: a path may have few transactions and a long way to them.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn visit_history(
        &self,
        which: &History,
        order: Order,
        from: Option<u64>,
        visit: &mut dyn FnMut(Option<Logged>) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut timeline = self.timeline();
        match (which, order) {
            (History::All, _) => timeline.all(order, from, &mut |_, logged| visit(logged)),
            (History::Bucket(bucket), _) => timeline.of_bucket(bucket, order, from, &mut |_, logged| visit(logged)),
            (History::Path(bucket, path), Order::NewestFirst) => timeline
                .of_path(bucket, path, &mut |at, logged| visit(logged.filter(|_| from.is_none_or(|from| at <= from)))),
            (History::Path(bucket, path), Order::OldestFirst) => {
                // All have to be found before the first can be told.
                let (mut found, mut flow) = (Vec::new(), ControlFlow::Continue(()));
                timeline.of_path(bucket, path, &mut |at, logged| {
                    if from.is_some_and(|from| at < from) {
                        return ControlFlow::Break(());
                    }
                    found.extend(logged.map(|_| at));
                    flow = visit(None);
                    flow
                })?;
                while let (ControlFlow::Continue(()), Some(at)) = (flow, found.pop()) {
                    flow = visit(timeline.read(at)?);
                }
                Ok(())
            }
        }
    }

    /// The newest transaction that names a path or took what was there away with a directory above it. None when there is
    /// no such, or all are erased.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn last_change(&self, bucket: &BucketId, path: &TreePath) -> Result<Option<Logged>> {
        let mut timeline = self.timeline();
        let mut before = timeline.end();
        while let Some(at) = timeline.last_touching(bucket, path, before)? {
            let logged = timeline.read(at)?;
            let transaction = logged.as_ref().and_then(|logged| logged.transaction.as_ref());
            let is_it = transaction.and_then(Transaction::file).is_some_and(|file| {
                let (end, other) = file.op.paths();
                file.bucket == *bucket && (end == path || other == Some(path) || file.op.takes_away(path))
            });
            if is_it {
                return Ok(logged);
            }
            before = at;
        }
        Ok(None)
    }

    fn timeline(&self) -> Timeline<'_> {
        let live = self.live.lock();
        let (size, waiting) = (live.tip.header.log_size, live.mempool.range(0, u64::MAX));
        drop(live);
        let decode = |(_, waiting): (u64, Arc<Waiting>)| {
            let transaction = waiting.transaction();
            (waiting, transaction)
        };
        Timeline { ledger: self, size, pending: waiting.into_iter().map(decode).collect(), block: None }
    }
}

impl Timeline<'_> {
    fn end(&self) -> u64 {
        self.size + self.pending.len() as u64
    }

    fn read(&mut self, position: u64) -> Result<Option<Logged>> {
        let pending = position.checked_sub(self.size).and_then(|at| self.pending.get(at as usize));
        if let Some((waiting, _)) = pending {
            return Ok(Some(Logged::pending(waiting)));
        }
        let holds = |block: &Block| {
            let first = block.header.first_index;
            (first..first + u64::from(block.header.count)).contains(&position)
        };
        if !self.block.as_ref().is_some_and(holds) {
            self.block = self.ledger.block_of(position)?;
        }
        self.block.as_ref().map(|block| self.ledger.logged(position, block)).transpose()
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

    fn all(&mut self, order: Order, from: Option<u64>, step: &mut Step<'_>) -> Result<()> {
        let end = self.end();
        let mut left = match order {
            Order::NewestFirst => 0..from.map_or(end, |from| from.saturating_add(1).min(end)),
            Order::OldestFirst => from.unwrap_or(0)..end,
        };
        let mut next = || if order == Order::NewestFirst { left.next_back() } else { left.next() };
        while let Some(at) = next() {
            if step(at, self.read(at)?).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn of_bucket(&mut self, bucket: &BucketId, order: Order, from: Option<u64>, step: &mut Step<'_>) -> Result<()> {
        let mut from = from;
        loop {
            let page = self.page(bucket, order, from)?;
            for at in &page {
                if step(*at, self.read(*at)?).is_break() {
                    return Ok(());
                }
            }
            from = match (order, page.last()) {
                (Order::NewestFirst, Some(last)) if *last > 0 => Some(last - 1),
                (Order::OldestFirst, Some(last)) => Some(last + 1),
                _ => return Ok(()),
            };
        }
    }

    /// Some of a bucket's positions, from `from` on; none when there are no more.
    fn page(&self, bucket: &BucketId, order: Order, from: Option<u64>) -> Result<Vec<u64>> {
        let pending = self.pending.iter().enumerate().filter_map(|(at, (waiting, transaction))| {
            (bucket_of(&waiting.txid, transaction) == Some(*bucket)).then_some(self.size + at as u64)
        });
        let mut positions = Vec::new();
        if order == Order::NewestFirst {
            positions.extend(pending.clone().rev().filter(|at| from.is_none_or(|from| *at <= from)));
        }
        let start = from.unwrap_or(if order == Order::NewestFirst { u64::MAX } else { 0 });
        if positions.len() < PAGE {
            self.scan(&bucket_prefix(bucket), start, order, &mut |index| {
                positions.push(index);
                if positions.len() >= PAGE { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
        }
        if order == Order::OldestFirst && positions.len() < PAGE {
            positions.extend(pending.filter(|at| from.is_none_or(|from| *at >= from)));
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

    /// The last position before `before` that names a path or a directory above it.
    fn last_touching(&self, bucket: &BucketId, path: &TreePath, before: u64) -> Result<Option<u64>> {
        let mut last = None;
        let mut path = Some(path.clone());
        while let Some(here) = path.filter(|path| !path.is_root()) {
            last = last.max(self.last_naming(bucket, &here, before)?);
            path = here.split().map(|(parent, _)| parent);
        }
        Ok(last)
    }

    /// The history of what is, or was, at a path, newest first.
    fn of_path(&mut self, bucket: &BucketId, path: &TreePath, step: &mut Step<'_>) -> Result<()> {
        let entry = if path.is_root() { None } else { self.ledger.entry(bucket, path)? };
        if path.is_root() || entry.is_some_and(|entry| entry.is_directory()) {
            return self.of_directory(bucket, path, step);
        }
        // By the position where each goes on. From there back, all that matters of a trail is its path.
        let mut trails: BTreeMap<u64, Trails> = BTreeMap::new();
        let (mut before, mut moved) = (self.end(), Trails::from([(path.clone(), true)]));
        loop {
            for (path, whole) in moved {
                if let Some(at) = self.last_touching(bucket, &path, before)? {
                    join(trails.entry(at).or_default(), path, whole);
                }
            }
            let Some((at, here)) = trails.pop_last() else { return Ok(()) };
            (before, moved) = (at, Trails::new());
            let logged = self.read(at)?;
            let transaction = logged.as_ref().and_then(|logged| logged.transaction.as_ref());
            let mut ours = false;
            match transaction.and_then(Transaction::file).filter(|file| file.bucket == *bucket) {
                Some(file) => {
                    for (path, whole) in here {
                        ours |= walk_back(path, whole, &file.op, file.prior.is_none(), &mut moved);
                    }
                }
                // Erased: what it did to the paths is unknown, but it named them.
                None => moved = here,
            }
            if step(at, logged.filter(|_| ours)).is_break() {
                return Ok(());
            }
        }
    }

    /// The history of a directory and all below it, newest first.
    fn of_directory(&mut self, bucket: &BucketId, directory: &TreePath, step: &mut Step<'_>) -> Result<()> {
        let mut prefixes = vec![directory.clone()];
        self.of_bucket(bucket, Order::NewestFirst, None, &mut |at, logged| {
            let Some(transaction) = logged.as_ref().and_then(|logged| logged.transaction.as_ref()) else {
                return step(at, None);
            };
            let Some(file) = transaction.file() else {
                // The bucket's own creation and deletion are its root's.
                return step(at, logged.filter(|_| directory.is_root()));
            };
            let (path, other) = file.op.paths();
            let inside = |path: &TreePath| prefixes.iter().any(|prefix| path.below(prefix).is_some());
            let ours = inside(path) || other.is_some_and(inside);
            let came_from = |(to, from): (&TreePath, &TreePath)| {
                prefixes.iter().filter_map(|prefix| prefix.rebased(to, from)).collect::<Vec<_>>()
            };
            let earlier: Vec<TreePath> = file.op.moves().into_iter().flat_map(came_from).collect();
            prefixes.extend(earlier);
            prefixes.sort_unstable();
            prefixes.dedup();
            step(at, logged.filter(|_| ours))
        })
    }
}

/// Adds a trail; where one is already, one goes on, in full if either does.
fn join(trails: &mut Trails, path: TreePath, whole: bool) {
    *trails.entry(path).or_default() |= whole;
}

/// Takes a trail one step back over `op`, which names its path or a directory above it; where it goes on is added to
/// `trails`. Says whether the operation belongs to the path's history: it names the path itself.
pub(super) fn walk_back(trail: TreePath, whole: bool, op: &FileOp, first: bool, trails: &mut Trails) -> bool {
    let (path, other) = op.paths();
    let names = *path == trail || other == Some(&trail);
    let arrived = op.moves().into_iter().find_map(|(to, from)| trail.rebased(to, from));
    if let Some(earlier) = arrived {
        // What stood here before was replaced by what came; it is a part of the whole path's history only.
        if whole {
            join(trails, trail, true);
        }
        join(trails, earlier, whole && !names);
        return names;
    }
    let is_end = match op {
        FileOp::Put(_) | FileOp::Accept(_) => !names,
        FileOp::Mkdir { .. } => false,
        FileOp::Remove { .. } | FileOp::Rmdir { .. } | FileOp::Rename { .. } | FileOp::Exchange { .. } => true,
    };
    if is_end && !whole {
        // An earlier life of the same path, ended before this one began.
        return false;
    }
    let is_start = names && first && !is_end;
    if whole || !is_start {
        join(trails, trail, whole);
    }
    names
}
