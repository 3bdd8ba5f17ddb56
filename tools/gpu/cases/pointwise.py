"""Norms, moves, GEGLU and the sampler against float64 PyTorch."""

import math

import geometry as geo
import launch as la
import torch
import torch.nn.functional as F
from cases.bench import Picked


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
            (Picked(scattered.view(images, -1, channels), torch.from_numpy(pixels[:active].astype(int))), fresh),
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


def whole_norm_case(b, total, channels, blocks, groups=32, silu=True, images=2):
    """Statistics and norm of two concatenated maps in one launch, by clusters of `blocks` blocks."""
    if b.backend.architecture == "80":
        return
    width, many = sum(channels), len(channels)
    parts = [b.place((t * 2 + 1).half()) for t in (b.randn(images * total, c) for c in channels)]
    outputs = [b.poison(images * total, c) for c in channels]
    gamma, beta = b.tensor(width), b.tensor(width)
    affine = b.poison(images, 2, width, dtype=torch.float32)
    statistics = b.poison(images, groups, 2, dtype=torch.float32)
    group = width // groups
    slice_channels = math.lcm(group, 8)
    both = lambda tensors: (la.Address * 2)(*map(la.at, tensors), *[la.at(None)] * (2 - many))  # noqa: E731
    p = la.NormParams(
        source=both(parts),
        output=both(outputs),
        statistics=la.at(statistics),
        affine=la.at(affine),
        gamma=gamma.data_ptr(),
        beta=beta.data_ptr(),
        channels=(la.i32 * 2)(*channels),
        source_stride=(la.i32 * 2)(*channels),
        output_stride=(la.i32 * 2)(*channels),
        rows=total,
        groups=groups,
        slice=slice_channels,
        flags=la.SILU if silu else 0,
        epsilon=1e-5,
    )
    full = torch.cat([t.double().reshape(images, total, -1) for t in parts], 2)
    grouped = full.reshape(images, total, groups, -1)
    mean, variance = grouped.mean((1, 3)), grouped.var((1, 3), unbiased=False)
    scale = gamma.double() * (variance + 1e-5).rsqrt().repeat_interleave(group, 1)
    shift = beta.double() - mean.repeat_interleave(group, 1) * scale
    y = full * scale[:, None] + shift[:, None]
    y = (F.silu(y) if silu else y).reshape(images * total, width)
    grid, shared = (width // slice_channels, images, blocks), (16 * 512 + 2 * slice_channels + 64) * 4
    launch = ("group_norm", "group_norm_whole", grid, 512, shared, p, False, blocks)
    wanted = [(statistics, torch.stack([mean, variance], -1)), (affine, torch.stack([scale, shift], 1))]
    b.check(f"group_norm_whole {total} x {channels} blocks {blocks}", [launch], [*zip(outputs, torch.split(y, channels, 1)), *wanted])


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
    c = b.randn(steps, 12).cpu()
    mask = torch.from_numpy(geo.blob_mask(size, size, 0.3).ravel())
    rows = int(mask.sum())
    prediction = b.tensor(2 * rows, 8)
    ranks = torch.where(mask, mask.cumsum(0) - 1, -1)
    ranks_on_device, coefficients = b.place(ranks.int()), b.place(c.float())
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
        ranks=ranks_on_device.data_ptr(),
        coefficients=coefficients.data_ptr(),
        step=step.data_ptr(),
        slots=slots.data_ptr(),
        pixels=pixels,
        rows=rows,
        prediction_stride=8,
        input_stride=8,
    )
    g, x_x, x_e, h0, _, _, h_x, h_e, scale = c[1, :9].double().tolist()
    base = recorded.cpu().double()
    # outside the mask nothing is predicted: whatever stands here is not chosen
    negative, positive = prediction.cpu().double().reshape(2, rows, 8)[:, ranks.clamp_min(0), :4]
    e, x, inside = negative + g * (positive - negative), latent.cpu().double(), mask[:, None]
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
