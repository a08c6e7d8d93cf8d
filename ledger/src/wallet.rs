//! Wallet keys (secp256k1) and the files that hold keys.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use borsh::{BorshDeserialize, BorshSerialize};
use k256::ecdsa::signature::{DigestSigner, DigestVerifier};
use k256::ecdsa::{Signature as Ecdsa, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};

use crate::address::AddressHash;
use crate::hash::{decode_hex, encode_hex};

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

    /// Whether `signature` is this key's low-S signature over SHA-256 of the concatenated `parts`.
    pub fn verify(&self, parts: &[&[u8]], signature: &Signature) -> bool {
        let mut point = [4; 65];
        point[1..].copy_from_slice(&self.0);
        let Ok(key) = VerifyingKey::from_sec1_bytes(&point) else { return false };
        let Ok(signature) = Ecdsa::from_slice(&signature.0) else { return false };
        // A second valid form (n - s) would give one statement two txids.
        if signature.normalize_s() != signature {
            return false;
        }
        key.verify_digest(
            |digest: &mut Sha256| {
                feed(digest, parts);
                Ok(())
            },
            &signature,
        )
        .is_ok()
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

    /// Reads a wallet's key file.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn load(path: &Path) -> Result<Wallet, KeyError> {
        let secret = load_key(path, KeyKind::Wallet)?;
        Wallet::from_secret(&secret).ok_or_else(|| KeyError::Malformed(path.to_path_buf()))
    }

    /// Writes a new key file, mode 0600, durably.
    ///
    /// # Errors
    /// The file exists, or cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), KeyError> {
        save_key(path, KeyKind::Wallet, self.secret())
    }
}

/// What a key file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
pub(crate) enum KeyKind {
    /// A secp256k1 secret.
    Wallet = 1,
    /// An Ed25519 seed.
    Log = 2,
}

/// How a key file protects its secret. Version 2 is kept for argon2id and AES-256-GCM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
enum KeyFileVersion {
    Plain = 1,
}

/// Contents of a key file: 8 bytes magic, version, kind, secret, then SHA-256 over all of it against bit rot.
#[derive(BorshSerialize, BorshDeserialize)]
struct KeyFile {
    magic: [u8; 8],
    version: KeyFileVersion,
    kind: KeyKind,
    secret: [u8; 32],
}

const KEY_MAGIC: [u8; 8] = *b"wizekey\0";

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error("key file {0}: {1}")]
    Io(PathBuf, #[source] io::Error),
    /// Not a key file of a version known here, or of another kind, or damaged.
    #[error("key file {0}: not a plain key file of this kind, or damaged")]
    Malformed(PathBuf),
    /// The system has no randomness.
    #[error("no random numbers: {0}")]
    Random(getrandom::Error),
}

pub(crate) fn random<const N: usize>() -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(KeyError::Random)?;
    Ok(bytes)
}

pub(crate) fn load_key(path: &Path, kind: KeyKind) -> Result<[u8; 32], KeyError> {
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(4096).read_to_end(&mut bytes));
    read.map_err(|error| KeyError::Io(path.to_path_buf(), error))?;
    let malformed = || KeyError::Malformed(path.to_path_buf());
    let (body, sum) = bytes.split_at_checked(bytes.len().saturating_sub(32)).ok_or_else(malformed)?;
    let file: KeyFile = borsh::from_slice(body).map_err(|_| malformed())?;
    if file.magic != KEY_MAGIC || file.kind != kind || Sha256::digest(body).as_slice() != sum {
        return Err(malformed());
    }
    Ok(file.secret)
}

pub(crate) fn save_key(path: &Path, kind: KeyKind, secret: [u8; 32]) -> Result<(), KeyError> {
    let file = KeyFile { magic: KEY_MAGIC, version: KeyFileVersion::Plain, kind, secret };
    let mut bytes = crate::codec::encode(&file);
    bytes.extend_from_slice(&Sha256::digest(&bytes));
    write_private(path, &bytes).map_err(|error| KeyError::Io(path.to_path_buf(), error))
}

/// Creates `path` whole or not at all: a key file torn by a crash would lock its owner out.
fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut temporary_name = name.to_os_string();
    temporary_name.push(format!(".{}.tmp", std::process::id()));
    let temporary = directory.join(temporary_name);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    // A hard link refuses to replace an existing key, which rename would not.
    let linked = written.and_then(|()| fs::hard_link(&temporary, path));
    fs::remove_file(&temporary)?;
    linked?;
    fs::File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

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
    }
}
