"""Image-image against directional similarity, a point per variant, as an SVG: the paper's Figure A2.

Variants that differ by a number, as sizes do, are joined by a line.
"""

import re
from html import escape

import tables

WIDTH, HEIGHT, LEFT, BOTTOM = 560, 360, 60, 40


def means(results, variant):
    """(directional, image-image), or None where either is missing."""
    pairs = [tables.values(results, variant, "", name) for name in ("directional", "image")]
    return tuple(sum(numbers) / len(numbers) for numbers in pairs) if all(pairs) else None


def span(numbers):
    """A range of multiples of 0.05 with some room around the numbers."""
    low, high = (min(numbers) - 0.02) // 0.05 * 0.05, (max(numbers) + 0.07) // 0.05 * 0.05
    return low, max(high, low + 0.1)


def families(names):
    """Lists of names that differ by a number at the end: size-25, size-50."""
    found = {}
    for name in names:
        if match := re.fullmatch(r"(.+)-\d+", name):
            found.setdefault(match[1], []).append(name)
    return [family for family in found.values() if len(family) > 1]


def is_late(x):
    """Whether a label stands left of its mark."""
    return x > WIDTH * 0.7


def spread(marks, line=13, width=55):
    """Heights of labels: of their marks, or a line below the label that would stand there."""
    heights = {}
    for name, (x, y) in sorted(marks.items(), key=lambda mark: mark[1][1]):
        beside = [heights[n] for n in heights if abs(marks[n][0] - x) < width and is_late(marks[n][0]) == is_late(x)]
        heights[name] = max([y, *(height + line for height in beside)])
    return heights


def draw(points):
    """`points`: {name: (directional, image-image)}"""
    (x0, x1), (y0, y1) = (span([point[i] for point in points.values()]) for i in (0, 1))

    def across(x):
        return LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - 20)

    def down(y):
        return HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - BOTTOM - 15)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for i in range(round((x1 - x0) / 0.05) + 1):
        x = across(x0 + 0.05 * i)
        lines.append(f'<path d="M{x:.1f} 15V{HEIGHT - BOTTOM}" stroke="#ddd"/>')
        lines.append(f'<text x="{x:.1f}" y="{HEIGHT - 24}" text-anchor="middle">{x0 + 0.05 * i:.2f}</text>')
    for i in range(round((y1 - y0) / 0.05) + 1):
        y = down(y0 + 0.05 * i)
        lines.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - 20}" stroke="#ddd"/>')
        lines.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{y0 + 0.05 * i:.2f}</text>')
    for family in families(points):
        path = "L".join(f"{across(points[name][0]):.1f} {down(points[name][1]):.1f}" for name in family)
        lines.append(f'<path d="M{path}" fill="none" stroke="#c22"/>')
    marks = {name: (across(x), down(y)) for name, (x, y) in points.items()}
    heights = spread(marks)
    for name, (x, y) in marks.items():
        anchor, shift = ("end", -8) if is_late(x) else ("start", 8)
        lines.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#c22"/>')
        lines.append(
            f'<text x="{x + shift:.1f}" y="{heights[name] + 4:.1f}" text-anchor="{anchor}">{escape(name)}</text>'
        )
    lines.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 6}" text-anchor="middle">directional similarity</text>')
    middle = f'y="{HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 14 {HEIGHT / 2})"'
    lines.append(f'<text x="14" {middle}>image-image similarity</text>')
    return "\n".join([*lines, "</svg>", ""])


def save(path, rows):
    """`rows`: (name, results, variant). Whether there was something to compare."""
    points = {name: point for name, results, variant in rows if (point := means(results, variant))}
    if len(points) < 2:
        return False
    path.write_text(draw(points))
    return True
