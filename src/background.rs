//! Start of the background node: fork before any thread exists, and a pipe on which the child says how it went.
//!
//! The child writes JSON lines: `{"phase": text}` while it works, again every few seconds, then once `{"ready": value}` or
//! `{"error": ...}`. The parent waits 10 s from the last line, so a slow disk is waited for and a silent child is not.

use crate::error::{Error, Kind, Result};
use crate::rest::wire::ErrorBody;
use crate::root::Root;
use crate::{supervisor, trace};
use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::RawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the parent waits for the next word of the child.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often the child says the same again.
const STILL: Duration = Duration::from_secs(3);

/// A start that takes longer is talked about.
const MOMENT: Duration = Duration::from_secs(2);

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Phase(String),
    Ready(Value),
    Error(ErrorBody),
}

/// Tells whoever started the node how far it is.
pub struct Reporter(Arc<Told>);

struct Told {
    listener: Mutex<Listener>,
    ended: Condvar,
}

/// Who is told.
enum Listener {
    /// The process that started this one, and what it was told last.
    Pipe(PipeWriter, String),
    /// The person who looks on.
    Here(Box<dyn FnOnce(Value) + Send>),
    /// Everything was said.
    Nobody,
}

impl Reporter {
    fn new(listener: Listener) -> Reporter {
        Reporter(Arc::new(Told { listener: Mutex::new(listener), ended: Condvar::new() }))
    }

    /// For a node in the foreground: `ready` is called once it serves.
    pub fn foreground(ready: impl FnOnce(Value) + Send + 'static) -> Reporter {
        Reporter::new(Listener::Here(Box::new(ready)))
    }

    /// For a node whose starter reads from `pipe`; it is told every `still` that the work goes on.
    fn background(pipe: PipeWriter, still: Duration) -> Reporter {
        let reporter = Reporter::new(Listener::Pipe(pipe, String::new()));
        let told = Arc::clone(&reporter.0);
        let thread = std::thread::Builder::new().name("still".to_owned()).spawn(move || told.repeat(still));
        if let Err(e) = thread {
            tracing::warn!(error = %e, "a slow start will be taken for a dead one");
        }
        reporter
    }

    /// Work goes on; the parent keeps waiting.
    pub fn phase(&self, text: &str) {
        tracing::info!("{text}");
        supervisor::phase(text);
        if let Listener::Pipe(pipe, last) = &mut *self.0.listener.lock() {
            text.clone_into(last);
            say(pipe, &Word::Phase(text.to_owned()));
        }
    }

    /// The node serves; `value` is what the command prints.
    pub fn ready(&self, value: Value) {
        supervisor::ready();
        match self.end() {
            Listener::Pipe(mut pipe, _) => say(&mut pipe, &Word::Ready(value)),
            Listener::Here(ready) => ready(value),
            Listener::Nobody => {}
        }
    }

    /// The node cannot start, or did not end well.
    pub fn failed(&self, error: &Error) {
        if let Listener::Pipe(mut pipe, _) = self.end() {
            say(&mut pipe, &Word::Error(ErrorBody::from(error)));
        }
    }

    fn end(&self) -> Listener {
        let last = std::mem::replace(&mut *self.0.listener.lock(), Listener::Nobody);
        self.0.ended.notify_all();
        last
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        drop(self.end());
    }
}

impl Told {
    /// Say the last phase again while nothing else is said.
    fn repeat(&self, still: Duration) {
        let mut listener = self.listener.lock();
        while let Listener::Pipe(pipe, last) = &mut *listener {
            if !last.is_empty() {
                say(pipe, &Word::Phase(last.clone()));
            }
            self.ended.wait_for(&mut listener, still);
        }
    }
}

fn say(pipe: &mut PipeWriter, word: &Word) {
    let Ok(mut line) = serde_json::to_vec(word) else { return };
    line.push(b'\n');
    // A parent that was killed must not stop the node.
    if let Err(e) = pipe.write_all(&line) {
        tracing::debug!(error = %e, "nobody listens to the start of this node");
    }
}

/// The exit code of the background node; why it ended badly is said in `node.log`.
pub fn exit_code(ended: Result<Option<u8>>) -> u8 {
    match ended {
        Ok(None) => 0,
        Ok(Some(signal)) => Kind::Signal(signal).exit(),
        Err(error) => {
            tracing::error!("{error}");
            error.kind.exit()
        }
    }
}

/// Run `node` in a background process and return what it reports. Must be called before any thread exists.
///
/// `slow` hears what the node does when it takes more than a moment. In the child this never returns: the process exits with what `node` returns.
///
/// # Errors
/// The child's own error; [`Kind::Background`] when it dies or stays silent.
pub fn start(root: &Root, slow: &dyn Fn(&str), node: impl FnOnce(Reporter) -> u8) -> Result<Value> {
    root.create()?;
    let log = open_log(root)?;
    let failed = |what: &str, e: &dyn std::fmt::Display| Error::new(Kind::Background, format!("{what}: {e}"));
    let second = log.try_clone().map_err(|e| failed("cannot share node.log", &e))?;
    let (reader, writer) = std::io::pipe().map_err(|e| failed("cannot make a pipe", &e))?;

    let daemon = daemonize::Daemonize::new().working_directory("/").stdout(log).stderr(second);
    match daemon.execute() {
        daemonize::Outcome::Child(child) => {
            drop(reader);
            close_inherited();
            let reporter = Reporter::background(writer, STILL);
            let ready = child.map_err(|e| failed("cannot go to the background", &e));
            let code = match ready.and_then(|_| trace::to_file(&root.log_file())) {
                Ok(()) => node(reporter),
                Err(error) => {
                    reporter.failed(&error);
                    error.kind.exit()
                }
            };
            std::process::exit(code.into());
        }
        daemonize::Outcome::Parent(Err(e)) => Err(failed("cannot start a background process", &e)),
        daemonize::Outcome::Parent(Ok(_)) => {
            drop(writer);
            listen(reader, root, slow)
        }
    }
}

/// Close what the starter of this process had open besides: a lock that the node would hold for as long as it lives, a pipe whose
/// reader would wait for its end. It is told from what is ours by having outlived an exec. Must be called before any thread exists.
fn close_inherited() {
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else { return };
    let numbers = open.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
    let numbers: Vec<RawFd> = numbers.filter(|number| *number > libc::STDERR_FILENO).collect();
    for number in numbers {
        // SAFETY: nobody in this process knows of it: what the program opened itself is marked as ending with an exec. A number
        // that is closed by now, as that of the folder above, is no more than an error.
        unsafe {
            if libc::fcntl(number, libc::F_GETFD) == 0 {
                libc::close(number);
            }
        }
    }
}

fn open_log(root: &Root) -> Result<File> {
    let path = root.log_file();
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o600);
    options.open(&path).map_err(|e| Error::io(Kind::Root, format!("cannot write {}", path.display()), &e))
}

/// Wait for the child's word.
fn listen(mut pipe: PipeReader, root: &Root, slow: &dyn Fn(&str)) -> Result<Value> {
    let silent = |what: &str| {
        let log = root.log_file();
        Error::new(Kind::Background, format!("the background node {what}"))
            .hint(format!("see {}, or use --fg", log.display()))
    };
    let (mut text, mut told) = (Vec::new(), String::new());
    let start = Instant::now();
    let mut deadline = start + PATIENCE;
    loop {
        if !readable_before(&pipe, deadline) {
            return Err(silent("has not said for 10 s how it is doing"));
        }
        let mut chunk = [0; 4096];
        let count = match pipe.read(&mut chunk) {
            Ok(0) | Err(_) => return Err(silent("ended without a word")),
            Ok(count) => count,
        };
        text.extend_from_slice(&chunk[..count]);
        while let Some(end) = text.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            match serde_json::from_slice(&line) {
                Ok(Word::Phase(text)) => {
                    deadline = Instant::now() + PATIENCE;
                    if start.elapsed() > MOMENT && told != text {
                        slow(&text);
                        told = text;
                    }
                }
                Ok(Word::Ready(value)) => return Ok(value),
                Ok(Word::Error(body)) => return Err(body.into()),
                Err(_) => return Err(silent("said something that cannot be understood")),
            }
        }
    }
}

fn readable_before(pipe: &PipeReader, deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(timeout) = Timespec::try_from(left) else { return false };
        match poll(&mut [PollFd::new(pipe, PollFlags::IN)], Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(ready) => return ready > 0,
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hear(say: impl FnOnce(&Reporter)) -> Result<Value> {
        let (reader, writer) = std::io::pipe().unwrap();
        let reporter = Reporter::background(writer, STILL);
        say(&reporter);
        drop(reporter);
        listen(reader, &Root::new(std::path::Path::new("/nowhere")), &|_| ())
    }

    #[test]
    fn who_waits_for_something_slow_hears_that_it_goes_on() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let reporter = Reporter::background(writer, Duration::from_millis(1));
        reporter.phase("opening");
        let line = b"{\"phase\":\"opening\"}\n";
        let mut heard = vec![0; line.len() * 3];
        reader.read_exact(&mut heard).unwrap();
        assert_eq!(heard, line.repeat(3));
    }

    #[test]
    fn the_parent_hears_what_the_child_says() {
        let ready = hear(|child| {
            child.phase("recovering docs");
            child.ready(serde_json::json!({"mountpoint": "/m"}));
        });
        assert_eq!(ready.unwrap()["mountpoint"], "/m");
        let taken = Error::new(Kind::PortTaken, "127.0.0.1:1 is taken");
        assert_eq!(hear(|child| child.failed(&taken)).unwrap_err(), taken);
        assert_eq!(hear(|_| ()).unwrap_err().kind, Kind::Background);
        assert_eq!(hear(|child| child.phase("opening")).unwrap_err().kind, Kind::Background);
    }
}
