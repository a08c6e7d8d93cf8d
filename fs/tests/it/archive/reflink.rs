//! Archives on file systems that share blocks between files: a commit changes a copy that costs nothing.

use super::{Archive, Edits, Model, Way, assert_sound, dir, noise, put, sequences, shown, tools_accept};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use std::path::{Path, PathBuf};
use std::process::Command;
use wizefs_fs::lz::Policy;

const SHARING: Policy = Policy { rewrite_below: 0, reflink: true };

/// A disk of its own, in a file, that goes when dropped.
pub(crate) struct Disk {
    folder: tempfile::TempDir,
    is_mounted: bool,
}

fn succeeds(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|e| format!("{:?}: {e}", command.get_program()))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

impl Disk {
    pub(crate) fn new(kind: &str, options: &str) -> Result<Self, String> {
        let mut disk = Self::without_content()?;
        let file = std::fs::File::create(disk.image()).map_err(|e| e.to_string())?;
        file.set_len(512 << 20).map_err(|e| e.to_string())?;
        succeeds(Command::new(format!("mkfs.{kind}")).arg("-q").arg(disk.image()))?;
        disk.mounted(options)?;
        Ok(disk)
    }

    /// What a power cut would leave of it now.
    pub(crate) fn after_power_cut(&self) -> Result<Self, String> {
        let mut disk = Self::without_content()?;
        succeeds(Command::new("cp").arg("--sparse=always").arg(self.image()).arg(disk.image()))?;
        // XFS mounts no second one of the same name, if it is not told to.
        disk.mounted("loop").or_else(|_| disk.mounted("loop,nouuid"))?;
        Ok(disk)
    }

    fn without_content() -> Result<Self, String> {
        let disk = Self { folder: tempfile::tempdir().map_err(|e| e.to_string())?, is_mounted: false };
        std::fs::create_dir(disk.at()).map_err(|e| e.to_string())?;
        Ok(disk)
    }

    fn mounted(&mut self, options: &str) -> Result<(), String> {
        succeeds(Command::new("mount").args(["-o", options]).arg(self.image()).arg(self.at()))?;
        self.is_mounted = true;
        Ok(())
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    pub(crate) fn at(&self) -> PathBuf {
        self.folder.path().join("disk")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if !self.is_mounted {
            return;
        }
        let unmounted = succeeds(Command::new("umount").arg(self.at()));
        assert!(unmounted.is_ok() || std::thread::panicking(), "{unmounted:?}");
    }
}

fn large_archive_costs_the_change(place: &Path) {
    Archive::create(place).unwrap();
    let archive = Archive::open_with(place, SHARING, None).unwrap();
    archive.commit(&Edits(vec![dir("d"), put("large", &noise(1, 32 << 20)), put("d/small", b"1")])).unwrap();
    for number in 0..5 {
        let before = std::fs::metadata(place).map(|found| std::os::unix::fs::MetadataExt::ino(&found)).unwrap();
        let committed = archive.commit(&Edits(vec![put("d/small", &noise(number, 1024))])).unwrap();
        assert_eq!(committed.strategy, Way::Reflink);
        assert!(committed.bytes_written < 8192, "{committed:?}");
        let after = std::fs::metadata(place).map(|found| std::os::unix::fs::MetadataExt::ino(&found)).unwrap();
        assert_ne!(before, after, "another file, put in its place at one instant");
        assert_sound(&archive);
    }
    tools_accept(place);
}

fn edits_do_what_a_model_says(folder: &Path) {
    let mut runner = TestRunner::deterministic();
    for case in 0..12 {
        let place = folder.join(format!("{case}.zip"));
        Archive::create(&place).unwrap();
        let mut archive = Archive::open_with(&place, SHARING, None).unwrap();
        let mut model = Model::default();
        for edits in sequences(1..10).new_tree(&mut runner).unwrap().current() {
            edits.0.iter().for_each(|edit| assert!(model.apply(edit)));
            archive.commit(&edits).unwrap();
            assert_eq!(shown(&archive), model.nodes);
            drop(archive);
            archive = Archive::open_with(&place, SHARING, None).unwrap();
            assert_eq!(shown(&archive), model.nodes);
            assert_sound(&archive);
        }
        if !model.nodes.is_empty() {
            tools_accept(&place);
        }
    }
}

#[test]
fn on_disks_that_share_blocks_a_changed_copy_takes_the_place() {
    for kind in ["xfs", "btrfs"] {
        match Disk::new(kind, "loop") {
            Ok(disk) => {
                large_archive_costs_the_change(&disk.at().join("a.zip"));
                edits_do_what_a_model_says(&disk.at());
            }
            Err(why) => eprintln!("SKIPPED, no disk with {kind} (this mounts one, as root, with mkfs.{kind}): {why}"),
        }
    }
}
