//! `flowai-api`: serves the HTTP API. Settings: docs/operations.md. Exit statuses: 0 ended in order, 1 failed, 2 settings.

mod connections;
mod open_files;
mod program;

use std::process::ExitCode;

use flowai_actors::kit::logging::{self, LevelFilter};
use flowai_actors::program::{arm_crash_points, with_causes};
use flowai_api::settings::{Settings, SettingsError};

const STATUS_FAILED: u8 = 1;
const STATUS_SETTINGS: u8 = 2;

fn main() -> ExitCode {
    if let Err(error) = arm_crash_points() {
        eprintln!("flowai-api: {error}");
        return ExitCode::from(STATUS_SETTINGS);
    }
    let settings = match Settings::read(std::env::args_os(), |name| std::env::var(name).ok()) {
        Ok(settings) => settings,
        // Help and version are answers, and clap knows where each belongs.
        Err(SettingsError::Usage(usage)) => usage.exit(),
        Err(error) => {
            eprintln!("flowai-api: {error}");
            return ExitCode::from(STATUS_SETTINGS);
        }
    };
    match start(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flowai-api: {}", with_causes(error.as_ref()));
            ExitCode::from(STATUS_FAILED)
        }
    }
}

fn start(settings: Settings) -> anyhow::Result<()> {
    logging::init(LevelFilter::INFO)?;
    open_files::allow_all()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let end = runtime.block_on(program::run(settings));
    // A file that is being checked for a caller that has left: nothing waits for it any more.
    runtime.shutdown_background();
    end
}
