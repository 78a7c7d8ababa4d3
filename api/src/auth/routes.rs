//! `/v1/auth`.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Duration, Utc};
use flowai_actors::ids::{SignInId, UserId};
use flowai_store::accounts::{self, Rotation};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::cookie;
use super::password::{PASSWORD_CHARS_MAX, PASSWORD_CHARS_MIN};
use super::principal::Principal;
use super::refresh_token::RefreshToken;
use super::token::{self, ACCESS_TTL_S, Named};
use crate::app::App;
use crate::error::{ApiError, FieldError, Problem};
use crate::http::{Caller, Json};

/// A sign-in that nobody used for so long has ended.
const REFRESH_TTL_DAYS: i64 = 30;
/// Two tabs may refresh at once, and an answer may get lost.
const REUSE_GRACE_S: f64 = 10.0;
const EMAIL_CHARS_MAX: usize = 254;

/// For callers that nobody knows yet.
pub(crate) fn open_router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(sign_up))
        .routes(routes!(log_in))
        .routes(routes!(refresh))
}

/// For known callers.
pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(log_out))
        .routes(routes!(log_out_everywhere))
}

/// An email and a password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SignUpRequest {
    #[schema(format = "email", example = "ada@example.org")]
    email: String,
    #[schema(format = "password", min_length = 8, max_length = 128)]
    password: String,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct LoginRequest {
    #[schema(format = "email")]
    email: String,
    #[schema(format = "password")]
    password: String,
    /// Browsers: keep the refresh token in a cookie that no script can read, not in the answer.
    #[serde(default)]
    cookie: bool,
}

#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
struct RefreshRequest {
    /// Left out by browsers, whose cookie holds it.
    refresh_token: Option<String>,
}

/// What a sign-in gives.
#[derive(Serialize, ToSchema)]
struct Tokens {
    /// For `Authorization: Bearer`. Keep it in memory only.
    access_token: String,
    #[schema(example = "Bearer")]
    token_type: &'static str,
    /// Seconds.
    expires_in: i64,
    /// For programs; good once. Absent when the cookie holds it, or when another tab has just got the newer one.
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct SignedUp {
    detail: &'static str,
}

/// Make an account.
///
/// The answer is the same, and takes as long, when the email has an account already: nobody learns who is here.
#[utoipa::path(post, path = "/v1/auth/signup", tag = "auth", request_body = SignUpRequest,
    responses((status = 202, body = SignedUp), (status = 422, body = Problem), (status = 429, body = Problem), (status = 503, body = Problem)))]
async fn sign_up(
    State(app): State<App>,
    caller: Caller,
    Json(request): Json<SignUpRequest>,
) -> Result<Response, ApiError> {
    let email = check_email(&request.email);
    let mut errors = Vec::from_iter(email.as_ref().err().cloned());
    errors.extend(check_password(&request.password));
    let (Ok(email), true) = (email, errors.is_empty()) else {
        return Err(ApiError::ValidationFailed(errors));
    };
    app.rates.admit_stranger(&caller, &email).await?;
    let hash = app.passwords.hash(request.password).await?;
    let (id, gift) = (UserId::generate(), app.signup_gift);
    let outcome = accounts::sign_up(&app.database, id, &email, &hash, gift).await?;
    tracing::info!(?outcome, "sign-up");
    let detail = "log in with this email and password";
    Ok((StatusCode::ACCEPTED, axum::Json(SignedUp { detail })).into_response())
}

/// Log in.
#[utoipa::path(post, path = "/v1/auth/login", tag = "auth", request_body = LoginRequest,
    responses((status = 200, body = Tokens), (status = 401, body = Problem), (status = 429, body = Problem), (status = 503, body = Problem)))]
async fn log_in(
    State(app): State<App>,
    caller: Caller,
    Json(request): Json<LoginRequest>,
) -> Result<Response, ApiError> {
    // Nobody has signed up with an email that sign-up refuses.
    let email = check_email(&request.email).map_err(|_| ApiError::LoginRefused)?;
    if request.password.chars().count() > PASSWORD_CHARS_MAX {
        return Err(ApiError::LoginRefused);
    }
    app.rates.admit_stranger(&caller, &email).await?;
    let account = accounts::by_email(&app.database, &email).await?;
    let stored = account
        .as_ref()
        .map(|account| account.password_hash.clone());
    let is_correct = app.passwords.is_correct(request.password, stored).await?;
    let (Some(account), true) = (account, is_correct) else {
        return Err(ApiError::LoginRefused);
    };
    if account.is_suspended {
        return Err(ApiError::AccountSuspended);
    }
    let sign_in = SignInId::generate();
    let refresh_token = RefreshToken::generate();
    accounts::open_sign_in(
        &app.database,
        sign_in,
        account.user,
        &refresh_token.hashes(),
        refresh_until(),
    )
    .await?;
    let named = Named {
        user: account.user,
        sign_in,
    };
    answer(&app, named, Some(refresh_token), request.cookie)
}

/// Get a new access token, and replace the refresh token.
///
/// A refresh token is good once. One that comes again later than ten seconds after it was replaced, or after a newer one was
/// used, was stolen from somebody: its whole sign-in ends. A sign-in that is not used for thirty days ends as well.
#[utoipa::path(post, path = "/v1/auth/refresh", tag = "auth", request_body = RefreshRequest,
    responses((status = 200, body = Tokens), (status = 401, body = Problem), (status = 429, body = Problem), (status = 503, body = Problem)))]
async fn refresh(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    Json(request): Json<RefreshRequest>,
) -> Result<Response, ApiError> {
    let from_cookie = cookie::read(&headers);
    let is_cookie = request.refresh_token.is_none() && from_cookie.is_some();
    let old = request.refresh_token.or(from_cookie);
    let old = old.ok_or(ApiError::TokenMissing)?;
    let old = RefreshToken::read(&old).ok_or(ApiError::TokenInvalid)?;
    app.rates.admit_stranger(&caller, old.family()).await?;
    let new = old.successor();
    let rotation = accounts::rotate(
        &app.database,
        &old.hashes(),
        &new.secret_hash(),
        REUSE_GRACE_S,
        refresh_until(),
    )
    .await?;
    match rotation {
        Rotation::Rotated { user, sign_in } => {
            answer(&app, Named { user, sign_in }, Some(new), is_cookie)
        }
        Rotation::Grace { user, sign_in } => answer(&app, Named { user, sign_in }, None, is_cookie),
        Rotation::Ended { sign_in } => {
            app.authenticator.forget_sign_ins(&[sign_in]);
            Err(ApiError::TokenInvalid)
        }
        Rotation::Refused => Err(ApiError::TokenInvalid),
    }
}

/// End this sign-in.
#[utoipa::path(post, path = "/v1/auth/logout", tag = "auth", security(("bearer" = [])),
    responses((status = 204), (status = 401, body = Problem)))]
async fn log_out(State(app): State<App>, principal: Principal) -> Result<Response, ApiError> {
    let sign_in = principal.require_sign_in()?;
    end(&app, principal.user, Some(sign_in)).await
}

/// End every sign-in of this account, this one too. API keys stay.
#[utoipa::path(post, path = "/v1/auth/logout-all", tag = "auth", security(("bearer" = [])),
    responses((status = 204), (status = 401, body = Problem)))]
async fn log_out_everywhere(
    State(app): State<App>,
    principal: Principal,
) -> Result<Response, ApiError> {
    principal.require_sign_in()?;
    end(&app, principal.user, None).await
}

async fn end(app: &App, user: UserId, only: Option<SignInId>) -> Result<Response, ApiError> {
    let ended = accounts::end_sign_ins(&app.database, user, only).await?;
    app.authenticator.forget_sign_ins(&ended);
    let mut response = StatusCode::NO_CONTENT.into_response();
    if let Some(removal) = cookie::write(None, 0, &app.public_url) {
        response.headers_mut().insert(header::SET_COOKIE, removal);
    }
    Ok(response)
}

fn answer(
    app: &App,
    named: Named,
    refresh_token: Option<RefreshToken>,
    is_cookie: bool,
) -> Result<Response, ApiError> {
    let refresh_token = refresh_token.map(|token| token.reveal());
    let access_token = token::issue(&app.keys, named).map_err(|error| {
        tracing::error!(%error, "an access token cannot be signed");
        ApiError::Internal
    })?;
    let cookie = match &refresh_token {
        Some(token) if is_cookie => {
            let max_age_s = Duration::days(REFRESH_TTL_DAYS).num_seconds();
            cookie::write(Some(token), max_age_s, &app.public_url)
        }
        Some(_) | None => None,
    };
    let tokens = Tokens {
        access_token,
        token_type: "Bearer",
        expires_in: ACCESS_TTL_S,
        refresh_token: refresh_token.filter(|_| !is_cookie),
    };
    let mut response = axum::Json(tokens).into_response();
    if let Some(cookie) = cookie {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

/// When a sign-in ends that is used now and never again.
fn refresh_until() -> DateTime<Utc> {
    Utc::now() + Duration::days(REFRESH_TTL_DAYS)
}

/// Lower-cased. Only what must be wrong is refused: whether an address works is seen by writing to it.
fn check_email(text: &str) -> Result<String, FieldError> {
    let email = text.trim().to_lowercase();
    let is_plausible = email.len() <= EMAIL_CHARS_MAX
        && !email.chars().any(|c| c.is_whitespace() || c.is_control())
        && email.split_once('@').is_some_and(|(name, host)| {
            !name.is_empty() && !host.is_empty() && !host.contains('@')
        });
    if is_plausible {
        Ok(email)
    } else {
        let detail = "must be an email address of at most 254 characters";
        Err(FieldError::new("/email", "invalid", detail))
    }
}

fn check_password(password: &str) -> Option<FieldError> {
    let length = password.chars().count();
    if (PASSWORD_CHARS_MIN..=PASSWORD_CHARS_MAX).contains(&length) {
        return None;
    }
    let detail = format!("must be {PASSWORD_CHARS_MIN}..={PASSWORD_CHARS_MAX} characters long");
    Some(FieldError::new("/password", "length", detail))
}
