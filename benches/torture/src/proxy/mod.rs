//! A TCP proxy that does to connections what networks do: nothing passes, or late, or little, or not to the end.

mod carry;
mod toxic;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};

pub(crate) use toxic::{Hold, Toxic};

/// Connections of one proxy at a time; more are closed at once.
const CONNECTIONS_MAX: usize = 2_000;
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// After a failed accept (out of file descriptors, mostly).
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// What is behind a proxy at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Upstream {
    /// Connections are closed at once, as by a machine on which nobody listens.
    Nobody,
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// Listens for as long as the value lives.
#[derive(Debug)]
pub(crate) struct Proxy {
    name: &'static str,
    address: SocketAddr,
    upstream: watch::Sender<Upstream>,
    toxic: watch::Sender<Toxic>,
    harm: Arc<AtomicU64>,
    server: JoinHandle<()>,
}

impl Proxy {
    /// On a free port of `at`.
    pub(crate) async fn start(
        name: &'static str,
        at: Ipv4Addr,
        upstream: Upstream,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((at, 0)).await;
        let listener = listener.with_context(|| format!("listening for {name}"))?;
        let address = listener.local_addr()?;
        let (upstream, behind) = watch::channel(upstream);
        let (toxic, present) = watch::channel(Toxic::default());
        let harm = Arc::<AtomicU64>::default();
        let server = tokio::spawn(serve(listener, behind, present, harm.clone()));
        Ok(Self {
            name,
            address,
            upstream,
            toxic,
            harm,
            server,
        })
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn lead_to(&self, upstream: Upstream) {
        self.upstream.send_replace(upstream);
    }

    /// What is done to connections from now on, present ones included.
    pub(crate) fn poison(&self, toxic: Toxic) {
        self.toxic.send_replace(toxic);
    }

    pub(crate) fn heal(&self) {
        self.toxic.send_modify(Toxic::heal);
    }

    /// Breaks every present connection off.
    pub(crate) fn cut_connections(&self) {
        self.toxic.send_modify(|toxic| toxic.cuts += 1);
    }

    /// Connections refused or broken off, and chunks held, delayed or slowed, since the start: whether a fault bit.
    pub(crate) fn harm(&self) -> u64 {
        self.harm.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(
    listener: TcpListener,
    upstream: watch::Receiver<Upstream>,
    toxic: watch::Receiver<Toxic>,
    harm: Arc<AtomicU64>,
) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Dropped with this task, and every connection with it.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((near, _)) => {
                    let Ok(permit) = room.clone().try_acquire_owned() else { continue };
                    let (upstream, toxic, harm) = (upstream.borrow().clone(), toxic.clone(), harm.clone());
                    connections.spawn(async move {
                        connect(near, upstream, toxic, &harm).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a proxy cannot accept");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            },
        }
    }
}

async fn connect(
    near: TcpStream,
    upstream: Upstream,
    toxic: watch::Receiver<Toxic>,
    harm: &AtomicU64,
) {
    if toxic.borrow().refuses {
        harm.fetch_add(1, Ordering::Relaxed);
        return;
    }
    near.set_nodelay(true).ok();
    match upstream {
        Upstream::Nobody => {}
        Upstream::Tcp(address) => {
            let far = tokio::time::timeout(CONNECT_DEADLINE, TcpStream::connect(address)).await;
            if let Ok(Ok(far)) = far {
                far.set_nodelay(true).ok();
                let (far_in, far_out) = far.into_split();
                both_ways(near, far_in, far_out, toxic, harm).await;
            }
        }
        Upstream::Unix(path) => {
            let far = tokio::time::timeout(CONNECT_DEADLINE, UnixStream::connect(path)).await;
            if let Ok(Ok(far)) = far {
                let (far_in, far_out) = far.into_split();
                both_ways(near, far_in, far_out, toxic, harm).await;
            }
        }
    }
}

async fn both_ways(
    near: TcpStream,
    far_in: impl AsyncRead + Unpin,
    far_out: impl AsyncWrite + Unpin,
    toxic: watch::Receiver<Toxic>,
    harm: &AtomicU64,
) {
    let (near_in, near_out) = near.into_split();
    let up = carry::carry(
        near_in,
        far_out,
        carry::Towards::Server,
        toxic.clone(),
        harm,
    );
    let down = carry::carry(
        far_in,
        near_out,
        carry::Towards::Client,
        toxic.clone(),
        harm,
    );
    tokio::select! {
        // One way may end before the other, as of HTTP clients that have said everything; a broken one ends both.
        _ = async { tokio::try_join!(up, down) } => {}
        () = carry::broken_off(toxic, harm) => {}
    }
}
