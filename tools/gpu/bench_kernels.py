#!/usr/bin/env python3
"""Time the kernels at the sizes of Stable Diffusion 2's U-Net, 768x768, guidance batch 2, beside cuBLAS and SDPA.

    tools/gpu/bench_kernels.py --cubins target/cubins --json out.json [--only conv linear attention pointwise]

Each time is the median over replays of a CUDA graph that holds many launches one after another, divided by their
number: launch gaps are inside, as in a step. Weights rotate among copies larger together than the L2 cache.
Ours add a bias and a residual (GEGLU: a bias). Peers get the same products: torch.matmul [rows, K] x [K, cout] (no gather, no
epilogue), scaled_dot_product_attention.
"""
# ruff: noqa: B023  a closure is timed in the turn that makes it

import argparse
import json
import math
import statistics

import geometry as geo
import launch as la
import torch
import torch.nn.functional as F

SHARES = [0.05, 0.15, 0.30, 1.0]
COLD_BYTES = 128 << 20  # over twice an H200's L2
table = []


def median_us(once, launches, replays=7):
    """Median time of one of `launches` calls once(j), as a graph."""
    if not torch.cuda.is_available():
        once(0)
        return 1.0
    once(0)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(torch.cuda.Stream()):  # torch.cuda.graph() would empty the memory cache every time
        graph.capture_begin()
        for j in range(launches):
            once(j)
        graph.capture_end()
    times = []
    for turn in range(replays + 2):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        if turn >= 2:
            times.append(start.elapsed_time(end) * 1e3 / launches)
    return statistics.median(times)


def report(group, what, macs, ours, peer, detail):
    row = dict(
        group=group,
        case=what,
        us=round(ours, 2),
        peer_us=round(peer, 2),
        tflops=round(2e-6 * macs / ours, 1),
        detail=detail,
    )
    table.append(row)
    print(
        f"{group:9s} {what:44s} {ours:8.1f} us {row['tflops']:6.1f} TF/s  ",
        f"peer {peer:8.1f} us  {peer / ours:5.2f}x   {detail}",
        flush=True,
    )


def copies(n_bytes):
    return max(3, min(48, -(-COLD_BYTES // n_bytes)))


def levels(share, size):
    """Active masks of the four levels, finest first."""
    mask = geo.blob_mask(size, size, share, seed=3)
    out = [mask]
    for _ in range(3):
        out.append(geo.any_hit(out[-1]))
    return out


def conv_params(backend, live, ext, table_tensor, source, channels, taps, weights, cout, output, workspace, flags=0):
    none = la.at(None)
    p = la.ConvParams(
        source=(la.Address * 2)(la.at(source), none),
        channels=(la.i32 * 2)(channels, 0),
        source_stride=(la.i32 * 2)(channels, 0),
        table=0 if table_tensor is None else table_tensor.data_ptr(),
        source_rows=la.rows(ext),
        live=la.count(live),
        weights=weights.data_ptr(),
        workspace=workspace.data_ptr(),
        images=2,
        taps=taps,
        cout=cout,
        splits=1,
    )
    p.epilogue = la.Epilogue(
        bias=la.at(backend.bias),
        time=none,
        residual=none if flags else la.at(backend.residual),
        output=la.at(output),
        normed=none,
        affine=none,
        residual_stride=cout,
        output_stride=cout,
        flags=flags,
    )
    return p


def best_of(backend, p, rows, weights, taps, entries, launches):
    """Times every tile shape and split count worth trying. Returns (us, detail, all)."""
    tried = {}
    total_tiles = taps * (-(-p.channels[0] // 64))
    for entry in entries:
        # of the mma.sync tiles only the smallest ever beats warpgroup products
        if backend.architecture == "90a" and "wgmma" not in entry and entry != "sparse_conv_64x64":
            continue
        if "wgmma" in entry and backend.architecture != "90a":
            continue
        bm, bn = la.CONV_TILES[entry][:2]
        blocks = -(-rows // bm) * -(-p.cout // bn)
        kernel = "sparse_conv_wgmma" if "wgmma" in entry else "sparse_conv"
        reduce_blocks = -(-rows * (p.cout // 8) // 256)
        most = min(total_tiles // 3, backend.workspace_floats // (rows * p.cout))
        waves = [132 // blocks, round(132 / blocks), round(264 / blocks)]
        for splits in sorted({1, *(max(1, min(wave, most)) for wave in waves)}):
            p.splits, p.workspace = splits, backend.workspace.data_ptr()
            grid, threads, shared = la.conv_launch(entry, p, rows)

            def once(j):
                p.weights = weights[j % len(weights)].data_ptr()
                backend.launch(kernel, la.conv_entry(entry, p), grid, threads, shared, p, backend.overlap)
                if splits > 1:
                    backend.launch("sparse_conv", la.conv_entry("sparse_conv_reduce", p), (reduce_blocks, 1, 1), 256, 0, p, backend.overlap)

            tried[f"{entry}/{splits}"] = round(median_us(once, launches), 2)
    p.splits, p.workspace = 1, backend.workspace.data_ptr()
    for entry in la.CONV_STREAM if backend.architecture == "90a" else []:
        bm, bn = la.CONV_STREAM[entry][:2]
        tiles, full = -(-rows // bm) * -(-p.cout // bn), 264 if bm == 64 else 132
        for blocks in sorted({full, *(tiles * cuts for cuts in [1, 2, 3, 4] if 44 <= tiles * cuts < full)}):
            if blocks > tiles * total_tiles:
                continue
            shape = la.stream_conv_launch(entry, p, blocks)

            def stream(j):
                p.weights = weights[j % len(weights)].data_ptr()
                backend.launch("sparse_conv_stream", la.conv_entry(entry, p), *shape, p, backend.overlap)

            tried[f"{entry}/{blocks}"] = round(median_us(stream, launches), 2)
    detail = min(tried, key=tried.get)
    return tried[detail], detail, tried


def bench_conv(backend, size, scale):
    for level, cin, cout in [
        (0, 320, 320),
        (0, 960, 320),
        (1, 640, 640),
        (1, 1920, 640),
        (2, 1280, 1280),
        (2, 2560, 1280),
        (3, 1280, 1280),
    ]:
        cin, cout = cin // scale, cout // scale
        for share in backend.shares:
            mask = levels(share, size)[level]
            pixels, _, index = geo.extended(mask, geo.tap_pixels(mask, mask.shape))
            live, rows, k = len(index), 2 * len(index), 9 * cin
            what = f"{mask.shape[0]}^2 {cin}->{cout} {share:.0%} rows {rows}"
            if backend.case not in what:
                continue
            source = backend.random(2 * len(pixels), cin)
            weights = [backend.random(k // 64, cout, 64) for _ in range(copies(k * cout * 2) // scale + 1)]
            output, tables = backend.random(rows, cout), backend.place(geo.as_int32(index))
            p = conv_params(
                backend, live, len(pixels), tables, source, cin, 9, weights[0], cout, output, backend.workspace
            )
            launches = max(4, min(len(weights), 24))
            ours, detail, tried = best_of(backend, p, rows, weights, 9, la.CONV_TILES, launches)
            a, flat = backend.random(rows, k), [w.view(k, cout) for w in weights]
            out = torch.empty_like(output)
            peer = median_us(lambda j: torch.mm(a, flat[j % len(flat)], out=out), launches)
            report(
                "conv3x3",
                what,
                rows * k * cout,
                ours,
                peer,
                detail,
            )
            table[-1]["tried"] = tried


def bench_linear(backend, size, scale):
    for level, cin, cout, gated in [
        (0, 320, 320, 0),
        (0, 320, 2560, 1),
        (0, 1280, 320, 0),
        (1, 640, 640, 0),
        (1, 640, 5120, 1),
        (1, 2560, 640, 0),
        (2, 1280, 1280, 0),
        (2, 1280, 10240, 1),
        (2, 5120, 1280, 0),
    ]:
        cin, cout = cin // scale, cout // scale
        for share in backend.shares:
            live = int(levels(share, size)[level].sum())
            rows = 2 * live
            what = f"{cin}->{cout}{' geglu' if gated else ''} {share:.0%} rows {rows}"
            if backend.case not in what:
                continue
            source, output = backend.random(rows, cin), backend.random(rows, cout)
            weights = [backend.random(cin // 64, cout, 64) for _ in range(copies(cin * cout * 2) // scale + 1)]
            p = conv_params(
                backend,
                live,
                live,
                None,
                source,
                cin,
                1,
                weights[0],
                cout,
                output,
                backend.workspace,
                la.GEGLU if gated else 0,
            )
            p.epilogue.output_stride = cout // 2 if gated else cout
            launches = max(4, min(len(weights), 24))
            ours, detail, tried = best_of(backend, p, rows, weights, 1, la.CONV_TILES, launches)
            flat, out = [w.view(cin, cout) for w in weights], torch.empty_like(output)
            peer = median_us(lambda j: torch.mm(source, flat[j % len(flat)], out=out), launches)
            report(
                "linear",
                what,
                rows * cin * cout,
                ours,
                peer,
                detail,
            )
            table[-1]["tried"] = tried


def bench_attention(backend, size, scale):
    for level, heads, cross in [(0, 5, False), (1, 10, False), (2, 20, False), (0, 5, True)]:
        for share in backend.shares:
            mask = levels(share, size)[level]
            queries, keys, width = int(mask.sum()), 77 if cross else mask.size, heads * 64
            what = f"{'cross' if cross else 'self'} heads {heads} queries {queries} keys {keys} {share:.0%}"
            if backend.case not in what:
                continue
            q, output = backend.random(2 * queries, width), backend.random(2 * queries, width)
            kv, new = backend.random(2 * keys, 2 * width), backend.random(2 * queries, 2 * width)
            kept = backend.place(geo.as_int32((~mask.ravel()).nonzero()[0]))
            edit = not cross and share < 1  # as an edit step: active keys come from packed rows
            p = la.AttentionParams(
                query=la.at(q),
                key=la.at(kv),
                fresh_key=la.at(new),
                output=la.at(output),
                queries=la.count(queries),
                key_rows=la.rows(keys, kept if edit else None),
                keys=la.count(keys - queries if edit else keys),
                partial=backend.workspace.data_ptr(),
                query_stride=width,
                key_stride=2 * width,
                fresh_stride=2 * width,
                output_stride=width,
                value_offset=width,
                fresh_value_offset=width,
                fresh=la.count(queries if edit else 0),
                images=2,
                heads=heads,
                splits=1,
                scale_log2=0.125 * math.log2(math.e),
            )
            tried = {}
            for variant in la.ATTENTION_D64:
                kernel = "attention_wgmma" if "wgmma" in variant else "attention"
                if kernel == "attention_wgmma" and backend.architecture != "90a":
                    continue
                for splits in [1, 2, 3, 4, 6, 8]:
                    blocks = math.prod(la.attention_launch(variant, p, queries)[0][:2])
                    if splits * 2 * queries * heads * 66 > backend.workspace_floats or (
                        splits > 1 and (blocks * splits > 800 or splits * 128 > keys)
                    ):
                        continue
                    p.splits = splits
                    grid, threads, shared = la.attention_launch(variant, p, queries)

                    def once(j):
                        backend.launch(kernel, f"attention_{variant}", grid, threads, shared, p, backend.overlap)
                        if splits > 1:
                            backend.launch(
                                "attention",
                                "attention_combine_d64",
                                (-(-2 * queries * heads // 4), 1, 1),
                                128,
                                0,
                                p,
                                backend.overlap,
                            )

                    tried[f"{variant}/{splits}"] = round(median_us(once, 12), 2)
                p.splits = 1
            for variant in la.ATTENTION_STREAM if backend.architecture == "90a" else []:
                for blocks in [132, 66]:
                    grid, threads, shared = la.stream_attention_launch(variant, blocks)

                    def stream(j):
                        backend.launch(
                            "attention_stream", f"attention_{variant}", grid, threads, shared, p, backend.overlap
                        )

                    tried[f"{variant}/{blocks}"] = round(median_us(stream, 12), 2)
            detail = min(tried, key=tried.get)

            def heads_first(t, offset=0):
                return (
                    t.view(2, -1, t.shape[1])[:, :, offset : offset + width].unflatten(2, (heads, 64)).transpose(1, 2)
                )

            hq, hk, hv = heads_first(q), heads_first(kv), heads_first(kv, width)
            peer = median_us(lambda j: F.scaled_dot_product_attention(hq, hk, hv), 12)
            report(
                "attention",
                what,
                4 * queries * keys * width,
                tried[detail],
                peer,
                detail,
            )
            table[-1]["tried"] = tried


def bench_pointwise(backend, size, scale):
    mask = levels(0.05, size)[0]
    pixels, active, _ = geo.extended(mask, geo.tap_pixels(mask, mask.shape))
    live, channels = active, 320
    packed, cached, output = (
        backend.random(2 * live, channels),
        backend.random(2 * mask.size, channels),
        backend.random(2 * len(pixels), channels),
    )
    affine, ring = backend.random(2, 2, channels).float(), backend.place(geo.as_int32(pixels[active:]))
    same = dict(
        images=2,
        channels=channels,
        source_stride=channels,
        output_stride=channels,
        affine_channels=channels,
        flags=1,
        addend=la.at(None),
        affine=la.at(affine),
    )
    jobs = (la.MoveJob * 2)(
        la.MoveJob(
            source=la.at(packed), output=la.at(output), output_rows=la.rows(len(pixels)), rows=la.count(live), **same
        ),
        la.MoveJob(
            source=la.at(cached),
            output=la.at(output),
            source_rows=la.rows(mask.size, ring),
            output_rows=la.rows(len(pixels)),
            output_first=la.count(live),
            rows=la.count(len(pixels) - live),
            **same,
        ),
    )
    jobs = backend.place(torch.frombuffer(bytearray(bytes(jobs)), dtype=torch.uint8).clone())
    move = la.MoveParams(jobs=jobs.data_ptr())
    gamma = backend.random(channels)
    norm = la.LayerNormParams(
        source=la.at(packed),
        output=la.at(output),
        gamma=gamma.data_ptr(),
        beta=gamma.data_ptr(),
        live=la.count(live),
        images=2,
        channels=channels,
        source_stride=channels,
        output_stride=channels,
        epsilon=1e-5,
    )
    empty = backend.place(torch.zeros(4, dtype=torch.int64))
    advance = la.AdvanceParams(
        all_slots=empty.data_ptr(),
        slots=empty.data_ptr(),
        next=empty.data_ptr() + 16,
        step=empty.data_ptr() + 24,
        slot_count=0,
        steps=0,
    )
    partial = backend.workspace
    statistics_in, whole_out = backend.random(2 * mask.size, channels), backend.random(2 * mask.size, channels)
    sums = la.SumParams(
        source=(la.Address * 2)(la.at(statistics_in), la.at(None)),
        channels=(la.i32 * 2)(channels, 0),
        source_stride=(la.i32 * 2)(channels, 0),
        source_rows=la.rows(mask.size),
        rows=la.count(mask.size),
        partial=partial.data_ptr(),
    )
    stats = la.StatisticsParams(
        added=partial.data_ptr(),
        recorded=la.at(None),
        statistics=la.at(None),
        affine=la.at(affine),
        gamma=gamma.data_ptr(),
        beta=gamma.data_ptr(),
        rows=la.count(mask.size),
        channels=channels,
        groups=32,
        added_chunks=72,
        epsilon=1e-5,
    )
    whole_map = la.MoveJob(
        source=la.at(statistics_in), output=la.at(whole_out), rows=la.count(mask.size), **same
    )
    whole_map = backend.place(torch.frombuffer(bytearray(bytes(whole_map)), dtype=torch.uint8).clone())
    whole = la.MoveParams(jobs=whole_map.data_ptr())
    cases = {
        **{
            f"move_rows norm 96^2x320 dense, {blocks} blocks": [("move_rows", "move_rows", (blocks, 1, 1), 256, 0, whole)]
            for blocks in [132, 528, 1056, 2880]
        },
        **{
            f"group_norm_sums 96^2x320 dense, {chunks} chunks": [
                ("group_norm", "group_norm_sums", (chunks, 2, 1), 256, 0, sums)
            ]
            for chunks in [72, 144]
        },
        "move_rows active+ring 96^2x320 5%": [("move_rows", "move_rows", (132, 2, 1), 256, 0, move)],
        "layer_norm 96^2x320 5%": [("layer_norm", "layer_norm", (-(-2 * live // 4), 1, 1), 128, 0, norm)],
        "group_norm 96^2x320 dense, both kernels": [
            ("group_norm", "group_norm_sums", (72, 2, 1), 256, 0, sums),
            ("group_norm", "group_norm_statistics", (32, 2, 1), 128, 0, stats),
        ],
        "advance_step, nothing to copy": [("advance_step", "advance_step", (1, 1, 1), 256, 0, advance)],
    }
    for name, launches in cases.items():
        us = {}
        for overlap in [False, True]:
            us[overlap] = median_us(lambda j: [backend.launch(*one, overlap) for one in launches], 48)
        report("pointwise", name, 0, us[True], us[False], "peer = the same without programmatic dependent launch")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cubins", default="target/cubins")
    parser.add_argument("--json")
    parser.add_argument("--only", nargs="+", default=["pointwise", "conv", "linear", "attention"])
    parser.add_argument("--shares", nargs="+", type=float, default=SHARES)
    parser.add_argument("--case", default="", help="cases whose name holds this")
    parser.add_argument("--no-overlap", action="store_true", help="without programmatic dependent launch")
    parser.add_argument(
        "--emulate", action="store_true", help="run every launch once, small, without a GPU: checks this script only"
    )
    args = parser.parse_args()
    backend = la.Emulated(args.cubins) if args.emulate else la.Device(args.cubins)
    size, scale = (8, 5) if args.emulate else (96, 1)
    backend.overlap, backend.shares, backend.case = not args.no_overlap, args.shares, args.case
    backend.workspace_floats = 1 << (22 if args.emulate else 26)
    backend.workspace = backend.place(torch.zeros(backend.workspace_floats))
    backend.random = lambda *shape: backend.place(torch.randn(shape, device="cpu" if args.emulate else "cuda").half())
    backend.bias, backend.residual = backend.random(20480), backend.random(2 * size * size, 640)
    for group in args.only:
        globals()[f"bench_{group}"](backend, size, scale)
        if args.json:
            json.dump(table, open(args.json, "w"), indent=1)


if __name__ == "__main__":
    main()
