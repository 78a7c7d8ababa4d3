//! Times and places as people say them.

use crate::client::StartsIn;

/// Where a job stands in the queue, why it waits, and when it will probably start.
pub fn position_text(position: Option<u32>, reason: &str, starts_in: Option<StartsIn>) -> String {
    let place = match position {
        Some(0 | 1) => "next".to_owned(),
        Some(position) => format!("number {position} in the queue"),
        None => "in the queue".to_owned(),
    };
    let why = match reason {
        "" => String::new(),
        reason => format!(": {reason}"),
    };
    let when = match starts_in {
        Some(StartsIn { p90_s, .. }) if p90_s < 2.0 => "; starts at once".to_owned(),
        Some(StartsIn { p50_s, p90_s }) if p50_s < 1.0 => format!(
            "; starts in a moment, most likely within {}",
            duration_text(p90_s)
        ),
        Some(StartsIn { p50_s, p90_s }) => format!(
            "; starts in about {}, most likely within {}",
            duration_text(p50_s),
            duration_text(p90_s)
        ),
        None => String::new(),
    };
    format!("{place}{why}{when}")
}

/// Seconds as people say them: `7 s`, `3 min 20 s`, `2 h 5 min`.
pub fn duration_text(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, min, s) => format!("{min} min {s} s"),
        (h, min, _) => format!("{h} h {min} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_say_them() {
        for (seconds, text) in [
            (-1.0, "0 s"),
            (7.4, "7 s"),
            (59.6, "1 min 0 s"),
            (200.0, "3 min 20 s"),
            (7_500.0, "2 h 5 min"),
        ] {
            assert_eq!(duration_text(seconds), text);
        }
    }

    #[test]
    fn a_place_in_the_queue_comes_with_its_reason() {
        assert_eq!(position_text(Some(1), "", None), "next");
        assert_eq!(
            position_text(Some(3), "two of yours run", None),
            "number 3 in the queue: two of yours run"
        );
        let starts_in = Some(StartsIn {
            p50_s: 70.0,
            p90_s: 130.0,
        });
        assert_eq!(
            position_text(None, "others are ahead", starts_in),
            "in the queue: others are ahead; starts in about 1 min 10 s, most likely within 2 min 10 s"
        );
        let at_once = Some(StartsIn {
            p50_s: 0.3,
            p90_s: 3.0,
        });
        assert_eq!(
            position_text(Some(1), "", at_once),
            "next; starts in a moment, most likely within 3 s"
        );
    }
}
