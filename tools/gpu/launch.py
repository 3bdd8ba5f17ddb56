"""Launch the cubins of kernels/cuda from Python: parameter structs, packing, and three backends.

`Device` runs them on the GPU beside PyTorch, `Driver` on the GPU alone; `Emulated` runs the host build of the same sources.
Tensors are PyTorch's; the structs below mirror kernels/cuda/include and each kernel.cu byte for byte.
"""

import ctypes
import pathlib

import numpy as np
import torch

u64, i32, f32 = ctypes.c_uint64, ctypes.c_int32, ctypes.c_float


class Address(ctypes.Structure):
    _fields_ = [("base", u64), ("slot", i32), ("reserved", i32)]


class Count(ctypes.Structure):
    _fields_ = [("device", u64), ("fixed", i32), ("reserved", i32)]


class Rows(ctypes.Structure):
    _fields_ = [("map", u64), ("image_rows", Count)]


def struct(name, fields):
    return type(name, (ctypes.Structure,), {"_fields_": fields})


Epilogue = struct(
    "Epilogue",
    [(n, Address) for n in "bias time residual output".split()]
    + [("beside", Address * 2)]
    + [(n, Address) for n in "normed affine".split()]
    + [(n, Rows) for n in "residual_rows output_rows normed_rows".split()]
    + [(n, i32) for n in "time_stride residual_stride output_stride normed_stride affine_channels flags".split()]
    + [(n, u64) for n in "row_parts norm_parts column_sums".split()]
    + [("row_part_count", i32), ("norm_part_count", i32), ("norm_epsilon", f32), ("part_columns", i32)],
)
FoldParams = struct(
    "FoldParams",
    [(n, u64) for n in "weights gamma beta bias folded_bias column_sums".split()] + [("channels", i32), ("cout", i32)],
)
PART_COLUMNS = 32
GEGLU, NORMED_SILU, SILU = 1, 2, 1
ConvParams = struct(
    "ConvParams",
    [
        ("source", Address * 2),
        ("channels", i32 * 2),
        ("source_stride", i32 * 2),
        ("table", u64),
        ("source_rows", Rows),
        ("live", Count),
        ("weights", u64),
        ("blocks", u64),
        ("workspace", u64),
        ("slots", u64),
        ("images", i32),
        ("taps", i32),
        ("cout", i32),
        ("splits", i32),
        ("epilogue", Epilogue),
    ],
)
AttentionParams = struct(
    "AttentionParams",
    [(n, Address) for n in "query key fresh_key output".split()]
    + [("query_rows", Rows), ("queries", Count), ("key_rows", Rows), ("keys", Count), ("fresh", Count)]
    + [(n, u64) for n in "partial slots".split()]
    + [(n, i32) for n in "query_stride key_stride fresh_stride output_stride value_offset fresh_value_offset".split()]
    + [(n, i32) for n in "images heads splits".split()]
    + [("scale_log2", f32)],
)
ControlParams = struct(
    "ControlParams",
    [(n, Address) for n in "query key value output maps mapper blend weight".split()]
    + [("slots", u64)]
    + [(n, i32) for n in "query_stride key_stride value_stride output_stride map_stride".split()]
    + [(n, i32) for n in "images heads queries keys dim".split()]
    + [("scale_log2", f32), ("reserved", i32)],
)
CausalParams = struct(
    "CausalParams",
    [(n, Address) for n in "query key value output".split()]
    + [("slots", u64)]
    + [(n, i32) for n in "images tokens heads dim query_stride key_stride value_stride output_stride".split()]
    + [("scale_log2", f32), ("reserved", i32)],
)
MoveJob = struct(
    "MoveJob",
    [(n, Address) for n in "source addend affine output".split()]
    + [("source_rows", Rows), ("output_rows", Rows), ("output_first", Count), ("rows", Count)]
    + [(n, i32) for n in "images channels source_stride output_stride affine_channels flags".split()],
)
MoveParams = struct("MoveParams", [("jobs", u64), ("slots", u64)])
SumParams = struct(
    "SumParams",
    [
        ("source", Address * 2),
        ("channels", i32 * 2),
        ("source_stride", i32 * 2),
        ("source_rows", Rows),
        ("rows", Count),
        ("partial", u64),
        ("slots", u64),
    ],
)
StatisticsParams = struct(
    "StatisticsParams",
    [("added", u64), ("removed", u64)]
    + [(n, Address) for n in "recorded statistics affine".split()]
    + [("gamma", u64), ("beta", u64), ("slots", u64), ("rows", Count)]
    + [(n, i32) for n in "channels groups added_chunks removed_chunks".split()]
    + [("epsilon", f32), ("reserved", i32)],
)
NormParams = struct(
    "NormParams",
    [("source", Address * 2), ("output", Address * 2), ("statistics", Address), ("affine", Address)]
    + [("gamma", u64), ("beta", u64), ("slots", u64)]
    + [(n, i32 * 2) for n in "channels source_stride output_stride".split()]
    + [(n, i32) for n in "rows groups slice flags".split()]
    + [("epsilon", f32), ("reserved", i32)],
)
LayerNormParams = struct(
    "LayerNormParams",
    [("source", Address), ("output", Address), ("gamma", u64), ("beta", u64), ("slots", u64), ("live", Count)]
    + [(n, i32) for n in "images channels source_stride output_stride".split()]
    + [("epsilon", f32), ("reserved", i32)],
)
GegluParams = struct(
    "GegluParams",
    [("source", Address), ("output", Address), ("slots", u64), ("live", Count)]
    + [(n, i32) for n in "images channels source_stride output_stride".split()],
)
UpdateParams = struct(
    "UpdateParams",
    [("latent", Address), ("updated", Address), ("prediction", Address), ("history", Address * 3)]
    + [(n, Address) for n in "history_out recorded recorded_history input".split()]
    + [(n, u64) for n in "ranks coefficients step slots".split()]
    + [(n, i32) for n in "pixels rows prediction_stride input_stride".split()],
)
AdvanceParams = struct(
    "AdvanceParams", [(n, u64) for n in "all_slots slots next step".split()] + [("slot_count", i32), ("steps", i32)]
)


def at(tensor, offset=0):
    """Address of a tensor (None: absent), `offset` elements in."""
    return Address(0 if tensor is None else tensor.data_ptr() + offset * tensor.element_size(), 0, 0)


def slot(index, offset_bytes=0):
    return Address(offset_bytes, index + 1, 0)


def count(value):
    """A number, or an int32 tensor on the device that holds it."""
    return Count(value.data_ptr(), 0, 0) if torch.is_tensor(value) else Count(0, value, 0)


def rows(image_rows=0, map=None):
    return Rows(0 if map is None else map.data_ptr(), count(image_rows))


# entry -> (rows, columns, threads, stages) of a block's tile
CONV_TILES = {
    "sparse_conv_128x160": (128, 160, 128, 3),
    "sparse_conv_64x160": (64, 160, 128, 4),
    "sparse_conv_128x128": (128, 128, 128, 3),
    "sparse_conv_64x64": (64, 64, 128, 4),
    "sparse_conv_wgmma_64x160": (64, 160, 256, 4),
    "sparse_conv_wgmma_128x160": (128, 160, 384, 5),
    "sparse_conv_wgmma_192x160": (192, 160, 512, 5),
}
CONV_STREAM = {
    "sparse_conv_stream_192x160": (192, 160, 512, 4),
    "sparse_conv_stream_128x160": (128, 160, 384, 5),
    "sparse_conv_stream_64x160": (64, 160, 256, 3),
}
# variant -> queries of a block; 64 where not named
ATTENTION_QUERIES = {"d64_wide": 128}
ATTENTION_D64 = ["d64", "d64_wide", "d64_wgmma_narrow"]
ATTENTION_WIDE = ["wide_d256", "wide_d512", "wide_d512_small"]
ATTENTION_STREAM = {"d64_stream_192": (192, 4), "d64_stream_128": (128, 5)}  # -> queries of a tile, stages


def conv_launch(entry, params, bucket_rows):
    """Grid and shared memory of a convolution whose output has at most `bucket_rows` rows in all images."""
    bm, bn, threads, stages = CONV_TILES[entry]
    grid = (-(-params.cout // bn), -(-bucket_rows // bm), params.splits)
    beside = 128 + bm * 8 * (params.taps == 1) if "wgmma" in entry else 0
    return grid, threads, stages * (bm + bn) * 128 + beside + bm * params.taps * 4


def conv_entry(entry, params):
    """Warpgroup kernels and the adding of splits for values and gates are kernels of their own."""
    has_twin = any(word in entry for word in ["wgmma", "stream", "reduce"])
    return entry + "_gated" * (has_twin and bool(params.epilogue.flags & GEGLU))


def attention_dim(variant):
    """d64_wide, wide_d512_small -> 64, 512"""
    return next(int(part[1:]) for part in variant.split("_") if part[0] == "d" and part[1:].isdigit())


def attention_launch(variant, params, bucket_queries):
    dim = attention_dim(variant)
    if variant.startswith("wide"):
        keys, pitch = 32 if variant.endswith("small") else 64, 16 * (dim // 8 + 1)
        grid = (-(-bucket_queries // 64), params.images * params.heads, params.splits)
        return grid, 256, 64 * (pitch + 16 * (keys // 8 + 1) + 8) + 2 * keys * pitch
    block = ATTENTION_QUERIES.get(variant, 64)
    grid = (-(-bucket_queries // block), params.images * params.heads, params.splits)
    if "wgmma" in variant:
        return grid, 2 * block + 128, (8 * 64 + block) * 128 + 128
    return grid, 128, 4 * 64 * ((dim + 15) // 16 * 2 | 1) * 16


def control_launch(entry, params):
    """Grid and shared memory of attention_maps and attention_control."""
    pitch, blocks = ((params.dim + 15) // 16 * 2 | 1) * 16, -(-params.queries // 64)
    if entry == "attention_maps":
        return (blocks, (params.images - params.images // 2) * params.heads, 1), 128, (64 + 80) * pitch
    return (blocks, params.images * params.heads, 1), 128, (64 + 2 * 80) * pitch + (64 + 80) * 176


def stream_conv_launch(entry, params, blocks):
    """`blocks` share the work: as many as the GPU has multiprocessors, or fewer. The struct's splits is 1."""
    bm, bn, threads, stages = CONV_STREAM[entry]
    return (blocks, 1, 1), threads, stages * (bm + bn) * 128 + 128 + bm * 161 + (stages + 2) * 960 + bm * params.taps * 4


def stream_conv_floats(entry, blocks):
    """Size of `workspace`."""
    bm, bn, _, _ = CONV_STREAM[entry]
    return blocks * bm * bn


def stream_attention_launch(variant, blocks):
    """`blocks` share the work: as many as the GPU has multiprocessors, or fewer. The struct's splits is 1."""
    queries, stages = ATTENTION_STREAM[variant]
    return (blocks, 1, 1), 2 * queries + 128, stages * 2 * 128 * 128 + 2 * queries * 128 + 128


def stream_attention_floats(variant, blocks):
    """Size of `partial`."""
    return blocks * 9 * 4 * 2 * ATTENTION_STREAM[variant][0]


def pack_weights(weights, channels):
    """[taps, sum(channels), cout] -> kernel layout f16 [k_tiles, cout, 64].

    A tile has 64 channels of one source and tap, zero padded; 16-byte chunk j of line n is stored at j ^ (n % 8)."""
    taps, _, cout = weights.shape
    tiles = []
    for part in torch.split(weights, list(channels), dim=1):
        padded = torch.nn.functional.pad(part, (0, 0, 0, -part.shape[1] % 64))
        tiles.append(padded.reshape(taps, -1, 64, cout).transpose(0, 1))
    lines = torch.cat(tiles, 0).reshape(-1, 64, cout).transpose(1, 2).reshape(-1, cout, 8, 8)
    chunk = torch.arange(8, device=weights.device)[None, :] ^ (torch.arange(cout, device=weights.device) % 8)[:, None]
    return torch.gather(lines, 2, chunk[None, :, :, None].expand_as(lines)).reshape(-1, cout, 64).contiguous().half()


def interleave_gate(weights):
    """[.., 2C] with values first and gates last -> columns as 8 values, 8 gates, ... that the GEGLU epilogue takes."""
    value, gate = weights.chunk(2, dim=-1)
    split = [*value.shape[:-1], -1, 1, 8]
    return torch.cat([value.reshape(split), gate.reshape(split)], -2).reshape(weights.shape)


class _Attribute(ctypes.Structure):
    _fields_ = [("id", ctypes.c_uint), ("pad", ctypes.c_uint), ("value", ctypes.c_uint * 16)]


class _Config(ctypes.Structure):
    _fields_ = [(n, ctypes.c_uint) for n in "gx gy gz bx by bz shared".split()] + [
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("count", ctypes.c_uint),
    ]


class Driver:
    """Runs the cubins through the driver alone. Tensors are PyTorch's CPU ones in pinned memory, which the GPU reads where it
    lies: slow, but no kernel of PyTorch's runs, so that compute-sanitizer looks at ours only."""

    device, library = "cpu", "libcuda.so.1"

    def __init__(self, cubins):
        self.cubins = pathlib.Path(cubins)
        self.driver = ctypes.CDLL(self.library.format(cubins=self.cubins.resolve()))
        self.functions, self.shared = {}, {}
        self.make_context()
        major = ctypes.c_int()
        self.check(self.driver.cuDeviceGetAttribute(ctypes.byref(major), 75, 0), "compute capability")
        self.architecture = {8: "80", 9: "90a", 10: "100a"}[major.value]

    def make_context(self):
        context = ctypes.c_void_p()
        self.check(self.driver.cuInit(0), "cuInit")
        self.check(self.driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0), "context")
        self.check(self.driver.cuCtxSetCurrent(context), "context")

    def check(self, status, what):
        if status:
            text = ctypes.c_char_p()
            self.driver.cuGetErrorString(status, ctypes.byref(text))
            raise RuntimeError(f"{what}: {text.value.decode()}")

    def function(self, kernel, entry):
        if entry not in self.functions:
            image = (self.cubins / f"{kernel}.sm_{self.architecture}.cubin").read_bytes()
            module, function = ctypes.c_void_p(), ctypes.c_void_p()
            self.check(self.driver.cuModuleLoadData(ctypes.byref(module), image), kernel)
            self.check(self.driver.cuModuleGetFunction(ctypes.byref(function), module, entry.encode()), entry)
            self.functions[entry] = function
        return self.functions[entry]

    def launch(self, kernel, entry, grid, threads, shared, params, overlap=False, cluster=1):
        """overlap: programmatic dependent launch, start while the previous kernel drains. cluster: blocks along z."""
        function = self.function(kernel, entry)
        if shared > self.shared.get(entry, 48 * 1024):
            self.check(self.driver.cuFuncSetAttribute(function, 8, shared), entry)  # MAX_DYNAMIC_SHARED_SIZE_BYTES
            self.check(
                self.driver.cuFuncSetAttribute(function, 9, 100), entry
            )  # PREFERRED_SHARED_MEMORY_CARVEOUT: room for two blocks
            self.shared[entry] = shared
        wanted = [_Attribute(6, 0, (ctypes.c_uint * 16)(1))] * overlap  # PROGRAMMATIC_STREAM_SERIALIZATION
        wanted += [_Attribute(4, 0, (ctypes.c_uint * 16)(1, 1, cluster))] * (cluster > 1)  # CLUSTER_DIMENSION
        attributes = (_Attribute * 2)(*wanted)
        config = _Config(*grid, threads, 1, 1, shared, self.stream(), attributes, len(wanted))
        arguments = (ctypes.c_void_p * 1)(ctypes.addressof(params))
        self.check(self.driver.cuLaunchKernelEx(ctypes.byref(config), function, arguments, None), entry)

    def stream(self):
        return None

    def synchronize(self):
        self.check(self.driver.cuCtxSynchronize(), "synchronize")

    def place(self, tensor):
        size = max(16, tensor.numel() * tensor.element_size())
        memory = ctypes.c_void_p()
        self.check(self.driver.cuMemHostAlloc(ctypes.byref(memory), ctypes.c_size_t(size), 3), "pinned memory")
        raw = np.ctypeslib.as_array(ctypes.cast(memory, ctypes.POINTER(ctypes.c_uint8)), (size,))
        flat = torch.from_numpy(raw)[: tensor.numel() * tensor.element_size()].view(tensor.dtype)
        return flat.copy_(tensor.reshape(-1)).view(tensor.shape)


class Emulated(Driver):
    """Runs the host build of the same sources, through a driver that needs no GPU."""

    library = "{cubins}/emulated/libcuda.so.1"


class Device(Driver):
    """Runs the cubins on PyTorch's current device and stream."""

    device = "cuda"

    def make_context(self):
        torch.zeros(1, device="cuda")

    def stream(self):
        return torch.cuda.current_stream().cuda_stream

    def synchronize(self):
        torch.cuda.synchronize()

    def place(self, tensor):
        return tensor.cuda()
