//! Fetches the ONNX Runtime library out of its PyPI wheel.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Failure;
use crate::shell::{exists, output, root};

const VERSION: &str = "1.31.1";
/// The wheel of one Python version holds the same library as the others; naming it frees us from the local one.
const PYTHON_TAG: &str = "312";

/// Takes the library and its licences out of the wheel; zip checks their checksums.
const UNPACK: &str = r#"
import glob, os, sys, zipfile
wheels, target = sys.argv[1:]
[wheel] = glob.glob(os.path.join(wheels, "*.whl"))
wanted = ("capi/libonnxruntime.", "capi/onnxruntime.dll", "LICENSE", "ThirdPartyNotices.txt")
with zipfile.ZipFile(wheel) as archive:
    for item in archive.infolist():
        if item.filename.startswith("onnxruntime/") and item.filename[len("onnxruntime/"):].startswith(wanted):
            with archive.open(item) as source, open(os.path.join(target, os.path.basename(item.filename)), "wb") as out:
                out.write(source.read())
"#;

/// Makes sure that the library is there. Returns its path.
pub fn run() -> Result<PathBuf, Failure> {
    if let Some(path) = env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        return match path.is_file() {
            true => Ok(path),
            false => Err(format!(
                "ORT_DYLIB_PATH is set to {}, which is no file\n\nhint: unset it to let `cargo xtask setup` fetch the library",
                path.display()
            )),
        };
    }
    let runtime = root().join(".runtime");
    let folder = runtime.join(format!("onnxruntime-{VERSION}"));
    if let Some(library) = library_in(&folder) {
        return Ok(library);
    }
    fs::create_dir_all(&runtime).map_err(|error| format!("{}: {error}", runtime.display()))?;
    let scratch = runtime.join(format!(".tmp-{}", std::process::id()));
    let fetched = fetch(&scratch, &folder);
    // A leftover scratch folder does no harm; the error of the fetch is the one to show.
    let _ = fs::remove_dir_all(&scratch);
    fetched?;
    library_in(&folder).ok_or_else(|| format!("the onnxruntime {VERSION} wheel holds no library for this platform"))
}

fn fetch(scratch: &Path, folder: &Path) -> Result<(), Failure> {
    let (wheels, unpacked) = (scratch.join("wheels"), scratch.join("unpacked"));
    for path in [&wheels, &unpacked] {
        fs::create_dir_all(path).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let python = python()?;
    eprintln!("fetching onnxruntime {VERSION} from PyPI (24 MB)");
    download(python, &wheels)?;
    output(Command::new(python).args(["-c", UNPACK]).arg(&wheels).arg(&unpacked))?;
    if library_in(&unpacked).is_none() {
        return Err("the wheel holds no complete ONNX Runtime library".into());
    }
    fs::rename(&unpacked, folder).map_err(|error| format!("{}: {error}", folder.display()))
}

fn download(python: &str, wheels: &Path) -> Result<(), Failure> {
    let mut command = Command::new(python);
    command
        .args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
        ])
        .args([
            "--only-binary=:all:",
            "--implementation",
            "cp",
            "--python-version",
            PYTHON_TAG,
        ])
        .args(["--platform", platform()?])
        .arg("--dest")
        .arg(wheels)
        .arg(format!("onnxruntime=={VERSION}"));
    output(&mut command).map(drop).map_err(|error| {
        format!(
            "cannot fetch onnxruntime {VERSION} from PyPI: {error}\n\n\
             hint: check the network and pip's settings, or download that wheel elsewhere, unzip it and set \
             ORT_DYLIB_PATH to the libonnxruntime.so in it"
        )
    })
}

fn python() -> Result<&'static str, Failure> {
    let candidates = ["python3", "python", "py"];
    let Some(python) = candidates.into_iter().find(|name| exists(name)) else {
        return Err(
            "no Python found\n\nhint: install Python 3.8 or newer, e.g. `apt-get install python3 python3-pip`".into(),
        );
    };
    let has_pip = Command::new(python).args(["-m", "pip", "--version"]).output();
    if has_pip.is_ok_and(|output| output.status.success()) {
        return Ok(python);
    }
    Err(format!(
        "{python} has no pip\n\nhint: install it, e.g. `apt-get install python3-pip` or `{python} -m ensurepip --user`"
    ))
}

fn platform() -> Result<&'static str, Failure> {
    match (env::consts::OS, env::consts::ARCH) {
        ("linux", "x86_64") => Ok("manylinux_2_28_x86_64"),
        ("linux", "aarch64") => Ok("manylinux_2_28_aarch64"),
        ("macos", "aarch64") => Ok("macosx_14_0_arm64"),
        ("windows", "x86_64") => Ok("win_amd64"),
        (os, arch) => Err(format!(
            "PyPI has no ONNX Runtime for {os} on {arch}\n\nhint: build it and set ORT_DYLIB_PATH to the library"
        )),
    }
}

/// The library in a folder, if it is one by its first bytes and its size.
fn library_in(folder: &Path) -> Option<PathBuf> {
    const SMALLEST: u64 = 5 << 20;
    let entries = fs::read_dir(folder).ok()?;
    entries.flatten().map(|entry| entry.path()).find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_named = name.starts_with("libonnxruntime.") || name == "onnxruntime.dll";
        is_named && path.metadata().is_ok_and(|metadata| metadata.len() > SMALLEST)
    })
}
