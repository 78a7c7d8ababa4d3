//! The dialling side: finds the leader, keeps one link to it, and begins again when the link ends.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::watch;

use super::LinkContext;
use super::establish::Admitted;
use super::server::Side;
use super::table::{LinkSignals, NotAdmitted};
use super::tasks::LinkTask;
use crate::ids::Generation;
use crate::kit::Backoff;
use crate::limits::{LEADER_HINTS_MAX, LINK_TLS_MS, REDIAL_FIRST_MS, REDIAL_MOST_MS};
use crate::link::greeting::{Greeting, GreetingAnswer, Hello, LinkToken, Refused, Welcome};
use crate::link::peer::{Peer, PeerId, Role};
use crate::link::port::LinkEvent;
use crate::link::transport::{GreetError, TlsError, read_greeting, write_greeting};

/// Where coordinators listen, as `host:port`. May change while the link runs: the next round of dialling reads it anew.
pub type DialTargets = watch::Receiver<Vec<String>>;

/// A link that stood for so long was a good one.
const STEADY: Duration = Duration::from_secs(10);

/// Why one address gave no link.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("cannot connect: {0}")]
    Connect(#[from] std::io::Error),
    #[error("connecting took longer than {LINK_TLS_MS} ms")]
    Late,
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Greeting(#[from] GreetError),
    #[error("{0} serves, but its certificate does not name a coordinator")]
    NoCoordinator(PeerId),
    #[error("coordinator stands by")]
    NotLeader { leader: Option<String> },
    #[error("coordinator refused the link: {}", .0.reason)]
    Refused(Refused),
    #[error("coordinator answered with something this build does not know")]
    Unknown,
    #[error(transparent)]
    NotAdmitted(#[from] NotAdmitted),
    #[error("link ended before it was up")]
    NotUp,
}

/// Starts to dial. Returns when the loop runs.
pub(super) fn keep_dialling(context: Arc<LinkContext>, targets: DialTargets) {
    let tasks = context.switchboard.tasks.clone();
    tasks.spawn(LinkTask::Dial, |_| async move {
        let dialler = Dialler { context, targets };
        let mut backoff = Backoff::new(
            Duration::from_millis(REDIAL_FIRST_MS),
            Duration::from_millis(REDIAL_MOST_MS),
        );
        loop {
            if let Some(link) = dialler.one_round().await {
                let up_at = Instant::now();
                // The cluster must have forgotten the old connection before a new one of the same peer.
                link.closed.cancelled().await;
                // Two processes of one name would displace each other as fast as they can.
                if up_at.elapsed() >= STEADY {
                    backoff.reset();
                }
            }
            let wait = backoff.next_wait(&mut rand::rng());
            tokio::time::sleep(wait).await;
        }
    });
}

struct Dialler {
    context: Arc<LinkContext>,
    targets: DialTargets,
}

impl Dialler {
    /// Tries each address, and where they point to, until a link is up.
    async fn one_round(&self) -> Option<LinkSignals> {
        let mut addresses: VecDeque<String> = self.targets.borrow().iter().cloned().collect();
        let mut hints = 0;
        while let Some(address) = addresses.pop_front() {
            match self.dial(&address).await {
                Ok(link) => return Some(link),
                Err(DialError::NotLeader {
                    leader: Some(leader),
                }) if hints < LEADER_HINTS_MAX => {
                    hints += 1;
                    tracing::debug!(
                        address,
                        leader,
                        "coordinator stands by; going on to the leader"
                    );
                    addresses.retain(|other| *other != leader);
                    addresses.push_front(leader);
                }
                Err(DialError::Refused(refused)) => {
                    tracing::warn!(
                        address,
                        reason = refused.reason,
                        "coordinator refused the link"
                    );
                    let (code, reason) = (refused.code(), refused.reason);
                    self.context.switchboard.events.emit(LinkEvent::Refused {
                        address,
                        code,
                        reason,
                    });
                }
                Err(error) => tracing::info!(address, %error, "no link yet"),
            }
        }
        None
    }

    async fn dial(&self, address: &str) -> Result<LinkSignals, DialError> {
        let config = &self.context.config;
        let tls = self.context.tls();
        let connecting = tokio::time::timeout(
            Duration::from_millis(LINK_TLS_MS),
            TcpStream::connect(address),
        );
        let tcp = connecting.await.map_err(|_| DialError::Late)??;
        // Small messages must not wait for company; without this option the link is slower but works.
        tcp.set_nodelay(true).ok();
        let (mut stream, certified) = tls.connect(tcp).await?;
        if certified.role() != Role::Coordinator {
            return Err(DialError::NoCoordinator(certified));
        }
        let hello = Hello::new(
            config.identity.peer(),
            config.generation,
            &config.build,
            &config.schemas,
        );
        write_greeting(&mut stream, &hello).await?;
        let greeting: Greeting = read_greeting(&mut stream).await?;
        let Welcome {
            link_token,
            generation,
            build,
            schema,
        } = match greeting.answer {
            Some(GreetingAnswer::Welcome(welcome)) => welcome,
            Some(GreetingAnswer::NotLeader(answer)) => {
                return Err(DialError::NotLeader {
                    leader: answer.leader,
                });
            }
            Some(GreetingAnswer::Refused(refused)) => return Err(DialError::Refused(refused)),
            None => return Err(DialError::Unknown),
        };
        let token = LinkToken::from_wire(link_token).ok_or(DialError::Unknown)?;
        let peer = Peer {
            id: certified,
            generation: Generation::new(generation),
            build,
            schema,
        };
        let admitted = Admitted::new(&self.context, peer, token).await?;
        admitted
            .hand_over(Side::Dialled, stream)
            .await
            .ok_or(DialError::NotUp)
    }
}
