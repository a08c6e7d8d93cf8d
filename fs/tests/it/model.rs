//! Random operations, with barriers and crashes between them: in the end the fold of what was told is what is there.

use super::driver::{Done, Driver, Lost};
use proptest::prelude::*;
use rustix::fs::RenameFlags;

#[derive(Debug, Clone)]
enum Step {
    Write(String, Vec<u8>),
    Append(String, u8),
    Truncate(String, u8),
    Unlink(String),
    Mkdir(String),
    Rmdir(String),
    Rename(String, String),
    Exchange(String, String),
    Symlink(String),
    Link(String, String),
    Chmod(String, bool),
    /// Stored by the node itself, not through the file system.
    Put(String, u8),
    /// Removed so.
    Remove(String),
    /// Open, write and keep open.
    Hold(String, u8),
    WriteHeld(u8),
    LetGo(usize),
    /// A barrier with files open.
    Barrier,
    /// One file is settled while others wait.
    Settle(String),
    /// The sink takes what was reported so far.
    Drain,
    /// What the sink has is sealed: its intents end.
    Seal,
    Sync,
    HoldBack,
    Kill,
    /// Ended in order and begun again.
    Reopen,
    PowerCut {
        intents: bool,
        unsealed: bool,
    },
}

fn path() -> impl Strategy<Value = String> {
    let name = prop_oneof![Just("a"), Just("b"), Just("c")];
    // Mostly shallow: deep ones are refused more often than not.
    let depth = prop_oneof![5 => 1..2usize, 3 => 2..3usize, 1 => 3..4usize];
    depth.prop_flat_map(move |depth| prop::collection::vec(name.clone(), depth)).prop_map(|names| names.join("/"))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (path(), prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(p, d)| Step::Write(p, d)),
        3 => (path(), any::<u8>()).prop_map(|(p, b)| Step::Append(p, b)),
        1 => (path(), any::<u8>()).prop_map(|(p, n)| Step::Truncate(p, n)),
        3 => path().prop_map(Step::Unlink),
        5 => path().prop_map(Step::Mkdir),
        2 => path().prop_map(Step::Rmdir),
        6 => (path(), path()).prop_map(|(a, b)| Step::Rename(a, b)),
        2 => (path(), path()).prop_map(|(a, b)| Step::Exchange(a, b)),
        2 => path().prop_map(Step::Symlink),
        3 => (path(), path()).prop_map(|(a, b)| Step::Link(a, b)),
        1 => (path(), any::<bool>()).prop_map(|(p, b)| Step::Chmod(p, b)),
        2 => (path(), any::<u8>()).prop_map(|(p, b)| Step::Put(p, b)),
        1 => path().prop_map(Step::Remove),
        2 => (path(), any::<u8>()).prop_map(|(p, b)| Step::Hold(p, b)),
        1 => any::<u8>().prop_map(Step::WriteHeld),
        1 => any::<usize>().prop_map(Step::LetGo),
        1 => Just(Step::Barrier),
        3 => path().prop_map(Step::Settle),
        2 => Just(Step::Drain),
        2 => Just(Step::Seal),
        2 => Just(Step::Sync),
        1 => Just(Step::HoldBack),
        2 => Just(Step::Kill),
        2 => Just(Step::Reopen),
        1 => any::<(bool, bool)>().prop_map(|(intents, unsealed)| Step::PowerCut { intents, unsealed }),
    ]
}

fn run(driver: Driver, step: &Step, boots: &mut u32) -> Driver {
    // That an operation is refused (no such file, not empty) is the kernel's business, not this test's.
    let _refused: Done = match step {
        Step::Write(path, data) => driver.write(path, data),
        Step::Append(path, byte) => driver.append(path, &[*byte]),
        Step::Truncate(path, size) => driver.truncate(path, u64::from(*size)),
        Step::Unlink(path) => driver.unlink(path),
        Step::Mkdir(path) => driver.mkdir(path),
        Step::Rmdir(path) => driver.rmdir(path),
        Step::Rename(from, to) => driver.mv(from, to),
        Step::Exchange(a, b) => driver.rename(a, b, RenameFlags::EXCHANGE),
        Step::Symlink(path) => driver.symlink(path, "target"),
        Step::Link(from, to) => driver.link(from, to),
        Step::Chmod(path, private) => driver.chmod(path, if *private { 0o700 } else { 0o755 }),
        Step::Put(path, byte) => driver.put(path, &[*byte]),
        Step::Remove(path) => driver.remove(path),
        Step::Hold(path, byte) => driver.hold(path, *byte),
        Step::WriteHeld(byte) => {
            driver.write_held(*byte);
            Ok(())
        }
        Step::LetGo(which) => {
            driver.let_go(*which);
            Ok(())
        }
        Step::Barrier => {
            driver.sink.hold_back(false);
            driver.bucket.sync().unwrap();
            Ok(())
        }
        Step::Settle(path) => {
            driver.sink.hold_back(false);
            driver.settle(path)
        }
        Step::Drain => {
            driver.sink.hold_back(false);
            driver.bucket.drain().unwrap();
            Ok(())
        }
        Step::Seal => {
            driver.seal();
            Ok(())
        }
        Step::Sync => {
            driver.sink.hold_back(false);
            driver.let_all_go();
            driver.assert_told_is_there();
            Ok(())
        }
        Step::HoldBack => {
            driver.hold_back();
            Ok(())
        }
        Step::Reopen => {
            driver.sink.hold_back(false);
            return driver.reopen();
        }
        Step::Kill => return driver.crash(&format!("boot {boots}"), Lost::default()),
        Step::PowerCut { intents, unsealed } => {
            *boots += 1;
            return driver.crash(&format!("boot {boots}"), Lost { intents: *intents, unsealed: *unsealed });
        }
    };
    driver
}

proptest! {
    #![proptest_config(crate::config())]

    #[test]
    fn what_was_told_is_what_is_there(steps in prop::collection::vec(step(), 1..40)) {
        let mut boots = 0;
        let mut driver = Driver::new();
        // The first session ran in the boot the first crash names.
        driver = driver.crash("boot 0", Lost::default());
        for step in &steps {
            driver = run(driver, step, &mut boots);
        }
        driver.sink.hold_back(false);
        driver.let_all_go();
        driver.assert_told_is_there();
    }
}
