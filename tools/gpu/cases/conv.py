"""Convolutions and linear layers against float64 PyTorch."""

import math

import geometry as geo
import launch as la
import torch
import torch.nn.functional as F
from cases.bench import Picked


def dense_conv(x, weights, stride, upsample):
    """x f64 [N, H, W, C]; weights f64 [taps, C, cout] -> [N, H', W', cout]"""
    k = math.isqrt(weights.shape[0])
    if upsample > 1:
        x = x.repeat_interleave(upsample, 1).repeat_interleave(upsample, 2)
    kernel = weights.reshape(k, k, *weights.shape[1:]).permute(3, 2, 0, 1)
    return F.conv2d(x.permute(0, 3, 1, 2), kernel, stride=stride, padding=k // 2).permute(0, 2, 3, 1)


def how(splits, blocks):
    return f"blocks {blocks}" if blocks else f"splits {splits}"


def conv_launches(entry, p, rows, blocks=0):
    """One launch, or two where parts of K are added by a second kernel."""
    if blocks:
        return [("sparse_conv_stream", la.conv_entry(entry, p), *la.stream_conv_launch(entry, p, blocks), p)]
    kernel = "sparse_conv_wgmma" if "wgmma" in entry else "sparse_conv"
    launches = [(kernel, la.conv_entry(entry, p), *la.conv_launch(entry, p, rows), p)]
    reduce = la.conv_entry("sparse_conv_reduce", p)
    return launches + [("sparse_conv", reduce, (7, 1, 1), 256, 0, p)] * (p.splits > 1)


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
    launches = conv_launches(entry, p, images * live, blocks)
    dense = dense_conv(x.double().reshape(images, *source_mask.shape, cin), weights.double(), stride, upsample)
    y = (
        dense[:, torch.from_numpy(active).to(dense.device)]
        + bias.double()
        + moment.double()[:, None]
        + residual.double().reshape(images, live, cout)
    )
    next_input = F.silu(y * affine[:, 0, None].double() + affine[:, 1, None].double())
    layer = f"{size}^2 {'+'.join(map(str, channels))}->{cout} {kernel}x{kernel} s{stride} up{upsample}"
    what = f"{entry} {layer} rows {live} {how(splits, blocks)}"
    inside = normed.view(images, live + spare, cout)[:, :live]
    b.check(what, launches, [(output, y.reshape(-1, cout)), (inside, next_input)])


def linear_params(x, packed, workspace, live, cin, cout, images, splits, **more):
    """A product of rows as they lie: one source, no table of taps."""
    return la.ConvParams(
        source=(la.Address * 2)(la.at(x), la.at(None)),
        channels=(la.i32 * 2)(cin, 0),
        source_stride=(la.i32 * 2)(cin, 0),
        source_rows=la.rows(live),
        live=la.count(live),
        weights=packed.data_ptr(),
        workspace=workspace.data_ptr(),
        images=images,
        taps=1,
        cout=cout,
        splits=splits,
        **more,
    )


def linear_case(b, entry, live, cin, cout, splits=1, images=2, blocks=0):
    """A feed-forward's first half: no table, gated epilogue, rows scattered into a map."""
    x = b.tensor(images * live, cin)
    weights, bias = b.tensor(1, cin, 2 * cout, scale=cin**-0.5), b.tensor(2 * cout)
    packed, folded = b.place(la.pack_weights(la.interleave_gate(weights), [cin])), b.place(la.interleave_gate(bias))
    map_rows = live + 9
    where = torch.randperm(map_rows, generator=b.random)[:live].sort().values
    destination = b.place(where.int())
    parts = la.stream_conv_floats(entry, blocks) if blocks else splits * images * live * 2 * cout
    output, workspace = b.poison(images * map_rows, cout), b.poison(parts, dtype=torch.float32)
    p = linear_params(x, packed, workspace, live, cin, 2 * cout, images, splits)
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
    launches = conv_launches(entry, p, images * live, blocks)
    full = x.double() @ weights[0].double() + bias.double()
    value, gate = full.chunk(2, -1)
    b.check(
        f"{entry} linear+geglu rows {live} {cin}->{cout} {how(splits, blocks)}",
        launches,
        [(Picked(output.view(images, map_rows, cout), where), (value * F.gelu(gate)).reshape(images, live, cout))],
    )


def norm_case(b, entry, live, cin, cout, splits=1, gated=False, images=2, blocks=0):
    """A product whose rows are normed for the next one: y = x w + residual, then layer_norm(y) v + b, gamma and beta folded into v and b."""
    rows, columns = images * live, cout * (2 if gated else 1)
    x, residual = b.tensor(rows, cin), b.place((b.randn(rows, cin) * 2 + 3 * b.randn(rows, 1)).half())
    first, second = b.tensor(1, cin, cin, scale=cin**-0.5), b.tensor(1, cin, columns, scale=cin**-0.5)
    gamma, beta, bias = b.place((b.randn(cin) * 0.2 + 1).half()), b.tensor(cin), b.tensor(columns)
    order = la.interleave_gate if gated else lambda tensor: tensor
    packed, folded = b.place(la.pack_weights(first, [cin])), b.place(la.pack_weights(order(second), [cin]))
    plain_bias, folded_bias = b.place(order(bias).contiguous()), b.poison(columns)
    sums, parts = b.poison(columns, dtype=torch.float32), b.poison(rows, cin // la.PART_COLUMNS, 2, dtype=torch.float32)
    y, output = b.poison(rows, cin), b.poison(rows, cout)
    floats = max(splits * rows * max(cin, columns), la.stream_conv_floats(entry, blocks) if blocks else 0)
    workspace = b.poison(floats, dtype=torch.float32)

    def params(source, weights, cout, epilogue):
        p = linear_params(source, weights, workspace, live, cin, cout, images, splits)
        p.epilogue = epilogue
        return p

    fold = la.FoldParams(
        *(t.data_ptr() for t in (folded, gamma, beta, plain_bias, folded_bias, sums)), channels=cin, cout=columns
    )
    b.backend.launch("fold_norm", "fold_norm", (-(-columns // 4), 1, 1), 128, 0, fold)
    counted = dict(row_parts=parts.data_ptr(), row_part_count=cin // la.PART_COLUMNS)
    before = la.Epilogue(residual=la.at(residual), output=la.at(y), residual_stride=cin, output_stride=cin, **counted)
    read = dict(norm_parts=parts.data_ptr(), norm_part_count=cin // la.PART_COLUMNS, column_sums=sums.data_ptr(), norm_epsilon=1e-5)
    after = la.Epilogue(bias=la.at(folded_bias), output=la.at(output), output_stride=cout, flags=la.GEGLU if gated else 0, **read)
    maker = entry if not blocks else "sparse_conv_wgmma_64x160"
    launches = conv_launches(maker, params(x, packed, cin, before), rows)
    launches += conv_launches(entry, params(y, folded, columns, after), rows, blocks)
    inner = x.double() @ first[0].double() + residual.double()
    full = F.layer_norm(inner, [cin], gamma.double(), beta.double(), 1e-5) @ second[0].double() + bias.double()
    if gated:
        value, gate = full.chunk(2, -1)
        full = value * F.gelu(gate)
    b.check(f"{entry} norm{'+geglu' if gated else ''} rows {live} {cin}->{cout} {how(splits, blocks)}", launches, [(y, inner), (output, full)])


def parts_case(b, entry, live, cin, width, splits=1, images=2):
    """Three products as one, each into rows of its own: queries packed, keys and values in slots."""
    x, weights = b.tensor(images * live, cin), b.tensor(1, cin, 3 * width, scale=cin**-0.5)
    packed, workspace = b.place(la.pack_weights(weights, [cin])), b.poison(splits * images * live * 3 * width, dtype=torch.float32)
    outputs = [b.poison(images * live, width) for _ in range(3)]
    slots = b.place(torch.tensor([outputs[1].data_ptr() - 256, outputs[2].data_ptr()], dtype=torch.int64))
    p = linear_params(x, packed, workspace, live, cin, 3 * width, images, splits, slots=slots.data_ptr())
    beside = (la.Address * 2)(la.slot(0, 256), la.slot(1))
    p.epilogue = la.Epilogue(output=la.at(outputs[0]), beside=beside, output_stride=width, part_columns=width)
    full = (x.double() @ weights[0].double()).split(width, 1)
    launches = conv_launches(entry, p, images * live)
    b.check(f"{entry} three outputs rows {live} {cin}->3x{width} {how(splits, 0)}", launches, list(zip(outputs, full)))
