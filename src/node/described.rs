//! What a bucket is: its `wizefs.conf`, and without a good one what `wizedb.conf` and the ledger know of it.
//!
//! One damaged file must not keep the other buckets from their users, nor the node from starting. It is never overwritten; who
//! moves it away gets a new one.

use super::{Node, trouble};
use crate::error::{Error, Kind, Result};
use crate::name::BucketName;
use crate::registry::BucketConf;
use crate::rest::wire;
use std::path::PathBuf;
use wizefs_ledger::BucketId;

impl Node {
    /// All buckets with their state.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn buckets(&self) -> Result<Vec<wire::BucketStatus>> {
        let all = self.bucket_names().into_iter().map(|name| self.bucket_status(&name));
        all.filter(|found| !matches!(found, Err(error) if error.kind == Kind::BucketUnknown)).collect()
    }

    /// One bucket with its state.
    ///
    /// # Errors
    /// [`Kind::BucketUnknown`]; as [`Node::buckets`].
    pub fn bucket_status(&self, name: &BucketName) -> Result<wire::BucketStatus> {
        let (conf, problem) = self.conf_or_known(name)?;
        let (state, mountpoint) = self.mount_state(name);
        let counts = match bucket_id(&conf) {
            Ok(id) => self.ledger.bucket(&id).map_err(trouble::ledger)?.map(|bucket| bucket.counts).unwrap_or_default(),
            Err(_) => wizefs_ledger::Counts::default(),
        };
        Ok(wire::BucketStatus {
            origin: name.clone(),
            kind: conf.kind()?,
            state,
            mountpoint,
            files: counts.files,
            bytes: counts.bytes,
            problem: problem.map(|error| error.message),
        })
    }

    /// What the bucket is; a `wizefs.conf` that is gone is written anew.
    ///
    /// # Errors
    /// [`Kind::BucketUnknown`]; [`Kind::ConfigOpen`] or [`Kind::ConfigParse`] for a `wizefs.conf` that is damaged.
    pub(super) fn conf(&self, name: &BucketName) -> Result<BucketConf> {
        match self.conf_or_known(name)? {
            (conf, None) => Ok(conf),
            (conf, Some(_)) if self.registry.lock().lacks_conf(name) && bucket_id(&conf).is_ok() => {
                tracing::warn!(bucket = %name, "its wizefs.conf is gone and is written anew");
                self.registry.lock().put_bucket(&conf)?;
                Ok(conf)
            }
            (_, Some(error)) => Err(error),
        }
    }

    /// What the bucket is, and what is wrong with its `wizefs.conf`.
    ///
    /// # Errors
    /// [`Kind::BucketUnknown`]; the ledger cannot be read.
    pub(super) fn conf_or_known(&self, name: &BucketName) -> Result<(BucketConf, Option<Error>)> {
        // Bound, so that nothing below asks the ledger under the registry's lock.
        let written = self.registry.lock().bucket(name).and_then(|conf| conf.kind().map(|_known| conf));
        let error = match written {
            Ok(conf) => return Ok((conf, None)),
            Err(error) if matches!(error.kind, Kind::ConfigOpen | Kind::ConfigParse) => error,
            Err(error) => return Err(error),
        };
        let on_ledger = self.ledger.bucket_named(name.as_str()).map_err(trouble::ledger)?;
        let id = on_ledger.map(|bucket| bucket.id.to_string()).unwrap_or_default();
        match self.registry.lock().known(name, id) {
            Some(conf) => {
                let hint = format!("move the file away, and what wizedb.conf knows of {name} is written there anew");
                Ok((conf, Some(error.hint(hint))))
            }
            None => Err(error),
        }
    }

    /// Where the files of the bucket with this id are.
    pub(super) fn backing_of(&self, id: &BucketId) -> Result<Option<PathBuf>> {
        let Some(bucket) = self.ledger.bucket(id).map_err(trouble::ledger)? else { return Ok(None) };
        let name = BucketName::new(bucket.record.name.as_str())?;
        Ok(self.registry.lock().backing(&name))
    }
}

/// The bucket's id.
///
/// # Errors
/// [`Kind::ConfigParse`].
pub(super) fn bucket_id(conf: &BucketConf) -> Result<BucketId> {
    let bytes = wire::unhex(&conf.id).ok_or_else(|| {
        Error::new(Kind::ConfigParse, format!("wizefs.conf of {} has no valid bucket id", conf.origin))
    })?;
    Ok(wizefs_ledger::Hash(bytes))
}
