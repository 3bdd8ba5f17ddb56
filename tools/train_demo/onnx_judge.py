"""The exported judge, run by ONNX Runtime on the CPU."""

import onnxruntime
import torch


class OnnxJudge:
    def __init__(self, folder):
        self.image_session, self.text_session = (
            onnxruntime.InferenceSession(f"{folder}/{name}_encoder.onnx", providers=["CPUExecutionProvider"])
            for name in ("image", "text")
        )

    def image(self, images):
        return torch.from_numpy(self.image_session.run(None, {"pixel_values": images.cpu().numpy()})[0])

    def text(self, ids):
        ids = torch.as_tensor(ids, dtype=torch.int64).cpu().numpy()
        return torch.from_numpy(self.text_session.run(None, {"input_ids": ids})[0])
