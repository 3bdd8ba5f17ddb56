"""Regions of the 64x64 latents: run lengths in JSON, PNG files, overlap."""

import numpy as np
from PIL import Image

CELLS = 64  # latents along a side
CELL = 8  # pixels of one latent


def pack(region):
    """Run lengths in row order, the first one of cells outside: "12 5 4079"."""
    bits = np.asarray(region, bool).reshape(-1)
    changes = np.flatnonzero(np.diff(bits, prepend=False))
    return " ".join(str(length) for length in np.diff(changes, prepend=0, append=len(bits)))


def unpack(text, cells=CELLS):
    lengths = [int(length) for length in text.split()]
    bits = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    if bits.size != cells * cells:
        raise ValueError(f"run lengths add up to {bits.size} cells, not {cells * cells}")
    return bits.reshape(cells, cells)


def of_pixels(changed):
    """The cells that hold at least one changed pixel."""
    height, width = changed.shape
    return changed.reshape(height // CELL, CELL, width // CELL, CELL).any((1, 3))


def to_pixels(region, size):
    """The region at an image's (height, width)."""
    scale = size[0] // region.shape[0]
    return np.repeat(np.repeat(region, scale, 0), scale, 1)


def load(path):
    return np.asarray(Image.open(path).convert("L")) > 127


def save(region, path):
    Image.fromarray(np.asarray(region, np.uint8) * 255).save(path)


def overlap(found, truth):
    """Intersection over union; 1 when both are empty."""
    union = (found | truth).sum()
    return float((found & truth).sum() / union) if union else 1.0


def covered(found, truth):
    """Share of the truth that was found."""
    return float((found & truth).sum() / truth.sum()) if truth.any() else 1.0
