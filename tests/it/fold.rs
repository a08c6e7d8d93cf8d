//! The log of a bucket folded into the tree it describes, and that tree compared with the backing directory, both ways.

use crate::root::TestRoot;
use base64::Engine;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    /// BLAKE3 in hex; none while somebody wrote.
    File {
        size: u64,
        blake3: Option<String>,
        mode: u32,
    },
    Symlink {
        target: String,
    },
    /// None: implied by what is in it.
    Directory {
        mode: Option<u32>,
    },
}

/// A tree by path. Paths are bytes, components joined by `/`.
pub(crate) type Tree = BTreeMap<Vec<u8>, Item>;

/// The tree that a log describes, and what in the log makes no sense.
#[derive(Debug, Default)]
pub(crate) struct Fold {
    pub(crate) tree: Tree,
    /// Lines that cannot follow those before them, such as a rename of nothing. They are applied nevertheless.
    pub(crate) oddities: Vec<String>,
    /// Lines per cause.
    pub(crate) causes: BTreeMap<String, u64>,
}

impl Fold {
    /// Fold lines as `wizefs --json log docs` prints them, newest first.
    pub(crate) fn of(lines: &[Value]) -> Fold {
        let mut fold = Fold::default();
        let mut index = None;
        for line in lines.iter().rev() {
            if line["status"] != "final" || line["index"].as_u64() <= index {
                fold.oddities.push(format!("out of order, or not final: {line}"));
            }
            index = line["index"].as_u64();
            if let Some(cause) = line["cause"].as_str() {
                *fold.causes.entry(cause.to_owned()).or_default() += 1;
            }
            if let Err(why) = fold.apply(line) {
                fold.oddities.push(format!("{why}: {line}"));
            }
        }
        fold
    }

    fn apply(&mut self, line: &Value) -> Result<(), &'static str> {
        let path = bytes(line, "path");
        match line["op"].as_str().unwrap_or_default() {
            "create" => Ok(()),
            "put" | "accept" => self.put(path, line),
            "remove" => match &self.take(&path)[..] {
                [(_, Item::Directory { .. }), ..] => Err("remove of a directory"),
                _ => Ok(()),
            },
            "mkdir" => {
                let mode = line["mode"].as_u64().map(|mode| mode as u32);
                match self.tree.insert(path.clone(), Item::Directory { mode }) {
                    None | Some(Item::Directory { .. }) => self.imply_parents(&path),
                    Some(_) => Err("mkdir over a file"),
                }
            }
            "rmdir" => match &self.take(&path)[..] {
                [(_, Item::Directory { .. })] => Ok(()),
                [(_, Item::Directory { .. }), ..] => Err("rmdir of a directory with entries"),
                _ => Err("rmdir of no directory"),
            },
            "rename" => self.rename(&bytes(line, "from"), &path),
            "exchange" => {
                let from = bytes(line, "from");
                let (a, b) = (self.take(&from), self.take(&path));
                if a.is_empty() || b.is_empty() {
                    return Err("exchange with nothing");
                }
                self.give(&path, a);
                self.give(&from, b);
                Ok(())
            }
            _ => Err("an operation that has no place in a bucket"),
        }
    }

    fn put(&mut self, path: Vec<u8>, line: &Value) -> Result<(), &'static str> {
        let item = match line["kind"].as_str() {
            Some("file") => Item::File {
                size: line["size"].as_u64().ok_or("a file without size")?,
                blake3: line["blake3"].as_str().map(str::to_owned),
                mode: line["mode"].as_u64().ok_or("a file without mode")? as u32,
            },
            Some("symlink") => {
                Item::Symlink { target: line["target"].as_str().ok_or("a link without target")?.to_owned() }
            }
            _ => return Err("a put of no kind"),
        };
        let replaced = self.take(&path);
        self.tree.insert(path.clone(), item);
        match replaced.first() {
            Some((_, Item::Directory { .. })) => Err("put over a directory"),
            _ => self.imply_parents(&path),
        }
    }

    fn rename(&mut self, from: &[u8], to: &[u8]) -> Result<(), &'static str> {
        let moved = self.take(from);
        if moved.is_empty() {
            return Err("rename of nothing");
        }
        let replaced = self.take(to);
        self.give(to, moved);
        match replaced.len() {
            0 | 1 => self.imply_parents(to),
            _ => Err("rename over a directory with entries"),
        }
    }

    fn imply_parents(&mut self, path: &[u8]) -> Result<(), &'static str> {
        for (end, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            let parent = self.tree.entry(path[..end].to_vec()).or_insert(Item::Directory { mode: None });
            if !matches!(parent, Item::Directory { .. }) {
                return Err("something below a file");
            }
        }
        Ok(())
    }

    fn below(&self, path: &[u8]) -> Vec<Vec<u8>> {
        let prefix = [path, b"/"].concat();
        self.tree
            .range(prefix.clone()..)
            .map(|(path, _)| path)
            .take_while(|p| p.starts_with(&prefix))
            .cloned()
            .collect()
    }

    /// Take a path and all below it out; what is left of `path` in the names is their tail.
    fn take(&mut self, path: &[u8]) -> Vec<(Vec<u8>, Item)> {
        let mut paths = self.below(path);
        paths.insert(0, path.to_vec());
        let taken = paths.into_iter().filter_map(|p| Some((p[path.len()..].to_vec(), self.tree.remove(&p)?)));
        taken.collect()
    }

    fn give(&mut self, path: &[u8], items: Vec<(Vec<u8>, Item)>) {
        self.tree.extend(items.into_iter().map(|(tail, item)| ([path, &tail].concat(), item)));
    }
}

/// The bytes of `path` or `from`.
fn bytes(line: &Value, field: &str) -> Vec<u8> {
    match line[format!("{field}_b64")].as_str() {
        Some(encoded) => base64::engine::general_purpose::STANDARD.decode(encoded).unwrap(),
        None => line[field].as_str().unwrap_or_default().as_bytes().to_vec(),
    }
}

/// What is in a directory: every file hashed, special files left out.
pub(crate) fn walk(top: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut folders = vec![top.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(top).unwrap().as_os_str().as_bytes().to_vec();
            let meta = fs::symlink_metadata(&path).unwrap();
            let mode = meta.permissions().mode() & 0o7777;
            if meta.is_dir() {
                tree.insert(name, Item::Directory { mode: Some(mode) });
                folders.push(path);
            } else if meta.is_symlink() {
                let target = fs::read_link(&path).unwrap().to_string_lossy().into_owned();
                tree.insert(name, Item::Symlink { target });
            } else if meta.is_file() {
                let content = fs::read(&path).unwrap();
                let blake3 = Some(blake3::hash(&content).to_hex().to_string());
                tree.insert(name, Item::File { size: content.len() as u64, blake3, mode });
            }
        }
    }
    tree
}

/// How the log differs from what is there, one line per path.
fn differences(recorded: &Tree, found: &Tree) -> Vec<String> {
    let show = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    let mut all = Vec::new();
    for (path, item) in recorded {
        match (item, found.get(path)) {
            (_, None) => all.push(format!("{}: recorded {item:?}, nothing there", show(path))),
            (Item::Directory { mode: None }, Some(Item::Directory { .. })) => {}
            (_, Some(there)) if there == item => {}
            (_, Some(there)) => all.push(format!("{}: recorded {item:?}, there is {there:?}", show(path))),
        }
    }
    let strangers = found.iter().filter(|(path, _)| !recorded.contains_key(*path));
    all.extend(strangers.map(|(path, item)| format!("{}: there is {item:?}, nothing recorded", show(path))));
    all
}

impl TestRoot {
    /// Assert that everything is on the ledger and nothing else: `sync`, `verify` and `integrity` of the bucket `docs` find
    /// nothing to tell.
    #[track_caller]
    pub(crate) fn expect_clean(&self, when: &str) {
        let synced = self.run_long("sync --json").expect(0).json();
        assert_eq!(synced["open_writers"], serde_json::json!([]), "{when}");
        let verified = self.run_long("verify docs --json");
        let lines = verified.json_lines();
        if verified.code != 0 || lines.len() != 1 || lines[0]["pending"] != 0 {
            let there =
                |line: &Value| fs::symlink_metadata(self.path("buckets/docs/data").join(line["path"].as_str()?)).ok();
            let told = lines.iter().map(|line| match there(line) {
                Some(meta) => format!("{line}\n   there: inode {}, links {}, {}", meta.ino(), meta.nlink(), meta.len()),
                None => line.to_string(),
            });
            let told: Vec<_> = told.take(12).collect();
            let node = fs::read_to_string(self.path("node.log")).unwrap_or_default();
            let warned: Vec<_> = node.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).collect();
            let warned = warned[warned.len().saturating_sub(12)..].join("\n");
            panic!("{when}: {}\nnode.log: {warned}\nlog: {}", told.join("\n"), self.keep_log("docs").display());
        }
        let checked = self.run_long("integrity --json").expect(0).json();
        assert_eq!((&checked["ok"], &checked["problems"]), (&true.into(), &serde_json::json!([])), "{when}");
    }

    /// Keep the log of a bucket, oldest first, beyond the test that fails; returns where.
    pub(crate) fn keep_log(&self, bucket: &str) -> PathBuf {
        let lines = self.run_long(&format!("log {bucket} --json")).expect(0).stdout;
        let name = self.outside().file_name().unwrap().to_string_lossy().into_owned();
        let kept = std::env::temp_dir().join(name + ".log");
        fs::write(&kept, lines.lines().rev().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
        kept
    }

    /// Assert that the log, folded, is the tree in the backing of `bucket`, and that the log makes sense line by line.
    #[track_caller]
    pub(crate) fn expect_log_is_backing(&self, bucket: &str) -> Fold {
        let data = self.path(format!("buckets/{bucket}/data"));
        self.expect_log_is(bucket, &data)
    }

    /// As [`TestRoot::expect_log_is_backing`], for an adopted directory.
    #[track_caller]
    pub(crate) fn expect_log_is(&self, bucket: &str, backing: &Path) -> Fold {
        let fold = Fold::of(&self.run_long(&format!("log {bucket} --json")).expect(0).json_lines());
        let wrong = differences(&fold.tree, &walk(backing));
        if !wrong.is_empty() || !fold.oddities.is_empty() {
            let kept = self.keep_log(bucket);
            let (wrong, odd) = (&wrong[..wrong.len().min(10)], &fold.oddities[..fold.oddities.len().min(10)]);
            let (log, backing) = (kept.display(), backing.display());
            panic!("the log ({log}, oldest first) is not what is in {backing}: {wrong:#?}\n{odd:#?}");
        }
        fold
    }
}

/// A comparison that finds nothing must be able to find something.
#[test]
fn the_comparison_finds_what_differs() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a"), "content").unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    let hash = blake3::hash(b"content").to_hex().to_string();
    let put = |path: &str, hash: &str, size: u64| serde_json::json!({"op": "put", "path": path, "kind": "file", "size": size, "mode": 0o644, "blake3": hash});
    let check = |ops: &[Value], wrong: usize, odd: usize| {
        let numbered = ops.iter().enumerate().map(|(index, op)| {
            let mut line = op.clone();
            (line["index"], line["status"]) = (index.into(), "final".into());
            line
        });
        let fold = Fold::of(&numbered.rev().collect::<Vec<_>>());
        assert_eq!((differences(&fold.tree, &walk(dir.path())).len(), fold.oddities.len()), (wrong, odd), "{fold:?}");
    };
    fs::set_permissions(dir.path().join("a"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(dir.path().join("d"), fs::Permissions::from_mode(0o755)).unwrap();
    let mkdir = serde_json::json!({"op": "mkdir", "path": "d", "mode": 0o755});
    let rename = |from: &str, to: &str| serde_json::json!({"op": "rename", "from": from, "path": to});
    let remove = |path: &str| serde_json::json!({"op": "remove", "path": path});
    check(&[put("a", &hash, 7), mkdir.clone()], 0, 0);
    check(&[put("a", &hash, 7)], 1, 0);
    check(&[put("a", &hash, 8), mkdir.clone()], 1, 0);
    check(&[put("a", "00", 7), mkdir.clone()], 1, 0);
    check(&[put("a", &hash, 7), mkdir.clone(), put("d/b", &hash, 7)], 1, 0);
    check(&[put("x/a", &hash, 7), rename("x/a", "a"), rename("x", "d")], 0, 0);
    check(&[put("a", &hash, 7), mkdir.clone(), rename("x", "y")], 0, 1);
    check(&[put("a", &hash, 7), mkdir.clone(), remove("nothing"), remove("d")], 1, 1);
}
