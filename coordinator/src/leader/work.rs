//! What the leader's tasks do: talk to the database, the object store and one node, and say what came of it.

use std::future::Future;
use std::panic;
use std::pin::pin;
use std::time::Duration;

use fail::fail_point;
use flowai_actors::checkpoint::{
    CHECKPOINT_CONTENT_TYPE, CheckpointPlace, PlaceCheckpoint, Resume,
};
use flowai_actors::clock::Monotonic;
use flowai_actors::ids::{Attempt, Epoch, JobId};
use flowai_actors::kit::Backoff;
use flowai_actors::link::PeerId;
use flowai_actors::messages::{
    Assign, AssignAnswer, AttemptRef, EndedAnswer, FirstFrameSource, Holding, PrefetchStage,
    ReadyFile, Register, Source, Target, UploadTargetsAnswer,
};
use flowai_actors::preview::{PREVIEW_CONTENT_TYPE, PlacePreview, PreviewPlace};
use flowai_actors::wire;
use flowai_store::checkpoints::{
    self, CHECKPOINTS_PREFIX, StoredCheckpoint, checkpoint_key, checkpoints_prefix, parse_key,
};
use flowai_store::database::{Database, DatabaseError, in_time};
use flowai_store::journal::{artefact_key, preview_key};
use flowai_store::objects::{
    Objects, ObjectsError, PAGE_KEYS_MAX, PRESIGNED_PUT_TTL_MAX, UploadTerms,
};
use flowai_store::recovery::JobRows;
use flowai_store::sources::{SourcesError, StoredFile};
use flowai_store::{members, nodes, recovery};
use futures::{Stream, StreamExt as _, stream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::Tools;
use super::event::{Answer, Event, JobModels, ModelFiles, NotDispatched, ReplyId};
use super::inputs::{self, FirstFrameInputs, Inputs, NoInputs};
use super::state::State;

/// Between tries of what the database did not take. No try is the last: the term ends when another begins.
pub const RETRY_FIRST: Duration = Duration::from_millis(20);
pub const RETRY_MOST: Duration = Duration::from_secs(1);
/// What a node is given is put together in this time, or somebody has gone without a word.
pub(super) const ASSIGNMENT_DEADLINE: Duration = Duration::from_secs(20);
/// A node answers an assignment at once, or is frozen.
pub const ASSIGN_DEADLINE: Duration = Duration::from_secs(2);
/// A node that has not heard yet that its last end was written says that it is busy.
pub const BUSY_TRIES: u32 = 8;
/// Fewer than there are connections: what else asks the database does not wait for all nodes of a farm.
pub(crate) const ADMISSIONS_AT_ONCE: usize = 3;
/// Pages of unfinished jobs that are read at a time when a term begins.
const PAGES_AT_ONCE: usize = 3;
/// Waiting jobs younger than this are looked for in each sweep.
pub const NEWCOMER_AGE: Duration = Duration::from_secs(10);

/// Reads what operators want of nodes and all unfinished jobs, a page at a time. Gives the state that a term begins with, and
/// how many they are.
///
/// # Errors
/// The database does not answer.
pub async fn recover(
    database: &Database,
    epoch: Epoch,
    now: Monotonic,
) -> Result<(State, usize), DatabaseError> {
    let mut state = State::new(epoch);
    let standings = in_time(members::standings(database)).await?;
    state.apply(now, Event::MembersRead(standings));
    let read_at = in_time(recovery::now(database)).await?;
    let pages = page_ends(database.clone()).map(|page| {
        let database = database.clone();
        // On other threads: reading, understanding and taking in take about as long, and go on side by side.
        tokio::spawn(async move {
            let (after, end) = page?;
            in_time(recovery::unfinished(&database, after, end, read_at)).await
        })
    });
    let mut pages = pin!(pages.buffered(PAGES_AT_ONCE));
    let mut jobs = 0;
    while let Some(page) = pages.next().await {
        let rows = page
            .unwrap_or_else(|failed| panic::resume_unwind(failed.into_panic()))?
            .rows;
        jobs += rows.len();
        state.recover(now, rows);
    }
    Ok((state, jobs))
}

/// Behind which job each page of unfinished jobs begins, and with which one it ends. The last one has no end.
fn page_ends(
    database: Database,
) -> impl Stream<Item = Result<(Option<JobId>, Option<JobId>), DatabaseError>> {
    stream::try_unfold(Some(None), move |after| {
        let database = database.clone();
        async move {
            let Some(after) = after else { return Ok(None) };
            let end = in_time(recovery::page_end(&database, after)).await?;
            Ok(Some(((after, end), end.map(Some))))
        }
    })
}

pub(super) async fn pause(backoff: &mut Backoff) {
    let wait = backoff.next_wait(&mut rand::rng());
    tokio::time::sleep(wait).await;
}

/// Tries until the database answers.
async fn insist<T, F>(what: &str, query: impl Fn() -> F) -> T
where
    F: Future<Output = Result<T, DatabaseError>>,
{
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
    loop {
        match in_time(query()).await {
            Ok(found) => return found,
            Err(error) => tracing::warn!(what, %error, "database did not answer, asking again"),
        }
        pause(&mut backoff).await;
    }
}

pub(super) async fn read_rows(database: &Database, mut asked: Vec<JobId>) -> Event {
    let JobRows { rows, unread } =
        insist("reading jobs", || recovery::jobs(database, &asked)).await;
    asked.retain(|job| !unread.contains(job));
    Event::RowsRead { asked, rows }
}

pub(super) async fn sweep(database: &Database, running: &[JobId]) -> Event {
    let newcomers = insist("sweep", || recovery::newcomers(database, NEWCOMER_AGE)).await;
    let cancelled = insist("sweep", || recovery::cancel_requests(database, running)).await;
    Event::Swept {
        newcomers,
        cancelled,
    }
}

pub(super) async fn sweep_all(database: &Database, after: Option<JobId>) -> Event {
    Event::SweptAll(insist("sweep", || recovery::unfinished_ids(database, after)).await)
}

/// A page of unfinished rows, to compare them with memory.
pub(super) async fn compare(database: &Database, after: Option<JobId>) -> Event {
    let rows = insist("comparing", || recovery::unfinished_rows(database, after)).await;
    Event::Compared(rows)
}

pub(super) async fn admit(
    database: &Database,
    admissions: &Semaphore,
    reply: ReplyId,
    register: Box<Register>,
) -> Event {
    // Never closed.
    let _turn = admissions.acquire().await.ok();
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
    let result = loop {
        let Register {
            node,
            generation,
            models,
            ..
        } = register.as_ref();
        match in_time(nodes::register(database, node, *generation, models)).await {
            Ok(result) => break result,
            Err(error) if error.is_outage() => {
                tracing::warn!(%error, "a node was not written down, trying again");
            }
            // Again it would be refused for ever: the node hears nothing and asks anew.
            Err(error) => {
                tracing::error!(%node, %error, "database refuses a node");
                return Event::NotAdmitted(reply);
            }
        }
        pause(&mut backoff).await;
    };
    fail_point!("after_registration_commit");
    Event::Admitted {
        reply,
        register,
        result,
    }
}

/// Looks up and signs what the job is made from, and gives it to its node.
pub(super) async fn dispatch(
    tools: &Tools,
    held: Holding,
    models: JobModels,
    may_resume: bool,
) -> Event {
    let assignment = assignment(tools, held.at, models, may_resume);
    let result = match timeout(ASSIGNMENT_DEADLINE, assignment).await {
        Ok(Ok(assign)) => give(tools, &held, &assign).await,
        Ok(Err(reason)) => Err(reason),
        Err(_) => {
            let reason = "what it is made from was not read in time";
            Err(NotDispatched::NotRead(reason.to_owned()))
        }
    };
    Event::Dispatched { held, result }
}

async fn assignment(
    tools: &Tools,
    at: AttemptRef,
    models: JobModels,
    may_resume: bool,
) -> Result<Assign, NotDispatched> {
    let inputs = match tools.ahead.take(at.job).await {
        Some(inputs) => inputs,
        None => inputs_of(tools, at.job).await?,
    };
    let first_frame = match (inputs.first_frame, models.keyframe) {
        (FirstFrameInputs::Image(image), _) => FirstFrameSource::Image(image),
        (FirstFrameInputs::Keyframe(adapters), Some(model)) => FirstFrameSource::Keyframe {
            model_sha256: model.sha256,
            adapters,
        },
        (FirstFrameInputs::Keyframe(_), None) => {
            let reason = "its row asks for a keyframe, and was read as one without";
            return Err(NotDispatched::NotRead(reason.to_owned()));
        }
    };
    let resume = match may_resume {
        true => resume(tools, at.job).await?,
        false => None,
    };
    Ok(Assign {
        at,
        spec: inputs.spec,
        model_sha256: models.clip.sha256,
        first_frame,
        adapters: inputs.adapters,
        resume,
    })
}

/// Asks until the database answers: that it does not is no node's fault.
async fn inputs_of(tools: &Tools, job: JobId) -> Result<Inputs, NotDispatched> {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
    loop {
        match inputs::of_job(&tools.database, &tools.objects, job).await {
            Ok(inputs) => return Ok(inputs),
            Err(NoInputs::Sources(SourcesError::Database(error))) => {
                tracing::warn!(%job, %error, "what a job is made from was not read, asking again");
            }
            Err(error @ NoInputs::Unsigned(_)) => {
                return Err(NotDispatched::NotRead(error.to_string()));
            }
            Err(
                error @ NoInputs::Sources(
                    SourcesError::NoJob
                    | SourcesError::Spec(_)
                    | SourcesError::Adapter(_)
                    | SourcesError::Image(_),
                ),
            ) => return Err(NotDispatched::Impossible(error.to_string())),
        }
        pause(&mut backoff).await;
    }
}

/// The way to what an earlier attempt left. Whether the node can go on from it is for the node to judge, which says so in the
/// manifest.
async fn resume(tools: &Tools, job: JobId) -> Result<Option<Resume>, NotDispatched> {
    let found = insist("reading a checkpoint", || {
        checkpoints::of_job(&tools.database, job)
    });
    let Some(StoredCheckpoint { attempt, file }) = found.await else {
        return Ok(None);
    };
    let stored = StoredFile {
        sha256: file.sha256,
        bytes: file.bytes,
        key: checkpoint_key(job, attempt, file.step),
    };
    let source = inputs::source(&tools.objects, &stored).await;
    Ok(Some(Resume {
        source: source.map_err(|error| NotDispatched::NotRead(error.to_string()))?,
        attempt,
        file,
    }))
}

/// The ways to a waiting job's adapters, for each of its models that has some.
///
/// # Errors
/// A job that is gone or has lost an adapter, a database or store that does not answer.
pub(super) async fn adapters_of(
    database: &Database,
    objects: &Objects,
    job: JobId,
    models: JobModels,
) -> Result<Vec<PrefetchStage>, NoInputs> {
    let found = inputs::of_job(database, objects, job).await?;
    let keyframe = match found.first_frame {
        FirstFrameInputs::Image(_) => None,
        FirstFrameInputs::Keyframe(adapters) => models.keyframe.map(|model| (model, adapters)),
    };
    let stages = keyframe.into_iter().chain([(models.clip, found.adapters)]);
    let stages = stages.filter(|(_, adapters)| !adapters.is_empty());
    let stage = |(model, adapters): (ModelFiles, Vec<Source>)| PrefetchStage {
        model: model.model,
        model_sha256: model.sha256,
        adapters,
    };
    Ok(stages.map(stage).collect())
}

async fn give(tools: &Tools, held: &Holding, assign: &Assign) -> Result<(), NotDispatched> {
    let to = PeerId::from(&held.node);
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
    for _ in 0..BUSY_TRIES {
        let asked = wire::ask(
            tools.link.as_ref(),
            &to,
            held.at.epoch,
            assign,
            ASSIGN_DEADLINE,
        );
        match asked.await {
            Ok(AssignAnswer::Accepted) => return Ok(()),
            Ok(AssignAnswer::Refused { reason }) => return Err(NotDispatched::NotTaken(reason)),
            Ok(AssignAnswer::Busy { with }) => {
                tracing::debug!(node = %held.node, ?with, "node is still busy");
            }
            Err(error) => return Err(NotDispatched::NotTaken(error.to_string())),
        }
        pause(&mut backoff).await;
    }
    Err(NotDispatched::NotTaken("it stays busy".to_owned()))
}

/// What a node is told that asks about an attempt which is not its any more.
pub(super) async fn look_back(database: &Database, held: &Holding) -> Answer {
    let was_settled = insist("looking back", || recovery::was_settled(database, held)).await;
    if was_settled {
        return Answer::Ended(EndedAnswer::Settled);
    }
    tracing::info!(at = ?held.at, node = %held.node, "stale end is refused");
    Answer::Ended(EndedAnswer::Stale)
}

pub(super) async fn presign(
    objects: &Objects,
    at: AttemptRef,
    files: &[ReadyFile],
) -> Option<Answer> {
    let mut targets = Vec::new();
    for ready in files {
        let terms = UploadTerms {
            content_type: ready.file.content_type().to_owned(),
            length: ready.bytes,
            sha256: *ready.sha256.as_bytes(),
        };
        let key = artefact_key(at.job, at.attempt, ready.file);
        match objects
            .presign_put(&key, PRESIGNED_PUT_TTL_MAX, &terms)
            .await
        {
            Ok(signed) => targets.push(Target {
                file: ready.file,
                url: signed.url,
                headers: signed.headers,
            }),
            Err(error) => {
                tracing::error!(%error, "upload cannot be signed");
                return None;
            }
        }
    }
    Some(Answer::Targets(UploadTargetsAnswer::Targets { targets }))
}

/// Where the picture of a step goes.
pub(super) async fn presign_preview(objects: &Objects, question: &PlacePreview) -> Option<Answer> {
    let PlacePreview {
        at,
        step,
        sha256,
        bytes,
        ..
    } = question;
    let terms = UploadTerms {
        content_type: PREVIEW_CONTENT_TYPE.to_owned(),
        length: *bytes,
        sha256: *sha256.as_bytes(),
    };
    let key = preview_key(at.job, at.attempt, *step);
    let signed = objects.presign_put(&key, PRESIGNED_PUT_TTL_MAX, &terms);
    match signed.await {
        Ok(signed) => Some(Answer::Preview(PreviewPlace::Target {
            url: signed.url,
            headers: signed.headers,
        })),
        Err(error) => {
            tracing::error!(%error, "upload cannot be signed");
            None
        }
    }
}

/// Where the checkpoint of a step goes.
pub(super) async fn presign_checkpoint(
    objects: &Objects,
    question: &PlaceCheckpoint,
) -> Option<Answer> {
    let PlaceCheckpoint { at, file, .. } = question;
    let terms = UploadTerms {
        content_type: CHECKPOINT_CONTENT_TYPE.to_owned(),
        length: file.bytes,
        sha256: *file.sha256.as_bytes(),
    };
    let key = checkpoint_key(at.job, at.attempt, file.step);
    let signed = objects.presign_put(&key, PRESIGNED_PUT_TTL_MAX, &terms);
    match signed.await {
        Ok(signed) => Some(Answer::Checkpoint(CheckpointPlace::Target {
            url: signed.url,
            headers: signed.headers,
        })),
        Err(error) => {
            tracing::error!(%error, "upload cannot be signed");
            None
        }
    }
}

/// Why something that is not needed stays for now.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotDiscarded {
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    Objects(#[from] ObjectsError),
}

/// Those of a job that lie before this attempt and step; all of them, with their row, when the job has ended.
pub(super) async fn discard_checkpoints(
    database: &Database,
    objects: &Objects,
    job: JobId,
    before: Option<(Attempt, u32)>,
) -> Result<(), NotDiscarded> {
    let prefix = checkpoints_prefix(job);
    let Some(before) = before else {
        in_time(checkpoints::forget(database, job)).await?;
        objects.delete_prefix(&prefix).await?;
        return Ok(());
    };
    // One attempt leaves fewer than this, and each discard leaves one.
    for entry in objects.list(&prefix, None, PAGE_KEYS_MAX).await? {
        let is_older =
            parse_key(&entry.key).is_some_and(|(_, attempt, step)| (attempt, step) < before);
        if is_older {
            objects.delete(&entry.key).await?;
        }
    }
    Ok(())
}

/// What no leader heard of: rows and objects of jobs that have ended, and uploads that came after their job's end.
pub(super) async fn sweep_checkpoints(
    database: &Database,
    objects: &Objects,
) -> Result<(), NotDiscarded> {
    in_time(checkpoints::forget_ended(database)).await?;
    let mut after: Option<String> = None;
    loop {
        let listed = objects.list(CHECKPOINTS_PREFIX, after.as_deref(), PAGE_KEYS_MAX);
        let page = listed.await?;
        let of_jobs: Vec<(JobId, &str)> = page
            .iter()
            .filter_map(|entry| Some((parse_key(&entry.key)?.0, entry.key.as_str())))
            .collect();
        let mut jobs: Vec<JobId> = of_jobs.iter().map(|(job, _)| *job).collect();
        jobs.dedup();
        let unfinished = in_time(checkpoints::unfinished(database, &jobs)).await?;
        for (_, key) in of_jobs.iter().filter(|(job, _)| !unfinished.contains(job)) {
            objects.delete(key).await?;
        }
        match page.last() {
            Some(last) => after = Some(last.key.clone()),
            None => return Ok(()),
        }
    }
}
