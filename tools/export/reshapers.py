"""What people do to an exported file, in place: external data, int8 weights, simplifiers, ONNX Runtime's optimizer."""

import onnx
import onnxruntime as ort
from onnxruntime.transformers import optimizer
from onnxruntime.transformers.fusion_options import FusionOptions

from onnx_weights import pack


def one_external_file(path):
    """All weights of 1 KiB and more in weights.pb, one after another."""
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="weights.pb", size_threshold=1024)


def file_per_tensor(path):
    """One file per weight, as the TorchScript exporter does beyond 2 GB: only a location, no offset, no length."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > 3800:
            name = tensor.name.replace(":", "_")
            (path.parent / name).write_bytes(tensor.raw_data)
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=name)
    path.write_bytes(model.SerializeToString())


def int8_weights(path):
    """Large weights as int8 and DequantizeLinear."""
    model = onnx.load(path)
    pack(model.graph, "int8", 512)
    onnx.save(model, path)


def onnxslim(path):
    import onnxslim as tool

    onnx.save(tool.slim(onnx.load(path)), path)


def onnxsim(path):
    import onnxsim as tool

    simplified, same = tool.simplify(onnx.load(path))
    assert same
    onnx.save(simplified, path)


def ort_session_basic(path, level=ort.GraphOptimizationLevel.ORT_ENABLE_BASIC):
    """The graph that an ONNX Runtime session has after its basic optimizations."""
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.optimized_model_filepath = str(path.with_name("optimized.onnx"))
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    path.with_name("optimized.onnx").replace(path)


def ort_session_extended(path):
    """The same after its extended optimizations, which fuse into operators of its own domain."""
    ort_session_basic(path, ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED)


def ort_optimized(path, half=False, packed=True):
    """`onnxruntime.transformers.optimizer` for `unet`: GroupNorm, MultiHeadAttention, NhwcConv, BiasSplitGelu, …"""
    fusions = FusionOptions("unet")
    if not packed:
        fusions.enable_packed_qkv = fusions.enable_packed_kv = False
    model = optimizer.optimize_model(
        str(path), "unet", num_heads=0, hidden_size=0, opt_level=0, optimization_options=fusions, use_gpu=True
    )
    if half:
        model.convert_float_to_float16(keep_io_types=True, op_block_list=["RandomNormalLike"])
    model.save_model_to_file(str(path))


def ort_optimized_fp16(path):
    ort_optimized(path, half=True)


def ort_optimized_fp16_unpacked(path):
    ort_optimized(path, half=True, packed=False)
