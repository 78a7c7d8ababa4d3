//! One statement for each kind of change, whatever the number of rows: arrays in, the changed rows out.

use std::collections::HashMap;

use flowai_actors::ids::{Epoch, JobId, UserId};
use flowai_actors::messages::Holding;
use flowai_actors::state::EventKind;
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::Moved;
use super::change::{Change, Unfinished};
use crate::number::int;

pub(super) type Rows = Vec<(JobId, Moved)>;

/// Holdings as one array a column.
#[derive(Default)]
pub(super) struct Columns {
    pub(super) jobs: Vec<Uuid>,
    pub(super) attempts: Vec<i32>,
    pub(super) epochs: Vec<i32>,
    pub(super) nodes: Vec<String>,
    pub(super) generations: Vec<i32>,
}

impl Columns {
    fn push(&mut self, held: &Holding) {
        self.jobs.push(held.at.job.as_uuid());
        self.attempts.push(int(held.at.attempt.get()));
        self.epochs.push(int(held.at.epoch.get()));
        self.nodes.push(held.node.to_string());
        self.generations.push(int(held.generation.get()));
    }

    pub(super) fn of<'a>(held: impl IntoIterator<Item = &'a Holding>) -> Self {
        let mut columns = Self::default();
        held.into_iter().for_each(|held| columns.push(held));
        columns
    }
}

pub(super) fn rows(found: Vec<(Uuid, Uuid, i64)>) -> Rows {
    found
        .into_iter()
        .map(|(job, owner, seq)| {
            let owner = UserId::from_uuid(owner);
            (JobId::from_uuid(job), Moved { owner, seq })
        })
        .collect()
}

pub(super) async fn assign(
    connection: &mut PgConnection,
    epoch: Epoch,
    changes: &[Change],
) -> Result<Rows, sqlx::Error> {
    let columns = Columns::of(changes.iter().filter_map(|change| match change {
        Change::Assign(held) => Some(held),
        _ => None,
    }));
    if columns.jobs.is_empty() {
        return Ok(Vec::new());
    }
    let moved = sqlx::query_as(
        "with moved as (
            update job_state s
               set state = 'running', attempt = c.attempt, epoch = $5, node_id = c.node, generation = c.generation,
                   started_at = coalesce(s.started_at, now()), seq = s.seq + 1
              from unnest($1::uuid[], $2::int[], $3::text[], $4::int[]) as c (job_id, attempt, node, generation)
             where s.job_id = c.job_id and s.state = 'queued' and s.attempt = c.attempt - 1
               and s.cancel_requested_at is null
            returning s.job_id, s.owner_id, s.seq, s.attempt, s.epoch, s.node_id, s.generation
         ), history as (
            insert into attempt (job_id, owner_id, attempt, epoch, node_id, generation)
            select job_id, owner_id, attempt, epoch, node_id, generation from moved
         )
         select job_id, owner_id, seq from moved",
    )
    .bind(columns.jobs)
    .bind(columns.attempts)
    .bind(columns.nodes)
    .bind(columns.generations)
    .bind(int(epoch.get()))
    .fetch_all(connection)
    .await?;
    Ok(rows(moved))
}

pub(super) async fn adopt(
    connection: &mut PgConnection,
    epoch: Epoch,
    changes: &[Change],
) -> Result<Rows, sqlx::Error> {
    let columns = Columns::of(changes.iter().filter_map(|change| match change {
        Change::Adopt(held) => Some(held),
        _ => None,
    }));
    if columns.jobs.is_empty() {
        return Ok(Vec::new());
    }
    let moved = sqlx::query_as(
        "with moved as (
            update job_state s
               set epoch = $6
              from unnest($1::uuid[], $2::int[], $3::int[], $4::text[], $5::int[])
                   as c (job_id, attempt, epoch, node, generation)
             where s.job_id = c.job_id and s.state = 'running' and s.attempt = c.attempt and s.epoch = c.epoch
               and s.node_id = c.node and s.generation = c.generation
            returning s.job_id, s.owner_id, s.seq, s.attempt, s.epoch
         ), history as (
            update attempt a set epoch = m.epoch from moved m where a.job_id = m.job_id and a.attempt = m.attempt
         )
         select job_id, owner_id, seq from moved",
    )
    .bind(columns.jobs)
    .bind(columns.attempts)
    .bind(columns.epochs)
    .bind(columns.nodes)
    .bind(columns.generations)
    .bind(int(epoch.get()))
    .fetch_all(connection)
    .await?;
    Ok(rows(moved))
}

/// An attempt's end as its row and its job's row will say it.
struct End<'a> {
    held: &'a Holding,
    outcome: &'static str,
    is_death: bool,
    error: Option<Value>,
    detail: Option<&'a str>,
}

fn end_of(change: &Change) -> Option<End<'_>> {
    let end = |held, outcome| End {
        held,
        outcome,
        is_death: false,
        error: None,
        detail: None,
    };
    match change {
        Change::Assign(_)
        | Change::Adopt(_)
        | Change::Keep { .. }
        | Change::CancelWaiting { .. }
        | Change::FailWaiting { .. } => None,
        Change::Settle { held, .. } => Some(end(held, "done")),
        Change::Cancel { held, .. } => Some(end(held, "stopped")),
        Change::Requeue {
            held,
            outcome,
            reason,
            ..
        } => {
            let outcome_name = match outcome {
                Unfinished::Lost => "lost",
                Unfinished::Failed => "failed",
                Unfinished::Stopped => "stopped",
            };
            Some(End {
                is_death: *outcome == Unfinished::Lost,
                detail: Some(reason),
                ..end(held, outcome_name)
            })
        }
        Change::Fail { held, code, detail } => Some(End {
            error: Some(json!({ "code": code, "detail": detail })),
            detail: Some(detail),
            ..end(held, "failed")
        }),
        Change::Quarantine { held, detail } => Some(End {
            is_death: true,
            error: Some(json!({ "code": "quarantined", "detail": detail })),
            detail: Some(detail),
            ..end(held, "lost")
        }),
    }
}

/// Settles, requeues, fails, cancels and quarantines: all of them end an attempt that the row must still hold.
pub(super) async fn end_attempts(
    connection: &mut PgConnection,
    changes: &[Change],
) -> Result<Rows, sqlx::Error> {
    let ends: Vec<(&Change, End<'_>)> = changes
        .iter()
        .filter_map(|change| Some((change, end_of(change)?)))
        .collect();
    if ends.is_empty() {
        return Ok(Vec::new());
    }
    let columns = Columns::of(ends.iter().map(|(_, end)| end.held));
    let states: Vec<&str> = ends
        .iter()
        .map(|(change, _)| change.next_state().as_str())
        .collect();
    let outcomes: Vec<&str> = ends.iter().map(|(_, end)| end.outcome).collect();
    let deaths: Vec<i32> = ends
        .iter()
        .map(|(_, end)| i32::from(end.is_death))
        .collect();
    let errors: Vec<Option<&Value>> = ends.iter().map(|(_, end)| end.error.as_ref()).collect();
    let details: Vec<Option<&str>> = ends.iter().map(|(_, end)| end.detail).collect();
    let moved = sqlx::query_as(
        "with moved as (
            update job_state s
               set state = c.state, node_id = null, node_deaths = s.node_deaths + c.deaths, error = c.error,
                   finished_at = case when c.state = 'queued' then null else now() end, seq = s.seq + 1
              from unnest($1::uuid[], $2::int[], $3::int[], $4::text[], $5::int[],
                          $6::text[], $7::text[], $8::int[], $9::jsonb[], $10::text[])
                   as c (job_id, attempt, epoch, node, generation, state, outcome, deaths, error, detail)
             where s.job_id = c.job_id and s.state = 'running' and s.attempt = c.attempt and s.epoch = c.epoch
               and s.node_id = c.node and s.generation = c.generation
            returning s.job_id, s.owner_id, s.seq, s.attempt, c.outcome, c.detail
         ), history as (
            update attempt a
               set ended_at = now(), outcome = m.outcome, detail = m.detail
              from moved m
             where a.job_id = m.job_id and a.attempt = m.attempt
         )
         select job_id, owner_id, seq from moved",
    )
    .bind(columns.jobs)
    .bind(columns.attempts)
    .bind(columns.epochs)
    .bind(columns.nodes)
    .bind(columns.generations)
    .bind(states)
    .bind(outcomes)
    .bind(deaths)
    .bind(errors)
    .bind(details)
    .fetch_all(connection)
    .await?;
    Ok(rows(moved))
}

pub(super) async fn cancel_waiting(
    connection: &mut PgConnection,
    changes: &[Change],
) -> Result<Rows, sqlx::Error> {
    let (jobs, attempts): (Vec<Uuid>, Vec<i32>) = changes
        .iter()
        .filter_map(|change| match change {
            Change::CancelWaiting { job, attempt } => Some((job.as_uuid(), int(attempt.get()))),
            _ => None,
        })
        .unzip();
    if jobs.is_empty() {
        return Ok(Vec::new());
    }
    let moved = sqlx::query_as(
        "update job_state s
            set state = 'cancelled', finished_at = now(), seq = s.seq + 1
           from unnest($1::uuid[], $2::int[]) as c (job_id, attempt)
          where s.job_id = c.job_id and s.state = 'queued' and s.attempt = c.attempt
            and s.cancel_requested_at is not null
         returning s.job_id, s.owner_id, s.seq",
    )
    .bind(jobs)
    .bind(attempts)
    .fetch_all(connection)
    .await?;
    Ok(rows(moved))
}

pub(super) async fn fail_waiting(
    connection: &mut PgConnection,
    changes: &[Change],
) -> Result<Rows, sqlx::Error> {
    let (mut jobs, mut attempts, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for change in changes {
        if let Change::FailWaiting {
            job,
            attempt,
            code,
            detail,
        } = change
        {
            jobs.push(job.as_uuid());
            attempts.push(int(attempt.get()));
            errors.push(json!({ "code": code, "detail": detail }));
        }
    }
    if jobs.is_empty() {
        return Ok(Vec::new());
    }
    let moved = sqlx::query_as(
        "update job_state s
            set state = 'failed', error = c.error, finished_at = now(), seq = s.seq + 1
           from unnest($1::uuid[], $2::int[], $3::jsonb[]) as c (job_id, attempt, error)
          where s.job_id = c.job_id and s.state = 'queued' and s.attempt = c.attempt
         returning s.job_id, s.owner_id, s.seq",
    )
    .bind(jobs)
    .bind(attempts)
    .bind(errors)
    .fetch_all(connection)
    .await?;
    Ok(rows(moved))
}

/// What the owner hears of a change. Adoption and what is kept on the way change nothing for them.
fn event_of(change: &Change) -> Option<(EventKind, Value)> {
    Some(match change {
        Change::Adopt(_) | Change::Keep { .. } => return None,
        Change::Assign(held) => (
            EventKind::Assigned,
            json!({ "attempt": held.at.attempt, "node": held.node }),
        ),
        Change::Settle { held, artefact } => (
            EventKind::Done,
            json!({
                "attempt": held.at.attempt,
                "clip_sha256": artefact.clip_sha256,
                "clip_bytes": artefact.clip_bytes,
            }),
        ),
        Change::Requeue { held, reason, .. } => (
            EventKind::Retrying,
            json!({ "attempt": held.at.attempt, "reason": reason }),
        ),
        Change::Fail { held, code, detail } => (
            EventKind::Failed,
            json!({ "attempt": held.at.attempt, "code": code, "detail": detail }),
        ),
        Change::FailWaiting {
            attempt,
            code,
            detail,
            ..
        } => (
            EventKind::Failed,
            json!({ "attempt": attempt, "code": code, "detail": detail }),
        ),
        Change::Cancel { held, .. } => {
            (EventKind::Cancelled, json!({ "attempt": held.at.attempt }))
        }
        Change::CancelWaiting { attempt, .. } => {
            (EventKind::Cancelled, json!({ "attempt": attempt }))
        }
        Change::Quarantine { held, detail } => (
            EventKind::Quarantined,
            json!({ "attempt": held.at.attempt, "detail": detail }),
        ),
    })
}

/// Numbers the events in their users' streams, in the order of the batch, without a gap. Takes the streams in the order of
/// users, as every batch does.
pub(super) async fn append_events(
    connection: &mut PgConnection,
    changes: &[Change],
    moved: &HashMap<JobId, Moved>,
) -> Result<(), sqlx::Error> {
    let events: Vec<_> = changes
        .iter()
        .filter_map(|change| Some((change.job(), moved.get(&change.job())?, event_of(change)?)))
        .collect();
    if events.is_empty() {
        return Ok(());
    }
    let owners: Vec<Uuid> = events
        .iter()
        .map(|(_, moved, _)| moved.owner.as_uuid())
        .collect();
    let jobs: Vec<Uuid> = events.iter().map(|(job, ..)| job.as_uuid()).collect();
    let seqs: Vec<i64> = events.iter().map(|(_, moved, _)| moved.seq).collect();
    let kinds: Vec<&str> = events.iter().map(|(.., (kind, _))| kind.as_str()).collect();
    let data: Vec<&Value> = events.iter().map(|(.., (_, data))| data).collect();
    sqlx::query(
        "with event as (
            select * from unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::text[], $5::jsonb[])
                     with ordinality as e (owner_id, job_id, seq, kind, data, place)
         ), stream as (
            insert into user_stream as s (user_id, seq)
            select owner_id, count(*) from event group by owner_id order by owner_id
            on conflict (user_id) do update set seq = s.seq + excluded.seq
            returning user_id, seq
         )
         insert into job_event (owner_id, user_seq, job_id, seq, kind, data)
         select e.owner_id,
                stream.seq - count(*) over (partition by e.owner_id)
                           + row_number() over (partition by e.owner_id order by e.place),
                e.job_id, e.seq, e.kind, e.data
           from event e join stream on stream.user_id = e.owner_id",
    )
    .bind(owners)
    .bind(jobs)
    .bind(seqs)
    .bind(kinds)
    .bind(data)
    .execute(connection)
    .await?;
    Ok(())
}

/// Of the changes that moved no row, those whose row is already as the change would have made it.
pub(super) async fn written_before(
    connection: &mut PgConnection,
    epoch: Epoch,
    changes: &[Change],
    moved: &HashMap<JobId, Moved>,
) -> Result<HashMap<JobId, UserId>, sqlx::Error> {
    let mut columns = Columns::default();
    let mut states = Vec::new();
    let unmoved = changes
        .iter()
        .filter(|change| !moved.contains_key(&change.job()));
    for change in unmoved {
        match change {
            // Ended by its owner, who needs no leader for it.
            Change::CancelWaiting { .. } => continue,
            // Its row is read again, and says so.
            Change::FailWaiting { .. } => continue,
            Change::Assign(held) | Change::Adopt(held) => {
                let mut held = held.clone();
                held.at.epoch = epoch;
                columns.push(&held);
            }
            Change::Cancel { held, .. }
            | Change::Keep { held, .. }
            | Change::Settle { held, .. }
            | Change::Requeue { held, .. }
            | Change::Fail { held, .. }
            | Change::Quarantine { held, .. } => columns.push(held),
        }
        states.push(change.next_state().as_str());
    }
    let found: Vec<(Uuid, Uuid)> = sqlx::query_as(
        "select s.job_id, s.owner_id
           from unnest($1::uuid[], $2::int[], $3::int[], $4::text[], $5::int[], $6::text[])
                as c (job_id, attempt, epoch, node, generation, state)
           join job_state s on s.job_id = c.job_id and s.state = c.state and s.attempt = c.attempt
                           and s.epoch = c.epoch and s.generation = c.generation
           join attempt a on a.job_id = c.job_id and a.attempt = c.attempt and a.node_id = c.node",
    )
    .bind(columns.jobs)
    .bind(columns.attempts)
    .bind(columns.epochs)
    .bind(columns.nodes)
    .bind(columns.generations)
    .bind(states)
    .fetch_all(connection)
    .await?;
    Ok(found
        .into_iter()
        .map(|(job, owner)| (JobId::from_uuid(job), UserId::from_uuid(owner)))
        .collect())
}
