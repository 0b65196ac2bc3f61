"""A character tokenizer with Whisper's special tokens, for models trained on small vocabularies."""

import string

from transformers import WhisperTokenizer

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|en|>",
    "<|transcribe|>",
    "<|nospeech|>",
    "<|notimestamps|>",
)
PROMPT = ("<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")
_SPACE = "\u0120"  # how byte-level tokenizers spell a space


def character_tokenizer() -> WhisperTokenizer:
    """A WhisperTokenizer of a-z, apostrophe and space: one token per character, no merges."""
    characters = [_SPACE, "'", *string.ascii_lowercase]
    vocabulary = {token: i for i, token in enumerate([*characters, *SPECIAL_TOKENS])}
    return WhisperTokenizer(
        vocab=vocabulary,
        merges=[],
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        language=None,
    )
