"""Exports text encoder and VAE of Stable Diffusion 2's exact shapes with random weights, to go with sd2_random.py.

    python sd2_networks.py OUT

OUT gets text_encoder/, vae_decoder/ and vae_encoder/ with model.onnx (f32, weights beside it) and config.json. For sizes,
import time and speed; the image they make is noise.
"""

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from transformers import CLIPTextConfig, CLIPTextModel

from components import text_encoder_component, vae_components
from export import write_json
from exporters import torchscript
from nano import perturb

VAE = dict(
    block_out_channels=(128, 256, 512, 512),
    layers_per_block=2,
    latent_channels=4,
    norm_num_groups=32,
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
)
TEXT = dict(
    vocab_size=49408,
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=23,
    num_attention_heads=16,
    max_position_embeddings=77,
    hidden_act="gelu",
)


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("out", type=Path)
    args = args.parse_args()
    torch.manual_seed(0)
    components = [text_encoder_component(perturb(CLIPTextModel(CLIPTextConfig(**TEXT)).eval()))]
    components += vae_components(perturb(AutoencoderKL(**VAE).eval()))
    for component in components:
        folder = args.out / component.folder
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "config.json", component.config)
        torchscript(component, folder / "model.onnx")
        print(component.folder, sum(file.stat().st_size for file in folder.iterdir()), "bytes")


if __name__ == "__main__":
    main()
