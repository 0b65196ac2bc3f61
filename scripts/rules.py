"""Tell `make` what depends on what: ``python scripts/rules.py ladder .venv/requirements.lock``.

Reads params/<profile>.yml, the notebooks and the imports of ``spectral``, and writes

    build/<profile>/params/<notebook>.yml   the notebook's own section, anchors resolved
    build/<profile>/requirements.lock       the packages installed
    build/<profile>/rules.mk                the models, the notebooks and what each depends on

A file is rewritten only where its content changes, so that a notebook is rerun only for a change
in its own section. Every notebook has a section, named after it; one that is null leaves it out.
A number as third argument measures so many utterances, whatever the sections say.

A parameter whose value lies in data/ makes the notebook depend on that file, or on all files of
that folder; of the folder ``ladder`` just on the models that the notebook names. One whose
``results``, or ``<something>_results``, are the folder of a measuring notebook depends on that
notebook's run for every model that it names.
"""

import ast
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

# Run once per model, and draw nothing.
MEASURING = ("measure", "jacobians", "listening", "nulls", "choices")
RESULTS = "results"  # what is called so, or <something>_results, is what a figure draws from
PACKAGE = "spectral"
LADDER = "ladder"
MODEL_KEYS = ("models", "model")

Section = Mapping[str, object]


def main() -> None:
    """Write the rules of the profile named on the command line."""
    profile, lock = sys.argv[1], Path(sys.argv[2])
    build = Path("build") / profile
    try:
        sections = read_sections(Path("params") / f"{profile}.yml")
        if sys.argv[3:]:
            take_utterances(sections, sys.argv[3])
        write_if_changed(build / lock.name, lock.read_text(encoding="utf-8"))
        for name, section in sections.items():
            text = yaml.safe_dump({name: section}, sort_keys=False)
            write_if_changed(build / "params" / f"{name}.yml", text)
        write_if_changed(build / "rules.mk", rules(sections, build))
    except (ValueError, SyntaxError, OSError) as error:
        sys.exit(f"error: {error}")


def read_sections(path: Path) -> dict[str, dict[str, object]]:
    """The parameters of every notebook, by the notebook's name."""
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
    for notebook in sorted(Path("notebooks").glob("*.ipynb")):
        section = found.get(notebook.stem, "")
        if section is None:
            continue
        if not isinstance(section, dict):
            raise ValueError(
                f"{path}: no section for {notebook}; there are: {', '.join(map(str, found))}; "
                "null leaves the notebook out"
            )
        sections[notebook.stem] = section
    return sections


def take_utterances(sections: Mapping[str, dict[str, object]], count: str) -> None:
    """Measure ``count`` utterances instead of as many as the sections say."""
    if not count.isdecimal() or int(count) == 0:
        raise ValueError(f"N is {count!r}; give a number of utterances, such as N=50")
    for name in set(sections) & set(MEASURING):
        sections[name]["utterances"] = int(count)


def rules(sections: Mapping[str, Section], build: Path) -> str:
    """The makefile: variables, and one rule without a recipe per executed notebook."""
    values = {name: {**defaults(name), **section} for name, section in sections.items()}
    runs: dict[tuple[str, str], str] = {}
    drawn = {}
    for name in sections:
        if name in MEASURING:
            continue
        needed = {}
        for kind in measured_by(name, values[name]):
            if kind not in values:
                raise ValueError(f"{name} draws from {kind}, which this profile leaves out")
            for model in models_of(values[name]):
                needed[kind, model] = executed(build, f"{kind}-{model}")
        runs |= needed
        drawn[name] = [*prerequisites(name, values[name], build), *needed.values()]
    lines = [
        f"MEASURED := {' '.join(runs.values())}",
        f"DRAWN := {' '.join(executed(build, name) for name in drawn)}",
    ]
    for (kind, model), target in runs.items():
        lines.append(rule(target, prerequisites(kind, {**values[kind], "model": model}, build)))
    lines += [rule(executed(build, name), needs) for name, needs in drawn.items()]
    return "\n".join(lines) + "\n"


def measured_by(name: str, values: Section) -> list[str]:
    """The measuring notebooks whose rows a notebook reads."""
    kinds = []
    for key, value in values.items():
        if key != RESULTS and not key.endswith(f"_{RESULTS}"):
            continue
        kind = Path(str(value)).name
        if kind not in MEASURING:
            known = ", ".join(MEASURING)
            raise ValueError(f"{key} of {name} is {value!r}; it must end in {known}")
        kinds.append(kind)
    return kinds


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
    return list(map(str, [notebook, parameters, packages, *code, *data_files(values)]))


def models_of(values: Section) -> list[str]:
    """The models that a notebook's parameters name, in their order."""
    names: list[str] = []
    for key in MODEL_KEYS:
        value = values.get(key, [])
        names += [str(name) for name in (value if isinstance(value, list) else [value])]
    return list(dict.fromkeys(names))


def data_files(values: Section) -> Iterator[Path]:
    """The files in data/ that a notebook's parameters name."""
    for key, value in values.items():
        path = embedded(value)
        if path is None:
            continue
        models = models_of(values) if key == LADDER else []
        for folder in [model_folder(path, name) for name in models] or [path]:
            yield from sorted(file for file in [folder, *folder.rglob("*")] if file.is_file())


def embedded(value: object) -> Path | None:
    """A path as a notebook sees it, from the root instead; None for one that is not in data/."""
    if not isinstance(value, str):
        return None
    path = Path(os.path.relpath(Path("notebooks") / value))
    return path if path.parts[:1] == ("data",) else None


def model_folder(ladder: Path, name: str) -> Path:
    """The folder of a model; raises ValueError, listing the names, where there is none."""
    if not (ladder / name / "SHA256SUMS").exists():
        known = ", ".join(sorted(path.parent.name for path in ladder.glob("*/SHA256SUMS")))
        raise ValueError(
            f"{ladder}: no model {name!r}; there are: {known or 'none'}; `make ladder` trains it"
        )
    return ladder / name


def defaults(name: str) -> dict[str, object]:
    """The values in a notebook's parameters cell."""
    cells = code_cells(Path("notebooks") / f"{name}.ipynb")
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    found: dict[str, object] = {}
    for statement in ast.parse("".join("".join(cell["source"]) for cell in tagged)).body:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
            target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
            found[ast.unparse(target)] = ast.literal_eval(statement.value)
    return found


def code_cells(path: Path) -> list[dict[str, Any]]:
    """The code cells of a notebook."""
    try:
        cells: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path}: not a notebook: {error}") from error
    return [cell for cell in cells if cell["cell_type"] == "code"]


def notebook_code(path: Path) -> str:
    """The Python of a notebook's code cells, magics left out."""
    code = "\n".join("".join(cell["source"]) for cell in code_cells(path))
    return re.sub(r"(?m)^\s*[%!].*$", "", code)


def imports(code: str) -> set[str]:
    """The modules of the package that code may import, by dotted name."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] == PACKAGE}


def modules(names: Iterable[str]) -> list[Path]:
    """The files behind dotted names and behind all that they import, packages included."""
    found: set[Path] = set()
    waiting = list(names)
    while waiting:
        parts = waiting.pop().split(".")
        for i in range(1, len(parts) + 1):
            stem = Path(*parts[:i])
            for path in (stem.with_suffix(".py"), stem / "__init__.py"):
                if path.is_file() and path not in found:
                    found.add(path)
                    waiting += imports(path.read_text(encoding="utf-8"))
    return sorted(found)


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
