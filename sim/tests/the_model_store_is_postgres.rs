//! Goal: what the simulator takes for the database is the database.
//! Method: the same random changes, terms and cancels go to a migrated PostgreSQL and to the model; every outcome must be
//! equal after each of them, and every row after each twenty.
#![allow(clippy::unwrap_used)]

use std::rc::Rc;
use std::time::Duration;

use flowai_actors::checkpoint::CheckpointFile;
use flowai_actors::credits::{Millicredits, Price, StepsDone};
use flowai_actors::ids::{Attempt, Epoch, Generation, JobId, Sha256, UploadId, UserId};
use flowai_actors::manifest::{EngineInfo, Manifest, StageTimings};
use flowai_actors::messages::{AttemptRef, Holding};
use flowai_actors::spec::RenderSpec;
use flowai_actors::state::{Class, Tier};
use flowai_embedded::{Listen, Postgres};
use flowai_sim::check::store::{Cancelled, NewJob, PRICE_MC, Store, Submitted};
use flowai_store::database::{Database, RolePasswords, commit as commit_user, migrate};
use flowai_store::journal::{Artefact, Batch, Change, JournalError, MADE_ROOM, Unfinished, commit};
use flowai_store::videos::{self, Cancelling, Intake, NewVideo, Queueing};
use flowai_store::{leader, recovery};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

const SEQUENCES: u64 = 200;
const STEPS: usize = 20;
const JOBS: usize = 2;
/// Words about a job that are not as its row has them, in a hundred.
const STALE: u32 = 25;

struct Both {
    leader: Database,
    app: Database,
    intake: Intake,
    owner: PgConnection,
    model: Store,
    rng: StdRng,
    _server: Postgres,
    _folder: tempfile::TempDir,
}

impl Both {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = Postgres::start(folder.path(), Listen::Socket)
            .await
            .unwrap();
        let passwords = RolePasswords {
            app: &server.passwords().app,
            coordinator: &server.passwords().coordinator,
        };
        migrate(&server.urls().owner, passwords).await.unwrap();
        let urls = server.urls();
        let app = Database::connect(&urls.app, 2).await.unwrap();
        Self {
            leader: Database::connect(&urls.coordinator, 2).await.unwrap(),
            intake: Intake::new(app.clone(), 1),
            app,
            owner: PgConnection::connect(&urls.owner).await.unwrap(),
            model: Store::default(),
            rng: StdRng::seed_from_u64(4),
            _server: server,
            _folder: folder,
        }
    }

    /// As the owner of the tables, whom the policies do not bind.
    async fn run(&mut self, statement: String) {
        let done = sqlx::query(AssertSqlSafe(statement));
        done.execute(&mut self.owner).await.unwrap();
    }

    async fn text(&mut self, query: String) -> String {
        let query = format!("select coalesce(({query})::text, '')");
        let found = sqlx::query_scalar(AssertSqlSafe(query));
        found.fetch_one(&mut self.owner).await.unwrap()
    }

    async fn sign_up(&mut self) -> UserId {
        let user = UserId::generate();
        self.run(format!(
            "insert into account (id, email, tier) values ('{user}', '{user}@example.org', 'studio')"
        ))
        .await;
        self.run(format!(
            "insert into upload (id, owner_id, purpose, sha256, bytes, content_type, width, height, object_key)
             values ('{user}', '{user}', 'image', sha256('i'), 1, 'image/png', 8, 8, 'k')"
        ))
        .await;
        self.run(format!(
            "select ledger_grant('{user}', 'gift', 'gift:{user}:test', 1000000, null, 'test')"
        ))
        .await;
        self.run(
            "insert into model (id, sha256, family, offer) values ('tiny', sha256('m'), 'svd', '{}')
             on conflict do nothing"
                .to_owned(),
        )
        .await;
        user
    }

    async fn submit(&mut self, owner: UserId, after: Option<JobId>) -> JobId {
        let spec = spec();
        let image = Some(UploadId::from_uuid(owner.as_uuid()));
        let class = Class::ALL[self.rng.random_range(0..Class::ALL.len())];
        let video = NewVideo {
            class,
            after,
            price: Price {
                amount: Millicredits::new(PRICE_MC as u64),
                book: 1,
            },
            ..NewVideo::new(owner, &spec, image)
        };
        let queued = self
            .intake
            .queue(std::slice::from_ref(&video), None, (202, &json!({})))
            .await;
        assert_eq!(queued.unwrap(), Queueing::Queued);
        let new = NewJob {
            job: video.id,
            owner,
            tier: Tier::Studio,
            class,
            after,
            spec: Rc::new(spec.clone()),
            key: self.rng.random(),
        };
        assert_eq!(self.model.submit(0, &new), Submitted::Queued);
        video.id
    }

    async fn next_term(&mut self) {
        let epoch = Epoch::new(self.model.leader.epoch);
        leader::give_up(&self.leader, epoch, "c").await.unwrap();
        self.model.give_up(0, epoch);
        let taken = leader::take_over(&self.leader, "c", "127.0.0.1:1")
            .await
            .unwrap();
        assert_eq!(taken, self.model.take_over(0, 0));
        assert!(taken.is_some());
        // Held: neither gives it again.
        let again = leader::take_over(&self.leader, "c", "127.0.0.1:1")
            .await
            .unwrap();
        assert_eq!(again, self.model.take_over(0, 0));
    }

    async fn cancel(&mut self, owner: UserId, job: JobId) {
        let mut transaction = self.app.begin_as(owner).await.unwrap();
        let real = videos::cancel(&mut transaction, owner, job).await.unwrap();
        commit_user(transaction).await.unwrap();
        let real = match real {
            Cancelling::NotFound => Cancelled::NotFound,
            Cancelling::Cancelled => Cancelled::Now,
            Cancelling::Requested => Cancelled::Requested,
            Cancelling::AlreadyAsked => Cancelled::AlreadyAsked,
            Cancelling::AlreadyEnded(_) => Cancelled::AlreadyEnded,
        };
        assert_eq!(real, self.model.cancel(owner, job));
    }

    async fn commit(&mut self, epoch: Epoch, batch: &Batch) {
        let real = commit(&self.leader, epoch, batch).await;
        match (real, self.model.commit(epoch, batch)) {
            (Ok(real), Ok(modelled)) => assert_eq!(real, modelled, "{batch:?}"),
            (Err(JournalError::Fenced { held, .. }), Err(modelled)) => assert_eq!(held, modelled),
            (real, modelled) => panic!("{real:?} against {modelled:?}: {batch:?}"),
        }
    }

    async fn compare(&mut self, jobs: &[JobId], owner: UserId) {
        let wanted: Vec<JobId> = jobs.to_vec();
        let mut real = recovery::jobs(&self.leader, &wanted).await.unwrap().rows;
        let mut modelled = self.model.jobs(0, &wanted);
        // By the clock of each.
        for row in real.iter_mut().chain(&mut modelled) {
            row.waited = Duration::ZERO;
        }
        real.sort_by_key(|row| row.job);
        modelled.sort_by_key(|row| row.job);
        assert_eq!(real, modelled);
        assert_eq!(
            recovery::cancel_requests(&self.leader, &wanted)
                .await
                .unwrap()
                .len(),
            self.model.cancel_requests(&wanted).len()
        );
        for job in jobs {
            let real = self.text(shape_of(*job)).await;
            assert_eq!(real, modelled_shape(&self.model, *job), "{job}");
        }
        let real = self
            .text(format!(
                "select string_agg(concat_ws(' ', user_seq, job_id, seq, kind), ', ' order by user_seq)
                   from job_event where owner_id = '{owner}'"
            ))
            .await;
        let modelled: Vec<String> = self
            .model
            .events()
            .iter()
            .filter(|event| event.owner == owner)
            .map(|event| {
                format!(
                    "{} {} {} {}",
                    event.user_seq,
                    event.job,
                    event.seq,
                    event.kind.as_str()
                )
            })
            .collect();
        assert_eq!(real, modelled.join(", "));
    }

    /// A holding as the row has it, or something near it.
    fn holding(&mut self, job: JobId, is_next: bool) -> Holding {
        let row = self.model.row(job).unwrap().clone();
        let is_stale = self.rng.random_range(0..100) < STALE;
        let mut near = |exact: u32, least: u32| {
            if is_stale {
                self.rng
                    .random_range(exact.saturating_sub(1).max(least)..=exact + 1)
            } else {
                exact
            }
        };
        let attempt = near((row.attempt + u32::from(is_next)).max(1), 1);
        let epoch = near(row.epoch, 0);
        let last = row.attempts.last().filter(|_| !is_next);
        let generation = near(last.map_or(1, |attempt| attempt.generation), 1);
        let node = match last {
            Some(attempt) if !is_stale => attempt.node.clone(),
            _ => format!("n{}", self.rng.random_range(1..3)).parse().unwrap(),
        };
        Holding {
            at: AttemptRef {
                job,
                attempt: Attempt::new(attempt),
                epoch: Epoch::new(epoch),
            },
            node,
            generation: Generation::new(generation),
        }
    }

    fn checkpoint(&mut self) -> CheckpointFile {
        CheckpointFile {
            sha256: Sha256::from_bytes([3; 32]),
            bytes: 1,
            step: self.rng.random_range(1..5),
            steps: 5,
            device_class: "cpu".to_owned(),
            engine: "stand-in 0".to_owned(),
            resumed: Vec::new(),
        }
    }

    fn change(&mut self, job: JobId) -> Change {
        let kind = self.rng.random_range(0..15);
        let held = self.holding(job, kind < 4);
        let text = String::new;
        match kind {
            0..4 => Change::Assign(held),
            4 => Change::Adopt(held),
            5 => settle(held),
            6..8 => {
                let outcomes = [Unfinished::Lost, Unfinished::Failed, Unfinished::Stopped];
                let outcome = outcomes[self.rng.random_range(0..3)];
                let made_room = self.rng.random::<bool>().then(|| MADE_ROOM.to_owned());
                Change::Requeue {
                    held,
                    outcome,
                    reason: made_room.unwrap_or_default(),
                    checkpoint: self.rng.random::<bool>().then(|| self.checkpoint()),
                }
            }
            8 => Change::Fail {
                held,
                code: text(),
                detail: text(),
            },
            9 => Change::Cancel {
                held,
                steps: self.rng.random::<bool>().then(|| StepsDone {
                    done: self.rng.random_range(0..5),
                    total: self.rng.random_range(0..4),
                }),
            },
            11 | 12 => Change::Keep {
                held,
                checkpoint: self.checkpoint(),
            },
            13 => Change::FailWaiting {
                job,
                attempt: held.at.attempt,
                code: text(),
                detail: text(),
            },
            10 => Change::Quarantine {
                held,
                detail: text(),
            },
            _ => Change::CancelWaiting {
                job,
                attempt: Attempt::new(held.at.attempt.get() - self.rng.random_range(0..=1)),
            },
        }
    }

    async fn step(&mut self, jobs: &[JobId], owner: UserId, last: &mut Option<(Epoch, Batch)>) {
        let newest = self.model.leader.epoch;
        match self.rng.random_range(0..12) {
            0 => self.next_term().await,
            1 => {
                let job = jobs[self.rng.random_range(0..jobs.len())];
                self.cancel(owner, job).await;
            }
            // The same again, as after a commit whose confirmation was lost.
            2 | 3 => {
                if let Some((epoch, batch)) = last.take() {
                    self.commit(epoch, &batch).await;
                }
            }
            kind => {
                let epoch = if kind == 4 { newest - 1 } else { newest };
                let mut batch = Batch::default();
                for job in jobs {
                    if self.rng.random() {
                        let change = self.change(*job);
                        batch.push(change).unwrap();
                    }
                }
                self.commit(Epoch::new(epoch), &batch).await;
                *last = Some((Epoch::new(epoch), batch));
            }
        }
    }
}

fn spec() -> RenderSpec {
    RenderSpec::small("tiny".parse().unwrap(), Sha256::from_bytes([1; 32]))
}

fn settle(held: Holding) -> Change {
    let clip_sha256 = Sha256::from_bytes([7; 32]);
    let manifest = Manifest {
        manifest_version: Manifest::VERSION,
        job: held.at.job,
        attempt: held.at.attempt,
        epoch: held.at.epoch,
        node: held.node.clone(),
        generation: held.generation,
        spec: spec(),
        model_sha256: Sha256::from_bytes([2; 32]),
        adapters: Vec::new(),
        keyframe: None,
        resumed: Vec::new(),
        engine: EngineInfo {
            name: "stand-in".to_owned(),
            version: "0".to_owned(),
            libtorch: None,
            encoder: "none".to_owned(),
            dtype: "float32".to_owned(),
            noise_dtype: "float32".to_owned(),
        },
        device_class: "cpu".to_owned(),
        clip_sha256,
        clip_bytes: 9,
        timings_ms: StageTimings::default(),
    };
    Change::Settle {
        held,
        artefact: Box::new(Artefact {
            clip_sha256,
            clip_bytes: 9,
            keyframe: None,
            manifest,
        }),
    }
}

/// What recovery does not read: the job's number of events, its hold, each attempt, the delivered one.
fn shape_of(job: JobId) -> String {
    format!(
        "select concat_ws('; ', s.seq, s.finished_at is not null,
                (select concat_ws(' ', amount_mc - coalesce(captured_mc, 0), coalesce(captured_mc, 0), ended_at is not null)
                   from credit_holds h where h.job_id = s.job_id),
                (select string_agg(concat_ws(' ', attempt, epoch, node_id, generation, coalesce(outcome, '-')), ', ' order by attempt)
                   from attempt where job_id = s.job_id),
                (select attempt from artefact where job_id = s.job_id))
           from job_state s where job_id = '{job}'"
    )
}

fn modelled_shape(model: &Store, job: JobId) -> String {
    let row = model.row(job).unwrap();
    let finished = if row.state.is_end() { "t" } else { "f" };
    let hold = model.ledger.of(job);
    let is_over = if hold.held == 0 { "t" } else { "f" };
    let hold = format!("{} {} {is_over}", hold.held + hold.released, hold.captured);
    let mut parts = vec![row.seq.to_string(), finished.to_owned(), hold];
    let attempts: Vec<String> = row
        .attempts
        .iter()
        .zip(1..)
        .map(|(attempt, number)| {
            let outcome = attempt.outcome.unwrap_or("-");
            let (epoch, node, generation) = (attempt.epoch, &attempt.node, attempt.generation);
            format!("{number} {epoch} {node} {generation} {outcome}")
        })
        .collect();
    if !attempts.is_empty() {
        parts.push(attempts.join(", "));
    }
    parts.extend(row.artefacts.iter().map(u32::to_string));
    parts.join("; ")
}

#[tokio::test]
async fn the_model_and_postgres_agree_on_every_outcome_and_row() {
    let mut both = Both::start().await;
    for _ in 0..2 {
        both.next_term().await;
    }
    for _ in 0..SEQUENCES {
        let owner = both.sign_up().await;
        let mut jobs = Vec::new();
        for _ in 0..JOBS {
            let after = jobs.last().copied().filter(|_| both.rng.random());
            jobs.push(both.submit(owner, after).await);
        }
        let mut last = None;
        for _ in 0..STEPS {
            both.step(&jobs, owner, &mut last).await;
        }
        both.compare(&jobs, owner).await;
    }
    let ended = both
        .model
        .rows()
        .filter(|(_, row)| row.state.is_end())
        .count();
    let delivered = both
        .model
        .rows()
        .filter(|(_, row)| !row.artefacts.is_empty())
        .count();
    assert!(
        ended > SEQUENCES as usize / 4 && delivered > 10,
        "{ended} {delivered}"
    );
}
