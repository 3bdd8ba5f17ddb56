//! Sparse steps of hand-written plans against dense computations with `where(active, fresh, recorded)`.

mod behaviour;
mod maker;
mod reference;
mod unet;

use std::collections::HashMap;

use fisec_plan::{Keys, Norm, Plan, SlotId};
use fisec_runtime::cache::MemoryCache;
use fisec_runtime::{Binding, Executor, SlotSink, SlotSource};
use fisec_tensor::{DType, HostTensor, Mask};
use proptest::prelude::*;

use maker::Numbers;
use unet::{Spec, open};

/// Random recordings: no step of them is consistent, so that every wrongly read row shows.
pub fn recordings(plan: &Plan, steps: usize, seed: u64) -> MemoryCache {
    let mut numbers = Numbers::new(seed);
    let mut cache = MemoryCache::new(&plan.slots);
    for (step, slot) in (0..steps).flat_map(|step| (0..plan.slots.len() as u32).map(move |slot| (step, slot))) {
        let layout = &plan.slots[slot as usize];
        let mut values = numbers.vector(layout.shape.elements());
        if layout.kind == fisec_plan::SlotKind::Stats {
            // mean and a variance that is no smaller than what replaced rows can take away
            values.chunks_mut(2).for_each(|stats| stats[1] = 4.0 + stats[1].abs());
        }
        let value = HostTensor::from_f32(layout.shape.clone(), values).cast(layout.dtype);
        cache.put(step, SlotId(slot), value).unwrap();
    }
    cache
}

/// Masks that edits have and masks that break things.
pub fn masks(height: usize, width: usize) -> Vec<Mask> {
    vec![
        Mask::filled(height, width, false),
        Mask::filled(height, width, true),
        Mask::from_fn(height, width, |y, x| (y, x) == (height / 2, width / 3)),
        Mask::from_fn(height, width, |y, x| {
            y == 0 || x == 0 || y == height - 1 || x == width - 1
        }),
        Mask::from_fn(height, width, |y, x| {
            (y == 0 || y == height - 1) && (x == 0 || x == width - 1)
        }),
        Mask::from_fn(height, width, |y, _| y < height / 2),
    ]
}

/// Largest difference, relative where the expected value exceeds one.
pub fn worst(got: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(got.len(), expected.len());
    let differences = got.iter().zip(expected).map(|(got, expected)| {
        let difference = (got - expected).abs() / expected.abs().max(1.0);
        if difference.is_nan() { f32::INFINITY } else { difference }
    });
    differences.fold(0.0, f32::max)
}

fn check(spec: &Spec, mask: &Mask, seed: u64) -> f32 {
    let (_folder, bundle) = open(spec);
    let plan = bundle.plan().clone();
    let mut numbers = Numbers::new(seed);
    let timesteps = [0.9, 0.3];
    let context = numbers.vector(plan.batch * plan.context[0] * plan.context[1]);
    let sample = numbers.vector(plan.batch * plan.latent.iter().product::<usize>());
    let source = recordings(&plan, timesteps.len(), seed ^ 5);

    let mut executor = Executor::with_threads(bundle.clone(), None, 2).unwrap();
    executor.set_timesteps(&timesteps).unwrap();
    let shape = [plan.batch, plan.context[0], plan.context[1]];
    executor
        .set_context(&HostTensor::from_f32(shape, context.clone()))
        .unwrap();
    let binding = Binding::bind(&plan, mask).unwrap();
    let mut remembered = MemoryCache::new(&plan.slots);
    let got = executor
        .edit(1, &sample, &binding, &source, Some(&mut remembered))
        .unwrap();
    let again = executor.edit(1, &sample, &binding, &source, None).unwrap();
    assert_eq!(got, again);

    let inputs = HashMap::from([
        ("sample", reference::rows_of_planes(&sample, plan.batch, plan.latent[0])),
        ("timestep", vec![timesteps[1]; plan.batch]),
        ("context", context),
    ]);
    let expected = reference::evaluate(&bundle, mask, &inputs, &|slot| {
        source.slot(1, slot).unwrap().to_f32_vec()
    });
    let planes = reference::planes_of_rows(&expected.prediction, plan.batch, plan.latent[0]);
    let mut difference = worst(&got, &planes);
    for (slot, values) in &expected.slots {
        let stored = remembered.slot(1, *slot).unwrap();
        // a slot of halves rounds what it takes
        let tolerance = if stored.dtype() == DType::F16 { 1e-3 } else { 1e-4 };
        let stored = worst(&stored.to_f32_vec(), values);
        assert!(stored < tolerance, "{}: {stored}", plan.slots[slot.index()].name);
    }
    difference = difference.max(0.0);
    difference
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn an_edit_is_where_active_fresh_else_recorded(
        (height, width) in (2usize..9, 2usize..9),
        which in 0usize..6,
        (masked_keys, norm, half, tile) in (any::<bool>(), 0usize..3, any::<bool>(), 0usize..3),
        seed: u64,
    ) {
        let spec = Spec {
            size: [height, width],
            keys: if masked_keys { Keys::Masked } else { Keys::Full },
            norm: [Norm::Frozen, Norm::Updated, Norm::Live][norm],
            cache_dtype: if half { DType::F16 } else { DType::F32 },
            tile,
        };
        let mask = &masks(height, width)[which];
        // a dozen layers of f32 sums
        prop_assert!(check(&spec, mask, seed) < 2e-4, "{spec:?}");
    }
}
