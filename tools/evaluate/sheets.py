"""Contact sheets: base, region (mask red, truth outlined), edited, the same without sparsity, their difference."""

import difflib

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import regions

COLUMNS = ("base", "mask", "edited", "dense", "difference x4")
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


def changes(base, prompt):
    """The words that differ: "red house -> jack-o-lantern"."""
    old, new = base.split(), prompt.split()
    parts = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    said = [(" ".join(old[a:b]), " ".join(new[c:d])) for tag, a, b, c, d in parts if tag != "equal"]
    return "; ".join(f"{gone or '(nothing)'} -> {came or '(nothing)'}" for gone, came in said)


def wrapped(words, font, width):
    """Lines no wider than `width` pixels."""
    lines = [""]
    for word in words.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def strip(row, folder, variant, size, note="", full=False):
    """One edit: what changes (and the whole prompt), its pictures."""
    font = ImageFont.load_default(max(11, size // 16))
    width, height = size * len(COLUMNS), font.size + 3
    lines = wrapped(f"{row['id']}{note}: {changes(row['base'], row['prompt'])}", font, width - 4)[:2]
    lines += wrapped(row["prompt"], font, width - 4)[:2] if full else []
    top = height * (4 if full else 2)
    image = Image.new("RGB", (width, size + top + 6), "white")
    draw = ImageDraw.Draw(image)
    for i, text in enumerate(lines):
        draw.text((2, i * height), text, "black", font)
    for i, picture in enumerate(pictures(row, folder, variant)):
        if picture is not None:
            image.paste(Image.fromarray(picture).resize((size, size), Image.Resampling.BOX), (i * size, top))
    return image


def labelled(row, pictures, size):
    """What changes, above pictures; None leaves a gap."""
    font = ImageFont.load_default(11)
    image = Image.new("RGB", (size * len(pictures), size + 18), "white")
    ImageDraw.Draw(image).text((2, 2), f"{row['id']}: {changes(row['base'], row['prompt'])}", "black", font)
    for i, picture in enumerate(pictures):
        if picture is not None:
            image.paste(Image.fromarray(picture).resize((size, size), Image.Resampling.BOX), (i * size, 15))
    return image


def save(path, strips, columns=1, names=COLUMNS):
    """A page of strips below a line that names the pictures."""
    if not strips:
        return
    width, height = strips[0].size
    rows = -(-len(strips) // columns)
    page = Image.new("RGB", (width * columns, 20 + height * rows), "white")
    draw = ImageDraw.Draw(page)
    for column in range(columns):
        for i, name in enumerate(names):
            draw.text((column * width + i * width // len(names) + 2, 3), name, "gray", ImageFont.load_default(11))
    for i, strip_image in enumerate(strips):
        page.paste(strip_image, (i % columns * width, 20 + i // columns * height))
    page.save(path, quality=60, method=6)
