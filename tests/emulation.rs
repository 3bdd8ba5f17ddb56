//! A whole edit, words to latents to pixels, against PyTorch: records of `tools/references/emulate.py`.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use fisec_diffusion::denoise::{EditOptions, GuideSteps, MaskFrom, Outcome, Region};
use fisec_diffusion::words::{ControlOptions, Steering};
use fisec_diffusion::{
    BaseImage, DiffusionError, EditedImage, Event, Image, Notice, Pipeline, Request, Trajectory, mask_from_png,
};
use fisec_ir::Graph;
use fisec_onnx::{Bindings, import};
use fisec_passes::Module;
use fisec_passes::canonical::canonicalize;
use fisec_passes::cost::CostTable;
use fisec_plan::{Bundle, BundleWriter, CompileOptions, Halos, Keys, Norm, PipelineFiles, Plan, Samples};
use fisec_runtime::SlotSink;
use fisec_runtime::cache::MemoryCache;
use fisec_runtime::ort::OnnxRuntime;
use fisec_tensor::{DType, HostTensor, Mask};
use serde_json::Value;

/// Peak signal-to-noise ratio of final latents that sparse edits have to reach, dB. f32 in another order of additions.
const SAME: f64 = 60.0;

/// The same for the demo model, whose records are rounded to f16 and whose steps amplify that.
const NEARLY: f64 = 50.0;

const NO_CONTROL: ControlOptions = ControlOptions {
    steering: Steering::None,
    calls: None,
    replace_calls: None,
    emphasis: 1.0,
};

/// A pipeline with the records of it.
#[derive(Clone, Copy)]
struct Subject {
    /// folder of the pipeline, from the repository's root
    pipeline: &'static str,
    /// folder of the records
    records: &'static str,
    /// rows and columns of latents
    side: usize,
}

/// Small and random.
const NANO: Subject = Subject {
    pipeline: "tests/data/nano-pipeline",
    records: "tests/data/emulation/nano",
    side: 16,
};

/// The model that ships.
const DEMO: Subject = Subject {
    pipeline: "models/demo",
    records: "tests/data/emulation/demo",
    side: 64,
};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

struct Records {
    head: Value,
    latents: Vec<f32>,
    mask: Vec<u8>,
}

impl Records {
    fn read(subject: Subject) -> Self {
        let folder = repository(subject.records);
        let head: Value =
            serde_json::from_str(&std::fs::read_to_string(folder.join("emulation.json")).unwrap()).unwrap();
        let file = head["file"].as_str().unwrap();
        let bytes = std::fs::read(folder.join(file)).unwrap();
        let dtype = if file.ends_with(".f16") { DType::F16 } else { DType::F32 };
        let latents = HostTensor::new(dtype, [bytes.len() / dtype.size()], bytes.into())
            .unwrap()
            .to_f32_vec();
        let mask = std::fs::read(folder.join("mask.png")).unwrap();
        Records { head, latents, mask }
    }

    fn request(&self, prompt: &str) -> Request {
        Request {
            prompt: self.head[prompt].as_str().unwrap().into(),
            negative: String::new(),
            seed: self.head["seed"].as_u64().unwrap(),
            steps: self.head["steps"].as_u64().unwrap() as usize,
            guidance: self.head["guidance"].as_f64().unwrap() as f32,
            sampler: None,
        }
    }

    fn options(&self) -> EditOptions {
        EditOptions {
            region: Region::Given(mask_from_png(&self.mask).unwrap()),
            mask_from: MaskFrom::Latents,
            control: NO_CONTROL,
            guide_steps: GuideSteps::Exactly(self.head["guide_steps"].as_u64().unwrap() as usize),
            dense: false,
            break_even: 1.0,
            feather: 8,
        }
    }

    /// dB of `ours` against the recorded latents of this name.
    fn psnr(&self, name: &str, ours: &[f32]) -> f64 {
        let place = self.head["latents"]
            .as_array()
            .unwrap()
            .iter()
            .position(|found| found == name)
            .unwrap();
        let theirs = &self.latents[place * ours.len()..][..ours.len()];
        let peak = theirs.iter().fold(0.0f32, |peak, value| peak.max(value.abs()));
        let square = |(a, b): (&f32, &f32)| f64::from(a - b).powi(2);
        let error = ours.iter().zip(theirs).map(square).sum::<f64>() / ours.len() as f64;
        10.0 * (f64::from(peak).powi(2) / error.max(1e-18)).log10()
    }
}

struct Compiled {
    bundle: Bundle,
    runtime: OnnxRuntime,
    _folder: tempfile::TempDir,
}

impl Compiled {
    /// The pipeline as a plan.
    fn new(subject: Subject, keys: Keys, norm: Norm, sparse_levels: usize, cache_dtype: DType) -> Self {
        let (unet, side) = (repository(subject.pipeline).join("unet/model.onnx"), subject.side);
        let imported = import(&unet, &Bindings::unet(2, side, side, 77)).unwrap();
        let mut graph = imported.graph;
        canonicalize(&mut graph, &mut |_, _| ControlFlow::Continue(())).unwrap();
        let options = CompileOptions {
            keys,
            norm,
            sparse_levels: Some(sparse_levels),
            cache_dtype,
            control_levels: None,
            samples: Samples::Shared,
            remainder: fisec_plan::Remainder::Native,
            halos: Halos::Recorded,
        };
        let table = CostTable::shipped("cpu").unwrap();
        let mut listener = |_: usize, _: &str, _: &Graph| ControlFlow::Continue(());
        let mut passes = fisec_passes::Pipeline::new(&mut listener);
        let module = Module::build(graph, &options, &table, &mut passes).unwrap().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut writer = BundleWriter::create(&folder.path().join("plan")).unwrap();
        let plan = module.lower("cpu", &options, &table, &[], &mut writer).unwrap();
        let pipeline = Some(copy_parts(subject, &mut writer));
        writer.finish(Plan { pipeline, ..plan }).unwrap();
        let bundle = Bundle::open(&folder.path().join("plan")).unwrap();
        let runtime = OnnxRuntime::load().expect("ONNX Runtime is installed");
        Compiled {
            bundle,
            runtime,
            _folder: folder,
        }
    }

    fn pipeline(&self) -> Pipeline {
        Pipeline::open(&self.bundle, &self.runtime).unwrap()
    }

    fn store(&self) -> MemoryCache {
        MemoryCache::new(&self.bundle.plan().slots)
    }
}

fn copy_parts(subject: Subject, writer: &mut BundleWriter) -> PipelineFiles {
    let mut copy = |file: &str| {
        writer
            .copy_file(file, &repository(subject.pipeline).join(file))
            .unwrap();
        file.to_string()
    };
    copy("tokenizer/tokenizer_config.json");
    let vae = repository(subject.pipeline).join("vae_decoder/config.json");
    let vae: Value = serde_json::from_str(&std::fs::read_to_string(vae).unwrap()).unwrap();
    PipelineFiles {
        text_encoder: copy("text_encoder/model.onnx"),
        vae_decoder: copy("vae_decoder/model.onnx"),
        vae_encoder: Some(copy("vae_encoder/model.onnx")),
        widened: BTreeMap::new(),
        tokenizer: copy("tokenizer/tokenizer.json"),
        scheduler: copy("scheduler/scheduler_config.json"),
        scaling_factor: vae["scaling_factor"].as_f64().unwrap(),
        vae_scale: 8,
    }
}

fn silent(_: Event) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn generate(pipeline: &mut Pipeline, request: &Request, slots: &mut MemoryCache) -> (Trajectory, Image) {
    let sink: &mut dyn SlotSink = slots;
    let made = pipeline.generate(request, Some(sink), &mut silent).unwrap();
    assert_eq!(
        made.image.width * made.image.height * 4,
        made.trajectory.last().len() * 64
    );
    (made.trajectory, made.image)
}

/// Every byte outside the mask is the base's.
fn assert_background(edited: &EditedImage, base: &Image) {
    let image = edited.image.as_ref().unwrap();
    assert_ne!(image, base);
    for pixel in 0..image.width * image.height {
        let active = edited.edited.mask.get(pixel / image.width / 8, pixel % image.width / 8);
        let bytes = pixel * 3..pixel * 3 + 3;
        assert!(active || image.rgb[bytes.clone()] == base.rgb[bytes], "pixel {pixel}");
    }
}

fn base<'a>(request: &'a Request, trajectory: &'a Trajectory, slots: &'a MemoryCache) -> BaseImage<'a> {
    BaseImage {
        prompt: &request.prompt,
        trajectory,
        slots,
        map_calls: usize::MAX,
        image: None,
        norms: None,
    }
}

#[test]
fn sparse_edits_are_those_of_pytorch() {
    let cases = [
        ("full_frozen_4", Keys::Full, Norm::Frozen, 3),
        ("full_frozen_0", Keys::Full, Norm::Frozen, 4),
        ("full_frozen_8", Keys::Full, Norm::Frozen, 2),
        ("full_live_4", Keys::Full, Norm::Live, 3),
        ("masked_frozen_4", Keys::Masked, Norm::Frozen, 3),
        ("masked_live_4", Keys::Masked, Norm::Live, 3),
    ];
    agree_with_pytorch(NANO, &cases, SAME);
}

#[test]
fn sparse_edits_of_the_demo_model_are_those_of_pytorch() {
    let cases = [
        ("full_frozen_16", Keys::Full, Norm::Frozen, 3),
        ("full_live_16", Keys::Full, Norm::Live, 3),
        ("masked_frozen_16", Keys::Masked, Norm::Frozen, 3),
        ("masked_live_16", Keys::Masked, Norm::Live, 3),
    ];
    agree_with_pytorch(DEMO, &cases, NEARLY);
}

/// Every case of the subject reaches `enough` dB in its final latents.
fn agree_with_pytorch(subject: Subject, cases: &[(&str, Keys, Norm, usize)], enough: f64) {
    let records = Records::read(subject);
    let mut found = Vec::new();
    for &(name, keys, norm, sparse_levels) in cases {
        let compiled = Compiled::new(subject, keys, norm, sparse_levels, DType::F32);
        let (mut pipeline, mut slots) = (compiled.pipeline(), compiled.store());
        let (request, edit) = (records.request("base"), records.request("prompt"));
        let (path, _) = generate(&mut pipeline, &request, &mut slots);
        found.push(("base", records.psnr("base", path.last())));
        let base = || base(&request, &path, &slots);
        let edited = pipeline
            .edit(&edit, base(), &records.options(), None, &mut silent)
            .unwrap()
            .edited;
        assert_eq!((edited.outcome, edited.sparse_steps), (Outcome::Sparse, 8));
        found.push((name, records.psnr(name, edited.trajectory.last())));
        if found.len() > 2 {
            continue; // the yardstick does not depend on the case
        }
        let dense = EditOptions {
            dense: true,
            ..records.options()
        };
        let yardstick = pipeline.edit(&edit, base(), &dense, None, &mut silent).unwrap().edited;
        found.push(("yardstick", records.psnr("yardstick", yardstick.trajectory.last())));
    }
    eprintln!("dB against PyTorch: {found:.1?}");
    assert!(found.iter().all(|(_, psnr)| *psnr > enough), "{found:?}");
}

#[test]
fn recorded_halves_lose_little() {
    let records = Records::read(NANO);
    let compiled = Compiled::new(NANO, Keys::Full, Norm::Frozen, 3, DType::F16);
    let (mut pipeline, mut slots) = (compiled.pipeline(), compiled.store());
    let (request, edit) = (records.request("base"), records.request("prompt"));
    let (path, _) = generate(&mut pipeline, &request, &mut slots);
    let edited = pipeline
        .edit(
            &edit,
            base(&request, &path, &slots),
            &records.options(),
            None,
            &mut silent,
        )
        .unwrap();
    let psnr = records.psnr("full_frozen_4", edited.edited.trajectory.last());
    assert!(psnr > 50.0, "{psnr} dB");
}

/// Two edits of one base and an edit of an edit, in one process, give what a fresh one gives.
#[test]
fn nothing_of_one_edit_stays_for_the_next() {
    let records = Records::read(NANO);
    let compiled = Compiled::new(NANO, Keys::Full, Norm::Frozen, 3, DType::F16);
    let (request, first) = (records.request("base"), records.request("prompt"));
    let second = Request {
        prompt: first.prompt.replace("red apple", "snowman"),
        ..first.clone()
    };
    let options = EditOptions {
        region: Region::Changed { grow: 1 },
        guide_steps: GuideSteps::Auto,
        ..records.options()
    };
    let (mut used, mut slots) = (compiled.pipeline(), compiled.store());
    let (path, image) = generate(&mut used, &request, &mut slots);
    let source = BaseImage {
        image: Some(&image),
        ..base(&request, &path, &slots)
    };

    let mut edited_slots = compiled.store();
    let sink: &mut dyn SlotSink = &mut edited_slots;
    let edited = used.edit(&first, source, &options, Some(sink), &mut silent).unwrap();
    let other = used.edit(&second, source, &options, None, &mut silent).unwrap();
    let chain = BaseImage {
        image: edited.image.as_ref(),
        ..base(&first, &edited.edited.trajectory, &edited_slots)
    };
    let chained = used.edit(&second, chain, &options, None, &mut silent).unwrap();

    let fresh = |request: &Request, source: BaseImage<'_>| {
        compiled
            .pipeline()
            .edit(request, source, &options, None, &mut silent)
            .unwrap()
    };
    for (name, used, fresh) in [
        ("edit", &edited, fresh(&first, source)),
        ("second edit", &other, fresh(&second, source)),
        ("edit of an edit", &chained, fresh(&second, chain)),
    ] {
        assert_eq!(used.edited.outcome, Outcome::Sparse, "{name}");
        assert_eq!(used.edited.mask, fresh.edited.mask, "{name}");
        assert_eq!(used.edited.trajectory, fresh.edited.trajectory, "{name}");
        assert_eq!(used.image, fresh.image, "{name}");
    }
    assert_background(&edited, &image);
    assert_background(&chained, edited.image.as_ref().unwrap());
    let plan = compiled.bundle.plan();
    let maps: u64 = plan.map_slots().map(|(slot, _)| plan.slots[slot.index()].bytes).sum();
    let sparse = edited.edited.sparse_steps as u64;
    assert_eq!(
        edited_slots.bytes() + sparse * maps,
        slots.bytes(),
        "sparse steps have no maps"
    );
}

#[test]
fn prompts_are_checked_before_anything_runs() {
    let records = Records::read(NANO);
    let compiled = Compiled::new(NANO, Keys::Full, Norm::Frozen, 3, DType::F16);
    let (mut pipeline, slots) = (compiled.pipeline(), compiled.store());
    let request = records.request("base");
    let empty = Request {
        prompt: "  \n".into(),
        ..request.clone()
    };
    let error = pipeline.generate(&empty, None, &mut silent).unwrap_err();
    assert!(matches!(error, DiffusionError::EmptyPrompt));

    let path = Trajectory::new([4, 16, 16], vec![0.0; 1024]);
    let mut told = Vec::new();
    let mut observer = |event: Event| {
        told.push(event);
        ControlFlow::Continue(())
    };
    let long = format!("{}, {}", request.prompt, "and a dog on grass ".repeat(20));
    let long = Request {
        prompt: long,
        ..request.clone()
    };
    let shouted = Request {
        prompt: format!(" {} ", request.prompt.to_uppercase()),
        ..request.clone()
    };
    let unchanged = pipeline
        .edit(
            &shouted,
            base(&request, &path, &slots),
            &records.options(),
            None,
            &mut observer,
        )
        .unwrap();
    assert_eq!((unchanged.edited.outcome, unchanged.image), (Outcome::Unchanged, None));
    assert_eq!(told, [Event::Text, Event::Notice(Notice::Unchanged)]);

    let mut told = Vec::new();
    let mut observer = |event: Event| {
        told.push(event);
        if told.len() == 2 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let error = pipeline.generate(&long, None, &mut observer).unwrap_err();
    assert!(matches!(error, DiffusionError::Interrupted));
    assert!(
        matches!(&told[1], Event::Notice(Notice::Truncated(rest)) if rest.contains("and a dog")),
        "{told:?}"
    );
}

#[test]
fn guided_steps_follow_attention_as_in_pytorch() {
    let folder = repository("tests/data/emulation/control");
    let head: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("control.json")).unwrap()).unwrap();
    let bytes = std::fs::read(folder.join("latents.f32")).unwrap();
    let latents = HostTensor::new(DType::F32, [bytes.len() / 4], bytes.into())
        .unwrap()
        .to_f32_vec();
    let records = Records {
        head,
        latents,
        mask: Vec::new(),
    };
    let compiled = Compiled::new(NANO, Keys::Full, Norm::Frozen, 2, DType::F32);
    let (mut pipeline, mut slots) = (compiled.pipeline(), compiled.store());
    let (request, edit) = (records.request("base"), records.request("prompt"));
    let (path, _) = generate(&mut pipeline, &request, &mut slots);
    let guided = records.head["guide_steps"].as_u64().unwrap() as usize;
    let mut found = Vec::new();
    for (name, steering) in [("refine", Steering::Refine), ("replace", Steering::Replace)] {
        let options = EditOptions {
            region: Region::Given(Mask::filled(NANO.side, NANO.side, true)),
            guide_steps: GuideSteps::Exactly(guided),
            mask_from: MaskFrom::Latents,
            control: ControlOptions {
                steering,
                ..ControlOptions::default()
            },
            dense: true,
            break_even: 1.0,
            feather: 8,
        };
        let edited = pipeline.edit(&edit, base(&request, &path, &slots), &options, None, &mut silent);
        let edited = edited.unwrap().edited;
        assert_eq!(edited.controlled_steps, guided);
        found.push((name, records.psnr(name, edited.trajectory.at(guided))));
    }
    assert!(found.iter().all(|(_, psnr)| *psnr > SAME), "{found:?}");
}
