"""Builds a small tokenizer of CLIP's kind, as pipelines ship it: vocab.json, merges.txt; and tokenizer.json.

    python clip_tokenizer.py OUT_FOLDER

Lower-cased, NFC, CLIP's splitting pattern, byte-level BPE with `</w>` ending words, 256 + 256 single bytes, merges
learnt from the prompts of `tokens.py`, then <|startoftext|> and <|endoftext|>; padding is <|endoftext|>, as in Stable
Diffusion 1.
"""

import argparse
import json
import random
import re
from collections import Counter
from pathlib import Path

from transformers import CLIPTokenizerFast
from transformers.models.clip.tokenization_clip import bytes_to_unicode

from tokens import scene, typed

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
MERGES = 400


def words(count=2000):
    """Words of generated prompts and how often they occur, as tuples of byte symbols."""
    rng = random.Random(1)
    text = " ".join(rng.choice((scene, typed))(rng).lower() for _ in range(count))
    found = Counter(re.findall(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|[^\s\w]+", text))
    symbols = bytes_to_unicode()
    spelled = {w: [symbols[b] for b in w.encode()] for w in found}
    return {(*s[:-1], s[-1] + "</w>"): found[w] for w, s in spelled.items()}


def learn(counts, merges):
    """The `merges` most frequent pairs, one after another."""
    learnt = []
    for _ in range(merges):
        pairs = Counter()
        for word, count in counts.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += count
        if not pairs:
            break
        best = max(pairs, key=lambda p: (pairs[p], p))
        learnt.append(best)
        counts = {_merge(word, best): count for word, count in counts.items()}
    return learnt


def _merge(word, pair):
    out, i = [], 0
    while i < len(word):
        joined = word[i : i + 2] == pair
        out.append("".join(pair) if joined else word[i])
        i += 2 if joined else 1
    return tuple(out)


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("out", type=Path)
    out = args.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    merges = learn(words(), MERGES)
    single = list(bytes_to_unicode().values())
    entries = [*single, *(s + "</w>" for s in single), *("".join(m) for m in merges), BEGIN, END]
    (out / "vocab.json").write_text(json.dumps({e: i for i, e in enumerate(entries)}, ensure_ascii=False))
    (out / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    special = dict(bos_token=BEGIN, eos_token=END, unk_token=END, pad_token=END, model_max_length=77)
    fast = CLIPTokenizerFast(str(out / "vocab.json"), str(out / "merges.txt"), **special)
    fast.save_pretrained(out)
    print(f"{len(entries)} entries")


if __name__ == "__main__":
    main()
