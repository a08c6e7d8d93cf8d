//! The work that is measured.

use crate::machine::said;
use crate::{Result, files, programs};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How much of it.
pub(crate) struct Load {
    pub(crate) tree_files: usize,
    pub(crate) small_files: u64,
    pub(crate) large_mib: usize,
    /// Reads and writes at random places.
    pub(crate) random: u64,
    /// Rows that sqlite3 inserts, each a transaction.
    pub(crate) rows: u64,
    /// How often what is over soon is repeated.
    pub(crate) passes: u64,
}

impl Load {
    pub(crate) const FULL: Load =
        Load { tree_files: 3_000, small_files: 10_000, large_mib: 512, random: 200_000, rows: 10_000, passes: 20 };
    pub(crate) const QUICK: Load =
        Load { tree_files: 200, small_files: 500, large_mib: 32, random: 5_000, rows: 300, passes: 2 };
}

/// What a workload gets: a directory of its own, and material.
pub(crate) struct Job<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) load: &'a Load,
    pub(crate) material: &'a Material,
}

/// One kind of work.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    /// How fast a bucket must be at least, in parts of the directory's own speed; on a disk.
    pub(crate) floor: Option<f64>,
    /// The kernel's caches are dropped before.
    pub(crate) cold: bool,
    /// Make what the work needs; not measured.
    pub(crate) prepare: fn(&Job<'_>) -> Result<()>,
    /// The work; returns how many steps it had.
    pub(crate) run: fn(&Job<'_>) -> Result<u64>,
}

/// A workload that finds the kernel's caches as they are.
const fn warm(
    name: &'static str,
    floor: f64,
    prepare: fn(&Job<'_>) -> Result<()>,
    run: fn(&Job<'_>) -> Result<u64>,
) -> Workload {
    let floor = if floor > 0.0 { Some(floor) } else { None };
    Workload { name, floor, cold: false, prepare, run }
}

const fn cold(name: &'static str, prepare: fn(&Job<'_>) -> Result<()>, run: fn(&Job<'_>) -> Result<u64>) -> Workload {
    Workload { name, floor: None, cold: true, prepare, run }
}

fn nothing(_: &Job<'_>) -> Result<()> {
    Ok(())
}

pub(crate) const WORKLOADS: [Workload; 19] = [
    warm("write 1 MiB blocks, fsync", 0.90, nothing, files::write_blocks),
    warm("read 1 MiB blocks", 0.90, files::make_large, files::read_blocks),
    cold("read 1 MiB blocks, cold", files::make_large, files::read_blocks),
    warm("read 4 KiB at random", 0.75, files::make_large, files::read_random),
    warm("write 4 KiB at random", 0.75, files::make_large, files::write_random),
    warm("create, write, close files of 4 KiB", 0.35, nothing, files::create_small),
    warm("open, read, close files of 4 KiB", 0.0, files::make_small, files::read_small),
    warm("unlink files of 4 KiB", 0.0, files::make_small, files::unlink_small),
    warm("stat every file", 0.8, programs::make_tree, programs::stat_tree),
    warm("readdir and stat", 0.8, programs::make_tree, programs::walk_tree),
    cold("readdir and stat, cold", programs::make_tree, programs::walk_once),
    warm("cp -r of a source tree", 0.0, nothing, programs::copy_tree),
    warm("tar x of a source tree", 0.0, nothing, programs::untar_tree),
    warm("grep -r in a source tree", 0.0, programs::make_tree, programs::search_tree),
    cold("grep -r in a source tree, cold", programs::make_tree, programs::search_tree),
    warm("rm -r of a source tree", 0.0, programs::make_tree, programs::remove_tree),
    warm("git status in a clone", 0.0, programs::clone_repository, programs::git_status),
    warm("sqlite3, transactions, WAL", 0.0, nothing, programs::transactions_wal),
    warm("sqlite3, transactions, rollback journal", 0.0, nothing, programs::transactions_rollback),
];

/// What is worked on: a source tree, the same packed, the same as a repository.
pub(crate) struct Material {
    pub(crate) tree: PathBuf,
    pub(crate) tar: PathBuf,
    pub(crate) repository: PathBuf,
    /// Paths of the files of the tree, below it.
    pub(crate) paths: Vec<PathBuf>,
}

impl Material {
    /// In `dir`, a copy of some files of `from`, or of what Cargo has unpacked.
    pub(crate) fn make(from: Option<&Path>, dir: &Path, load: &Load) -> Result<Material> {
        let from = match (from, std::env::var_os("CARGO_HOME"), std::env::home_dir()) {
            (Some(from), ..) => from.to_owned(),
            (None, Some(cargo), _) => PathBuf::from(cargo).join("registry/src"),
            (None, None, Some(home)) => home.join(".cargo/registry/src"),
            (None, None, None) => return Err("name a source tree with --tree".into()),
        };
        let (tree, tar, repository) = (dir.join("tree"), dir.join("tree.tar"), dir.join("repository"));
        fs::create_dir(dir)?;
        let mut paths = Vec::new();
        copy_some(&from, &tree, Path::new(""), load.tree_files, &mut paths)?;
        if paths.len() < load.tree_files {
            eprintln!("{} holds {} files only", from.display(), paths.len());
        }
        said(Command::new("tar").arg("-C").arg(&tree).arg("-cf").arg(&tar).arg("."))?;
        programs::make_repository(&tree, &repository)?;
        Ok(Material { tree, tar, repository, paths })
    }

    pub(crate) fn files(&self) -> usize {
        self.paths.len()
    }
}

fn copy_some(from: &Path, to: &Path, below: &Path, most: usize, paths: &mut Vec<PathBuf>) -> Result<()> {
    fs::create_dir(to.join(below))?;
    let entries = fs::read_dir(from).map_err(|e| format!("{}: {e}", from.display()))?;
    let mut entries = entries.collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (kind, below) = (entry.file_type()?, below.join(entry.file_name()));
        if paths.len() >= most {
            break;
        } else if kind.is_dir() {
            copy_some(&entry.path(), to, &below, most, paths)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), to.join(&below))?;
            paths.push(below);
        }
    }
    Ok(())
}
