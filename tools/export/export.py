"""Exports a diffusers Stable Diffusion pipeline as an ONNX folder.

    python export.py PIPELINE OUT [--weights int8|fp16|fp32] [--opset 17]

OUT gets model_index.json, scheduler/, tokenizer/, and unet/, text_encoder/, vae_decoder/, vae_encoder/, each with
model.onnx (weights inside) and config.json. Graphs come from the TorchScript exporter with scaled dot-product
attention; batch, height, width and sequence are dynamic; inputs, outputs and arithmetic are f32 whatever the weights
are stored as.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import onnx
import torch
from diffusers import StableDiffusionPipeline

from components import pipeline_components
from exporters import torchscript
from onnx_graph import share_equal_nodes, without_strings
from onnx_weights import MIN_ELEMENTS, pack, restore_torch_names


def export_component(component, out, weights, opset=17, min_elements=MIN_ELEMENTS):
    """Writes OUT/<folder>/{model.onnx, config.json}; returns one line about it."""
    folder = out / component.folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        traced = Path(scratch) / "model.onnx"
        torchscript(component, traced, opset)
        model = without_strings(onnx.load(traced))
    share_equal_nodes(model.graph)
    restore_torch_names(model.graph, component.owner.state_dict(), component.prefix)
    errors = pack(model.graph, weights, min_elements)
    onnx.checker.check_model(model)
    onnx.save(model, folder / "model.onnx")
    write_json(folder / "config.json", component.config)
    size, worst = (folder / "model.onnx").stat().st_size, max(errors.values(), default=0.0)
    return (
        f"{component.folder:13} {size / 2**20:7.2f} MiB  {len(errors)} packed, worst relative weight error {worst:.4f}"
    )


def write_json(path, value):
    private = ("_name_or_path", "_attn_implementation_autoset")
    kept = {k: v for k, v in value.items() if k not in private}
    path.write_text(json.dumps(kept, indent=2, sort_keys=True, default=str) + "\n")


def copy_neighbours(pipeline, out):
    """Tokenizer, scheduler and index, as the pipeline folder has them."""
    for folder in ("tokenizer", "scheduler"):
        (out / folder).mkdir(parents=True, exist_ok=True)
        for file in (pipeline / folder).iterdir():
            shutil.copyfile(file, out / folder / file.name)
    write_json(out / "model_index.json", json.loads((pipeline / "model_index.json").read_text()))


def export_pipeline(pipeline, out, weights, opset=17, min_elements=MIN_ELEMENTS):
    """Exports the diffusers folder `pipeline` to the ONNX folder `out`."""
    pipe = StableDiffusionPipeline.from_pretrained(pipeline, torch_dtype=torch.float32, safety_checker=None)
    copy_neighbours(pipeline, out)
    for component in pipeline_components(pipe):
        print(export_component(component, out, weights, opset, min_elements))


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("pipeline", type=Path)
    args.add_argument("out", type=Path)
    args.add_argument("--weights", choices=("int8", "fp16", "fp32"), default="int8")
    args.add_argument("--opset", type=int, default=17)
    args = args.parse_args()
    export_pipeline(args.pipeline, args.out, args.weights, args.opset)


if __name__ == "__main__":
    main()
