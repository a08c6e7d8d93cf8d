//! Rules that the types alone do not hold; decoding and submitting both ask them.

use super::{Authored, Body, Content, Envelope, Evidence, FileBody, FileOp, MAX_COINS, Put, Transaction, Transfer};
use crate::codec::{MAX_TARGET, TreePath};

/// Which rule is broken.
type Broken = &'static str;

impl Transaction {
    pub(super) fn check_shape(&self) -> Result<(), Broken> {
        match &self.envelope {
            Envelope::Authored(Authored { body: Body::File(file), .. }) => file.check_shape(),
            Envelope::Transfer(transfer) => transfer.check_shape(),
            _ => Ok(()),
        }
    }
}

impl FileBody {
    pub(crate) fn check_shape(&self) -> Result<(), Broken> {
        let moves = matches!(self.op, FileOp::Rename { .. } | FileOp::Exchange { .. });
        if !moves && self.source.is_some() {
            return Err("a source without a rename or exchange");
        }
        self.op.check_shape()
    }
}

impl FileOp {
    pub(crate) fn check_shape(&self) -> Result<(), Broken> {
        let (path, other) = self.paths();
        if (path.is_root() && !matches!(self, FileOp::Mkdir { .. })) || other.is_some_and(TreePath::is_root) {
            return Err("the root directory is not an entry");
        }
        if let Some(other) = other
            && (other.below(path).is_some() || path.below(other).is_some())
        {
            return Err("one path lies at or below the other");
        }
        match self {
            FileOp::Put(put) | FileOp::Accept(put) => put.check_shape(),
            FileOp::Mkdir { mode, .. } if mode & !0o7777 != 0 => Err("mode has bits beyond 07777"),
            _ => Ok(()),
        }
    }
}

impl Put {
    fn check_shape(&self) -> Result<(), Broken> {
        if self.mode & !0o7777 != 0 {
            return Err("mode has bits beyond 07777");
        }
        match &self.content {
            Content::File { hashes, .. } if hashes.is_none() != (self.evidence == Evidence::OpenWriters) => {
                Err("hashes are null exactly when writers are open")
            }
            Content::Symlink { target } if target.is_empty() || target.len() > MAX_TARGET => {
                Err("a symlink target has 1 to 4095 bytes")
            }
            _ => Ok(()),
        }
    }
}

impl Transfer {
    fn check_shape(&self) -> Result<(), Broken> {
        let count = 1..=MAX_COINS;
        if !count.contains(&self.inputs.len()) || !count.contains(&self.outputs.len()) {
            return Err("a transfer has 1 to 256 inputs and outputs");
        }
        if self.outputs.iter().any(|output| output.amount == 0) {
            return Err("an output of no coins");
        }
        let mut inputs = self.inputs.clone();
        inputs.sort_unstable();
        inputs.dedup();
        if inputs.len() != self.inputs.len() {
            return Err("an output is spent twice");
        }
        Ok(())
    }
}
