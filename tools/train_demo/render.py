"""Scenes to pixels, a batch at a time, on any device."""

import numpy as np
import torch

from textures import HORIZON, SIZE, draw_all
from world import AT, VARIANTS

CELL = 8  # pixels of one latent
COLUMNS = (96, 256, 416)  # centres of left, middle, right
OBJECT_TOP, SKY_TOP = 240, 8  # of the windows in which objects are shifted


def premultiplied(rgba, device, dtype):
    x = torch.from_numpy(np.ascontiguousarray(rgba)).to(device).permute(0, 3, 1, 2).to(dtype) / 255
    return torch.cat([x[:, :3] * x[:, 3:], x[:, 3:]], 1) if x.shape[1] == 4 else x


def over(image, layer):
    image.mul_(1 - layer[:, 3:]).add_(layer[:, :3])


class Renderer:
    def __init__(self, sprites, device="cpu", dtype=torch.float32):
        """`sprites`: path of sprites.npz."""
        columns = np.load(sprites)
        layers = {name: premultiplied(layer, device, dtype) for name, layer in draw_all().items()}
        self.skies = layers["skies"]
        self.fireworks = layers["fireworks"][:, :, :HORIZON].contiguous()
        self.midgrounds = layers["midgrounds"][:, :, :HORIZON].contiguous()
        self.grounds = layers["grounds"][:, :, HORIZON:].contiguous()
        self.river = layers["river"][:, :, HORIZON:].contiguous()
        self.objects = self.pad(premultiplied(columns["ground_rgba"], device, dtype))
        self.sky_objects = self.pad(premultiplied(columns["sky_rgba"], device, dtype))
        self.device = device

    @staticmethod
    def pad(sprites):
        """Room to shift by a cell either way, and an empty last sprite that -1 points at."""
        sprites = torch.cat([sprites, torch.zeros_like(sprites[:1])])
        return torch.nn.functional.pad(sprites, (2 * CELL,) * 4)

    def place(self, image, sprites, index, shift, top, centre):
        window = sprites.shape[-1] - 2 * CELL
        steps = torch.arange(window, device=self.device)
        rows = 2 * CELL - shift // 3 * CELL
        columns = 2 * CELL - shift % 3 * CELL
        rows, columns = rows[:, None] + steps, columns[:, None] + steps
        channels = torch.arange(4, device=self.device)
        drawn = sprites[
            index[:, None, None, None], channels[None, :, None, None], rows[:, None, :, None], columns[:, None, None, :]
        ]
        left = centre - window // 2
        over(image[:, :, top : top + window, left : left + window], drawn)

    @torch.no_grad()
    def __call__(self, scenes):
        """Scenes [n, fields] to images [n, 3, 512, 512] in 0..1."""
        scenes = torch.as_tensor(scenes, device=self.device).long()

        def at(name):
            return scenes[:, AT[name]]

        image = self.skies[at("sky")]
        above, below = image[:, :, :HORIZON], image[:, :, HORIZON:]
        over(above, self.fireworks[at("fireworks") * VARIANTS + at("fireworks_variant")])
        over(above, self.midgrounds[at("midground") * VARIANTS + at("midground_variant")])
        over(below, self.grounds[at("ground")])
        over(below, self.river[at("river")])
        for i in range(3):
            self.place(image, self.sky_objects, at(f"sky_object{i}"), at(f"shift{3 + i}"), SKY_TOP, COLUMNS[i])
        for i in range(3):
            self.place(image, self.objects, at(f"object{i}"), at(f"shift{i}"), OBJECT_TOP, COLUMNS[i])
        return image


assert SIZE == 64 * CELL
