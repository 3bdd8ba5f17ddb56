"""A wider world than world.py's: sizes, depths, places between, crowds, close-ups.

A row is one scene (see FIELDS), as there, but its things are listed from back to front, each with a cast, a sprite, a
size in pixels and the pixel where it stands (or floats). Whatever differs from world.py is always said in the caption,
so captions of world.py still mean what they meant. How scenes are said is wording.py's matter.
"""

from dataclasses import dataclass, replace

import numpy as np

import world
from world import AT, GROUNDS, MIDGROUNDS, SHIFTS, SKIES, USUAL_PLACES, VARIANTS

BACKDROP = ["sky", "ground", "midground", "midground_variant", "river", "fireworks", "fireworks_variant"]
THINGS, THING = 6, ["cast", "sprite", "size", "x", "y"]  # y: the feet of a ground object, the centre of others
FIELDS = BACKDROP + [f"{name}{i}" for i in range(THINGS) for name in THING]
GROUND, SKY, FACE = range(3)  # casts
SIZES = {GROUND: (96, 160, 256, 384), SKY: (72, 112, 176), FACE: (384,)}  # small, usual, big, close
COLUMNS = (96, 176, 256, 336, 416)  # left, left of the middle, middle, right of the middle, right
USUAL_COLUMNS = (0, 2, 4)
FEET = {"far": 312, "": 392, "front": 480}  # by depth
BIG_FEET, CLOSE_FEET, SKY_HEIGHT, FACE_HEIGHT, CELL = 440, 504, 64, 272, 8
FAMOUS = "dog cat rabbit horse cow tree castle boat car house balloon umbrella apple".split()


@dataclass
class Thing:
    """One object as captions speak of it."""

    cast: int
    sprite: int
    column: int = 2
    size: str = ""  # small, big, close
    depth: str = ""  # far, front


@dataclass
class Scene:
    """A scene as captions speak of it: names instead of numbers."""

    sky: str
    ground: str
    midground: str
    river: bool
    fireworks: bool
    things: list
    usual: bool = False  # whether the objects stand where they do when nothing is said


def of_world(row):
    """A row of world.py."""
    things = [Thing(GROUND, row[AT[f"object{i}"]], 2 * i) for i in range(3) if row[AT[f"object{i}"]] >= 0]
    usual = [t.column // 2 for t in things] == USUAL_PLACES[len(things)]
    things += [Thing(SKY, row[AT[f"sky_object{i}"]], 2 * i) for i in range(3) if row[AT[f"sky_object{i}"]] >= 0]
    return Scene(*backdrop_names(row), things, usual)


def backdrop_names(row):
    sky, ground, midground = SKIES[row[0]], GROUNDS[row[1]], MIDGROUNDS[row[2]]
    return sky, ground, midground, bool(row[4]), bool(row[5])


def backdrop(rng):
    return [
        rng.choices(range(6), (3, 2, 2, 2, 2, 2))[0],
        rng.choices(range(6), (3, 2, 2, 2, 2, 2))[0],
        rng.choices(range(5), (3, 2, 2, 2, 2))[0],
        rng.randrange(VARIANTS),
        int(rng.random() < 0.12),
        int(rng.random() < 0.12),
        rng.randrange(VARIANTS),
    ]


def place(rng, thing):
    """The row's five numbers of a thing, moved by at most a latent cell as in world.py."""
    sizes = SIZES[thing.cast]
    side = sizes[{"small": 0, "": min(1, len(sizes) - 1), "big": 2, "close": -1}[thing.size]]
    if thing.depth == "far":
        side = sizes[0]
    x = COLUMNS[thing.column]
    if thing.cast == SKY:
        y = SKY_HEIGHT if thing.size != "big" else SKY_HEIGHT + 32
    elif thing.cast == FACE:
        y = FACE_HEIGHT
    elif thing.size == "close":
        y = CLOSE_FEET
    else:
        y = BIG_FEET if thing.size == "big" and not thing.depth else FEET[thing.depth]
    shift = rng.randrange(SHIFTS)
    return [thing.cast, thing.sprite, side, x + (shift % 3 - 1) * CELL, y + (shift // 3 - 1) * CELL]


def sample(rng, casts, faces):
    """(row, Scene). `faces`: how many there are."""
    ground, sky = casts
    kind = rng.choices(("sizes", "depths", "close", "face"), (0.46, 0.18, 0.18, 0.18))[0]
    row = backdrop(rng)
    things = []
    if kind == "face":
        things = [Thing(FACE, rng.randrange(faces), size="close")]
    elif kind == "close":
        things = [Thing(GROUND, ground.draw(rng), size="close")]
    else:
        depths = ("",) if kind == "sizes" else ("far", "", "front")
        spots = [(column, depth) for column in range(5) for depth in depths]
        for column, depth in rng.sample(spots, rng.choices((1, 2, 3, 4), (0.3, 0.4, 0.2, 0.1))[0]):
            size = rng.choices(("", "small", "big"), (0.3, 0.35, 0.35))[0] if not depth else ""
            things.append(Thing(GROUND, ground.draw(rng), column, size, depth))
    feet = {"far": 0, "": 1, "front": 2}
    things.sort(key=lambda t: (feet[t.depth], t.size == "big", t.column))
    if kind not in ("face", "close"):
        for column in rng.sample(USUAL_COLUMNS, rng.choices((0, 1, 2), (0.5, 0.4, 0.1))[0]):
            things.append(Thing(SKY, sky.draw(rng), column, rng.choices(("", "small", "big"), (0.5, 0.25, 0.25))[0]))
    for thing in sorted(things, key=lambda t: t.cast != SKY):
        row += place(rng, thing)
    row += [-1, -1, 0, 0, 0] * (THINGS - len(things))
    usual = len(things) == 1 and things[0].column == 2
    return row, Scene(*backdrop_names(row), things, usual)


def load_faces(sprites):
    """Names of the face cast of a sprites.npz."""
    return [str(name) for name in np.load(sprites)["face_names"]]


def more_of(cast, names, times):
    """The cast with some names drawn more often."""
    chosen = replace(cast)
    chosen.draw_from = cast.draw_from + [name for name in names if name in cast.by_name] * times
    return chosen


def only_coloured(cast):
    chosen = replace(cast)
    chosen.draw_from = [name for name, rows in cast.by_name.items() if len(rows) > 1]
    return chosen


def colourful(rng, casts):
    """A row of world.py whose objects, two or three, all have colours, no two the same: each must find its own."""
    ground = only_coloured(casts[0])
    while True:
        row = world.sample(rng, (ground, casts[1]))
        colours = [ground.colours[row[AT[f"object{i}"]]] for i in range(3) if row[AT[f"object{i}"]] >= 0]
        if len(colours) > 1 and len(set(colours)) == len(colours):
            return row


def crowd(rng, casts):
    """A row of world.py with the same object two or three times."""
    row = world.sample(rng, casts)
    sprite, count = casts[0].draw(rng), rng.choice((2, 2, 3))
    for i in range(3):
        row[AT[f"object{i}"]] = sprite if i in USUAL_PLACES[count] else -1
    return row
