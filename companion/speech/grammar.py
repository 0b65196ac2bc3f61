"""Sentences for the synthesised corpora: seeded, with whole constructions and word pairs held out.

A sentence is drawn from constructions, strings of words and ``{slots}``. Nothing drawn for training
has one of ``HELD_OUT_CONSTRUCTIONS``, nor an adjective before a noun for which ``pair_is_held_out``
is true, so the fraction of a test result on unseen material can be told apart. Every word of a
held-out construction occurs in training, in other constructions.
"""

import re
import zlib
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np

from companion.speech.lexicon import LEXICON

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
    "if the {object} is {adjective} {name} will wait",
    "{name} waited until {daytime} and then {transitive} the {object}",
    "the {person} who lives by the {place} has a {adjective} {animal}",
    "{name} sat between {name} and the {person}",
    "neither of us {transitive} the {object}",
    "he would not sell the {object} nor the {animal}",
    "it was {adjective} in the {place}",
    "we left without {abstract}",
    "who {transitive} the {food} at {daytime}",
    "where is the {adjective} {object} of my {person}",
    "why did {name} leave the {place}",
    "they {transitive} {number} {plural} for the {person}",
    "i {transitive} my {object} near the {place}",
    "you can see the {place} from the {place}",
    "some {plural} {plural_verb} while {name} {intransitive}",
    "although the {animal} was {adjective} it {intransitive}",
    "her {person} is as {adjective} as a {animal}",
    "as soon as the {weather} stopped the {plural} {plural_verb}",
    "what the {person} {transitive} was a {object}",
    "there is no {food} in the {place}",
    "{name} and {name} {intransitive} until {daytime}",
    "this {object} is more {adjective} than that {object}",
    "under the {object} lay {number} {adjective} {plural}",
    "then the {person} {transitive} them {adverb}",
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
    text = _with_articles(_clause(constructions, rng))
    for _ in range(_EXTENSION_TRIES):
        construction = str(rng.choice(TAILS)) if rng.random() < 0.5 else None
        tail = _fill(construction, rng) if construction else "and " + _clause(constructions, rng)
        longer = _with_articles(f"{text} {tail}")
        if len(longer) <= limit:
            text = longer
    return Sentence(text, unseen, has_held_out_pair(text))


def _with_articles(text: str) -> str:
    return _BEFORE_VOWEL.sub("an ", text)


def _clause(constructions: tuple[str, ...], rng: np.random.Generator) -> str:
    return _fill(str(rng.choice(constructions)), rng)


def _fill(construction: str, rng: np.random.Generator) -> str:
    return _SLOT.sub(lambda slot: str(rng.choice(LEXICON[slot.group(1)])), construction)
