//! A render node whose way to the coordinator can be cut as a network is: nothing passes any more, and nobody is told.

use std::net::SocketAddr;

use flowai_actors::link::pki::Ca;
use flowai_actors::link::{PeerId, Role};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{TestFarm, programs};

/// Ends with the value.
pub(crate) struct FarNode {
    is_cut: watch::Sender<bool>,
    _network: JoinSet<()>,
    _program: Child,
}

impl FarNode {
    pub(crate) const NAME: &str = "node-far";

    /// Another node of the farm, with the stand-in engine.
    pub(crate) async fn start(farm: &TestFarm, step_ms: u64) -> Self {
        let coordinator = farm.farm().program("coordinator-1").unwrap();
        let (is_cut, network) = watch::channel(false);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(forward(listener, coordinator.address().unwrap(), network));

        let folder = farm.farm().folder();
        let ca = Ca::load_or_create(&folder.root().join("ca")).unwrap();
        let peer = PeerId::new(Role::Node, Self::NAME).unwrap();
        ca.issue(&peer)
            .unwrap()
            .save(&folder.tls(Self::NAME))
            .unwrap();
        let mut command = Command::new(programs().join("flowai-render-node"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("FLOWAI_") {
                command.env_remove(name);
            }
        }
        let log = folder.logs().join(format!("{}.log", Self::NAME));
        let program = command
            .env("FLOWAI_ID", Self::NAME)
            .env("FLOWAI_COORDINATORS", address.to_string())
            .env("FLOWAI_TLS_DIR", folder.tls(Self::NAME))
            .env(
                "FLOWAI_DATA_DIR",
                folder.root().join("state").join(Self::NAME),
            )
            .env("FLOWAI_MODELS_DIR", folder.models())
            .env("FLOWAI_ENGINE", "stand-in")
            .env("FLOWAI_STAND_IN_STEP_MS", step_ms.to_string())
            .stderr(std::fs::File::create(log).unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self {
            is_cut,
            _network: tasks,
            _program: program,
        }
    }

    /// Lets nothing pass any more. Connections stay open.
    pub(crate) fn cut(&self) {
        self.is_cut.send_replace(true);
    }

    /// Lets pass what waited, and all that follows.
    pub(crate) fn mend(&self) {
        self.is_cut.send_replace(false);
    }
}

async fn forward(listener: TcpListener, to: SocketAddr, network: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        let (near, _) = listener.accept().await.unwrap();
        let network = network.clone();
        connections.spawn(async move {
            let Ok(far) = TcpStream::connect(to).await else {
                return;
            };
            let (near_in, near_out) = near.into_split();
            let (far_in, far_out) = far.into_split();
            tokio::join!(
                carry(near_in, far_out, network.clone()),
                carry(far_in, near_out, network),
            );
        });
    }
}

/// Carries bytes, and the end of them, while the network is whole.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut network: watch::Receiver<bool>,
) {
    let mut bytes = vec![0; 16 << 10];
    loop {
        let read = from.read(&mut bytes).await.unwrap_or(0);
        if network.wait_for(|is_cut| !is_cut).await.is_err() || read == 0 {
            return;
        }
        if to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}
