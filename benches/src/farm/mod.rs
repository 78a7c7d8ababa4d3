//! A farm on its embedded parts, measured from outside as its users see it.

mod load;
mod overhead;
mod previews;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Subcommand;
use flowai::client::{Account, Client, NewVideo, Purpose, Secret};
use flowai::commands::demo;
use flowai::farm::{Engine, Farm, FarmOptions};
use flowai_actors::credits::Millicredits;
use tempfile::TempDir;
use url::Url;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// What the farm adds to a render: from the submission to the end, less the engine's own time
    Overhead(overhead::Options),
    /// What previews cost of the denoising that they show
    Previews(previews::Options),
    /// The API under load: how long submissions and look-ups take with many connections
    Api(load::Options),
}

pub(crate) fn run(command: &Command) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    match command {
        Command::Overhead(options) => runtime.block_on(overhead::run(options)),
        Command::Previews(options) => runtime.block_on(previews::run(options)),
        Command::Api(options) => runtime.block_on(load::run(options)),
    }
}

/// Where the programs lie that are measured: beside this one.
fn programs() -> Result<PathBuf> {
    let this = std::env::current_exe()?;
    let folder = this.parent().context("this program lies in no folder")?;
    Ok(folder.to_owned())
}

/// A farm of one coordinator and one node, which goes away with the value.
struct BenchFarm {
    farm: Farm,
    url: Url,
    // Dropped last: the farm lies in it.
    _data: TempDir,
}

/// Somebody who may render.
struct User {
    client: Client,
    key: Secret,
    image: String,
}

impl BenchFarm {
    /// `rate_scale` multiplies every rate limit.
    async fn start(engine: Engine, rate_scale: u32) -> Result<Self> {
        let data = tempfile::Builder::new().prefix("flowai-bench-").tempdir()?;
        let mut options = FarmOptions::new(data.path().to_owned(), programs()?);
        options.engine = engine;
        options.api.rate_scale = Some(rate_scale);
        // As many videos as it likes.
        options.api.signup_gift = Some(Millicredits::MAX_GRANT);
        let farm = Farm::start(options).await?;
        let url = farm.url().context("the api ended right after its start")?;
        Ok(Self {
            farm,
            url,
            _data: data,
        })
    }

    /// Signs somebody up who has uploaded the photograph.
    async fn user(&self, name: &str) -> Result<User> {
        let email = format!("{name}@example.org");
        let password = Secret::new(hex::encode(rand::random::<[u8; 16]>()));
        Client::sign_up(&self.url, &email, &password).await?;
        let login = Client::log_in(&self.url, &email, &password).await?;
        let scopes = ["videos", "adapters"];
        let Account { api_key, .. } = login.make_key("bench", &scopes).await?;
        let client = Client::new(&self.url, api_key.clone())?;
        let upload = client
            .upload(Purpose::Image, "chelsea.png", demo::PICTURE.into())
            .await?;
        Ok(User {
            client,
            key: api_key,
            image: upload.id,
        })
    }

    /// The model that it makes for itself.
    fn model(&self) -> PathBuf {
        self.farm.folder().models().join("small")
    }

    async fn stop(self) -> Result<()> {
        Ok(self.farm.stop().await?)
    }
}

impl User {
    /// Large enough to cost what a clip costs, small enough for a CPU to render within seconds.
    fn video(&self, steps: u32) -> NewVideo {
        NewVideo {
            image: Some(self.image.clone()),
            frames: Some(14),
            fps: Some(7),
            width: Some(256),
            height: Some(192),
            steps: Some(steps),
            seed: Some(7),
            ..NewVideo::default()
        }
    }
}
