//! The bytes of a member as its compression left them: read from the archive at a place, and deciphered.
//!
//! Sources: APPNOTE 6.1 for the old encryption (in crate rawzip); WinZip's "AES Encryption Information" for AE-1 and AE-2:
//! salt, 2 bytes that check the password, AES in counter mode with a little-endian counter from 1, 10 bytes of
//! HMAC-SHA1 over the ciphertext; keys by PBKDF2 with 1,000 rounds.

use aes::{Aes128, Aes192, Aes256};
use ctr::Ctr128LE;
use ctr::cipher::{KeyIvInit, StreamCipher, StreamCipherSeek};
use hmac::{Hmac, KeyInit, Mac};
use rawzip::zipcrypto::Decryptor;
use sha1::Sha1;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Rounds of PBKDF2, fixed by the format.
const ROUNDS: u32 = 1000;
/// Bytes of the password check and of the authentication code.
const CHECK_BYTES: usize = 2;
const CODE_BYTES: u64 = 10;
/// Bytes that the old encryption puts before the content.
const OLD_HEADER_BYTES: u64 = 12;

/// How a member is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encryption {
    /// The old encryption of PKZIP; `check` is the last byte of its header.
    ZipCrypto { check: u8 },
    /// AE-1 or AE-2 with a key of 16, 24 or 32 bytes.
    Aes { key: usize },
}

/// Why a member cannot be deciphered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Locked {
    #[error("it is encrypted")]
    NoPassphrase,
    #[error("it is encrypted with another passphrase")]
    WrongPassphrase,
    #[error(transparent)]
    Read(#[from] io::Error),
}

/// A part of the archive, read in order. Readers do not disturb each other.
#[derive(Debug, Clone)]
pub(crate) struct Section {
    pub(crate) file: Arc<File>,
    pub(crate) at: u64,
    pub(crate) end: u64,
}

impl Read for Section {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let wanted = buf.len().min(left);
        let read = self.file.read_at(&mut buf[..wanted], self.at)?;
        if read == 0 && wanted > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += read as u64;
        Ok(read)
    }
}

/// A member's compressed bytes in order.
pub(crate) enum Input {
    Plain(Section),
    ZipCrypto(Box<Decryptor<Section>>),
    Aes(Box<Aes>),
}

impl Input {
    /// The input of a member whose bytes are `section`.
    ///
    /// # Errors
    /// [`Locked`].
    pub(crate) fn open(
        section: Section,
        encryption: Option<Encryption>,
        passphrase: Option<&[u8]>,
    ) -> Result<Self, Locked> {
        let Some(encryption) = encryption else { return Ok(Self::Plain(section)) };
        let passphrase = passphrase.ok_or(Locked::NoPassphrase)?;
        match encryption {
            Encryption::Aes { key } => Ok(Self::Aes(Box::new(Aes::open(section, key, passphrase)?))),
            Encryption::ZipCrypto { check } => {
                if section.end - section.at < OLD_HEADER_BYTES {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
                let input = Decryptor::new(section, passphrase)?;
                if input.check_byte() != check {
                    return Err(Locked::WrongPassphrase);
                }
                Ok(Self::ZipCrypto(Box::new(input)))
            }
        }
    }

    /// Another reader at the same place; the old encryption cannot be taken up in the middle.
    pub(crate) fn fork(&self) -> Option<Self> {
        match self {
            Self::Plain(section) => Some(Self::Plain(section.clone())),
            Self::Aes(aes) => aes.fork().map(|aes| Self::Aes(Box::new(aes))),
            Self::ZipCrypto(_) => None,
        }
    }
}

impl Read for Input {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(section) => section.read(buf),
            Self::ZipCrypto(input) => input.read(buf),
            Self::Aes(aes) => aes.read(buf),
        }
    }
}

enum Stream {
    Aes128(Ctr128LE<Aes128>),
    Aes192(Ctr128LE<Aes192>),
    Aes256(Ctr128LE<Aes256>),
}

impl Stream {
    /// The key stream of `key` from byte `at` on. `None` for keys of other lengths and beyond its end.
    fn new(key: &[u8], at: u64) -> Option<Self> {
        let mut counter = [0; 16];
        counter[0] = 1;
        let mut stream = match key.len() {
            16 => Self::Aes128(Ctr128LE::new_from_slices(key, &counter).ok()?),
            24 => Self::Aes192(Ctr128LE::new_from_slices(key, &counter).ok()?),
            _ => Self::Aes256(Ctr128LE::new_from_slices(key, &counter).ok()?),
        };
        match &mut stream {
            Self::Aes128(stream) => stream.try_seek(at),
            Self::Aes192(stream) => stream.try_seek(at),
            Self::Aes256(stream) => stream.try_seek(at),
        }
        .ok()?;
        Some(stream)
    }

    fn apply(&mut self, bytes: &mut [u8]) {
        match self {
            Self::Aes128(stream) => stream.apply_keystream(bytes),
            Self::Aes192(stream) => stream.apply_keystream(bytes),
            Self::Aes256(stream) => stream.apply_keystream(bytes),
        }
    }
}

/// A member under AE-1 or AE-2. Its last read fails when the bytes are not those that were authenticated.
pub(crate) struct Aes {
    section: Section,
    /// Where the ciphertext begins.
    begin: u64,
    key: Vec<u8>,
    stream: Stream,
    code: Hmac<Sha1>,
}

impl Aes {
    fn open(mut section: Section, key: usize, passphrase: &[u8]) -> Result<Self, Locked> {
        let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let mut head = vec![0; key / 2 + CHECK_BYTES];
        section.end = section.end.checked_sub(CODE_BYTES).ok_or_else(short)?;
        if section.end.saturating_sub(section.at) < head.len() as u64 {
            return Err(short().into());
        }
        section.read_exact(&mut head)?;
        let (salt, check) = head.split_at(key / 2);
        let mut keys = vec![0; 2 * key + CHECK_BYTES];
        pbkdf2::pbkdf2_hmac::<Sha1>(passphrase, salt, ROUNDS, &mut keys);
        let (cipher_key, rest) = keys.split_at(key);
        let (code_key, expected) = rest.split_at(key);
        if expected != check {
            return Err(Locked::WrongPassphrase);
        }
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let stream = Stream::new(cipher_key, 0).ok_or_else(invalid)?;
        let code = Hmac::new_from_slice(code_key).map_err(|_| invalid())?;
        Ok(Self { begin: section.at, section, key: cipher_key.to_vec(), stream, code })
    }

    fn fork(&self) -> Option<Self> {
        Some(Self {
            section: self.section.clone(),
            begin: self.begin,
            key: self.key.clone(),
            stream: Stream::new(&self.key, self.section.at - self.begin)?,
            code: self.code.clone(),
        })
    }

    /// Compare the authentication code, which follows the content.
    fn authenticate(&self) -> io::Result<()> {
        let mut code = [0; CODE_BYTES as usize];
        self.section.file.read_exact_at(&mut code, self.section.end)?;
        let fits = self.code.clone().verify_truncated_left(&code);
        fits.map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "its authentication code does not fit"))
    }
}

impl Read for Aes {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.section.read(buf)?;
        let bytes = &mut buf[..read];
        self.code.update(bytes);
        self.stream.apply(bytes);
        if read > 0 && self.section.at == self.section.end {
            self.authenticate()?;
        }
        Ok(read)
    }
}
