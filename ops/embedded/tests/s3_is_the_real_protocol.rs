//! Goal: what the AWS SDK and a browser with a presigned URL do against S3, they can do here, and nobody without a
//! signature can do anything.
//! Method: the official SDK and plain HTTP against the embedded server.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;
use flowai_embedded::{S3, S3Access};
use reqwest::StatusCode;
use support::DEADLINE;

const HELLO: &[u8] = b"hello frames";
/// base64 of sha256("hello frames")
const HELLO_SHA256: &str = "tJ4mxjn/CK25ozIlDq9ckzbswaoCVbzxCEVMJr795Qs=";
/// base64 of sha256("")
const WRONG_SHA256: &str = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";

fn client(access: &S3Access, secret: &str) -> Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(&access.endpoint)
        .region(Region::new(access.region.clone()))
        .credentials_provider(Credentials::new(
            &access.access_key_id,
            secret,
            None,
            None,
            "test",
        ))
        .force_path_style(true)
        .build();
    Client::from_conf(config)
}

struct Farm {
    s3: S3,
    client: Client,
    http: reqwest::Client,
    folder: tempfile::TempDir,
}

impl Farm {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let s3 = S3::start(folder.path()).await.unwrap();
        let client = client(s3.access(), &s3.access().secret_access_key);
        Self {
            s3,
            client,
            http: reqwest::Client::builder()
                .timeout(DEADLINE)
                .build()
                .unwrap(),
            folder,
        }
    }

    fn bucket(&self) -> &str {
        &self.s3.access().bucket
    }

    async fn put(&self, key: &str, content_type: &str) {
        self.client
            .put_object()
            .bucket(self.bucket())
            .key(key)
            .content_type(content_type)
            .body(ByteStream::from_static(HELLO))
            .send()
            .await
            .unwrap();
    }

    async fn exists(&self, key: &str) -> bool {
        self.client
            .head_object()
            .bucket(self.bucket())
            .key(key)
            .send()
            .await
            .is_ok()
    }

    /// A presigned upload with everything signed that the API signs.
    async fn presign_put(&self, key: &str, ttl: Duration) -> (String, reqwest::header::HeaderMap) {
        let presigned = self
            .client
            .put_object()
            .bucket(self.bucket())
            .key(key)
            .content_type("image/png")
            .content_length(HELLO.len() as i64)
            .checksum_sha256(HELLO_SHA256)
            .if_none_match("*")
            .presigned(PresigningConfig::expires_in(ttl).unwrap())
            .await
            .unwrap();
        // The length is signed like the rest, but a client sends that of the body it has.
        let headers = presigned
            .headers()
            .filter(|(name, _)| *name != "content-length")
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        (presigned.uri().to_owned(), headers)
    }
}

#[tokio::test]
async fn content_type_survives_and_a_range_is_a_range() {
    let farm = Farm::start().await;
    farm.put("clips/a/clip.mp4", "video/mp4").await;

    let whole = farm
        .client
        .get_object()
        .bucket(farm.bucket())
        .key("clips/a/clip.mp4")
        .send()
        .await
        .unwrap();
    assert_eq!(whole.content_type(), Some("video/mp4"));
    assert_eq!(whole.body.collect().await.unwrap().into_bytes(), HELLO);

    let part = farm
        .client
        .get_object()
        .bucket(farm.bucket())
        .key("clips/a/clip.mp4")
        .range("bytes=6-11")
        .send()
        .await
        .unwrap();
    assert_eq!(part.content_range(), Some("bytes 6-11/12"));
    assert_eq!(
        part.body.collect().await.unwrap().into_bytes(),
        &b"frames"[..]
    );
}

#[tokio::test]
async fn a_list_comes_by_key_in_pages_and_from_its_bucket_alone() {
    let farm = Farm::start().await;
    for key in ["b/2", "b-1", "b/1/x", "a", "b/10", "c/1"] {
        farm.put(key, "text/plain").await;
    }
    let list = async |prefix: &str| {
        let pages = farm
            .client
            .list_objects_v2()
            .bucket(farm.bucket())
            .prefix(prefix)
            .max_keys(2)
            .into_paginator()
            .send();
        let pages: Vec<_> = pages.try_collect().await.unwrap();
        let keys = pages.iter().map(|page| {
            let keys = page.contents().iter().filter_map(|object| object.key());
            keys.map(str::to_owned).collect()
        });
        keys.collect::<Vec<Vec<String>>>()
    };
    let all = vec![vec!["a", "b-1"], vec!["b/1/x", "b/10"], vec!["b/2", "c/1"]];
    assert_eq!(list("").await, all);
    assert_eq!(list("b").await, [vec!["b-1", "b/1/x"], vec!["b/10", "b/2"]]);
    assert_eq!(list("b/").await, [vec!["b/1/x", "b/10"], vec!["b/2"]]);
    assert_eq!(list("b/1").await, [["b/1/x", "b/10"]]);
    for nothing in ["b/1/x/", "nowhere/", "../", "b/../../", "/", "b/./", "b//"] {
        assert_eq!(list(nothing).await.concat(), [""; 0], "{nothing}");
    }
    let client = &farm.client;
    let elsewhere = client.list_objects_v2().bucket("elsewhere").send().await;
    assert_eq!(
        elsewhere
            .unwrap_err()
            .raw_response()
            .unwrap()
            .status()
            .as_u16(),
        404
    );
    let list = client.list_objects_v2().bucket(farm.bucket());
    let grouped = list.delimiter("/").send().await.unwrap();
    let folders = grouped.common_prefixes().iter().map(|group| group.prefix());
    assert_eq!(folders.collect::<Vec<_>>(), [Some("b/"), Some("c/")]);
}

#[tokio::test]
async fn a_presigned_get_serves_a_browser() {
    let farm = Farm::start().await;
    farm.put("clips/b/clip.mp4", "application/octet-stream")
        .await;
    let url = farm
        .client
        .get_object()
        .bucket(farm.bucket())
        .key("clips/b/clip.mp4")
        .response_content_type("video/mp4")
        .response_content_disposition("attachment; filename=\"clip.mp4\"")
        .presigned(PresigningConfig::expires_in(Duration::from_secs(60)).unwrap())
        .await
        .unwrap();

    let whole = farm.http.get(url.uri()).send().await.unwrap();
    assert_eq!(whole.status(), StatusCode::OK);
    assert_eq!(whole.headers()["content-type"], "video/mp4");
    assert_eq!(
        whole.headers()["content-disposition"],
        "attachment; filename=\"clip.mp4\""
    );
    assert_eq!(whole.bytes().await.unwrap(), HELLO);

    let part = farm
        .http
        .get(url.uri())
        .header("range", "bytes=0-4")
        .send()
        .await
        .unwrap();
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.bytes().await.unwrap(), &b"hello"[..]);

    let other_key = url.uri().replace("clips/b/", "clips/c/");
    assert_eq!(
        farm.http.get(other_key).send().await.unwrap().status(),
        StatusCode::FORBIDDEN
    );
}

#[tokio::test]
async fn a_presigned_put_takes_what_was_signed_and_nothing_else() {
    let farm = Farm::start().await;
    let ttl = Duration::from_secs(60);
    let (url, headers) = farm.presign_put("uploads/a", ttl).await;
    let put = async |url: &str, headers: &reqwest::header::HeaderMap, body: &'static [u8]| {
        farm.http
            .put(url)
            .headers(headers.clone())
            .body(body)
            .send()
            .await
            .unwrap()
            .status()
    };

    assert_eq!(
        put(&url, &headers, b"hello frame").await,
        StatusCode::FORBIDDEN,
        "a shorter body"
    );
    let mut html = headers.clone();
    html.insert("content-type", "text/html".parse().unwrap());
    assert_eq!(
        put(&url, &html, HELLO).await,
        StatusCode::FORBIDDEN,
        "another content type"
    );
    assert!(!farm.exists("uploads/a").await);

    assert_eq!(
        put(&url, &headers, b"HELLO FRAMES").await,
        StatusCode::BAD_REQUEST,
        "other bytes"
    );
    assert!(
        !farm.exists("uploads/a").await,
        "an upload with a wrong checksum was kept"
    );

    assert_eq!(put(&url, &headers, HELLO).await, StatusCode::OK);
    assert_eq!(
        put(&url, &headers, HELLO).await,
        StatusCode::PRECONDITION_FAILED,
        "a second upload"
    );
    let head = farm
        .client
        .head_object()
        .bucket(farm.bucket())
        .key("uploads/a")
        .send()
        .await
        .unwrap();
    assert_eq!(head.content_type(), Some("image/png"));

    let (url, headers) = farm.presign_put("uploads/b", Duration::from_secs(1)).await;
    support::eventually("the URL expires", async || {
        put(&url, &headers, b"HELLO FRAMES").await == StatusCode::FORBIDDEN
    })
    .await;
}

#[tokio::test]
async fn nobody_without_a_signature_can_do_anything() {
    let farm = Farm::start().await;
    farm.put("private", "text/plain").await;
    let url = format!("{}/{}/private", farm.s3.access().endpoint, farm.bucket());
    for method in [
        reqwest::Method::GET,
        reqwest::Method::HEAD,
        reqwest::Method::PUT,
        reqwest::Method::DELETE,
    ] {
        let answer = farm
            .http
            .request(method.clone(), &url)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{method}");
    }
    let forger = client(farm.s3.access(), "another secret");
    assert!(
        forger
            .get_object()
            .bucket(farm.bucket())
            .key("private")
            .send()
            .await
            .is_err()
    );
    assert!(farm.exists("private").await);
}

#[tokio::test]
async fn a_wrong_checksum_leaves_nothing_behind() {
    let farm = Farm::start().await;
    let refused = farm
        .client
        .put_object()
        .bucket(farm.bucket())
        .key("damaged")
        .checksum_sha256(WRONG_SHA256)
        .body(ByteStream::from_static(HELLO))
        .send()
        .await;
    assert!(refused.is_err());
    assert!(!farm.exists("damaged").await);
}

fn files_below(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    let count = |entry: std::fs::DirEntry| match entry.path() {
        path if path.is_dir() => 1 + files_below(&path),
        _ => 1,
    };
    entries.map(count).sum()
}

#[tokio::test]
async fn a_deleted_object_leaves_nothing() {
    let farm = Farm::start().await;
    let objects = farm.folder.path().join("objects");
    let before = files_below(&objects);
    let keys: Vec<String> = (0..20)
        .map(|n| format!("clips/{}/{n}/clip.mp4", n % 4))
        .collect();
    for key in &keys {
        farm.put(key, "video/mp4").await;
    }
    let (one_by_one, together) = keys.split_at(10);
    for key in one_by_one {
        let delete = farm.client.delete_object().bucket(farm.bucket());
        delete.key(key).send().await.unwrap();
    }
    assert!(farm.exists(&together[0]).await);
    let named = together.iter().map(|key| {
        let named = aws_sdk_s3::types::ObjectIdentifier::builder().key(key);
        named.build().unwrap()
    });
    let named = aws_sdk_s3::types::Delete::builder().set_objects(Some(named.collect()));
    let delete = farm.client.delete_objects().bucket(farm.bucket());
    delete.delete(named.build().unwrap()).send().await.unwrap();
    assert_eq!(files_below(&objects), before);
}

#[tokio::test]
async fn objects_survive_a_restart() {
    let farm = Farm::start().await;
    farm.put("kept", "video/mp4").await;
    let Farm { s3, folder, .. } = farm;
    s3.stop().await;

    let s3 = S3::start(folder.path()).await.unwrap();
    let client = client(s3.access(), &s3.access().secret_access_key);
    let kept = client
        .get_object()
        .bucket(&s3.access().bucket)
        .key("kept")
        .send()
        .await
        .unwrap();
    assert_eq!(kept.content_type(), Some("video/mp4"));
    assert_eq!(kept.body.collect().await.unwrap().into_bytes(), HELLO);
}
