//! What a render is made from, as a node needs it: the spec, and where the picture and the adapters lie.

use std::collections::HashMap;

use flowai_actors::ids::{JobId, Sha256};
use flowai_actors::spec::{AdapterUse, FirstFrame, RenderSpec};
use sqlx::types::Json;
use uuid::Uuid;

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

/// Looks up the files of a job.
pub async fn of_job(database: &Database, job: JobId) -> Result<Sources, SourcesError> {
    let mut found = of_jobs(database, &[job]).await?;
    found.remove(&job).unwrap_or(Err(SourcesError::NoJob))
}

/// Looks up the files of several jobs at once. Those that do not exist are left out.
pub async fn of_jobs(
    database: &Database,
    jobs: &[JobId],
) -> Result<HashMap<JobId, Result<Sources, SourcesError>>, DatabaseError> {
    type Row = (
        Uuid,
        Json<serde_json::Value>,
        Option<Vec<u8>>,
        Option<i64>,
        Option<String>,
    );
    let ids: Vec<Uuid> = jobs.iter().map(|job| job.as_uuid()).collect();
    let query = sqlx::query_as(
        "select j.id, j.spec, u.sha256, u.bytes, u.object_key
           from job j left join upload u on u.owner_id = j.owner_id and u.id = j.image_id
          where j.id = any($1)",
    )
    .bind(ids);
    let rows: Vec<Row> = database.frequent().fetch_all(query).await?;
    let read = rows
        .into_iter()
        .map(|(id, Json(spec), sha256, bytes, key)| {
            let image = sha256.zip(bytes).zip(key);
            let image = image.and_then(|((sha256, bytes), key)| stored(sha256, bytes, key));
            let spec = serde_json::from_value::<RenderSpec>(spec);
            let spec = spec.map_err(|error| SourcesError::Spec(error.to_string()));
            (JobId::from_uuid(id), spec.map(|spec| (spec, image)))
        });
    let read: Vec<_> = read.collect();
    let with_adapters = read.iter().filter_map(|(job, read)| {
        let (spec, _) = read.as_ref().ok()?;
        let mut stages = spec.stages();
        stages
            .any(|(_, adapters)| !adapters.is_empty())
            .then(|| job.as_uuid())
    });
    let held = adapters_of(database, with_adapters.collect()).await?;
    let found = read.into_iter().map(|(job, read)| {
        let held = held.get(&job).map_or(&[][..], Vec::as_slice);
        (
            job,
            read.and_then(|(spec, image)| put_together(spec, image, held)),
        )
    });
    Ok(found.collect())
}

fn put_together(
    spec: RenderSpec,
    image: Option<StoredFile>,
    held: &[StoredFile],
) -> Result<Sources, SourcesError> {
    let first_frame = match &spec.first_frame {
        FirstFrame::Image(wanted) => image
            .filter(|image| image.sha256 == *wanted)
            .map(FirstFrameFiles::Image)
            .ok_or(SourcesError::Image(*wanted))?,
        FirstFrame::Keyframe(keyframe) => {
            FirstFrameFiles::Keyframe(all_of(&keyframe.adapters, held)?)
        }
    };
    Ok(Sources {
        first_frame,
        adapters: all_of(&spec.adapters, held)?,
        spec,
    })
}

/// The files of all adapters that each job names, of whichever stage.
async fn adapters_of(
    database: &Database,
    jobs: Vec<Uuid>,
) -> Result<HashMap<JobId, Vec<StoredFile>>, DatabaseError> {
    let mut held: HashMap<JobId, Vec<StoredFile>> = HashMap::new();
    if jobs.is_empty() {
        return Ok(held);
    }
    let rows: Vec<(Uuid, Vec<u8>, i64, String)> = sqlx::query_as(
        "select ja.job_id, a.sha256, a.bytes, a.object_key
           from job_adapter ja join adapter a on a.owner_id = ja.owner_id and a.id = ja.adapter_id
          where ja.job_id = any($1)",
    )
    .bind(jobs)
    .fetch_all(database.pool())
    .await?;
    for (job, sha256, bytes, key) in rows {
        let of_job = held.entry(JobId::from_uuid(job)).or_default();
        of_job.extend(stored(sha256, bytes, key));
    }
    Ok(held)
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
