"""python -m pytest tools/evaluate"""

import collections
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

import clip
import figure
import measures
import regions
import sheets
import tables
import variants

HERE = Path(__file__).parent
EDITS = json.loads((HERE / "edits.json").read_text())
KINDS = 14


def square(top, left, size=10):
    region = np.zeros((64, 64), bool)
    region[top : top + size, left : left + size] = True
    return region


def test_the_list_has_eight_edits_of_every_kind():
    kinds = collections.Counter(edit["kind"] for edit in EDITS)
    assert len(EDITS) >= 100 and len(kinds) == KINDS and set(kinds.values()) == {len(EDITS) // KINDS}
    assert len({edit["id"] for edit in EDITS}) == len({edit["seed"] for edit in EDITS}) == len(EDITS)
    assert len({edit["kind"] for edit in EDITS[:KINDS]}) == KINDS


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit["id"])
def test_an_edit_changes_words_and_a_region(edit):
    changed, allowed = regions.unpack(edit["changed"]), regions.unpack(edit["allowed"])
    assert edit["base"] != edit["prompt"]
    assert edit["edited"] and all(edit["scene"].get(name, "") != value for name, value in edit["edited"].items())
    assert 0.01 <= changed.mean() <= 0.8
    assert not (changed & ~allowed).any()


@pytest.mark.parametrize("region", [square(0, 0), square(54, 54), square(20, 3), np.ones((64, 64)), np.zeros((64, 64))])
def test_regions_survive_packing(region):
    assert (regions.unpack(regions.pack(region)) == region).all()


def test_a_wrong_number_of_cells_is_refused():
    with pytest.raises(ValueError, match="4095"):
        regions.unpack("5 10 4080")


def test_overlap():
    assert regions.overlap(square(0, 0), square(0, 5)) == pytest.approx(50 / 150)
    assert regions.overlap(square(0, 0), square(30, 30)) == 0
    assert regions.covered(square(0, 0), square(0, 5)) == pytest.approx(0.5)
    assert regions.overlap(square(0, 0, 0), square(0, 0, 0)) == 1


def test_a_cell_is_changed_by_one_pixel():
    pixels = np.zeros((512, 512), bool)
    pixels[17, 508] = True
    cells = regions.of_pixels(pixels)
    assert cells.sum() == 1 and cells[2, 63]
    assert regions.to_pixels(cells, (512, 512))[16:24, 504:512].all()


def test_psnr_of_known_errors():
    one = np.full((32, 32, 3), 100, np.uint8)
    other = one.copy()
    other[:16] += 10
    top = np.zeros((32, 32), bool)
    top[:16] = True
    assert measures.psnr(one, other, top) == pytest.approx(20 * np.log10(25.5))
    assert measures.psnr(one, other) == pytest.approx(20 * np.log10(25.5) + 10 * np.log10(2))
    assert measures.psnr(one, other, ~top) is None
    assert measures.psnr(one, other, np.zeros_like(top)) is None


def test_ssim_falls_with_noise_where_it_is():
    rng = np.random.default_rng(0)
    one = rng.integers(0, 256, (64, 64, 3), np.uint8)
    other = one.copy()
    other[:32] = rng.integers(0, 256, (32, 64, 3), np.uint8)
    top = np.zeros((64, 64), bool)
    top[:24] = True
    assert measures.ssim(one, one) == pytest.approx(1)
    assert measures.ssim(one, other, top) < 0.1
    assert measures.ssim(one, other, np.flipud(top)) == pytest.approx(1)


def test_one_changed_byte_is_a_changed_pixel():
    one = np.zeros((10, 10, 3), np.uint8)
    other = one.copy()
    other[0, 0, 2] = 1
    everywhere = np.ones((10, 10), bool)
    assert measures.changed_share(one, other, everywhere) == pytest.approx(0.01)
    assert measures.changed_share(one, other, ~everywhere) is None


def test_similarities_of_known_vectors():
    x, y, z = np.eye(3)
    found = clip.similarities(x, y, x, y)
    assert found["directional"] == pytest.approx(1) and found["image"] == 0 and found["success"] and found["prefers"]
    opposite = clip.similarities(y, x, x, y)
    assert opposite["directional"] == pytest.approx(-1) and not opposite["success"] and not opposite["prefers"]
    still = clip.similarities(z, z, x, y)
    assert still["directional"] is None and still["image"] == 1 and not still["success"]


def test_pictures_become_what_clip_reads():
    config = {
        "size": {"shortest_edge": 224},
        "crop_size": {"height": 224, "width": 224},
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.25, 0.5],
    }
    pixels = clip.Preprocessing(config)(Image.new("RGB", (768, 512), (255, 0, 51)))
    assert pixels.shape == (3, 224, 224) and pixels.dtype == np.float32
    assert pixels[:, 100, 100] == pytest.approx([1, -2, -0.6], abs=1e-5)


def test_the_judge_reads_words_and_pictures():
    judge = clip.Clip(HERE.parents[1] / "models/demo-judge")
    texts = judge.texts(["a dog on grass", "a red car on a road at night", "a dog on grass"])
    assert texts.shape[0] == 3 and np.linalg.norm(texts, axis=1) == pytest.approx(np.ones(3), abs=1e-5)
    assert (texts[0] == texts[2]).all() and texts[0] @ texts[1] < 0.9
    night, day = judge.images([Image.new("RGB", (512, 512), color) for color in ((10, 10, 40), (120, 190, 255))])
    night_words, day_words = judge.texts(["a dog on grass at night", "a dog on grass under a blue sky"])
    assert (night - day) @ (night_words - day_words) > 0


def test_every_sparse_variant_has_its_yardstick():
    names = [variant.name for variant in variants.chosen(["edit", "sparse", "size-25", "regenerate", "wide=--grow 24"])]
    assert names == ["edit", "dense", "sparse", "size-25", "size-25-dense", "regenerate", "wide", "wide-dense"]
    size = {v.name: v for v in variants.chosen(["size-25"])}
    assert size["size-25-dense"].flags == "--edit-size 25% --dense"
    with pytest.raises(SystemExit, match="no variant is called tiny"):
        variants.chosen(["tiny"])
    with pytest.raises(SystemExit, match="two variants"):
        variants.chosen(["edit", "edit=--grow 2"])


def result(kind, **figures):
    whole = {"outcome": "sparse", "macs": 1, "macs_dense": 4, "seconds": 1.0, **figures}
    return {"kind": kind, "figures": {"edit": whole, "dense": {**whole, "outcome": "dense"}}}


def test_tables_say_over_how_many():
    found = [
        result("a", mask_psnr=30.0, success=True),
        result("a", mask_psnr=40.0, success=False),
        result("a", mask_psnr=None, success=True, outcome="dense"),
        {"kind": "b", "figures": {"edit": {"error": "disk full"}}},
    ]
    edit = variants.chosen(["edit"])[0]
    made = tables.by_kind(found, edit)
    head, _, a, b, whole = made["Fidelity"].splitlines()
    assert "| a | 3 | 66.7 % | 35.0 dB (2) |" in a and b.startswith("| b | 0 | – |") and "| **all** | 3 |" in whole
    assert "66.7 %" in made["Success"].splitlines()[2]
    assert len({row.count("|") for row in made["Cost"].splitlines()}) == 1
    assert "25.0 %" in made["Cost"].splitlines()[2]


def test_the_best_edit_is_first():
    found = [result("a", mask_psnr=value) for value in (30.0, 40.0, 35.0)]
    assert [r["figures"]["edit"]["mask_psnr"] for r in tables.ranked(found, "edit")] == [40, 35, 30]


def test_a_variant_is_one_row_and_others_stand_beside():
    found = [result("a", mask_psnr=30.0, success=True, mask_share=0.1)]
    rows = tables.by_variant(found, variants.chosen(["edit"]), [("masked keys", found, "edit", "dense")]).splitlines()
    assert len(tables.BY_VARIANT) == len(tables.IN_SHORT)
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| `edit`", "| `dense`", "| masked keys"]
    assert len({row.count("|") for row in rows}) == 1


def test_changes_name_the_words():
    assert sheets.changes("a red house on grass", "a jack-o-lantern on grass") == "red house -> jack-o-lantern"
    assert sheets.changes("a dog", "a dog with fireworks") == "(nothing) -> with fireworks"


def test_the_figure_has_a_point_per_variant(tmp_path):
    found = [result("a", directional=0.8, image=0.9), result("a", directional=0.6, image=0.8)]
    rows = [("size-25", found, "edit"), ("a < b", found, "dense"), ("not run", found, "regenerate")]
    assert figure.means(found, "edit") == pytest.approx((0.7, 0.85))
    assert figure.save(tmp_path / "figure.svg", rows)
    root = ElementTree.parse(tmp_path / "figure.svg").getroot()
    assert len(root.findall("{*}circle")) == 2
    assert {"size-25", "a < b"} <= {text.text for text in root.findall("{*}text")}
    assert not figure.save(tmp_path / "none.svg", rows[2:])
