//! The serving side: coordinators are dialled, everybody else dials.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::LinkContext;
use super::establish::Admitted;
use super::server::Side;
use super::table::NotAdmitted;
use super::tasks::LinkTask;
use crate::link::greeting::{
    Greeting, GreetingAnswer, Hello, LinkToken, NotLeader, Refused, RefusedCode, Welcome,
};
use crate::link::peer::PeerId;
use crate::link::stats::Counter;
use crate::link::transport::{HalfOpen, TlsError, accept_loop, read_greeting, write_greeting};

/// Whether this coordinator takes links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It leads: peers are welcome.
    Leading,
    /// It stands by: peers are sent on to the leader, if it is known where that one listens (`host:port`).
    Standby {
        /// The leader's address.
        leader: Option<String>,
    },
}

/// Starts to accept. Returns when the loop runs.
pub(super) fn serve(
    context: Arc<LinkContext>,
    listener: TcpListener,
    standing: watch::Receiver<Standing>,
) {
    let tasks = context.switchboard.tasks.clone();
    let counters = context.switchboard.counters.clone();
    tasks.clone().spawn(LinkTask::Accept, |_| async move {
        accept_loop(listener, counters, |stream, address, place| {
            let hub = Hub {
                context: context.clone(),
                standing: standing.clone(),
            };
            tasks.spawn(LinkTask::Greet, |_| async move {
                hub.greet(stream, address, place).await;
                Ok(())
            });
        })
        .await;
        Ok(())
    });
}

struct Hub {
    context: Arc<LinkContext>,
    standing: watch::Receiver<Standing>,
}

impl Hub {
    /// Takes one connection from TCP to a link that is up, holding its place among the half-open ones until then.
    async fn greet(&self, tcp: TcpStream, address: SocketAddr, place: HalfOpen) {
        let counters = &self.context.switchboard.counters;
        let Some(accepted) = place.know(self.context.tls().accept(tcp)).await else {
            return;
        };
        let (mut stream, certified) = match accepted {
            Ok(accepted) => accepted,
            Err(error @ TlsError::Names(_)) => {
                return refuse_quietly(&counters.refused_identity, address, &error);
            }
            Err(error) => return refuse_quietly(&counters.refused_tls, address, &error),
        };
        let hello: Hello = match read_greeting(&mut stream).await {
            Ok(hello) => hello,
            Err(error) => return refuse_quietly(&counters.refused_greeting, address, &error),
        };
        let admitted = match self.admit(&hello, &certified).await {
            Ok(admitted) => admitted,
            Err(answer) => {
                tracing::info!(peer = %certified, %address, ?answer, "sent a peer away");
                return self.send_away(stream, answer).await;
            }
        };
        let (admitted, welcome) = admitted;
        if let Err(error) =
            write_greeting(&mut stream, &answered(GreetingAnswer::Welcome(welcome))).await
        {
            return refuse_quietly(&counters.refused_greeting, address, &error);
        }
        admitted.hand_over(Side::Accepted, stream).await;
    }

    /// Decides about a `Hello`: a place in the link table, or the answer that sends the peer away.
    async fn admit(
        &self,
        hello: &Hello,
        certified: &PeerId,
    ) -> Result<(Admitted<'_>, Welcome), GreetingAnswer> {
        let LinkContext {
            config,
            switchboard,
            ..
        } = &*self.context;
        let counters = &switchboard.counters;
        // First, because only who leads decides about a peer: in a rolling upgrade a standby may be of another build.
        self.leading()?;
        self.not_barred(certified)?;
        let peer = hello
            .check(certified, &config.schemas, &config.build)
            .map_err(|refused| {
                let counter = match refused.code() {
                    RefusedCode::Identity => &counters.refused_identity,
                    _ => &counters.refused_greeting,
                };
                counter.add(1);
                GreetingAnswer::Refused(refused)
            })?;
        let (token, schema) = (LinkToken::random(), peer.schema);
        let admitted = Admitted::new(&self.context, peer, token.clone())
            .await
            .map_err(|error| {
                let code = match error {
                    NotAdmitted::Stale { .. } => {
                        counters.refused_generation.add(1);
                        RefusedCode::StaleGeneration
                    }
                    NotAdmitted::Busy => RefusedCode::Busy,
                };
                GreetingAnswer::Refused(Refused::new(code, error.to_string()))
            })?;
        // Asked again, because a link admitted while this coordinator stood down would outlive its term.
        self.leading()?;
        // And so would one that was barred in between.
        self.not_barred(certified)?;
        let (generation, build) = (config.generation.get(), config.build.clone());
        Ok((
            admitted,
            Welcome {
                link_token: token.to_wire(),
                generation,
                build,
                schema,
            },
        ))
    }

    fn leading(&self) -> Result<(), GreetingAnswer> {
        match &*self.standing.borrow() {
            Standing::Leading => Ok(()),
            Standing::Standby { leader } => Err(GreetingAnswer::NotLeader(NotLeader {
                leader: leader.clone(),
            })),
        }
    }

    fn not_barred(&self, certified: &PeerId) -> Result<(), GreetingAnswer> {
        if !self.context.is_barred(certified) {
            return Ok(());
        }
        self.context.switchboard.counters.refused_identity.add(1);
        let reason =
            format!("{certified} was revoked by an operator; join anew under another name");
        Err(GreetingAnswer::Refused(Refused::new(
            RefusedCode::Revoked,
            reason,
        )))
    }

    async fn send_away(&self, mut stream: impl AsyncWrite + Unpin, answer: GreetingAnswer) {
        // The peer may be gone already; then it needs no answer.
        if write_greeting(&mut stream, &answered(answer)).await.is_ok() {
            stream.shutdown().await.ok();
        }
    }
}

fn answered(answer: GreetingAnswer) -> Greeting {
    Greeting {
        answer: Some(answer),
    }
}

/// Closes a connection whose peer is a stranger or broken: no answer, and no log line for each.
fn refuse_quietly(counter: &Counter, address: SocketAddr, error: &dyn std::fmt::Display) {
    if counter.worth_a_line() {
        tracing::warn!(%address, %error, "refused a connection");
    }
}
