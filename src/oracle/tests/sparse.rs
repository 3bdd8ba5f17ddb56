//! What active values, scatters and slots mean.

mod common;

use common::*;
use fisec_ir::text::{parse, print};
use fisec_ir::verify::verify;
use fisec_ir::{Graph, SlotId};
use fisec_oracle::{Tensor, difference, levels};
use fisec_tensor::Mask;
use proptest::prelude::*;

const SCATTERED: &str = r#"graph edit
slots {
  s0 "conv" : f64[1,2,6,6] level 0
}
weights {
  @w : f64[2,2,3,3] = random(1, 1.0)
}
%x = input "x" : f64[1,2,6,6]
%y = conv %x, @w, kernel=3x3 pad=1 : f64[1,2,6,6]@a0
%r = cache.read s0 : f64[1,2,6,6]
%s = scatter %y, %r, DEMAND : f64[1,2,6,6]
output %y, "active"
output %s, "scattered"
"#;

fn spot() -> Mask {
    Mask::from_fn(6, 6, |row, column| (row, column) == (2, 3))
}

#[test]
fn active_values_are_poison_elsewhere() {
    let (x, recorded) = (noise(&[1, 2, 6, 6], 1), noise(&[1, 2, 6, 6], 2));
    let g = graph(&SCATTERED.replace("DEMAND", "full"));
    let run = try_run(&g, &[("x", &x)], &[&recorded], &[spot()]).unwrap();
    let dense = try_run(&g, &[("x", &x)], &[&recorded], &[Mask::filled(6, 6, true)]).unwrap();
    for (index, value) in run.outputs["active"].data.iter().enumerate() {
        let active = index % 36 == 15;
        assert_eq!(!value.is_nan(), active);
        let expected = if active {
            dense.outputs["active"].data[index]
        } else {
            recorded.data[index]
        };
        assert_eq!(run.outputs["scattered"].data[index], expected);
    }
}

#[test]
fn a_scatter_is_there_as_far_as_its_demand() {
    let (x, recorded) = (noise(&[1, 2, 6, 6], 1), noise(&[1, 2, 6, 6], 2));
    let g = graph(&SCATTERED.replace("DEMAND", "halo=1"));
    let scattered = try_run(&g, &[("x", &x)], &[&recorded], &[spot()]).unwrap().outputs["scattered"].clone();
    for (index, value) in scattered.data.iter().enumerate() {
        let (row, column) = (index % 36 / 6, index % 6);
        assert_eq!(value.is_nan(), row.abs_diff(2).max(column.abs_diff(3)) > 1);
    }
}

/// A second convolution over the scattered value, on the level below where `stride` is 2.
fn two_convs(demand: &str, stride: usize) -> Graph {
    let size = 6 / stride;
    let level = stride - 1;
    let tail = format!(
        "%z = conv %s, @w, kernel=3x3 pad=1 stride={stride} : f64[1,2,{size},{size}]@a{level}\noutput %z, \"z\"\n"
    );
    graph(&(SCATTERED.replace("DEMAND", demand) + &tail))
}

#[test]
fn poison_finds_a_halo_that_is_too_small() {
    let (x, recorded) = (noise(&[1, 2, 6, 6], 1), noise(&[1, 2, 6, 6], 2));
    let reached = |demand: &str, stride: usize, mask: &Mask| {
        let masks = levels(mask, 2);
        let z = try_run(&two_convs(demand, stride), &[("x", &x)], &[&recorded], &masks)
            .unwrap()
            .outputs["z"]
            .clone();
        let pixels = masks[stride - 1].bits().len();
        (0..z.data.len()).all(|index| !masks[stride - 1].bits()[index % pixels] || !z.data[index].is_nan())
    };
    assert!(!reached("halo=0", 1, &spot()));
    assert!(reached("halo=1", 1, &spot()));
    // the window of the coarse pixel above (2, 3) starts at (1, 1), two columns away
    assert!(!reached("halo=1", 2, &spot()));
    assert!(reached("halo=2", 2, &spot()));
    assert!(reached("full", 2, &spot()));
}

#[test]
fn nobody_active_and_nobody_reading() {
    let (x, recorded) = (noise(&[1, 2, 6, 6], 1), noise(&[1, 2, 6, 6], 2));
    let empty = Mask::filled(6, 6, false);
    let run = try_run(
        &graph(&SCATTERED.replace("DEMAND", "full")),
        &[("x", &x)],
        &[&recorded],
        &[empty],
    )
    .unwrap();
    assert_eq!(run.outputs["scattered"], recorded);
    assert!(run.outputs["active"].data.iter().all(|value| value.is_nan()));

    // what no output depends on is not computed: neither the slot nor the mask is asked for
    let unread = SCATTERED
        .replace("DEMAND", "full")
        .replace("output %y, \"active\"\noutput %s", "output %x");
    let run = try_run(&graph(&unread), &[("x", &x)], &[], &[]).unwrap();
    assert_eq!(run.outputs["scattered"], x);
}

#[test]
fn active_keys_alone_take_part() {
    let g = graph(
        r#"graph g
        %x = input "x" : f64[1,4,2,2]
        %t = tokens %x : f64[1,4,4]
        %a = gather %t : f64[1,4,4]@a0
        %y = attention %a, %a, %a, heads=2 scale=0.5 : f64[1,4,4]@a0
        %full = attention %a, %t, %t, heads=2 scale=0.5 : f64[1,4,4]@a0
        output %y, "masked"
        output %full, "full"
        "#,
    );
    let x = noise(&[1, 4, 2, 2], 1);
    let mask = Mask::new(2, 2, vec![true, false, false, true]);
    let run = try_run(&g, &[("x", &x)], &[], &[mask]).unwrap();
    // the two active tokens by themselves
    let pair = tensor(&[1, 2, 4], |i| at(&x, &[0, i[2], i[1], i[1]]));
    let alone = apply(
        "attention %a, %b, %c, heads=2 scale=0.5 : f64[1,2,4]",
        &[&pair, &pair, &pair],
    );
    let tokens = apply("tokens %a : f64[1,4,4]", &[&x]);
    let dense = apply(
        "attention %a, %b, %c, heads=2 scale=0.5 : f64[1,4,4]",
        &[&tokens, &tokens, &tokens],
    );
    for (active, token) in [(0, 0), (1, 3)] {
        for channel in 0..4 {
            assert!(
                (at(&run.outputs["masked"], &[0, token, channel]) - at(&alone, &[0, active, channel])).abs() < 1e-14
            );
            assert!((at(&run.outputs["full"], &[0, token, channel]) - at(&dense, &[0, token, channel])).abs() < 1e-14);
        }
    }
    assert!((4..12).all(|index| run.outputs["masked"].data[index].is_nan()));
}

#[test]
fn slots_are_collected_and_found_again() {
    let source = "graph record\nslots {\n  s0 \"a\" : f64[2,3]\n}\n%0 = input \"x\" : f64[2,3]\ncache.write %0, s0\n";
    let x = noise(&[2, 3], 1);
    let recorded = run(&graph(source), &[("x", &x)]);
    assert_eq!(recorded.slots[&SlotId(0)], x);
    let source = "graph edit\nslots {\n  s0 \"a\" : f64[2,3]\n}\n%0 = cache.read s0 : f64[2,3]\noutput %0, \"y\"\n";
    assert_eq!(try_run(&graph(source), &[], &[&x], &[]).unwrap().outputs["y"], x);
    let missing = try_run(&graph(source), &[], &[], &[]).unwrap_err().to_string();
    assert!(missing.contains("no data is given for slot s0"), "{missing}");
}

/// A graph of one level and its coarser neighbour, every operator either marked with scatters or left dense.
fn chain(kinds: &[u8], sparse: bool) -> String {
    let mut slots = String::new();
    let mut body = String::from("%v0 = input \"x\" : f64[2,4,6,5]\n%c = input \"c\" : f64[2,3,4]\n");
    let mut slot = 0;
    for (index, kind) in kinds.iter().enumerate() {
        let (from, to) = (format!("%v{index}"), format!("%v{}", index + 1));
        let map = "f64[2,4,6,5]";
        let (lines, last, shape) = match kind % 7 {
            0 => (
                String::new(),
                format!("conv {from}, @w, @b, kernel=3x3 pad=1 bias"),
                map,
            ),
            1 => (String::new(), format!("activate {from}, function=silu"), map),
            2 => (
                String::new(),
                format!("group_norm {from}, @b, @b, groups=2 epsilon=1e-5"),
                map,
            ),
            3 => (
                format!(
                    "%d{index} = conv {from}, @w, @b, kernel=3x3 pad=1 stride=2 bias : f64[2,4,3,3]\n\
                     %u{index} = upsample %d{index}, size=6x5 : {map}\n"
                ),
                format!("add %u{index}, {from}"),
                map,
            ),
            4 => (
                format!(
                    "%t{index} = tokens {from} : f64[2,30,4]\n\
                     %n{index} = layer_norm %t{index}, @b, @b, epsilon=1e-5 : f64[2,30,4]\n\
                     %s{index} = attention %n{index}, %n{index}, %n{index}, heads=2 scale=0.7 : f64[2,30,4]\n\
                     %f{index} = linear %s{index}, @g, %t{index}, geglu residual : f64[2,30,4]\n"
                ),
                format!("spatial %f{index}, size=6x5"),
                map,
            ),
            5 => (
                format!(
                    "%t{index} = tokens {from} : f64[2,30,4]\n\
                     %s{index} = attention %t{index}, %c, %c, heads=1 scale=0.5 : f64[2,30,4]\n"
                ),
                format!("spatial %s{index}, size=6x5"),
                map,
            ),
            _ => (
                format!("%k{index} = concat {from}, {from}, axis=1 : f64[2,8,6,5]\n"),
                format!("conv %k{index}, @wide, kernel=1x1"),
                map,
            ),
        };
        body += &lines;
        if sparse {
            slots += &format!("  s{slot} \"v{slot}\" : {shape} level 0\n");
            body += &format!(
                "%a{index} = {last} : {shape}@a0\n%r{index} = cache.read s{slot} : {shape}\n\
                 {to} = scatter %a{index}, %r{index}, full : {shape}\n"
            );
            slot += 1;
        } else {
            body += &format!("{to} = {last} : {shape}\n");
        }
    }
    let weights = "@w : f64[4,4,3,3] = random(3, 0.5)\n@b : f64[4] = random(4, 1.0)\n@g : f64[4,8] = random(5, 1.0)\n\
                   @wide : f64[4,8,1,1] = random(6, 1.0)\n";
    format!(
        "graph g\nslots {{\n{slots}}}\nweights {{\n{weights}}}\n{body}output %v{}, \"y\"\n",
        kinds.len()
    )
}

fn masks_of(bits: &[bool]) -> Vec<Mask> {
    levels(&Mask::new(6, 5, bits.to_vec()), 2)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn with_a_full_mask_an_edit_is_the_dense_run(kinds in prop::collection::vec(0u8..7, 1..7), seed in 1u64..1000) {
        let (dense, edit) = (graph(&chain(&kinds, false)), graph(&chain(&kinds, true)));
        prop_assert!(verify(&dense).is_ok());
        prop_assert!(verify(&edit).is_ok(), "{}", verify(&edit).unwrap_err()[0]);
        let (x, c) = (noise(&[2, 4, 6, 5], seed), noise(&[2, 3, 4], seed + 1));
        let slots: Vec<Tensor> = (0..kinds.len()).map(|slot| noise(&[2, 4, 6, 5], seed + 2 + slot as u64)).collect();
        let slots: Vec<&Tensor> = slots.iter().collect();
        let inputs = [("x", &x), ("c", &c)];
        let expected = run(&dense, &inputs).outputs["y"].clone();
        let found = try_run(&edit, &inputs, &slots, &masks_of(&[true; 30])).unwrap().outputs["y"].clone();
        prop_assert_eq!(&found, &expected);

        // and with an empty mask nothing but the recorded value is seen
        let base = try_run(&edit, &inputs, &slots, &masks_of(&[false; 30])).unwrap().outputs["y"].clone();
        prop_assert_eq!(&base, slots[slots.len() - 1]);
    }

    #[test]
    fn an_edit_of_the_recorded_input_changes_nothing(kinds in prop::collection::vec(0u8..7, 1..7), bits in prop::collection::vec(any::<bool>(), 30)) {
        let dense = chain(&kinds, false);
        let (x, c) = (noise(&[2, 4, 6, 5], 5), noise(&[2, 3, 4], 6));
        let inputs = [("x", &x), ("c", &c)];
        let taps: String = (1..=kinds.len()).map(|index| format!("output %v{index}, \"v{index}\"\n")).collect();
        let recorded = run(&graph(&(dense + &taps)), &inputs).outputs;
        let slots: Vec<&Tensor> = (1..=kinds.len()).map(|index| &recorded[&format!("v{index}")]).collect();
        let found = try_run(&graph(&chain(&kinds, true)), &inputs, &slots, &masks_of(&bits)).unwrap();
        let apart = difference(&found.outputs["y"], &recorded["y"]).unwrap();
        prop_assert!(apart.relative < 1e-12, "{:?}", apart);
    }

    #[test]
    fn updated_statistics_are_those_of_the_merged_map(bits in prop::collection::vec(any::<bool>(), 30), seed in 1u64..1000) {
        let source = r#"graph g
            slots {
              s0 "map" : f64[2,4,6,5] level 0
              s1 "stats" : f32[2,2,2]
            }
            %x = input "x" : f64[2,4,6,5]
            %a = gather %x : f64[2,4,6,5]@a0
            %r = cache.read s0 : f64[2,4,6,5]
            %o = cache.read s1 : f32[2,2,2]
            %u = group_norm_stats_update %a, %r, %o, groups=2 : f32[2,2,2]
            %s = scatter %a, %r, full : f64[2,4,6,5]
            %l = group_norm_stats %s, groups=2 : f32[2,2,2]
            output %u, "updated"
            output %l, "live"
        "#;
        let (x, recorded) = (noise(&[2, 4, 6, 5], seed), noise(&[2, 4, 6, 5], seed + 1));
        let stats = apply("group_norm_stats %a, groups=2 : f32[2,2,2]", &[&recorded]);
        let run = try_run(&graph(source), &[("x", &x)], &[&recorded, &stats], &masks_of(&bits)).unwrap();
        let apart = difference(&run.outputs["updated"], &run.outputs["live"]).unwrap();
        prop_assert!(apart.relative < 1e-12, "{:?}", apart);
    }
}

#[test]
fn comparing_graphs_tells_a_change_from_none() {
    let source = chain(&[0, 2, 4, 3], true);
    let before = graph(&source);
    let same = parse(&print(&before)).unwrap();
    // the printed text has no data for larger weights
    assert!(fisec_oracle::compare(&before, &same, 1e-12).is_err());
    assert!(fisec_oracle::compare(&before, &before.clone(), 0.0).is_ok());
    let changed = graph(&source.replace("epsilon=1e-5", "epsilon=1e-2"));
    let message = fisec_oracle::compare(&before, &changed, 1e-6).unwrap_err();
    assert!(message.starts_with("output `y` differs by "), "{message}");
}
