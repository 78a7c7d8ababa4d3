//! Redis: rate limits and single-use tickets. It is never the truth (INV-1): an empty Redis is a valid one, and every
//! key has an expiry.
//!
//! No scripts are used: the farm's Redis user may not run any.

use std::time::{Duration, SystemTime};

use ::redis::aio::{ConnectionManager, ConnectionManagerConfig};
use ::redis::io::tcp::TcpSettings;
use ::redis::{IntoConnectionInfo as _, RedisResult};
use sha2::{Digest, Sha256};
use tokio::time::timeout;

/// A request that waited longer than this for Redis answers without it.
const RESPONSE_DEADLINE: Duration = Duration::from_millis(500);
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// What is sent and not acknowledged for so long was sent to nobody: the connection is made anew. A late answer alone is no reason for the
/// client to do so.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(2);

/// Why Redis could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum RedisError {
    #[error("redis url is not usable: {0}")]
    Url(#[source] ::redis::RedisError),

    /// Redis is down, slow or restarting; the connection comes back by itself. Logins and payments must be refused
    /// now, reads may go on with a local limit.
    #[error("redis did not answer: {0}")]
    Unavailable(#[source] ::redis::RedisError),
}

/// At most so many requests of one subject in any stretch of time as long as the window, within the accuracy of
/// [`decide`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Part of the key; limits of the same name share their counts.
    pub name: &'static str,
    /// At least 1.
    pub requests_max: u32,
    /// At least 1 ms.
    pub window: Duration,
}

/// The answer to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// Go on; so many more are left right now.
    Allowed { remaining: u32 },
    /// Refuse; the next one may be allowed after this long. A refused request does not count.
    Limited { retry_after: Duration },
}

/// A connection to Redis. Cheap to clone; reconnects by itself.
#[derive(Clone)]
pub struct Redis {
    connection: ConnectionManager,
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redis").finish_non_exhaustive()
    }
}

impl Redis {
    /// Connects to `redis://`, `rediss://` or `unix://`, credentials in the URL.
    pub async fn connect(url: &str) -> Result<Self, RedisError> {
        let address = url.into_connection_info().map_err(RedisError::Url)?;
        let tcp = TcpSettings::default()
            .set_nodelay(true)
            .set_user_timeout(UNACKNOWLEDGED_MAX);
        let address = address.set_tcp_settings(tcp);
        let client = ::redis::Client::open(address).map_err(RedisError::Url)?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(CONNECT_DEADLINE))
            .set_response_timeout(Some(RESPONSE_DEADLINE))
            .set_number_of_retries(2)
            .set_max_delay(Duration::from_millis(200));
        let connection = client
            .get_connection_manager_with_config(config)
            .await
            .map_err(RedisError::Unavailable)?;
        Ok(Self { connection })
    }

    /// Whether Redis answers.
    pub async fn ping(&self) -> Result<(), RedisError> {
        let mut connection = self.connection.clone();
        in_time(::redis::cmd("PING").query_async(&mut connection)).await
    }

    /// Counts one request of `subject` (a user id, an address) against `limit`.
    pub async fn count(&self, limit: &RateLimit, subject: &str) -> Result<Rate, RedisError> {
        let window_ms = u64::try_from(limit.window.as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        let now_ms = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_millis();
        let now_ms = u64::try_from(now_ms).unwrap_or(u64::MAX);
        let (number, elapsed_ms) = (now_ms / window_ms, now_ms % window_ms);
        let key = |number: u64| format!("rate:{}:{subject}:{window_ms}:{number}", limit.name);
        let (current_key, previous_key) = (key(number), key(number.saturating_sub(1)));

        let mut connection = self.connection.clone();
        let mut counting = ::redis::pipe();
        counting
            .atomic()
            .incr(&current_key, 1)
            .cmd("PEXPIRE")
            .arg(&current_key)
            .arg(window_ms.saturating_mul(2))
            .arg("NX")
            .ignore()
            .get(&previous_key);
        let counts = in_time(counting.query_async(&mut connection)).await?;
        let (current, previous): (i64, Option<i64>) = counts;

        let rate = decide(
            Counts {
                previous: counted(previous.unwrap_or(0)),
                current: counted(current),
                elapsed_ms,
                window_ms,
            },
            limit.requests_max,
        );
        if matches!(rate, Rate::Limited { .. }) {
            // A key that went in between comes back with this, and must go again.
            let mut taking_back = ::redis::pipe();
            taking_back
                .atomic()
                .decr(&current_key, 1)
                .ignore()
                .cmd("PEXPIRE")
                .arg(&current_key)
                .arg(window_ms.saturating_mul(2))
                .arg("NX")
                .ignore();
            let taken_back: Result<(), _> = in_time(taking_back.query_async(&mut connection)).await;
            if let Err(error) = taken_back {
                // The subject waits a little longer than it had to.
                tracing::debug!(%error, limit = limit.name, "a refused request stays counted");
            }
        }
        Ok(rate)
    }

    /// Makes a ticket that is good for one [`Redis::redeem_ticket`] within `ttl` and brings `value` back: 64 hexadecimal
    /// digits. Redis holds only its hash, so whoever reads Redis has no tickets.
    pub async fn issue_ticket(
        &self,
        purpose: &'static str,
        value: &str,
        ttl: Duration,
    ) -> Result<String, RedisError> {
        let ticket = hex::encode(rand::random::<[u8; 32]>());
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1);
        let mut connection = self.connection.clone();
        let mut set = ::redis::cmd("SET");
        set.arg(ticket_key(purpose, &ticket)).arg(value);
        set.arg("NX").arg("PX").arg(ttl_ms);
        let () = in_time(set.query_async(&mut connection)).await?;
        Ok(ticket)
    }

    /// The value of a ticket, once: `None` when it is unknown, of another purpose, too old, or was redeemed before.
    pub async fn redeem_ticket(
        &self,
        purpose: &'static str,
        ticket: &str,
    ) -> Result<Option<String>, RedisError> {
        let mut connection = self.connection.clone();
        let mut get = ::redis::cmd("GETDEL");
        get.arg(ticket_key(purpose, ticket));
        in_time(get.query_async(&mut connection)).await
    }
}

/// The wait for a connection that is being made again included: a client alone would wait for that as long as it takes.
async fn in_time<T>(answer: impl Future<Output = RedisResult<T>>) -> Result<T, RedisError> {
    let late = |_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into());
    let answer = timeout(RESPONSE_DEADLINE, answer).await;
    answer.unwrap_or_else(late).map_err(RedisError::Unavailable)
}

fn ticket_key(purpose: &str, ticket: &str) -> String {
    format!("ticket:{purpose}:{}", hex::encode(Sha256::digest(ticket)))
}

/// A count that was taken back from a key that had gone is one below nothing.
fn counted(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

/// Two fixed windows, and how far the present one has gone.
#[derive(Clone, Copy, Debug)]
struct Counts {
    /// Requests in the window before this one.
    previous: u64,
    /// Requests in this window, the present one included.
    current: u64,
    elapsed_ms: u64,
    window_ms: u64,
}

/// The sliding window counter: the previous window counts for the part of it that the sliding window still covers, as if
/// its requests had come evenly. Pure, so that hours are tested in no time.
fn decide(counts: Counts, requests_max: u32) -> Rate {
    let Counts {
        previous,
        current,
        elapsed_ms,
        window_ms,
    } = counts;
    let max = u64::from(requests_max);
    let weight = 1.0 - elapsed_ms as f64 / window_ms as f64;
    let used = previous as f64 * weight + current as f64;
    if used <= max as f64 {
        return Rate::Allowed {
            remaining: (max as f64 - used) as u32,
        };
    }
    // How far a window must have gone until `before` requests of the one before leave room for one more.
    let room_after_ms = |before: u64, room: u64| {
        (window_ms as f64 * (1.0 - room as f64 / before as f64))
            .max(0.0)
            .ceil() as u64
    };
    let earlier = current - 1;
    let wait_ms = if earlier < max {
        room_after_ms(previous, max - earlier - 1).saturating_sub(elapsed_ms)
    } else {
        window_ms - elapsed_ms + room_after_ms(earlier, max.saturating_sub(1))
    };
    Rate::Limited {
        retry_after: Duration::from_millis(wait_ms.max(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW_MS: u64 = 60_000;

    fn check(previous: u64, current: u64, elapsed_ms: u64, expected: Rate) {
        let counts = Counts {
            previous,
            current,
            elapsed_ms,
            window_ms: WINDOW_MS,
        };
        assert_eq!(decide(counts, 10), expected, "{counts:?}");
    }

    fn limited(seconds: u64) -> Rate {
        Rate::Limited {
            retry_after: Duration::from_secs(seconds),
        }
    }

    #[test]
    fn the_limit_is_reached_and_not_passed() {
        check(0, 1, 0, Rate::Allowed { remaining: 9 });
        check(0, 10, 0, Rate::Allowed { remaining: 0 });
        // Ten in this window, all at its start: the next after it is over, plus a tenth of the next one.
        check(0, 11, 0, limited(66));
        check(0, 11, 30_000, limited(36));
    }

    #[test]
    fn the_window_before_counts_for_what_is_left_of_it() {
        check(10, 1, 0, limited(6));
        check(10, 1, 6_000, Rate::Allowed { remaining: 0 });
        check(10, 1, 30_000, Rate::Allowed { remaining: 4 });
        check(10, 5, 30_000, Rate::Allowed { remaining: 0 });
        check(10, 6, 30_000, limited(6));
        check(
            10,
            10,
            59_999,
            Rate::Limited {
                retry_after: Duration::from_millis(1),
            },
        );
    }

    #[test]
    fn whoever_waits_as_told_is_allowed() {
        for previous in 0..=10 {
            for current in 1..=11 {
                for elapsed_ms in (0..WINDOW_MS).step_by(1_777) {
                    let counts = Counts {
                        previous,
                        current,
                        elapsed_ms,
                        window_ms: WINDOW_MS,
                    };
                    let Rate::Limited { retry_after } = decide(counts, 10) else {
                        continue;
                    };
                    let then_ms = elapsed_ms + u64::try_from(retry_after.as_millis()).unwrap();
                    let later = match then_ms / WINDOW_MS {
                        0 => Counts {
                            elapsed_ms: then_ms,
                            ..counts
                        },
                        1 => Counts {
                            previous: current - 1,
                            current: 1,
                            elapsed_ms: then_ms % WINDOW_MS,
                            ..counts
                        },
                        _ => Counts {
                            previous: 0,
                            current: 1,
                            elapsed_ms: then_ms % WINDOW_MS,
                            ..counts
                        },
                    };
                    assert!(
                        matches!(decide(later, 10), Rate::Allowed { .. }),
                        "{counts:?} waits {retry_after:?}"
                    );
                }
            }
        }
    }
}
