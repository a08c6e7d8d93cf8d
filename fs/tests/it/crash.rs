//! What is recovered after the node was killed, and after the machine went down.

use super::driver::{Done, Driver, Lost, me, tamper};
use rustix::fs::RenameFlags;
use rustix::io::Errno;
use std::os::unix::fs::MetadataExt;
use wizefs_fs::Durability;
use wizefs_fs::vfs::{SetAttr, SetTime};

#[test]
fn a_killed_node_loses_nothing() {
    let driver = Driver::new();
    driver.mkdir("d").unwrap();
    driver.write("d/settled", b"1").unwrap();
    driver.sync();
    driver.write("new", b"2").unwrap();
    driver.append("d/settled", b"3").unwrap();
    driver.mkdir("d/e").unwrap();
    driver.write("d/e/deep", b"4").unwrap();
    driver.mv("d", "moved").unwrap();
    driver.symlink("l", "new").unwrap();
    let driver = driver.crash("boot", Lost::default());
    driver.assert_told_is_there();
}

#[test]
fn what_has_come_too_deep_to_be_recorded_keeps_nobody_from_the_rest() {
    let driver = Driver::new();
    let (changed, removed) = ("c".repeat(250), "r".repeat(250));
    driver.mkdir("a").unwrap();
    driver.write(&format!("a/{changed}"), b"1").unwrap();
    driver.write(&format!("a/{removed}"), b"1").unwrap();
    let mut dirs = Vec::new();
    for _ in 0..64 {
        dirs.push("d".repeat(254));
        driver.mkdir(&dirs.join("/")).unwrap();
    }
    driver.sync();
    dirs.push("a".to_owned());
    let top = dirs.join("/");
    let moved = driver.mv("a", &top);
    if !Driver::LINKS {
        // An archive (which has no hard links) does not take what it could not hold.
        assert_eq!(moved, Err(Errno::NAMETOOLONG));
        return;
    }
    moved.unwrap();
    driver.append(&format!("{top}/{changed}"), b"2").unwrap();
    driver.unlink(&format!("{top}/{removed}")).unwrap();
    driver.write(&format!("{top}/{}", "n".repeat(250)), b"3").unwrap();
    driver.write("new", b"4").unwrap();
    let driver = driver.crash("boot", Lost::default());
    assert_eq!(driver.told().last().unwrap(), "recovered put new");
}

#[test]
fn what_the_sink_had_not_taken_is_told_again() {
    let driver = Driver::new();
    driver.mkdir("d").unwrap();
    driver.write("d/a", b"1").unwrap();
    driver.write("d/b", b"1").unwrap();
    driver.write("c", b"1").unwrap();
    driver.sync();
    driver.sink.set_problem(Some(wizefs_fs::SinkError::NoSpace("stop the clock".into())));
    // Only what frees space is admitted now.
    driver.unlink("d/a").unwrap();
    driver.unlink("c").unwrap();
    let before = driver.sink.changes().len();
    let driver = driver.crash("boot", Lost::default());
    driver.assert_told_is_there();
    let told = driver.told();
    assert_eq!(&told[before..], ["recovered remove c", "recovered remove d/a"]);
}

#[test]
fn a_clean_file_edited_while_the_node_was_dead_stays_foreign() {
    let driver = Driver::new();
    driver.write("a", b"1").unwrap();
    driver.sync();
    driver.bucket.persist().unwrap();
    driver.bucket.retire(u64::MAX);
    driver.write("busy", b"2").unwrap();
    tamper(&driver.backing("a"), b"theirs");
    tamper(&driver.backing("planted"), b"theirs");
    let driver = driver.crash("boot", Lost::default());
    let told = driver.told();
    assert_eq!(told, ["put a", "recovered put busy"]);
}

#[test]
fn a_change_that_reports_nothing_answers_for_nothing_that_comes_later() {
    let driver = Driver::new();
    for name in ["a", "b", "c"] {
        driver.write(name, b"1").unwrap();
        driver.sync();
    }
    driver.seal();
    // Owner, times, and an `open` to append that wrote nothing: no change is reported, and none follows.
    driver.set("a", SetAttr { uid: Some(me().uid), ..SetAttr::default() }).unwrap();
    driver.set("b", SetAttr { mtime: Some(SetTime::At(7)), ..SetAttr::default() }).unwrap();
    let fh = driver.open_file("c", libc::O_WRONLY | libc::O_APPEND).unwrap();
    driver.close(fh);
    driver.sync();
    ["a", "b", "c"].iter().for_each(|name| tamper(&driver.backing(name), b"theirs"));
    let driver = driver.crash("boot", Lost::default());
    assert_eq!(driver.told(), ["put a", "put b", "put c"]);
}

#[test]
fn a_change_that_reports_nothing_is_known_also_when_it_did_not_arrive() {
    let driver = Driver::new();
    driver.write("a", b"1").unwrap();
    driver.sync();
    driver.seal();
    driver.hold_back();
    driver.set("a", SetAttr { mtime: Some(SetTime::At(7)), ..SetAttr::default() }).unwrap();
    let driver = driver.crash("boot", Lost::default());
    driver.sync();
    driver.append("a", b"2").unwrap();
    assert_eq!(driver.told(), ["put a", "put a"]);
}

#[test]
fn after_a_power_cut_the_tree_is_compared_even_when_the_intents_are_lost() {
    let driver = Driver::new();
    driver.write("a", b"1").unwrap();
    driver.mkdir("d").unwrap();
    driver.write("d/x", b"1").unwrap();
    driver.sync();
    driver.write("b", b"2").unwrap();
    driver.append("a", b"2").unwrap();
    driver.mv("d/x", "d/y").unwrap();
    let driver = driver.crash("another boot", Lost { intents: true, unsealed: true });
    driver.assert_told_is_there();
}

#[test]
fn a_put_that_did_not_come_to_its_end_leaves_no_temporary_file() {
    let driver = Driver::new();
    let path = wizefs_fs::BucketPath::new("a").unwrap();
    struct Dies;
    impl std::io::Read for Dies {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("the client went away"))
        }
    }
    driver.bucket.put(&path, Some(0o644), &mut Dies).unwrap_err();
    assert_eq!(std::fs::read_dir(driver.backing("")).unwrap().count(), 0);
    let deep = wizefs_fs::BucketPath::new("a/b/c").unwrap();
    driver.bucket.put(&deep, Some(0o644), &mut Dies).unwrap_err();
    assert_eq!(std::fs::read_dir(driver.backing("")).unwrap().count(), 0, "nor the folders made for it");
    assert!(driver.told().is_empty());
}

#[test]
fn names_that_went_in_circles_are_told_so_that_they_end_right() {
    let driver = Driver::new();
    for name in ["a", "b", "c"] {
        driver.mkdir(name).unwrap();
        driver.write(&format!("{name}/in-{name}"), name.as_bytes()).unwrap();
    }
    driver.sync();
    driver.sink.hold_back(true);
    for (from, to) in [("a", "t"), ("b", "a"), ("c", "b"), ("t", "c")] {
        driver.mv(from, to).unwrap();
    }
    let driver = driver.crash("boot", Lost::default());
    driver.assert_told_is_there();
}

#[test]
fn a_directory_takes_the_name_of_one_that_was_left_and_removed() {
    let driver = Driver::new();
    for dir in ["a", "a/b", "x"] {
        driver.mkdir(dir).unwrap();
    }
    driver.write("a/b/z", b"1").unwrap();
    driver.sync();
    driver.sink.hold_back(true);
    driver.mv("a/b", "t").unwrap();
    driver.rmdir("a").unwrap();
    driver.mv("x", "a").unwrap();
    driver.mv("t", "a/b").unwrap();
    driver.write("a/b/n", b"2").unwrap();
    driver.crash("boot", Lost::default()).assert_told_is_there();
}

#[test]
fn a_directory_that_left_a_directory_that_moved_is_followed() {
    let driver = Driver::new();
    for dir in ["p", "p/x"] {
        driver.mkdir(dir).unwrap();
    }
    driver.write("p/x/f", b"1").unwrap();
    driver.sync();
    driver.sink.hold_back(true);
    driver.mv("p/x", "d").unwrap();
    driver.mv("p", "a").unwrap();
    driver.mkdir("a/x").unwrap();
    let driver = driver.crash("boot", Lost::default());
    driver.assert_told_is_there();
    let told = driver.told();
    assert!(told.iter().any(|t| t.starts_with("recovered rename") && t.ends_with(" d")), "{told:?}");
}

#[test]
fn a_number_used_again_is_another_inode() {
    let driver = Driver::new();
    for dir in ["a", "a/s"] {
        driver.mkdir(dir).unwrap();
    }
    driver.write("a/f", b"1").unwrap();
    driver.write("a/s/g", b"2").unwrap();
    driver.sync();
    driver.sink.hold_back(true);
    for file in ["a/f", "a/s/g"] {
        driver.unlink(file).unwrap();
    }
    driver.rmdir("a/s").unwrap();
    driver.rmdir("a").unwrap();
    driver.mkdir("a").unwrap();
    for n in 0..8 {
        driver.write(&format!("p{n}"), b"3").unwrap();
    }
    driver.crash("boot", Lost::default()).assert_told_is_there();
}

#[test]
fn content_still_being_looked_at_survives_a_second_kill() {
    let driver = Driver::new();
    let large = vec![7; 96 << 20];
    driver.write("a", b"1").unwrap();
    driver.sync();
    driver.write("a", &large).unwrap();
    driver.write("b", &large).unwrap();
    let driver = driver.crash("boot", Lost::default());
    // All that was told so far is sealed; the hashes are not there yet.
    driver.bucket.retire(u64::MAX);
    let driver = driver.crash("boot", Lost::default());
    driver.assert_told_is_there();
}

#[test]
fn each_side_of_an_exchange_is_claimed_for_itself() {
    let driver = Driver::new();
    driver.write("a", b"1").unwrap();
    driver.write("b", b"2").unwrap();
    driver.rename("a", "b", RenameFlags::EXCHANGE).unwrap();
    // What is reported and sealed of one side ends its intents, not those of the other.
    driver.settle("b").unwrap();
    driver.write("later", b"3").unwrap();
    driver.settle("later").unwrap();
    driver.seal();
    driver.crash("boot", Lost::default()).assert_told_is_there();
}

#[test]
fn of_two_names_of_an_inode_one_came_from_the_old_name() {
    if !Driver::LINKS {
        return;
    }
    let driver = Driver::new();
    driver.write("a", b"1").unwrap();
    driver.mkdir("b").unwrap();
    driver.sync();
    driver.link("a", "c").unwrap();
    driver.rename("b", "a", RenameFlags::EXCHANGE).unwrap();
    driver.crash("boot", Lost::default()).assert_told_is_there();
}

#[test]
fn a_symbolic_link_found_under_another_name_keeps_its_first() {
    if !Driver::LINKS {
        return;
    }
    let mut driver = Driver::new();
    driver.symlink("l", "target").unwrap();
    driver.sync();
    let steps: [fn(&Driver) -> Done; 3] = [|d| d.link("l", "m"), |d| d.unlink("m"), |d| d.link("l", "n")];
    for step in steps {
        step(&driver).unwrap();
        driver = driver.crash("boot", Lost::default());
        driver.assert_told_is_there();
    }
}

#[test]
fn what_went_with_a_directory_behind_the_mount_stays_foreign() {
    let driver = Driver::new();
    driver.mkdir("d").unwrap();
    driver.write("d/x", b"1").unwrap();
    driver.sync();
    driver.seal();
    driver.write("busy", b"2").unwrap();
    std::fs::remove_dir_all(driver.backing("d")).unwrap();
    let driver = driver.crash("boot", Lost::default());
    assert_eq!(driver.told(), ["mkdir d", "put d/x", "recovered put busy"]);
}

#[test]
fn a_file_recorded_while_it_was_open_gets_its_content_after_a_kill() {
    let driver = Driver::new();
    for name in ["a", "b"] {
        driver.hold(name, b'1').unwrap();
    }
    assert_eq!(driver.told().len(), 2);
    assert!(driver.told().iter().all(|told| told.starts_with("open")), "{:?}", driver.told());
    driver.write_fh(driver.held.borrow()[1], 0, b"more");
    let driver = driver.crash("boot", Lost::default());
    driver.assert_told_is_there();
    assert_eq!(driver.told().len(), 4);
    assert!(driver.told()[2..].iter().all(|told| told.starts_with("recovered put")), "{:?}", driver.told());
}

#[test]
fn a_name_that_comes_back_before_its_file_is_looked_at_again_is_told() {
    if !Driver::LINKS {
        return;
    }
    let driver = Driver::new();
    // Large: it is still being hashed when the name comes back.
    driver.write("f", &vec![7; 96 << 20]).unwrap();
    driver.link("f", "g").unwrap();
    driver.write("n", b"1").unwrap();
    driver.sync();
    driver.sink.hold_back(true);
    driver.mv("n", "f").unwrap();
    let driver = driver.crash("boot", Lost::default());
    driver.unlink("f").unwrap();
    driver.link("g", "f").unwrap();
    driver.assert_told_is_there();
}

/// A page that is dirty already changes without moving the times of its file, as does one that the power cut kept from the disk.
#[test]
fn what_was_not_sealed_is_read_from_the_disk_again_after_a_power_cut() {
    let driver = Driver::with(Durability::Close);
    let fh = driver.create("a").unwrap();
    driver.write_fh(fh, 0, b"reported");
    let file = std::fs::File::options().read(true).write(true).open(driver.backing("a")).unwrap();
    let mut page = Page::of(&file);
    page.set(b'1');
    driver.close(fh);
    assert_eq!(driver.told(), ["put a"]);
    let times = |driver: &Driver| std::fs::metadata(driver.backing("a")).unwrap().ctime_nsec();
    let before = times(&driver);
    page.set(b'2');
    drop((page, file));
    assert_eq!(times(&driver), before);
    let driver = driver.crash("another boot", Lost::default());
    driver.assert_told_is_there();
    assert_eq!(driver.told(), ["put a", "recovered put a"]);
}

/// `fdatasync` brings what was written over to the disk, and not the change time.
#[test]
fn what_was_written_over_is_read_again_after_a_power_cut_that_lost_its_time() {
    let driver = Driver::with(Durability::Close);
    let fh = driver.create("a").unwrap();
    driver.write_fh(fh, 0, b"sealed");
    let file = std::fs::File::options().read(true).write(true).open(driver.backing("a")).unwrap();
    let mut page = Page::of(&file);
    page.set(b'1');
    driver.close(fh);
    driver.seal();
    let fh = driver.open_file("a", libc::O_RDWR).unwrap();
    driver.held.borrow_mut().push(fh);
    page.set(b'2');
    drop((page, file));
    let driver = driver.crash("another boot", Lost::default());
    driver.assert_told_is_there();
    assert_eq!(driver.told(), ["put a", "recovered put a"]);
}

/// The first page of a file, mapped shared and writable.
struct Page(*mut u8);

impl Page {
    fn of(file: &std::fs::File) -> Page {
        use rustix::mm::{MapFlags, ProtFlags, mmap};
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address the kernel picks, of a file that is longer than what is touched.
        Page(unsafe { mmap(std::ptr::null_mut(), 4096, access, MapFlags::SHARED, file, 0) }.unwrap().cast())
    }

    fn set(&mut self, byte: u8) {
        // SAFETY: the first byte of the mapping, which lives as long as `self`.
        unsafe { self.0.write_volatile(byte) };
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: mapped by `of`, and nothing refers to it any more.
        unsafe { rustix::mm::munmap(self.0.cast(), 4096) }.unwrap();
    }
}
