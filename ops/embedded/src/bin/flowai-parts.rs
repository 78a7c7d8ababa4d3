//! `flowai-parts FOLDER`: runs the embedded parts by themselves, for trying a query or a client by hand. Prints how to
//! reach them, secrets included, as one line of JSON, and runs until its standard input closes.

use anyhow::Context;
use flowai_embedded::{External, Parts};
use tokio::io::{AsyncReadExt, stdin};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = std::env::args_os()
        .nth(1)
        .context("usage: flowai-parts FOLDER")?;
    let parts = Parts::start(folder, External::from_env()?).await?;
    println!("{}", describe(&parts).await);

    let (mut input, mut ignored) = (stdin(), Vec::new());
    tokio::select! {
        read = input.read_to_end(&mut ignored) => { read?; }
        () = parts.keep_running() => {}
    }
    Ok(parts.stop().await?)
}

async fn describe(parts: &Parts) -> serde_json::Value {
    let postgres_pid = match parts.postgres() {
        Some(postgres) => Some(postgres.pid().await),
        None => None,
    };
    let redis_pid = match parts.redis() {
        Some(redis) => Some(redis.pid().await),
        None => None,
    };
    serde_json::json!({
        "database_url": parts.database().owner,
        "postgres_pid": postgres_pid,
        "redis_url": parts.redis_url(),
        "redis_pid": redis_pid,
        "s3_endpoint": parts.s3().endpoint,
        "s3_bucket": parts.s3().bucket,
        "s3_access_key_id": parts.s3().access_key_id,
        "s3_secret_access_key": parts.s3().secret_access_key,
    })
}
