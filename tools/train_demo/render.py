"""Scenes to pixels, a batch at a time, on any device."""

import numpy as np
import torch

import wide
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

    def backdrop(self, rows):
        """Everything behind the objects: both worlds' rows begin with it."""
        sky, ground, midground, midground_variant, river, fireworks, fireworks_variant = rows.unbind(1)
        image = self.skies[sky]
        above, below = image[:, :, :HORIZON], image[:, :, HORIZON:]
        over(above, self.fireworks[fireworks * VARIANTS + fireworks_variant])
        over(above, self.midgrounds[midground * VARIANTS + midground_variant])
        over(below, self.grounds[ground])
        over(below, self.river[river])
        return image

    @torch.no_grad()
    def __call__(self, scenes):
        """Scenes [n, fields] to images [n, 3, 512, 512] in 0..1."""
        scenes = torch.as_tensor(scenes, device=self.device).long()

        def at(name):
            return scenes[:, AT[name]]

        image = self.backdrop(scenes[:, : len(wide.BACKDROP)])
        for i in range(3):
            self.place(image, self.sky_objects, at(f"sky_object{i}"), at(f"shift{3 + i}"), SKY_TOP, COLUMNS[i])
        for i in range(3):
            self.place(image, self.objects, at(f"object{i}"), at(f"shift{i}"), OBJECT_TOP, COLUMNS[i])
        return image


class WideRenderer:
    """The wide world's scenes (wide.py): things of several sizes, anywhere."""

    def __init__(self, sprites, usual):
        """`sprites`: path of sprites.npz; `usual`: a Renderer, whose backdrops and device are used."""
        columns = np.load(sprites)
        self.usual, self.device, kind = usual, usual.device, usual.skies.dtype
        self.sprites = {}
        for cast, name in enumerate(("ground", "sky", "face")):
            large = premultiplied(columns[f"{name}_large"], usual.device, torch.float32)
            for side in wide.SIZES[cast]:
                if name != "face" and side == wide.SIZES[cast][1]:
                    layers = premultiplied(columns[f"{name}_rgba"], usual.device, torch.float32)
                else:
                    layers = scaled(large, side)
                empty = torch.zeros_like(layers[:1])
                self.sprites[cast, side] = torch.nn.functional.pad(torch.cat([layers, empty]), (1, 1, 1, 1)).to(kind)

    @torch.no_grad()
    def __call__(self, rows):
        """Rows [n, fields] to images [n, 3, 512, 512] in 0..1."""
        rows = torch.as_tensor(rows, device=self.device).long()
        image = self.usual.backdrop(rows[:, : len(wide.BACKDROP)])
        for thing in rows[:, len(wide.BACKDROP) :].unflatten(1, (wide.THINGS, -1)).unbind(1):
            for (cast, side), sprites in self.sprites.items():
                mine = ((thing[:, 0] == cast) & (thing[:, 2] == side) & (thing[:, 1] >= 0)).nonzero()[:, 0]
                if len(mine):
                    self.draw(image, mine, sprites, cast, thing[mine])
        return image

    def draw(self, image, mine, sprites, cast, thing):
        side, pixels = sprites.shape[-1] - 2, torch.arange(SIZE, device=self.device)
        feet = round(side * 151 / 160) if cast == wide.GROUND else side // 2
        rows = (pixels - (thing[:, 4:5] - feet) + 1).clamp(0, side + 1)
        columns = (pixels - (thing[:, 3:4] - side // 2) + 1).clamp(0, side + 1)
        channels = torch.arange(4, device=self.device)
        layer = sprites[
            thing[:, 1, None, None, None],
            channels[None, :, None, None],
            rows[:, None, :, None],
            columns[:, None, None, :],
        ]
        image[mine] = image[mine] * (1 - layer[:, 3:]) + layer[:, :3]


def scaled(layers, side):
    parts = layers.split(32)
    sizes = dict(size=(side, side), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([torch.nn.functional.interpolate(part, **sizes).clamp(0, 1) for part in parts])


assert SIZE == 64 * CELL
