"""Reference results of single ONNX operators, for the tests of the oracle.

    python onnx_ops.py ../../src/oracle/tests/data/onnx_ops.json.gz

Every case is one node on small random data, computed by ONNX Runtime where it has the operator on the CPU, else by the
reference evaluator of the `onnx` package. Needs onnx, onnxruntime, numpy.
"""

import gzip
import json
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

rng = np.random.default_rng(7)
TYPES = {
    "float32": "f32",
    "float64": "f64",
    "float16": "f16",
    "int64": "i64",
    "int32": "i32",
    "int8": "i8",
    "uint8": "u8",
    "int16": "i16",
    "uint16": "u16",
    "bool": "bool",
}


def x(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def positive(*shape):
    return np.abs(x(*shape)) + 0.1


def i(*values):
    return np.array(values, np.int64)


def scalar(value, dtype=np.int64):
    return np.array(value, dtype)


CASES = []


def case(op, *inputs, opset=17, domain="", outputs=1, **attributes):
    CASES.append((op, inputs, opset, domain, outputs, attributes))


for name in "Neg Abs Exp Erf Sigmoid Tanh Sin Cos Relu Floor Ceil Round Sign Softplus Identity".split():
    case(name, 3 * x(2, 3))
for name in "Sqrt Log Reciprocal".split():
    case(name, positive(2, 3))
for name in "Add Sub Mul Div Min Max".split():
    case(name, x(2, 3, 4), x(3, 1))
    case(name, x(4), x(2, 3, 4))
case("Div", i(7, -7, 9), i(2, 2, -4))
case("Pow", positive(2, 3), x(3))
case("Mod", i(7, -7, 9), i(3, 3, -4))
case("Mod", x(5), positive(5), fmod=1)
for name in "Equal Less Greater LessOrEqual GreaterOrEqual".split():
    case(name, i(1, 2, 3), i(2, 2, 2))
case("And", x(4) > 0, x(4) > 0)
case("Or", x(4) > 0, x(4) > 0)
case("Not", x(4) > 0)
case("Where", x(2, 1, 4) > 0, x(3, 1), x(2, 3, 4))
case("Clip", x(2, 5), scalar(-0.5, np.float32), scalar(0.5, np.float32))
case("Clip", x(2, 5), None, scalar(0.5, np.float32))
case("Cast", 3 * x(2, 3), to=TensorProto.INT64)
case("Cast", 3 * x(2, 3), to=TensorProto.BOOL)
case("Cast", i(1, 0, -3), to=TensorProto.FLOAT)
case("Gelu", 2 * x(2, 5), opset=20)
case("Gelu", 2 * x(2, 5), opset=20, approximate="tanh")
case("DequantizeLinear", (20 * x(3, 4)).astype(np.int8), positive(4), axis=1)
case("DequantizeLinear", (20 * x(3, 4)).astype(np.int8), positive(3), (9 * x(3)).astype(np.int8), axis=0)
case("DequantizeLinear", (20 * x(3, 4)).astype(np.int8), scalar(0.3, np.float32))

case("Shape", x(2, 3, 4))
case("Shape", x(2, 3, 4), start=1)
case("Shape", x(2, 3, 4), start=-2, end=-1)
case("Size", x(2, 3, 4))
case("ConstantOfShape", i(2, 3), value=numpy_helper.from_array(np.array([7], np.int64)))
case("Range", scalar(2), scalar(11), scalar(3))
case("Range", scalar(5), scalar(-4), scalar(-2))
case("Expand", x(3, 1), i(2, 1, 4))
case("Tile", x(2, 3), i(2, 3))
case("Trilu", x(2, 4, 5), upper=1)
case("Trilu", x(4, 5), scalar(-1), upper=0)
case("Reshape", x(2, 3, 4), i(0, -1))
case("Reshape", x(2, 3, 4), i(4, 6))
case("Flatten", x(2, 3, 4), axis=2)
case("Flatten", x(2, 3, 4), axis=-1)
case("Squeeze", x(2, 1, 3, 1), i(-1))
case("Squeeze", x(2, 1, 3, 1))
case("Unsqueeze", x(2, 3), i(0, -1))
case("Transpose", x(2, 3, 4), perm=[2, 0, 1])
case("Transpose", x(2, 3, 4))
case("Slice", x(5, 6), i(1, -4), i(9223372036854775807, -1))
case("Slice", x(5, 6), i(-1), i(-9223372036854775808), i(1), i(-2))
case("Slice", x(5, 6), i(3), i(1), i(0))
case("Split", x(2, 7), i(2, 5), axis=1, outputs=2)
case("Split", x(2, 7), axis=1, num_outputs=3, outputs=3, opset=18)
case("Concat", x(2, 3), x(2, 1), x(2, 2), axis=-1)
case("Gather", x(4, 3), np.array([[0, -1], [2, 2]], np.int64), axis=0)
case("Gather", x(2, 4, 3), scalar(2), axis=1)
case("GatherND", x(3, 4, 5), np.array([[2, 1], [0, -1]], np.int64))
case("GatherND", x(2, 3, 4), np.array([[1], [0]], np.int64), batch_dims=1)
case("Pad", x(2, 3), i(1, 0, 0, 2), scalar(1.5, np.float32))
case("Pad", x(1, 1, 3, 3), i(0, 0, 0, 0, 0, 0, 1, 1))

case("MatMul", x(2, 3, 4), x(4, 5))
case("MatMul", x(2, 1, 3, 4), x(5, 4, 2))
case("MatMul", x(4), x(3, 4, 5))
case("MatMul", x(3, 4), x(4))
case("Gemm", x(3, 4), x(5, 4), x(5), transB=1)
case("Gemm", x(4, 3), x(4, 5), transA=1, alpha=0.5)
case("Gemm", x(3, 4), x(4, 5), x(3, 1), beta=2.0)
case("Conv", x(2, 4, 5, 6), x(3, 4, 3, 3), x(3), pads=[1, 1, 1, 1])
case("Conv", x(1, 4, 5, 6), x(6, 2, 3, 3), group=2, strides=[2, 1], pads=[0, 1, 2, 0])
case("Conv", x(1, 2, 7, 7), x(3, 2, 3, 3), dilations=[2, 2])
case("Conv", x(1, 2, 5, 6), x(3, 2, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER")
case("Conv", x(1, 2, 5, 6), x(3, 2, 2, 2), auto_pad="SAME_LOWER")
case("Softmax", x(2, 3, 4))
case("Softmax", x(2, 3, 4), axis=1)
case("Softmax", x(2, 3, 4), axis=1, opset=12)
case("ReduceMean", x(2, 3, 4), axes=[-1])
case("ReduceMean", x(2, 3, 4), i(0, 2), opset=18, keepdims=0)
case("ReduceSum", x(2, 3, 4), i(1))
case("ReduceMax", x(2, 3, 4), axes=[1])
case("ReduceMin", x(2, 3, 4))
case("ReduceProd", x(2, 3), axes=[0], keepdims=0)
case("ReduceL2", x(2, 3), axes=[1])
case("ArgMax", np.array([[1, 5, 5], [7, 2, 0]], np.float32), axis=1, keepdims=0)
case("ArgMax", np.array([[1, 5, 5], [7, 2, 0]], np.float32), axis=1, select_last_index=1)
none = np.array([], np.float32)
for how in (
    dict(coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    dict(),
    dict(nearest_mode="round_prefer_ceil"),
):
    case("Resize", x(1, 2, 3, 5), none, np.array([1, 1, 2, 2], np.float32), mode="nearest", **how)
    case("Resize", x(1, 2, 3, 5), none, None, i(1, 2, 7, 9), mode="nearest", **how)

case("InstanceNormalization", x(2, 3, 10), x(3), x(3), epsilon=1e-5)
case("InstanceNormalization", x(2, 3, 2, 5), x(3), x(3), epsilon=1e-2)
case("LayerNormalization", x(2, 3, 8), x(8), x(8), epsilon=1e-5)
case("LayerNormalization", x(2, 3, 4), x(3, 4), x(3, 4), axis=1)
case("GroupNormalization", x(2, 6, 3, 4), x(2), x(2), num_groups=2, opset=18)
case("GroupNormalization", x(2, 6, 3, 4), x(6), x(6), num_groups=2, opset=21)
case("BatchNormalization", x(2, 3, 4, 4), x(3), x(3), x(3), positive(3))
case("Attention", x(2, 3, 5, 4), x(2, 3, 6, 4), x(2, 3, 6, 4), opset=23)
case("Attention", x(2, 5, 6), x(2, 7, 6), x(2, 7, 6), opset=23, q_num_heads=3, kv_num_heads=3, scale=0.3)
case("Attention", x(1, 2, 4, 4), x(1, 2, 4, 4), x(1, 2, 4, 4), opset=23, is_causal=1)
case("Attention", x(1, 2, 4, 4), x(1, 2, 5, 4), x(1, 2, 5, 4), x(4, 5), opset=23)

ms = dict(domain="com.microsoft", opset=1)
case("FusedMatMul", x(2, 3, 4), x(2, 5, 4), transB=1, alpha=0.5, **ms)
case("BiasGelu", x(2, 3, 4), x(4), **ms)
case("QuickGelu", x(2, 5), alpha=1.7, **ms)
case("SkipLayerNormalization", x(2, 3, 8), x(2, 3, 8), x(8), x(8), x(8), outputs=4, epsilon=1e-5, **ms)
case("MultiHeadAttention", x(2, 5, 6), x(2, 7, 6), x(2, 7, 6), num_heads=3, **ms)
case("MultiHeadAttention", x(2, 5, 6), x(2, 7, 6), x(2, 7, 6), x(18), num_heads=2, scale=0.2, **ms)
case("Attention", x(2, 5, 6), x(6, 18), x(18), num_heads=3, **ms)
case("Attention", x(1, 4, 6), x(6, 18), x(18), num_heads=2, unidirectional=1, **ms)

for equation, *shapes in (
    ("bhqd,bhkd->bhqk", (2, 3, 5, 4), (2, 3, 7, 4)),
    ("b i d, b j d -> b i j", (6, 5, 4), (6, 7, 4)),
    ("bhqk,bkhd->bqhd", (2, 3, 5, 7), (2, 7, 3, 4)),
    ("...qd,...kd->...qk", (2, 3, 5, 4), (2, 3, 7, 4)),
    ("ij,jk", (2, 3), (3, 4)),
    ("ba", (2, 3)),
    ("ii->i", (3, 3)),
    ("bij->b", (2, 3, 4)),
    ("ij,jk,kl->il", (2, 3), (3, 4), (4, 5)),
    ("i,j->ij", (3,), (4,)),
    ("ijk,k->ij", (2, 3, 4), (4,)),
):
    case("Einsum", *[x(*shape) for shape in shapes], equation=equation)
halves = np.array([-3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 126.5, 300, -300, 0.15, 0.45], np.float32)
for zero in (np.int8(3), np.uint8(7), np.int8(-128)):
    case("QuantizeLinear", halves, scalar(1.0, np.float32), np.array(zero))
    case("QuantizeLinear", halves, scalar(0.1, np.float32), np.array(zero))
case("QuantizeLinear", halves, scalar(0.3, np.float32))
case("QuantizeLinear", 9 * x(3, 4), positive(4), (9 * x(4)).astype(np.int8), axis=1)
case("QuantizeLinear", 9 * x(3, 4), positive(3), (9 * x(3)).astype(np.int8), axis=-2)
case("QuantizeLinear", 900 * x(3, 4), scalar(0.1, np.float32), scalar(-5, np.int16), opset=21)
case("QuantizeLinear", 9 * x(4, 6), positive(4, 3), (9 * x(4, 3)).astype(np.int8), axis=1, block_size=2, opset=21)
case("DequantizeLinear", (20 * x(4, 6)).astype(np.int8), positive(2, 6), axis=0, block_size=2, opset=21)
case("DequantizeLinear", (20 * x(4, 5)).astype(np.int8), positive(4, 3), (9 * x(4, 3)).astype(np.int8), axis=1,
     block_size=2, opset=21)
case("DequantizeLinear", (20 * x(3, 4)).astype(np.uint8), positive(3), (9 * positive(3)).astype(np.uint8), axis=0)


def nbits(bits, rows, columns, block, packed_zero=False, float_zero=False, bias=False, groups=False):
    blocks = -(-rows // block)
    integers = rng.integers(0, 256, (columns, blocks, block * bits // 8)).astype(np.uint8)
    zero = None
    if packed_zero:
        zero = rng.integers(0, 256, columns * -(-blocks * bits // 8)).astype(np.uint8)
    if float_zero:
        zero = (7 + x(columns * blocks)).astype(np.float32)
    order = rng.permutation(np.arange(blocks * block) // block).astype(np.int32) if groups else None
    inputs = [x(2, 3, rows), integers, positive(columns * blocks), zero, order, x(columns) if bias else None]
    while inputs[-1] is None:
        inputs.pop()
    case("MatMulNBits", *inputs, K=rows, N=columns, bits=bits, block_size=block, **ms)


nbits(4, 32, 5, 16)
nbits(4, 40, 5, 16, packed_zero=True)
nbits(4, 48, 6, 16, packed_zero=True, bias=True)
nbits(4, 32, 4, 32, float_zero=True)
nbits(4, 64, 4, 16, groups=True)
nbits(8, 32, 5, 16)
nbits(8, 48, 5, 16, packed_zero=True)
nbits(2, 32, 5, 16)
nbits(2, 64, 5, 32, packed_zero=True)

case("CumSum", x(2, 3, 4), scalar(1))
case("CumSum", x(2, 3, 4), scalar(-1), exclusive=1, reverse=1)
case("TopK", x(3, 5), i(2), outputs=2)
case("TopK", x(3, 5), i(5), axis=0 + 1, largest=0, outputs=2)
case("TopK", np.array([[1, 5, 5], [7, 2, 2]], np.float32), i(3), axis=1, outputs=2)
case("ScatterND", x(4, 3), np.array([[2], [0]], np.int64), x(2, 3))
case("ScatterND", x(4, 3), np.array([[2, -1], [0, 1]], np.int64), x(2))
case("ScatterND", x(2, 3, 4), np.array([[[1]], [[1]]], np.int64), x(2, 1, 3, 4), reduction="add")
case("ScatterElements", x(3, 4), np.array([[0, 2, 1, -1]], np.int64), x(1, 4), axis=0)
case("ScatterElements", x(3, 4), np.array([[0, 2], [1, -1]], np.int64), x(2, 2), axis=1)
case("GatherElements", x(3, 4), np.array([[0, 2, 1, -1], [1, 1, 0, 0]], np.int64), axis=0)


def computed(op, inputs, opset, domain, outputs, attributes):
    names = [f"i{n}" if value is not None else "" for n, value in enumerate(inputs)]
    results = [f"o{n}" for n in range(outputs)]
    # the mean and deviation of a skip norm are not produced by the CPU kernel
    asked = ["o0", "", "", "o3"] if op == "SkipLayerNormalization" else results
    node = helper.make_node(op, names, asked, domain=domain, **attributes)
    given = [(name, value) for name, value in zip(names, inputs) if value is not None]
    declared = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in given
    ]
    made = [helper.make_empty_tensor_value_info(name) for name in asked if name]
    graph = helper.make_graph([node], "case", declared, made)
    imports = [helper.make_opsetid(domain, opset)] + ([helper.make_opsetid("", 17)] if domain else [])
    model = helper.make_model(graph, opset_imports=imports, ir_version=8 if opset < 21 else 10)
    feed = dict(given)
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        found, by = session.run(None, feed), "onnxruntime"
    except Exception:
        if domain:
            raise
        found, by = ReferenceEvaluator(model).run(None, feed), "onnx.reference"
    found = dict(zip([name for name in asked if name], found))
    return [found.get(name) for name in results], by


def tensor(value):
    if value is None:
        return None
    value = np.asarray(value)
    data = [float(str(v)) if value.dtype.kind == "f" else int(v) for v in value.reshape(-1)]
    return {"dtype": TYPES[str(value.dtype)], "shape": list(value.shape), "data": data}


def attribute(value):
    if isinstance(value, onnx.TensorProto):
        array = numpy_helper.to_array(value)
        return f"tensor({TYPES[str(array.dtype)]}[{','.join(map(str, array.shape))}] {array.reshape(-1).tolist()})"
    if isinstance(value, str):
        return json.dumps(value)
    return str(value)


cases = []
for op, inputs, opset, domain, outputs, attributes in CASES:
    results, by = computed(op, inputs, opset, domain, outputs, attributes)
    text = " ".join(f"{name}={attribute(value)}" for name, value in attributes.items())
    cases.append(
        {
            "op": op,
            "domain": domain,
            "opset": opset,
            "attributes": text,
            "inputs": [tensor(value) for value in inputs],
            "outputs": [tensor(value) for value in results],
            "by": by,
        }
    )
text = "[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n"
with open(sys.argv[1], "wb") as file:
    file.write(gzip.compress(text.encode(), mtime=0))
print(len(cases), "cases,", sum(case["by"] == "onnxruntime" for case in cases), "by ONNX Runtime")
