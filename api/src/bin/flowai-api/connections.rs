//! Serves connections. axum's own server has no time limits: whoever opens a connection and says nothing would keep it for ever.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

const LIMITS: Limits = Limits {
    head_within: Duration::from_secs(30),
    read_within: Duration::from_secs(60),
};
/// So often the kernel asks the peer of a connection on which nothing is said whether it is still there. One that has not answered for
/// [`Limits::read_within`] is not.
const STILL_THERE_EVERY: Duration = Duration::from_secs(15);
/// After a failed accept (out of file descriptors, mostly) the next try waits this long instead of spinning.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

#[derive(Clone, Copy)]
struct Limits {
    /// A request's head comes within this: the first one from the beginning of the connection, those that follow from their first byte.
    head_within: Duration,
    /// What was sent is taken within this, or the kernel ends the connection: a reader that has stopped, and one that went without a word.
    read_within: Duration,
}

/// Serves until `stop`, then until the requests that were begun are finished. Dropping it breaks them off.
pub(crate) async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    serve_within(LIMITS, listener, router, stop).await;
}

async fn serve_within(
    limits: Limits,
    listener: TcpListener,
    router: Router,
    stop: CancellationToken,
) {
    // Proxies speak version 2 with browsers. To find out which it is, the first bytes would be waited for without a limit.
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_within);
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        let (socket, from) = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            },
        };
        if let Err(error) = set_up(&socket, limits.read_within) {
            tracing::warn!(%error, "the kernel sets no limits to a connection");
        }
        let (router, builder, stop) = (router.clone(), builder.clone(), stop.clone());
        let watcher = graceful.watcher();
        connections.spawn(async move {
            // hyper counts from the first byte on.
            let mut first = [0];
            let first = timeout(limits.head_within, socket.peek(&mut first));
            if !matches!(stop.run_until_cancelled(first).await, Some(Ok(Ok(1)))) {
                return;
            }
            let service = service_fn(move |request| answer(router.clone(), from, request));
            let connection = builder.serve_connection_with_upgrades(TokioIo::new(socket), service);
            // A client that breaks off is no failure of the server's.
            if let Err(error) = watcher.watch(connection.into_owned()).await {
                tracing::debug!(%error, "connection ended");
            }
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

fn set_up(socket: &TcpStream, read_within: Duration) -> io::Result<()> {
    // Events are small and shall not wait for more.
    socket.set_nodelay(true)?;
    let socket = SockRef::from(socket);
    let keepalive = TcpKeepalive::new()
        .with_time(STILL_THERE_EVERY)
        .with_interval(STILL_THERE_EVERY);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(read_within))
}

async fn answer(
    router: Router,
    from: SocketAddr,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    request.extensions_mut().insert(ConnectInfo(from));
    router.oneshot(request).await
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use bytes::Bytes;
    use futures::stream;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::mpsc;
    use tokio::time::Instant;

    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_head_that_does_not_come_ends_the_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let within = Duration::from_millis(300);
        let limits = Limits {
            head_within: within,
            ..LIMITS
        };
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve_within(limits, listener, Router::new(), stop));
        for said in ["", "GET / HT", "GET / HTTP/1.1\r\nhost: x\r\n\r\nGET"] {
            let mut client = TcpStream::connect(address).await.unwrap();
            let began = Instant::now();
            client.write_all(said.as_bytes()).await.unwrap();
            let mut heard = Vec::new();
            let ended = timeout(LONG, client.read_to_end(&mut heard)).await;
            assert!(
                ended.is_ok(),
                "{said:?} keeps it, {:?}",
                String::from_utf8_lossy(&heard)
            );
            assert!(began.elapsed() >= within, "{said:?}");
        }
        serving.abort();
    }

    struct ToldOfItsEnd(mpsc::Sender<()>);

    impl Drop for ToldOfItsEnd {
        fn drop(&mut self) {
            self.0.try_send(()).ok();
        }
    }

    #[tokio::test]
    async fn a_reader_that_has_stopped_ends_the_connection() {
        let (sender, mut ended) = mpsc::channel(1);
        let endless = move || {
            let told = ToldOfItsEnd(sender.clone());
            let pieces = stream::repeat_with(move || {
                let _held = &told;
                Ok::<_, Infallible>(Bytes::from_static(&[b'x'; 65_536]))
            });
            async { Body::from_stream(pieces) }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limits = Limits {
            read_within: Duration::from_secs(1),
            ..LIMITS
        };
        let router = Router::new().route("/", get(endless));
        let serving = tokio::spawn(serve_within(
            limits,
            listener,
            router,
            CancellationToken::new(),
        ));
        let mut client = TcpStream::connect(address).await.unwrap();
        client
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        // It reads for a while, and then no more.
        let mut some = vec![0; 1 << 20];
        client.read_exact(&mut some).await.unwrap();
        assert!(timeout(LONG, ended.recv()).await.is_ok());
        serving.abort();
    }
}
