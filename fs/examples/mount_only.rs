//! Mount a directory and print what is done in it, without any ledger:
//! `cargo run --release -p wizefs-fs --example mount_only BACKING MOUNTPOINT`. Ends with the mount.

use std::sync::Arc;
use wizefs_fs::{Bucket, BucketOptions, Durability, MemorySink, MountOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1);
    let (Some(backing), Some(mountpoint)) = (args.next(), args.next()) else {
        return Err("usage: mount_only BACKING MOUNTPOINT".into());
    };
    let state = std::env::temp_dir().join(format!("wizefs-mount-only-{}", std::process::id()));
    let options = BucketOptions {
        backing: backing.into(),
        state: state.clone(),
        adopted: false,
        exclusive: false,
        read_only: false,
        durability: Durability::Relaxed,
    };
    let sink = Arc::new(MemorySink::default());
    let (bucket, _) = Bucket::open(options, sink.clone())?;
    let options =
        MountOptions { name: "example".into(), allow_other: false, noexec: false, read_only: false, threads: 3 };
    let mut mount = bucket.mount(mountpoint.as_ref(), options)?;
    println!("mounted; unmount to end");
    mount.wait();
    bucket.close()?;
    for change in sink.changes() {
        println!("{} {:?} {:?}", change.number, change.cause, change.op);
    }
    std::fs::remove_dir_all(state)?;
    Ok(())
}
