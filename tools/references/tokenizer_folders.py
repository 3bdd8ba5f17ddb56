"""Records how transformers tokenises prompts with tokenizer folders of many shapes.

    python tokenizer_folders.py CLIP_FOLDER OUT.json            with one release of transformers: what it makes of every folder
    python tokenizer_folders.py CLIP_FOLDER OUT.json.gz --join A.json B.json …   the records of several releases in one file

CLIP_FOLDER is what `clip_tokenizer.py` wrote. A folder shape is that vocabulary and its merges with other files beside
them: `files` maps a name to its text, or to null where the file of CLIP_FOLDER is left out. Every release is recorded
with each of its CLIP classes: `slow` (CLIPTokenizer up to 4.57), `fast` (CLIPTokenizerFast, and CLIPTokenizer from 5 on).
An entry of `ids` is null where transformers fails. Release 4.57 and the newest 5.x, each without torch:

    pip install --target /tmp/tf4 'transformers==4.57.6'; pip install --target /tmp/tf5 'transformers>=5'
    PYTHONPATH=/tmp/tf4 python tokenizer_folders.py … /tmp/4.json; PYTHONPATH=/tmp/tf5 python tokenizer_folders.py … /tmp/5.json
"""

import argparse
import gzip
import json
import tempfile
from pathlib import Path

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 16
PROMPTS = (
    "",
    "a dog",
    "A DOG on GRASS",
    "a dog!",
    "! a dog",
    "!! dog !!! cat! !dog!",
    "a <cat-toy> on the grass",
    "a<cat-toy>on the grass",
    "a  <cat-toy>  ,<cat-toy>",
    "a <Cat-Toy> and a <CAT-TOY>",
    "<cat-toy> <cat-toy>_1 <cat-toy>_2 <cat-toy>_11",
    "a cat-toy, mystyle, MyStyle, xmystyle mystyles",
    "my café in CAFÉ style, cafe\u0301",
    "a dog <bos> <eos> <unk> <pad>",
    f"a {END} dog {BEGIN} cat",
    "a <|ENDOFTEXT|> dog",
    "I'm you're we'll they've she'd it's DON'T ' s",
    "1 12 1234 3.14 no.2",
    "a dog\u00a0on\u3000grass\n\tunder  a sky",
    "ﬁne ½ x² İstanbul ΣΊΣ",
    "草地上的狗 собака",
    "a 🐶 dog \u200b zero",
    "a dog on grass under a blue sky with a cat, a castle, a rocket and a robot by night",
)


def token(content, **flags):
    """An added token as transformers writes it."""
    plain = dict(lstrip=False, normalized=True, rstrip=False, single_word=False)
    return {"content": content, **plain, **flags}


def special(content, **flags):
    return token(content, special=True, **flags)


def typed(content, **flags):
    return {"__type": "AddedToken", **token(content, **flags)}


def shapes(clip):
    """Name of a shape to its files; None leaves a file of CLIP_FOLDER out."""
    vocabulary = json.loads((clip / "vocab.json").read_text())
    merges = (clip / "merges.txt").read_text()
    backend = json.loads((clip / "tokenizer.json").read_text())
    size = len(vocabulary)
    begin, end = vocabulary[BEGIN], vocabulary[END]
    named = dict(bos_token=BEGIN, eos_token=END, unk_token=END)
    plain = dict(**named, pad_token=END, model_max_length=77, tokenizer_class="CLIPTokenizer")
    objects = {key: token(value) for key, value in named.items()}
    both = {str(begin): special(BEGIN), str(end): special(END)}
    saved = dict(plain, added_tokens_decoder=both)
    vectors = ["<cat-toy>", "<cat-toy>_1", "<cat-toy>_2"]
    more = lambda *extra, start=size: {**both, **{str(start + i): t for i, t in enumerate(extra)}}
    out = {}

    def shape(name, config=None, special_map=None, added=None, tokenizer=None, **files):
        texts = {"tokenizer_config.json": config, "special_tokens_map.json": special_map, "added_tokens.json": added}
        texts["tokenizer.json"] = tokenizer
        texts = {k: None if v is None else v if isinstance(v, str) else json.dumps(v) for k, v in texts.items()}
        out[name] = {**texts, **{k.replace("__", "."): v for k, v in files.items()}}

    shape("vocabulary and merges alone")
    shape("saved, as Stable Diffusion 1", saved, dict(objects, pad_token=END))
    shape("a special map against an older config", dict(plain, **{k: typed(v) for k, v in named.items()}), dict(objects, pad_token="!"))
    shape("a special map pads with a word", dict(named, model_max_length=77), dict(objects, pad_token="!"))
    shape("a special map pads with a word, as an object", dict(plain, pad_token=None), dict(objects, pad_token=token("!")))
    shape("saved again, padding is a word", dict(plain, pad_token="!", added_tokens_decoder={"0": special("!"), **both}), dict(objects, pad_token="!"))
    shape("saved again, padding is a plain word", dict(plain, pad_token="!", added_tokens_decoder={"0": special("!", normalized=False), **both}))
    shape("a decoder against the special map", saved, dict(objects, pad_token="!"))
    shape("config alone pads with a word", dict(plain, pad_token="!"))
    shape("special map alone", None, dict(objects, pad_token="!"))
    shape("an empty config", {}, {})
    shape("one added token, saved", dict(plain, added_tokens_decoder=more(token("<cat-toy>", special=False))), dict(objects, pad_token=END), {"<cat-toy>": size})
    shape("one added token, of added_tokens alone", plain, dict(objects, pad_token=END), {"<cat-toy>": size})
    shape("an added token that is special by the map", plain, dict(objects, additional_special_tokens=["<cat-toy>"]), {"<cat-toy>": size})
    shape("additional special tokens of the config", dict(plain, additional_special_tokens=["<cat-toy>", typed("mystyle")]))
    shape("additional special tokens of the map", plain, dict(objects, additional_special_tokens=["<cat-toy>", token("mystyle")]))
    shape("extra special tokens, a list", dict(plain, extra_special_tokens=["<cat-toy>"], added_tokens_decoder=both))
    shape("extra special tokens, by name", dict(plain, extra_special_tokens={"toy_token": "<cat-toy>"}, added_tokens_decoder=both))
    shape("a concept of several vectors", dict(plain, added_tokens_decoder=more(*(token(v, special=False) for v in vectors))), None, {v: size + i for i, v in enumerate(vectors)})
    shape("several vectors, of added_tokens alone", plain, None, {v: size + i for i, v in reversed(list(enumerate(vectors)))})
    shape("added tokens with a gap", dict(plain, added_tokens_decoder=more(token("<cat-toy>", special=False), start=size + 7)))
    shape("an added token in capitals", dict(plain, added_tokens_decoder=more(token("<Cat-Toy>", special=False))))
    shape("an added token in capitals, not normalized", dict(plain, added_tokens_decoder=more(token("<Cat-Toy>", special=False, normalized=False))))
    shape("an added word", dict(plain, added_tokens_decoder=more(token("mystyle", special=False))))
    shape("an added word, single", dict(plain, added_tokens_decoder=more(token("mystyle", special=False, single_word=True))))
    shape("an added word, single and in capitals", dict(plain, added_tokens_decoder=more(token("MyStyle", special=False, single_word=True, normalized=False))))
    shape("an added token that strips", dict(plain, added_tokens_decoder=more(token("<cat-toy>", special=False, lstrip=True, rstrip=True))))
    shape("a special token that strips", dict(plain, added_tokens_decoder=more(special("<cat-toy>", lstrip=True, rstrip=True, normalized=False))))
    shape("an added word with an accent", dict(plain, added_tokens_decoder=more(token("café", special=False))))
    shape("a decoder and other added_tokens", dict(plain, added_tokens_decoder=more(token("<cat-toy>", special=False))), None, {"mystyle": size})
    shape("the end token is not normalized", dict(plain, added_tokens_decoder={str(begin): special(BEGIN, normalized=False), str(end): special(END, normalized=False)}))
    shape("a word of the vocabulary is added", dict(plain, added_tokens_decoder={str(vocabulary["dog</w>"]): token("dog</w>", special=False), **both}))
    other = dict(bos_token="<bos>", eos_token="<eos>", unk_token="<unk>", pad_token="<pad>")
    new = json.dumps({**vocabulary, **{v: size + i for i, v in enumerate(other.values())}})
    shape("other special tokens of the vocabulary", dict(plain, **other), vocab__json=new)
    shape("other special tokens beyond the vocabulary", dict(plain, **other, added_tokens_decoder={str(size + i): special(v, normalized=False) for i, v in enumerate(other.values())}))
    shape("other special tokens of nowhere", dict(plain, **other))
    shape("padding of nowhere", dict(plain, pad_token="<pad>"))
    shape("another end token", dict(plain, eos_token="!"))
    shape("no padding", dict(plain, pad_token=None))
    shape("an absurd length", dict(plain, model_max_length=1000000000000000019884624838656))
    shape("a short length", dict(plain, model_max_length=8))
    shape("do_lower_case is false", dict(plain, do_lower_case=False))
    shape("settings without effect", dict(plain, do_lower_case=True, clean_up_tokenization_spaces=True, add_prefix_space=True, errors="strict"))
    shape("mask and class tokens", dict(plain, mask_token="<cat-toy>", cls_token="mystyle", sep_token=None))
    shape("merges without a version", plain, merges__txt=merges.split("\n", 1)[1])
    shape("merges with Windows line ends", plain, merges__txt=merges.replace("\n", "\r\n"))
    shape("merges with an empty end", plain, merges__txt=merges + "\n\n")
    shape("merges without a last line end", plain, merges__txt=merges.rstrip("\n"))
    unsorted = json.dumps(dict(reversed(list(vocabulary.items()))), indent=1)
    shape("a vocabulary in another order", plain, vocab__json=unsorted)
    shape("tokenizer.json alone", tokenizer=backend, vocab__json=None, merges__txt=None)
    shape("tokenizer.json and its config", saved, dict(objects, pad_token=END), tokenizer=backend)
    shape("tokenizer.json against config and map", plain, dict(objects, pad_token="!"), tokenizer=backend)
    shape("tokenizer.json against the map, decoder there", saved, dict(objects, pad_token="!"), tokenizer=backend)
    shape("tokenizer.json, padding is a word by the config", dict(plain, pad_token="!", added_tokens_decoder={"0": special("!"), **both}), tokenizer=backend)
    shape("tokenizer.json, an added token by the config", dict(plain, added_tokens_decoder=more(token("<cat-toy>", special=False))), tokenizer=backend)
    shape("tokenizer.json, an added token by added_tokens", plain, dict(objects, pad_token=END), {"<cat-toy>": size}, tokenizer=backend)
    with_toy = dict(backend, added_tokens=[*backend["added_tokens"], {"id": size, **token("<cat-toy>", special=False)}])
    shape("tokenizer.json with an added token", saved, tokenizer=with_toy)
    shape("tokenizer.json pads", plain, tokenizer=dict(backend, padding=dict(strategy={"Fixed": 16}, direction="Right", pad_to_multiple_of=None, pad_id=0, pad_type_id=0, pad_token="!")))
    shape("tokenizer.json pads, no config", None, tokenizer=dict(backend, padding=dict(strategy={"Fixed": 16}, direction="Right", pad_to_multiple_of=None, pad_id=0, pad_type_id=0, pad_token="!")))
    return out


def write(clip, files, folder):
    for name in ("vocab.json", "merges.txt"):
        if name not in files:
            (folder / name).write_bytes((clip / name).read_bytes())
    for name, text in files.items():
        if text is not None:
            (folder / name).write_bytes(text.encode())


def ids(make, folder):
    """Ids of every prompt; None where transformers fails."""
    try:
        tokenizer = make.from_pretrained(folder)
    except Exception as error:  # noqa: BLE001  whatever it raises is its answer
        print("  ", make.__name__, type(error).__name__, error)
        return None
    found = []
    for prompt in PROMPTS:
        try:
            found.append(tokenizer(prompt, padding="max_length", max_length=LENGTH, truncation=True).input_ids)
        except Exception as error:  # noqa: BLE001
            print("  ", make.__name__, repr(prompt), type(error).__name__, error)
            found.append(None)
    return found


def record(clip):
    import transformers

    transformers.utils.logging.set_verbosity_error()
    release = ".".join(transformers.__version__.split(".")[:2])
    classes = {"fast": transformers.CLIPTokenizerFast, "slow": transformers.CLIPTokenizer}
    if release.startswith("5"):
        classes = {"fast": transformers.CLIPTokenizer}
    entries = {}
    for name, files in shapes(clip).items():
        with tempfile.TemporaryDirectory() as folder:
            write(clip, files, Path(folder))
            print(name)
            entries[name] = {f"{release} {kind}": ids(make, folder) for kind, make in classes.items()}
    return {"length": LENGTH, "prompts": PROMPTS, "shapes": shapes(clip), "ids": entries}


def join(paths):
    records = [json.loads(path.read_text()) for path in paths]
    joined = records[0]
    for other in records[1:]:
        assert other["shapes"] == joined["shapes"] and other["prompts"] == joined["prompts"]
        for name, found in other["ids"].items():
            joined["ids"][name].update(found)
    return joined


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("clip", type=Path)
    args.add_argument("out", type=Path)
    args.add_argument("--join", type=Path, nargs="+", default=[])
    args = args.parse_args()
    found = join(args.join) if args.join else record(args.clip)
    text = json.dumps(found, separators=(",", ":"), ensure_ascii=False).encode()
    args.out.write_bytes(gzip.compress(text, 9, mtime=0) if args.out.suffix == ".gz" else text)
    print(f"{len(found['ids'])} folders, {args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
