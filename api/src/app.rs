//! What every handler shares.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flowai_actors::credits::Millicredits;
use flowai_actors::kit::TaskError;
use flowai_actors::state::Tier;
use flowai_store::database::{Database, DatabaseError};
use flowai_store::objects::Objects;
use flowai_store::redis::{Redis, RedisError};
use flowai_store::videos::Intake;
use url::{Origin, Url};

use crate::auth::{Authenticator, Keys, PasswordCost, Passwords};
use crate::http::rate::RateLimits;
use crate::live::LiveBoard;
use crate::previews::PreviewBoard;
use crate::service::PartsSeen;
use crate::session::Sessions;
use crate::uploads::Gate;
use crate::videos::{Catalogue, MemoryFit, QueueRoom};

pub use crate::farm::{JoinConfig, LeaderLink};

/// What an api instance is made of.
pub struct Config {
    pub database_url: String,
    pub redis_url: String,
    pub objects: Objects,
    pub keys: Keys,
    /// How browsers reach this api; the only origin whose pages may change anything.
    pub public_url: Url,
    /// Whether a proxy ends TLS in front: then its `X-Forwarded-For` names the caller.
    pub is_behind_proxy: bool,
    pub password_cost: PasswordCost,
    /// What a new account begins with.
    pub signup_gift: Millicredits,
    /// Multiplies every rate limit and how many videos of one user may wait, for load tests.
    pub rate_scale: u32,
    pub join: JoinConfig,
    /// Unfinished jobs of all users, over which no more are taken.
    pub queued_max: u32,
    /// At most so many at a time. A request holds one for a millisecond or two; more of them than the database's cores can serve
    /// make answers later (docs/benchmarks.md).
    pub database_connections: u32,
}

/// Why an api instance cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    Redis(#[from] RedisError),
    #[error("passwords cannot be hashed: {0}")]
    Passwords(String),
}

/// The shared state of all handlers. Cheap to clone.
#[derive(Clone)]
pub struct App {
    parts: Arc<Parts>,
}

/// The parts of [`App`].
pub struct Parts {
    pub database: Database,
    pub(crate) intake: Intake,
    pub redis: Redis,
    pub objects: Objects,
    pub keys: Keys,
    pub passwords: Passwords,
    pub authenticator: Authenticator,
    pub rates: RateLimits,
    pub gate: Gate,
    pub(crate) catalogue: Catalogue,
    pub(crate) queue_room: QueueRoom,
    pub(crate) memory_fit: MemoryFit,
    pub(crate) parts_seen: PartsSeen,
    pub(crate) rate_scale: u32,
    pub sessions: Sessions,
    pub live: Arc<LiveBoard>,
    pub(crate) previews: PreviewBoard,
    pub link: LeaderLink,
    pub(crate) join: JoinConfig,
    pub public_url: Url,
    pub is_behind_proxy: bool,
    pub signup_gift: Millicredits,
    /// Set once by the shutdown: `readyz` says no from then on.
    is_draining: AtomicBool,
}

impl App {
    /// How many videos of one user of this tier may wait.
    pub(crate) fn queued_max(&self, tier: Tier) -> u32 {
        tier.queued_max().saturating_mul(self.rate_scale)
    }

    /// Connects to the database and Redis. Nothing is served yet.
    ///
    /// # Errors
    /// Either cannot be reached, or row level security does not bind the role.
    pub async fn start(config: Config, link: LeaderLink) -> Result<Self, StartError> {
        let database = Database::connect(&config.database_url, config.database_connections).await?;
        let redis = Redis::connect(&config.redis_url).await?;
        let live = Arc::new(LiveBoard::default());
        let authenticator = Authenticator::new(database.clone(), config.keys.clone());
        let parts = Parts {
            sessions: Sessions::new(database.clone(), authenticator.clone(), live.clone()),
            rates: RateLimits::new(redis.clone(), config.rate_scale),
            passwords: Passwords::new(config.password_cost).map_err(StartError::Passwords)?,
            gate: Gate::default(),
            catalogue: Catalogue::default(),
            queue_room: QueueRoom::new(config.queued_max),
            memory_fit: MemoryFit::default(),
            parts_seen: PartsSeen::default(),
            rate_scale: config.rate_scale,
            intake: Intake::new(database.clone(), config.rate_scale),
            authenticator,
            database,
            redis,
            objects: config.objects,
            keys: config.keys,
            live,
            previews: PreviewBoard::default(),
            link,
            join: config.join,
            public_url: config.public_url,
            is_behind_proxy: config.is_behind_proxy,
            signup_gift: config.signup_gift,
            is_draining: AtomicBool::new(false),
        };
        Ok(Self {
            parts: Arc::new(parts),
        })
    }

    /// Resolves when the instance has lost what it cannot be without, and must end.
    pub async fn failed(&self) -> TaskError {
        self.sessions.failed().await
    }

    /// From now on the instance says that it is not ready, and every stream ends with `resync`.
    pub async fn drain(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
        self.sessions.close_all().await;
    }
}

impl Parts {
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    /// The only origin whose pages may change anything.
    pub fn origin(&self) -> Origin {
        self.public_url.origin()
    }
}

impl Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App").finish_non_exhaustive()
    }
}
