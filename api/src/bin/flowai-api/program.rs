//! The program: puts the parts together, serves until it is told to end or cannot go on.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use flowai_actors::kit::{OnCancel, OnFailure, TaskKind, Tasks};
use flowai_actors::link::pki::Identity;
use flowai_actors::link::{LinkConfig, LinkEvents, RactorLink};
use flowai_actors::program::{DataDir, EndSignals, write_ready_file};
use flowai_actors::wire;
use flowai_api::settings::Settings;
use flowai_api::{
    App, Config, JoinConfig, Keys, LeaderLink, PasswordCost, follow, metrics, router,
};
use flowai_store::objects::Objects;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::connections::serve;

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Requests that were begun are finished within it; streams were told to come back.
const REQUESTS_GRACE: Duration = Duration::from_secs(25);
const STOP_GRACE: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy)]
enum ProgramTask {
    /// Hands what the leader says to the sessions.
    Follow,
    /// Serves numbers for Prometheus.
    Metrics,
}

impl TaskKind for ProgramTask {
    fn on_cancel(self) -> OnCancel {
        OnCancel::Abort
    }

    fn on_failure(self) -> OnFailure {
        OnFailure::EndProcess
    }
}

/// Runs an instance until SIGTERM or SIGINT.
///
/// # Errors
/// It cannot start or cannot go on.
pub(crate) async fn run(settings: Settings) -> anyhow::Result<()> {
    let mut signals = EndSignals::listen()?;
    let data_dir = DataDir::hold(&settings.data_dir).context("FLOWAI_DATA_DIR")?;
    let keys = Keys::load_or_create(&settings.keys_dir).context("FLOWAI_KEYS_DIR")?;
    let identity = identity_of(&settings)?;
    let join = JoinConfig {
        ca_sha256: identity.ca_sha256(),
        coordinators: settings.coordinators.clone(),
    };
    let (link, events) = start_link(identity, &data_dir).await?;
    let listener = TcpListener::bind(settings.listen)
        .await
        .with_context(|| format!("FLOWAI_LISTEN: {}", settings.listen))?;
    let address = listener.local_addr()?;
    let public_url = match &settings.public_url {
        Some(url) => url.clone(),
        None => Url::parse(&format!("http://{address}"))?,
    };
    let config = Config {
        database_url: settings.secrets.database_url.clone(),
        redis_url: settings.secrets.redis_url.clone(),
        objects: Objects::new(&settings.secrets.objects),
        keys,
        public_url,
        is_behind_proxy: settings.is_behind_proxy,
        password_cost: PasswordCost::SAFE,
        signup_gift: settings.signup_gift,
        rate_scale: settings.rate_scale,
        join,
        queued_max: settings.queued_max,
        database_connections: settings.database_connections,
    };
    let app = App::start(config, LeaderLink::new(Arc::new(link.clone()))).await?;
    let tasks = Tasks::new();
    spawn_follow(&tasks, app.clone(), events);
    spawn_metrics(&tasks, &settings).await?;
    // Kept: the link dials for as long as the list may change.
    let (_coordinators, targets) = watch::channel(settings.coordinators.clone());
    link.dial(targets)?;

    let stop = CancellationToken::new();
    let mut server = pin!(serve(listener, router(app.clone()), stop.clone()));
    if let Some(path) = &settings.ready_file {
        write_ready_file(path, &serde_json::json!({ "address": address }))
            .with_context(|| format!("FLOWAI_READY_FILE: {}", path.display()))?;
    }
    tracing::info!(id = %settings.id, %address, "api serves");

    tokio::select! {
        () = signals.received() => tracing::info!("api ends; requests that were begun are finished"),
        failed = tasks.failed() => anyhow::bail!(failed),
        failed = app.failed() => anyhow::bail!(failed),
        failed = link.failed() => anyhow::bail!(failed),
        () = &mut server => anyhow::bail!("the listener ended"),
    }
    app.drain().await;
    stop.cancel();
    tokio::select! {
        ended = tokio::time::timeout(REQUESTS_GRACE, server) => if ended.is_err() {
            tracing::warn!("requests were cut off");
        },
        () = signals.received() => tracing::warn!("told twice to end; requests are cut off"),
    }
    tasks.shutdown(STOP_GRACE).await;
    link.shutdown().await;
    Ok(())
}

fn identity_of(settings: &Settings) -> anyhow::Result<Identity> {
    let identity = Identity::load(&settings.tls_dir).context("FLOWAI_TLS_DIR")?;
    anyhow::ensure!(
        *identity.peer() == settings.id,
        "FLOWAI_ID: the certificate in FLOWAI_TLS_DIR is that of {}, not of {}",
        identity.peer(),
        settings.id
    );
    identity.require_valid().context("FLOWAI_TLS_DIR")?;
    Ok(identity)
}

async fn start_link(
    identity: Identity,
    data_dir: &DataDir,
) -> anyhow::Result<(RactorLink, LinkEvents)> {
    let config = LinkConfig {
        identity,
        generation: data_dir.next_generation()?,
        build: VERSION.to_owned(),
        schemas: wire::schemas(),
        may_send: wire::may_send,
    };
    Ok(RactorLink::start(config).await?)
}

fn spawn_follow(tasks: &Tasks, app: App, events: LinkEvents) {
    tasks.spawn(ProgramTask::Follow, |_| async move {
        follow(app, events).await;
        Err("the link tells nothing any more".into())
    });
}

async fn spawn_metrics(tasks: &Tasks, settings: &Settings) -> anyhow::Result<()> {
    let Some(address) = settings.metrics_listen else {
        return Ok(());
    };
    let handle = metrics::install()?;
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("FLOWAI_METRICS_LISTEN: {address}"))?;
    let metrics: Router = metrics::router(handle);
    tasks.spawn(ProgramTask::Metrics, |_| async move {
        axum::serve(listener, metrics).await?;
        Ok(())
    });
    Ok(())
}
