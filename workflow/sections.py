"""What a profile asks for: its notebooks' parameters, the rows that they draw from, and their data.

params/PROFILE.yml has a section for every kind of measurement and every notebook that draws, named
after it. ``like`` names a profile whose kinds hold where this one says nothing else. A parameter
``results``, or ``<something>_results``, is a folder named after a kind of measurement:
the notebook draws from that kind's rows of every model in ``<something>_models``, else in
``models``. One that names other notebooks in ``drawn`` reads the tables that these write, one that
names tables in figures/ as ``<something>_table`` or ``<something>_tables`` those of other profiles.
"""

import ast
import csv
import hashlib
import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from companion.measurement import keys
from companion.measurement.keys import VERSIONS, speech_digest, staleness
from companion.measurement.settings import section_of
from companion.speech.corpus import find_clips, find_utterances

Values = dict[str, object]
Run = tuple[str, str]  # kind and model
RESULTS, MODELS, LADDER = "results", "models", "ladder"
UNPAIRED = "unpaired"
TABLES = ("_table", "_tables")
COSTS = Path("data/benchmarks/kinds-cpu.csv")  # which workflow/costs.py writes


class Profile:
    """The sections of one parameter file; ValueError, one line, for what cannot be asked for.

    ``models`` replaces those of every section; ``utterances`` the number of those measured, where
    their rows do not come with the project or the models are others.
    """

    def __init__(self, name: str, models: str, utterances: str) -> None:
        self.name, self.path = name, Path("params") / f"{name}.yml"
        sections = _sections(self.path)
        self.values = {
            name: self._checked(name, section) for name, section in sorted(sections.items())
        }
        for values in self.values.values() if models else ():
            chosen = list(dict.fromkeys(models.split()))
            values |= {key: chosen for key in values if _ends(key, MODELS)}
        self.drawn = [kind for kind in self.values if kind not in VERSIONS]
        self.folders = self._folders()
        for kind in self.values.keys() & set(VERSIONS) if utterances else ():
            if models or not is_committed(self.folders.get(kind, Path())):
                self.values[kind]["utterances"] = int(utterances)
                if kind == "dynamics":  # all utterances are one batch
                    self.values[kind]["batch"] = int(utterances)
        self.runs: dict[str, Run] = {
            str(self.folders[run[0]] / f"{run[1]}.parquet"): run
            for name in self.drawn
            for run in self._runs(name)
        }

    def rows(self, name: str) -> list[str]:
        """The rows that a notebook draws from."""
        return [str(self.folders[kind] / f"{model}.parquet") for kind, model in self._runs(name)]

    def tables_of(self, name: str) -> list[str]:
        """The notebooks whose tables it reads, which read no tables themselves."""
        others = _listed(self.values[name].get("drawn", []))
        for other in others:
            if other not in self.drawn or "drawn" in self.values[other]:
                raise ValueError(
                    f"{self.path}: drawn of {name} names {other!r}; name notebooks that this "
                    "profile draws, and that have no `drawn` themselves"
                )
        return others

    def reads_tables(self, name: str) -> bool:
        """Whether it reads tables that other profiles draw."""
        return any(
            key.endswith(TABLES) and _path(value).parts[:1] == ("figures",)
            for key, value in self.values[name].items()
        )

    def data(self, name: str) -> Iterator[str]:
        """The files in data/, and drawn tables, that a notebook's parameters name."""
        values = self.values[name]
        for key, value in values.items():
            path = _path(value)
            if path.parts[:1] == ("figures",) and key.endswith(TABLES):
                tables = [*path.glob("*.csv"), *path.glob("supplement/*.csv")]
                yield from map(str, sorted(tables) or path.parent.glob(path.name))
            elif path.parts[:1] == ("data",) and not _ends(key, RESULTS):
                models = _models(values, "") if key == LADDER else []
                for folder in [path / model for model in models] or [path]:
                    if key == LADDER and not (folder / "SHA256SUMS").exists():
                        known = sorted(at.parent.name for at in path.glob("*/SHA256SUMS"))
                        raise ValueError(
                            f"{path}: no model {folder.name!r}; there are: {', '.join(known)}"
                        )
                    files = [folder, *folder.rglob("*")]
                    yield from map(str, sorted(file for file in files if file.is_file()))

    def stale(self) -> dict[str, str]:
        """Why rows are not what is asked for, by file; the kind that matters most comes first."""
        order = {kind: i for i, kind in enumerate(VERSIONS)}
        runs = sorted(self.runs.items(), key=lambda item: order[item[1][0]])
        reasons = {path: staleness(Path(path), self.key(*run)) for path, run in runs}
        return {path: reason for path, reason in reasons.items() if reason}

    def key(self, kind: str, model: str) -> keys.Key:
        """The key that the rows of a kind and model must have."""
        values: dict[str, Any] = self.values[kind]
        clips = from_root(values["nonspeech"]) if values.get("nonspeech") else None
        spoken = speech(from_root(values["corpus"]), clips)
        digest = weights(model, from_root(values[LADDER]))
        if UNPAIRED in values:
            values = {**values, UNPAIRED: keys.unpaired_with(model, values[UNPAIRED])}
        return keys.key_of(kind, {**values, "model": model}, digest, spoken)

    def _checked(self, name: str, section: object) -> Values:
        """The parameters of a notebook, defaults included; those of a kind are in its section."""
        if not isinstance(section, dict):
            raise ValueError(f"{self.path}: {name} is {section!r}; give its parameters")
        if name in VERSIONS:
            needed, allowed = map(set, section_of(name))
            if not needed <= {*section} <= allowed:
                raise ValueError(
                    f"{self.path}: {name} lacks {sorted(needed - {*section})} and has "
                    f"{sorted({*section} - allowed)}, which are no parameters of it"
                )
            return section
        notebook = Path("notebooks") / f"{name}.ipynb"
        known = defaults(notebook)
        for key, value in section.items():
            if key not in known:
                raise ValueError(
                    f"{self.path}: {notebook} has no parameter {key!r}; it has: {', '.join(known)}"
                )
            kind = type(known[key])
            if kind in (list, str) and not isinstance(value, kind | None):
                raise ValueError(
                    f"{self.path}: {key} of {name} is {value!r}; "
                    f"give a {kind.__name__}, as {known[key]!r}"
                )
        return known | section

    def _folders(self) -> dict[str, Path]:
        """Where the rows of every kind are that some notebook draws from."""
        folders: dict[str, Path] = {}
        for name in self.drawn:
            for key, folder in self._results(name):
                about = f"{self.path}: {key} of {name} is {self.values[name][key]!r}"
                if folder.name not in VERSIONS:
                    raise ValueError(f"{about}; it must end in {', '.join(VERSIONS)}")
                if folder.name not in self.values:
                    left_out = f"{name} draws from {folder.name}, which is left out"
                    raise ValueError(f"{self.path}: {left_out}")
                if folders.setdefault(folder.name, folder) != folder:
                    raise ValueError(f"{about}, elsewhere {folders[folder.name]}")
        return folders

    def _results(self, name: str) -> Iterator[tuple[str, Path]]:
        """The parameters that name rows, and the folders of these."""
        for key, value in self.values[name].items():
            if _ends(key, RESULTS) and value is not None:
                yield key, from_root(value)

    def _runs(self, name: str) -> list[Run]:
        return [
            (folder.name, model)
            for key, folder in self._results(name)
            for model in _models(self.values[name], key.removesuffix(RESULTS))
        ]


def write_if_changed(path: Path, text: str) -> None:
    """Write a file whole, or leave it and its time alone where it already says the same."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _sections(path: Path) -> dict[str, Any]:
    """Those of a file, and the kinds of the profile that it is like, which may be like a third."""
    if not path.exists():
        known = ", ".join(sorted(other.stem for other in path.parent.glob("*.yml")))
        raise ValueError(f"{path}: no such profile; there are: {known}")
    try:
        sections = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(sections, dict):
        raise ValueError(f"{path}: has no sections")
    if "like" in sections:
        like = _sections(path.with_stem(str(sections.pop("like"))))
        for kind in like.keys() & set(VERSIONS):
            sections[kind] = {**like[kind], **sections.get(kind, {})}
    return sections


def is_committed(path: Path | str) -> bool:
    """Whether rows there come with the project."""
    return Path(path).parts[:1] == ("data",)


def complaint(stale: dict[str, str]) -> str:
    """One line: which rows are stale, for what, and the remedy."""
    path, reason = next(iter(stale.items()))
    others = f", and {len(stale) - 1} other files" if len(stale) > 1 else ""
    return (
        f"{path}{others}: {reason}; `make evidence` measures such rows again (hours for all of "
        "them), or go back to what they were measured with"
    )


def cost(kind: str) -> str:
    """What an utterance took in a kind of measurement, of models of which that was measured."""
    if not COSTS.exists():
        return ""
    with COSTS.open(encoding="utf-8", newline="") as table:
        known = [row for row in csv.DictReader(table) if row["kind"] == kind]
    told = [f"{float(row['seconds']):.2g} s of {row['model']}" for row in known]
    return f" (an utterance took {', '.join(told)})" if told else ""


def from_root(value: object) -> Path:
    """A path as a notebook sees it, from the root of the project."""
    return Path(os.path.relpath(Path("notebooks") / str(value)))


def defaults(notebook: Path) -> Values:
    """The values in a notebook's parameters cell."""
    if not notebook.exists():
        raise ValueError(f"{notebook}: no such notebook")
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except (ValueError, KeyError) as error:
        raise ValueError(f"{notebook}: not a notebook: {error}") from error
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    if len(tagged) != 1:
        raise ValueError(f"{notebook}: {len(tagged)} cells are tagged 'parameters'; tag one")
    values: Values = {}
    for line in ast.parse("".join(tagged[0]["source"])).body:
        if isinstance(line, ast.Assign | ast.AnnAssign) and line.value is not None:
            target = line.targets[0] if isinstance(line, ast.Assign) else line.target
            values[ast.unparse(target)] = ast.literal_eval(line.value)
    return values


@cache
def weights(model: str, ladder: Path) -> str | None:
    """A digest of a model's weights, None where they are not on this computer."""
    listed = ladder / model / "SHA256SUMS"
    if listed.exists():
        return hashlib.sha256(listed.read_bytes()).hexdigest()
    from companion.models.loading import is_here, weights_digest  # here: it loads torch

    return weights_digest(model, ladder) if is_here(model, ladder) else None


@cache
def speech(corpus: Path, clips: Path | None) -> str | None:
    """A digest of a corpus and of clips beside it, None where one is not on this computer."""
    try:
        beside = find_clips(clips).utterances if clips else ()
        return speech_digest([*find_utterances(corpus).utterances, *beside])
    except FileNotFoundError:
        return None


def _ends(key: str, word: str) -> bool:
    return key == word or key.endswith(f"_{word}")


def _path(value: object) -> Path:
    """What a parameter names, from the root; nothing where it is no path."""
    return from_root(value) if isinstance(value, str) and value.startswith("../") else Path()


def _listed(value: object) -> list[str]:
    return [str(name) for name in (value if isinstance(value, list) else [value])]


def _models(values: Values, of: str) -> list[str]:
    for key in (f"{of}{MODELS}", MODELS, "model"):
        if key in values:
            names = _listed(values[key])
            if len(set(names)) < len(names):
                raise ValueError(f"{key} is {names}; name every model once")
            return names
    return []
