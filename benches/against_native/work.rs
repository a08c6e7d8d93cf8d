//! The work that is measured.

use crate::Result;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
/// Small files stand in directories of this many.
const FILES_PER_DIRECTORY: u64 = 1_000;

/// How much of it.
pub(crate) struct Load {
    pub(crate) tree_files: usize,
    pub(crate) small_files: u64,
    pub(crate) large_mib: usize,
}

impl Load {
    pub(crate) const FULL: Load = Load { tree_files: 3_000, small_files: 10_000, large_mib: 512 };
    pub(crate) const QUICK: Load = Load { tree_files: 300, small_files: 1_000, large_mib: 64 };
}

/// One kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Workload {
    CopyIn,
    SmallCreate,
    StatCold,
    StatWarm,
    Write,
    ReadCold,
    ReadWarm,
}

/// The tree that is copied in.
pub(crate) struct Tree {
    dir: PathBuf,
    pub(crate) files: usize,
}

/// A copy of source code beside the places: of `from`, or of what Cargo has unpacked.
pub(crate) fn source_tree(from: Option<&Path>, to: &Path, load: &Load) -> Result<Tree> {
    let from = match (from, std::env::var_os("CARGO_HOME"), std::env::home_dir()) {
        (Some(from), ..) => from.to_owned(),
        (None, Some(cargo), _) => PathBuf::from(cargo).join("registry/src"),
        (None, None, Some(home)) => home.join(".cargo/registry/src"),
        (None, None, None) => return Err("name a source tree with --tree".into()),
    };
    let mut files = 0;
    copy_some(&from, to, load.tree_files, &mut files)?;
    if files < load.tree_files {
        eprintln!("{} holds {files} files only", from.display());
    }
    Ok(Tree { dir: to.to_owned(), files })
}

fn copy_some(from: &Path, to: &Path, most: usize, files: &mut usize) -> Result<()> {
    fs::create_dir(to)?;
    let entries = fs::read_dir(from).map_err(|e| format!("{}: {e}", from.display()))?;
    let mut entries = entries.collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let kind = entry.file_type()?;
        if *files >= most {
            break;
        } else if kind.is_dir() {
            copy_some(&entry.path(), &to.join(entry.file_name()), most, files)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
            *files += 1;
        }
    }
    Ok(())
}

impl Workload {
    pub(crate) const ALL: [Workload; 7] = [
        Workload::CopyIn,
        Workload::SmallCreate,
        Workload::StatCold,
        Workload::StatWarm,
        Workload::Write,
        Workload::ReadCold,
        Workload::ReadWarm,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Workload::CopyIn => "copy a source tree in (cp -r)",
            Workload::SmallCreate => "create files of 4 KiB",
            Workload::StatCold => "stat walk, cold",
            Workload::StatWarm => "stat walk, warm",
            Workload::Write => "sequential write and fsync",
            Workload::ReadCold => "sequential read, cold",
            Workload::ReadWarm => "sequential read, warm",
        }
    }

    pub(crate) fn is_cold(self) -> bool {
        matches!(self, Workload::StatCold | Workload::ReadCold)
    }

    /// Make what the work needs; not measured.
    pub(crate) fn prepare(self, dir: &Path, load: &Load, tree: &Tree) -> Result<()> {
        match self {
            Workload::CopyIn | Workload::SmallCreate => Ok(()),
            Workload::StatCold | Workload::StatWarm => {
                copy_in(tree, dir)?;
                walk(dir).map(drop)
            }
            Workload::Write => Ok(fs::create_dir(dir)?),
            Workload::ReadCold | Workload::ReadWarm => {
                fs::create_dir(dir)?;
                write_large(dir, load)?;
                read_large(dir, load).map(drop)
            }
        }
    }

    /// The work, and how long it took.
    pub(crate) fn run(self, dir: &Path, load: &Load, tree: &Tree) -> Result<Duration> {
        match self {
            Workload::CopyIn => copy_in(tree, dir),
            Workload::SmallCreate => create_small_files(dir, load),
            Workload::StatCold | Workload::StatWarm => {
                let start = Instant::now();
                let found = walk(dir)?;
                if found < tree.files {
                    return Err(format!("the walk found {found} of {} files", tree.files).into());
                }
                Ok(start.elapsed())
            }
            Workload::Write => write_large(dir, load),
            Workload::ReadCold | Workload::ReadWarm => read_large(dir, load),
        }
    }

    /// Take everything away; not measured.
    pub(crate) fn clean(self, dir: &Path) -> Result<()> {
        Ok(fs::remove_dir_all(dir)?)
    }
}

fn copy_in(tree: &Tree, to: &Path) -> Result<Duration> {
    let start = Instant::now();
    let status = Command::new("cp").arg("-r").arg(&tree.dir).arg(to).status()?;
    if !status.success() {
        return Err(format!("cp -r: {status}").into());
    }
    Ok(start.elapsed())
}

/// Create, write and close small files, every one with a content of its own, one after the other.
pub(crate) fn create_small_files(dir: &Path, load: &Load) -> Result<Duration> {
    let start = Instant::now();
    fs::create_dir(dir)?;
    let mut content = [0x5a; 4096];
    for number in 0..load.small_files {
        let directory = dir.join((number / FILES_PER_DIRECTORY).to_string());
        if number % FILES_PER_DIRECTORY == 0 {
            fs::create_dir(&directory)?;
        }
        content[..8].copy_from_slice(&number.to_le_bytes());
        File::create_new(directory.join(number.to_string()))?.write_all(&content)?;
    }
    Ok(start.elapsed())
}

/// `lstat` of everything below `dir`, as `find -printf %s` does; returns how many are no directories.
fn walk(dir: &Path) -> Result<usize> {
    let mut files = 0;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if fs::symlink_metadata(&path)?.is_dir() {
            files += walk(&path)?;
        } else {
            files += 1;
        }
    }
    Ok(files)
}

fn write_large(dir: &Path, load: &Load) -> Result<Duration> {
    let content: Vec<u8> = (0..MIB).map(|i| (i * 31 % 251) as u8).collect();
    let start = Instant::now();
    let mut file = File::create(dir.join("large"))?;
    for _ in 0..load.large_mib {
        file.write_all(&content)?;
    }
    file.sync_all()?;
    drop(file);
    Ok(start.elapsed())
}

fn read_large(dir: &Path, load: &Load) -> Result<Duration> {
    let mut buffer = vec![0; MIB];
    let start = Instant::now();
    let mut file = File::open(dir.join("large"))?;
    let mut total = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => total += n,
        }
    }
    let time = start.elapsed();
    if total != load.large_mib * MIB {
        return Err(format!("read {total} bytes of {} MiB", load.large_mib).into());
    }
    Ok(time)
}
