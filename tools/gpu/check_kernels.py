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
import sys
import time

import launch as la
from cases.attention import attention_case, attention_extremes, causal_case, control_case
from cases.bench import Bench, results
from cases.conv import conv_case, linear_case, norm_case, parts_case
from cases.parity import parity_case
from cases.pointwise import geglu_case, group_norm_case, latent_case, layer_norm_case, move_case, whole_norm_case


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
    parity_case(b, "sparse_conv_64x64", 12, [72, 40], 72, 64, share=0.6)
    parity_case(b, "sparse_conv_64x160", 2, [64], 168, 128, share=0.2, splits=2)
    linear_case(b, "sparse_conv_64x64", 33, 72, 40)
    linear_case(b, "sparse_conv_64x160", 33, 128, 80, splits=2)
    linear_case(b, "sparse_conv_64x64", 33, 328, 40, splits=4)
    norm_case(b, "sparse_conv_64x64", 33, 96, 64, splits=2)
    norm_case(b, "sparse_conv_64x160", 33, 64, 96, gated=True)
    parts_case(b, "sparse_conv_64x64", 33, 96, 40, splits=2)
    if b.backend.architecture == "90a":
        conv_case(b, "sparse_conv_wgmma_128x160", 14, [64], 320, share=0.4)
        conv_case(b, "sparse_conv_wgmma_128x160", 9, [72, 40], 168, share=0.5, splits=2)
        linear_case(b, "sparse_conv_wgmma_64x160", 70, 328, 80)
        norm_case(b, "sparse_conv_wgmma_64x160", 37, 320, 480)
        norm_case(b, "sparse_conv_wgmma_128x160", 70, 320, 160, gated=True)
        norm_case(b, "sparse_conv_wgmma_64x160", 37, 320, 160, splits=2, gated=True)
        norm_case(b, "sparse_conv_stream_64x160", 70, 320, 160, gated=True, blocks=5)
        parts_case(b, "sparse_conv_wgmma_64x160", 37, 72, 96)
        conv_case(b, "sparse_conv_wgmma_192x160", 18, [64], 168, share=0.5)
        conv_case(b, "sparse_conv_stream_192x160", 18, [64], 168, share=0.7, blocks=5)
        conv_case(b, "sparse_conv_stream_128x160", 9, [72, 40], 168, share=0.5, blocks=7)
        parity_case(b, "sparse_conv_wgmma_64x160", 12, [64], 168, 64)
        parity_case(b, "sparse_conv_wgmma_128x160", 9 * 2, [72], 168, 128, splits=2)
        parity_case(b, "sparse_conv_stream_192x160", 28, [64], 168, 192, share=1.0, blocks=7)
        linear_case(b, "sparse_conv_stream_192x160", 150, 72, 168, blocks=3)
        linear_case(b, "sparse_conv_stream_128x160", 33, 328, 40, blocks=9)
        conv_case(b, "sparse_conv_stream_64x160", 9, [72, 40], 168, share=0.9, blocks=7)
        linear_case(b, "sparse_conv_stream_64x160", 70, 72, 168, blocks=9)
        attention_case(b, "d64_wgmma_narrow", 37, 77, 2, room=4)
        attention_case(b, "d64_wgmma_narrow", 70, 600, 1, splits=3)
        attention_case(b, "d64_wgmma_narrow", 90, 256, 2, splits=2, fresh=90)
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
    for variant in la.ATTENTION_WIDE:
        attention_case(b, variant, 70, 100, 1)
        attention_case(b, variant, 37, 300, 1, splits=3, fresh=40)
    causal_case(b, 77, 2, 64)
    causal_case(b, 13, 3, 40)
    control_case(b, 8, 20, 5, 2)
    control_case(b, 40, 65, 77, 1, images=3)
    control_case(b, 160, 70, 80, 1, images=1)
    pointwise(b)


def pointwise(b):
    attention_extremes(b)
    move_case(b, 16, 72)
    group_norm_case(b, 100, [64])
    group_norm_case(b, 150, [128, 64], updated=True)
    group_norm_case(b, 70, [1280, 1280])
    whole_norm_case(b, 70, [64], 1, groups=4)
    whole_norm_case(b, 150, [64, 32], 4)
    whole_norm_case(b, 33, [640], 8, silu=False)
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
        parity_case(b, entry, 48, [1280], 1280, la.CONV_TILES[entry][0], share=0.15, splits=2)
        conv_case(b, entry, 24, [1280, 1280], 1280, share=0.1, splits=13)
        conv_case(b, entry, 48, [1280, 640], 640, share=0.2, kernel=1)
        conv_case(b, entry, 96, [8], 320, share=1.0)
        conv_case(b, entry, 96, [320], 8, share=0.3)
        conv_case(b, entry, 37, [72, 40], 136, share=0.4, splits=2, images=1)
        linear_case(b, entry, 480, 320, 1280)
        linear_case(b, entry, 57, 1280, 5120, splits=2)
        norm_case(b, entry, 461, 320, 960)
        norm_case(b, entry, 9216, 320, 960)
        norm_case(b, entry, 128, 640, 640, splits=3)
        norm_case(b, entry, 39, 1280, 1280, splits=3)
        norm_case(b, entry, 39, 1280, 5120, gated=True)
        norm_case(b, entry, 461, 320, 1280, splits=2, gated=True)
        parts_case(b, entry, 461, 320, 320)
        parts_case(b, entry, 461, 640, 640, splits=2)
    for entry in la.CONV_STREAM if b.backend.architecture == "90a" else []:
        for blocks in [132, 47]:
            conv_case(b, entry, 96, [640, 320], 320, share=0.15, blocks=blocks)
            conv_case(b, entry, 96, [320], 320, share=1.0, blocks=blocks)
            conv_case(b, entry, 48, [640], 640, share=0.3, stride=2, blocks=blocks)
            conv_case(b, entry, 48, [1280], 1280, share=0.15, upsample=2, blocks=blocks)
            parity_case(b, entry, 48, [1280], 1280, la.CONV_STREAM[entry][0], share=0.15, blocks=blocks)
            conv_case(b, entry, 37, [72, 40], 136, share=0.4, images=1, blocks=blocks)
            linear_case(b, entry, 480, 320, 1280, blocks=blocks)
            linear_case(b, entry, 4608, 320, 1280, blocks=blocks)
            linear_case(b, entry, 57, 1280, 5120, blocks=blocks)
            norm_case(b, entry, 461, 320, 1280, gated=True, blocks=blocks)
            norm_case(b, entry, 576, 1280, 5120, gated=True, blocks=blocks)
    hopper = ["d64_wgmma_narrow"] if b.backend.architecture == "90a" else []
    for variant in ["d8", "d16", "d24", "d32", "d40", "d48", "d64", "d64_wide", "d80", "d96", "d128", "d160", *hopper]:
        attention_case(b, variant, 461, 1000, 3, splits=1)
        attention_case(b, variant, 100, 9216, 2, splits=4, room=5)
        attention_case(b, variant, 461, 2304, 2, splits=2, fresh=461)
        attention_case(b, variant, 461, 77, 5)
    for dim, queries, heads in [(64, 9216, 5), (64, 144, 20), (40, 4096, 8), (160, 256, 8)]:
        control_case(b, dim, queries, 77, heads)
    for variant in la.ATTENTION_WIDE:
        if variant == "wide_d512" and b.backend.architecture == "80":
            continue  # its tiles take more shared memory than there is
        attention_case(b, variant, 9216, 9216, 1, splits=6, images=1)
        attention_case(b, variant, 461, 2304, 2, fresh=461)
    causal_case(b, 77, 16, 64, images=1)
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
    for total, channels, blocks in [(9216, [320], 8), (9216, [640, 320], 8), (2304, [1280, 640], 4), (576, [1280, 1280], 2), (144, [2560], 1)]:
        whole_norm_case(b, total, channels, blocks)
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
