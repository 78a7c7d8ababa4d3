use flowai_actors::limits::MESSAGE_BYTES_MAX;
use flowai_actors::wire;

use super::*;

fn foretold(effects: &[Effect]) -> Vec<(NodeId, JobId, Sha256)> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Foretell {
                node, job, models, ..
            } => Some((node.clone(), *job, models.clip.sha256)),
            _ => None,
        })
        .collect()
}

#[test]
fn a_busy_node_is_told_once_of_the_job_that_probably_comes_next() {
    let mut leader = Leader::new();
    let held = leader.running("n1");
    assert!(foretold(&leader.beat("n1", Some(held.at))).is_empty());

    let (next, effects) = leader.arrive();
    assert!(foretold(&effects).is_empty(), "with the next beat");
    let effects = leader.beat("n1", Some(held.at));
    assert_eq!(foretold(&effects), [(node("n1"), next, hash(2))]);
    assert!(foretold(&leader.beat("n1", Some(held.at))).is_empty());

    // Others behind it are no news, but who comes first then is.
    let (after, _) = leader.arrive();
    assert!(foretold(&leader.beat("n1", Some(held.at))).is_empty());
    leader.apply(Event::Swept {
        newcomers: Vec::new(),
        cancelled: vec![next],
    });
    let effects = leader.beat("n1", Some(held.at));
    assert_eq!(foretold(&effects), [(node("n1"), after, hash(2))]);
}

#[test]
fn a_free_node_is_told_nothing() {
    let mut leader = Leader::new();
    leader.register("n1", None);
    assert!(foretold(&leader.beat("n1", None)).is_empty());
}

#[test]
fn a_nodes_adapters_are_seen_by_operators_as_of_its_newest_beat() {
    let mut leader = Leader::new();
    leader.register("n1", None);
    let usage = |bytes| CacheUsage {
        bytes,
        ..CacheUsage::default()
    };
    let say = |leader: &mut Leader, seq, bytes, adapters: Vec<Sha256>| {
        let beat = Box::new(Beat {
            node: node("n1"),
            generation: FIRST,
            seq,
            running: None,
            is_closing: false,
            held_adapters: vec![hash(9)],
            adapters: AdapterTiers {
                fused: Some(FusedState {
                    model: model(),
                    state: hash(8),
                    adapters: Vec::new(),
                }),
                host: KeptAdapters {
                    adapters,
                    usage: usage(bytes),
                },
                ..AdapterTiers::default()
            },
        });
        let reply = leader.reply();
        leader.apply(Event::Beat { reply, beat });
    };
    let many: Vec<Sha256> = (0..100).map(hash).collect();
    say(&mut leader, 2, 7, many.clone());
    say(&mut leader, 1, 3, Vec::new());

    let reply = leader.reply();
    let effects = leader.apply(Event::FarmAsked { reply, after: None });
    let Some(Effect::Answer(_, Answer::Farm(view))) = effects.first() else {
        panic!("{effects:?}")
    };
    let adapters = &view.nodes[0].adapters;
    assert_eq!(adapters.fused.as_ref().unwrap().state, hash(8));
    assert_eq!(adapters.host.usage, usage(7));
    // The newest of them: a farm's view is one message.
    assert!(adapters.host.adapters.len() < 20);
    assert!(many.starts_with(&adapters.host.adapters));
}

/// More than fit into one, each with as many adapters as it may name.
#[test]
fn a_large_farm_is_seen_in_several_messages_that_each_fit() {
    const NODES: usize = 300;
    let mut leader = Leader::new();
    for n in 0..NODES {
        let name = format!("n{n:04}");
        leader.register(&name, None);
        let hashes: Vec<Sha256> = (0..=255).map(hash).collect();
        let beat = Box::new(Beat {
            node: node(&name),
            generation: FIRST,
            seq: 1,
            running: None,
            is_closing: false,
            held_adapters: hashes.clone(),
            adapters: AdapterTiers {
                host: KeptAdapters {
                    adapters: hashes,
                    usage: CacheUsage::default(),
                },
                ..AdapterTiers::default()
            },
        });
        let reply = leader.reply();
        leader.apply(Event::Beat { reply, beat });
    }
    let (mut after, mut seen) = (None, Vec::new());
    loop {
        let reply = leader.reply();
        let effects = leader.apply(Event::FarmAsked { reply, after });
        let Some(Effect::Answer(_, Answer::Farm(view))) = effects.into_iter().next() else {
            panic!("no view of the farm")
        };
        let sealed = wire::seal(TERM, view.as_ref()).unwrap();
        assert!(sealed.bytes.len() <= MESSAGE_BYTES_MAX);
        for node in &view.nodes {
            assert_eq!(node.held_adapters_count, Some(256));
            seen.push(node.node.to_string());
        }
        after = view.next_after.clone();
        if after.is_none() {
            break;
        }
    }
    let all: Vec<String> = (0..NODES).map(|n| format!("n{n:04}")).collect();
    assert_eq!(seen, all);
}
