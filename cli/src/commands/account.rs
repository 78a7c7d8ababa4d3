//! Signing up, in and out.

use std::io::{BufRead, IsTerminal};

use serde_json::json;
use url::Url;

use super::CommandError;
use crate::client::{Account, Client, Credentials, Secret, from_env};
use crate::output::Output;

/// What the command's key may do; an administrator's operates the farm and gives credits as well.
const SCOPES: [&str; 2] = ["videos", "adapters"];
const ADMIN_SCOPES: [&str; 4] = ["videos", "adapters", "farm", "credits"];

/// Make an account and sign in
#[derive(Debug, clap::Args)]
pub(super) struct SignUpArgs {
    email: String,
}

/// Sign in; the password is asked for, or read from FLOWAI_PASSWORD or standard input
#[derive(Debug, clap::Args)]
pub(super) struct LoginArgs {
    email: String,
}

/// Sign out: end this machine's API key, which takes the password, and forget it
#[derive(Debug, clap::Args)]
pub(super) struct LogoutArgs {
    /// Only forget the key; whoever copied it can go on using it
    #[arg(long)]
    forget: bool,
}

pub(super) async fn sign_up(
    args: SignUpArgs,
    farm: &Url,
    output: Output,
) -> Result<(), CommandError> {
    let password = new_password()?;
    Client::sign_up(farm, &args.email, &password).await?;
    sign_in(farm, &args.email, &password, output).await
}

pub(super) async fn log_in(
    args: LoginArgs,
    farm: &Url,
    output: Output,
) -> Result<(), CommandError> {
    sign_in(farm, &args.email, &password()?, output).await
}

/// Makes a key and keeps it for later commands.
async fn sign_in(
    farm: &Url,
    email: &str,
    password: &Secret,
    output: Output,
) -> Result<(), CommandError> {
    let (login, account) = log_in_for_key(farm, email, password).await?;
    // A key that is not kept would be known to nobody: the new one where it cannot be, and else the one before it.
    let key = account.api_key_id.clone();
    let before = match remember(farm, account) {
        Ok(before) => before,
        Err(error) => {
            login.delete_key(&key).await.ok();
            return Err(error);
        }
    };
    if let Some(before) = before
        && let Err(error) = login.delete_key(&before.api_key_id).await
    {
        output.note(format_args!(
            "this machine's key of before, {}'s, may still be valid: {error}",
            before.email
        ));
    }
    log_out_of(&login).await;
    output.object(&json!({ "event": "signed_in", "url": farm.as_str(), "email": email }));
    output.note(format_args!("signed in at {farm} as {email}"));
    Ok(())
}

pub(super) async fn log_out(
    args: LogoutArgs,
    farm: &Url,
    output: Output,
) -> Result<(), CommandError> {
    let path = Credentials::default_path()?;
    let mut credentials = Credentials::load(&path)?;
    let Some(account) = credentials.remove(farm) else {
        output.note(format_args!("not signed in at {farm}"));
        return Ok(());
    };
    if !args.forget {
        // No key ends a key: a stolen one could lock its owner out.
        let login = Client::log_in(farm, &account.email, &password()?).await?;
        login.delete_key(&account.api_key_id).await?;
        log_out_of(&login).await;
    }
    credentials.save(&path)?;
    output.object(&json!({ "event": "signed_out", "url": farm.as_str() }));
    output.note(format_args!("signed out at {farm}"));
    Ok(())
}

/// Logs in just long enough to make an API key, and gives it with the client that uses it.
pub(crate) async fn obtain_key(
    farm: &Url,
    email: &str,
    password: &Secret,
) -> Result<(Client, Account), CommandError> {
    let (login, account) = log_in_for_key(farm, email, password).await?;
    log_out_of(&login).await;
    Ok((Client::new(farm, account.api_key.clone())?, account))
}

/// Logs in and makes an API key. Gives the login, which is still good.
async fn log_in_for_key(
    farm: &Url,
    email: &str,
    password: &Secret,
) -> Result<(Client, Account), CommandError> {
    let login = Client::log_in(farm, email, password).await?;
    let is_admin = login.me().await?.role == "admin";
    let scopes: &[&str] = if is_admin { &ADMIN_SCOPES } else { &SCOPES };
    let account = login.make_key("flowai command", scopes).await?;
    Ok((login, account))
}

/// A login that cannot be ended ends by itself in minutes; the key that it made is not lost for that.
pub(crate) async fn log_out_of(login: &Client) {
    if let Err(error) = login.log_out().await {
        tracing::warn!(%error, "the login ends by itself");
    }
}

/// Keeps the account, so that later commands are signed in at this farm. Gives the one that was kept before.
pub(super) fn remember(farm: &Url, account: Account) -> Result<Option<Account>, CommandError> {
    let path = Credentials::default_path()?;
    let mut credentials = Credentials::load(&path)?;
    let before = credentials.insert(farm, account);
    credentials.save(&path)?;
    Ok(before)
}

/// From the environment, else from standard input, unseen when that is a terminal.
fn password() -> Result<Secret, CommandError> {
    if let Some(password) = from_env("FLOWAI_PASSWORD")? {
        return Ok(Secret::new(password));
    }
    let typed = if std::io::stdin().is_terminal() {
        rpassword::prompt_password("Password: ")
    } else {
        read_line()
    };
    match typed.map_err(CommandError::io("reading the password"))? {
        password if password.is_empty() => {
            Err(CommandError::Usage("the password is empty".to_owned()))
        }
        password => Ok(Secret::new(password)),
    }
}

/// As [`password`], typed twice where nobody sees it: an account whose password was mistyped is lost.
fn new_password() -> Result<Secret, CommandError> {
    let first = password()?;
    if from_env("FLOWAI_PASSWORD")?.is_some() || !std::io::stdin().is_terminal() {
        return Ok(first);
    }
    let again = rpassword::prompt_password("The same password again: ");
    match again.map_err(CommandError::io("reading the password"))? == first.reveal() {
        true => Ok(first),
        false => Err(CommandError::Usage("the two passwords differ".to_owned())),
    }
}

fn read_line() -> std::io::Result<String> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
