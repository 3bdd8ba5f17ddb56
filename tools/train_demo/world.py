"""What a scene can hold, how one is drawn at random, and how it is said in words.

A scene is one row of small integers (see FIELDS), so that a batch of scenes is a tensor and rendering needs no python
per scene. Everything that a caption does not say is either fixed or varies little: two shapes per midground, two
fireworks, objects shifted by at most one latent cell. At a fixed seed an edit then leaves the rest where it was.
"""

import random
import zlib
from dataclasses import dataclass

import numpy as np

SKIES = ("blue", "sunset", "night", "cloudy", "pink", "aurora")
GROUNDS = ("grass", "sand", "snow", "water", "road", "leaves")
MIDGROUNDS = ("", "mountains", "hills", "skyline", "forest")
VARIANTS = 2  # of every midground and of the fireworks
SHIFTS = 9  # (dx, dy) in {-1, 0, 1} latent cells, for every object

FIELDS = (
    ["sky", "ground", "midground", "midground_variant", "river", "fireworks", "fireworks_variant"]
    + [f"object{i}" for i in range(3)]  # ground sprite or -1: left, middle, right
    + [f"sky_object{i}" for i in range(3)]
    + [f"shift{i}" for i in range(6)]  # of the three objects, then of the three sky objects
)
AT = {name: i for i, name in enumerate(FIELDS)}

SKY_PHRASES = {
    "blue": ("under a blue sky", "under a clear sky", "on a sunny day", "during the day"),
    "sunset": ("under a sunset sky", "at sunset", "at dusk", "under an orange sky"),
    "night": ("under a night sky", "at night", "in the night", "under the stars"),
    "cloudy": ("under a cloudy sky", "on a cloudy day", "under gray clouds", "under a grey sky"),
    "pink": ("under a pink sky", "at dawn", "at sunrise", "under a pink sky"),
    "aurora": ("under the northern lights", "under an aurora", "under a green aurora sky", "under northern lights"),
}
SKY_NOUNS = {
    "blue": ("blue sky", "clear sky", "sunny day", "daylight"),
    "sunset": ("sunset", "sunset sky", "orange sky", "dusk"),
    "night": ("night", "night sky", "at night", "starry night"),
    "cloudy": ("cloudy sky", "gray clouds", "overcast", "cloudy day"),
    "pink": ("pink sky", "dawn", "sunrise", "pink sky"),
    "aurora": ("northern lights", "aurora", "green aurora sky", "aurora sky"),
}
GROUND_PHRASES = {
    "grass": ("on grass", "on the grass", "on green grass", "in a meadow", "on a lawn", "on a grass field"),
    "sand": ("on sand", "on the sand", "on the beach", "in the desert", "on a sandy beach", "on a beach"),
    "snow": ("on snow", "on the snow", "in the snow", "on white snow", "on a snowy field", "in winter"),
    "water": ("on water", "on the water", "on a lake", "on the sea", "in the water", "on the ocean"),
    "road": ("on a road", "on the road", "on a street", "on the street", "on asphalt", "on a highway"),
    "leaves": (
        "on autumn leaves",
        "on fallen leaves",
        "in autumn",
        "on autumn leaves",
        "on brown leaves",
        "in the fall",
    ),
}
GROUND_NOUNS = {
    "grass": ("grass", "grass field", "green grass", "meadow", "lawn", "a meadow"),
    "sand": ("sand", "beach", "desert", "sandy beach", "a beach", "the desert"),
    "snow": ("snow", "snow field", "snowy field", "white snow", "winter", "a snowy field"),
    "water": ("water", "lake", "sea", "ocean", "a lake", "the sea"),
    "road": ("road", "street", "a road", "asphalt", "highway", "a street"),
    "leaves": ("autumn leaves", "fallen leaves", "autumn", "brown leaves", "autumn leaves", "fall"),
}
MIDGROUND_NOUNS = {
    "mountains": ("snow mountains", "snow mountains", "snowy mountains", "mountains"),
    "hills": ("green hills", "hills", "green hills", "rolling hills"),
    "skyline": ("a city skyline", "a city", "skyscrapers", "a city skyline"),
    "forest": ("a pine forest", "a forest", "pine trees", "a pine forest"),
}
SYNONYMS = {
    "dog": ("dog", "dog", "puppy"),
    "cat": ("cat", "cat", "kitten"),
    "rabbit": ("rabbit", "rabbit", "bunny"),
    "horse": ("horse", "horse", "pony"),
    "sheep": ("sheep", "sheep", "lamb"),
    "car": ("car", "car", "automobile"),
    "bicycle": ("bicycle", "bike"),
    "motorcycle": ("motorcycle", "motorbike"),
    "boat": ("boat", "sailboat"),
    "fire truck": ("fire truck", "fire engine"),
    "truck": ("truck", "lorry"),
    "house": ("house", "house", "home"),
    "television": ("television", "tv"),
    "soccer ball": ("soccer ball", "football", "ball"),
    "gift": ("gift", "present"),
    "hamburger": ("hamburger", "burger"),
    "cake": ("cake", "birthday cake"),
    "dinosaur": ("dinosaur", "sauropod"),
    "diamond": ("diamond", "gem"),
    "rooster": ("rooster", "chicken"),
    "pumpkin": ("pumpkin", "jack-o-lantern"),
    "rocket": ("rocket", "spaceship"),
    "mushroom": ("mushroom", "toadstool"),
    "tree": ("tree", "tree"),
    "flying saucer": ("flying saucer", "ufo"),
    "airplane": ("airplane", "plane"),
    "full moon": ("full moon", "moon"),
    "dove": ("dove", "white bird"),
}
PLACES = (
    ("on the left", "on the left", "at the left", "to the left"),
    ("in the middle", "in the middle", "in the center", "in the centre"),
    ("on the right", "on the right", "at the right", "to the right"),
)
SKY_PLACES = (
    ("at the top left", "in the top left"),
    ("at the top", "above"),
    ("at the top right", "in the top right"),
)
USUAL_PLACES = {1: [1], 2: [0, 2], 3: [0, 1, 2]}  # where objects stand when the caption gives no place
PREFIXES = ("",) * 6 + ("a picture of ", "a photo of ", "an illustration of ", "a drawing of ")


@dataclass
class Cast:
    """The sprites by name: what a scene's sprite numbers mean."""

    names: list
    colours: list
    own: list  # whether the colour is the one meant when none is said

    def __post_init__(self):
        self.by_name = {}
        for i, name in enumerate(self.names):
            self.by_name.setdefault(name, []).append(i)
        # an object with six colours is drawn three times as often as one without
        self.draw_from = [name for name, rows in self.by_name.items() for _ in range(3 if len(rows) > 1 else 1)]

    def draw(self, rng):
        return rng.choice(self.by_name[rng.choice(self.draw_from)])


def load_casts(sprites):
    """Ground and sky cast of a sprites.npz (a path or an opened file)."""
    columns = np.load(sprites) if isinstance(sprites, (str, bytes)) or hasattr(sprites, "__fspath__") else sprites
    return tuple(
        Cast(
            [str(n) for n in columns[f"{kind}_names"]],
            [str(c) for c in columns[f"{kind}_colours"]],
            columns[f"{kind}_own"].tolist(),
        )
        for kind in ("ground", "sky")
    )


def sample(rng, casts):
    """One scene: a list of integers in the order of FIELDS."""
    ground, sky = casts
    objects, sky_objects = [-1] * 3, [-1] * 3
    count = rng.choices((1, 2, 3), (0.3, 0.5, 0.2))[0]
    places = USUAL_PLACES[count] if rng.random() < 0.5 else rng.sample(range(3), count)
    for place in places:
        objects[place] = ground.draw(rng)
    for place in rng.sample(range(3), rng.choices((0, 1, 2), (0.45, 0.45, 0.1))[0]):
        sky_objects[place] = sky.draw(rng)
    return [
        rng.choices(range(6), (3, 2, 2, 2, 2, 2))[0],
        rng.choices(range(6), (3, 2, 2, 2, 2, 2))[0],
        rng.choices(range(5), (3, 2, 2, 2, 2))[0],
        rng.randrange(VARIANTS),
        int(rng.random() < 0.15),
        int(rng.random() < 0.15),
        rng.randrange(VARIANTS),
        *objects,
        *sky_objects,
        *(rng.randrange(SHIFTS) for _ in range(6)),
    ]


def with_article(words):
    return ("an " if words[0] in "aeiou" and words != "ufo" else "a ") + words


class Wording:
    """A fixed way of speaking: the same key always gets the same choice, so an edited scene keeps its other words."""

    def __init__(self, style):
        self.style = style

    def pick(self, key, options):
        return options[zlib.crc32(f"{self.style}:{key}".encode()) // 7 % len(options)]


def name_object(cast, index, wording, place, article):
    noun = wording.pick(f"noun{place}", SYNONYMS.get(cast.names[index], (cast.names[index],)))
    colour = cast.colours[index]
    if colour and not (cast.own[index] and wording.pick(f"own{place}", (True, False, False))):
        noun = f"{colour} {noun}"
    return with_article(noun) if article else noun


def join(parts):
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def caption(scene, style, casts, say_places=False):
    """The scene in words. `style` fixes the wording; `say_places` forbids leaving out where things are."""
    wording = Wording(style)
    pick = wording.pick
    article = pick("article", (True,) * 7 + (False,))

    def at(name):
        return scene[AT[name]]

    places = [i for i in range(3) if at(f"object{i}") >= 0]
    silent = places == USUAL_PLACES.get(len(places)) and not say_places and pick("places", (True, False))
    objects = [
        name_object(casts[0], at(f"object{i}"), wording, i, article)
        + ("" if silent else " " + pick(f"place{i}", PLACES[i]))
        for i in places
    ]
    sky_places = [i for i in range(3) if at(f"sky_object{i}") >= 0]
    sky_silent = sky_places == [1] and not say_places and pick("sky places", (True, False))
    above = [
        name_object(casts[1], at(f"sky_object{i}"), wording, 3 + i, article)
        + (pick("in the sky", ("", " in the sky")) if sky_silent else " " + pick(f"sky place{i}", SKY_PLACES[i]))
        for i in sky_places
    ]
    if at("fireworks"):
        above.append(pick("fireworks", ("fireworks", "fireworks", "fireworks in the sky")))

    sky, ground, midground = SKIES[at("sky")], GROUNDS[at("ground")], MIDGROUNDS[at("midground")]
    skip_sky = sky == "blue" and pick("skip sky", (True, False, False))
    skip_ground = ground == "grass" and pick("skip ground", (True, False, False, False))
    order = pick("order", ("objects",) * 5 + ("ground",) * 2 + ("list",))

    if order == "objects":
        text = join(objects)
        text += "" if skip_ground else " " + pick("ground", GROUND_PHRASES[ground])
        if at("river"):
            text += " " + pick("river", ("with a river", "with a river", "by a river", "near a river"))
        if midground:
            noun = pick("midground", MIDGROUND_NOUNS[midground])
            text += pick(
                "midground form", (f" in front of {noun}", f" in front of {noun}", f" with {noun} in the background")
            )
        text += "" if skip_sky else " " + pick("sky", SKY_PHRASES[sky])
        text += " with " + join(above) if above else ""
    else:
        rest = [pick("river noun", ("a river", "river"))] if at("river") else []
        if midground:
            rest.append(
                pick("midground", MIDGROUND_NOUNS[midground]) + pick("midground form", (" in the background", ""))
            )
        rest += [] if skip_sky else [pick("sky noun", SKY_NOUNS[sky])]
        ground_noun = pick("ground noun", GROUND_NOUNS[ground])
        if order == "ground":
            text = ", ".join([f"{ground_noun} with {join(objects)}"] + rest + above)
        else:
            text = ", ".join(objects + ([] if skip_ground else [ground_noun]) + rest + above)
    return pick("prefix", PREFIXES) + text


def sample_many(seed, count, casts):
    rng = random.Random(seed)
    return np.array([sample(rng, casts) for _ in range(count)], dtype=np.int16)
