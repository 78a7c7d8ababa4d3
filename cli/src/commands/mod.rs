//! One file a command. [`Cli`] is what people type; [`run`] is what happens then.

mod account;
mod batch;
mod cancel;
mod certify;
mod check;
mod completions;
mod credits;
mod delivery;
pub mod demo;
mod drain;
mod error;
mod exit_codes;
mod files;
mod finals;
mod follow;
mod jobs;
mod man;
mod migrate;
mod models;
mod node;
mod nodes;
mod render;
mod seconds;
mod sim;
mod spec;
mod token;
mod up;
mod watch;

use clap::{Parser, Subcommand};
use url::Url;

use crate::client::{Client, ClientError, Credentials, DEFAULT_URL, Secret, from_env};
use crate::output::{Output, Style};

pub(crate) use account::{log_out_of, obtain_key};
pub use error::CommandError;

/// Turn pictures into clips, on a farm of your own or somebody else's.
#[derive(Debug, Parser)]
#[command(name = "flowai", version, disable_help_subcommand = false)]
#[command(after_help = "Exit codes: flowai help exit-codes")]
pub struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// Options that every command has come after its own.
const FARM_HEADING: &str = "Farm and output";

/// What every command knows.
#[derive(Debug, clap::Args)]
struct Common {
    /// The farm to talk to [default: the one last signed in to, else http://127.0.0.1:8080]
    #[arg(long, global = true, help_heading = FARM_HEADING, env = "FLOWAI_URL")]
    url: Option<Url>,
    /// One JSON object a line on standard output, for programs
    #[arg(long, global = true, help_heading = FARM_HEADING)]
    json: bool,
    /// Only the result
    #[arg(long, short, global = true, help_heading = FARM_HEADING, conflicts_with = "json")]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(up::Args),
    Demo(demo::Args),
    Signup(account::SignUpArgs),
    Login(account::LoginArgs),
    Logout(account::LogoutArgs),
    Render(render::Args),
    Batch(batch::Args),
    Final(finals::Args),
    Jobs(jobs::Args),
    Watch(watch::Args),
    Cancel(cancel::Args),
    Credits(credits::Args),
    Nodes(nodes::Args),
    Node(node::Args),
    Token(token::Args),
    Drain(drain::DrainArgs),
    Undrain(drain::UndrainArgs),
    Check(check::Args),
    Models(models::Args),
    Sim(sim::Args),
    Migrate(migrate::Args),
    Certify(certify::Args),
    Completions(completions::Args),
    Man(man::Args),
    ExitCodes(exit_codes::Args),
}

/// Does what was typed.
pub async fn run(cli: Cli) -> Result<(), CommandError> {
    let common = &cli.common;
    let output = common.output();
    match cli.command {
        Command::Up(args) => up::run(args, output).await,
        Command::Demo(args) => demo::run(args, output).await,
        Command::Signup(args) => account::sign_up(args, &common.farm()?, output).await,
        Command::Login(args) => account::log_in(args, &common.farm()?, output).await,
        Command::Logout(args) => account::log_out(args, &common.farm()?, output).await,
        Command::Render(args) => render::run(args, &common.client()?, output).await,
        Command::Batch(args) => batch::run(args, &common.client()?, output).await,
        Command::Final(args) => finals::run(args, &common.client()?, output).await,
        Command::Jobs(args) => jobs::run(args, &common.client()?, output).await,
        Command::Watch(args) => watch::run(args, &common.client()?, output).await,
        Command::Cancel(args) => cancel::run(args, &common.client()?, output).await,
        Command::Credits(args) => credits::run(args, &common.client()?, output).await,
        Command::Nodes(args) => nodes::run(args, &common.client()?, output).await,
        Command::Node(args) => node::run(args, || common.client(), output).await,
        Command::Token(args) => token::run(args, &common.client()?, output).await,
        Command::Drain(args) => drain::drain(args, &common.client()?, output).await,
        Command::Undrain(args) => drain::undrain(args, &common.client()?, output).await,
        Command::Check(args) => check::run(args, &common.client()?, output).await,
        Command::Models(args) => models::run(args, || common.client(), output).await,
        Command::Sim(args) => sim::run(args, output),
        Command::Migrate(args) => migrate::run(args, output).await,
        Command::Certify(args) => certify::run(args, output),
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => man::run(args),
        Command::ExitCodes(args) => exit_codes::run(args),
    }
}

impl Cli {
    /// Whether the command watches over the programs of a farm.
    pub fn runs_a_farm(&self) -> bool {
        matches!(self.command, Command::Up(_) | Command::Demo(_))
    }

    /// Whether errors are for programs as well.
    pub fn is_json(&self) -> bool {
        self.common.json
    }
}

impl Common {
    fn output(&self) -> Output {
        Output::new(match (self.json, self.quiet) {
            (true, _) => Style::Json,
            (false, true) => Style::Quiet,
            (false, false) => Style::Human,
        })
    }

    /// The farm that was named, or was signed in to last, or listens where farms do.
    fn farm(&self) -> Result<Url, CommandError> {
        if let Some(url) = &self.url {
            return Ok(url.clone());
        }
        match Credentials::load(&Credentials::default_path()?)?.current() {
            Some(url) => Ok(url),
            None => Url::parse(DEFAULT_URL).map_err(|error| CommandError::Usage(error.to_string())),
        }
    }

    /// The caller: by `FLOWAI_API_KEY`, else as signed in at this farm.
    fn client(&self) -> Result<Client, CommandError> {
        let url = self.farm()?;
        let key = match from_env("FLOWAI_API_KEY")? {
            Some(key) => Secret::new(key),
            None => Credentials::load(&Credentials::default_path()?)?
                .account(&url)
                .map(|account| account.api_key.clone())
                .ok_or_else(|| ClientError::NotSignedIn {
                    url: url.to_string(),
                })?,
        };
        Ok(Client::new(&url, key)?)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_says_what_it_does() {
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
        }
    }
}
