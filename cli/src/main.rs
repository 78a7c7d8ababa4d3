use std::process::ExitCode;

use clap::Parser;
use flowai::commands::{Cli, run};
use flowai::exit::Exit;
use flowai::output::{not_written, print};
use flowai_actors::kit::logging;
use serde_json::json;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    if std::env::var_os("RUST_LOG").is_some()
        && let Err(error) = logging::init()
    {
        eprintln!("flowai: {error}");
    }
    let is_json = cli.is_json();
    if let Err(error) = run(cli).await {
        let exit = error.exit();
        report(error, exit, is_json);
        return exit.into();
    }
    match not_written() {
        None => Exit::Ok.into(),
        Some(error) => {
            eprintln!("flowai: the result cannot be written to standard output: {error}");
            Exit::Failure.into()
        }
    }
}

/// An error with its causes, for people and, when asked for, for programs.
fn report(error: flowai::commands::CommandError, exit: Exit, is_json: bool) {
    let text = format!("{:#}", anyhow::Error::from(error));
    eprintln!("flowai: {text}");
    if is_json {
        let error = json!({ "event": "error", "exit": exit.code(), "detail": text });
        print(&error.to_string());
    }
}
