"""Ways to make an edit: flags of `fisec run`.

`@NAME` among the flags stands for another plan (`--plan NAME=PLAN`), which records base images of its own. A variant
with sparsity is compared with the same flags and `--dense` (its yardstick), computed with the first plan: without
sparsity plans differ in nothing. `{changed}` stands for the ground-truth region as a PNG.
"""

import shlex
from dataclasses import dataclass

VARIANTS = {
    "edit": "",
    "paper": "@paper --preset paper",
    # other ways to edit, all without sparsity
    "regenerate": "--method regenerate",  # the same seed, everything computed anew: the paper's SDTP
    "blend": "--method blend",
    "p2p": "--method p2p",
    "sdedit-50": "--method sdedit:0.5",
    "sdedit-60": "--method sdedit:0.6",
    "sdedit-75": "--method sdedit:0.75",
    "diffedit": "--method diffedit",
    # edit sizes of the paper's Figure A2
    "size-25": "--edit-size 25% --sparse",
    "size-50": "--edit-size 50% --sparse",
    "size-75": "--edit-size 75% --sparse",
    # one choice at a time
    "given-mask": "--mask {changed}",
    "sparse": "--sparse",
    "grow-0": "--grow 0",
    "grow-16": "--grow 16",
    "grow-24": "--grow 24",
    "feather-0": "--feather 0",
    "guide-3": "--guide-steps 3",
    "guide-5": "--guide-steps 5",
    "guide-10": "--guide-steps 10",
    "mask-latents": "--mask-from latents",
    "mask-attention": "--mask-from attention",
    "mask-both": "--mask-from both",
    "no-control": "--control none",
    "masked-keys": "@masked",
    "updated-norms": "@updated",
    "live-norms": "@live",
    "levels-1": "@levels1",
    "levels-2": "@levels2",
    "levels-3": "@levels3",
}
DEFAULT = ("edit", "regenerate")


@dataclass(frozen=True)
class Variant:
    name: str
    flags: str
    first: int | None = None  # only so many edits from the list's start

    @property
    def plan(self):
        """Name of the plan; "" is the first one."""
        return next((word[1:] for word in self.flags.split() if word.startswith("@")), "")

    @property
    def method(self):
        """Another way to edit, or ""."""
        words = self.flags.split()
        return words[words.index("--method") + 1] if "--method" in words else ""

    @property
    def yardstick(self):
        """The same edit without sparsity; None for what has none."""
        words = [word for word in self.flags.split() if word != "--sparse" and not word.startswith("@")]
        if self.method or "--dense" in words:
            return None
        return Variant(f"{self.name}-dense" if words else "dense", " ".join([*words, "--dense"]), self.first)

    def arguments(self, changed):
        return [word.format(changed=changed) for word in shlex.split(self.flags) if not word.startswith("@")]

    def covers(self, index):
        """Whether the edit at this place of the list is made."""
        return self.first is None or index < self.first


def parsed(text):
    """`NAME`, `NAME:FIRST`, `NAME=FLAGS` or `NAME:FIRST=FLAGS`."""
    head, given, flags = text.partition("=")
    name, _, first = head.partition(":")
    if not given and name not in VARIANTS:
        raise SystemExit(f"no variant is called {name}: {', '.join(VARIANTS)}, or write NAME=FLAGS")
    return Variant(name, flags if given else VARIANTS[name], int(first) if first else None)


def widest(one, other):
    """For two variants with the same yardstick: made wherever either is."""
    return None if None in (one, other) else max(one, other)


def chosen(texts):
    """Variants as given, each followed by its yardstick, each once."""
    found = {}
    for variant in map(parsed, texts):
        for each in filter(None, (variant, variant.yardstick)):
            known = found.get(each.name, each)
            if known.flags != each.flags or (known is not each and each is variant):
                raise SystemExit(f"two variants are called {each.name}")
            found[each.name] = Variant(each.name, each.flags, widest(known.first, each.first))
    return list(found.values())
