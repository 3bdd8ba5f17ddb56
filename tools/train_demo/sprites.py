"""Noto Emoji drawings, rasterised once into one small file.

    npm pack @iconify-json/noto && tar xzf iconify-json-noto-*.tgz
    python sprites.py package/icons.json sprites.npz [--sheet sheet.png]

Every ground object becomes 160x160 RGBA with a soft shadow under it, every sky object 112x112 RGBA. An object that
comes in colours is stored once per colour, its main hue turned. The same drawings 384 and 224 pixels wide, and the
faces of some animals, are for the wide world (wide.py).
"""

import argparse
import io
import json

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

GROUND_SIZE, SKY_SIZE = 160, 112
COLOURS = {"red": 0, "yellow": 48, "green": 125, "blue": 215, "purple": 275, "pink": 325}  # hue in degrees

# name=icon; without "=" the icon has the object's name
GROUND = """
dog cat rabbit horse cow pig sheep=ewe elephant giraffe tiger zebra monkey kangaroo turtle crocodile camel duck penguin
flamingo peacock rooster owl snail crab octopus hedgehog squirrel=chipmunk dinosaur=sauropod lion=lion panda=panda
fox=fox bear=bear frog=frog orange=tangerine banana watermelon strawberry pineapple carrot mushroom
pumpkin=jack-o-lantern pizza hamburger cake=birthday-cake ice-cream bus truck=delivery-truck tractor
fire-truck=fire-engine bicycle motorcycle train=locomotive boat=sailboat
castle church fountain ferris-wheel tree=deciduous-tree
pine-tree=evergreen-tree palm-tree cactus sunflower rose clock=mantelpiece-clock television drum soccer-ball basketball
trophy crown top-hat teddy-bear robot snowman ghost rocket bell candle diamond=gem-stone
""".split()
COLOURED_GROUND = """
car=automobile:red house=house:red tent=tent:yellow tulip:pink balloon:red umbrella:purple gift=wrapped-gift:yellow
heart=red-heart:red book=closed-book:red backpack:red guitar:red apple=red-apple:red chair:yellow
""".split()
SKY = """
sun full-moon crescent-moon rainbow airplane helicopter flying-saucer eagle dove bee=honeybee parrot
""".split()
COLOURED_SKY = "butterfly:blue kite:red bird:blue".split()
FACES = """
cat=cat-face dog=dog-face rabbit=rabbit-face horse=horse-face cow=cow-face pig=pig-face tiger=tiger-face
monkey=monkey-face lion panda fox bear frog
""".split()
LARGE_GROUND, LARGE_SKY = 2.4, 2  # of the sizes above


def read_icon(icons, aliases, name):
    for candidate in (name, name + "-face"):
        candidate = aliases.get(candidate, {}).get("parent", candidate)
        if candidate in icons:
            return icons[candidate]
    raise SystemExit(f"no icon called {name}")


def rasterise(icon, size):
    import resvg_py

    width, height = icon.get("width", 128), icon.get("height", 128)
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}" width="{size}" height="{size}">{icon["body"]}</svg>'
    )
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size))
    return Image.open(io.BytesIO(png)).convert("RGBA")


def fit(drawing, width, height):
    """Crop to what is drawn, scale to fit width x height."""
    drawing = drawing.crop(drawing.getchannel("A").point(lambda a: 255 * (a > 8)).getbbox())
    scale = min(width / drawing.width, height / drawing.height)
    return drawing.resize((round(drawing.width * scale), round(drawing.height * scale)), Image.LANCZOS)


def stand(drawing, scale=1):
    """A ground object: bottom-aligned on its own shadow."""
    size, middle = round(GROUND_SIZE * scale), 80 * scale
    drawing = fit(drawing, 150 * scale, 148 * scale)
    canvas = Image.new("RGBA", (size, size))
    half = min(drawing.width // 2 + 4 * scale, 72 * scale)
    shadow = (middle - half, 138 * scale, middle + half, 156 * scale)
    ImageDraw.Draw(canvas).ellipse(shadow, fill=(10, 15, 25, 90))
    canvas = canvas.filter(ImageFilter.GaussianBlur(2 * scale))
    canvas.alpha_composite(drawing, ((size - drawing.width) // 2, round(151 * scale) - drawing.height))
    return canvas


def float_up(drawing, scale=1):
    """A sky object: centred, no shadow."""
    size = round(SKY_SIZE * scale)
    drawing = fit(drawing, 106 * scale, 104 * scale)
    canvas = Image.new("RGBA", (size, size))
    canvas.alpha_composite(drawing, ((size - drawing.width) // 2, (size - drawing.height) // 2))
    return canvas


def main_hue(drawing):
    hsv = np.asarray(drawing.convert("RGB").convert("HSV")).astype(int)
    strong = (hsv[..., 1] > 90) & (hsv[..., 2] > 60) & (np.asarray(drawing)[..., 3] > 128)
    counts = np.bincount(hsv[..., 0][strong], minlength=256)
    return int(np.argmax(counts + np.roll(counts, 1) + np.roll(counts, -1)))


def recolour(drawing, colour):
    """Turn the main hue (and its neighbours within 40 degrees) to the colour; others stay."""
    hue = main_hue(drawing)
    hsv = np.array(drawing.convert("RGB").convert("HSV"))
    distance = np.abs((hsv[..., 0].astype(int) - hue + 128) % 256 - 128)
    own = (distance < 28) & (hsv[..., 1] > 40)
    hsv[..., 0] = np.where(own, round(COLOURS[colour] / 360 * 255), hsv[..., 0])
    if colour == "pink":
        hsv[..., 1] = np.where(own, hsv[..., 1] * 0.62, hsv[..., 1])
        hsv[..., 2] = np.where(own, 255 - (255 - hsv[..., 2]) * 0.35, hsv[..., 2])
    if colour in ("yellow", "green"):
        lift = 0.35 if colour == "yellow" else 0.8
        hsv[..., 2] = np.where(own, 255 - (255 - hsv[..., 2].astype(float)) * lift, hsv[..., 2])
    if colour == "green":
        hsv[..., 2] = np.where(own, hsv[..., 2] * 0.82, hsv[..., 2])
    rgb = Image.fromarray(hsv, "HSV").convert("RGB")
    return Image.merge("RGBA", (*rgb.split(), drawing.getchannel("A")))


def build(icon_set, plain, coloured, place, size=320):
    """Rows of (name, colour or "", whether the colour is the object's own, RGBA), drawn at `size` before placing."""
    icons, aliases = icon_set["icons"], icon_set["aliases"]
    rows = []
    for entry in plain:
        name, _, source = entry.partition("=")
        drawing = rasterise(read_icon(icons, aliases, source or name), size)
        rows.append((name.replace("-", " "), "", True, np.asarray(place(drawing))))
    for entry in coloured:
        entry, _, own_colour = entry.partition(":")
        name, _, source = entry.partition("=")
        drawing = rasterise(read_icon(icons, aliases, source or name), size)
        for colour in COLOURS:
            rows.append(
                (name.replace("-", " "), colour, colour == own_colour, np.asarray(place(recolour(drawing, colour))))
            )
    return rows


def save(path, ground, sky, large):
    columns = {f"{kind}_large": np.stack([row[3] for row in rows]) for kind, rows in large.items()}
    columns["face_names"] = np.array([row[0] for row in large["face"]])
    for kind, rows in (("ground", ground), ("sky", sky)):
        columns[f"{kind}_names"] = np.array([row[0] for row in rows])
        columns[f"{kind}_colours"] = np.array([row[1] for row in rows])
        columns[f"{kind}_own"] = np.array([row[2] for row in rows])
        columns[f"{kind}_rgba"] = np.stack([row[3] for row in rows])
    np.savez_compressed(path, **columns)


def save_sheet(path, rows, columns=18, cell=84):
    height = -(-len(rows) // columns)
    sheet = Image.new("RGB", (columns * cell, height * cell), (186, 212, 186))
    for i, row in enumerate(rows):
        drawing = Image.fromarray(row[3]).resize((cell, cell), Image.LANCZOS)
        sheet.paste(drawing, (i % columns * cell, i // columns * cell), drawing)
    sheet.save(path)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("icons")
    arguments.add_argument("output")
    arguments.add_argument("--sheet")
    arguments = arguments.parse_args()
    icon_set = json.load(open(arguments.icons))
    ground = build(icon_set, GROUND, COLOURED_GROUND, stand)
    sky = build(icon_set, SKY, COLOURED_SKY, float_up)
    large = {
        "ground": build(icon_set, GROUND, COLOURED_GROUND, lambda d: stand(d, LARGE_GROUND), 768),
        "sky": build(icon_set, SKY, COLOURED_SKY, lambda d: float_up(d, LARGE_SKY), 512),
        "face": build(icon_set, FACES, (), lambda d: float_up(d, 384 / SKY_SIZE), 768),
    }
    save(arguments.output, ground, sky, large)
    if arguments.sheet:
        save_sheet(arguments.sheet, ground + sky)
    print(f"{len(ground)} ground sprites, {len(sky)} sky sprites")
