//! `wizefs verify`.

use super::Context;
use crate::client::{segment, segments};
use crate::error::{Error, Kind, Result};
use crate::name::{Target, escape};
use crate::rest::wire::{VerifyLine, VerifyPath, VerifySummary};
use crate::terminal::{Terminal, count, short, size};
use axum::http::Method;
use std::ffi::OsString;

/// Bytes against the ledger.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit code 26 means damage was found: content, size, mode or kind differ from the ledger, a file is missing, or something is
there that did not come through wizefs. Files that are still being written are told as pending and do no harm.")]
pub struct Args {
    /// A bucket, or a path in it; without, all buckets
    #[arg(value_name = "ORIGIN[/PATH]")]
    target: Option<OsString>,
    /// Tell of every file, not only of what differs
    #[arg(short, long)]
    verbose: bool,
}

/// Print what differs as it is found, and a summary; 26 when something does.
///
/// # Errors
/// As `verify::run`.
pub fn run(context: &Context, args: &Args) -> Result<u8> {
    let target = args.target.as_deref().map(Target::parse).transpose()?;
    let scope = match &target {
        None => "/v1/verify".to_owned(),
        Some(Target { bucket, path, .. }) => {
            let tail = if path.is_root() { String::new() } else { format!("/{}", segments(path.as_bytes())) };
            format!("/v1/buckets/{}/verify{tail}", segment(bucket.as_str().as_bytes()))
        }
    };
    let subject = target.map_or_else(
        || "all buckets".to_owned(),
        |t| match t.path.is_root() {
            true => t.bucket.to_string(),
            false => format!("{}/{}", t.bucket, t.path),
        },
    );
    let out = context.out;
    let mut exit = None;
    context.with_node(|client| {
        let uri = format!("{scope}?verbose={}", args.verbose);
        client.lines(Method::GET, &uri, None::<&()>, |line: VerifyLine, raw| {
            if let VerifyLine::Summary(summary) = &line {
                exit = Some(summary.exit);
            }
            if out.json { out.raw(&[raw, b"\n"].concat()) } else { show(&out, &subject, &line) }
        })
    })?;
    exit.ok_or_else(|| Error::new(Kind::Unreachable, "the check ended early"))
}

fn show(out: &Terminal, subject: &str, line: &VerifyLine) -> Result<()> {
    let at = |path: &VerifyPath| escape(&format!("{}/{}", path.bucket, path.path.text()));
    match line {
        VerifyLine::Ok(path) => out.line(&format!("{} {}", out.mark(true), at(path))),
        VerifyLine::Damaged(path) => damaged(out, &at(path), path),
        VerifyLine::Missing(path) => out.line(&format!("{} {}   is missing{}", out.mark(false), at(path), since(path))),
        VerifyLine::Foreign(path) => {
            out.line(&format!("{} {}   came from outside wizefs", out.mark(false), at(path)))?;
            out.hint(&format!("wizefs accept {} signs it as yours", at(path)));
            Ok(())
        }
        VerifyLine::Pending(path) => {
            out.warn(&format!("{} is still being written or settled", at(path)));
            Ok(())
        }
        VerifyLine::Summary(summary) => summarise(out, subject, summary),
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
        out.line(&format!("    expected  {}", escape(short(expected))))?;
    }
    if let Some(found) = &path.found {
        out.line(&format!("    found     {}", escape(short(found))))?;
    }
    if !path.ranges.is_empty() {
        let of = path.size.map_or_else(String::new, |size| format!(" of {size}"));
        out.line(&format!("    bytes     {}{of}", ranges(&path.ranges)))?;
    }
    Ok(())
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
    fn many_ranges_are_cut_short() {
        fn check(count: u64, expect: &str) {
            let many: Vec<_> = (0..count).map(|i| (i * 10, i * 10 + 4)).collect();
            assert_eq!(ranges(&many), expect);
        }
        check(2, "0-4, 10-14");
        check(10, "0-4, 10-14, 20-24, 30-34, 40-44, 50-54, 60-64, 70-74, and 2 more");
    }
}
