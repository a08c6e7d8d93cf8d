//! How far long work is: a bar where a person watches, one line whenever SIGUSR1 asks for it, nothing elsewhere.
//!
//! Workers only add to counters. A thread of its own draws, so that work without news still shows that time passes.

use super::{Terminal, count, size, talk};
use crate::name::escape;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// Work that is done before nobody needs to see.
const MOMENT: Duration = Duration::from_millis(300);
/// How often the bar is drawn.
const TICK: Duration = Duration::from_millis(100);

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Bytes, and the files they are in.
    Bytes,
    /// Transactions.
    Transactions,
}

/// Long work. Dropped, its bar is gone.
pub struct Progress {
    counts: Arc<Counts>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// How far the work is.
#[derive(Debug)]
struct Counts {
    /// What is done, such as `verifying docs`.
    what: String,
    measure: Measure,
    start: Instant,
    done: AtomicU64,
    files: AtomicU64,
    /// 0 when nobody knows.
    total: AtomicU64,
    /// Once it is drawn.
    bar: Mutex<Option<ProgressBar>>,
}

impl Progress {
    /// Show how far `what` is. Without a signal handler or a thread the work goes on unseen.
    pub fn start(out: &Terminal, what: impl Into<String>, measure: Measure, total: Option<u64>) -> Progress {
        let counts = Arc::new(Counts {
            what: escape(&what.into()),
            measure,
            start: Instant::now(),
            done: AtomicU64::new(0),
            files: AtomicU64::new(0),
            total: AtomicU64::new(total.unwrap_or(0)),
            bar: Mutex::new(None),
        });
        let (stop, stopped) = oneshot::channel();
        let thread = match listen() {
            Ok((runtime, asked)) => {
                let display = Display { counts: Arc::clone(&counts), out: *out };
                let work = move || runtime.block_on(display.run(asked, stopped));
                std::thread::Builder::new().name("progress".to_owned()).spawn(work).ok()
            }
            Err(e) => {
                tracing::debug!(error = %e, "progress is not shown");
                None
            }
        };
        Progress { counts, stop: Some(stop), thread }
    }

    /// So many more bytes or transactions are done.
    pub fn add(&self, more: u64) {
        self.counts.done.fetch_add(more, Ordering::Relaxed);
    }

    /// So many are done, in so many files.
    pub fn set(&self, done: u64, files: u64) {
        self.counts.done.store(done, Ordering::Relaxed);
        self.counts.files.store(files, Ordering::Relaxed);
    }

    /// So many there are.
    pub fn set_total(&self, total: u64) {
        self.counts.total.store(total, Ordering::Relaxed);
    }

    /// Print above the bar.
    pub fn above<T>(&self, print: impl FnOnce() -> T) -> T {
        match &*self.counts.bar.lock() {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// For a reader that counts on its way.
    pub fn counter(&self) -> impl Fn(u64) + Send + 'static + use<> {
        let counts = Arc::clone(&self.counts);
        move |more| {
            counts.done.fetch_add(more, Ordering::Relaxed);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // The other end is gone when there is no thread.
        let _told = self.stop.take().map(|stop| stop.send(()));
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::debug!("the thread that shows progress ended badly");
        }
    }
}

/// The handler is installed when this returns.
fn listen() -> std::io::Result<(Runtime, Signal)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let asked = {
        let _inside = runtime.enter();
        signal(SignalKind::user_defined1())?
    };
    Ok((runtime, asked))
}

/// Draws.
struct Display {
    counts: Arc<Counts>,
    out: Terminal,
}

impl Display {
    async fn run(self, mut asked: Signal, mut stopped: oneshot::Receiver<()>) {
        let watched = !self.out.quiet && !self.out.json && is_watched();
        let mut tick = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                _ = &mut stopped => break,
                Some(()) = asked.recv() => self.tell(),
                _ = tick.tick(), if watched => self.draw(),
            }
        }
        if let Some(bar) = self.counts.bar.lock().take() {
            bar.finish_and_clear();
        }
    }

    fn draw(&self) {
        if self.counts.start.elapsed() < MOMENT {
            return;
        }
        let mut bar = self.counts.bar.lock();
        let bar = bar.get_or_insert_with(|| ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()));
        let total = self.counts.total.load(Ordering::Relaxed);
        if total > 0 && bar.length() != Some(total) {
            bar.set_length(total);
        }
        let template = if total > 0 { "{spinner} [{bar:24}] {wide_msg}" } else { "{spinner} {wide_msg}" };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> ").tick_chars("|/-\\ "));
        }
        bar.set_position(self.counts.done.load(Ordering::Relaxed).min(total));
        bar.set_message(self.counts.sentence());
        bar.tick();
    }

    /// One line, because somebody asked for it; it stands above the bar.
    fn tell(&self) {
        let line = if self.out.json { self.counts.json() } else { self.counts.sentence() };
        match &*self.counts.bar.lock() {
            Some(bar) => bar.suspend(|| talk(&line)),
            None => talk(&line),
        }
    }
}

/// Whether a bar can be drawn where a person sees it.
fn is_watched() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

impl Counts {
    /// `verifying docs: 12 files, 1.2 GiB of 3.1 GiB, 38 %, 4 s`.
    fn sentence(&self) -> String {
        let (done, files, total, seconds) = self.numbers();
        let amount = |number| match self.measure {
            Measure::Bytes => size(number),
            Measure::Transactions => number.to_string(),
        };
        let mut text = format!("{}: ", self.what);
        if files > 0 {
            text += &format!("{}, ", count(files, "file"));
        }
        text += &amount(done);
        if total > 0 {
            text += &format!(" of {}", amount(total));
        }
        if self.measure == Measure::Transactions {
            text += " transactions";
        }
        if let Some(percent) = done.min(total).saturating_mul(100).checked_div(total) {
            text += &format!(", {percent} %");
        }
        text + &format!(", {seconds} s")
    }

    fn json(&self) -> String {
        let (done, files, total, seconds) = self.numbers();
        let unit = match self.measure {
            Measure::Bytes => "bytes",
            Measure::Transactions => "transactions",
        };
        serde_json::json!({"v": crate::rest::wire::V, "progress": {
            "what": self.what, "unit": unit, "done": done, "total": (total > 0).then_some(total),
            "files": (files > 0).then_some(files), "seconds": seconds,
        }})
        .to_string()
    }

    fn numbers(&self) -> (u64, u64, u64, u64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (read(&self.done), read(&self.files), read(&self.total), self.start.elapsed().as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_is_known() {
        fn check(measure: Measure, (done, files, total): (u64, u64, u64), expect: &str) {
            let (done, files, total) = (AtomicU64::new(done), AtomicU64::new(files), AtomicU64::new(total));
            let (what, bar, start) = ("work".to_owned(), Mutex::new(None), Instant::now());
            let counts = Counts { what, measure, start, done, files, total, bar };
            assert_eq!(counts.sentence(), expect);
            assert!(counts.json().contains("\"progress\":{"), "{}", counts.json());
        }
        check(Measure::Bytes, (0, 0, 0), "work: 0 B, 0 s");
        check(Measure::Bytes, (2048, 3, 4096), "work: 3 files, 2.0 KiB of 4.0 KiB, 50 %, 0 s");
        check(Measure::Bytes, (9, 1, 3), "work: 1 file, 9 B of 3 B, 100 %, 0 s");
        check(Measure::Transactions, (7, 0, 9), "work: 7 of 9 transactions, 77 %, 0 s");
    }
}
