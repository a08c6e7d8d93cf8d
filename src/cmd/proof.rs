//! `wizefs proof`.

use super::{Context, complete};
use crate::client::{Client, segment, segments};
use crate::error::{Error, Kind, Result};
use crate::name::Target;
use crate::rest::wire::{Consistency, Proof};
use clap_complete::engine::ArgValueCompleter;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use wizefs_ledger::StateProof;

/// Prove to anybody, without a node, what is in a file and since when.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A proof is a C2SP tlog-proof: the signed transaction, its place in the log, and a signed checkpoint. Whoever has the file, the \
proof and the log's verifier key (wizefs status) checks them with: wizefs verify FILE --proof PROOF --policy KEYS

Examples:
  wizefs proof docs/a.txt -o a.tlog-proof             this content was recorded
  wizefs proof docs/a.txt -o a.tlog-proof --state     and is the current one, or: nothing is there
  wizefs proof docs/film -o f.tlog-proof --range 0-999   the first 1000 bytes alone
  wizefs proof --since 120                            the log only grew since it had 120 entries")]
pub struct Args {
    /// A path in a bucket; of a removed one, the removal is proven
    #[arg(value_name = "ORIGIN/PATH", required_unless_present = "since", add = ArgValueCompleter::new(complete::targets))]
    target: Option<OsString>,
    /// Write the proof to FILE instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write FILE.state too: that this is the current version, or that nothing is there
    #[arg(long, requires = "output", conflicts_with = "since")]
    state: bool,
    /// Write FILE.slice too: for whoever has bytes FIRST to LAST only
    #[arg(long, value_name = "FIRST-LAST", requires = "output", conflicts_with = "since", value_parser = range)]
    range: Option<(u64, u64)>,
    /// Prove that the log begins with the one of SIZE entries
    #[arg(long, value_name = "SIZE", conflicts_with = "target")]
    since: Option<u64>,
}

/// What the files begin with.
const PROOF: &str = "c2sp.org/tlog-proof@v1\n";
const STATE_PROOF: &str = "wizefs.invalid/state-proof@v1\n";

/// Reads `FIRST-LAST`.
pub(super) fn range(text: &str) -> std::result::Result<(u64, u64), String> {
    let parsed = text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    parsed.filter(|(first, last): &(u64, u64)| first <= last).ok_or_else(|| "expected FIRST-LAST, such as 0-999".into())
}

/// The file beside a proof with this ending.
pub(super) fn beside(proof: &Path, ending: &str) -> PathBuf {
    let mut name = proof.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Make the proof and write it.
///
/// # Errors
/// As `Node::prove` and `Node::slice`; [`Kind::FileExists`] for a file that is no proof.
pub fn run(context: &Context, args: &Args) -> Result<()> {
    if let Some(size) = args.since {
        let proof: Consistency = context.with_node(|client| client.get(&format!("/v1/log/since/{size}")))?;
        if let Some(path) = &args.output {
            replace(path, proof.proof.as_bytes(), "old ")?;
        }
        return match &args.output {
            _ if context.out.json => context.out.document(&proof),
            Some(path) => {
                context.out.done(&format!("that the log goes on from its first {size} entries: {}", path.display()));
                Ok(())
            }
            None => context.out.raw(proof.proof.as_bytes()),
        };
    }
    let target = args.target.as_deref().ok_or_else(|| Error::new(Kind::Usage, "name a file in a bucket"))?;
    let target = Target::parse(target)?;
    context.with_node(|client| prove(context, args, &target, client))
}

fn prove(context: &Context, args: &Args, target: &Target, client: &Client) -> Result<()> {
    if target.path.is_root() {
        let error = Error::new(Kind::Usage, format!("{} is a bucket: name a path in it", target.bucket));
        return Err(error.hint(format!("wizefs list {} shows what is there", target.bucket)));
    }
    let bucket = segment(target.bucket.as_str().as_bytes());
    let path = segments(target.path.as_bytes());
    let mut proof: Proof = client.get(&format!("/v1/buckets/{bucket}/proof/{path}?state={}", args.state))?;
    let text = proof.proof.as_deref().unwrap_or_default();
    let Some(output) = &args.output else {
        return if context.out.json { context.out.document(&proof) } else { context.out.raw(text.as_bytes()) };
    };
    // Nothing is written before all is there, and may be.
    let slice = args.range.map(|range| slice(client, &bucket, &path, range)).transpose()?;
    let is_again = is_replaceable(output, PROOF)?;
    is_replaceable(&beside(output, ".state"), STATE_PROOF)?;
    if slice.is_some() && !is_again {
        // A slice has no mark of its own: one is replaced only together with its proof.
        refuse_existing(&beside(output, ".slice"))?;
    }
    let mut files = Vec::new();
    if proof.proof.is_some() {
        replace(output, text.as_bytes(), PROOF)?;
        files.push(output.clone());
    } else {
        forget(output, PROOF)?;
    }
    if let Some(state) = &proof.state {
        files.push(beside(output, ".state"));
        replace(&beside(output, ".state"), state.as_bytes(), STATE_PROOF)?;
    } else {
        // An old one would be about another checkpoint.
        forget(&beside(output, ".state"), STATE_PROOF)?;
    }
    if let Some(slice) = slice {
        files.push(beside(output, ".slice"));
        replace(&beside(output, ".slice"), &slice, "")?;
    }
    proof.files = files.iter().map(|file| file.display().to_string()).collect();
    if context.out.json {
        return context.out.document(&proof);
    }
    let subject = format!("{}/{}", proof.bucket, proof.path.text());
    let written = proof.files.join(", ");
    let is_there = || {
        let state = proof.state.as_deref().and_then(|text| StateProof::parse(text).ok()?.check().ok());
        state.is_some_and(|state| state.entry.is_some())
    };
    let block = proof.state_block.unwrap_or_default();
    context.out.done(&match proof.index {
        Some(index) => format!("{subject} is entry {index} of {}: {written}", proof.log_size),
        None if is_there() => format!("{subject} is there at block {block}: {written}"),
        None => format!("nothing is at {subject} at block {block}: {written}"),
    });
    Ok(())
}

fn slice(client: &Client, bucket: &str, path: &str, (first, last): (u64, u64)) -> Result<Vec<u8>> {
    let mut slice = Vec::new();
    let uri = format!("/v1/buckets/{bucket}/slice/{path}?first={first}&last={last}");
    let each = |chunk: &[u8]| {
        slice.extend_from_slice(chunk);
        Ok(())
    };
    client.download(&uri, |_| (), each)?;
    Ok(slice)
}

/// Write a proof as a whole or not at all, over nothing but another of its kind: one that starts with `kind`.
pub(super) fn replace(path: &Path, bytes: &[u8], kind: &str) -> Result<()> {
    is_replaceable(path, kind)?;
    let cannot = |e: std::io::Error| Error::io(Kind::Failed, format!("cannot write {}", path.display()), &e);
    let temporary = beside(path, &format!(".{}.tmp", std::process::id()));
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).open(&temporary);
    let written = file.and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    let done = written.and_then(|()| std::fs::rename(&temporary, path));
    done.map_err(|e| {
        if let Err(left) = std::fs::remove_file(&temporary) {
            tracing::debug!(error = %left, "no temporary file to remove");
        }
        cannot(e)
    })
}

fn exists_already(path: &Path) -> Error {
    let text = format!("{} exists already and is no such proof", path.display());
    Error::new(Kind::FileExists, text).hint("choose another name")
}

fn refuse_existing(path: &Path) -> Result<()> {
    if path.symlink_metadata().is_ok() { Err(exists_already(path)) } else { Ok(()) }
}

fn is_replaceable(path: &Path, kind: &str) -> Result<bool> {
    let mut start = Vec::new();
    // A pipe or a terminal is not read, which might wait for ever.
    let read = std::fs::metadata(path).and_then(|found| match found.is_file() {
        true => std::fs::File::open(path)?.take(kind.len() as u64).read_to_end(&mut start).map(|_| true),
        false => Ok(false),
    });
    match read {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Ok(true) if start == kind.as_bytes() => Ok(true),
        _ => Err(exists_already(path)),
    }
}

fn forget(path: &Path, kind: &str) -> Result<()> {
    if is_replaceable(path, kind)? {
        std::fs::remove_file(path)
            .map_err(|e| Error::io(Kind::Failed, format!("cannot remove {}", path.display()), &e))?;
    }
    Ok(())
}
