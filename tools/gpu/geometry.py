"""Masks and the index tables that kernels read: active pixels, halo rings, convolution taps."""

import numpy as np
import torch


def blob_mask(height, width, share, seed=0):
    """A connected, irregular region that covers `share` of the map, as an edit's mask does."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    angle = np.arctan2(y - height * rng.uniform(0.35, 0.65), x - width * rng.uniform(0.35, 0.65))
    field = np.hypot(y - height * rng.uniform(0.35, 0.65), x - width * rng.uniform(0.35, 0.65))
    field = field * (1 + 0.25 * np.sin(3 * angle + rng.uniform(0, 6)) + 0.15 * np.cos(5 * angle))
    pixels = max(1, round(share * height * width))
    mask = np.zeros(height * width, bool)
    mask[np.argsort(field.ravel(), kind="stable")[:pixels]] = True
    return mask.reshape(height, width)


def any_hit(mask):
    """Active set of the next coarser level: any of its four pixels, fewer at an odd edge."""
    h, w = mask.shape
    padded = np.pad(mask, ((0, h % 2), (0, w % 2)))
    return padded[::2, ::2] | padded[1::2, ::2] | padded[::2, 1::2] | padded[1::2, 1::2]


def tap_pixels(active, source_shape, kernel=3, stride=1, upsample=1):
    """[outputs, kernel*kernel] source pixel of every tap, -1 outside the image. Padding is kernel // 2."""
    ys, xs = np.nonzero(active)
    taps = []
    for dy in range(kernel):
        for dx in range(kernel):
            y, x = ys * stride + dy - kernel // 2, xs * stride + dx - kernel // 2
            inside = (y >= 0) & (x >= 0) & (y < source_shape[0] * upsample) & (x < source_shape[1] * upsample)
            taps.append(np.where(inside, (y // upsample) * source_shape[1] + x // upsample, -1))
    return np.stack(taps, 1)


def extended(source_active, taps):
    """Rows of the gathered input: active source pixels in order, then the ring that taps reach beside them.
    Returns (pixels [rows], active count, table [outputs, taps] of rows in them)."""
    active = np.flatnonzero(source_active)
    reached = np.unique(taps[taps >= 0])
    ring = np.setdiff1d(reached, active)
    pixels = np.concatenate([active, ring])
    row_of = np.full(source_active.size + 1, -1, np.int32)  # the last entry answers for -1
    row_of[pixels] = np.arange(len(pixels))
    return pixels.astype(np.int32), len(active), row_of[taps].astype(np.int32)


def as_int32(array):
    return torch.from_numpy(np.ascontiguousarray(array, np.int32))
