#!/usr/bin/env python3
"""Words in, PNG out, on a GPU: a whole Stable Diffusion 2 pipeline with random weights, its networks by themselves and the time line of an edit.

    whole_edit.py FISEC UNET NETWORKS OUT [--size 768] [--edit-size 5%] [--mask M.png] [--verify]

UNET is what structure.py wrote of the U-Net, NETWORKS a folder with text_encoder, vae_decoder and vae_encoder (structure.py), and a tokenizer and a
scheduler (any pipeline's: models/demo). Weights are made where they are missing. An image is made, edited, and the edit edited, which is the edit that
counts: nothing is done for the first time, its base is on the device, and it is not remembered. OUT gets networks.json, and of every kind of edit a time
line in KIND.json and timeline.md:

found   the region is found, of the size asked for. The denoiser's weights are random: finding takes ten steps, the most that it may, and the region is
        dust all over the image, which at 24 and 12 rows is most of it
given   with --mask: a region in one piece, as words change it, after five guided steps, as trained models take to find theirs

FISEC_CUBINS and ORT_DYLIB_PATH as always.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
NETWORKS = ("text_encoder", "vae_decoder", "vae_encoder")
PROMPTS = [f"a {animal} on the left and a tree on the right on grass under a blue sky" for animal in ("dog", "cat", "horse")]
PHASES = dict(
    open="the base: PNG and latents", text="text encoder", guide="guided steps", guide_device="of which the device works", bind="region and its graph",
    edit="sparse steps", edit_device="of which the device works", decode="VAE and pasting", decode_device="of which the device works",
    write="PNG to disk", whole="whole edit", remember="remembering, afterwards",
)  # fmt: skip


def assemble(options):
    """A pipeline folder of links, weights filled."""
    folder = options.out / "pipeline"
    (folder / "unet").mkdir(parents=True, exist_ok=True)
    (folder / "unet" / "config.json").write_text(json.dumps(dict(sample_size=options.size // 8)))
    filling = []
    for part in [options.unet, *(options.networks / name for name in NETWORKS)]:
        if not (part / "weights.bin").exists():
            filling.append(subprocess.Popen([sys.executable, HERE / "fill_weights.py", part]))
    for process in filling:
        process.wait()
    for name in ("model.onnx", "weights.bin"):
        link(folder / "unet" / name, options.unet / name)
    for name in (*NETWORKS, "tokenizer", "scheduler"):
        link(folder / name, options.networks / name)
    return folder


def link(place, target):
    if not place.exists():
        place.symlink_to(target.resolve())


def run(*command, limit=200):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=limit)
    if done.returncode:
        print(f"failed ({done.returncode}): {' '.join(map(str, command))[:150]}\n{done.stderr[-600:]}", file=sys.stderr)
        return None
    return done.stdout


def verify(options, folder):
    """Each network against PyTorch in f32 with the same weights."""
    for name in NETWORKS:
        recorded = options.out / f"{name}.npz"
        print(run(sys.executable, HERE / "reference.py", folder / name, "--network", name, "--latents", options.size // 8, "--out", recorded))
        print(run(options.fisec, "verify", folder / name / "model.onnx", "--io", recorded, "--through", "plan", "--target", options.target, "--tol", 0.02))


def timeline(kinds, networks):
    """Tables: networks by themselves, then where the time of every kind's last edit goes, beside the one before it, which is remembered."""
    lines = ["| network | device | with transfers |", "|---|---|---|"]
    for network in networks or []:
        lines.append(f"| {network['network']} | {network['device_median_seconds'] * 1e3:.2f} ms | {network['median_seconds'] * 1e3:.2f} ms |")
    for kind, images in kinds.items():
        remembered, last = images[-2]["seconds"], images[-1]["seconds"]
        lines += ["", f"| {kind} | ms | of the edit before it, remembered |", "|---|---|---|"]
        for phase, name in PHASES.items():
            lines.append(f"| {name} | {last[phase] * 1e3:.1f} | {remembered[phase] * 1e3:.1f} |")
        counts = {key: images[-1][key] for key in ("outcome", "mask_share", "steps_guide", "steps_sparse")}
        lines += ["", json.dumps(counts)]
    return "\n".join(lines)


def edits(options, plan, kind, region):
    """An image, its edit, and the edit's edit, in one process."""
    first, *others = PROMPTS
    then = [word for prompt in others for word in ("--then", prompt)]
    common = ("--forget", "--base", "none", "--steps", options.steps, "-o", options.out / f"{kind}.png", "--json")
    made = run(options.fisec, "run", plan, "--prompt", first, *then, *region, *common)
    if made is None:
        return None
    (options.out / f"{kind}.json").write_text(made)
    return json.loads(made)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("fisec", "unet", "networks", "out"):
        parser.add_argument(name, type=pathlib.Path)
    parser.add_argument("--size", type=int, default=768)
    parser.add_argument("--edit-size", default="5%")
    parser.add_argument("--mask", type=pathlib.Path, help="a PNG, white where the region is")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--target", default="cuda:sm_90a")
    parser.add_argument("--verify", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("FISEC_HOME", str(options.out / "home"))
    folder, plan = assemble(options), options.out / "sd2.plan"
    print(run(options.fisec, "compile", folder, "--size", options.size, "--target", options.target, "--control-levels", 0, "-o", plan))
    found = run(options.fisec, "bench", plan, "--networks", "--runs", 20, "--per-node", "--json")
    networks = json.loads(found) if found else None
    (options.out / "networks.json").write_text(json.dumps(networks))
    if options.verify:
        verify(options, folder)
    regions = dict(found=("--edit-size", options.edit_size))
    if options.mask:
        regions["given"] = ("--mask", options.mask, "--guide-steps", 5)
    kinds = {kind: edits(options, plan, kind, region) for kind, region in regions.items()}
    kinds = {kind: images for kind, images in kinds.items() if images}
    text = timeline(kinds, networks)
    (options.out / "timeline.md").write_text(text + "\n")
    print(text)
    sys.exit(len(kinds) < len(regions))


if __name__ == "__main__":
    main()
