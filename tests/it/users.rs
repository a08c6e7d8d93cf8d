//! Other users in the mount: who may enter, what they may do, and the access control lists that say so. As root only.

use crate::root::{Ran, TestRoot};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// `nobody` and `daemon` of Debian.
const NOBODY: u32 = 65534;
const DAEMON: u32 = 1;

/// A root folder into which others can look, and a place to mount. None, loudly, for who cannot become another user.
fn root_for_all() -> Option<(TestRoot, PathBuf)> {
    let root = TestRoot::with_fuse()?;
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED, this test becomes another user, as root");
        return None;
    }
    let place = root.outside().join("m");
    fs::create_dir(&place).unwrap();
    open(root.outside(), 0o755);
    root.run("create docs").expect(0);
    Some((root, place))
}

/// What others may write in below `top`, as far as they can come.
fn open_to_others(top: &Path) -> Vec<PathBuf> {
    let data = fs::symlink_metadata(top).unwrap();
    let is_open = data.mode() & 0o022 != 0 && !data.is_symlink();
    let mut found: Vec<_> = is_open.then(|| top.to_owned()).into_iter().collect();
    if data.is_dir() && data.mode() & 0o011 != 0 {
        found.extend(fs::read_dir(top).unwrap().flat_map(|entry| open_to_others(&entry.unwrap().path())));
    }
    found
}

#[test]
fn nothing_of_a_node_can_be_written_by_others() {
    let Some(root) = TestRoot::with_fuse() else { return };
    open(root.outside(), 0o755);
    fs::create_dir(root.outside().join("archives")).unwrap();
    fs::write(root.outside().join("archives/theirs.zip"), [b"PK\x05\x06", [0; 18].as_slice()].concat()).unwrap();
    root.run("node --listen off --grpc-listen off").expect(0);
    root.run("create docs --mount").expect(0);
    root.run("create own.zip --mount").expect(0);
    root.run("create adopted --kind lz --from archives/theirs.zip --mount").expect(0);
    for bucket in ["docs", "own.zip", "adopted"] {
        fs::create_dir(root.mnt(bucket, "folder")).unwrap();
        fs::write(root.mnt(bucket, "folder/file"), vec![7; 1 << 20]).unwrap();
    }
    root.run("sync").expect(0);
    let private = fs::metadata(root.path("buckets/docs")).unwrap().mode() & 0o777;
    assert_eq!((private, open_to_others(root.outside())), (0o700, Vec::new()));
    for bucket in ["docs", "own.zip", "adopted"] {
        assert_eq!(fs::metadata(root.mnt(bucket, "")).unwrap().mode() & 0o777, 0o755, "{bucket}");
        root.run(&format!("unmount {bucket}")).expect(0);
    }
    root.run("stop").expect(0);
    // As an earlier version left it.
    open(&root.path("buckets/docs"), 0o777);
    root.run("mount docs").expect(0);
    assert_eq!(open_to_others(root.outside()), Vec::<PathBuf>::new());
    root.run("unmount docs").expect(0);
}

fn open(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A script as another user with one group, its number.
#[track_caller]
fn run_as(id: u32, folder: &Path, script: &str) -> Ran {
    let ids = [format!("--reuid={id}"), format!("--regid={id}"), "--clear-groups".to_owned()];
    let mut command = Command::new("setpriv");
    command.args(ids).args(["bash", "-uc", script]).current_dir("/").env("LC_ALL", "C").env("D", folder);
    command.output().unwrap().into()
}

/// What a user's script does, and what comes of it: `ok`, or the text of the errno.
#[track_caller]
fn check(id: u32, folder: &Path, script: &str, expected: &str) {
    let ran = run_as(id, folder, &format!("cd \"$D\" && {script}"));
    match expected {
        "ok" => assert_eq!(ran.code, 0, "{id}: {script}: {ran:#?}"),
        text => assert!(ran.code != 0 && ran.stderr.contains(text), "{id}: {script}: {text}: {ran:#?}"),
    }
}

#[test]
fn root_is_told_whose_root_folder_it_works_in() {
    let Some((root, _)) = root_for_all() else { return };
    assert_eq!(root.run("list").expect(0).stderr, "");
    std::os::unix::fs::chown(root.path(""), Some(NOBODY), None).unwrap();
    for line in ["list", "node"] {
        let told = root.run(line).expect(0).stderr;
        assert!(told.contains("belongs to user 65534") && told.contains("--root"), "{line}: {told}");
    }
    // What a node does for root leaves nothing of root's that was not there.
    assert_eq!(root.run("list").expect(0).stderr, "");
    root.run("stop").expect(0);
}

#[test]
fn others_are_kept_out_unless_they_are_let_in() {
    let Some((root, mount)) = root_for_all() else { return };
    root.run("mount docs m").expect(0);
    open(&mount, 0o777);
    fs::write(mount.join("file"), "x").unwrap();
    for script in ["ls", "cat file", "touch new"] {
        let ran = run_as(NOBODY, &mount, &format!("cd \"$D\" && {script}"));
        assert!(ran.code != 0 && ran.stderr.contains("Permission denied"), "{script}: {ran:#?}");
    }
    root.run("unmount docs").expect(0);
    root.run("mount docs m --allow-other").expect(0);
    check(NOBODY, &mount, "ls && cat file && touch new", "ok");
    assert_eq!(fs::metadata(mount.join("new")).unwrap().uid(), NOBODY);
    root.run("unmount docs").expect(0);
}

#[test]
fn permission_bits_are_kept_by_the_kernel_for_every_user() {
    let Some((root, mount)) = root_for_all() else { return };
    root.run("mount docs m --allow-other").expect(0);
    for (name, mode) in [("all", 0o777), ("sticky", 0o1777), ("roots", 0o755), ("closed", 0o700)] {
        fs::create_dir(mount.join(name)).unwrap();
        open(&mount.join(name), mode);
        fs::write(mount.join(name).join("roots"), "root's").unwrap();
    }
    for (id, script, expected) in [
        (NOBODY, "echo x > all/new", "ok"),
        (NOBODY, "echo x > roots/new", "Permission denied"),
        (NOBODY, "ls closed", "Permission denied"),
        (NOBODY, "cat closed/roots", "Permission denied"),
        (NOBODY, "cat all/roots", "ok"),
        (NOBODY, "echo x >> all/roots", "Permission denied"),
        (NOBODY, "chmod 777 all/roots", "Operation not permitted"),
        (NOBODY, "chown nobody all/roots", "Operation not permitted"),
        (NOBODY, "touch -d 2001-01-01 all/roots", "Permission denied"),
        (NOBODY, "rm -f sticky/roots", "Operation not permitted"),
        (NOBODY, "mv sticky/roots sticky/x", "Operation not permitted"),
        (NOBODY, "mv all/roots all/moved && mv all/moved all/roots", "ok"),
        (NOBODY, "ln -s roots all/link && mkdir all/dir && mkfifo all/fifo", "ok"),
        (NOBODY, "mknod all/device c 1 3", "Operation not permitted"),
        (NOBODY, "cp /bin/true all/tool && chmod 4755 all/tool && echo x >> all/tool && [ ! -u all/tool ]", "ok"),
        (NOBODY, "chmod 600 all/new && echo y >> all/new && cat all/new", "ok"),
        (DAEMON, "cat all/new", "Permission denied"),
        (DAEMON, "truncate -s 0 all/new", "Permission denied"),
        (DAEMON, "rmdir all/dir", "ok"),
        (DAEMON, "umask 027 && echo x > all/masked && [ $(stat -c %a all/masked) = 640 ]", "ok"),
        (0, "echo x >> all/new && rm -r all/link && cat closed/roots", "ok"),
    ] {
        check(id, &mount, script, expected);
    }
    let owner = |name: &str| fs::symlink_metadata(root.path("buckets/docs/data/all").join(name)).unwrap();
    assert_eq!((owner("new").uid(), owner("new").gid(), owner("fifo").uid()), (NOBODY, NOBODY, NOBODY));
    assert_eq!(owner("masked").uid(), DAEMON);
    root.expect_clean("others at work");
    root.expect_log_is_backing("docs");
    root.run("unmount docs").expect(0);
}

#[test]
fn access_control_lists_are_kept_inherited_and_obeyed() {
    let Some((root, mount)) = root_for_all() else { return };
    root.run("mount docs m --allow-other").expect(0);
    if !run_as(0, &mount, "cd \"$D\" && touch probe && setfacl -m u:nobody:r probe && rm probe").stderr.is_empty() {
        eprintln!("SKIPPED, the disk of {} keeps no lists, or there is no setfacl", mount.display());
        return;
    }
    for (id, script, expected) in [
        (0, "umask 022; echo secret > file; chmod 640 file; mkdir dir; chmod 770 dir", "ok"),
        (NOBODY, "cat file", "Permission denied"),
        (0, "setfacl -m u:nobody:r file && getfacl file | grep -qx user:nobody:r--", "ok"),
        (NOBODY, "cat file", "ok"),
        (NOBODY, "echo x >> file", "Permission denied"),
        (DAEMON, "cat file", "Permission denied"),
        (DAEMON, "setfacl -m u:daemon:rw file", "Operation not permitted"),
        // The mask is what the group bits show; taking it away stops everybody named in the list.
        (0, "chmod g= file && getfacl file | grep -q '^mask::---'", "ok"),
        (NOBODY, "cat file", "Permission denied"),
        (0, "chmod g=rw file", "ok"),
        (NOBODY, "cat file", "ok"),
        // A directory's default list takes the place of the mask of the process.
        (0, "setfacl -m u:nobody:rwx,d:u:nobody:rwx,d:g::rx,d:o::- dir", "ok"),
        (NOBODY, "umask 077; echo x > dir/made; mkdir dir/sub; echo y > dir/sub/deep", "ok"),
        (
            0,
            "getfacl dir/made | grep -qx user:nobody:rwx.*rw-; getfacl dir/sub | grep -qx default:user:nobody:rwx",
            "ok",
        ),
        (DAEMON, "cat dir/made", "Permission denied"),
        (0, "umask 077; echo x > dir/roots", "ok"),
        (NOBODY, "echo y >> dir/roots && cat dir/sub/deep", "ok"),
        (0, "setfacl -b dir/roots && setfacl -k dir", "ok"),
        (NOBODY, "echo y >> dir/roots", "Permission denied"),
        (0, "umask 077; echo x > dir/after; [ $(stat -c %a dir/after) = 600 ]", "ok"),
        // The owner of a file who is not in its group cannot keep the set-group-id bit by a list.
        (0, "cp file tool; chown nobody:daemon tool; setfacl -b tool; chmod 2755 tool", "ok"),
        (NOBODY, "setfacl -m u:daemon:r tool; [ ! -g tool ]", "ok"),
    ] {
        check(id, &mount, script, expected);
    }
    // The backing has the same lists: they survive the mount, and are copied with it.
    let listed = |folder: &Path| run_as(0, folder, "cd \"$D\" && getfacl -R -p . | sort").expect(0).stdout;
    let inside = listed(&mount);
    assert_eq!(inside, listed(&root.path("buckets/docs/data")));
    root.expect_clean("with lists");
    root.expect_log_is_backing("docs");
    root.run("unmount docs").expect(0);
    root.run("mount docs m --allow-other").expect(0);
    assert_eq!(inside, listed(&mount));
    root.run("unmount docs").expect(0);
}
