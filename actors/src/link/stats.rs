//! What a link has refused and dropped, for metrics and tests.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts since the link was started.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct LinkStats {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl LinkStats {
            /// Each count with its name.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }

        /// The live counters behind [`LinkStats`].
        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $(pub(super) $name: Counter,)*
        }

        impl Counters {
            pub(super) fn snapshot(&self) -> LinkStats {
                LinkStats { $($name: self.$name.get(),)* }
            }
        }
    };
}

stats! {
    /// Links that came up.
    links_up,
    /// Bytes read from peers, after TLS.
    bytes_read,
    /// Bytes written to peers, before TLS.
    bytes_written,
    /// Connections closed because too many were half open: one that took long to show its certificate, or else the new one.
    refused_half_open,
    /// TLS handshakes that failed or took too long: wrong CA, no certificate, strangers.
    refused_tls,
    /// Certificates whose names are not one of ours, or differ from what the peer claimed to be.
    refused_identity,
    /// Greetings that were late, malformed or of a version nobody here speaks.
    refused_greeting,
    /// Greetings of a generation that is older than one already seen.
    refused_generation,
    /// Frames whose token belongs to no live link.
    refused_token,
    /// Messages of a kind that the sender's role may not send.
    refused_kind,
    /// Frames that could not be decoded or were over 256 KiB.
    refused_malformed,
    /// Links cut because the peer ignored its credit.
    overruns,
    /// Messages answered `Unsupported`.
    unsupported,
    /// `Unsupported` answers of peers that were dropped because the program left too many of them lying.
    unsupported_shed,
}

/// One counter.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Counts one refusal; `true` for the 1st, 2nd, 4th, 8th …: a flood of bad frames must not be a flood of log lines.
    pub(super) fn worth_a_line(&self) -> bool {
        (self.0.fetch_add(1, Ordering::Relaxed) + 1).is_power_of_two()
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
