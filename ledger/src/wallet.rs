//! Wallet keys (secp256k1), and wallets in files.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use borsh::{BorshDeserialize, BorshSerialize};
use k256::ecdsa::signature::DigestSigner;
use k256::ecdsa::{Signature as Ecdsa, SigningKey};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::address::AddressHash;
use crate::hash::{decode_hex, encode_hex};
pub use crate::keyfile::KeyError;
use crate::keyfile::{self, Contents, KeyKind, SealedKey, random};

/// A secp256k1 public key: X||Y, 64 bytes, 128 hex digits, without the `04` of SEC1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
pub struct PublicKey(pub [u8; 64]);

/// An ECDSA signature: r||s, 64 bytes, low-S; any other is invalid.
#[derive(Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Signature(pub [u8; 64]);

impl Signature {
    /// Bytes of a signature.
    pub const LENGTH: usize = 64;
    /// Stands where a signature is yet to be made.
    pub(crate) const UNSIGNED: Signature = Signature([0; 64]);
}

impl PublicKey {
    /// The address coins are sent to.
    pub fn address(&self) -> AddressHash {
        AddressHash::of(self)
    }

    /// Whether `signature` is this key's low-S signature over SHA-256 of the concatenated `parts`. By libsecp256k1, which takes
    /// 40 us where k256, which signs, takes 114.
    pub fn verify(&self, parts: &[&[u8]], signature: &Signature) -> bool {
        let mut point = [4; 65];
        point[1..].copy_from_slice(&self.0);
        let Ok(key) = secp256k1::PublicKey::from_byte_array_uncompressed(point) else { return false };
        let Ok(signature) = secp256k1::ecdsa::Signature::from_compact(&signature.0) else { return false };
        let mut digest = Sha256::new();
        feed(&mut digest, parts);
        // Refuses the second valid form (n - s) too, which would give one statement two txids.
        signature.verify(secp256k1::Message::from_digest(digest.finalize().into()), &key).is_ok()
    }
}

fn feed(digest: &mut Sha256, parts: &[&[u8]]) {
    for part in parts {
        digest.update(part);
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode_hex(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode_hex(&self.0))
    }
}

/// The text was not 128 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a public key: expected 128 hexadecimal digits")]
pub struct BadPublicKey;

impl FromStr for PublicKey {
    type Err = BadPublicKey;

    fn from_str(text: &str) -> Result<PublicKey, BadPublicKey> {
        let mut bytes = [0; 64];
        decode_hex(text, &mut bytes).ok_or(BadPublicKey)?;
        Ok(PublicKey(bytes))
    }
}

/// The text was not 128 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a signature: expected 128 hexadecimal digits")]
pub struct BadSignature;

impl FromStr for Signature {
    type Err = BadSignature;

    fn from_str(text: &str) -> Result<Signature, BadSignature> {
        let mut bytes = [0; 64];
        decode_hex(text, &mut bytes).ok_or(BadSignature)?;
        Ok(Signature(bytes))
    }
}

/// A key pair that signs transactions and blocks and owns coins.
#[derive(Clone)]
pub struct Wallet {
    key: SigningKey,
    public: PublicKey,
}

impl fmt::Debug for Wallet {
    /// Never the private key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wallet({})", self.public.address())
    }
}

impl Wallet {
    /// A new random key.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn generate() -> Result<Wallet, KeyError> {
        loop {
            // Fails for one in 2^128: zero, or not below the group order.
            if let Some(wallet) = Wallet::from_secret(&random()?) {
                return Ok(wallet);
            }
        }
    }

    /// The key with this secret; `None` when it is zero or not below the group order.
    pub fn from_secret(secret: &[u8; 32]) -> Option<Wallet> {
        let key = SigningKey::from_slice(secret).ok()?;
        let point = key.verifying_key().to_sec1_point(false);
        let public = PublicKey(point.as_bytes().get(1..)?.try_into().ok()?);
        Some(Wallet { key, public })
    }

    /// The secret, for a key file or an export the user asked for.
    pub fn secret(&self) -> [u8; 32] {
        self.key.to_bytes().into()
    }

    /// The public key.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The address of the public key.
    pub fn address(&self) -> AddressHash {
        self.public.address()
    }

    /// Low-S signature, deterministic (RFC 6979), over SHA-256 of the concatenated `parts`.
    pub fn sign(&self, parts: &[&[u8]]) -> Signature {
        let signature: Ecdsa = self.key.sign_digest(|digest: &mut Sha256| feed(digest, parts));
        Signature(signature.normalize_s().to_bytes().into())
    }

    /// Low-S signature over a hash: of a transfer's [`signing hash`](crate::Transaction::signing_hash), the transfer's own.
    pub fn sign_hash(&self, hash: &crate::Hash) -> Signature {
        use k256::ecdsa::signature::hazmat::PrehashSigner;
        let signed: Result<Ecdsa, _> = self.key.sign_prehash(&hash.0);
        // Fails only for hashes that are too short.
        signed.map_or(Signature::UNSIGNED, |signature| Signature(signature.normalize_s().to_bytes().into()))
    }

    /// Reads a wallet's plain key file.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn load(path: &Path) -> Result<Wallet, KeyError> {
        Wallet::of_file(path, &*keyfile::load_plain(path, KeyKind::Wallet)?)
    }

    /// Writes a new plain key file, mode 0600, durably.
    ///
    /// # Errors
    /// The file exists, or cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), KeyError> {
        keyfile::save(path, KeyKind::Wallet, &Zeroizing::new(self.secret()))
    }

    /// Writes a new key file that `passphrase` opens (argon2id and AES-256-GCM), mode 0600, durably.
    ///
    /// # Errors
    /// The file exists, or cannot be written.
    pub fn save_sealed(&self, path: &Path, passphrase: &[u8]) -> Result<(), KeyError> {
        let secret = Zeroizing::new(self.secret());
        keyfile::save_sealed(path, KeyKind::Wallet, &secret, &self.public.0, passphrase)
    }

    fn of_file(path: &Path, secret: &[u8; 32]) -> Result<Wallet, KeyError> {
        Wallet::from_secret(secret).ok_or_else(|| KeyError::Malformed(path.to_path_buf()))
    }
}

/// A wallet's key file, read as far as that goes without a passphrase.
pub enum WalletFile {
    /// A plain one.
    Plain(Wallet),
    /// One that a passphrase opens.
    Sealed(SealedKey),
}

impl WalletFile {
    /// Reads a key file.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn read(path: &Path) -> Result<WalletFile, KeyError> {
        WalletFile::of(keyfile::load(path, KeyKind::Wallet)?, path)
    }

    /// The bytes of a key file that came from `path`.
    ///
    /// # Errors
    /// [`KeyError::Malformed`].
    pub fn parse(bytes: &[u8], path: &Path) -> Result<WalletFile, KeyError> {
        WalletFile::of(keyfile::parse(bytes, path, KeyKind::Wallet)?, path)
    }

    fn of(contents: Contents, path: &Path) -> Result<WalletFile, KeyError> {
        match contents {
            Contents::Plain(secret) => Wallet::of_file(path, &secret).map(WalletFile::Plain),
            Contents::Sealed(sealed) => Ok(WalletFile::Sealed(sealed)),
        }
    }

    /// Whose key it is. Of a sealed one as the file says: only opening it shows that it is true.
    pub fn public(&self) -> PublicKey {
        match self {
            WalletFile::Plain(wallet) => wallet.public,
            WalletFile::Sealed(sealed) => PublicKey(sealed.public()),
        }
    }

    /// Opens it with a passphrase; a plain one needs none.
    ///
    /// # Errors
    /// [`KeyError::Passphrase`] for a wrong one.
    pub fn open(&self, passphrase: &[u8]) -> Result<Wallet, KeyError> {
        match self {
            WalletFile::Plain(wallet) => Ok(wallet.clone()),
            WalletFile::Sealed(sealed) => {
                let wallet = Wallet::of_file(sealed.path(), &*sealed.open(passphrase)?)?;
                if wallet.public.0 != sealed.public() {
                    return Err(KeyError::Malformed(sealed.path().to_path_buf()));
                }
                Ok(wallet)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_sealed_wallet_opens_with_its_passphrase_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w");
        let wallet = Wallet::from_secret(&[7; 32]).unwrap();
        wallet.save_sealed(&path, b"correct horse").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let good = fs::read(&path).unwrap();
        assert!(!good.windows(32).any(|at| at == [7; 32]), "the secret stands in the file");
        let file = WalletFile::read(&path).unwrap();
        assert_eq!(file.public(), *wallet.public());
        assert_eq!(file.open(b"correct horse").unwrap().secret(), wallet.secret());
        assert!(matches!(file.open(b"wrong"), Err(KeyError::Passphrase(_))));
        assert!(matches!(Wallet::load(&path), Err(KeyError::Sealed(_))));
        assert!(matches!(wallet.save_sealed(&path, b"x"), Err(KeyError::Io(..))), "never replaced");
        // Bit rot is told from a wrong passphrase, and an altered field, its sum made right again, opens with none.
        for at in 0..good.len() - 32 {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert!(matches!(WalletFile::read(&path), Err(KeyError::Malformed(_))), "{at}");
        }
        let number = |at: usize| u32::from_le_bytes(good[at..at + 4].try_into().unwrap());
        assert_eq!((number(10), number(14)), (64 << 10, 3), "KiB and passes that a guess costs");
        // Another salt and nonce each time: no two files have a key or a keystream in common.
        let again = dir.path().join("again");
        wallet.save_sealed(&again, b"correct horse").unwrap();
        let again = fs::read(&again).unwrap();
        let same = good.iter().zip(&again).filter(|(a, b)| a == b).count();
        assert!(again.len() == good.len() && again[22..50] != good[22..50] && same < good.len() - 64, "{same}");
        // Costs, salt, nonce, public key, secret: one byte each (opening is slow on purpose).
        for at in [15, 19, 22, 40, 60, 120, 150] {
            let mut bad = good[..good.len() - 32].to_vec();
            bad[at] ^= 1;
            let sum = Sha256::digest(&bad);
            bad.extend_from_slice(&sum);
            fs::write(&path, &bad).unwrap();
            assert!(WalletFile::read(&path).and_then(|file| file.open(b"correct horse")).is_err(), "{at}");
        }
    }

    #[test]
    fn signatures_verify_and_altered_ones_do_not() {
        let wallet = Wallet::from_secret(&[7; 32]).unwrap();
        let signature = wallet.sign(&[b"domain", b"message"]);
        assert!(wallet.public().verify(&[b"domainmessage"], &signature));
        assert!(!wallet.public().verify(&[b"domain", b"massage"], &signature));
        for bit in 0..512 {
            let mut altered = signature;
            altered.0[bit / 8] ^= 1 << (bit % 8);
            assert!(!wallet.public().verify(&[b"domainmessage"], &altered));
        }
        assert!(!PublicKey([0; 64]).verify(&[b"domainmessage"], &signature));
    }

    #[test]
    fn both_libraries_judge_alike() {
        use k256::ecdsa::signature::hazmat::PrehashVerifier;
        let by_k256 = |wallet: &Wallet, message: &[u8], signature: &Signature| {
            let key = wallet.key.verifying_key();
            let parsed = Ecdsa::from_slice(&signature.0);
            parsed.is_ok_and(|s| s.normalize_s() == s && key.verify_prehash(&Sha256::digest(message), &s).is_ok())
        };
        for number in 1..=200u8 {
            let wallet = Wallet::from_secret(&[number; 32]).unwrap();
            let mut signature = wallet.sign(&[&[number]]);
            assert!(by_k256(&wallet, &[number], &signature));
            signature.0[usize::from(number) % 64] ^= 1 << (number % 8);
            for message in [number, number + 1] {
                let ours = wallet.public().verify(&[&[message]], &signature);
                assert_eq!(ours, by_k256(&wallet, &[message], &signature), "{number}");
            }
        }
        for edge in [[0; 64], [0xff; 64]] {
            assert!(!Wallet::from_secret(&[1; 32]).unwrap().public().verify(&[b"m"], &Signature(edge)));
        }
    }

    #[test]
    fn the_high_s_twin_is_refused() {
        let wallet = Wallet::from_secret(&[7; 32]).unwrap();
        let low = Ecdsa::from_slice(&wallet.sign(&[b"m"]).0).unwrap();
        let high = Ecdsa::from_scalars(low.r(), -low.s()).unwrap();
        assert!(!wallet.public().verify(&[b"m"], &Signature(high.to_bytes().into())));
    }

    #[test]
    fn key_files_are_private_whole_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node");
        let wallet = Wallet::generate().unwrap();
        wallet.save(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Wallet::load(&path).unwrap().public(), wallet.public());
        assert!(matches!(Wallet::generate().unwrap().save(&path), Err(KeyError::Io(..))));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let good = fs::read(&path).unwrap();
        for byte in 0..good.len() {
            let mut bad = good.clone();
            bad[byte] ^= 1;
            fs::write(&path, bad).unwrap();
            assert!(matches!(Wallet::load(&path), Err(KeyError::Malformed(_))), "{byte}");
        }
        fs::write(&path, b"").unwrap();
        assert!(matches!(Wallet::load(&path), Err(KeyError::Malformed(_))));
        // A pipe that nobody writes into.
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(matches!(WalletFile::read(&pipe), Err(KeyError::Malformed(_))));
    }
}
