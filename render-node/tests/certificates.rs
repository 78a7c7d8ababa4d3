//! Goal: a node keeps its certificate fresh, talks to the builds beside its own, and ends with the status that says what to do
//! about it.
//! Method: the real program over the real link; this process is the leader and the CA.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use flowai_actors::ids::{Epoch, Generation};
use flowai_actors::link::pki::{Ca, Identity, SigningRequest};
use flowai_actors::link::{
    LinkConfig, LinkEvent, LinkEvents, NodeLink as _, PeerId, RactorLink, Request, SchemaRange,
    Standing,
};
use flowai_actors::membership::{RenewCertificate, RenewCertificateAnswer};
use flowai_actors::messages::{Beat, BeatAnswer, Body as _, Register, Registered, Verdict};
use flowai_actors::wire;
use tokio::process::{Child, Command};

const LONG: Duration = Duration::from_secs(120);
const EPOCH: Epoch = Epoch::new(1);
/// Long enough for a busy machine to renew within half of it.
const LIFE: Duration = Duration::from_secs(16);

/// The leader's end of the link, of a build of some schema. A process can have one link, so everything below is one test.
struct Leader {
    link: RactorLink,
    events: LinkEvents,
    address: String,
}

impl Leader {
    async fn start(identity: Identity, schema: u32) -> Self {
        let config = LinkConfig {
            identity,
            generation: Generation::new(1),
            build: format!("of schema {schema}"),
            schemas: SchemaRange::of(schema),
            may_send: wire::may_send,
        };
        let (link, events) = RactorLink::start(config).await.unwrap();
        link.set_standing(Standing::Leading);
        let address = link.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        Self {
            link,
            events,
            address: address.to_string(),
        }
    }

    /// Answers as a leader does until `wanted` has happened; certificates only with an authority.
    async fn lead_until<T>(
        &mut self,
        authority: Option<&Ca>,
        wanted: impl Fn(&LinkEvent) -> Option<T>,
    ) -> T {
        let leading = async {
            loop {
                let event = self.events.next().await.expect("link has ended");
                let found = wanted(&event);
                if let LinkEvent::Request(request) = event {
                    answer(request, authority);
                }
                if let Some(found) = found {
                    return found;
                }
            }
        };
        let found = tokio::time::timeout(LONG, leading).await;
        found.expect("not heard in time")
    }

    /// Answers until the program has ended.
    async fn lead_to_the_end(&mut self, node: Child) -> Output {
        let mut ended = Box::pin(node.wait_with_output());
        let leading = async {
            loop {
                tokio::select! {
                    output = &mut ended => return output.unwrap(),
                    event = self.events.next() => if let Some(LinkEvent::Request(request)) = event {
                        answer(request, None);
                    },
                }
            }
        };
        let output = tokio::time::timeout(LONG, leading).await;
        output.expect("program does not end")
    }
}

/// An older build knows no more than this.
fn answer(request: Request, authority: Option<&Ca>) {
    let Request {
        envelope, reply, ..
    } = request;
    let answer = match (envelope.kind, authority) {
        (Register::KIND, _) => wire::seal(
            EPOCH,
            &Registered::Welcome {
                epoch: EPOCH,
                running: Verdict::Idle,
            },
        ),
        (Beat::KIND, _) => wire::seal(
            EPOCH,
            &BeatAnswer::Renewed {
                epoch: EPOCH,
                running: Verdict::Idle,
            },
        ),
        (RenewCertificate::KIND, Some(ca)) => {
            let question: RenewCertificate = wire::open(&envelope).unwrap();
            let peer = PeerId::from(&question.node);
            let signed = ca.sign(&question.signing_request, &peer, LIFE).unwrap();
            let certificate = signed.certificate;
            wire::seal(EPOCH, &RenewCertificateAnswer::Renewed { certificate })
        }
        _ => return reply.unsupported(),
    };
    reply.send(answer.unwrap()).unwrap();
}

fn registered(event: &LinkEvent) -> Option<Register> {
    match event {
        LinkEvent::Request(request) => wire::open(&request.envelope).ok(),
        _ => None,
    }
}

fn asked_for_a_certificate(event: &LinkEvent) -> Option<()> {
    match event {
        LinkEvent::Request(request) => {
            (request.envelope.kind == RenewCertificate::KIND).then_some(())
        }
        _ => None,
    }
}

fn came_up(event: &LinkEvent) -> Option<()> {
    matches!(event, LinkEvent::Up(_)).then_some(())
}

fn certificate(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("tls/cert.pem")).unwrap()
}

fn certify(ca: &Ca, folder: &Path, life: Duration) {
    let request = SigningRequest::generate().unwrap();
    let node: PeerId = "n1.node".parse().unwrap();
    let signed = ca.sign(&request.pem().unwrap(), &node, life).unwrap();
    let identity = request.answered(&signed.certificate, ca.pem(), &ca.cookie_text());
    identity.unwrap().save(&folder.join("tls")).unwrap();
}

fn node(folder: &Path, coordinator: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_flowai-render-node"))
        .env("FLOWAI_ID", "n1")
        .env("FLOWAI_DATA_DIR", folder.join("data"))
        .env("FLOWAI_TLS_DIR", folder.join("tls"))
        .env("FLOWAI_COORDINATORS", coordinator)
        .env("FLOWAI_MODELS_DIR", folder.join("models"))
        .env("FLOWAI_ENGINE", "stand-in")
        .env("RUST_LOG", "off")
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

fn assert_ended(output: &Output, status: i32, rule: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{said}");
    let said_rule = format!("flowai-render-node: {rule}: ");
    assert!(said.contains(&said_rule), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_keeps_its_certificate_fresh_and_says_why_it_ends() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::create_dir(folder.join("models")).unwrap();
    let ca = Ca::create(&folder.join("ca")).unwrap();
    let me = ca.issue(&"c1.coordinator".parse().unwrap()).unwrap();
    let mut leader = Leader::start(me.clone(), wire::SCHEMA).await;

    // Renewed with another key, before the first certificate ends, and good for a new link after that.
    certify(&ca, folder, LIFE);
    let first = certificate(folder);
    let first_key = std::fs::read(folder.join("tls/key.pem")).unwrap();
    let first_ends = tokio::time::Instant::now() + LIFE;
    let running = node(folder, &leader.address);
    leader.lead_until(Some(&ca), registered).await;
    if certificate(folder) == first {
        leader.lead_until(Some(&ca), asked_for_a_certificate).await;
    }
    while tokio::time::Instant::now() < first_ends + Duration::from_secs(1) {
        leader.lead_until(Some(&ca), |_| Some(())).await;
    }
    assert_ne!(certificate(folder), first);
    assert_ne!(
        std::fs::read(folder.join("tls/key.pem")).unwrap(),
        first_key
    );
    leader.link.disconnect(&"n1.node".parse().unwrap());
    leader.lead_until(Some(&ca), came_up).await;
    // Nobody renews it any more.
    let output = leader.lead_to_the_end(running).await;
    assert_ended(&output, 10, "rejoin");
    let output = node(folder, &leader.address).wait_with_output().await;
    assert_ended(&output.unwrap(), 10, "rejoin");

    // Barred while it is linked, and when it comes again.
    certify(&ca, folder, LIFE * 100);
    let running = node(folder, &leader.address);
    leader.lead_until(Some(&ca), registered).await;
    leader
        .link
        .bar(BTreeSet::from(["n1.node".parse().unwrap()]));
    let output = leader.lead_to_the_end(running).await;
    assert_ended(&output, 12, "stop");
    let again = node(folder, &leader.address);
    assert_ended(&leader.lead_to_the_end(again).await, 12, "stop");
    leader.link.shutdown().await;

    // The builds beside its own are as good as its own, in either direction.
    for neighbour in [wire::SCHEMA - 1, wire::SCHEMA + 1] {
        let mut leader = Leader::start(me.clone(), neighbour).await;
        let mut running = node(folder, &leader.address);
        let register = leader.lead_until(None, registered).await;
        assert_eq!(register.node.as_str(), "n1", "{neighbour}");
        running.kill().await.unwrap();
        leader.link.shutdown().await;
    }
    // A farm that is further ahead wants a newer build.
    let mut leader = Leader::start(me.clone(), wire::SCHEMA + 2).await;
    let old = node(folder, &leader.address);
    assert_ended(&leader.lead_to_the_end(old).await, 11, "upgrade");
    leader.link.shutdown().await;
    // One that is further behind will be upgraded: the node waits for it.
    if let Some(schema) = wire::SCHEMA.checked_sub(2).filter(|schema| *schema > 0) {
        let leader = Leader::start(me, schema).await;
        let mut waiting = node(folder, &leader.address);
        let ended = tokio::time::timeout(Duration::from_secs(4), waiting.wait()).await;
        assert!(ended.is_err(), "{ended:?}");
        assert!(leader.link.stats().refused_greeting > 0);
        leader.link.shutdown().await;
    }
}
