"""Packing keeps the output axis and the values: `python -m unittest` in this folder."""

import tempfile
import unittest
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import nn

from components import Component
from exporters import torchscript
from onnx_graph import share_equal_nodes
from onnx_weights import dequantize, pack, parameters, quantize, restore_torch_names, unpacked, weight_axes


class Everything(nn.Module):
    """One weight of every kind, channels of very different size along the output axis."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(50, 24)
        self.tokens = nn.Linear(24, 24)
        self.vector = nn.Linear(24, 40)
        self.conv = nn.Conv2d(24, 32, 3, padding=1)
        for layer in (self.tokens, self.vector, self.conv):
            weight = layer.weight
            layer.bias.data.zero_()
            weight.data.mul_(torch.logspace(-3, 1, len(weight)).reshape(-1, *[1] * (weight.dim() - 1)))

    def forward(self, ids):
        x = self.tokens(self.table(ids))
        image = x.transpose(1, 2).reshape(x.shape[0], 24, 4, 4)
        return self.conv(image), self.vector(x.mean(1))


def exported(module):
    ids = torch.arange(32).reshape(2, 16)
    component = Component("all", nn.Sequential(module), {}, {"ids": ids}, ["image", "vector"], {})
    with tempfile.TemporaryDirectory() as folder:
        torchscript(component, Path(folder) / "model.onnx", dynamic=False)
        model = onnx.load(Path(folder) / "model.onnx")
    return component, model, ids


def run(model, ids):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options).run(None, {"ids": ids.numpy()})


class Packing(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(0)
        self.component, self.model, self.ids = exported(Everything().eval())
        state = self.component.owner.state_dict()
        restore_torch_names(self.model.graph, state, self.component.prefix)

    def test_weights_are_found_by_name_with_their_output_axis(self):
        axes = weight_axes(self.model.graph, 100)
        wanted = {"table.weight": 0, "tokens.weight": 1, "vector.weight": 0, "conv.weight": 0}
        self.assertEqual(axes, wanted)

    def test_every_output_channel_keeps_its_own_precision(self):
        with torch.no_grad():
            wanted = self.component.module(self.ids)
        pack(self.model.graph, "int8", 100)
        for got, want in zip(run(self.model, self.ids), wanted):
            channels = np.moveaxis(got - want.numpy(), 1, 0).reshape(got.shape[1], -1)
            size = np.moveaxis(want.numpy(), 1, 0).reshape(got.shape[1], -1)
            error = np.sqrt((channels**2).mean(1) / (size**2).mean(1))
            self.assertLess(error.max(), 0.1)  # a MatMul packed along the wrong axis: 0.15

    def test_unpacked_is_what_the_runtime_computes_with(self):
        pack(self.model.graph, "int8", 100)
        packed = run(self.model, self.ids)
        values = unpacked(self.model.graph)
        names = {t.name: t for t in self.model.graph.initializer}
        for node in [n for n in self.model.graph.node if n.op_type == "DequantizeLinear"]:
            names[node.input[0]].CopyFrom(onnx.numpy_helper.from_array(values[node.input[0]], node.input[0]))
            node.op_type, node.input[:] = "Identity", node.input[:1]
            del node.attribute[:]
        for a, b in zip(packed, run(self.model, self.ids)):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)

    def test_a_packed_graph_gives_its_parameters_in_torch_layout(self):
        state = {name: value.numpy() for name, value in self.component.owner.state_dict().items()}
        pack(self.model.graph, "int8", 100)
        found = parameters(self.model.graph, {name: value.shape for name, value in state.items()})
        self.assertEqual(found.keys(), state.keys())
        for name, value in state.items():
            rows, got = value.reshape(len(value), -1), found[name].reshape(len(value), -1)
            self.assertTrue((np.abs(got - rows).mean(1) <= np.abs(rows).max(1) / 127).all(), name)

    def test_clipping_never_loses_to_the_largest_magnitude(self):
        weight = np.random.default_rng(0).standard_t(3, (16, 400)).astype(np.float32)
        q, scale = quantize(weight, 0)
        plain = np.abs(weight).max(1, keepdims=True) / 127
        rounded = np.rint(weight / plain) * plain
        self.assertTrue((((dequantize(q, scale, 0) - weight) ** 2).sum(1) <= ((rounded - weight) ** 2).sum(1)).all())

    def test_sharing_equal_nodes_changes_no_result(self):
        before = run(self.model, self.ids)
        share_equal_nodes(self.model.graph)
        for a, b in zip(before, run(self.model, self.ids)):
            np.testing.assert_array_equal(a, b)


if __name__ == "__main__":
    unittest.main()
