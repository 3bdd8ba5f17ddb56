//! What a user can do about an error, where the error's own room cannot say more.

use std::env;
use std::io::{self, ErrorKind};
use std::path::Path;

use fisec_diffusion::DiffusionError;
use fisec_plan::PlanError;
use fisec_runtime::RuntimeError;
use fisec_runtime::cache::{CacheError, default_home};

use crate::cli::printable::shell_word;

/// A model that ONNX itself may accept.
pub(super) const MODEL: &str =
    "export the model again; `fisec verify MODEL.onnx --io IO.npz` says at which stage it fails";

/// A model that makes no plan.
pub(super) const NOT_A_DENOISER: &str =
    "only a U-Net makes a plan; `fisec verify` checks other networks without `--through plan`";

/// Something that no input should bring about.
const DEFECT: &str = "this is a defect of fisec: please report it with the command and, where possible, the model";

const COMPILE_AGAIN: &str = "compile the model again: `fisec compile MODEL -o PLAN`";

/// What the system says about a file or folder.
pub(super) fn of_io(error: &io::Error) -> &'static str {
    if let Some(refused) = fisec_files::refused(error) {
        return refused.hint();
    }
    match error.kind() {
        ErrorKind::NotFound => "check the path",
        ErrorKind::PermissionDenied => "check the permissions of that path",
        ErrorKind::ReadOnlyFilesystem => "that disk is mounted read-only: choose another place",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free some space on that disk or choose another place",
        ErrorKind::FileTooLarge => {
            "`ulimit -f` or the disk allows no file of that size: raise the limit or choose another place"
        }
        ErrorKind::NotADirectory => "a part of the path is a file where a folder should be: check the path",
        ErrorKind::IsADirectory => "that is a folder: name a file",
        ErrorKind::InvalidFilename => "choose a shorter name",
        ErrorKind::AlreadyExists => "something else has that name: remove it or choose another name",
        ErrorKind::BrokenPipe => "its reader went away: start the reader again",
        ErrorKind::WouldBlock => {
            "the system gives no more threads: raise `ulimit -u` and `ulimit -v`, or end other programs"
        }
        ErrorKind::OutOfMemory => "close other programs, or use a machine with more memory",
        _ => "check that the file is what it should be",
    }
}

pub(super) fn of_plan(error: &PlanError) -> String {
    match error {
        PlanError::NotAPlan(path) if path.join("unet/model.onnx").is_file() || path.is_file() => {
            let model = shell_word(&path.display().to_string());
            format!("compile it first: `fisec compile {model} -o PLAN`")
        }
        PlanError::Io { source, .. } => of_io(source).to_owned(),
        other => other.hint().unwrap_or_else(|| COMPILE_AGAIN.into()),
    }
}

pub(super) fn of_cache(error: &CacheError) -> String {
    if let Some(hint) = error.hint() {
        return hint.to_owned();
    }
    match error {
        CacheError::Io { path, source } => of_home(path, source),
        CacheError::Incomplete(_) => DEFECT.to_owned(),
        _ => "`fisec sessions` shows what is remembered".to_owned(),
    }
}

/// The store's folder, or a file in it, cannot be used.
fn of_home(path: &Path, error: &io::Error) -> String {
    let home = default_home();
    let home = home.display();
    match error.kind() {
        ErrorKind::ReadOnlyFilesystem => {
            format!("{home} is on a read-only disk: set FISEC_HOME to a folder that you may write to")
        }
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
            format!("{home} should be a folder: set FISEC_HOME to one, or remove the file that has its name")
        }
        ErrorKind::NotFound if path.parent().is_some_and(Path::exists) => {
            "`fisec sessions` shows what is remembered; run the command again".into()
        }
        ErrorKind::FileTooLarge => format!("{}; images are remembered in {home}", of_io(error)),
        _ => format!("see that {home} can be written, or set FISEC_HOME to another folder"),
    }
}

pub(super) fn of_runtime(error: &RuntimeError) -> String {
    match error {
        RuntimeError::Bundle(error) => return of_plan(error),
        RuntimeError::OnnxRuntimeUnusable { .. } if env::var_os("ORT_DYLIB_PATH").is_some() => {
            return "unset ORT_DYLIB_PATH or let it name libonnxruntime.so (1.24 or newer); where there is none, \
                    run `cargo xtask setup`"
                .to_owned();
        }
        _ => {}
    }
    if let Some(hint) = error.hint() {
        return hint.to_owned();
    }
    let hint = match error {
        RuntimeError::OnnxRuntime { .. } => {
            "`fisec doctor PLAN` checks library and plan; if both are fine, export and compile the model again"
        }
        RuntimeError::Provider(_) => "unset FISEC_ORT_PROVIDER; `fisec doctor` lists what is offered",
        RuntimeError::Target(_) => "compile the model with `--target cpu`; `fisec doctor` says what this machine has",
        RuntimeError::MaskSize { .. } => "give a mask of the image's aspect ratio",
        RuntimeError::Threads(_) => "raise the limit on processes (`ulimit -u`), or run fewer programs at once",
        RuntimeError::NoProgram(_) | RuntimeError::Plan { .. } => COMPILE_AGAIN,
        RuntimeError::Cuda { .. } => "`fisec doctor` says what the device is; another program may have used it up",
        RuntimeError::Store(_) => "see that FISEC_HOME can be written and has room; `fisec doctor` says where it is",
        RuntimeError::Mismatch { .. } => "the model's parts do not fit each other: export the whole pipeline again",
        _ => DEFECT,
    };
    hint.to_owned()
}

pub(super) fn of_diffusion(error: &DiffusionError) -> String {
    match error {
        DiffusionError::Runtime(error) => return of_runtime(error),
        DiffusionError::File { source, .. } => return of_diffusion(source),
        _ => {}
    }
    if let Some(hint) = error.hint() {
        return hint.into_owned();
    }
    let hint = match error {
        DiffusionError::Unreadable { .. } => "check that the file is there and may be read",
        DiffusionError::SchedulerConfig(_) => "choose a sampler with `--sampler`, or export the scheduler again",
        DiffusionError::Network { .. } | DiffusionError::NotFinite(_) | DiffusionError::Tensor(_) => {
            "export the pipeline's parts again, together, and compile them"
        }
        DiffusionError::Image(_) => "give an 8-bit PNG: `magick photo.jpg photo.png` makes one",
        DiffusionError::Option(_) => "`fisec run --help` says what may be given",
        DiffusionError::Interrupted => "run the command again",
        _ => DEFECT,
    };
    hint.to_owned()
}
