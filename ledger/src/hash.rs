//! SHA-256 in the three roles the formats give it: plain, Merkle leaf, Merkle node (RFC 6962 section 2.1).

use std::fmt;
use std::str::FromStr;

use borsh::{BorshDeserialize, BorshSerialize};
use sha2::{Digest, Sha256};

/// A SHA-256 digest: 32 bytes, shown as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, BorshSerialize, BorshDeserialize)]
pub struct Hash(pub [u8; 32]);

/// Names a transaction: its RFC 6962 leaf hash, SHA-256(0x00 || canonical bytes).
pub type TxId = Hash;
/// Names a bucket: the txid of the transaction that created it.
pub type BucketId = Hash;
/// Names a block: SHA-256 of its header.
pub type BlockHash = Hash;

impl Hash {
    /// 32 zero bytes: the previous block of genesis.
    pub const ZERO: Hash = Hash([0; 32]);

    /// SHA-256 of the concatenation of `parts`.
    pub fn of(parts: &[&[u8]]) -> Hash {
        let mut hasher = Sha256::new();
        for part in parts {
            hasher.update(part);
        }
        Hash(hasher.finalize().into())
    }

    /// RFC 6962 leaf hash of one entry of the log.
    pub fn leaf(entry: &[u8]) -> Hash {
        Hash::of(&[&[0], entry])
    }

    /// RFC 6962 hash of an inner node of the log.
    pub fn node(left: &Hash, right: &Hash) -> Hash {
        Hash::of(&[&[1], &left.0, &right.0])
    }

    /// How many of the first bits are zero: the measure of a Hashcash stamp.
    pub fn leading_zero_bits(&self) -> u32 {
        let mut bits = 0;
        for byte in self.0 {
            bits += byte.leading_zeros();
            if byte != 0 {
                break;
            }
        }
        bits
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text was not 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a hash: expected 64 hexadecimal digits")]
pub struct NotAHash;

impl FromStr for Hash {
    type Err = NotAHash;

    fn from_str(text: &str) -> Result<Hash, NotAHash> {
        let mut bytes = [0; 32];
        decode_hex(text, &mut bytes).ok_or(NotAHash)?;
        Ok(Hash(bytes))
    }
}

/// Fills `out` from exactly twice as many hex digits; `None` for any other text.
pub(crate) fn decode_hex(text: &str, out: &mut [u8]) -> Option<()> {
    let digits = text.as_bytes();
    if digits.len() != out.len() * 2 {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = (high * 16 + low) as u8;
    }
    Some(())
}

/// Lower-case hex of any bytes.
pub(crate) fn encode_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaf_and_node_follow_rfc_6962() {
        // The empty leaf of the Certificate Transparency reference vectors.
        let empty = "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d";
        assert_eq!(Hash::leaf(b"").to_string(), empty);
        // Root of the two-entry tree {"", 0x00} of the same vectors.
        let root = Hash::node(&Hash::leaf(b""), &Hash::leaf(&[0]));
        assert_eq!(root.to_string(), "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125");
    }

    #[test]
    fn hex_round_trips_and_refuses_other_text() {
        let hash = Hash::of(&[b"x"]);
        assert_eq!(hash.to_string().parse(), Ok(hash));
        for bad in ["", "0g", &"0".repeat(63), &"é".repeat(32)] {
            assert_eq!(bad.parse::<Hash>(), Err(NotAHash));
        }
    }

    #[test]
    fn zero_bits_are_counted_across_bytes() {
        let mut hash = Hash([0xff; 32]);
        assert_eq!(hash.leading_zero_bits(), 0);
        hash.0[0] = 0;
        hash.0[1] = 0x10;
        assert_eq!(hash.leading_zero_bits(), 11);
        assert_eq!(Hash::ZERO.leading_zero_bits(), 256);
    }
}
