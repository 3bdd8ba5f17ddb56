"""Keeps a model's graph and drops its weights: a full-size model for tests of importers, in a few KiB.

    python skeleton.py MODEL.onnx OUT.onnx.gz

Floating-point initializers of at least 64 KiB become external data in `weights`, a file of 4 GiB that a test makes out of
nothing but a hole; smaller ones hold one number throughout, but for the timestep's frequencies. Documentation and metadata
go, names stay.
"""

import argparse
import gzip
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

LARGE = 64 << 10
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)


def elements(tensor):
    return int(np.prod(tensor.dims, dtype=np.int64))


def is_falling(values):
    """Frequencies: every element is smaller than the one before."""
    return bool((np.diff(values.ravel()) < 0).all())


def strip_tensor(tensor, offset):
    """Drops the values; returns where the next external tensor stands."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    length = elements(tensor) * dtype.itemsize
    if tensor.data_type not in FLOATS or elements(tensor) < 64:
        return offset
    if length < LARGE and is_falling(numpy_helper.to_array(tensor)):
        return offset
    if length < LARGE:
        fill = np.full(tuple(tensor.dims), 0.5, dtype)
        tensor.CopyFrom(numpy_helper.from_array(fill, tensor.name))
        return offset
    name, dims, data_type = tensor.name, list(tensor.dims), tensor.data_type
    tensor.Clear()
    tensor.name, tensor.data_type, tensor.data_location = name, data_type, TensorProto.EXTERNAL
    tensor.dims.extend(dims)
    for key, value in (("location", "weights"), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return offset + (length + 63) // 64 * 64


def strip(model):
    """Bytes of the weights that are gone."""
    offset = 0
    del model.metadata_props[:]
    del model.graph.value_info[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
        for attribute in node.attribute:
            if attribute.HasField("t"):
                offset = strip_tensor(attribute.t, offset)
    for tensor in model.graph.initializer:
        offset = strip_tensor(tensor, offset)
    return offset


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("model", type=Path)
    args.add_argument("out", type=Path)
    args = args.parse_args()
    model = onnx.load(args.model, load_external_data=False)
    small = [t for t in model.graph.initializer if elements(t) * 4 < LARGE]
    for tensor in (t for t in small if t.data_location == TensorProto.EXTERNAL):
        onnx.external_data_helper.load_external_data_for_tensor(tensor, str(args.model.parent))
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]
    total = strip(model)
    assert total < 4 << 30, total
    args.out.write_bytes(gzip.compress(model.SerializeToString(), mtime=0))
    print(f"{total} bytes of weights gone, {args.out.stat().st_size} bytes left")


if __name__ == "__main__":
    main()
