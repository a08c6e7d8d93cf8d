//! Which buckets exist and where they are mounted: `wizedb.conf`, and `buckets/ORIGIN/wizefs.conf` for each.
//!
//! Both are the predecessor's files (JSON, indented with tabs), written to a temporary name, fsynced and renamed, so that a
//! crash leaves the old or the new text. What cannot be understood is an error with the file's name and is never
//! overwritten.

use crate::config::unreadable;
use crate::error::{Error, Kind, Result};
use crate::name::{BucketKind, BucketName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The format number in `wizefs.conf`.
const CONF_VERSION: u32 = 1;

/// `wizedb.conf`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Db {
    created: BTreeMap<BucketName, Created>,
    mounted: BTreeMap<String, MountEntry>,
}

/// A bucket in the map `created`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Created {
    originpath: PathBuf,
    #[serde(rename = "type")]
    kind: u8,
    /// The key in `mounted`, or empty.
    mountpoint: String,
}

/// A mount in the map `mounted`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct MountEntry {
    mountpointpath: PathBuf,
    origin: BucketName,
}

/// `buckets/ORIGIN/wizefs.conf`: what a bucket is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BucketConf {
    /// Which program made the bucket, for people.
    pub creator: String,
    /// Format of this file.
    pub version: u32,
    /// The bucket's name.
    pub origin: BucketName,
    /// The absolute path of the backing. In the file it is only information where nothing is adopted: the root folder may
    /// have been moved or copied since, and a copy must not touch the files of its original.
    pub originpath: PathBuf,
    /// 1 loopback, 2 zip, 3 lz.
    #[serde(rename = "type")]
    pub kind: u8,
    /// The bucket's id: the transaction that created it, lower-case hex.
    pub id: String,
    /// The backing was there before and belongs to the user.
    #[serde(default)]
    pub adopted: bool,
    /// Not every file found in an adopted directory or archive is on the ledger yet.
    #[serde(default)]
    pub importing: bool,
    /// Where the passphrase of encrypted members is; never the passphrase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passfile: Option<PathBuf>,
}

impl BucketConf {
    /// The description of a new bucket.
    pub fn new(origin: BucketName, kind: BucketKind, backing: PathBuf, adopted: bool) -> BucketConf {
        BucketConf {
            creator: concat!("wizefs ", env!("CARGO_PKG_VERSION")).to_owned(),
            version: CONF_VERSION,
            origin,
            originpath: backing,
            kind: kind.number(),
            id: String::new(),
            adopted,
            importing: adopted,
            passfile: None,
        }
    }

    /// The kind as a word.
    ///
    /// # Errors
    /// [`Kind::ConfigParse`] for a number this version does not know.
    pub fn kind(&self) -> Result<BucketKind> {
        BucketKind::of_number(self.kind).ok_or_else(|| {
            let text = format!("bucket {} has the unknown type {}", self.origin, self.kind);
            Error::new(Kind::ConfigParse, text)
        })
    }
}

/// The buckets of one root. The caller holds the root's lock.
#[derive(Debug)]
pub struct Registry {
    root: PathBuf,
    /// What the file says, or will say with the next change.
    db: Db,
}

impl Registry {
    /// Read `<root>/wizedb.conf`; a root without one has no buckets.
    ///
    /// # Errors
    /// [`Kind::ConfigOpen`] when it cannot be read, [`Kind::ConfigParse`] when it cannot be understood.
    pub fn open(root: &Path) -> Result<Registry> {
        let path = root.join("wizedb.conf");
        let db = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|e| unreadable(&path, &e))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Db::default(),
            Err(e) => return Err(cannot_open(&path, &e)),
        };
        Ok(Registry { root: root.to_owned(), db })
    }

    /// The names of all buckets, sorted.
    pub fn names(&self) -> impl Iterator<Item = &BucketName> {
        self.db.created.keys()
    }

    /// Whether there is a bucket of that name.
    pub fn contains(&self, name: &BucketName) -> bool {
        self.db.created.contains_key(name)
    }

    /// Where everything about the bucket is kept: `buckets/ORIGIN`.
    pub fn state_dir(&self, name: &BucketName) -> PathBuf {
        self.root.join("buckets").join(name.as_str())
    }

    /// Where the files of a bucket are that adopts nothing.
    pub fn own_backing(&self, name: &BucketName, kind: BucketKind) -> PathBuf {
        let suffix = if name.as_str().ends_with(".zip") { "" } else { ".zip" };
        self.state_dir(name).join(match kind {
            BucketKind::Loopback => "data".to_owned(),
            BucketKind::Zip | BucketKind::Lz => format!("{name}{suffix}"),
        })
    }

    /// What the bucket is.
    ///
    /// # Errors
    /// [`Kind::BucketUnknown`]; [`Kind::ConfigOpen`] or [`Kind::ConfigParse`] for its `wizefs.conf`.
    pub fn bucket(&self, name: &BucketName) -> Result<BucketConf> {
        if !self.contains(name) {
            return Err(Error::new(Kind::BucketUnknown, format!("no bucket is called {name}")));
        }
        let path = self.conf_path(name);
        let text = std::fs::read(&path).map_err(|e| cannot_open(&path, &e))?;
        let mut conf: BucketConf = serde_json::from_slice(&text).map_err(|e| unreadable(&path, &e))?;
        if conf.version > CONF_VERSION {
            let problem = format!("version {} is newer than this program", conf.version);
            return Err(unreadable(&path, &problem));
        }
        if !conf.adopted {
            conf.originpath = self.own_backing(name, conf.kind()?);
        }
        Ok(conf)
    }

    /// Whether the bucket has its folder, and no `wizefs.conf` in it.
    pub fn lacks_conf(&self, name: &BucketName) -> bool {
        let conf = std::fs::symlink_metadata(self.conf_path(name));
        self.state_dir(name).is_dir() && conf.is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
    }

    /// Where the bucket's files are, also when its `wizefs.conf` is damaged.
    pub fn backing(&self, name: &BucketName) -> Option<PathBuf> {
        let conf = self.bucket(name).ok().or_else(|| self.known(name, String::new()));
        Some(conf?.originpath)
    }

    /// What `wizedb.conf` says of a bucket with this id. It knows neither passphrases nor whether an import is finished, and
    /// whether the backing is adopted by what is in the bucket's folder.
    pub fn known(&self, name: &BucketName, id: String) -> Option<BucketConf> {
        let created = self.db.created.get(name)?;
        let kind = BucketKind::of_number(created.kind)?;
        let own = self.own_backing(name, kind);
        let adopted = !own.exists() && !created.originpath.starts_with(self.state_dir(name));
        let backing = if adopted { created.originpath.clone() } else { own };
        let conf = BucketConf::new(name.clone(), kind, backing, adopted);
        Some(BucketConf { id, importing: false, ..conf })
    }

    /// Add a bucket, or replace what is written about it.
    ///
    /// # Errors
    /// [`Kind::ConfigSave`]; [`Kind::ConfigChange`] for a path that JSON cannot hold. Nothing changed then.
    pub fn put_bucket(&mut self, conf: &BucketConf) -> Result<()> {
        let backing = text_of(&conf.originpath)?;
        write_json(&self.conf_path(&conf.origin), conf)?;
        let mut db = self.db.clone();
        let mountpoint = db.created.get(&conf.origin).map_or(String::new(), |c| c.mountpoint.clone());
        let created = Created { originpath: backing.into(), kind: conf.kind, mountpoint };
        db.created.insert(conf.origin.clone(), created);
        self.save(db)
    }

    /// Forget a bucket. Its folder is the caller's to remove.
    ///
    /// # Errors
    /// [`Kind::ConfigSave`]; nothing changed then.
    pub fn remove_bucket(&mut self, name: &BucketName) -> Result<()> {
        let mut db = self.db.clone();
        db.created.remove(name);
        db.mounted.remove(&mount_key(name));
        self.save(db)
    }

    /// Where the bucket was mounted last and not unmounted since: by this node, or by one that was killed.
    pub fn mountpoint(&self, name: &BucketName) -> Option<&Path> {
        let entry = self.db.mounted.get(&mount_key(name))?;
        Some(&entry.mountpointpath)
    }

    /// Write down where the bucket is mounted.
    ///
    /// # Errors
    /// [`Kind::ConfigSave`]; [`Kind::ConfigChange`] for a path that JSON cannot hold. Nothing changed then.
    pub fn set_mountpoint(&mut self, name: &BucketName, mountpoint: &Path) -> Result<()> {
        let mut db = self.db.clone();
        let key = mount_key(name);
        let entry = MountEntry { mountpointpath: text_of(mountpoint)?.into(), origin: name.clone() };
        db.mounted.insert(key.clone(), entry);
        if let Some(created) = db.created.get_mut(name) {
            created.mountpoint = key;
        }
        self.save(db)
    }

    /// The bucket is mounted no longer. That is so also when the disk does not take it: the file follows with the next change, and
    /// whoever reads it before asks the kernel whether it is true.
    pub fn clear_mountpoint(&mut self, name: &BucketName) {
        let mut db = self.db.clone();
        db.mounted.remove(&mount_key(name));
        if let Some(created) = db.created.get_mut(name) {
            created.mountpoint = String::new();
        }
        if let Err(error) = self.save(db.clone()) {
            tracing::warn!(bucket = %name, %error, "the note of its mountpoint stays for now");
            self.db = db;
        }
    }

    fn conf_path(&self, name: &BucketName) -> PathBuf {
        self.state_dir(name).join("wizefs.conf")
    }

    fn save(&mut self, db: Db) -> Result<()> {
        if db != self.db {
            write_json(&self.root.join("wizedb.conf"), &db)?;
            self.db = db;
        }
        Ok(())
    }
}

/// The predecessor's key in `mounted`, here without its `.` to `_`, which let two buckets share one key.
fn mount_key(name: &BucketName) -> String {
    format!("_mount{name}")
}

fn cannot_open(path: &Path, error: &std::io::Error) -> Error {
    Error::io(Kind::ConfigOpen, format!("cannot read {}", path.display()), error)
}

/// The path as the files here hold it.
///
/// # Errors
/// [`Kind::ConfigChange`] for one that is not UTF-8.
pub(crate) fn text_of(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| {
        let text = format!("{} is not UTF-8, which wizedb.conf cannot hold", path.display());
        Error::new(Kind::ConfigChange, text).hint("choose a folder whose path is UTF-8")
    })
}

/// Replace `path` by `value` as JSON: temporary file, fsync, rename, fsync of the folder.
fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text = Vec::new();
    let tabs = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let encoded = value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, tabs));
    encoded.map_err(|e| Error::new(Kind::ConfigSave, format!("cannot save {}: {e}", path.display())))?;
    text.push(b'\n');
    replace_file(path, &text).map_err(|e| Error::io(Kind::ConfigSave, format!("cannot save {}", path.display()), &e))
}

fn replace_file(path: &Path, text: &[u8]) -> std::io::Result<()> {
    // A temporary file that a crash left behind is overwritten: only the holder of the root's lock writes here.
    let temporary = path.with_extension("conf.tmp");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o644);
    let mut file = options.open(&temporary)?;
    file.write_all(text)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> BucketName {
        BucketName::new(text).unwrap()
    }

    fn create(registry: &mut Registry, text: &str) {
        let dir = registry.state_dir(&name(text));
        std::fs::create_dir_all(&dir).unwrap();
        let conf = BucketConf::new(name(text), BucketKind::Loopback, dir.join("data"), false);
        registry.put_bucket(&conf).unwrap();
    }

    #[test]
    fn what_is_written_is_read_again() {
        let root = tempfile::tempdir().unwrap();
        let mut registry = Registry::open(root.path()).unwrap();
        create(&mut registry, "docs");
        create(&mut registry, "a.zip");
        registry.set_mountpoint(&name("docs"), Path::new("/mnt/docs")).unwrap();

        let again = Registry::open(root.path()).unwrap();
        assert_eq!(again.names().map(BucketName::as_str).collect::<Vec<_>>(), ["a.zip", "docs"]);
        assert_eq!(again.mountpoint(&name("docs")), Some(Path::new("/mnt/docs")));
        assert_eq!(again.mountpoint(&name("a.zip")), None);
        assert_eq!(again.bucket(&name("docs")).unwrap().kind().unwrap(), BucketKind::Loopback);
        assert_eq!(again.bucket(&name("none")).unwrap_err().kind, Kind::BucketUnknown);
    }

    #[test]
    fn a_copied_root_has_its_own_files() {
        fn check(text: &str, kind: BucketKind, own: &str) {
            let [root, copy] = [(), ()].map(|()| tempfile::tempdir().unwrap());
            let mut registry = Registry::open(root.path()).unwrap();
            let (name, theirs) = (name(text), PathBuf::from("/srv/theirs"));
            let backing = registry.own_backing(&name, kind);
            std::fs::create_dir_all(&backing).unwrap();
            registry.put_bucket(&BucketConf::new(name.clone(), kind, backing, false)).unwrap();
            let adopted = BucketName::new("adopted").unwrap();
            std::fs::create_dir_all(registry.state_dir(&adopted)).unwrap();
            registry.put_bucket(&BucketConf::new(adopted.clone(), kind, theirs.clone(), true)).unwrap();

            let folders = [root.path().join("."), copy.path().into()];
            let copied = std::process::Command::new("cp").arg("-a").args(folders).status();
            assert!(copied.unwrap().success());
            let copy = (copy.path(), Registry::open(copy.path()).unwrap());
            let is_own = |conf: BucketConf| !conf.adopted && conf.originpath == copy.0.join("buckets").join(own);
            let is_adopted = |conf: BucketConf| conf.adopted && conf.originpath == theirs;
            for found in [copy.1.bucket(&name).unwrap(), copy.1.known(&name, String::new()).unwrap()] {
                assert!(is_own(found.clone()), "{found:?}");
            }
            for found in [copy.1.bucket(&adopted).unwrap(), copy.1.known(&adopted, String::new()).unwrap()] {
                assert!(is_adopted(found.clone()), "{found:?}");
            }
            assert_eq!(copy.1.backing(&name), Some(copy.0.join("buckets").join(own)));
        }
        check("docs", BucketKind::Loopback, "docs/data");
        check("docs", BucketKind::Lz, "docs/docs.zip");
        check("docs.zip", BucketKind::Lz, "docs.zip/docs.zip");
    }

    #[test]
    fn the_files_are_the_predecessors() {
        let root = tempfile::tempdir().unwrap();
        let mut registry = Registry::open(root.path()).unwrap();
        create(&mut registry, "docs");
        registry.set_mountpoint(&name("docs"), Path::new("/m")).unwrap();
        let text = std::fs::read_to_string(root.path().join("wizedb.conf")).unwrap();
        assert!(text.starts_with("{\n\t\"created\": {\n\t\t\"docs\": {\n"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["created"]["docs"]["type"], 1);
        assert_eq!(json["created"]["docs"]["mountpoint"], "_mountdocs");
        assert_eq!(json["mounted"]["_mountdocs"]["mountpointpath"], "/m");
        assert_eq!(json["mounted"]["_mountdocs"]["origin"], "docs");
        registry.clear_mountpoint(&name("docs"));
        registry.remove_bucket(&name("docs")).unwrap();
        assert_eq!(Registry::open(root.path()).unwrap().names().count(), 0);
    }

    #[test]
    fn what_cannot_be_understood_is_left_alone() {
        fn check(text: &str) {
            let root = tempfile::tempdir().unwrap();
            let path = root.path().join("wizedb.conf");
            std::fs::write(&path, text).unwrap();
            let error = Registry::open(root.path()).unwrap_err();
            assert_eq!(error.kind, Kind::ConfigParse, "{text:?}");
            assert!(error.message.contains("wizedb.conf"), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        check("");
        check("{\"created\":{}");
        check("{\"created\":{\"../x\":{\"originpath\":\"/\",\"type\":1,\"mountpoint\":\"\"}},\"mounted\":{}}");
        check("[]");
    }

    #[test]
    fn a_failed_save_changes_nothing() {
        let root = tempfile::tempdir().unwrap();
        let mut registry = Registry::open(root.path()).unwrap();
        create(&mut registry, "docs");
        std::fs::create_dir(root.path().join("wizedb.conf.tmp")).unwrap();
        let error = registry.set_mountpoint(&name("docs"), Path::new("/m")).unwrap_err();
        assert_eq!(error.kind, Kind::ConfigSave);
        assert_eq!(registry.mountpoint(&name("docs")), None);
    }

    #[test]
    fn what_is_mounted_no_longer_is_not_whatever_the_disk_takes() {
        let root = tempfile::tempdir().unwrap();
        let mut registry = Registry::open(root.path()).unwrap();
        create(&mut registry, "docs");
        registry.set_mountpoint(&name("docs"), Path::new("/m")).unwrap();
        let temporary = root.path().join("wizedb.conf.tmp");
        std::fs::create_dir(&temporary).unwrap();
        registry.clear_mountpoint(&name("docs"));
        assert_eq!(registry.mountpoint(&name("docs")), None);
        assert!(Registry::open(root.path()).unwrap().mountpoint(&name("docs")).is_some());
        std::fs::remove_dir(&temporary).unwrap();
        create(&mut registry, "more");
        assert_eq!(Registry::open(root.path()).unwrap().mountpoint(&name("docs")), None);
    }
}
