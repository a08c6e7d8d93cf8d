//! Flags, environment and `<root>/node.conf` become one checked [`Config`].
//!
//! A flag beats its `WIZEFS_*` variable, which beats the file. The file is optional JSON:
//! `{"listen": "127.0.0.1:13000", "grpc-listen": "127.0.0.1:10000", "chain-listen": "off", "stamp-bits": 16,
//! "token-file": "/path", "tls": true, "names": ["node.example"], "insecure": false}`; the stamp is for a chain that is yet to be made.

use crate::client::Client;
use crate::error::{Error, Kind, Result};
use crate::rest::wire::{NodeStatus, Status};
use clap::builder::FalseyValueParser;
use clap::{ArgAction, Parser};
use serde::Deserialize;
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use wizefs_ledger::{DEFAULT_STAMP_BITS, MAX_STAMP_BITS};

/// Where the REST service listens unless told otherwise (the predecessor's port).
pub const DEFAULT_LISTEN: &str = "127.0.0.1:13000";

/// Where gRPC listens unless told otherwise (the predecessor's port).
pub const DEFAULT_GRPC_LISTEN: &str = "127.0.0.1:10000";

/// A listening address, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// Do not listen.
    Off,
    /// Listen here; port 0 means any free port.
    On(SocketAddr),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Listen, String> {
        if text == "off" {
            return Ok(Listen::Off);
        }
        let address: SocketAddr = match text.parse() {
            Ok(address) => address,
            Err(_) => {
                let port = text.strip_prefix("localhost:").unwrap_or(text).parse::<u16>();
                port.map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
                    .map_err(|_| format!("{text:?} is neither ADDRESS:PORT nor off"))?
            }
        };
        Ok(Listen::On(address))
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Off => f.write_str("off"),
            Listen::On(address) => address.fmt(f),
        }
    }
}

/// Listening addresses as given on the command line or in the environment.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "If this starts the node")]
pub struct ListenArgs {
    /// Where REST listens: ADDRESS:PORT, port 0 for any free one, or off [default: 127.0.0.1:13000]
    #[arg(long, value_name = "ADDR", env = "WIZEFS_LISTEN", hide_env = true)]
    pub listen: Option<Listen>,
    /// Where gRPC listens: ADDRESS:PORT, port 0 for any free one, or off [default: 127.0.0.1:10000]
    #[arg(long, value_name = "ADDR", env = "WIZEFS_GRPC_LISTEN", hide_env = true)]
    pub grpc_listen: Option<Listen>,
    /// Where the chain routes listen of their own too: ADDRESS:PORT, or off [default: off]
    #[arg(long, value_name = "ADDR", env = "WIZEFS_CHAIN_LISTEN", hide_env = true)]
    pub chain_listen: Option<Listen>,
    /// Ask clients on TCP for the token in this file; made when it is missing
    #[arg(long, value_name = "FILE", env = "WIZEFS_TOKEN_FILE", hide_env = true)]
    pub token_file: Option<PathBuf>,
    /// Speak TLS on TCP, with the certificate in ROOT/tls; made when it is missing
    #[arg(long, env = "WIZEFS_TLS", hide_env = true, action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    pub tls: bool,
    /// A name by which clients on TCP may call this node, besides localhost and addresses
    #[arg(long = "name", value_name = "HOST", env = "WIZEFS_NAMES", hide_env = true, value_delimiter = ',', value_parser = host_name)]
    pub names: Vec<String>,
    /// Listen on an address that is not loopback without token and TLS: whoever reaches it is the owner
    #[arg(long, env = "WIZEFS_INSECURE", hide_env = true, action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    pub insecure: bool,
}

impl ListenArgs {
    /// Refuse what was asked for on the command line and a node that runs already does not do. Variables and `node.conf` speak of
    /// the next node.
    ///
    /// # Errors
    /// [`Kind::RootLocked`].
    pub fn agree(&self, client: &Client) -> Result<()> {
        let variables = Variables::try_parse_from(["wizefs"]).map(|found| found.listen).unwrap_or_default();
        let typed = |flag: Option<Listen>, variable| flag.filter(|flag| Some(*flag) != variable);
        let wanted = Wanted {
            listen: [
                ("--listen", typed(self.listen, variables.listen)),
                ("--grpc-listen", typed(self.grpc_listen, variables.grpc_listen)),
                ("--chain-listen", typed(self.chain_listen, variables.chain_listen)),
            ],
            token: self.token_file.is_some() && self.token_file != variables.token_file,
            tls: self.tls && !variables.tls,
        };
        if !wanted.token && !wanted.tls && wanted.listen.iter().all(|(_, flag)| flag.is_none()) {
            return Ok(());
        }
        match wanted.missing(&client.get::<Status>("/v1/status")?.node) {
            None => Ok(()),
            Some(flag) => Err(Error::new(Kind::RootLocked, format!("a node runs already, without this {flag}"))),
        }
    }

    /// The flags that say the same.
    pub fn to_args(&self) -> Vec<OsString> {
        let flags = [("listen", self.listen), ("grpc-listen", self.grpc_listen), ("chain-listen", self.chain_listen)];
        let mut args: Vec<OsString> =
            flags.iter().filter_map(|(name, value)| Some(format!("--{name}={}", (*value)?).into())).collect();
        if let Some(file) = &self.token_file {
            args.extend(["--token-file".into(), file.clone().into()]);
        }
        args.extend(self.names.iter().map(|name| format!("--name={name}").into()));
        args.extend(
            [("--tls", self.tls), ("--insecure", self.insecure)].iter().filter(|(_, on)| *on).map(|(f, _)| f.into()),
        );
        args
    }
}

/// What the variables alone say.
#[derive(clap::Parser)]
struct Variables {
    #[command(flatten)]
    listen: ListenArgs,
}

/// What a command line asks of a node.
struct Wanted {
    listen: [(&'static str, Option<Listen>); 3],
    token: bool,
    tls: bool,
}

impl Wanted {
    /// The first flag that `node` does not follow.
    fn missing(&self, node: &NodeStatus) -> Option<&'static str> {
        let has = [&node.rest, &node.grpc, &node.chain];
        let mut addresses = self.listen.iter().zip(has);
        let other = addresses.find(|((_, flag), has)| flag.is_some_and(|flag| !flag.is_met_by(has.as_deref())));
        other
            .map(|((name, _), _)| *name)
            .or((self.token && !node.token).then_some("--token-file"))
            .or((self.tls && node.tls.is_none()).then_some("--tls"))
    }
}

impl Listen {
    /// Whether a node that listens at `address` does what is asked for; any port will do for 0.
    fn is_met_by(self, address: Option<&str>) -> bool {
        let address = address.and_then(|address| address.parse::<SocketAddr>().ok());
        match (self, address) {
            (Listen::Off, address) => address.is_none(),
            (Listen::On(_), None) => false,
            (Listen::On(wanted), Some(address)) => {
                wanted.ip() == address.ip() && [0, address.port()].contains(&wanted.port())
            }
        }
    }
}

/// `<root>/node.conf`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    listen: Option<String>,
    grpc_listen: Option<String>,
    chain_listen: Option<String>,
    stamp_bits: Option<u8>,
    token_file: Option<PathBuf>,
    #[serde(default)]
    tls: bool,
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    insecure: bool,
}

/// Everything a node needs to know before it starts; all paths absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The root folder.
    pub root: PathBuf,
    /// REST on TCP.
    pub listen: Listen,
    /// gRPC on TCP.
    pub grpc_listen: Listen,
    /// The chain routes alone on TCP.
    pub chain_listen: Listen,
    /// Leading zero bits of every block's hash, for a chain that is yet to be made.
    pub stamp_bits: u8,
    /// The file with the token that clients on TCP must know.
    pub token_file: Option<PathBuf>,
    /// Speak TLS on TCP.
    pub tls: bool,
    /// Names by which clients may call this node.
    pub names: Vec<String>,
}

impl Config {
    /// Check the root and the addresses together.
    ///
    /// # Errors
    /// [`Kind::Usage`] without a root, [`Kind::ConfigOpen`] or [`Kind::ConfigParse`] for a bad `node.conf`.
    pub fn load(root: Option<&Path>, flags: &ListenArgs) -> Result<Config> {
        let root = resolve_root(root, std::env::var_os("HOME").map(PathBuf::from))?;
        let file = read_file(&root.join("node.conf"))?;
        let listen = match flags.listen {
            Some(listen) => listen,
            None => from_file(&root, file.listen.as_deref(), DEFAULT_LISTEN)?,
        };
        let grpc = match flags.grpc_listen {
            Some(listen) => listen,
            None => from_file(&root, file.grpc_listen.as_deref(), DEFAULT_GRPC_LISTEN)?,
        };
        let chain = match flags.chain_listen {
            Some(listen) => listen,
            None => from_file(&root, file.chain_listen.as_deref(), "off")?,
        };
        let stamp_bits = file.stamp_bits.unwrap_or(DEFAULT_STAMP_BITS);
        if stamp_bits > MAX_STAMP_BITS {
            let text = format!("{}: stamp-bits is at most {MAX_STAMP_BITS}", root.join("node.conf").display());
            return Err(Error::new(Kind::ConfigParse, text));
        }
        // One that is named in the file is where that is, wherever the node is started.
        let token_file = flags.token_file.clone().or(file.token_file.map(|path| root.join(path)));
        let token_file = token_file.map(std::path::absolute).transpose();
        let token_file = token_file.map_err(|e| Error::io(Kind::Usage, "cannot resolve the token file", &e))?;
        let (tls, insecure) = (flags.tls || file.tls, flags.insecure || file.insecure);
        for listen in [listen, grpc, chain] {
            permit(listen, token_file.is_some(), tls, insecure)?;
        }
        if let Some(problem) = file.names.iter().find_map(|name| host_name(name).err()) {
            return Err(unreadable(&root.join("node.conf"), &problem));
        }
        // A variable that is set to nothing names nobody.
        let names = flags.names.iter().chain(&file.names).filter(|name| !name.is_empty()).cloned().collect();
        Ok(Config { root, listen, grpc_listen: grpc, chain_listen: chain, stamp_bits, token_file, tls, names })
    }
}

/// A name as it can stand in a certificate and in `Host`.
fn host_name(text: &str) -> Result<String, String> {
    match text.chars().all(|c| c.is_ascii_alphanumeric() || ".-_:".contains(c)) {
        true => Ok(text.to_owned()),
        false => Err(format!("{text:?} is no name of a host: letters that are not ASCII are written as xn--...")),
    }
}

/// Whoever can reach an address that is not loopback could read and change everything: that needs a token, and TLS so that
/// nobody on the way reads it.
fn permit(listen: Listen, token: bool, tls: bool, insecure: bool) -> Result<()> {
    let Listen::On(address) = listen else { return Ok(()) };
    // An IPv4 address in IPv6 clothes is judged by what it is.
    if address.ip().to_canonical().is_loopback() || insecure || (token && tls) {
        return Ok(());
    }
    let text = format!("{address} is not a loopback address: others could read and change every bucket there");
    let hint = "--token-file FILE --tls protects it; --insecure says that the network is trusted";
    Err(Error::new(Kind::Usage, text).hint(hint))
}

/// `--root` or `WIZEFS_ROOT`, else `$HOME/.local/share/wize/fs`; absolute, because the background node changes folder.
fn resolve_root(given: Option<&Path>, home: Option<PathBuf>) -> Result<PathBuf> {
    let root = match (given, home) {
        (Some(root), _) if root.as_os_str().is_empty() => {
            return Err(Error::new(Kind::Usage, "the root folder cannot be an empty name"));
        }
        (Some(root), _) => root.to_owned(),
        (None, Some(home)) if home.is_absolute() => home.join(".local/share/wize/fs"),
        (None, _) => {
            let error = Error::new(Kind::Usage, "no root folder: HOME is not set");
            return Err(error.hint("say where with --root DIR or WIZEFS_ROOT"));
        }
    };
    std::path::absolute(&root).map_err(|e| Error::io(Kind::Root, format!("cannot resolve {}", root.display()), &e))
}

fn read_file(path: &Path) -> Result<File> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {
            return Ok(File::default());
        }
        Err(e) => return Err(Error::io(Kind::ConfigOpen, format!("cannot read {}", path.display()), &e)),
    };
    serde_json::from_slice(&text).map_err(|e| unreadable(path, &e))
}

/// A configuration file that cannot be understood.
pub(crate) fn unreadable(path: &Path, problem: &dyn fmt::Display) -> Error {
    Error::new(Kind::ConfigParse, format!("cannot understand {}: {problem}", path.display()))
}

fn from_file(root: &Path, text: Option<&str>, default: &str) -> Result<Listen> {
    let text = text.unwrap_or(default);
    text.parse().map_err(|problem: String| unreadable(&root.join("node.conf"), &problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_addresses() {
        fn check(text: &str, expect: Option<&str>) {
            assert_eq!(text.parse::<Listen>().ok().map(|l| l.to_string()).as_deref(), expect, "{text}");
        }
        check("off", Some("off"));
        check("127.0.0.1:0", Some("127.0.0.1:0"));
        check("localhost:13001", Some("127.0.0.1:13001"));
        check("0", Some("127.0.0.1:0"));
        check("[::1]:80", Some("[::1]:80"));
        check("0.0.0.0:13000", Some("0.0.0.0:13000"));
        check("example.org:80", None);
        check("", None);
    }

    #[test]
    fn a_running_node_is_asked_whether_it_does_what_is_wanted() {
        fn check(wanted: &str, address: Option<&str>, expect: bool) {
            let wanted: Listen = wanted.parse().unwrap();
            assert_eq!(wanted.is_met_by(address), expect, "{wanted} {address:?}");
        }
        check("127.0.0.1:13000", Some("127.0.0.1:13000"), true);
        check("127.0.0.1:0", Some("127.0.0.1:13000"), true);
        check("127.0.0.1:14999", Some("127.0.0.1:13000"), false);
        check("127.0.0.2:0", Some("127.0.0.1:13000"), false);
        check("127.0.0.1:0", None, false);
        check("off", None, true);
        check("off", Some("127.0.0.1:13000"), false);
    }

    #[test]
    fn an_address_that_others_reach_needs_token_and_tls() {
        fn check(address: &str, token: bool, tls: bool, insecure: bool, expect: bool) {
            let permitted = permit(address.parse().unwrap(), token, tls, insecure).is_ok();
            assert_eq!(permitted, expect, "{address} {token} {tls} {insecure}");
        }
        for loopback in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "off"] {
            check(loopback, false, false, false, true);
        }
        for reachable in ["0.0.0.0:1", "[::]:1", "192.168.1.1:1", "[fe80::1]:1", "[::ffff:10.0.0.1]:1"] {
            check(reachable, false, false, false, false);
            check(reachable, true, false, false, false);
            check(reachable, false, true, false, false);
            check(reachable, true, true, false, true);
            check(reachable, false, false, true, true);
        }
    }

    #[test]
    fn the_root_is_absolute_and_has_a_default() {
        let home = || Some(PathBuf::from("/home/me"));
        fn check(given: Option<&str>, home: Option<PathBuf>, expect: Option<&str>) {
            let root = resolve_root(given.map(Path::new), home).ok();
            assert_eq!(root.as_deref(), expect.map(Path::new), "{given:?}");
        }
        check(None, home(), Some("/home/me/.local/share/wize/fs"));
        check(Some("/r"), home(), Some("/r"));
        check(Some(""), home(), None);
        check(None, None, None);
    }

    #[test]
    fn names_and_the_token_are_found_wherever_the_node_is_started() {
        let dir = tempfile::tempdir().unwrap();
        let conf = |text: &str| std::fs::write(dir.path().join("node.conf"), text).unwrap();
        let flags = ListenArgs { names: vec![String::new(), "a.example".to_owned()], ..ListenArgs::default() };
        let load = || Config::load(Some(dir.path()), &flags);
        conf(r#"{"token-file":"token","names":["b.example"]}"#);
        assert_eq!(load().unwrap().token_file, Some(dir.path().join("token")));
        assert_eq!(load().unwrap().names, ["a.example", "b.example"]);
        conf(r#"{"names":["two words"]}"#);
        assert_eq!(load().unwrap_err().kind, Kind::ConfigParse);
        assert!(host_name("\u{e4}.example").is_err() && host_name("[::1]").is_err() && host_name("::1").is_ok());
    }

    #[test]
    fn the_file_is_beaten_by_flags_and_refused_when_odd() {
        let dir = tempfile::tempdir().unwrap();
        let load = |flags: &ListenArgs| Config::load(Some(dir.path()), flags);
        assert_eq!(load(&ListenArgs::default()).unwrap().listen.to_string(), DEFAULT_LISTEN);
        std::fs::write(dir.path().join("node.conf"), r#"{"listen":"off"}"#).unwrap();
        assert_eq!(load(&ListenArgs::default()).unwrap().listen, Listen::Off);
        let flags = ListenArgs { listen: Some("127.0.0.1:7".parse().unwrap()), ..ListenArgs::default() };
        assert_eq!(load(&flags).unwrap().listen.to_string(), "127.0.0.1:7");
        for odd in ["{", r#"{"listne":"off"}"#, r#"{"listen":"nowhere"}"#] {
            std::fs::write(dir.path().join("node.conf"), odd).unwrap();
            assert_eq!(load(&ListenArgs::default()).unwrap_err().kind, Kind::ConfigParse, "{odd}");
        }
        std::fs::remove_file(dir.path().join("node.conf")).unwrap();
        assert_eq!(load(&ListenArgs::default()).unwrap().grpc_listen.to_string(), DEFAULT_GRPC_LISTEN);
        let flags = ListenArgs { grpc_listen: Some(Listen::Off), ..ListenArgs::default() };
        assert_eq!(load(&flags).unwrap().grpc_listen, Listen::Off);
    }
}
