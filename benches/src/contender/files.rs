//! An object store that has every file, with one byte in it.

use std::convert::Infallible;

use anyhow::Result;
use bytes::Bytes;
use flowai_store::objects::{Objects, ObjectsConfig};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Response, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

pub(super) const FILE_BYTES: u64 = 1;

pub(super) async fn store() -> Result<Objects> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(|_| async {
                let mut answer = Response::new(Full::<Bytes>::default());
                answer
                    .headers_mut()
                    .insert(header::CONTENT_LENGTH, FILE_BYTES.into());
                Ok::<_, Infallible>(answer)
            });
            let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(serving);
        }
    });
    Ok(Objects::new(&ObjectsConfig {
        endpoint,
        region: "us-east-1".to_owned(),
        bucket: "clips".to_owned(),
        access_key_id: "key".to_owned(),
        secret_access_key: "secret".to_owned(),
    }))
}
