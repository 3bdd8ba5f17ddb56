#!/usr/bin/env python3
"""What PyTorch computes in f32 with the weights that fill_weights.py made: inputs and output for `fisec verify --io`.

    reference.py FOLDER --latents 96 --out io.npz [--network text_encoder|vae_decoder|vae_encoder] [--each]

The U-Net sees one latent under two texts, as in guidance; with --each a latent for each text.

Also prints how far PyTorch's own f16 is from it. Needs torch with CUDA, diffusers (a wheel is enough), and transformers for the text encoder.
"""

import argparse
import json
import pathlib

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from fill_weights import values
from peers import TEXT, TOKENS, UNET, VAE, WIDTH


def build(network):
    if network == "unet":
        return UNet2DConditionModel(**UNET)
    if network == "text_encoder":
        from transformers import CLIPTextConfig, CLIPTextModel

        return CLIPTextModel(CLIPTextConfig(**TEXT))
    return AutoencoderKL(**VAE)


def load(folder, network):
    """The module with its weights; parameters without one, tensors without a parameter."""
    module, missing = build(network), []
    state = dict(module.named_parameters())
    for index, tensor in enumerate(json.loads((folder / "weights.json").read_text())["tensors"]):
        name = tensor["parameter"]
        # transformers 5 has the text model where 4 has it inside another
        name = name if name in state else name.removeprefix("text_model.")
        if name not in state:
            missing.append(name)
            continue
        data = torch.from_numpy(values(index, tensor).astype(np.float32))
        data = data.T if tensor["transposed"] else data
        with torch.no_grad():
            target = state.pop(name)
            target.copy_(data.reshape(target.shape))
    # a VAE file holds one of its halves
    other = {"vae_decoder": ("encoder.", "quant_conv."), "vae_encoder": ("decoder.", "post_quant_conv.")}.get(network, ())
    return module, missing, [name for name in state if not name.startswith(other)]


def example(network, latents, each):
    """Inputs by name, the output's name, and what calls the module."""
    random = torch.Generator().manual_seed(1)
    noise = lambda *shape: torch.randn(*shape, generator=random).half()  # noqa: E731
    if network == "unet":
        sample = noise(2, 4, latents, latents) if each else noise(1, 4, latents, latents).repeat(2, 1, 1, 1)
        inputs = dict(sample=sample, timestep=torch.tensor(501.0), encoder_hidden_states=noise(2, TOKENS, WIDTH))
        return inputs, "out_sample", lambda unet, *given: unet(*given, return_dict=False)[0]
    if network == "text_encoder":
        ids = torch.randint(0, TEXT["vocab_size"], (1, TOKENS), generator=random)
        return dict(input_ids=ids), "last_hidden_state", lambda clip, ids: clip(input_ids=ids).last_hidden_state
    if network == "vae_decoder":
        return dict(latent_sample=noise(1, 4, latents, latents)), "sample", lambda vae, x: vae.decode(x, return_dict=False)[0]
    pixels = dict(sample=noise(1, 3, latents * 8, latents * 8).clamp(-1, 1))
    return pixels, "latent_parameters", lambda vae, x: vae.quant_conv(vae.encoder(x))


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--latents", type=int, default=96)
    parser.add_argument("--network", default="unet")
    parser.add_argument("--out", default="io.npz")
    parser.add_argument("--each", action="store_true")
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    module, missing, left = load(options.folder, options.network)
    if missing or left:
        raise SystemExit(f"error: not in the module: {missing[:5]}; without a value: {left[:5]}")
    inputs, name, call = example(options.network, options.latents, options.each)
    wide = [x.float().cuda() if x.is_floating_point() else x.cuda() for x in inputs.values()]
    module = module.cuda().eval()
    out = call(module, *wide)
    half = call(module.half(), *(x.cuda() for x in inputs.values())).float()
    print(f"PyTorch's f16: relative error {float((half - out).abs().max() / out.abs().max()):.2e} of {float(out.abs().max()):.3g}")
    arrays = {f"in_{key}": x.numpy() for key, x in inputs.items()}
    np.savez(options.out, **arrays, **{f"out_{name}": out.cpu().numpy()})


if __name__ == "__main__":
    main()
