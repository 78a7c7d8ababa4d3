//! Goal: the link keeps its promises between real processes, over mutual TLS and real sockets.
//!
//! Method: this executable starts itself again as hub and as spokes (`peer.rs`), each with a certificate of a CA made
//! for the test. The tests steer them by lines on their standard input, freeze and kill them, cut their network, and
//! wait for the lines they print, always with a deadline. `hostile.rs` is a peer that does not use our code at all.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bounds;
mod farm;
mod hostile;
mod identity;
mod network;
mod peer;
mod process;
mod recovery;
mod words;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Conclusion, Trial};
use serde_json::Value;

/// Long enough for anything that happens at once, on a machine that builds something else beside.
const SOON: std::time::Duration = std::time::Duration::from_secs(10);

fn main() -> ExitCode {
    if let Ok(setup) = std::env::var(process::PEER_SETUP) {
        let setup: Value = serde_json::from_str(&setup).expect("the setup of a peer is JSON");
        return if setup["hostile"] == true {
            hostile::run(&setup)
        } else {
            peer::run(setup)
        };
    }
    let tests: [(&str, fn()); 21] = [
        (
            "spokes_and_hub_talk_both_ways",
            words::spokes_and_hub_talk_both_ways,
        ),
        (
            "unknown_kinds_are_answered",
            words::unknown_kinds_are_answered,
        ),
        (
            "dropped_and_held_requests_end",
            words::dropped_and_held_requests_end,
        ),
        ("neighbouring_builds_talk", words::neighbouring_builds_talk),
        (
            "payloads_are_never_logged",
            words::payloads_are_never_logged,
        ),
        (
            "large_messages_are_not_sent",
            bounds::large_messages_are_not_sent,
        ),
        (
            "a_stalled_receiver_is_felt_by_its_sender_only",
            bounds::a_stalled_receiver_is_felt_by_its_sender_only,
        ),
        (
            "a_peer_that_ignores_its_credit_is_cut_off",
            bounds::a_peer_that_ignores_its_credit_is_cut_off,
        ),
        (
            "a_giant_frame_ends_only_its_own_link",
            bounds::a_giant_frame_ends_only_its_own_link,
        ),
        (
            "another_farms_certificate_is_refused",
            identity::another_farms_certificate_is_refused,
        ),
        (
            "a_node_cannot_pose_as_a_coordinator",
            identity::a_node_cannot_pose_as_a_coordinator,
        ),
        ("a_node_cannot_serve", identity::a_node_cannot_serve),
        ("a_void_token_is_refused", identity::a_void_token_is_refused),
        (
            "a_role_sends_only_what_it_may",
            identity::a_role_sends_only_what_it_may,
        ),
        (
            "an_older_generation_is_refused",
            identity::an_older_generation_is_refused,
        ),
        (
            "a_standby_sends_on_to_the_leader",
            recovery::a_standby_sends_on_to_the_leader,
        ),
        (
            "a_killed_hub_is_found_again",
            recovery::a_killed_hub_is_found_again,
        ),
        (
            "a_killed_spoke_is_down_at_once",
            recovery::a_killed_spoke_is_down_at_once,
        ),
        (
            "a_frozen_peer_is_noticed_and_comes_back",
            recovery::a_frozen_peer_is_noticed_and_comes_back,
        ),
        (
            "a_newer_process_takes_the_place_of_a_frozen_one",
            recovery::a_newer_process_takes_the_place_of_a_frozen_one,
        ),
        (
            "a_silent_network_is_noticed_and_heals",
            network::a_silent_network_is_noticed_and_heals,
        ),
    ];
    let mut trials: Vec<_> = tests
        .into_iter()
        .map(|(name, test)| trial(name, test))
        .collect();
    // Namespaces need root; the test above covers the same promise through a proxy for everybody else.
    if network::can_make_namespaces() {
        trials.push(trial(
            "a_cut_namespace_is_noticed_and_heals",
            network::a_cut_namespace_is_noticed_and_heals,
        ));
    }
    // Measured in milliseconds, so not beside the others.
    let alone = vec![trial(
        "idle_strangers_keep_nobody_out",
        bounds::idle_strangers_keep_nobody_out,
    )];
    let arguments = Arguments::from_args();
    let conclusions = [trials, alone].map(|trials| libtest_mimic::run(&arguments, trials));
    ExitCode::from(u8::from(conclusions.iter().any(Conclusion::has_failed)))
}

fn trial(name: &str, test: fn()) -> Trial {
    Trial::test(name, move || {
        test();
        Ok(())
    })
}
