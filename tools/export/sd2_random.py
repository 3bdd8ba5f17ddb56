"""Exports a U-Net of Stable Diffusion 2.1's exact shape, 865,910,724 parameters, with random weights.

    python sd2_random.py OUT [--route ts-dynamic|ts-static|dynamo|dynamo-static] [--dtype fp16|fp32] [--latents 32]

For sizes, import time and speed; the image it makes is noise. Norms and biases are random too, or the exporter would
merge equal ones. fp32 from TorchScript is larger than a protobuf may be: one file per tensor. OUT also gets
config.json and io.npz, inputs and the output of the same weights computed in f32 (16x16 latents unless the
size is fixed), for `fisec verify`.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel

from components import unet_component
from export import write_json
from exporters import dynamo, torchscript
from nano import perturb

SD2 = dict(
    sample_size=96,
    block_out_channels=(320, 640, 1280, 1280),
    attention_head_dim=(5, 10, 20, 20),
    cross_attention_dim=1024,
    use_linear_projection=True,
    down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
)
PARAMETERS = 865_910_724
DTYPES = {"fp16": torch.float16, "fp32": torch.float32}


def build(dtype, seed=0):
    torch.manual_seed(seed)
    unet = perturb(UNet2DConditionModel(**SD2))
    assert sum(p.numel() for p in unet.parameters()) == PARAMETERS
    return unet.to(dtype)


@torch.no_grad()
def reference(unet, dtype, path, latents, seed=1):
    """Writes io.npz. The weights are those of `dtype`; arithmetic is f32."""
    torch.manual_seed(seed)
    inputs = {
        "sample": torch.randn(2, 4, latents, latents).to(dtype),
        "timestep": torch.tensor(501.0),
        "encoder_hidden_states": torch.randn(2, 77, SD2["cross_attention_dim"]).to(dtype),
    }
    out = unet.float()(*(x.float() for x in inputs.values()), return_dict=False)[0]
    arrays = {f"in_{n}": x.numpy() for n, x in inputs.items()}
    np.savez(path, out_out_sample=out.to(dtype).numpy(), **arrays)


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("out", type=Path)
    args.add_argument("--route", choices=("ts-dynamic", "ts-static", "dynamo", "dynamo-static"), default="ts-dynamic")
    args.add_argument("--dtype", choices=DTYPES, default="fp16")
    args.add_argument("--latents", type=int, default=32)
    args = args.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    unet = build(DTYPES[args.dtype])
    write_json(args.out / "config.json", dict(unet.config))
    exporter = torchscript if args.route.startswith("ts") else dynamo
    dynamic = not args.route.endswith("static")
    exporter(unet_component(unet, args.latents), args.out / "model.onnx", dynamic=dynamic)
    reference(unet, DTYPES[args.dtype], args.out / "io.npz", 16 if dynamic else args.latents)
    print(sum(f.stat().st_size for f in args.out.iterdir()), "bytes in", len(list(args.out.iterdir())), "files")


if __name__ == "__main__":
    main()
