//! What an operator says of growing and shrinking: flags and environment. `docs/operations.md` lists every one.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use flowai_actors::limits::{
    AUTOSCALE_COMMAND_S, AUTOSCALE_COMMAND_S_MAX, AUTOSCALE_COOL_DOWN_S, AUTOSCALE_COOL_DOWN_S_MAX,
    AUTOSCALE_COOL_DOWN_S_MIN, AUTOSCALE_GROUPS_MAX, AUTOSCALE_NODES_MAX, AUTOSCALE_STEP,
};

use super::command::Command;
use super::group::Group;
use super::money::Money;
use super::state::Policy;

/// Settings of the autoscaler.
#[derive(Debug, Clone, Args)]
pub struct AutoscaleSettings {
    /// Whether nodes are asked for and given back: not at all, only in the log and in metrics, or by a program.
    #[arg(long, env = "FLOWAI_AUTOSCALE", value_enum, default_value_t = Kind::Off)]
    pub autoscale: Kind,
    /// Groups of nodes, separated by semicolons: CLASS=MIN..MAX@PRICE, where CLASS is what the device classes begin with, and
    /// PRICE that of a node for an hour.
    #[arg(long, env = "FLOWAI_AUTOSCALE_GROUPS", value_delimiter = ';')]
    pub autoscale_groups: Vec<Group>,
    /// All groups together cost no more an hour, however long people wait.
    #[arg(long, env = "FLOWAI_AUTOSCALE_MONEY_PER_HOUR")]
    pub autoscale_money_per_hour: Option<Money>,
    /// Nodes by which one decision changes a group at the most.
    #[arg(long, env = "FLOWAI_AUTOSCALE_STEP", default_value_t = AUTOSCALE_STEP, value_parser = clap::value_parser!(u32).range(1..=i64::from(AUTOSCALE_NODES_MAX)))]
    pub autoscale_step: u32,
    /// Nodes that were spare for so long are given back, seconds.
    #[arg(long, env = "FLOWAI_AUTOSCALE_COOL_DOWN_S", default_value_t = AUTOSCALE_COOL_DOWN_S, value_parser = clap::value_parser!(u64).range(AUTOSCALE_COOL_DOWN_S_MIN..=AUTOSCALE_COOL_DOWN_S_MAX))]
    pub autoscale_cool_down_s: u64,
    /// The program: called with --class CLASS --wanted N --ready M, and --drained NODE for each node whose machine may go.
    #[arg(long, env = "FLOWAI_AUTOSCALE_COMMAND")]
    pub autoscale_command: Option<PathBuf>,
    /// The time it has, seconds.
    #[arg(long, env = "FLOWAI_AUTOSCALE_COMMAND_S", default_value_t = AUTOSCALE_COMMAND_S, value_parser = clap::value_parser!(u64).range(1..=AUTOSCALE_COMMAND_S_MAX))]
    pub autoscale_command_s: u64,
    /// Names of variables that it sees besides PATH, HOME and such, separated by commas.
    #[arg(long, env = "FLOWAI_AUTOSCALE_COMMAND_ENV", value_delimiter = ',')]
    pub autoscale_command_env: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    Off,
    DryRun,
    Command,
}

/// An autoscaler that is on.
#[derive(Debug, Clone)]
pub struct Autoscale {
    pub policy: Policy,
    pub how: How,
}

/// Who is told.
#[derive(Debug, Clone)]
pub enum How {
    DryRun,
    Command(Command),
}

/// Settings that cannot be used together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AutoscaleSettingsError {
    #[error(
        "FLOWAI_AUTOSCALE_GROUPS is missing: name 1 to {AUTOSCALE_GROUPS_MAX} groups as CLASS=MIN..MAX@PRICE (got {0})"
    )]
    Groups(usize),
    #[error(
        "FLOWAI_AUTOSCALE_GROUPS: nodes of {0:?} are also nodes of {1:?}; let no group's class begin with another's"
    )]
    Overlap(String, String),
    #[error(
        "FLOWAI_AUTOSCALE_MONEY_PER_HOUR is {budget}, and the minima of all groups cost {least}: raise it or lower them"
    )]
    Budget { budget: Money, least: Money },
    #[error("FLOWAI_AUTOSCALE_COMMAND is missing: FLOWAI_AUTOSCALE=command runs that program")]
    NoCommand,
    #[error("FLOWAI_AUTOSCALE_COMMAND must be the full path of a program (got {0:?})")]
    NotAPath(PathBuf),
    #[error(
        "FLOWAI_AUTOSCALE_COMMAND_ENV: {0} is one of FlowAI's own secrets, which the program is not shown"
    )]
    Secret(String),
}

/// FlowAI's own: `NAME` and `NAME_FILE`.
const SECRETS: [&str; 4] = [
    "DATABASE_URL",
    "S3_ACCESS_KEY_ID",
    "S3_SECRET_ACCESS_KEY",
    "REDIS_URL",
];

impl AutoscaleSettings {
    /// `None` when it is off.
    ///
    /// # Errors
    /// [`AutoscaleSettingsError`].
    pub fn read(&self) -> Result<Option<Autoscale>, AutoscaleSettingsError> {
        let how = match self.autoscale {
            Kind::Off => return Ok(None),
            Kind::DryRun => How::DryRun,
            Kind::Command => How::Command(self.command()?),
        };
        let groups = &self.autoscale_groups;
        if !(1..=AUTOSCALE_GROUPS_MAX).contains(&groups.len()) {
            return Err(AutoscaleSettingsError::Groups(groups.len()));
        }
        for (ix, group) in groups.iter().enumerate() {
            let others = groups.iter().enumerate().filter(|(other, _)| *other != ix);
            for (_, other) in others {
                if other.matches(&group.class) {
                    let (one, two) = (group.class.clone(), other.class.clone());
                    return Err(AutoscaleSettingsError::Overlap(one, two));
                }
            }
        }
        if let Some(budget) = self.autoscale_money_per_hour {
            let least = groups.iter().fold(Money::ZERO, |sum, group| {
                sum.plus(group.price.times(group.min))
            });
            if budget < least {
                return Err(AutoscaleSettingsError::Budget { budget, least });
            }
        }
        Ok(Some(Autoscale {
            policy: Policy {
                groups: groups.clone(),
                budget: self.autoscale_money_per_hour,
                step_max: self.autoscale_step,
                cool_down_ms: self.autoscale_cool_down_s * 1_000,
            },
            how,
        }))
    }

    fn command(&self) -> Result<Command, AutoscaleSettingsError> {
        let program = self.autoscale_command.clone();
        let program = program.ok_or(AutoscaleSettingsError::NoCommand)?;
        if !program.is_absolute() {
            return Err(AutoscaleSettingsError::NotAPath(program));
        }
        let names = &self.autoscale_command_env;
        let is_secret = |name: &&String| {
            let name = name.strip_suffix("_FILE").unwrap_or(name);
            SECRETS.contains(&name)
        };
        if let Some(secret) = names.iter().find(is_secret) {
            return Err(AutoscaleSettingsError::Secret(secret.clone()));
        }
        let limit = Duration::from_secs(self.autoscale_command_s);
        Ok(Command::new(program, limit, names))
    }
}
