//! The networks beside the denoiser, compiled for a CUDA device, compute what ONNX Runtime does with their files: on a
//! GPU, or on the emulated driver (see `cuda.rs`). Skipped aloud where there is neither.

#[path = "support/onnx_edit.rs"]
mod onnx_edit;
mod support;

use std::env;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use fisec_ir::{Graph, text};
use fisec_onnx::{Bindings, import};
use fisec_oracle::{Oracle, Tensor};
use fisec_passes::canonical::canonicalize;
use fisec_passes::cost::CostTable;
use fisec_passes::{Module, Network, Pipeline};
use fisec_plan::{Bundle, BundleWriter, CompileOptions, Halos, Kernel, Keys, NetworkKind, Norm, Samples};
use fisec_runtime::ort::OnnxRuntime;
use fisec_runtime::{Executor, RuntimeError};
use fisec_tensor::{Area, DType, HostTensor};
use support::compare::relative_error;
use support::unet::{Random, Shape, random_unet};

/// f16 rounds every value that leaves a kernel by 2^-11 of itself; some forty of them follow each other.
const TOLERANCE: f64 = 1e-2;

const TARGET: &str = "cuda:sm_90a";

fn cubins() -> PathBuf {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/cubins");
    env::var_os("FISEC_CUBINS").map_or(default, PathBuf::from)
}

fn ready() -> Option<OnnxRuntime> {
    let found = fisec_runtime::describe_cuda().map_err(|error| error.to_string());
    let runtime = found.and_then(|_| {
        let cubin = cubins().join("causal_attention.sm_90a.cubin");
        let there = cubin.is_file().then_some(()).ok_or(format!("no {}", cubin.display()));
        there.and_then(|()| OnnxRuntime::load().map_err(|error| error.to_string()))
    });
    runtime.map_err(|error| eprintln!("SKIPPED: {error}")).ok()
}

fn demo(kind: NetworkKind) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("models/demo")
        .join(kind.name())
        .join("model.onnx")
}

fn raised(kind: NetworkKind, bindings: &Bindings) -> Graph {
    raised_of(&demo(kind), bindings)
}

fn raised_of(model: &Path, bindings: &Bindings) -> Graph {
    let mut graph = import(model, bindings).expect("imports").graph;
    canonicalize(&mut graph, &mut |_, _| ControlFlow::Continue(())).expect("raises");
    graph
}

/// A plan on the device whose denoiser does not matter.
struct Device {
    executor: Executor,
    bundle: Bundle,
    _folder: tempfile::TempDir,
}

impl Device {
    fn with(graphs: Vec<(NetworkKind, Graph)>, runtime: &OnnxRuntime) -> Self {
        let table = CostTable::shipped(TARGET).expect("shipped");
        let mut listener = |_: usize, _: &str, _: &Graph| ControlFlow::Continue(());
        let mut pipeline = Pipeline::new(&mut listener);
        let options = CompileOptions {
            keys: Keys::Full,
            norm: Norm::Frozen,
            sparse_levels: Some(1),
            cache_dtype: DType::F16,
            control_levels: Some(0),
            samples: Samples::Shared,
            remainder: fisec_plan::Remainder::Native,
            halos: Halos::Recorded,
        };
        // text as wide as devices want it
        let shape = Shape {
            context: [5, 16],
            ..Shape::default()
        };
        let module = Module::build(random_unet(&shape), &options, &table, &mut pipeline);
        let mut module = module.expect("compiles").expect("not stopped");
        module.make_native(&mut pipeline).expect("native");
        let networks: Vec<Network> = graphs
            .into_iter()
            .map(|(kind, graph)| {
                Network::build(kind, graph, &mut pipeline)
                    .expect("native")
                    .expect("of its form")
            })
            .collect();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let target = folder.path().join("plan");
        let mut writer = BundleWriter::create(&target).expect("a new folder");
        let mut plan = module
            .lower(TARGET, &options, &table, &networks, &mut writer)
            .expect("lowers");
        for entry in fs::read_dir(cubins()).expect("cubins").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(kernel) = name.strip_suffix(".sm_90a.cubin") {
                writer.copy_file(&name, &entry.path()).expect("copies");
                plan.modules.insert(kernel.to_owned(), name.clone());
            }
        }
        writer.finish(plan).expect("a valid plan");
        let bundle = Bundle::open(&target).expect("opens");
        Device {
            executor: Executor::with_threads(bundle.clone(), Some(runtime.clone()), 1).expect("loads"),
            bundle,
            _folder: folder,
        }
    }

    fn run(&self, kind: NetworkKind, input: &HostTensor) -> Result<HostTensor, RuntimeError> {
        let mut network = self.executor.network(kind)?.expect("compiled");
        let first = network.run(input)?;
        assert_eq!(first, network.run(input)?, "{}: other bits", kind.name());
        Ok(first)
    }

    fn islands(&self, kind: NetworkKind) -> usize {
        let nodes = &self.bundle.plan().networks[&kind].nodes;
        nodes
            .iter()
            .filter(|node| matches!(node.kernel, Kernel::Island(_)))
            .count()
    }
}

fn expected(runtime: &OnnxRuntime, kind: NetworkKind, input: &HostTensor) -> Tensor {
    let mut session = runtime.session(&demo(kind), 1).expect("opens");
    let (name, output) = (session.inputs()[0].name.clone(), session.outputs()[0].name.clone());
    let mut outputs = session.run(&[(&name, input)], &[&output]).expect("runs");
    Tensor::from_host(&outputs.swap_remove(0))
}

fn check(kind: NetworkKind, bindings: &Bindings, input: &HostTensor) {
    let Some(runtime) = ready() else { return };
    let device = Device::with(vec![(kind, raised(kind, bindings))], &runtime);
    assert_eq!(device.islands(kind), 0, "{}: a node has no kernel", kind.name());
    let reference = expected(&runtime, kind, input);
    let output = device.run(kind, input).expect("runs");
    assert_eq!(output.shape(), &reference.shape, "{}", kind.name());
    let error = relative_error(&reference, &output.to_f32_vec());
    assert!(error < TOLERANCE, "{}: off by {error:e}", kind.name());
}

#[test]
fn words_become_the_embedding_that_onnx_runtime_gives() {
    let mut random = Random(3);
    let ids = (0..77)
        .map(|_| ((random.signed() / 2.0 + 0.5) * 1134.0) as i64)
        .collect();
    let ids = HostTensor::from_i64([1, 77], ids);
    check(NetworkKind::TextEncoder, &Bindings::text_encoder(1, 77), &ids);
}

/// Sizes that nobody tuned for: tails of tiles everywhere, other rows than columns.
#[test]
fn latents_of_any_size_become_the_image_that_onnx_runtime_gives() {
    let mut random = Random(4);
    for [height, width] in [[3, 5], [8, 2]] {
        let latents = random.tensor(&[1, 4, height, width], 0.0, 1.5);
        check(NetworkKind::VaeDecoder, &Bindings::vae(1, 4, height, width), &latents);
    }
}

#[test]
fn images_of_any_size_become_the_latents_that_onnx_runtime_gives() {
    let mut random = Random(5);
    for [height, width] in [[24, 40], [64, 16]] {
        let image = random.tensor(&[1, 3, height, width], 0.0, 1.0);
        check(NetworkKind::VaeEncoder, &Bindings::vae(1, 3, height, width), &image);
    }
}

/// Wherever a part lies, at edges too, it is what the whole has there when both have the same norms. What differs is how
/// products are cut: f32 sums in another order, rounded to f16 as often as on any way through a decoder.
#[test]
fn a_part_of_an_image_is_that_of_the_whole() {
    let Some(runtime) = ready() else { return };
    let kind = NetworkKind::VaeDecoder;
    let [height, width] = [24, 26];
    // small, for the size of the map
    let nano = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/nano-pipeline/vae_decoder/model.onnx");
    let graph = raised_of(&nano, &Bindings::vae(1, 4, height, width));
    let device = Device::with(vec![(kind, graph)], &runtime);
    let latents = Random(6).tensor(&[1, 4, height, width], 0.0, 1.5);
    let mut decoder = device.executor.network(kind).expect("opens").expect("compiled");
    let whole = decoder.run_rows(&latents).expect("runs");
    let norms = decoder.norms().expect("reads").expect("a decoder has them");
    let scale = whole.shape()[1] / height;
    let area = |top, left, height, width| Area {
        top,
        left,
        height,
        width,
    };
    for area in [area(0, 0, 4, 4), area(9, 10, 3, 4), area(20, 23, 4, 3)] {
        let found = decoder.run_part(&latents, &area, &norms).expect("runs");
        let (part, computed) = found.expect("a small part");
        assert!(part.shape()[1] < whole.shape()[1] && part.shape()[2] < whole.shape()[2]);
        let expected = cropped(&whole, &area.scaled(scale));
        let part = cropped(&part, &area.within(&computed).scaled(scale));
        let error = relative_error(&Tensor::from_host(&expected), &part.to_f32_vec());
        assert!(error < TOLERANCE, "{area:?}: off by {error:e}");
    }
    assert!(
        decoder
            .run_part(&latents, &area(0, 0, 20, 20), &norms)
            .expect("runs")
            .is_none(),
        "nearly all of it"
    );
}

/// `[1, height, width, C]` of rows.
fn cropped(rows: &HostTensor, area: &Area) -> HostTensor {
    let [_, _, width, channels] = rows.shape()[..] else {
        panic!("a map")
    };
    let values = rows.to_f32_vec();
    let lines = (area.top..area.top + area.height).flat_map(|row| {
        let first = (row * width + area.left) * channels;
        values[first..first + area.width * channels].to_vec()
    });
    HostTensor::from_f32([1, area.height, area.width, channels], lines.collect())
}

/// No image is better than a black one.
#[test]
fn what_half_precision_does_not_hold_is_an_error() {
    let Some(runtime) = ready() else { return };
    let kind = NetworkKind::VaeDecoder;
    let device = Device::with(vec![(kind, raised(kind, &Bindings::vae(1, 4, 2, 2)))], &runtime);
    let huge = HostTensor::from_f32([1, 4, 2, 2], vec![6e4; 16]);
    assert!(matches!(
        device.run(kind, &huge),
        Err(RuntimeError::Overflow("VAE decoder"))
    ));
}

/// Weights that are no numbers give nothing that could be used, of any network and of a part of an image.
#[test]
fn weights_that_are_no_numbers_are_an_error() {
    let Some(runtime) = ready() else { return };
    let nano = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/nano-pipeline");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ids = HostTensor::from_i64([1, 77], (0..77).collect());
    let latents = Random(7).tensor(&[1, 4, 8, 8], 0.0, 1.5);
    let image = Random(8).tensor(&[1, 3, 32, 32], 0.0, 1.0);
    let networks = [
        (NetworkKind::TextEncoder, Bindings::text_encoder(1, 77), ids),
        (NetworkKind::VaeDecoder, Bindings::vae(1, 4, 8, 8), latents),
        (NetworkKind::VaeEncoder, Bindings::vae(1, 3, 32, 32), image),
    ];
    let graphs = networks.iter().map(|(kind, bindings, _)| {
        let model = fs::read(nano.join(kind.name()).join("model.onnx")).expect("reads");
        let file = folder.path().join(kind.name());
        fs::write(&file, onnx_edit::poisoned(&model)).expect("writes");
        (*kind, raised_of(&file, bindings))
    });
    let device = Device::with(graphs.collect(), &runtime);
    for (kind, _, input) in &networks {
        match device.run(*kind, input) {
            Err(RuntimeError::Overflow(title)) => assert_eq!(title, kind.title()),
            Err(other) => panic!("{}: {other}", kind.name()),
            Ok(_) => panic!("{}: values that are not finite are given", kind.name()),
        }
    }
    let kind = NetworkKind::VaeDecoder;
    let mut decoder = device.executor.network(kind).expect("opens").expect("compiled");
    let norms = decoder.norms().expect("reads").expect("a decoder has them");
    let area = Area {
        top: 1,
        left: 1,
        height: 1,
        width: 1,
    };
    let part = decoder.run_part(&networks[1].2, &area, &norms);
    assert!(!matches!(part, Ok(Some(_))), "a part is no better");
}

/// A pipeline on a machine of its own, compiled for the device with another decoder.
struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    fn with_decoder(decoder: &[u8]) -> Self {
        let machine = Machine {
            folder: tempfile::tempdir().expect("a temporary folder"),
        };
        let nano = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/nano-pipeline");
        let model = machine.path("model");
        for entry in fs::read_dir(nano).expect("lists").flatten() {
            let part = model.join(entry.file_name());
            if !entry.path().is_dir() {
                fs::copy(entry.path(), part).expect("copies");
                continue;
            }
            fs::create_dir_all(&part).expect("makes");
            for file in fs::read_dir(entry.path()).expect("lists").flatten() {
                fs::copy(file.path(), part.join(file.file_name())).expect("copies");
            }
        }
        fs::write(model.join("vae_decoder/model.onnx"), decoder).expect("writes");
        let flags = ["--size", "64", "--target", TARGET, "-o"];
        let compiled = machine.fisec("compile", &model, &flags, "plan");
        assert!(compiled.status.success(), "{}", text(&compiled.stderr));
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn fisec(&self, command: &str, on: &Path, flags: &[&str], output: &str) -> Output {
        let mut fisec = Command::new(env!("CARGO_BIN_EXE_fisec"));
        fisec.arg(command).arg(on).args(flags).arg(self.path(output));
        let fisec = fisec.env("FISEC_HOME", self.path("home")).env("FISEC_CUBINS", cubins());
        fisec.output().expect("starts")
    }

    fn paint(&self) -> Output {
        let flags = ["--prompt", "a dog on grass", "--steps", "1", "-o"];
        self.fisec("run", &self.path("plan"), &flags, "dog.png")
    }

    fn images(&self) -> usize {
        fs::read_dir(self.path("home/images")).map_or(0, Iterator::count)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A file in f32 and one in half precision, both with more on their residual path than a half holds.
#[test]
fn a_decoder_that_overflows_on_the_device_is_run_again_in_f32() {
    let Some(_) = ready() else { return };
    let nano = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/nano-pipeline/vae_decoder/model.onnx");
    let nano = fs::read(nano).expect("reads");
    let huge = |model: &[u8]| {
        onnx_edit::with_weights(model, |name, values| {
            if name.contains("conv_in") || name.contains("conv2") {
                values
                    .iter_mut()
                    .for_each(|value| *value = (*value * 1e5).clamp(-6e4, 6e4));
            }
        })
    };
    for decoder in [huge(&nano), huge(&onnx_edit::halved(&nano))] {
        let machine = Machine::with_decoder(&decoder);
        let painted = machine.paint();
        let says = text(&painted.stderr);
        assert!(painted.status.success(), "{says}");
        assert_eq!(
            says.matches("warning: the VAE decoder overflows half precision")
                .count(),
            1,
            "{says}"
        );
        assert!(says.contains("--target cpu"), "{says}");
        let png = fs::read(machine.path("dog.png")).expect("written");
        let picture = fisec_diffusion::Image::from_png(&png).expect("a picture");
        let (darkest, lightest) = (picture.rgb.iter().min(), picture.rgb.iter().max());
        assert!(
            darkest < Some(&100) && lightest > Some(&150),
            "{darkest:?} to {lightest:?}"
        );
        assert_eq!(machine.images(), 1);
    }
}

#[test]
fn a_decoder_whose_weights_are_no_numbers_gives_no_picture() {
    let Some(_) = ready() else { return };
    let nano = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/nano-pipeline/vae_decoder/model.onnx");
    let decoder = onnx_edit::poisoned(&fs::read(nano).expect("reads"));
    let machine = Machine::with_decoder(&decoder);
    let painted = machine.paint();
    let says = text(&painted.stderr);
    assert_eq!(painted.status.code(), Some(1), "{says}");
    assert!(
        says.contains("error: the VAE decoder returned values that are not finite"),
        "{says}"
    );
    assert_eq!(says.matches("\n\nhint: ").count(), 1, "{says}");
    assert!(!machine.path("dog.png").exists());
    assert_eq!(machine.images(), 0);
}

/// An operator without a kernel is computed on the host, between two parts of the graph.
#[test]
fn an_operator_without_a_kernel_is_an_island() {
    let Some(runtime) = ready() else { return };
    let kind = NetworkKind::VaeEncoder;
    let graph = text::parse(
        "graph any\n\n%0 = input \"x\" : f32[1,8,4,4]\n%1 = add %0, %0 : f32[1,8,4,4]\n%2 = onnx Sin %1, opset=17 : f32[1,8,4,4]\n%3 = add %2, %0 : f32[1,8,4,4]\noutput %3, \"y\"\n",
    )
    .expect("parses");
    let device = Device::with(vec![(kind, graph.clone())], &runtime);
    assert_eq!(device.islands(kind), 1);
    let input = Random(6).tensor(&[1, 8, 4, 4], 0.0, 1.0);
    let inputs = [("x".to_owned(), Tensor::from_host(&input))];
    let reference = Oracle::new(&graph).inputs(inputs).run().expect("runs");
    let output = device.run(kind, &input).expect("runs");
    let error = relative_error(&reference.outputs["y"], &output.to_f32_vec());
    assert!(error < TOLERANCE, "off by {error:e}");
}
