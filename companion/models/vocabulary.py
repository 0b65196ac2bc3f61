"""Which Whisper a vocabulary belongs to: English-only or multilingual, and what was added to it.

The text tokens themselves decide it, which are GPT-2's or OpenAI's multilingual ones, and never how
many rows an embedding has: those are padded after fine-tuning, and tokens are added to them.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from whisper.tokenizer import get_encoding

END = "<|endoftext|>"
_SPECIAL = re.compile(r"<\|.*\|>")
_UNFLAGGED = re.compile(r"<.*>|\[.*\]")  # such as "[PAD]", where no file says what is special
_LANGUAGE = re.compile(r"<\|[a-z]{2,3}\|>")  # some call Hebrew iw, others he
_WITHOUT_LANGUAGES = 51765
"""The tokens of an English-only Whisper that are no language; multilingual ones have one more."""

_TOKENIZER, _CONFIG = "tokenizer.json", "config.json"
_LISTS = ("vocabulary.txt", "vocabulary.json")
FILES = (*_LISTS, _TOKENIZER)
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
    for known in _OPENAI:
        if known.size == rows:
            return known
    sizes = ", ".join(str(known.size) for known in _OPENAI)
    raise ValueError(
        f"{name}: {rows} tokens, and OpenAI's have {sizes}: whether it is English-only cannot be "
        "told from this file; give a transformers or CTranslate2 folder, with its tokenizer"
    )


_OPENAI = (Vocabulary(False, 99), Vocabulary(True, 99), Vocabulary(True, 100))


def is_multilingual(text: Iterable[str]) -> bool | None:
    """Whose the text tokens are, in order of their numbers; None for another vocabulary's."""
    spelled = list(text)
    if len(spelled) < 50_000:  # OpenAI's own have more, and take a second to read
        return None
    for multilingual in (True, False):
        if spelled == _text(multilingual):
            return multilingual
    return None


def added_text(names: Mapping[int, str], end: int, special: Iterable[str]) -> dict[int, str]:
    """The tokens after the end token that are ordinary text, by number."""
    left_out = set(special)
    return {
        number: name
        for number, name in sorted(names.items())
        if number > end and name not in left_out and not _SPECIAL.fullmatch(name)
    }


def read_vocabulary(folder: Path, rows: int) -> Vocabulary:
    """The vocabulary of a CTranslate2 folder whose embedding has ``rows``.

    Every file that lists tokens is read, and they must agree. Raises ValueError, naming the file,
    for one that does not fit the embedding or is no Whisper's, FileNotFoundError where none is.
    """
    found = {}
    flagged, flags = _from_tokenizer(folder / _TOKENIZER)
    for path, names in {**_from_lists(folder), **flagged}.items():
        found[path] = _recognised(path, names, flags)
        _require_fit(path, found[path], names, rows)
    if not found:
        raise FileNotFoundError(
            f"{folder}: none of {', '.join(FILES)}; put the one that came with its model.bin there"
        )
    (path, first), *others = found.items()
    for other, second in others:
        if (first.multilingual, first.languages) != (second.multilingual, second.languages):
            raise ValueError(
                f"{other}: {_described(second)}, and {path.name} beside it {_described(first)}; "
                "remove the one that is another model's"
            )
    _require_configured(folder, first)
    added = [one.added for one in found.values()]
    return replace(first, added={number: name for each in added for number, name in each.items()})


def _from_lists(folder: Path) -> dict[Path, dict[int, str]]:
    """Names by number of the files that list one token after the other."""
    found = {}
    for path in (folder / name for name in _LISTS):
        if path.is_file():
            names = _parsed(path) if path.suffix == ".json" else _read(path).split("\n")
            if not isinstance(names, list):
                raise _unreadable(path, "no list of tokens")
            if path.suffix == ".txt" and names[-1] == "":
                names.pop()  # the last line ends as well
            found[path] = dict(enumerate(map(str, names)))
    return found


def _from_tokenizer(path: Path) -> tuple[dict[Path, dict[int, str]], set[str] | None]:
    """Names by number of a tokenizer.json, and which it calls special; None where there is none."""
    if not path.is_file():
        return {}, None
    parsed = _parsed(path)
    try:
        names = {number: name for name, number in parsed["model"]["vocab"].items()}
        added = parsed["added_tokens"]
        names |= {token["id"]: token["content"] for token in added}
        return {path: names}, {token["content"] for token in added if token["special"]}
    except (KeyError, TypeError, AttributeError) as error:
        raise _unreadable(path, f"no tokenizer: {error!r}") from None


def _parsed(path: Path) -> Any:
    try:
        return json.loads(_read(path))
    except json.JSONDecodeError as error:
        raise _unreadable(path, str(error)) from None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise _unreadable(path, str(error)) from None


def _unreadable(path: Path, reason: str) -> ValueError:
    return ValueError(f"{path}: {reason}; fetch it again")


def _recognised(path: Path, names: Mapping[int, str], flags: set[str] | None) -> Vocabulary:
    """Whose the tokens are, each at OpenAI's number; ``flags``: those known to be special."""
    numbers = {name: number for number, name in names.items()}
    end = numbers.get(END, 0)
    multilingual = is_multilingual(names.get(number, "") for number in range(end))
    if multilingual is None:
        raise ValueError(
            f"{path}: {len(names)} tokens that are not those of OpenAI's Whisper, English-only or "
            "multilingual; put the file that came with its model.bin there"
        )
    special = {name for name in names.values() if flags is None and _UNFLAGGED.fullmatch(name)}
    found = Vocabulary(
        multilingual, _languages(names, end), added_text(names, end, flags or special)
    )
    expected = get_encoding(_ENCODINGS[multilingual], found.languages)._special_tokens
    for name, number in expected.items():
        if numbers.get(name, number) != number:
            raise ValueError(
                f"{path}: {name} is token {numbers[name]}, and OpenAI's {number}; put the file "
                "that came with its model.bin there"
            )
    return found


def _languages(names: Mapping[int, str], end: int) -> int:
    """How many languages follow the start token, which follows the end token."""
    count = 0
    while _LANGUAGE.fullmatch(names.get(end + 2 + count, "")):
        count += 1
    return count


def _require_fit(path: Path, found: Vocabulary, names: Mapping[int, str], rows: int) -> None:
    """Rows beyond the tokens are padding, unless OpenAI has a vocabulary of just so many."""
    expected = found.size + len(found.added)
    others = {known.size for known in _OPENAI} - {expected}
    if max(names) >= rows or rows < found.size or rows in others - {max(names) + 1}:
        raise ValueError(
            f"{path}: {_described(found)} of {expected} tokens, and the embedding beside it has "
            f"{rows}; put the file that came with its model.bin there"
        )


def _require_configured(folder: Path, found: Vocabulary) -> None:
    """The converter's list of tokens forbidden at the start names the end token."""
    path = folder / _CONFIG
    if not path.is_file():
        return
    parsed = _parsed(path)
    forbidden = (parsed.get("suppress_ids_begin") if isinstance(parsed, dict) else None) or []
    own, other = _ENDS[found.multilingual], _ENDS[not found.multilingual]
    if other in forbidden and own not in forbidden:
        raise ValueError(
            f"{path}: its end token is {other}, and the tokens beside it are {_described(found)}, "
            f"which ends with {own}; put the files that came with its model.bin there"
        )


def _described(found: Vocabulary) -> str:
    kind = "a multilingual" if found.multilingual else "an English-only"
    return f"{kind} vocabulary with {found.languages} languages"


_ENCODINGS = {True: "multilingual", False: "gpt2"}


@cache
def _text(multilingual: bool) -> list[str]:
    """The text tokens of OpenAI's own vocabulary, spelled as byte-level tokenizers do.

    A byte that is no printable character is the next letter from 256 on (GPT-2's convention).
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    letters |= {byte: chr(256 + i) for i, byte in enumerate(others)}
    ranks = get_encoding(_ENCODINGS[multilingual])._mergeable_ranks
    ordered = sorted(ranks, key=ranks.__getitem__)
    return ["".join(letters[byte] for byte in token) for token in ordered]
