#!/usr/bin/env python3
"""Takes the weights out of an exported network, so that it can travel, and writes how to make random ones in their place.

    structure.py unet/model.onnx OUT          (or text_encoder, vae_decoder, vae_encoder)

OUT gets model.onnx (a few hundred KiB: large initializers point into weights.bin, which is not written) and
weights.json: per tensor its place in weights.bin, its distribution, and the parameter of the PyTorch module that it is.
`fill_weights.py OUT` makes weights.bin on the other machine.
"""

import json
import pathlib
import sys

import numpy as np
import onnx
from onnx import TensorProto

SMALLEST = 3  # elements: scalars stay inline
TYPES = {TensorProto.FLOAT: np.float32, TensorProto.FLOAT16: np.float16}


def without_wrapper(name):
    """A name without what tools/export/components.py puts before it."""
    for prefix in ("unet.", "vae.", "text_encoder."):
        name = name.removeprefix(prefix)
    return name


def parameter(name, uses):
    """(PyTorch name, transposed) of an initializer; anonymous ones are named by the product that reads them."""
    if not name.startswith("onnx::"):
        return without_wrapper(name), False
    node = uses[name]
    module = without_wrapper(node.name.removeprefix("/").rsplit("/", 1)[0].replace("/", "."))
    return module + (".bias" if node.op_type == "Add" else ".weight"), node.op_type == "MatMul"


def spread(name, shape, transposed):
    """Mean and half width: products keep their magnitude, norms stay near one, biases small."""
    if max(shape) == int(np.prod(shape)):
        return (1.0, 0.1) if "norm" in name and name.endswith("weight") else (0.0, 0.05)
    fan_in = shape[0] if transposed else int(np.prod(shape[1:]))
    return 0.0, float((1.5 / fan_in) ** 0.5)


def main():
    source, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    model = onnx.load(source)
    uses = {name: node for node in model.graph.node for name in node.input}
    offset, tensors = 0, []
    for tensor in model.graph.initializer:
        raw = onnx.numpy_helper.to_array(tensor)
        if raw.size < SMALLEST or tensor.data_type not in TYPES:
            continue
        name, transposed = parameter(tensor.name, uses)
        mean, width = spread(name, raw.shape, transposed)
        tensors.append(
            dict(offset=offset, shape=raw.shape, type=raw.dtype.name, mean=mean, width=width, parameter=name, transposed=transposed)
        )
        for field in ("raw_data", "float_data", "int32_data"):
            tensor.ClearField(field)
        tensor.data_location = TensorProto.EXTERNAL
        del tensor.external_data[:]
        for key, value in (("location", "weights.bin"), ("offset", offset), ("length", raw.nbytes)):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)
        offset += -(-raw.nbytes // 64) * 64
    out.mkdir(parents=True, exist_ok=True)
    (out / "model.onnx").write_bytes(model.SerializeToString())
    (out / "weights.json").write_text(json.dumps(dict(bytes=offset, tensors=tensors)))
    print(f"{len(tensors)} tensors, {offset} bytes to fill, {(out / 'model.onnx').stat().st_size} bytes of structure")


if __name__ == "__main__":
    main()
