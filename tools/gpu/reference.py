#!/usr/bin/env python3
"""What PyTorch computes in f32 with the weights that fill_weights.py made: inputs and output for `fisec verify --io`.

    reference.py FOLDER --latents 96 --out io.npz

Also prints how far PyTorch's own f16 is from it. Needs torch with CUDA and diffusers (a wheel is enough).
"""

import argparse
import json
import pathlib

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from fill_weights import values
from peers import TOKENS, UNET, WIDTH


def load(folder):
    unet, missing = UNet2DConditionModel(**UNET), []
    state = dict(unet.named_parameters())
    for index, tensor in enumerate(json.loads((folder / "weights.json").read_text())["tensors"]):
        name = tensor["parameter"]
        if name not in state:
            missing.append(name)
            continue
        data = torch.from_numpy(values(index, tensor).astype(np.float32))
        data = data.T if tensor["transposed"] else data
        with torch.no_grad():
            target = state.pop(name)
            target.copy_(data.reshape(target.shape))
    return unet, missing, list(state)


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--latents", type=int, default=96)
    parser.add_argument("--out", default="io.npz")
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    unet, missing, left = load(options.folder)
    if missing or left:
        raise SystemExit(f"error: not in the module: {missing[:5]}; without a value: {left[:5]}")
    random = torch.Generator().manual_seed(1)
    sample = torch.randn(2, 4, options.latents, options.latents, generator=random).half()
    context = torch.randn(2, TOKENS, WIDTH, generator=random).half()
    step = torch.tensor(501.0)
    unet = unet.cuda().eval()
    out = unet(sample.float().cuda(), step.cuda(), context.float().cuda(), return_dict=False)[0]
    half = unet.half()(sample.cuda(), step.cuda(), context.cuda(), return_dict=False)[0].float()
    print(f"PyTorch's f16: relative error {float((half - out).abs().max() / out.abs().max()):.2e} of {float(out.abs().max()):.3g}")
    np.savez(
        options.out, in_sample=sample.numpy(), in_timestep=step.numpy(), in_encoder_hidden_states=context.numpy(), out_out_sample=out.cpu().numpy()
    )


if __name__ == "__main__":
    main()
