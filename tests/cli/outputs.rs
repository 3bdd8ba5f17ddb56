//! Files that commands write: what stands at their paths survives, and what cannot be written is said before the work.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};
use std::thread;

use crate::machine::{CAT, DOG, Machine, assert_fails, json, plan, stderr, stdout};

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";
const NANO: &str = "tests/data/nano-pipeline";

/// Makes a node of the file system, where this user may.
fn made(program: &str, path: &Path, kind: &[&str]) -> bool {
    let status = Command::new(program).arg(path).args(kind).status().unwrap();
    status.success()
}

fn pipe(machine: &Machine, name: &str) -> String {
    let path = machine.path(name);
    assert!(made("mkfifo", &path, &[]));
    path.to_str().unwrap().to_owned()
}

/// `fisec run` of the dog without `--json`.
fn run(machine: &Machine, arguments: &[&str]) -> Output {
    let mut command = machine.command(&["run", plan().to_str().unwrap(), "--prompt", DOG, "--steps", "6"]);
    command.args(arguments).output().unwrap()
}

/// The same where ONNX Runtime is missing: whatever is checked before the plan is opened is said, nothing else is done.
fn run_nothing(machine: &Machine, arguments: &[&str]) -> Output {
    let mut command = machine.command(&["run", plan().to_str().unwrap(), "--prompt", DOG, "--steps", "900"]);
    command
        .args(arguments)
        .env("ORT_DYLIB_PATH", machine.path("nowhere.so"))
        .output()
        .unwrap()
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_device_node_is_written_through() {
    let machine = Machine::new();
    let node = machine.path("node");
    if !made("mknod", &node, &["c", "1", "3"]) {
        eprintln!("SKIPPED: this user may not make device nodes");
        return;
    }
    let node_text = text(&node);
    machine.painted(DOG, "dog.png", &[]);
    let arguments = ["--mask-out", &node_text, "--report", &node_text, "--edit-size", "20%"];
    json(&machine.paint(CAT, "node", &arguments));
    assert!(machine.run(&["dump", NANO, "-o", &node_text]).status.success());
    assert!(fs::metadata(&node).unwrap().file_type().is_char_device());
    let onnx = machine.run(&["dump", NANO, "--format", "onnx", "-o", &node_text]);
    assert_fails(&onnx, 1, "two files");
    assert!(!machine.path("node.data").exists());
}

#[test]
fn a_pipe_takes_every_image_of_a_command() {
    let machine = Machine::new();
    let fifo = pipe(&machine, "fifo");
    let reader = thread::spawn({
        let fifo = fifo.clone();
        move || fs::read(fifo).unwrap()
    });
    let output = run(&machine, &["-o", &fifo, "--then", CAT, "--json"]);
    assert_eq!(json(&output).as_array().unwrap().len(), 2);
    let read = reader.join().unwrap();
    let pictures = read.windows(PNG.len()).filter(|window| *window == PNG).count();
    assert_eq!(pictures, 2);
    assert!(fs::metadata(&fifo).unwrap().file_type().is_fifo());
}

#[test]
fn stdout_takes_the_image_and_nothing_else() {
    let machine = Machine::new();
    let file = machine.path("redirected.png");
    symlink("/proc/self/fd/1", machine.path("stdout")).unwrap();
    let link = text(&machine.path("stdout"));
    for name in ["-", "/dev/fd/1", &link] {
        let output = run(&machine, &["-o", name]);
        assert!(output.status.success(), "{name}: {}", stderr(&output));
        let is_picture = |bytes: &[u8]| bytes.starts_with(PNG) && bytes.ends_with(b"IEND\xaeB`\x82");
        assert!(is_picture(&output.stdout), "{name}");
        let mut command = machine.command(&["run", plan().to_str().unwrap(), "-p", DOG, "--steps", "6", "-o", name]);
        command.arg("-q").stdout(fs::File::create(&file).unwrap());
        let status = command.status().unwrap();
        assert!(status.success() && is_picture(&fs::read(&file).unwrap()), "{name}");
        assert_fails(
            &run_nothing(&machine, &["-o", name, "--json"]),
            1,
            "`--json` and a file",
        );
    }
    assert!(fs::symlink_metadata(machine.path("stdout")).unwrap().is_symlink());
    assert!(!Path::new("-").exists());
}

#[test]
fn an_open_file_of_the_shell_is_continued() {
    let machine = Machine::new();
    let script = "exec 3> \"$OUT\"; printf before >&3; \"$@\" -o /dev/fd/3 && printf after >&3";
    let output = Command::new("sh")
        .args(["-c", script, "sh", env!("CARGO_BIN_EXE_fisec"), "run"])
        .arg(plan())
        .args(["-p", DOG, "--steps", "6"])
        .env("FISEC_HOME", machine.home())
        .env("OUT", machine.path("out"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let bytes = fs::read(machine.path("out")).unwrap();
    assert!(bytes.starts_with(b"before\x89PNG") && bytes.ends_with(b"after"));
    assert_fails(&run_nothing(&machine, &["-o", "/dev/fd/77"]), 1, "/dev/fd/77");
}

/// fisec's own sockets and files have numbers as well.
#[test]
fn open_files_that_the_shell_did_not_open_are_no_outputs() {
    let machine = Machine::new();
    let script = "exec 3>&- 4>&- 5>&- 6>&- 7>&-; exec \"$@\"";
    for number in 3..8 {
        let path = format!("/dev/fd/{number}");
        let output = Command::new("sh")
            .args(["-c", script, "sh", env!("CARGO_BIN_EXE_fisec"), "run"])
            .arg(plan())
            .args(["-p", DOG, "--steps", "6", "-o", &path])
            .env("FISEC_HOME", machine.home())
            .output()
            .unwrap();
        assert_fails(&output, 1, &format!("{path}: Bad file descriptor"));
    }
}

#[test]
fn a_stream_that_the_caller_has_closed_is_no_output() {
    let machine = Machine::new();
    let cases = [
        ("-", ">&-"),
        ("/dev/stdout", ">&-"),
        ("/dev/fd/1", ">&-"),
        ("/dev/fd/0", "<&-"),
    ];
    for (path, redirection) in cases {
        let output = Command::new("sh")
            .args(["-c", &format!("exec \"$@\" {redirection}"), "sh"])
            .args([env!("CARGO_BIN_EXE_fisec"), "run"])
            .arg(plan())
            .args(["-p", DOG, "--steps", "6", "-o", path])
            .env("FISEC_HOME", machine.home())
            .output()
            .unwrap();
        assert_fails(&output, 1, "Bad file descriptor");
        assert!(
            !machine.home().join("images").exists()
                || fs::read_dir(machine.home().join("images")).unwrap().count() == 0
        );
    }
    let mut command = machine.command(&["run", plan().to_str().unwrap(), "-p", DOG, "--steps", "6", "-o", "-"]);
    let status = command.stdout(std::process::Stdio::null()).status().unwrap();
    assert!(status.success(), "a stream that is thrown away is one");
}

#[test]
fn links_are_written_through_and_modes_are_kept() {
    let machine = Machine::new();
    fs::create_dir(machine.path("there")).unwrap();
    symlink("there/dog.png", machine.path("link.png")).unwrap();
    json(&machine.paint(DOG, "link.png", &[]));
    let target = machine.path("there/dog.png");
    assert!(fs::symlink_metadata(machine.path("link.png")).unwrap().is_symlink());
    assert_eq!(
        machine.pixels("there/dog.png").len(),
        128 * 128 * 3,
        "a dangling link makes its target"
    );
    fs::write(&target, "old").unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o604)).unwrap();
    json(&machine.paint(DOG, "link.png", &[]));
    assert_eq!(machine.pixels("there/dog.png").len(), 128 * 128 * 3);
    assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o7777, 0o604);
    assert!(fs::symlink_metadata(machine.path("link.png")).unwrap().is_symlink());
    assert_eq!(
        fs::read_dir(machine.path("there")).unwrap().count(),
        1,
        "nothing is left beside it"
    );
}

#[test]
fn every_path_is_checked_before_the_first_step() {
    let machine = Machine::new();
    fs::create_dir(machine.path("folder")).unwrap();
    fs::write(machine.path("file"), "").unwrap();
    symlink("circle", machine.path("circle")).unwrap();
    symlink("folder", machine.path("link")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(machine.path("socket")).unwrap();
    let long = format!("{}.png", "n".repeat(252));
    let numbered = format!("{}.png", "n".repeat(250));
    let bad = [
        ("folder", "is a folder"),
        ("link", "is a folder"),
        ("folder/", "is a folder"),
        ("new.png/", "is a folder"),
        ("missing/x.png", "does not exist"),
        ("file/x.png", "is a file, not a folder"),
        ("circle", "circle"),
        ("socket", "is a socket"),
        (&long, "too long"),
        (&numbered, "too long"),
        ("x.jpg", "`.jpg` files cannot be written"),
        ("x.jpeg", "only PNG"),
        ("x.webp", "only PNG"),
        ("x.TIFF", "only PNG"),
        ("folder/x.bmp", "only PNG"),
    ];
    for (name, mentions) in bad {
        let path = text(&machine.path("")) + name;
        for flag in ["-o", "--mask-out"] {
            assert_fails(&run_nothing(&machine, &[flag, &path, "--then", CAT]), 1, mentions);
        }
        if !mentions.contains("PNG") && !mentions.contains(".jpg") {
            let path = path.replace(".png", ".html");
            let output = run_nothing(&machine, &["--report", &path, "--then", CAT]);
            assert_fails(&output, 1, if name.starts_with('n') { "" } else { mentions });
        }
    }
    assert_fails(&run_nothing(&machine, &["-o", ""]), 2, "a value is required");
    assert_fails(
        &run_nothing(&machine, &["--report", &text(&machine.path("x.pdf"))]),
        1,
        "only HTML",
    );
    assert!(!machine.home().exists(), "nothing was begun");
}

#[test]
fn files_and_folders_that_are_read_only_are_refused() {
    let machine = Machine::new();
    let folder = machine.path("folder");
    fs::create_dir(&folder).unwrap();
    fs::write(machine.path("file.png"), "old").unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o555)).unwrap();
    fs::set_permissions(machine.path("file.png"), fs::Permissions::from_mode(0o444)).unwrap();
    let in_folder = text(&folder.join("x.png"));
    if fs::write(&in_folder, "").is_ok() {
        // Root may write everywhere but where the kernel makes files.
        assert_fails(
            &run_nothing(&machine, &["-o", "/proc/x.png"]),
            1,
            "no file can be made in its folder",
        );
        return;
    }
    assert_fails(
        &run_nothing(&machine, &["-o", &in_folder]),
        1,
        "no file can be made in its folder",
    );
    assert_fails(
        &run_nothing(&machine, &["-o", &text(&machine.path("file.png"))]),
        1,
        "is read-only",
    );
    assert_eq!(fs::read(machine.path("file.png")).unwrap(), b"old");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn one_place_is_not_given_twice() {
    let machine = Machine::new();
    let fifo = pipe(&machine, "fifo");
    let folder = text(&machine.path("folder"));
    fs::create_dir(&folder).unwrap();
    symlink("folder", machine.path("other")).unwrap();
    symlink("folder/x.png", machine.path("x-link.png")).unwrap();
    let at = |name: &str| text(&machine.path("")) + name;
    let twice = [
        [at("folder/x.png"), at("folder/x.png")],
        [at("folder/x.png"), at("folder/../folder/./x.png")],
        [at("folder/x.png"), at("other/x.png")],
        [at("folder/x.png"), at("x-link.png")],
        [at("folder/x.png"), at("folder/x-2.png")],
        [at("folder/x.png"), at("folder/x-3.png")],
        [fifo.clone(), fifo],
        ["-".into(), "/dev/fd/1".into()],
    ];
    for [image, mask] in &twice {
        let output = run_nothing(
            &machine,
            &["-o", image, "--mask-out", mask, "--then", CAT, "--then", DOG],
        );
        assert_fails(&output, 1, "the same place");
    }
    symlink("y.png", machine.path("folder/y-2.png")).unwrap();
    let output = run_nothing(&machine, &["-o", &at("folder/y.png"), "--then", CAT]);
    assert_fails(&output, 1, "two files of `-o`");
}

#[test]
fn nothing_that_is_read_is_replaced() {
    let machine = Machine::new();
    let photo = machine.mask("photo.png", 128, 128, |row, _| row < 20);
    symlink("photo.png", machine.path("link.png")).unwrap();
    let link = text(&machine.path("link.png"));
    let image = ["--image", &photo, "--source-prompt", CAT];
    assert_fails(
        &run_nothing(&machine, &[&image[..], &["-o", &link]].concat()),
        1,
        "the picture that is edited",
    );
    assert_fails(
        &run_nothing(&machine, &["--mask", &photo, "--mask-out", &link]),
        1,
        "would replace the mask",
    );
    let inside = plan().join("x.png");
    assert_fails(
        &run_nothing(&machine, &["-o", inside.to_str().unwrap()]),
        1,
        "a part of the plan",
    );
    assert_fails(
        &run_nothing(&machine, &["-o", plan().to_str().unwrap()]),
        1,
        "is a folder",
    );
    json(&machine.paint(DOG, "dog.png", &[]));
    let remembered = machine.only_image().join("image.png");
    assert_fails(
        &run_nothing(&machine, &["-o", remembered.to_str().unwrap()]),
        1,
        "the remembered images",
    );

    let model = machine.unpacked("tests/data/onnx/ts17_static/model.onnx.gz");
    let whole = fs::read(&model).unwrap();
    for format in ["text", "onnx"] {
        let output = machine.run(&["dump", &model, "--format", format, "--size", "128", "-o", &model]);
        assert_fails(&output, 1, "would replace");
    }
    assert_eq!(fs::read(&model).unwrap(), whole);
}

#[test]
fn a_plan_replaces_neither_its_model_nor_the_dumped_graphs() {
    let machine = Machine::new();
    let target = text(&machine.path("p.plan"));
    let compile = |arguments: &[&str]| {
        machine
            .command(&["compile", NANO, "-o"])
            .args(arguments)
            .output()
            .unwrap()
    };
    let inside = text(&machine.path("p.plan/dumps"));
    assert_fails(
        &compile(&[&target, "--dump-after", "all", "-O", &target]),
        1,
        "the graphs of `--dump-after`",
    );
    assert_fails(
        &compile(&[&target, "--dump-after", "all", "-O", &inside]),
        1,
        "the graphs of `--dump-after`",
    );
    assert!(!machine.path("p.plan").exists());
    symlink("real.plan", machine.path("link.plan")).unwrap();
    for _ in 0..2 {
        let output = compile(&[&text(&machine.path("link.plan"))]);
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(fs::symlink_metadata(machine.path("link.plan")).unwrap().is_symlink());
        assert!(machine.path("real.plan/plan.json").is_file());
    }
    let parts = text(&machine.path("real.plan/pipeline"));
    fs::create_dir(machine.path("real.plan/pipeline/unet")).unwrap();
    fs::write(machine.path("real.plan/pipeline/unet/model.onnx"), "").unwrap();
    let output = machine.run(&["compile", &parts, "-o", &text(&machine.path("link.plan"))]);
    assert_fails(&output, 1, "would replace the model");
}

/// The words between backquotes that begin with `fisec`, as a shell takes them.
fn command_in(hint: &str) -> String {
    let start = hint.find("`fisec ").unwrap_or_else(|| panic!("a command in {hint}"));
    let command = &hint[start + 1..];
    command[..command.find("` writes it again").unwrap()].to_owned()
}

#[test]
fn an_image_that_cannot_be_written_is_remembered_and_the_rest_is_written() {
    let machine = Machine::new();
    let odd = "a dog's \"hat\" on grass; `x` $HOME";
    symlink("/dev/full", machine.path("full.png")).unwrap();
    let (mask, report) = (text(&machine.path("mask.png")), text(&machine.path("r.html")));
    let base = json(&machine.paint(DOG, "dog.png", &["--seed", "7", "--negative", "rain"]));
    let base = base["id"].as_str().unwrap();
    let beside = [
        "--mask-out",
        &mask,
        "--report",
        &report,
        "--edit-size",
        "20%",
        "--base",
        base,
    ];
    let settings = ["--seed", "7", "--negative", "rain"];
    let output = machine.paint(odd, "full.png", &[&beside[..], &settings].concat());
    assert_fails(&output, 1, "No space left");
    let made: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&made["image"], made["id"].is_string()),
        (&serde_json::Value::Null, true)
    );
    assert!(fs::read(&mask).unwrap().starts_with(PNG) && fs::read_to_string(&report).unwrap().contains("<html"));
    assert!(fs::symlink_metadata(machine.path("full.png")).unwrap().is_symlink());

    let binary = Path::new(env!("CARGO_BIN_EXE_fisec")).parent().unwrap();
    let command = command_in(&stderr(&output)).replace("OTHER.png", &text(&machine.path("again.png")));
    let again = Command::new("sh")
        .args(["-c", &command])
        .env("PATH", format!("{}:/usr/bin:/bin", binary.display()))
        .env("FISEC_HOME", machine.home())
        .output()
        .unwrap();
    assert!(again.status.success(), "{command}: {}", stderr(&again));
    assert!(
        stderr(&again).contains("the base image"),
        "nothing is computed again: {}",
        stderr(&again)
    );
    assert_eq!(machine.pixels("again.png").len(), 128 * 128 * 3);
}

#[test]
fn a_report_that_cannot_be_written_costs_nothing_else() {
    let machine = Machine::new();
    symlink("/dev/full", machine.path("full.html")).unwrap();
    let base = json(&machine.paint(DOG, "dog.png", &[]));
    let full = text(&machine.path("full.html"));
    let output = machine.paint(
        CAT,
        "cat.png",
        &["--report", &full, "--edit-size", "20%", "--then", DOG],
    );
    assert_fails(&output, 1, "No space left");
    assert!(
        stderr(&output).contains(&format!("--base {}", base["id"].as_str().unwrap())),
        "{}",
        stderr(&output)
    );
    let made: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(made.as_array().unwrap().len(), 2, "the chain goes on");
    assert!(machine.path("cat.png").exists() && machine.path("cat-2.png").exists());
}

#[test]
fn an_image_that_is_not_to_be_remembered_is_put_elsewhere() {
    let machine = Machine::new();
    let elsewhere = machine.path("tmp");
    fs::create_dir(&elsewhere).unwrap();
    symlink("/dev/full", machine.path("full.png")).unwrap();
    let mut command = machine.command(&[
        "run",
        plan().to_str().unwrap(),
        "-p",
        DOG,
        "--steps",
        "6",
        "--forget",
        "-o",
    ]);
    let output = command
        .arg(machine.path("full.png"))
        .env("TMPDIR", &elsewhere)
        .output()
        .unwrap();
    assert_fails(&output, 1, "No space left");
    let saved: Vec<_> = fs::read_dir(&elsewhere)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "png"))
        .collect();
    assert_eq!(saved.len(), 1, "{saved:?}");
    assert!(fs::read(&saved[0]).unwrap().starts_with(PNG));
    assert!(stderr(&output).contains(saved[0].to_str().unwrap()));
}

#[test]
fn what_was_made_before_a_failure_is_reported() {
    let machine = Machine::new();
    // The first image has no edit whose region the second could take.
    let then = ["--then", CAT, "--mask", "last"];
    let output = machine.paint(DOG, "dog.png", &then);
    assert_fails(&output, 1, "no earlier edit");
    let made: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(made.as_array().unwrap().len(), 1);
    assert_eq!(
        made[0]["id"].as_str(),
        machine.only_image().file_name().unwrap().to_str()
    );
    let words = run(
        &Machine::new(),
        &[&then[..], &["-o", &text(&machine.path("dog.png"))]].concat(),
    );
    assert_fails(&words, 1, "no earlier edit");
    assert!(stdout(&words).contains("dog.png") && stderr(&words).contains("remembered as"));
}

#[test]
fn names_need_not_be_text() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let machine = Machine::new();
    let name = machine.path("").join(OsStr::from_bytes(b"caf\xe9.png"));
    let mut command = machine.command(&["run", plan().to_str().unwrap(), "-p", DOG, "--steps", "6", "-o"]);
    let output = command.arg(&name).args(["--then", CAT, "--json"]).output().unwrap();
    assert_eq!(json(&output).as_array().unwrap().len(), 2);
    assert!(name.exists() && name.with_file_name(OsStr::from_bytes(b"caf\xe9-2.png")).exists());
    let mut command = machine.command(&["compile", NANO, "--json", "-o"]);
    json(&command.arg(name.with_extension("plan")).output().unwrap());
}
