"""What storing the weights as int8 costs: the same prompts and seeds through two ONNX folders, compared.

    python check.py REFERENCE PACKED [--steps 20] [--seeds 7] [--prompt TEXT …] [-o SHEET.png]

Per image: PSNR of the decoded image, PSNR of decoding alone (the same latents through both decoders), relative error
of the final latents. `-o` draws reference, packed and their difference times 8, one row per image.
"""

import argparse

import numpy as np
from PIL import Image

from onnx_pipeline import OnnxPipeline

PROMPTS = [
    "a dog on the left and a red apple on the right on grass under a blue sky",
    "a castle in the middle on grass under a night sky with a ufo at the top left",
    "a rocket in the middle on a road in front of a city skyline under a pink sky",
    "a car on the left, a teddy bear in the middle and a guitar on the right on sand under a sunset sky",
]


def psnr(a, b):
    return -10 * np.log10(((a - b) ** 2).mean() + 1e-12)


def compare(reference, packed, prompt, seed, steps):
    """(figures, sheet row) of one prompt."""
    wanted, got = (p.latents(prompt, seed, steps) for p in (reference, packed))
    images = reference.decode(wanted), packed.decode(got), packed.decode(wanted)
    figures = (
        psnr(images[0], images[1]),
        psnr(images[0], images[2]),
        np.linalg.norm(got - wanted) / np.linalg.norm(wanted),
    )
    row = np.concatenate([images[0], images[1], np.clip(8 * abs(images[0] - images[1]), 0, 1)], 1)
    return figures, row


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("reference")
    args.add_argument("packed")
    args.add_argument("--steps", type=int, default=20)
    args.add_argument("--seeds", type=int, nargs="+", default=[7])
    args.add_argument("--prompt", action="append")
    args.add_argument("-o", dest="sheet")
    args = args.parse_args()
    reference, packed = OnnxPipeline(args.reference), OnnxPipeline(args.packed)
    rows, table = [], []
    for prompt in args.prompt or PROMPTS:
        for seed in args.seeds:
            figures, row = compare(reference, packed, prompt, seed, args.steps)
            print(
                "image {:5.1f} dB  decoder alone {:5.1f} dB  latents {:.4f}".format(*figures), f" seed {seed}: {prompt}"
            )
            table.append(figures)
            rows.append(row)
    print("mean: image {:.1f} dB, decoder alone {:.1f} dB, latents {:.4f}".format(*np.mean(table, 0)))
    if args.sheet:
        Image.fromarray((np.concatenate(rows) * 255).round().astype("uint8")).save(args.sheet)


if __name__ == "__main__":
    main()
