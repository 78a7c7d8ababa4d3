//! Sends the previews of one job, the newest whenever there is a way. What fails is not tried again: the next one shows more.

use std::time::Duration;

use bytes::Bytes;
use flowai_actors::preview::{PlacePreview, PreviewPlace, PreviewPlaced};
use flowai_actors::wire;
use tokio::sync::watch;

use super::way::Way;
use crate::preview::MovingPicture;

/// The leader only signs.
const ASK_DEADLINE: Duration = Duration::from_secs(5);

impl Way {
    /// Until no more can come.
    pub(super) async fn send_previews(self, mut newest: watch::Receiver<Option<MovingPicture>>) {
        while newest.changed().await.is_ok() {
            let Some(picture) = newest.borrow_and_update().clone() else {
                continue;
            };
            let step = picture.step;
            if let Err(reason) = self.send_preview(picture).await {
                tracing::debug!(attempt = ?self.at, step, reason, "preview is not shown");
            }
        }
    }

    async fn send_preview(&self, picture: MovingPicture) -> Result<(), String> {
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
            PreviewPlace::Target { url, headers } => self.put_preview(&url, &headers, webp).await?,
            PreviewPlace::Refused => return Err("leader wants none of this attempt".to_owned()),
        }
        let placed = PreviewPlaced { at: self.at, step };
        let envelope = wire::seal(epoch, &placed).map_err(|error| error.to_string())?;
        let sent = self.link.send(&leader, envelope);
        sent.map_err(|error| format!("{error:?}"))
    }

    async fn put_preview(
        &self,
        url: &str,
        headers: &[(String, String)],
        webp: Bytes,
    ) -> Result<(), String> {
        let put = self.uploader.put_preview(url, headers, webp).await;
        put.map_err(|error| error.to_string())
    }
}
