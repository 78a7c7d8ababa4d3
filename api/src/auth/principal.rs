//! The caller of a request, as every handler behind the gate gets it.

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;
use flowai_actors::ids::{SignInId, UserId};
use flowai_store::accounts::{self, AccountRole, TokenHash};

use super::scope::Scope;
use crate::app::App;
use crate::error::ApiError;
use crate::http::Caller;

/// Who asks.
#[derive(Debug, Clone)]
pub struct Principal {
    pub user: UserId,
    pub credential: Credential,
}

/// What they showed.
#[derive(Debug, Clone)]
pub enum Credential {
    /// An access token of this sign-in: everything that the account may.
    SignIn(SignInId),
    /// An API key: only these parts.
    ApiKey { hash: TokenHash, scopes: Vec<Scope> },
}

impl Principal {
    /// # Errors
    /// `ScopeRequired` for an API key without the scope.
    pub fn require(&self, scope: Scope) -> Result<(), ApiError> {
        match &self.credential {
            Credential::SignIn(_) => Ok(()),
            Credential::ApiKey { scopes, .. } if scopes.contains(&scope) => Ok(()),
            Credential::ApiKey { .. } => Err(ApiError::ScopeRequired(scope)),
        }
    }

    /// # Errors
    /// `SignInRequired` for an API key: no key makes keys or ends sign-ins.
    pub fn require_sign_in(&self) -> Result<SignInId, ApiError> {
        match self.credential {
            Credential::SignIn(sign_in) => Ok(sign_in),
            Credential::ApiKey { .. } => Err(ApiError::SignInRequired),
        }
    }

    /// An administrator's sign-in, or a key with a scope for the farm (which only an administrator could make, and which
    /// counts as long as its holder is one).
    pub async fn require_operator(&self, app: &App, scope: Scope) -> Result<(), ApiError> {
        match &self.credential {
            Credential::SignIn(_) => {}
            Credential::ApiKey { scopes, .. } => {
                let is_enough = scopes.contains(&scope)
                    || (scope == Scope::FarmRead && scopes.contains(&Scope::Farm));
                if !is_enough {
                    return Err(ApiError::RoleRequired(scope));
                }
            }
        }
        let mut transaction = app.database.begin_as(self.user).await?;
        match accounts::own(&mut transaction).await? {
            Some(account) if account.role == AccountRole::Admin => Ok(()),
            Some(_) | None => Err(ApiError::RoleRequired(scope)),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Principal {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        // Absent only on a route without the gate, which must not have callers.
        let principal = parts.extensions.get::<Self>().cloned();
        principal.ok_or(ApiError::TokenMissing)
    }
}

/// The gate of every route for known callers: authenticates, then counts the request, then lets it in.
pub(crate) async fn require_principal(
    State(app): State<App>,
    caller: Caller,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let bearer = bearer(request.headers())?;
    let principal = app
        .authenticator
        .authenticate(bearer, caller.network)
        .await?;
    let rate = app
        .rates
        .admit(&principal, request.method(), request.uri().path())
        .await?;
    request.extensions_mut().insert(principal);
    let mut response = next.run(request).await;
    crate::http::rate::write_headers(response.headers_mut(), &rate);
    Ok(response)
}

fn bearer(headers: &HeaderMap) -> Result<&str, ApiError> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(ApiError::TokenMissing);
    };
    let value = value.to_str().map_err(|_| ApiError::TokenInvalid)?;
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() => {
            Ok(token.trim())
        }
        Some(_) | None => Err(ApiError::TokenMissing),
    }
}
