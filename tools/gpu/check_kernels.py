#!/usr/bin/env python3
"""Check every CUDA kernel against float64 PyTorch on random shapes and masks.

    tools/gpu/check_kernels.py --cubins target/cubins            on a GPU
    tools/gpu/check_kernels.py --cubins target/cubins --emulate  on a CPU, small shapes
    compute-sanitizer python3 tools/gpu/check_kernels.py --alone  on a GPU, small shapes, without PyTorch's own kernels

Outputs start as NaN, so an element that no thread wrote fails the comparison; every launch runs twice and must give
the same bits. Error is ||out - ref|| / ||ref||. The bound, 2e-3, is four times the rounding of one f16 operand chain
(input 2^-11, normalised input 2^-11, output 2^-11, random signs); latents are f32 and have 1e-5.
"""

import argparse
import math
import sys
import time

import geometry as geo
import launch as la
import torch
import torch.nn.functional as F

TOLERANCE = 2e-3
results = []


class Bench:
    """Random tensors on the backend, launches run twice on poisoned outputs, verdicts."""

    def __init__(self, backend, seed=0, only=""):
        self.backend, self.only = backend, only
        self.random = torch.Generator().manual_seed(seed)  # of choices
        self.noise = torch.Generator(backend.device).manual_seed(seed)

    def tensor(self, *shape, dtype=torch.float16, scale=1.0):
        return self.backend.place((self.randn(*shape) * scale).to(dtype))

    def randn(self, *shape):
        return torch.randn(shape, generator=self.noise, device=self.backend.device)

    def poison(self, *shape, dtype=torch.float16):
        return self.backend.place(torch.full(shape, float("nan"), dtype=dtype, device=self.backend.device))

    def place(self, tensor):
        return self.backend.place(tensor)

    def check(self, name, launches, outputs, tolerance=TOLERANCE):
        """outputs: list of (tensor, float64 reference). Launches write them; run twice."""
        if self.only not in name:
            return
        bits = []
        for _ in range(2):
            for tensor, _ in outputs:
                tensor.fill_(float("nan"))
            for one in launches:
                self.backend.launch(*one)
            self.backend.synchronize()
            bits.append([t.clone().contiguous().view(torch.uint8) for t, _ in outputs])
        same = all(torch.equal(a, b) for a, b in zip(*bits))
        error = max(relative(t, r) for t, r in outputs)
        good = error <= tolerance and same
        results.append((name, error, same, good))
        print(f"{'ok  ' if good else 'FAIL'} {name:58s} {error:.2e}{'' if same else '  bits differ'}", flush=True)


def relative(tensor, reference):
    tensor = tensor.double()
    reference = reference.double().to(tensor.device)
    error = ((tensor - reference).norm() / reference.norm().clamp_min(1e-30)).item()
    return error if math.isfinite(error) else math.inf  # NaN never passes


def dense_conv(x, weights, stride, upsample):
    """x f64 [N, H, W, C]; weights f64 [taps, C, cout] -> [N, H', W', cout]"""
    k = math.isqrt(weights.shape[0])
    if upsample > 1:
        x = x.repeat_interleave(upsample, 1).repeat_interleave(upsample, 2)
    kernel = weights.reshape(k, k, *weights.shape[1:]).permute(3, 2, 0, 1)
    return F.conv2d(x.permute(0, 3, 1, 2), kernel, stride=stride, padding=k // 2).permute(0, 2, 3, 1)


def how(splits, cluster, blocks):
    return f"blocks {blocks}" if blocks else f"cluster {splits}" if cluster else f"splits {splits}"


def conv_launches(entry, p, rows, cluster, blocks):
    """One launch, or two where parts of K are added by a second kernel."""
    if blocks:
        return [("sparse_conv_stream", entry, *la.stream_conv_launch(entry, p, blocks), p)]
    if cluster:
        p.workspace = 0
    kernel = "sparse_conv_wgmma" if "wgmma" in entry else "sparse_conv"
    launches = [(kernel, entry, *la.conv_launch(entry, p, rows), p, False, p.splits if cluster else 1)]
    if p.splits > 1 and not cluster:
        launches.append(("sparse_conv", "sparse_conv_reduce", (7, 1, 1), 256, 0, p))
    return launches


def conv_case(
    b,
    entry,
    size,
    channels,
    cout,
    share=0.2,
    kernel=3,
    stride=1,
    upsample=1,
    splits=1,
    seed=0,
    images=2,
    cluster=False,
    blocks=0,
):
    """A conv over active pixels of frozen-normed input, with every epilogue part, next layer's norm included."""
    fine = geo.blob_mask(size, size, share, seed)
    source_mask = geo.any_hit(fine) if upsample == 2 else fine
    active = geo.any_hit(fine) if stride == 2 else fine
    taps = geo.tap_pixels(active, source_mask.shape, kernel, stride, upsample)
    pixels, _, table = geo.extended(source_mask, taps)
    live, ext = len(taps), len(pixels)
    cin = sum(channels)
    x = b.tensor(images, source_mask.size, cin)
    weights = b.place((b.randn(kernel * kernel, cin, cout) / math.sqrt(cin * kernel * kernel)).half())
    bias, moment, residual = b.tensor(cout), b.tensor(images, cout), b.tensor(images * live, cout)
    affine = b.tensor(images, 2, cout, dtype=torch.float32)
    source = [
        b.place(part.contiguous())
        for part in torch.split(x.cpu()[:, pixels.astype(int)].reshape(images * ext, cin), channels, 1)
    ]
    packed = b.place(la.pack_weights(weights, channels))
    # the row count is known on the device alone, and the next layer's input has room for a ring
    live_on_device, table_on_device = b.place(torch.tensor([live], dtype=torch.int32)), b.place(geo.as_int32(table))
    spare = 5
    output, normed = b.poison(images * live, cout), b.poison(images * (live + spare), cout)
    parts = la.stream_conv_floats(entry, blocks) if blocks else splits * images * live * cout
    workspace = b.poison(parts, dtype=torch.float32)
    p = la.ConvParams(
        source=(la.Address * 2)(*[la.at(s) for s in source], *[la.at(None)] * (2 - len(source))),
        channels=(la.i32 * 2)(*channels),
        source_stride=(la.i32 * 2)(*channels),
        table=table_on_device.data_ptr(),
        source_rows=la.rows(ext),
        live=la.count(live_on_device),
        weights=packed.data_ptr(),
        workspace=workspace.data_ptr(),
        images=images,
        taps=kernel * kernel,
        cout=cout,
        splits=splits,
    )
    p.epilogue = la.Epilogue(
        bias=la.at(bias),
        time=la.at(moment),
        residual=la.at(residual),
        output=la.at(output),
        normed=la.at(normed),
        affine=la.at(affine),
        residual_rows=la.rows(),
        output_rows=la.rows(),
        normed_rows=la.rows(live + spare),
        time_stride=cout,
        residual_stride=cout,
        output_stride=cout,
        normed_stride=cout,
        affine_channels=cout,
        flags=la.NORMED_SILU,
    )
    launches = conv_launches(entry, p, images * live, cluster, blocks)
    dense = dense_conv(x.double().reshape(images, *source_mask.shape, cin), weights.double(), stride, upsample)
    y = (
        dense[:, torch.from_numpy(active).to(dense.device)]
        + bias.double()
        + moment.double()[:, None]
        + residual.double().reshape(images, live, cout)
    )
    next_input = F.silu(y * affine[:, 0, None].double() + affine[:, 1, None].double())
    layer = f"{size}^2 {'+'.join(map(str, channels))}->{cout} {kernel}x{kernel} s{stride} up{upsample}"
    what = f"{entry} {layer} rows {live} {how(splits, cluster, blocks)}"
    inside = normed.view(images, live + spare, cout)[:, :live]
    b.check(what, launches, [(output, y.reshape(-1, cout)), (inside, next_input)])


def linear_case(b, entry, live, cin, cout, splits=1, images=2, cluster=False, blocks=0):
    """A feed-forward's first half: no table, gated epilogue, rows scattered into a map."""
    x = b.tensor(images * live, cin)
    weights, bias = b.tensor(1, cin, 2 * cout, scale=cin**-0.5), b.tensor(2 * cout)
    packed, folded = b.place(la.pack_weights(la.interleave_gate(weights), [cin])), b.place(la.interleave_gate(bias))
    map_rows = live + 9
    where = torch.randperm(map_rows, generator=b.random)[:live].sort().values
    destination = b.place(where.int())
    parts = la.stream_conv_floats(entry, blocks) if blocks else splits * images * live * 2 * cout
    output, workspace = b.poison(images * map_rows, cout), b.poison(parts, dtype=torch.float32)
    p = la.ConvParams(
        source=(la.Address * 2)(la.at(x), la.at(None)),
        channels=(la.i32 * 2)(cin, 0),
        source_stride=(la.i32 * 2)(cin, 0),
        source_rows=la.rows(live),
        live=la.count(live),
        weights=packed.data_ptr(),
        workspace=workspace.data_ptr(),
        images=images,
        taps=1,
        cout=2 * cout,
        splits=splits,
    )
    none = la.at(None)
    p.epilogue = la.Epilogue(
        bias=la.at(folded),
        time=none,
        residual=none,
        output=la.at(output),
        normed=none,
        affine=none,
        output_rows=la.rows(map_rows, destination),
        output_stride=cout,
        flags=la.GEGLU,
    )
    launches = conv_launches(entry, p, images * live, cluster, blocks)
    full = x.double() @ weights[0].double() + bias.double()
    value, gate = full.chunk(2, -1)
    b.check(
        f"{entry} linear+geglu rows {live} {cin}->{cout} {how(splits, cluster, blocks)}",
        launches,
        [(_Picked(output.view(images, map_rows, cout), where), (value * F.gelu(gate)).reshape(images, live, cout))],
    )


class _Picked:
    """Some rows of a map, seen as a tensor by Bench.check."""

    def __init__(self, tensor, where):
        self.tensor, self.where = tensor, where

    def fill_(self, value):
        self.tensor.fill_(value)

    def clone(self):
        return self.tensor[:, self.where.to(self.tensor.device)].clone()

    def double(self):
        return self.clone().double()


def attention_case(b, variant, queries, keys, heads, splits=1, images=2, room=0, fresh=0, blocks=0):
    """Keys of a map, `fresh` of them replaced by packed rows; then queries are picked from a map too."""
    dim = int(variant.split("_")[0][1:])
    width = heads * dim
    kv = b.tensor(images, keys + room, 2 * width)  # values beside keys: strides differ from widths
    new = b.tensor(images, fresh, 2 * width)
    replaced = torch.randperm(keys, generator=b.random)[:fresh].sort().values
    unchanged = torch.ones(keys, dtype=torch.bool)
    unchanged[replaced] = False
    kept = b.place(unchanged.nonzero()[:, 0].int())
    spare = 7 if fresh else 0
    q = b.tensor(images, queries + spare, width, scale=1.5)
    picked = torch.randperm(queries + spare, generator=b.random)[:queries].sort().values
    query_map = b.place(picked.int())
    output = b.poison(images * queries, width)
    parts = splits * images * queries * heads * (dim + 2)
    partial = b.poison(la.stream_attention_floats(variant, blocks) if blocks else parts, dtype=torch.float32)
    p = la.AttentionParams(
        query=la.at(q),
        key=la.at(kv),
        fresh_key=la.at(new),
        output=la.at(output),
        query_rows=la.rows(queries + spare, query_map) if fresh else la.rows(),
        queries=la.count(queries),
        key_rows=la.rows(keys + room, kept if fresh else None),
        keys=la.count(keys - fresh),
        fresh=la.count(fresh),
        partial=partial.data_ptr(),
        query_stride=width,
        key_stride=2 * width,
        fresh_stride=2 * width,
        output_stride=width,
        value_offset=width,
        fresh_value_offset=width,
        images=images,
        heads=heads,
        splits=splits,
        scale_log2=dim**-0.5 * math.log2(math.e),
    )
    kernel = "attention_stream" if blocks else "attention_wgmma" if "wgmma" in variant else "attention"
    shape = la.stream_attention_launch(variant, blocks) if blocks else la.attention_launch(variant, p, queries)
    launches = [(kernel, f"attention_{variant}", *shape, p)]
    if splits > 1:
        launches.append(("attention", f"attention_combine_d{dim}", (11, 1, 1), 128, 0, p))

    def heads_first(t):
        return t.double().reshape(images, -1, heads, dim).transpose(1, 2)

    whole = kv[:, :keys].clone()
    whole[:, replaced.to(whole.device)] = new
    k, v = whole.chunk(2, 2)
    reference = F.scaled_dot_product_attention(heads_first(q[:, picked.to(q.device)]), heads_first(k), heads_first(v))
    b.check(
        f"attention_{variant} queries {queries} keys {keys} fresh {fresh} heads {heads} {f'blocks {blocks}' if blocks else f'splits {splits}'}",
        launches,
        [(output, reference.transpose(1, 2).reshape(images * queries, width))],
    )


def attention_extremes(b):
    """Scores near the top of f16's range, all alike in one row: no NaN, no overflow."""
    q = b.place(torch.full((2 * 64, 64), 30.0).half())
    kv = b.place(torch.full((2 * 77, 64), 30.0).half())
    output = b.poison(128, 64)
    p = la.AttentionParams(
        query=la.at(q),
        key=la.at(kv),
        output=la.at(output),
        queries=la.count(64),
        keys=la.count(77),
        query_stride=64,
        key_stride=64,
        output_stride=64,
        images=2,
        heads=1,
        splits=1,
        scale_log2=0.125 * math.log2(math.e),
    )
    b.check(
        "attention_d64 equal scores of 57600",
        [("attention", "attention_d64", *la.attention_launch("d64", p, 64), p)],
        [(output, torch.full((128, 64), 30.0))],
    )


def move_case(b, size, channels, share=0.15, images=2):
    """Active rows and ring of a map into one normed buffer, in one launch; then active rows back into a map."""
    mask = geo.blob_mask(size, size, share)
    pixels, active, _ = geo.extended(mask, geo.tap_pixels(mask, mask.shape))
    ext = len(pixels)
    packed, cached = b.tensor(images * active, channels), b.tensor(images * mask.size, channels)
    affine, addend = b.tensor(images, 2, channels, dtype=torch.float32), b.tensor(images * active, channels)
    output, scattered = b.poison(images * ext, channels), b.poison(images * mask.size, channels)
    ring, inside = b.place(geo.as_int32(pixels[active:])), b.place(geo.as_int32(pixels[:active]))
    slots = b.place(torch.tensor([0, cached.data_ptr(), 0]))
    none = la.at(None)
    same = dict(
        images=images, channels=channels, source_stride=channels, output_stride=channels, affine_channels=channels
    )
    jobs = (la.MoveJob * 3)(
        la.MoveJob(
            source=la.at(packed),
            addend=la.at(addend),
            affine=la.at(affine),
            output=la.at(output),
            output_rows=la.rows(ext),
            output_first=la.count(0),
            rows=la.count(active),
            flags=la.SILU,
            **same,
        ),
        la.MoveJob(
            source=la.slot(1),
            addend=none,
            affine=la.at(affine),
            output=la.at(output),
            source_rows=la.rows(mask.size, ring),
            output_rows=la.rows(ext),
            output_first=la.count(active),
            rows=la.count(ext - active),
            flags=la.SILU,
            **same,
        ),
        la.MoveJob(
            source=la.at(packed),
            addend=none,
            affine=none,
            output=la.at(scattered),
            output_rows=la.rows(mask.size, inside),
            rows=la.count(active),
            flags=0,
            **same,
        ),
    )
    table = b.place(torch.frombuffer(bytearray(bytes(jobs)), dtype=torch.uint8).clone())
    p = la.MoveParams(jobs=table.data_ptr(), slots=slots.data_ptr())

    def normed(x):
        return F.silu(x * affine[:, :1].double() + affine[:, 1:].double())

    fresh = packed.double().reshape(images, active, channels)
    reference = torch.cat(
        [
            normed(fresh + addend.double().view_as(fresh)),
            normed(
                cached.double().reshape(images, -1, channels)[
                    :, torch.from_numpy(pixels[active:]).long().to(cached.device)
                ]
            ),
        ],
        1,
    )
    b.check(
        f"move_rows {size}^2 x{channels} active {active} ring {ext - active}",
        [("move_rows", "move_rows", (3, 3, 1), 256, 0, p)],
        [
            (output, reference.reshape(-1, channels)),
            (_Picked(scattered.view(images, -1, channels), torch.from_numpy(pixels[:active].astype(int))), fresh),
        ],
    )


def group_norm_case(b, total, channels, groups=32, updated=False, images=2):
    """Live statistics of two concatenated maps; or recorded ones updated by some changed rows."""
    width, epsilon = sum(channels), 1e-5
    parts = [b.place((t * 2 + 1).half()) for t in (b.randn(images * total, c) for c in channels)]
    gamma, beta = b.tensor(width), b.tensor(width)
    full = torch.cat([t.double().reshape(images, total, -1) for t in parts], 2)

    def live(x):
        grouped = x.reshape(images, total, groups, -1)
        mean, var = grouped.mean((1, 3)), grouped.var((1, 3), unbiased=False)
        return torch.stack([mean, var], -1)

    chunks = 6
    affine, statistics = (
        b.poison(images, 2, width, dtype=torch.float32),
        b.poison(images, groups, 2, dtype=torch.float32),
    )
    sums = [b.poison(images, chunks, 2, width, dtype=torch.float32) for _ in range(2)]

    def sum_params(sources, source_rows, count, partial):
        return la.SumParams(
            source=(la.Address * 2)(*map(la.at, sources), *[la.at(None)] * (2 - len(sources))),
            channels=(la.i32 * 2)(*channels),
            source_stride=(la.i32 * 2)(*channels),
            source_rows=source_rows,
            rows=la.count(count),
            partial=partial.data_ptr(),
        )

    stats = la.StatisticsParams(
        added=sums[0].data_ptr(),
        recorded=la.at(None),
        statistics=la.at(statistics),
        affine=la.at(affine),
        gamma=gamma.data_ptr(),
        beta=beta.data_ptr(),
        rows=la.count(total),
        channels=width,
        groups=groups,
        added_chunks=chunks,
        epsilon=epsilon,
    )
    launches = [
        (
            "group_norm",
            "group_norm_sums",
            (chunks, images, 1),
            256,
            0,
            sum_params(parts, la.rows(total), total, sums[0]),
        )
    ]
    if updated:
        changed = torch.randperm(total, generator=b.random)[: total // 5].sort().values
        where, recorded = b.place(changed.int()), b.place(live(full).float())
        fresh = [b.tensor(images * len(changed), c, scale=3.0) for c in channels]
        stats.recorded, stats.removed, stats.removed_chunks = la.at(recorded), sums[1].data_ptr(), chunks
        launches = [
            (
                "group_norm",
                "group_norm_sums",
                (chunks, images, 1),
                256,
                0,
                sum_params(fresh, la.rows(), len(changed), sums[0]),
            ),
            (
                "group_norm",
                "group_norm_sums",
                (chunks, images, 1),
                256,
                0,
                sum_params(parts, la.rows(total, where), len(changed), sums[1]),
            ),
        ]
        full[:, changed.to(full.device)] = torch.cat([t.double().reshape(images, len(changed), -1) for t in fresh], 2)
    launches.append(("group_norm", "group_norm_statistics", (groups, images, 1), 128, 0, stats))
    reference = live(full)
    per_channel = reference.repeat_interleave(width // groups, 1)
    scale = (per_channel[..., 1] + epsilon).rsqrt() * gamma.double()
    shift = beta.double() - per_channel[..., 0] * scale
    b.check(
        f"group_norm {total} x {'+'.join(map(str, channels))}{' updated' if updated else ''}",
        launches,
        [(statistics, reference), (affine, torch.stack([scale, shift], 1))],
        1e-5,
    )  # f32 sums, no f16 on the way


def layer_norm_case(b, live, channels, images=2):
    x = b.place((b.randn(images * live, channels) + 4).half())
    gamma, beta, output = b.tensor(channels), b.tensor(channels), b.poison(images * live, channels)
    p = la.LayerNormParams(
        source=la.at(x),
        output=la.at(output),
        gamma=gamma.data_ptr(),
        beta=beta.data_ptr(),
        live=la.count(live),
        images=images,
        channels=channels,
        source_stride=channels,
        output_stride=channels,
        epsilon=1e-5,
    )
    reference = F.layer_norm(x.double(), [channels], gamma.double(), beta.double(), 1e-5)
    b.check(
        f"layer_norm {live} x {channels}", [("layer_norm", "layer_norm", (3, 1, 1), 128, 0, p)], [(output, reference)]
    )


def geglu_case(b, live, channels, images=2):
    x, output = b.tensor(images * live, 2 * channels), b.poison(images * live, channels)
    p = la.GegluParams(
        source=la.at(x),
        output=la.at(output),
        live=la.count(live),
        images=images,
        channels=channels,
        source_stride=2 * channels,
        output_stride=channels,
    )
    value, gate = x.double().chunk(2, 1)
    b.check(f"geglu {live} x {channels}", [("geglu", "geglu", (3, 1, 1), 256, 0, p)], [(output, value * F.gelu(gate))])


def latent_case(b, size=12):
    """Second step of a multistep sampler, reached through advance_step's slot table."""
    pixels, steps = size * size, 3
    latent, history = b.tensor(pixels, 4, dtype=torch.float32), b.tensor(pixels, 4, dtype=torch.float32)
    recorded = b.tensor(steps, 2, pixels, 4, dtype=torch.float32)
    prediction = b.tensor(2 * pixels, 8)
    c = b.randn(steps, 12).cpu()
    mask = torch.from_numpy(geo.blob_mask(size, size, 0.3).ravel().astype("uint8"))
    mask_on_device, coefficients = b.place(mask), b.place(c.float())
    all_slots = torch.tensor([[recorded[s, 0].data_ptr(), recorded[s, 1].data_ptr()] for s in range(steps)])
    slots, all_slots = b.place(torch.zeros(2, dtype=torch.int64)), b.place(all_slots)
    step, following = b.place(torch.zeros(1, dtype=torch.int32)), b.place(torch.ones(1, dtype=torch.int32))
    advance = la.AdvanceParams(
        all_slots=all_slots.data_ptr(),
        slots=slots.data_ptr(),
        next=following.data_ptr(),
        step=step.data_ptr(),
        slot_count=2,
        steps=steps,
    )
    b.backend.launch("advance_step", "advance_step", (1, 1, 1), 256, 0, advance)
    updated, entry, model_input = (
        b.poison(pixels, 4, dtype=torch.float32),
        b.poison(pixels, 4, dtype=torch.float32),
        b.poison(2, pixels, 8),
    )
    none = la.at(None)
    p = la.UpdateParams(
        latent=la.at(latent),
        updated=la.at(updated),
        prediction=la.at(prediction),
        history=(la.Address * 3)(la.at(history), none, none),
        history_out=la.at(entry),
        recorded=la.slot(0),
        recorded_history=la.slot(1),
        input=la.at(model_input),
        mask=mask_on_device.data_ptr(),
        coefficients=coefficients.data_ptr(),
        step=step.data_ptr(),
        slots=slots.data_ptr(),
        pixels=pixels,
        prediction_stride=8,
        input_stride=8,
    )
    g, x_x, x_e, h0, _, _, h_x, h_e, scale = c[1, :9].double().tolist()
    base = recorded.cpu().double()
    negative, positive = prediction.cpu().double().reshape(2, pixels, 8)[..., :4]
    e, x, inside = negative + g * (positive - negative), latent.cpu().double(), mask.bool()[:, None]
    fresh = torch.where(inside, x_x * x + x_e * e + h0 * history.cpu().double(), base[1, 0])
    memory = torch.where(inside, h_x * x + h_e * e, base[1, 1])
    b.check(
        "latent_update, f32",
        [("latent", "latent_update", (-(-pixels // 128), 1, 1), 128, 0, p)],
        [(updated, fresh), (entry, memory)],
        1e-5,
    )
    b.check(
        "latent_update, model input",
        [("latent", "latent_update", (-(-pixels // 128), 1, 1), 128, 0, p)],
        [(model_input, torch.cat([fresh * scale, torch.zeros(pixels, 4)], 1).expand(2, -1, -1))],
    )
    start = b.tensor(pixels, dtype=torch.float32)
    total = b.place(start.clone())
    d = la.DifferenceParams(
        latent=la.at(latent), recorded=la.slot(0), total=total.data_ptr(), slots=slots.data_ptr(), pixels=pixels
    )
    b.backend.launch("latent", "mask_difference", (-(-pixels // 128), 1, 1), 128, 0, d)
    b.backend.synchronize()
    wanted = start.cpu().double() + (x - base[1, 0]).abs().sum(1)
    error = relative(total, wanted)
    results.append(("mask_difference", error, True, error < 1e-5))
    print(f"{'ok  ' if error < 1e-5 else 'FAIL'} {'mask_difference through the second step slots':58s} {error:.2e}")


def small(b):
    conv_case(b, "sparse_conv_64x64", 12, [64], 64)
    conv_case(b, "sparse_conv_64x64", 12, [72, 40], 72, splits=3)
    conv_case(b, "sparse_conv_64x64", 13, [8], 8, share=0.6)
    conv_case(b, "sparse_conv_64x64", 16, [64], 64, stride=2, share=0.3)
    conv_case(b, "sparse_conv_64x64", 16, [64], 64, upsample=2, share=0.3)
    conv_case(b, "sparse_conv_64x64", 9, [64, 64], 128, kernel=1, share=1.0)
    conv_case(b, "sparse_conv_64x160", 12, [128], 168, splits=2)
    conv_case(b, "sparse_conv_128x160", 14, [64], 320, share=0.4)
    conv_case(b, "sparse_conv_128x128", 12, [64], 136, splits=4)
    linear_case(b, "sparse_conv_64x64", 33, 72, 40)
    linear_case(b, "sparse_conv_64x160", 33, 128, 80, splits=2)
    if b.backend.architecture == "90a":
        conv_case(b, "sparse_conv_wgmma_128x160", 14, [64], 320, share=0.4)
        conv_case(b, "sparse_conv_wgmma_128x160", 9, [72, 40], 168, share=0.5, splits=2)
        linear_case(b, "sparse_conv_wgmma_64x160", 70, 328, 80)
        linear_case(b, "sparse_conv_64x64", 33, 328, 40, splits=4, cluster=True)
        conv_case(b, "sparse_conv_wgmma_128x160", 9, [72, 40], 168, share=0.5, splits=3, cluster=True)
        conv_case(b, "sparse_conv_wgmma_192x160", 18, [64], 168, share=0.5)
        conv_case(b, "sparse_conv_stream_192x160", 18, [64], 168, share=0.7, blocks=5)
        conv_case(b, "sparse_conv_stream_128x160", 9, [72, 40], 168, share=0.5, blocks=7)
        linear_case(b, "sparse_conv_stream_192x160", 150, 72, 168, blocks=3)
        linear_case(b, "sparse_conv_stream_128x160", 33, 328, 40, blocks=9)
        attention_case(b, "d64_wgmma", 130, 333, 1)
        attention_case(b, "d64_wgmma_wide", 130, 333, 1)
        attention_case(b, "d64_wgmma", 37, 77, 2, room=4)
        attention_case(b, "d64_wgmma_narrow", 70, 600, 1, splits=3)
        attention_case(b, "d64_wgmma", 90, 256, 2, splits=2, fresh=90)
        attention_case(b, "d64_stream_192", 200, 600, 1, blocks=7)
        attention_case(b, "d64_stream_192", 200, 256, 2, blocks=3, fresh=90)
        attention_case(b, "d64_stream_128", 37, 77, 2, room=4, blocks=2)
        attention_case(b, "d64_stream_128", 130, 400, 1, blocks=30, fresh=130)
    for variant in ["d8", "d16", "d24", "d32", "d40", "d48", "d64", "d64_wide", "d80", "d96", "d128", "d160"]:
        attention_case(b, variant, 37, 77, 2)
    attention_case(b, "d64", 70, 200, 1, splits=3, room=3)
    attention_case(b, "d8", 20, 130, 3, splits=2, fresh=60)
    attention_case(b, "d40", 20, 130, 1, splits=2, fresh=60)
    attention_case(b, "d64", 40, 130, 1, fresh=130)
    attention_case(b, "d64_wide", 130, 130, 1, splits=2)
    pointwise(b)


def pointwise(b):
    attention_extremes(b)
    move_case(b, 16, 72)
    group_norm_case(b, 100, [64])
    group_norm_case(b, 150, [128, 64], updated=True)
    group_norm_case(b, 70, [1280, 1280])
    for channels in [8, 320, 640, 1280, 2048]:
        layer_norm_case(b, 19, channels)
    geglu_case(b, 9, 320)
    latent_case(b)


def large(b):
    for entry in la.CONV_TILES:
        if "wgmma" in entry and b.backend.architecture != "90a":
            continue
        conv_case(b, entry, 96, [320], 320, share=0.05)
        conv_case(b, entry, 96, [640, 320], 320, share=0.15, splits=3)
        conv_case(b, entry, 48, [640], 640, share=0.05, splits=8, seed=1)
        conv_case(b, entry, 48, [640], 640, share=0.3, stride=2)
        conv_case(b, entry, 48, [1280], 1280, share=0.15, upsample=2, splits=2)
        conv_case(b, entry, 24, [1280, 1280], 1280, share=0.1, splits=13)
        conv_case(b, entry, 48, [1280, 640], 640, share=0.2, kernel=1)
        conv_case(b, entry, 96, [8], 320, share=1.0)
        conv_case(b, entry, 96, [320], 8, share=0.3)
        conv_case(b, entry, 37, [72, 40], 136, share=0.4, splits=2, images=1)
        linear_case(b, entry, 480, 320, 1280)
        linear_case(b, entry, 57, 1280, 5120, splits=2)
        if b.backend.architecture != "80":
            conv_case(b, entry, 24, [1280, 1280], 1280, share=0.1, splits=8, cluster=True)
            conv_case(b, entry, 48, [640], 640, share=0.05, splits=5, cluster=True)
            linear_case(b, entry, 57, 1280, 5120, splits=2, cluster=True)
    for entry in la.CONV_STREAM if b.backend.architecture == "90a" else []:
        for blocks in [132, 47]:
            conv_case(b, entry, 96, [640, 320], 320, share=0.15, blocks=blocks)
            conv_case(b, entry, 96, [320], 320, share=1.0, blocks=blocks)
            conv_case(b, entry, 48, [640], 640, share=0.3, stride=2, blocks=blocks)
            conv_case(b, entry, 48, [1280], 1280, share=0.15, upsample=2, blocks=blocks)
            conv_case(b, entry, 37, [72, 40], 136, share=0.4, images=1, blocks=blocks)
            linear_case(b, entry, 480, 320, 1280, blocks=blocks)
            linear_case(b, entry, 4608, 320, 1280, blocks=blocks)
            linear_case(b, entry, 57, 1280, 5120, blocks=blocks)
    hopper = ["d64_wgmma", "d64_wgmma_wide", "d64_wgmma_narrow"] if b.backend.architecture == "90a" else []
    for variant in ["d8", "d16", "d24", "d32", "d40", "d48", "d64", "d64_wide", "d80", "d96", "d128", "d160", *hopper]:
        attention_case(b, variant, 461, 1000, 3, splits=1)
        attention_case(b, variant, 100, 9216, 2, splits=4, room=5)
        attention_case(b, variant, 461, 2304, 2, splits=2, fresh=461)
        attention_case(b, variant, 461, 77, 5)
    for variant in la.ATTENTION_STREAM if b.backend.architecture == "90a" else []:
        for blocks in [132, 57]:
            attention_case(b, variant, 461, 1000, 3, blocks=blocks)
            attention_case(b, variant, 461, 9216, 5, blocks=blocks, fresh=461)
            attention_case(b, variant, 173, 576, 20, blocks=blocks, fresh=173)
            attention_case(b, variant, 2304, 2304, 10, blocks=blocks)
    move_case(b, 96, 320)
    group_norm_case(b, 9216, [320])
    group_norm_case(b, 9216, [640, 320], updated=True)
    group_norm_case(b, 576, [1280, 1280])
    geglu_case(b, 480, 1280)
    pointwise(b)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cubins", default="target/cubins")
    parser.add_argument("--emulate", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--alone", action="store_true", help="small shapes on a GPU; references on the CPU")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    args = parser.parse_args()
    began = time.time()
    backend = la.Emulated if args.emulate else la.Driver if args.alone else la.Device
    b = Bench(backend(args.cubins), args.seed, args.only)
    small(b) if args.emulate or args.alone else large(b)
    bad = [r for r in results if not r[3]]
    print(
        f"{len(results) - len(bad)} of {len(results)} pass, worst error {max(r[1] for r in results):.2e},",
        f"{time.time() - began:.0f} s",
    )
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
