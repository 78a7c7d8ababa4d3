//! How their owners end jobs, and remove what ended.

use flowai_actors::ids::{JobId, UploadId, UserId};
use flowai_actors::messages::ArtefactFile;
use flowai_actors::state::{EventKind, JobState};
use sqlx::{Connection as _, PgConnection};

use super::{next_user_seq, state_of};
use crate::database::DatabaseError;
use crate::journal::artefact_key;
use crate::ledger;
use crate::number::attempt_from;
use crate::uploads::{self, Removal};

/// What became of the wish to cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelling {
    /// It waited, and is cancelled.
    Cancelled,
    /// It runs, and its node will stop at the next step boundary.
    Requested,
    /// It runs, and somebody asked before.
    AlreadyAsked,
    /// It had ended before, perhaps by an earlier cancel.
    AlreadyEnded(JobState),
    NotFound,
}

/// What became of the wish to purge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purge {
    /// The rows are gone; every file of the job's attempts may go but a delivered keyframe, which is a picture by itself.
    Purged {
        /// Of the picture that the job was made from, where no other job names it: it may go.
        picture_key: Option<String>,
        /// Of keyframes that attempts left and that were never delivered: they may go.
        keyframe_keys: Vec<String>,
    },
    /// It has not ended yet.
    Unfinished,
    /// A job that starts after it has yet to.
    Awaited,
    NotFound,
}

/// Cancels a job that waits, which then costs nothing, or asks for the end of one that runs. One that has ended is left alone (its clip stays).
pub async fn cancel(
    connection: &mut PgConnection,
    owner: UserId,
    id: JobId,
) -> Result<Cancelling, DatabaseError> {
    // The job's row before the user's counter and the balance after it, as the leader locks them.
    let unfinished: Option<(String, bool)> = sqlx::query_as(
        "select state, cancel_requested_at is not null from job_state
          where job_id = $1 and owner_id = (select app_user()) and finished_at is null for update",
    )
    .bind(id.as_uuid())
    .fetch_optional(&mut *connection)
    .await?;
    let Some((state, is_cancelling)) = unfinished else {
        return how_it_ended(connection, id).await;
    };
    let (statement, kind, cancelling) = match state_of(&state)? {
        JobState::Queued => (
            "update job_state set state = 'cancelled', finished_at = now(), cancel_requested_at = now(), seq = seq + 1
              where job_id = $1 and state = 'queued' returning seq",
            EventKind::Cancelled,
            Cancelling::Cancelled,
        ),
        JobState::Running if is_cancelling => return Ok(Cancelling::AlreadyAsked),
        JobState::Running => (
            "update job_state set cancel_requested_at = now(), seq = seq + 1
              where job_id = $1 and state = 'running' returning seq",
            EventKind::Cancelling,
            Cancelling::Requested,
        ),
        ended @ (JobState::Done
        | JobState::Failed
        | JobState::Cancelled
        | JobState::Quarantined) => return Ok(Cancelling::AlreadyEnded(ended)),
    };
    let seq: i64 = sqlx::query_scalar(statement)
        .bind(id.as_uuid())
        .fetch_one(&mut *connection)
        .await?;
    let user_seq = next_user_seq(&mut *connection, owner).await?;
    sqlx::query(
        "insert into job_event (owner_id, user_seq, job_id, seq, kind) values ($1, $2, $3, $4, $5)",
    )
    .bind(owner.as_uuid())
    .bind(user_seq)
    .bind(id.as_uuid())
    .bind(seq)
    .bind(kind.as_str())
    .execute(&mut *connection)
    .await?;
    if cancelling == Cancelling::Cancelled {
        ledger::end_own_hold(connection, id).await?;
    }
    Ok(cancelling)
}

async fn how_it_ended(
    connection: &mut PgConnection,
    id: JobId,
) -> Result<Cancelling, DatabaseError> {
    let state: Option<String> = sqlx::query_scalar(
        "select state from job_state where job_id = $1 and owner_id = (select app_user())",
    )
    .bind(id.as_uuid())
    .fetch_optional(connection)
    .await?;
    Ok(match state {
        None => Cancelling::NotFound,
        Some(state) => Cancelling::AlreadyEnded(state_of(&state)?),
    })
}

/// Removes an ended job with its events and its clip, and its picture when nothing else names it. A keyframe that was
/// delivered stays, as one of the owner's pictures.
pub async fn purge(connection: &mut PgConnection, id: JobId) -> Result<Purge, DatabaseError> {
    #[derive(sqlx::FromRow)]
    struct Row {
        is_finished: bool,
        image_id: Option<uuid::Uuid>,
        is_from_words: bool,
        attempts: i32,
        delivered: Option<i32>,
    }
    let known: Option<Row> = sqlx::query_as(
        "select s.finished_at is not null as is_finished, j.image_id, j.keyframe_model_id is not null as is_from_words,
                s.attempt as attempts, a.attempt as delivered
           from job j join job_state s on s.job_id = j.id left join artefact a on a.job_id = j.id
          where j.id = $1 and j.owner_id = (select app_user())",
    )
    .bind(id.as_uuid())
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = known else {
        return Ok(Purge::NotFound);
    };
    if !row.is_finished {
        return Ok(Purge::Unfinished);
    }
    // As a submission locks it first: none that is to start after this one is under way.
    sqlx::query("select from user_stream where user_id = (select app_user()) for update")
        .execute(&mut *connection)
        .await?;
    if is_awaited(connection, id).await? {
        return Ok(Purge::Awaited);
    }
    sqlx::query("delete from job where id = $1 and owner_id = (select app_user())")
        .bind(id.as_uuid())
        .execute(&mut *connection)
        .await?;
    let picture_key = match row.image_id {
        Some(image) => remove_picture(connection, UploadId::from_uuid(image)).await?,
        None => None,
    };
    let attempts = (1..=row.attempts).filter(|_| row.is_from_words);
    let undelivered = attempts.filter(|attempt| row.delivered != Some(*attempt));
    Ok(Purge::Purged {
        picture_key,
        keyframe_keys: undelivered
            .map(|attempt| artefact_key(id, attempt_from(attempt), ArtefactFile::Keyframe))
            .collect(),
    })
}

/// Whether a job has yet to start that starts after this one: whoever leads next must see that this one is done.
async fn is_awaited(connection: &mut PgConnection, id: JobId) -> Result<bool, DatabaseError> {
    let is_awaited = sqlx::query_scalar(
        "select exists (select from job j join job_state s on s.job_id = j.id
                         where j.owner_id = (select app_user()) and j.after_id = $1
                           and s.owner_id = (select app_user()) and s.finished_at is null and s.attempt = 0)",
    )
    .bind(id.as_uuid())
    .fetch_one(connection)
    .await?;
    Ok(is_awaited)
}

/// The key of the picture's object when it was removed. Another job may name it, also one that is being submitted: then it
/// stays.
async fn remove_picture(
    connection: &mut PgConnection,
    image: UploadId,
) -> Result<Option<String>, DatabaseError> {
    let mut savepoint = connection.begin().await?;
    match uploads::remove(&mut savepoint, image).await? {
        Removal::Removed { object_key } => {
            savepoint.commit().await?;
            Ok(Some(object_key))
        }
        Removal::InUse | Removal::NotFound => {
            savepoint.rollback().await?;
            Ok(None)
        }
    }
}
