//! Hours of work: programs, fsx, kills and remounts over and over, and after each all is as it was told.
//!
//! `WIZEFS_SOAK_MINUTES` says for how long; without it this does nothing. `WIZEFS_TEST_SEED` repeats a run's choices.

use crate::kills::{expect_history, mount_again, parameter, seed};
use crate::load::{Load, Random};
use crate::root::TestRoot;
use crate::suites::{fsx, suite};
use std::fs;
use std::time::{Duration, Instant};

/// Most memory the node may have resident at the end, KiB.
const MEMORY_MAX: u64 = 400 * 1024;

#[test]
fn a_soak_of_work_fsx_and_kills_leaves_everything_as_told() {
    let Some(minutes) = parameter("WIZEFS_SOAK_MINUTES") else { return };
    let Some(root) = TestRoot::with_fuse() else { return };
    let Some(program) = suite("fsx") else { return };
    let end = Instant::now() + Duration::from_secs(60 * minutes);
    let mut random = Random::new(seed());
    root.run("create docs --mount").expect(0);
    let load = Load::start(&root.mnt("docs", ""), 4, random.next());
    let mut rounds = 0;
    while Instant::now() < end {
        rounds += 1;
        load.run_for(500 + random.below(5_000));
        // fsx beside the load: it looks at every byte it reads.
        let file = root.mnt("docs", &format!("fsx{}", rounds % 5));
        fsx(&program, &root, &file, 2_000 + random.below(2_000), random.next());
        load.run_for(1 + random.below(300));
        let pid = root.node();
        root.kill_node();
        load.pause();
        let when = format!("round {rounds}, {pid:?} killed");
        mount_again(&root, &when);
        root.expect_clean(&when);
        if rounds % 10 == 0 {
            expect_history(&root, &load, &when);
            assert_eq!(root.run_long("integrity --json").expect(0).json()["ok"], true, "{when}");
        }
        eprintln!("{when}: clean, {} KiB resident", resident(&root));
    }
    expect_history(&root, load.end(), "at the end");
    let resident = resident(&root);
    assert!(resident < MEMORY_MAX, "{resident} KiB resident after {rounds} rounds");
    assert_eq!(root.run_long("integrity --json").expect(0).json()["ok"], true);
    root.run("unmount docs").expect(0);
    root.expect_no_node();
    root.expect_clean("unmounted");
}

/// Memory of the node, KiB.
fn resident(root: &TestRoot) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", root.node().unwrap().as_raw_nonzero())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
