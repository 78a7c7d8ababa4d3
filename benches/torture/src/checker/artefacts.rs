//! What is called done is there, is what its row says, and plays; and nothing lies in the store that nobody names.

use std::collections::HashSet;
use std::io::Write as _;
use std::process::Command;

use anyhow::{Context as _, ensure};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::primitives::ByteStream;
use flowai_embedded::S3Access;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::facts::Artefact;
use super::{Check, Facts, Tally};

/// Clips that are decoded in full, evenly chosen; of all others hash and size are compared.
const PLAYED_MAX: usize = 25;

/// The object store, by a client of the checker's own.
#[derive(Debug)]
pub(crate) struct Store {
    client: Client,
    bucket: String,
}

impl Store {
    pub(crate) fn new(access: &S3Access) -> Self {
        let credentials = Credentials::new(
            &access.access_key_id,
            &access.secret_access_key,
            None,
            None,
            "torture",
        );
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(&access.endpoint)
            .region(Region::new(access.region.clone()))
            .credentials_provider(credentials)
            .force_path_style(true)
            .build();
        Self {
            client: Client::from_conf(config),
            bucket: access.bucket.clone(),
        }
    }

    async fn keys(&self) -> anyhow::Result<Vec<String>> {
        let mut keys = Vec::new();
        let mut after = None;
        loop {
            let list = self.client.list_objects_v2().bucket(&self.bucket);
            let page = list.set_start_after(after).send().await;
            let page = page.context("listing the store")?;
            let found = page.contents().iter().filter_map(|object| object.key());
            keys.extend(found.map(str::to_owned));
            if page.is_truncated() != Some(true) {
                return Ok(keys);
            }
            after = keys.last().cloned();
        }
    }

    /// For damage that is to be found.
    pub(crate) async fn put(&self, key: &str, bytes: &'static [u8]) -> anyhow::Result<()> {
        let put = self.client.put_object().bucket(&self.bucket).key(key);
        let put = put.body(ByteStream::from_static(bytes)).send().await;
        put.map(drop).with_context(|| format!("writing {key}"))
    }

    /// The bytes; none where nothing lies.
    async fn bytes(&self, key: &str) -> anyhow::Result<Option<Vec<u8>>> {
        let get = self.client.get_object().bucket(&self.bucket).key(key);
        match get.send().await {
            Ok(object) => Ok(Some(object.body.collect().await?.to_vec())),
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(|it| it.is_no_such_key()) =>
            {
                Ok(None)
            }
            Err(error) => Err(error).with_context(|| format!("reading {key}")),
        }
    }
}

pub(super) async fn check(
    facts: &Facts,
    store: &Store,
    tally: &mut Tally,
) -> anyhow::Result<Vec<Check>> {
    let keys = store.keys().await?;
    let present: HashSet<&str> = keys.iter().map(String::as_str).collect();
    let real = artefact_is_real(facts, store, &present).await?;
    Ok(vec![real, no_orphans(facts, &keys, tally)])
}

async fn artefact_is_real(
    facts: &Facts,
    store: &Store,
    present: &HashSet<&str>,
) -> anyhow::Result<Check> {
    let mut check = Check::new("artefact_is_real");
    let every = facts.artefacts.len().div_ceil(PLAYED_MAX).max(1);
    for (number, artefact) in facts.artefacts.iter().enumerate() {
        let job = &artefact.job;
        for key in [
            &artefact.poster_key,
            &artefact.preview_key,
            &artefact.spritesheet_key,
        ] {
            check.look(present.contains(key.as_str()), || {
                format!("{key} of {job} is not there")
            });
        }
        let clip = store.bytes(&artefact.clip_key).await?;
        let is_as_told = clip.as_ref().is_some_and(|clip| {
            clip.len() as i64 == artefact.bytes
                && hex::encode(Sha256::digest(clip)) == artefact.sha256
        });
        check.look(is_as_told, || {
            let bytes = clip.as_ref().map(Vec::len);
            format!("the clip of {job} is not what its row says: {bytes:?} bytes lie there")
        });
        let asked = facts.jobs.get(&artefact.job).map(|job| &job.spec);
        check.look(asked.is_some_and(|asked| is_of(artefact, asked)), || {
            let manifest = &artefact.manifest;
            format!("the manifest of {job} is not whole, or of something else: {manifest}")
        });
        if let (Some(clip), true) = (clip, number % every == 0) {
            let error = plays(artefact, &clip).err();
            check.look(error.is_none(), || {
                let reason = error.map(|error| format!("{error:#}"));
                format!("the clip of {job}: {}", reason.unwrap_or_default())
            });
        }
    }
    Ok(check)
}

/// Whether its manifest is whole, and tells of this job, as it was asked for, and of this attempt.
fn is_of(artefact: &Artefact, asked: &serde_json::Value) -> bool {
    let manifest = &artefact.manifest;
    let is_whole = ["model_sha256", "engine", "node"]
        .iter()
        .all(|name| !manifest[name].is_null());
    is_whole
        && manifest["clip_sha256"] == artefact.sha256.as_str()
        && manifest["job"] == artefact.job.as_str()
        && manifest["attempt"] == artefact.attempt
        && manifest["spec"] == *asked
}

#[derive(Deserialize)]
struct Probed {
    streams: Vec<Stream>,
}

#[derive(Deserialize)]
struct Stream {
    width: u64,
    height: u64,
    avg_frame_rate: String,
    nb_read_frames: String,
}

/// Decodes the whole clip and compares it with what was asked for.
fn plays(artefact: &Artefact, clip: &[u8]) -> anyhow::Result<()> {
    let mut file = tempfile::Builder::new().suffix(".mp4").tempfile()?;
    file.write_all(clip)?;
    let entries = "stream=width,height,avg_frame_rate,nb_read_frames";
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-count_frames", "-select_streams", "v:0"])
        .args(["-show_entries", entries, "-of", "json"])
        .arg(file.path())
        .output()
        .context("running ffprobe")?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && words.is_empty(), "{words}");
    let probed: Probed = serde_json::from_slice(&output.stdout)?;
    let stream = probed.streams.first().context("no video in it")?;
    let spec = &artefact.manifest["spec"];
    let found = [stream.width, stream.height, stream.nb_read_frames.parse()?];
    let asked = ["width", "height", "frames"].map(|name| spec[name].as_u64().unwrap_or_default());
    ensure!(found == asked, "is {found:?}, asked was {asked:?}");
    let rate = format!("{}/1", spec["fps"]);
    ensure!(stream.avg_frame_rate == rate, "{}", stream.avg_frame_rate);
    Ok(())
}

/// Every object is an upload, or a file of an attempt of a job that is there.
fn no_orphans(facts: &Facts, keys: &[String], tally: &mut Tally) -> Check {
    let mut check = Check::new("no_orphans");
    let attempts: HashSet<String> = facts
        .attempts
        .iter()
        .map(|attempt| format!("clips/{}/{}/", attempt.job, attempt.attempt))
        .collect();
    let delivered: HashSet<String> = facts
        .artefacts
        .iter()
        .map(|artefact| format!("clips/{}/{}/", artefact.job, artefact.attempt))
        .collect();
    for key in keys {
        let folder = key.rfind('/').map_or("", |end| &key[..=end]);
        let is_known = key.starts_with("uploads/") || attempts.contains(folder);
        if attempts.contains(folder) && !delivered.contains(folder) {
            tally.undelivered_files += 1;
        }
        check.look(is_known, || format!("{key} is nobody's"));
    }
    check
}
