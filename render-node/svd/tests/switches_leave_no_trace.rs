//! Goal: what a set of adapters makes of a model depends on nothing that was fused before it (invariant 11).
//! Method: a whole tiny UNet through a thousand random sets; equal sets must give equal bits, and none the bits of the file.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;

use flowai_model::adapter::MagnitudeAxis;
use flowai_model::{Preset, Sha256Digest};
use flowai_svd::AdapterSet;
use flowai_svd::lora::Fuser;
use flowai_svd::params::{Params, Precision};
use flowai_svd::unet::Unet;
use support::adapters::{self, EVERY_MODULE, bits, open, set};
use support::models::Model;
use tch::{Device, Kind};

/// Sets of none to three adapters, among them a DoRA, with two weights each.
fn check(kind: Kind, switches: usize) {
    let model = Model::write(&Preset::Dummy.config(), 58);
    let (dir, config) = (model.scratch(), model.config());
    let targets: [&[&str]; 5] = [
        &EVERY_MODULE,
        &["to_q", "to_k", "to_v", "to_out.0"],
        &["to_v", "conv1", "conv_in"],
        &["net.0.proj", "net.2", "time_emb_proj"],
        &["proj_in", "conv2", "conv_shortcut"],
    ];
    let plain = |i: usize| {
        let spec = adapters::spec(targets[i], 40 + i as u64);
        open(
            &adapters::write(dir, &format!("plain{i}"), config, &spec),
            config,
        )
    };
    let mut files: Vec<_> = (0..targets.len()).map(plain).collect();
    let spec = adapters::spec(targets[2], 46);
    let axis = MagnitudeAxis::Output;
    files.push(open(
        &adapters::write_dora(dir, "dora", config, &spec, axis),
        config,
    ));

    let precision = Precision {
        device: Device::Cpu,
        kind,
        rounded_to: None,
    };
    let mut params = Params::load(&model.folder.unet, precision, Unet::needs).unwrap();
    let mut fuser = Fuser::default();
    let digest = |params: &Params| {
        let bits: Vec<u8> = bits(params).into_values().flatten().collect();
        Sha256Digest::of(&bits)
    };
    let mut seen = BTreeMap::from([(Vec::new(), digest(&params))]);
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut below = |end: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 33) as usize % end
    };
    let mut compared = 0;
    for switch in 0..switches {
        let mut chosen: Vec<(usize, usize)> = (0..below(4))
            .map(|_| (below(files.len()), below(2)))
            .collect();
        chosen.sort_unstable();
        chosen.dedup_by_key(|(file, _)| *file);
        let of = |(file, weight): &(usize, usize)| (&files[*file], [0.7, -1.3][*weight]);
        let chosen_set = set(&chosen.iter().map(of).collect::<Vec<_>>());
        fuser.apply(&mut params, &chosen_set).unwrap();
        // Hashing all bits each time would take longer than the switches.
        if chosen.len() < 2 && switch % 4 == 0 {
            let now = digest(&params);
            compared += usize::from(seen.contains_key(&chosen));
            let first = *seen.entry(chosen.clone()).or_insert(now);
            assert!(
                first == now,
                "{kind:?}: {chosen:?} differs at switch {switch}"
            );
        }
    }
    fuser.apply(&mut params, &AdapterSet::default()).unwrap();
    assert!(digest(&params) == seen[&Vec::new()], "{kind:?}");
    assert!(
        seen.len() > 5 && compared > switches / 20,
        "{} sets, {compared} compared",
        seen.len()
    );
}

#[test]
fn a_thousand_random_switches_restore_the_base_bit_for_bit() {
    check(Kind::Float, 1_000);
}

#[test]
fn so_do_switches_in_sixteen_bits() {
    check(Kind::BFloat16, 200);
    check(Kind::Half, 200);
}
