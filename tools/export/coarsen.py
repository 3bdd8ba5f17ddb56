"""Makes a small model small enough to keep: its weights take four values a tensor, which gzip packs to a few bits each.

    python coarsen.py MODEL.onnx IO.npz OUT_FOLDER

Writes `model.onnx.gz` and `io.npz`: the inputs of IO.npz (`in_<name>`) rounded to eighths, and as outputs (`out_<name>`) what ONNX Runtime
computes for the coarsened model without optimizations. Graph, names and shapes stay. Floating-point tensors of at least 256
elements are coarsened, each to its own mean and standard deviation; all others stay.
"""

import argparse
import gzip
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

SMALLEST = 256
# Four equally likely levels with the variance of a normal distribution.
LEVELS = np.array([-1.342, -0.447, 0.447, 1.342])
EDGES = np.array([-0.6745, 0.0, 0.6745])


def is_falling(values):
    """Frequencies of a timestep embedding: every element is smaller than the one before."""
    return bool((np.diff(values.ravel()) < 0).all())


def coarsen(tensor):
    """Replaces the values of one tensor in place."""
    values = numpy_helper.to_array(tensor)
    if values.dtype not in (np.float32, np.float16) or values.size < SMALLEST or is_falling(values):
        return
    wide = values.astype(np.float64)
    mean, deviation = wide.mean(), wide.std()
    if deviation == 0:
        return
    levels = mean + deviation * LEVELS[np.digitize((wide - mean) / deviation, EDGES)]
    tensor.CopyFrom(numpy_helper.from_array(levels.astype(values.dtype), tensor.name))


def strip(model):
    """Removes documentation; coarsens initializers and constants."""
    del model.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
        for attribute in node.attribute:
            if attribute.HasField("t"):
                coarsen(attribute.t)
    for tensor in model.graph.initializer:
        coarsen(tensor)


def rounded(array):
    """Multiples of 1/8, which pack well; integers stay."""
    if not np.issubdtype(array.dtype, np.floating):
        return array
    return np.asarray(np.round(array * 8) / 8, array.dtype)


def outputs(model, inputs):
    """What ONNX Runtime computes, by name."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("io", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    model = onnx.load(args.model)
    strip(model)
    inputs = {name[3:]: rounded(array) for name, array in np.load(args.io).items() if name.startswith("in_")}
    results = outputs(model, inputs)
    args.out.mkdir(parents=True, exist_ok=True)
    # no time of day and no file name in the header: equal models give equal files
    (args.out / "model.onnx.gz").write_bytes(gzip.compress(model.SerializeToString(), 9, mtime=0))
    arrays = {f"in_{name}": array for name, array in inputs.items()}
    arrays |= {f"out_{name}": array for name, array in results.items()}
    np.savez_compressed(args.out / "io.npz", **arrays)


if __name__ == "__main__":
    main()
