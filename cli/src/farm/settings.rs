//! The settings of the farm's programs as environment variables; their meaning is in `docs/operations.md`.

use std::ffi::OsString;
use std::path::Path;

use flowai_embedded::Parts;
use url::Url;

use super::folder::DataFolder;
use super::options::{ApiOptions, Engine, FarmOptions};

/// How often a thread of libtorch's kernels looks for its next work before it sleeps.
const SPINS: &str = "GOMP_SPINCOUNT";

/// Left alone, it is 300,000: on a machine whose cores are wanted by others, threads then mostly keep each other from the work
/// that they look for. So few cost nothing that can be measured on an idle machine (`docs/benchmarks.md`).
const SPINS_OF_A_NODE: &str = "10000";

pub(crate) type Env = Vec<(OsString, OsString)>;

/// What a database's URL leaves open is read from these.
fn is_of_postgres(name: &str) -> bool {
    name.starts_with("PG")
}

/// Settings of the farm never reach a program from the caller's environment: each gets its own, and no other secret.
fn is_setting(name: &str) -> bool {
    let name = name.strip_suffix("_FILE").unwrap_or(name);
    name.starts_with("FLOWAI_")
        || name.starts_with("S3_")
        || matches!(name, "DATABASE_URL" | "REDIS_URL")
}

/// The caller's environment without settings: search paths, log levels, what drivers and libraries read; how to reach the database, where
/// that is the caller's own.
pub(crate) fn inherited(is_database_external: bool) -> Env {
    let is_kept = |name: &str| !is_setting(name) && (is_database_external || !is_of_postgres(name));
    std::env::vars_os()
        .filter(|(name, _)| name.to_str().is_none_or(is_kept))
        .collect()
}

/// Settings of every program.
pub(crate) fn common(folder: &DataFolder, program: &str) -> Env {
    vec![
        set("FLOWAI_ID", program),
        set("FLOWAI_DATA_DIR", folder.state(program)),
        set("FLOWAI_TLS_DIR", folder.tls(program)),
        set("FLOWAI_READY_FILE", folder.ready_file(program)),
    ]
}

pub(crate) fn coordinator(folder: &DataFolder, parts: &Parts) -> Env {
    [
        vec![
            set("DATABASE_URL", &parts.database().coordinator),
            set("FLOWAI_CA_DIR", folder.ca()),
        ],
        object_store(parts),
    ]
    .concat()
}

pub(crate) fn api(
    options: &FarmOptions,
    folder: &DataFolder,
    parts: &Parts,
    coordinators: &str,
) -> Env {
    let ApiOptions {
        public_url,
        is_tls_in_front,
        metrics_listen,
        signup_gift,
        rate_scale,
    } = &options.api;
    let optional = [
        ("FLOWAI_PUBLIC_URL", public_url.as_ref().map(Url::to_string)),
        (
            "FLOWAI_TLS_IN_FRONT",
            is_tls_in_front.then(|| "true".to_owned()),
        ),
        (
            "FLOWAI_METRICS_LISTEN",
            metrics_listen.map(|address| address.to_string()),
        ),
        (
            "FLOWAI_SIGNUP_GIFT",
            signup_gift.map(|gift| gift.to_string()),
        ),
        (
            "FLOWAI_RATE_SCALE",
            rate_scale.map(|scale| scale.to_string()),
        ),
    ];
    let optional = optional
        .into_iter()
        .filter_map(|(name, value)| Some(set(name, value?)));
    [
        optional.collect(),
        vec![
            set("FLOWAI_COORDINATORS", coordinators),
            set("FLOWAI_KEYS_DIR", folder.keys()),
            set("DATABASE_URL", &parts.database().app),
            set("REDIS_URL", parts.redis_url()),
        ],
        object_store(parts),
    ]
    .concat()
}

/// Settings of the node with this index.
pub(crate) fn node(options: &FarmOptions, models: &Path, index: usize, coordinators: &str) -> Env {
    let mut env = match options.engine {
        Engine::Svd => vec![set("FLOWAI_ENGINE", "svd")],
        Engine::StandIn { step } => vec![
            set("FLOWAI_ENGINE", "stand-in"),
            set("FLOWAI_STAND_IN_STEP_MS", step.as_millis().to_string()),
        ],
    };
    env.extend([
        set("FLOWAI_COORDINATORS", coordinators),
        set("FLOWAI_MODELS_DIR", models),
        set(
            "FLOWAI_DEVICE",
            &options.devices[index % options.devices.len()],
        ),
        set("FLOWAI_DTYPE", &options.dtype),
        set("FLOWAI_THREADS", options.threads_of_a_node().to_string()),
        set("FLOWAI_PREVIEW_STEPS", options.preview_steps.to_string()),
    ]);
    env.extend(spins(|name| std::env::var_os(name).is_some()));
    env
}

/// Whoever says how threads wait is right: a number of looks would overrule a policy.
fn spins(is_set: impl Fn(&str) -> bool) -> Option<(OsString, OsString)> {
    let is_said = is_set("OMP_WAIT_POLICY") || is_set(SPINS);
    (!is_said).then(|| set(SPINS, SPINS_OF_A_NODE))
}

fn object_store(parts: &Parts) -> Env {
    let s3 = parts.s3();
    vec![
        set("S3_ENDPOINT", &s3.endpoint),
        set("S3_REGION", &s3.region),
        set("S3_BUCKET", &s3.bucket),
        set("S3_ACCESS_KEY_ID", &s3.access_key_id),
        set("S3_SECRET_ACCESS_KEY", &s3.secret_access_key),
    ]
}

pub(crate) fn set(name: &str, value: impl Into<OsString>) -> (OsString, OsString) {
    (name.into(), value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_threads_wait_is_said_where_the_caller_does_not() {
        assert_eq!(spins(|_| false), Some(set("GOMP_SPINCOUNT", "10000")));
        for said in ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"] {
            assert_eq!(spins(|name| name == said), None, "{said}");
        }
    }

    #[test]
    fn the_callers_settings_and_secrets_are_not_handed_on() {
        for name in [
            "FLOWAI_LISTEN",
            "FLOWAI_API_KEY_FILE",
            "DATABASE_URL",
            "REDIS_URL_FILE",
            "S3_SECRET_ACCESS_KEY",
        ] {
            assert!(is_setting(name), "{name}");
        }
        for name in [
            "PATH",
            "RUST_LOG",
            "LD_LIBRARY_PATH",
            "CUDA_VISIBLE_DEVICES",
        ] {
            assert!(!is_setting(name), "{name}");
        }
    }
}
