"""Networks of a folder that `../export` wrote, back in torch: the weights that its packed ONNX graphs compute with."""

import os
import sys
from pathlib import Path

import onnx
import torch

sys.path.append(str(Path(__file__).resolve().parent.parent / "export"))
from onnx_weights import parameters  # noqa: E402


def is_export(folder):
    return os.path.exists(f"{folder}/unet/model.onnx")


def fill(module, folder, *parts):
    """Every parameter of `module` from FOLDER/PART/model.onnx, each part holding some."""
    shapes, found = {name: value.shape for name, value in module.state_dict().items()}, {}
    for part in parts:
        found |= parameters(onnx.load(f"{folder}/{part}/model.onnx").graph, shapes)
    module.load_state_dict({name: torch.from_numpy(array) for name, array in found.items()})
