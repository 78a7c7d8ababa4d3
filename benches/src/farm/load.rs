use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Args;
use flowai::farm::Engine;
use flowai_actors::state::Tier;
use futures::future::try_join_all;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{self, HeaderValue};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::TcpStream;
use url::Url;

use super::{BenchFarm, User};
use crate::figures;
use crate::machine::Machine;
use crate::statistics::{Percentiles, Summary};

const POSTS_OF_A_CONNECTION: usize = 20;
/// Counted apart: the api's connections to its database are opened and plan their statements, which a farm that runs has done.
const WARMING_POSTS_OF_A_CONNECTION: usize = 4;
const GETS_OF_A_CONNECTION: usize = 250;
const CONNECTIONS_OF_A_USER: usize = 4;
const JOBS_OF_A_USER: usize =
    CONNECTIONS_OF_A_USER * (WARMING_POSTS_OF_A_CONNECTION + POSTS_OF_A_CONNECTION);
/// So many connections stay below every rate limit, that of sign-ups from one address too; more need higher ones.
const CONNECTIONS_WITHIN_RATES: usize = 64;
/// Jobs stay queued while submissions come in: the farm has that much to keep in line.
const STEP: Duration = Duration::from_secs(1);

#[derive(Args)]
pub(crate) struct Options {
    /// Where the figures go, JSON
    #[arg(long, value_name = "FILE", default_value = "target/bench/api.json")]
    out: PathBuf,
    /// Measured rounds, each on a new farm
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Connections at a time, each sending its next request when the last is answered; four a user
    #[arg(long, default_value_t = 64)]
    connections: usize,
}

/// One connection of one user.
struct Connection {
    http: SendRequest<Full<Bytes>>,
    host: HeaderValue,
    authorization: HeaderValue,
    submission: Bytes,
    /// Videos that this connection submitted.
    submitted: Vec<String>,
}

#[derive(Deserialize)]
struct Submitted {
    id: String,
}

/// One kind of request in one round.
#[derive(Serialize)]
struct Phase {
    requests: usize,
    requests_per_s: f64,
    #[serde(flatten)]
    latency_ms: Percentiles,
}

#[derive(Serialize)]
struct Round {
    cold_post: Phase,
    post: Phase,
    get: Phase,
}

pub(super) async fn run(options: &Options) -> Result<()> {
    ensure!(options.rounds > 0, "--rounds must be 1 or more");
    ensure!(
        options.connections > 0 && options.connections.is_multiple_of(CONNECTIONS_OF_A_USER),
        "--connections must be a multiple of {CONNECTIONS_OF_A_USER}"
    );
    // Nothing of a user is refused: all its jobs may be queued at once.
    let for_queue = JOBS_OF_A_USER.div_ceil(Tier::Free.queued_max() as usize);
    let for_rates = options.connections.div_ceil(CONNECTIONS_WITHIN_RATES);
    let rate_scale = u32::try_from(for_rates.max(for_queue))?;
    let mut rounds = Vec::new();
    for _ in 0..options.rounds {
        let farm = BenchFarm::start(Engine::StandIn { step: STEP }, rate_scale).await?;
        let mut connections = connect(&farm, options.connections).await?;
        let round = Round {
            cold_post: phase(&mut connections, WARMING_POSTS_OF_A_CONNECTION, Kind::Post).await?,
            post: phase(&mut connections, POSTS_OF_A_CONNECTION, Kind::Post).await?,
            get: phase(&mut connections, GETS_OF_A_CONNECTION, Kind::Get).await?,
        };
        farm.stop().await?;
        rounds.push(round);
    }
    let summary = |figure: fn(&Round) -> f64| Summary::of(rounds.iter().map(figure));
    let figures = [
        (
            "cold_post_p95_ms",
            summary(|round| round.cold_post.latency_ms.p95),
        ),
        ("post_p50_ms", summary(|round| round.post.latency_ms.p50)),
        ("post_p95_ms", summary(|round| round.post.latency_ms.p95)),
        ("get_p50_ms", summary(|round| round.get.latency_ms.p50)),
        ("get_p95_ms", summary(|round| round.get.latency_ms.p95)),
    ];
    for (name, figure) in &figures {
        if let Some(figure) = figure {
            eprintln!("{name} {figure}");
        }
    }
    let [
        cold_post_p95_ms,
        post_p50_ms,
        post_p95_ms,
        get_p50_ms,
        get_p95_ms,
    ] = figures.map(|(_, figure)| figure);
    let report = json!({
        "date": figures::now(),
        "machine": Machine::read()?,
        "settings": {
            "connections": options.connections,
            "users": options.connections / CONNECTIONS_OF_A_USER,
            "rate_scale": rate_scale,
            "rounds": options.rounds,
            "warming_posts": options.connections * WARMING_POSTS_OF_A_CONNECTION,
            "load_generator": "on the same machine, a request behind the other on each connection",
        },
        "cold_post_p95_ms": cold_post_p95_ms,
        "post_p50_ms": post_p50_ms,
        "post_p95_ms": post_p95_ms,
        "get_p50_ms": get_p50_ms,
        "get_p95_ms": get_p95_ms,
        "rounds": rounds,
    });
    figures::write(&options.out, &report)
}

/// Connections that are open, of users in turn.
async fn connect(farm: &BenchFarm, count: usize) -> Result<Vec<Connection>> {
    let mut users = Vec::new();
    for number in 0..count / CONNECTIONS_OF_A_USER {
        users.push(farm.user(&format!("user-{number}")).await?);
    }
    let connections = users.iter().cycle().take(count);
    try_join_all(connections.map(|user| Connection::open(&farm.url, user))).await
}

#[derive(Clone, Copy)]
enum Kind {
    Post,
    Get,
}

/// All connections at once, each so many requests.
async fn phase(connections: &mut [Connection], requests: usize, kind: Kind) -> Result<Phase> {
    let begun = Instant::now();
    let all = try_join_all(connections.iter_mut().map(async |connection| {
        let mut latencies = Vec::with_capacity(requests);
        for number in 0..requests {
            let begun = Instant::now();
            match kind {
                Kind::Post => connection.submit().await?,
                Kind::Get => connection.look_up(number).await?,
            }
            latencies.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        anyhow::Ok(latencies)
    }))
    .await?;
    let took_s = begun.elapsed().as_secs_f64();
    let latencies = all.concat();
    let requests = latencies.len();
    Ok(Phase {
        requests,
        requests_per_s: requests as f64 / took_s,
        latency_ms: Percentiles::of(latencies).context("no requests were made")?,
    })
}

impl Connection {
    async fn open(url: &Url, user: &User) -> Result<Self> {
        let host = url.authority();
        let stream = TokioIo::new(TcpStream::connect(host).await?);
        // Not a whole client: what it computes would be taken from the two cores that the farm is measured on.
        let (http, connection) = http1::handshake(stream).await?;
        tokio::spawn(connection);
        let mut connection = Self {
            http,
            host: host.try_into()?,
            authorization: format!("Bearer {}", user.key.reveal()).try_into()?,
            submission: serde_json::to_vec(&user.video(25))?.into(),
            submitted: Vec::new(),
        };
        let me = Request::get("/v1/me").body(Full::default())?;
        connection.ask(me, StatusCode::OK).await?;
        Ok(connection)
    }

    async fn submit(&mut self) -> Result<()> {
        let request = Request::post("/v1/videos")
            .header(header::CONTENT_TYPE, "application/json")
            .header("idempotency-key", uuid::Uuid::now_v7().to_string())
            .body(Full::new(self.submission.clone()))?;
        let answer = self.ask(request, StatusCode::ACCEPTED).await?;
        let Submitted { id } = serde_json::from_slice(&answer)?;
        self.submitted.push(id);
        Ok(())
    }

    async fn look_up(&mut self, number: usize) -> Result<()> {
        let id = &self.submitted[number % self.submitted.len()];
        let request = Request::get(format!("/v1/videos/{id}")).body(Full::default())?;
        self.ask(request, StatusCode::OK).await?;
        Ok(())
    }

    /// The answer's body. Whatever is not `expected` ends the benchmark: refusals are fast and would flatter it.
    async fn ask(
        &mut self,
        mut request: Request<Full<Bytes>>,
        expected: StatusCode,
    ) -> Result<Bytes> {
        let headers = request.headers_mut();
        headers.insert(header::HOST, self.host.clone());
        headers.insert(header::AUTHORIZATION, self.authorization.clone());
        self.http.ready().await?;
        let answer = self.http.send_request(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        ensure!(
            status == expected,
            "answered {status}: {}",
            String::from_utf8_lossy(&body)
        );
        Ok(body)
    }
}
