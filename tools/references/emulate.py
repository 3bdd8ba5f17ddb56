"""Records sparse edits of an ONNX pipeline folder, computed literally by `masked_unet.py` on the folder's own weights.

    python emulate.py PIPELINE OUT_FOLDER [--base TEXT --prompt TEXT] [--seed 7] [--steps 12] [--guide-steps 4]
           [--guidance 5] [--sparse-levels 16 …] [--live-inside] [--type f32|f16] [--threads 1]

The base image is generated and recorded; the edit's first guide steps are dense, without attention control; then
latents outside the mask are the recorded ones, after every step. The mask is fixed: an ellipse at the left. Weights are
read from unet/model.onnx, int8 and scales multiplied out.

Writes mask.png (latent size, white is active), latents.f32 or .f16 (little-endian, [4,n,n] each), and emulation.json,
which names them: base and prompt (final latents of both generations), base_k and prompt_k (after the guide steps),
yardstick (the edit without sparsity), and one per case of kv, norm and min_rows (levels with fewer rows are dense).
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from diffusers import UNet2DConditionModel
from PIL import Image

from masked_unet import MaskedUNet, Rules, pyramid

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "export"))
from onnx_pipeline import OnnxPipeline  # noqa: E402
from onnx_weights import parameters  # noqa: E402

BASE = "a dog on the left and a red apple on the right on grass under a blue sky"
PROMPT = "a castle on the left and a red apple on the right on grass under a blue sky"

TYPES = {"f32": "<f4", "f16": "<f2"}
UNSAID = ("pipeline", "out", "sparse_levels", "live_inside", "threads", "type")


def load_unet(folder):
    """The diffusers U-Net with the weights that unet/model.onnx computes with."""
    config = json.loads((folder / "unet" / "config.json").read_text())
    unet = UNet2DConditionModel.from_config(config).eval()
    graph = onnx.load(folder / "unet" / "model.onnx").graph
    found = parameters(graph, {name: p.shape for name, p in unet.state_dict().items()})
    unet.load_state_dict({name: torch.from_numpy(array) for name, array in found.items()})
    return unet


def ellipse(size):
    """The mask [n, n]: about 11 % of the image, at the left, below the middle."""
    y, x = (torch.arange(size) + 0.5)[:, None] / size, (torch.arange(size) + 0.5)[None] / size
    return ((x - 0.24) / 0.18) ** 2 + ((y - 0.70) / 0.20) ** 2 <= 1


class Edit:
    """One base image and edits of it."""

    def __init__(self, folder, args):
        self.args, self.pipeline = args, OnnxPipeline(folder, args.threads)
        self.size, self.scheduler = self.pipeline.size, self.pipeline.scheduler
        self.mask = ellipse(self.size)
        self.net = MaskedUNet(load_unet(folder), active=pyramid(self.mask))

    def denoise(self, prompt, program, first=0, last=None, start=None, outside=None):
        """Latents after every step; `outside` is the trajectory that latents outside the mask follow."""
        self.scheduler.set_timesteps(self.args.steps)
        context = torch.from_numpy(self.pipeline.context(prompt))
        x = self._noise() if start is None else start
        path = [x]
        for step, t in list(enumerate(self.scheduler.timesteps))[first:last]:
            without, given = self.net(program, step, torch.cat([x, x]), t, context).chunk(2)
            guided = without + self.args.guidance * (given - without) if self.args.guidance > 1 else given
            x = self.scheduler.step(guided, t, x).prev_sample
            x = x if outside is None else torch.where(self.mask, x, outside[step + 1])
            path.append(x)
        return path

    def _noise(self):
        generator = torch.Generator().manual_seed(self.args.seed)
        return torch.randn(1, 4, self.size, self.size, generator=generator) * self.scheduler.init_noise_sigma

    def edit(self, program, base, guided, rules=None):
        """Final latents of the edit, from the guide steps on."""
        k = self.args.guide_steps
        self.net.rules = rules or Rules()
        start = torch.where(self.mask, guided[k], base[k])
        return self.denoise(self.args.prompt, program, k, None, start, base)[-1]

    def psnr_inside(self, a, b):
        """PSNR of two decoded latents, inside the mask, in dB."""
        images = [self.pipeline.decode(x.numpy()) for x in (a, b)]
        inside = np.kron(self.mask.numpy(), np.ones((8, 8), bool))
        return float(-10 * np.log10(((images[0] - images[1])[inside] ** 2).mean() + 1e-12))


def cases(levels, live_inside):
    """Rules to record: full keys and frozen norms at every choice of levels, the others at the first."""
    yield from (Rules("full", "frozen", rows) for rows in levels)
    others = [
        ("full", "live"),
        *([("full", "live-inside")] if live_inside else []),
        ("masked", "frozen"),
        ("masked", "live"),
    ]
    yield from (Rules(kv, norm, levels[0]) for kv, norm in others)


def record(edit, levels):
    """({name: latents}, descriptions of the cases)."""
    args = edit.args
    base = edit.denoise(args.base, "record")
    edit.net.rules = Rules()
    guided = edit.denoise(args.prompt, "plain")
    k = args.guide_steps
    found = {"base": base[-1], "prompt": guided[-1], "base_k": base[k], "prompt_k": guided[k]}
    found["yardstick"] = edit.edit("plain", base, guided)
    described = []
    for rules in cases(levels, args.live_inside):
        name = f"{rules.kv}_{rules.norm}_{rules.min_rows}"
        found[name] = edit.edit("edit", base, guided, rules)
        psnr = edit.psnr_inside(found[name], found["yardstick"])
        described.append(vars(rules) | {"name": name, "psnr_inside": round(psnr, 2)})
        print(f"{name}: {psnr:.1f} dB against the yardstick inside the mask", flush=True)
    return found, described


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("pipeline", type=Path)
    args.add_argument("out", type=Path)
    args.add_argument("--base", default=BASE)
    args.add_argument("--prompt", default=PROMPT)
    args.add_argument("--seed", type=int, default=7)
    args.add_argument("--steps", type=int, default=12)
    args.add_argument("--guide-steps", type=int, default=4)
    args.add_argument("--guidance", type=float, default=5.0)
    args.add_argument("--sparse-levels", type=int, nargs="+", default=[16])
    args.add_argument("--live-inside", action="store_true", help="record that reading of live norms too")
    args.add_argument("--type", choices=TYPES, default="f32")
    args.add_argument("--threads", type=int, default=1)
    args = args.parse_args()
    torch.set_num_threads(args.threads)
    edit = Edit(args.pipeline, args)
    latents, described = record(edit, args.sparse_levels)
    args.out.mkdir(parents=True, exist_ok=True)
    file, stack = f"latents.{args.type}", np.stack([x.numpy()[0] for x in latents.values()])
    stack.astype(TYPES[args.type]).tofile(args.out / file)
    Image.fromarray(edit.mask.numpy().astype("uint8") * 255).save(args.out / "mask.png")
    settings = {n: v for n, v in vars(args).items() if n not in UNSAID}
    model = hashlib.sha256((args.pipeline / "unet" / "model.onnx").read_bytes()).hexdigest()
    head = {"unet_sha256": model, "file": file, "shape": stack.shape[1:]}
    head["mask_share"] = round(edit.mask.float().mean().item(), 4)
    text = json.dumps(head | settings | {"latents": list(latents), "cases": described}, indent=1)
    (args.out / "emulation.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
