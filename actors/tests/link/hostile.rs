//! A peer with a true certificate that does not use our link: it speaks the wire format by itself, so that it can break
//! the rules, and so that a change of the format is noticed here.

use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use flowai_actors::link::RefusedCode;
use prost::Message;
use ractor::message::SerializedMessage;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use ractor_cluster::node::NodeConnectionMode;
use ractor_cluster::{BoxRead, BoxWrite, ClusterBidiStream, NodeServer};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::SOON;
use crate::process::Process;

const GATEWAYS: &str = "flowai-gateway";

#[derive(Clone, PartialEq, Message)]
struct Hello {
    #[prost(string, tag = "1")]
    peer: String,
    #[prost(uint32, tag = "2")]
    generation: u32,
    #[prost(string, tag = "3")]
    build: String,
    #[prost(uint32, tag = "4")]
    schema_min: u32,
    #[prost(uint32, tag = "5")]
    schema_max: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Greeting {
    #[prost(message, tag = "1")]
    welcome: Option<Welcome>,
    #[prost(message, tag = "2")]
    not_leader: Option<NotLeader>,
    #[prost(message, tag = "3")]
    refused: Option<Refused>,
}

#[derive(Clone, PartialEq, Message)]
struct Welcome {
    #[prost(bytes = "vec", tag = "1")]
    link_token: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct NotLeader {}

#[derive(Clone, PartialEq, Message)]
struct Refused {
    #[prost(enumeration = "RefusedCode", tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    reason: String,
}

#[derive(Clone, PartialEq, Message)]
struct Frame {
    #[prost(uint32, tag = "1")]
    schema: u32,
    #[prost(bytes = "vec", tag = "2")]
    link_token: Vec<u8>,
    #[prost(uint64, tag = "3")]
    handled: u64,
    #[prost(message, tag = "4")]
    envelope: Option<Envelope>,
}

#[derive(Clone, PartialEq, Message)]
struct Envelope {
    #[prost(bytes = "vec", tag = "1")]
    message_id: Vec<u8>,
    #[prost(uint32, tag = "2")]
    epoch: u32,
    #[prost(uint64, tag = "3")]
    sent_at_ms: u64,
    #[prost(uint32, tag = "4")]
    kind: u32,
    #[prost(bytes = "vec", tag = "5")]
    bytes: Vec<u8>,
}

/// The hub's answer to a `Hello` that claims to be `claimed`, as text.
pub(crate) fn greeting_answer(identity: &str, address: &str, claimed: &str) -> String {
    let answer = runtime().block_on(async {
        let mut stream = connect_tls(identity, Some(identity), address).await;
        greet(&mut stream, claimed).await.unwrap()
    });
    format!("{answer:?}")
}

/// Whether the hub answers a greeting on a connection that trusts the CA of one identity and shows the certificate of
/// another, or none.
pub(crate) fn is_let_in(trusting: &str, showing: Option<&str>, address: &str) -> bool {
    runtime().block_on(async {
        // In TLS 1.3 the client is done before the server has judged it: the refusal comes with the first read.
        let mut stream = connect_tls(trusting, showing, address).await;
        greet(&mut stream, "n1.node").await.is_ok()
    })
}

/// Serves one TLS handshake with an identity that may not serve.
pub(crate) fn serve_tls_once(identity: &str, listener: TcpListener) -> io::Result<()> {
    let files = Files::read(identity);
    let server = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let server = server
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth();
    let acceptor = TlsAcceptor::from(Arc::new(
        server
            .with_single_cert(vec![files.certificate], files.key)
            .unwrap(),
    ));
    listener.set_nonblocking(true)?;
    runtime().block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let handshake = async {
            let (tcp, _) = listener.accept().await?;
            acceptor.accept(tcp).await.map(drop)
        };
        tokio::time::timeout(SOON, handshake)
            .await
            .expect("nobody dialled")
    })
}

/// A hostile peer in a process of its own, greeted and joined to the cluster.
pub(crate) struct Hostile {
    process: std::sync::Mutex<Process>,
    token: Vec<u8>,
}

impl Hostile {
    /// Connects as the peer that `identity` names.
    pub(crate) fn connect(identity: &str, address: &str) -> Self {
        let setup = json!({ "hostile": true, "identity": identity, "dial": address });
        let mut process = Process::start(&setup, &[], None);
        let connected = process.expect(json!({ "event": "connected" }));
        let token = connected["token"]
            .as_array()
            .unwrap()
            .iter()
            .map(|byte| byte.as_u64().unwrap() as u8)
            .collect();
        Self {
            process: process.into(),
            token,
        }
    }

    /// The token of this peer's own link.
    pub(crate) fn token(&self) -> Vec<u8> {
        self.token.clone()
    }

    /// Sends a one-way message under any token, whatever its credit.
    pub(crate) fn send(&self, token: &[u8], kind: u32) {
        let message_id = vec![9; 16];
        let envelope = Some(Envelope {
            message_id,
            epoch: 1,
            sent_at_ms: 0,
            kind,
            bytes: b"hostile".to_vec(),
        });
        let frame = Frame {
            schema: 5,
            link_token: token.to_vec(),
            handled: 0,
            envelope,
        };
        self.send_bytes(frame.encode_to_vec());
    }

    /// Sends anything as a frame. Zeroes travel as their count.
    pub(crate) fn send_bytes(&self, bytes: Vec<u8>) {
        let zeroes = bytes.iter().all(|byte| *byte == 0).then_some(bytes.len());
        let order = zeroes.map_or_else(
            || json!({ "bytes": bytes }),
            |zeroes| json!({ "zeroes": zeroes }),
        );
        self.process.lock().unwrap().order(order);
    }
}

/// The process behind [`Hostile`].
pub(crate) fn run(setup: &Value) -> ExitCode {
    runtime().block_on(async {
        let (identity, address) = (
            setup["identity"].as_str().unwrap(),
            setup["dial"].as_str().unwrap(),
        );
        let mut stream = connect_tls(identity, Some(identity), address).await;
        let me = Path::new(identity).file_name().unwrap().to_str().unwrap();
        let welcome = greet(&mut stream, me).await.unwrap().welcome.unwrap();
        let hub = join_cluster(stream, identity).await;
        println!(
            "{}",
            json!({ "event": "connected", "token": welcome.link_token })
        );

        let mut orders = BufReader::new(tokio::io::stdin()).lines();
        while let Some(order) = orders.next_line().await.unwrap() {
            let order: Value = serde_json::from_str(&order).unwrap();
            let args = match order["zeroes"].as_u64() {
                Some(zeroes) => vec![0; zeroes as usize],
                None => order["bytes"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|byte| byte.as_u64().unwrap() as u8)
                    .collect(),
            };
            let cast = SerializedMessage::Cast {
                variant: "Deliver".to_owned(),
                args,
                metadata: None,
            };
            // The hub may have cut the link already: that is what some tests wait for.
            hub.send_serialized(cast).ok();
        }
    });
    ExitCode::SUCCESS
}

struct Files {
    ca: CertificateDer<'static>,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    cookie: String,
}

impl Files {
    fn read(identity: &str) -> Self {
        let home = Path::new(identity);
        Self {
            ca: CertificateDer::from_pem_file(home.join("ca.pem")).unwrap(),
            certificate: CertificateDer::from_pem_file(home.join("cert.pem")).unwrap(),
            key: PrivateKeyDer::from_pem_file(home.join("key.pem")).unwrap(),
            cookie: std::fs::read_to_string(home.join("cookie")).unwrap(),
        }
    }
}

async fn connect_tls(trusting: &str, showing: Option<&str>, address: &str) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(Files::read(trusting).ca).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let client = client
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let client = match showing.map(Files::read) {
        Some(files) => client
            .with_client_auth_cert(vec![files.certificate], files.key)
            .unwrap(),
        None => client.with_no_client_auth(),
    };
    let name = ServerName::try_from("coordinator.flowai.internal").unwrap();
    let tcp = TcpStream::connect(address).await.unwrap();
    TlsConnector::from(Arc::new(client))
        .connect(name, tcp)
        .await
        .unwrap()
}

async fn greet(stream: &mut TlsStream<TcpStream>, claimed: &str) -> io::Result<Greeting> {
    let (peer, build) = (claimed.to_owned(), "hostile".to_owned());
    let hello = Hello {
        peer,
        generation: 1,
        build,
        schema_min: 4,
        schema_max: 5,
    }
    .encode_to_vec();
    stream.write_u16(hello.len() as u16).await?;
    stream.write_all(&hello).await?;
    stream.flush().await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Ok(Greeting::decode(answer.as_slice()).unwrap())
}

/// Joins the hub's cluster over the stream and gives the hub's gateway.
async fn join_cluster(stream: TlsStream<TcpStream>, identity: &str) -> ActorCell {
    Actor::spawn(None, FalseGateway, ()).await.unwrap();
    let (name, isolated) = ("hostile".to_owned(), Some(NodeConnectionMode::Isolated));
    let server = NodeServer::new(
        0,
        Files::read(identity).cookie,
        name.clone(),
        name,
        None,
        isolated,
    );
    let (server, _) = Actor::spawn(None, server.with_listen_addr([127, 0, 0, 1].into()), ())
        .await
        .unwrap();
    ractor_cluster::client_connect_external(&server, Box::new(Stream(stream)))
        .await
        .unwrap();
    let hub = async {
        loop {
            let members = ractor::pg::get_members(&GATEWAYS.to_owned());
            if let Some(hub) = members
                .into_iter()
                .find(|member| !member.get_id().is_local())
            {
                return hub;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, hub)
        .await
        .expect("the hub's gateway did not appear")
}

/// Takes what the hub sends, so that the hub believes in us.
struct FalseGateway;

impl Actor for FalseGateway {
    /// Bytes can travel, which is what makes the actor visible to the hub.
    type Msg = Vec<u8>;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Vec<u8>>, (): ()) -> Result<(), ActorProcessingErr> {
        ractor::pg::join(GATEWAYS.to_owned(), vec![myself.get_cell()]);
        Ok(())
    }
}

struct Stream(TlsStream<TcpStream>);

impl ClusterBidiStream for Stream {
    fn split(self: Box<Self>) -> (BoxRead, BoxWrite) {
        let (reader, writer) = tokio::io::split(self.0);
        (Box::new(reader), Box::new(writer))
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}
