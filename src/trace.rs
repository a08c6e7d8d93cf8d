//! Where tracing goes and how much of it there is: the journal when systemd reads stderr, `node.log` for a node in the
//! background, else stderr. Both may change while the node runs.

use crate::error::{Error, Kind, Result};
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

/// What SIGUSR2 goes through, after what was asked for at the start.
const LOUDER: [&str; 2] = ["debug,hyper_util=info,hyper=info,h2=info", "trace,hyper_util=info,hyper=info,h2=info"];
/// A `node.log` that would become larger is put aside, bytes; WIZEFS_TRACE_BYTES is another bound.
const FILE_BYTES: u64 = 16 << 20;
/// So many are kept: node.log.1 is the youngest.
const KEPT: u32 = 3;

static SETTING: OnceLock<Setting> = OnceLock::new();
static SINK: Mutex<Sink> = Mutex::new(Sink::Stderr);

struct Setting {
    handle: reload::Handle<EnvFilter, Registry>,
    /// Asked for at the start.
    first: String,
    /// 0 for the first, then [`LOUDER`].
    step: Mutex<usize>,
}

/// Where lines go.
enum Sink {
    Stderr,
    Journal,
    File(LogFile),
}

/// Begin: WIZEFS_TRACE is a filter that beats `default`; WIZEFS_TRACE_FORMAT=json writes one object per line.
pub fn start(default: &str) {
    let asked = std::env::var("WIZEFS_TRACE").ok().filter(|text| !text.is_empty());
    let (wanted, odd) = match asked.map(|text| parse(&text).map(|_| text)) {
        Some(Ok(text)) => (Some(text), None),
        Some(Err(error)) => (None, Some(error)),
        None => (None, None),
    };
    let first = wanted.unwrap_or_else(|| default.to_owned());
    let (filter, handle) = reload::Layer::new(EnvFilter::new(&first));
    let journal = is_journal().then(tracing_journald::layer).and_then(|journal| journal.ok());
    let is_json = std::env::var("WIZEFS_TRACE_FORMAT").is_ok_and(|format| format == "json");
    let lines = tracing_subscriber::fmt::layer().with_writer(|| Line).with_ansi(false);
    let output: Box<dyn Layer<_> + Send + Sync> = match journal {
        Some(journal) => {
            *SINK.lock() = Sink::Journal;
            Box::new(journal.with_syslog_identifier("wizefs".to_owned()))
        }
        None if is_json => Box::new(lines.json()),
        None => Box::new(lines),
    };
    if tracing_subscriber::registry().with(filter).with(output).try_init().is_ok() {
        drop(SETTING.set(Setting { handle, first, step: Mutex::new(0) }));
    }
    if let Some(error) = odd {
        tracing::warn!("WIZEFS_TRACE: {error}");
    }
}

/// Whether stderr is the journal: systemd says so by its device and inode, which another redirection does not have.
fn is_journal() -> bool {
    let told = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let stderr = rustix::fs::fstat(io::stderr());
    stderr.is_ok_and(|stat| told == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// From now on write to this file and put it aside when it becomes large; stdout and stderr of the process follow it.
///
/// # Errors
/// The file cannot be opened.
pub fn to_file(path: &Path) -> Result<()> {
    let mut sink = SINK.lock();
    if matches!(*sink, Sink::Journal) {
        return Ok(());
    }
    let bound = std::env::var("WIZEFS_TRACE_BYTES").ok().and_then(|text| text.parse().ok()).unwrap_or(FILE_BYTES);
    let failed = |e: io::Error| Error::io(Kind::Root, format!("cannot write {}", path.display()), &e);
    *sink = Sink::File(LogFile::open(path, bound).map_err(failed)?);
    Ok(())
}

/// Open the file anew, because somebody has put it aside. False when there is none, and SIGHUP keeps its usual meaning.
pub fn reopen() -> bool {
    match &mut *SINK.lock() {
        Sink::Stderr => false,
        Sink::Journal => true,
        Sink::File(file) => {
            // Writing on to the old one loses nothing.
            if let Ok(new) = LogFile::open(&file.path, file.bound) {
                *file = new;
            }
            true
        }
    }
}

/// The filter of the moment, in the words of the crate tracing-subscriber.
pub fn filter() -> String {
    let now = SETTING.get().and_then(|setting| setting.handle.with_current(ToString::to_string).ok());
    now.unwrap_or_default()
}

/// Use another filter: `debug`, or `info,wizefs_fs=trace`.
///
/// # Errors
/// [`Kind::Usage`] when it is none.
pub fn set_filter(text: &str) -> Result<()> {
    let filter = parse(text)?;
    match SETTING.get() {
        Some(setting) => setting.handle.reload(filter).map_err(|e| refused(text, &e)),
        None => Ok(()),
    }
}

fn parse(text: &str) -> Result<EnvFilter> {
    if let Some(odd) = text.split(',').find(|part| !is_directive(part)) {
        return Err(refused(text, &format!("{odd:?} is no level")).hint(HINT));
    }
    EnvFilter::try_new(text).map_err(|e| refused(text, &e).hint(HINT))
}

fn refused(text: &str, why: &dyn std::fmt::Display) -> Error {
    Error::new(Kind::Usage, format!("{text:?} is no filter: {why}"))
}

const HINT: &str = "info, debug, or info,wizefs_fs=trace";

/// Whether a part of a filter means something: a level, or a place in a program with or without one. The crate takes every word for
/// such a place, so that a slip of the pen would silence all others.
fn is_directive(part: &str) -> bool {
    let part = part.trim();
    part.parse::<LevelFilter>().is_ok_and(|_| !part.is_empty())
        || part.contains(['=', '['])
        || part.starts_with("wizefs") && part.chars().all(|c| c.is_ascii_alphanumeric() || "_:".contains(c))
}

/// Tell more, and after the most what was asked for at the start again. Returns the filter.
pub fn step() -> String {
    let Some(setting) = SETTING.get() else { return String::new() };
    let mut step = setting.step.lock();
    *step = (*step + 1) % (LOUDER.len() + 1);
    let text = step.checked_sub(1).map_or(setting.first.as_str(), |at| LOUDER[at]);
    drop(setting.handle.reload(EnvFilter::new(text)));
    text.to_owned()
}

/// A line on its way to the sink.
struct Line;

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match &mut *SINK.lock() {
            Sink::Stderr | Sink::Journal => io::stderr().write(line),
            Sink::File(file) => file.write(line),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `node.log`.
struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    bound: u64,
}

impl LogFile {
    fn open(path: &Path, bound: u64) -> io::Result<LogFile> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
        // What the process says besides, a panic above all, belongs there too.
        rustix::stdio::dup2_stdout(&file)?;
        rustix::stdio::dup2_stderr(&file)?;
        let bytes = file.metadata()?.size();
        Ok(LogFile { path: path.to_owned(), file, bytes, bound })
    }

    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.bytes > 0 && self.bytes + line.len() as u64 > self.bound {
            self.put_aside();
        }
        let written = self.file.write(line)?;
        self.bytes += written as u64;
        Ok(written)
    }

    /// One that cannot be put aside is written on.
    fn put_aside(&mut self) {
        let old = |number: u32| self.path.with_extension(format!("log.{number}"));
        for number in (1..KEPT).rev() {
            // Missing ones leave gaps that later ones fill.
            drop(std::fs::rename(old(number), old(number + 1)));
        }
        if std::fs::rename(&self.path, old(1)).is_ok()
            && let Ok(new) = LogFile::open(&self.path, self.bound)
        {
            *self = new;
        } else {
            self.bytes = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_means_something() {
        fn check(text: &str, expect: bool) {
            assert_eq!(set_filter(text).is_ok(), expect, "{text:?}");
        }
        for good in ["info", "DEBUG", "off", "info,wizefs_fs=trace", "wizefs::rest", "debug,hyper=info", "warn, wizefs"]
        {
            check(good, true);
        }
        for odd in ["", " ", "debgu", "foo bar!!", "info,", "info,debgu", "wizefs=debgu", "wizefs!"] {
            check(odd, false);
        }
    }
}
