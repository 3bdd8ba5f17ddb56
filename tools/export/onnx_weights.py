"""Weights inside an ONNX graph: which initializers are weights, their output axis, their torch names, their packing.

Packed weights keep their name; the operand that the graph computes with is `<name>.f32`, made by

    int8   DequantizeLinear(<name>, <name>.scale, axis=output axis)    symmetric, no zero point, |q| <= 127
    f16    Cast(<name>, to=FLOAT)
"""

from collections import defaultdict

import numpy as np
from onnx import TensorProto, helper, numpy_helper

MIN_ELEMENTS = 4096  # below: norms, biases, and the first and last convolution; kept f32
CLIP_RATIOS = np.linspace(1.0, 0.6, 41, dtype=np.float32)
OUTPUT_AXIS = {"Conv": 0, "ConvTranspose": 1, "MatMul": 1, "Gather": 0}


def output_axis(node, slot):
    """The axis of input `slot` of `node` that indexes output channels (rows of a table), or None for a non-weight."""
    if slot != (0 if node.op_type == "Gather" else 1):
        return None
    if node.op_type == "Gemm":
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        return 0 if transposed else 1
    return OUTPUT_AXIS.get(node.op_type)


def weight_axes(graph, min_elements=MIN_ELEMENTS):
    """`{initializer name: output axis}` for large weights whose every use agrees on the axis."""
    uses = defaultdict(set)
    for node in graph.node:
        for slot, name in enumerate(node.input):
            uses[name].add(output_axis(node, slot))
    axes = {}
    for tensor in graph.initializer:
        found = uses[tensor.name]
        large = np.prod(tensor.dims) >= min_elements and len(tensor.dims) >= 2
        if large and len(found) == 1 and None not in found:
            axes[tensor.name] = found.pop()
    return axes


def restore_torch_names(graph, state, prefix=""):
    """Gives anonymous initializers (`onnx::MatMul_123`) the name of the parameter they hold, found by value.

    Named ones lose `prefix`, the name of the model inside its wrapper, so that all are named as in `state`.

    Transposed and reshaped copies match too: a MatMul weight is the parameter's transpose, a group norm's gain is
    [C,1,1]. Equal parameters, several of which the exporter may have merged into one initializer, get the first free
    name.
    """
    by_bytes = defaultdict(list)
    for name, value in state.items():
        array = value.detach().cpu().numpy()
        by_bytes[array.tobytes()].append(name)
        if array.ndim == 2:
            by_bytes[np.ascontiguousarray(array.T).tobytes()].append(name)
    renamed = {t.name: t.name.removeprefix(prefix) for t in graph.initializer if t.name.startswith(prefix)}
    for tensor in graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    taken = {t.name for t in graph.initializer}
    for tensor in graph.initializer:
        if not tensor.name.startswith("onnx::"):
            continue
        names = [n for n in by_bytes.get(numpy_helper.to_array(tensor).tobytes(), []) if n not in taken]
        if names:
            taken.add(names[0])
            renamed[tensor.name] = tensor.name = names[0]
    _rename_inputs(graph, renamed)


def _rename_inputs(graph, renamed):
    for node in graph.node:
        for slot, name in enumerate(node.input):
            if name in renamed:
                node.input[slot] = renamed[name]


def quantize(weight, axis):
    """Round-to-nearest int8 with one scale per channel of `axis`, the clipping point chosen by mean squared error.

    Returns (q int8, scale f32 [channels]); q * scale approximates the weight. `CLIP_RATIOS` times the largest magnitude
    are tried for every channel.
    """
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1).astype(np.float32)
    largest = np.maximum(np.abs(rows).max(1), np.float32(1e-12))
    best_error = np.full(len(rows), np.inf, np.float32)
    best_scale = largest / 127
    for ratio in CLIP_RATIOS:
        scale = (largest * ratio / 127).astype(np.float32)
        error = ((_round(rows, scale) * scale[:, None] - rows) ** 2).sum(1)
        better = error < best_error
        best_error[better], best_scale[better] = error[better], scale[better]
    q = _round(rows, best_scale).astype(np.int8)
    shape = np.moveaxis(weight, axis, 0).shape
    return np.ascontiguousarray(np.moveaxis(q.reshape(shape), 0, axis)), best_scale


def _round(rows, scale):
    return np.clip(np.rint(rows / scale[:, None]), -127, 127)


def dequantize(q, scale, axis):
    """What DequantizeLinear computes: q * scale in f32, the scale running along `axis`."""
    shape = [1] * q.ndim
    shape[axis] = -1
    return q.astype(np.float32) * scale.reshape(shape)


def pack(graph, kind, min_elements=MIN_ELEMENTS):
    """Stores every large weight as `int8` or `fp16` (`fp32`: as it is). Returns {name: relative RMS error}."""
    if kind == "fp32":
        return {}
    axes = weight_axes(graph, min_elements)
    kept, unpack, errors = [], [], {}
    for tensor in graph.initializer:
        if tensor.name not in axes:
            kept.append(tensor)
            continue
        weight = numpy_helper.to_array(tensor)
        tensors, node, restored = _PACK[kind](tensor.name, weight, axes[tensor.name])
        kept += tensors
        unpack.append(node)
        errors[tensor.name] = float(np.sqrt(((restored - weight) ** 2).mean() / (weight**2).mean()))
    _rename_inputs(graph, {name: f"{name}.f32" for name in errors})
    nodes = unpack + list(graph.node)
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
    return errors


def _pack_int8(name, weight, axis):
    q, scale = quantize(weight, axis)
    tensors = [numpy_helper.from_array(q, name), numpy_helper.from_array(scale, f"{name}.scale")]
    inputs = [name, f"{name}.scale"]
    node = helper.make_node("DequantizeLinear", inputs, [f"{name}.f32"], axis=axis)
    return tensors, node, dequantize(q, scale, axis)


def _pack_fp16(name, weight, _axis):
    half = weight.astype(np.float16)
    node = helper.make_node("Cast", [name], [f"{name}.f32"], to=TensorProto.FLOAT)
    return [numpy_helper.from_array(half, name)], node, half.astype(np.float32)


_PACK = {"int8": _pack_int8, "fp16": _pack_fp16}


def unpacked(graph):
    """`{initializer name: f32 array}` of a graph packed by `pack`: the values that it computes with."""
    tensors = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in tensors:
            axis = next(a.i for a in node.attribute if a.name == "axis")
            name, scale = node.input[:2]
            tensors[name] = dequantize(tensors[name], tensors.pop(scale), axis)
    return {n: t.astype(np.float32) if t.dtype == np.float16 else t for n, t in tensors.items()}


def parameters(graph, shapes):
    """`{torch name: f32 array}` for the names in `shapes` (torch name -> shape) that the packed graph holds.

    In torch's layout: the exporter transposes what a MatMul multiplies by and makes a norm's gain [C,1,1].
    """
    multiplied = {name for node in graph.node if node.op_type == "MatMul" for name in node.input}
    found = {}
    for name, array in unpacked(graph).items():
        if name in shapes:
            array = array.T if multiplied & {name, f"{name}.f32"} else array
            found[name] = np.array(array, order="C").reshape(shapes[name])
    return found
