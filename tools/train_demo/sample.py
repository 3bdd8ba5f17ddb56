"""Draw prompts with a trained folder, side by side at one seed.

python sample.py FOLDER OUT.png "a dog on grass" "a cat on grass" [--seed 7] [--steps 50] [--guidance 5]
"""

import argparse

import torch

import denoiser
import folder as folders
import vae as autoencoder
from evaluate import save_sheet

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("output")
    parser.add_argument("prompts", nargs="+")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--size", type=int, default=512, help="of each picture in the sheet")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    vae, scale, unet, text_encoder, encode = folders.load(arguments.folder, arguments.device)
    ids, empty = (torch.tensor(encode(texts), device=arguments.device) for texts in (arguments.prompts, [""]))
    seeds = [arguments.seed] * len(ids)
    latents = denoiser.sample(unet, text_encoder, ids, empty, seeds, arguments.steps, arguments.guidance)
    save_sheet(arguments.output, autoencoder.decode(vae, latents / scale), min(4, len(ids)), arguments.size)
