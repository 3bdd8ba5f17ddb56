//! What an executor promises beside the numbers of one edit.

use fisec_plan::{Bundle, Keys, Norm, ProgramKind};
use fisec_runtime::cache::MemoryCache;
use fisec_runtime::{Binding, Executor, RuntimeError};
use fisec_tensor::{DType, HostTensor, Mask, TileSize};

use crate::maker::Numbers;
use crate::unet::{Spec, open};
use crate::{masks, recordings};

fn spec(tile: usize) -> Spec {
    Spec {
        size: [8, 8],
        keys: Keys::Full,
        norm: Norm::Frozen,
        cache_dtype: DType::F16,
        tile,
    }
}

fn ready(bundle: &Bundle, context: &[f32]) -> Executor {
    let plan = bundle.plan();
    let mut executor = Executor::with_threads(bundle.clone(), None, 2).unwrap();
    executor.set_timesteps(&[0.9, 0.3]).unwrap();
    let shape = [plan.batch, plan.context[0], plan.context[1]];
    executor
        .set_context(&HostTensor::from_f32(shape, context.to_vec()))
        .unwrap();
    executor
}

#[test]
fn nothing_of_one_edit_reaches_the_next() {
    let (_folder, bundle) = open(&spec(0));
    let plan = bundle.plan();
    let mut numbers = Numbers::new(3);
    let context = numbers.vector(plan.batch * plan.context.iter().product::<usize>());
    let sample = numbers.vector(plan.batch * plan.latent.iter().product::<usize>());
    let source = recordings(plan, 2, 8);
    let mut shared = ready(&bundle, &context);
    let masks = masks(8, 8);
    for (step, mask) in masks.iter().chain(masks.iter().rev()).enumerate() {
        let binding = Binding::bind(plan, mask).unwrap();
        let got = shared.edit(step % 2, &sample, &binding, &source, None).unwrap();
        let fresh = ready(&bundle, &context)
            .edit(step % 2, &sample, &binding, &source, None)
            .unwrap();
        assert_eq!(got, fresh, "step {step}");
    }
}

#[test]
fn prompt_and_timestep_change_the_result() {
    let (_folder, bundle) = open(&spec(0));
    let plan = bundle.plan();
    let mut numbers = Numbers::new(3);
    let length = plan.batch * plan.context.iter().product::<usize>();
    let (first, second) = (numbers.vector(length), numbers.vector(length));
    let sample = numbers.vector(plan.batch * plan.latent.iter().product::<usize>());
    let source = recordings(plan, 2, 8);
    let binding = Binding::bind(plan, &Mask::filled(8, 8, true)).unwrap();
    let mut executor = ready(&bundle, &first);
    let base = executor.edit(0, &sample, &binding, &source, None).unwrap();

    let shape = [plan.batch, plan.context[0], plan.context[1]];
    executor
        .set_context(&HostTensor::from_f32(shape, second.clone()))
        .unwrap();
    assert_ne!(executor.edit(0, &sample, &binding, &source, None).unwrap(), base);
    executor.set_context(&HostTensor::from_f32(shape, first)).unwrap();
    assert_eq!(executor.edit(0, &sample, &binding, &source, None).unwrap(), base);
    executor.set_timesteps(&[-0.8, 0.3]).unwrap();
    assert_ne!(executor.edit(0, &sample, &binding, &source, None).unwrap(), base);
}

#[test]
fn binding_takes_the_cheapest_tile() {
    let corner = Mask::from_fn(8, 8, |y, x| (y, x) == (0, 0));
    for (tile, size, computed) in [
        (0, TileSize::PIXEL, 1),
        (1, TileSize::new(2, 3), 6),
        (2, TileSize::new(64, 64), 64),
    ] {
        let (_folder, bundle) = open(&spec(tile));
        let binding = Binding::bind(bundle.plan(), &corner).unwrap();
        let first = &binding.layers()[0];
        assert_eq!((first.tile, first.tiles, first.computed), (size, 1, computed));
        assert_eq!(binding.active(1).len(), 1);
    }
}

#[test]
fn work_is_counted() {
    let (_folder, bundle) = open(&spec(0));
    let plan = bundle.plan();
    let sample = vec![0.5; plan.batch * plan.latent.iter().product::<usize>()];
    let source = recordings(plan, 2, 8);
    let mut executor = ready(&bundle, &vec![0.1; plan.batch * plan.context.iter().product::<usize>()]);
    executor.measure_nodes(true);
    let mut run = |mask: &Mask| {
        let binding = Binding::bind(plan, mask).unwrap();
        executor.edit(0, &sample, &binding, &source, None).unwrap();
        executor.last_step().clone()
    };
    let one = run(&Mask::from_fn(8, 8, |y, x| (y, x) == (4, 4)));
    let all = run(&Mask::filled(8, 8, true));
    assert!(one.macs < all.macs);
    assert!(one.slot_bytes > 0);
    // the first convolution: 2 images, 64 pixels, 9 taps of 3 channels, 4 columns
    let conv_in = all.nodes.iter().find(|node| node.kernel == "conv").unwrap();
    assert_eq!(conv_in.macs, 2 * 64 * 27 * 4);
    assert_eq!(all.nodes.iter().map(|node| node.macs).sum::<u64>(), all.macs);
    // everything is fresh: only the statistics are read
    let stats: u64 = plan
        .slots
        .iter()
        .filter(|slot| slot.dtype == DType::F32)
        .map(|slot| slot.bytes)
        .sum();
    assert_eq!(all.slot_bytes, stats);
}

#[test]
fn misuse_is_an_error() {
    let (_folder, bundle) = open(&spec(0));
    let plan = bundle.plan();
    let source = recordings(plan, 2, 8);
    let sample = vec![0.0; plan.batch * plan.latent.iter().product::<usize>()];
    let binding = Binding::bind(plan, &Mask::filled(8, 8, true)).unwrap();
    assert!(matches!(
        Binding::bind(plan, &Mask::filled(8, 9, true)),
        Err(RuntimeError::MaskSize { .. })
    ));

    let mut executor = Executor::with_threads(bundle.clone(), None, 1).unwrap();
    let unprepared = executor.edit(0, &sample, &binding, &source, None);
    assert!(matches!(unprepared, Err(RuntimeError::NotPrepared("timesteps"))));
    executor.set_timesteps(&[1.0, 2.0]).unwrap();
    let unprepared = executor.edit(0, &sample, &binding, &source, None);
    assert!(matches!(unprepared, Err(RuntimeError::NotPrepared("text embedding"))));
    let short = HostTensor::from_f32([1, 5, 7], vec![0.0; 35]);
    assert!(matches!(
        executor.set_context(&short),
        Err(RuntimeError::Mismatch { .. })
    ));
    executor
        .set_context(&HostTensor::from_f32([2, 5, 7], vec![0.0; 70]))
        .unwrap();
    assert!(matches!(
        executor.edit(2, &sample, &binding, &source, None),
        Err(RuntimeError::Step { .. })
    ));
    assert!(matches!(
        executor.edit(0, &sample[1..], &binding, &source, None),
        Err(RuntimeError::SampleSize { .. })
    ));
    let (_other_folder, other) = open(&Spec {
        keys: Keys::Masked,
        size: [6, 8],
        ..spec(0)
    });
    let foreign = Binding::bind(other.plan(), &Mask::filled(6, 8, true)).unwrap();
    assert!(matches!(
        executor.edit(0, &sample, &foreign, &source, None),
        Err(RuntimeError::ForeignBinding)
    ));
    let empty = MemoryCache::new(&plan.slots);
    assert!(matches!(
        executor.edit(0, &sample, &binding, &empty, None),
        Err(RuntimeError::MissingSlot { .. })
    ));
    // the errors leave the executor usable
    executor.edit(0, &sample, &binding, &source, None).unwrap();
    executor.prepare(ProgramKind::Edit).unwrap();
}

#[test]
fn a_dense_program_keeps_the_layout() {
    let (_folder, bundle) = open(&spec(0));
    let plan = bundle.plan();
    let sample = Numbers::new(4).vector(plan.batch * plan.latent.iter().product::<usize>());
    let mut executor = ready(&bundle, &vec![0.0; plan.batch * plan.context.iter().product::<usize>()]);
    // the guide program of this plan hands its sample through
    assert_eq!(executor.dense(1, &sample).unwrap(), sample);
}
