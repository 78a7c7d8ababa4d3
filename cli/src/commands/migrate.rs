use flowai_actors::state::Tier;
use flowai_store::accounts::{make_admin, set_tier};
use flowai_store::database::{RolePasswords, migrate};
use serde_json::json;

use super::CommandError;
use crate::client::from_env;
use crate::output::Output;

/// Shorter secrets are guessed.
const PASSWORD_CHARS_MIN: usize = 32;

/// Bring a database up to date, for farms that are not started by `flowai up`
///
/// Reads DATABASE_URL (its user must be allowed to create roles), FLOWAI_APP_PASSWORD and FLOWAI_COORDINATOR_PASSWORD, which
/// the roles flowai_app and flowai_coordinator get. Each may be given as a file, named by the same name with _FILE behind it.
/// May be run at any time and any number of times.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Also make this account an administrator
    #[arg(long, value_name = "EMAIL")]
    admin: Option<String>,
    /// Also give this account a tier: free, pro or studio
    #[arg(long, value_name = "EMAIL=TIER", value_parser = parse_tier)]
    tier: Option<(String, Tier)>,
}

fn parse_tier(text: &str) -> Result<(String, Tier), String> {
    let parts = text.rsplit_once('=');
    let read = parts.and_then(|(email, tier)| Some((email.to_owned(), Tier::from_name(tier)?)));
    read.ok_or_else(|| "must be EMAIL=TIER, where TIER is free, pro or studio".to_owned())
}

pub(super) async fn run(args: Args, output: Output) -> Result<(), CommandError> {
    let owner_url = needed("DATABASE_URL")?;
    let (app, coordinator) = (
        password("FLOWAI_APP_PASSWORD")?,
        password("FLOWAI_COORDINATOR_PASSWORD")?,
    );
    let passwords = RolePasswords {
        app: &app,
        coordinator: &coordinator,
    };
    migrate(&owner_url, passwords).await.map_err(failed)?;
    let unknown = |email: &str| {
        CommandError::Usage(format!("no account has the email {email}; sign up first"))
    };
    if let Some(email) = &args.admin
        && !make_admin(&owner_url, email).await.map_err(failed)?
    {
        return Err(unknown(email));
    }
    if let Some((email, tier)) = &args.tier
        && !set_tier(&owner_url, email, *tier).await.map_err(failed)?
    {
        return Err(unknown(email));
    }
    output.object(&json!({ "event": "migrated" }));
    output.note("the database is up to date");
    Ok(())
}

fn needed(name: &'static str) -> Result<String, CommandError> {
    from_env(name)?.ok_or_else(|| CommandError::Usage(format!("{name} is not set")))
}

fn password(name: &'static str) -> Result<String, CommandError> {
    let password = needed(name)?;
    if password.chars().count() < PASSWORD_CHARS_MIN {
        return Err(CommandError::Usage(format!(
            "{name} must have at least {PASSWORD_CHARS_MIN} characters; `openssl rand -hex 32` makes one"
        )));
    }
    Ok(password)
}

fn failed(error: flowai_store::database::DatabaseError) -> CommandError {
    CommandError::Farm(error.into())
}
