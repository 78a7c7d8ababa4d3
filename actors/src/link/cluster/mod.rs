//! [`RactorLink`]: the port over ractor_cluster, hub and spoke.
//!
//! A process has one remotable actor, the gateway; everything else is local. Coordinators listen, nodes and api
//! instances dial. What the cluster lacks is added around it: identity by certificate and link token, a bound on what
//! is on its way, notice of silent peers, redialling.

mod dial;
mod establish;
mod gateway;
mod hub;
mod server;
mod switchboard;
mod table;
mod tasks;

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::TcpListener;
use tokio::sync::watch;

use self::server::Server;
use self::switchboard::Switchboard;
use super::envelope::Envelope;
use super::error::{AskError, SendError};
use super::greeting::SchemaRange;
use super::peer::{Peer, PeerId, Role};
use super::pki::Identity;
use super::port::{DownReason, LinkEvents, NodeLink, event_channel};
use super::stats::LinkStats;
use super::transport::TlsSetup;
use crate::ids::Generation;
use crate::kit::{TaskError, Tasks};

pub use self::dial::DialTargets;
pub use self::hub::Standing;

/// Whether a peer of this role may send this kind of message. Unknown kinds should pass: the program answers them
/// `Unsupported`.
pub type MaySend = fn(Role, u32) -> bool;

/// How long the parts of a link may take to stop.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// Everything a link must know about the process it is in.
#[derive(Debug, Clone)]
pub struct LinkConfig {
    /// Certificate, key and cookie; says who we are.
    pub identity: Identity,
    /// The start count of this process under its id.
    pub generation: Generation,
    /// The build, shown to peers and operators.
    pub build: String,
    /// The message schemas this build speaks.
    pub schemas: SchemaRange,
    /// What peers may send to us.
    pub may_send: MaySend,
}

/// Why a link could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LinkStartError {
    /// The cluster's registries are global: a second link would share them.
    #[error("a process can have one link only; use the one that runs")]
    AlreadyRunning,
    /// The identity cannot be used for TLS.
    #[error("identity cannot be used: {0}")]
    Identity(String),
    /// The identity's role does not allow this.
    #[error("{0} cannot listen: only a coordinator's certificate may serve")]
    NotCoordinator(PeerId),
    /// Coordinators do not dial.
    #[error("{0} cannot dial: coordinators are dialled")]
    Coordinator(PeerId),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The cluster's actors did not start.
    #[error("cluster actors did not start: {0}")]
    Cluster(String),
}

/// What the tasks of a link share.
struct LinkContext {
    config: LinkConfig,
    /// Replaced when the identity is renewed; each connection takes the one of its beginning.
    tls: RwLock<TlsSetup>,
    /// Peers that an operator revoked.
    barred: RwLock<BTreeSet<PeerId>>,
    server: Server,
    switchboard: Arc<Switchboard>,
}

/// The link of this process over ractor_cluster. One a process. Cheap to clone.
#[derive(Clone)]
pub struct RactorLink {
    context: Arc<LinkContext>,
    /// Read by the hub for each greeting.
    standing: Arc<watch::Sender<Standing>>,
    running: Arc<OnlyOne>,
}

impl RactorLink {
    /// Starts the link; nobody is connected until `listen` or `dial`.
    pub async fn start(config: LinkConfig) -> Result<(Self, LinkEvents), LinkStartError> {
        let running = Arc::new(OnlyOne::claim()?);
        let (events, receiver) = event_channel();
        let switchboard = Arc::new(Switchboard::new(config.may_send, events, Tasks::new()));
        let tls = TlsSetup::new(&config.identity)
            .map_err(|error| LinkStartError::Identity(error.to_string()))?;
        let server = Server::start(
            &config.identity,
            config.generation,
            tls.acceptor(),
            switchboard.clone(),
        )
        .await
        .map_err(|error| LinkStartError::Cluster(error.to_string()))?;
        let context = Arc::new(LinkContext {
            config,
            tls: RwLock::new(tls),
            barred: RwLock::default(),
            server,
            switchboard,
        });
        let standing = Arc::new(watch::Sender::new(Standing::Standby { leader: None }));
        Ok((
            Self {
                context,
                standing,
                running,
            },
            receiver,
        ))
    }

    /// Listens for peers. They are sent away until [`Self::set_standing`] says that this coordinator leads.
    ///
    /// Gives the bound address, for a port of 0.
    pub async fn listen(&self, address: SocketAddr) -> Result<SocketAddr, LinkStartError> {
        let me = self.context.config.identity.peer();
        if me.role() != Role::Coordinator {
            return Err(LinkStartError::NotCoordinator(me.clone()));
        }
        let listen = |source| LinkStartError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let bound = listener.local_addr().map_err(listen)?;
        hub::serve(self.context.clone(), listener, self.standing.subscribe());
        Ok(bound)
    }

    /// Takes up or lays down the lead. Standing down cuts every link, so that peers look for the new leader.
    pub fn set_standing(&self, standing: Standing) {
        let leads = standing == Standing::Leading;
        self.standing.send_replace(standing);
        if !leads {
            self.context
                .switchboard
                .table()
                .retire_all(DownReason::CutHere);
        }
    }

    /// Dials the coordinators at `targets` until one welcomes us, and again whenever the link ends.
    pub fn dial(&self, targets: DialTargets) -> Result<(), LinkStartError> {
        let me = self.context.config.identity.peer();
        if me.role() == Role::Coordinator {
            return Err(LinkStartError::Coordinator(me.clone()));
        }
        dial::keep_dialling(self.context.clone(), targets);
        Ok(())
    }

    /// From the next connection on, this certificate and key prove who we are. They must be of the same peer.
    ///
    /// # Errors
    /// [`LinkStartError::Identity`]; then the identity before stays.
    pub fn renew(&self, identity: &Identity) -> Result<(), LinkStartError> {
        let me = self.context.config.identity.peer();
        if identity.peer() != me {
            let reason = format!("it is that of {}, not of {me}", identity.peer());
            return Err(LinkStartError::Identity(reason));
        }
        let tls =
            TlsSetup::new(identity).map_err(|error| LinkStartError::Identity(error.to_string()))?;
        *self
            .context
            .tls
            .write()
            .unwrap_or_else(PoisonError::into_inner) = tls;
        Ok(())
    }

    /// What was refused and how much has passed.
    pub fn stats(&self) -> LinkStats {
        self.context.switchboard.counters.snapshot()
    }

    /// Resolves when the link cannot do its work any more: the program should end.
    pub async fn failed(&self) -> TaskError {
        self.context.switchboard.tasks.failed().await
    }

    /// Cuts all links and stops. The events end after the last `Down`.
    pub async fn shutdown(self) {
        self.context.switchboard.tasks.shutdown(STOP_GRACE).await;
        self.context
            .switchboard
            .table()
            .retire_all(DownReason::CutHere);
        self.context.server.stop(STOP_GRACE).await;
        drop(self.running);
    }
}

#[async_trait]
impl NodeLink for RactorLink {
    fn send(&self, to: &PeerId, envelope: Envelope) -> Result<(), SendError> {
        self.context.switchboard.send(to, envelope)
    }

    async fn ask(
        &self,
        to: &PeerId,
        envelope: Envelope,
        deadline: Duration,
    ) -> Result<Envelope, AskError> {
        self.context.switchboard.ask(to, envelope, deadline).await
    }

    fn peers(&self) -> Vec<Peer> {
        self.context.switchboard.table().peers_up()
    }

    fn disconnect(&self, peer: &PeerId) {
        let mut table = self.context.switchboard.table();
        if let Some((serial, _)) = table.by_peer(peer) {
            table.retire(serial, DownReason::CutHere);
        }
    }

    fn bar(&self, peers: BTreeSet<PeerId>) {
        *self
            .context
            .barred
            .write()
            .unwrap_or_else(PoisonError::into_inner) = peers.clone();
        // After the list is in force, so that none comes back between.
        peers.iter().for_each(|peer| self.disconnect(peer));
    }
}

impl LinkContext {
    fn tls(&self) -> TlsSetup {
        self.tls
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn is_barred(&self, peer: &PeerId) -> bool {
        self.barred
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(peer)
    }
}

impl fmt::Debug for RactorLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RactorLink")
            .field("identity", &self.context.config.identity)
            .finish_non_exhaustive()
    }
}

static IS_RUNNING: AtomicBool = AtomicBool::new(false);

/// The right to be this process's link.
#[derive(Debug)]
struct OnlyOne;

impl OnlyOne {
    fn claim() -> Result<Self, LinkStartError> {
        match IS_RUNNING.swap(true, Ordering::AcqRel) {
            false => Ok(Self),
            true => Err(LinkStartError::AlreadyRunning),
        }
    }
}

impl Drop for OnlyOne {
    fn drop(&mut self) {
        IS_RUNNING.store(false, Ordering::Release);
    }
}
