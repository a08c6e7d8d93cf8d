//! Zip buckets through the real program: an archive becomes a folder, and whatever is in it is on the ledger.

use crate::root::TestRoot;
use crate::transcript::shell;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// An archive of `fs/tests/data` as `place`; `make.sh` there says how it was made.
fn give(root: &TestRoot, name: &str, place: &str) -> PathBuf {
    let place = root.outside().join(place);
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("fs/tests/data").join(name), &place).unwrap();
    place
}

fn photos(root: &TestRoot) -> PathBuf {
    give(root, "photos.zip", "photos.zip")
}

/// The content of member `bild-FILE-ä.jpg` of `year DIR`.
fn picture(dir: usize, file: usize) -> String {
    format!("{dir} {file} ").repeat(file * file * 3 + file)
}

/// The tree that `photos.zip` was made of.
fn grow(to: &Path) {
    let set = |place: &Path, mode| fs::set_permissions(place, fs::Permissions::from_mode(mode)).unwrap();
    for dir in 0..5 {
        let year = to.join(format!("year {dir}"));
        fs::create_dir_all(&year).unwrap();
        for file in 0..40 {
            let place = year.join(format!("bild-{file}-ä.jpg"));
            fs::write(&place, picture(dir, file)).unwrap();
            set(&place, if file % 7 == 0 { 0o755 } else { 0o640 });
        }
        set(&year, 0o750);
    }
    symlink("year 4", to.join("latest")).unwrap();
    fs::write(to.join("empty"), "").unwrap();
    set(&to.join("empty"), 0o644);
    set(to, 0o755);
}

#[track_caller]
fn succeeds(program: &str, args: &[&Path]) -> String {
    let ran = Command::new(program).args(args).output().unwrap();
    assert!(ran.status.success(), "{program} {args:?}: {ran:?}");
    String::from_utf8(ran.stdout).unwrap()
}

/// Modes, kinds and names below a folder.
fn modes(place: &Path) -> Vec<String> {
    let listed = Command::new("find").args([".", "-printf", "%P %y %m %l %s\n"]).current_dir(place).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    // Directories have the sizes their file system gives them.
    let mut lines: Vec<String> = listed.lines().filter(|line| !line.starts_with(' ')).map(str::to_owned).collect();
    for line in &mut lines {
        if line.contains(" d ") {
            line.truncate(line.rfind(' ').unwrap());
        }
    }
    lines.sort();
    lines
}

#[test]
fn an_archive_is_a_folder_with_the_same_tree() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let archive = photos(&root);
    let created = root.run("create photos --kind zip --from photos.zip --json").expect(0).json();
    assert_eq!((created["kind"].as_str(), created["imported"]["files"].as_u64()), (Some("zip"), Some(202)));
    assert_eq!(created["unread"].as_array().map(Vec::len), Some(0));
    let mounted = root.run("mount photos --json").expect(0).json();
    assert_eq!(mounted["read_only"], true);

    let unpacked = root.outside().join("unpacked");
    grow(&unpacked);
    let folder = root.mnt("photos", "");
    assert_eq!(modes(&folder), modes(&unpacked));
    succeeds("diff", &[Path::new("-r"), &unpacked, &folder]);
    let copied = root.outside().join("copied");
    succeeds("cp", &[Path::new("-r"), Path::new("-P"), &folder, &copied]);
    succeeds("diff", &[Path::new("-r"), &unpacked, &copied]);
    if let Ok(listed) = Command::new("unzip").arg("-Z1").arg(&archive).env("LC_ALL", "C.UTF-8").output() {
        let listed = String::from_utf8(listed.stdout).unwrap();
        let count = listed.lines().filter(|name| !name.ends_with('/')).count();
        assert_eq!(count, modes(&folder).iter().filter(|line| !line.contains(" d ")).count());
    }
    // In the middle of a member, and past its end.
    let mut file = File::open(folder.join("year 3/bild-38-ä.jpg")).unwrap();
    file.seek(SeekFrom::Start(5 * 4000)).unwrap();
    let mut part = [0; 5];
    file.read_exact(&mut part).unwrap();
    assert_eq!(&part, b"3 38 ");
    file.seek(SeekFrom::End(0)).unwrap();
    assert_eq!(file.read(&mut part).unwrap(), 0);
    drop(file);

    root.run("unmount photos").expect(0);
    root.expect_no_node();
    root.run("verify photos").expect(0);
    root.run("integrity").expect(0);
}

#[test]
fn every_member_is_on_the_ledger() {
    let root = TestRoot::new();
    photos(&root);
    root.run("create photos --kind zip --from photos.zip").expect(0);
    let log = root.run("log photos --json").expect(0).json_lines();
    let of = |op: &str| log.iter().filter(|line| line["op"] == op && line["cause"] == "import").count();
    assert_eq!((of("put"), of("mkdir")), (202, 5));
    assert!(log.iter().all(|line| line["status"] == "final"));

    let listed = root.run("list photos --json").expect(0).json();
    let entries = listed["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 7);
    let latest = entries.iter().find(|entry| entry["path"] == "latest").unwrap();
    assert_eq!((latest["kind"].as_str(), latest["target"].as_str()), (Some("symlink"), Some("year 4")));
    let got = root.run_args(&["get", "year 0/bild-12-ä.jpg", "photos", "out", "--json"]).expect(0).json();
    assert_eq!(got["verified"], true);
    let expect = picture(0, 12);
    assert_eq!(fs::read_to_string(root.outside().join("out")).unwrap(), expect);
    assert_eq!(got["blake3"].as_str(), Some(blake3::hash(expect.as_bytes()).to_string().as_str()));
    let verified = root.run("verify photos --json").expect(0).json_lines();
    assert_eq!(verified.last().unwrap()["ok"], 202);

    for line in ["put out photos", "remove empty photos", "accept photos/empty"] {
        assert_eq!(root.run(&format!("{line} --json")).expect(9).error().1, "unsupported", "{line}");
    }
    root.run("create again --kind zip --from photos.zip").expect(23);
    let deleted = root.run("delete photos --json").expect(0).json();
    assert!(deleted["released"].as_str().unwrap().ends_with("photos.zip"));
    assert!(root.outside().join("photos.zip").exists(), "an adopted archive is the user's");
    root.run("create again --kind zip --from photos.zip").expect(0);
}

#[test]
fn nothing_in_an_archive_can_be_changed() {
    let Some(root) = TestRoot::with_fuse() else { return };
    photos(&root);
    root.run("create photos --kind zip --from photos.zip --mount").expect(0);
    let at = |below: &str| root.mnt("photos", below);
    let file = at("year 0/bild-1-ä.jpg");
    let results = [
        File::create(at("new")).map(drop),
        File::options().write(true).open(&file).map(drop),
        File::options().append(true).open(&file).map(drop),
        fs::write(&file, "other"),
        fs::remove_file(&file),
        fs::create_dir(at("dir")),
        fs::remove_dir(at("year 1")),
        fs::rename(&file, at("moved")),
        fs::hard_link(&file, at("linked")),
        symlink("target", at("link")),
        fs::set_permissions(&file, fs::Permissions::from_mode(0o777)),
        File::open(&file).unwrap().set_modified(std::time::SystemTime::now()),
    ];
    for (number, result) in results.into_iter().enumerate() {
        assert_eq!(result.unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem, "{number}");
    }
    root.run("unmount photos").expect(0);
    root.run("verify photos").expect(0);
}

#[test]
fn a_changed_archive_is_found_and_its_members_are_not_handed_out() {
    let root = TestRoot::new();
    let archive = photos(&root);
    root.run("create photos --kind zip --from photos.zip").expect(0);
    give(&root, "photos-changed.zip", "photos.zip");
    let lines = root.run("verify photos --json").expect(26).json_lines();
    let of = |kind: &str| -> Vec<&str> {
        lines.iter().filter(|line| line["type"] == kind).map(|line| line["path"].as_str().unwrap()).collect()
    };
    assert_eq!((of("damaged"), of("foreign")), (vec!["", "empty"], vec!["added"]));
    assert!(of("missing").contains(&"latest"));
    assert_eq!(lines[0]["fields"][0], "archive");
    root.run("get empty photos out").expect(26);
    root.run("get added photos out").expect(26);
    fs::write(&archive, "no archive any more").unwrap();
    assert_eq!(root.run("verify photos --json").expect(10).error().1, "archive");
    fs::remove_file(&archive).unwrap();
    root.run("list photos").expect(11);
    assert!(root.run("check photos").expect(1).stdout.contains("is not there"));
}

#[test]
fn encrypted_members_are_read_with_a_passphrase_from_a_file() {
    let Some(root) = TestRoot::with_fuse() else { return };
    give(&root, "aes128.zip", "secret.zip");
    fs::write(root.outside().join("right"), "secret\n").unwrap();
    fs::write(root.outside().join("wrong"), "Secret\n").unwrap();

    assert_eq!(root.run("create s --kind zip --from secret.zip --json").expect(12).error().1, "passphrase");
    root.run("create s --kind zip --from secret.zip --passfile wrong").expect(12);
    root.run("create s --kind zip --from secret.zip --passfile nosuch").expect(12);
    root.run("create s --kind zip --from secret.zip --passfile right").expect(0);
    root.run("mount s --passfile wrong").expect(12);
    root.run("mount s --passfile right").expect(0);
    assert_eq!(fs::read_to_string(root.mnt("s", "tree/hello.txt")).unwrap(), "hello\n");
    root.run("unmount s").expect(0);
    assert_eq!(root.run("get tree/hello.txt s -").expect(0).stdout, "hello\n");
    root.run("verify s").expect(0);
    let kept = fs::read_to_string(root.path("buckets/s/wizefs.conf")).unwrap();
    assert!(kept.contains("/right\"") && !kept.contains("\"secret\""), "the path is kept, the passphrase is not");
    fs::remove_file(root.outside().join("right")).unwrap();
    root.run("get tree/hello.txt s -").expect(12);
}

#[test]
fn members_that_have_another_passphrase_keep_nobody_from_the_rest() {
    let Some(root) = TestRoot::with_fuse() else { return };
    fs::write(root.outside().join("right"), "one\n").unwrap();
    shell(root.outside(), "echo a > a; echo b > b; 7z a -bso0 -pone two.zip a; 7z a -bso0 -ptwo two.zip b");
    let created = root.run("create s --kind zip --from two.zip --passfile right").expect(0);
    assert!(created.stderr.contains("b is not recorded"), "{}", created.stderr);
    root.run("mount s").expect(0);
    assert_eq!(fs::read_to_string(root.mnt("s", "a")).unwrap(), "a\n");
    let refused = fs::read(root.mnt("s", "b")).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
    root.run("verify s").expect(26);
}

#[test]
fn what_is_no_archive_becomes_no_bucket() {
    let root = TestRoot::new();
    fs::write(root.outside().join("a.zip"), "PK, but nothing of a zip archive").unwrap();
    fs::create_dir(root.outside().join("folder")).unwrap();
    assert_eq!(root.run("create z --kind zip --from a.zip --json").expect(10).error().1, "archive");
    root.run("create z --kind zip --from folder").expect(11);
    root.run("create z --kind zip --from nosuch.zip").expect(11);
    root.run("create _a.zip").expect(2);
    root.run("create z --kind zip").expect(2);
    root.run("create z --passfile a.zip").expect(2);
    assert!(root.run("list --json").expect(0).json()["buckets"].as_array().unwrap().is_empty());
    root.run("create z").expect(0);
}

#[test]
fn an_archive_that_is_replaced_while_the_node_runs_is_noticed() {
    let Some(root) = TestRoot::with_fuse() else { return };
    photos(&root);
    let replace = |by: &str| fs::rename(give(&root, by, "fresh.zip"), root.outside().join("photos.zip")).unwrap();
    root.run("node --listen off --grpc-listen off").expect(0);
    root.run("create photos --kind zip --from photos.zip").expect(0);
    let has_added = || root.run("list photos --json").expect(0).stdout.contains("\"added\"");
    assert!(!has_added());
    replace("photos-changed.zip");
    let lines = root.run("verify photos --json").expect(26).json_lines();
    assert_eq!(lines[0]["fields"][0], "archive");
    root.run("get empty photos out").expect(26);
    assert!(has_added());
    replace("photos.zip");
    root.run("verify photos").expect(0);
    // Programs that use the mount go on reading what they had.
    root.run("mount photos").expect(0);
    replace("photos-changed.zip");
    assert!(!root.mnt("photos", "added").exists());
    root.run("verify photos").expect(26);
    assert!(root.run("check photos").expect(1).stdout.contains("replaced"));
    root.run("unmount photos").expect(0);
    assert!(has_added());
    root.run("stop").expect(0);
}

#[test]
fn a_member_that_cannot_be_read_is_damaged_and_nothing_to_accept() {
    let root = TestRoot::new();
    let script = "import zipfile; z = zipfile.ZipFile('a.zip', 'w'); z.writestr('good', 'x'); z.writestr('bad', 'CONTENT'); z.close()
b = open('a.zip', 'rb').read(); open('a.zip', 'wb').write(b.replace(b'CONTENT', b'CONTEXT'))";
    crate::transcript::shell(root.outside(), &format!("python3 -c \"{script}\""));
    let created = root.run("create z --kind zip --from a.zip --json").expect(0).json();
    assert_eq!(created["unread"][0]["path"], "bad");
    let told = root.run("verify z").expect(26);
    assert!(told.stdout.contains("1 damaged") && told.stdout.contains("bad"), "{}", told.stdout);
    assert!(!told.stdout.contains("outside") && !told.stderr.contains("accept"), "{}{}", told.stdout, told.stderr);
    let refused = root.run("get bad z -").expect(26).stderr;
    assert!(refused.contains("checksum") && !refused.contains("accept"), "{refused}");
}
