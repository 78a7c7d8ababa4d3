//! Who somebody is: sign-up, login, refresh, logout, and the check of every token.

mod authenticator;
mod cookie;
mod guesses;
mod keys;
mod password;
mod principal;
mod refresh_token;
mod routes;
mod scope;
mod token;

pub(crate) use authenticator::{Authenticator, BELIEVED};
pub use keys::{KeyError, Keys};
pub use password::PasswordCost;
pub(crate) use password::Passwords;
pub(crate) use principal::{Credential, Principal, require_principal};
pub(crate) use routes::{open_router, router};
pub(crate) use scope::Scope;
pub(crate) use token::hash_of;
