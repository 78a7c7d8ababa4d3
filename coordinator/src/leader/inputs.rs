//! What a node fetches for a job: the files that it is made from, each by a signed way.

use flowai_actors::ids::JobId;
use flowai_actors::messages::Source;
use flowai_actors::spec::RenderSpec;
use flowai_store::database::Database;
use flowai_store::objects::{Objects, PRESIGNED_GET_TTL_MAX, ResponseHeaders};
use flowai_store::sources::{self, FirstFrameFiles, Sources, SourcesError, StoredFile};

/// Of one job.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Inputs {
    pub(super) spec: RenderSpec,
    pub(super) first_frame: FirstFrameInputs,
    /// In the order of the spec.
    pub(super) adapters: Vec<Source>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum FirstFrameInputs {
    Image(Source),
    /// The adapters of the keyframe, in the order of its spec.
    Keyframe(Vec<Source>),
}

/// Why there are none.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoInputs {
    #[error(transparent)]
    Sources(#[from] SourcesError),
    #[error(transparent)]
    Unsigned(#[from] Unsigned),
}

#[derive(Debug, thiserror::Error)]
#[error("a download cannot be signed: {0}")]
pub(super) struct Unsigned(String);

/// Looks up the files of a job, and signs them.
pub(super) async fn of_job(
    database: &Database,
    objects: &Objects,
    job: JobId,
) -> Result<Inputs, NoInputs> {
    let found = sources::of_job(database, job).await?;
    Ok(signed(objects, found).await?)
}

pub(super) async fn signed(objects: &Objects, found: Sources) -> Result<Inputs, Unsigned> {
    let first_frame = match &found.first_frame {
        FirstFrameFiles::Image(file) => FirstFrameInputs::Image(source(objects, file).await?),
        FirstFrameFiles::Keyframe(files) => {
            FirstFrameInputs::Keyframe(sources_of(objects, files).await?)
        }
    };
    Ok(Inputs {
        first_frame,
        adapters: sources_of(objects, &found.adapters).await?,
        spec: found.spec,
    })
}

async fn sources_of(objects: &Objects, files: &[StoredFile]) -> Result<Vec<Source>, Unsigned> {
    let mut sources = Vec::new();
    for file in files {
        sources.push(source(objects, file).await?);
    }
    Ok(sources)
}

pub(super) async fn source(objects: &Objects, file: &StoredFile) -> Result<Source, Unsigned> {
    let signed = objects
        .presign_get(&file.key, PRESIGNED_GET_TTL_MAX, ResponseHeaders::default())
        .await
        .map_err(|error| Unsigned(error.to_string()))?;
    Ok(Source {
        sha256: file.sha256,
        bytes: file.bytes,
        url: signed.url,
    })
}
