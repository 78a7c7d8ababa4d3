//! What a render is made from, as a node needs it: the spec, and where the picture and the adapters lie.

use flowai_actors::ids::{JobId, Sha256};
use flowai_actors::spec::{AdapterUse, FirstFrame, RenderSpec};
use sqlx::types::Json;

use crate::database::{Database, DatabaseError};

/// A file in the object store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFile {
    pub sha256: Sha256,
    pub bytes: u64,
    pub key: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Sources {
    pub spec: RenderSpec,
    pub first_frame: FirstFrameFiles,
    /// In the order of `spec.adapters`, all of them (INV-10).
    pub adapters: Vec<StoredFile>,
}

/// What the first frame is made from, as `spec.first_frame` says.
#[derive(Debug, Clone, PartialEq)]
pub enum FirstFrameFiles {
    Image(StoredFile),
    /// The adapters of the keyframe, in the order of its spec, all of them.
    Keyframe(Vec<StoredFile>),
}

/// Why a job cannot be given to any node.
#[derive(Debug, thiserror::Error)]
pub enum SourcesError {
    #[error("the job does not exist any more")]
    NoJob,
    #[error("the spec cannot be read by this version: {0}")]
    Spec(String),
    #[error("adapter {0} is not stored; upload it again")]
    Adapter(Sha256),
    #[error("the picture is not the one that the spec names by {0}; upload it again")]
    Image(Sha256),
    /// Says nothing about the job: ask again.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl From<sqlx::Error> for SourcesError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// Looks up the files of a job.
pub async fn of_job(database: &Database, job: JobId) -> Result<Sources, SourcesError> {
    type Row = (
        Json<serde_json::Value>,
        Option<Vec<u8>>,
        Option<i64>,
        Option<String>,
    );
    let found: Option<Row> = sqlx::query_as(
        "select j.spec, u.sha256, u.bytes, u.object_key
           from job j left join upload u on u.owner_id = j.owner_id and u.id = j.image_id
          where j.id = $1",
    )
    .bind(job.as_uuid())
    .fetch_optional(database.pool())
    .await?;
    let (Json(spec), image_sha256, image_bytes, image_key) = found.ok_or(SourcesError::NoJob)?;
    let spec: RenderSpec =
        serde_json::from_value(spec).map_err(|error| SourcesError::Spec(error.to_string()))?;
    let image = image_sha256.zip(image_bytes).zip(image_key);
    let image = image.and_then(|((sha256, bytes), key)| stored(sha256, bytes, key));

    let held = match spec.stages().any(|(_, adapters)| !adapters.is_empty()) {
        true => adapters_of(database, job).await?,
        false => Vec::new(),
    };
    let first_frame = match &spec.first_frame {
        FirstFrame::Image(wanted) => image
            .filter(|image| image.sha256 == *wanted)
            .map(FirstFrameFiles::Image)
            .ok_or(SourcesError::Image(*wanted))?,
        FirstFrame::Keyframe(keyframe) => {
            FirstFrameFiles::Keyframe(all_of(&keyframe.adapters, &held)?)
        }
    };
    Ok(Sources {
        first_frame,
        adapters: all_of(&spec.adapters, &held)?,
        spec,
    })
}

/// The files of all adapters that a job names, of whichever stage.
async fn adapters_of(database: &Database, job: JobId) -> Result<Vec<StoredFile>, sqlx::Error> {
    let rows: Vec<(Vec<u8>, i64, String)> = sqlx::query_as(
        "select a.sha256, a.bytes, a.object_key
           from job_adapter ja join adapter a on a.owner_id = ja.owner_id and a.id = ja.adapter_id
          where ja.job_id = $1",
    )
    .bind(job.as_uuid())
    .fetch_all(database.pool())
    .await?;
    Ok(rows
        .into_iter()
        .filter_map(|(sha256, bytes, key)| stored(sha256, bytes, key))
        .collect())
}

fn all_of(wanted: &[AdapterUse], held: &[StoredFile]) -> Result<Vec<StoredFile>, SourcesError> {
    let files = wanted.iter().map(|wanted| {
        let found = held.iter().find(|file| file.sha256 == wanted.sha256);
        found.cloned().ok_or(SourcesError::Adapter(wanted.sha256))
    });
    files.collect()
}

/// The columns' checks keep hashes at 32 bytes and sizes positive.
fn stored(sha256: Vec<u8>, bytes: i64, key: String) -> Option<StoredFile> {
    Some(StoredFile {
        sha256: Sha256::from_bytes(sha256.try_into().ok()?),
        bytes: u64::try_from(bytes).ok()?,
        key,
    })
}
