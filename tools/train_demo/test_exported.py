"""python -m pytest tools/train_demo"""

from pathlib import Path

import numpy as np
import onnxruntime
import torch

import folder as folders

DEMO = Path(__file__).resolve().parents[2] / "models" / "demo"


def run(part, **given):
    session = onnxruntime.InferenceSession(DEMO / part / "model.onnx", providers=["CPUExecutionProvider"])
    return session.run(None, given)[0]


@torch.no_grad()
def test_the_exported_weights_compute_the_same_in_torch():
    vae, scale, unet, text_encoder, encode = folders.load(DEMO, "cpu")
    rng = np.random.default_rng(0)
    latents, ids = rng.standard_normal((2, 4, 8, 8), np.float32), np.array(encode(["a red car", ""]))
    context = text_encoder(torch.from_numpy(ids)).numpy()
    assert 0.5 < scale < 1
    # f32 sums in another order; outputs are of size 1 to 10
    np.testing.assert_allclose(run("text_encoder", input_ids=ids), context, atol=1e-3)
    predicted = unet(torch.from_numpy(latents), 500, torch.from_numpy(context)).sample.numpy()
    given = dict(sample=latents, timestep=np.array(500, np.float32), encoder_hidden_states=context)
    np.testing.assert_allclose(run("unet", **given), predicted, atol=1e-3)
    image = vae.decode(torch.from_numpy(latents)).sample.numpy()
    np.testing.assert_allclose(run("vae_decoder", latent_sample=latents), image, atol=1e-3)
    moments = vae.quant_conv(vae.encoder(torch.from_numpy(image))).numpy()
    np.testing.assert_allclose(run("vae_encoder", sample=image), moments, atol=1e-3)
