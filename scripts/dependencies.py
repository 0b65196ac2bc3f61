"""What a notebook depends on: its code, the modules that it imports, and the data that it names.

What was parsed once is kept: many notebooks share it, and a run is short.
"""

import ast
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

PACKAGES = ("spectral", "companion")
LADDER = "ladder"
MODELS = "models"
MODEL_KEYS = (MODELS, "model")
RESULTS = "results"  # what is called so, or <something>_results, is what a figure draws from

Section = Mapping[str, object]


def models_of(values: Section, of: str = "") -> list[str]:
    """The models that a notebook's parameters name, in their order.

    Those of ``choice_results``, say, are named by ``choice_models`` where there is such a
    parameter: ``of`` is ``choice_`` then.
    """
    names: list[str] = []
    own = f"{of}{MODELS}"
    for key in [own] if own in values else MODEL_KEYS:
        value = values.get(key, [])
        names += [str(name) for name in (value if isinstance(value, list) else [value])]
    return list(dict.fromkeys(names))


def data_files(values: Section) -> Iterator[Path]:
    """The files in data/ that a notebook's parameters name, rows of a measurement left out."""
    for key, value in values.items():
        path = embedded(value)
        if path is None or is_results(key):
            continue
        models = models_of(values) if key == LADDER else []
        for folder in [model_folder(path, name) for name in models] or [path]:
            yield from sorted(file for file in [folder, *folder.rglob("*")] if file.is_file())


def drawn_tables(values: Section) -> Iterator[Path]:
    """The tables in figures/ that a notebook's parameters name as ..._table or ..._tables.

    Another profile may have drawn them; those that are not there yet are left out.
    """
    for key, value in values.items():
        if key.endswith(("_table", "_tables")) and isinstance(value, str):
            path = from_root(value)
            if path.parts[:1] == ("figures",):
                yield from sorted(path.glob("*.csv")) if path.is_dir() else _there(path)


def _there(path: Path) -> Iterator[Path]:
    if path.exists():
        yield path


def is_results(key: str) -> bool:
    """Whether a parameter of this name is a folder of measured rows."""
    return key == RESULTS or key.endswith(f"_{RESULTS}")


def embedded(value: object) -> Path | None:
    """A path as a notebook sees it, from the root instead; None for one that is not in data/."""
    if not isinstance(value, str):
        return None
    path = from_root(value)
    return path if path.parts[:1] == ("data",) else None


def from_root(value: object) -> Path:
    """A path as a notebook sees it, from the root of the project."""
    return Path(os.path.relpath(Path("notebooks") / str(value)))


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


@cache
def imports(code: str) -> frozenset[str]:
    """The modules of the packages that code may import, by dotted name."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(name for name in names if name.split(".")[0] in PACKAGES)


def modules(names: Iterable[str]) -> list[Path]:
    """The files behind dotted names and behind all that they import, packages included.

    What a package imports for its users' convenience counts only where somebody imports from the
    package itself.
    """
    found: set[Path] = set()
    waiting, followed = list(names), set()
    while waiting:
        name = waiting.pop()
        if name in followed:
            continue
        followed.add(name)
        parts = name.split(".")
        for i in range(1, len(parts) + 1):
            for path in files_of(parts[:i]):
                found.add(path)
                if i == len(parts):
                    waiting += imports(path.read_text(encoding="utf-8"))
    return sorted(found)


def files_of(parts: list[str]) -> list[Path]:
    """The file of a module, or that of a package; none where the name is neither."""
    stem = Path(*parts)
    return [p for p in (stem.with_suffix(".py"), stem / "__init__.py") if p.is_file()]
