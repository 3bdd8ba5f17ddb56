#!/usr/bin/env python3
"""Makes the weights.bin of a folder that structure.py wrote: uniform random numbers, the same on every machine.

    fill_weights.py FOLDER
"""

import concurrent.futures
import json
import os
import pathlib
import sys

import numpy as np


def values(index, tensor):
    """Uniform around its mean; a stream of its own per tensor."""
    random = np.random.Generator(np.random.PCG64(index)).random(int(np.prod(tensor["shape"])), np.float32)
    random *= 2 * tensor["width"]
    random += tensor["mean"] - tensor["width"]
    return random.astype(tensor["type"]).reshape(tensor["shape"])


def main():
    folder = pathlib.Path(sys.argv[1])
    layout = json.loads((folder / "weights.json").read_text())
    with open(folder / "weights.bin", "wb") as file:
        file.truncate(layout["bytes"])
    memory = np.memmap(folder / "weights.bin", np.uint8, "r+")

    def fill(job):
        index, tensor = job
        data = values(index, tensor).view(np.uint8).reshape(-1)
        memory[tensor["offset"] : tensor["offset"] + data.size] = data

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(fill, enumerate(layout["tensors"])))
    memory.flush()


if __name__ == "__main__":
    main()
