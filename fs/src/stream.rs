//! The numbered stream of changes: numbers are given under the namespace lock, delivery to the sink follows behind.

use crate::change::{Cause, Change, ChangeSink, Op, Row, SinkError};
use crate::error::{FsError, FsResult};
use crate::path::BucketPath;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Items delivered in one batch.
const BATCH_MAX: usize = 512;
/// Undelivered changes at which operations begin to wait.
const QUEUE_MAX: usize = 16_384;
/// While nobody waits, changes gather for this long: a batch costs the ledger little more than one change.
const GATHER: Duration = Duration::from_millis(10);
/// Pause before a full ledger is tried again.
const RETRY: Duration = Duration::from_millis(250);

/// Gives numbers to changes and hands them to the sink in order, from a thread of its own (signing costs more than
/// most operations).
pub struct Stream {
    sink: Arc<dyn ChangeSink>,
    state: Mutex<State>,
    /// Work for the deliverer.
    work: Condvar,
    /// Something was delivered, or failed.
    progress: Condvar,
    deliverer: Mutex<Option<JoinHandle<()>>>,
}

struct State {
    last: u64,
    delivered: u64,
    queue: VecDeque<Item>,
    /// Rows given out but not yet in the sink, with the position after which the sink has them.
    unwritten: HashMap<Vec<u8>, (u64, Option<Vec<u8>>)>,
    /// Positions of items handed in and written: rows without a change have one too.
    handed: u64,
    written: u64,
    problem: Option<SinkError>,
    /// Somebody waits for delivery.
    awaited: bool,
    stopping: bool,
}

/// Changes and rows that belong together.
struct Item {
    changes: Vec<Change>,
    rows: Vec<Row>,
    /// To be done once the sink has them.
    then: Option<Box<dyn FnOnce() + Send>>,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.state.lock();
        f.debug_struct("Stream")
            .field("last", &state.last)
            .field("delivered", &state.delivered)
            .field("problem", &state.problem)
            .finish_non_exhaustive()
    }
}

/// Microseconds since 1970.
pub fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX))
}

/// Lower the priority of this thread: programs in the mount come first.
pub(crate) fn yield_to_programs() {
    // On Linux the calling thread alone, in spite of the name.
    if let Err(errno) = rustix::process::setpriority_process(None, 10) {
        tracing::debug!(%errno, "a background thread keeps its priority");
    }
}

impl Stream {
    /// A stream that goes on after the sink's last number.
    ///
    /// # Errors
    /// What the sink answers; starting a thread.
    pub fn start(sink: Arc<dyn ChangeSink>) -> FsResult<Arc<Self>> {
        let last = sink.last_number()?;
        let stream = Arc::new(Self {
            sink,
            state: Mutex::new(State {
                last,
                delivered: last,
                queue: VecDeque::new(),
                unwritten: HashMap::new(),
                handed: 0,
                written: 0,
                problem: None,
                awaited: false,
                stopping: false,
            }),
            work: Condvar::new(),
            progress: Condvar::new(),
            deliverer: Mutex::new(None),
        });
        let run = stream.clone();
        let thread = std::thread::Builder::new().name("deliver".into()).spawn(move || run.deliver())?;
        *stream.deliverer.lock() = Some(thread);
        Ok(stream)
    }

    /// The sink behind the stream. Rows not yet delivered are not visible there.
    pub fn sink(&self) -> &dyn ChangeSink {
        &*self.sink
    }

    /// Visit the paths touched by changes that are in no sealed block, whether or not the sink has them yet.
    ///
    /// # Errors
    /// What the sink answers.
    pub fn unsealed(&self, visit: &mut dyn FnMut(&BucketPath)) -> Result<(), SinkError> {
        // These first: what is delivered meanwhile is met there.
        let state = self.state.lock();
        state.queue.iter().flat_map(|item| &item.changes).flat_map(|change| change.op.paths()).for_each(&mut *visit);
        drop(state);
        self.sink.unsealed(visit)
    }

    /// Wait until there is room, before an operation that will add changes. `frees` is for operations that free space:
    /// they go on when the ledger's disk is full.
    ///
    /// # Errors
    /// The problem that keeps the stream from moving.
    pub fn admit(&self, frees: bool) -> FsResult<()> {
        match self.sink.admits() {
            Err(SinkError::NoSpace(_)) if frees => {}
            admitted => admitted?,
        }
        let mut state = self.state.lock();
        loop {
            match &state.problem {
                Some(SinkError::NoSpace(_)) if frees => return Ok(()),
                Some(problem) => return Err(problem.clone().into()),
                None if state.queue.len() < QUEUE_MAX => return Ok(()),
                None => self.progress.wait(&mut state),
            }
        }
    }

    /// Give each of `ops` the next number; they and the `rows` that follow from them reach the sink together or not at
    /// all. Returns the last number. The caller holds the namespace lock.
    pub fn emit(&self, cause: Cause, ops: Vec<Op>, rows: Vec<Row>) -> u64 {
        let mut state = self.state.lock();
        let time_us = now_us();
        let mut changes = Vec::with_capacity(ops.len());
        for op in ops {
            state.last += 1;
            changes.push(Change { number: state.last, time_us, cause, op });
        }
        let number = state.last;
        self.push(&mut state, Item { changes, rows, then: None });
        number
    }

    /// Rows that follow from no change, in their place between the others.
    pub fn note(&self, rows: Vec<Row>) {
        if !rows.is_empty() {
            self.push(&mut self.state.lock(), Item { changes: Vec::new(), rows, then: None });
        }
    }

    /// As [`Stream::note`], and do `then`, which must not wait, once the sink has these rows and all before them. It is told the
    /// last number given out before.
    pub fn note_then(&self, rows: Vec<Row>, then: impl FnOnce(u64) + Send + 'static) {
        let mut state = self.state.lock();
        let last = state.last;
        self.push(&mut state, Item { changes: Vec::new(), rows, then: Some(Box::new(move || then(last))) });
    }

    fn push(&self, state: &mut State, item: Item) {
        state.handed += 1;
        let at = state.handed;
        for row in &item.rows {
            state.unwritten.insert(row.key.clone(), (at, row.value.clone()));
        }
        state.queue.push_back(item);
        if state.queue.len() == 1 {
            self.work.notify_one();
        }
    }

    /// A row as it will be once everything is delivered.
    ///
    /// # Errors
    /// What the sink answers.
    pub fn row(&self, key: &[u8]) -> Result<Option<Vec<u8>>, SinkError> {
        if let Some((_, value)) = self.state.lock().unwritten.get(key) {
            return Ok(value.clone());
        }
        self.sink.row(key)
    }

    /// The rows whose keys start with `prefix`, as they will be once everything is delivered that was handed in before.
    ///
    /// # Errors
    /// What the sink answers.
    pub fn rows(&self, prefix: &[u8]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, SinkError> {
        // These first: what is delivered meanwhile is met there too.
        let unwritten: Vec<_> = {
            let state = self.state.lock();
            let begin = state.unwritten.iter().filter(|(key, _)| key.starts_with(prefix));
            begin.map(|(key, (_, value))| (key.clone(), value.clone())).collect()
        };
        let mut rows = BTreeMap::new();
        self.sink.rows(prefix, &mut |key, value| {
            rows.insert(key.to_vec(), value.to_vec());
            ControlFlow::Continue(())
        })?;
        for (key, value) in unwritten {
            match value {
                Some(value) => rows.insert(key, value),
                None => rows.remove(&key),
            };
        }
        Ok(rows)
    }

    /// Whether a row with one of these keys is on its way to the sink.
    pub fn is_unwritten(&self, keys: &[Vec<u8>]) -> bool {
        let state = self.state.lock();
        keys.iter().any(|key| state.unwritten.contains_key(key))
    }

    /// Whether every row and change handed in is in the sink.
    pub fn is_drained(&self) -> bool {
        let state = self.state.lock();
        state.written == state.handed
    }

    /// The last number given out.
    pub fn last(&self) -> u64 {
        self.state.lock().last
    }

    /// The last number the sink has.
    pub fn delivered(&self) -> u64 {
        self.state.lock().delivered
    }

    /// What keeps changes from being delivered, if anything.
    pub fn problem(&self) -> Option<SinkError> {
        self.state.lock().problem.clone()
    }

    /// Wait until the sink has everything up to `number`.
    ///
    /// # Errors
    /// The problem that keeps it from that.
    pub fn wait(&self, number: u64) -> FsResult<()> {
        let mut state = self.state.lock();
        while state.delivered < number {
            if let Some(problem) = &state.problem {
                return Err(problem.clone().into());
            }
            if state.stopping && state.queue.is_empty() {
                return Err(FsError::Interrupted);
            }
            self.await_delivery(&mut state);
        }
        Ok(())
    }

    fn await_delivery(&self, state: &mut MutexGuard<'_, State>) {
        state.awaited = true;
        self.work.notify_one();
        self.progress.wait(state);
    }

    /// Wait until every row and change handed in is in the sink.
    ///
    /// # Errors
    /// As [`Stream::wait`].
    pub fn drain(&self) -> FsResult<()> {
        let mut state = self.state.lock();
        let until = state.handed;
        while state.written < until {
            if let Some(problem) = &state.problem {
                return Err(problem.clone().into());
            }
            self.await_delivery(&mut state);
        }
        Ok(())
    }

    /// Deliver what is left and end the thread. What cannot be delivered stays covered by its intents.
    pub fn stop(&self) {
        self.state.lock().stopping = true;
        self.work.notify_all();
        if let Some(thread) = self.deliverer.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the deliverer panicked");
        }
    }

    fn deliver(&self) {
        yield_to_programs();
        loop {
            let batch = {
                let mut state = self.state.lock();
                while state.queue.is_empty() && !state.stopping {
                    self.work.wait(&mut state);
                }
                if state.queue.is_empty() {
                    return;
                }
                if !state.is_urgent() {
                    self.work.wait_while_for(&mut state, |state| !state.is_urgent(), GATHER);
                }
                state.awaited = false;
                state.next_batch()
            };
            let taken = self.sink.submit(&batch.changes, &batch.rows);
            let mut state = self.state.lock();
            match taken {
                Ok(()) => state.taken(&batch),
                Err(problem) => {
                    if state.problem.is_none() {
                        tracing::error!(%problem, "changes wait");
                    }
                    state.problem = Some(problem);
                    self.progress.notify_all();
                    if state.stopping {
                        return;
                    }
                    self.work.wait_for(&mut state, RETRY);
                }
            }
            self.progress.notify_all();
        }
    }
}

/// What is offered to the sink at once.
struct Batch {
    items: usize,
    changes: Vec<Change>,
    rows: Vec<Row>,
}

impl State {
    fn is_urgent(&self) -> bool {
        self.awaited || self.stopping || self.queue.len() >= BATCH_MAX
    }

    /// The first items of the queue, which stay there until the sink has taken them.
    fn next_batch(&self) -> Batch {
        let mut batch = Batch { items: self.queue.len().min(BATCH_MAX), changes: Vec::new(), rows: Vec::new() };
        for item in self.queue.iter().take(batch.items) {
            batch.changes.extend(item.changes.iter().cloned());
            batch.rows.extend(item.rows.iter().cloned());
        }
        batch
    }

    fn taken(&mut self, batch: &Batch) {
        self.problem = None;
        self.written += batch.items as u64;
        for item in self.queue.drain(..batch.items) {
            if let Some(then) = item.then {
                then();
            }
            for row in item.rows {
                if self.unwritten.get(&row.key).is_some_and(|(at, _)| *at <= self.written) {
                    self.unwritten.remove(&row.key);
                }
            }
        }
        if let Some(last) = batch.changes.last() {
            self.delivered = last.number;
        }
    }
}
