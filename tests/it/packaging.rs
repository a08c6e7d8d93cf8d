//! What installs and starts wizefs on a machine: the helper of mount(8), units, the Debian package, what a container needs.

use crate::root::{Ran, TestRoot, finish};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Run another program in the environment of the root.
fn other(root: &TestRoot, program: &Path, args: &[&str]) -> Ran {
    let mut command = Command::new(program);
    command.args(args).current_dir(root.outside()).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    // What marks the node of this root as ours.
    command.env("WIZEFS_ROOT", root.path("")).env("LC_ALL", "C.UTF-8");
    finish(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

/// The program under the name of the helper.
fn helper(root: &TestRoot) -> PathBuf {
    let link = root.outside().join("mount.wizefs");
    symlink(env!("CARGO_BIN_EXE_wizefs"), &link).unwrap();
    link
}

#[test]
fn the_helper_of_mount_mounts_as_fstab_says() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs").expect(0);
    let (helper, place) = (helper(&root), root.outside().join("place"));
    fs::create_dir(&place).unwrap();
    let place = place.to_str().unwrap();
    let options = format!("rw,root={},listen=off,grpc-listen=off,nofail,_netdev", root.path("").display());
    let ran = other(&root, &helper, &["wizefs:docs", place, "-n", "-o", &options]).expect(0);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""), "a helper is silent");
    fs::write(Path::new(place).join("a"), "through fstab").unwrap();
    // `mount -a` does not see that it is there; elsewhere it is not.
    other(&root, &helper, &["docs", place, "-o", &options]).expect(0);
    other(&root, &helper, &["docs", root.outside().to_str().unwrap(), "-o", &options]).expect(32);
    other(&root, &helper, &["docs", place, "-o", "nonsense"]).expect(1);
    other(&root, &helper, &["docs", place, "-s", "-o", &format!("nonsense,{options}")]).expect(0);
    root.run("unmount docs").expect(0);
    root.expect_no_node();
    let options = format!("ro,{options}");
    other(&root, &helper, &["docs", place, "-o", &options]).expect(0);
    assert!(fs::write(Path::new(place).join("b"), "").is_err(), "mounted read-only");
    assert_eq!(fs::read_to_string(Path::new(place).join("a")).unwrap(), "through fstab");
    root.run("unmount docs").expect(0);
    root.expect_no_node();
}

/// mount(8) looks for helpers in /sbin alone, so it gets a view of the machine in which one is there.
#[test]
fn mount_finds_the_helper_for_a_line_of_fstab() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED, this test needs root");
        return;
    }
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs").expect(0);
    fs::write(root.outside().join("a"), "before").unwrap();
    root.run("put a docs").expect(0);
    let place = root.outside().join("place");
    fs::create_dir(&place).unwrap();
    let options = format!("root={},listen=off,grpc-listen=off,nofail", root.path("").display());
    let line = format!("docs {} wizefs {options} 0 0\n", place.display());
    fs::write(root.outside().join("fstab"), line).unwrap();
    // Everything happens in a namespace of mounts of its own: nothing of it is seen outside.
    let script = format!(
        "set -e
        mkdir sbin upper work
        cp -a /usr/sbin/. sbin/ 2>/dev/null || true
        ln -sf {program} sbin/mount.wizefs
        ln -sf {program} sbin/mount.fuse.wizefs
        mount --bind sbin /usr/sbin
        mount --fstab fstab {place}
        cat {place}/a
        echo after > {place}/b
        umount {place}
        mount -t fuse.wizefs -o {options} docs {place}
        cat {place}/b
        umount {place}",
        program = env!("CARGO_BIN_EXE_wizefs"),
        place = place.display(),
    );
    let shell = Path::new("/usr/bin/unshare");
    let ran = other(&root, shell, &["--mount", "--propagation", "private", "sh", "-c", &script]).expect(0);
    assert_eq!(ran.stdout, "beforeafter\n", "{ran:?}");
    root.expect_no_node();
    root.run("verify docs").expect(0);
}

#[test]
fn units_are_as_systemd_wants_them() {
    let root = tempfile::tempdir().unwrap();
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("SKIPPED, this test needs systemd-analyze");
        return;
    }
    // The units name the program where the package puts it.
    for unit in ["wizefs-node.service", "wizefs@.service"] {
        let text = fs::read_to_string(top().join("packaging/systemd").join(unit)).unwrap();
        assert!(text.contains("=/usr/bin/wizefs "), "{unit}");
        // Unescaped, wizefs@my-docs would mean a bucket called my/docs.
        assert!(!text.contains("%I"), "{unit}: names of buckets need no escaping");
        let here = text.replace("/usr/bin/wizefs", env!("CARGO_BIN_EXE_wizefs"));
        fs::write(root.path().join(unit), here).unwrap();
    }
    let units = [root.path().join("wizefs-node.service"), root.path().join("wizefs@.service")];
    let ran = Command::new("systemd-analyze").args(["verify", "--man=no"]).args(units).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(ran.status.success() && !said.contains("wizefs"), "{said}");
}

#[test]
fn the_program_needs_only_the_libraries_of_a_bare_image() {
    // In debian:bookworm-slim, of the packages libc6, libgcc-s1 and libstdc++6.
    const THERE: [&str; 6] =
        ["linux-vdso.so.1", "libstdc++.so.6", "libgcc_s.so.1", "libm.so.6", "libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
    let ran = Command::new("ldd").arg(env!("CARGO_BIN_EXE_wizefs")).output().unwrap();
    let text = String::from_utf8(ran.stdout).unwrap();
    let needed = text.lines().filter_map(|line| line.split_whitespace().next());
    let missing: Vec<&str> = needed.filter(|name| !THERE.contains(name)).collect();
    assert!(missing.is_empty() || cfg!(not(target_arch = "x86_64")), "{missing:?} in {text}");
}

#[test]
fn the_package_holds_a_program_that_works() {
    if Command::new("dpkg-shlibdeps").arg("--version").output().is_err() {
        eprintln!("SKIPPED, this test needs dpkg-dev");
        return;
    }
    let Some(root) = TestRoot::with_fuse() else { return };
    let out = root.outside().join("out");
    fs::create_dir(&out).unwrap();
    let built = other(&root, &top().join("packaging/deb.sh"), &[env!("CARGO_BIN_EXE_wizefs"), out.to_str().unwrap()]);
    let package = built.expect(0).stdout.trim().to_owned();
    let field = |name: &str| other(&root, Path::new("dpkg-deb"), &["--field", &package, name]).expect(0).stdout;
    assert_eq!(field("Version").trim(), env!("CARGO_PKG_VERSION"));
    assert!(field("Depends").contains("libc6 (>= ") && field("Depends").contains("fuse3"), "{}", field("Depends"));
    let tree = root.outside().join("tree");
    other(&root, Path::new("dpkg-deb"), &["--extract", &package, tree.to_str().unwrap()]).expect(0);
    for file in
        ["usr/lib/systemd/system/wizefs-node.service", "usr/share/doc/wizefs/copyright", "usr/sbin/mount.wizefs"]
    {
        assert!(tree.join(file).exists(), "{file}");
    }
    completions_call_the_program_by_its_name(&tree.join("usr/share"));
    // What is installed does what the README says, and the helper leads to it.
    let program = tree.join("usr/bin/wizefs");
    let wizefs = |line: &str| other(&root, &program, &line.split(' ').collect::<Vec<_>>());
    wizefs("create docs").expect(0);
    let place = root.outside().join("place");
    fs::create_dir(&place).unwrap();
    let options = "listen=off,grpc-listen=off";
    other(&root, &tree.join("usr/sbin/mount.wizefs"), &["docs", place.to_str().unwrap(), "-o", options]).expect(0);
    fs::write(place.join("a"), "packed").unwrap();
    wizefs("sync").expect(0);
    wizefs("verify docs").expect(0);
    wizefs("unmount docs").expect(0);
    root.expect_no_node();
    assert_eq!(wizefs("get a docs -").expect(0).stdout, "packed");
    installs_and_leaves_nothing(&root, &package);
}

/// It is not there any more where it was when they were made.
#[track_caller]
fn completions_call_the_program_by_its_name(share: &Path) {
    for (script, call) in [
        ("bash-completion/completions/wizefs", "\"wizefs\" -- "),
        ("zsh/vendor-completions/_wizefs", " wizefs -- "),
        ("fish/vendor_completions.d/wizefs.fish", "WIZEFS_COMPLETE=fish wizefs -- "),
    ] {
        let text = fs::read_to_string(share.join(script)).unwrap();
        assert!(text.contains(call) && !text.contains("/wizefs"), "{script}: {text}");
    }
}

/// Whatever becomes of the test, the machine has no package from it.
struct Installed;

impl Drop for Installed {
    fn drop(&mut self) {
        drop(Command::new("dpkg").args(["--purge", "wizefs"]).output());
    }
}

/// dpkg, which refuses while somebody else installs something.
fn dpkg(root: &TestRoot, args: &[&str]) -> Ran {
    let mut ran = other(root, Path::new("dpkg"), args);
    root.wait_for("dpkg", || {
        let waits = ran.code == 2 && ran.stderr.contains("lock");
        if waits {
            ran = other(root, Path::new("dpkg"), args);
        }
        !waits
    });
    ran
}

/// The package as an administrator knows it: installed, used by the names and places it brings, and purged.
fn installs_and_leaves_nothing(root: &TestRoot, package: &str) {
    if !rustix::process::geteuid().is_root() || Path::new("/usr/bin/wizefs").exists() {
        eprintln!("SKIPPED, installing needs root, on a machine without wizefs; the package was unpacked and used");
        return;
    }
    let installed = Installed;
    dpkg(root, &["--install", package]).expect(0);
    let listed = dpkg(root, &["--listfiles", "wizefs"]).expect(0).stdout;
    let files: Vec<&Path> = listed.lines().map(Path::new).filter(|path| !path.is_dir()).collect();
    for place in ["/usr/bin/wizefs", "/usr/sbin/mount.wizefs", "/usr/share/man/man1/wizefs.1.gz"] {
        assert!(files.contains(&Path::new(place)), "{place} in {files:?}");
    }
    dpkg(root, &["--verify", "wizefs"]).expect(0);
    let shell = |text: &str| other(root, Path::new("bash"), &["-c", text]);
    let place = root.outside().join("installed");
    fs::create_dir(&place).unwrap();
    // The program by its name, and mount(8), which finds the helper by itself.
    let used = format!(
        "set -e
        wizefs create inst && echo content > f && wizefs put f inst --quiet
        mount -t wizefs inst {place} -o listen=off,grpc-listen=off,root=$WIZEFS_ROOT
        cat {place}/f && wizefs status && umount {place}",
        place = place.display()
    );
    assert!(shell(&used).expect(0).stdout.contains("content"));
    root.expect_no_node();
    let completions = "source /usr/share/bash-completion/completions/wizefs && complete -p wizefs && zsh -n \
         /usr/share/zsh/vendor-completions/_wizefs && fish -n /usr/share/fish/vendor_completions.d/wizefs.fish";
    let (no_zsh, no_fish) = (shell("command -v zsh").code != 0, shell("command -v fish").code != 0);
    let first = completions.split(" && zsh").next().unwrap();
    shell(if no_zsh || no_fish { first } else { completions }).expect(0);
    // Images without documentation have no pages, and machines without systemd no unit to look at.
    if Path::new("/usr/share/man/man1/wizefs.1.gz").exists() && shell("command -v man").code == 0 {
        for (page, word) in [("wizefs", "SYNOPSIS"), ("wizefs-mount", "SYNOPSIS"), ("mount.wizefs", "SYNOPSIS")] {
            let shown = shell(&format!("man --warnings {page} | cat")).expect(0);
            assert!(shown.stdout.contains(word) && shown.stderr.is_empty(), "{page}: {shown:?}");
        }
    }
    if shell("command -v systemd-analyze").code == 0 {
        let units = "systemd-analyze verify --man=no wizefs-node.service wizefs@docs.service";
        let ran = shell(units).expect(0);
        assert!(!ran.stderr.contains("wizefs"), "{ran:?}");
    }
    dpkg(root, &["--purge", "wizefs"]).expect(0);
    drop(installed);
    let left: Vec<_> = files.iter().filter(|path| path.symlink_metadata().is_ok()).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    assert!(!Path::new("/usr/share/doc/wizefs").exists());
    assert!(dpkg(root, &["--status", "wizefs"]).code != 0, "dpkg still knows it");
}
