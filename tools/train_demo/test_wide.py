"""python -m pytest tools/train_demo: the wide world and free wordings, without sprites or a GPU."""

import random
import re

import pytest
import torch

import parts
import wide
from evaluate import frechet
from test_world import CASTS, scene
from wide import FIELDS, GROUND, Thing
from wording import Speaker, loosely, plural, slip

FACES = ["cat"]


def said(row_or_scene, count=400, faces=FACES):
    shown = row_or_scene if isinstance(row_or_scene, wide.Scene) else wide.of_world(row_or_scene)
    return [Speaker(random.Random(seed), CASTS, faces).say(shown) for seed in range(count)]


def test_rows_have_all_fields_and_known_sizes():
    rng = random.Random(0)
    for _ in range(300):
        row, shown = wide.sample(rng, CASTS, len(FACES))
        assert len(row) == len(FIELDS)
        drawn = [row[i : i + 5] for i in range(len(wide.BACKDROP), len(row), 5) if row[i + 1] >= 0]
        assert len(drawn) == len(shown.things)
        assert all(thing[2] in wide.SIZES[thing[0]] for thing in drawn)


@pytest.mark.parametrize("size, words", [("big", ("big", "large", "huge", "giant")), ("small", ("small", "tiny"))])
def test_an_unusual_size_is_always_said(size, words):
    shown = wide.Scene("blue", "grass", "", False, False, [Thing(GROUND, 0, 2, size)], True)
    words = (*words, "little") if size == "small" else words
    assert all(any(word in text.split() for word in words) for text in said(shown))


def test_every_colour_stands_beside_its_own_object():
    nouns = "(?:car|automobile|auto|sedan)"
    bound = rf"\bblue (?:colored )?{nouns}|{nouns} (?:in|that is) blue"
    for text in said(scene(sky=2, object0=0, object2=3), 300):
        assert re.search(bound, text), text
        assert not re.search(r"\bred\b", text), text


def test_colourful_scenes_repeat_no_colour():
    rng, ground = random.Random(1), CASTS[0]
    for _ in range(50):
        row = wide.colourful(rng, CASTS)
        colours = [ground.colours[row[wide.AT[f"object{i}"]]] for i in range(3) if row[wide.AT[f"object{i}"]] >= 0]
        assert len(colours) == 2 and set(colours) == {"red", "blue"}


def test_a_crowd_is_counted():
    texts = said(scene(object0=0, object2=0))
    assert all(
        text.startswith(("two", "2", "a pair")) or any(w in text for w in ("two", "2", "pair")) for text in texts
    )


def test_left_and_right_are_not_exchanged():
    for text in said(scene(object0=0, object2=1)):
        for relation in (" left of ", " to the left of "):
            if relation in text:
                before, after = text.split(relation)
                assert not any(word in before for word in ("cat", "kitten", "kitty", "tabby")), text
                assert not any(word in after.split(",")[0] for word in ("dog", "puppy", "doggy", "hound")), text


@pytest.mark.parametrize("noun, many", [("sheep", "sheep"), ("bus", "buses"), ("strawberry", "strawberries")])
def test_plurals(noun, many):
    assert plural(noun) == many


def test_a_slip_changes_one_word_by_one_letter():
    rng, text = random.Random(2), "a horse on the left on grass"
    for _ in range(200):
        before, after = text.split(), slip(text, rng).split()
        changed = [(a, b) for a, b in zip(before, after) if a != b]
        assert len(before) == len(after) and len(changed) <= 1
        assert all(a[0] == b[0] and abs(len(a) - len(b)) <= 1 for a, b in changed)
    assert loosely("a cat", rng).startswith("a cat")


def test_parts_come_back_and_are_small(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "LARGEST", 5000)
    made, found = (torch.nn.Sequential(torch.nn.Linear(40, 40), torch.nn.Linear(40, 40)) for _ in range(2))
    parts.save(str(tmp_path), {"net": made}, 0.75)
    assert len(list(tmp_path.glob("net-*.safetensors"))) == 2
    assert parts.load(str(tmp_path), "net", found) == 0.75
    for a, b in zip(made.parameters(), found.parameters()):
        assert torch.equal(a.half().float(), b)
    assert parts.load(str(tmp_path), "other", found) is None


def test_leaning_back_is_a_weighted_mean():
    def networks(value):
        layer = torch.nn.Linear(2, 2)
        torch.nn.init.constant_(layer.weight, value)
        torch.nn.init.constant_(layer.bias, value)
        return dict(unet=layer, text_encoder=layer)

    trained = dict(unet=networks(1.0)["unet"], text_encoder=networks(3.0)["unet"])
    parts.lean_back(trained, networks(0.0), 0.25)
    assert trained["unet"].weight[0, 0].item() == pytest.approx(0.75)
    assert trained["text_encoder"].bias[0].item() == pytest.approx(2.25)


def test_frechet_distance_of_shifted_vectors_is_the_shift_squared():
    vectors = torch.randn(500, 6, generator=torch.Generator().manual_seed(0))
    assert frechet(vectors, vectors) == pytest.approx(0, abs=1e-6)
    assert frechet(vectors, vectors + 2) == pytest.approx(24, rel=1e-6)
