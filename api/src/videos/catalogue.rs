//! What submissions name, cached for a moment: most submissions read nothing before they are written down.

use std::sync::Arc;
use std::time::Duration;

use flowai_actors::ids::{ModelId, Sha256, UploadId, UserId};
use flowai_actors::messages::ModelOffer;
use flowai_store::database::Database;
use flowai_store::models;
use flowai_store::uploads::{self, Purpose};

use crate::cache::TtlCache;
use crate::error::ApiError;

/// How long a model that was withdrawn may still be chosen. Its job waits, as one does that was queued a moment before.
const OFFERS_TTL: Duration = Duration::from_secs(1);
/// Pictures never change; one that was removed is refused when the job is written.
const PICTURES_TTL: Duration = Duration::from_secs(60);

/// A picture that somebody may have animated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Picture {
    pub sha256: Sha256,
    /// Width and height, px.
    pub size: (u32, u32),
}

#[derive(Debug)]
pub(crate) struct Catalogue {
    offers: TtlCache<(), Arc<[ModelOffer]>>,
    /// A clip's model and a keyframe's that one node offers both.
    together: TtlCache<(ModelId, ModelId), ()>,
    pictures: TtlCache<(UserId, UploadId), Picture>,
}

impl Default for Catalogue {
    fn default() -> Self {
        Self {
            offers: TtlCache::new(OFFERS_TTL),
            together: TtlCache::new(OFFERS_TTL),
            pictures: TtlCache::new(PICTURES_TTL),
        }
    }
}

impl Catalogue {
    /// What the farm's nodes offer, by name.
    pub(crate) async fn offers(
        &self,
        database: &Database,
        user: UserId,
    ) -> Result<Arc<[ModelOffer]>, ApiError> {
        match self.offers.get(&()) {
            Some(offers) => Ok(offers),
            None => self.read_offers(database, user).await,
        }
    }

    /// The model of this name. One that came a moment ago is found.
    pub(crate) async fn offer(
        &self,
        database: &Database,
        user: UserId,
        id: &ModelId,
    ) -> Result<Option<ModelOffer>, ApiError> {
        let named = |offers: &[ModelOffer]| offers.iter().find(|offer| offer.id == *id).cloned();
        if let Some(offer) = self.offers.get(&()).and_then(|offers| named(&offers)) {
            return Ok(Some(offer));
        }
        Ok(named(&self.read_offers(database, user).await?))
    }

    /// Whether one node offers both. One that came a moment ago counts.
    pub(crate) async fn are_together(
        &self,
        database: &Database,
        user: UserId,
        clip: &ModelId,
        keyframe: &ModelId,
    ) -> Result<bool, ApiError> {
        let both = (clip.clone(), keyframe.clone());
        if self.together.get(&both).is_some() {
            return Ok(true);
        }
        let mut transaction = database.begin_as(user).await?;
        let are = models::are_together(&mut transaction, clip, keyframe).await?;
        if are {
            self.together.insert(both, ());
        }
        Ok(are)
    }

    async fn read_offers(
        &self,
        database: &Database,
        user: UserId,
    ) -> Result<Arc<[ModelOffer]>, ApiError> {
        let mut transaction = database.begin_as(user).await?;
        let models = models::list(&mut transaction).await?;
        let offers: Arc<[ModelOffer]> = models.into_iter().map(|model| model.offer).collect();
        self.offers.insert((), Arc::clone(&offers));
        Ok(offers)
    }

    /// One of the caller's own pictures.
    ///
    /// # Errors
    /// `NamedNotFound`; `ValidationFailed` when it is another kind of file.
    pub(crate) async fn picture(
        &self,
        database: &Database,
        user: UserId,
        id: UploadId,
    ) -> Result<Picture, ApiError> {
        if let Some(picture) = self.pictures.get(&(user, id)) {
            return Ok(picture);
        }
        let mut transaction = database.begin_as(user).await?;
        let upload = uploads::find(&mut transaction, id).await?;
        let upload = upload.ok_or_else(|| ApiError::NamedNotFound(format!("upload {id}")))?;
        let (Purpose::Image, Some(size)) = (upload.purpose, upload.size) else {
            let detail = "must be an upload with the purpose image";
            return Err(ApiError::field("/image", "invalid", detail));
        };
        let picture = Picture {
            sha256: upload.sha256,
            size,
        };
        self.pictures.insert((user, id), picture);
        Ok(picture)
    }
}
