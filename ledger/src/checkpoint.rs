//! Signed tree heads: C2SP `tlog-checkpoint` inside a C2SP signed note, Ed25519 (note type 0x01).

use std::fmt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};

use crate::hash::Hash;
use crate::keyfile::{self, KeyError, KeyKind, random};

/// Note signature type of an Ed25519 key.
pub(crate) const ED25519: u8 = 0x01;
/// Longest checkpoint read, in bytes (the note limit that witnesses use).
const MAX_NOTE: usize = 65_536;

/// The Ed25519 key that signs checkpoints.
#[derive(Clone)]
pub struct LogKey(SigningKey);

impl fmt::Debug for LogKey {
    /// Never the private key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogKey({:?})", Hash(self.public()))
    }
}

impl LogKey {
    /// A new random key.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn generate() -> Result<LogKey, KeyError> {
        Ok(LogKey::from_seed(&random()?))
    }

    /// The key with this seed.
    pub fn from_seed(seed: &[u8; 32]) -> LogKey {
        LogKey(SigningKey::from_bytes(seed))
    }

    /// The public key.
    pub fn public(&self) -> [u8; 32] {
        self.0.verifying_key().to_bytes()
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn load(path: &Path) -> Result<LogKey, KeyError> {
        Ok(LogKey::from_seed(&*keyfile::load_plain(path, KeyKind::Log)?))
    }

    /// Writes a new key file, mode 0600, durably.
    ///
    /// # Errors
    /// The file exists, or cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), KeyError> {
        keyfile::save(path, KeyKind::Log, &self.0.to_bytes())
    }
}

/// The name of a chain's log: `wizefs.invalid/<chain id>`. The `.invalid` domain is nobody's (RFC 2606).
pub fn origin(chain: &Hash) -> String {
    format!("wizefs.invalid/{chain}")
}

/// A C2SP verifier key: key name, 4-byte key id in hex, base64 of type byte and key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vkey {
    /// Key name; for a log key its origin.
    pub name: String,
    /// Ed25519 public key.
    pub key: [u8; 32],
}

impl Vkey {
    /// First four bytes of SHA-256(name || 0x0A || type || key).
    pub fn id(&self) -> [u8; 4] {
        self.id_as(ED25519)
    }

    /// The id of this key when it makes signatures of note type `kind`.
    pub(crate) fn id_as(&self, kind: u8) -> [u8; 4] {
        let hash = Hash::of(&[self.name.as_bytes(), b"\n", &[kind], &self.key]);
        [hash.0[0], hash.0[1], hash.0[2], hash.0[3]]
    }

    /// Reads a verifier key line; `None` when malformed or when its id does not match.
    pub fn parse(line: &str) -> Option<Vkey> {
        Vkey::parse_as(line, ED25519)
    }

    /// Reads a verifier key line of note type `kind`.
    pub(crate) fn parse_as(line: &str, kind: u8) -> Option<Vkey> {
        // Only the first two `+` separate: base64 has that letter too.
        let (name, rest) = line.split_once('+')?;
        let (id, encoded) = rest.split_once('+')?;
        let bytes = STANDARD.decode(encoded).ok()?;
        let (found, key) = bytes.split_first()?;
        let vkey = Vkey { name: name.to_owned(), key: key.try_into().ok()? };
        let legal = !name.is_empty() && !name.contains(char::is_whitespace);
        (legal && *found == kind && hex4(&vkey.id_as(kind)) == id).then_some(vkey)
    }

    /// Whether a line's signature bytes are this key's over `text`.
    pub(crate) fn verify(&self, text: &[u8], signature: &[u8]) -> bool {
        let Ok(key) = VerifyingKey::from_bytes(&self.key) else { return false };
        let Ok(signature) = ed25519_dalek::Signature::from_slice(signature) else { return false };
        key.verify_strict(text, &signature).is_ok()
    }
}

impl fmt::Display for Vkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![ED25519];
        bytes.extend_from_slice(&self.key);
        write!(f, "{}+{}+{}", self.name, hex4(&self.id()), STANDARD.encode(bytes))
    }
}

pub(crate) fn hex4(id: &[u8; 4]) -> String {
    format!("{:08x}", u32::from_be_bytes(*id))
}

/// A signature line of a note.
pub(crate) struct NoteLine<'a> {
    /// Name of the key.
    pub(crate) name: &'a str,
    /// Id of the key.
    pub(crate) id: [u8; 4],
    /// What follows the id.
    pub(crate) signature: Vec<u8>,
}

impl NoteLine<'_> {
    pub(crate) fn parse(line: &str) -> Option<NoteLine<'_>> {
        let (name, encoded) = line.strip_prefix("\u{2014} ")?.split_once(' ')?;
        let bytes = STANDARD.decode(encoded).ok()?;
        let (id, signature) = bytes.split_first_chunk::<4>()?;
        Some(NoteLine { name, id: *id, signature: signature.to_vec() })
    }

    /// Whether it claims to be this key's, as note type `kind`.
    pub(crate) fn is_of(&self, key: &Vkey, kind: u8) -> bool {
        self.name == key.name && self.id == key.id_as(kind)
    }
}

/// What a checkpoint states: this log, at this size, has this root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Name of the log.
    pub origin: String,
    /// Entries in it.
    pub size: u64,
    /// RFC 6962 root over them.
    pub root: Hash,
}

/// Why text is no checkpoint of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Not a checkpoint in a signed note.
    #[error("not a checkpoint in a signed note")]
    Malformed,
    /// Of another log.
    #[error("the checkpoint is of another log")]
    Origin,
    /// No signature of the expected key, or a wrong one.
    #[error("the checkpoint is not signed by the expected key")]
    Signature,
}

impl Checkpoint {
    /// The note's text: three lines.
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root.0))
    }

    /// The signed note: text, empty line, one signature line.
    pub fn sign(&self, key: &LogKey) -> String {
        let text = self.text();
        let vkey = Vkey { name: self.origin.clone(), key: key.public() };
        let mut signature = vkey.id().to_vec();
        signature.extend_from_slice(&key.0.sign(text.as_bytes()).to_bytes());
        format!("{text}\n\u{2014} {} {}\n", vkey.name, STANDARD.encode(signature))
    }

    /// Reads a signed note and checks it against the log's key. Lines of other keys and extension lines are ignored.
    ///
    /// # Errors
    /// See [`CheckpointError`].
    pub fn verify(note: &str, vkey: &Vkey) -> Result<Checkpoint, CheckpointError> {
        let (checkpoint, text, signatures) = Checkpoint::parse(note).ok_or(CheckpointError::Malformed)?;
        if checkpoint.origin != vkey.name {
            return Err(CheckpointError::Origin);
        }
        let ours = |line: &str| {
            let line = NoteLine::parse(line)?;
            (line.is_of(vkey, ED25519)).then(|| vkey.verify(text.as_bytes(), &line.signature))
        };
        // A second line of the same key that fails makes the note bad: it would be read differently elsewhere.
        let verdicts: Vec<bool> = signatures.lines().filter_map(ours).collect();
        if verdicts.is_empty() || verdicts.contains(&false) {
            return Err(CheckpointError::Signature);
        }
        Ok(checkpoint)
    }

    /// What a signed note states, its signatures unchecked.
    ///
    /// # Errors
    /// It is no checkpoint in a signed note.
    pub fn unchecked(note: &str) -> Result<Checkpoint, CheckpointError> {
        Checkpoint::parse(note).map(|(checkpoint, ..)| checkpoint).ok_or(CheckpointError::Malformed)
    }

    /// Splits a note into what it states, the signed text and the signature lines.
    pub(crate) fn parse(note: &str) -> Option<(Checkpoint, &str, &str)> {
        // C2SP signed-note has no control characters but newlines.
        let is_plain = note.bytes().all(|byte| byte >= b' ' || byte == b'\n');
        if note.len() > MAX_NOTE || !note.ends_with('\n') || !is_plain {
            return None;
        }
        let split = note.rfind("\n\n")?;
        let (text, signatures) = (&note[..=split], &note[split + 2..]);
        if signatures.is_empty() || !signatures.lines().all(|line| line.starts_with("\u{2014} ")) {
            return None;
        }
        let mut lines = text.lines();
        let (origin, size, root) = (lines.next()?, lines.next()?, lines.next()?);
        if origin.is_empty() || (size.starts_with('0') && size != "0") || !size.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let root = Hash(STANDARD.decode(root).ok()?.try_into().ok()?);
        Some((Checkpoint { origin: origin.to_owned(), size: size.parse().ok()?, root }, text, signatures))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed() -> (Checkpoint, String, Vkey) {
        let key = LogKey::from_seed(&[9; 32]);
        let checkpoint = Checkpoint { origin: origin(&Hash([1; 32])), size: 12, root: Hash([2; 32]) };
        let vkey = Vkey { name: checkpoint.origin.clone(), key: key.public() };
        (checkpoint.clone(), checkpoint.sign(&key), vkey)
    }

    #[test]
    fn a_signed_checkpoint_verifies_and_no_altered_one_does() {
        let (checkpoint, note, vkey) = signed();
        assert_eq!(Checkpoint::verify(&note, &vkey), Ok(checkpoint.clone()));
        for at in 0..note.len() {
            let mut bytes = note.clone().into_bytes();
            bytes[at] ^= 1;
            if let Ok(text) = String::from_utf8(bytes) {
                assert_ne!(Checkpoint::verify(&text, &vkey), Ok(checkpoint.clone()), "byte {at}");
            }
            if note.is_char_boundary(at) {
                assert!(Checkpoint::verify(&note[..at], &vkey).is_err());
            }
        }
    }

    #[test]
    fn other_signatures_are_ignored_and_other_keys_refused() {
        let (checkpoint, note, vkey) = signed();
        let witnessed = format!("{note}\u{2014} witness.example {}\n", STANDARD.encode([7; 72]));
        assert_eq!(Checkpoint::verify(&witnessed, &vkey), Ok(checkpoint));
        let stranger = Vkey { key: LogKey::from_seed(&[8; 32]).public(), ..vkey.clone() };
        assert_eq!(Checkpoint::verify(&note, &stranger), Err(CheckpointError::Signature));
        let elsewhere = Vkey { name: "example.org/log".into(), ..vkey };
        assert_eq!(Checkpoint::verify(&note, &elsewhere), Err(CheckpointError::Origin));
    }

    #[test]
    fn a_note_has_no_control_characters() {
        let (_, note, vkey) = signed();
        for control in ['\r', '\t', '\0'] {
            for at in note.match_indices('\n').map(|(at, _)| at) {
                let altered = format!("{}{control}{}", &note[..at], &note[at..]);
                assert_eq!(Checkpoint::verify(&altered, &vkey), Err(CheckpointError::Malformed), "{altered:?}");
            }
        }
    }

    #[test]
    fn verifier_keys_round_trip() {
        let line = "example.com/foo+530d903c+ARKWv8p6Hw3oZzRk4hU1H0J5lK2N9qPtR7sXwYzVbTcd";
        assert_eq!(Vkey::parse(line), None, "an id that does not match its key");
        let (_, _, vkey) = signed();
        assert_eq!(Vkey::parse(&vkey.to_string()), Some(vkey.clone()));
        assert_eq!(Vkey::parse(&vkey.to_string().replace('+', "-")), None);
        for bad in ["", "+", "++", "a+b", "a+00000000+"] {
            assert_eq!(Vkey::parse(bad), None);
        }
    }
}
