//! FlowAI as one of the contenders of `peers`: the same commands, the same files of keys and times as theirs (`benches/peers/`).
//!
//! Journal-only, which is what a queue is beside the others: jobs are accepted by the statement that the api runs, from many
//! connections under each user's identity; the real leader with its journal gives them to nodes that end each at once. What is
//! left out is HTTP, TLS between machines (the link is in memory, doorbells come by a unix socket), rendering, uploading, and
//! the object store, whose place a server takes that has every file.

mod doorbell;
mod files;
mod node;
mod produce;
mod work;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Subcommand;
use flowai_actors::credits::{Price, Rendering};
use flowai_actors::ids::{Sha256, UserId};
use flowai_actors::spec::RenderSpec;
use flowai_store::database::{Database, RolePasswords, migrate};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use url::Url;
use uuid::Uuid;

/// Enough that no user's cap of waiting or running jobs is reached by a backlog of 100,000 or by a hundred nodes, and that few
/// submissions wait for a batch of the leader's that tells the same user something.
const USERS: u128 = 4_096;
/// For every user, in milli-credits: nobody's run out.
const CREDITS_MC: i64 = 1_000_000_000;
const MODEL: &str = "noop";

/// What the benchmark asks of every contender.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Makes the tables and the users
    Setup,
    /// Accepts jobs in a closed loop of PRODUCERS connections, until SECONDS are over or COUNT is reached
    Enqueue {
        seconds: u64,
        count: usize,
        producers: usize,
        pause_ms: u64,
    },
    /// Writes COUNT waiting jobs at once: rows as acceptance leaves them
    Preload { count: u64 },
    /// Leads, with so many nodes
    Work { nodes: usize },
}

pub(crate) fn run(command: &Command) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let settings = Settings::from_env()?;
    match *command {
        Command::Setup => runtime.block_on(settings.set_up()),
        Command::Enqueue {
            seconds,
            count,
            producers,
            pause_ms,
        } => {
            let wanted = produce::Wanted {
                seconds,
                count,
                producers,
                pause_ms,
                batch: std::env::var("PEER_BATCH")
                    .context("PEER_BATCH is missing")?
                    .parse()?,
            };
            runtime.block_on(produce::run(&settings, wanted))
        }
        Command::Preload { count } => runtime.block_on(settings.preload(count)),
        Command::Work { nodes } => runtime.block_on(work::run(&settings, nodes)),
    }
}

/// What the benchmark says in the environment.
struct Settings {
    /// As the owner of the database.
    url: Url,
    /// The password of both roles.
    secret: String,
    starts: PathBuf,
    acks: PathBuf,
    doorbell: PathBuf,
}

impl Settings {
    fn from_env() -> Result<Self> {
        let value = |name| std::env::var(name).with_context(|| format!("{name} is missing"));
        let folder = PathBuf::from(value("PEER_DIR")?);
        Ok(Self {
            url: value("PEER_URL")?.parse()?,
            secret: value("PEER_SECRET")?,
            starts: value("PEER_STARTS")?.into(),
            acks: value("PEER_ACKS")?.into(),
            doorbell: folder.join("doorbell.sock"),
        })
    }

    async fn connect(&self, role: &str, connections: u32) -> Result<Database> {
        let mut url = self.url.clone();
        let set = url
            .set_username(role)
            .and(url.set_password(Some(&self.secret)));
        set.map_err(|()| anyhow::anyhow!("PEER_URL names no host"))?;
        Ok(Database::connect(url.as_str(), connections).await?)
    }

    async fn set_up(&self) -> Result<()> {
        let passwords = RolePasswords {
            app: &self.secret,
            coordinator: &self.secret,
        };
        migrate(self.url.as_str(), passwords).await?;
        let mut owner = PgConnection::connect(self.url.as_str()).await?;
        let statements = format!(
            "insert into model (id, sha256, family, offer) values ('{MODEL}', sha256('m'), 'svd', '{{}}');
             insert into account (id, email, tier)
             select lpad(to_hex(n), 32, '0')::uuid, n || '@example.org', 'studio' from generate_series(1, {USERS}) n;
             insert into upload (id, owner_id, purpose, sha256, bytes, content_type, width, height, object_key)
             select id, id, 'image', decode(repeat('01', 32), 'hex'), 1, 'image/png', 8, 8, 'k' from account;
             select ledger_grant(id, 'gift', 'gift:' || id || ':bench', {CREDITS_MC}, null, 'bench') from account"
        );
        sqlx::raw_sql(AssertSqlSafe(statements))
            .execute(&mut owner)
            .await?;
        Ok(())
    }

    /// The same rows that `submit` writes, but for the answers under the requests' own keys and the ledger's entries about
    /// the holds.
    async fn preload(&self, count: u64) -> Result<()> {
        let mut owner = PgConnection::connect(self.url.as_str()).await?;
        let spec = spec();
        let price = Price::of(&spec, Rendering::Full);
        let (mc, book) = (price.amount.get(), price.book);
        let spec = serde_json::to_string(&spec)?;
        let statements = format!(
            "begin;
             create temporary table loaded on commit drop as
             select (lpad(to_hex((extract(epoch from now()) * 1000)::bigint - 3600000 + n / 1000), 12, '0') || '7'
                     || lpad(to_hex(n % 1000), 3, '0') || '8' || substr(md5(n::text || random()), 1, 15))::uuid as id,
                    lpad(to_hex(n % {USERS} + 1), 32, '0')::uuid as owner_id, n / {USERS} + 1 as seq
               from generate_series(0, {count} - 1) n;
             insert into user_stream (user_id, seq) select owner_id, max(seq) from loaded group by owner_id;
             insert into job (id, owner_id, spec, model_id, image_id)
             select id, owner_id, '{spec}', '{MODEL}', owner_id from loaded;
             insert into job_state (job_id, owner_id) select id, owner_id from loaded;
             insert into job_event (owner_id, user_seq, job_id, seq, kind) select owner_id, seq, id, 1, 'queued' from loaded;
             insert into credit_holds (job_id, owner_id, amount_mc, price_book, lot_ids, lot_mcs)
             select j.id, j.owner_id, {mc}, {book}, array[l.id], array[{mc}]::bigint[]
               from loaded j join credit_lots l on l.owner_id = j.owner_id;
             update credit_lots l set remaining_mc = l.remaining_mc - h.mc
               from (select owner_id, sum(amount_mc)::bigint as mc from credit_holds group by owner_id) h
              where h.owner_id = l.owner_id;
             update credit_balances b set available_mc = b.available_mc - h.mc, held_mc = h.mc
               from (select owner_id, sum(amount_mc)::bigint as mc from credit_holds group by owner_id) h
              where h.owner_id = b.owner_id;
             commit"
        );
        sqlx::raw_sql(AssertSqlSafe(statements))
            .execute(&mut owner)
            .await?;
        Ok(())
    }
}

fn user(number: usize) -> UserId {
    UserId::from_uuid(Uuid::from_u128(number as u128 % USERS + 1))
}

/// Some 300 bytes as JSON, the payload of a job here.
#[allow(clippy::expect_used, reason = "the name is a constant")]
fn spec() -> RenderSpec {
    let model = MODEL.parse().expect("a name of a model");
    RenderSpec::small(model, Sha256::from_bytes([1; 32]))
}

/// Nanoseconds of the monotonic clock, which all processes of the machine share.
fn now_ns() -> i64 {
    match nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC) {
        Ok(time) => time.tv_sec() * 1_000_000_000 + time.tv_nsec(),
        // Linux has this clock.
        Err(_) => 0,
    }
}
