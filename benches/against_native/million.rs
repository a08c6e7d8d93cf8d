//! What a node holds of very many files: after a walk over them, and after the kernel has forgotten them.

use crate::node::Node;
use crate::report::number;
use crate::{Result, machine, programs};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

const FILES_PER_DIRECTORY: u64 = 1_000;
/// How long the kernel may take to tell what it has forgotten.
const PATIENCE: Duration = Duration::from_secs(60);

/// Mount a bucket of `files` empty files that nobody has told the ledger of, walk over it, have the kernel forget it.
pub(crate) fn walk(root: &Path, files: u64) -> Result<()> {
    eprintln!("making {files} files");
    let node = Node::start_over(root, |backing| fill(backing, files))?;
    let at_start = node.memory()?;
    eprintln!("walking over them");
    let start = Instant::now();
    let found = programs::walk(&node.mounted())?;
    let time = start.elapsed();
    if found != files {
        return Err(format!("the walk found {found} of {files} files").into());
    }
    let (after, peak) = (node.memory()?, node.peak_memory()?);
    let forgotten = if machine::drop_caches()? {
        let start = Instant::now();
        while node.requests()?.get("forget").is_none_or(|count| *count < files) && start.elapsed() < PATIENCE {}
        // Memory is given back some seconds later.
        while node.memory()? > at_start + (after - at_start) / 4 && start.elapsed() < PATIENCE {}
        Some(node.memory()?)
    } else {
        None
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "| a walk over {files} files | |\n|---|--:|")?;
    let mb = |bytes: u64| number(Some(bytes as f64 / 1e6));
    writeln!(out, "| time | {} s |", number(Some(time.as_secs_f64())))?;
    writeln!(out, "| memory of the node before (RssAnon) | {} MB |", mb(at_start))?;
    writeln!(out, "| after | {} MB |", mb(after))?;
    writeln!(out, "| at its peak (VmHWM) | {} MB |", mb(peak))?;
    match forgotten {
        Some(forgotten) => writeln!(out, "| when the kernel has forgotten them | {} MB |", mb(forgotten))?,
        None => writeln!(out, "| when the kernel has forgotten them | only root can tell |")?,
    }
    node.stop()
}

fn fill(backing: &Path, files: u64) -> Result<()> {
    for directory in 0..files.div_ceil(FILES_PER_DIRECTORY) {
        let path = backing.join(directory.to_string());
        fs::create_dir(&path)?;
        for number in directory * FILES_PER_DIRECTORY..files.min((directory + 1) * FILES_PER_DIRECTORY) {
            File::create_new(path.join(number.to_string()))?;
        }
    }
    Ok(())
}
