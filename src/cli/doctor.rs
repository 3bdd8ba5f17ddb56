//! `fisec doctor`: what this machine offers, what is missing, how to get it.

use std::path::{Path, PathBuf};

use clap::Args;
use fisec_plan::Bundle;
use fisec_runtime::cache::default_home;
use fisec_runtime::ort::{OnnxRuntime, Provider};
use serde_json::{Value, json};
use sysinfo::{Disks, System};

use super::console::Console;
use super::failure::Failure;
use super::{output, units};

/// An image of the demo model takes about as much.
const LITTLE_DISK: u64 = 5_000_000_000;

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  fisec doctor\n  fisec doctor demo.plan")]
pub struct Arguments {
    /// Also check every byte of this plan
    plan: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

struct Report {
    rows: Vec<Vec<String>>,
    data: serde_json::Map<String, Value>,
}

pub fn run(arguments: &Arguments, _console: &Console) -> Result<(), Failure> {
    let mut report = Report {
        rows: Vec::new(),
        data: serde_json::Map::new(),
    };
    report.add(
        "fisec",
        "fisec",
        env!("CARGO_PKG_VERSION").into(),
        json!(env!("CARGO_PKG_VERSION")),
    );
    processor(&mut report);
    memory(&mut report);
    disk(&mut report);
    gpu(&mut report);
    let runtime = onnx_runtime(&mut report);
    let plan = arguments.plan.as_deref().map_or(Ok(()), |path| plan(path, &mut report));
    match arguments.json {
        true => output::print_json(&Value::Object(report.data))?,
        false => output::print(&output::table(&report.rows, &[]))?,
    }
    plan.and(runtime)
}

impl Report {
    fn add(&mut self, key: &str, name: &str, text: String, value: Value) {
        self.rows.push(vec![name.to_owned(), text]);
        self.data.insert(key.to_owned(), value);
    }
}

fn processor(report: &mut Report) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let features = vector_units();
    let text = match features.is_empty() {
        true => format!("{threads} threads, {}", std::env::consts::ARCH),
        false => format!(
            "{threads} threads, {} with {}",
            std::env::consts::ARCH,
            features.join(", ")
        ),
    };
    report.add(
        "processor",
        "processor",
        text,
        json!({ "threads": threads, "features": features }),
    );
}

#[cfg(target_arch = "x86_64")]
fn vector_units() -> Vec<&'static str> {
    let all = [
        ("AVX2", is_x86_feature_detected!("avx2")),
        ("FMA", is_x86_feature_detected!("fma")),
        ("F16C", is_x86_feature_detected!("f16c")),
        ("AVX-512", is_x86_feature_detected!("avx512f")),
    ];
    all.into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn vector_units() -> Vec<&'static str> {
    Vec::new()
}

fn memory(report: &mut Report) {
    let mut system = System::new();
    system.refresh_memory();
    let (total, available) = (system.total_memory(), system.available_memory());
    let text = format!("{}, {} available", units::bytes(total), units::bytes(available));
    report.add(
        "memory",
        "memory",
        text,
        json!({ "total": total, "available": available }),
    );
}

fn disk(report: &mut Report) {
    let home = default_home();
    let disks = Disks::new_with_refreshed_list();
    let holds = home.ancestors().find(|path| path.exists()).unwrap_or(&home);
    let disk = disks
        .iter()
        .filter(|disk| holds.starts_with(disk.mount_point()))
        .max_by_key(|disk| disk.mount_point().components().count());
    let free = disk.map(sysinfo::Disk::available_space);
    let mut text = home.display().to_string();
    if let Some(free) = free {
        text += &format!(", {} free", units::bytes(free));
        if free < LITTLE_DISK {
            text += ": little room to remember images; set FISEC_HOME to a larger disk";
        }
    }
    report.add(
        "home",
        "images in",
        text,
        json!({ "path": output::path_json(&home), "free": free }),
    );
}

fn gpu(report: &mut Report) {
    let (text, value) = match fisec_runtime::describe_cuda() {
        Ok(device) => (device.clone(), json!([device])),
        Err(error) => (format!("{error}; plans for `cpu` run without one"), json!([])),
    };
    report.add("gpus", "CUDA", text, value);
}

fn plan(path: &Path, report: &mut Report) -> Result<(), Failure> {
    let checked = Bundle::open(path).and_then(|bundle| bundle.verify_all().map(|()| bundle.size()));
    let text = match &checked {
        Ok(bytes) => format!("{}, {}, intact", path.display(), units::bytes(*bytes)),
        Err(_) => format!("{}, unusable", path.display()),
    };
    report.add(
        "plan",
        "plan",
        text,
        json!({ "path": output::path_json(path), "intact": checked.is_ok() }),
    );
    checked.map(drop).map_err(Failure::from)
}

/// The one thing that nothing works without.
fn onnx_runtime(report: &mut Report) -> Result<(), Failure> {
    match OnnxRuntime::load() {
        Ok(runtime) => {
            let library = runtime.library().display().to_string();
            let text = format!("{library} ({})", runtime.build_info());
            let value = json!({ "library": library, "build": runtime.build_info() });
            report.add("onnxruntime", "ONNX Runtime", text, value);
            providers(&runtime, report);
            Ok(())
        }
        Err(error) => {
            report.add("onnxruntime", "ONNX Runtime", "missing".into(), Value::Null);
            Err(error.into())
        }
    }
}

/// What ONNX Runtime could compute with, and what it does.
fn providers(runtime: &OnnxRuntime, report: &mut Report) {
    let offered = Provider::ALL.into_iter().filter(|provider| provider.is_offered());
    let offered: Vec<&str> = offered.map(Provider::name).collect();
    let text = format!(
        "{} in use, offered: {} (choose with FISEC_ORT_PROVIDER)",
        runtime.provider(),
        offered.join(", ")
    );
    let value = json!({ "in_use": runtime.provider().name(), "offered": offered });
    report.add("providers", "  provider", text, value);
}
