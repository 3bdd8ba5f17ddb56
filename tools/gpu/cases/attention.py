"""Attention against float64 PyTorch."""

import math

import launch as la
import torch
import torch.nn.functional as F


def attention_case(b, variant, queries, keys, heads, splits=1, images=2, room=0, fresh=0, blocks=0):
    """Keys of a map, `fresh` of them replaced by packed rows; then queries are picked from a map too."""
    dim = la.attention_dim(variant)
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
    kernel = "attention_wide" if variant.startswith("wide") else kernel
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


def control_case(b, dim, queries, keys, heads, images=2):
    """Maps of a recorded image; then another image's attention that follows them, through a slot."""
    width, stride, conditioned = heads * dim, -(-keys // 8) * 8, images - images // 2

    def image():
        return b.tensor(images, queries, width, scale=1.5), b.tensor(images, keys, 2 * width)

    def padded(values):
        return b.place(F.pad(values, (0, stride - keys)).half())

    mapper = padded(torch.rand(keys, keys, generator=b.random))
    blend, weight = (padded(torch.rand(keys, generator=b.random)) for _ in range(2))
    (old, old_keys), (new, new_keys) = image(), image()
    maps, output = b.poison(conditioned * heads, queries, stride), b.poison(images * queries, width)
    slots = b.place(torch.tensor([0, maps.data_ptr()]))

    def params(q, kv, where):
        return la.ControlParams(
            query=la.at(q),
            key=la.at(kv),
            value=la.at(kv, width),
            output=la.at(output),
            maps=where,
            mapper=la.at(mapper),
            blend=la.at(blend),
            weight=la.at(weight),
            slots=slots.data_ptr(),
            query_stride=width,
            key_stride=2 * width,
            value_stride=2 * width,
            output_stride=width,
            map_stride=stride,
            images=images,
            heads=heads,
            queries=queries,
            keys=keys,
            dim=dim,
            scale_log2=dim**-0.5 * math.log2(math.e),
        )

    def shares(q, k):
        q, k = (t.double().reshape(images, -1, heads, dim).transpose(1, 2) for t in (q, k))
        return (q @ k.transpose(2, 3) * dim**-0.5).softmax(-1)

    recorded = shares(old, old_keys[..., :width])[images // 2 :]
    own = shares(new, new_keys[..., :width])
    mix, part, factor = (t.double()[..., :keys].to(own.device) for t in (mapper, blend, weight))
    own[images // 2 :] = (part * (recorded @ mix) + (1 - part) * own[images // 2 :]) * factor
    values = new_keys[..., width:].double().reshape(images, keys, heads, dim).transpose(1, 2)
    steps = [
        ("attention_maps", params(old, old_keys, la.at(maps))),
        ("attention_control", params(new, new_keys, la.slot(1))),
    ]
    b.check(
        f"attention_control dim {dim} queries {queries} keys {keys} heads {heads} images {images}",
        [("attention_control", entry, *la.control_launch(entry, p), p) for entry, p in steps],
        [
            (maps, F.pad(recorded.reshape(-1, queries, keys), (0, stride - keys))),
            (output, (own @ values).transpose(1, 2).reshape(images * queries, width)),
        ],
    )


def causal_case(b, tokens, heads, dim, images=2):
    """Queries, keys and values beside each other in one row."""
    width = heads * dim
    rows = b.tensor(images * tokens, 3 * width, scale=1.5)
    output = b.poison(images * tokens, width)
    p = la.CausalParams(
        query=la.at(rows),
        key=la.at(rows, width),
        value=la.at(rows, 2 * width),
        output=la.at(output),
        images=images,
        tokens=tokens,
        heads=heads,
        dim=dim,
        query_stride=3 * width,
        key_stride=3 * width,
        value_stride=3 * width,
        output_stride=width,
        scale_log2=dim**-0.5 * math.log2(math.e),
    )
    q, k, v = (t.double().reshape(images, tokens, heads, dim).transpose(1, 2) for t in rows.chunk(3, 1))
    reference = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(images * tokens, width)
    shape = (-(-tokens // 4), images * heads, 1), 128, 16 * (dim + tokens)
    name = f"causal_attention tokens {tokens} heads {heads} dim {dim}"
    b.check(name, [("causal_attention", "causal_attention", *shape, p)], [(output, reference)])


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
