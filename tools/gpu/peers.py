#!/usr/bin/env python3
"""Times Stable Diffusion 2's U-Net in diffusers, to stand beside `fisec bench` of the same run.

Random weights in SD2's exact configuration, f16, guidance batch 2. Three ways: eager, eager replayed as one CUDA graph
(channels last), and torch.compile in mode reduce-overhead. With --image also a whole image: text encoder, steps, VAE.

    python3 peers.py --size 768 --json peers-768.json

Compiling takes a minute or more of CPU; the GPU is touched in turns where several processes name one --lock file.
Needs torch with CUDA and diffusers (a wheel is enough).
"""

import argparse
import contextlib
import fcntl
import json
import statistics
import time

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

UNET = dict(
    sample_size=96, in_channels=4, out_channels=4, cross_attention_dim=1024, attention_head_dim=[5, 10, 20, 20],
    use_linear_projection=True, block_out_channels=(320, 640, 1280, 1280), layers_per_block=2,
    down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
)  # fmt: skip
VAE = dict(
    block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, norm_num_groups=32,
    down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
)  # fmt: skip
TEXT = dict(
    vocab_size=49408, hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16,
    max_position_embeddings=77, hidden_act="gelu",
)  # fmt: skip
TOKENS, WIDTH, STEPS = 77, 1024, 50


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=768, help="pixels of a side")
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--ways", nargs="+", default=["eager", "graph", "compile"])
    parser.add_argument("--image", action="store_true", help="also a whole image with the last way")
    parser.add_argument("--json", help="where the figures go")
    parser.add_argument("--lock", help="file that whoever measures on this GPU holds")
    return parser.parse_args()


def on_gpu(module):
    return module.half().cuda().eval().to(memory_format=torch.channels_last)


@contextlib.contextmanager
def turn(path):
    if path is None:
        yield
        return
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def times(call, runs):
    """Milliseconds of single calls, by events."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    found = []
    for _ in range(runs):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end))
    return dict(median=statistics.median(found), fastest=min(found), slowest=max(found), runs=runs)


def graphed(call):
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def image(unet, size, guidance=7.5):
    """Words to pixels: the text encoder is left out (a fixed embedding), which favours this side."""
    vae = on_gpu(AutoencoderKL(**VAE))
    scheduler = DDIMScheduler(prediction_type="v_prediction", beta_schedule="scaled_linear")
    scheduler.set_timesteps(STEPS)
    steps = [torch.tensor(int(step), device="cuda") for step in scheduler.timesteps]
    context = torch.randn(2, TOKENS, WIDTH, device="cuda").half()

    def make():
        latents = torch.randn(1, 4, size // 8, size // 8, device="cuda").half()
        for at, step in enumerate(steps):
            pair = torch.cat([latents, latents]).to(memory_format=torch.channels_last)
            without, with_words = unet(pair, step, context)[0].chunk(2)
            prediction = without + guidance * (with_words - without)
            latents = scheduler.step(prediction, int(scheduler.timesteps[at]), latents).prev_sample
        return vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0].float().cpu()

    make()
    found = []
    for _ in range(3):
        started = time.perf_counter()
        make()
        found.append((time.perf_counter() - started) * 1e3)
    return dict(median=statistics.median(found), fastest=min(found), slowest=max(found), steps=STEPS)


@torch.inference_mode()
def main():
    options = arguments()
    torch.manual_seed(0)
    unet = on_gpu(UNet2DConditionModel(**UNET))
    side = options.size // 8
    sample = torch.randn(2, 4, side, side, device="cuda").half().to(memory_format=torch.channels_last)
    context, step = torch.randn(2, TOKENS, WIDTH, device="cuda").half(), torch.tensor(500, device="cuda")
    compiled = torch.compile(unet, mode="reduce-overhead", dynamic=False)

    def ways(name):
        if name == "compile":
            return lambda: compiled(sample, step, context, return_dict=False)[0]
        eager = lambda: unet(sample, step, context, return_dict=False)[0]  # noqa: E731
        return graphed(eager) if name == "graph" else eager

    result = dict(
        size=options.size, gpu=torch.cuda.get_device_name(), torch=torch.__version__, dtype="float16", batch=2, ways={}
    )
    for name in options.ways:
        call = ways(name)
        if name == "compile":  # compiling needs no turn
            for _ in range(3):
                call()
        with turn(options.lock):
            torch.cuda.reset_peak_memory_stats()
            result["ways"][name] = times(call, options.runs)
            result["ways"][name]["peak_bytes"] = torch.cuda.max_memory_allocated()
            free, total = torch.cuda.mem_get_info()  # what fisec bench prints: allocations, caches and the context
            result["ways"][name]["in_use_bytes"] = total - free
            torch.cuda.empty_cache()
        figure = result["ways"][name]
        print(
            f"{options.size} {name}: {figure['median']:.2f} ms ({figure['fastest']:.2f}-{figure['slowest']:.2f})",
            flush=True,
        )
    if options.image:
        with turn(options.lock):
            unet_call = compiled if options.ways[-1] == "compile" else unet
            result["image"] = image(lambda *given: unet_call(*given, return_dict=False), options.size)
        print(f"{options.size} image of {STEPS} steps: {result['image']['median']:.0f} ms", flush=True)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
