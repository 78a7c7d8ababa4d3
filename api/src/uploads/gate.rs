//! The checks of files, in a bounded blocking pool: each takes a core, and a picture up to a quarter of a gigabyte.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use flowai_actors::ids::UserId;
use flowai_model::adapter::{Adapter, AdapterReport, ModuleTable};
use flowai_model::safetensors::{Limits, map_file};
use tempfile::NamedTempFile;
use tokio::sync::Semaphore;

use super::image::{Picture, read_picture};
use super::places::{Place, Places};
use crate::error::ApiError;

const CHECKS_AT_ONCE: usize = 2;
/// Requests that wait for their turn with their file at hand; more are told to come back.
const WAITING_MAX: usize = 32;

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Gate {
    turns: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    places: Places,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(CHECKS_AT_ONCE)),
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
            places: Places::default(),
        }
    }
}

impl Gate {
    /// Room for a file of the user's, which comes in or is fetched; to be had before any of it is.
    ///
    /// # Errors
    /// `Overloaded`.
    pub(crate) fn place(&self, user: UserId) -> Result<Place, ApiError> {
        self.places.take(user)
    }

    /// Decodes a picture and encodes it anew.
    ///
    /// # Errors
    /// `FileRefused` with the reason, `Overloaded`.
    pub async fn picture(&self, bytes: Bytes) -> Result<Picture, ApiError> {
        self.in_turn(move || {
            read_picture(&bytes).map_err(|error| ApiError::FileRefused(error.to_string()))
        })
        .await
    }

    /// Checks that a file is one well-formed safetensors file within caps, finite throughout. Gives the file back.
    pub async fn adapter_file(&self, file: NamedTempFile) -> Result<NamedTempFile, ApiError> {
        self.in_turn(move || {
            let checked = map_file(file.path(), &Limits::ADAPTER)
                .map_err(flowai_model::gate::GateError::from)
                .and_then(flowai_model::gate::check);
            match checked {
                Ok(_) => Ok(file),
                Err(error) => Err(ApiError::FileRefused(error.to_string())),
            }
        })
        .await
    }

    /// Resolves every key of an adapter file in a model's table. `model` is for the words only.
    ///
    /// # Errors
    /// `AdapterIncompatible` with everything that does not fit.
    pub async fn adapter_fits(
        &self,
        path: PathBuf,
        table: ModuleTable,
        model: String,
    ) -> Result<AdapterReport, ApiError> {
        self.in_turn(move || open_adapter(&path, &table, &model))
            .await
    }

    async fn in_turn<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<R, ApiError> + Send + 'static,
    ) -> Result<R, ApiError> {
        let _place = self
            .waiting
            .try_acquire()
            .map_err(|_| ApiError::Overloaded)?;
        let turn = self.turns.clone().acquire_owned().await;
        let turn = turn.map_err(|_| ApiError::Draining)?;
        let done = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(turn);
            result
        });
        done.await.map_err(|error| {
            tracing::error!(%error, "a check ended early");
            ApiError::FileRefused("cannot be read".to_owned())
        })?
    }
}

fn open_adapter(path: &Path, table: &ModuleTable, model: &str) -> Result<AdapterReport, ApiError> {
    match Adapter::open(path, table) {
        Ok(adapter) => Ok(adapter.report),
        Err(error) => Err(ApiError::AdapterIncompatible(format!(
            "for model {model}: {error}"
        ))),
    }
}
