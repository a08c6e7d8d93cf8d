//! Where a passphrase comes from: a file, another program, or the terminal.

use crate::error::{Error, Kind, Result};
use rustix::process::{Signal, getpid, kill_process};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, tcgetattr, tcsetattr};
use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use zeroize::Zeroizing;

/// Longest passphrase read, in bytes.
const MOST: usize = 1024;
/// Bytes after which no first line can be a passphrase any more: one too many, and what ends a line. No more are kept of what
/// may be endless, and the room for them never moves, which would leave a copy behind.
const ENOUGH: usize = MOST + 3;
/// Longest line a terminal gives, in bytes.
const LINE: usize = 4096;

/// Ways to give a passphrase.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct PassArgs {
    /// Read the passphrase from the first line of FILE
    #[arg(long, value_name = "FILE", env = "WIZEFS_PASSFILE", hide_env = true, conflicts_with = "extpass")]
    pub passfile: Option<PathBuf>,
    /// Take the first line that COMMAND prints as the passphrase
    #[arg(long, value_name = "COMMAND", env = "WIZEFS_EXTPASS", hide_env = true)]
    pub extpass: Option<String>,
}

/// A passphrase; wiped from memory when it goes.
pub type Passphrase = Zeroizing<Vec<u8>>;

impl PassArgs {
    /// Whether a passphrase was given without asking.
    pub fn is_given(&self) -> bool {
        self.passfile.is_some() || self.extpass.is_some()
    }

    /// The passphrase, asked for on the terminal when not given otherwise.
    ///
    /// # Errors
    /// [`Kind::Passphrase`] when there is none, or nobody to ask.
    pub fn read(&self, what: &str) -> Result<Passphrase> {
        match (&self.passfile, &self.extpass) {
            (Some(path), _) => of_file(path),
            (None, Some(command)) => of_program(command),
            (None, None) => of_terminal(&format!("Passphrase of {what}: ")),
        }
    }

    /// A new passphrase: asked for twice.
    ///
    /// # Errors
    /// As [`PassArgs::read`]; [`Kind::Passphrase`] when the two differ.
    pub fn read_new(&self, what: &str) -> Result<Passphrase> {
        let first = self.read(what)?;
        if !self.is_given() && *of_terminal("Again: ")? != *first {
            return Err(Error::new(Kind::Passphrase, "the two are not the same"));
        }
        Ok(first)
    }
}

fn of_file(path: &Path) -> Result<Passphrase> {
    let cannot = |e: std::io::Error| Error::io(Kind::Passphrase, format!("cannot read {}", path.display()), &e);
    let bytes = File::open(path).and_then(beginning).map_err(cannot)?;
    first_line(bytes, &path.display().to_string())
}

fn of_program(command: &str) -> Result<Passphrase> {
    let mut words = command.split_whitespace();
    let program = words.next().ok_or_else(|| Error::new(Kind::Usage, "--extpass needs a command"))?;
    let cannot = |e: std::io::Error| Error::io(Kind::Passphrase, format!("cannot run {program}"), &e);
    let started = Command::new(program).args(words).stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut running = started.map_err(cannot)?;
    let printed = running.stdout.take().ok_or_else(|| std::io::ErrorKind::BrokenPipe.into()).and_then(|mut stdout| {
        let printed = beginning(&mut stdout)?;
        // It is not disturbed in what it prints besides.
        std::io::copy(&mut stdout, &mut std::io::sink())?;
        Ok(printed)
    });
    let status = running.wait().map_err(cannot)?;
    if !status.success() {
        return Err(Error::new(Kind::Passphrase, format!("{program} failed: {status}")));
    }
    first_line(printed.map_err(cannot)?, program)
}

/// As much as may be a passphrase.
fn beginning(from: impl Read) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(vec![0; ENOUGH]);
    let mut from = from.take(ENOUGH as u64);
    let mut length = 0;
    loop {
        match from.read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

fn of_terminal(prompt: &str) -> Result<Passphrase> {
    if !std::io::stdin().is_terminal() {
        let error = Error::new(Kind::Passphrase, "a passphrase is needed, and there is no terminal to ask on");
        return Err(error.hint("--passfile FILE or --extpass COMMAND gives it"));
    }
    let typed = ask(prompt).map_err(|e| Error::io(Kind::Passphrase, "cannot ask for the passphrase", &e))?;
    first_line(typed, "the terminal")
}

/// A line typed on the terminal, which shows nothing of it. Ctrl-C and Ctrl-\ do not end the process while the terminal is
/// quiet: they end the line, and take effect when it shows again what is typed.
fn ask(prompt: &str) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let mut terminal = File::options().read(true).write(true).open("/dev/tty")?;
    let usual = tcgetattr(&terminal)?;
    let ends = [SpecialCodeIndex::VINTR, SpecialCodeIndex::VQUIT].map(|code| usual.special_codes[code]);
    let mut quiet = usual.clone();
    quiet.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
    (quiet.special_codes[SpecialCodeIndex::VEOL], quiet.special_codes[SpecialCodeIndex::VEOL2]) = (ends[0], ends[1]);
    terminal.write_all(prompt.as_bytes())?;
    tcsetattr(&terminal, OptionalActions::Flush, &quiet)?;
    let mut line = Zeroizing::new(vec![0; LINE]);
    let read = terminal.read(&mut line);
    tcsetattr(&terminal, OptionalActions::Now, &usual)?;
    terminal.write_all(b"\n")?;
    line.truncate(read?);
    let signal = match line.last() {
        Some(last) if *last == ends[0] => Signal::INT,
        Some(last) if *last == ends[1] => Signal::QUIT,
        _ => return Ok(line),
    };
    kill_process(getpid(), signal)?;
    Err(std::io::ErrorKind::Interrupted.into())
}

fn first_line(bytes: Zeroizing<Vec<u8>>, from: &str) -> Result<Passphrase> {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() || line.len() > MOST {
        return Err(Error::new(Kind::Passphrase, format!("no passphrase of 1 to {MOST} bytes came from {from}")));
    }
    Ok(Zeroizing::new(line.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passphrases_come_from_files_and_programs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p");
        let check = |text: &str, expect: Option<&[u8]>| {
            std::fs::write(&path, text).unwrap();
            let found = PassArgs { passfile: Some(path.clone()), extpass: None }.read("x");
            assert_eq!(found.ok().as_deref().map(Vec::as_slice), expect, "{text:?}");
        };
        check("secret\nmore\n", Some(b"secret"));
        check("with space\r\n", Some(b"with space"));
        check("", None);
        check("\nsecond", None);
        check(&"x".repeat(1024), Some("x".repeat(1024).as_bytes()));
        check(&("x".repeat(1024) + "\r\nmore"), Some("x".repeat(1024).as_bytes()));
        check(&"x".repeat(1025), None);
        let program = |command: &str| PassArgs { passfile: None, extpass: Some(command.into()) }.read_new("x");
        assert_eq!(*program("echo secret").unwrap(), b"secret");
        assert_eq!(*program("seq 1 100000").unwrap(), b"1", "what it prints besides is read, and not kept");
        let endless = PassArgs { passfile: Some("/dev/zero".into()), extpass: None };
        assert_eq!(endless.read("x").unwrap_err().kind, Kind::Passphrase);
        assert_eq!(program("false").unwrap_err().kind, Kind::Passphrase);
        assert_eq!(program("").unwrap_err().kind, Kind::Usage);
    }
}
