//! What stands behind a bucket: a directory of its own, or a directory or archive that is adopted where it is.

use super::{mountpoint, trouble};
use crate::error::{Error, Kind, Result};
use crate::name::BucketKind;
use crate::registry::{BucketConf, Registry};
use crate::rest::wire;
use crate::root::Root;
use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use wizefs_fs::lz::{Archive, expect_stage};
use wizefs_fs::{ZipFs, expect_names_told_apart};

/// Longest passphrase, in bytes.
const PASSPHRASE_MAX: usize = 64 * 1024;

/// The backing of a bucket to be made.
///
/// # Errors
/// [`Kind::Usage`] for an archive that is not named, [`Kind::Unsupported`] for one that cannot be written,
/// [`Kind::FileMissing`], [`Kind::NotAFile`] and [`Kind::ConfigChange`] for what cannot be adopted, [`Kind::Archive`] and
/// [`Kind::Passphrase`] for an archive that cannot be read.
pub(super) fn of_new(request: &wire::Create, kind: BucketKind, root: &Root, registry: &Registry) -> Result<PathBuf> {
    let name = &request.origin;
    match (kind, &request.from) {
        (BucketKind::Lz, _) if request.passfile.is_some() => {
            let text = "archives with encrypted members can only be read";
            Err(Error::new(Kind::Unsupported, text).hint(format!("wizefs create {name} --kind zip --from ARCHIVE.zip")))
        }
        (BucketKind::Loopback, _) if request.passfile.is_some() => {
            Err(Error::new(Kind::Usage, "--passfile is for archives with encrypted members"))
        }
        (BucketKind::Lz | BucketKind::Loopback, None) => Ok(registry.own_backing(name, kind)),
        (BucketKind::Lz, Some(from)) => archive(from, kind, None, root, registry),
        (BucketKind::Zip, None) => {
            let text = format!("{name} would be of kind zip, which is made from an archive");
            Err(Error::new(Kind::Usage, text).hint(format!("wizefs create {name} --kind zip --from ARCHIVE.zip")))
        }
        (BucketKind::Zip, Some(from)) => archive(from, kind, request.passfile.as_deref(), root, registry),
        (BucketKind::Loopback, Some(from)) => folder(from, root, registry),
    }
}

/// Make what stands behind a new bucket that adopts nothing.
///
/// # Errors
/// [`Kind::Root`].
pub(super) fn make(kind: BucketKind, backing: &Path) -> Result<()> {
    let cannot = |e: &std::io::Error| Error::io(Kind::Root, format!("cannot make {}", backing.display()), e);
    match kind {
        // The mode is that of the top of its mount.
        BucketKind::Loopback => DirBuilder::new().recursive(true).mode(0o755).create(backing).map_err(|e| cannot(&e)),
        BucketKind::Zip => Ok(()),
        // One that a crash left is as empty as a new one.
        BucketKind::Lz if backing.is_file() => Ok(()),
        BucketKind::Lz => Archive::create(backing).map_err(trouble::fs),
    }
}

/// Whether a bucket's backing is where it was.
///
/// # Errors
/// A configuration of an unknown kind.
pub(super) fn is_there(conf: &BucketConf) -> Result<bool> {
    Ok(match conf.kind()? {
        BucketKind::Loopback => conf.originpath.is_dir(),
        BucketKind::Zip | BucketKind::Lz => conf.originpath.is_file(),
    })
}

/// The passphrase in a file: all of it but a line end.
///
/// # Errors
/// [`Kind::Passphrase`] when it cannot be read, is empty or too long.
pub(super) fn passphrase(path: &Path) -> Result<Vec<u8>> {
    let read = std::fs::read(path);
    let mut bytes =
        read.map_err(|e| Error::io(Kind::Passphrase, format!("cannot read the passphrase in {}", path.display()), &e))?;
    for end in [b'\n', b'\r'] {
        if bytes.last() == Some(&end) {
            bytes.pop();
        }
    }
    if bytes.is_empty() || bytes.len() > PASSPHRASE_MAX {
        let text = format!("{} does not hold a passphrase", path.display());
        return Err(Error::new(Kind::Passphrase, text));
    }
    Ok(bytes)
}

/// An archive that can be read, and changed if it is to be of kind lz.
fn archive(
    from: &Path,
    kind: BucketKind,
    passfile: Option<&Path>,
    root: &Root,
    registry: &Registry,
) -> Result<PathBuf> {
    let real = resolve(from)?;
    if !real.is_file() {
        return Err(
            Error::new(Kind::NotAFile, format!("{} is not a file", from.display())).hint("--from takes an archive")
        );
    }
    apart(&real, root, registry)?;
    let passphrase = passfile.map(passphrase).transpose()?;
    let file =
        File::open(&real).map_err(|e| Error::io(Kind::FileMissing, format!("cannot read {}", real.display()), &e))?;
    let writable = if kind == BucketKind::Lz { Archive::expect_writable(&file) } else { Ok(()) };
    let checked = writable.and_then(|()| ZipFs::open(file, passphrase)?.check_passphrase());
    checked.map_err(|error| {
        let error = trouble::fs(error);
        let hint = match error.kind {
            Kind::Passphrase => "put the passphrase into a file, and name that with --passfile FILE",
            _ => "wizefs adopts zip archives that other programs can open",
        };
        Error::new(error.kind, format!("{}: {}", from.display(), error.message)).hint(hint)
    })?;
    if kind == BucketKind::Lz {
        expect_stage(&real).map_err(|error| trouble::fs(error).hint("with --kind zip it is only read"))?;
    }
    Ok(real)
}

/// The real path of something that is there.
pub(super) fn resolve(path: &Path) -> Result<PathBuf> {
    std::fs::canonicalize(path).map_err(|e| {
        Error::io(Kind::FileMissing, format!("cannot adopt {}", path.display()), &e)
            .hint("name an existing folder or archive")
    })
}

/// A directory that may become a bucket.
fn folder(from: &Path, root: &Root, registry: &Registry) -> Result<PathBuf> {
    let real = resolve(from)?;
    if !real.is_dir() {
        return Err(
            Error::new(Kind::NotAFile, format!("{} is not a folder", from.display())).hint("--from takes a folder")
        );
    }
    apart(&real, root, registry)?;
    expect_names_told_apart(&real).map_err(|error| {
        let hint = "a folder on a disk that does (ext4, xfs, btrfs) can be adopted";
        let error = trouble::fs(error);
        Error::new(error.kind, format!("cannot adopt {}: {}", from.display(), error.message)).hint(hint)
    })?;
    Ok(real)
}

/// That something is outside the root and apart from every other bucket.
fn apart(real: &Path, root: &Root, registry: &Registry) -> Result<()> {
    let refused = |text: String| Err(Error::new(Kind::ConfigChange, text).hint("choose one that no other bucket has"));
    let root_path = resolve(root.path())?;
    if real.starts_with(&root_path) || root_path.starts_with(real) {
        return refused(format!("{} and the root folder {} overlap", real.display(), root_path.display()));
    }
    for name in registry.names() {
        let Some(other) = registry.backing(name) else { continue };
        if real.starts_with(&other) || other.starts_with(real) {
            return refused(format!("{} overlaps with the bucket {name}", real.display()));
        }
    }
    if mountpoint::mounted_at(real)? == mountpoint::Found::Wizefs {
        return refused(format!("{} is a mounted bucket", real.display()));
    }
    Ok(())
}
