//! Base58Check addresses in the predecessor's form: the hash is over X||Y without the `04` of SEC1.

use std::fmt;
use std::str::FromStr;

use borsh::{BorshDeserialize, BorshSerialize};
use ripemd::{Digest, Ripemd160};

use crate::hash::Hash;
use crate::wallet::PublicKey;

/// Version byte of an address.
const VERSION: u8 = 0;
/// Longest text that can be an address: 25 bytes in base58, and a leading `1` per zero byte.
const MAX_TEXT: usize = 50;

/// RIPEMD160(SHA256(X||Y)): who may spend an output. Shown as a Base58Check address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
pub struct AddressHash(pub [u8; 20]);

/// The text is not an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadAddress {
    /// Letters outside base58, or a wrong length.
    #[error("not an address: not 25 bytes in base58")]
    Form,
    /// Of another network.
    #[error("not an address of this system: version {0}")]
    Version(u8),
    /// Mistyped.
    #[error("not an address: the checksum does not match")]
    Checksum,
}

impl AddressHash {
    /// The address of a public key.
    pub fn of(key: &PublicKey) -> AddressHash {
        AddressHash(Ripemd160::digest(Hash::of(&[&key.0]).0).into())
    }

    fn checksum(&self) -> [u8; 4] {
        let twice = Hash::of(&[&Hash::of(&[&[VERSION], &self.0]).0]);
        [twice.0[0], twice.0[1], twice.0[2], twice.0[3]]
    }
}

impl fmt::Display for AddressHash {
    /// Exactly one leading `1`, even when the hash starts with zero bytes: the predecessor's encoder drops them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0; 24];
        bytes[..20].copy_from_slice(&self.0);
        bytes[20..].copy_from_slice(&self.checksum());
        let significant = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
        write!(f, "1{}", bs58::encode(&bytes[significant..]).into_string())
    }
}

impl fmt::Debug for AddressHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for AddressHash {
    type Err = BadAddress;

    /// Accepts one leading `1` (ours and the predecessor's) or one per zero byte (standard base58).
    fn from_str(text: &str) -> Result<AddressHash, BadAddress> {
        if text.len() > MAX_TEXT {
            return Err(BadAddress::Form);
        }
        let digits = text.trim_start_matches('1');
        let ones = text.len() - digits.len();
        let decoded = bs58::decode(digits).into_vec().map_err(|_| BadAddress::Form)?;
        // Zero bytes of the 25 carry no digits; leading ones stand for them, and at least the version's must be there.
        let zeros = 25usize.checked_sub(decoded.len()).ok_or(BadAddress::Form)?;
        match zeros {
            0 => return Err(BadAddress::Version(decoded[0])),
            _ if ones == 0 => return Err(BadAddress::Form),
            _ if ones != 1 && ones != zeros => return Err(BadAddress::Form),
            _ => {}
        }
        let mut bytes = [0; 25];
        bytes[zeros..].copy_from_slice(&decoded);
        let (hash, checksum) = bytes[1..].split_at(20);
        let address = AddressHash(hash.try_into().map_err(|_| BadAddress::Form)?);
        if address.checksum() != checksum {
            return Err(BadAddress::Checksum);
        }
        Ok(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::decode_hex;

    fn hash160(hex: &str) -> AddressHash {
        let mut bytes = [0; 20];
        decode_hex(hex, &mut bytes).unwrap();
        AddressHash(bytes)
    }

    #[test]
    fn the_predecessors_vectors() {
        let usual = hash160("1e3292fdbfe9f3fb881670f28b4545d95675f164");
        assert_eq!(usual.to_string(), "13kfriEJExZ2hXM1vVuyVkPuUS3eVMjRmx");
        let zero_first = hash160("0034a86a344396b04b31209bbeb6e91596b59e0c");
        assert_eq!(zero_first.to_string(), "1265jWmf1Wn9iKkS5Qesu5FBSRQQnMzNu");
        for address in [usual, zero_first, AddressHash([0; 20]), AddressHash([0xff; 20])] {
            assert_eq!(address.to_string().parse(), Ok(address));
        }
        // Other implementations write a leading `1` for each zero byte.
        assert_eq!("11265jWmf1Wn9iKkS5Qesu5FBSRQQnMzNu".parse(), Ok(zero_first));
    }

    #[test]
    fn other_text_is_refused() {
        let cases = [
            ("", BadAddress::Form),
            ("1", BadAddress::Checksum),
            ("0", BadAddress::Form),
            ("13kfriEJExZ2hXM1vVuyVkPuUS3eVMjRmy", BadAddress::Checksum),
            ("3kfriEJExZ2hXM1vVuyVkPuUS3eVMjRmx", BadAddress::Form),
            ("1111113kfriEJExZ2hXM1vVuyVkPuUS3eVMjRmx", BadAddress::Form),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<AddressHash>(), Err(expected), "{text}");
        }
        assert!("z".repeat(100_000).parse::<AddressHash>().is_err());
    }
}
