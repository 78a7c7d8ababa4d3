//! Goal: whatever a handler asks for, the database shows and changes a tenant's own rows only (INV-9).
//! Method: two users on the roles that the programs use, against a migrated PostgreSQL, and its catalogue read as an auditor.

use std::collections::HashMap;

use flowai_actors::ids::{JobId, UploadId, UserId};
use flowai_embedded::Postgres;
use flowai_store::database::{Database, DatabaseError, RolePasswords, migrate};
use flowai_store::events;
use flowai_store::idempotency::NamedRequest;
use flowai_store::videos::{Intake, NewVideo, Queueing};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::farm::{migrated, spec};

struct Farm {
    app: Database,
    intake: Intake,
    coordinator: Database,
    owner: PgConnection,
    server: Postgres,
    _folder: tempfile::TempDir,
}

async fn farm() -> Farm {
    let folder = tempfile::tempdir().unwrap();
    let server = migrated(folder.path()).await;
    let urls = server.urls();
    let app = Database::connect(&urls.app, 1).await.unwrap();
    Farm {
        intake: Intake::new(app.clone(), 100),
        app,
        coordinator: Database::connect(&urls.coordinator, 1).await.unwrap(),
        owner: PgConnection::connect(&urls.owner).await.unwrap(),
        server,
        _folder: folder,
    }
}

impl Farm {
    async fn sign_up(&self, email: &str) -> UserId {
        let user = UserId::generate();
        sqlx::query("select auth_sign_up($1, $2, 'hash', 1000000)")
            .bind(user.as_uuid())
            .bind(email)
            .execute(self.app.pool())
            .await
            .unwrap();
        user
    }

    /// Runs one statement of the api role on behalf of `user`, which stands as `$1` in it.
    async fn run_as(&self, user: UserId, statement: &str) -> Result<u64, String> {
        let mut transaction = self.app.begin_as(user).await.unwrap();
        let done = sqlx::query(AssertSqlSafe(statement.to_owned()))
            .execute(&mut *transaction)
            .await
            .map_err(|error| error.to_string())?;
        transaction.commit().await.unwrap();
        Ok(done.rows_affected())
    }

    /// A job of the picture, as the api writes it down.
    async fn submit(&self, owner: UserId, image: UploadId) -> (JobId, Queueing) {
        let spec = spec();
        let video = NewVideo::new(owner, &spec, Some(image));
        let id = video.id;
        let key = id.to_string();
        let named = NamedRequest {
            owner,
            key: &key,
            hash: [0; 32],
        };
        let queueing = self
            .intake
            .queue(&[video], Some(&named), (202, &json!({})))
            .await;
        (id, queueing.unwrap())
    }

    /// A model, and for `user` a picture and a job of it.
    async fn queue_job(&self, user: UserId) -> (UploadId, JobId) {
        let image = UploadId::generate();
        sqlx::query(
            "insert into model (id, sha256, family, offer) values ('tiny', sha256('m'), 'svd', '{}')
             on conflict do nothing",
        )
        .execute(self.coordinator.pool())
        .await
        .unwrap();
        let upload = format!(
            "insert into upload (id, owner_id, purpose, sha256, bytes, content_type, width, height, object_key)
             values ('{image}', '{user}', 'image', sha256('i'), 1, 'image/png', 8, 8, 'k')"
        );
        self.run_as(user, &upload).await.unwrap();
        let (job, queueing) = self.submit(user, image).await;
        assert_eq!(queueing, Queueing::Queued);
        (image, job)
    }
}

#[tokio::test]
async fn a_stranger_reads_and_changes_nothing() {
    let farm = farm().await;
    let (alice, bob) = (
        farm.sign_up("alice@example.org").await,
        farm.sign_up("bob@example.org").await,
    );
    let (image, job) = farm.queue_job(alice).await;

    for table in ["upload", "job", "job_state", "job_event"] {
        let all = format!("select from {table}");
        assert_eq!(farm.run_as(alice, &all).await, Ok(1), "{table}");
        assert_eq!(farm.run_as(bob, &all).await, Ok(0), "{table}");
    }
    // A gift and a hold; of the house's accounts, nothing.
    for (table, of_alice, of_bob) in [
        ("ledger_accounts", 2, 2),
        ("ledger_txns", 2, 1),
        ("ledger_entries", 3, 1),
        ("credit_lots", 1, 1),
        ("credit_holds", 1, 0),
        ("credit_balances", 1, 1),
    ] {
        let all = format!("select from {table}");
        assert_eq!(farm.run_as(alice, &all).await, Ok(of_alice), "{table}");
        assert_eq!(farm.run_as(bob, &all).await, Ok(of_bob), "{table}");
    }
    let whose = "select from credit_holds where owner_id <> (select app_user())";
    assert_eq!(farm.run_as(alice, whose).await, Ok(0));
    assert_eq!(farm.run_as(bob, "select from account").await, Ok(1));
    assert_eq!(
        farm.run_as(bob, &format!("delete from job where id = '{job}'"))
            .await,
        Ok(0)
    );
    let cancel = "update job_state set cancel_requested_at = now(), state = 'cancelled', finished_at = now()";
    assert_eq!(farm.run_as(bob, cancel).await, Ok(0));

    // Foreign keys pass row level security by: only the owner in the key keeps a stranger's picture out.
    let (_, stolen) = farm.submit(bob, image).await;
    assert_eq!(stolen, Queueing::NoImage);
    assert_eq!(farm.run_as(alice, cancel).await, Ok(1));
}

#[tokio::test]
async fn an_owner_cannot_play_the_leader() {
    let farm = farm().await;
    let alice = farm.sign_up("alice@example.org").await;
    farm.queue_job(alice).await;
    for change in [
        "update job_state set state = 'done', finished_at = now()",
        "update job_state set state = 'running', node_id = 'mine'",
        "update job_state set attempt = 7",
        "insert into job default values",
        "insert into job_adapter default values",
        "insert into job_state default values",
        "update account set tier = 'studio'",
        "update leader set epoch = 9",
        "insert into artefact (job_id) values (gen_random_uuid())",
        "select key_hash from api_key",
        "select from credential",
        "select from sign_in",
        "select actor from ledger_txns",
        "select from ledger_imbalances",
        "update credit_balances set available_mc = 1000000000",
    ] {
        let refusal = farm.run_as(alice, change).await.expect_err(change);
        assert!(
            refusal.contains("row-level security") || refusal.contains("permission denied"),
            "{change}: {refusal}"
        );
    }
    // Nor while it cancels.
    let refusal = farm
        .run_as(
            alice,
            "update job_state set state = 'running', cancel_requested_at = now()",
        )
        .await;
    let refusal = refusal.expect_err("a job runs nowhere");
    assert!(refusal.contains("check constraint"), "{refusal}");
    let elsewhere = "update job_state set node_id = null, cancel_requested_at = now()";
    let refusal = farm.run_as(alice, elsewhere).await.expect_err(elsewhere);
    assert!(refusal.contains("permission denied"), "{refusal}");
}

#[tokio::test]
async fn counts_of_streams_are_told_to_the_api_and_of_others_to_no_user() {
    let farm = farm().await;
    let (alice, bob) = (
        farm.sign_up("alice@example.org").await,
        farm.sign_up("bob@example.org").await,
    );
    farm.queue_job(alice).await;

    let heads = events::heads(&farm.app, &[alice, bob]).await.unwrap();
    assert_eq!(heads, HashMap::from([(alice, 1)]));
    let ask = format!("select from stream_heads(array['{alice}', '{bob}']::uuid[])");
    assert_eq!(farm.run_as(alice, &ask).await, Ok(1));
    assert_eq!(farm.run_as(bob, &ask).await, Ok(0));
    // The rows themselves stay with their users, also for who may ask for the counts.
    assert_eq!(farm.run_as(bob, "select from user_stream").await, Ok(0));
    let on_nobodys_behalf = sqlx::query("select from user_stream").execute(farm.app.pool());
    assert_eq!(on_nobodys_behalf.await.unwrap().rows_affected(), 0);
    let as_leader = sqlx::query(AssertSqlSafe(ask)).execute(farm.coordinator.pool());
    let refusal = as_leader.await.unwrap_err().to_string();
    assert!(refusal.contains("permission denied"), "{refusal}");
}

#[tokio::test]
async fn a_leader_stores_pictures_and_nothing_else_of_a_user() {
    let farm = farm().await;
    let alice = farm.sign_up("alice@example.org").await;
    let store = async |purpose: &str, size: &str| {
        let statement = format!(
            "insert into upload (id, owner_id, purpose, sha256, bytes, content_type, width, height, object_key)
             values (gen_random_uuid(), '{alice}', '{purpose}', sha256('i'), 1, 'image/png', {size}, 'k')"
        );
        let stored = sqlx::query(AssertSqlSafe(statement)).execute(farm.coordinator.pool());
        stored.await.map_err(|error| error.to_string())
    };
    assert!(store("image", "8, 8").await.is_ok());
    let refusal = store("adapter", "null, null").await.unwrap_err();
    assert!(refusal.contains("row-level security"), "{refusal}");
    for change in ["delete from upload", "update upload set object_key = 'x'"] {
        let refused = sqlx::query(change).execute(farm.coordinator.pool()).await;
        let refusal = refused.unwrap_err().to_string();
        assert!(refusal.contains("permission denied"), "{change}: {refusal}");
    }
}

#[tokio::test]
async fn a_connection_forgets_who_it_served() {
    let farm = farm().await;
    let (alice, bob) = (
        farm.sign_up("alice@example.org").await,
        farm.sign_up("bob@example.org").await,
    );
    let (image, _) = farm.queue_job(alice).await;
    let mut of_alice = 1;
    // The pool holds a single connection, which all of these share but the submissions.
    for round in 0..200 {
        if round % 5 == 0 {
            // Another way to say on whose behalf a statement acts; in turn one that is carried out and one that is refused.
            let owner = if round % 10 == 0 { alice } else { bob };
            let (_, queueing) = farm.submit(owner, image).await;
            match owner == alice {
                true => assert_eq!(queueing, Queueing::Queued),
                false => assert_eq!(queueing, Queueing::NoImage),
            }
            of_alice += u64::from(owner == alice);
        }
        let (user, sees) = match round % 3 {
            0 => (alice, of_alice),
            1 => (bob, 0),
            _ => (UserId::generate(), 0),
        };
        if round % 2 == 0 {
            assert_eq!(farm.run_as(user, "select from job").await, Ok(sees));
        }
        let nobody: i64 = sqlx::query_scalar("select count(*) from job")
            .fetch_one(farm.app.pool())
            .await
            .unwrap();
        assert_eq!(nobody, 0, "round {round}");
    }
}

#[tokio::test]
async fn an_answer_is_its_owners_for_a_day_and_nobodys_afterwards() {
    let mut farm = farm().await;
    let (alice, bob) = (
        farm.sign_up("alice@example.org").await,
        farm.sign_up("bob@example.org").await,
    );
    let (image, _) = farm.queue_job(alice).await;
    let (_, second) = farm.submit(alice, image).await;
    assert_eq!(second, Queueing::Queued);
    assert_eq!(farm.run_as(bob, "select from idempotency").await, Ok(0));
    let change = farm.run_as(alice, "update idempotency set status = 500");
    assert!(change.await.unwrap_err().contains("permission denied"));
    assert_eq!(farm.run_as(alice, "select from idempotency").await, Ok(2));
    // The coordinator may forget what is old, and sees nothing else.
    let forget = async || {
        let forget = sqlx::query("delete from idempotency").execute(farm.coordinator.pool());
        forget.await.unwrap().rows_affected()
    };
    assert_eq!(forget().await, 0);
    sqlx::query(
        "update idempotency set created_at = now() - interval '25 hours'
          where key = (select min(key) from idempotency)",
    )
    .execute(&mut farm.owner)
    .await
    .unwrap();
    assert_eq!(forget().await, 1);
    let body = sqlx::query("select body from idempotency").execute(farm.coordinator.pool());
    assert!(
        body.await
            .unwrap_err()
            .to_string()
            .contains("permission denied")
    );
}

async fn holes(owner: &mut PgConnection) -> Vec<String> {
    let holes = sqlx::query_scalar(
        "select 'table without forced row level security: ' || c.relname
           from pg_class c join pg_namespace n on n.oid = c.relnamespace
          where n.nspname in ('public', 'event_weeks') and c.relkind in ('r', 'p') and c.relname <> '_sqlx_migrations'
            and not (c.relrowsecurity and c.relforcerowsecurity)
         union all
         select 'definer function without a search_path: ' || p.proname
           from pg_proc p join pg_namespace n on n.oid = p.pronamespace
          where n.nspname = 'public' and p.prosecdef
            and not exists (select from unnest(p.proconfig) setting where setting like 'search_path=%')
         union all
         select 'granted to everybody: ' || p.proname
           from pg_proc p join pg_namespace n on n.oid = p.pronamespace, aclexplode(p.proacl) acl
          where n.nspname = 'public' and acl.grantee = 0
         union all
         select 'granted to everybody by default: ' || p.proname
           from pg_proc p join pg_namespace n on n.oid = p.pronamespace
          where n.nspname = 'public' and p.proacl is null
         union all
         select 'definer function owned by a role that can log in: ' || p.proname
           from pg_proc p join pg_namespace n on n.oid = p.pronamespace join pg_roles r on r.oid = p.proowner
          where n.nspname = 'public' and p.prosecdef and (r.rolcanlogin or r.rolsuper or r.rolbypassrls)
         union all
         select 'view that shows the rows of everybody: ' || c.relname
           from pg_class c join pg_namespace n on n.oid = c.relnamespace
          where n.nspname = 'public' and c.relkind in ('v', 'm')
            and not coalesce('security_invoker=true' = any (c.reloptions), false)
         union all
         select 'granted to everybody: ' || c.relname
           from pg_class c join pg_namespace n on n.oid = c.relnamespace, aclexplode(c.relacl) acl
          where n.nspname = 'public' and acl.grantee = 0",
    );
    holes.fetch_all(owner).await.unwrap()
}

/// Who owns a database at a provider may make roles and is no superuser.
#[tokio::test]
async fn the_catalogue_has_no_hole_where_a_plain_owner_migrates() {
    let mut farm = farm().await;
    for statement in [
        "create role plain login createrole password 'plain'",
        "create database plain owner plain",
    ] {
        sqlx::query(statement)
            .execute(&mut farm.owner)
            .await
            .unwrap();
    }
    let sockets = farm.server.socket_folder().display().to_string();
    let url = format!("postgres://plain:plain@localhost/plain?host={sockets}");
    let passwords = farm.server.passwords();
    let passwords = RolePasswords {
        app: &passwords.app,
        coordinator: &passwords.coordinator,
    };
    migrate(&url, passwords).await.unwrap();
    let mut owner = PgConnection::connect(&url).await.unwrap();
    assert_eq!(holes(&mut owner).await, Vec::<String>::new());
    let may: Vec<bool> = sqlx::query_scalar(
        "select has_function_privilege('flowai_app', f, 'execute')
           from unnest(array['auth_by_email(text)', 'auth_by_api_key(bytea)', 'auth_make_admin(text)',
                             'auth_set_tier(text, text)']) f",
    )
    .fetch_all(&mut owner)
    .await
    .unwrap();
    assert_eq!(may, [true, true, false, false]);
}

#[tokio::test]
async fn the_catalogue_has_no_hole() {
    let mut farm = farm().await;
    assert_eq!(holes(&mut farm.owner).await, Vec::<String>::new());
    let tables: i64 =
        sqlx::query_scalar("select count(*) from pg_tables where schemaname = 'public'")
            .fetch_one(&mut farm.owner)
            .await
            .unwrap();
    assert!(
        tables > 15,
        "the catalogue that was read has only {tables} tables"
    );
}

#[tokio::test]
async fn a_role_that_sees_everything_is_refused() {
    let farm = farm().await;
    let refused = Database::connect(&farm.server.urls().owner, 1).await;
    assert!(
        matches!(refused, Err(DatabaseError::Unbound { .. })),
        "{refused:?}"
    );
}
