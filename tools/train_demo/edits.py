"""Pairs of scenes that differ by one change, their captions, and the pixels that the change may touch."""

import random

import torch

from world import AT, GROUNDS, MIDGROUNDS, SHIFTS, SKIES, VARIANTS, caption, sample

KINDS = (
    "replace_object",
    "recolour_object",
    "add_object",
    "remove_object",
    "change_ground",
    "change_sky",
    "change_midground",
    "add_midground",
    "add_river",
    "remove_river",
    "add_fireworks",
    "remove_fireworks",
    "add_sky_object",
    "replace_sky_object",
)


def other(rng, count, now):
    return rng.choice([i for i in range(count) if i != now])


def change(scene, kind, rng, casts):
    """The scene after the edit, or None where this scene has nothing to change in that way."""
    ground, sky = casts
    scene = list(scene)

    def at(name):
        return scene[AT[name]]

    filled = [i for i in range(3) if at(f"object{i}") >= 0]
    sky_filled = [i for i in range(3) if at(f"sky_object{i}") >= 0]
    empty = [i for i in range(3) if i not in filled]
    if kind == "replace_object":
        name, now = f"object{rng.choice(filled)}", None
        now = ground.names[at(name)]
        scene[AT[name]] = rng.choice(ground.by_name[rng.choice([n for n in ground.by_name if n != now])])
    elif kind == "recolour_object":
        coloured = [i for i in filled if ground.colours[at(f"object{i}")]]
        if not coloured:
            return None
        name = f"object{rng.choice(coloured)}"
        rows = ground.by_name[ground.names[at(name)]]
        scene[AT[name]] = rng.choice([row for row in rows if row != at(name)])
    elif kind == "add_object":
        if not empty:
            return None
        scene[AT[f"object{rng.choice(empty)}"]] = ground.draw(rng)
    elif kind == "remove_object":
        if len(filled) < 2:
            return None
        scene[AT[f"object{rng.choice(filled)}"]] = -1
    elif kind == "change_ground":
        scene[AT["ground"]] = other(rng, len(GROUNDS), at("ground"))
    elif kind == "change_sky":
        scene[AT["sky"]] = other(rng, len(SKIES), at("sky"))
    elif kind == "change_midground":
        if not at("midground"):
            return None
        scene[AT["midground"]] = 1 + other(rng, len(MIDGROUNDS) - 1, at("midground") - 1)
    elif kind == "add_midground":
        if at("midground"):
            return None
        scene[AT["midground"]] = rng.randrange(1, len(MIDGROUNDS))
    elif kind in ("add_river", "remove_river", "add_fireworks", "remove_fireworks"):
        verb, name = kind.split("_")
        if at(name) == (verb == "add"):
            return None
        scene[AT[name]] = int(verb == "add")
    elif kind == "add_sky_object":
        if sky_filled:
            return None
        scene[AT[f"sky_object{rng.randrange(3)}"]] = sky.draw(rng)
    elif kind == "replace_sky_object":
        if not sky_filled:
            return None
        name = f"sky_object{rng.choice(sky_filled)}"
        now = sky.names[at(name)]
        scene[AT[name]] = rng.choice(sky.by_name[rng.choice([n for n in sky.by_name if n != now])])
    return scene


def sample_edit(rng, casts, kind=None):
    """(kind, scene, edited scene, style). The style words both captions alike; see captions()."""
    while True:
        chosen = kind or rng.choice(KINDS)
        scene = sample(rng, casts)
        edited = change(scene, chosen, rng, casts)
        if edited is not None:
            return chosen, scene, edited, rng.randrange(1 << 30)


def captions(edit, casts):
    kind, scene, edited, style = edit
    say_places = kind in ("add_object", "remove_object", "add_sky_object")
    return caption(scene, style, casts, say_places), caption(edited, style, casts, say_places)


def region(edit, renderer, threshold=4 / 255):
    """Pixels [512, 512] that differ for at least one way of placing what the captions leave open.

    All objects are shifted together through the 9 shifts, all shapes through their variants; so the region is right for
    a generated picture too, whose shifts nobody knows.
    """
    _, scene, edited, _ = edit
    before, after = [], []
    for shift in range(SHIFTS):
        for variant in range(VARIANTS):
            for source, rows in ((scene, before), (edited, after)):
                row = list(source)
                row[AT["shift0"] : AT["shift0"] + 6] = [shift] * 6
                row[AT["midground_variant"]] = row[AT["fireworks_variant"]] = variant
                rows.append(row)
    difference = (renderer(torch.tensor(before)) - renderer(torch.tensor(after))).abs().amax(1)
    return (difference > threshold).any(0)


def sample_edits(seed, count, casts, kind=None):
    rng = random.Random(seed)
    return [sample_edit(rng, casts, kind) for _ in range(count)]
