//! A migrated PostgreSQL whose first term has begun, and jobs as the api queues them.

use std::path::Path;
use std::slice;
use std::time::{Duration, Instant};

use flowai_actors::ids::{Attempt, Epoch, Generation, JobId, NodeId, Sha256, UploadId, UserId};
use flowai_actors::manifest::{EngineInfo, Manifest, StageTimings};
use flowai_actors::messages::{AttemptRef, Holding};
use flowai_actors::spec::{FirstFrame, KeyframeSpec, RenderSpec};
use flowai_embedded::{Listen, Postgres};
use flowai_store::database::{Database, RolePasswords, migrate};
use flowai_store::journal::{Artefact, Batch, Change, JournalError, Keyframe, Written, commit};
use flowai_store::videos::{Intake, NewVideo, Queueing};
use flowai_store::{leader, recovery};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

pub(crate) const FIRST: Epoch = Epoch::new(1);
pub(crate) const SECOND: Epoch = Epoch::new(2);
const SOON: Duration = Duration::from_secs(30);

pub(crate) struct Farm {
    /// As the leader.
    pub(crate) database: Database,
    /// As the api.
    pub(crate) app: Database,
    pub(crate) intake: Intake,
    owner: PgConnection,
    pub(crate) user: UserId,
    server: Postgres,
    _folder: tempfile::TempDir,
}

impl Farm {
    /// A farm whose first term has begun, with one user.
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = migrated(folder.path()).await;
        let urls = server.urls();
        let app = Database::connect(&urls.app, 4).await.unwrap();
        let mut farm = Self {
            database: Database::connect(&urls.coordinator, 4).await.unwrap(),
            intake: Intake::new(app.clone(), 1),
            app,
            owner: PgConnection::connect(&urls.owner).await.unwrap(),
            user: UserId::generate(),
            server,
            _folder: folder,
        };
        farm.sign_up(farm.user).await;
        let taken = leader::take_over(&farm.database, "c1", "127.0.0.1:1").await;
        assert_eq!(taken.unwrap(), Some(FIRST));
        farm
    }

    /// As the api, with so many connections.
    pub(crate) async fn app_with(&self, connections: u32) -> Database {
        let urls = self.server.urls();
        Database::connect(&urls.app, connections).await.unwrap()
    }

    /// As another coordinator.
    pub(crate) async fn another_leader(&self) -> Database {
        let urls = self.server.urls();
        Database::connect(&urls.coordinator, 4).await.unwrap()
    }

    /// A second connection as the owner of the tables.
    pub(crate) async fn another_owner(&self) -> PgConnection {
        PgConnection::connect(&self.server.urls().owner)
            .await
            .unwrap()
    }

    /// Somebody with more credits than any test spends.
    pub(crate) async fn sign_up(&mut self, user: UserId) {
        self.sign_up_with(user, 1_000_000_000).await;
    }

    pub(crate) async fn sign_up_with(&mut self, user: UserId, gift_mc: u64) {
        for statement in [
            // Whose jobs may be many.
            format!("insert into account (id, email, tier) values ('{user}', '{user}@example.org', 'studio')"),
            format!(
                "insert into upload (id, owner_id, purpose, sha256, bytes, content_type, width, height, object_key)
                 values ('{user}', '{user}', 'image', sha256('i'), 1, 'image/png', 8, 8, 'k')"
            ),
            "insert into model (id, sha256, family, offer) values ('tiny', sha256('m'), 'svd', '{}')
             on conflict do nothing"
                .to_owned(),
            format!("select ledger_grant('{user}', 'gift', 'gift:{user}:test', {gift_mc}, null, 'test') where {gift_mc} > 0"),
        ] {
            self.run(&statement).await;
        }
    }

    /// Until a query says so.
    pub(crate) async fn until(&mut self, query: &str, said: &str) {
        let begin = Instant::now();
        while self.text(query).await != said {
            assert!(begin.elapsed() < SOON, "{query} never says {said}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// As the owner of the tables, whom the policies do not bind.
    pub(crate) async fn run(&mut self, statement: &str) {
        sqlx::query(AssertSqlSafe(statement.to_owned()))
            .execute(&mut self.owner)
            .await
            .unwrap();
    }

    pub(crate) async fn text(&mut self, query: &str) -> String {
        sqlx::query_scalar(AssertSqlSafe(format!(
            "select coalesce(({query})::text, 'null')"
        )))
        .fetch_one(&mut self.owner)
        .await
        .unwrap()
    }

    /// What the database answers to the owner of the tables instead of carrying it out.
    pub(crate) async fn refusal(&mut self, statement: &str) -> String {
        let refused = sqlx::query(AssertSqlSafe(statement.to_owned()))
            .execute(&mut self.owner)
            .await;
        refused.expect_err(statement).to_string()
    }

    /// The letters of the invariants that are broken after a statement to which no trigger applies, which is then taken back.
    pub(crate) async fn seen_after(&mut self, statement: &str) -> String {
        let mut transaction = self.owner.begin().await.unwrap();
        for statement in ["set local session_replication_role = replica", statement] {
            sqlx::query(AssertSqlSafe(statement.to_owned()))
                .execute(&mut *transaction)
                .await
                .unwrap();
        }
        let letters = "select coalesce(string_agg(distinct invariant, '' order by invariant), '') from ledger_imbalances";
        sqlx::query_scalar(letters)
            .fetch_one(&mut *transaction)
            .await
            .unwrap()
    }

    pub(crate) async fn queue_for(&self, user: UserId) -> JobId {
        let image = UploadId::from_uuid(user.as_uuid());
        self.submit(&NewVideo::new(user, &spec(), Some(image)))
            .await
    }

    /// A job whose first frame is made from words.
    pub(crate) async fn queue_words(&self) -> JobId {
        self.submit(&NewVideo::new(self.user, &spec_of_words(), None))
            .await
    }

    pub(crate) async fn submit(&self, video: &NewVideo<'_>) -> JobId {
        let queueing = self
            .intake
            .queue(slice::from_ref(video), None, (202, &json!({})))
            .await;
        assert_eq!(queueing.unwrap(), Queueing::Queued);
        video.id
    }

    pub(crate) async fn queue(&self) -> JobId {
        self.queue_for(self.user).await
    }

    pub(crate) async fn commit(
        &self,
        epoch: Epoch,
        changes: Vec<Change>,
    ) -> Result<Vec<Written>, JournalError> {
        commit(&self.database, epoch, &batch(changes)).await
    }

    /// Commits one change in the first term.
    pub(crate) async fn write(&self, change: Change) -> Written {
        self.commit(FIRST, vec![change]).await.unwrap()[0]
    }

    /// Everything the rows say about a job.
    pub(crate) async fn rows(&mut self, job: JobId) -> String {
        let state = self
            .text(&format!(
                "select to_jsonb(s) from job_state s where job_id = '{job}'"
            ))
            .await;
        let attempts = self
            .text(&format!(
                "select jsonb_agg(a order by attempt) from attempt a where job_id = '{job}'"
            ))
            .await;
        let events = self
            .text(&format!(
                "select jsonb_agg(e order by seq) from job_event e where job_id = '{job}'"
            ))
            .await;
        format!("{state}\n{attempts}\n{events}")
    }

    pub(crate) async fn events(&mut self, job: JobId) -> String {
        self.text(&format!(
            "select string_agg(kind, ' ' order by seq) from job_event where job_id = '{job}'"
        ))
        .await
    }

    pub(crate) async fn row(&self, job: JobId) -> recovery::JobRow {
        recovery::jobs(&self.database, &[job])
            .await
            .unwrap()
            .rows
            .remove(0)
    }

    pub(crate) async fn next_term(&self) {
        assert!(leader::give_up(&self.database, FIRST, "c1").await.unwrap());
        let taken = leader::take_over(&self.database, "c2", "127.0.0.1:2").await;
        assert_eq!(taken.unwrap(), Some(SECOND));
    }
}

/// As every program does at its start, so also the second time.
pub(crate) async fn migrated(folder: &Path) -> Postgres {
    let server = Postgres::start(folder, Listen::Socket).await.unwrap();
    let passwords = RolePasswords {
        app: &server.passwords().app,
        coordinator: &server.passwords().coordinator,
    };
    for _ in 0..2 {
        migrate(&server.urls().owner, passwords).await.unwrap();
    }
    server
}

pub(crate) fn batch(changes: Vec<Change>) -> Batch {
    let mut batch = Batch::default();
    for change in changes {
        batch.push(change).unwrap();
    }
    batch
}

pub(crate) fn spec() -> RenderSpec {
    RenderSpec::small("tiny".parse().unwrap(), Sha256::from_bytes([1; 32]))
}

/// The same, from words.
pub(crate) fn spec_of_words() -> RenderSpec {
    let keyframe = KeyframeSpec::small("tiny".parse().unwrap(), "a cat");
    RenderSpec {
        first_frame: FirstFrame::Keyframe(Box::new(keyframe)),
        ..spec()
    }
}

/// The delivery of a clip from a picture.
pub(crate) fn settle(held: Holding) -> Change {
    settle_with(held, spec(), None)
}

pub(crate) fn settle_with(held: Holding, spec: RenderSpec, keyframe: Option<Keyframe>) -> Change {
    let clip_sha256 = Sha256::from_bytes([7; 32]);
    let manifest = Manifest {
        manifest_version: Manifest::VERSION,
        job: held.at.job,
        attempt: held.at.attempt,
        epoch: held.at.epoch,
        node: held.node.clone(),
        generation: held.generation,
        spec,
        model_sha256: Sha256::from_bytes([2; 32]),
        adapters: Vec::new(),
        keyframe: None,
        resumed: Vec::new(),
        engine: EngineInfo {
            name: "svd".to_owned(),
            version: "0.1.0".to_owned(),
            libtorch: None,
            encoder: "x264".to_owned(),
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
            keyframe,
            manifest,
        }),
    }
}

pub(crate) fn node(name: &str) -> NodeId {
    name.parse().unwrap()
}

pub(crate) fn held(job: JobId, attempt: u32) -> Holding {
    Holding {
        at: AttemptRef {
            job,
            attempt: Attempt::new(attempt),
            epoch: FIRST,
        },
        node: node("n1"),
        generation: Generation::new(1),
    }
}
