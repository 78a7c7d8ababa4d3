//! Accounts and logins. What happens before anybody is known goes through the functions of `0006_sign_in_functions.sql`.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use flowai_actors::credits::Millicredits;
use flowai_actors::ids::{SignInId, UserId};
use flowai_actors::state::Tier;
use sqlx::postgres::{PgArguments, PgConnectOptions};
use sqlx::query::QueryScalar;
use sqlx::{Connection, PgConnection, Postgres};

use crate::database::{Database, DatabaseError, not_of, violates};
use crate::number::bigint;

/// The sha256 of a bearer secret: what is stored in its place.
pub type TokenHash = [u8; 32];

/// What an account may do beside its own things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountRole {
    User,
    Moderator,
    Admin,
}

impl AccountRole {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Moderator => "moderator",
            Self::Admin => "admin",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::User, Self::Moderator, Self::Admin]
            .into_iter()
            .find(|role| role.as_str() == name)
    }
}

/// An account as its owner sees it.
#[derive(Debug, Clone)]
pub struct Account {
    pub id: UserId,
    pub email: String,
    pub tier: Tier,
    pub role: AccountRole,
    pub created_at: DateTime<Utc>,
}

/// What became of a sign-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignUp {
    Created,
    EmailTaken,
}

/// What a login is checked against.
#[derive(Debug, Clone)]
pub struct StoredPassword {
    pub user: UserId,
    /// PHC string.
    pub password_hash: String,
    pub is_suspended: bool,
}

/// What became of a refresh token that was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// The caller holds the new token.
    Rotated { user: UserId, sign_in: SignInId },
    /// The token before was used again within the grace time: the new one is with another tab already.
    Grace { user: UserId, sign_in: SignInId },
    /// An old token came again, and has ended its login.
    Ended { sign_in: SignInId },
    /// Unknown, expired, or of a login that has ended.
    Refused,
}

/// What of a refresh token is stored: of the part that stays with its login, and of the part that is replaced at each use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefreshHashes {
    pub family: TokenHash,
    pub secret: TokenHash,
}

/// Makes an account that begins with `gift`. `email` must be in lower case.
pub async fn sign_up(
    database: &Database,
    id: UserId,
    email: &str,
    password_hash: &str,
    gift: Millicredits,
) -> Result<SignUp, DatabaseError> {
    let made = sqlx::query("select auth_sign_up($1, $2, $3, $4)")
        .bind(id.as_uuid())
        .bind(email)
        .bind(password_hash)
        .bind(bigint(gift.get()))
        .execute(database.pool())
        .await;
    match made {
        Ok(_) => Ok(SignUp::Created),
        Err(error) if violates(&error, "account_email_taken") => Ok(SignUp::EmailTaken),
        Err(error) => Err(error.into()),
    }
}

/// The password hash behind an email in lower case.
pub async fn by_email(
    database: &Database,
    email: &str,
) -> Result<Option<StoredPassword>, DatabaseError> {
    let row: Option<(uuid::Uuid, String, bool)> =
        sqlx::query_as("select user_id, password_hash, suspended from auth_by_email($1)")
            .bind(email)
            .fetch_optional(database.pool())
            .await?;
    Ok(
        row.map(|(user, password_hash, is_suspended)| StoredPassword {
            user: UserId::from_uuid(user),
            password_hash,
            is_suspended,
        }),
    )
}

/// Begins a login whose first refresh token has these hashes. It ends by itself when it is not used until then.
pub async fn open_sign_in(
    database: &Database,
    id: SignInId,
    user: UserId,
    token: &RefreshHashes,
    until: DateTime<Utc>,
) -> Result<(), DatabaseError> {
    sqlx::query("select auth_open_sign_in($1, $2, $3, $4, $5)")
        .bind(id.as_uuid())
        .bind(user.as_uuid())
        .bind(token.family.as_slice())
        .bind(token.secret.as_slice())
        .bind(until)
        .execute(database.pool())
        .await?;
    Ok(())
}

/// Replaces the secret of a refresh token and lets its login last until `until`. A secret that was replaced longer than
/// `grace_s` seconds ago, or before the last one, ends its login.
pub async fn rotate(
    database: &Database,
    old: &RefreshHashes,
    new_secret: &TokenHash,
    grace_s: f64,
    until: DateTime<Utc>,
) -> Result<Rotation, DatabaseError> {
    let row: Option<(uuid::Uuid, uuid::Uuid, String)> = sqlx::query_as(
        "select user_id, sign_in_id, verdict from auth_rotate_sign_in($1, $2, $3, make_interval(secs => $4), $5)",
    )
    .bind(old.family.as_slice())
    .bind(old.secret.as_slice())
    .bind(new_secret.as_slice())
    .bind(grace_s)
    .bind(until)
    .fetch_optional(database.pool())
    .await?;
    let Some((user, sign_in, verdict)) = row else {
        return Ok(Rotation::Refused);
    };
    let (user, sign_in) = (UserId::from_uuid(user), SignInId::from_uuid(sign_in));
    match verdict.as_str() {
        "rotated" => Ok(Rotation::Rotated { user, sign_in }),
        "grace" => Ok(Rotation::Grace { user, sign_in }),
        "ended" => Ok(Rotation::Ended { sign_in }),
        other => Err(not_of("auth_rotate_sign_in.verdict", other)),
    }
}

/// Ends one login of a user, or all of them. Gives those that were open.
pub async fn end_sign_ins(
    database: &Database,
    user: UserId,
    only: Option<SignInId>,
) -> Result<Vec<SignInId>, DatabaseError> {
    let ended: Vec<uuid::Uuid> = sqlx::query_scalar("select auth_close_sign_ins($1, $2)")
        .bind(user.as_uuid())
        .bind(only.map(SignInId::as_uuid))
        .fetch_all(database.pool())
        .await?;
    Ok(ended.into_iter().map(SignInId::from_uuid).collect())
}

/// Forgets sign-ins that ended 30 days ago, at most `max`. For the coordinator.
pub async fn forget_sign_ins(database: &Database, max: u32) -> Result<u64, DatabaseError> {
    let forgotten: i64 = sqlx::query_scalar("select auth_forget_sign_ins($1)")
        .bind(i32::try_from(max).unwrap_or(i32::MAX))
        .fetch_one(database.pool())
        .await?;
    Ok(forgotten.unsigned_abs())
}

/// Whether a login was neither ended nor has expired, and its account is not suspended.
pub async fn sign_in_is_open(database: &Database, id: SignInId) -> Result<bool, DatabaseError> {
    let is_open = sqlx::query_scalar("select auth_sign_in_is_open($1)")
        .bind(id.as_uuid())
        .fetch_one(database.pool())
        .await?;
    Ok(is_open)
}

/// Those of the sign-ins that are open: one statement for many.
pub async fn open_sign_ins(
    database: &Database,
    ids: &[SignInId],
) -> Result<Vec<SignInId>, DatabaseError> {
    let ids: Vec<uuid::Uuid> = ids.iter().map(|id| id.as_uuid()).collect();
    let open: Vec<uuid::Uuid> =
        sqlx::query_scalar("select id from unnest($1::uuid[]) id where auth_sign_in_is_open(id)")
            .bind(ids)
            .fetch_all(database.pool())
            .await?;
    Ok(open.into_iter().map(SignInId::from_uuid).collect())
}

/// The account on whose behalf `connection` acts.
pub async fn own(connection: &mut PgConnection) -> Result<Option<Account>, DatabaseError> {
    let row: Option<(uuid::Uuid, String, String, String, DateTime<Utc>)> = sqlx::query_as(
        "select id, email, tier, role, created_at from account where id = (select app_user())",
    )
    .fetch_optional(connection)
    .await?;
    row.map(|(id, email, tier, role, created_at)| {
        Ok(Account {
            id: UserId::from_uuid(id),
            email,
            tier: Tier::from_name(&tier).ok_or_else(|| not_of("account.tier", &tier))?,
            role: AccountRole::from_name(&role).ok_or_else(|| not_of("account.role", &role))?,
            created_at,
        })
    })
    .transpose()
}

/// Makes an account an administrator: the owner of the database alone can, so that no hole in a program does. `false`
/// when no account has this email.
pub async fn make_admin(owner_url: &str, email: &str) -> Result<bool, DatabaseError> {
    let query = sqlx::query_scalar("select auth_make_admin($1)");
    as_owner(owner_url, query.bind(email.to_lowercase())).await
}

/// Gives an account a tier, from the next job on that it submits; as [`make_admin`].
pub async fn set_tier(owner_url: &str, email: &str, tier: Tier) -> Result<bool, DatabaseError> {
    let query = sqlx::query_scalar("select auth_set_tier($1, $2)");
    let query = query.bind(email.to_lowercase()).bind(tier.as_str());
    as_owner(owner_url, query).await
}

async fn as_owner(
    owner_url: &str,
    query: QueryScalar<'_, Postgres, bool, PgArguments>,
) -> Result<bool, DatabaseError> {
    let options = PgConnectOptions::from_str(owner_url).map_err(DatabaseError::Address)?;
    let mut owner = PgConnection::connect_with(&options)
        .await
        .map_err(DatabaseError::Unreachable)?;
    let was_found = query.fetch_one(&mut owner).await?;
    owner.close().await?;
    Ok(was_found)
}
