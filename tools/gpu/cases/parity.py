"""A convolution behind a doubling by the parity of its outputs: four blocks of weights, rows in whole tiles of one parity."""

import math

import geometry as geo
import launch as la
import numpy as np
import torch
from cases.conv import conv_launches, dense_conv, how


def sum_by_parity(weights):
    """[9, cin, cout] -> four of [4, cin, cout]: taps that fall on one pixel of the map before the doubling are summed."""
    window = weights.reshape(3, 3, *weights.shape[1:])
    axis = [[window[:1], window[1:]], [window[:2], window[2:]]]
    for odd_row in (0, 1):
        rows = [part.sum(0) for part in axis[odd_row]]
        for odd_column in (0, 1):
            cut = 1 + odd_column
            yield torch.stack([part.sum(0) for row in rows for part in (row[:cut], row[cut:])])


def rows_by_parity(active, tile_rows):
    """Numbers of the active pixels and their parities, every parity filled up to whole tiles with its last one."""
    ys, xs = np.nonzero(active)
    numbers, parities = [], []
    for parity in range(4):
        own = np.flatnonzero(ys % 2 * 2 + xs % 2 == parity)
        own = np.concatenate([own, np.repeat(own[-1:], -len(own) % tile_rows if len(own) else 0)])
        numbers.append(own)
        parities.append(np.full(len(own) // 64, parity))
    return np.concatenate(numbers), np.concatenate(parities)


def source_pixels(active, shape):
    """[outputs, 4] pixel before the doubling of every tap, -1 outside the image."""
    ys, xs = np.nonzero(active)
    taps = []
    for tap in range(4):
        y, x = (ys + 1) // 2 - 1 + tap // 2, (xs + 1) // 2 - 1 + tap % 2
        inside = (y >= 0) & (x >= 0) & (y < shape[0]) & (x < shape[1])
        taps.append(np.where(inside, y * shape[1] + x, -1))
    return np.stack(taps, 1)


def parity_case(b, entry, size, channels, cout, tile_rows, share=0.3, splits=1, seed=0, images=2, blocks=0):
    """Rows go through a map to where they belong; the reference is the 3x3 convolution of the doubled map."""
    fine = geo.blob_mask(size, size, share, seed)
    source_mask = geo.any_hit(fine)
    pixels, _, table = geo.extended(source_mask, source_pixels(fine, source_mask.shape))
    numbers, parities = rows_by_parity(fine, tile_rows)
    outputs, live, cin = int(fine.sum()), len(numbers), sum(channels)
    x = b.tensor(images, source_mask.size, cin)
    weights = b.place((b.randn(9, cin, cout) / math.sqrt(9 * cin)).half())
    packed = b.place(torch.cat([la.pack_weights(block.half(), channels) for block in sum_by_parity(weights.float())]))
    rows = x.cpu()[:, pixels.astype(int)].reshape(images * len(pixels), cin)
    source = [b.place(part.contiguous()) for part in torch.split(rows, channels, 1)]
    bias, residual = b.tensor(cout), b.tensor(images * outputs, cout)
    lists = [b.place(geo.as_int32(entries)) for entries in (table[numbers], numbers, parities)]
    parts = la.stream_conv_floats(entry, blocks) if blocks else splits * images * live * cout
    output, workspace = b.poison(images * outputs, cout), b.poison(parts, dtype=torch.float32)
    p = la.ConvParams(
        source=(la.Address * 2)(*[la.at(s) for s in source], *[la.at(None)] * (2 - len(source))),
        channels=(la.i32 * 2)(*channels),
        source_stride=(la.i32 * 2)(*channels),
        table=lists[0].data_ptr(),
        source_rows=la.rows(len(pixels)),
        live=la.count(live),
        weights=packed.data_ptr(),
        blocks=lists[2].data_ptr(),
        workspace=workspace.data_ptr(),
        images=images,
        taps=4,
        cout=cout,
        splits=splits,
    )
    p.epilogue = la.Epilogue(
        bias=la.at(bias),
        residual=la.at(residual),
        output=la.at(output),
        residual_rows=la.rows(outputs, lists[1]),
        output_rows=la.rows(outputs, lists[1]),
        residual_stride=cout,
        output_stride=cout,
    )
    launches = conv_launches(entry, p, images * live, blocks)
    dense = dense_conv(x.double().reshape(images, *source_mask.shape, cin), weights.double(), 1, 2)
    y = dense[:, torch.from_numpy(fine).to(dense.device)] + bias.double() + residual.double().reshape(images, outputs, cout)
    what = f"{entry} by parity {size}^2 {'+'.join(map(str, channels))}->{cout} rows {outputs} {how(splits, blocks)}"
    b.check(what, launches, [(output, y.reshape(-1, cout))])
