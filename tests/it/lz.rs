//! Archives that are written, through the real program: a folder for programs, and a whole zip for everybody else all the while.

use crate::kills::{mount_again, parameter, seed};
use crate::load::{Load, Random};
use crate::root::TestRoot;
use crate::transcript::shell;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Others that read archives, each told to read all of one. Of those that a machine does not have, nothing is asked.
const READERS: [(&str, &[&str]); 4] = [
    ("unzip", &["-tqq"]),
    ("7z", &["t", "-bso0", "-bsp0"]),
    ("bsdtar", &["-tf"]),
    (
        "python3",
        &["-c", "import sys, zipfile; z = zipfile.ZipFile(sys.argv[1]); bad = z.testzip(); sys.exit(bad or 0)"],
    ),
];

/// Every other program opens the archive, finds nothing wrong and has nothing to remark.
#[track_caller]
pub(crate) fn expect_whole(archive: &Path, when: &str) {
    let is_empty = fs::metadata(archive).unwrap().len() == 22;
    let mut asked = 0;
    for (program, args) in READERS {
        // One without members is a fault to Info-ZIP.
        if is_empty && program == "unzip" {
            continue;
        }
        let Ok(ran) = Command::new(program).args(args).arg(archive).output() else { continue };
        let said = String::from_utf8_lossy(&ran.stderr).into_owned() + &String::from_utf8_lossy(&ran.stdout);
        let remarks = said.to_lowercase().contains("warn") || said.to_lowercase().contains("error");
        assert!(ran.status.success() && !(remarks && program != "bsdtar"), "{when}: {program}: {said}");
        asked += 1;
    }
    assert!(asked >= 2, "{when}: nobody here reads archives");
}

/// The archive unpacked by another program.
pub(crate) fn unpacked(archive: &Path, to: &Path) -> PathBuf {
    let _old = fs::remove_dir_all(to);
    fs::create_dir_all(to).unwrap();
    shell(to, &format!("umask 0; python3 -m zipfile -l {0} > /dev/null; unzip -qq -o {0}", archive.display()));
    to.to_owned()
}

/// An archive of another program, with what most of them have.
fn foreign(root: &TestRoot) -> PathBuf {
    let tree = root.outside().join("source");
    fs::create_dir_all(tree.join("a/deep/er")).unwrap();
    fs::create_dir_all(tree.join("b")).unwrap();
    for file in 0..30 {
        fs::write(tree.join(format!("a/deep/er/{file}.txt")), format!("{file}\n").repeat(file * 300)).unwrap();
        fs::write(tree.join(format!("b/{file}")), vec![file as u8; file * 1000]).unwrap();
    }
    fs::write(tree.join("b/big"), (0..3_000_000_u32).flat_map(|i| (i / 7).to_le_bytes()).collect::<Vec<_>>()).unwrap();
    symlink("a/deep", tree.join("link")).unwrap();
    fs::set_permissions(tree.join("b/1"), fs::Permissions::from_mode(0o751)).unwrap();
    shell(&tree, "zip -qry ../foreign.zip .");
    root.outside().join("foreign.zip")
}

fn archive(root: &TestRoot) -> PathBuf {
    root.path("buckets/docs/docs.zip")
}

#[test]
fn what_is_copied_in_is_in_the_archive() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let source = foreign(&root).with_file_name("source");
    root.run("create docs --kind lz").expect(0);
    expect_whole(&archive(&root), "new");
    root.run("mount docs").expect(0);
    let mount = root.mnt("docs", "");
    shell(&mount, &format!("cp -a {}/. .", source.display()));
    root.run("sync").expect(0);
    expect_whole(&archive(&root), "after sync");
    let out = unpacked(&archive(&root), &root.outside().join("out"));
    shell(&out, &format!("diff -r {} . && test -x b/1", source.display()));
    root.expect_clean("after sync");
    root.run("unmount docs").expect(0);
    root.expect_no_node();
    assert!(!root.path("buckets/docs/docs.zip.lzfs").exists(), "the archive has everything");
    expect_whole(&archive(&root), "unmounted");
    root.expect_clean("unmounted");
    let fold = root.expect_log_is("docs", &out);
    assert_eq!(fold.causes.keys().collect::<Vec<_>>(), ["mount"]);
    root.run("mount docs").expect(0);
    shell(&mount, &format!("diff -r {} .", source.display()));
    root.run("unmount docs").expect(0);
    root.run("delete docs").expect(0);
    assert!(!root.path("buckets/docs").exists());
}

#[test]
fn an_adopted_archive_is_changed_where_it_is_and_given_back() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let archive = foreign(&root);
    let source = root.outside().join("source");
    let created = root.run("create docs --kind lz --from foreign.zip --json").expect(0).json();
    assert_eq!((created["kind"].as_str(), created["imported"]["files"].as_u64()), (Some("lz"), Some(62)));
    let log = root.run("log docs --json").expect(0).json_lines();
    assert_eq!(log.iter().filter(|line| line["op"] == "put" && line["cause"] == "import").count(), 62);
    root.run("mount docs").expect(0);
    let mount = root.mnt("docs", "");
    shell(&mount, &format!("diff -r {} .", source.display()));
    let change = "printf more >> b/3; printf X | dd of=b/big bs=1 seek=5000000 conv=notrunc status=none; : > b/4;
        mv a moved; mv moved/deep/er/7.txt b/seven; rm b/5; mkdir empty; chmod 600 b/6; ln -s b/6 six; rm link;
        mv b/8 b/tmp; mv b/9 b/8; mv b/tmp b/9; truncate -s 100 b/10; touch -d 2001-02-03T04:05:06Z b/11";
    shell(&mount, change);
    shell(&source, change);
    shell(&mount, &format!("diff -r {} .", source.display()));
    root.run("unmount docs").expect(0);
    expect_whole(&archive, "unmounted");
    let out = unpacked(&archive, &root.outside().join("out"));
    shell(&out, &format!("diff -r {} .", source.display()));
    shell(&out, "test $(stat -c %a b/6) = 600; test $(stat -c %Y b/11) = 981173106; test $(readlink six) = b/6");
    root.expect_clean("unmounted");
    root.expect_log_is("docs", &out);
    let log = root.run("log docs --json").expect(0).json_lines();
    assert!(log.iter().all(|line| line["cause"] != "foreign" && line["cause"] != "recovered"));
    assert!(log.iter().any(|line| line["op"] == "rename" && line["path"] == "moved"));
    let before = fs::metadata(&archive).unwrap().len();
    let compacted = root.run("compact docs --json").expect(0).json();
    assert!(compacted["bytes"].as_u64().unwrap() <= before);
    expect_whole(&archive, "compacted");
    root.run("verify docs").expect(0);
    let deleted = root.run("delete docs --json").expect(0).json();
    assert!(deleted["released"].as_str().unwrap().ends_with("foreign.zip"));
    expect_whole(&archive, "given back");
    assert!(!root.outside().join("foreign.zip.lzfs").exists());
}

#[test]
fn files_go_in_and_out_mounted_or_not() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs.zip").expect(0);
    let archive = root.path("buckets/docs.zip/docs.zip");
    fs::write(root.outside().join("one"), "one\n").unwrap();
    let list =
        || shell(root.outside(), &format!("python3 -m zipfile -l {} | awk 'NR>1{{print $1}}'", archive.display()));
    let put_get = |when: &str| {
        root.run("put one docs.zip/dir/").expect(0);
        assert!(list().contains("dir/one"), "{when}");
        assert_eq!(root.run("get dir/one docs.zip -").expect(0).stdout, "one\n");
        assert_eq!(root.run("list docs.zip/dir --json").expect(0).json()["entries"][0]["path"], "dir/one");
        expect_whole(&archive, when);
        root.run("remove dir/one docs.zip").expect(0);
        assert!(!list().contains("dir/one"), "{when}");
        root.run("verify docs.zip").expect(0);
    };
    put_get("unmounted");
    root.run("mount docs.zip").expect(0);
    put_get("mounted");
    root.run("put one docs.zip").expect(0);
    assert_eq!(fs::read_to_string(root.mnt("docs.zip", "one")).unwrap(), "one\n");
    root.run("unmount docs.zip").expect(0);
    assert_eq!(root.run("get one docs.zip -").expect(0).stdout, "one\n");
    root.run("check docs.zip").expect(0);
}

#[test]
fn what_an_archive_cannot_hold_is_refused() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs --kind lz --mount").expect(0);
    let at = |name: &str| root.mnt("docs", name);
    fs::write(at("a"), "a").unwrap();
    assert_eq!(fs::hard_link(at("a"), at("b")).unwrap_err().raw_os_error(), Some(libc::EPERM));
    let made = Command::new("mkfifo").arg(at("pipe")).output().unwrap();
    assert!(!made.status.success());
    let set = rustix::fs::setxattr(at("a"), "user.x", b"1", rustix::fs::XattrFlags::empty());
    assert_eq!(set, Err(rustix::io::Errno::OPNOTSUPP));
    root.run("unmount docs").expect(0);
    root.expect_clean("unmounted");
}

#[test]
fn a_member_is_read_and_written_in_the_middle_while_others_read_it() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let archive = foreign(&root);
    root.run("create docs --kind lz --from foreign.zip --mount").expect(0);
    let place = root.mnt("docs", "b/big");
    let whole = fs::read(root.outside().join("source/b/big")).unwrap();
    let mut reader = File::open(&place).unwrap();
    let mut part = vec![0; 1000];
    reader.seek(SeekFrom::Start(7_000_000)).unwrap();
    reader.read_exact(&mut part).unwrap();
    assert_eq!(part, whole[7_000_000..7_001_000]);
    // The same descriptor sees what is written through another.
    let writer = File::options().read(true).write(true).open(&place).unwrap();
    writer.write_all_at(b"changed", 7_000_100).unwrap();
    reader.read_exact_at(&mut part, 7_000_000).unwrap();
    assert_eq!((&part[..100], &part[100..107]), (&whole[7_000_000..7_000_100], &b"changed"[..]));
    drop((reader, writer));
    // One that is open is read to its end after it was removed, and after the archive has followed.
    let file = File::open(root.mnt("docs", "a/deep/er/29.txt")).unwrap();
    fs::remove_file(root.mnt("docs", "a/deep/er/29.txt")).unwrap();
    root.run("sync").expect(0);
    let mut text = String::new();
    (&file).read_to_string(&mut text).unwrap();
    assert_eq!(text, "29\n".repeat(29 * 300));
    drop(file);
    root.run("unmount docs").expect(0);
    expect_whole(&archive, "unmounted");
    let out = unpacked(&archive, &root.outside().join("out"));
    let now = fs::read(out.join("b/big")).unwrap();
    assert_eq!((now.len(), &now[7_000_100..7_000_107]), (whole.len(), &b"changed"[..]));
    root.expect_clean("unmounted");
}

#[test]
fn programs_work_in_it() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs --kind lz --mount").expect(0);
    let mount = root.mnt("docs", "");
    shell(
        &mount,
        "git init -q repo && cd repo && git config user.email a@b && git config user.name n && git config gc.auto 0
         for i in $(seq 1 60); do echo $i > file$i; done; git add . && git commit -qm one && git mv file1 moved && git commit -qam two
         cd .. && git clone -q repo clone && git -C clone fsck --full --strict && test -z \"$(git -C clone status --porcelain)\"",
    );
    let db =
        "sqlite3 db 'create table if not exists t(a); insert into t values(1),(2); delete from t where a=1; vacuum;'
              test $(sqlite3 db 'pragma integrity_check') = ok";
    shell(&mount, db);
    shell(
        &mount,
        "rsync -a repo/ copy/ && rsync -a --delete clone/ copy/ && tar cf all.tar repo && mkdir x && tar xf all.tar -C x && diff -r repo x/repo",
    );
    root.expect_clean("at work");
    root.run("unmount docs").expect(0);
    expect_whole(&archive(&root), "unmounted");
    root.run("mount docs").expect(0);
    shell(
        &mount,
        "git -C clone fsck --full --strict && diff -r repo x/repo && git -C repo log --oneline | wc -l | grep -qx 2",
    );
    shell(&mount, db);
    shell(&mount, "cd repo && git checkout -q HEAD~1 && test -f file1 && git checkout -q -");
    root.expect_clean("mounted again");
    root.run("unmount docs").expect(0);
    expect_whole(&archive(&root), "unmounted again");
}

#[test]
fn who_else_changes_the_archive_is_found_out() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let archive = foreign(&root);
    root.run("create docs --kind lz --from foreign.zip").expect(0);
    fs::write(root.outside().join("added"), "theirs").unwrap();
    fs::create_dir_all(root.outside().join("b")).unwrap();
    fs::write(root.outside().join("b/2"), "theirs").unwrap();
    shell(root.outside(), "zip -q foreign.zip added b/2");
    let lines = root.run("verify docs --json").expect(26).json_lines();
    let of = |kind: &str| -> Vec<&str> {
        lines.iter().filter(|line| line["type"] == kind).map(|line| line["path"].as_str().unwrap()).collect()
    };
    assert_eq!((of("damaged"), of("foreign"), of("missing")), (vec!["b/2"], vec!["added"], vec![]));
    root.run("accept docs/added").expect(0);
    root.run("accept docs/b/2").expect(0);
    root.run("verify docs").expect(0);
    shell(root.outside(), "zip -qd foreign.zip b/3 'a/deep/er/*'");
    root.run("verify docs").expect(26);
    for path in ["b/3", "a/deep/er"] {
        root.run(&format!("accept docs/{path}")).expect(0);
    }
    root.run("verify docs").expect(0);
    // While it is mounted, it is not ours to overwrite.
    root.run("mount docs").expect(0);
    fs::write(root.mnt("docs", "mine"), "mine").unwrap();
    shell(root.outside(), "zip -q foreign.zip added");
    assert_eq!(root.run("sync --json").expect(10).error().1, "archive");
    assert_eq!(fs::write(root.mnt("docs", "more"), "").unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    assert!(root.run("check docs").expect(1).stdout.contains("changed"));
    root.run("unmount docs").expect(10);
    root.expect_no_node();
    expect_whole(&archive, "as they left it");
    // The next session takes both in.
    root.run("mount docs").expect(0);
    assert_eq!(fs::read_to_string(root.mnt("docs", "mine")).unwrap(), "mine");
    root.run("unmount docs").expect(0);
    expect_whole(&archive, "in the end");
    root.run("verify docs").expect(0);
}

#[test]
fn others_may_change_an_archive_that_is_not_mounted_while_the_node_runs() {
    let root = TestRoot::new();
    fs::write(root.outside().join("a"), "a").unwrap();
    fs::write(root.outside().join("b"), "b").unwrap();
    shell(root.outside(), "zip -q p.zip a");
    root.run("node --listen off --grpc-listen off").expect(0);
    root.run("create p --kind lz --from p.zip").expect(0);
    let listed = || -> Vec<String> {
        let entries = root.run("list p --json").expect(0).json();
        entries["entries"].as_array().unwrap().iter().map(|entry| entry["path"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(listed(), ["a"]);
    shell(root.outside(), "zip -q p.zip b && zip -qd p.zip a");
    let verified = root.run("verify p --json").expect(26).json_lines();
    let kinds: Vec<_> = verified.iter().map(|line| (line["type"].as_str().unwrap(), line["path"].as_str())).collect();
    assert_eq!(kinds[..2], [("missing", Some("a")), ("foreign", Some("b"))]);
    assert_eq!(listed(), ["b"]);
    root.run("put a p/again").expect(0);
    root.run("accept p/b").expect(0);
    assert_eq!(listed(), ["again", "b"]);
    root.run("stop").expect(0);
    expect_whole(&root.outside().join("p.zip"), "in the end");
}

#[test]
fn an_archive_that_is_given_back_has_what_was_synced() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let archive = foreign(&root);
    root.run("create docs --kind lz --from foreign.zip --mount").expect(0);
    let mut file = File::create(root.mnt("docs", "synced")).unwrap();
    file.write_all(b"synced").unwrap();
    file.sync_all().unwrap();
    drop(file);
    root.kill_node();
    root.run("delete docs --unmount").expect(0);
    assert!(!root.outside().join("foreign.zip.lzfs").exists());
    let out = unpacked(&archive, &root.outside().join("out"));
    assert_eq!(fs::read_to_string(out.join("synced")).unwrap(), "synced");
}

#[test]
fn archives_in_another_form_are_whole_and_those_that_cannot_be_written_are_refused() {
    let root = TestRoot::new();
    let make = |name: &str, script: &str| {
        let script = format!("import zipfile; z = zipfile.ZipFile('{name}', 'w'); {script}; z.close()");
        shell(root.outside(), &format!("python3 -W ignore -c \"{script}\""));
    };
    make("twice", "z.writestr('a', '1'); z.writestr('a', '2')");
    make("both", "z.writestr('a', '1'); z.writestr('a/b', '2')");
    make("plain", "z.writestr('a', '1')");
    shell(root.outside(), "(echo stub; cat plain) > prefix; (cat plain; echo more) > suffix");
    for name in ["twice", "both", "prefix", "suffix"] {
        root.run(&format!("create {name} --kind lz --from {name}")).expect(0);
        root.run(&format!("verify {name}")).expect(0);
    }
    let part = fs::read(root.outside().join("plain")).unwrap();
    let end = part.len() - 22;
    fs::write(root.outside().join("part"), [&part[..end + 4], &[1, 0], &part[end + 6..]].concat()).unwrap();
    let overlap = Path::new(env!("CARGO_MANIFEST_DIR")).join("fs/tests/data/overlap.zip");
    fs::copy(overlap, root.outside().join("overlap")).unwrap();
    for name in ["part", "overlap"] {
        assert_eq!(root.run(&format!("create {name} --kind lz --from {name} --json")).expect(10).error().1, "archive");
    }
    assert!(root.run("create part --kind zip --from part").expect(10).stderr.contains("split"));
    assert_eq!(root.run("list --json").expect(0).json()["buckets"].as_array().unwrap().len(), 4);
}

#[test]
fn an_archive_beside_which_nothing_can_be_written_becomes_no_bucket() {
    let root = TestRoot::new();
    let name = format!("{}.zip", "n".repeat(250));
    shell(root.outside(), &format!("echo 1 > f; zip -q a.zip f; cp a.zip {name}"));
    root.run(&format!("create docs --kind lz --from {name}")).expect(11);
    fs::create_dir(root.outside().join("a.zip.lzfs")).unwrap();
    shell(root.outside(), "chmod 777 a.zip.lzfs");
    root.run("create docs --kind lz --from a.zip").expect(1);
    assert!(root.run("log --json").expect(0).json_lines().iter().all(|line| line["op"] != "create"));
    root.run(&format!("create docs --kind zip --from {name}")).expect(0);
    fs::remove_dir(root.outside().join("a.zip.lzfs")).unwrap();
    root.run("create more --kind lz --from a.zip").expect(0);
    assert!(!root.outside().join("a.zip.lzfs").exists());
    root.run("verify").expect(0);
}

#[test]
fn archives_of_one_name_do_not_mix() {
    let root = TestRoot::new();
    for folder in ["x", "y"] {
        fs::create_dir(root.outside().join(folder)).unwrap();
        fs::write(root.outside().join(folder).join("f"), folder).unwrap();
        shell(&root.outside().join(folder), "zip -q a.zip f");
    }
    root.run("create one --kind lz --from x/a.zip").expect(0);
    root.run("create two --kind lz --from y/a.zip").expect(0);
    root.run("put x/f two/from-x").expect(0);
    assert_eq!(root.run("get f one -").expect(0).stdout, "x");
    assert_eq!(root.run("get f two -").expect(0).stdout, "y");
    assert_eq!(root.run("list one --json").expect(0).json()["entries"].as_array().unwrap().len(), 1);
    assert_eq!(root.run("list two --json").expect(0).json()["entries"].as_array().unwrap().len(), 2);
    root.run("create three --kind lz --from x/a.zip").expect(23);
    root.run("create four --kind lz --from x/f").expect(10);
    root.run("verify").expect(0);
    assert_eq!(root.run("compact one --json").expect(0).json()["bucket"], "one");
    root.run("create five").expect(0);
    assert_eq!(root.run("compact five --json").expect(9).error().1, "unsupported");
}

#[test]
fn twenty_kills_under_load_lose_nothing_and_leave_whole_archives() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let mut random = Random::new(seed());
    let kills = parameter("WIZEFS_TEST_KILLS").unwrap_or(20);
    root.run("create docs --kind lz --mount").expect(0);
    let load = Load::start(&root.mnt("docs", ""), 3, random.next());
    let mut durable: Vec<(String, String)> = Vec::new();
    for kill in 0..kills {
        let most = if random.below(4) == 0 { 1500 } else { 200 };
        let done = load.run_for(1 + random.below(most));
        // What was synced must be there whatever comes.
        let name = format!("durable-{kill}");
        let text = format!("{kill} ").repeat(random.below(3000) as usize);
        if let Ok(mut file) = File::create(root.mnt("docs", &name)) {
            file.write_all(text.as_bytes()).unwrap();
            file.sync_all().unwrap();
            durable.push((name, text));
        }
        // In the middle of a commit, or not.
        let syncing = (random.below(2) == 0).then(|| root.start("sync"));
        load.run_for(1 + random.below(20));
        root.kill_node();
        load.pause();
        if let Some(child) = syncing {
            crate::root::finish(child);
        }
        let when = format!("kill {kill} after {done} operations");
        expect_whole(&archive(&root), &when);
        mount_again(&root, &when);
        root.expect_clean(&when);
        expect_whole(&archive(&root), &when);
        for (name, text) in &durable {
            assert_eq!(fs::read_to_string(root.mnt("docs", name)).ok().as_ref(), Some(text), "{when}: {name}");
        }
        let broken = load.broken_promises(&root.mnt("docs", ""));
        assert!(broken.is_empty(), "{when}: {broken:#?}");
        eprintln!("{when}: whole and clean");
    }
    load.end();
    root.run_long("unmount docs").expect(0);
    root.expect_no_node();
    expect_whole(&archive(&root), "in the end");
    let out = unpacked(&archive(&root), &root.outside().join("out"));
    let fold = root.expect_log_is("docs", &out);
    let strange: Vec<_> =
        fold.causes.iter().filter(|(cause, _)| !matches!(cause.as_str(), "mount" | "recovered")).collect();
    assert!(strange.is_empty(), "{strange:?}");
    let broken = load.broken_promises(&out);
    assert!(broken.is_empty(), "{broken:#?}");
    root.expect_clean("in the end");
}
