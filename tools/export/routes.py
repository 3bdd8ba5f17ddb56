"""One small U-Net as many exporters and tools spell it, each with inputs and reference outputs.

    python routes.py OUT [--only SUBSTRING …] [--newest]

OUT/<route>/ gets model.onnx (and external data) and io.npz: in_<name>, out_<name> as torch computes them in f32 from
the route's weights; dynamic routes get other sizes than they were traced with. Channels (8,16,32,32), groups 4, heads
of 8, context 24, two layers per block, norms and biases random. Prints what ONNX Runtime on a CPU makes of each file;
1e-2 where weights are int8, 3e-3 where they are f16. Needs onnxslim, onnxsim.

`--newest` makes those routes that tell exporters apart, without tools behind them, into OUT/torch<version>_<route>/: run it
in an environment of requirements-newest.txt.
"""

import argparse
import copy
import logging
import traceback
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextConfig, CLIPTextModel

import reshapers
from components import text_encoder_component, unet_component, vae_components
from exporters import dynamo, torchscript
from nano import TEXT, UNET, VAE, perturb

SMALL_UNET = UNET | dict(layers_per_block=2)
SD1 = dict(use_linear_projection=False, attention_head_dim=2)
# The exporters' own spellings: what changes with a new release of torch or transformers shows in these.
NEWEST = (
    "ts17_static",
    "ts17_dyn",
    "dynamo20_static",
    "dynamo18_dyn",
    "dynamo23_dyn",
    "text_encoder_ts17_dyn",
    "text_encoder_dynamo18_static",
    "text_encoder_dynamo18_dyn",
    "vae_decoder_dynamo18_dyn",
    "vae_encoder_dynamo18_dyn",
)
ODD = (13, 18)  # neither can be halved three times
TIMESTEPS = {
    "scalar": torch.tensor(501.0),
    "batch": torch.tensor([501, 501]),
    "one": torch.tensor([501.0]),
}


@dataclass
class Route:
    """How one file is made. `reshape` rewrites the exporter's file in place."""

    export: callable = torchscript
    opset: int | None = 17
    dynamic: bool = True
    dtype: torch.dtype = torch.float32
    timestep: str = "scalar"
    eager: bool = False
    config: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)
    reshape: callable = None
    part: str = "unet"
    traced: int = 16
    size: tuple = None  # rows and columns of the reference latents, where not the usual ones


def routes():
    """Every route by name."""
    half = torch.float16
    found = {}
    for opset in (14, 15, 16, 17, 18, 20):
        found[f"ts{opset}_static"] = Route(opset=opset, dynamic=False, timestep="batch")
        found[f"ts{opset}_dyn"] = Route(opset=opset, timestep="batch" if opset < 18 else "scalar")
    found |= {
        "ts17_fp16_static": Route(dtype=half, dynamic=False, timestep="batch"),
        "ts17_fp16_dyn": Route(dtype=half),
        "ts14_fp16_dyn": Route(opset=14, dtype=half),
        "ts17_eager_static": Route(eager=True, dynamic=False, timestep="batch"),
        "ts17_eager_dyn": Route(eager=True),
        "ts17_fp16_eager_dyn": Route(eager=True, dtype=half),
        "ts17_fp16_eager_upcast_dyn": Route(eager=True, dtype=half, config=dict(upcast_attention=True)),
        "ts17_nofold_dyn": Route(options=dict(do_constant_folding=False)),
        "ts17_timestep_one_dyn": Route(timestep="one"),
        "ts17_conv_projection_dyn": Route(config=dict(use_linear_projection=False)),
        "ts17_weights_pb_dyn": Route(reshape=reshapers.one_external_file),
        "ts17_per_tensor_dyn": Route(reshape=reshapers.file_per_tensor),
        "ts17_int8_dyn": Route(reshape=reshapers.int8_weights),
        "onnxslim_static": Route(dynamic=False, timestep="batch", reshape=reshapers.onnxslim),
        "onnxslim_dyn": Route(reshape=reshapers.onnxslim),
        "onnxslim_fp16_dyn": Route(dtype=half, reshape=reshapers.onnxslim),
        "onnxsim_static": Route(dynamic=False, timestep="batch", reshape=reshapers.onnxsim),
        "onnxsim_dyn": Route(reshape=reshapers.onnxsim),
        "ort_static": Route(dynamic=False, timestep="batch", reshape=reshapers.ort_optimized),
        "ort_dyn": Route(reshape=reshapers.ort_optimized),
        "ort_fp16_dyn": Route(reshape=reshapers.ort_optimized_fp16),
        "ort_fp16_unpacked_dyn": Route(reshape=reshapers.ort_optimized_fp16_unpacked),
        "ort_session_static": Route(dynamic=False, timestep="batch", reshape=reshapers.ort_session_basic),
        "ort_session_extended_static": Route(
            dynamic=False, timestep="batch", reshape=reshapers.ort_session_extended
        ),
        "ort_session_extended_dyn": Route(reshape=reshapers.ort_session_extended),
        "dynamo20_static": Route(dynamo, None, False, timestep="batch"),
        "dynamo18_static": Route(dynamo, 18, False, timestep="batch"),
        "dynamo18_dyn": Route(dynamo, 18, timestep="batch"),
        "dynamo20_dyn": Route(dynamo, 20),
        "dynamo21_dyn": Route(dynamo, 21, timestep="batch"),
        "dynamo23_dyn": Route(dynamo, 23, timestep="batch"),
        "dynamo18_fp16_dyn": Route(dynamo, 18, dtype=half, timestep="batch"),
        "dynamo23_fp16_static": Route(dynamo, 23, False, dtype=half, timestep="batch"),
        "dynamo18_eager_dyn": Route(dynamo, 18, timestep="batch", eager=True),
        "dynamo18_noopt_static": Route(dynamo, 18, False, timestep="batch", options=dict(optimize=False)),
        "dynamo18_noopt_dyn": Route(dynamo, 18, timestep="batch", options=dict(optimize=False)),
        "sd1_ts14_dyn": Route(opset=14, config=SD1),
        "sd1_ts17_fp16_static": Route(dtype=half, dynamic=False, timestep="batch", config=SD1),
        "sd1_dynamo18_dyn": Route(dynamo, 18, timestep="batch", config=SD1),
        "sd1_ort_fp16_dyn": Route(config=SD1, reshape=reshapers.ort_optimized_fp16),
        "odd_ts14_dyn": Route(opset=14, size=ODD),
        "odd_ts17_fp16_dyn": Route(dtype=half, size=ODD),
        "odd_sd1_ts17_dyn": Route(config=SD1, size=ODD),
        "odd_onnxslim_dyn": Route(reshape=reshapers.onnxslim, size=ODD),
        "odd_ort_dyn": Route(reshape=reshapers.ort_optimized, size=ODD),
        "odd_dynamo18_dyn": Route(dynamo, 18, timestep="batch", size=ODD),
        "odd_traced_ts17_dyn": Route(traced=13, size=(9, 15)),
        "odd_traced_ts17_static": Route(traced=13, dynamic=False, timestep="batch"),
        "odd_traced_dynamo18_static": Route(dynamo, 18, False, timestep="batch", traced=13),
        "ts19_dyn": Route(opset=19),
        "dynamo22_dyn": Route(dynamo, 22, timestep="batch"),
        "dynamo18_sim_dyn": Route(dynamo, 18, timestep="batch", reshape=reshapers.onnxsim),
        "dynamo18_ort_dyn": Route(dynamo, 18, timestep="batch", reshape=reshapers.ort_optimized),
        "dynamo18_slim_dyn": Route(dynamo, 18, timestep="batch", reshape=reshapers.onnxslim),
    }
    for part in ("text_encoder", "vae_decoder", "vae_encoder"):
        found[f"{part}_ts14_dyn"] = Route(opset=14, part=part)
        found[f"{part}_ts17_static"] = Route(dynamic=False, part=part)
        found[f"{part}_ts17_dyn"] = Route(part=part)
        found[f"{part}_dynamo18_static"] = Route(dynamo, 18, False, part=part)
        found[f"{part}_dynamo18_dyn"] = Route(dynamo, 18, part=part)
    return found


def build(route):
    """The component that a route exports: seeded weights of the route's type."""
    torch.manual_seed(0)
    if route.part == "text_encoder":
        text = CLIPTextConfig(vocab_size=231, max_position_embeddings=77, bos_token_id=1, eos_token_id=2, **TEXT)
        return text_encoder_component(perturb(CLIPTextModel(text)))
    if route.part.startswith("vae"):
        return next(c for c in vae_components(perturb(AutoencoderKL(**VAE))) if c.folder == route.part)
    unet = perturb(UNet2DConditionModel(**SMALL_UNET | route.config)).to(route.dtype)
    if route.eager:
        unet.set_attn_processor(AttnProcessor())
    component = unet_component(unet, latents=route.traced)
    component.inputs["timestep"] = TIMESTEPS[route.timestep]
    if route.timestep == "batch":
        component.axes["timestep"] = {0: "batch_size"}
    return component


def draw_inputs(component, route):
    """Random inputs: the traced sizes, or for dynamic routes wider images and 3 times the batch."""
    generator, inputs = torch.Generator().manual_seed(1), {}
    for name, example in component.inputs.items():
        shape = list(example.shape)
        if route.dynamic and route.timestep != "one":
            shape[:1] = [3 * n for n in shape[:1]]
        if route.dynamic and len(shape) == 4:
            shape[2:] = route.size or [shape[2], shape[3] + shape[3] // 2]
        if name == "timestep":
            inputs[name] = example.flatten()[0].expand(shape).clone()
        elif name == "input_ids":
            inputs[name] = torch.randint(3, 200, shape, generator=generator)
        else:
            inputs[name] = torch.randn(shape, generator=generator)
    return inputs


@torch.no_grad()
def references(component, inputs, dtype):
    """Outputs in f32 of the weights as they are (f16 weights widened, inputs rounded to f16)."""
    module = copy.deepcopy(component.module).float()
    rounded = [x.to(dtype).float() if x.is_floating_point() and x.dim() > 1 else x for x in inputs.values()]
    out = module(*rounded)
    return dict(zip(component.outputs, out if isinstance(out, tuple) else (out,)))


def write_io(path, model, inputs, outputs):
    """io.npz, in the types that the file's inputs ask for."""
    wanted = {i.name: onnx.helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type) for i in model.graph.input}
    arrays = {f"in_{n}": x.numpy().astype(wanted.get(n, x.numpy().dtype)) for n, x in inputs.items()}
    np.savez_compressed(path, **arrays, **{f"out_{n}": x.numpy() for n, x in outputs.items()})
    return arrays


def judge(folder, arrays, outputs):
    """The largest error of ONNX Runtime on a CPU, or why it does not run the file."""
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    try:
        session = ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
        feeds = {i.name: arrays[f"in_{i.name}"] for i in session.get_inputs()}
        got = dict(zip((o.name for o in session.get_outputs()), session.run(None, feeds)))
    except Exception as error:
        return f"not run: {str(error).splitlines()[0][:120]}"
    return f"max error {max(np.abs(got[n] - x.numpy()).max() for n, x in outputs.items()):.1e}"


def make(folder, route):
    """Exports, rewrites, records; returns one line."""
    folder.mkdir(parents=True, exist_ok=True)
    component = build(route)
    route.export(component, folder / "model.onnx", route.opset, route.dynamic, **route.options)
    if route.reshape:
        route.reshape(folder / "model.onnx")
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    inputs = draw_inputs(component, route)
    outputs = references(component, inputs, route.dtype)
    arrays = write_io(folder / "io.npz", model, inputs, outputs)
    return f"{folder.name:28} {len(model.graph.node):5} nodes  {judge(folder, arrays, outputs)}"


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("out", type=Path)
    args.add_argument("--only", nargs="+", default=[""])
    args.add_argument("--newest", action="store_true")
    args = args.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    prefix = f"torch{'.'.join(torch.__version__.split('.')[:2])}_" if args.newest else ""
    for name, route in routes().items():
        if not any(part in name for part in args.only) or (args.newest and name not in NEWEST):
            continue
        try:
            print(make(args.out / f"{prefix}{name}", route), flush=True)
        except Exception as error:
            traceback.print_exc(limit=-2)
            print(f"{name:28} not exported: {str(error).splitlines()[0][:160]}", flush=True)


if __name__ == "__main__":
    main()
