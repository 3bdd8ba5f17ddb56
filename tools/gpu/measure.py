#!/usr/bin/env python3
"""Everything that is measured on a GPU machine, in one run: builds nothing, needs no network.

    measure.py FISEC FOLDER OUT [--sizes 768 512 1024] [--peers]

FISEC is a release binary, FOLDER what structure.py wrote (weights.bin is made if it is missing). OUT gets measured.json
and measured.md. FISEC_CUBINS and ORT_DYLIB_PATH as always. Checks: the whole U-Net against PyTorch in f32, the demo's
edit against the CPU's picture and byte for byte against a second run, a small pipeline under compute-sanitizer. With
--peers, diffusers runs between our own (peers.py, --lock).
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
PROMPTS = [f"a {animal} on the left and a tree on the right on grass under a blue sky" for animal in ("dog", "cat")]
LOCK = "/tmp/gpu.lock"


class Runs:
    """Commands with their output in one log; one that fails does not stop the others."""

    def __init__(self, out):
        self.out, self.log, self.failed = out, open(out / "measure.log", "w"), []
        self.environment = os.environ | {"FISEC_HOME": str(out / "home")}

    def __call__(self, *command, limit=120):
        started = time.time()
        command = [str(word) for word in command]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit, env=self.environment)
            text, code = done.stdout, done.returncode
            errors = done.stderr
        except subprocess.TimeoutExpired:
            text, code, errors = "", "timeout", ""
        self.log.write(f"$ {' '.join(command)}\n{text}{errors}-- {code}, {time.time() - started:.1f} s\n")
        self.log.flush()
        if code:
            self.failed.append(" ".join(command)[:120])
            print(f"failed ({code}): {' '.join(command)[:120]}\n{errors[-500:]}", file=sys.stderr)
            return None
        return text

    def json(self, *command, **options):
        text = self(*command, **options)
        return json.loads(text) if text else None


def pictures(run, fisec, out, target, name):
    """The demo model's picture and its edit, both made anew."""
    plan = out / f"demo-{target.replace(':', '-')}.plan"
    if not plan.exists():
        run(fisec, "compile", "models/demo", "--target", target, "-o", plan)
    run.environment["FISEC_HOME"] = str(out / f"home-{name}")
    paths = [out / f"{name}-{index}.png" for index in range(len(PROMPTS))]
    for path, prompt in zip(paths, PROMPTS):
        run(fisec, "run", plan, "--prompt", prompt, "--steps", 20, "-o", path)
    return paths


def sanitized(run, fisec, out, target):
    """What compute-sanitizer says of a picture and its edit by a small pipeline."""
    plan, words = out / "nano.plan", ["--steps", 4, "--edit-size", "20%", "--sparse", "-o", out / "nano.png"]
    run(fisec, "compile", "tests/data/nano-pipeline", "--target", target, "-o", plan)
    found = {}
    for tool in ("memcheck", "racecheck"):
        command = ("compute-sanitizer", "--tool", tool, "--error-exitcode", 9, fisec, "run", plan)
        text = run(*command, "--prompt", "a dog", "--then", "a cat", *words, limit=240)
        found[tool] = "clean" if text is not None else "see measure.log"
    return found


def same_picture(a, b):
    """PSNR in dB."""
    import numpy as np
    from PIL import Image

    a, b = (np.asarray(Image.open(path).convert("RGB"), np.float64) for path in (a, b))
    error = ((a - b) ** 2).mean()
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


def table(steps, peers):
    lines = [
        "| size | step | fisec | " + " | ".join(["diffusers eager", "CUDA graph", "torch.compile"]) + " |",
        "|---|---|---|---|---|---|",
    ]
    for size, rows in steps.items():
        ways = (peers.get(size) or {}).get("ways", {})
        for row in rows["steps"]:
            milliseconds = row["median_seconds"] * 1e3
            cells = [
                f"{ways[w]['median']:.2f} ({ways[w]['median'] / milliseconds:.1f}x)" if w in ways else ""
                for w in ("eager", "graph", "compile")
            ]
            spread = f"{milliseconds:.2f} ({row['fastest_seconds'] * 1e3:.2f} to {row['slowest_seconds'] * 1e3:.2f})"
            lines.append(f"| {size} | {row['step']} | {spread} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("fisec", "folder", "out"):
        parser.add_argument(name, type=pathlib.Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[768, 512, 1024])
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--target", default="cuda:sm_90a")
    options = parser.parse_args()
    out, fisec, folder = options.out.resolve(), options.fisec.resolve(), options.folder.resolve()
    out.mkdir(parents=True, exist_ok=True)
    run, found = Runs(out), {"steps": {}, "peers": {}, "checks": {}}
    found["gpu"] = (run("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader") or "").strip()

    if not (folder / "weights.bin").exists():
        run(sys.executable, HERE / "fill_weights.py", folder)
    found["checks"]["compute-sanitizer"] = sanitized(run, fisec, out, options.target)
    ways = {"cuda": options.target, "again": options.target, "cpu": "cpu"}
    cuda, again, cpu = (pictures(run, fisec, out, target, name) for name, target in ways.items())
    found["checks"]["demo, equal bytes twice"] = [
        a.read_bytes() == b.read_bytes() for a, b in zip(cuda, again) if a.exists() and b.exists()
    ]
    found["checks"]["demo, dB against the CPU"] = [
        round(same_picture(a, b), 1) for a, b in zip(cuda, cpu) if a.exists() and b.exists()
    ]
    if run(sys.executable, HERE / "reference.py", folder, "--latents", 96, "--out", out / "io.npz", limit=200):
        verify = (
            fisec,
            "verify",
            folder / "model.onnx",
            "--io",
            out / "io.npz",
            "--through",
            "plan",
            "--size",
            768,
            "--target",
            options.target,
        )
        found["checks"]["U-Net against PyTorch f32"] = run.json(*verify, "--tol", 0.02, "--json")

    for size in options.sizes:
        plan = out / f"sd2-{size}.plan"
        found.setdefault("compile", {})[size] = run.json(
            fisec, "compile", folder / "model.onnx", "--size", size, "--target", options.target, "-o", plan, "--json"
        )
        found["steps"][size] = run.json("flock", LOCK, fisec, "bench", plan, "--runs", 20, "--per-node", "--json")
        if options.peers:
            run(
                sys.executable,
                HERE / "peers.py",
                "--size",
                size,
                "--json",
                out / f"peers-{size}.json",
                "--lock",
                LOCK,
                limit=300,
            )
            path = out / f"peers-{size}.json"
            found["peers"][size] = json.loads(path.read_text()) if path.exists() else None
            again = run.json("flock", LOCK, fisec, "bench", plan, "--runs", 20, "--json")
            found.setdefault("again", {})[size] = again
    found["failed"] = run.failed
    (out / "measured.json").write_text(json.dumps(found))
    found["steps"] = {size: rows for size, rows in found["steps"].items() if rows}
    text = f"{found['gpu']}\n\n{table(found['steps'], found['peers'])}\n\n{json.dumps(found['checks'])}\n"
    (out / "measured.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
