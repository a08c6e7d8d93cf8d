//! The root: its folders, permissions, space, ports, node, ledger and buckets.

use super::{Context, Finding};
use crate::client::{Client, segment};
use crate::config::{Config, Listen};
use crate::error::Result;
use crate::name::pasted;
use crate::registry::Registry;
use crate::rest::wire::{Checked, Status};
use crate::root::{Root, lock_holder};
use crate::terminal::{count, short, size};
use rustix::fs::{Access, access, statvfs};
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::Duration;

/// The ledger keeps this much for removes; below it nothing else is taken.
const RESERVE: u64 = 64 << 20;
/// Less than this may be gone soon.
const LITTLE: u64 = 1 << 30;
/// A node that says nothing for so long stands still.
const PATIENCE: Duration = Duration::from_secs(5);

/// The root folder and the space around it.
pub(super) fn folders(root: &Root) -> Vec<Finding> {
    let path = root.path();
    let shown = path.display();
    let Some(there) = path.ancestors().find(|folder| folder.exists()) else {
        return vec![Finding::error("folders", format!("no part of {shown} is there"), "say where with --root DIR")];
    };
    let writable = access(there, Access::WRITE_OK | Access::EXEC_OK).is_ok();
    let is_dir = there.is_dir();
    let place = match (is_dir, writable, there == path) {
        (false, ..) => {
            Finding::error("folders", format!("{} is no folder", there.display()), "say where with --root DIR")
        }
        (_, false, _) => Finding::error(
            "folders",
            format!("{} cannot be written", there.display()),
            "say where with --root DIR, or mend its permissions",
        ),
        (_, _, true) => owner(path).unwrap_or_else(|| Finding::ok("folders", format!("root {shown}"))),
        (_, _, false) => Finding::ok("folders", format!("root {shown}, made by the first command")),
    };
    vec![place, space(there)]
}

fn owner(path: &Path) -> Option<Finding> {
    let owner = path.metadata().ok()?.uid();
    let me = rustix::process::geteuid().as_raw();
    (owner != me).then(|| {
        let text = format!("{} belongs to user {owner}, and you are {me}", path.display());
        Finding::warning("folders", text, "use wizefs as its owner, or another folder: --root DIR")
    })
}

fn space(place: &Path) -> Finding {
    let stat = match statvfs(place) {
        Ok(stat) => stat,
        Err(errno) => return Finding::warning("disk", format!("free space is not known: {errno}"), "df -h"),
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let text = format!("{} free", size(free));
    if stat.f_files > 0 && stat.f_favail == 0 {
        return Finding::error(
            "disk",
            "no inode is free: no file can be made",
            "remove files; df -i shows where they are",
        );
    }
    match free {
        0..RESERVE => Finding::error("disk", format!("{text}: only removes are taken"), "free some space"),
        RESERVE..LITTLE => Finding::warning("disk", text, "free some space soon"),
        _ => Finding::ok("disk", text),
    }
}

/// Nobody else may read keys.
pub(super) fn permissions(root: &Root, fix: bool) -> Vec<Finding> {
    let folder = root.wallets();
    if !folder.exists() {
        return Vec::new();
    }
    let mut keys = vec![folder.clone()];
    match std::fs::read_dir(&folder) {
        Ok(entries) => keys.extend(entries.flatten().map(|entry| entry.path())),
        Err(e) => {
            let text = format!("{} cannot be read: {}", folder.display(), crate::error::plain(&e));
            return vec![Finding::error("keys", text, "use wizefs as the owner of the folder")];
        }
    }
    let open: Vec<PathBuf> = keys.into_iter().filter(|path| mode(path).is_some_and(|mode| mode & 0o077 != 0)).collect();
    if open.is_empty() {
        return vec![Finding::ok("keys", "only you can read them")];
    }
    open.iter().map(|path| close(path, fix)).collect()
}

fn mode(path: &Path) -> Option<u32> {
    Some(path.symlink_metadata().ok().filter(|data| !data.is_symlink())?.permissions().mode())
}

fn close(path: &Path, fix: bool) -> Finding {
    let wanted = if path.is_dir() { 0o700 } else { 0o600 };
    let hint = format!("chmod {wanted:o} {}", pasted(path));
    if fix {
        return match std::fs::set_permissions(path, std::fs::Permissions::from_mode(wanted)) {
            Ok(()) => Finding::fixed("keys", format!("{} is yours alone", path.display())),
            Err(e) => Finding::error(
                "keys",
                format!("{} cannot be closed: {}", path.display(), crate::error::plain(&e)),
                hint,
            ),
        };
    }
    Finding::error("keys", format!("others can read {}", path.display()), hint)
}

/// What the node says, or the ledger on its own; where there is none yet, nothing is made.
pub(super) fn node_and_ledger(context: &Context, config: &Config, root: &Root, fix: bool) -> Vec<Finding> {
    match Client::running(config) {
        Err(error) => vec![Finding::failed("node", &error)],
        Ok(Some(client)) => served(client, root),
        Ok(None) => {
            let mut found = vec![Finding::ok("node", "not running")];
            found.extend(mounts(root, fix));
            found.extend(ports(config));
            if root.ledger().is_dir() {
                found.extend(unserved(context).unwrap_or_else(|error| vec![Finding::failed("ledger", &error)]));
            } else {
                found.push(Finding::ok("ledger", "none yet, made by the first command"));
            }
            found
        }
    }
}

/// What a running node says, unless it stands still.
fn served(client: Client, root: &Root) -> Vec<Finding> {
    let (told, answer) = channel();
    // A node that never answers must not keep the other findings from being told; the thread ends with this process.
    std::thread::spawn(move || {
        let found = client.get::<Status>("/v1/status").map(|status| {
            let mut found = vec![node(&status)];
            found.extend(ledger(&status));
            found.extend(buckets(&client, &status));
            found
        });
        told.send(found)
    });
    match answer.recv_timeout(PATIENCE) {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => vec![Finding::failed("node", &error)],
        Err(_) => {
            let pid = lock_holder(root).map_or_else(|| "PID".to_owned(), |pid| pid.to_string());
            let text = format!("the node (pid {pid}) has not answered for {} s", PATIENCE.as_secs());
            vec![Finding::error("node", text, format!("end it: kill -KILL {pid}, then: wizefs doctor --fix"))]
        }
    }
}

/// Mounts of this root, whose node does not run: they are dead.
fn mounts(root: &Root, fix: bool) -> Vec<Finding> {
    let all = match crate::node::our_mounts() {
        Ok(all) => all,
        Err(error) => return vec![Finding::failed("mounts", &error)],
    };
    let mut places = vec![root.mnt()];
    if let Ok(registry) = Registry::open(root.path()) {
        places.extend(registry.names().filter_map(|name| registry.mountpoint(name)).map(Path::to_owned));
    }
    places.extend(std::fs::canonicalize(root.mnt()));
    let ours = all.iter().filter(|mount| places.iter().any(|place| mount.starts_with(place)));
    let bad: Vec<Finding> = ours.filter_map(|place| dead(place, fix)).collect();
    if bad.is_empty() { vec![Finding::ok("mounts", "none is dead")] } else { bad }
}

fn dead(place: &Path, fix: bool) -> Option<Finding> {
    if rustix::fs::stat(place).err() != Some(rustix::io::Errno::NOTCONN) {
        return None;
    }
    let shown = place.display();
    if !fix {
        let text = format!("{shown} is dead: its node was killed");
        return Some(Finding::error(
            "mounts",
            text,
            "wizefs doctor --fix detaches it; wizefs mount puts a live one there",
        ));
    }
    Some(match wizefs_fs::clear_stale_mount(place) {
        Ok(_) => Finding::fixed("mounts", format!("the dead mount at {shown} is detached")),
        Err(error) => Finding::error("mounts", error.to_string(), format!("fusermount3 -u -z {}", pasted(place))),
    })
}

fn unserved(context: &Context) -> Result<Vec<Finding>> {
    context.with_node(|client| {
        let status: Status = client.get("/v1/status")?;
        let mut found = ledger(&status);
        found.extend(buckets(client, &status));
        Ok(found)
    })
}

fn node(status: &Status) -> Finding {
    let node = &status.node;
    let pid = node.pid.unwrap_or_default();
    if node.version != env!("CARGO_PKG_VERSION") {
        let text =
            format!("the running node (pid {pid}) is version {}, this is {}", node.version, env!("CARGO_PKG_VERSION"));
        return Finding::warning("node", text, "wizefs stop, and start it anew");
    }
    Finding::ok("node", format!("running, pid {pid}, REST {}", node.rest.as_deref().unwrap_or("off")))
}

fn ledger(status: &Status) -> Vec<Finding> {
    let ledger = &status.ledger;
    let mut found = Vec::new();
    match &status.node.problem {
        Some(problem) if problem.contains("disk") => {
            found.push(Finding::error("ledger", problem.clone(), "free some space"));
        }
        Some(problem) => {
            found.push(Finding::error("ledger", problem.clone(), "wizefs integrity names what is damaged"))
        }
        None => found.push(Finding::ok("ledger", format!("block {}, head {}", ledger.height, short(&ledger.head)))),
    }
    let head = ledger.head_time.as_deref().and_then(|time| time.parse::<jiff::Timestamp>().ok());
    if head.is_some_and(|head| head > jiff::Timestamp::now() + jiff::SignedDuration::from_secs(60)) {
        let text = format!("the newest block is from the future: {}", ledger.head_time.as_deref().unwrap_or_default());
        found.push(Finding::error("clock", text, "set the clock: sudo timedatectl set-ntp true"));
    }
    found
}

fn buckets(client: &Client, status: &Status) -> Vec<Finding> {
    let mut bad = Vec::new();
    for bucket in &status.buckets {
        let uri = format!("/v1/buckets/{}/check", segment(bucket.origin.as_str().as_bytes()));
        match client.get::<Checked>(&uri) {
            Err(error) => bad.push(Finding::failed("buckets", &error)),
            Ok(checked) => bad.extend(
                checked.problems.iter().filter(|problem| Some(*problem) != status.node.problem.as_ref()).map(
                    |problem| {
                        Finding::error(
                            "buckets",
                            format!("{}: {problem}", bucket.origin),
                            format!("wizefs check {}", bucket.origin),
                        )
                    },
                ),
            ),
        }
    }
    if bad.is_empty() {
        vec![Finding::ok("buckets", format!("{}, all in order", count(status.buckets.len() as u64, "bucket")))]
    } else {
        bad
    }
}

/// Whether a node that starts now finds its ports free.
fn ports(config: &Config) -> Vec<Finding> {
    let wanted = [
        ("REST", "--listen", config.listen),
        ("gRPC", "--grpc-listen", config.grpc_listen),
        ("chain routes", "--chain-listen", config.chain_listen),
    ];
    let mut found = Vec::new();
    for (service, flag, listen) in wanted {
        let Listen::On(address) = listen else { continue };
        found.push(match TcpListener::bind(address) {
            Ok(_) => Finding::ok("ports", format!("{address} for {service} is free")),
            Err(e) if e.kind() == ErrorKind::AddrInUse => {
                let hint = format!("ss -ltnp shows who; another one: {flag} 127.0.0.1:0, or none: {flag} off");
                Finding::error("ports", format!("{address} for {service} is taken by another program"), hint)
            }
            Err(e) => {
                let text = format!("{address} for {service} cannot be used: {}", crate::error::plain(&e));
                Finding::error("ports", text, format!("another one: {flag} 127.0.0.1:0, or none: {flag} off"))
            }
        });
    }
    found
}
