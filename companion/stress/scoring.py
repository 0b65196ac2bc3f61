"""Word error against everyone who speaks, and what kind of transcript a transcript is.

Outcomes are judged from texts alone: the references, the transcript and a vocabulary.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import jiwer
from whisper.utils import compression_ratio

from companion.speech.text import normalise, without_annotations

CANDIDATE_WORD_ERROR = 0.5  # the paper's limit: a hallucination candidate has more
LOOP_COMPRESSION = 2.4  # openai-whisper's compression_ratio_threshold: above it decoding failed
WHOLE_REPEATS = 5  # a text of nothing else needs no such length ("I I I I I")
FRAGMENT_WORDS = 3  # two words ("of the") are often shared by chance, three hardly ever
FRAGMENT_FRACTION = 0.5  # as for word error: at least half of the text is somebody's
GIBBERISH_FRACTION = 0.5  # fewer known words than this: most of the text is no language


_WRONG = ("substitute", "insert")  # a word left out is not in the transcript
_WORD = re.compile(r"[\w']+")
_RUN = re.compile(r"(.)\1{11}|(..)\2{5}|(.{3,}?)\3{3}")
"""One piece, words or parts of words, four times on end: people say things three times ("very very
very"), hardly ever four. Less than 12 characters is a drawn-out sound ("aaaa", "haha").
"""


class Outcome(StrEnum):
    """What kind of transcript a transcript is; ``outcome`` says how they are told apart."""

    CORRECT = "correct"
    INTERFERER = "interferer"
    EMPTY = "empty"
    ANNOTATION = "annotation"
    LOOP = "loop"
    FRAGMENT = "fragment"
    GIBBERISH = "gibberish"
    INVENTION = "invention"


@dataclass(frozen=True)
class Score:
    """Word errors of one transcript against the target and against each interferer."""

    target: float
    interferers: tuple[float, ...]

    @property
    def is_candidate(self) -> bool:
        """Whether it may be a hallucination: word error above 0.5 against everyone who speaks.

        By this definition, the paper's, an empty transcript is a candidate too.
        """
        return min((self.target, *self.interferers)) > CANDIDATE_WORD_ERROR


def score(references: Sequence[str], hypothesis: str) -> Score:
    """Word errors of a transcript against the references, the target's first."""
    if isinstance(references, str) or not references:
        raise ValueError(f"references is {references!r}; give a list, the target's reference first")
    target, *interferers = (wer(reference, hypothesis) for reference in references)
    return Score(target, tuple(interferers))


def wer(reference: str, hypothesis: str) -> float:
    """Word error rate after Whisper's English normaliser; may exceed 1.

    An empty hypothesis has error 1. For a reference without words the error is the number of
    words written (jiwer's rule): 0 for silence left silent, and else at least 1.
    """
    return float(jiwer.wer(normalise(reference), normalise(hypothesis)))


def first_wrong_word(reference: str, transcript: str) -> int | None:
    """Which of the transcript's words, from 0, is the first that was not said there; or None.

    Words of both are aligned by least edits after Whisper's English normaliser; a word that stands
    for another, or for none, is wrong. The number counts the words as they were written, between
    spaces. Where the normaliser makes one word of several ("twenty one"), the first of them.
    """
    (chunks,) = jiwer.process_words(normalise(reference), normalise(transcript)).alignments
    wrong = [chunk.hyp_start_idx for chunk in chunks if chunk.type in _WRONG]
    if not wrong:
        return None
    words = transcript.split()
    return next(
        i
        for i in range(len(words))
        if len(normalise(" ".join(words[: i + 1])).split()) > min(wrong)
    )


def outcome(
    references: Sequence[str], hypothesis: str, vocabulary: Collection[str] | None
) -> Outcome:
    """The kind of transcript, the first of these that holds; the target's reference comes first.

    annotation: nothing but "[Music]", "(laughs)", "*sighs*" or music notes; beside words these are
    left out. correct: word error against the target at most 0.5. interferer: at most 0.5 against
    another speaker. empty: no words, such as "...". loop: see ``is_loop``. fragment: at least half
    of the words stand in runs of three that one of the speakers said. gibberish: fewer than half of
    the words are in the vocabulary, of a model that was taught no other words. invention: words
    that nobody said.
    """
    written, hypothesis = hypothesis, without_annotations(hypothesis)
    if written != hypothesis and not normalise(hypothesis):
        return Outcome.ANNOTATION
    errors = score(references, hypothesis)
    if errors.target <= CANDIDATE_WORD_ERROR:
        return Outcome.CORRECT
    if not errors.is_candidate:
        return Outcome.INTERFERER
    if not normalise(hypothesis):
        return Outcome.EMPTY
    if is_loop(hypothesis):
        return Outcome.LOOP
    if spoken_fraction(references, hypothesis) >= FRAGMENT_FRACTION:
        return Outcome.FRAGMENT
    if vocabulary is not None and known_fraction(hypothesis, vocabulary) < GIBBERISH_FRACTION:
        return Outcome.GIBBERISH
    return Outcome.INVENTION


def is_loop(text: str) -> bool:
    """Whether a text repeats itself: compressible beyond 2.4, or one piece four times on end.

    The compression ratio is openai-whisper's and misses loops in short texts, where zlib's own
    bytes weigh; so any run of at least 12 characters made of one piece four times over counts too,
    with or without punctuation, and a whole text of any phrase five times or more.
    """
    if compression_ratio(text) > LOOP_COMPRESSION:
        return True
    words = _WORD.findall(text.lower())
    whole = any(
        words == words[:period] * (len(words) // period)
        for period in range(1, len(words) // WHOLE_REPEATS + 1)
    )
    written = (" ".join(parts) + " " for parts in (text.lower().split(), words))
    return whole or any(map(_RUN.search, written))


def spoken_fraction(references: Sequence[str], hypothesis: str) -> float:
    """The fraction of a transcript's words that stand in runs of three words of some reference.

    A transcript shorter than that counts whole, if a reference contains it; 0 without words.
    """
    words = normalise(hypothesis).split()
    run = min(FRAGMENT_WORDS, len(words))
    if run == 0:
        return 0.0
    spoken = {run_of for text in references for run_of in _runs(normalise(text).split(), run)}
    starts = [start for start, piece in enumerate(_runs(words, run)) if piece in spoken]
    return len({start + i for start in starts for i in range(run)}) / len(words)


def known_fraction(text: str, vocabulary: Collection[str]) -> float:
    """The fraction of a text's words that are in the vocabulary, both normalised; 0 without words.

    Words with a digit are known: the normaliser writes numbers so. Raises ValueError for an empty
    vocabulary.
    """
    known = _normalised_words(frozenset(vocabulary))
    if not known:
        raise ValueError("the vocabulary has no words; pass those of the corpus's language")
    words = normalise(text).split()
    hits = sum(word in known or any(map(str.isdigit, word)) for word in words)
    return hits / max(len(words), 1)


@lru_cache(maxsize=8)
def _normalised_words(words: frozenset[str]) -> frozenset[str]:
    return frozenset(part for word in words for part in normalise(word).split())


def _runs(words: Sequence[str], length: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + length]) for i in range(len(words) - length + 1)]
