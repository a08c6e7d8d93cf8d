//! The machine that measures: what it is, and its caches.

use crate::Result;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

/// One line: processor, cores, memory, kernel, file system.
pub(crate) fn describe(dir: &Path) -> Result<String> {
    let field = |file: &str, name: &str| -> Result<String> {
        let text = fs::read_to_string(file)?;
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        Ok(line.split_once(':').unwrap_or_default().1.trim().to_owned())
    };
    let cores = std::thread::available_parallelism()?;
    let processor = field("/proc/cpuinfo", "model name")?;
    let memory: u64 = field("/proc/meminfo", "MemTotal")?.trim_end_matches(" kB").parse()?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let file_system = said(Command::new("findmnt").args(["-n", "-o", "FSTYPE", "-T"]).arg(dir))?;
    // One line for each mount that lies over another.
    let file_system = file_system.lines().next_back().unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg")?;
    Ok(format!(
        "{cores} cores of {processor}, {} GiB, Linux {}, {file_system}; load average at the end {}",
        memory >> 20,
        kernel.trim(),
        load.split(' ').next().unwrap_or_default()
    ))
}

/// What a command prints.
pub(crate) fn said(command: &mut Command) -> Result<String> {
    let output = command.output().map_err(|e| format!("{}: {e}", command.get_program().display()))?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()).into());
    }
    Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
}

/// Have nothing of any file in memory. `false` where only root may.
pub(crate) fn drop_caches() -> Result<bool> {
    rustix::fs::sync();
    match fs::write("/proc/sys/vm/drop_caches", "3") {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::PermissionDenied => Ok(false),
        Err(e) => Err(e.into()),
    }
}
