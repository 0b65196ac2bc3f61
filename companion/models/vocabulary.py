"""Which Whisper a vocabulary belongs to: English-only or multilingual, and what was added to it.

The text tokens themselves decide it, which are GPT-2's or OpenAI's multilingual ones, and never how
many rows an embedding has: those are padded after fine-tuning, and tokens are added to them.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import tiktoken
from whisper.tokenizer import Tokenizer, get_encoding, get_tokenizer

from companion.models.view import Tokens

END = "<|endoftext|>"
_SPECIAL = re.compile(r"<\|.*\|>")
_UNFLAGGED = re.compile(r"<.*>|\[.*\]")  # such as "[PAD]", where no file says what is special
_LANGUAGE = re.compile(r"<\|[a-z]{2,3}\|>")  # some call Hebrew iw, others he
_WITHOUT_LANGUAGES = 51765
"""The tokens of an English-only Whisper that are no language; multilingual ones have one more."""

_TOKENIZER, _CONFIG = "tokenizer.json", "config.json"
FILES = ("vocabulary.txt", "vocabulary.json", _TOKENIZER)
_ENDS = {True: 50257, False: 50256}


@dataclass(frozen=True)
class Vocabulary:
    """What a checkpoint's tokens are; ``added``: ordinary text after the special tokens."""

    multilingual: bool
    languages: int
    added: Mapping[int, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """The number of OpenAI's own tokens, the timestamps among them."""
        return _WITHOUT_LANGUAGES + self.languages + self.multilingual


def of_rows(name: str, rows: int) -> Vocabulary:
    """OpenAI's own vocabulary of a checkpoint ``name`` whose file says nothing but its size.

    Raises ValueError for a number that is none of OpenAI's.
    """
    by_size = {known.size: known for known in _OPENAI}
    if rows in by_size:
        return by_size[rows]
    raise ValueError(
        f"{name}: {rows} tokens, and OpenAI's have {', '.join(map(str, by_size))}: whether it is "
        "English-only cannot be told from this file; give a transformers or CTranslate2 folder, "
        "with its tokenizer"
    )


_OPENAI = (Vocabulary(False, 99), Vocabulary(True, 99), Vocabulary(True, 100))


def is_multilingual(text: Iterable[str]) -> bool | None:
    """Whose the text tokens are, in order of their numbers; None for another vocabulary's."""
    spelled = list(text)
    kinds = (True, False) if len(spelled) >= 50_000 else ()  # OpenAI's have, and take a second
    return next((kind for kind in kinds if spelled == _text(kind)), None)


def read_vocabulary(folder: Path, rows: int) -> Vocabulary:
    """The vocabulary of a CTranslate2 folder whose embedding has ``rows``.

    Every file that lists tokens is read, and they must agree. Raises ValueError, naming the file,
    for one that does not fit the embedding or is no Whisper's, FileNotFoundError where none is.
    """
    read = {path: _read(path) for path in (folder / name for name in FILES) if path.is_file()}
    if not read:
        raise FileNotFoundError(
            f"{folder}: none of {', '.join(FILES)}; put the one that came with its model.bin there"
        )
    flags = next((special for _, special in read.values() if special is not None), None)
    (path, first), *others = (
        (path, recognised(path, names, flags, rows)) for path, (names, _) in read.items()
    )
    added = dict(first.added)
    for other, second in others:
        if (first.multilingual, first.languages) != (second.multilingual, second.languages):
            raise ValueError(
                f"{other}: {_described(second)}, and {path.name} beside it {_described(first)}; "
                "remove the one that is another model's"
            )
        added |= second.added
    _require_configured(folder / _CONFIG, first)
    return replace(first, added=added)


def _read(path: Path) -> tuple[dict[int, str], set[str] | None]:
    """Names by number, and which are special; None where the file does not say it."""
    try:
        text = path.read_text(encoding="utf-8")
        lines = text.removesuffix("\n").split("\n")
        listed: Any = json.loads(text) if path.suffix == ".json" else lines
        if path.name == _TOKENIZER:
            added = listed["added_tokens"]
            names = {number: name for name, number in listed["model"]["vocab"].items()}
            names |= {token["id"]: token["content"] for token in added}
            return names, {token["content"] for token in added if token["special"]}
        if not isinstance(listed, list):
            raise TypeError("no list of tokens")
        return dict(enumerate(map(str, listed))), None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: no vocabulary ({error}); fetch it again") from None


def recognised(
    path: Path | str, names: Mapping[int, str], flags: set[str] | None, rows: int
) -> Vocabulary:
    """Whose the tokens are, each at OpenAI's number; ``flags``: those known to be special.

    ``rows`` of the embedding beyond the tokens are padding, unless OpenAI has a vocabulary of just
    so many.
    """
    remedy = "put the file there that came with the weights"
    numbers = {name: number for number, name in names.items()}
    end = numbers.get(END, 0)
    multilingual = is_multilingual(names.get(number, "") for number in range(end))
    if multilingual is None:
        raise ValueError(
            f"{path}: {len(names)} tokens that are not those of OpenAI's Whisper, English-only or "
            f"multilingual; {remedy}"
        )
    if not flags:
        flags = {name for name in names.values() if flags is None and _UNFLAGGED.fullmatch(name)}
    added = {
        number: name
        for number, name in sorted(names.items())
        if number > end and name not in flags and not _SPECIAL.fullmatch(name)
    }
    # the languages follow the start token, which follows the end token
    following = (names.get(number, "") for number in count(end + 2))
    languages = sum(1 for _ in takewhile(_LANGUAGE.fullmatch, following))
    vocabulary = Vocabulary(multilingual, languages, added)
    expected = get_encoding(_ENCODINGS[multilingual], vocabulary.languages)._special_tokens
    for name, number in expected.items():
        if numbers.get(name, number) != number:
            raise ValueError(
                f"{path}: {name} is token {numbers[name]}, and OpenAI's {number}; {remedy}"
            )
    size = vocabulary.size + len(vocabulary.added)
    others = {known.size for known in _OPENAI} - {size}
    if max(names) >= rows or rows < vocabulary.size or rows in others - {max(names) + 1}:
        raise ValueError(
            f"{path}: {_described(vocabulary)} of {size} tokens, and the embedding beside it has "
            f"{rows}; {remedy}"
        )
    return vocabulary


def _require_configured(path: Path, vocabulary: Vocabulary) -> None:
    """The converter's list of tokens forbidden at the start names the end token."""
    try:
        parsed = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); fetch it again") from None
    forbidden = (parsed.get("suppress_ids_begin") if isinstance(parsed, dict) else None) or []
    end, other = _ENDS[vocabulary.multilingual], _ENDS[not vocabulary.multilingual]
    if other in forbidden and end not in forbidden:
        raise ValueError(
            f"{path}: its end token is {other}, and that of the tokens beside it, "
            f"{_described(vocabulary)}, is {end}; put the files that came with its model.bin there"
        )


def _described(vocabulary: Vocabulary) -> str:
    kind = "a multilingual" if vocabulary.multilingual else "an English-only"
    return f"{kind} vocabulary with {vocabulary.languages} languages"


_ENCODINGS = {True: "multilingual", False: "gpt2"}


@cache
def _text(multilingual: bool) -> list[str]:
    """OpenAI's own text tokens as GPT-2 spells them: other bytes are the letters from 256 on."""
    printable, others = {*range(33, 127), *range(161, 173), *range(174, 256)}, count(256)
    letters = [chr(byte if byte in printable else next(others)) for byte in range(256)]
    ranks = get_encoding(_ENCODINGS[multilingual])._mergeable_ranks
    return ["".join(letters[byte] for byte in token) for token in sorted(ranks, key=ranks.get)]


def openai_tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    """openai-whisper's own, with the added tokens."""
    asked = {"language": "en", "task": "transcribe"} if vocabulary.multilingual else {}
    tokenizer = get_tokenizer(vocabulary.multilingual, num_languages=vocabulary.languages, **asked)
    if not vocabulary.added:
        return tokenizer
    known = tokenizer.encoding
    added = {name: number for number, name in vocabulary.added.items()}
    encoding = tiktoken.Encoding(
        known.name, pat_str=known._pat_str, mergeable_ranks=known._mergeable_ranks,
        special_tokens={**known._special_tokens, **added},
    )  # fmt: skip
    return replace(tokenizer, encoding=encoding)


def openai_tokens(vocabulary: Vocabulary, rows: int) -> Tokens:
    """What decoding needs of a vocabulary; rows of the embedding beyond it are no tokens."""
    tokenizer = openai_tokenizer(vocabulary)
    special = [
        number for number in range(tokenizer.eot + 1, rows) if number not in vocabulary.added
    ]
    steering = {
        tokenizer.transcribe, tokenizer.translate, tokenizer.sot, tokenizer.sot_prev,
        tokenizer.sot_lm, tokenizer.no_speech,
    }  # fmt: skip
    return Tokens(
        prompt=tuple(tokenizer.sot_sequence_including_notimestamps),
        end=tokenizer.eot,
        no_speech=tokenizer.no_speech,
        suppressed=tuple(special),
        non_speech=tuple(tokenizer.non_speech_tokens),
        control=tuple(sorted({*steering, *(n for n in special if n >= vocabulary.size)})),
        blank=tuple(tokenizer.encode(" ")),
    )
