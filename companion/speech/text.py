"""Texts as they are compared: by Whisper's English normaliser, and without annotations."""

import re
from functools import cache, lru_cache

from whisper.normalizers import EnglishTextNormalizer

_ANNOTATION = re.compile(
    r"\[[^\]]*(?:\]|$)|\([^)]*(?:\)|$)|\*[^*]+\*|[\u2669-\u266f]+"
)  # the notes

_english = cache(EnglishTextNormalizer)


@lru_cache(maxsize=2**16)
def normalise(text: str) -> str:
    """A text as Whisper's English normaliser writes it; numbers become digits.

    The normaliser leaves the last stop of "...", which is no word and is dropped.
    """
    return " ".join(word for word in str(_english()(text)).split() if word != ".")


def without_annotations(text: str) -> str:
    """A text without what Whisper notes beside speech: "[Music]", "(laughs)", "*sighs*", notes.

    A bracket that is never closed, as where the length limit cuts a text off, lasts to the end.
    """
    return _ANNOTATION.sub(" ", text)
