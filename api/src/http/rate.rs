//! Rate limits by user, and by address and account before anybody is known.
//!
//! When Redis is gone, strangers are refused (nobody guesses passwords without being counted) and known callers are
//! counted by this instance alone.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use axum::http::{HeaderMap, HeaderValue, Method};
use flowai_store::redis::{Rate, RateLimit, Redis};

use crate::auth::{Principal, hash_of};
use crate::error::{ApiError, RateState};
use crate::http::Caller;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

/// Looking. A page that polls every second and a half is well below it.
const READS: RateLimit = RateLimit {
    name: "reads",
    requests_max: 1_200,
    window: MINUTE,
};
/// Changes that cost little.
const WRITES: RateLimit = RateLimit {
    name: "writes",
    requests_max: 300,
    window: MINUTE,
};
/// Renders. The queue has its own bound a user.
const VIDEOS: RateLimit = RateLimit {
    name: "videos",
    requests_max: 600,
    window: HOUR,
};
/// Files: each is decoded, checked and stored.
const UPLOADS: RateLimit = RateLimit {
    name: "uploads",
    requests_max: 600,
    window: HOUR,
};
/// Sign-ups, logins and refreshes from one address: a household, not a list of passwords.
const STRANGERS: RateLimit = RateLimit {
    name: "strangers",
    requests_max: 60,
    window: MINUTE,
};
/// The same for one account, from wherever.
const ACCOUNT: RateLimit = RateLimit {
    name: "account",
    requests_max: 10,
    window: MINUTE,
};

/// Callers counted at once while Redis is gone; over it the counts start anew.
const LOCAL_COUNTS_MAX: usize = 10_000;

/// Requests of one caller in a window.
#[derive(Debug, Default)]
struct LocalCount {
    /// Windows since 1970.
    window: u64,
    requests: u32,
}

/// All limits of an instance.
#[derive(Debug)]
pub struct RateLimits {
    redis: Redis,
    scale: u32,
    /// While Redis is gone.
    local: Mutex<HashMap<(&'static str, String), LocalCount>>,
}

impl RateLimits {
    /// `scale` multiplies every limit.
    pub fn new(redis: Redis, scale: u32) -> Self {
        Self {
            redis,
            scale: scale.max(1),
            local: Mutex::default(),
        }
    }

    /// Counts a known caller's request. The state goes into the answer's headers.
    ///
    /// # Errors
    /// `RateLimited`.
    pub async fn admit(
        &self,
        principal: &Principal,
        method: &Method,
        path: &str,
    ) -> Result<RateState, ApiError> {
        let limit = self.scaled(limit_of(method, path));
        let subject = principal.user.to_string();
        let rate = match self.redis.count(&limit, &subject).await {
            Ok(rate) => rate,
            Err(error) => {
                tracing::warn!(%error, "redis is gone; callers are counted here");
                self.count_locally(&limit, subject)
            }
        };
        let state = state(&limit, rate);
        match rate {
            Rate::Allowed { .. } => Ok(state),
            Rate::Limited { .. } => Err(ApiError::RateLimited(state)),
        }
    }

    /// Counts a stranger's request, by address and by what it is about (an email, a token).
    ///
    /// # Errors
    /// `RateLimited`; `DependencyDown` without Redis.
    pub async fn admit_stranger(&self, caller: &Caller, about: &str) -> Result<(), ApiError> {
        // Neither emails nor tokens lie in Redis.
        let about = hex::encode(&hash_of(about)[..16]);
        for (limit, subject) in [(STRANGERS, caller.network.to_string()), (ACCOUNT, about)] {
            let limit = self.scaled(limit);
            let rate = self.redis.count(&limit, &subject).await?;
            if matches!(rate, Rate::Limited { .. }) {
                return Err(ApiError::RateLimited(state(&limit, rate)));
            }
        }
        Ok(())
    }

    fn scaled(&self, limit: RateLimit) -> RateLimit {
        RateLimit {
            requests_max: limit.requests_max.saturating_mul(self.scale),
            ..limit
        }
    }

    /// A fixed window: coarser than Redis's sliding one, and it forgets with the process.
    fn count_locally(&self, limit: &RateLimit, subject: String) -> Rate {
        let window_s = limit.window.as_secs().max(1);
        let now_s = unix_seconds();
        let mut counts = self.local.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.len() >= LOCAL_COUNTS_MAX {
            counts.clear();
        }
        let count = counts.entry((limit.name, subject)).or_default();
        let window = now_s / window_s;
        if count.window != window {
            *count = LocalCount {
                window,
                requests: 0,
            };
        }
        if count.requests >= limit.requests_max {
            return Rate::Limited {
                retry_after: Duration::from_secs(window_s - now_s % window_s),
            };
        }
        count.requests += 1;
        Rate::Allowed {
            remaining: limit.requests_max - count.requests,
        }
    }
}

fn limit_of(method: &Method, path: &str) -> RateLimit {
    let is_read = method.is_safe();
    match path {
        "/v1/videos" | "/v1/batches" | "/openai/v1/videos" if !is_read => VIDEOS,
        _ if !is_read && (path.ends_with("/remix") || path.ends_with("/final")) => VIDEOS,
        "/v1/uploads" if !is_read => UPLOADS,
        _ if is_read => READS,
        _ => WRITES,
    }
}

fn state(limit: &RateLimit, rate: Rate) -> RateState {
    let window_s = limit.window.as_secs().max(1);
    let (remaining, reset) = match rate {
        Rate::Allowed { remaining } => {
            let left_s = window_s - unix_seconds() % window_s;
            (remaining, Duration::from_secs(left_s))
        }
        Rate::Limited { retry_after } => (0, retry_after),
    };
    RateState {
        name: limit.name,
        requests_max: limit.requests_max,
        window: limit.window,
        remaining,
        reset,
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// `RateLimit-Policy` and `RateLimit`, as of the IETF's draft.
pub(crate) fn write_headers(headers: &mut HeaderMap, rate: &RateState) {
    let RateState {
        name,
        requests_max,
        window,
        remaining,
        reset,
    } = rate;
    let policy = format!("\"{name}\";q={requests_max};w={}", window.as_secs());
    let left = format!(
        "\"{name}\";r={remaining};t={}",
        reset.as_secs_f64().ceil() as u64
    );
    for (header, value) in [("ratelimit-policy", policy), ("ratelimit", left)] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(header, value);
        }
    }
}
