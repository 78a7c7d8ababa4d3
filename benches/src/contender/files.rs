//! An object store that has every file, with one byte in it.

use std::convert::Infallible;

use anyhow::Result;
use bytes::Bytes;
use flowai_actors::messages::ArtefactFile;
use flowai_store::objects::{Objects, ObjectsConfig};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

pub(super) const FILE_BYTES: u64 = 1;

pub(super) async fn store() -> Result<Objects> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service =
                service_fn(|request| async move { Ok::<_, Infallible>(answer(&request)) });
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

/// To a list of a clip's files, where anything else lists nothing, or to a question after one.
fn answer(request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let query = request.uri().query().unwrap_or_default();
    let mut parameters = url::form_urlencoded::parse(query.as_bytes());
    if let Some((_, prefix)) = parameters.find(|(name, _)| name == "prefix") {
        let files = ArtefactFile::of_render(false).into_iter();
        let files = files.filter(|_| prefix.starts_with("clips/"));
        let contents = files.map(|file| {
            let name = file.file_name();
            format!("<Contents><Key>{prefix}{name}</Key><Size>{FILE_BYTES}</Size></Contents>")
        });
        let contents: String = contents.collect();
        let body = format!("<ListBucketResult>{contents}</ListBucketResult>");
        return Response::new(Full::from(body));
    }
    let mut answer = Response::new(Full::default());
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_LENGTH, FILE_BYTES.into());
    answer
}
