"""The fixed layers of a scene: skies, midgrounds, grounds, river, fireworks; drawn once at twice the size."""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from world import GROUNDS, MIDGROUNDS, SKIES, VARIANTS

SIZE, HORIZON = 512, 272
BIG = 2 * SIZE


def gradient(top, bottom, y0, y1):
    t = np.clip((np.arange(BIG) / 2 - y0) / (y1 - y0), 0, 1)[:, None, None]
    rows = np.array(top) * (1 - t) + np.array(bottom) * t
    return Image.fromarray(np.broadcast_to(rows, (BIG, BIG, 3)).round().astype(np.uint8), "RGB").convert("RGBA")


def finish(image):
    return np.asarray(image.resize((SIZE, SIZE), Image.LANCZOS))


def cloud(draw, x, y, scale, fill):
    for dx, dy, r in ((-46, 8, 24), (-16, -8, 34), (22, -2, 30), (50, 10, 22)):
        draw.ellipse(
            (x + (dx - r) * scale, y + (dy - r) * scale, x + (dx + r) * scale, y + (dy + r) * scale), fill=fill
        )
    draw.rounded_rectangle(
        (x - 70 * scale, y + 2 * scale, x + 72 * scale, y + 32 * scale), radius=15 * scale, fill=fill
    )


def sky(name):
    rng = np.random.default_rng(3)
    colours = {
        "blue": ((84, 160, 240), (196, 230, 252)),
        "sunset": ((232, 88, 84), (255, 208, 112)),
        "night": ((12, 16, 52), (52, 60, 118)),
        "cloudy": ((138, 148, 162), (202, 208, 216)),
        "pink": ((226, 128, 190), (255, 220, 226)),
        "aurora": ((8, 22, 44), (24, 66, 82)),
    }
    image = gradient(*colours[name], 0, HORIZON)
    layer = Image.new("RGBA", (BIG, BIG))
    draw = ImageDraw.Draw(layer)
    if name in ("night", "aurora"):
        for _ in range(70):
            x, y, r = rng.uniform(0, BIG), rng.uniform(0, 2 * HORIZON), rng.choice((2.4, 3.2, 4.4))
            draw.ellipse((x - r, y - r, x + r, y + r), fill=(255, 250, 225, 255))
    if name == "cloudy":
        for x, y, s, shade in (
            (150, 130, 2.0, 226),
            (520, 70, 1.6, 214),
            (860, 170, 2.1, 230),
            (380, 300, 1.7, 218),
            (720, 380, 1.8, 226),
        ):
            cloud(draw, x, y, s, (shade, shade + 3, shade + 8, 255))
    if name == "sunset":
        for x, y, w in ((120, 330, 360), (560, 250, 420), (300, 430, 520), (40, 180, 260), (700, 400, 330)):
            draw.rounded_rectangle((x, y, x + w, y + 18), radius=9, fill=(255, 224, 160, 150))
    if name == "blue":
        for x, y, s in ((170, 400, 1.1), (880, 350, 1.0)):
            cloud(draw, x, y, s, (255, 255, 255, 235))
    if name == "pink":
        for x, y, s in ((300, 400, 1.2), (780, 300, 1.1)):
            cloud(draw, x, y, s, (255, 238, 244, 230))
    image.alpha_composite(layer)
    if name == "aurora":
        glow = Image.new("RGBA", (BIG, BIG))
        draw = ImageDraw.Draw(glow)
        for offset, colour in ((0, (60, 235, 150, 150)), (110, (40, 200, 190, 120))):
            top = [(x, 130 + offset + 60 * math.sin(x / 130 + offset)) for x in range(0, BIG + 8, 8)]
            draw.polygon(top + [(x, y + 150) for x, y in reversed(top)], fill=colour)
        image.alpha_composite(glow.filter(ImageFilter.GaussianBlur(26)))
    return finish(image.convert("RGB"))


def midground(name, variant):
    rng = np.random.default_rng({"mountains": 10, "hills": 20, "skyline": 30, "forest": 40}[name] + variant)
    image = Image.new("RGBA", (BIG, BIG))
    draw = ImageDraw.Draw(image)
    base = 2 * HORIZON
    if name == "mountains":
        peaks = (
            ((130, 190), (400, 252), (660, 200), (900, 246))
            if variant == 0
            else ((60, 236), (330, 196), (590, 256), (880, 206))
        )
        for x, height in sorted(peaks, key=lambda p: p[1]):
            half, top = height * 0.95, base - height
            draw.polygon(((x - half, base), (x, top), (x + half, base)), fill=(104, 116, 146, 255))
            draw.polygon(((x, top), (x + half, base), (x + half * 0.1, base)), fill=(84, 95, 126, 255))
            k = 0.42
            zigzag = [
                (x + half * k * u, top + height * (k + v))
                for u, v in ((1, 0), (0.6, 0.06), (0.3, -0.06), (0, 0.08), (-0.3, -0.05), (-0.65, 0.06), (-1, 0))
            ]
            draw.polygon([(x, top)] + zigzag, fill=(246, 249, 253, 255))
    if name == "hills":
        for amplitude, wave, lift, colour in ((40, 1.9, 130, (108, 176, 104, 255)), (34, 2.8, 78, (70, 142, 84, 255))):
            phase = variant * 2.4 + lift
            line = [
                (x, base - lift - amplitude * math.sin(x / BIG * wave * math.tau + phase)) for x in range(0, BIG + 8, 8)
            ]
            draw.polygon(line + [(BIG, base), (0, base)], fill=colour)
    if name == "skyline":
        x = 0
        while x < BIG:
            width, height = int(rng.choice((64, 80, 96))), int(rng.choice((90, 130, 170, 210, 250)))
            shade = int(rng.choice((58, 70, 84)))
            draw.rectangle((x, base - height, x + width, base), fill=(shade, shade + 8, shade + 26, 255))
            for wy in range(base - height + 16, base - 20, 32):
                for wx in range(x + 10, x + width - 16, 24):
                    draw.rectangle(
                        (wx, wy, wx + 11, wy + 15),
                        fill=(250, 214, 110, 255) if rng.random() < 0.6 else (shade + 26, shade + 34, shade + 54, 255),
                    )
            x += width
    if name == "forest":
        for row, (lift, colour) in enumerate(((40, (34, 92, 66, 255)), (0, (22, 70, 50, 255)))):
            for i in range(-1, 13):
                x, height = i * 88 + row * 44 + variant * 22, int(rng.choice((140, 170, 200)))
                for k in range(3):
                    top, half = base - lift - height + k * height * 0.24, 26 + 13 * k
                    draw.polygon(
                        ((x, top), (x - half, top + height * 0.46), (x + half, top + height * 0.46)), fill=colour
                    )
            draw.rectangle((0, base - lift - 46, BIG, base), fill=colour)
    layer = np.array(finish(image))
    layer[HORIZON:] = 0
    return layer


def ground(name):
    rng = np.random.default_rng(7)
    colours = {
        "grass": ((122, 198, 84), (66, 142, 52)),
        "sand": ((246, 224, 164), (222, 186, 116)),
        "snow": ((248, 251, 254), (212, 226, 244)),
        "water": ((92, 172, 226), (28, 96, 172)),
        "road": ((128, 130, 138), (78, 80, 88)),
        "leaves": ((214, 138, 62), (158, 84, 38)),
    }
    image = gradient(*colours[name], HORIZON, SIZE)
    draw = ImageDraw.Draw(image, "RGBA")
    for i in range(46):
        depth = (i + 0.5) / 46
        x, y, s = rng.uniform(0, BIG), 2 * HORIZON + 16 + depth * (BIG - 2 * HORIZON - 16), 0.5 + depth
        if name == "grass":
            for lean in (-8, 0, 8):
                draw.line((x, y, x + lean * s, y - 20 * s), fill=(52, 122, 44, 255), width=int(5 * s))
        if name == "sand":
            draw.arc(
                (x - 80 * s, y - 14 * s, x + 80 * s, y + 24 * s), 200, 340, fill=(206, 168, 102, 255), width=int(5 * s)
            )
        if name == "snow":
            draw.arc(
                (x - 90 * s, y - 12 * s, x + 90 * s, y + 28 * s), 200, 340, fill=(188, 208, 234, 255), width=int(6 * s)
            )
        if name == "water":
            for k in (-1, 1):
                draw.arc(
                    (x - 34 * s + 34 * k * s, y - 12 * s, x + 34 * s + 34 * k * s, y + 14 * s),
                    0,
                    180,
                    fill=(176, 220, 248, 255),
                    width=int(5 * s),
                )
        if name == "leaves":
            colour = ((196, 62, 36, 255), (238, 178, 62, 255), (124, 62, 30, 255))[i % 3]
            draw.polygon(((x, y - 12 * s), (x + 20 * s, y), (x, y + 12 * s), (x - 20 * s, y)), fill=colour)
    if name == "road":
        for k in range(4):
            y0, y1 = 2 * HORIZON + 30 + 120 * k, 2 * HORIZON + 100 + 120 * k
            w0, w1 = 8 + 7 * k, 12 + 7 * k
            draw.polygon(
                ((BIG / 2 - w0, y0), (BIG / 2 + w0, y0), (BIG / 2 + w1, y1), (BIG / 2 - w1, y1)),
                fill=(248, 212, 74, 255),
            )
        for side in (-1, 1):
            draw.polygon(
                (
                    (BIG / 2 + side * 300, 2 * HORIZON),
                    (BIG / 2 + side * 316, 2 * HORIZON),
                    (BIG / 2 + side * 520, BIG),
                    (BIG / 2 + side * 486, BIG),
                ),
                fill=(240, 240, 240, 255),
            )
    layer = np.array(finish(image))
    layer[:HORIZON] = 0
    return layer


def river():
    image = Image.new("RGBA", (BIG, BIG))
    draw = ImageDraw.Draw(image)
    upper = [(x, 876 + 12 * math.sin(x / 110)) for x in range(0, BIG + 8, 8)]
    lower = [(x, 996 + 12 * math.sin(x / 130 + 1)) for x in range(0, BIG + 8, 8)]
    draw.polygon([(x, y - 8) for x, y in upper] + [(x, y + 8) for x, y in reversed(lower)], fill=(120, 96, 62, 255))
    draw.polygon(upper + lower[::-1], fill=(66, 158, 226, 255))
    for i in range(13):
        x, y = 30 + i * 80, 906 + (i * 37) % 66
        draw.arc((x - 34, y - 10, x + 34, y + 14), 200, 340, fill=(190, 230, 252, 255), width=7)
    return finish(image)


def fireworks(variant):
    image = Image.new("RGBA", (BIG, BIG))
    draw = ImageDraw.Draw(image)
    bursts = ((190, 250, 120, (255, 84, 70)), (520, 190, 140, (255, 222, 84)), (840, 270, 124, (104, 208, 255)))
    if variant:
        bursts = ((200, 190, 130, (104, 208, 255)), (510, 270, 124, (255, 110, 200)), (830, 200, 134, (255, 222, 84)))
    for x, y, radius, colour in bursts:
        for i in range(16):
            c, s = math.cos(i * math.tau / 16), math.sin(i * math.tau / 16)
            reach = radius * (1.0 if i % 2 else 0.72)
            draw.line(
                (x + c * radius * 0.24, y + s * radius * 0.24, x + c * reach, y + s * reach),
                fill=(*colour, 255),
                width=10,
            )
            draw.ellipse(
                (x + c * reach - 9, y + s * reach - 9, x + c * reach + 9, y + s * reach + 9), fill=(255, 255, 255, 255)
            )
        draw.ellipse((x - 14, y - 14, x + 14, y + 14), fill=(255, 255, 255, 255))
    return finish(image)


def draw_all():
    """Every layer as uint8 RGBA [n, 512, 512, 4] (skies RGB), in the order of world.py's names."""
    empty = np.zeros((SIZE, SIZE, 4), np.uint8)
    return dict(
        skies=np.stack([sky(name) for name in SKIES]),
        midgrounds=np.stack(
            [empty if not name else midground(name, v) for name in MIDGROUNDS for v in range(VARIANTS)]
        ),
        grounds=np.stack([ground(name) for name in GROUNDS]),
        river=np.stack([empty, river()]),
        fireworks=np.stack([empty] * VARIANTS + [fireworks(v) for v in range(VARIANTS)]),
    )
