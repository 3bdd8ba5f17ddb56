"""The list of edits that evaluate.py runs, drawn from the demo model's world.

    python make_edits.py SPRITES.npz [edits.json] [--check]

Eight edits of each of the fourteen kinds of `../train_demo/edits.py`. Scenes come from random seeds that neither
training nor `train_demo/evaluate.py` uses; a short caption may still have been seen in training. Each edit has

    id, kind, base, prompt, seed   what to run
    scene, edited                  the scene in words, and what the edit makes of the parts that it changes
    changed                        the latents that differ between the two rendered scenes
    allowed                        the latents that differ for at least one placing of what captions leave open

as run lengths (regions.py). A generated picture follows its caption, which says left, middle or right but not to the
pixel: objects stand up to one latent (8 pixels) beside the render's in either direction, and a midground or fireworks
have one of two shapes. `changed` is rendered with objects in the centre of that range and the first shape, so overlap
with it is approximate: over the list, the same region one latent off on the diagonal reaches 0.78.

Order: one edit of every kind, then the next one of every kind, so any first part of the list is balanced.
"""

import argparse
import json
import random
import sys
from pathlib import Path

import regions

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "train_demo"))

import torch  # noqa: E402

import edits as grammar  # noqa: E402
from render import Renderer  # noqa: E402
from world import AT, GROUNDS, MIDGROUNDS, SKIES, load_casts  # noqa: E402

PER_KIND = 8
SEED = "held-out edits"  # random seed of the scenes
FIRST_NOISE = 4000  # seed of the first edit's noise; the others follow
CENTRE, THRESHOLD = 4, 4 / 255
CHAINS, CHAIN = 16, 5  # how many, and edits in each
SMALLEST, LARGEST = 0.01, 0.8  # share of latents that a listed edit changes
PLACES = ("left", "middle", "right")


def in_words(scene, casts):
    """What the scene holds, without placing or shape."""

    def sprite(cast, index):
        return " ".join(filter(None, (cast.colours[index], cast.names[index])))

    words = {
        "sky": SKIES[scene[AT["sky"]]],
        "ground": GROUNDS[scene[AT["ground"]]],
        "midground": MIDGROUNDS[scene[AT["midground"]]],
        "river": bool(scene[AT["river"]]),
        "fireworks": bool(scene[AT["fireworks"]]),
    }
    for field, cast in zip(("object", "sky_object"), casts):
        for i, place in enumerate(PLACES):
            index = scene[AT[f"{field}{i}"]]
            words[place if field == "object" else f"sky {place}"] = sprite(cast, index) if index >= 0 else ""
    return {name: value for name, value in words.items() if value}


def difference(before, after):
    """What of the scene's words the edit changes; an empty string where something goes."""
    return {name: after.get(name, "") for name in {**before, **after} if before.get(name) != after.get(name)}


def centred(scene):
    row = list(scene)
    row[AT["shift0"] : AT["shift0"] + 6] = [CENTRE] * 6
    row[AT["midground_variant"]] = row[AT["fireworks_variant"]] = 0
    return row


def changed(edit, renderer):
    _, scene, edited, _ = edit
    before, after = renderer(torch.tensor([centred(scene), centred(edited)]))
    return ((before - after).abs().amax(0) > THRESHOLD).numpy()


def draw(kind, casts, renderer):
    """Edits of one kind with captions of their own, as rows of the list."""
    rng, rows, said = random.Random(f"{SEED}/{kind}"), [], set()
    while len(rows) < PER_KIND:
        edit = grammar.sample_edit(rng, casts, kind)
        base, prompt = grammar.captions(edit, casts)
        region = regions.of_pixels(changed(edit, renderer))
        if base == prompt or (base, prompt) in said or not SMALLEST <= region.mean() <= LARGEST:
            continue
        said.add((base, prompt))
        before, after = (in_words(scene, casts) for scene in edit[1:3])
        allowed = regions.of_pixels(grammar.region(edit, renderer).numpy())
        rows.append(
            {
                "id": f"{kind}-{len(rows)}",
                "kind": kind,
                "base": base,
                "prompt": prompt,
                "scene": before,
                "edited": difference(before, after),
                "changed": regions.pack(region),
                "allowed": regions.pack(allowed),
            }
        )
    return rows


def make(sprites):
    casts, renderer = load_casts(sprites), Renderer(sprites)
    by_kind = [draw(kind, casts, renderer) for kind in grammar.KINDS]
    rows = [row for turn in zip(*by_kind) for row in turn]
    return [{**row, "seed": FIRST_NOISE + i} for i, row in enumerate(rows)]


def draw_chain(number, casts):
    """Prompts of a scene and of five changes of it in a row, each of another kind."""
    rng = random.Random(f"{SEED}/chain {number}")
    while True:
        scene, style = grammar.sample(rng, casts), rng.randrange(1 << 30)
        kinds, prompts = rng.sample(grammar.KINDS, CHAIN), [grammar.caption(scene, style, casts, True)]
        for kind in kinds:
            scene = scene and grammar.change(scene, kind, rng, casts)
            prompts += [grammar.caption(scene, style, casts, True)] if scene else []
        if len(set(prompts)) == CHAIN + 1:
            return {"id": f"chain-{number}", "kinds": kinds, "prompts": prompts, "seed": FIRST_NOISE + 1000 + number}


def text(rows):
    return "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sprites")
    parser.add_argument("output", nargs="?", type=Path, help="[edits.json, chains.json]")
    parser.add_argument("--chains", action="store_true", help="make the list of edits in a row instead")
    parser.add_argument("--check", action="store_true", help="fail unless the list is what this script makes")
    arguments = parser.parse_args()
    rows = [draw_chain(i, load_casts(arguments.sprites)) for i in range(CHAINS)] if arguments.chains else None
    made = text(rows or make(arguments.sprites))
    path = arguments.output or HERE / ("chains.json" if arguments.chains else "edits.json")
    if not arguments.check:
        path.write_text(made)
        print(f"{made.count(chr(10)) - 2} rows, {len(made) / 1024:.0f} KiB")
    elif path.read_text() != made:
        raise SystemExit(f"{path} is not what this script makes")
