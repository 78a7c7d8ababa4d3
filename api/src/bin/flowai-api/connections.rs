//! Serves connections. axum's own server has no time limits: whoever opens a connection and says nothing would keep it for ever.

use std::convert::Infallible;
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
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// A request's head comes within this: the first one from the beginning of the connection, those that follow from their first byte.
const HEAD_WITHIN: Duration = Duration::from_secs(30);
/// After a failed accept (out of file descriptors, mostly) the next try waits this long instead of spinning.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Serves until `stop`, then until the requests that were begun are finished. Dropping it breaks them off.
pub(crate) async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    serve_within(HEAD_WITHIN, listener, router, stop).await;
}

async fn serve_within(
    head_within: Duration,
    listener: TcpListener,
    router: Router,
    stop: CancellationToken,
) {
    // Proxies speak version 2 with browsers. To find out which it is, the first bytes would be waited for without a limit.
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(head_within);
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
        // Events are small and shall not wait for more.
        socket.set_nodelay(true).ok();
        let (router, builder, stop) = (router.clone(), builder.clone(), stop.clone());
        let watcher = graceful.watcher();
        connections.spawn(async move {
            // hyper counts from the first byte on.
            let mut first = [0];
            let first = timeout(head_within, socket.peek(&mut first));
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
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tokio::time::Instant;

    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_head_that_does_not_come_ends_the_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let within = Duration::from_millis(300);
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve_within(within, listener, Router::new(), stop));
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
}
