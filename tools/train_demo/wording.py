"""Many ways to say one scene: word order, synonyms, whole sentences, plurals, relations, slips of the pen.

`caption` of world.py is one way of speaking, with fixed words for an edit's sake; this is everything else.
"""

from wide import FACE, GROUND, SKY
from world import (
    GROUND_NOUNS,
    GROUND_PHRASES,
    MIDGROUND_NOUNS,
    SKY_NOUNS,
    SKY_PHRASES,
    SYNONYMS,
    join,
    with_article,
)

COLUMN_PHRASES = (
    ("on the left", "at the left", "to the left", "on the left side", "left"),
    ("left of the middle", "left of the center", "a bit to the left", "just left of the middle"),
    ("in the middle", "in the center", "in the centre", "in the middle of the picture"),
    ("right of the middle", "right of the center", "a bit to the right", "just right of the middle"),
    ("on the right", "at the right", "to the right", "on the right side", "right"),
)
SKY_PHRASES_AT = {
    0: ("at the top left", "in the top left", "in the top left corner", "in the upper left"),
    2: ("at the top", "above", "in the sky", "overhead"),
    4: ("at the top right", "in the top right", "in the top right corner", "in the upper right"),
}
SIZE_WORDS = {"small": ("small", "tiny", "little"), "big": ("big", "large", "huge", "giant")}
DEPTH_PHRASES = {
    "far": ("in the distance", "far away", "in the far distance"),
    "front": ("in the foreground", "in front", "at the front"),
}
MORE_SYNONYMS = {
    "dog": ("doggy", "hound", "pup"),
    "cat": ("kitty", "tabby"),
    "rabbit": ("hare",),
    "horse": ("mare", "stallion"),
    "pig": ("piglet",),
    "duck": ("mallard",),
    "car": ("auto", "sedan"),
    "boat": ("ship", "sailing boat"),
    "house": ("cottage",),
    "tree": ("oak", "leafy tree"),
    "pine tree": ("fir", "fir tree", "conifer"),
    "palm tree": ("palm",),
    "castle": ("fortress",),
    "bicycle": ("push bike",),
    "train": ("locomotive", "steam train"),
    "flower": ("blossom",),
    "television": ("tv set",),
    "gift": ("wrapped gift",),
    "teddy bear": ("teddy",),
    "airplane": ("aeroplane", "jet"),
    "helicopter": ("chopper",),
    "bee": ("honeybee",),
    "crescent moon": ("half moon",),
    "ice cream": ("sundae",),
    "orange": ("tangerine",),
    "soccer ball": ("soccerball",),
    "backpack": ("rucksack",),
}
COLOUR_FORMS = ("{c} {n}", "{c} {n}", "{c} {n}", "{c} {n}", "{n} in {c}", "{c} colored {n}", "{n} that is {c}")
OPENINGS = ("there is {}", "there is {}", "there are {}", "i see {}", "we see {}", "you can see {}", "a scene with {}")
FACE_FORMS = ("the face of {a}", "{n} face", "a {n} face", "a portrait of {a}", "a close-up of {a}", "{a} close up")
CLOSE_FORMS = ("a close-up of {a}", "a close up of {a}", "{a} close up", "close-up of {a}", "a very big {n}")
COUNTS = {2: ("two", "two", "2", "a pair of"), 3: ("three", "three", "3")}


def plural(noun):
    if noun in ("sheep",):
        return noun
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


class Speaker:
    """Says one scene, every choice drawn from `rng`. `faces`: the names of the face cast."""

    def __init__(self, rng, casts, faces):
        self.rng, self.casts, self.faces = rng, casts, faces

    def noun(self, name):
        options = SYNONYMS.get(name, (name,)) * 2 + (name,) * 2 + MORE_SYNONYMS.get(name, ())
        return self.rng.choice(options)

    def named(self, thing):
        """Noun with colour and size, without article."""
        rng = self.rng
        if thing.cast == FACE:
            return self.noun(self.faces[thing.sprite])
        cast = self.casts[thing.cast]
        words = self.noun(cast.names[thing.sprite])
        colour = cast.colours[thing.sprite]
        if colour and not (cast.own[thing.sprite] and rng.random() < 0.3):
            words = rng.choice(COLOUR_FORMS).format(c=colour, n=words)
        if thing.size in SIZE_WORDS:
            words = f"{rng.choice(SIZE_WORDS[thing.size])} {words}"
        return words

    def place(self, thing):
        places = SKY_PHRASES_AT if thing.cast == SKY else COLUMN_PHRASES
        where = self.rng.choice(places[thing.column])
        if thing.depth:
            depth = self.rng.choice(DEPTH_PHRASES[thing.depth])
            where = f"{depth} {where}" if self.rng.random() < 0.5 else f"{where} {depth}"
        return where

    def thing(self, thing, silent=False):
        rng, name = self.rng, self.named(thing)
        if thing.size == "close":
            forms = FACE_FORMS if thing.cast == FACE else CLOSE_FORMS
            return rng.choice(forms).format(a=with_article(name), n=name)
        name = with_article(name) if rng.random() < 0.9 else name
        if silent and not thing.depth:
            return name
        where = self.place(thing)
        if rng.random() < 0.2:
            return f"{where} {name}"
        return f"{name} {rng.choice(('', '', '', 'standing ', 'placed '))}{where}"

    def objects(self, scene):
        """Phrases of the ground objects."""
        rng = self.rng
        things = [t for t in scene.things if t.cast != SKY]
        same = len({(t.sprite, t.size, t.depth) for t in things}) == 1
        if scene.usual and same and len(things) > 1:
            cast, sprite = self.casts[GROUND], things[0].sprite
            many = plural(self.noun(cast.names[sprite]))
            return [f"{rng.choice(COUNTS[len(things)])} {cast.colours[sprite]} {many}".replace("  ", " ")]
        if scene.usual and len(things) == 2 and rng.random() < 0.4:
            left, right = (with_article(self.named(t)) for t in things)
            forms = ("{l} to the left of {r}", "{r} to the right of {l}", "{l} left of {r}", "{r} right of {l}")
            return [rng.choice((*forms, "{l} next to {r}", "{l} beside {r}")).format(l=left, r=right)]
        silent = scene.usual and rng.random() < 0.5
        phrases = [self.thing(t, silent) for t in things]
        if not silent and rng.random() < 0.5:
            rng.shuffle(phrases)
        return phrases

    def setting(self, scene):
        """Phrases of everything behind the objects; what is usual may be left out."""
        rng, parts = self.rng, []
        if scene.ground != "grass" or rng.random() < 0.7:
            parts.append(rng.choice(GROUND_PHRASES[scene.ground] * 2 + GROUND_NOUNS[scene.ground]))
        if scene.midground:
            noun = rng.choice(MIDGROUND_NOUNS[scene.midground])
            forms = ("in front of {}", "with {} in the background", "{} in the background", "{} behind", "{}")
            parts.append(rng.choice(forms).format(noun))
        if scene.river:
            parts.append(rng.choice(("a river", "with a river", "by a river", "near a river", "a river in front")))
        if scene.sky != "blue" or rng.random() < 0.6:
            parts.append(rng.choice(SKY_PHRASES[scene.sky] * 2 + SKY_NOUNS[scene.sky]))
        return parts

    def above(self, scene):
        parts = [self.thing(t) for t in scene.things if t.cast == SKY]
        if scene.fireworks:
            parts.append(self.rng.choice(("fireworks", "fireworks in the sky", "with fireworks", "some fireworks")))
        return parts

    def say(self, scene):
        rng = self.rng
        objects, setting, above = self.objects(scene), self.setting(scene), self.above(scene)
        form = rng.randrange(6)
        if form == 0:  # one sentence
            text = rng.choice(OPENINGS).format(join(objects + above)) + " " + " ".join(setting)
        elif form == 1:  # a list in any order
            parts = objects + setting + above
            rng.shuffle(parts)
            text = ", ".join(parts)
        elif form == 2:  # the setting first
            rng.shuffle(setting)
            text = ", ".join([*setting, join(objects + above)])
        elif form == 3:  # short sentences
            rng.shuffle(setting)
            text = ". ".join([rng.choice(OPENINGS).format(o) if rng.random() < 0.5 else o for o in objects + above])
            text += ". " + ", ".join(setting) if setting else ""
        elif form == 4:  # what is above comes first
            text = ", ".join([*above, *objects]) + " " + " ".join(setting)
        else:
            text = " and ".join(objects) + " " + ", ".join(setting)
            text += " with " + join(above) if above else ""
        return " ".join(text.split())


def slip(text, rng):
    """One letter of one longer word left out, doubled, changed, or swapped with the next."""
    words = text.split(" ")
    long = [i for i, word in enumerate(words) if len(word) > 3 and word.isalpha()]
    if not long:
        return text
    i = rng.choice(long)
    word = words[i]
    at = rng.randrange(1, len(word) - 1)
    kind = rng.randrange(4)
    if kind == 0:
        word = word[:at] + word[at + 1 :]
    elif kind == 1:
        word = word[:at] + word[at] + word[at:]
    elif kind == 2:
        word = word[:at] + rng.choice("abcdefghijklmnopqrstuvwxyz") + word[at + 1 :]
    else:
        word = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return " ".join([*words[:i], word, *words[i + 1 :]])


def loosely(text, rng):
    """A full stop or a slip of the pen now and then."""
    if rng.random() < 0.12:
        text += rng.choice((".", ".", "!"))
    return slip(text, rng) if rng.random() < 0.12 else text
