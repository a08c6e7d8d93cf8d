//! `wizefs get`.

use super::{Context, complete, standing};
use crate::client::{Client, segment, segments};
use crate::error::{Error, Kind, Result};
use crate::name::{BucketName, bucket_path};
use crate::rest::wire::Stored;
use crate::terminal::{Measure, Progress, size};
use clap_complete::engine::ArgValueCompleter;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Fetch a file, checked against the ledger.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wizefs get report.pdf docs                   into the current folder
  wizefs get 2026/report.pdf docs /tmp/        into a folder
  wizefs get notes.txt docs - | less           to standard output")]
pub struct Args {
    /// The file's path in the bucket
    #[arg(value_name = "FILE", add = ArgValueCompleter::new(complete::files))]
    file: OsString,
    /// The bucket
    #[arg(value_name = "ORIGIN", add = ArgValueCompleter::new(complete::buckets))]
    origin: String,
    /// A file, a folder, or - for standard output [default: the current folder]
    #[arg(value_name = "DEST")]
    dest: Option<PathBuf>,
    /// Overwrite the destination
    #[arg(long)]
    force: bool,
}

/// Download, compare what arrived with the ledger, and only then give it its name.
///
/// # Errors
/// [`Kind::FileExists`] without `--force`, [`Kind::Damaged`] when content and ledger differ; as `Node::get`.
pub fn run(context: &Context, args: &Args) -> Result<()> {
    let bucket = BucketName::new(&args.origin)?;
    let path = bucket_path(args.file.as_bytes())?;
    let Some((_, name)) = path.split_last() else {
        return Err(Error::new(Kind::Usage, "name the file to get"));
    };
    let (origin, file) = (segment(bucket.as_str().as_bytes()), segments(path.as_bytes()));
    let uri = format!("/v1/buckets/{origin}/files/{file}?check_first=true");
    let to_stdout = args.dest.as_deref().is_some_and(|dest| dest.as_os_str() == "-");
    let mut talk = context.out;
    // A bar would be drawn between the lines of the file.
    talk.quiet |= to_stdout && std::io::stdout().is_terminal();
    let progress = Progress::start(&talk, format!("fetching {bucket}/{path}"), Measure::Bytes, None);
    if to_stdout {
        let stored = context.with_node(|client| {
            let (stored, _) = fetch(client, &uri, &progress, |chunk| context.out.raw(chunk))?;
            Ok(stored)
        })?;
        drop(progress);
        return tell(context, &stored, "standard output", true);
    }
    let dest = place(args.dest.as_deref(), name);
    match dest.symlink_metadata() {
        // A device or pipe is not replaced by a file.
        Ok(there) if !there.is_file() && !there.is_symlink() => {
            let text = format!("{} is not a regular file", dest.display());
            return Err(Error::new(Kind::NotAFile, text).hint("- as destination writes to standard output"));
        }
        Ok(_) if !args.force => return Err(exists(&dest)),
        _ => {}
    }
    let stored = context.with_node(|client| {
        let mut part = Part::new(&dest)?;
        let (stored, mode) = fetch(client, &uri, &progress, |chunk| part.write(chunk))?;
        part.keep(&dest, mode, args.force)?;
        Ok(stored)
    })?;
    drop(progress);
    tell(context, &stored, &dest.display().to_string(), false)
}

fn fetch(
    client: &Client,
    uri: &str,
    progress: &Progress,
    mut write: impl FnMut(&[u8]) -> Result<()>,
) -> Result<(Stored, u32)> {
    let mut hash = blake3::Hasher::new();
    let expect = |size: Option<u64>| progress.set_total(size.unwrap_or(0));
    let head = client.download(uri, expect, |chunk| {
        progress.add(chunk.len() as u64);
        hash.update(chunk);
        write(chunk)
    })?;
    let stored = head.get("wizefs-stored").and_then(|value| serde_json::from_slice::<Stored>(value.as_bytes()).ok());
    let stored = stored.ok_or_else(|| Error::new(Kind::Internal, "the node did not say what the ledger has"))?;
    if hash.finalize().to_hex().as_str() != stored.blake3 {
        let text = format!("{}/{} changed while it was read", stored.bucket, stored.path.text());
        return Err(Error::new(Kind::Damaged, text).hint("try again"));
    }
    let mode = head.get("wizefs-mode").and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    Ok((stored, mode.unwrap_or(0o644)))
}

/// DEST itself, or the file's name in it when it is a folder.
fn place(dest: Option<&Path>, name: &OsStr) -> PathBuf {
    match dest {
        None => PathBuf::from(name),
        Some(dest) if dest.is_dir() || dest.as_os_str().as_bytes().ends_with(b"/") => dest.join(name),
        Some(dest) => dest.to_owned(),
    }
}

fn exists(dest: &Path) -> Error {
    Error::new(Kind::FileExists, format!("{} exists already", dest.display()))
}

fn tell(context: &Context, stored: &Stored, dest: &str, stdout_used: bool) -> Result<()> {
    if context.out.json && !stdout_used {
        return context.out.document(stored);
    }
    let what = format!("{}/{}", stored.bucket, stored.path.text());
    let place = standing(stored.block);
    context.out.done(&format!("{what} fetched to {dest}: {}, matches the ledger ({place})", size(stored.size)));
    Ok(())
}

/// A file beside the destination that gets its name only when it is whole; removed otherwise.
struct Part {
    path: PathBuf,
    file: File,
    kept: bool,
}

impl Part {
    fn new(dest: &Path) -> Result<Part> {
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
            .map_err(|e| cannot_write(dest, &e.into()))?;
        // By lot: what a kill left has the number of a process that may come again, in a container every time.
        let path = dest.with_file_name(format!(".wizefs-get-{:016x}", u64::from_le_bytes(random)));
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let file = options.open(&path).map_err(|e| cannot_write(dest, &e))?;
        Ok(Part { path, file, kept: false })
    }

    fn write(&mut self, chunk: &[u8]) -> Result<()> {
        self.file.write_all(chunk).map_err(|e| cannot_write(&self.path, &e))
    }

    fn keep(mut self, dest: &Path, mode: u32, force: bool) -> Result<()> {
        let mode = rustix::fs::Mode::from_raw_mode(mode & 0o777);
        rustix::fs::fchmod(&self.file, mode).map_err(|e| cannot_write(dest, &e.into()))?;
        let flags = if force { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        match renameat_with(CWD, &self.path, CWD, dest, flags) {
            Ok(()) => {
                self.kept = true;
                Ok(())
            }
            Err(rustix::io::Errno::EXIST) => Err(exists(dest)),
            // File systems without RENAME_NOREPLACE: a hard link refuses to replace as well.
            Err(rustix::io::Errno::INVAL) => match std::fs::hard_link(&self.path, dest) {
                Ok(()) => Ok(()),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => Err(exists(dest)),
                Err(e) => Err(cannot_write(dest, &e)),
            },
            Err(e) => Err(cannot_write(dest, &e.into())),
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.kept
            && let Err(e) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(error = %e, file = %self.path.display(), "cannot remove an unfinished file");
        }
    }
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Error {
    let mut failed = Error::io(Kind::Failed, format!("cannot write {}", path.display()), error);
    failed.hint = None;
    failed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_command_left_is_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        let dest = dir.path().join("a");
        std::fs::write(dir.path().join(format!(".wizefs-get-{}", std::process::id())), "left").unwrap();
        let (mut one, mut two) = (Part::new(&dest).unwrap(), Part::new(&dest).unwrap());
        one.write(b"one").unwrap();
        two.write(b"two").unwrap();
        one.keep(&dest, 0o644, false).unwrap();
        assert!(two.keep(&dest, 0o644, false).is_err());
        assert_eq!(std::fs::read_to_string(&dest).unwrap(), "one");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
