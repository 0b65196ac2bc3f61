"""Texts as Whisper judges them: its English normaliser and its measure of repetition."""

import zlib
from functools import cache, lru_cache

from whisper.normalizers import EnglishTextNormalizer


@lru_cache(maxsize=2**16)
def normalise(text: str) -> str:
    """A text as Whisper's English normaliser writes it, stripped; numbers become digits."""
    return str(_english()(text)).strip()


def compression_ratio(text: str) -> float:
    """Bytes of a text over its zlib-compressed bytes; high for loops (openai-whisper's measure)."""
    data = text.encode()
    return len(data) / len(zlib.compress(data))


@cache
def _english() -> EnglishTextNormalizer:
    return EnglishTextNormalizer()
