//! Launches against the sources: structs byte for byte, entries that exist, grids that cover.

use std::fs;
use std::mem::offset_of;
use std::path::{Path, PathBuf};

use fisec_kernels::cuda::*;
use proptest::prelude::*;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda")
}

/// Every source and header.
fn sources() -> Vec<(String, String)> {
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        (path.display().to_string(), text)
    };
    let headers = fs::read_dir(folder().join("include")).unwrap().flatten();
    let kernels = KERNELS.iter().map(|kernel| folder().join(kernel).join("kernel.cu"));
    headers.map(|entry| entry.path()).chain(kernels).map(read).collect()
}

/// What the sources assert of a struct's size.
fn asserted(name: &str) -> usize {
    let wanted = format!("static_assert(sizeof({name}) == ");
    let found = sources().into_iter().find_map(|(_, text)| {
        let (_, rest) = text.split_once(&wanted)?;
        rest.split_once(')').map(|(number, _)| number.parse().unwrap())
    });
    found.unwrap_or_else(|| panic!("no source asserts the size of {name}"))
}

/// The fields of a struct in the order of the sources.
fn fields(name: &str) -> Vec<String> {
    let wanted = format!("struct {name} {{\n");
    let (_, text) = sources().into_iter().find(|(_, text)| text.contains(&wanted)).unwrap();
    let (_, rest) = text.split_once(&wanted).unwrap();
    let (body, _) = rest.split_once("\n};").unwrap();
    let declarations = body.lines().map(|line| line.split("//").next().unwrap().trim());
    declarations
        .filter(|line| line.ends_with(';'))
        .flat_map(|line| {
            let (_, names) = line.trim_end_matches(';').split_once(' ').unwrap();
            names
                .split(',')
                .map(|name| name.trim().split('[').next().unwrap().to_owned())
                .collect::<Vec<_>>()
        })
        .collect()
}

macro_rules! same_struct {
    ($name:ident { $($field:ident),* $(,)? }) => {{
        assert_eq!(size_of::<$name>(), asserted(stringify!($name)), stringify!($name));
        assert_eq!(fields(stringify!($name)), [$(stringify!($field)),*], stringify!($name));
        let offsets = [$(offset_of!($name, $field)),*];
        assert!(offsets.is_sorted(), "fields of {} in another order", stringify!($name));
    }};
}

#[test]
fn structs_are_those_of_the_sources() {
    for (size, name) in [
        (size_of::<Address>(), "Address"),
        (size_of::<Count>(), "Count"),
        (size_of::<Rows>(), "Rows"),
    ] {
        assert_eq!(size, asserted(name), "{name}");
    }
    same_struct!(Epilogue {
        bias,
        time,
        residual,
        output,
        beside,
        normed,
        affine,
        residual_rows,
        output_rows,
        normed_rows,
        time_stride,
        residual_stride,
        output_stride,
        normed_stride,
        affine_channels,
        flags,
        row_parts,
        norm_parts,
        column_sums,
        row_part_count,
        norm_part_count,
        norm_epsilon,
        part_columns,
    });
    same_struct!(FoldParams {
        weights,
        gamma,
        beta,
        bias,
        folded_bias,
        column_sums,
        channels,
        cout,
    });
    same_struct!(ConvParams {
        source,
        channels,
        source_stride,
        table,
        source_rows,
        live,
        weights,
        blocks,
        workspace,
        slots,
        images,
        taps,
        cout,
        splits,
        epilogue,
    });
    same_struct!(CausalParams {
        query,
        key,
        value,
        output,
        slots,
        images,
        tokens,
        heads,
        dim,
        query_stride,
        key_stride,
        value_stride,
        output_stride,
        scale_log2,
        reserved,
    });
    same_struct!(AttentionParams {
        query,
        key,
        fresh_key,
        output,
        query_rows,
        queries,
        key_rows,
        keys,
        fresh,
        partial,
        slots,
        query_stride,
        key_stride,
        fresh_stride,
        output_stride,
        value_offset,
        fresh_value_offset,
        images,
        heads,
        splits,
        scale_log2,
    });
    same_struct!(ControlParams {
        query,
        key,
        value,
        output,
        maps,
        mapper,
        blend,
        weight,
        slots,
        query_stride,
        key_stride,
        value_stride,
        output_stride,
        map_stride,
        images,
        heads,
        queries,
        keys,
        dim,
        scale_log2,
        reserved,
    });
    same_struct!(MoveJob {
        source,
        addend,
        affine,
        output,
        source_rows,
        output_rows,
        output_first,
        rows,
        images,
        channels,
        source_stride,
        output_stride,
        affine_channels,
        flags,
    });
    same_struct!(MoveParams { jobs, slots });
    same_struct!(SumParams {
        source,
        channels,
        source_stride,
        source_rows,
        rows,
        partial,
        slots
    });
    same_struct!(StatisticsParams {
        added,
        removed,
        recorded,
        statistics,
        affine,
        gamma,
        beta,
        slots,
        rows,
        channels,
        groups,
        added_chunks,
        removed_chunks,
        epsilon,
        reserved,
    });
    same_struct!(NormParams {
        source,
        output,
        statistics,
        affine,
        gamma,
        beta,
        slots,
        channels,
        source_stride,
        output_stride,
        rows,
        groups,
        slice,
        flags,
        epsilon,
        reserved,
    });
    same_struct!(LayerNormParams {
        source,
        output,
        gamma,
        beta,
        slots,
        live,
        images,
        channels,
        source_stride,
        output_stride,
        epsilon,
        reserved,
    });
    same_struct!(GegluParams {
        source,
        output,
        slots,
        live,
        images,
        channels,
        source_stride,
        output_stride
    });
    same_struct!(AdvanceParams {
        all_slots,
        slots,
        next,
        step,
        slot_count,
        steps
    });
    same_struct!(UpdateParams {
        latent,
        updated,
        prediction,
        history,
        history_out,
        recorded,
        recorded_history,
        input,
        ranks,
        coefficients,
        step,
        slots,
        pixels,
        rows,
        prediction_stride,
        input_stride,
    });
}

#[test]
fn every_folder_with_a_kernel_is_known() {
    let entries = fs::read_dir(folder()).unwrap().flatten();
    let kernels = entries.filter(|entry| entry.path().join("kernel.cu").is_file());
    let mut names: Vec<String> = kernels
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(names, KERNELS);
}

const GPUS: [Gpu; 3] = [
    Gpu {
        arch: Arch::Sm80,
        multiprocessors: 108,
    },
    Gpu {
        arch: Arch::Sm90a,
        multiprocessors: 132,
    },
    Gpu {
        arch: Arch::Sm100a,
        multiprocessors: 148,
    },
];

/// Blocks that a launch may have, shared memory that a block may have.
fn is_launchable(launch: &Launch, gpu: Gpu) -> bool {
    let most_shared = if gpu.arch == Arch::Sm80 { 163 << 10 } else { 227 << 10 };
    let has_kernel = gpu.arch.has_wgmma() || !(launch.kernel.ends_with("wgmma") || launch.kernel.ends_with("stream"));
    has_kernel && launch.shared <= most_shared && launch.grid[1] < 1 << 16 && launch.grid[2] < 1 << 16
}

proptest! {
    #[test]
    fn products_can_be_launched(
        rows in 1usize..40_000, columns in 1usize..1300, taps in prop::sample::select(vec![1usize, 9]), inputs in 1usize..40,
        which in 0usize..3,
    ) {
        let (gpu, cout) = (GPUS[which], columns * 8);
        let work = ConvWork { rows, cout, k_tiles: k_tiles(taps, &[inputs * 64]), gated: rows % 2 == 0, normed: rows % 3 == 0, parts: 1, blocks: 1 };
        let choice = conv_choice(gpu, work);
        let splits = choice.splits;
        let params = ConvParams { cout: cout as i32, taps: taps as i32, splits: splits.count() as i32, ..ConvParams::default() };
        let launch = sparse_conv(choice, &params, rows);
        prop_assert!(is_launchable(&launch, gpu), "{launch:?}");
        prop_assert!(splits.count() <= work.k_tiles);
        prop_assert!(splits.is_reduced_later() == (splits.count() > 1));
    }

    #[test]
    fn attention_can_be_launched(
        queries in 1usize..10_000, keys in 1usize..10_000, heads in 1usize..21, dim in prop::sample::select(ATTENTION_DIMS.to_vec()),
        which in 0usize..3,
    ) {
        let gpu = GPUS[which];
        let variant = AttentionVariant::choose(gpu, dim, queries, keys, 2 * heads).unwrap();
        let params = AttentionParams { images: 2, heads: heads as i32, splits: variant.splits as i32, ..AttentionParams::default() };
        prop_assert!(is_launchable(&attention(&variant, &params, queries), gpu));
        prop_assert!(variant.splits == 1 || variant.partial_bytes(2 * queries, heads) > 0);
        // wider heads are those of a VAE, which nobody controls
        let (queries, heads, dim) = (queries as i32, heads as i32, dim.min(160) as i32);
        let params = ControlParams { images: 2, heads, queries, dim, ..ControlParams::default() };
        // a prompt is attended to by heads of ordinary width
        let is_controlled = dim <= 160;
        prop_assert!(!is_controlled || is_launchable(&attention_maps(&params), gpu) && is_launchable(&attention_control(&params), gpu));
    }
}
