//! The state's rows that are not in the map, for they only repeat what others say: the names of the open buckets, and how
//! much is in each bucket. Made anew from those that the map holds.

use std::collections::BTreeMap;

use crate::codec::{decode, encode};
use crate::hash::{BucketId, Hash};
use crate::state::{BucketRecord, Counts, Effect, Entry, row};

/// What was seen of the state, row by row.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    counts: BTreeMap<BucketId, Counts>,
    names: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Rows as stored that the map does not hold.
    stored: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Repeats {
    /// Takes in a stored row. One that the map holds is well-formed when the map's root is right.
    pub(super) fn see(&mut self, key: &[u8], value: &[u8]) {
        let bucket = key.get(1..).and_then(|key| key.first_chunk()).copied().map(Hash);
        match (key.first(), bucket) {
            (Some(b'e'), Some(bucket)) => {
                if let Ok(entry) = decode::<Entry>(value) {
                    self.counts.entry(bucket).or_default().count(&entry, 1);
                }
            }
            (Some(b'b'), Some(bucket)) => {
                self.counts.entry(bucket).or_default();
                if let Ok(BucketRecord { name, closed: false, .. }) = decode(value) {
                    self.names.insert(row::name(&name), encode(&bucket));
                }
            }
            _ if row::in_map(key, value).is_none() => drop(self.stored.insert(key.to_vec(), value.to_vec())),
            _ => {}
        }
    }

    /// What makes them right, in the order of the rows; nothing when they are.
    pub(super) fn corrections(self) -> Vec<Effect> {
        let Repeats { counts, names: mut expected, mut stored } = self;
        expected.extend(counts.iter().map(|(bucket, counts)| (row::counts(bucket), encode(counts))));
        expected.retain(|row, value| match stored.remove(row) {
            Some(found) => found != *value,
            None => true,
        });
        let wrong = expected.into_iter().map(|(row, value)| (row, Some(value)));
        let mut corrections: Vec<Effect> = wrong.chain(stored.into_keys().map(|row| (row, None))).collect();
        corrections.sort();
        corrections
    }
}
