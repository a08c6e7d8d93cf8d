//! The machine: FUSE, its helper, the clock.

use super::Finding;
use crate::error::plain;
use crate::node::{ALLOW_OTHERS, may_allow_other};
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;

pub(super) fn check(fix: bool) -> Vec<Finding> {
    let mut found = vec![device(fix)];
    found.extend(helper());
    found.push(clock());
    found
}

fn device(fix: bool) -> Finding {
    const HINT: &str =
        "load it with: modprobe fuse; in a container, start it with: --device /dev/fuse --cap-add SYS_ADMIN";
    let open = || OpenOptions::new().read(true).write(true).open("/dev/fuse");
    let error = match open() {
        Ok(_) => return Finding::ok("fuse", "/dev/fuse can be opened"),
        Err(error) => error,
    };
    let absent = error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV);
    if fix
        && absent
        && Command::new("modprobe").arg("fuse").output().is_ok_and(|done| done.status.success())
        && open().is_ok()
    {
        return Finding::fixed("fuse", "the module fuse is loaded");
    }
    match error.kind() {
        _ if absent => Finding::error("fuse", format!("there is no /dev/fuse: {}", plain(&error)), HINT),
        ErrorKind::PermissionDenied => {
            Finding::error("fuse", "/dev/fuse is closed to you", "ask for it to be opened: sudo chmod 666 /dev/fuse")
        }
        _ => Finding::error("fuse", format!("/dev/fuse cannot be opened: {}", plain(&error)), HINT),
    }
}

/// Who is not root mounts through fusermount3, and needs leave to let others in.
fn helper() -> Vec<Finding> {
    let is_root = rustix::process::geteuid().is_root();
    let install = "sudo apt-get install fuse3";
    let program = match in_path("fusermount3") {
        None if is_root => return vec![Finding::ok("helper", "fusermount3 is not installed; root mounts without it")],
        None => return vec![Finding::error("helper", "fusermount3 is not installed", install)],
        Some(program) => program,
    };
    let version = Command::new(&program).arg("--version").output().ok();
    let version = version.map(|done| String::from_utf8_lossy(&done.stdout).trim().to_owned()).unwrap_or_default();
    let version = version.rsplit(' ').next().unwrap_or_default().to_owned();
    let text = format!("fusermount3 {version}");
    if is_root {
        return vec![Finding::ok("helper", text)];
    }
    let setuid = program.metadata().is_ok_and(|data| data.uid() == 0 && data.permissions().mode() & 0o4000 != 0);
    if !setuid {
        let hint = format!("sudo chown root {0} && sudo chmod 4755 {0}", program.display());
        return vec![Finding::error("helper", format!("{text} may not mount: it is not setuid root"), hint)];
    }
    let others = if may_allow_other() {
        Finding::ok("fuse.conf", "user_allow_other is set: mount --allow-other works")
    } else {
        let text = "user_allow_other is not set: mount --allow-other will be refused";
        Finding::warning("fuse.conf", text, ALLOW_OTHERS)
    };
    vec![Finding::ok("helper", text), others]
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Times on the ledger are this clock's.
fn clock() -> Finding {
    /// The kernel's answer when nobody keeps its clock right.
    const UNSYNCHRONISED: i32 = 5;
    // SAFETY: an all-zero timex is valid, and with modes 0 it is only filled in.
    let state = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        libc::adjtimex(&mut timex)
    };
    if state == UNSYNCHRONISED || state < 0 {
        let text = "nobody keeps the clock right; times on the ledger may drift";
        return Finding::warning("clock", text, "sudo timedatectl set-ntp true");
    }
    Finding::ok("clock", "synchronised")
}
