//! Damage that is done behind the farm's back after a run, so that the checks of rows and files are seen to find what they are for.

use anyhow::{Context as _, ensure};
use clap::ValueEnum;
use sqlx::PgPool;

use crate::checker::Store;

/// What is damaged, and the check that must find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Plant {
    /// A job that was acknowledged is gone: `acked_exists`.
    Lost,
    /// A job that nobody wished for is there: `acked_exists`.
    Doubled,
    /// A job that ended runs again: `every_job_ends`.
    Open,
    /// Two attempts of a job have delivered: `delivered_once`.
    Delivered,
    /// Another file lies where a clip was: `artefact_is_real`.
    Spoiled,
    /// A file of no job lies in the store: `no_orphans`.
    Orphan,
    /// A job has cost twice its price: `ledger_balances`.
    Billed,
}

/// Each takes another job, so that none hides another.
pub(crate) async fn plant(
    plants: &[Plant],
    database: &PgPool,
    store: &Store,
) -> anyhow::Result<()> {
    let done: Vec<(String, String)> =
        sqlx::query_as("select job_id::text, clip_key from artefact order by job_id")
            .fetch_all(database)
            .await?;
    ensure!(
        done.len() >= plants.len(),
        "a run with {} done jobs has too few for these plants",
        done.len()
    );
    for (plant, (job, clip_key)) in plants.iter().zip(&done) {
        let statements: &[&str] = match plant {
            Plant::Lost => &["delete from job where id = $1::uuid"],
            Plant::Doubled => &[
                "insert into job (id, owner_id, spec, model_id, image_id)
                 select gen_random_uuid(), owner_id, spec, model_id, image_id from job where id = $1::uuid",
                "insert into job_state (job_id, owner_id)
                 select j.id, j.owner_id from job j
                  where $1::text is not null and not exists (select from job_state s where s.job_id = j.id)",
            ],
            Plant::Open => &[
                "update job_state set state = 'running', node_id = 'node-1', finished_at = null where job_id = $1::uuid",
            ],
            Plant::Delivered => &[
                "insert into attempt (job_id, owner_id, attempt, epoch, node_id, generation, ended_at, outcome)
                 select job_id, owner_id, attempt + 1, epoch, node_id, generation, now(), 'done' from attempt
                  where job_id = $1::uuid order by attempt desc limit 1",
            ],
            Plant::Billed => &[
                "update credit_holds set amount_mc = amount_mc / 2, captured_mc = captured_mc / 2 where job_id = $1::uuid",
            ],
            Plant::Spoiled => {
                store.put(clip_key, b"no clip").await?;
                continue;
            }
            Plant::Orphan => {
                store.put("clips/nobody/1/clip.mp4", b"no clip").await?;
                continue;
            }
        };
        for statement in statements {
            let statement = sqlx::query(*statement).bind(job);
            let changed = statement.execute(database).await;
            let changed = changed.with_context(|| format!("planting {plant:?}"))?;
            ensure!(changed.rows_affected() > 0, "{plant:?} changed nothing");
        }
    }
    Ok(())
}
