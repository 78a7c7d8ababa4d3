//! The peer: a program with a link and nothing else. It does what its standard input says and prints what happens, one
//! JSON object a line.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use flowai_actors::ids::{Epoch, Generation};
use flowai_actors::kit::logging::{self, LevelFilter};
use flowai_actors::link::pki::Identity;
use flowai_actors::link::{
    AskError, Envelope, LinkConfig, LinkEvent, LinkEvents, LinkStats, NodeLink, RactorLink, Role,
    SchemaRange, SendError, Standing,
};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::watch;

/// Kinds of the test protocol. From `UNKNOWN` on the peer does not know them.
pub(crate) const ECHO: u32 = 1;
pub(crate) const NOTE: u32 = 2;
pub(crate) const DROPPED: u32 = 3;
pub(crate) const HELD: u32 = 4;
pub(crate) const COORDINATOR_ONLY: u32 = 5;
pub(crate) const UNKNOWN: u32 = 100;

fn may_send(role: Role, kind: u32) -> bool {
    kind != COORDINATOR_ONLY || role == Role::Coordinator
}

pub(crate) fn run(setup: Value) -> ExitCode {
    logging::init(LevelFilter::INFO).unwrap();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(live(setup));
    ExitCode::SUCCESS
}

async fn live(setup: Value) {
    let start = Instant::now();
    let config = LinkConfig {
        identity: Identity::load(Path::new(text(&setup, "identity"))).unwrap(),
        generation: Generation::new(number(&setup, "generation")),
        build: format!("test-build-{}", setup["schema"]),
        schemas: SchemaRange::of(number(&setup, "schema")),
        may_send,
    };
    let (link, events) = RactorLink::start(config).await.unwrap();
    if let Some(address) = setup["listen"].as_str() {
        let address = link.listen(address.parse().unwrap()).await.unwrap();
        print(json!({ "event": "listening", "address": address.to_string() }));
    }
    if setup["leads"] == true {
        link.set_standing(Standing::Leading);
    }
    // Held to the end: a dropped sender would be a list of addresses that can never change.
    let (targets, _) = watch::channel(strings(&setup, "dial"));
    if setup["dial"].is_array() {
        link.dial(targets.subscribe()).unwrap();
    }
    let (stalled, is_stalled) = watch::channel(false);
    tokio::join!(tell(events, is_stalled, start), obey(link, stalled));
}

/// Prints what comes in, and answers.
async fn tell(mut events: LinkEvents, mut is_stalled: watch::Receiver<bool>, start: Instant) {
    let mut held = Vec::new();
    while let Some(event) = events.next().await {
        is_stalled.wait_for(|stalled| !stalled).await.unwrap();
        match event {
            LinkEvent::Up(peer) => print(json!({
                "event": "up",
                "peer": peer.id.to_string(),
                "generation": peer.generation.get(),
                "schema": peer.schema,
                "after_ms": start.elapsed().as_millis() as u64,
            })),
            LinkEvent::Down { peer, reason } => {
                let (id, generation) = (peer.id.to_string(), peer.generation.get());
                print(
                    json!({ "event": "down", "peer": id, "generation": generation, "reason": format!("{reason:?}") }),
                );
            }
            LinkEvent::Message(delivery) => {
                let (from, envelope) = (delivery.from.id.to_string(), &delivery.envelope);
                let text = String::from_utf8_lossy(&envelope.bytes[..envelope.bytes.len().min(64)])
                    .into_owned();
                print(
                    json!({ "event": "message", "from": from, "kind": envelope.kind, "text": text }),
                );
                if envelope.kind >= UNKNOWN {
                    delivery.unsupported();
                }
            }
            LinkEvent::Request(request) => match request.envelope.kind {
                ECHO | COORDINATOR_ONLY => request.reply.send(request.envelope).unwrap(),
                HELD => held.push(request.reply),
                UNKNOWN.. => request.reply.unsupported(),
                _ => drop(request.reply),
            },
            LinkEvent::Unsupported { peer, kind, .. } => {
                print(json!({ "event": "unsupported", "peer": peer.id.to_string(), "kind": kind }));
            }
            LinkEvent::Refused { code, reason, .. } => {
                print(json!({ "event": "refused", "code": format!("{code:?}"), "reason": reason }));
            }
        }
    }
}

/// Does what it is told.
async fn obey(link: RactorLink, stalled: watch::Sender<bool>) {
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    while let Some(order) = orders.next_line().await.unwrap() {
        let order: Value = serde_json::from_str(&order).unwrap();
        match text(&order, "do") {
            "ask" => print(ask(&link, &order).await),
            "send" => print(json!({ "sent": send(&link, &order) })),
            "stats" => print(json!({ "stats": stats(link.stats()), "rss_kib": rss_kib() })),
            "lead" => link.set_standing(Standing::Leading),
            "stand_by" => {
                link.set_standing(Standing::Standby {
                    leader: order["leader"].as_str().map(str::to_owned),
                });
            }
            "stall" => drop(stalled.send(true)),
            "go_on" => drop(stalled.send(false)),
            "disconnect" => link.disconnect(&text(&order, "peer").parse().unwrap()),
            other => panic!("{other}"),
        }
    }
}

fn envelope(order: &Value) -> Envelope {
    let text = match order["bytes"].as_u64() {
        Some(bytes) => "x".repeat(bytes as usize),
        None => text(order, "text").to_owned(),
    };
    Envelope::new(number(order, "kind"), Epoch::new(1), text.into_bytes())
}

async fn ask(link: &RactorLink, order: &Value) -> Value {
    let deadline = Duration::from_millis(order["deadline_ms"].as_u64().unwrap());
    let (to, start) = (text(order, "to").parse().unwrap(), Instant::now());
    let outcome = match link.ask(&to, envelope(order), deadline).await {
        Ok(answer) => json!({ "answer": String::from_utf8_lossy(&answer.bytes) }),
        Err(error) => json!({ "error": match error {
            AskError::Timeout => "timeout",
            AskError::Gone => "gone",
            AskError::Full => "full",
            AskError::Rejected => "rejected",
            AskError::Unsupported { .. } => "unsupported",
            AskError::TooLarge(_) => "too large",
        } }),
    };
    json!({ "asked": order["kind"], "outcome": outcome, "took_ms": start.elapsed().as_millis() as u64 })
}

/// Sends `times` copies (default 1) and counts what became of them.
fn send(link: &RactorLink, order: &Value) -> Value {
    let (to, times) = (
        text(order, "to").parse().unwrap(),
        order["times"].as_u64().unwrap_or(1),
    );
    let (mut sent, mut full, mut gone, mut too_large) = (0, 0, 0, 0);
    for _ in 0..times {
        match link.send(&to, envelope(order)) {
            Ok(()) => sent += 1,
            Err(SendError::Full(_)) => full += 1,
            Err(SendError::Gone) => gone += 1,
            Err(SendError::TooLarge(_)) => too_large += 1,
        }
    }
    json!({ "ok": sent, "full": full, "gone": gone, "too_large": too_large })
}

fn stats(stats: LinkStats) -> Value {
    json!({
        "links_up": stats.links_up,
        "refused_half_open": stats.refused_half_open,
        "refused_tls": stats.refused_tls,
        "refused_identity": stats.refused_identity,
        "refused_greeting": stats.refused_greeting,
        "refused_generation": stats.refused_generation,
        "refused_token": stats.refused_token,
        "refused_kind": stats.refused_kind,
        "overruns": stats.overruns,
        "unsupported": stats.unsupported,
    })
}

/// Memory of this process that lies in RAM, from `/proc/self/status`.
fn rss_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn print(line: Value) {
    let mut out = std::io::stdout().lock();
    // The test that started this peer may have ended.
    writeln!(out, "{line}").and_then(|()| out.flush()).ok();
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key]
        .as_str()
        .unwrap_or_else(|| panic!("{key} must be text in {value}"))
}

fn number(value: &Value, key: &str) -> u32 {
    value[key]
        .as_u64()
        .unwrap_or_else(|| panic!("{key} must be a number in {value}")) as u32
}

fn strings(value: &Value, key: &str) -> Vec<String> {
    value[key]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}
