//! The wallets of a root: key files in one folder, each named by its file.

use crate::error::{Error, Kind, Result};
use crate::passphrase::PassArgs;
use crate::root::Root;
use std::path::{Path, PathBuf};
use wizefs_ledger::{AddressHash, KeyError, Label, Wallet, WalletFile};

/// The wallet that signs what happens in buckets, seals blocks and gets the coins.
pub const DEFAULT: &str = "default";
/// Names taken by other keys in the folder.
const TAKEN: [&str; 1] = ["log.key"];

/// A wallet of the root.
pub struct Kept {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: AddressHash,
    /// Its key file.
    pub file: WalletFile,
    /// Where that is.
    pub path: PathBuf,
}

/// Where the wallet of this name is, or will be.
///
/// # Errors
/// [`Kind::Usage`] for what cannot be a name.
pub fn path(root: &Root, name: &str) -> Result<PathBuf> {
    if Label::new(name).is_err() || TAKEN.contains(&name) {
        let error = Error::new(Kind::Usage, format!("{name:?} cannot be the name of a wallet"));
        return Err(error.hint("a name is 1 to 255 of A-Z a-z 0-9 . _ - and starts with none of . and -"));
    }
    Ok(root.wallets().join(name))
}

/// All wallets, sorted by name. Files that are no wallets are passed over.
///
/// # Errors
/// The folder cannot be read.
pub fn list(root: &Root) -> Result<Vec<Kept>> {
    Ok(files(root)?.into_iter().filter_map(Result::ok).collect())
}

/// What is wrong with files that have the name of a wallet and are none, or not any more.
///
/// # Errors
/// As [`list`].
pub fn unread(root: &Root) -> Result<Vec<KeyError>> {
    Ok(files(root)?.into_iter().filter_map(Result::err).collect())
}

/// The files with the name of a wallet, sorted by it.
fn files(root: &Root) -> Result<Vec<std::result::Result<Kept, KeyError>>> {
    let folder = root.wallets();
    let cannot = |e: std::io::Error| Error::io(Kind::ConfigOpen, format!("cannot read {}", folder.display()), &e);
    let entries = std::fs::read_dir(&folder).map_err(cannot)?.collect::<std::io::Result<Vec<_>>>().map_err(cannot)?;
    let names = entries.into_iter().filter_map(|entry| entry.file_name().into_string().ok());
    let mut files: Vec<_> = names.filter_map(|name| Some((path(root, &name).ok()?, name))).collect();
    files.sort();
    let read = |(path, name): (PathBuf, String)| {
        let file = WalletFile::read(&path)?;
        Ok(Kept { name, address: file.public().address(), file, path })
    };
    Ok(files.into_iter().map(read).collect())
}

/// The wallet with this name or address.
///
/// # Errors
/// [`Kind::Failed`] when there is none; [`Kind::ConfigParse`] when its file is damaged.
pub fn find(root: &Root, name_or_address: &str) -> Result<Kept> {
    if let Ok(path) = path(root, name_or_address)
        && path.exists()
    {
        let file = WalletFile::read(&path).map_err(failed)?;
        return Ok(Kept { name: name_or_address.to_owned(), address: file.public().address(), file, path });
    }
    let address = name_or_address.parse::<AddressHash>().ok();
    let found = list(root)?.into_iter().find(|wallet| Some(wallet.address) == address);
    found.ok_or_else(|| {
        Error::new(Kind::NotFound, format!("no wallet here has the name or address {name_or_address}"))
            .hint("wizefs wallet list shows those there are")
    })
}

impl Kept {
    /// The key; a passphrase is asked for when the file is sealed.
    ///
    /// # Errors
    /// [`Kind::Passphrase`].
    pub fn open(&self, pass: &PassArgs) -> Result<Wallet> {
        match &self.file {
            WalletFile::Plain(wallet) => Ok(wallet.clone()),
            WalletFile::Sealed(_) => self.file.open(&pass.read(&format!("wallet {}", self.name))?).map_err(failed),
        }
    }

    /// Whether a passphrase protects it.
    pub fn is_sealed(&self) -> bool {
        matches!(self.file, WalletFile::Sealed(_))
    }
}

/// Keep a new wallet, sealed when a passphrase is given.
///
/// # Errors
/// [`Kind::FileExists`] when the name is taken; [`Kind::Usage`] for a bad one.
pub fn keep(root: &Root, name: &str, wallet: &Wallet, passphrase: Option<&[u8]>) -> Result<PathBuf> {
    let path = path(root, name)?;
    save(wallet, &path, passphrase)?;
    Ok(path)
}

/// Write a key file.
///
/// # Errors
/// [`Kind::FileExists`]; what kept it from being written.
pub fn save(wallet: &Wallet, path: &Path, passphrase: Option<&[u8]>) -> Result<()> {
    let saved = match passphrase {
        Some(passphrase) => wallet.save_sealed(path, passphrase),
        None => wallet.save(path),
    };
    saved.map_err(|error| match error {
        KeyError::Io(_, e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            Error::new(Kind::FileExists, format!("{} exists already", path.display())).hint("choose another name")
        }
        other => failed(other),
    })
}

/// Draft and hand in a transfer, and again while others are faster to spend the coins it was to be made of.
///
/// # Errors
/// Those of `attempt`; [`Kind::Spent`] when that happens too often.
pub fn until_unspent<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    /// Each time one of those who race is through: enough for as many at once as anybody has.
    const MOST_ATTEMPTS: usize = 256;
    for _ in 1..MOST_ATTEMPTS {
        match attempt() {
            Err(error) if error.kind == Kind::Spent => tracing::debug!(%error, "drafted again"),
            done => return done,
        }
    }
    attempt()
}

/// A failure with a key file.
pub fn failed(error: KeyError) -> Error {
    match &error {
        KeyError::Passphrase(_) | KeyError::Sealed(_) => Error::new(Kind::Passphrase, error.to_string()),
        KeyError::Malformed(_) => Error::new(Kind::ConfigParse, error.to_string()),
        KeyError::Io(path, e) => Error::io(Kind::ConfigOpen, format!("key file {}", path.display()), e),
        KeyError::Random(_) => Error::new(Kind::Failed, error.to_string()),
    }
}
