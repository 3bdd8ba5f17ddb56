"""Runs an ONNX pipeline folder with ONNX Runtime: prompt in, image out. The plain path, with nothing remembered."""

import json
from pathlib import Path

import diffusers
import numpy as np
import onnxruntime as ort
import torch
from tokenizers import Tokenizer


class OnnxPipeline:
    """Text encoder, U-Net and decoder sessions, with the tokenizer and scheduler of the folder."""

    def __init__(self, folder, threads=2):
        self.folder = Path(folder)
        self.options = ort.SessionOptions()
        self.options.intra_op_num_threads = threads
        self.text_encoder = self._session("text_encoder")
        self.unet = self._session("unet")
        self.decoder = self._session("vae_decoder")
        self.tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer" / "tokenizer.json"))
        self.text = self._json("text_encoder/config.json")
        self.scaling = self._json("vae_decoder/config.json")["scaling_factor"]
        self.size = self._json("unet/config.json")["sample_size"]
        config = self._json("scheduler/scheduler_config.json")
        self.scheduler = getattr(diffusers, config["_class_name"]).from_config(config)

    def _session(self, name):
        path = str(self.folder / name / "model.onnx")
        return ort.InferenceSession(path, self.options, providers=["CPUExecutionProvider"])

    def _json(self, name):
        return json.loads((self.folder / name).read_text())

    def ids(self, prompt):
        """Token ids cut and padded to the encoder's length, begin and end tokens included."""
        length = self.text["max_position_embeddings"]
        self.tokenizer.no_truncation()
        inner = self.tokenizer.encode(prompt, add_special_tokens=False).ids[: length - 2]
        ids = [self.text["bos_token_id"], *inner, self.text["eos_token_id"]]
        return np.array(ids + [self.text["pad_token_id"]] * (length - len(ids)), np.int64)

    def context(self, prompt, negative=""):
        """Hidden states of (negative, prompt) [2,T,C]."""
        ids = np.stack([self.ids(negative), self.ids(prompt)])
        return self.text_encoder.run(["last_hidden_state"], {"input_ids": ids})[0]

    def latents(self, prompt, seed=0, steps=20, guidance=5.0):
        """The final latents [1,4,h,w] of a guided generation."""
        self.scheduler.set_timesteps(steps)
        context = self.context(prompt)
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(1, 4, self.size, self.size, generator=generator) * self.scheduler.init_noise_sigma
        for t in self.scheduler.timesteps:
            scaled = self.scheduler.scale_model_input(x, t).numpy()
            feeds = {
                "sample": np.concatenate([scaled, scaled]),
                "timestep": np.array(t, np.float32),
                "encoder_hidden_states": context,
            }
            without, given = torch.from_numpy(self.unet.run(None, feeds)[0]).chunk(2)
            guided = without + guidance * (given - without) if guidance > 1 else given
            x = self.scheduler.step(guided, t, x).prev_sample
        return x.numpy()

    def decode(self, latents):
        """An RGB image [H,W,3] in [0,1]."""
        image = self.decoder.run(None, {"latent_sample": latents / np.float32(self.scaling)})[0][0]
        return np.clip(image.transpose(1, 2, 0) / 2 + 0.5, 0, 1)
