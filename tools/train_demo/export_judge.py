"""The judge as two ONNX files with int8 weights, and its accuracy on held-out renders.

    python export_judge.py FOLDER OUT_FOLDER --sprites sprites.npz [--scenes 1000]

image_encoder.onnx  pixel_values [n, 3, 512, 512] in 0..1  ->  image_embeds [n, 128], unit length
text_encoder.onnx   input_ids [n, 77]                      ->  text_embeds [n, 128], unit length

Weights are stored as int8 with one scale per output channel and a DequantizeLinear; arithmetic stays float32.
"""

import argparse
import json
import os
import random
import shutil

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

import edits
import folder as folders
import tokenizer
from evaluate import held_out
from judge import retrieval
from onnx_judge import OnnxJudge
from render import Renderer
from world import load_casts

SMALLEST = 1024  # elements of a weight that is worth storing as int8


def channel_axis(node, weight):
    """The axis that has a scale of its own: output channels, or a row of the word table."""
    if node.op_type == "MatMul":
        return weight.ndim - 1
    return 0


def pack(path):
    model = onnx.load(path)
    graph = model.graph
    users = {name: node for node in reversed(graph.node) for name in node.input}
    packed, nodes = [], []
    for tensor in list(graph.initializer):
        weight = numpy_helper.to_array(tensor)
        node = users.get(tensor.name)
        if (
            weight.dtype != np.float32
            or weight.size < SMALLEST
            or node is None
            or node.op_type not in ("Conv", "MatMul", "Gemm", "Gather")
        ):
            continue
        axis = channel_axis(node, weight)
        others = tuple(i for i in range(weight.ndim) if i != axis)
        scale = np.maximum(np.abs(weight).max(others, keepdims=True), 1e-8) / 127
        values = np.clip(np.round(weight / scale), -127, 127).astype(np.int8)
        graph.initializer.remove(tensor)
        packed += [
            numpy_helper.from_array(values, tensor.name + ".int8"),
            numpy_helper.from_array(scale.reshape(-1).astype(np.float32), tensor.name + ".scale"),
        ]
        nodes.append(
            helper.make_node(
                "DequantizeLinear", [tensor.name + ".int8", tensor.name + ".scale"], [tensor.name], axis=axis
            )
        )
    graph.initializer.extend(packed)
    kept = list(graph.node)
    del graph.node[:]
    graph.node.extend(nodes + kept)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def export(module, example, path, given, got):
    torch.onnx.export(
        module,
        (example,),
        path,
        input_names=[given],
        output_names=[got],
        dynamic_axes={given: {0: "n"}, got: {0: "n"}},
        opset_version=17,
        dynamo=False,
    )
    pack(path)
    print(f"{path} {os.path.getsize(path) / 1024:.0f} KiB")


def measure(judge, encode, casts, renderer, count):
    """Retrieval among 100 and 20, and whether both pictures of an edit prefer their own words, by kind of edit."""
    scenes, texts = held_out(count, casts)
    seen = torch.cat([judge.image(renderer(part)) for part in np.array_split(scenes, max(1, count // 20))])
    said = judge.text(encode(texts))
    figures = {f"among_{among}": retrieval(seen, said, among) for among in (20, 100)}
    rng = random.Random(77)
    figures["prefers_own_words"] = {}
    for kind in edits.KINDS:
        pairs = [edits.sample_edit(rng, casts, kind) for _ in range(25)]
        words = [edits.captions(pair, casts) for pair in pairs]
        pictures = [judge.image(renderer([pair[side] for pair in pairs])) for side in (1, 2)]
        old, new = (judge.text(encode([pair[i] for pair in words])) for i in range(2))
        right = [((pictures[0] * (old - new)).sum(1) > 0), ((pictures[1] * (new - old)).sum(1) > 0)]
        figures["prefers_own_words"][kind] = torch.stack(right).float().mean().item()
    figures["prefers_own_words_mean"] = float(np.mean(list(figures["prefers_own_words"].values())))
    return figures


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder")
    arguments.add_argument("output")
    arguments.add_argument("--sprites", required=True)
    arguments.add_argument("--scenes", type=int, default=1000)
    arguments = arguments.parse_args()
    os.makedirs(arguments.output, exist_ok=True)
    encode, casts = tokenizer.load(f"{arguments.folder}/tokenizer"), load_casts(arguments.sprites)
    judge = folders.load_judge(arguments.folder, encode([""])[0][-1] + 1)
    export(
        judge.image,
        torch.rand(2, 3, 512, 512),
        f"{arguments.output}/image_encoder.onnx",
        "pixel_values",
        "image_embeds",
    )
    export(
        judge.text,
        torch.tensor(encode(["a dog on grass", "a cat"])),
        f"{arguments.output}/text_encoder.onnx",
        "input_ids",
        "text_embeds",
    )
    shutil.copy(f"{arguments.folder}/tokenizer/tokenizer.json", arguments.output)
    preprocessing = dict(
        size=dict(height=512, width=512),
        do_rescale=True,
        rescale_factor=1 / 255,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
    )
    json.dump(preprocessing, open(f"{arguments.output}/preprocessor_config.json", "w"), indent=1)
    figures = measure(OnnxJudge(arguments.output), encode, casts, Renderer(arguments.sprites), arguments.scenes)
    print(json.dumps(figures, indent=1))
