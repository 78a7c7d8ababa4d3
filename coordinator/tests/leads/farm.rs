//! The parts that a coordinator stands on, and jobs as the api queues them.

use std::sync::Arc;
use std::time::Duration;

use flowai_actors::ids::{AdapterId, Generation, JobId, Sha256, UploadId, UserId};
use flowai_actors::link::{NodeLink, Peer, PeerId, Role};
use flowai_actors::spec::{AdapterUse, FirstFrame, KeyframeSpec, RenderSpec};
use flowai_coordinator::{Coordinator, Stand};
use flowai_embedded::{Listen, Postgres, S3};
use flowai_store::database::{Database, RolePasswords, migrate};
use flowai_store::objects::{Objects, ObjectsConfig};
use flowai_store::videos::{Intake, NewVideo, Queueing};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

/// Longer than anything here takes.
pub(crate) const LONG: Duration = Duration::from_secs(120);

/// An adapter for the model that makes clips, and one for the model that makes keyframes.
pub(crate) const MOTION: Sha256 = Sha256::from_bytes([11; 32]);
pub(crate) const STYLE: Sha256 = Sha256::from_bytes([12; 32]);

pub(crate) struct Farm {
    /// As the leader.
    pub(crate) database: Database,
    /// As the api.
    intake: Intake,
    pub(crate) objects: Objects,
    owner: PgConnection,
    pub(crate) postgres: Postgres,
    _s3: S3,
    _folder: tempfile::TempDir,
}

impl Farm {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let postgres = Postgres::start(folder.path().join("postgres"), Listen::Socket);
        let postgres = postgres.await.unwrap();
        let passwords = RolePasswords {
            app: &postgres.passwords().app,
            coordinator: &postgres.passwords().coordinator,
        };
        let urls = postgres.urls();
        migrate(&urls.owner, passwords).await.unwrap();
        let s3 = S3::start(folder.path().join("s3")).await.unwrap();
        let access = s3.access();
        let objects = Objects::new(&ObjectsConfig {
            endpoint: access.endpoint.clone(),
            region: access.region.clone(),
            bucket: access.bucket.clone(),
            access_key_id: access.access_key_id.clone(),
            secret_access_key: access.secret_access_key.clone(),
        });
        let mut farm = Self {
            database: Database::connect(&urls.coordinator, 8).await.unwrap(),
            intake: Intake::new(Database::connect(&urls.app, 2).await.unwrap(), 1),
            objects,
            owner: PgConnection::connect(&urls.owner).await.unwrap(),
            postgres,
            _s3: s3,
            _folder: folder,
        };
        farm.run(
            "insert into model (id, sha256, family, offer)
             values ('tiny', sha256('m'), 'svd', '{}'), ('painter', sha256('p'), 'sd', '{}')",
        )
        .await;
        farm
    }

    pub(crate) fn coordinator(&self, link: Arc<dyn NodeLink>, stand: Stand) -> Coordinator {
        Coordinator {
            database: self.database.clone(),
            objects: self.objects.clone(),
            link,
            stand,
            holder: "c1-1".to_owned(),
            address: "127.0.0.1:1".to_owned(),
            authority: None,
            autoscale: None,
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
        let query = format!("select coalesce(({query})::text, 'null')");
        let found = sqlx::query_scalar(AssertSqlSafe(query));
        found.fetch_one(&mut self.owner).await.unwrap()
    }

    pub(crate) async fn sign_up(&mut self) -> UserId {
        let user = UserId::generate();
        for statement in [
            format!("insert into account (id, email) values ('{user}', '{user}@example.org')"),
            format!(
                "insert into upload (id, owner_id, purpose, sha256, bytes, content_type, width, height, object_key)
                 values ('{user}', '{user}', 'image', '{}', 1, 'image/png', 8, 8, 'k')",
                r"\x".to_owned() + &"01".repeat(32)
            ),
            format!("select ledger_grant('{user}', 'gift', 'gift:{user}:test', 1000000000, null, 'test')"),
        ] {
            self.run(&statement).await;
        }
        for sha256 in [MOTION, STYLE] {
            let id = adapter_id(user, sha256);
            self.run(&format!(
                "insert into adapter (id, owner_id, name, sha256, bytes, family, report, object_key)
                 values ('{id}', '{user}', 'a', '\\x{sha256}', 1, 'f', '{{}}', 'a')"
            ))
            .await;
        }
        user
    }

    pub(crate) async fn queue(&self, user: UserId) -> JobId {
        let image = UploadId::from_uuid(user.as_uuid());
        self.submit(&NewVideo::new(user, &spec(), Some(image)))
            .await
    }

    /// A job whose first frame is made from words, with an adapter for each stage.
    pub(crate) async fn queue_words(&self, user: UserId) -> JobId {
        let adapters = [MOTION, STYLE].map(|sha256| adapter_id(user, sha256));
        self.submit(&NewVideo {
            adapters: &adapters,
            ..NewVideo::new(user, &spec_of_words(), None)
        })
        .await
    }

    async fn submit(&self, video: &NewVideo<'_>) -> JobId {
        let queueing = self
            .intake
            .queue(std::slice::from_ref(video), None, (202, &json!({})))
            .await;
        assert_eq!(queueing.unwrap(), Queueing::Queued);
        video.id
    }
}

pub(crate) fn spec() -> RenderSpec {
    RenderSpec::small("tiny".parse().unwrap(), Sha256::from_bytes([1; 32]))
}

fn at(sha256: Sha256, weight: f32) -> AdapterUse {
    AdapterUse { sha256, weight }
}

/// Each user has a file of either.
fn adapter_id(user: UserId, sha256: Sha256) -> AdapterId {
    let (high, low) = user.as_uuid().as_u64_pair();
    let which = u64::from(sha256.as_bytes()[0]);
    AdapterId::from_uuid(Uuid::from_u64_pair(high, low ^ which))
}

/// The same, from words.
pub(crate) fn spec_of_words() -> RenderSpec {
    let keyframe = KeyframeSpec {
        adapters: vec![at(STYLE, 2.0)],
        ..KeyframeSpec::small("painter".parse().unwrap(), "a cat")
    };
    RenderSpec {
        first_frame: FirstFrame::Keyframe(Box::new(keyframe)),
        adapters: vec![at(MOTION, 0.5)],
        ..spec()
    }
}

pub(crate) fn peer(role: Role, name: &str) -> Peer {
    Peer {
        id: PeerId::new(role, name).unwrap(),
        generation: Generation::new(1),
        build: "test".to_owned(),
        schema: 1,
    }
}
