"""A CLIP-style byte-level BPE tokenizer, trained on the captions.

    python tokenizer.py sprites.npz OUT_FOLDER

Vocabulary in CLIP's order: 256 bytes, the same 256 ending a word, merges, <|startoftext|>, <|endoftext|>. A word never
seen in training falls apart into pieces or single bytes. 77 tokens, padded with <|endoftext|>.
"""

import argparse
import collections
import json
import os

from world import caption, load_casts, sample_many

LENGTH, VOCABULARY = 77, 1536
START, END = "<|startoftext|>", "<|endoftext|>"
PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"  # CLIP's


def byte_symbols():
    """CLIP's printable stand-ins for the 256 bytes, in its order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = {b: chr(b) for b in printable}
    for b in range(256):
        if b not in symbols:
            symbols[b] = chr(256 + len(symbols) - len(printable))
    return list(symbols.values())


def learn_merges(words, count):
    """Greedy pair merges over a dict word -> frequency."""
    split = {word: [*word[:-1], word[-1] + "</w>"] for word in words}
    merges = []
    while len(merges) < count:
        pairs = collections.Counter()
        for word, parts in split.items():
            for pair in zip(parts, parts[1:]):
                pairs[pair] += words[word]
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        for word, parts in split.items():
            i, merged = 0, []
            while i < len(parts):
                joined = tuple(parts[i : i + 2]) == best
                merged.append(parts[i] + parts[i + 1] if joined else parts[i])
                i += 2 if joined else 1
            split[word] = merged
    return merges


def count_words(captions):
    import regex

    return collections.Counter(w for text in captions for w in regex.findall(PATTERN, text.lower()))


def save(folder, merges):
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    symbols = byte_symbols()
    tokens = symbols + [s + "</w>" for s in symbols] + ["".join(pair) for pair in merges] + [START, END]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    os.makedirs(folder, exist_ok=True)
    json.dump(vocabulary, open(f"{folder}/vocab.json", "w"), ensure_ascii=False)
    with open(f"{folder}/merges.txt", "w") as file:
        file.write("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    special = dict(bos_token=START, eos_token=END, unk_token=END, pad_token=END)
    json.dump(special, open(f"{folder}/special_tokens_map.json", "w"), indent=1)
    json.dump(
        dict(
            tokenizer_class="CLIPTokenizer",
            model_max_length=LENGTH,
            do_lower_case=True,
            errors="replace",
            add_prefix_space=False,
            **special,
        ),
        open(f"{folder}/tokenizer_config.json", "w"),
        indent=1,
    )
    fast = Tokenizer(
        models.BPE(
            vocabulary,
            list(merges),
            unk_token=END,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            fuse_unk=False,
        )
    )
    fast.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PATTERN), "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    fast.decoder = decoders.ByteLevel()
    fast.post_processor = processors.RobertaProcessing(
        (END, vocabulary[END]), (START, vocabulary[START]), trim_offsets=False, add_prefix_space=False
    )
    fast.add_special_tokens([START, END])
    fast.enable_truncation(LENGTH)
    fast.enable_padding(length=LENGTH, pad_id=vocabulary[END], pad_token=END)
    fast.save(f"{folder}/tokenizer.json")


def load(folder):
    """texts -> lists of 77 ids."""
    from tokenizers import Tokenizer

    fast = Tokenizer.from_file(f"{folder}/tokenizer.json")
    return lambda texts: [encoding.ids for encoding in fast.encode_batch(list(texts))]


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("sprites")
    arguments.add_argument("output")
    arguments = arguments.parse_args()
    casts = load_casts(arguments.sprites)
    scenes = sample_many(11, 40000, casts).tolist()
    words = count_words(caption(scene, style, casts) for style, scene in enumerate(scenes))
    merges = learn_merges(words, VOCABULARY - 514)
    save(arguments.output, merges)
    encode = load(arguments.output)
    longest = max(
        sum(i != encode([""])[0][-1] for i in ids) + 1
        for ids in encode(caption(s, k, casts) for k, s in enumerate(scenes[:5000]))
    )
    print(f"{len(words)} words, {len(merges)} merges, vocabulary {514 + len(merges)}, longest caption {longest} tokens")
