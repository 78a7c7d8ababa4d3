use std::process::ExitCode;

use clap::Parser;
use flowai::commands::{Cli, run};
use flowai::exit::Exit;
use flowai::output::{not_written, print, say};
use flowai_actors::kit::logging::{self, LevelFilter};
use flowai_actors::program::with_causes;
use serde_json::json;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    // What became of a program or a part is said nowhere else.
    let level = match cli.runs_a_farm() {
        true => LevelFilter::WARN,
        false => LevelFilter::OFF,
    };
    if let Err(error) = logging::init(level) {
        say(format_args!("flowai: {error}"));
    }
    let is_json = cli.is_json();
    if let Err(error) = run(cli).await {
        let exit = error.exit();
        report(&error, exit, is_json);
        return exit.into();
    }
    match not_written() {
        None => Exit::Ok.into(),
        Some(error) => {
            say(format_args!(
                "flowai: the result cannot be written to standard output: {error}"
            ));
            Exit::Failure.into()
        }
    }
}

/// An error with its causes, for people and, when asked for, for programs.
fn report(error: &flowai::commands::CommandError, exit: Exit, is_json: bool) {
    let text = with_causes(error);
    say(format_args!("flowai: {text}"));
    if is_json {
        let error = json!({ "event": "error", "exit": exit.code(), "detail": text });
        print(&error.to_string());
    }
}
