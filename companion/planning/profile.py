"""What a profile's parameter file will measure: which models, on how many utterances, how."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from companion.measurement.keys import VERSIONS
from companion.measurement.schemas import SWAPPED
from companion.models.states import TOGETHER
from companion.speech.corpus import Utterance, find_utterances

KINDS = tuple(VERSIONS)
"""The notebooks that measure, once per model; those that draw are a matter of seconds each."""

LIBRISPEECH = 5559
"""Utterances of test-clean and test-other, taken where the corpus is not there yet."""

_RESULTS = "results"  # what is called so, or <something>_results, is what a figure draws from
_NETWORKS = 2  # some measure a model and its random twin
_CROSSED = 48  # centring, positions, pooling and forcing: four sides each free, two forced
_NULLS = 4  # of the model's own conditions; a swapped utterance is one more


@dataclass(frozen=True)
class Work:
    """One measuring notebook's section, for every model that some figure draws from it."""

    kind: str
    values: Mapping[str, Any]
    models: tuple[str, ...]

    @property
    def ladder(self) -> Path:
        """The folder of the models, seen from the root."""
        return _from_root(self.values["ladder"])

    @property
    def corpus(self) -> Path:
        """The folder of the speech, seen from the root."""
        return _from_root(self.values["corpus"])

    @property
    def conditions(self) -> tuple[str, ...]:
        """Their names, clean first."""
        return tuple(self.values["conditions"])

    @property
    def batch(self) -> int:
        """Windows that a network hears at once."""
        if self.kind == "dynamics":
            return min(TOGETHER, int(self.values["batch"]))
        return self.directions + 1 if self.kind == "nudges" else int(self.values["batch"])

    @property
    def directions(self) -> int:
        """In how many directions nudges move an utterance."""
        return int(self.values["draws"]) + 2 * len(self.values["tokens"])

    @property
    def further_draws(self) -> float:
        """Random networks beyond the first twin that an utterance is fed to, on average."""
        draws, some = int(self.values.get("draws", 0)), self.values.get("draw_utterances")
        measured = self.values["utterances"] or LIBRISPEECH
        return max(0, 2 * draws - 1) * min(1.0, (some or measured) / measured)

    def rows(self, layers: int) -> int:
        """Rows per utterance of a model with so many decoder layers."""
        count = len(self.conditions)
        if self.kind in ("measure", "stresses"):
            return _sides(count) * 3 * layers * len(self.values["modes"])
        if self.kind == "nulls":
            swapped = SWAPPED in self.conditions
            sides = _NULLS * _sides(count - swapped) + swapped * _sides(2)
            drawn = self.further_draws * _sides(count - swapped)
            return round((sides + drawn) * 3 * layers * len(self.values["modes"]))
        if self.kind == "choices":  # of as many voices as utterances, fewer else
            return 3 * (_CROSSED + 3 * (count - 2))
        if self.kind == "jacobians":
            return count * _NETWORKS * self.values["tokens"] * layers
        if self.kind == "dynamics":  # of an encoder with as many layers
            steps, states = len(self.values["steps"]), 1 + 2 * layers
            distances, ranks, readouts = 2 * (states + steps), states + steps * layers, 4 * layers
            return count * _NETWORKS * (distances + ranks + readouts + 1)
        if self.kind == "nudges":
            return count * len(self.values["levels_db"]) * self.directions
        if self.kind == "warnings":  # not of clean speech
            return (count - 1) * 3 * len(self.values["prefixes"])
        return count


def read_profile(
    path: Path, utterances: int | None = None, models: Sequence[str] = ()
) -> list[Work]:
    """The measurements of a parameter file; ``utterances`` and ``models`` replace its own.

    Rows that come with the project are not measured. Raises ValueError for a file that is missing
    or has nothing to measure.
    """
    if not path.exists():
        known = ", ".join(sorted(other.stem for other in path.parent.glob("*.yml")))
        raise ValueError(f"{path}: no such profile; there are: {known}")
    sections = yaml.safe_load(path.read_text(encoding="utf-8"))
    found = [section for section in sections.values() if isinstance(section, dict)]
    missing = [rows for one in found for rows in _to_measure(one, models)]
    asked = {"utterances": utterances} if utterances else {}
    work = []
    for kind in KINDS:
        names = dict.fromkeys(rows.stem for rows in missing if rows.parent.name == kind)
        if sections.get(kind) and names:
            work.append(Work(kind, {**sections[kind], **asked}, tuple(names)))
    if not work:
        raise ValueError(
            f"{path}: has nothing to measure, all rows that it draws are there; name other models, "
            'such as MODELS="small large-v3-turbo"'
        )
    return work


def utterances_of(work: Work) -> tuple[tuple[Utterance, ...], int]:
    """Those of the corpus, none where it is not there; and how many will be measured."""
    try:
        found = find_utterances(work.corpus).utterances
    except FileNotFoundError:
        found = ()
    listed = len(work.corpus.read_text().split()) - 1 if work.corpus.is_file() else LIBRISPEECH
    count, asked = len(found) or listed, work.values["utterances"]
    return found, min(count, asked or count)


def _sides(conditions: int) -> int:
    """Conditions as they are, and both sides of every pair once more, of matched length."""
    return conditions + 2 * (conditions - 1)


def _to_measure(section: Mapping[str, Any], models: Sequence[str]) -> Iterator[Path]:
    """The files of rows that a figure's section draws, but those that come with the project."""
    for key, value in section.items():
        if key != _RESULTS and not key.endswith(f"_{_RESULTS}"):
            continue
        folder, own = _from_root(str(value)), f"{key.removesuffix(_RESULTS)}models"
        for name in models or section.get(own, section.get("models", ())):
            rows = folder / f"{name}.parquet"
            if folder.parts[:1] != ("data",) or not rows.exists():
                yield rows


def _from_root(value: str) -> Path:
    return Path(os.path.relpath(Path("notebooks") / value))
