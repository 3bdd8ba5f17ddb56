"""Ways to make an edit: flags of `fisec run`.

A variant with sparsity is compared with the same flags and `--dense` (its yardstick). `{changed}` stands for the
ground-truth region as a PNG.
"""

import shlex
from dataclasses import dataclass

VARIANTS = {
    "edit": "",
    "sparse": "--sparse",
    "regenerate": "--base none --forget",  # the same seed, everything computed anew: the paper's SDTP
    "given-mask": "--mask {changed}",
    "size-25": "--edit-size 25% --sparse",
    "size-50": "--edit-size 50% --sparse",
    "size-75": "--edit-size 75% --sparse",
    "guide-10": "--guide-steps 10",  # as the paper's code does
    "found-only": "--grow 0",
}
DEFAULT = ("edit", "regenerate")


@dataclass(frozen=True)
class Variant:
    name: str
    flags: str

    @property
    def edits(self):
        """Whether it starts from the base image."""
        return "--base" not in self.flags.split()

    @property
    def yardstick(self):
        """The same edit without sparsity; None for what has none."""
        words = [word for word in self.flags.split() if word != "--sparse"]
        if not self.edits or "--dense" in words:
            return None
        return Variant(f"{self.name}-dense" if words else "dense", " ".join([*words, "--dense"]))

    def arguments(self, changed):
        return [word.format(changed=changed) for word in shlex.split(self.flags)]


def chosen(names):
    """Variants by name, or `NAME=FLAGS`, each followed by its yardstick, each once."""
    found = {}
    for text in names:
        name, given, flags = text.partition("=")
        if not given and name not in VARIANTS:
            raise SystemExit(f"no variant is called {name}: {', '.join(VARIANTS)}, or write NAME=FLAGS")
        variant = Variant(name, flags if given else VARIANTS[name])
        for each in filter(None, (variant, variant.yardstick)):
            if found.setdefault(each.name, each) != each:
                raise SystemExit(f"two variants are called {each.name}")
    return list(found.values())
