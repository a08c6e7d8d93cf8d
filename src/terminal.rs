//! How results look: one line per result, then `hint:`; stdout is data, stderr is talk.
//!
//! On a terminal times are relative and sizes have units; elsewhere times are RFC 3339. Marks are ASCII when the locale is
//! not UTF-8. Colours follow `--color`, NO_COLOR, CLICOLOR_FORCE and TERM=dumb (crate anstream does the stripping).

mod progress;
mod table;

pub use progress::{Measure, Progress};
pub use table::Table;

use crate::cli::Cli;
use crate::error::{Error, Kind, Result};
use crate::interrupt::unless_interrupted;
use crate::name::{escape, pasted};
use crate::rest::wire::ErrorBody;
use serde::Serialize;
use std::io::{IsTerminal, Write};
use std::path::Path;

/// How the command was asked to talk.
#[derive(Debug, Clone, Copy)]
pub struct Terminal {
    /// `--json`: one document, or one object per line, on stdout.
    pub json: bool,
    /// `--quiet`: errors only.
    pub quiet: bool,
    marks: bool,
    relative: bool,
    /// What names the root on this command line, if that does: `--root DIR`.
    root: Option<&'static str>,
}

/// The answer to a question that cannot be taken back.
const YES: [&str; 4] = ["y", "Y", "yes", "Yes"];

impl Terminal {
    /// Look at the locale and at where stdout goes.
    pub fn new(json: bool, quiet: bool) -> Terminal {
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .into_iter()
            .filter_map(|name| std::env::var(name).ok())
            .find(|value| !value.is_empty())
            .unwrap_or_default()
            .to_ascii_uppercase();
        let marks = locale.contains("UTF-8") || locale.contains("UTF8");
        Terminal { json, quiet, marks, relative: std::io::stdout().is_terminal(), root: None }
    }

    /// The same for a command line that names its root with a flag: commands to paste name it, too.
    #[must_use]
    pub fn in_root(self, root: &Path) -> Terminal {
        let flag = format!("--root {}", pasted(root));
        Terminal { root: Some(Box::leak(flag.into_boxed_str())), ..self }
    }

    /// A hint as it is true here.
    fn pasted(&self, hint: &str) -> String {
        self.root.map_or_else(|| hint.to_owned(), |flag| Cli::with_flag(hint, flag))
    }

    /// Whether a person watches and can answer.
    pub fn is_interactive(&self) -> bool {
        std::io::stdin().is_terminal() && std::io::stderr().is_terminal() && !self.json
    }

    /// Something was done; a line of talk.
    pub fn done(&self, text: &str) {
        if !self.quiet && !self.json {
            let mark = if self.marks { "✓" } else { "+" };
            talk(&format!("\x1b[32m{mark}\x1b[0m {}", escape(text)));
        }
    }

    /// What takes long; programs need not hear it.
    pub fn note(&self, text: &str) {
        if !self.json {
            self.warn(text);
        }
    }

    /// Something deserves attention, but the command went on.
    pub fn warn(&self, text: &str) {
        if !self.quiet {
            talk(&format!("\x1b[33m!\x1b[0m {}", escape(text)));
        }
    }

    /// A command to paste next.
    pub fn hint(&self, text: &str) {
        if !self.quiet && !self.json {
            talk(&format!("\x1b[2mhint: {}\x1b[0m", escape(&self.pasted(text))));
        }
    }

    /// Ask a person before something that cannot be taken back; anything but yes is no.
    ///
    /// # Errors
    /// The terminal cannot be read; [`Kind::Signal`].
    pub fn confirm(&self, question: &str) -> Result<bool> {
        let question = format!("{} [y/N] ", escape(question));
        let read = unless_interrupted(move || {
            let mut answer = String::new();
            let mut asked = anstream::stderr();
            asked.write_all(question.as_bytes()).and_then(|()| asked.flush())?;
            std::io::stdin().read_line(&mut answer).map(|_| answer)
        });
        // What is said next begins a line of its own.
        let answer = read.inspect_err(|_| talk(""))?;
        let answer = answer.map_err(|e| Error::io(Kind::Failed, "cannot read the answer", &e))?;
        Ok(YES.contains(&answer.trim()))
    }

    /// The id of what a command did, for scripts to catch.
    ///
    /// # Errors
    /// As [`Terminal::raw`].
    pub fn id(&self, text: &str) -> Result<()> {
        if self.quiet { Ok(()) } else { self.line(text) }
    }

    /// A line of data.
    ///
    /// # Errors
    /// As [`Terminal::raw`].
    pub fn line(&self, text: &str) -> Result<()> {
        self.raw(format!("{text}\n").as_bytes())
    }

    /// Bytes of data, unchanged.
    ///
    /// # Errors
    /// [`Kind::Failed`] when stdout cannot be written; a reader who went away ends the process as SIGPIPE would.
    pub fn raw(&self, bytes: &[u8]) -> Result<()> {
        // Not through anstream, which takes what looks like a colour out of anybody's file.
        let mut stdout = std::io::stdout().lock();
        let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
        written.map_err(|e| match e.kind() {
            std::io::ErrorKind::BrokenPipe => Error::new(Kind::Signal(13), "the reader of the output went away"),
            _ => Error::io(Kind::Failed, "cannot write the output", &e),
        })
    }

    /// One JSON document, or one JSON line.
    ///
    /// # Errors
    /// As [`Terminal::raw`].
    pub fn document(&self, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(value)
            .map_err(|e| Error::new(Kind::Internal, format!("cannot write the result as JSON: {e}")))?;
        self.line(&text)
    }

    /// A failure, on stderr.
    pub fn error(&self, error: &Error) {
        let hint = error.hint.as_deref().map(|hint| self.pasted(hint));
        if self.json {
            let told = Error { hint, ..error.clone() };
            if let Ok(text) = serde_json::to_string(&ErrorBody::from(&told)) {
                talk(&text);
            }
            return;
        }
        talk(&format!("\x1b[31merror:\x1b[0m {}", escape(&error.message)));
        if let Some(hint) = hint {
            talk(&format!("\x1b[2mhint:\x1b[0m  {}", escape(&hint)));
        }
    }

    /// The mark of a good or bad result in data.
    pub fn mark(&self, good: bool) -> &'static str {
        match (good, self.marks) {
            (true, true) => "✓",
            (true, false) => "+",
            (false, true) => "✗",
            (false, false) => "x",
        }
    }

    /// What stands for "nothing here" in a table.
    pub fn dash(&self) -> &'static str {
        if self.marks { "–" } else { "-" }
    }

    /// A time in RFC 3339 as the reader wants it: relative on a terminal.
    pub fn time(&self, rfc3339: &str) -> String {
        let Ok(time) = rfc3339.parse::<jiff::Timestamp>() else { return rfc3339.to_owned() };
        if self.relative {
            ago(jiff::Timestamp::now().as_second() - time.as_second(), time)
        } else {
            rfc3339.to_owned()
        }
    }
}

/// A line of talk. Where it cannot be written, because stderr is a file on a full disk for one, the work goes on.
pub fn talk(line: &str) {
    // In one piece, so that it stays one beside those of other processes.
    drop(anstream::stderr().lock().write_all(format!("{line}\n").as_bytes()));
}

/// `4 s ago`, up to a month; then the date.
fn ago(seconds: i64, time: jiff::Timestamp) -> String {
    match seconds {
        i64::MIN..0 => "in the future".to_owned(),
        0..60 => format!("{seconds} s ago"),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..86_400 => format!("{} h ago", seconds / 3600),
        86_400..2_592_000 => format!("{} d ago", seconds / 86_400),
        _ => time.strftime("%Y-%m-%d").to_string(),
    }
}

/// Bytes with a binary unit: `0 B`, `1.2 MiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut scaled = bytes as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 would be shown as 1024.0 of the smaller unit.
    while scaled >= 1023.95 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    format!("{scaled:.1} {}", UNITS[unit])
}

/// `1 file`, `3 files`.
pub fn count(number: u64, word: &str) -> String {
    format!("{number} {word}{}", if number == 1 { "" } else { "s" })
}

/// The first 12 characters of a hash or address.
pub fn short(text: &str) -> &str {
    text.get(..12).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        fn check(bytes: u64, expect: &str) {
            assert_eq!(size(bytes), expect);
        }
        check(0, "0 B");
        check(1023, "1023 B");
        check(1024, "1.0 KiB");
        check(1_258_291, "1.2 MiB");
        check(1_048_575, "1.0 MiB");
        check(u64::MAX, "16.0 EiB");
    }

    #[test]
    fn times_are_relative_up_to_a_month() {
        fn check(seconds: i64, expect: &str) {
            assert_eq!(ago(seconds, jiff::Timestamp::UNIX_EPOCH), expect);
        }
        check(0, "0 s ago");
        check(59, "59 s ago");
        check(60, "1 min ago");
        check(7200, "2 h ago");
        check(172_800, "2 d ago");
        check(3_000_000, "1970-01-01");
        check(-5, "in the future");
    }

    #[test]
    fn counts_and_short_hashes() {
        assert_eq!(count(1, "file"), "1 file");
        assert_eq!(count(0, "file"), "0 files");
        assert_eq!(short("0123456789abcdef"), "0123456789ab");
        assert_eq!(short("abc"), "abc");
    }
}
