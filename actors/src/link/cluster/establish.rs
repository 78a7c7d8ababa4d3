//! From a greeted connection to a link that is up: the same on both sides.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use super::LinkContext;
use super::server::Side;
use super::table::{Admission, LinkSerial, LinkSignals, NotAdmitted};
use crate::limits::{LINK_DISPLACED_MS, LINK_UP_MS};
use crate::link::greeting::LinkToken;
use crate::link::peer::Peer;
use crate::link::port::DownReason;
use crate::link::transport::GuardedStream;

/// A place in the link table for a connection that the cluster does not know yet. Dropped before the hand-over, it
/// leaves the table.
pub(super) struct Admitted<'a> {
    context: &'a LinkContext,
    pub(super) peer: Peer,
    serial: LinkSerial,
    signals: LinkSignals,
    is_handed_over: bool,
}

impl<'a> Admitted<'a> {
    /// Admits the peer and waits until its older link, if there is one, has left the cluster.
    pub(super) async fn new(
        context: &'a LinkContext,
        peer: Peer,
        token: LinkToken,
    ) -> Result<Self, NotAdmitted> {
        let Admission {
            serial,
            signals,
            displaced,
        } = context.switchboard.table().admit(peer.clone(), token)?;
        let admitted = Self {
            context,
            peer,
            serial,
            signals,
            is_handed_over: false,
        };
        if let Some(displaced) = displaced {
            let gone = tokio::time::timeout(
                Duration::from_millis(LINK_DISPLACED_MS),
                displaced.closed.cancelled(),
            );
            gone.await.map_err(|_| NotAdmitted::Busy)?;
        }
        Ok(admitted)
    }

    /// Gives the connection to the cluster and waits until the link is up. `None`: it ended before.
    pub(super) async fn hand_over<S>(mut self, side: Side, stream: S) -> Option<LinkSignals>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let switchboard = &self.context.switchboard;
        let stream = GuardedStream::new(
            stream,
            self.signals.kill.clone(),
            switchboard.counters.clone(),
        );
        // From here on the cluster says when the connection is closed.
        self.is_handed_over =
            self.context
                .server
                .hand_over(side, self.serial, &self.peer.id, stream);
        if !self.is_handed_over {
            return None;
        }
        let signals = self.signals.clone();
        let is_up = tokio::select! {
            () = signals.up.cancelled() => true,
            () = signals.closed.cancelled() => false,
            () = tokio::time::sleep(Duration::from_millis(LINK_UP_MS)) => false,
        };
        if !is_up {
            tracing::warn!(peer = %self.peer.id, "link did not come up");
            self.leave(DownReason::Closed);
            return None;
        }
        Some(signals)
    }

    /// Leaves the table whether or not the cluster ever reports the connection.
    fn leave(&self, reason: DownReason) {
        let mut table = self.context.switchboard.table();
        table.retire(self.serial, reason);
        table.closed(self.serial);
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        if !self.is_handed_over {
            self.leave(DownReason::Closed);
        }
    }
}
