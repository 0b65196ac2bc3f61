"""Tell `make` what depends on what: ``python scripts/rules.py ladder .venv/requirements.lock``.

Reads params/<profile>.yml, the notebooks and the imports of ``spectral``, and writes

    build/<profile>/params/<notebook>.yml   the notebook's own section, anchors resolved
    build/<profile>/requirements.lock       the packages installed
    build/<profile>/rules.mk                the models, the notebooks and what each depends on

A file is rewritten only where its content changes, so that a notebook is rerun only for a change
in its own section. Every notebook has a section, named after it; one that is null leaves it out.

A parameter whose value lies in data/ makes the notebook depend on that file, or on all files of
that folder; of the folder ``ladder`` just on the models that the notebook names. One whose
``results``, or ``<something>_results``, are the folder of a measuring notebook depends on that
notebook's rows for every model that it names: in ``<something>_models`` where it has such a
parameter, else in ``models``. Rows are measured where they are missing or keyed by anything else
than what is asked for (``companion.measurement.keys``), whatever became of the code. Where their
folder lies in data/ they come with the project: they are only read, and such rows are an error,
unless ``--evidence`` asks for rules to measure them. One that names other notebooks in ``drawn``
reads the tables that these write, and runs after them; tables in figures/ that another profile
drew, which a parameter ``..._table`` or ``..._tables`` names, are files that it depends on.
"""

import argparse
import hashlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import yaml
from dependencies import (
    LADDER,
    MODELS,
    RESULTS,
    Section,
    data_files,
    defaults,
    drawn_tables,
    from_root,
    imports,
    is_results,
    models_of,
    modules,
    notebook_code,
)

# By their files: importing them from `spectral` would load torch, for seconds at every `make`.
sys.path += ["companion/measurement", "companion/speech"]
from corpus import find_clips, find_utterances  # type: ignore[import-not-found]
from keys import VERSIONS, Key, key_of, speech_digest, staleness  # type: ignore

MEASURING = tuple(VERSIONS)  # run once per model, and draw nothing
Run = tuple[str, str]  # kind and model
DRAWN = "drawn"  # the parameter with the notebooks whose tables a notebook reads


def main() -> None:
    """Write the rules of the profile named on the command line."""
    arguments = _arguments()
    profile, lock = arguments.profile, arguments.lock
    build = Path("build") / profile
    try:
        sections = read_sections(Path("params") / f"{profile}.yml", arguments.evidence)
        if arguments.utterances:
            take_utterances(sections, arguments.utterances, all_rows=bool(arguments.models))
        if arguments.models:
            take_models(sections, arguments.models)
        texts = {
            build / "params" / f"{name}.yml": yaml.safe_dump({name: section}, sort_keys=False)
            for name, section in sections.items()
        }
        texts[build / lock.name] = lock.read_text(encoding="utf-8")
        texts[build / "rules.mk"] = rules(sections, build, arguments.evidence)
        for path, text in texts.items():
            write_if_changed(path, text)
    except (ValueError, SyntaxError, OSError) as error:
        sys.exit(f"error: {error}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("profile")
    parser.add_argument("lock", type=Path)
    parser.add_argument("--utterances", help="measure so many, whatever the sections say")
    parser.add_argument("--models", nargs="+", help="these models, whatever the sections say")
    parser.add_argument("--evidence", action="store_true", help="measure rows of data/ again")
    return parser.parse_args()


def read_sections(path: Path, evidence: bool = False) -> dict[str, dict[str, object]]:
    """The parameters of every notebook, by the notebook's name.

    Notebooks listed under ``pending`` are drawn from rows that do not come along yet: only
    ``evidence`` has them, so that the rows are measured.
    """
    if not path.exists():
        known = ", ".join(sorted(other.stem for other in path.parent.glob("*.yml")))
        raise ValueError(f"{path}: no such profile; there are: {known}")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: has no sections")
    sections = {}
    pending = [] if evidence else found.get("pending", [])
    for notebook in sorted(Path("notebooks").glob("*.ipynb")):
        section = found.get(notebook.stem, "")
        if section is None or notebook.stem in pending:
            continue
        if not isinstance(section, dict):
            raise ValueError(
                f"{path}: no section for {notebook}; there are: {', '.join(map(str, found))}; "
                "null leaves the notebook out"
            )
        sections[notebook.stem] = section
    return sections


def take_utterances(sections: Mapping[str, dict[str, object]], count: str, all_rows: bool) -> None:
    """Measure ``count`` utterances; where not of all rows, those in data/ stay what they are."""
    if not count.isdecimal() or int(count) == 0:
        raise ValueError(f"N is {count!r}; give a number of utterances, such as N=50")
    folders = rows_folders(sections)
    for name in set(sections) & set(MEASURING):
        if all_rows or not is_committed(folders.get(name)):
            sections[name]["utterances"] = int(count)


def take_models(sections: Mapping[str, dict[str, object]], models: Sequence[str]) -> None:
    """Measure and draw ``models`` wherever a section names any."""
    for section in sections.values():
        for name in section:
            if name == MODELS or name.endswith(f"_{MODELS}"):
                section[name] = list(models)


def rules(sections: Mapping[str, Section], build: Path, evidence: bool) -> str:
    """The makefile: variables, and one rule without a recipe per executed notebook."""
    values = {name: {**defaults(name), **section} for name, section in sections.items()}
    folders = rows_folders(values)
    rows: dict[Path, Run] = {}
    drawn = {}
    for name in sections:
        if name in MEASURING:
            continue
        needed = {}
        for kind, models in measured_by(values[name]).items():
            if kind not in values:
                raise ValueError(f"{name} draws from {kind}, which this profile leaves out")
            for model in models:
                needed[folders[kind] / f"{model}.parquet"] = (kind, model)
        rows |= needed
        others = [executed(build, other) for other in drawn_by(name, values)]
        drawn[name] = [*prerequisites(name, values[name], build), *map(str, needed), *others]
    reasons = {
        path: reason
        for path, (kind, model) in sorted(rows.items(), key=lambda each: rank(each[1]))
        if (reason := staleness(path, key_of_rows(kind, model, values[kind])))
    }
    stale = {path: reason for path, reason in reasons.items() if is_committed(path)}
    if stale and not evidence:
        raise ValueError(complaint(stale))
    measuring = {path: executed(build, "-".join(rows[path])) for path in reasons}
    lines = [
        f"MEASURED := {' '.join(measuring[path] for path in reasons if path not in stale)}",
        f"EVIDENCE := {' '.join(measuring[path] for path in stale)}",
        f"DRAWN := {' '.join(executed(build, name) for name in longest_first(drawn, values))}",
        f"KINDS := {' '.join(folders)}",
        *(f"ROWS_{kind} := {folder}" for kind, folder in folders.items()),
    ]
    for path, target in measuring.items():
        lines += [f"{target}: FORCE", f"{path}: {target};"]
    lines += [rule(executed(build, name), needs) for name, needs in drawn.items()]
    return "\n".join(lines) + "\n"


def rank(run: Run) -> int:
    """Where a run comes in the order of measuring: the kind that matters most comes first."""
    return MEASURING.index(run[0])


def key_of_rows(kind: str, model: str, values: Section) -> Key:
    """The key that the rows of a kind and model must have; ``values`` are the kind's parameters."""
    ladder, corpus = (from_root(values[name]) for name in (LADDER, "corpus"))
    clips = from_root(values["nonspeech"]) if values.get("nonspeech") else None
    spoken = speech(corpus, clips)
    return key_of(kind, {**values, "model": model}, weights(model, ladder), spoken)


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
        return str(speech_digest([*find_utterances(corpus).utterances, *beside]))
    except FileNotFoundError:
        return None


def longest_first(needs: Mapping[str, Sequence[str]], values: Mapping[str, Section]) -> list[str]:
    """Notebooks that run models, then those that read most, so that none is waited for alone."""

    def read(name: str) -> int:
        files = [path for path in map(Path, needs[name]) if path.suffix == ".parquet"]
        return sum(path.stat().st_size for path in files if path.exists())

    return sorted(needs, key=lambda name: (LADDER not in values[name], -read(name)))


def complaint(stale: Mapping[Path, str]) -> str:
    """One line: which rows are stale, for what, and the remedy."""
    path, reason = next(iter(stale.items()))
    others = f", and {len(stale) - 1} other files" if len(stale) > 1 else ""
    return (
        f"{path}{others}: {reason}; `make evidence` measures such rows again (hours for all of "
        "them), or go back to what they were measured with"
    )


def rows_folders(sections: Mapping[str, Section]) -> dict[str, Path]:
    """Where the rows of every kind are that some notebook draws from, from the root."""
    folders: dict[str, Path] = {}
    for name, section in sections.items():
        for key, value in section.items():
            if name in MEASURING or not is_results(key):
                continue
            folder = from_root(value)
            if folder.name not in MEASURING:
                known = ", ".join(MEASURING)
                raise ValueError(f"{key} of {name} is {value!r}; it must end in {known}")
            if folders.setdefault(folder.name, folder) != folder:
                raise ValueError(f"{key} of {name} is {value!r}, elsewhere {folders[folder.name]}")
    return folders


def is_committed(folder: Path | None) -> bool:
    """Whether rows in this folder come with the project."""
    return folder is not None and folder.parts[:1] == ("data",)


def measured_by(values: Section) -> dict[str, list[str]]:
    """The measuring notebooks whose rows a notebook reads, and of which models."""
    return {
        from_root(value).name: models_of(values, of=key.removesuffix(RESULTS))
        for key, value in values.items()
        if is_results(key)
    }


def drawn_by(name: str, sections: Mapping[str, Section]) -> list[str]:
    """The notebooks whose tables a notebook reads: they draw, and read no tables themselves."""
    others = sections[name].get(DRAWN, [])
    if not isinstance(others, list):
        raise ValueError(f"{DRAWN} of {name} is {others!r}; give a list of notebooks")
    for other in others:
        if other in MEASURING or other not in sections or sections[other].get(DRAWN):
            raise ValueError(
                f"{DRAWN} of {name} names {other!r}; it must be a notebook that this profile "
                f"draws, and that has no {DRAWN} of its own"
            )
    return list(map(str, others))


def rule(target: str, prerequisites: Iterable[str]) -> str:
    """One rule without a recipe; a product that somebody removed forces the notebook to run."""
    written = Path(target).with_suffix(".written")
    products = written.read_text(encoding="utf-8").splitlines() if written.exists() else []
    forced = [] if all(Path(product).exists() for product in products) else ["FORCE"]
    return f"{target}: " + " \\\n  ".join([*forced, *prerequisites])


def executed(build: Path, name: str) -> str:
    """Where the executed copy of a notebook is kept: the file that `make` compares with."""
    return str(build / "notebooks" / f"{name}.ipynb")


def prerequisites(name: str, values: Section, build: Path) -> list[str]:
    """What a notebook depends on: itself, its parameters, the code it imports, and its data."""
    notebook = Path("notebooks") / f"{name}.ipynb"
    parameters = build / "params" / f"{name}.yml"
    code = modules(imports(notebook_code(notebook)))
    packages = build / "requirements.lock"
    data = [*data_files(values), *drawn_tables(values)]
    return list(map(str, [notebook, parameters, packages, *code, *data]))


def write_if_changed(path: Path, text: str) -> None:
    """Write a file whole, or leave it and its time alone where it already says the same."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


if __name__ == "__main__":
    main()
