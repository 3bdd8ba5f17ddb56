"""Contact sheets: base, region, edited, the same without sparsity, their difference, with the words above."""

import textwrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import regions

COLUMNS = ("base", "mask red, truth outlined", "edited", "without sparsity", "difference × 4")
GAIN, RED, WHITE = 4, np.float32([255, 40, 40]), np.uint8([255, 255, 255])


def outline(region):
    """Pixels of the region's rim, two wide."""
    inner = region.copy()
    for axis in (0, 1):
        for shift in (-2, 2):
            inner &= np.roll(region, shift, axis)
    return region & ~inner


def overlay(base, mask, truth):
    picture = base.copy()
    if mask is not None:
        inside = regions.to_pixels(mask, base.shape[:2])
        picture[inside] = (0.5 * picture[inside] + 0.5 * RED).astype(np.uint8)
    if truth is not None:
        picture[outline(regions.to_pixels(truth, base.shape[:2]))] = WHITE
    return picture


def pictures(row, folder, variant):
    """As many as there are COLUMNS; None for those that were not run."""
    base, edited = folder.image("base"), folder.image(variant.name)
    dense = folder.image(variant.yardstick.name) if variant.yardstick and folder.done(variant.yardstick.name) else None
    truth = regions.unpack(row["changed"]) if "changed" in row else None
    region = overlay(base, folder.mask(variant.name), truth)
    apart = None
    if dense is not None:
        apart = np.minimum(np.abs(edited.astype(np.int16) - dense) * GAIN, 255).astype(np.uint8)
    return [base, region, edited, dense, apart]


def strip(row, folder, variant, size, note=""):
    """One edit: its words, its pictures."""
    font = ImageFont.load_default(max(10, size // 14))
    width, height = size * len(COLUMNS), font.size + 3
    words = f"{row['id']}{note}:  {row['base']}  →  {row['prompt']}"
    lines = textwrap.wrap(words, int(width / (0.5 * font.size)))[:3]
    image = Image.new("RGB", (width, size + 3 * height + 4), "white")
    draw = ImageDraw.Draw(image)
    for i, text in enumerate(lines):
        draw.text((2, i * height), text, "black", font)
    for i, picture in enumerate(pictures(row, folder, variant)):
        if picture is not None:
            image.paste(Image.fromarray(picture).resize((size, size), Image.Resampling.BOX), (i * size, 3 * height))
    return image


def save(path, strips, columns=1):
    """A page of strips below a line that names the pictures."""
    if not strips:
        return
    width, height = strips[0].size
    rows = -(-len(strips) // columns)
    page = Image.new("RGB", (width * columns, 20 + height * rows), "white")
    draw = ImageDraw.Draw(page)
    for column in range(columns):
        for i, name in enumerate(COLUMNS):
            draw.text((column * width + i * width // len(COLUMNS) + 2, 3), name, "gray", ImageFont.load_default(11))
    for i, strip_image in enumerate(strips):
        page.paste(strip_image, (i % columns * width, 20 + i // columns * height))
    page.save(path, quality=85)
