//! All parts together, each embedded or external.

use std::path::Path;
use std::time::Duration;

use url::Url;

use crate::Error;
use crate::folder::Folder;
use crate::postgres::{DatabaseUrls, Listen, Postgres};
use crate::redis::Redis;
use crate::run_as::RunAs;
use crate::s3::{S3, S3Access};
use crate::secrets::{self, DatabasePasswords};

/// A part that cannot be started again is tried at this pace.
const RESTART_INTERVAL: Duration = Duration::from_secs(1);

/// Parts that somebody else runs, in place of embedded ones.
#[derive(Clone, Debug, Default)]
pub struct External {
    /// The database as its owner, who may make roles: `postgres://owner:password@host/database`.
    pub database_url: Option<String>,
    /// `redis://`, `rediss://` or `unix://`.
    pub redis_url: Option<String>,
    pub s3: Option<S3Access>,
}

impl External {
    /// `DATABASE_URL`, `REDIS_URL` and `S3_ENDPOINT`, the last with `S3_BUCKET`, `S3_ACCESS_KEY_ID`,
    /// `S3_SECRET_ACCESS_KEY` and, unless it is `us-east-1`, `S3_REGION`. Each may also be given as a file that holds it,
    /// named by the same name with `_FILE` behind it. An empty one is none.
    pub fn from_env() -> Result<Self, Error> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    pub(crate) fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let value = |name: &'static str| -> Result<Option<String>, Error> {
            match (variable(name), variable(&format!("{name}_FILE"))) {
                (Some(_), Some(_)) => Err(Error::Address {
                    name,
                    reason: "it is given both as it is and as a file".to_owned(),
                }),
                (Some(value), None) => Ok(Some(value)),
                (None, Some(path)) => std::fs::read_to_string(&path)
                    .map(|value| {
                        Some(value.trim_end().to_owned()).filter(|value| !value.is_empty())
                    })
                    .map_err(Error::io(format!("reading {path}"))),
                (None, None) => Ok(None),
            }
        };
        let needed = |name: &'static str| {
            value(name)?.ok_or_else(|| Error::Address {
                name,
                reason: "S3_ENDPOINT is given, so it must be too".to_owned(),
            })
        };
        let s3 = match value("S3_ENDPOINT")? {
            None => None,
            Some(endpoint) => Some(S3Access {
                endpoint,
                region: value("S3_REGION")?.unwrap_or_else(|| "us-east-1".to_owned()),
                bucket: needed("S3_BUCKET")?,
                access_key_id: needed("S3_ACCESS_KEY_ID")?,
                secret_access_key: needed("S3_SECRET_ACCESS_KEY")?,
            }),
        };
        Ok(Self {
            database_url: value("DATABASE_URL")?,
            redis_url: value("REDIS_URL")?,
            s3,
        })
    }
}

/// The parts a farm stands on. Dropping it stops the embedded ones.
#[derive(Debug)]
pub struct Parts {
    // Fields are dropped in this order: the parts first, the lock on the folder last.
    postgres: Option<Postgres>,
    redis: Option<Redis>,
    s3: Option<S3>,
    database: (DatabaseUrls, DatabasePasswords),
    redis_url: String,
    s3_access: S3Access,
    _folder: Folder,
}

impl Parts {
    /// Starts what is not external, with its data in `folder` (see [`crate::default_data_dir`]), all at once.
    ///
    /// # Errors
    /// Those of [`Postgres::start`], [`Redis::start`] and [`S3::start`]; what had started by then is stopped again.
    pub async fn start(folder: impl AsRef<Path>, external: External) -> Result<Self, Error> {
        let folder = Folder::hold(folder.as_ref())?;
        let path = folder.path();
        // First, so that an address that cannot be used is said before anything starts.
        let external_database = external
            .database_url
            .as_deref()
            .map(|url| external_database(&folder, url))
            .transpose()?;

        if external_database.is_none() || external.redis_url.is_none() {
            folder.let_through(&RunAs::choose()?)?;
        }
        let start_postgres = async {
            if let Some(database) = external_database {
                return Ok((None, database));
            }
            let postgres = Postgres::start(path.join("postgres"), Listen::Socket).await?;
            let database = (postgres.urls().clone(), postgres.passwords().clone());
            Ok((Some(postgres), database))
        };
        let start_redis = async {
            if let Some(url) = external.redis_url {
                return Ok((None, url));
            }
            let redis = Redis::start(path.join("redis")).await?;
            let url = redis.url().to_owned();
            Ok((Some(redis), url))
        };
        let start_s3 = async {
            if let Some(access) = external.s3 {
                return Ok((None, access));
            }
            let s3 = S3::start(path.join("s3")).await?;
            let access = s3.access().clone();
            Ok((Some(s3), access))
        };
        let ((postgres, database), (redis, redis_url), (s3, s3_access)) =
            tokio::try_join!(start_postgres, start_redis, start_s3)?;
        Ok(Self {
            postgres,
            redis,
            s3,
            database,
            redis_url,
            s3_access,
            _folder: folder,
        })
    }

    pub fn database(&self) -> &DatabaseUrls {
        &self.database.0
    }

    /// What the migrations set as the roles' passwords.
    pub fn database_passwords(&self) -> &DatabasePasswords {
        &self.database.1
    }

    pub fn redis_url(&self) -> &str {
        &self.redis_url
    }

    pub fn s3(&self) -> &S3Access {
        &self.s3_access
    }

    /// The embedded database, `None` when it is external.
    pub fn postgres(&self) -> Option<&Postgres> {
        self.postgres.as_ref()
    }

    /// The embedded Redis, `None` when it is external.
    pub fn redis(&self) -> Option<&Redis> {
        self.redis.as_ref()
    }

    /// Starts an embedded server again whenever it ends by itself. Never returns: drop it before [`Parts::stop`].
    pub async fn keep_running(&self) {
        let postgres = async {
            let Some(postgres) = &self.postgres else {
                return std::future::pending::<()>().await;
            };
            loop {
                postgres.ended().await;
                tracing::warn!("postgres ended by itself, starting it again");
                if let Err(error) = postgres.restart().await {
                    tracing::error!(%error, "postgres does not start");
                    tokio::time::sleep(RESTART_INTERVAL).await;
                }
            }
        };
        let redis = async {
            let Some(redis) = &self.redis else {
                return std::future::pending::<()>().await;
            };
            loop {
                redis.ended().await;
                tracing::warn!("redis ended by itself, starting it again");
                if let Err(error) = redis.restart().await {
                    tracing::error!(%error, "redis does not start");
                    tokio::time::sleep(RESTART_INTERVAL).await;
                }
            }
        };
        tokio::join!(postgres, redis);
    }

    /// Stops the embedded parts in good order. Dropping does the same, but blocks the thread.
    pub async fn stop(self) -> Result<(), Error> {
        let Self {
            postgres,
            redis,
            s3,
            ..
        } = self;
        if let Some(s3) = s3 {
            s3.stop().await;
        }
        if let Some(redis) = redis {
            redis.stop().await?;
        }
        if let Some(postgres) = postgres {
            postgres.stop().await?;
        }
        Ok(())
    }
}

/// Roles of an external database get random passwords as well, kept in the farm's folder.
fn external_database(
    folder: &Folder,
    url: &str,
) -> Result<(DatabaseUrls, DatabasePasswords), Error> {
    let unusable = |reason: String| Error::Address {
        name: "DATABASE_URL",
        reason,
    };
    let url = Url::parse(url).map_err(|error| unusable(error.to_string()))?;
    if !matches!(url.scheme(), "postgres" | "postgresql") {
        return Err(unusable("it must begin with postgres://".to_owned()));
    }
    let made = || DatabasePasswords {
        owner: String::new(),
        ..DatabasePasswords::random()
    };
    let mut passwords = secrets::load_or_make(&folder.path().join("database.json"), made)?;
    passwords.owner = url.password().unwrap_or_default().to_owned();
    let urls = DatabaseUrls::from_owner(&url, &passwords)?;
    Ok((urls, passwords))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn check(variables: &[(&str, &str)]) -> Result<External, Error> {
        External::from_variables(|name| {
            variables
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn nothing_given_means_all_embedded() {
        let empty = [
            ("DATABASE_URL", ""),
            ("REDIS_URL_FILE", "/dev/null"),
            ("S3_ENDPOINT", ""),
        ];
        for given in [&[][..], &empty] {
            let external = check(given).unwrap();
            assert!(
                external.database_url.is_none()
                    && external.redis_url.is_none()
                    && external.s3.is_none()
            );
        }
    }

    #[test]
    fn a_secret_may_come_from_a_file() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "postgres://owner:secret@db/flowai").unwrap();
        let external = check(&[("DATABASE_URL_FILE", file.path().to_str().unwrap())]).unwrap();
        assert_eq!(
            external.database_url.as_deref(),
            Some("postgres://owner:secret@db/flowai")
        );
    }

    #[test]
    fn a_value_given_twice_is_refused() {
        let refused = check(&[("REDIS_URL", "redis://a"), ("REDIS_URL_FILE", "/dev/null")]);
        assert!(
            matches!(
                refused,
                Err(Error::Address {
                    name: "REDIS_URL",
                    ..
                })
            ),
            "{refused:?}"
        );
    }

    #[test]
    fn an_s3_endpoint_needs_its_credentials() {
        let endpoint = ("S3_ENDPOINT", "https://s3.example");
        let bucket = ("S3_BUCKET", "clips");
        let id = ("S3_ACCESS_KEY_ID", "id");
        let secret = ("S3_SECRET_ACCESS_KEY", "secret");
        let s3 = check(&[endpoint, bucket, id, secret]).unwrap().s3.unwrap();
        assert_eq!(
            (s3.region.as_str(), s3.bucket.as_str()),
            ("us-east-1", "clips")
        );
        for (given, missing) in [
            (vec![endpoint, id, secret], "S3_BUCKET"),
            (vec![endpoint, bucket, secret], "S3_ACCESS_KEY_ID"),
            (vec![endpoint, bucket, id], "S3_SECRET_ACCESS_KEY"),
            (
                vec![endpoint, bucket, id, ("S3_SECRET_ACCESS_KEY", "")],
                "S3_SECRET_ACCESS_KEY",
            ),
        ] {
            let refused = check(&given);
            assert!(
                matches!(&refused, Err(Error::Address { name, .. }) if *name == missing),
                "{refused:?}"
            );
        }
    }
}
