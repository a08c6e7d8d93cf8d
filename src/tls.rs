//! TLS for addresses that others reach: the certificate in `<root>/tls`, made by ourselves unless somebody put one there,
//! and known to clients by its fingerprint. And the token.

use crate::error::{Error, Kind, Result, plain};
use crate::name::pasted;
use crate::rest::wire;
use crate::root::Root;
use rcgen::{CertificateParams, DnType, KeyPair};
use sha2::{Digest, Sha256};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The fewest characters of a token: it can be guessed at as fast as the node answers.
const TOKEN_LEAST: usize = 16;

/// What answers TLS, and the SHA-256 of its certificate as people compare it.
///
/// # Errors
/// [`Kind::ConfigOpen`], [`Kind::ConfigParse`] or [`Kind::ConfigSave`] for what is in `<root>/tls`.
pub fn acceptor(root: &Root, names: &[String]) -> Result<(TlsAcceptor, String)> {
    let folder = root.path().join("tls");
    let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    // A link that leads nowhere stands there, too: it was put there.
    let stands = |path: &Path| path.symlink_metadata().is_ok();
    match (stands(&certificate), stands(&key)) {
        (true, true) => {}
        (true, false) => {
            let text = format!("the key of {} is missing: {}", certificate.display(), key.display());
            return Err(Error::new(Kind::ConfigOpen, text).hint("put it there; without a certificate both are made"));
        }
        (false, _) => make(&folder, names)?,
    }
    let unreadable = |path: &Path, problem: &dyn std::fmt::Display| {
        Error::new(Kind::ConfigParse, format!("{} is no usable PEM file: {problem}", path.display()))
    };
    let chain =
        CertificateDer::pem_file_iter(&certificate).and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>);
    let chain = chain.map_err(|e| unreadable(&certificate, &e))?;
    let first = chain.first().ok_or_else(|| unreadable(&certificate, &"it has no certificate"))?;
    let fingerprint = shown(&Sha256::digest(first));
    private(&key)?;
    let secret = PrivateKeyDer::from_pem_file(&key).map_err(|e| unreadable(&key, &e))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, secret));
    let mut config = config.map_err(|e| unreadable(&certificate, &e))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((TlsAcceptor::from(Arc::new(config)), fingerprint))
}

/// The same for gRPC, which speaks HTTP/2 alone.
pub fn for_grpc(acceptor: &TlsAcceptor) -> TlsAcceptor {
    let mut config = ServerConfig::clone(acceptor.config());
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

/// A certificate of our own, for these names and this machine.
fn make(folder: &Path, names: &[String]) -> Result<()> {
    let failed = |e: rcgen::Error| Error::new(Kind::Internal, format!("cannot make a certificate: {e}"));
    let mut known = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    known.extend(names.iter().cloned());
    known.sort();
    known.dedup();
    let mut params = CertificateParams::new(known).map_err(failed)?;
    params.distinguished_name.push(DnType::CommonName, "wizefs");
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|e| Error::io(Kind::ConfigSave, format!("cannot make {}", folder.display()), &e))?;
    let file = folder.join("key.pem");
    let is_there = file.symlink_metadata().is_ok();
    let key = if is_there {
        // Of an owner, or of a node that did not come to its certificate.
        private(&file)?;
        let unusable =
            |problem: String| Error::new(Kind::ConfigParse, format!("{} is no usable key: {problem}", file.display()));
        let text = fs::read_to_string(&file).map_err(|e| unusable(plain(&e)))?;
        KeyPair::from_pem(&text).map_err(|e| unusable(e.to_string()))?
    } else {
        KeyPair::generate().map_err(failed)?
    };
    let certificate = params.self_signed(&key).map_err(failed)?;
    // The key first: a certificate is never there without it.
    if !is_there {
        write_private(&file, key.serialize_pem().as_bytes())?;
    }
    write_private(&folder.join("cert.pem"), certificate.pem().as_bytes())
}

/// The token in `file`, made when it is missing.
///
/// # Errors
/// [`Kind::ConfigOpen`] when others may read it; [`Kind::ConfigParse`] when it is too short to be one.
pub fn token(file: &Path) -> Result<String> {
    if !file.exists() {
        let mut bytes = [0; 32];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .map_err(|e| Error::io(Kind::Internal, "cannot make a token", &e.into()))?;
        write_private(file, format!("{}\n", wire::hex(&bytes)).as_bytes())?;
    }
    private(file)?;
    let text = fs::read_to_string(file)
        .map_err(|e| Error::io(Kind::ConfigOpen, format!("cannot read {}", file.display()), &e))?;
    let token = text.trim().to_owned();
    if token.len() < TOKEN_LEAST || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        let text = format!("{} holds no token: {TOKEN_LEAST} printable characters or more", file.display());
        return Err(Error::new(Kind::ConfigParse, text).hint("remove it, and one is made"));
    }
    Ok(token)
}

/// A secret that others may read is none.
fn private(file: &Path) -> Result<()> {
    let meta = fs::metadata(file);
    let meta = meta.map_err(|e| Error::io(Kind::ConfigOpen, format!("cannot read {}", file.display()), &e))?;
    if !meta.is_file() {
        // Of a pipe nobody knows when it will be read.
        let text = format!("{} is not a regular file", file.display());
        return Err(Error::new(Kind::ConfigOpen, text).without_hint());
    }
    if meta.permissions().mode() & 0o077 != 0 {
        let text = format!("others may read {}", file.display());
        return Err(Error::new(Kind::ConfigOpen, text).hint(format!("chmod 600 {}", pasted(file))));
    }
    Ok(())
}

fn write_private(file: &Path, bytes: &[u8]) -> Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options.open(file).and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    written.map_err(|e| Error::io(Kind::ConfigSave, format!("cannot write {}", file.display()), &e))
}

/// `AB:CD:…`, as browsers and openssl show it.
fn shown(hash: &[u8]) -> String {
    hash.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_is_made_once_and_kept_private() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let (_, first) = acceptor(&root, &["node.example".to_owned()]).unwrap();
        let (_, again) = acceptor(&root, &[]).unwrap();
        assert_eq!((first.len(), &first), (95, &again));
        let mode = |path: &str| fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("tls"), mode("tls/key.pem")), (0o700, 0o600));
        fs::set_permissions(dir.path().join("tls/key.pem"), fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(acceptor(&root, &[]).err().unwrap().kind, Kind::ConfigOpen);
        fs::write(dir.path().join("tls/cert.pem"), "nonsense").unwrap();
        assert_eq!(acceptor(&root, &[]).err().unwrap().kind, Kind::ConfigParse);
    }

    #[test]
    fn what_somebody_put_there_is_not_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let (certificate, key) = (dir.path().join("tls/cert.pem"), dir.path().join("tls/key.pem"));
        acceptor(&root, &[]).unwrap();
        let (first, of) = (fs::read(&certificate).unwrap(), fs::read(&key).unwrap());
        fs::rename(&key, dir.path().join("elsewhere")).unwrap();
        let check = || {
            assert_eq!(acceptor(&root, &[]).err().unwrap().kind, Kind::ConfigOpen);
            assert_eq!(fs::read(&certificate).unwrap(), first);
        };
        check();
        std::os::unix::fs::symlink(dir.path().join("nowhere"), &key).unwrap();
        check();
        assert!(!dir.path().join("nowhere").exists());
        fs::rename(dir.path().join("elsewhere"), &key).unwrap();
        fs::remove_file(&certificate).unwrap();
        acceptor(&root, &[]).unwrap();
        assert_eq!(fs::read(&key).unwrap(), of, "the certificate is made for the key that is there");
    }

    #[test]
    fn a_secret_is_a_file() {
        let dir = tempfile::tempdir().unwrap();
        for other in [dir.path(), Path::new("/dev/null")] {
            let error = token(other).unwrap_err();
            assert_eq!((error.kind, error.hint), (Kind::ConfigOpen, None), "{}", error.message);
        }
    }

    #[test]
    fn a_token_is_made_once_and_must_be_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        let first = token(&file).unwrap();
        assert_eq!((first.len(), token(&file).unwrap()), (64, first.clone()));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(token(&file).unwrap_err().kind, Kind::ConfigOpen);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&file, "short\n").unwrap();
        assert_eq!(token(&file).unwrap_err().kind, Kind::ConfigParse);
    }
}
