"""Sentences for the synthesised corpora: seeded, with whole constructions and word pairs held out.

A sentence is drawn from the constructions of grammar.yml, words and ``{slots}``. Nothing drawn for
training has one of ``HELD_OUT_CONSTRUCTIONS``, nor an adjective before a noun for which
``pair_is_held_out`` is true, so the fraction of a test result on unseen material can be told apart.
Every word of a held-out construction occurs in training, in other constructions.
"""

import re
import zlib
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import yaml

MAX_CHARACTERS = 80
HELD_OUT_PAIR_SHARE = 5  # one adjective-noun pair in five

_GRAMMAR = yaml.safe_load(Path(__file__).with_name("grammar.yml").read_text(encoding="utf-8"))
TRAINING_CONSTRUCTIONS: tuple[str, ...] = tuple(_GRAMMAR["training"])
HELD_OUT_CONSTRUCTIONS: tuple[str, ...] = tuple(_GRAMMAR["held_out"])
TAILS: tuple[str, ...] = tuple(_GRAMMAR["tails"])
LEXICON: dict[str, tuple[str, ...]] = {
    kind: tuple(words.split()) for kind, words in _GRAMMAR["words"].items()
}

_EXTENSION_TRIES = 4
_BEFORE_VOWEL = re.compile(r"\ba (?=[aeiou])")
_SLOT = re.compile(r"\{(\w+)\}")
_ADJECTIVES = frozenset(LEXICON["adjective"] + LEXICON["colour"])
_NOUNS = frozenset(
    noun
    for kind in ("person", "animal", "object", "food", "place", "plural")
    for noun in LEXICON[kind]
)
_STRANGE_SHARE = 0.5  # of a jumble's words come from anywhere in the vocabulary


@dataclass(frozen=True)
class Sentence:
    """Clauses and tails of lower-case words, with what is unseen in training about them."""

    text: str
    unseen_construction: bool
    unseen_pair: bool


@cache
def vocabulary() -> tuple[str, ...]:
    """Every word that a sentence can contain, sorted, each once."""
    words = {"an"} | {word for kind in LEXICON.values() for word in kind}
    for construction in TRAINING_CONSTRUCTIONS + HELD_OUT_CONSTRUCTIONS + TAILS:
        words.update(_SLOT.sub("", construction).split())
    return tuple(sorted(words))


def pair_is_held_out(adjective: str, noun: str) -> bool:
    """Whether nothing in training has this adjective directly before this noun (a fixed hash)."""
    return zlib.crc32(f"{adjective} {noun}".encode()) % HELD_OUT_PAIR_SHARE == 0


def has_held_out_pair(text: str) -> bool:
    """Whether some adjective of ``text`` stands directly before a noun it is held out from."""
    words = text.split()
    return any(
        first in _ADJECTIVES and second in _NOUNS and pair_is_held_out(first, second)
        for first, second in pairwise(words)
    )


def training_sentence(rng: np.random.Generator) -> Sentence:
    """A sentence of the training constructions, without a held-out pair."""
    while True:
        sentence = _draw(TRAINING_CONSTRUCTIONS, rng)
        if not sentence.unseen_pair:
            return sentence


def test_sentence(rng: np.random.Generator) -> Sentence:
    """Half of the sentences come from held-out constructions, a quarter have a held-out pair."""
    if rng.random() < 0.5:
        return _draw(HELD_OUT_CONSTRUCTIONS, rng, unseen=True)
    wants_pair = rng.random() < 0.5
    while True:
        sentence = _draw(TRAINING_CONSTRUCTIONS, rng)
        if sentence.unseen_pair == wants_pair:
            return sentence


def random_words(rng: np.random.Generator, count: int) -> str:
    """``count`` words of the vocabulary in no order, without a held-out pair."""
    while True:
        words = " ".join(rng.choice(vocabulary(), size=count))
        if not has_held_out_pair(words):
            return words


def jumble(rng: np.random.Generator) -> str:
    """A training sentence's words in no order, half of them exchanged for any other word.

    Function words keep their frequency, and every word is heard outside the constructions.
    """
    while True:
        words = np.array(training_sentence(rng).text.split(), dtype=object)
        strange = rng.random(len(words)) < _STRANGE_SHARE
        words[strange] = rng.choice(vocabulary(), size=int(strange.sum()))
        text = " ".join(rng.permutation(words))
        if len(text) <= MAX_CHARACTERS and not has_held_out_pair(text):
            return text


def _draw(
    constructions: tuple[str, ...], rng: np.random.Generator, unseen: bool = False
) -> Sentence:
    limit = int(rng.integers(MAX_CHARACTERS // 2, MAX_CHARACTERS + 1))
    text = _BEFORE_VOWEL.sub("an ", _clause(constructions, rng))
    for _ in range(_EXTENSION_TRIES):
        is_tail = rng.random() < 0.5
        tail = _clause(TAILS, rng) if is_tail else f"and {_clause(constructions, rng)}"
        longer = _BEFORE_VOWEL.sub("an ", f"{text} {tail}")
        if len(longer) <= limit:
            text = longer
    return Sentence(text, unseen, has_held_out_pair(text))


def _clause(constructions: tuple[str, ...], rng: np.random.Generator) -> str:
    construction = str(rng.choice(constructions))
    return _SLOT.sub(lambda slot: str(rng.choice(LEXICON[slot.group(1)])), construction)
