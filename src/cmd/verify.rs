//! `wizefs verify`.

use super::{Context, complete, proof::beside};
use crate::client::{Client, segment, segments};
use crate::error::{Error, Kind, Result};
use crate::name::{Target, escape, pasted};
use crate::offline::{self, Claim};
use crate::rest::wire::{Buckets, Verified, VerifyLine, VerifyPath, VerifySummary};
use crate::root::Root;
use crate::slice;
use crate::terminal::{Measure, Progress, Terminal, count, short, size};
use axum::http::Method;
use clap_complete::engine::ArgValueCompleter;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use wizefs_ledger::{ConsistencyFile, LogKey, Policy, StateProof, Vkey};

/// Bytes read of a proof at most, which somebody else has made: twice the largest slice.
const MOST: u64 = 2 * slice::MOST;

/// Bytes against the ledger.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit code 26 means damage was found: content, size, mode or kind differ from the ledger, a file is missing, or something is \
there that did not come through wizefs. Files that are still being written are told as pending and do no harm.

With --proof a file is compared with a proof instead; that needs no node and no root folder. FILE.state beside the proof is \
checked with it. Exit code 27 means that all of it holds but that nobody you trust has signed it: give --policy a file with \
the verifier key of the log, which its owner sees in `wizefs status --json`. For --range, FILE holds those bytes only.

Examples:
  wizefs verify                                        all buckets
  wizefs verify docs/2026 --verbose                    a folder, file by file
  wizefs verify a.txt --proof a.tlog-proof --policy KEYS   what somebody gave you")]
pub struct Args {
    /// A bucket, or a path in it; without, all buckets. With --proof a file, or the checkpoint that a consistency proof extends
    #[arg(value_name = "ORIGIN[/PATH]|FILE", add = ArgValueCompleter::new(complete::targets))]
    target: Option<OsString>,
    /// Compare FILE with this proof
    #[arg(long, value_name = "PROOF", requires = "target", conflicts_with = "verbose")]
    proof: Option<PathBuf>,
    /// Whose logs count: one C2SP verifier key per line, or a C2SP tlog-policy
    #[arg(long, value_name = "KEYS", requires = "proof")]
    policy: Option<PathBuf>,
    /// FILE holds bytes FIRST to LAST, proven by PROOF.slice
    #[arg(long, value_name = "FIRST-LAST", requires = "proof", value_parser = super::proof::range)]
    range: Option<(u64, u64)>,
    /// Tell of every file, not only of what differs
    #[arg(short, long)]
    verbose: bool,
}

/// Print what differs as it is found, and a summary; 26 when something does.
///
/// # Errors
/// As `verify::run`.
pub fn run(context: &Context, args: &Args) -> Result<u8> {
    if let (Some(proof), Some(file)) = (&args.proof, &args.target) {
        return run_offline(context, args, Path::new(file), proof);
    }
    let target = args.target.as_deref().map(Target::parse).transpose()?;
    let scope = match &target {
        None => "/v1/verify".to_owned(),
        Some(Target { bucket, path, .. }) => {
            let tail = if path.is_root() { String::new() } else { format!("/{}", segments(path.as_bytes())) };
            format!("/v1/buckets/{}/verify{tail}", segment(bucket.as_str().as_bytes()))
        }
    };
    let subject = target.as_ref().map_or_else(
        || "all buckets".to_owned(),
        |t| match t.path.is_root() {
            true => t.bucket.to_string(),
            false => format!("{}/{}", t.bucket, t.path),
        },
    );
    let out = context.out;
    let progress = Progress::start(&out, format!("verifying {subject}"), Measure::Bytes, None);
    let mut exit = None;
    context.with_node(|client| {
        progress.set_total(total(client, target.as_ref())?);
        let uri = format!("{scope}?verbose={}&progress=true", args.verbose);
        client.lines(Method::GET, &uri, None::<&()>, |line: VerifyLine, raw| {
            match &line {
                VerifyLine::Summary(summary) => exit = Some(summary.exit),
                VerifyLine::Progress(so_far) => {
                    progress.set(so_far.bytes, so_far.files);
                    return Ok(());
                }
                _ => {}
            }
            progress.above(|| match out.json {
                true => out.raw(&[raw, b"\n"].concat()),
                false => show(&out, &subject, &line),
            })
        })
    })?;
    drop(progress);
    exit.ok_or_else(|| Error::new(Kind::Unreachable, "the check ended early"))
}

/// Bytes there are to read, 0 when nobody knows.
fn total(client: &Client, target: Option<&Target>) -> Result<u64> {
    if target.is_some_and(|target| !target.path.is_root()) {
        return Ok(0);
    }
    let all: Buckets = client.get("/v1/buckets")?;
    let wanted = all.buckets.iter().filter(|bucket| target.is_none_or(|target| target.bucket == bucket.origin));
    Ok(wanted.map(|bucket| bucket.bytes).sum())
}

/// Compare a file with a proof; 27 when nobody vouches for the signer.
fn run_offline(context: &Context, args: &Args, file: &Path, proof: &Path) -> Result<u8> {
    // Where nothing was ever recorded, there is a state proof and no other.
    let alone = beside(proof, ".state");
    let text = read_text(if !proof.exists() && alone.exists() { &alone } else { proof })?;
    let policy = policy(context, args.policy.as_deref(), &text)?;
    let verified = if ConsistencyFile::is_one(&text) {
        offline::check_consistency(file, &text, &policy)?
    } else if StateProof::is_one(&text) {
        offline::check_state(file, &text, &policy)?
    } else {
        let state = beside(proof, ".state");
        let state = if state.exists() { Some(read_text(&state)?) } else { None };
        let slice = args.range.map(|_| read(&beside(proof, ".slice"))).transpose()?;
        let slice = slice.as_deref().zip(args.range).map(|(bytes, (first, last))| (bytes, first, last));
        offline::check(&Claim { file, proof: &text, state: state.as_deref(), slice, policy: &policy })?
    };
    if context.out.json {
        context.out.document(&verified)?;
    } else {
        show_verified(&context.out, file, &verified)?;
    }
    Ok(verified.exit)
}

/// The keys that count: those given, and inside a root its own log key.
fn policy(context: &Context, keys: Option<&Path>, text: &str) -> Result<Policy> {
    let mut policy = match keys {
        Some(path) => {
            // Names and comments of a tlog-policy may be of any bytes: what is no UTF-8 is taken byte by byte, so that other
            // names stay other names.
            let text = String::from_utf8(read(path)?)
                .unwrap_or_else(|odd| odd.into_bytes().iter().map(|byte| char::from(*byte)).collect());
            Policy::parse(&text).map_err(|e| Error::new(Kind::Usage, format!("{}: {e}", path.display())))?
        }
        None => Policy::default(),
    };
    // The name in a verifier key is its log's, which the checkpoint begins with; the last block is its signatures.
    let origin = text.rsplit("\n\n").nth(1).and_then(|body| body.lines().next()).map(str::to_owned);
    if let (None, Some(origin), Ok(config)) = (keys, origin, context.config())
        && let Ok(key) = LogKey::load(&Root::new(&config.root).log_key())
    {
        policy.add_log(Vkey { name: origin, key: key.public() });
    }
    Ok(policy)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let cannot = |e: std::io::Error| Error::io(Kind::FileMissing, format!("cannot read {}", path.display()), &e);
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MOST + 1).read_to_end(&mut bytes));
    read.map_err(|e| cannot(e).without_hint())?;
    if bytes.len() as u64 > MOST {
        return Err(Error::new(Kind::Damaged, format!("{} is larger than any proof", path.display())).without_hint());
    }
    Ok(bytes)
}

fn read_text(path: &Path) -> Result<String> {
    let text = String::from_utf8(read(path)?);
    text.map_err(|_| Error::new(Kind::Damaged, format!("{} is not text", path.display())).without_hint())
}

fn show_verified(out: &Terminal, file: &Path, verified: &Verified) -> Result<()> {
    let name = escape(&file.display().to_string());
    let time = verified.time.as_deref().map_or_else(String::new, |time| format!(" on {time}"));
    let what = match (&verified.op, verified.range) {
        (None, _) if verified.state.is_some() => format!("as the log of {} entries has it", verified.log_size),
        (None, _) => format!("the log of {} entries goes on from it", verified.log_size),
        (Some(op), None) => format!("{op} {}{time}", escape(verified.path.text())),
        (Some(op), Some((first, last))) => {
            format!("bytes {first}-{last} of {op} {}{time}", escape(verified.path.text()))
        }
    };
    if !out.quiet {
        out.line(&format!("{} {name}: {what}", out.mark(true)))?;
        if let Some(state) = &verified.state {
            let place = escape(&format!("{}/{}", state.bucket, state.path.text()));
            let is = if state.standing == "current" { "the current version of" } else { "gone: there is no" };
            out.line(&format!("  {is} {place} at block {}", state.block))?;
        }
    }
    match verified.signer {
        "trusted" => {}
        "too-few-witnesses" => out.warn("too few witnesses have signed the checkpoint"),
        _ if verified.keys.is_empty() => out.warn("signer not checked: no signature is the log's own"),
        _ => out.warn(&format!("signer not checked: {}", verified.keys.join(", "))),
    }
    Ok(())
}

fn show(out: &Terminal, subject: &str, line: &VerifyLine) -> Result<()> {
    let place = |path: &VerifyPath| format!("{}/{}", path.bucket, path.path.text());
    let at = |path: &VerifyPath| escape(&place(path));
    match line {
        VerifyLine::Ok(path) => out.line(&format!("{} {}", out.mark(true), at(path))),
        VerifyLine::Damaged(path) => damaged(out, &at(path), path),
        VerifyLine::Missing(path) => {
            out.line(&format!("{} {}   is missing{}", out.mark(false), at(path), since(path)))?;
            out.hint(&format!("wizefs accept {} signs that it is gone", pasted(place(path))));
            Ok(())
        }
        VerifyLine::Foreign(path) => {
            out.line(&format!("{} {}   came from outside wizefs", out.mark(false), at(path)))?;
            out.hint(&format!("wizefs accept {} signs it as yours", pasted(place(path))));
            Ok(())
        }
        VerifyLine::Pending(path) => {
            out.warn(&format!("{} is still being written or settled", at(path)));
            Ok(())
        }
        VerifyLine::Summary(summary) => summarise(out, subject, summary),
        VerifyLine::Progress(_) => Ok(()),
    }
}

fn since(path: &VerifyPath) -> String {
    path.block.map_or_else(String::new, |block| format!(" (block {block})"))
}

fn damaged(out: &Terminal, at: &str, path: &VerifyPath) -> Result<()> {
    let fields = if path.fields.is_empty() { "state".to_owned() } else { path.fields.join(", ") };
    let place = path.block.map_or_else(|| "the ledger".to_owned(), |block| format!("block {block}"));
    out.line(&format!("{} {at}   {fields} differs from {place}", out.mark(false)))?;
    if let Some(expected) = &path.expected {
        out.line(&format!("    expected  {}", escape(told(expected))))?;
    }
    if let Some(found) = &path.found {
        out.line(&format!("    found     {}", escape(told(found))))?;
    }
    if !path.ranges.is_empty() {
        let of = path.size.map_or_else(String::new, |size| format!(" of {size}"));
        out.line(&format!("    bytes     {}{of}", ranges(&path.ranges)))?;
    }
    Ok(())
}

/// A hash cut short; a sentence as it is.
fn told(what: &str) -> &str {
    let is_hash = what.len() == 64 && what.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hash { short(what) } else { what }
}

fn ranges(ranges: &[(u64, u64)]) -> String {
    /// More would not help a reader; `--json` has them all.
    const SHOWN: usize = 8;
    let mut shown: Vec<String> = ranges.iter().take(SHOWN).map(|(first, last)| format!("{first}-{last}")).collect();
    if ranges.len() > SHOWN {
        shown.push(format!("and {} more", ranges.len() - SHOWN));
    }
    shown.join(", ")
}

fn summarise(out: &Terminal, subject: &str, summary: &VerifySummary) -> Result<()> {
    let read = format!("{}, {}", count(summary.files, "file"), size(summary.bytes));
    let took = format!("{:.2} s", summary.seconds);
    if summary.exit == 0 {
        let pending = if summary.pending > 0 { format!(", {} pending", summary.pending) } else { String::new() };
        if out.quiet {
            return Ok(());
        }
        return out.line(&format!("{} {subject}: {read}, all match the ledger{pending}   {took}", out.mark(true)));
    }
    let VerifySummary { damaged, missing, foreign, .. } = summary;
    let found = [(damaged, "damaged"), (missing, "missing"), (foreign, "foreign")];
    let found: Vec<String> = found.iter().filter(|(n, _)| **n > 0).map(|(n, word)| format!("{n} {word}")).collect();
    out.line(&format!("{subject}: {read}: {}   {took}", found.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_cut_short_and_sentences_are_not() {
        fn check(what: &str, expect: &str) {
            assert_eq!(told(what), expect);
        }
        let hash = "0123456789abcdef".repeat(4);
        check(&hash, short(&hash));
        check("members have names that are shown otherwise", "members have names that are shown otherwise");
        check("directory", "directory");
    }

    #[test]
    fn many_ranges_are_cut_short() {
        fn check(count: u64, expect: &str) {
            let many: Vec<_> = (0..count).map(|i| (i * 10, i * 10 + 4)).collect();
            assert_eq!(ranges(&many), expect);
        }
        check(2, "0-4, 10-14");
        check(10, "0-4, 10-14, 20-24, 30-34, 40-44, 50-54, 60-64, 70-74, and 2 more");
    }
}
