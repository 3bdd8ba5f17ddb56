"""Records how transformers tokenises prompts with a model's tokenizer.

    python tokens.py TOKENIZER_FOLDER OUT.json.gz

1,020 prompts: sentences of the demo world, what people type (case, punctuation, numbers, contractions, weights in
parentheses), many scripts, emoji, combining and invisible characters, odd whitespace, special tokens as text, nothing
at all, and prompts too long for 77 tokens. An entry is [prompt, ids, tokens before truncation]; ids begin with the
begin token and end with the end token; the padding that fills them up to `length` is left out.
"""

import argparse
import gzip
import hashlib
import json
import random
from pathlib import Path

from transformers import AutoTokenizer
from transformers.utils import logging

THINGS = (
    "dog cat rabbit horse owl lighthouse castle car taxi rocket robot snowman guitar pizza cupcake cactus rose "
    "umbrella trophy teddy bear|hot air balloon|ice cream|red apple|christmas tree|full moon|crescent moon|"
    "t-rex|city skyline"
)
SKIES = ("a blue sky", "a sunset sky", "a night sky", "a cloudy sky", "a pink sky", "a green aurora sky")
GROUNDS = ("grass", "sand", "snow", "water", "a road", "autumn leaves")
PLACES = ("on the left", "in the middle", "on the right", "at the top left", "at the top right")
EXTRAS = ("with a river", "with fireworks", "in front of snow mountains", "in front of green hills", "")
STYLES = (
    "8k",
    "trending on artstation",
    "1girl",
    "(masterpiece:1.4)",
    "[blurry]",
    "f/1.8",
    "35mm",
    "high-quality!!",
    "4:3",
)
SCRIPTS = (
    "ein Häuschen am See, größer",
    "un château près de l'océan, été",
    "собака на траве под голубым небом",
    "σκύλος στο γρασίδι ΣΊΣΥΦΟΣ",
    "草地上的狗和红苹果",
    "芝生の上の犬、青い空。",
    "잔디 위의 강아지",
    "كلب على العشب تحت السماء الزرقاء",
    "כלב על הדשא",
    "घास पर कुत्ता",
    "หมาบนหญ้า",
    "İstanbul'da kırmızı elma IŞIK",
    "con chó trên bãi cỏ dưới bầu trời xanh",
    "ﬁne ﬂoor ﬀ ™ ① Ⅷ ½ x² H₂O",
    "ｆｕｌｌｗｉｄｔｈ １２３",
    "e\u0301 vs \u00e9, n\u0303 vs \u00f1, A\u030a",
    "zero\u200bwidth, soft\u00adhyphen, no\u00a0break, bom\ufeff",
    "a dog 🐶 on grass 🌱 under a 🌈",
    "👩‍👩‍👧‍👦 family, 🏳️‍🌈 flag, 👍🏽, ❤️, 🇯🇵",
    "𝒻𝒶𝓃𝒸𝓎 𝔣𝔯𝔞𝔨𝔱𝔲𝔯 𝟜𝟚",
    "null\x00byte bell\x07 del\x7f",
    "math ∑∫√∞≠≤≥±×÷ arrows ←↑→↓ box ┌┐",
    "currency $5 €10 £20 ¥30 ₿",
)
PLAIN = (
    "",
    " ",
    "\t\n ",
    ",",
    ",,,",
    "...",
    "a",
    "A",
    "0",
    "I'm you're we'll they've she'd it's don't CAN'T 'S ' s",
    "don’t “quote” ‘single’ – dash — em … ellipsis",
    "snake_case camelCase kebab-case dotted.name",
    "https://example.org/a?b=c&d=%20#e",
    "user@example.org",
    "&amp; &lt;tag&gt; &#39; &nbsp;",
    "<b>bold</b> <|startoftext|> <|endoftext|> <s> </s> <pad> <bos> <eos> <unk>",
    "a dog<|endoftext|>a cat",
    "<|startoftext|>a dog",
    "1 12 123 1234 12345 3.14 1,000,000 1e-5 0x1F 50% #1 no.2 2nd",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "supercalifragilisticexpialidocious pneumonoultramicroscopicsilicovolcanoconiosis",
    "!@#$%^&*()_+-=[]{}|;':\",./<>?`~\\",
    "a  dog   on    grass",
    " a dog on grass ",
    "a dog\non grass\r\nunder\ta sky",
    "a dog,on grass ,under a sky , ",
    "a dog\u3000on\u2003grass\u2028under\u2029a\u0085sky\u1680",
)


def things():
    words, *phrases = THINGS.split("|")
    *single, first, second = words.split()
    return [*single, f"{first} {second}", *phrases]


def scene(rng):
    """A caption of the demo world."""
    nouns = things()
    parts = [f"a {rng.choice(nouns)} {place}" for place in rng.sample(PLACES, rng.randint(1, 3))]
    extra = rng.choice(EXTRAS)
    return f"{' and '.join(parts)} on {rng.choice(GROUNDS)} {extra} under {rng.choice(SKIES)}".replace("  ", " ")


def typed(rng):
    """A caption as people type it: tags, weights, capitals, stray marks and spaces."""
    words = scene(rng).split() + rng.sample(STYLES, rng.randint(0, 4))
    rng.shuffle(words)
    case = rng.choice((str.lower, str.upper, str.title, str))
    marks = [rng.choice(("", "", "", ",", ".", "!", " ,", ";", "?")) for _ in words]
    return rng.choice((" ", "  ", ", ", "\n")).join(case(w) + m for w, m in zip(words, marks))


def scrambled(rng):
    """Characters of many blocks, at random."""
    blocks = ((0x20, 0x7E), (0xA0, 0x17F), (0x370, 0x3FF), (0x400, 0x45F), (0x2010, 0x2044), (0x4E00, 0x4E80))
    blocks += ((0x1F300, 0x1F5FF), (0x300, 0x32F), (0x5D0, 0x5EA), (0xAC00, 0xAC40))
    chosen = rng.sample(blocks, 3)
    return "".join(rng.choice((" ", chr(rng.randint(*rng.choice(chosen))))) for _ in range(rng.randint(1, 24)))


def prompts(count=1020, seed=0):
    """The list; every entry occurs once."""
    rng = random.Random(seed)
    found = dict.fromkeys(PLAIN + SCRIPTS)
    for _ in range(14):
        found[", ".join(scene(rng) for _ in range(rng.randint(3, 5)))] = None
    makers = (scene, scene, typed, typed, scrambled)
    while len(found) < count:
        found[rng.choice(makers)(rng)] = None
    return list(found)


def record(tokenizer, prompt):
    """[prompt, ids without padding, tokens before truncation]."""
    whole = tokenizer(prompt).input_ids
    length = tokenizer.model_max_length
    ids = tokenizer(prompt, padding="max_length", max_length=length, truncation=True).input_ids
    used = tokenizer(prompt, max_length=length, truncation=True).input_ids
    assert ids[: len(used)] == used and set(ids[len(used) :]) <= {tokenizer.pad_token_id}
    return [prompt, used, len(whole)]


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("tokenizer", type=Path)
    args.add_argument("out", type=Path)
    args = args.parse_args()
    logging.set_verbosity_error()
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    head = {
        "tokenizer_sha256": hashlib.sha256((args.tokenizer / "tokenizer.json").read_bytes()).hexdigest(),
        "length": tokenizer.model_max_length,
        "begin": tokenizer.bos_token_id,
        "end": tokenizer.eos_token_id,
        "pad": tokenizer.pad_token_id,
    }
    entries = [record(tokenizer, p) for p in prompts()]
    lines = ",\n".join(json.dumps(e, separators=(",", ":")) for e in entries)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    text = f'{json.dumps(head)[:-1]}, "prompts": [\n{lines}\n]}}\n'
    args.out.write_bytes(gzip.compress(text.encode(), mtime=0))
    long = sum(e[2] > head["length"] for e in entries)
    print(f"{len(entries)} prompts, {long} of them too long, {args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
