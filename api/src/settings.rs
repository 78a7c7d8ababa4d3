//! What an api instance is told: flags, environment variables of the same name, or files that such a variable names.
//! Secrets have no flag, because argument lists can be read by others. `docs/operations.md` lists every one.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser};
use flowai_actors::credits::Millicredits;
use flowai_actors::limits::FARM_QUEUED_MAX;
use flowai_actors::link::{PeerId, Role};
use flowai_actors::program::{SettingError, Source, Value};
use flowai_store::objects::ObjectsConfig;
use url::Url;

/// A larger scale is no limit any more.
const RATE_SCALE_MAX: u32 = 1_000_000;
/// More than any leader was shown to hold.
const QUEUED_MAX_MAX: u32 = 100 * FARM_QUEUED_MAX;
/// Shorter secrets of the object store can be guessed from a signed link that leaked.
const SECRET_BYTES_MIN: usize = 32;

/// PostgreSQL itself takes a hundred by default, from all instances together.
const DATABASE_CONNECTIONS_MAX: u32 = 1_000;

/// Everything that the program must know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// As in the certificate of the link.
    pub id: PeerId,
    pub data_dir: PathBuf,
    pub tls_dir: PathBuf,
    /// Where HTTP is served. Port 0: any free one.
    pub listen: SocketAddr,
    /// host:port of each coordinator's link.
    pub coordinators: Vec<String>,
    pub keys_dir: PathBuf,
    /// `None`: the address that it listens on.
    pub public_url: Option<Url>,
    /// A proxy in front ends TLS and writes `X-Forwarded-For`.
    pub is_behind_proxy: bool,
    /// Where numbers for Prometheus are served. `None`: nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// What a new account begins with.
    pub signup_gift: Millicredits,
    /// Multiplies every rate limit and how many videos of one user may wait, for load tests.
    pub rate_scale: u32,
    /// Unfinished jobs of all users, over which no more are taken.
    pub queued_max: u32,
    /// At most so many at a time.
    pub database_connections: u32,
    /// Written when it serves.
    pub ready_file: Option<PathBuf>,
    pub secrets: Secrets,
}

/// What gives access to the parts.
#[derive(Clone)]
pub struct Secrets {
    pub database_url: String,
    pub redis_url: String,
    pub objects: ObjectsConfig,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets")
    }
}

/// A setting that cannot be used. The program ends with status 2.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error(transparent)]
    Setting(#[from] SettingError),
    #[error("{name} is shorter than {SECRET_BYTES_MIN} bytes; make a random one")]
    Weak { name: &'static str },
    #[error(
        "FLOWAI_LISTEN: {0} can be reached by others; end TLS in front and say so by FLOWAI_TLS_IN_FRONT=true, or listen on 127.0.0.1"
    )]
    Open(SocketAddr),
    #[error(
        "FLOWAI_PUBLIC_URL is needed behind a proxy, as https://farm.example: cookies and browsers' origins go by it"
    )]
    NoPublicUrl,
    #[error("FLOWAI_METRICS_LISTEN: {0} can be reached by others; listen on 127.0.0.1")]
    OpenMetrics(SocketAddr),
    /// What clap says: help, version, an unknown flag.
    #[error(transparent)]
    Usage(#[from] clap::Error),
}

/// Serves FlowAI's HTTP API: who may ask for what, the wish written down, what happened told.
#[derive(Debug, Parser)]
#[command(name = "flowai-api", version)]
struct Cli {
    #[command(flatten)]
    flags: Flags,
}

// Read as text and parsed below, so that a flag, a variable and a file are refused in the same words.
#[derive(Debug, Args)]
struct Flags {
    /// This program's name, a DNS label, as in its certificate [env: FLOWAI_ID]
    #[arg(long)]
    id: Option<String>,
    /// Its own folder: the count of its starts [env: FLOWAI_DATA_DIR]
    #[arg(long)]
    data_dir: Option<String>,
    /// Certificate, key and CA of the link [env: FLOWAI_TLS_DIR]
    #[arg(long)]
    tls_dir: Option<String>,
    /// Where HTTP is served; port 0: any free one [env: FLOWAI_LISTEN] [default: 127.0.0.1:8080]
    #[arg(long)]
    listen: Option<String>,
    /// Link addresses of the coordinators, host:port, comma-separated [env: FLOWAI_COORDINATORS]
    #[arg(long)]
    coordinators: Option<String>,
    /// Keys that sign access tokens and media links; made when the folder is empty [env: FLOWAI_KEYS_DIR]
    #[arg(long)]
    keys_dir: Option<String>,
    /// How browsers reach the api [env: FLOWAI_PUBLIC_URL] [default: the address that it listens on]
    #[arg(long)]
    public_url: Option<String>,
    /// true when a proxy in front ends TLS and writes X-Forwarded-For; without it only loopback is listened on
    /// [env: FLOWAI_TLS_IN_FRONT] [default: false]
    #[arg(long)]
    tls_in_front: Option<String>,
    /// Where numbers for Prometheus are served, on loopback [env: FLOWAI_METRICS_LISTEN] [default: nowhere]
    #[arg(long)]
    metrics_listen: Option<String>,
    /// Credits that a new account begins with, 0 for none [env: FLOWAI_SIGNUP_GIFT] [default: 1000]
    #[arg(long)]
    signup_gift: Option<String>,
    /// Multiplies every rate limit and how many videos of one user may wait, for load tests [env: FLOWAI_RATE_SCALE] [default: 1]
    #[arg(long)]
    rate_scale: Option<String>,
    /// Unfinished videos of all users, over which no more are taken [env: FLOWAI_QUEUED_MAX] [default: 1000000]
    #[arg(long)]
    queued_max: Option<String>,
    /// Connections to the database at a time, beside two that submissions keep; about two for each core of its server
    /// [env: FLOWAI_DATABASE_CONNECTIONS] [default: 8]
    #[arg(long)]
    database_connections: Option<String>,
    /// Written when it serves, as one JSON object with its address [env: FLOWAI_READY_FILE]
    #[arg(long)]
    ready_file: Option<String>,
}

impl Settings {
    /// Reads the command line (with the program's name first) and the environment; a flag wins over both a variable and
    /// the file that `NAME_FILE` names, of which there may be one.
    ///
    /// # Errors
    /// The first setting that is missing, cannot be used, or would open the api to strangers, by name.
    pub fn read(
        args: impl IntoIterator<Item = OsString>,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, SettingsError> {
        let matches = Cli::command().try_get_matches_from(args)?;
        let flags = Cli::from_arg_matches(&matches)?.flags;
        let source = Source::new(env);
        let settings = Self {
            id: peer_id(source.required(flags.id, "FLOWAI_ID")?)?,
            data_dir: source.required(flags.data_dir, "FLOWAI_DATA_DIR")?.into(),
            tls_dir: source.required(flags.tls_dir, "FLOWAI_TLS_DIR")?.into(),
            listen: source
                .or(flags.listen, "FLOWAI_LISTEN", "127.0.0.1:8080")?
                .parsed("an address and a port")?,
            coordinators: source
                .required(flags.coordinators, "FLOWAI_COORDINATORS")?
                .addresses()?,
            keys_dir: source.required(flags.keys_dir, "FLOWAI_KEYS_DIR")?.into(),
            public_url: source
                .optional(flags.public_url, "FLOWAI_PUBLIC_URL")?
                .map(public_url)
                .transpose()?,
            is_behind_proxy: source
                .or(flags.tls_in_front, "FLOWAI_TLS_IN_FRONT", "false")?
                .parsed("true or false")?,
            metrics_listen: source
                .optional(flags.metrics_listen, "FLOWAI_METRICS_LISTEN")?
                .map(|value| value.parsed("an address and a port"))
                .transpose()?,
            signup_gift: gift(source.or(flags.signup_gift, "FLOWAI_SIGNUP_GIFT", "1000")?)?,
            rate_scale: source
                .or(flags.rate_scale, "FLOWAI_RATE_SCALE", "1")?
                .number(1..=RATE_SCALE_MAX)?,
            queued_max: source
                .or(
                    flags.queued_max,
                    "FLOWAI_QUEUED_MAX",
                    &FARM_QUEUED_MAX.to_string(),
                )?
                .number(1..=QUEUED_MAX_MAX)?,
            database_connections: source
                .or(
                    flags.database_connections,
                    "FLOWAI_DATABASE_CONNECTIONS",
                    "8",
                )?
                .number(1..=DATABASE_CONNECTIONS_MAX)?,
            ready_file: source
                .optional(flags.ready_file, "FLOWAI_READY_FILE")?
                .map(Value::into),
            secrets: secrets(&source)?,
        };
        settings.refuse_strangers()?;
        Ok(settings)
    }

    fn refuse_strangers(&self) -> Result<(), SettingsError> {
        if !self.listen.ip().is_loopback() && !self.is_behind_proxy {
            return Err(SettingsError::Open(self.listen));
        }
        if self.is_behind_proxy && self.public_url.is_none() {
            return Err(SettingsError::NoPublicUrl);
        }
        match self.metrics_listen {
            Some(address) if !address.ip().is_loopback() => {
                Err(SettingsError::OpenMetrics(address))
            }
            Some(_) | None => Ok(()),
        }
    }
}

fn secrets<E: Fn(&str) -> Option<String>>(source: &Source<E>) -> Result<Secrets, SettingsError> {
    let required = |name| Ok::<_, SettingsError>(source.required(None, name)?.into_text());
    let secret = |name| {
        let text = required(name)?;
        if text.len() < SECRET_BYTES_MIN {
            return Err(SettingsError::Weak { name });
        }
        Ok(text)
    };
    Ok(Secrets {
        database_url: required("DATABASE_URL")?,
        redis_url: required("REDIS_URL")?,
        objects: ObjectsConfig {
            endpoint: required("S3_ENDPOINT")?,
            region: source.or(None, "S3_REGION", "us-east-1")?.into_text(),
            bucket: required("S3_BUCKET")?,
            access_key_id: required("S3_ACCESS_KEY_ID")?,
            secret_access_key: secret("S3_SECRET_ACCESS_KEY")?,
        },
    })
}

fn peer_id(value: Value) -> Result<PeerId, SettingsError> {
    PeerId::new(Role::Api, value.text()).map_err(|_| value.invalid("a DNS label").into())
}

fn gift(value: Value) -> Result<Millicredits, SettingsError> {
    let gift = value.text().parse().ok();
    let gift = gift.filter(|gift| *gift <= Millicredits::MAX_GRANT);
    gift.ok_or_else(|| value.invalid("credits, as 12 or 12.345").into())
}

fn public_url(value: Value) -> Result<Url, SettingsError> {
    let is_origin = |url: &Url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.path() == "/"
            && url.query().is_none()
    };
    let url = Url::parse(value.text()).ok().filter(is_origin);
    url.ok_or_else(|| {
        value
            .invalid("an http or https address without a path")
            .into()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::fs;

    use super::*;

    const NEEDED: [(&str, &str); 11] = [
        ("FLOWAI_ID", "api-1"),
        ("FLOWAI_DATA_DIR", "/data"),
        ("FLOWAI_TLS_DIR", "/tls"),
        ("FLOWAI_COORDINATORS", "127.0.0.1:7600, c2.example:7600"),
        ("FLOWAI_KEYS_DIR", "/keys"),
        ("DATABASE_URL", "postgres://flowai_app@db/flowai"),
        ("REDIS_URL", "redis://redis"),
        ("S3_ENDPOINT", "http://s3"),
        ("S3_BUCKET", "flowai"),
        ("S3_ACCESS_KEY_ID", "key"),
        ("S3_SECRET_ACCESS_KEY", "0123456789abcdef0123456789abcdef"),
    ];

    fn read(flags: &[&str], env: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let env: HashMap<String, String> = NEEDED
            .iter()
            .chain(env)
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
            .collect();
        let args = std::iter::once("flowai-api").chain(flags.iter().copied());
        Settings::read(args.map(OsString::from), |name| env.get(name).cloned())
    }

    #[test]
    fn defaults_are_those_of_the_operations_page() {
        let settings = read(&[], &[]).unwrap();
        assert_eq!(settings.id.to_string(), "api-1.api");
        assert_eq!(settings.listen.to_string(), "127.0.0.1:8080");
        assert_eq!(settings.coordinators, ["127.0.0.1:7600", "c2.example:7600"]);
        assert_eq!((settings.public_url, settings.ready_file), (None, None));
        assert_eq!((settings.is_behind_proxy, settings.rate_scale), (false, 1));
        assert_eq!(settings.metrics_listen, None);
        assert_eq!(settings.signup_gift, Millicredits::from_credits(1_000));
        assert_eq!(settings.queued_max, 1_000_000);
        assert_eq!(settings.database_connections, 8);
        assert_eq!(settings.secrets.objects.region, "us-east-1");
        let page = include_str!("../../docs/operations.md");
        for (name, default) in [
            ("FLOWAI_LISTEN", "`127.0.0.1:8080`"),
            ("FLOWAI_TLS_IN_FRONT", "`false`"),
            ("FLOWAI_RATE_SCALE", "`1`"),
            ("FLOWAI_SIGNUP_GIFT", "`1000`"),
            ("FLOWAI_QUEUED_MAX", "`1000000`"),
            ("FLOWAI_DATABASE_CONNECTIONS", "`8`"),
        ] {
            let row = format!("| `{name}` |");
            let row = page.lines().find(|line| line.starts_with(&row));
            assert!(
                row.is_some_and(|row| row.contains(default)),
                "{name}: {row:?}"
            );
        }
    }

    #[test]
    fn a_flag_wins_over_a_variable_or_a_file_of_which_there_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("scale");
        fs::write(&file, "3\n").unwrap();
        let file = ("FLOWAI_RATE_SCALE_FILE", file.to_str().unwrap());
        let variable = ("FLOWAI_RATE_SCALE", "2");
        assert_eq!(read(&[], &[file]).unwrap().rate_scale, 3);
        assert_eq!(read(&[], &[variable]).unwrap().rate_scale, 2);
        let both = read(&[], &[file, variable]).unwrap_err().to_string();
        assert!(both.contains("FLOWAI_RATE_SCALE is given both"), "{both}");
        let flagged = read(&["--rate-scale", "1"], &[file, variable]);
        assert_eq!(flagged.unwrap().rate_scale, 1);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let check = |env: (&str, &str), words: &str| {
            let error = read(&[], &[env]).unwrap_err().to_string();
            assert!(error.contains(env.0) && error.contains(words), "{error}");
        };
        for (name, _) in NEEDED {
            check((name, ""), "is missing");
        }
        check(("FLOWAI_ID", "API"), "DNS label");
        check(("FLOWAI_LISTEN", "8080"), "an address and a port");
        check(("FLOWAI_COORDINATORS", "c1"), "host:port");
        check(
            ("FLOWAI_PUBLIC_URL", "https://farm.example/api"),
            "without a path",
        );
        check(("FLOWAI_PUBLIC_URL", "ftp://farm.example"), "http or https");
        check(("FLOWAI_RATE_SCALE", "0"), "1..=1000000");
        check(("FLOWAI_SIGNUP_GIFT", "-1"), "12 or 12.345");
        check(("FLOWAI_SIGNUP_GIFT", "1000000000001"), "12 or 12.345");
        check(("FLOWAI_DATABASE_CONNECTIONS", "0"), "1..=1000");
        check(("FLOWAI_TLS_IN_FRONT", "maybe"), "true or false");
        check(("S3_SECRET_ACCESS_KEY", "minioadmin"), "make a random one");
        check(("FLOWAI_READY_FILE_FILE", "/no/such/file"), "/no/such/file");
    }

    #[test]
    fn an_open_address_needs_tls_in_front() {
        for good in ["127.0.0.1:0", "[::1]:80"] {
            assert!(read(&["--listen", good], &[]).is_ok(), "{good}");
        }
        for open in ["0.0.0.0:80", "192.168.1.4:80", "[::]:80"] {
            let refused = read(&["--listen", open], &[]).unwrap_err();
            assert!(matches!(refused, SettingsError::Open(_)), "{open}");
            let in_front = ("FLOWAI_TLS_IN_FRONT", "true");
            let refused = read(&["--listen", open], &[in_front]).unwrap_err();
            assert!(matches!(refused, SettingsError::NoPublicUrl), "{open}");
            let behind = [in_front, ("FLOWAI_PUBLIC_URL", "https://farm.example")];
            assert!(read(&["--listen", open], &behind).is_ok(), "{open}");
            let refused = read(&["--metrics-listen", open], &behind).unwrap_err();
            assert!(matches!(refused, SettingsError::OpenMetrics(_)), "{open}");
        }
    }

    #[test]
    fn no_flag_takes_a_secret() {
        for (name, _) in &NEEDED[5..] {
            let flag = format!("--{}", name.to_lowercase().replace('_', "-"));
            let error = read(&[&flag, "x"], &[]).unwrap_err();
            assert!(matches!(error, SettingsError::Usage(_)), "{flag}: {error}");
        }
    }
}
