"""Sentences for the synthesised corpora: seeded, with whole constructions and word pairs held out.

A sentence is drawn from constructions, strings of words and ``{slots}``. A training sentence never
has one of ``HELD_OUT_CONSTRUCTIONS``, nor an adjective before a word for which ``pair_is_held_out``
is true, so the share of a test result on unseen material can be told apart. Words in no order
(``random_words``) know nothing of pairs, and make some by chance.
"""

import re
import zlib
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np

from spectral.speech.lexicon import LEXICON

MAX_CHARACTERS = 80
HELD_OUT_PAIR_SHARE = 5  # one adjective-noun pair in five

TRAINING_CONSTRUCTIONS: tuple[str, ...] = (
    "the {adjective} {person} {transitive} the {adjective} {object}",
    "{name} {transitive} a {adjective} {object} in the {place}",
    "a {adjective} {animal} {intransitive} near the {place}",
    "the {person} and the {person} {transitive} the {object}",
    "on {time} {name} {transitive} the {colour} {object}",
    "in {time} the {person} {intransitive} in the {place}",
    "{name} gave {name} a {adjective} {object}",
    "{name} {adverb} {transitive} the {object} of the {person}",
    "the {object} and the {object} were {adjective}",
    "{number} {plural} {plural_verb} behind the {place}",
    "there was a {adjective} {animal} under the {object}",
    "{name} {saying} that the {person} {intransitive}",
    "the {person} put the {food} and the {food} on the {object}",
    "when the {weather} came the {animal} {intransitive}",
    "she {transitive} the {object} and {adverb} {intransitive}",
    "he {intransitive} {adverb} because the {object} was {adjective}",
    "my {person} never {transitive} a {colour} {object}",
    "we ate {food} and {food} with the {person}",
    "every {season} the {plural} {plural_verb} by the {place}",
    "at {daytime} the {person} {adverb} {transitive} the {animal}",
    "the {place} was {adjective} and {adjective}",
    "{name} has {number} {plural} and a {adjective} {animal}",
    "{abstract} and {abstract} were all that {name} wanted",
    "from the {place} to the {place} the {person} {intransitive}",
    "after the {weather} {number} {plural} {plural_verb}",
    "the {animal} {transitive} the {food} before {daytime}",
)

HELD_OUT_CONSTRUCTIONS: tuple[str, ...] = (
    "if the {person} {intransitive} then {name} {transitive} the {object}",
    "neither the {animal} nor the {person} {transitive} the {food}",
    "it was {name} who {transitive} the {adjective} {object}",
    "without {abstract} the {adjective} {person} {intransitive}",
    "between the {place} and the {place} {number} {plural} {plural_verb}",
)

TAILS: tuple[str, ...] = (
    "at {daytime}",
    "on {time}",
    "with the {person}",
    "behind the {adjective} {place}",
    "in the {weather}",
    "before {season}",
    "for {number} days",
    "without a {object}",
)

_EXTENSION_TRIES = 4
_BEFORE_VOWEL = re.compile(r"\ba (?=[aeiou])")
_SLOT = re.compile(r"\{(\w+)\}")
_ADJECTIVES = frozenset(LEXICON["adjective"] + LEXICON["colour"])


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
    """Whether no training sentence has this adjective directly before this word (a fixed hash)."""
    return zlib.crc32(f"{adjective} {noun}".encode()) % HELD_OUT_PAIR_SHARE == 0


def has_held_out_pair(text: str) -> bool:
    """Whether some adjective of ``text`` stands directly before a noun it is held out from."""
    words = text.split()
    return any(
        first in _ADJECTIVES and pair_is_held_out(first, second)
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
    """``count`` words of the vocabulary in no order, for the curriculum's first stage."""
    return " ".join(rng.choice(vocabulary(), size=count))


def _draw(
    constructions: tuple[str, ...], rng: np.random.Generator, unseen: bool = False
) -> Sentence:
    limit = int(rng.integers(MAX_CHARACTERS // 2, MAX_CHARACTERS + 1))
    text = _clause(constructions, rng)
    for _ in range(_EXTENSION_TRIES):
        construction = str(rng.choice(TAILS)) if rng.random() < 0.5 else None
        tail = _fill(construction, rng) if construction else "and " + _clause(constructions, rng)
        if len(text) + 1 + len(tail) <= limit:
            text = f"{text} {tail}"
    text = _BEFORE_VOWEL.sub("an ", text)
    return Sentence(text, unseen, has_held_out_pair(text))


def _clause(constructions: tuple[str, ...], rng: np.random.Generator) -> str:
    return _fill(str(rng.choice(constructions)), rng)


def _fill(construction: str, rng: np.random.Generator) -> str:
    return _SLOT.sub(lambda slot: str(rng.choice(LEXICON[slot.group(1)])), construction)
