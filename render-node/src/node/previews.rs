//! Sends the previews of one job, the newest whenever there is a way. What fails is not tried again: the next one shows more.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flowai_actors::ids::{Epoch, Generation, NodeId};
use flowai_actors::link::{NodeLink, PeerId};
use flowai_actors::messages::AttemptRef;
use flowai_actors::preview::{PlacePreview, PreviewPlace, PreviewPlaced};
use flowai_actors::wire;
use tokio::sync::watch;

use crate::preview::MovingPicture;
use crate::uploader::Uploader;

/// The leader only signs.
const ASK_DEADLINE: Duration = Duration::from_secs(5);

/// Whom to ask, and under which term.
pub(super) type Leader = Option<(PeerId, Epoch)>;

/// The way of the previews of one attempt.
pub(super) struct Way {
    pub(super) at: AttemptRef,
    pub(super) node: NodeId,
    pub(super) generation: Generation,
    pub(super) leader: watch::Receiver<Leader>,
    pub(super) link: Arc<dyn NodeLink>,
    pub(super) uploader: Uploader,
}

impl Way {
    /// Until no more can come.
    pub(super) async fn send_all(self, mut newest: watch::Receiver<Option<MovingPicture>>) {
        while newest.changed().await.is_ok() {
            let Some(picture) = newest.borrow_and_update().clone() else {
                continue;
            };
            let step = picture.step;
            if let Err(reason) = self.send(picture).await {
                tracing::debug!(attempt = ?self.at, step, reason, "preview is not shown");
            }
        }
    }

    async fn send(&self, picture: MovingPicture) -> Result<(), String> {
        let leader = self.leader.borrow().clone();
        let (leader, epoch) = leader.ok_or("no leader is known")?;
        let MovingPicture { step, sha256, webp } = picture;
        let question = PlacePreview {
            at: self.at,
            node: self.node.clone(),
            generation: self.generation,
            step,
            sha256,
            bytes: webp.len() as u64,
        };
        let place = wire::ask(self.link.as_ref(), &leader, epoch, &question, ASK_DEADLINE).await;
        match place.map_err(|error| error.to_string())? {
            PreviewPlace::Target { url, headers } => self.put(&url, &headers, webp).await?,
            PreviewPlace::Refused => return Err("leader wants none of this attempt".to_owned()),
        }
        let placed = PreviewPlaced { at: self.at, step };
        let envelope = wire::seal(epoch, &placed).map_err(|error| error.to_string())?;
        let sent = self.link.send(&leader, envelope);
        sent.map_err(|error| format!("{error:?}"))
    }

    async fn put(
        &self,
        url: &str,
        headers: &[(String, String)],
        webp: Bytes,
    ) -> Result<(), String> {
        let put = self.uploader.put_preview(url, headers, webp).await;
        put.map_err(|error| error.to_string())
    }
}
