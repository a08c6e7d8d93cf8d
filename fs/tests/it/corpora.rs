//! Archives that others collected because readers differ on them: each ends in the listing that Python sees, or in a clear error.
//!
//! Those that the crate rawzip carries are where Cargo has unpacked it. `WIZEFS_ZIP_CORPORA` names more folders, separated by `:`,
//! as `tests/blackbox/data` of google/mount-zip, `tests/data` of zip-rs/zip2 and `src/archive/zip/testdata` of golang/go.

use crate::zip::{content, walk};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use wizefs_fs::stat::Kind;
use wizefs_fs::{FsError, ZipFs, lz};

/// What Python reads: for each regular member that it can read its length and CRC-32. Fails for what it takes for no archive.
const PYTHON: &str = r"
import sys, zipfile, zlib
with zipfile.ZipFile(sys.argv[1]) as archive:
    for member in archive.infolist():
        kind = member.external_attr >> 28
        if member.is_dir() or kind not in (0, 8) or member.flag_bits & 1:
            continue
        try:
            content = archive.read(member)
        except Exception:
            continue
        print(len(content), zlib.crc32(content), member.orig_filename.encode('utf-8', 'surrogateescape').hex())
";

/// Archives on which we mean to differ from Python, and why.
const OTHERWISE: [(&str, &str); 1] = [(
    "eocd-undercount.zip",
    "it says another number of members than it has: torn or forged, and refused with these words",
)];

fn folders() -> Vec<PathBuf> {
    let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo = cargo.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    let sources = cargo.and_then(|cargo| fs::read_dir(cargo.join("registry/src")).ok()).into_iter().flatten().flatten();
    let crates = sources.filter_map(|index| fs::read_dir(index.path()).ok()).flatten().flatten();
    let carried = crates.filter(|folder| folder.file_name().to_string_lossy().starts_with("rawzip-"));
    let mut folders: Vec<PathBuf> = carried.map(|folder| folder.path().join("assets")).collect();
    folders.extend(std::env::var_os("WIZEFS_ZIP_CORPORA").iter().flat_map(std::env::split_paths));
    folders
}

fn archives_in(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())).flatten() {
        let path = entry.path();
        if path.is_dir() {
            archives_in(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "zip") {
            found.push(path);
        }
    }
}

/// Length and CRC-32 of the members that Python reads, by name; none for what it does not open.
fn seen_by_python(archive: &Path) -> Option<Vec<(String, u64, u32)>> {
    let output = Command::new("python3").args(["-c", PYTHON]).arg(archive).output().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    let member = |line: &str| -> Option<(String, u64, u32)> {
        let mut words = line.split(' ');
        let (size, crc) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let hex = words.next()?;
        let bytes: Vec<u8> =
            (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect();
        Some((String::from_utf8_lossy(&bytes).into_owned(), size, crc))
    };
    output.status.success().then(|| lines.lines().map(|line| member(line).unwrap()).collect())
}

/// Length and CRC-32 of each regular file by path, or why it cannot be read.
type Seen = BTreeMap<String, Result<(u64, u32), FsError>>;

fn seen_by_us(archive: &Path) -> Result<Seen, FsError> {
    let fs = ZipFs::open(File::open(archive)?, None)?;
    let files = walk(&fs).into_iter().filter(|(_, attr)| attr.stat.kind == Kind::File);
    Ok(files
        .map(|(path, attr)| {
            let bytes = content(&fs, &attr);
            (path, bytes.map(|bytes| (bytes.len() as u64, crc32fast::hash(&bytes))))
        })
        .collect())
}

/// What is wrong with our view of an archive. Members are compared by content: names are shown as the encoding and the rules for
/// names say, which Python does not follow.
fn compare(archive: &Path) -> Result<&'static str, String> {
    let python = seen_by_python(archive);
    let ours = match seen_by_us(archive) {
        Ok(ours) => ours,
        Err(FsError::Archive(why)) if !why.is_empty() => {
            return match python {
                Some(members) if !members.is_empty() => Err(format!("Python reads it, we say {why}")),
                _ => Ok("refused"),
            };
        }
        Err(other) => return Err(format!("no clear error: {other}")),
    };
    let Some(python) = python else { return Ok("shown to us alone") };
    let mut left: Vec<(u64, u32)> = ours.values().filter_map(|seen| seen.as_ref().ok().copied()).collect();
    let is_unsupported = |error: &FsError| error.errno() == Errno::OPNOTSUPP;
    let mut unsupported = ours.values().filter(|seen| seen.as_ref().is_err_and(is_unsupported)).count();
    for (name, size, crc) in python {
        let has_no_name = name.split('/').all(|part| matches!(part, "" | "." | ".."));
        match left.iter().position(|seen| *seen == (size, crc)) {
            Some(at) => drop(left.swap_remove(at)),
            None if has_no_name => {}
            None if unsupported > 0 => unsupported -= 1,
            None => return Err(format!("{name} of {size} bytes is not among the {} files that we show", ours.len())),
        }
    }
    Ok("as Python")
}

/// A copy with another file in it, or an error and the copy as it was.
fn change(archive: &Path, copy: &Path) -> Result<(), String> {
    fs::copy(archive, copy).unwrap();
    let before = fs::read(copy).unwrap();
    let put = crate::archive::put("put by us", b"content");
    let changed = lz::Archive::open(copy).and_then(|archive| archive.commit(&lz::Edits(vec![put])));
    match changed {
        Ok(_) if seen_by_us(copy).is_ok_and(|seen| matches!(seen.get("put by us"), Some(Ok(_)))) => Ok(()),
        Ok(_) => Err("what was put into it is not there".into()),
        Err(_) if fs::read(copy).unwrap() == before => Ok(()),
        Err(error) => Err(format!("changed, and then: {error}")),
    }
}

#[test]
fn archives_that_others_collected_end_in_their_listing_or_a_clear_error() {
    let mut archives = Vec::new();
    folders().iter().for_each(|folder| archives_in(folder, &mut archives));
    archives.sort();
    if archives.is_empty() {
        eprintln!(
            "SKIPPED: Cargo has not unpacked the crate rawzip where this looks, and WIZEFS_ZIP_CORPORA names no folder"
        );
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let mut wrong = Vec::new();
    let mut ends: BTreeMap<&str, usize> = BTreeMap::new();
    for archive in &archives {
        let name = archive.file_name().unwrap().to_string_lossy().into_owned();
        match compare(archive) {
            Ok(end) => *ends.entry(end).or_default() += 1,
            Err(_) if OTHERWISE.iter().any(|(other, _)| *other == name) => *ends.entry("otherwise").or_default() += 1,
            Err(what) => wrong.push(format!("{}: {what}", archive.display())),
        }
        if let Err(what) = change(archive, &scratch.path().join(&name)) {
            wrong.push(format!("{} as lz: {what}", archive.display()));
        }
    }
    eprintln!("{} archives: {ends:?}", archives.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
}
