"""Scenes with tokenized captions, made by many processes while the GPU is busy with something else."""

import multiprocessing
import random

import numpy as np

import edits
import tokenizer
from world import caption, load_casts, sample

WORDINGS, CHUNK = 3, 2000
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


class Factory:
    """Start before CUDA is touched: it forks."""

    def __init__(self, sprites, tokenizer_folder, processes):
        self.pool = multiprocessing.get_context("fork").Pool(processes)
        self.inputs = (str(sprites), str(tokenizer_folder))

    def order(self, make, seed, count):
        jobs = [(f"{seed}/{i}", min(CHUNK, count - i), *self.inputs) for i in range(0, count, CHUNK)]
        return self.pool.map_async(make, jobs)

    @staticmethod
    def collect(order):
        parts = order.get()
        return tuple(np.concatenate(column) for column in zip(*parts))
