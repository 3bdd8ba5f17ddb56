"""python -m pytest tools/evaluate"""

import asyncio
import collections
import json
import os
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

import clip
import figure
import measures
import regions
import report
import results
import runner
import sheets
import tables
import variants
import verdict
import workers

HERE = Path(__file__).parent
EDITS = json.loads((HERE / "edits.json").read_text())
CHAINS = json.loads((HERE / "chains.json").read_text())
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


def test_a_yardstick_needs_no_plan_of_its_own_and_is_made_as_widely_as_anyone_asks():
    found = {v.name: v for v in variants.chosen(["edit:3", "masked-keys:28", "paper:5"])}
    assert (found["masked-keys"].plan, found["paper"].plan, found["edit"].plan) == ("masked", "paper", "")
    assert found["masked-keys"].arguments("x.png") == [] and found["masked-keys"].yardstick.name == "dense"
    assert found["paper-dense"].flags == "--preset paper --dense" and found["paper-dense"].plan == ""
    assert found["dense"].covers(27) and not found["dense"].covers(28)
    assert found["edit"].covers(2) and not found["edit"].covers(3)
    assert variants.chosen(["edit:3", "masked-keys"])[1].covers(10**6)


@pytest.mark.parametrize("jobs", [1, 2])
def test_so_many_run_at_a_time_each_on_cores_of_its_own(jobs):
    running, seen = [], []

    async def work(cores, item):
        async with cores.place() as own:
            running.append(own)
            seen.append((item, len(running)))
            assert running.count(own) == 1 or len(os.sched_getaffinity(0)) == 1
            await asyncio.sleep(0.01)
            running.remove(own)

    async def all_of_them():
        cores = workers.Cores(jobs, 1)
        await workers.each(lambda item: work(cores, item), range(6), 4)

    asyncio.run(all_of_them())
    assert sorted(item for item, _ in seen) == list(range(6)) and max(count for _, count in seen) == jobs


class Recorder:
    """Stands for the program: remembers what it was asked for and returns what --json would."""

    def __init__(self):
        self.asked, self.known, self.removed = [], 0, []

    async def run(self, prompt, seed, output, flags, plan="", cores=None):
        self.asked.append((output.stem, plan, flags))
        self.known += 1
        Image.new("RGB", (512, 512), (self.known, 0, 0)).save(output)
        remembered = "--forget" not in flags
        return {
            "id": f"{plan}{self.known}" if remembered else None,
            "outcome": "sparse",
            "mask_share": 0.1,
            "seconds": {"total": 1.0},
            "plan": plan,
        }

    async def forget(self, identities):
        self.removed += identities


def made_by(fisec, names, work, until=float("inf")):
    """What a runner of these variants does in work(runner)."""

    async def run():
        await work(runner.Runner(fisec, variants.chosen(names), workers.Cores(1, 1), lambda text: None, until))

    asyncio.run(run())


def test_a_base_is_recorded_once_for_all_variants_of_a_plan_and_removed(tmp_path):
    fisec, folder, names = Recorder(), results.Folder(tmp_path), ["edit", "regenerate:1", "masked-keys"]
    made_by(fisec, names, lambda runner: runner.run(0, EDITS[0], folder))
    asked = [(name, plan) for name, plan, _ in fisec.asked]
    assert [name for name, plan in asked if not plan] == ["base", "edit", "dense", "regenerate"]
    assert [name for name, plan in asked if plan == "masked"] == ["base@masked", "masked-keys"]
    assert sorted(fisec.removed) == ["1", "masked2"]
    edits = [(plan, flags) for name, plan, flags in fisec.asked if "base" not in name]
    assert all(flags[1] == {"": "1", "masked": "masked2"}[plan] and "--forget" in flags for plan, flags in edits)
    made_by(fisec, names, lambda runner: runner.run(0, EDITS[0], folder))
    assert len(fisec.asked) == 6
    made_by(fisec, ["edit", "regenerate:1", "sparse"], lambda runner: runner.run(1, EDITS[0], folder))
    assert [name for name, _, _ in fisec.asked[6:]] == ["base", "sparse"]


def test_nothing_is_begun_when_the_time_is_over(tmp_path):
    fisec = Recorder()
    with pytest.raises(runner.Late):
        made_by(fisec, ["edit"], lambda runner: runner.run(0, EDITS[0], results.Folder(tmp_path)), until=0)
    assert not fisec.asked


def test_every_edit_of_a_chain_starts_from_the_one_before(tmp_path):
    fisec = Recorder()
    made_by(fisec, ["edit"], lambda runner: runner.run_chain(CHAINS[0], results.Folder(tmp_path)))
    bases = [(name, flags[1]) for name, _, flags in fisec.asked]
    assert bases[:5] == [("base", "none"), ("edit-1", "1"), ("dense-1", "1"), ("edit-2", "2"), ("dense-2", "2")]
    assert len(bases) == 11 and fisec.removed == ["1", "2", "4", "6", "8", "10"]


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: chain["id"])
def test_a_chain_has_five_edits(chain):
    assert len(chain["prompts"]) == 6 == len(set(chain["prompts"])) and len(set(chain["kinds"])) == 5


def test_figures_are_kept_until_something_is_run_again(tmp_path):
    folder = results.Folder(tmp_path)
    folder.write("edit", {"outcome": "sparse"})
    assert folder.figures() is None
    folder.keep({"edit": {"iou": 1.0}})
    assert folder.figures() == {"edit": {"iou": 1.0}}
    os.utime(folder.file("figures.json"), (0, 0))
    assert folder.figures() is None


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


def test_variants_are_compared_over_the_edits_that_all_of_them_made():
    one, other = result("a", mask_psnr=30.0, success=True), result("a", mask_psnr=20.0, success=False)
    one["figures"]["size-25"] = {**one["figures"]["edit"], "mask_psnr": 28.0, "seconds": 1.5}
    chosen = variants.chosen(["edit", "size-25"])[::2]
    rows = tables.by_variant([one, other], chosen, tables.BY_CHOICE).splitlines()
    assert [row.split(" | ")[:2] for row in rows[2:]] == [["| `edit`", "1"], ["| `size-25`", "1"]]
    assert "28.0 dB | -2.0 dB" in rows[3] and "+50 %" in rows[3] and "30.0 dB | +0.0 dB" in rows[2]
    assert len({row.count("|") for row in rows}) == 1


def test_places_of_a_chain_are_rows():
    step = {"outcome": "sparse", "macs": 1, "macs_dense": 2}
    rows = tables.by_place([[{**step, "ssim": 0.9}, {**step, "ssim": 0.8}], [{**step, "ssim": 1.0}]]).splitlines()
    assert rows[2].startswith("| 1 | 2 |") and "0.9500" in rows[2]
    assert rows[3].startswith("| 2 | 1 |") and "0.8000" in rows[3]


def test_the_verdict_says_what_was_measured():
    one = result(
        "a", mask_psnr=31.0, ssim=0.995, success=True, changed_share=0.1, iou=0.7, covered=0.9, outside_changed=0.0
    )
    one["figures"]["paper"] = {**one["figures"]["edit"], "mask_psnr": 24.0}
    far = result("a", mask_psnr=29.0, ssim=0.985, success=False, changed_share=0.6, iou=0.1, outside_changed=0.01)
    said = verdict.verdict([one, far])
    for figure_text in ("30.0 dB", "7.0 dB", "0.9900", "1 local edits", "0.700", "1.000% in 2 edits"):
        assert figure_text in said, figure_text


def test_parts_that_were_made_elsewhere_are_put_together(tmp_path):
    about = {"settings": "--steps 20", "variants": ["edit"]}
    parts = (
        [{"id": "a", "figures": {"edit": {"iou": 1}}}],
        [{"id": "a", "figures": {"paper": {}}}, {"id": "b", "figures": {}}],
    )
    (tmp_path / "results.json").write_text(json.dumps({"about": about, "edits": parts[0]}))
    (tmp_path / "results2.json").write_text(json.dumps({"about": {**about, "variants": ["paper"]}, "edits": parts[1]}))
    _, edits, chosen = report.read(tmp_path)
    assert {edit["id"]: set(edit["figures"]) for edit in edits} == {"a": {"edit", "paper"}, "b": set()}
    assert [v.name for v in chosen] == ["edit", "dense", "paper", "paper-dense"]


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
    heights = figure.spread({"a": (500, 50), "b": (501, 52), "c": (10, 51), "d": (500, 90)})
    assert heights == {"a": 50, "b": 63, "c": 51, "d": 90}
    assert figure.families(["size-25", "edit", "size-50", "sdedit-75"]) == [["size-25", "size-50"]]
