//! A farm without nodes: the parts, one api instance, and the leader's end of the link in the hands of the test.

mod caller;
mod files;
mod leader;
mod program;
mod streams;

use std::net::SocketAddr;
use std::sync::Arc;

use flowai_actors::credits::Millicredits;
use flowai_actors::ids::{Generation, Sha256};
use flowai_actors::link::{Faults, Peer, PeerId, SimNet};
use flowai_actors::messages::ModelOffer;
use flowai_actors::wire;
use flowai_api::{App, Config, JoinConfig, Keys, LeaderLink, PasswordCost, follow, router};
use flowai_embedded::{External, Parts};
use flowai_store::database::{RolePasswords, migrate};
use flowai_store::objects::{Objects, ObjectsConfig};
use serde_json::{Value, json};
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::net::TcpListener;
use url::Url;

pub(crate) use caller::{Answer, Caller};
pub(crate) use files::{adapter, adapter_of, painter_adapter, painter_offer, picture, tiny_offer};
pub(crate) use leader::Leader;
pub(crate) use program::Program;
pub(crate) use streams::{Socket, Sse};

/// Nothing that a test waits for takes longer, also on a machine that is busy with something else.
pub(crate) const DEADLINE: std::time::Duration = std::time::Duration::from_secs(60);

pub(crate) struct Farm {
    pub(crate) url: Url,
    pub(crate) leader: Leader,
    pub(crate) objects: Objects,
    /// As a superuser, whom no policy binds: for looking, and for what no route does.
    pub(crate) owner: PgPool,
    pub(crate) keys_dir: std::path::PathBuf,
    pub(crate) app: App,
    // Dropped last.
    pub(crate) parts: Parts,
    _folder: tempfile::TempDir,
}

/// What a farm under test may be told.
pub(crate) struct Options {
    pub(crate) rate_scale: u32,
    /// Unfinished jobs of all users.
    pub(crate) queued_max: u32,
    /// Of each user, in credits.
    pub(crate) gift: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            rate_scale: 1_000,
            queued_max: 1_000,
            gift: 1_000,
        }
    }
}

impl Farm {
    /// A farm that offers the model `tiny`, and counts no requests worth speaking of.
    pub(crate) async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    pub(crate) async fn start_with(options: Options) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let parts = start_parts(folder.path()).await;
        let objects = Objects::new(&objects_config(&parts));
        let keys_dir = folder.path().join("keys");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();

        let net = SimNet::new(0, Faults::none());
        let (me, leader_id) = (peer("api-1.api"), peer("c1.coordinator"));
        let (link, events) = net.attach(me.clone(), wire::may_send);
        let (leader_link, leader_events) = net.attach(leader_id.clone(), wire::may_send);
        assert!(net.connect(&me.id, &leader_id.id));
        let config = Config {
            database_url: parts.database().app.clone(),
            redis_url: parts.redis_url().to_owned(),
            objects: objects.clone(),
            keys: Keys::load_or_create(&keys_dir).unwrap(),
            public_url: url.clone(),
            is_behind_proxy: false,
            password_cost: PasswordCost::TEST,
            signup_gift: Millicredits::from_credits(options.gift),
            rate_scale: options.rate_scale,
            join: JoinConfig {
                ca_sha256: Sha256::from_bytes([3; 32]),
                coordinators: vec!["c1.example:7600".to_owned()],
            },
            queued_max: options.queued_max,
            database_connections: 8,
        };
        let app = App::start(config, LeaderLink::new(Arc::new(link)))
            .await
            .unwrap();
        tokio::spawn(async move { net.follow_tokio().await });
        tokio::spawn(follow(app.clone(), events));
        let service = router(app.clone()).into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, service).await.unwrap() });

        let database = parts.database();
        let leader =
            Leader::take_over(&database.coordinator, me.id, leader_link, leader_events).await;
        let owner = PgPool::connect(&database.owner).await.unwrap();
        let farm = Self {
            url,
            leader,
            objects,
            owner,
            keys_dir,
            app,
            parts,
            _folder: folder,
        };
        farm.offer(&tiny_offer("tiny")).await;
        farm
    }

    pub(crate) async fn offer(&self, offer: &ModelOffer) {
        self.offer_at("n1", offer).await;
    }

    /// As this node would.
    pub(crate) async fn offer_at(&self, node: &str, offer: &ModelOffer) {
        offer_model(&self.owner, node, offer).await;
    }

    /// Nobody: no credential.
    pub(crate) fn stranger(&self) -> Caller {
        Caller::new(self.url.clone(), None)
    }

    /// Signs somebody up and logs them in.
    pub(crate) async fn user(&self, name: &str) -> Caller {
        let credentials = json!({ "email": format!("{name}@example.org"), "password": PASSWORD });
        let stranger = self.stranger();
        let signed_up = stranger.post("/v1/auth/signup", &credentials).await;
        signed_up.expect(202);
        self.log_in(name).await
    }

    pub(crate) async fn log_in(&self, name: &str) -> Caller {
        let credentials = json!({ "email": format!("{name}@example.org"), "password": PASSWORD });
        let tokens = self.stranger().post("/v1/auth/login", &credentials).await;
        let tokens = tokens.expect(200).json();
        Caller::new(self.url.clone(), tokens["access_token"].as_str())
    }

    /// The same account, by an API key.
    pub(crate) async fn with_key(&self, caller: &Caller, scopes: &[&str]) -> Caller {
        let wish = json!({ "name": "test", "scopes": scopes });
        let made = caller.post("/v1/api-keys", &wish).await.expect(201).json();
        Caller::new(self.url.clone(), made["key"].as_str())
    }

    /// Runs one statement as the owner.
    pub(crate) async fn run(&self, statement: &str) {
        sqlx::query(AssertSqlSafe(statement.to_owned()))
            .execute(&self.owner)
            .await
            .unwrap();
    }

    /// The one number that a query gives.
    pub(crate) async fn number(&self, query: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(query.to_owned()))
            .fetch_one(&self.owner)
            .await
            .unwrap()
    }

    /// Renders nothing, and delivers: attempt, clip and end of a job, as the leader and a node would.
    pub(crate) async fn deliver(&self, video: &str) {
        self.leader.deliver(&self.owner, &self.objects, video).await;
    }
}

pub(crate) const PASSWORD: &str = "correct horse battery";

/// A render of `image` that any tiny model can make.
pub(crate) fn wish(image: &str) -> Value {
    json!({ "image": image, "frames": 2, "steps": 2, "width": 64, "height": 48, "seed": 7 })
}

/// The parts with migrated tables.
pub(crate) async fn start_parts(folder: &std::path::Path) -> Parts {
    let parts = Parts::start(folder.join("parts"), External::default())
        .await
        .unwrap();
    let passwords = RolePasswords {
        app: &parts.database_passwords().app,
        coordinator: &parts.database_passwords().coordinator,
    };
    migrate(&parts.database().owner, passwords).await.unwrap();
    parts
}

/// As a node that registers with one more model.
pub(crate) async fn offer_model(owner: &PgPool, node: &str, offer: &ModelOffer) {
    sqlx::query(
        "with node as (insert into node (id, generation) values ($5, 1) on conflict do nothing),
              model as (insert into model (id, sha256, family, offer) values ($1, $2, $3, $4) on conflict do nothing)
         insert into node_offer (node_id, model_id) values ($5, $1)",
    )
    .bind(offer.id.as_str())
    .bind(&offer.sha256.as_bytes()[..])
    .bind(offer.family.name())
    .bind(Json(offer))
    .bind(node)
    .execute(owner)
    .await
    .unwrap();
}

pub(crate) fn objects_config(parts: &Parts) -> ObjectsConfig {
    let s3 = parts.s3();
    ObjectsConfig {
        endpoint: s3.endpoint.clone(),
        region: s3.region.clone(),
        bucket: s3.bucket.clone(),
        access_key_id: s3.access_key_id.clone(),
        secret_access_key: s3.secret_access_key.clone(),
    }
}

fn peer(id: &str) -> Peer {
    Peer {
        id: id.parse::<PeerId>().unwrap(),
        generation: Generation::new(1),
        build: "test".to_owned(),
        schema: wire::SCHEMA,
    }
}
