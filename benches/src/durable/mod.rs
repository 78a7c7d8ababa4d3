//! The durable side alone: a PostgreSQL of the bench's own, the tables as they are in production, and the store's own functions.

mod bloat;
mod reload;

use anyhow::Result;
use clap::Subcommand;
use flowai_actors::ids::{ModelId, Sha256};
use flowai_actors::spec::RenderSpec;
use flowai_embedded::{Listen, Postgres};
use flowai_store::database::{Database, RolePasswords, migrate};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tempfile::TempDir;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// How long a new leader reads what is unfinished
    Reload(reload::Options),
    /// What an old snapshot, held open, does to the tables under load
    Bloat(bloat::Options),
}

pub(crate) fn run(command: &Command) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    match command {
        Command::Reload(options) => runtime.block_on(reload::run(options)),
        Command::Bloat(options) => runtime.block_on(bloat::run(options)),
    }
}

/// A database that goes away with the value.
struct Durable {
    postgres: Postgres,
    /// As the leader.
    database: Database,
    /// As the owner of the tables, whom the policies do not bind.
    owner: PgConnection,
    _folder: TempDir,
}

impl Durable {
    async fn start() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("flowai-bench-").tempdir()?;
        let postgres = Postgres::start(folder.path().join("postgres"), Listen::Socket).await?;
        let urls = postgres.urls();
        let passwords = RolePasswords {
            app: &postgres.passwords().app,
            coordinator: &postgres.passwords().coordinator,
        };
        migrate(&urls.owner, passwords).await?;
        Ok(Self {
            database: Database::connect(&urls.coordinator, 8).await?,
            owner: PgConnection::connect(&urls.owner).await?,
            postgres,
            _folder: folder,
        })
    }

    async fn run(&mut self, statement: String) -> Result<()> {
        sqlx::query(AssertSqlSafe(statement))
            .execute(&mut self.owner)
            .await?;
        Ok(())
    }

    /// Jobs that wait, of so many users each with one picture, as the api leaves them.
    async fn queue(&mut self, jobs: u64, users: u64) -> Result<()> {
        let model: ModelId = "tiny".parse()?;
        let spec = RenderSpec::small(model, Sha256::from_bytes([1; 32]));
        let spec = serde_json::to_string(&spec)?.replace('\'', "''");
        let id =
            |kind: &str, n: &str| format!("(lpad(to_hex({n}::bigint), 12, '0') || '{kind}')::uuid");
        let user = |n: &str| id("70008000000000000001", n);
        let job = id("70008000000000000002", "n");
        let owner = user(&format!("(n % {users})"));
        let statements = [
            "insert into model (id, sha256, family, offer) values ('tiny', sha256('m'), 'svd', '{}')".to_owned(),
            format!(
                "insert into account (id, email, tier)
                 select {0}, n || '@example.org', (array['free', 'pro', 'studio'])[1 + n % 3]
                   from generate_series(0, {users} - 1) n",
                user("n")
            ),
            format!(
                "insert into upload (id, owner_id, purpose, sha256, bytes, content_type, width, height, object_key)
                 select {0}, {0}, 'image', sha256('i'), 1, 'image/png', 8, 8, 'k' from generate_series(0, {users} - 1) n",
                user("n")
            ),
            format!(
                "insert into job (id, owner_id, spec, model_id, image_id)
                 select {job}, {owner}, '{spec}', 'tiny', {owner} from generate_series(0, {jobs} - 1) n"
            ),
            format!("insert into job_state (job_id, owner_id) select {job}, {owner} from generate_series(0, {jobs} - 1) n"),
            "analyze".to_owned(),
        ];
        for statement in statements {
            self.run(statement).await?;
        }
        Ok(())
    }

    async fn stop(self) -> Result<()> {
        self.database.pool().close().await;
        self.owner.close().await?;
        Ok(self.postgres.stop().await?)
    }
}
