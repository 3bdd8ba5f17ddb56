//! Moving rows.

use fisec_kernels::cpu::{
    Map, RecordedRows, add, concat, fill_map, gather, geglu, nchw_to_nhwc, nhwc_to_nchw, scatter_into_recorded, silu,
};
use fisec_tensor::ActiveSet;
use half::f16;
use proptest::prelude::*;

use crate::data::{Numbers, mask, merged, pack};

proptest! {
    #[test]
    fn gather_then_scatter_is_where(
        (mask, channels, images, seed) in (1usize..9, 1usize..9)
            .prop_flat_map(|(h, w)| (mask(h, w), 1usize..5, 1usize..3, any::<u64>()))
    ) {
        let mut numbers = Numbers::new(seed);
        let active = ActiveSet::new(mask.clone());
        let length = images * mask.bits().len() * channels;
        let halves = |values: Vec<f32>| -> Vec<f16> { values.iter().map(|&x| f16::from_f32(x)).collect() };
        let recorded = halves(numbers.vector(length));
        let recorded_f32: Vec<f32> = recorded.iter().map(|x| x.to_f32()).collect();
        // representable in f16, so that rounding cannot hide a misplaced row
        let fresh: Vec<f32> = halves(numbers.vector(length)).iter().map(|x| x.to_f32()).collect();
        let expected = merged(&fresh, &recorded_f32, images, channels, &mask);

        let mut rows = vec![f32::NAN; images * active.len() * channels];
        gather(&fresh, images, channels, active.pixels(), &mut rows);
        prop_assert_eq!(&rows, &pack(&fresh, images, channels, &active));

        let mut filled = vec![f32::NAN; length];
        fill_map(&Map::packed(&rows, active.ranks(), channels, Some(RecordedRows::F16(&recorded))), images, &mut filled);
        prop_assert_eq!(&filled, &expected);

        let mut bytes: Vec<u8> = bytemuck::cast_slice(&recorded).to_vec();
        scatter_into_recorded(&rows, active.pixels(), channels, images, true, &mut bytes);
        let stored: Vec<f32> = bytemuck::cast_slice::<u8, f16>(&bytes).iter().map(|x| x.to_f32()).collect();
        prop_assert_eq!(&stored, &expected);

        let mut bytes: Vec<u8> = bytemuck::cast_slice(&recorded_f32).to_vec();
        scatter_into_recorded(&rows, active.pixels(), channels, images, false, &mut bytes);
        prop_assert_eq!(bytemuck::cast_slice::<u8, f32>(&bytes), &expected[..]);
    }

    #[test]
    fn layouts_are_inverse((images, channels, pixels, seed) in (1usize..3, 1usize..6, 1usize..20, any::<u64>())) {
        let planes = Numbers::new(seed).vector(images * channels * pixels);
        let (mut rows, mut back) = (vec![0.0; planes.len()], vec![0.0; planes.len()]);
        nchw_to_nhwc(&planes, images, channels, &mut rows);
        nhwc_to_nchw(&rows, images, channels, &mut back);
        prop_assert_eq!(&back, &planes);
        prop_assert_eq!(rows[(pixels - 1) * channels], planes[pixels - 1]);
    }
}

#[test]
fn concat_alternates_rows() {
    let mut output = [0.0; 6];
    concat(&[(&[1.0, 2.0], 1), (&[10.0, 11.0, 20.0, 21.0], 2)], &mut output);
    assert_eq!(output, [1.0, 10.0, 11.0, 2.0, 20.0, 21.0]);
}

#[test]
fn elementwise_kernels_reach_every_element() {
    let length = 40_001;
    let values = Numbers::new(9).vector(length);
    let mut output = vec![f32::NAN; length];
    add(&values, &values, &mut output);
    assert!(output.iter().zip(&values).all(|(sum, x)| *sum == x + x));
    silu(&values, &mut output);
    let exact = |x: f32| f64::from(x) / (1.0 + (-f64::from(x)).exp());
    assert!(
        output
            .iter()
            .zip(&values)
            .all(|(y, &x)| (f64::from(*y) - exact(x)).abs() < 1e-6)
    );
    let mut gated = [f32::NAN; 2];
    geglu(&[2.0, 3.0, 100.0, -100.0], 2, &mut gated);
    assert_eq!(gated, [200.0, 0.0]);
}
