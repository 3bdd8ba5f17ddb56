"""Records guided steps that follow recorded cross-attention, as Prompt-to-Prompt does, of an ONNX pipeline folder.

    python control.py PIPELINE OUT_FOLDER [--base TEXT --prompt TEXT] [--seed 7] [--steps 12] [--guide-steps 4]

Words are aligned with difflib; kept ones look where they looked (`refine`), replaced ones also where those looked that
they replace (`replace`), shared among the new tokens unless both have as many. Padding keeps its own attention. Writes
latents.f32 ([4,n,n] each, after the guide steps) and control.json, which names them.
"""

import argparse
import json
import re
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import torch

from emulate import BASE, Edit

# more tokens than the word replaced, a word added, two removed
PROMPT = "a hot air balloon on the left and a shiny red apple on the right under a blue sky"


def words(pipeline, prompt):
    """Token ids of each word or mark, begin and end tokens standing for themselves."""
    encode = lambda text: tuple(pipeline.tokenizer.encode(text, add_special_tokens=False).ids)  # noqa: E731
    parts = [encode(part) for part in re.findall(r"\w+|[^\w\s]", prompt)]
    return [(pipeline.text["bos_token_id"],), *parts, (pipeline.text["eos_token_id"],)]


def tables(pipeline, base, prompt, follows):
    """(mapper [T,T], blend [T], weight [T]) for a pair of prompts."""
    length = pipeline.text["max_position_embeddings"]
    old, new = words(pipeline, base), words(pipeline, prompt)
    starts = [np.cumsum([0, *map(len, side)]) for side in (old, new)]
    mapper, blend = torch.zeros(length, length), torch.zeros(length)
    for kind, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        sources, targets = range(starts[0][a], starts[0][b]), range(starts[1][c], starts[1][d])
        if kind == "equal" or len(sources) == len(targets):
            mapper[list(sources), list(targets)] = 1
        elif kind == "replace":
            mapper[sources.start : sources.stop, targets.start : targets.stop] = 1 / len(targets)
        if kind == "equal" or (kind == "replace" and follows):
            blend[list(targets)] = 1
    return mapper, blend, torch.ones(length)


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("pipeline", type=Path)
    args.add_argument("out", type=Path)
    args.add_argument("--base", default=BASE)
    args.add_argument("--prompt", default=PROMPT)
    args.add_argument("--seed", type=int, default=7)
    args.add_argument("--steps", type=int, default=12)
    args.add_argument("--guide-steps", type=int, default=4)
    args.add_argument("--guidance", type=float, default=5.0)
    args = args.parse_args()
    args.threads = 1
    torch.set_num_threads(args.threads)
    edit = Edit(args.pipeline, args)
    edit.denoise(args.base, "record")
    found = {}
    for name in ("refine", "replace"):
        edit.net.control = tables(edit.pipeline, args.base, args.prompt, name == "replace")
        found[name] = edit.denoise(args.prompt, "guide", last=args.guide_steps)[-1].numpy()[0]
    args.out.mkdir(parents=True, exist_ok=True)
    np.stack(list(found.values())).astype("<f4").tofile(args.out / "latents.f32")
    settings = {name: vars(args)[name] for name in ("base", "prompt", "seed", "steps", "guide_steps", "guidance")}
    text = json.dumps(settings | {"latents": list(found)}, indent=1)
    (args.out / "control.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
