//! The files that hold keys: plain, or sealed with a passphrase by argon2id and AES-256-GCM. FORMAT.md section 7.
//!
//! A file is made whole or not at all, mode 0600, and never replaces another.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use argon2::{Algorithm, Argon2, Params, Version};
use borsh::{BorshDeserialize, BorshSerialize};
use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// First bytes of every key file.
const MAGIC: [u8; 8] = *b"wizekey\0";
/// Longest key file read.
const MOST: u64 = 4096;
/// Argon2id's costs of new files: 64 MiB, three passes, one lane (the second choice of RFC 9106 but for its lanes).
const COST: Cost = Cost { memory_kib: 64 * 1024, passes: 3, lanes: 1 };
/// Costs beyond these are refused: reading a file must not take all memory, or for ever.
const MOST_COST: Cost = Cost { memory_kib: 1 << 20, passes: 64, lanes: 16 };

/// What a key file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
pub(crate) enum KeyKind {
    /// A secp256k1 secret.
    Wallet = 1,
    /// An Ed25519 seed.
    Log = 2,
}

/// How a file protects its secret.
#[derive(BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
enum Protection {
    /// Not at all: version 1.
    Plain { kind: KeyKind, secret: [u8; 32] } = 1,
    /// By a passphrase: version 2.
    Sealed(Sealed) = 2,
}

/// A secret sealed with a passphrase.
#[derive(BorshSerialize, BorshDeserialize)]
struct Sealed {
    kind: KeyKind,
    cost: Cost,
    salt: [u8; 16],
    nonce: [u8; 12],
    /// X||Y: whose key it is can be told without the passphrase.
    public: [u8; 64],
    /// The secret and the tag of AES-256-GCM.
    secret: [u8; 48],
}

/// Argon2id's costs.
#[derive(Clone, Copy, BorshSerialize, BorshDeserialize)]
struct Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

/// A key file's contents; SHA-256 over all of it follows, against bit rot.
#[derive(BorshSerialize, BorshDeserialize)]
struct KeyFile {
    magic: [u8; 8],
    protection: Protection,
}

/// A key file as far as it can be read without a passphrase.
pub(crate) enum Contents {
    /// The secret.
    Plain(Zeroizing<[u8; 32]>),
    /// A sealed one.
    Sealed(SealedKey),
}

/// A key that a passphrase opens.
pub struct SealedKey {
    path: PathBuf,
    sealed: Sealed,
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error("key file {0}: {1}")]
    Io(PathBuf, #[source] io::Error),
    /// Not a key file of a version known here, or of another kind, or damaged.
    #[error("key file {0}: not a key file of this kind, or damaged")]
    Malformed(PathBuf),
    /// It is sealed, and no passphrase was given.
    #[error("key file {0}: a passphrase is needed")]
    Sealed(PathBuf),
    /// The passphrase does not open it.
    #[error("key file {0}: wrong passphrase")]
    Passphrase(PathBuf),
    /// The system has no randomness.
    #[error("no random numbers: {0}")]
    Random(getrandom::Error),
}

pub(crate) fn random<const N: usize>() -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(KeyError::Random)?;
    Ok(bytes)
}

/// Reads a key file of this kind.
pub(crate) fn load(path: &Path, kind: KeyKind) -> Result<Contents, KeyError> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(256));
    // A pipe among the keys is not waited for.
    let flags = OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let read = file.and_then(|file| file.take(MOST).read_to_end(&mut bytes));
    read.map_err(|error| KeyError::Io(path.to_path_buf(), error))?;
    parse(&bytes, path, kind)
}

/// What the bytes of a key file of this kind, which came from `path`, hold.
pub(crate) fn parse(bytes: &[u8], path: &Path, kind: KeyKind) -> Result<Contents, KeyError> {
    let malformed = || KeyError::Malformed(path.to_path_buf());
    let (body, sum) = bytes.split_at_checked(bytes.len().saturating_sub(32)).ok_or_else(malformed)?;
    let file: KeyFile = borsh::from_slice(body).map_err(|_| malformed())?;
    if file.magic != MAGIC || Sha256::digest(body).as_slice() != sum {
        return Err(malformed());
    }
    match file.protection {
        Protection::Plain { kind: found, secret } if found == kind => Ok(Contents::Plain(Zeroizing::new(secret))),
        Protection::Sealed(sealed) if sealed.kind == kind => {
            Ok(Contents::Sealed(SealedKey { path: path.to_path_buf(), sealed }))
        }
        _ => Err(malformed()),
    }
}

/// Reads a plain key file of this kind.
pub(crate) fn load_plain(path: &Path, kind: KeyKind) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    match load(path, kind)? {
        Contents::Plain(secret) => Ok(secret),
        Contents::Sealed(_) => Err(KeyError::Sealed(path.to_path_buf())),
    }
}

impl SealedKey {
    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The public key, X||Y.
    pub(crate) fn public(&self) -> [u8; 64] {
        self.sealed.public
    }

    /// The secret.
    pub(crate) fn open(&self, passphrase: &[u8]) -> Result<Zeroizing<[u8; 32]>, KeyError> {
        let Sealed { cost, salt, nonce, secret, .. } = &self.sealed;
        let malformed = || KeyError::Malformed(self.path.clone());
        let key = derive(passphrase, salt, cost).ok_or_else(malformed)?;
        let payload = Payload { msg: secret, aad: &aad(&self.sealed) };
        let opened = Aes256Gcm::new((&*key).into()).decrypt(&Nonce::from(*nonce), payload);
        let opened = Zeroizing::new(opened.map_err(|_| KeyError::Passphrase(self.path.clone()))?);
        let secret: [u8; 32] = opened.as_slice().try_into().map_err(|_| malformed())?;
        Ok(Zeroizing::new(secret))
    }
}

/// All fields before the secret: none can be altered without the passphrase.
fn aad(sealed: &Sealed) -> Vec<u8> {
    let mut bytes = crate::codec::encode(sealed);
    bytes.truncate(bytes.len() - sealed.secret.len());
    [&MAGIC[..], &[2], &bytes].concat()
}

fn derive(passphrase: &[u8], salt: &[u8; 16], cost: &Cost) -> Option<Zeroizing<[u8; 32]>> {
    let most = MOST_COST;
    if cost.memory_kib > most.memory_kib || cost.passes > most.passes || cost.lanes > most.lanes {
        return None;
    }
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32)).ok()?;
    let mut key = Zeroizing::new([0; 32]);
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon.hash_password_into(passphrase, salt, &mut *key).ok()?;
    Some(key)
}

/// Writes a new plain key file.
pub(crate) fn save(path: &Path, kind: KeyKind, secret: &[u8; 32]) -> Result<(), KeyError> {
    write(path, Protection::Plain { kind, secret: *secret })
}

/// Writes a new key file that `passphrase` opens.
pub(crate) fn save_sealed(
    path: &Path,
    kind: KeyKind,
    secret: &[u8; 32],
    public: &[u8; 64],
    passphrase: &[u8],
) -> Result<(), KeyError> {
    let (salt, nonce) = (random()?, random()?);
    write(path, Protection::Sealed(seal(kind, secret, public, passphrase, salt, nonce, path)?))
}

fn seal(
    kind: KeyKind,
    secret: &[u8; 32],
    public: &[u8; 64],
    passphrase: &[u8],
    salt: [u8; 16],
    nonce: [u8; 12],
    path: &Path,
) -> Result<Sealed, KeyError> {
    let malformed = || KeyError::Malformed(path.to_path_buf());
    let mut sealed = Sealed { kind, cost: COST, salt, nonce, public: *public, secret: [0; 48] };
    let key = derive(passphrase, &salt, &COST).ok_or_else(malformed)?;
    let payload = Payload { msg: secret, aad: &aad(&sealed) };
    let bytes = Aes256Gcm::new((&*key).into()).encrypt(&Nonce::from(nonce), payload).map_err(|_| malformed())?;
    sealed.secret = bytes.try_into().map_err(|_| malformed())?;
    Ok(sealed)
}

fn write(path: &Path, protection: Protection) -> Result<(), KeyError> {
    let mut bytes = Zeroizing::new(crate::codec::encode(&KeyFile { magic: MAGIC, protection }));
    let sum = Sha256::digest(&bytes);
    bytes.extend_from_slice(&sum);
    write_private(path, &bytes).map_err(|error| KeyError::Io(path.to_path_buf(), error))
}

/// Creates `path` whole or not at all: a key file torn by a crash would lock its owner out.
fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let id: [u8; 8] = random().map_err(io::Error::other)?;
    let temporary = directory.join(format!(".{:016x}.tmp", u64::from_be_bytes(id)));
    create_private(&temporary, bytes)?;
    let named = give_name(&temporary, path, bytes);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return named.and(Err(error)),
        _ => named?,
    }
    fs::File::open(directory)?.sync_all()
}

/// Writes a file that is not there yet, mode 0600, durably.
fn create_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    match file.set_permissions(fs::Permissions::from_mode(0o600)) {
        // The mount of a file system without modes says who may read it.
        Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
        _ => {}
    }
    file.write_all(bytes).and_then(|()| file.sync_all())
}

/// Gives a whole file its name without replacing an existing key. Not all file systems can rename so, nor have all hard
/// links; where there is neither, the file is written in its place.
fn give_name(temporary: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let taken = |error: &io::Error| error.kind() == io::ErrorKind::AlreadyExists;
    let renamed = renameat_with(CWD, temporary, CWD, path, RenameFlags::NOREPLACE).map_err(io::Error::from);
    match renamed {
        Err(error) if !taken(&error) => {}
        done => return done,
    }
    match fs::hard_link(temporary, path) {
        Err(error) if !taken(&error) => create_private(path, bytes),
        done => done,
    }
}
