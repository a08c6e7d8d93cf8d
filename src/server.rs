//! The serving process: a node, its listeners, and its end.
//!
//! Handlers for signals are installed and everything is written down before anybody is told that the node serves. At the
//! end the socket goes first, requests under way are answered, mounts are taken away (those in use are detached), the rest
//! is settled and sealed.

use crate::background::Reporter;
use crate::config::{Config, Listen};
use crate::connections::{PATIENCE, Protocol, accept, reached, send_at_once};
use crate::error::{Error, Kind, Result};
use crate::grpc;
use crate::name::BucketName;
use crate::node::{Node, Role};
use crate::rest::{self, Guard, wire};
use crate::root::{Root, RootLock, locked};
use crate::{socket, supervisor, tls, trace};
use axum::serve::ListenerExt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// How often the node looks whether somebody else has unmounted a bucket.
const LOOK: Duration = Duration::from_secs(1);
/// How often whoever waits for a long recovery hears that it goes on.
const STILL: Duration = Duration::from_secs(3);

/// What the node does first.
#[derive(Debug, Clone)]
pub struct FirstMount {
    /// The bucket.
    pub bucket: BucketName,
    /// How.
    pub request: wire::MountRequest,
}

/// Be the node of a root until told to stop, or until the last mount is gone; returns the signal that ended it.
///
/// # Errors
/// [`Kind::RootLocked`], [`Kind::PortTaken`], what keeps the root from opening, and what keeps `first` from being mounted.
/// `reporter` was told.
pub fn run(config: &Config, first: Option<FirstMount>, reporter: &Reporter) -> Result<Option<u8>> {
    // The kernel says with which permissions programs make something in a mount; what is ours has modes of its own.
    rustix::process::umask(rustix::fs::Mode::empty());
    let role = if first.is_some() { Role::Mounts } else { Role::Service };
    let result = prepare(config, role, reporter).and_then(|(runtime, node)| {
        let served = runtime.block_on(serve(config, &node, first, reporter));
        runtime.shutdown_timeout(PATIENCE);
        let closed = node.close();
        tracing::info!("ended");
        served.and_then(|signal| closed.map(|()| signal))
    });
    if let Err(error) = &result {
        reporter.failed(error);
    }
    result
}

fn prepare(config: &Config, role: Role, reporter: &Reporter) -> Result<(tokio::runtime::Runtime, Arc<Node>)> {
    let root = Root::new(&config.root);
    root.create()?;
    reporter.phase("waiting for the root folder");
    // A command that ends soon is waited for, a node that serves is not.
    let lock = RootLock::wait(&root, || matches!(socket::connect(&root), Ok(None)))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("rest")
        .build()
        .map_err(|e| Error::io(Kind::Internal, "cannot start", &e))?;
    let node = Node::open(config, lock, role, &|phase| reporter.phase(phase))?;
    Ok((runtime, node))
}

const GRPC_TAKEN: &str = "choose another address with --grpc-listen ADDR:PORT, or --grpc-listen off";

/// Connections that the kernel keeps while nobody has taken them. tokio asks for 128: of a thousand clients that came at once on a
/// busy machine a quarter was reset.
const QUEUE: u32 = 4096;

fn bound(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A node that starts again does not wait for connections of the one before to be forgotten.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(QUEUE)
}

/// Listen where it is wanted, and tell the address, which has the port that the kernel chose.
fn listener(listen: Listen, hint: Option<&str>, tell: impl FnOnce(SocketAddr)) -> Result<Option<TcpListener>> {
    let Listen::On(address) = listen else { return Ok(None) };
    let listener = bound(address).map_err(|e| {
        let error = taken(address, &e);
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    })?;
    if let Ok(address) = listener.local_addr() {
        tell(address);
    }
    Ok(Some(listener))
}

async fn serve(
    config: &Config,
    node: &Arc<Node>,
    first: Option<FirstMount>,
    reporter: &Reporter,
) -> Result<Option<u8>> {
    let mut signals = Signals::install()?;
    let tcp = listener(config.listen, None, |address| node.set_rest(address))?;
    let protection = Protection::of(config, node)?;
    let chain = listener(config.chain_listen, None, |address| node.set_chain(address))?;
    let grpc = listener(config.grpc_listen, Some(GRPC_TAKEN), |address| node.set_grpc(address))?;
    let unix = socket::listen_on(node.root())?;
    let unix = unix.set_nonblocking(true).and_then(|()| UnixListener::from_std(unix));
    let unix = unix.map_err(|e| Error::io(Kind::Root, "cannot listen on node.sock", &e))?;

    let stopping = node.stopping();
    let (ended, end) = watch::channel(false);
    let alive = tokio::spawn(supervisor::live());
    let grpc = match grpc {
        None => None,
        Some(tcp) => {
            let calls = grpc::router(node, protection.guard(config.grpc_listen))?;
            let tls = protection.tls.as_ref().map(tls::for_grpc);
            Some(tokio::spawn(accept(tcp.tap_io(send_at_once), Protocol::Http2, calls, tls, end.clone())))
        }
    };
    let own = tokio::spawn(accept(unix, Protocol::Http1, rest::router(Arc::clone(node)), None, end.clone()));
    let public = tcp.map(|tcp| {
        let router = rest::public_router(Arc::clone(node), protection.guard(config.listen));
        tokio::spawn(accept(tcp.tap_io(send_at_once), Protocol::Http1, router, protection.tls.clone(), end.clone()))
    });
    let chain = chain.map(|tcp| {
        let router = rest::chain_router(Arc::clone(node), protection.guard(config.chain_listen));
        tokio::spawn(accept(tcp.tap_io(send_at_once), Protocol::Http1, router, protection.tls.clone(), end))
    });

    let result = match begin(node, first, reporter).await {
        Ok(ready) => {
            reporter.ready(ready);
            Ok(wait_for_end(node, &mut signals, stopping).await)
        }
        Err(error) => Err(error),
    };
    supervisor::stopping();
    node.request_stop();
    socket::remove(node.root());
    ended.send_replace(true);
    for task in [Some(own), public, chain, grpc].into_iter().flatten() {
        if task.await.is_err() {
            tracing::error!("a listener failed");
        }
    }
    let last = Arc::clone(node);
    if tokio::task::spawn_blocking(move || last.unmount_all()).await.is_err() {
        tracing::error!("unmounting failed");
    }
    alive.abort();
    result
}

/// Mount what was asked for; the reply of the command that started this node.
async fn begin(node: &Arc<Node>, first: Option<FirstMount>, reporter: &Reporter) -> Result<serde_json::Value> {
    let node = Arc::clone(node);
    let Some(FirstMount { bucket, request }) = first else {
        return to_json(&node.status()?);
    };
    reporter.phase(&format!("mounting {bucket}"));
    let working = format!("recovering what an earlier node left in {bucket}");
    let mut mounting = tokio::task::spawn_blocking(move || node.mount(&bucket, &request));
    loop {
        match tokio::time::timeout(STILL, &mut mounting).await {
            Ok(Ok(mounted)) => return to_json(&mounted?),
            Ok(Err(e)) => return Err(Error::new(Kind::Internal, format!("mounting failed: {e}"))),
            Err(_) => reporter.phase(&working),
        }
    }
}

fn to_json(value: &impl serde::Serialize) -> Result<serde_json::Value> {
    serde_json::to_value(value).map_err(|e| Error::new(Kind::Internal, format!("cannot write the answer: {e}")))
}

fn taken(address: SocketAddr, error: &std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::AddrInUse {
        return Error::new(Kind::PortTaken, format!("another program listens on {address} already"));
    }
    Error::io(Kind::PortTaken, format!("cannot listen on {address}"), error)
}

/// The signals a node obeys: those that end it, then SIGHUP, SIGUSR1 and SIGUSR2.
struct Signals {
    ends: [(u8, Signal); 3],
    hangup: Signal,
    asked: Signal,
    louder: Signal,
}

impl Signals {
    fn install() -> Result<Signals> {
        let install =
            |kind: SignalKind| signal(kind).map_err(|e| Error::io(Kind::Internal, "cannot watch for signals", &e));
        Ok(Signals {
            ends: [
                (libc::SIGINT as u8, install(SignalKind::interrupt())?),
                (libc::SIGTERM as u8, install(SignalKind::terminate())?),
                (libc::SIGQUIT as u8, install(SignalKind::quit())?),
            ],
            hangup: install(SignalKind::hangup())?,
            asked: install(SignalKind::user_defined1())?,
            louder: install(SignalKind::user_defined2())?,
        })
    }

    /// The next signal that ends the node. A hangup does when there is no file of tracing to be opened anew.
    async fn next(&mut self, node: &Arc<Node>) -> u8 {
        let [(a, int), (b, term), (c, quit)] = &mut self.ends;
        loop {
            tokio::select! {
                _ = int.recv() => return *a,
                _ = term.recv() => return *b,
                _ = quit.recv() => return *c,
                _ = self.hangup.recv() => {
                    if !trace::reopen() {
                        return libc::SIGHUP as u8;
                    }
                }
                _ = self.asked.recv() => {
                    let node = Arc::clone(node);
                    // Nobody waits for it.
                    drop(tokio::task::spawn_blocking(move || tell(&node)));
                }
                _ = self.louder.recv() => tracing::info!("tracing: {}", trace::step()),
            }
        }
    }
}

/// One line about the node. It was asked for, so it is told at a level that a node in the foreground shows, too.
fn tell(node: &Node) {
    match node.status() {
        Ok(wire::Status { ledger, buckets, .. }) => {
            let mounted = buckets.iter().filter(|bucket| bucket.state == wire::MountState::Mounted).count();
            tracing::warn!(
                height = ledger.height,
                transactions = ledger.transactions,
                pending = ledger.pending,
                unsettled = ledger.unsettled,
                buckets = buckets.len(),
                mounted,
                "the node runs"
            );
        }
        Err(e) => tracing::warn!("the node cannot tell how it is: {e}"),
    }
}

async fn wait_for_end(node: &Arc<Node>, signals: &mut Signals, mut stopping: watch::Receiver<bool>) -> Option<u8> {
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            number = signals.next(node) => return Some(number),
            () = reached(&mut stopping) => return None,
            _ = look.tick() => {
                let node = Arc::clone(node);
                match tokio::task::spawn_blocking(move || node.look_after_mounts()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(e)) => tracing::error!("after a mount was gone: {e}"),
                    Err(e) => tracing::error!("looking after mounts failed: {e}"),
                }
            }
        }
    }
}

/// What clients on TCP must bring, and what they find.
struct Protection {
    token: Option<String>,
    names: Vec<String>,
    tls: Option<TlsAcceptor>,
}

impl Protection {
    fn of(config: &Config, node: &Node) -> Result<Protection> {
        let token = config.token_file.as_deref().map(tls::token).transpose()?;
        if token.is_some() {
            node.set_token();
        }
        let tls = match config.tls {
            false => None,
            true => {
                let (acceptor, fingerprint) = tls::acceptor(node.root(), &names_of(config))?;
                tracing::info!(%fingerprint, "certificate");
                node.set_fingerprint(fingerprint);
                Some(acceptor)
            }
        };
        Ok(Protection { token, names: config.names.clone(), tls })
    }

    fn guard(&self, listen: Listen) -> Arc<Guard> {
        let reachable = matches!(listen, Listen::On(address) if !address.ip().to_canonical().is_loopback());
        Arc::new(Guard::new(self.token.as_deref(), self.names.clone(), reachable))
    }
}

/// What the certificate is for: names, and the addresses at which the node listens, which clients compare with it.
fn names_of(config: &Config) -> Vec<String> {
    let addresses =
        [config.listen, config.grpc_listen, config.chain_listen].into_iter().filter_map(|listen| match listen {
            Listen::On(address) if !address.ip().is_unspecified() => Some(address.ip().to_string()),
            _ => None,
        });
    config.names.iter().cloned().chain(addresses).collect()
}

/// The failure of a `wizefs node` when another one serves the root.
pub fn already_running(config: &Config) -> Error {
    locked(&Root::new(&config.root))
}
