//! Work on a source tree, by programs that everybody has.

use crate::Result;
use crate::machine::said;
use crate::work::Job;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Directories that a walk and a copy stand in.
fn tree(job: &Job<'_>) -> PathBuf {
    job.dir.join("tree")
}

pub(crate) fn make_tree(job: &Job<'_>) -> Result<()> {
    copy_tree(job)?;
    walk_once(job).map(drop)
}

pub(crate) fn copy_tree(job: &Job<'_>) -> Result<u64> {
    said(Command::new("cp").arg("-r").arg(&job.material.tree).arg(tree(job)))?;
    Ok(job.material.files() as u64)
}

pub(crate) fn untar_tree(job: &Job<'_>) -> Result<u64> {
    fs::create_dir(tree(job))?;
    said(Command::new("tar").arg("-xf").arg(&job.material.tar).arg("-C").arg(tree(job)))?;
    Ok(job.material.files() as u64)
}

pub(crate) fn remove_tree(job: &Job<'_>) -> Result<u64> {
    said(Command::new("rm").arg("-r").arg(tree(job)))?;
    Ok(job.material.files() as u64)
}

/// A word that stands in no file: all of them are read to the end.
pub(crate) fn search_tree(job: &Job<'_>) -> Result<u64> {
    let word = concat!("no-such-", "word");
    let status = Command::new("grep").arg("-r").arg(word).arg(tree(job)).stdout(Stdio::null()).status()?;
    // 1: not found.
    if status.code() != Some(1) {
        return Err(format!("grep -r: {status}").into());
    }
    Ok(job.material.files() as u64)
}

/// `stat` of every file by its path, again and again.
pub(crate) fn stat_tree(job: &Job<'_>) -> Result<u64> {
    let root = tree(job);
    let paths: Vec<PathBuf> = job.material.paths.iter().map(|path| root.join(path)).collect();
    for _ in 0..job.load.passes {
        for path in &paths {
            fs::symlink_metadata(path)?;
        }
    }
    Ok(job.load.passes * paths.len() as u64)
}

pub(crate) fn walk_tree(job: &Job<'_>) -> Result<u64> {
    (0..job.load.passes).map(|_| walk_once(job)).sum()
}

pub(crate) fn walk_once(job: &Job<'_>) -> Result<u64> {
    let found = walk(&tree(job))?;
    if found != job.material.files() as u64 {
        return Err(format!("the walk found {found} of {} files", job.material.files()).into());
    }
    Ok(found)
}

/// `lstat` of everything below `dir`, as `find -printf %s` does; returns how many are no directories.
pub(crate) fn walk(dir: &Path) -> Result<u64> {
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

/// git, as a user without settings.
fn git(dir: &Path) -> Command {
    let mut git = Command::new("git");
    git.current_dir(dir).env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    git.args(["-c", "safe.directory=*", "-c", "user.name=bench", "-c", "user.email=bench@invalid", "-c", "gc.auto=0"]);
    git
}

/// The files of `tree` as the one commit of a repository.
pub(crate) fn make_repository(tree: &Path, repository: &Path) -> Result<()> {
    said(Command::new("cp").arg("-r").arg(tree).arg(repository))?;
    said(git(repository).args(["init", "--quiet"]))?;
    said(git(repository).args(["add", "--force", "."]))?;
    said(git(repository).args(["commit", "--quiet", "-m", "all"])).map(drop)
}

pub(crate) fn clone_repository(job: &Job<'_>) -> Result<()> {
    said(git(job.dir).args(["clone", "--quiet", "--no-local"]).arg(&job.material.repository).arg("clone"))?;
    git_status(job).map(drop)
}

pub(crate) fn git_status(job: &Job<'_>) -> Result<u64> {
    for _ in 0..job.load.passes.div_ceil(4) {
        let changed = said(git(&job.dir.join("clone")).args(["status", "--porcelain"]))?;
        if !changed.is_empty() {
            return Err(format!("a fresh clone has changes: {changed}").into());
        }
    }
    Ok(job.load.passes.div_ceil(4) * job.material.files() as u64)
}

pub(crate) fn transactions_wal(job: &Job<'_>) -> Result<u64> {
    transactions(job, "PRAGMA journal_mode=wal; PRAGMA synchronous=normal;", job.load.rows)
}

/// Each of these waits for the disk several times, so they are few.
pub(crate) fn transactions_rollback(job: &Job<'_>) -> Result<u64> {
    transactions(job, "PRAGMA journal_mode=delete; PRAGMA synchronous=full;", job.load.rows / 50)
}

fn transactions(job: &Job<'_>, settings: &str, rows: u64) -> Result<u64> {
    let mut script = format!("{settings}\nCREATE TABLE t (i INTEGER PRIMARY KEY, v TEXT);\n");
    for row in 0..rows {
        script.push_str(&format!("INSERT INTO t VALUES ({row}, 'the value of row {row}, of some length');\n"));
    }
    script.push_str("SELECT count(*) FROM t;\n");
    let mut sqlite = Command::new("sqlite3")
        .arg(job.dir.join("db"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("sqlite3: {e}"))?;
    if let Some(mut input) = sqlite.stdin.take() {
        input.write_all(script.as_bytes())?;
    }
    let output = String::from_utf8(sqlite.wait_with_output()?.stdout)?;
    if output.lines().last() != Some(rows.to_string().as_str()) {
        return Err(format!("sqlite3 inserted {rows} rows and says {output}").into());
    }
    Ok(rows)
}
