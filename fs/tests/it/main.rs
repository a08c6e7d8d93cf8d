//! Buckets below the kernel: operations through `Vfs`, what they report, and what is recovered after a crash.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, which is what it is for")]

mod archive;
mod corpora;
mod crash;
mod driver;
mod fold;
mod hostile;
mod lz;
mod model;
mod names;
mod promises;
mod zip;

/// How random sequences of operations are tried: `PROPTEST_CASES` of them, or 60. One that fails is made shorter, with patience.
fn config() -> proptest::test_runner::Config {
    let default =
        proptest::test_runner::Config { max_shrink_iters: 5000, failure_persistence: None, ..Default::default() };
    let is_asked = std::env::var_os("PROPTEST_CASES").is_some();
    proptest::test_runner::Config { cases: if is_asked { default.cases } else { 60 }, ..default }
}
