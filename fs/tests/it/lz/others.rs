//! Archives that other programs write, and archives by other programs.

use super::driver::{Driver, Lost};
use super::own::read;
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use wizefs_fs::lz::{Archive, Edit, Edits, NewMember, Source};
use wizefs_fs::{AnyBucket, BucketOptions, BucketPath, Durability, FsError, LzBucket, MemorySink};

fn path(text: &str) -> BucketPath {
    BucketPath::new(text).unwrap()
}

/// Another program puts a file into the archive.
fn put(archive: &Path, at: &str, text: &str) {
    let source = Source::Bytes(text.into());
    let member = NewMember { path: path(at), source, mode: 0o644, mtime_ns: 0, blake3: None };
    Archive::open(archive).unwrap().commit(&Edits(vec![Edit::Put(member)])).unwrap();
}

/// Have Python do something with `z`, a new archive in the place of `archive`.
fn zipped(archive: &Path, script: &str) {
    let script = format!("import sys, zipfile; z = zipfile.ZipFile(sys.argv[1], 'w')\n{script}\nz.close()");
    assert!(Command::new("python3").args(["-c", &script]).arg(archive).status().unwrap().success());
}

fn members(archive: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let archive = Archive::open(archive).unwrap();
    archive
        .members(&mut |info| {
            found.insert(info.path.to_string());
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    found
}

/// The node is killed, others do `act` to its archive, and it is started again.
fn killed(driver: Driver, act: impl FnOnce(&Path)) -> Driver {
    let AnyBucket::Lz(bucket) = &driver.bucket else { panic!("a bucket of another kind") };
    bucket.abandon();
    act(&driver.archive());
    driver.crash("boot", Lost::default())
}

#[test]
fn a_folder_that_nobody_looked_into_is_whole_after_another_program_wrote() {
    let driver = Driver::new();
    driver.mkdir("a").unwrap();
    let names: Vec<String> = (0..20).map(|i| format!("a/f{i}")).collect();
    names.iter().for_each(|name| driver.write(name, name.as_bytes()).unwrap());
    let driver = driver.reopen();
    driver.lookup("a").unwrap();
    let driver = killed(driver, |archive| put(archive, "a/f0", "theirs"));
    assert_eq!(read(&driver, "a/f0").unwrap(), b"theirs");
    assert_eq!(read(&driver, "a/f7").unwrap(), b"a/f7");
    driver.sync();
    let driver = driver.reopen();
    assert!(names.iter().all(|name| driver.lookup(name).is_ok()));
}

#[test]
fn places_that_another_program_uses_again_name_nothing() {
    let with = |names: &str| {
        let script = format!("[z.writestr(d + '/f', d) for d in '{names}']");
        move |archive: &Path| zipped(archive, &script)
    };
    for looked_into in [false, true] {
        let driver = Driver::on(with("abcd"));
        for dir in ["a", "b", "c", "d"] {
            driver.lookup(dir).unwrap();
        }
        if looked_into {
            driver.lookup("a/f").unwrap();
            driver.lookup("b/f").unwrap();
        }
        let driver = killed(driver, with("bcd"));
        let expect = |driver: &Driver| {
            assert_eq!(read(driver, "a/f"), Err(Errno::NOENT));
            for dir in ["b", "c", "d"] {
                assert_eq!(read(driver, &format!("{dir}/f")).unwrap(), dir.as_bytes());
            }
        };
        expect(&driver);
        driver.sync();
        let driver = driver.reopen();
        expect(&driver);
    }
}

#[test]
fn what_others_add_stays_whatever_was_noted() {
    for note in [None, Some("writing\n"), Some("")] {
        let driver = Driver::new();
        driver.write("mine", b"1").unwrap();
        driver.sync();
        let driver = killed(driver, |archive| {
            put(archive, "precious", "2");
            if let Some(text) = note {
                std::fs::write(archive.with_file_name("backing.lzfs/left"), text).unwrap();
            }
        });
        driver.sync();
        assert_eq!(read(&driver, "precious").unwrap(), b"2", "{note:?}");
        let driver = driver.reopen();
        assert_eq!(members(&driver.archive()), ["mine", "precious"].map(String::from).into(), "{note:?}");
    }
}

#[test]
fn an_archive_put_in_the_place_of_ours_is_not_taken_for_it() {
    let driver = Driver::new();
    driver.write("mine", b"1").unwrap();
    driver.sync();
    let theirs = driver.archive().with_file_name("theirs");
    zipped(&theirs, "z.writestr('theirs', '2')");
    std::fs::rename(&theirs, driver.archive()).unwrap();
    assert!(matches!(driver.bucket.close(), Err(FsError::Archive(_))));
    assert_eq!(members(&driver.archive()), ["theirs"].map(String::from).into());
    let driver = driver.crash("boot", Lost::default());
    assert_eq!(read(&driver, "mine").unwrap(), b"1");
    assert_eq!(read(&driver, "theirs").unwrap(), b"2");
    driver.sync();
}

#[test]
fn one_member_that_cannot_be_shown_hides_no_other() {
    let driver = Driver::on(|archive| {
        zipped(
            archive,
            "z.writestr('d/f', 'text')
link = zipfile.ZipInfo('d/link'); link.create_system = 3; link.external_attr = 0o120777 << 16; z.writestr(link, '')
z.writestr('d/vast', 'x'); z.infolist()[-1].file_size = 1 << 62",
        );
    });
    let expect = |driver: &Driver| {
        assert_eq!(read(driver, "d/f").unwrap(), b"text");
        for name in ["d/link", "d/vast"] {
            assert_eq!(read(driver, name), Err(Errno::IO), "{name}");
        }
        assert_eq!(driver.write("d/link", b"x"), Err(Errno::IO));
        assert_eq!(driver.unlink("d/link"), Err(Errno::IO));
    };
    expect(&driver);
    driver.write("d/more", b"1").unwrap();
    driver.bucket.sync().unwrap();
    let driver = driver.crash("boot", Lost::default());
    expect(&driver);
    driver.unlink("d/f").unwrap();
    driver.unlink("d/more").unwrap();
    assert_eq!(driver.rmdir("d"), Err(Errno::NOTEMPTY));
    driver.mv("d", "e").unwrap();
    driver.bucket.sync().unwrap();
    let driver = driver.crash("boot", Lost::default());
    driver.bucket.sync().unwrap();
    assert_eq!(members(&driver.archive()), ["e", "e/link", "e/vast"].map(String::from).into());
}

#[test]
fn a_damaged_byte_of_a_member_that_is_not_packed_is_an_error() {
    let driver = Driver::on(|archive| {
        zipped(archive, "z.writestr('s', 'small'); z.writestr('l', 'large' * 100000); z.writestr('good', 'good')");
        let mut bytes = std::fs::read(archive).unwrap();
        for word in ["small", "large"] {
            let at = (0..bytes.len()).find(|&at| bytes[at..].starts_with(word.as_bytes())).unwrap();
            bytes[at] ^= 1;
        }
        std::fs::write(archive, bytes).unwrap();
    });
    assert_eq!(read(&driver, "s"), Err(Errno::IO));
    assert_eq!(read(&driver, "l").err(), Some(Errno::IO));
    assert_eq!(read(&driver, "good").unwrap(), b"good");
}

/// The archive `a.zip` in `folder`, as the bucket of a node that has never seen it.
fn adopted(folder: &Path) -> Result<(Arc<LzBucket>, Arc<MemorySink>), FsError> {
    let (backing, state) = (folder.join("a.zip"), folder.join("state"));
    let durability = Durability::Relaxed;
    let options = BucketOptions { backing, state, adopted: true, exclusive: false, read_only: false, durability };
    let sink: Arc<MemorySink> = Arc::default();
    Ok((LzBucket::open(options, sink.clone())?.0, sink))
}

#[test]
fn nothing_is_done_in_a_folder_that_others_could_prepare() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    Archive::create(&at("a.zip")).unwrap();
    std::fs::write(at("victim"), "theirs").unwrap();
    std::fs::create_dir_all(at("folder/inside")).unwrap();
    std::fs::create_dir(at("a.zip.lzfs")).unwrap();
    symlink(at("victim"), at("a.zip.lzfs/left.new")).unwrap();
    symlink(at("folder"), at("a.zip.lzfs/tree")).unwrap();
    std::fs::set_permissions(at("a.zip.lzfs"), std::fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(adopted(dir.path()), Err(FsError::State { .. })));
    assert!(matches!(Archive::open(&at("a.zip")), Err(FsError::State { .. })));
    assert_eq!(std::fs::read_to_string(at("victim")).unwrap(), "theirs");
    assert!(at("folder/inside").is_dir());
}

#[test]
fn what_nobody_reported_in_a_stage_comes_into_the_archive() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    Archive::create(&at("a.zip")).unwrap();
    let (bucket, _) = adopted(dir.path()).unwrap();
    bucket.put(&path("known"), None, &mut &b"1"[..]).unwrap();
    bucket.abandon();
    assert!(bucket.close().is_err());
    drop(bucket);
    std::fs::create_dir(at("a.zip.lzfs/tree/d")).unwrap();
    std::fs::write(at("a.zip.lzfs/tree/d/f"), "2").unwrap();
    std::fs::remove_dir_all(at("state")).unwrap();
    let (bucket, sink) = adopted(dir.path()).unwrap();
    bucket.close().unwrap();
    assert!(!at("a.zip.lzfs").exists(), "the archive has everything");
    assert_eq!(members(&at("a.zip")), ["known", "d", "d/f"].map(String::from).into());
    assert!(sink.changes().iter().all(|change| change.op.paths().all(|path| path.to_string() != "d/f")));
}

#[test]
fn what_an_archive_of_others_could_not_take_is_not_recorded() {
    let driver = Driver::new();
    driver.put("mine", b"1").unwrap();
    let before = driver.sink.changes().len();
    zipped(&driver.archive(), "z.writestr('theirs', '2')");
    let AnyBucket::Lz(bucket) = &driver.bucket else { panic!("a bucket of another kind") };
    assert!(bucket.is_outdated() && bucket.trouble().is_some());
    assert!(matches!(bucket.put(&path("more"), None, &mut &b"3"[..]), Err(FsError::Archive(_))));
    assert!(matches!(bucket.remove(&path("mine")), Err(FsError::Archive(_) | FsError::Os { errno: Errno::ROFS, .. })));
    assert_eq!(driver.sink.changes().len(), before);
    assert!(!bucket.problems().unwrap().is_empty());
}
