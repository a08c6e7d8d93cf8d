//! Whose checkpoints count: a list of verifier keys, or a C2SP `tlog-policy`.

use std::collections::{HashMap, HashSet};

use crate::checkpoint::{Checkpoint, CheckpointError, ED25519, NoteLine, Vkey, hex4};

/// Note type of an Ed25519 cosignature (C2SP `tlog-cosignature`).
const COSIGNATURE: u8 = 0x04;

/// Which logs are trusted, and how many witnesses must have seen a checkpoint.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    logs: Vec<Vkey>,
    /// By name, in the order of the file: a group names only what stands above it.
    members: HashMap<String, Member>,
    quorum: Option<String>,
}

#[derive(Debug, Clone)]
enum Member {
    Witness(Vkey),
    Group { needed: usize, members: Vec<String>, depth: usize },
}

/// What may stand once only, as far as a policy was read: keys of logs and of witnesses, and names in groups.
#[derive(Default)]
struct Taken {
    logs: HashSet<[u8; 32]>,
    witnesses: HashSet<[u8; 32]>,
    grouped: HashSet<String>,
}

/// Groups within groups: more than anybody needs, and few enough to be judged by recursion.
const MOST_DEPTH: usize = 16;

/// Why text is no policy: the number of the line, from 1, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct BadPolicy {
    /// The line, from 1; the last one for what is missing.
    pub line: usize,
    /// What is wrong.
    pub what: &'static str,
}

/// What a policy says of a checkpoint whose signatures are sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// A trusted log signed it, and enough witnesses did.
    Trusted(Vkey),
    /// None of its log's signatures is of a trusted key; the ids of those it carries, in hex.
    NoTrustedKey(Vec<String>),
    /// A trusted log signed it, but too few witnesses did.
    TooFewWitnesses(Vkey),
}

impl Policy {
    /// Trusts these logs, without witnesses.
    pub fn of_logs(logs: Vec<Vkey>) -> Policy {
        Policy { logs, ..Policy::default() }
    }

    /// Trusts one more log.
    pub fn add_log(&mut self, log: Vkey) {
        self.logs.push(log);
    }

    /// Reads one verifier key per line, or a C2SP `tlog-policy`.
    ///
    /// # Errors
    /// It is neither.
    pub fn parse(text: &str) -> Result<Policy, BadPolicy> {
        let mut policy = Policy::default();
        let mut taken = Taken::default();
        let (mut is_policy, mut last) = (false, 1);
        for (line, text) in (1..).zip(text.lines()) {
            let words: Vec<&str> = text.split([' ', '\t']).filter(|word| !word.is_empty()).collect();
            let bad = |what| BadPolicy { line, what };
            match words.as_slice() {
                [] => continue,
                [first, ..] if first.starts_with('#') => continue,
                [key] if !is_policy => policy.add_unique(key, &mut taken).map_err(bad)?,
                ["log", key] | ["log", key, _] => {
                    is_policy = true;
                    policy.add_unique(key, &mut taken).map_err(bad)?;
                }
                ["witness", name, key] | ["witness", name, key, _] => {
                    is_policy = true;
                    let key = Vkey::parse_as(key, COSIGNATURE).ok_or_else(|| bad("not the key of a witness"))?;
                    if !taken.witnesses.insert(key.key) {
                        return Err(bad("a witness's key stands twice"));
                    }
                    policy.define(name, Member::Witness(key)).map_err(bad)?;
                }
                ["group", name, needed, members @ ..] => {
                    is_policy = true;
                    let group = policy.group(needed, members, &mut taken.grouped).map_err(bad)?;
                    policy.define(name, group).map_err(bad)?;
                }
                ["quorum", name] => {
                    is_policy = true;
                    policy.set_quorum(name).map_err(bad)?;
                }
                _ => return Err(bad("neither a verifier key nor a line of a policy")),
            }
            last = line;
        }
        if is_policy && policy.quorum.is_none() {
            return Err(BadPolicy { line: last, what: "a policy needs a quorum line" });
        }
        Ok(policy)
    }

    fn add_unique(&mut self, key: &str, taken: &mut Taken) -> Result<(), &'static str> {
        let key = Vkey::parse(key).ok_or("not the verifier key of a log")?;
        if !taken.logs.insert(key.key) {
            return Err("a log's key stands twice");
        }
        self.logs.push(key);
        Ok(())
    }

    fn define(&mut self, name: &str, member: Member) -> Result<(), &'static str> {
        if name == "none" || self.members.insert(name.to_owned(), member).is_some() {
            return Err("the name is taken");
        }
        Ok(())
    }

    fn group(&self, needed: &str, members: &[&str], grouped: &mut HashSet<String>) -> Result<Member, &'static str> {
        for name in members {
            if !self.members.contains_key(*name) {
                return Err("a member is not defined above");
            }
            if !grouped.insert((*name).to_owned()) {
                return Err("a member is in two groups");
            }
        }
        let needed = match needed {
            "any" => 1,
            "all" => members.len(),
            number => super::file::decimal(number).map_or(0, |number| usize::try_from(number).unwrap_or(usize::MAX)),
        };
        if needed == 0 || needed > members.len() {
            return Err("a group needs any, all, or a number of its members");
        }
        let depth_of = |name: &&str| match self.members.get(*name) {
            Some(Member::Group { depth, .. }) => *depth,
            _ => 0,
        };
        let depth = 1 + members.iter().map(depth_of).max().unwrap_or_default();
        if depth > MOST_DEPTH {
            return Err("groups stand in one another more than 16 deep");
        }
        Ok(Member::Group { needed, members: members.iter().map(|name| (*name).to_owned()).collect(), depth })
    }

    fn set_quorum(&mut self, name: &str) -> Result<(), &'static str> {
        if name != "none" && !self.members.contains_key(name) {
            return Err("the quorum is not defined above");
        }
        match self.quorum.replace(name.to_owned()) {
            Some(_) => Err("there is a quorum already"),
            None => Ok(()),
        }
    }

    /// Judges a checkpoint, a C2SP signed note.
    ///
    /// # Errors
    /// It is malformed, or a signature of a key that the policy knows does not hold.
    pub fn judge(&self, note: &str) -> Result<Trust, CheckpointError> {
        let (checkpoint, text, signatures) = Checkpoint::parse(note).ok_or(CheckpointError::Malformed)?;
        let lines: Vec<NoteLine<'_>> = signatures.lines().filter_map(NoteLine::parse).collect();
        let of_log = |log: &&Vkey| log.name == checkpoint.origin && lines.iter().any(|line| line.is_of(log, ED25519));
        let Some(log) = self.logs.iter().find(of_log) else {
            let of_origin = lines.iter().filter(|line| line.name == checkpoint.origin);
            return Ok(Trust::NoTrustedKey(of_origin.map(|line| hex4(&line.id)).collect()));
        };
        Checkpoint::verify(note, log)?;
        let quorum = self.quorum.as_deref().unwrap_or("none");
        let enough = quorum == "none" || self.has_seen(quorum, text, &lines)?;
        Ok(if enough { Trust::Trusted(log.clone()) } else { Trust::TooFewWitnesses(log.clone()) })
    }

    fn has_seen(&self, name: &str, text: &str, lines: &[NoteLine<'_>]) -> Result<bool, CheckpointError> {
        match self.members.get(name) {
            None => Ok(false),
            Some(Member::Group { needed, members, .. }) => {
                let mut seen = 0;
                for member in members {
                    seen += usize::from(self.has_seen(member, text, lines)?);
                }
                Ok(seen >= *needed)
            }
            Some(Member::Witness(key)) => {
                // As with the log's own: one of several that fails makes the note bad.
                let own: Vec<_> = lines.iter().filter(|line| line.is_of(key, COSIGNATURE)).collect();
                match own.iter().all(|line| cosigned(key, text, &line.signature)) {
                    true => Ok(!own.is_empty()),
                    false => Err(CheckpointError::Signature),
                }
            }
        }
    }
}

/// Whether `signature`, a time and an Ed25519 signature, is the witness's over the checkpoint's text.
fn cosigned(key: &Vkey, text: &str, signature: &[u8]) -> bool {
    let Some((time, signature)) = signature.split_first_chunk::<8>() else { return false };
    let time = u64::from_be_bytes(*time);
    time <= i64::MAX as u64 && key.verify(format!("cosignature/v1\ntime {time}\n{text}").as_bytes(), signature)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{LogKey, origin};
    use crate::hash::Hash;
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use ed25519_dalek::{Signer, SigningKey};

    fn log() -> (LogKey, String, Vkey) {
        let key = LogKey::from_seed(&[9; 32]);
        let checkpoint = Checkpoint { origin: origin(&Hash([1; 32])), size: 12, root: Hash([2; 32]) };
        let vkey = Vkey { name: checkpoint.origin.clone(), key: key.public() };
        let note = checkpoint.sign(&key);
        (key, note, vkey)
    }

    fn witness(number: u8) -> (SigningKey, Vkey) {
        let key = SigningKey::from_bytes(&[number; 32]);
        let vkey = Vkey { name: format!("witness.example/{number}"), key: key.verifying_key().to_bytes() };
        (key, vkey)
    }

    fn line_of(vkey: &Vkey) -> String {
        let bytes = [&[COSIGNATURE][..], &vkey.key].concat();
        format!("{}+{}+{}", vkey.name, hex4(&vkey.id_as(COSIGNATURE)), STANDARD.encode(bytes))
    }

    fn cosign(note: &str, number: u8, time: u64) -> String {
        let (key, vkey) = witness(number);
        let (_, text, _) = Checkpoint::parse(note).unwrap();
        let signature = key.sign(format!("cosignature/v1\ntime {time}\n{text}").as_bytes()).to_bytes();
        let bytes = [&vkey.id_as(COSIGNATURE)[..], &time.to_be_bytes(), &signature].concat();
        format!("{note}\u{2014} {} {}\n", vkey.name, STANDARD.encode(bytes))
    }

    #[test]
    fn a_list_of_keys_trusts_those_logs() {
        let (_, note, vkey) = log();
        let trusting = Policy::parse(&format!("# ours\n{vkey}\n")).unwrap();
        assert_eq!(trusting.judge(&note), Ok(Trust::Trusted(vkey.clone())));
        let from_windows = Policy::parse(&format!("# ours\r\n{vkey}\r\n")).unwrap();
        assert_eq!(from_windows.judge(&note), Ok(Trust::Trusted(vkey.clone())));
        let id = hex4(&vkey.id());
        assert_eq!(Policy::parse("").unwrap().judge(&note), Ok(Trust::NoTrustedKey(vec![id])));
        let forged = note.replacen("12", "13", 1);
        assert_eq!(trusting.judge(&forged), Err(CheckpointError::Signature));
    }

    #[test]
    fn a_policy_counts_witnesses() {
        let (_, note, vkey) = log();
        let keys: Vec<String> = (1..=3).map(|number| line_of(&witness(number).1)).collect();
        let policy = format!(
            "log {vkey}\nwitness a {}\nwitness b {} https://b.example\nwitness c {}\ngroup g 2 a b c\nquorum g\n",
            keys[0], keys[1], keys[2]
        );
        let policy = Policy::parse(&policy).unwrap();
        let one = cosign(&note, 1, 1_700_000_000);
        assert_eq!(policy.judge(&note), Ok(Trust::TooFewWitnesses(vkey.clone())));
        assert_eq!(policy.judge(&one), Ok(Trust::TooFewWitnesses(vkey.clone())));
        let two = cosign(&one, 3, 1_700_000_001);
        assert_eq!(policy.judge(&two), Ok(Trust::Trusted(vkey)));
        // One witness twice is one witness, and a time beyond the format is no signature.
        let twice = cosign(&one, 1, 1_700_000_002);
        assert!(matches!(policy.judge(&twice), Ok(Trust::TooFewWitnesses(_))));
        assert_eq!(policy.judge(&cosign(&note, 2, 1 << 63)), Err(CheckpointError::Signature));
        assert_eq!(policy.judge(&cosign(&cosign(&two, 2, 7), 2, 1 << 63)), Err(CheckpointError::Signature));
    }

    /// Groups, each of which is the only member of the next.
    fn nested(depth: usize) -> String {
        (1..=depth).map(|number| format!("group g{number} any g{}\n", number - 1)).collect()
    }

    #[test]
    fn bad_policies_name_their_line() {
        let (_, _, vkey) = log();
        let w = line_of(&witness(1).1);
        let cases = [
            ("nonsense".to_owned(), 1),
            (format!("log {vkey}\n"), 1),
            (format!("log {vkey}\nlog {vkey}\nquorum none"), 2),
            (format!("log {vkey}\nquorum a"), 2),
            (format!("quorum none\nquorum none\nlog {vkey}"), 2),
            (format!("witness a {w}\nwitness b {w}\nquorum a"), 2),
            (format!("witness a {w}\ngroup g 2 a\nquorum g"), 2),
            (format!("witness a {w}\ngroup g any a\ngroup h any a\nquorum g"), 3),
            (format!("witness none {w}\nquorum none"), 1),
            ("group g any a\nquorum g".to_owned(), 1),
            (format!("witness g0 {w}\n{}quorum g9", nested(100_000)), 18),
        ];
        for (text, line) in cases {
            assert_eq!(Policy::parse(&text).unwrap_err().line, line, "{text}");
        }
    }
}
