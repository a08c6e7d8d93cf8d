//! What each operation reports, and in which order.

use super::driver::{Driver, tamper};
use rustix::fs::RenameFlags;
use rustix::io::Errno;
use wizefs_fs::{BucketPath, Content, Op};

/// Run `script`, then compare what was told with `expect` and with what is there.
fn check(script: impl Fn(&Driver), expect: &[&str]) {
    let driver = Driver::new();
    script(&driver);
    assert_eq!(driver.told(), expect);
    driver.assert_told_is_there();
}

#[test]
fn a_put_comes_after_the_last_close() {
    check(|d| d.write("a", b"1").unwrap(), &["put a"]);
    check(
        |d| {
            d.write("a", b"1").unwrap();
            d.sync();
            d.append("a", b"2").unwrap();
        },
        &["put a", "put a"],
    );
}

#[test]
fn many_writes_of_a_file_at_rest_are_one_put() {
    check(
        |d| {
            for i in 0..100 {
                d.write("a", &[i]).unwrap();
            }
        },
        &["put a"],
    );
}

#[test]
fn write_temporary_then_rename_is_one_put_of_the_final_name() {
    check(
        |d| {
            d.write("a", b"old").unwrap();
            d.sync();
            d.write(".a.tmp", b"new").unwrap();
            d.mv(".a.tmp", "a").unwrap();
        },
        &["put a", "put a"],
    );
}

#[test]
fn a_recorded_name_moves_and_its_dirty_content_follows() {
    check(
        |d| {
            d.write("a", b"1").unwrap();
            d.sync();
            d.append("a", b"2").unwrap();
            d.mv("a", "b").unwrap();
        },
        &["put a", "rename a b", "put b"],
    );
}

#[test]
fn renaming_a_directory_is_one_change_whatever_is_in_it() {
    check(
        |d| {
            d.mkdir("d").unwrap();
            d.mkdir("d/e").unwrap();
            d.write("d/e/f", b"1").unwrap();
            d.sync();
            d.write("d/e/g", b"2").unwrap();
            d.mv("d", "x").unwrap();
        },
        &["mkdir d", "mkdir d/e", "put d/e/f", "rename d x", "put x/e/g"],
    );
}

#[test]
fn exchange_is_one_change() {
    check(
        |d| {
            d.write("a", b"1").unwrap();
            d.mkdir("d").unwrap();
            d.sync();
            d.rename("a", "d", RenameFlags::EXCHANGE).unwrap();
            d.write("a/f", b"2").unwrap();
        },
        &["mkdir d", "put a", "exchange a d", "put a/f"],
    );
}

#[test]
fn a_whiteout_is_left_behind_and_is_a_rename() {
    let whiteout = |d: &Driver| d.rename("a", "b", RenameFlags::WHITEOUT);
    if !Driver::LINKS {
        // An archive holds no device.
        return check(
            |d| {
                d.write("a", b"1").unwrap();
                assert_eq!(whiteout(d), Err(Errno::INVAL));
            },
            &["put a"],
        );
    }
    check(
        |d| {
            d.write("a", b"1").unwrap();
            d.sync();
            whiteout(d).unwrap();
            d.sync();
            // Somebody takes its place.
            d.write("c", b"2").unwrap();
            d.mv("c", "a").unwrap();
        },
        &["put a", "rename a b", "put a"],
    );
}

#[test]
fn names_of_one_inode_are_put_together() {
    if !Driver::LINKS {
        return;
    }
    check(
        |d| {
            d.write("a", b"1").unwrap();
            d.link("a", "b").unwrap();
            d.sync();
            d.link("a", "c").unwrap();
            d.append("b", b"2").unwrap();
            d.sync();
            d.unlink("a").unwrap();
            d.append("c", b"3").unwrap();
        },
        &["put a", "put b", "put c", "put a", "put b", "put c", "remove a", "put b", "put c"],
    );
}

#[test]
fn renaming_one_name_of_an_inode_over_another_changes_nothing() {
    if !Driver::LINKS {
        return;
    }
    check(
        |d| {
            d.write("a", b"1").unwrap();
            d.link("a", "b").unwrap();
            d.sync();
            d.mv("a", "b").unwrap();
        },
        &["put a", "put b"],
    );
}

#[test]
fn a_file_gone_before_it_was_hashed_leaves_its_remove() {
    check(
        |d| {
            d.write("a", b"1").unwrap();
            d.unlink("a").unwrap();
        },
        &["remove a"],
    );
}

#[test]
fn new_permission_bits_repeat_the_content() {
    check(
        |d| {
            d.write("a", b"1").unwrap();
            d.mkdir("d").unwrap();
            d.sync();
            d.chmod("a", 0o600).unwrap();
            d.chmod("a", 0o600).unwrap();
            d.chmod("d", 0o700).unwrap();
        },
        &["mkdir d", "put a", "put a", "mkdir d"],
    );
}

#[test]
fn opening_for_writing_without_writing_is_no_change() {
    check(
        |d| {
            d.write("a", b"1").unwrap();
            d.sync();
            let fh = d.open_file("a", libc::O_RDWR).unwrap();
            d.close(fh);
        },
        &["put a"],
    );
}

#[test]
fn truncate_and_symlinks_and_directories() {
    check(
        |d| {
            d.write("a", b"12345").unwrap();
            d.symlink("l", "a").unwrap();
            d.mkdir("d").unwrap();
            d.rmdir("d").unwrap();
            d.sync();
            d.truncate("a", 2).unwrap();
            d.sync();
            d.mv("l", "m").unwrap();
            d.unlink("m").unwrap();
        },
        &["put l", "mkdir d", "rmdir d", "put a", "put a", "rename l m", "remove m"],
    );
}

#[test]
fn a_foreign_change_is_never_signed_as_a_programs() {
    let driver = Driver::new();
    driver.write("a", b"mine").unwrap();
    driver.write("b", b"mine").unwrap();
    driver.sync();
    tamper(&driver.backing("a"), b"theirs");
    driver.append("a", b"more").unwrap();
    driver.append("b", b"more").unwrap();
    tamper(&driver.backing("new"), b"theirs");
    driver.append("new", b"more").unwrap();
    driver.sync();
    let told = driver.told();
    assert!(told.contains(&"foreign put a".to_owned()), "{told:?}");
    assert!(told.contains(&"foreign put new".to_owned()), "{told:?}");
    assert_eq!(told.iter().filter(|t| *t == "put b").count(), 2, "{told:?}");
    driver.bucket.accept(&wizefs_fs::BucketPath::new("a").unwrap()).unwrap();
    assert_eq!(driver.told().last().unwrap(), "put accept a");
    driver.append("a", b"more").unwrap();
    assert_eq!(driver.told().last().unwrap(), "put a");
}

#[test]
fn our_own_metadata_changes_are_not_taken_for_foreign_ones() {
    let driver = Driver::new();
    driver.write("a", b"1").unwrap();
    driver.mkdir("d").unwrap();
    driver.sync();
    if Driver::LINKS {
        driver.link("a", "b").unwrap();
    }
    driver.chmod("a", 0o640).unwrap();
    driver.mv("a", "d/a").unwrap();
    if Driver::LINKS {
        driver.unlink("b").unwrap();
    }
    driver.append("d/a", b"2").unwrap();
    driver.assert_told_is_there();
    assert_eq!(driver.told().last().unwrap(), "put d/a");
}

#[test]
fn put_replaces_atomically_and_remove_removes() {
    let driver = Driver::new();
    let path = wizefs_fs::BucketPath::new("d/e/f").unwrap();
    let stored = driver.bucket.put(&path, Some(0o644), &mut &b"one"[..]).unwrap();
    assert_eq!((stored.size, stored.number), (3, 1));
    driver.bucket.put(&path, Some(0o600), &mut &b"two"[..]).unwrap();
    assert_eq!(std::fs::read(driver.backing("d/e/f")).unwrap(), b"two");
    driver.bucket.remove(&path).unwrap();
    assert_eq!(driver.told(), ["put put d/e/f", "put put d/e/f", "put remove d/e/f"]);
    assert_eq!(std::fs::read_dir(driver.backing("d/e")).unwrap().count(), 0, "nothing temporary stays");
}

#[test]
fn puts_of_one_path_at_once_are_all_told_and_the_last_one_is_there() {
    const PUTS: u64 = 40;
    let driver = Driver::new();
    let path = wizefs_fs::BucketPath::new("d/f").unwrap();
    let mut stored = Vec::new();
    std::thread::scope(|scope| {
        let puts: Vec<_> = (0..PUTS)
            .map(|n| {
                let (bucket, path) = (&driver.bucket, &path);
                scope.spawn(move || (bucket.put(path, None, &mut n.to_string().as_bytes()).unwrap(), n))
            })
            .collect();
        stored.extend(puts.into_iter().map(|put| put.join().unwrap()));
    });
    stored.sort_by_key(|(stored, _)| stored.number);
    assert!(stored.iter().map(|(stored, _)| stored.number).eq(1..=PUTS));
    for ((stored, n), change) in stored.iter().zip(driver.sink.changes()) {
        assert_eq!(stored.hashes.blake3, *blake3::hash(n.to_string().as_bytes()).as_bytes());
        let Op::Put(put) = change.op else { panic!("{change:?}") };
        assert_eq!(put.content, Content::File { size: stored.size, hashes: Some(stored.hashes) });
    }
    assert_eq!(std::fs::read_to_string(driver.backing("d/f")).unwrap(), stored.last().unwrap().1.to_string());
    driver.assert_told_is_there();
}

#[test]
fn what_a_program_still_writes_is_not_accepted() {
    let driver = Driver::new();
    driver.write("a", b"1").unwrap();
    driver.sync();
    tamper(&driver.backing("a"), b"theirs");
    driver.hold("a", b'2').unwrap();
    let path = wizefs_fs::BucketPath::new("a").unwrap();
    assert!(matches!(driver.bucket.accept(&path), Err(wizefs_fs::FsError::Busy(_))));
    driver.let_all_go();
    assert_eq!(driver.told(), ["put a", "foreign put a"]);
    driver.bucket.accept(&path).unwrap();
    assert_eq!(driver.told().last().unwrap(), "put accept a");
}

#[test]
fn a_file_whose_directory_was_moved_behind_the_mount_does_not_keep_the_others_from_the_barrier() {
    let driver = Driver::new();
    driver.mkdir("d").unwrap();
    driver.write("b", b"1").unwrap();
    driver.sync();
    driver.hold("d/a", b'1').unwrap();
    std::fs::rename(driver.backing("d"), driver.backing("e")).unwrap();
    driver.let_all_go();
    driver.append("b", b"2").unwrap();
    assert_eq!(driver.told(), ["mkdir d", "put b", "put b"]);
}

#[test]
fn a_write_goes_where_the_kernel_says_also_into_a_file_opened_to_append() {
    check(
        |d| {
            d.write("a", b"0123456789").unwrap();
            // A page of a mapping.
            let fh = d.open_file("a", libc::O_RDWR | libc::O_APPEND).unwrap();
            d.write_fh(fh, 2, b"xy");
            d.close(fh);
            assert_eq!(std::fs::read(d.backing("a")).unwrap(), b"01xy456789");
        },
        &["put a"],
    );
}

#[test]
fn what_is_removed_while_it_is_open_leaves_nothing() {
    let driver = Driver::new();
    let content = vec![1; 100_000];
    let removed = driver.create("a").unwrap();
    driver.unlink("a").unwrap();
    let replaced = driver.create("b").unwrap();
    driver.write("c", &content).unwrap();
    driver.mv("c", "b").unwrap();
    for fh in [removed, replaced] {
        driver.write_fh(fh, 0, &content);
        driver.close(fh);
    }
    driver.assert_told_is_there();
    assert_eq!(driver.inner_hashes(), 1);
    driver.unlink("b").unwrap();
    driver.assert_told_is_there();
    assert_eq!(driver.inner_hashes(), 0);
}

#[test]
fn what_is_removed_while_it_is_hashed_leaves_nothing() {
    let driver = Driver::new();
    let (path, content) = (BucketPath::new("a").unwrap(), vec![1; 3_000_000]);
    for _ in 0..20 {
        driver.write("a", &content).unwrap();
        std::thread::scope(|scope| {
            let bucket = &driver.bucket;
            scope.spawn(|| bucket.settle(&path).map(drop));
            driver.unlink("a").unwrap();
        });
    }
    driver.assert_told_is_there();
    assert_eq!(driver.inner_hashes(), 0);
}

#[test]
fn what_lies_too_deep_to_be_recorded_is_renamed_and_removed() {
    let driver = Driver::new();
    let mut dirs = Vec::new();
    for _ in 0..64 {
        dirs.push("d".repeat(254));
        driver.mkdir(&dirs.join("/")).unwrap();
    }
    let deep = |letter: &str| format!("{}/{}", dirs.join("/"), letter.repeat(100));
    let made = driver.told().len();
    let written = driver.write(&deep("a"), b"1");
    if !Driver::LINKS {
        // An archive (which has no hard links) does not take what it could not hold.
        assert_eq!(written, Err(Errno::NAMETOOLONG));
        return;
    }
    written.unwrap();
    driver.mv(&deep("a"), &deep("b")).unwrap();
    driver.unlink(&deep("b")).unwrap();
    driver.write(&deep("c"), b"2").unwrap();
    driver.sync();
    // Nobody can say what was done to it where it is not recorded.
    driver.mv(&deep("c"), "out").unwrap();
    driver.sync();
    driver.write("in", b"3").unwrap();
    driver.sync();
    driver.mv("in", &deep("e")).unwrap();
    driver.write("over", b"4").unwrap();
    driver.sync();
    driver.mv("over", &deep("e")).unwrap();
    driver.mkdir("dir").unwrap();
    assert_eq!(driver.mv("dir", &deep("f")), Err(Errno::NAMETOOLONG));
    assert_eq!(driver.rename("out", &deep("e"), RenameFlags::EXCHANGE), Err(Errno::NAMETOOLONG));
    driver.unlink(&deep("e")).unwrap();
    let told = ["foreign put out", "put in", "remove in", "put over", "remove over", "mkdir dir"];
    assert_eq!(driver.told()[made..], told);
    while !dirs.is_empty() {
        driver.rmdir(&dirs.join("/")).unwrap();
        dirs.pop();
    }
    driver.assert_told_is_there();
}
