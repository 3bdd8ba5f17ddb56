"""python -m pytest tools/train_demo: what can be checked without sprites or a GPU."""

import difflib
import random

import pytest

import edits
import tokenizer
from world import AT, FIELDS, Cast, caption, sample

GROUND = Cast(["dog", "cat", "car", "car"], ["", "", "red", "blue"], [True, True, True, False])
SKY = Cast(["sun", "flying saucer"], ["", ""], [True, True])
CASTS = (GROUND, SKY)


def scene(**values):
    row = [0] * len(FIELDS)
    for name in FIELDS:
        row[AT[name]] = values.get(name, -1 if "object" in name else 0)
    return row


def test_same_style_same_words():
    row = sample(random.Random(1), CASTS)
    assert caption(row, 5, CASTS) == caption(row, 5, CASTS)


def test_what_is_not_said_is_blue_sky_over_grass():
    silent = [
        text
        for style in range(300)
        if "sky" not in (text := caption(scene(object1=0), style, CASTS)) and "grass" not in text
    ]
    assert "a dog" in silent or any(text.endswith("a dog") for text in silent)


@pytest.mark.parametrize("kind", edits.KINDS)
def test_an_edit_changes_few_words(kind):
    for edit in edits.sample_edits(3, 40, CASTS, kind):
        before, after = (text.replace(",", "").split() for text in edits.captions(edit, CASTS))
        kept = sum(block.size for block in difflib.SequenceMatcher(None, before, after).get_matching_blocks())
        assert before != after
        assert max(len(before), len(after)) - kept <= 9, edit


def test_merges_make_words_whole():
    merges = tokenizer.learn_merges({"grass": 5, "glass": 2}, 100)
    assert ("gra", "ss</w>") in merges or "grass</w>" in {a + b for a, b in merges}
    assert len(tokenizer.byte_symbols()) == len(set(tokenizer.byte_symbols())) == 256
