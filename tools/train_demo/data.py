"""Scenes with tokenized captions, made by many processes while the GPU is busy with something else."""

import multiprocessing
import os
import random

import numpy as np

import edits
import tokenizer
import wide
from wording import Speaker, loosely
from world import caption, load_casts, sample

WORDINGS, CHUNK = 3, 2000
MIXED = 1024  # scenes of a chunk of the mixture
STRANGE_SHARE = 0.08  # captions that get a word which means nothing here, so that such words do no harm
STRANGE = "fluffy big small cute beautiful nice old new tiny huge happy lovely very shiny cartoon detailed".split()


def add_strange_word(text, rng):
    if rng.random() > STRANGE_SHARE:
        return text
    invented = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(2, 8)))
    words = text.split()
    words.insert(rng.randrange(len(words) + 1), rng.choice([*STRANGE, invented]))
    return " ".join(words)


def make_scenes(job):
    seed, count, sprites, folder = job
    casts, encode, rng = load_casts(sprites), tokenizer.load(folder), random.Random(seed)
    scenes = [sample(rng, casts) for _ in range(count)]
    texts = [
        add_strange_word(caption(scene, rng.randrange(1 << 30), casts), rng)
        for scene in scenes
        for _ in range(WORDINGS)
    ]
    return np.array(scenes, np.int16), np.array(encode(texts), np.int16).reshape(count, WORDINGS, -1)


def make_edits(job):
    """Scenes [n, 2, fields] and ids [n, 2, wordings, 77]."""
    seed, count, sprites, folder = job
    casts, encode, rng = load_casts(sprites), tokenizer.load(folder), random.Random(seed)
    pairs = [edits.sample_edit(rng, casts) for _ in range(count)]
    texts = []
    for kind, scene, edited, _ in pairs:
        said = [edits.captions((kind, scene, edited, rng.randrange(1 << 30)), casts) for _ in range(WORDINGS)]
        texts += [text for side in zip(*said) for text in side]
    return np.array([pair[1:3] for pair in pairs], np.int16), np.array(encode(texts), np.int16).reshape(
        count, 2, WORDINGS, -1
    )


def say(scene, row, number, rng, casts, speaker):
    """world.py's own way for two wordings of three, so that it stays what the model knows best."""
    if number < 2:
        return add_strange_word(caption(row, rng.randrange(1 << 30), casts), rng)
    return loosely(speaker.say(scene), rng)


def make_mixed(job):
    """(whether of the wide world, scenes, ids [n, wordings, 77]): a chunk of the mixture that training goes on with."""
    seed, count, sprites, folder = job
    casts, encode, rng = load_casts(sprites), tokenizer.load(folder), random.Random(seed)
    faces = wide.load_faces(sprites)
    speaker = Speaker(rng, casts, faces)
    often = (wide.more_of(casts[0], wide.FAMOUS, 8), casts[1])
    kind = rng.choices(("usual", "famous", "colourful", "crowd", "wide"), (0.4, 0.2, 0.17, 0.05, 0.18))[0]
    rows, texts = [], []
    for _ in range(count):
        if kind == "wide":
            row, scene = wide.sample(rng, often if rng.random() < 0.4 else casts, len(faces))
            texts += [loosely(speaker.say(scene), rng) for _ in range(WORDINGS)]
        else:
            draw = dict(usual=sample, famous=sample, colourful=wide.colourful, crowd=wide.crowd)[kind]
            row = draw(rng, often if kind == "famous" else casts)
            texts += [say(wide.of_world(row), row, i, rng, casts, speaker) for i in range(WORDINGS)]
        rows.append(row)
    return kind == "wide", np.array(rows, np.int16), np.array(encode(texts), np.int16).reshape(count, WORDINGS, -1)


class Factory:
    """Start before CUDA is touched: it forks."""

    def __init__(self, sprites, tokenizer_folder, processes):
        # at low priority: a compiler that waits for these leaves the GPU idle
        self.pool = multiprocessing.get_context("fork").Pool(processes, os.nice, (15,))
        self.inputs = (str(sprites), str(tokenizer_folder))

    def order(self, make, seed, count):
        jobs = [(f"{seed}/{i}", min(CHUNK, count - i), *self.inputs) for i in range(0, count, CHUNK)]
        return self.pool.map_async(make, jobs)

    def mixture(self, seed, chunks):
        """Chunks of the mixture as they are made."""
        jobs = [(f"{seed}/{i}", MIXED, *self.inputs) for i in range(chunks)]
        return self.pool.imap_unordered(make_mixed, jobs)

    @staticmethod
    def collect(order):
        parts = order.get()
        return tuple(np.concatenate(column) for column in zip(*parts))
