//! Hashcash stamps: a nonce that makes a header's hash start with zero bits.

use std::num::NonZero;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use sha2::{Digest, Sha256};

use crate::block::Header;
use crate::codec::encode;
use crate::hash::Hash;

/// Bytes of the nonce, at the end of the header.
const NONCE: usize = 8;
/// Politeness of the searching threads towards everything else: about a tenth of a processor that others want.
const NICENESS: i32 = 10;
/// Stamps up to this are found faster than a thread is started.
const QUICK_BITS: u8 = 6;
/// From this stamp on every processor searches.
const HARD_BITS: u8 = 18;
/// Tries between looks at whether another thread has found one.
const TRIES: u64 = 4096;

/// Finds a nonce that fits the header's stamp, from the header's own on: about 2^bits hashes, on threads of low priority
/// of its own, so that a search takes nothing from those who work with files.
pub(crate) fn stamp(header: Header) -> Header {
    let processors = thread::available_parallelism().map_or(1, NonZero::get) as u64;
    let threads = if header.stamp_bits >= HARD_BITS { processors } else { 1 };
    let found = AtomicBool::new(false);
    if header.stamp_bits <= QUICK_BITS {
        return search(&header, 0, 1, &found).unwrap_or(header);
    }
    thread::scope(|scope| {
        let start = |number| {
            let (header, found) = (&header, &found);
            let search = move || {
                if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
                    tracing::debug!(%error, "the stamp is searched at normal priority");
                }
                search(header, number, threads, found)
            };
            thread::Builder::new().name("miner".to_owned()).spawn_scoped(scope, search)
        };
        let running: Vec<_> = (0..threads).map_while(|number| start(number).ok()).collect();
        let stamped = running.into_iter().filter_map(|thread| thread.join().ok().flatten()).last();
        // No thread could be started, or not all: those numbers are still to be tried.
        stamped.or_else(|| search(&header, 0, 1, &AtomicBool::new(false)))
    })
    .unwrap_or(header)
}

/// Tries every `step`-th nonce from `first` on; none when another thread was first.
fn search(header: &Header, first: u64, step: u64, found: &AtomicBool) -> Option<Header> {
    let bytes = encode(header);
    // All but the nonce is hashed once; each try then costs the last compression only.
    let mut prefix = Sha256::new();
    prefix.update(&bytes[..bytes.len() - NONCE]);
    let mut nonce = header.nonce.wrapping_add(first);
    loop {
        for _ in 0..TRIES {
            let mut hasher = prefix.clone();
            hasher.update(nonce.to_le_bytes());
            if Hash(hasher.finalize().into()).leading_zero_bits() >= u32::from(header.stamp_bits) {
                found.store(true, Ordering::Release);
                return Some(Header { nonce, ..header.clone() });
            }
            nonce = nonce.wrapping_add(step);
        }
        if found.load(Ordering::Acquire) {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{CertificateKind, HeaderVersion, MAX_STAMP_BITS};
    use crate::wallet::PublicKey;

    fn header(bits: u8) -> Header {
        Header {
            version: HeaderVersion::V1,
            chain: Hash::ZERO,
            height: u64::from(bits),
            previous: Hash::ZERO,
            time_us: 0,
            sealer: PublicKey([0; 64]),
            first_index: 0,
            count: 1,
            log_size: 1,
            log_root: Hash::ZERO,
            state_root: Hash::ZERO,
            stamp_bits: bits,
            certificate: CertificateKind::Solo,
            nonce: u64::MAX - 3,
        }
    }

    #[test]
    fn a_stamp_of_every_difficulty_holds() {
        for bits in (0..=20).chain([MAX_STAMP_BITS]) {
            let header = stamp(header(bits));
            assert!(header.hash().leading_zero_bits() >= u32::from(bits), "{bits}");
        }
    }

    /// Niceness of each thread of this process called `miner`, as the kernel tells it: field 19 of its `stat`.
    fn niceness_of_miners() -> Vec<i32> {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().filter_map(|task| Some(task.ok()?.path()));
        let stats = tasks.filter_map(|task| std::fs::read_to_string(task.join("stat")).ok());
        let miners = stats.filter_map(|stat| stat.split_once("(miner) ").map(|(_, fields)| fields.to_owned()));
        miners.filter_map(|fields| fields.split(' ').nth(16)?.parse().ok()).collect()
    }

    #[test]
    fn the_search_runs_on_threads_of_low_priority() {
        let mut seen = false;
        // As many searches as it takes to see one that is not over yet.
        while !seen {
            let search = thread::spawn(|| stamp(header(20)));
            while !search.is_finished() && !seen {
                seen = niceness_of_miners().contains(&NICENESS);
            }
            search.join().unwrap();
        }
        let own = rustix::process::getpriority_process(None).unwrap();
        assert!(own < NICENESS, "who asks for a stamp keeps its priority");
    }
}
