//! Which processes keep a mount busy.

use std::path::Path;

/// A process with a file, folder or program in a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// Its command name.
    pub command: String,
}

/// The processes that hold something on the mount with device number `dev`. Looks only at links in procfs, never into
/// the mount.
pub(super) fn holders(mountpoint: &Path, dev: u64) -> Vec<Holder> {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if pid != std::process::id() && holds(&process.path(), mountpoint, dev) {
            let command = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            found.push(Holder { pid, command: command.trim().to_owned() });
        }
    }
    found.sort_by_key(|holder| holder.pid);
    found
}

fn holds(process: &Path, mountpoint: &Path, dev: u64) -> bool {
    let inside = |link: &Path| std::fs::read_link(link).is_ok_and(|to| to.starts_with(mountpoint));
    if inside(&process.join("cwd")) || inside(&process.join("root")) {
        return true;
    }
    if let Ok(fds) = std::fs::read_dir(process.join("fd"))
        && fds.flatten().any(|fd| inside(&fd.path()))
    {
        return true;
    }
    let maps = std::fs::read_to_string(process.join("maps")).unwrap_or_default();
    let (major, minor) = (rustix::fs::major(dev), rustix::fs::minor(dev));
    let device = format!(" {major:02x}:{minor:02x} ");
    maps.lines().any(|line| line.contains(&device))
}

/// The device number of the mount at `path`, read without asking the mount's daemon.
pub(super) fn device_of(path: &Path) -> Option<u64> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let wanted = super::mount::escaped(path);
    let line = table.lines().rfind(|line| line.split(' ').nth(4) == Some(&wanted))?;
    let (major, minor) = line.split(' ').nth(2)?.split_once(':')?;
    Some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
}
