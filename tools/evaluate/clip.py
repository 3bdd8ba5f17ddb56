"""A CLIP pair of ONNX files as judge of edits.

A folder with image_encoder.onnx, text_encoder.onnx, tokenizer.json and preprocessor_config.json: `models/demo-judge`,
or any export of CLIP's two towers with projection (optimum's names for inputs and outputs).
"""

import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image
from tokenizers import Tokenizer

CONTEXT = 77
INTEGERS = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}


def unit(vectors):
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


class Preprocessing:
    """What preprocessor_config.json says to do with an RGB image; absent steps are taken as CLIP's."""

    def __init__(self, config):
        self.config = config

    def resize(self, image):
        size = self.config.get("size", 224)
        size = {"shortest_edge": size} if isinstance(size, int) else size
        if "shortest_edge" in size:
            scale = size["shortest_edge"] / min(image.size)
            wanted = tuple(round(side * scale) for side in image.size)
        else:
            wanted = (size["width"], size["height"])
        if not self.config.get("do_resize", True) or wanted == image.size:
            return image
        return image.resize(wanted, Image.Resampling(self.config.get("resample", Image.Resampling.BICUBIC)))

    def crop(self, image):
        size = self.config.get("crop_size")
        if size is None or not self.config.get("do_center_crop", True):
            return image
        width, height = (size, size) if isinstance(size, int) else (size["width"], size["height"])
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return image.crop((left, top, left + width, top + height))

    def __call__(self, image):
        """[3, height, width]"""
        pixels = np.asarray(self.crop(self.resize(image.convert("RGB"))), np.float32)
        if self.config.get("do_rescale", True):
            pixels = pixels * self.config.get("rescale_factor", 1 / 255)
        if self.config.get("do_normalize", "image_mean" in self.config):
            pixels = (pixels - np.float32(self.config["image_mean"])) / np.float32(self.config["image_std"])
        return np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32)


class Clip:
    def __init__(self, folder, threads=0):
        """`threads`: 0 leaves it to ONNX Runtime."""
        folder, options = Path(folder), onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.image_session, self.text_session = (
            onnxruntime.InferenceSession(folder / f"{name}_encoder.onnx", options, ["CPUExecutionProvider"])
            for name in ("image", "text")
        )
        self.preprocessing = Preprocessing(json.loads((folder / "preprocessor_config.json").read_text()))
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(CONTEXT)
        if self.tokenizer.padding is None:
            end = self.tokenizer.token_to_id("<|endoftext|>")
            self.tokenizer.enable_padding(length=CONTEXT, pad_id=end, pad_token="<|endoftext|>")
        self.known = {}

    def images(self, images):
        """PIL images to unit vectors [n, width]."""
        pixels = np.stack([self.preprocessing(image) for image in images])
        given = {self.image_session.get_inputs()[0].name: pixels}
        return unit(embeddings(self.image_session, "image_embeds", given))

    def texts(self, texts):
        """To unit vectors [n, width]; a text is read once."""
        new = list(dict.fromkeys(text for text in texts if text not in self.known))
        if new:
            encoded = self.tokenizer.encode_batch(new)
            columns = {"input_ids": "ids", "attention_mask": "attention_mask"}
            given = {
                entry.name: np.array([getattr(e, columns[entry.name]) for e in encoded], INTEGERS[entry.type])
                for entry in self.text_session.get_inputs()
            }
            self.known.update(zip(new, unit(embeddings(self.text_session, "text_embeds", given))))
        return np.stack([self.known[text] for text in texts])


def embeddings(session, name, given):
    """The output of that name, or the first one."""
    names = [output.name for output in session.get_outputs()]
    return session.run([name if name in names else names[0]], given)[0]


def similarities(base, edited, old, new):
    """The paper's three metrics, for unit vectors of base image, edited image, old text and new text.

    `image`: how much of the picture stays. `directional`: whether it moved where the words moved; None when either did
    not move. `success`: whether the edited picture fits the new words better than the base does.
    """
    moved, said = edited - base, new - old
    lengths = np.linalg.norm(moved) * np.linalg.norm(said)
    return {
        "image": float(base @ edited),
        "directional": float(moved @ said / lengths) if lengths > 1e-9 else None,
        "text": float(edited @ new),
        "success": bool(edited @ new > base @ new),
        "prefers": bool(edited @ new > edited @ old),
    }
