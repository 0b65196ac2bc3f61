"""What became of a transcript, judged from texts alone, and words counted as invented or deleted.

Nothing that a model computes goes in, so that what a model computes can be tested on it.
"""

from collections.abc import Sequence
from enum import StrEnum
from itertools import pairwise

import jiwer

from companion.speech.text import normalise, without_annotations
from companion.stress.scoring import FRAGMENT_FRACTION, Outcome, is_loop, outcome, spoken_fraction

MISHEARD_ERROR = 0.5
"""Character error of a misheard text at most: unrelated English sentences have 0.7 or more."""


class Kind(StrEnum):
    """``kind_of`` says how they are told apart."""

    CORRECT = "correct"
    MISHEARD = "misheard"
    INVENTION = "invention"
    LOOP = "loop"
    ANNOTATION = "annotation"
    INTERFERER = "interferer"
    EMPTY = "empty"


INVENTED = (Kind.INVENTION, Kind.LOOP)
"""Text that nobody said: what a warning is about."""

WORDLESS = (Kind.ANNOTATION, Kind.EMPTY)
"""Transcripts without a word, of which there is nothing to warn."""


def kind_of(references: Sequence[str], transcript: str) -> Kind:
    """The kind of a transcript; the target's reference comes first.

    As ``companion.stress.scoring.outcome`` has it, where most words are wrong parted in two:
    misheard, where half of the words stand in runs of three that somebody said, or where the
    character error against the target is at most ``MISHEARD_ERROR``; invention, all else. The
    character error is Levenshtein's distance of the normalised texts by the length of the
    reference's. Where the speech repeats itself, a text that does is misheard by the same rules,
    by the first of them only where it has no more words than were said.
    """
    kind = outcome(references, transcript, None)
    if kind is Outcome.CORRECT and not normalise(without_annotations(transcript)):
        return Kind.EMPTY  # where nobody speaks either, and "." is no word
    if kind is Outcome.FRAGMENT:
        return Kind.MISHEARD
    reference, written = normalise(references[0]), normalise(without_annotations(transcript))
    repeated = kind is Outcome.LOOP and is_loop(references[0])
    kept = repeated and len(written.split()) <= len(reference.split())
    if kept and spoken_fraction(references, written) >= FRAGMENT_FRACTION:
        return Kind.MISHEARD
    doubted = kind is Outcome.INVENTION or repeated
    if doubted and reference and jiwer.cer(reference, written) <= MISHEARD_ERROR:
        return Kind.MISHEARD
    return Kind(kind.value)


def count_words(references: Sequence[str], transcript: str) -> dict[str, int]:
    """Words by column: ``reference_words``, ``transcript_words``, ``invented``, ``deleted``.

    After Whisper's English normaliser, brackets left out. Invented: substituted or inserted in the
    alignment of least edits with the reference that leaves the fewest of them, whoever's it is.
    Deleted: substituted or left out of the target's. A word that stands for another is both.
    """
    written = normalise(without_annotations(transcript))
    aligned = [jiwer.process_words(normalise(reference), written) for reference in references]
    return {
        "reference_words": len(normalise(references[0]).split()),
        "transcript_words": len(written.split()),
        "invented": min(words.substitutions + words.insertions for words in aligned),
        "deleted": aligned[0].substitutions + aligned[0].deletions,
    }


def by_segment(reference: str, segments: Sequence[str]) -> list[str]:
    """The part of a reference that each segment of its transcript writes down, normalised.

    By the alignment of least edits of all words, brackets left out; words that no segment writes go
    with those before them.
    """
    written = [normalise(without_annotations(segment)) for segment in segments]
    (chunks,) = jiwer.process_words(
        normalise(reference), " ".join(filter(None, written))
    ).alignments
    words, places = normalise(reference).split(), []
    for chunk in chunks:
        inside = range(chunk.ref_start_idx, chunk.ref_end_idx)
        count = chunk.hyp_end_idx - chunk.hyp_start_idx
        places += [*inside] if len(inside) == count else [chunk.ref_start_idx] * count
    ends = [0]
    for text in written:
        ends.append(ends[-1] + len(text.split()))
    cuts = [0, *([*places, len(words)][end] for end in ends[1:-1]), len(words)]
    return [" ".join(words[start:stop]) for start, stop in pairwise(cuts)]
