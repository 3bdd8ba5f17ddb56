"""Records torch's CPU noise, and checks that `torch_noise.py` gives the same bits.

    python noise.py OUT_FOLDER [--values 4194304]

Writes noise.json.gz: for each seed and shape the SHA-256 of the little-endian f32 values and the bit patterns of the first
and last 64 (all, when there are no more than 128). `sequences` draws several shapes from one generator. `float16` is
what a half-precision pipeline draws, which is other noise; recorded for whoever wants to reproduce it.
"""

import argparse
import gzip
import hashlib
import json
from pathlib import Path

import numpy as np
import torch

from torch_noise import Generator

SEEDS = (0, 1, 7, 42, 2**31 - 1, 2**32 + 5, 2**63 - 1)
SHAPES = ((1, 4, 8, 8), (1, 4, 64, 64), (1, 4, 96, 96), (3,), (1,), (15,), (16,), (17,), (1, 4, 64, 97), (2, 4, 5, 7))
SEQUENCES = (
    (7, ((3,), (1, 4, 8, 8), (1,), (5,), (17,), (2,))),
    (42, ((1, 4, 64, 64), (1, 4, 64, 64))),
)


def describe(shape, values):
    """Hash and ends of one array, as bit patterns."""
    bits = values.ravel().view("<u4")
    case = {"shape": shape, "sha256": hashlib.sha256(bits.tobytes()).hexdigest()}
    if bits.size <= 128:
        return case | {"all": _hex(bits)}
    return case | {"first": _hex(bits[:64]), "last": _hex(bits[-64:])}


def _hex(bits):
    return "".join(f"{b:08x}" for b in bits)


def draw(generators, shape):
    """One draw from torch, which must equal ours."""
    torch_generator, ours = generators
    wanted = torch.randn(shape, generator=torch_generator).numpy()
    got = ours.randn(wanted.size)
    assert np.array_equal(wanted.ravel().view(np.uint32), got.view(np.uint32)), shape
    return wanted


def pair(seed):
    return torch.Generator().manual_seed(seed), Generator(seed)


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("out", type=Path)
    args.add_argument("--values", type=int, default=2**22, help="how many values to compare with torch")
    args = args.parse_args()
    assert torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"), "needs torch's AVX2 path"
    single = [{"seed": str(s)} | describe(n, draw(pair(s), n)) for s in SEEDS for n in SHAPES]
    sequences = []
    for seed, shapes in SEQUENCES:
        generators = pair(seed)
        sequences.append({"seed": str(seed), "draws": [describe(n, draw(generators, n)) for n in shapes]})
    draw(pair(123), (args.values,))
    half = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(7), dtype=torch.float16)
    halves = [{"seed": "7"} | describe((1, 4, 8, 8), half.float().numpy())]
    record = {"torch": torch.__version__, "single": single, "sequences": sequences, "float16": halves}
    args.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, indent=1) + "\n"
    (args.out / "noise.json.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    print(f"{len(single)} cases; torch_noise.py equals torch on {args.values} more values")


if __name__ == "__main__":
    main()
