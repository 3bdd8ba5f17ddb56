//! The parts of a pipeline as people have them: other names, other places, other settings, damaged or missing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use fisec_plan::Bundle;

use crate::machine::{DOG, Machine, assert_fails, copy_folder, json, plan, stderr};
use crate::onnx_file::externalize;

const NANO: &str = "tests/data/nano-pipeline";
const NETWORKS: [&str; 4] = ["unet", "text_encoder", "vae_decoder", "vae_encoder"];

/// A copy of the nano pipeline on a machine.
fn pipeline(machine: &Machine) -> PathBuf {
    let folder = machine.path("p");
    copy_folder(NANO.as_ref(), &folder);
    folder
}

fn compile(machine: &Machine, model: &Path, more: &[&str]) -> Output {
    let mut command = machine.command(&["compile"]);
    command
        .arg(model)
        .arg("-o")
        .arg(machine.path("p.plan"))
        .args(more)
        .output()
        .unwrap()
}

#[track_caller]
fn compiled(machine: &Machine, model: &Path, more: &[&str]) -> String {
    let output = compile(machine, model, more);
    assert!(output.status.success(), "{}", stderr(&output));
    stderr(&output)
}

/// The plan makes the image that the nano pipeline makes.
#[track_caller]
fn makes_the_same_image(machine: &Machine) {
    let usual = Machine::new();
    usual.painted(DOG, "dog.png", &["--forget"]);
    json(&machine.paint_with(&machine.path("p.plan"), DOG, "dog.png", &["--forget"]));
    assert_eq!(machine.pixels("dog.png"), usual.pixels("dog.png"));
}

fn rename_models(folder: &Path, name: &str) {
    for part in NETWORKS {
        fs::rename(folder.join(part).join("model.onnx"), folder.join(part).join(name)).unwrap();
    }
}

#[test]
fn a_network_cut_anywhere_is_refused_by_compile() {
    let machine = Machine::new();
    let folder = pipeline(&machine);
    for part in &NETWORKS[1..] {
        let file = folder.join(part).join("model.onnx");
        let bytes = fs::read(&file).unwrap();
        let ends = (0..24).map(|index| bytes.len() - 1 - index * (1 + index / 4));
        let spread = (0..24).map(|index| bytes.len() * index / 24 + index);
        for length in ends.chain(spread) {
            fs::write(&file, &bytes[..length]).unwrap();
            let output = compile(&machine, &folder, &[]);
            let text = stderr(&output);
            assert_eq!(
                output.status.code(),
                Some(1),
                "{part}, {length} of {} bytes: {text}",
                bytes.len()
            );
            assert!(text.starts_with("error: ") && text.contains(part), "{text}");
            assert!(!machine.path("p.plan").exists());
        }
        fs::write(&file, bytes).unwrap();
    }
    compiled(&machine, &folder, &[]);
}

#[test]
fn other_damaged_parts_are_refused_by_compile() {
    let machine = Machine::new();
    let damages = [
        ("tokenizer/tokenizer.json", ""),
        ("tokenizer/tokenizer.json", "garbage"),
        ("tokenizer/tokenizer.json", "{}"),
        ("tokenizer/tokenizer_config.json", "{\"model_max_length\": 77"),
        ("scheduler/scheduler_config.json", ""),
        ("scheduler/scheduler_config.json", "[]"),
        ("scheduler/scheduler_config.json", "{\"beta_start\": NaN}"),
        ("scheduler/scheduler_config.json", "{\"num_train_timesteps\": \"many\"}"),
        ("vae_decoder/config.json", "{\"scaling_factor\": 0.18"),
        ("vae_decoder/config.json", "{\"scaling_factor\": Infinity}"),
        ("vae_decoder/config.json", "{\"scaling_factor\": 0}"),
    ];
    let folder = pipeline(&machine);
    for (file, text) in damages {
        let whole = fs::read(folder.join(file)).unwrap();
        fs::write(folder.join(file), text).unwrap();
        let output = compile(&machine, &folder, &[]);
        assert_fails(&output, 1, file.rsplit('/').next().unwrap());
        assert!(
            stderr(&output).contains("\nhint: "),
            "{file} {text}: {}",
            stderr(&output)
        );
        fs::write(folder.join(file), whole).unwrap();
    }
}

#[test]
fn networks_that_do_not_fit_are_refused_by_compile() {
    let machine = Machine::new();
    let folder = pipeline(&machine);
    let swap = |part: &str, with: &str| {
        let file = folder.join(part).join("model.onnx");
        fs::copy(with, &file).unwrap();
        let output = compile(&machine, &folder, &[]);
        fs::copy(Path::new(NANO).join(part).join("model.onnx"), &file).unwrap();
        output
    };
    let wide = swap("text_encoder", "models/demo/text_encoder/model.onnx");
    assert_fails(&wide, 1, "text encoder");
    let decoder = "tests/data/nano-pipeline/vae_decoder/model.onnx";
    assert_fails(&swap("text_encoder", decoder), 1, "its input should be token ids");
    assert_fails(&swap("vae_encoder", decoder), 1, "the VAE encoder cannot be used");
    let encoder = "tests/data/nano-pipeline/text_encoder/model.onnx";
    assert_fails(&swap("vae_decoder", encoder), 1, "its input should be a map");
    compiled(&machine, &folder, &[]);
}

#[test]
fn a_token_that_the_text_encoder_does_not_know_is_said() {
    let machine = Machine::new();
    let folder = pipeline(&machine);
    let file = folder.join("tokenizer/tokenizer_config.json");
    let text = fs::read_to_string(&file).unwrap();
    let toy = r#""added_tokens_decoder": {"231": {"content": "<toy>", "special": false},"#;
    fs::write(&file, text.replace(r#""added_tokens_decoder": {"#, toy)).unwrap();
    let said = compiled(&machine, &folder, &[]);
    assert!(
        said.contains("`<toy>` has the id 231, the text encoder knows 231 tokens"),
        "{said}"
    );
}

#[test]
fn a_scheduler_as_python_writes_it() {
    let machine = Machine::new();
    let folder = pipeline(&machine);
    let file = folder.join("scheduler/scheduler_config.json");
    let with = |clipped: &str| {
        let text = format!(
            r#"{{"_class_name": "DPMSolverMultistepScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear",
                "beta_start": 0.00085, "lambda_min_clipped": {clipped}, "num_train_timesteps": 1000.0,
                "prediction_type": "v_prediction", "solver_type": "midpoint", "steps_offset": "1",
                "timestep_spacing": "linspace", "trained_betas": null, "use_karras_sigmas": true, "flow_shift": NaN,
                "sample_max_value": Infinity}}"#
        );
        fs::write(&file, text).unwrap();
        let said = compiled(&machine, &folder, &[]);
        assert!(!said.contains("warning"), "{said}");
        json(&machine.paint_with(&machine.path("p.plan"), DOG, "dog.png", &["--forget"]));
        machine.pixels("dog.png")
    };
    assert_eq!(with("-Infinity"), with("null"));
}

#[test]
fn a_scheduler_that_is_not_built_is_said_by_compile() {
    let machine = Machine::new();
    let folder = pipeline(&machine);
    let schedulers = [
        (r#""_class_name": "LCMScheduler", "clip_sample": false"#, "LCMScheduler"),
        (
            r#""_class_name": "UniPCMultistepScheduler", "solver_type": "bh2", "solver_p": null"#,
            "UniPCMultistepScheduler",
        ),
        (
            r#""_class_name": "EulerAncestralDiscreteScheduler""#,
            "EulerAncestralDiscreteScheduler",
        ),
        (r#""beta_start": 0.001"#, "scheduler"),
        (
            r#""_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++""#,
            "`algorithm_type`",
        ),
    ];
    for (fields, named) in schedulers {
        let text = format!(r#"{{{fields}, "prediction_type": "v_prediction"}}"#);
        fs::write(folder.join("scheduler/scheduler_config.json"), text).unwrap();
        let said = compiled(&machine, &folder, &[]);
        let warning = said.lines().find(|line| line.starts_with("warning: ")).unwrap();
        assert!(
            warning.contains(named) && warning.contains("--sampler ddim"),
            "{warning}"
        );
        let plan = machine.path("p.plan");
        let output = machine.paint_with(&plan, DOG, "x.png", &["--forget"]);
        assert_fails(&output, 1, named);
        assert!(
            stderr(&output).contains("hint: choose one with `--sampler ddim`, `euler`"),
            "{}",
            stderr(&output)
        );
        json(&machine.paint_with(&plan, DOG, "x.png", &["--forget", "--sampler", "ddim"]));
    }
    let flow = r#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}"#;
    fs::write(folder.join("scheduler/scheduler_config.json"), flow).unwrap();
    assert!(compiled(&machine, &folder, &[]).contains("warning: the model's scheduler `FlowMatch"));
    let output = machine.paint_with(&machine.path("p.plan"), DOG, "x.png", &["--sampler", "ddim"]);
    assert_fails(&output, 1, "do not predict noise");
}

#[test]
fn a_unet_with_incomplete_neighbours_is_compiled_alone() {
    let machine = Machine::new();
    let missing = [
        "scheduler",
        "scheduler/scheduler_config.json",
        "tokenizer",
        "text_encoder/model.onnx",
        "vae_decoder/model.onnx",
    ];
    for name in missing {
        let folder = machine.path(&name.replace('/', "-"));
        copy_folder(NANO.as_ref(), &folder);
        let path = folder.join(name);
        if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        }
        .unwrap();
        let said = compiled(&machine, &folder.join("unet/model.onnx"), &[]);
        assert!(
            said.contains("the U-Net alone is compiled: ") && said.contains(name),
            "{name}: {said}"
        );
        assert!(Bundle::open(&machine.path("p.plan")).unwrap().plan().pipeline.is_none());
        let whole = compile(&machine, &folder, &[]);
        assert_fails(&whole, 1, "is missing");
        assert!(stderr(&whole).contains(name), "{}", stderr(&whole));
    }
}

#[test]
fn a_unet_with_complete_neighbours_brings_them_along() {
    let machine = Machine::new();
    let folder = pipeline(&machine);
    let said = compiled(&machine, &folder.join("unet/model.onnx"), &[]);
    assert!(!said.contains("alone"), "{said}");
    makes_the_same_image(&machine);
}

#[test]
fn a_unet_with_damaged_neighbours_is_compiled_alone() {
    let machine = Machine::new();
    let folder = pipeline(&machine);
    fs::write(folder.join("text_encoder/model.onnx"), "").unwrap();
    let said = compiled(&machine, &folder.join("unet/model.onnx"), &[]);
    assert!(
        said.contains("the U-Net alone is compiled: ") && said.contains("text_encoder"),
        "{said}"
    );
}

#[test]
fn files_of_other_names_are_found_and_said() {
    for name in ["model.fp16.onnx", "model_fp16.onnx", "Model.ONNX", "weights.onnx"] {
        let machine = Machine::new();
        let folder = pipeline(&machine);
        rename_models(&folder, name);
        let said = compiled(&machine, &folder, &[]);
        for part in NETWORKS {
            assert!(said.contains(&format!("{part}/{name}")), "{said}");
        }
        makes_the_same_image(&machine);
    }
}

#[test]
fn a_variant_is_chosen_part_by_part() {
    let machine = Machine::new();
    let folder = pipeline(&machine);
    for part in ["unet", "text_encoder"] {
        let file = folder.join(part).join("model.onnx");
        fs::rename(&file, folder.join(part).join("model.fp16.onnx")).unwrap();
        fs::write(&file, "of another kind").unwrap();
    }
    assert_eq!(compile(&machine, &folder, &[]).status.code(), Some(1));
    let said = compiled(&machine, &folder, &["--variant", "fp16"]);
    assert!(
        said.contains("vae_decoder has no variant `fp16`; model.onnx is used"),
        "{said}"
    );
    assert!(!said.contains("text_encoder"), "{said}");
    makes_the_same_image(&machine);
}

#[test]
fn several_files_without_a_usual_one_are_listed() {
    let machine = Machine::new();
    let folder = pipeline(&machine);
    rename_models(&folder, "model.fp16.onnx");
    fs::copy(folder.join("unet/model.fp16.onnx"), folder.join("unet/model.int8.onnx")).unwrap();
    let output = compile(&machine, &folder, &[]);
    assert_fails(&output, 1, "model.fp16.onnx, model.int8.onnx");
    assert!(stderr(&output).contains("`--variant fp16`"), "{}", stderr(&output));
    compiled(&machine, &folder, &["--variant", "fp16"]);
}

#[test]
fn folders_of_other_spellings_are_found() {
    let machine = Machine::new();
    let folder = pipeline(&machine);
    fs::create_dir(folder.join("vae")).unwrap();
    for (from, to) in [
        ("vae_decoder", "vae/decoder"),
        ("vae_encoder", "vae/encoder"),
        ("text_encoder", "text-encoder"),
    ] {
        fs::rename(folder.join(from), folder.join(to)).unwrap();
    }
    compiled(&machine, &folder, &[]);
    makes_the_same_image(&machine);
}

#[test]
fn weights_in_files_of_their_own_are_copied_and_foreign_ones_are_not() {
    let machine = Machine::new();
    let folder = pipeline(&machine);
    let places = ["weights/part.bin", "model.onnx_data", "model.onnx.data", "a/b/c.weight"];
    for (part, place) in NETWORKS.into_iter().zip(places) {
        externalize(&folder.join(part).join("model.onnx"), place);
        for foreign in [
            "model.safetensors",
            "model.fp16.onnx",
            "diffusion_pytorch_model.bin",
            "openvino_model.xml",
        ] {
            fs::write(folder.join(part).join(foreign), "foreign").unwrap();
        }
    }
    compiled(&machine, &folder, &[]);
    let bundle = Bundle::open(&machine.path("p.plan")).unwrap();
    let mut files: Vec<&str> = bundle.plan().files.keys().map(String::as_str).collect();
    files.retain(|file| file.starts_with("pipeline/") && !file.contains("/tokenizer/"));
    assert_eq!(
        files,
        [
            "pipeline/scheduler/scheduler_config.json",
            "pipeline/text_encoder/config.json",
            "pipeline/text_encoder/model.onnx",
            "pipeline/text_encoder/model.onnx_data",
            "pipeline/vae_decoder/config.json",
            "pipeline/vae_decoder/model.onnx",
            "pipeline/vae_decoder/model.onnx.data",
            "pipeline/vae_encoder/a/b/c.weight",
            "pipeline/vae_encoder/config.json",
            "pipeline/vae_encoder/model.onnx",
        ]
    );
    makes_the_same_image(&machine);
}

#[test]
fn weights_that_are_missing_short_or_elsewhere_are_refused() {
    for part in NETWORKS {
        let machine = Machine::new();
        let folder = pipeline(&machine);
        let data = folder.join(part).join("weights/part.bin");
        externalize(&folder.join(part).join("model.onnx"), "weights/part.bin");
        let whole = fs::read(&data).unwrap();
        fs::write(&data, &whole[..whole.len() - 1]).unwrap();
        assert_fails(
            &compile(&machine, &folder, &[]),
            1,
            "the file is truncated or belongs to another export",
        );
        fs::remove_file(&data).unwrap();
        assert_fails(&compile(&machine, &folder, &[]), 1, "weights/part.bin");
        for place in ["../outside.bin", "/etc/hostname"] {
            let folder = machine.path(&format!("{}-{}", part, place.len()));
            copy_folder(NANO.as_ref(), &folder);
            let model = folder.join(part).join("model.onnx");
            externalize(&model, "weights/0123456789.bin");
            let bytes = fs::read(&model).unwrap();
            let padded = format!("{place:/<22}");
            fs::write(&model, replaced(&bytes, b"weights/0123456789.bin", padded.as_bytes())).unwrap();
            assert_fails(&compile(&machine, &folder, &[]), 1, "lies outside the model's folder");
        }
    }
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut out = bytes.to_vec();
    for at in 0..=out.len() - from.len() {
        if &out[at..at + from.len()] == from {
            out[at..at + to.len()].copy_from_slice(to);
        }
    }
    out
}

/// Files as the cache of Hugging Face's hub has them: names that link to blobs elsewhere.
#[test]
#[cfg(unix)]
fn links_into_a_cache_of_blobs_are_followed() {
    let machine = Machine::new();
    let source = pipeline(&machine);
    for part in NETWORKS {
        externalize(&source.join(part).join("model.onnx"), "model.onnx_data");
    }
    let (blobs, snapshot) = (machine.path("hub/blobs"), machine.path("hub/snapshots/0f1e"));
    fs::create_dir_all(&blobs).unwrap();
    link(&source, &snapshot, &blobs, "../../blobs");
    compiled(&machine, &snapshot, &[]);
    makes_the_same_image(&machine);
}

/// Moves the files of `from` to `blobs` and leaves links to them in `to`, where the blobs are at `above`.
#[cfg(unix)]
fn link(from: &Path, to: &Path, blobs: &Path, above: &str) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            link(&entry.path(), &target, blobs, &format!("../{above}"));
            continue;
        }
        let hash = format!("{:016x}", fs::read_dir(blobs).unwrap().count());
        fs::rename(entry.path(), blobs.join(&hash)).unwrap();
        std::os::unix::fs::symlink(format!("{above}/{hash}"), target).unwrap();
    }
}

#[test]
fn pipelines_of_other_classes_are_said() {
    let machine = Machine::new();
    let folder = pipeline(&machine);
    let index = fs::read_to_string(folder.join("model_index.json")).unwrap();
    let class = |class: &str| {
        fs::write(
            folder.join("model_index.json"),
            index.replace("StableDiffusionPipeline", class),
        )
        .unwrap();
        compile(&machine, &folder, &[])
    };
    assert_fails(&class("StableDiffusionXLPipeline"), 1, "two text encoders");
    assert_fails(&class("FluxPipeline"), 1, "transformer");
    let relative = class("LatentConsistencyModelPipeline");
    assert!(relative.status.success());
    assert!(stderr(&relative).contains("warning: the model is a `LatentConsistencyModelPipeline`"));
    assert!(class("OnnxStableDiffusionPipeline").status.success());
    fs::rename(folder.join("unet"), folder.join("transformer")).unwrap();
    assert_fails(&class("StableDiffusion3Pipeline"), 1, "StableDiffusion3Pipeline");
    fs::remove_file(folder.join("model_index.json")).unwrap();
    let output = compile(&machine, &folder, &[]);
    assert_fails(&output, 1, "has no unet/model.onnx");
    assert!(stderr(&output).contains("transformer/"), "{}", stderr(&output));
}

#[test]
fn a_plan_keeps_what_its_tokenizer_needs() {
    let bundle = Bundle::open(plan()).unwrap();
    let files = &bundle.plan().files;
    for name in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"] {
        assert!(files.contains_key(&format!("pipeline/tokenizer/{name}")), "{name}");
    }
}

/// As in diffusers, prompts have as many tokens as the tokenizer allows, where the text encoder has more positions.
#[test]
fn a_tokenizers_limit_is_the_length_of_prompts() {
    let machine = Machine::new();
    let folder = pipeline(&machine);
    let file = folder.join("tokenizer/tokenizer_config.json");
    let text = fs::read_to_string(&file).unwrap();
    for (limit, tokens) in [
        ("16", 16),
        ("1000000000000000019884624838656", 77),
        ("1e30", 77),
        ("null", 77),
    ] {
        let key = r#""model_max_length": "#;
        fs::write(&file, text.replace(&format!("{key}77"), &format!("{key}{limit}"))).unwrap();
        compiled(&machine, &folder, &[]);
        let plan = machine.path("p.plan");
        assert_eq!(Bundle::open(&plan).unwrap().plan().context[0], tokens, "{limit}");
        json(&machine.paint_with(&plan, DOG, "dog.png", &["--forget"]));
    }
}
