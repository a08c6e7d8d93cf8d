//! Hashcash stamps: a nonce that makes a header's hash start with zero bits.

use sha2::{Digest, Sha256};

use crate::block::Header;
use crate::codec::encode;
use crate::hash::Hash;

/// Bytes of the nonce, at the end of the header.
const NONCE: usize = 8;

/// Finds the lowest nonce from the header's own on that fits its stamp. Works on the caller's thread: about 2^bits hashes.
pub(crate) fn stamp(mut header: Header) -> Header {
    let bytes = encode(&header);
    // All but the nonce is hashed once; each try then costs the last compression only.
    let mut prefix = Sha256::new();
    prefix.update(&bytes[..bytes.len() - NONCE]);
    loop {
        let mut hasher = prefix.clone();
        hasher.update(header.nonce.to_le_bytes());
        if Hash(hasher.finalize().into()).leading_zero_bits() >= u32::from(header.stamp_bits) {
            return header;
        }
        header.nonce = header.nonce.wrapping_add(1);
    }
}
