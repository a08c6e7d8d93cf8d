//! `wizefs put`.

use super::{Context, complete, standing};
use crate::client::{segment, segments};
use crate::error::{Error, Kind, Result};
use crate::name::{Target, bucket_path, pasted};
use crate::rest::wire::Stored;
use crate::terminal::{Measure, Progress, size};
use clap_complete::engine::ArgValueCompleter;
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use wizefs_fs::BucketPath;

/// Store a file.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wizefs put report.pdf docs                   as report.pdf
  wizefs put report.pdf docs/2026/             as 2026/report.pdf
  tar c src | wizefs put - docs/src.tar        from standard input
The transaction id is printed on standard output.")]
pub struct Args {
    /// The file, or - for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The bucket, with a path in it, or a folder ending with /
    #[arg(value_name = "ORIGIN[/PATH]", add = ArgValueCompleter::new(complete::targets))]
    target: OsString,
}

impl Args {
    /// Whether the content comes from standard input.
    fn is_stdin(&self) -> bool {
        self.file.as_os_str() == "-"
    }

    /// Whether the content can be read once only: it does not lie in a file.
    pub fn reads_once(&self) -> bool {
        self.is_stdin() || !std::fs::metadata(&self.file).is_ok_and(|found| found.is_file())
    }
}

/// Upload and print the transaction id.
///
/// # Errors
/// [`Kind::FileMissing`] and the like for FILE; as `Node::put`.
pub fn run(context: &Context, args: &Args) -> Result<()> {
    let target = Target::parse(&args.target)?;
    let stdin = args.is_stdin();
    let path = destination(&target, &args.file, stdin)?;
    let metadata = if stdin { None } else { Some(metadata_of(&args.file)?) };
    let mode = metadata.as_ref().map(|data| data.permissions().mode() & 0o777);
    let mode = mode.map_or(String::new(), |mode| format!("?mode={mode}"));
    let uri =
        format!("/v1/buckets/{}/files/{}{mode}", segment(target.bucket.as_str().as_bytes()), segments(path.as_bytes()));
    let size_known = metadata.map(|data| data.len());
    let what = format!("storing {}/{path}", target.bucket);
    let progress = Progress::start(&context.out, what, Measure::Bytes, size_known);
    let count = progress.counter();
    let stored: Stored = context.with_node(|client| {
        if stdin {
            return client.upload(&uri, std::io::stdin(), count);
        }
        let file = std::fs::File::open(&args.file).map_err(|e| cannot_read(&args.file, &e))?;
        client.upload(&uri, file, count)
    })?;
    drop(progress);
    if context.out.json {
        return context.out.document(&stored);
    }
    let place = standing(stored.block);
    context.out.done(&format!("{}/{} stored: {}, {place}", stored.bucket, stored.path.text(), size(stored.size)));
    stored.txid.as_deref().map_or(Ok(()), |txid| context.out.id(txid))
}

/// Where FILE goes: PATH, or its own name in the bucket or folder.
fn destination(target: &Target, file: &Path, stdin: bool) -> Result<BucketPath> {
    if !target.folder {
        return Ok(target.path.clone());
    }
    let name = if stdin { None } else { file.file_name() };
    let Some(name) = name.map(OsStr::as_bytes) else {
        let error = Error::new(Kind::Usage, "the file needs a name in the bucket");
        return Err(error.hint(format!("wizefs put {} {}/NAME", pasted(file), target.bucket)));
    };
    match target.path.as_bytes() {
        b"" => bucket_path(name),
        folder => bucket_path(&[folder, b"/", name].concat()),
    }
}

fn metadata_of(file: &Path) -> Result<Metadata> {
    let data = std::fs::metadata(file).map_err(|e| cannot_read(file, &e))?;
    if data.is_dir() {
        let error = Error::new(Kind::NotAFile, format!("{} is a folder", file.display()));
        return Err(error.hint("mount the bucket and use cp -r, or adopt the folder: wizefs create ORIGIN --from PATH"));
    }
    Ok(data)
}

fn cannot_read(file: &Path, error: &std::io::Error) -> Error {
    let mut failed = Error::io(Kind::FileMissing, format!("cannot read {}", file.display()), error);
    failed.hint = None;
    failed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_go_where_they_are_told() {
        fn check(target: &str, file: &str, expect: Option<&str>) {
            let target = Target::parse(OsStr::new(target)).unwrap();
            let path = destination(&target, Path::new(file), file == "-");
            assert_eq!(path.ok().map(|path| path.to_string()).as_deref(), expect, "{file} -> {target:?}");
        }
        check("docs", "/tmp/a.txt", Some("a.txt"));
        check("docs/", "a.txt", Some("a.txt"));
        check("docs/sub/", "x/a.txt", Some("sub/a.txt"));
        check("docs/sub/b.txt", "a.txt", Some("sub/b.txt"));
        check("docs/in", "-", Some("in"));
        check("docs", "-", None);
        check("docs", "..", None);
    }
}
