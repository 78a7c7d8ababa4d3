//! `flowai-render-node`: one process per GPU. Settings: docs/operations.md; exit statuses: [`End::status`].

mod program;

use std::process::ExitCode;
use std::time::Duration;

use flowai_actors::kit::logging::{self, LevelFilter};
use flowai_actors::link::Rule;
use flowai_actors::program::{arm_crash_points, with_causes};
use flowai_render_node::settings::{Settings, SettingsError};
use program::End;

const STATUS_FAILED: u8 = 1;
const STATUS_SETTINGS: u8 = 2;
/// For what libraries do when a process exits.
const EXIT_GRACE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    if let Err(error) = arm_crash_points() {
        eprintln!("flowai-render-node: {error}");
        return ExitCode::from(STATUS_SETTINGS);
    }
    let settings = match Settings::read(std::env::args_os(), |name| std::env::var(name).ok()) {
        Ok(settings) => settings,
        // Help and version are answers, and clap knows where each belongs.
        Err(SettingsError::Usage(usage)) => usage.exit(),
        Err(error) => {
            eprintln!("flowai-render-node: {error}");
            return ExitCode::from(STATUS_SETTINGS);
        }
    };
    match start(settings) {
        Ok(end) => {
            exit_in_any_case(end.status());
            match &end {
                End::Closed => tracing::info!("node has ended"),
                End::Replaced => say(
                    Rule::Stop,
                    "a newer process of this node is known; this one has ended",
                ),
                End::Refused(rule @ Rule::Rejoin) => say(
                    *rule,
                    "the certificate is not valid any more; run `flowai node join` with a new token",
                ),
                End::Refused(rule @ Rule::Upgrade) => {
                    say(
                        *rule,
                        "this build is too old for the farm; install the farm's",
                    );
                }
                End::Refused(rule @ Rule::Stop) => {
                    say(
                        *rule,
                        "an operator revoked this node; it does not come back",
                    );
                }
                End::EngineLost(reason) => {
                    tracing::error!(reason, "engine is lost");
                }
                End::Broken(reason) => tracing::error!(reason, "node cannot go on"),
            }
            ExitCode::from(end.status())
        }
        Err(error) => {
            eprintln!("flowai-render-node: {}", with_causes(error.as_ref()));
            ExitCode::from(STATUS_FAILED)
        }
    }
}

/// For people and their supervisors, however the log is filtered.
fn say(rule: Rule, what: &str) {
    eprintln!("flowai-render-node: {}: {what}", rule.name());
}

/// A device that hangs, or that an abandoned step still works on, may also hang what its library does at exit; the supervisor waits
/// for the end of this process.
#[allow(
    unsafe_code,
    reason = "the only way to end without what is done at exit"
)]
fn exit_in_any_case(status: u8) {
    std::thread::spawn(move || {
        std::thread::sleep(EXIT_GRACE);
        // SAFETY: ends the process at once, and so nothing that it leaves behind is looked at by anybody.
        unsafe { nix::libc::_exit(status.into()) }
    });
}

fn start(settings: Settings) -> anyhow::Result<End> {
    logging::init(LevelFilter::INFO)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let end = runtime.block_on(program::run(settings));
    // The engine may be in the middle of a step: nothing waits for it any more.
    runtime.shutdown_background();
    end
}
