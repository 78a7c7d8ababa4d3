//! `flowai-coordinator`: leads, or stands by. Settings: docs/operations.md.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use flowai_actors::kit::logging::{self, LevelFilter};
use flowai_actors::link::pki::{Ca, Identity};
use flowai_actors::link::{LinkConfig, PeerId, RactorLink, Role};
use flowai_actors::program::{
    DataDir, EndSignals, SecretError, arm_crash_points, optional_secret, secret, with_causes,
    write_ready_file,
};
use flowai_actors::wire;
use flowai_coordinator::autoscaler::Autoscale;
use flowai_coordinator::metrics;
use flowai_coordinator::settings::Settings;
use flowai_coordinator::{Authority, Coordinator};
use flowai_store::database::Database;
use flowai_store::objects::{Objects, ObjectsConfig};
use tokio_util::sync::CancellationToken;

const STATUS_FAILED: u8 = 1;
const STATUS_SETTINGS: u8 = 2;
/// For sweeps, registrations and whatever else is not asked all the time: lease, journal and reads of jobs have their own.
const DATABASE_CONNECTIONS_MAX: u32 = 8;

fn main() -> ExitCode {
    if let Err(error) = arm_crash_points() {
        eprintln!("flowai-coordinator: {error}");
        return ExitCode::from(STATUS_SETTINGS);
    }
    let settings = Settings::parse();
    let secrets = match Secrets::read() {
        Ok(secrets) => secrets,
        Err(error) => {
            eprintln!("flowai-coordinator: {error}");
            return ExitCode::from(STATUS_SETTINGS);
        }
    };
    let autoscale = match settings.autoscale.read() {
        Ok(autoscale) => autoscale,
        Err(error) => {
            eprintln!("flowai-coordinator: {error}");
            return ExitCode::from(STATUS_SETTINGS);
        }
    };
    match start(&settings, &secrets, autoscale) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flowai-coordinator: {}", with_causes(error.as_ref()));
            ExitCode::from(STATUS_FAILED)
        }
    }
}

struct Secrets {
    database_url: String,
    objects: ObjectsConfig,
}

impl Secrets {
    fn read() -> Result<Self, SecretError> {
        let variable = |name: &str| std::env::var(name).ok();
        Ok(Self {
            database_url: secret(variable, "DATABASE_URL")?,
            objects: ObjectsConfig {
                endpoint: secret(variable, "S3_ENDPOINT")?,
                region: optional_secret(variable, "S3_REGION")?
                    .unwrap_or_else(|| "us-east-1".to_owned()),
                bucket: secret(variable, "S3_BUCKET")?,
                access_key_id: secret(variable, "S3_ACCESS_KEY_ID")?,
                secret_access_key: secret(variable, "S3_SECRET_ACCESS_KEY")?,
            },
        })
    }
}

fn start(
    settings: &Settings,
    secrets: &Secrets,
    autoscale: Option<Autoscale>,
) -> anyhow::Result<()> {
    logging::init(LevelFilter::INFO)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run(settings, secrets, autoscale))
}

async fn run(
    settings: &Settings,
    secrets: &Secrets,
    autoscale: Option<Autoscale>,
) -> anyhow::Result<()> {
    let mut signals = EndSignals::listen()?;
    let me = PeerId::new(Role::Coordinator, &settings.id).context("FLOWAI_ID")?;
    let data_dir = DataDir::hold(&settings.data_dir).context("FLOWAI_DATA_DIR")?;
    let identity = Identity::load(&settings.tls_dir).context("FLOWAI_TLS_DIR")?;
    anyhow::ensure!(
        *identity.peer() == me,
        "FLOWAI_ID: the certificate in FLOWAI_TLS_DIR is that of {}, not of {me}",
        identity.peer()
    );
    identity.require_valid().context("FLOWAI_TLS_DIR")?;
    let database = Database::connect(&secrets.database_url, DATABASE_CONNECTIONS_MAX);
    let database = database.await.context("DATABASE_URL")?;
    let objects = Objects::new(&secrets.objects);
    objects.check().await.context("S3_BUCKET")?;

    let authority = authority(settings, &identity)?;
    let generation = data_dir.next_generation()?;
    let config = LinkConfig {
        identity,
        generation,
        build: env!("CARGO_PKG_VERSION").to_owned(),
        schemas: wire::schemas(),
        may_send: wire::may_send,
    };
    if let Some(address) = settings.metrics_listen {
        metrics::serve(address).with_context(|| format!("FLOWAI_METRICS_LISTEN: {address}"))?;
    }
    let (link, events) = RactorLink::start(config).await?;
    let bound = link
        .listen(settings.listen)
        .await
        .context("FLOWAI_LISTEN")?;
    let standing = link.clone();
    let coordinator = Coordinator {
        database,
        objects,
        link: Arc::new(link.clone()),
        stand: Arc::new(move |now| standing.set_standing(now)),
        holder: format!("{}-{generation}", settings.id),
        address: settings.advertised(bound)?,
        authority,
        autoscale,
    };
    if let Some(path) = &settings.ready_file {
        let ready = serde_json::json!({ "id": settings.id, "address": bound });
        write_ready_file(path, &ready)
            .with_context(|| format!("FLOWAI_READY_FILE: {}", path.display()))?;
    }
    tracing::info!(id = settings.id, address = %bound, %generation, "coordinator is ready");

    let end = CancellationToken::new();
    let run = coordinator.run(events, end.clone());
    tokio::pin!(run);
    tokio::select! {
        ran = &mut run => ran?,
        failed = link.failed() => anyhow::bail!(failed),
        never = metrics::follow_link(&link) => match never {},
        () = signals.received() => {
            end.cancel();
            run.await?;
        }
    }
    link.shutdown().await;
    Ok(())
}

fn authority(settings: &Settings, identity: &Identity) -> anyhow::Result<Option<Authority>> {
    let Some(folder) = &settings.ca_dir else {
        tracing::info!(
            "FLOWAI_CA_DIR is not set: no machine can join while this coordinator leads"
        );
        return Ok(None);
    };
    let ca = Ca::load(folder).context("FLOWAI_CA_DIR")?;
    anyhow::ensure!(
        ca.sha256() == identity.ca_sha256(),
        "FLOWAI_CA_DIR: {} is not the CA of the certificate in FLOWAI_TLS_DIR",
        folder.display()
    );
    let life = Duration::from_secs(settings.node_certificate_s);
    Ok(Some(Authority::new(ca, life)))
}
