//! One api program on parts of its own, and its leader: this process.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use flowai_actors::ids::{Epoch, Generation, UserId};
use flowai_actors::limits::LEADER_RENEW_MS;
use flowai_actors::link::pki::Ca;
use flowai_actors::link::{LinkConfig, NodeLink as _, PeerId, RactorLink, Role, Standing};
use flowai_actors::messages::Live;
use flowai_actors::wire;
use flowai_embedded::{External, Launch, Parts, Process, RunAs};
use flowai_store::database::{Database, RolePasswords, migrate};
use flowai_store::leader;
use nix::sys::signal::Signal;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;
use tokio::task::AbortHandle;
use uuid::Uuid;

const READY: Duration = Duration::from_secs(30);
const STOP_DEADLINE: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
const COORDINATOR: &str = "c1";
const API: &str = "api-1";
/// Streams are opened faster than any person may.
const RATE_SCALE: &str = "1000000";

pub(super) struct House {
    address: SocketAddr,
    link: Option<RactorLink>,
    api_peer: PeerId,
    lease: AbortHandle,
    // Dropped in this order: the program, what it stands on, where all of it lies.
    api: Process,
    _parts: Parts,
    _folder: TempDir,
}

pub(super) fn user(number: usize) -> UserId {
    UserId::from_uuid(Uuid::from_u128(number as u128 + 1))
}

/// Of a user's credential; good for nothing outside of this house.
pub(super) fn key(number: usize) -> String {
    format!("flk_{:032x}", number + 1)
}

impl House {
    pub(super) async fn start(users: usize) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("flowai-fanout-")
            .tempdir()?;
        let parts = Parts::start(folder.path().join("parts"), External::default()).await?;
        let passwords = parts.database_passwords();
        let passwords = RolePasswords {
            app: &passwords.app,
            coordinator: &passwords.coordinator,
        };
        migrate(&parts.database().owner, passwords).await?;
        make_users(&parts.database().owner, users).await?;

        let ca = Ca::load_or_create(&folder.path().join("ca"))?;
        let api_peer = PeerId::new(Role::Api, API)?;
        ca.issue(&api_peer)?.save(&folder.path().join("tls"))?;
        let (link, mut events) = RactorLink::start(LinkConfig {
            identity: ca.issue(&PeerId::new(Role::Coordinator, COORDINATOR)?)?,
            generation: Generation::new(1),
            build: "bench".to_owned(),
            schemas: wire::schemas(),
            may_send: wire::may_send,
        })
        .await?;
        tokio::spawn(async move { while events.next().await.is_some() {} });
        let bound = link.listen(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let database = Database::connect(&parts.database().coordinator, 1).await?;
        let epoch = leader::take_over(&database, COORDINATOR, &bound.to_string()).await?;
        let epoch = epoch.context("somebody else leads")?;
        let lease = tokio::spawn(hold(database, epoch)).abort_handle();
        link.set_standing(Standing::Leading);

        let (api, address) = start_api(folder.path(), &parts, bound).await?;
        let begun = Instant::now();
        while link.peers().is_empty() {
            ensure!(
                begun.elapsed() < READY,
                "the api has not dialled: {}",
                api.log_end()
            );
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(Self {
            address,
            link: Some(link),
            api_peer,
            lease,
            api,
            _parts: parts,
            _folder: folder,
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// `false` when the link did not take it.
    pub(super) fn tell(&self, live: &Live) -> Result<bool> {
        let link = self.link.as_ref().context("the link is down")?;
        Ok(link
            .send(&self.api_peer, wire::seal(Epoch::new(1), live)?)
            .is_ok())
    }

    pub(super) fn api_resident_bytes(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.api.pid());
        let status = std::fs::read_to_string(&path).context(path)?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes =
            line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        Ok(kibibytes.context("the api has no VmRSS")? * 1024)
    }

    pub(super) async fn stop(mut self) -> Result<()> {
        self.lease.abort();
        self.api.stop().await?;
        if let Some(link) = self.link.take() {
            link.shutdown().await;
        }
        Ok(())
    }
}

async fn hold(database: Database, epoch: Epoch) {
    loop {
        tokio::time::sleep(Duration::from_millis(LEADER_RENEW_MS)).await;
        if let Err(error) = leader::renew(&database, epoch, COORDINATOR).await {
            eprintln!("the lease is not renewed: {error}");
        }
    }
}

async fn make_users(owner_url: &str, users: usize) -> Result<()> {
    let mut owner = PgConnection::connect(owner_url).await?;
    let statements = format!(
        "insert into account (id, email)
         select lpad(to_hex(n), 32, '0')::uuid, n || '@example.org' from generate_series(1, {users}) n;
         insert into api_key (id, owner_id, name, prefix, key_hash, scopes)
         select id, id, 'bench', 'flk_00000000', sha256(('flk_' || replace(id::text, '-', ''))::bytea), '{{videos}}'
           from account;
         vacuum analyze"
    );
    // One by one: VACUUM is in no transaction.
    for statement in statements.split(';') {
        sqlx::query(AssertSqlSafe(statement.to_owned()))
            .execute(&mut owner)
            .await?;
    }
    Ok(())
}

async fn start_api(
    folder: &Path,
    parts: &Parts,
    leader: SocketAddr,
) -> Result<(Process, SocketAddr)> {
    let program = std::env::current_exe()?.with_file_name("flowai-api");
    let ready_file = folder.join("ready.json");
    let (state, keys) = (folder.join("state"), folder.join("keys"));
    std::fs::create_dir_all(&state)?;
    std::fs::create_dir_all(&keys)?;
    let s3 = parts.s3();
    let path = |path: &Path| path.display().to_string();
    let settings = [
        ("FLOWAI_ID", API.to_owned()),
        ("FLOWAI_DATA_DIR", path(&state)),
        ("FLOWAI_TLS_DIR", path(&folder.join("tls"))),
        ("FLOWAI_KEYS_DIR", path(&keys)),
        ("FLOWAI_READY_FILE", path(&ready_file)),
        ("FLOWAI_LISTEN", "127.0.0.1:0".to_owned()),
        ("FLOWAI_COORDINATORS", leader.to_string()),
        ("FLOWAI_RATE_SCALE", RATE_SCALE.to_owned()),
        ("DATABASE_URL", parts.database().app.clone()),
        ("REDIS_URL", parts.redis_url().to_owned()),
        ("S3_ENDPOINT", s3.endpoint.clone()),
        ("S3_REGION", s3.region.clone()),
        ("S3_BUCKET", s3.bucket.clone()),
        ("S3_ACCESS_KEY_ID", s3.access_key_id.clone()),
        ("S3_SECRET_ACCESS_KEY", s3.secret_access_key.clone()),
    ];
    let process = Process::start(Launch {
        name: "api",
        program: &program,
        args: Vec::new(),
        env: settings
            .map(|(name, value)| (OsString::from(name), OsString::from(value)))
            .to_vec(),
        run_as: &RunAs::caller(),
        log: folder.join("api.log"),
        stop_signal: Signal::SIGTERM,
        stop_deadline: STOP_DEADLINE,
    })
    .with_context(|| format!("{}: build flowai-api first", program.display()))?;
    let begun = Instant::now();
    while !ready_file.exists() {
        ensure!(
            process.status().is_none(),
            "the api ended: {}",
            process.log_end()
        );
        ensure!(
            begun.elapsed() < READY,
            "the api is not ready: {}",
            process.log_end()
        );
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    let ready: serde_json::Value = serde_json::from_slice(&std::fs::read(&ready_file)?)?;
    let address = ready["address"]
        .as_str()
        .context("the api does not say where it listens")?;
    Ok((process, address.parse()?))
}
