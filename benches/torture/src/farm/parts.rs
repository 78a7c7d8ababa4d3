//! PostgreSQL, Redis and S3 as processes, each behind a fault proxy.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use flowai_actors::program::write_ready_file;
use flowai_embedded::{Postgres, Redis, S3, S3Access};
use flowai_store::database::{RolePasswords, migrate};
use serde::{Deserialize, Serialize};
use url::Url;

use super::program::{Plan, Program, set};
use crate::network::Network;
use crate::proxy::{Proxy, Upstream};

/// A database that recovers from a crash may refuse a first start.
const START_TRIES: u32 = 5;
const START_AGAIN: Duration = Duration::from_secs(1);

/// What programs are told, through the proxies.
#[derive(Debug, Clone)]
pub(crate) struct Addresses {
    pub(crate) database_app: String,
    pub(crate) database_coordinator: String,
    pub(crate) redis: String,
    pub(crate) s3: S3Access,
}

#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) postgres: Postgres,
    pub(crate) redis: Redis,
    pub(crate) s3: Program,
    pub(crate) postgres_proxy: Arc<Proxy>,
    pub(crate) redis_proxy: Arc<Proxy>,
    pub(crate) s3_proxy: Arc<Proxy>,
    pub(crate) addresses: Addresses,
}

/// What the S3 process writes when it serves.
#[derive(Serialize, Deserialize)]
struct S3Ready {
    address: String,
    region: String,
    bucket: String,
    access_key_id: String,
    secret_access_key: String,
}

impl Parts {
    /// Starts them in `folder`, which their own users must be able to enter, and migrates the database.
    pub(crate) async fn start(folder: &Path, network: &mut Network) -> anyhow::Result<Self> {
        let hub = network.hub();
        let postgres = Postgres::start(folder.join("postgres"), Default::default());
        let redis = Redis::start(folder.join("redis"));
        let (postgres, redis) = tokio::try_join!(postgres, redis)?;
        let passwords = postgres.passwords();
        let roles = RolePasswords {
            app: &passwords.app,
            coordinator: &passwords.coordinator,
        };
        migrate(&postgres.urls().owner, roles).await?;

        let socket = postgres.socket_folder().join(".s.PGSQL.5432");
        let postgres_proxy = Proxy::start("postgres", hub, Upstream::Unix(socket)).await?;
        let own = Url::parse(redis.url()).context("reading Redis' own address")?;
        let socket = PathBuf::from(own.path());
        let redis_proxy = Proxy::start("redis", hub, Upstream::Unix(socket)).await?;
        let s3_proxy = Arc::new(Proxy::start("s3", hub, Upstream::Nobody).await?);

        let ready_file = folder.join("ready/s3.json");
        let s3 = Program::start(Plan {
            name: "s3".to_owned(),
            // Its own loopback is the hub's, where its proxy is.
            host: network.at_hub(),
            executable: std::env::current_exe()?,
            arguments: vec![
                "s3".to_owned(),
                folder.join("s3").display().to_string(),
                ready_file.display().to_string(),
            ],
            env: vec![set("RUST_LOG", "info")],
            log: folder.join("logs/s3.log"),
            ready_file: ready_file.clone(),
            clock_file: folder.join("clocks/s3"),
            proxy: Some(s3_proxy.clone()),
        })?;
        s3.ready().await?;
        let told = std::fs::read(&ready_file).context("reading what S3 says")?;
        let told: S3Ready = serde_json::from_slice(&told)?;

        let redis_of = redis_proxy.address();
        let values: Vec<(String, String)> = own.query_pairs().into_owned().collect();
        let value = |wanted: &str| {
            let found = values.iter().find(|(name, _)| name == wanted);
            found.map(|(_, value)| value.as_str()).unwrap_or_default()
        };
        let database = |role: &str, password: &str| {
            let at = postgres_proxy.address();
            format!("postgres://{role}:{password}@{at}/flowai")
        };
        let addresses = Addresses {
            database_app: database("flowai_app", &passwords.app),
            database_coordinator: database("flowai_coordinator", &passwords.coordinator),
            redis: format!("redis://{}:{}@{redis_of}", value("user"), value("pass")),
            s3: S3Access {
                endpoint: format!("http://{}", s3_proxy.address()),
                region: told.region,
                bucket: told.bucket,
                access_key_id: told.access_key_id,
                secret_access_key: told.secret_access_key,
            },
        };
        Ok(Self {
            postgres,
            redis,
            s3,
            postgres_proxy: Arc::new(postgres_proxy),
            redis_proxy: Arc::new(redis_proxy),
            s3_proxy,
            addresses,
        })
    }

    /// Kills the database and starts it again after `down`.
    pub(crate) async fn crash_postgres(&self, down: Duration) -> anyhow::Result<()> {
        self.postgres.kill().await;
        tokio::time::sleep(down).await;
        self.restart_postgres().await
    }

    async fn restart_postgres(&self) -> anyhow::Result<()> {
        for _ in 1..START_TRIES {
            match self.postgres.restart().await {
                Ok(()) => return Ok(()),
                Err(error) => tracing::warn!(%error, "postgres does not start, trying again"),
            }
            tokio::time::sleep(START_AGAIN).await;
        }
        Ok(self.postgres.restart().await?)
    }

    /// Starts the database again if it has ended: a full disk ends it, and its supervisor starts it.
    pub(crate) async fn revive_postgres(&self) -> anyhow::Result<()> {
        let ended = tokio::time::timeout(START_AGAIN, self.postgres.ended()).await;
        if ended.is_ok() {
            self.restart_postgres().await?;
        }
        Ok(())
    }

    /// Kills Redis and starts it again, empty, after `down`.
    pub(crate) async fn crash_redis(&self, down: Duration) -> anyhow::Result<()> {
        self.redis.kill().await;
        tokio::time::sleep(down).await;
        Ok(self.redis.restart().await?)
    }

    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.s3.stop().await;
        self.redis.stop().await?;
        self.postgres.stop().await?;
        Ok(())
    }
}

/// The S3 process: serves `folder`, says in `ready_file` how to reach it, and runs until SIGTERM.
pub(crate) async fn serve_s3(folder: &Path, ready_file: &Path) -> anyhow::Result<()> {
    let mut end = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let s3 = S3::start(folder).await?;
    let access = s3.access().clone();
    let address = access.endpoint.trim_start_matches("http://").to_owned();
    let ready = serde_json::to_value(S3Ready {
        address,
        region: access.region,
        bucket: access.bucket,
        access_key_id: access.access_key_id,
        secret_access_key: access.secret_access_key,
    })?;
    write_ready_file(ready_file, &ready)?;
    end.recv().await;
    s3.stop().await;
    Ok(())
}
