//! What the ledger adds to a submission and to a batch of the leader's, beside the same statements with its functions taken out:
//! two databases of one server in turn, medians as JSON. `docs/benchmarks.md` has the figures.
#![allow(clippy::unwrap_used)]

use std::time::Instant;

use flowai_actors::ids::{Attempt, Epoch, Generation, JobId, Sha256, UploadId, UserId};
use flowai_actors::limits::JOURNAL_BATCH_MAX;
use flowai_actors::messages::{AttemptRef, Holding};
use flowai_actors::spec::RenderSpec;
use flowai_embedded::{Listen, Postgres};
use flowai_store::database::{Database, RolePasswords, migrate};
use flowai_store::journal::{Batch, Change, commit};
use flowai_store::leader;
use flowai_store::videos::{Intake, NewVideo, Queueing};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

const ROUNDS: usize = 12;
/// Each queues as many as its limit lets it.
const USERS: usize = 4;
const JOBS_OF_A_USER: usize = JOURNAL_BATCH_MAX / USERS;
const TERM: Epoch = Epoch::new(1);

/// As they would be in a farm without credits.
const WITHOUT: [&str; 2] = [
    "create or replace function ledger_hold_each(videos uuid[], payers uuid[], prices_mc bigint[], books int[]) returns void
        language plpgsql security definer set search_path = public, pg_temp as 'begin end'",
    "create or replace function ledger_end_holds(videos uuid[], steps_done int[], steps_total int[]) returns void
        language plpgsql security definer set search_path = public, pg_temp as 'begin end'",
];

struct Side {
    intake: Intake,
    leader: Database,
    users: Vec<UserId>,
    submit_us: Vec<u128>,
    batch_us: Vec<u128>,
    _server: Postgres,
    _folder: tempfile::TempDir,
}

impl Side {
    async fn start(changes: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = Postgres::start(folder.path(), Listen::Socket)
            .await
            .unwrap();
        let (urls, passwords) = (server.urls(), server.passwords());
        let passwords = RolePasswords {
            app: &passwords.app,
            coordinator: &passwords.coordinator,
        };
        migrate(&urls.owner, passwords).await.unwrap();
        let mut owner = PgConnection::connect(&urls.owner).await.unwrap();
        let users: Vec<UserId> = (0..USERS).map(|_| UserId::generate()).collect();
        let mut statements: Vec<String> = changes.iter().map(|text| (*text).to_owned()).collect();
        statements.push(
            "insert into model (id, sha256, family, offer) values ('tiny', sha256('m'), 'svd', '{}')".to_owned(),
        );
        for user in &users {
            statements.push(format!(
                "insert into account (id, email, tier) values ('{user}', '{user}@example.org', 'studio')"
            ));
            statements.push(format!(
                "insert into upload (id, owner_id, purpose, sha256, bytes, content_type, width, height, object_key)
                 values ('{user}', '{user}', 'image', sha256('i'), 1, 'image/png', 8, 8, 'k')"
            ));
            statements.push(format!(
                "select ledger_grant('{user}', 'gift', 'gift:{user}:bench', 1000000000, null, 'bench')"
            ));
        }
        for statement in statements {
            sqlx::query(AssertSqlSafe(statement))
                .execute(&mut owner)
                .await
                .unwrap();
        }
        let leader = Database::connect(&urls.coordinator, 1).await.unwrap();
        leader::take_over(&leader, "c1", "127.0.0.1:1")
            .await
            .unwrap();
        Self {
            intake: Intake::new(Database::connect(&urls.app, 1).await.unwrap(), 1),
            leader,
            users,
            submit_us: Vec::new(),
            batch_us: Vec::new(),
            _server: server,
            _folder: folder,
        }
    }

    /// A batch of jobs, from their submissions, one at a time, to their end.
    async fn round(&mut self) {
        let spec = RenderSpec::small("tiny".parse().unwrap(), Sha256::from_bytes([1; 32]));
        let mut jobs = Vec::new();
        for user in &self.users {
            for _ in 0..JOBS_OF_A_USER {
                let video = NewVideo::new(*user, &spec, Some(UploadId::from_uuid(user.as_uuid())));
                let id = video.id;
                let began = Instant::now();
                let queued = self.intake.queue(&[video], None, (202, &json!({}))).await;
                self.submit_us.push(began.elapsed().as_micros());
                assert_eq!(queued.unwrap(), Queueing::Queued);
                jobs.push(id);
            }
        }
        self.commit(jobs.iter().map(|job| Change::Assign(held(*job))))
            .await;
        let fail = |job: &JobId| Change::Fail {
            held: held(*job),
            code: "bench".to_owned(),
            detail: "an end like any other".to_owned(),
        };
        let began = Instant::now();
        self.commit(jobs.iter().map(fail)).await;
        self.batch_us.push(began.elapsed().as_micros());
    }

    async fn commit(&self, changes: impl Iterator<Item = Change>) {
        let mut batch = Batch::default();
        changes.for_each(|change| batch.push(change).unwrap());
        commit(&self.leader, TERM, &batch).await.unwrap();
    }
}

fn held(job: JobId) -> Holding {
    Holding {
        at: AttemptRef {
            job,
            attempt: Attempt::new(1),
            epoch: TERM,
        },
        node: "n1".parse().unwrap(),
        generation: Generation::new(1),
    }
}

fn median_ms(times: &mut [u128]) -> f64 {
    times.sort_unstable();
    times[times.len() / 2] as f64 / 1_000.0
}

#[tokio::main]
async fn main() {
    let mut sides = [Side::start(&WITHOUT).await, Side::start(&[]).await];
    // The first round fills caches and plans, and is thrown away.
    for round in 0..=ROUNDS {
        for side in &mut sides {
            side.round().await;
            if round == 0 {
                side.submit_us.clear();
                side.batch_us.clear();
            }
        }
    }
    let [without, with] = sides.each_mut().map(|side| {
        json!({
            "submit_ms": median_ms(&mut side.submit_us),
            "batch_of_256_ends_ms": median_ms(&mut side.batch_us),
        })
    });
    println!(
        "{}",
        json!({ "rounds": ROUNDS, "without": without, "with": with })
    );
}
