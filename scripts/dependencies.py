"""What a notebook depends on: its code, the modules that it imports, and the data that it names.

What was parsed or hashed once is kept: many kinds and models share it, and a run is short.
"""

import ast
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = "spectral"
LADDER = "ladder"
MODELS = "models"
MODEL_KEYS = (MODELS, "model")
DIGITS = 16  # of a hash, as it is kept: chance makes two agree once in 2e19
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
    """The modules of the package that code may import, by dotted name."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(name for name in names if name.split(".")[0] == PACKAGE)


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


def digests(name: str, section: Section, values: Section) -> dict[str, str]:
    """A hash of everything that decides the rows of a measuring notebook, by what it is.

    ``section`` is the notebook's in the parameter file, ``values`` adds its defaults and the model.
    Of code what runs counts, not comments, docstrings and layout.
    """
    code = notebook_code(Path("notebooks") / f"{name}.ipynb")
    found = {f"notebooks/{name}.ipynb": of_code(code), f"params: {name}": of_text(plain(section))}
    for path in modules(imports(code)):
        found[str(path)] = of_code(path.read_text(encoding="utf-8"))
    for key, value in values.items():
        folder = embedded(value)
        if folder is not None and key != "output":
            parts = [folder / m for m in models_of(values)] if key == LADDER else [folder]
            found |= {str(part): of_folder(part) for part in parts}
    return {name: digest[:DIGITS] for name, digest in found.items()}


@cache
def of_code(code: str) -> str:
    """A hash of Python code that comments, docstrings and layout do not change."""
    return of_text(json.dumps(_essence(ast.parse(code))))


def _essence(node: object) -> object:
    if isinstance(node, list):
        return [_essence(each) for each in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    kept = {}
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(value, list):
            value = [each for each in value if not _is_text(each)]
        if isinstance(node, ast.JoinedStr):  # Python 3.12 puts empty texts between its parts
            value = [each for each in node.values if getattr(each, "value", None) != ""]
        if value not in (None, []):
            kept[name] = value
    return [type(node).__name__, {name: _essence(value) for name, value in kept.items()}]


def _is_text(node: object) -> bool:
    """Whether a statement is a string alone: a docstring, or one after a variable."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


@cache
def of_folder(folder: Path) -> str:
    """A hash of a folder's files, their names included; a model's checksums stand for the model."""
    listed = folder / "SHA256SUMS"
    files = [listed] if listed.exists() else sorted(p for p in folder.rglob("*") if p.is_file())
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(folder)} {of_file(path)}\n".encode())
    return digest.hexdigest()


def of_file(path: Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def of_text(text: str) -> str:
    """The SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def plain(section: Section) -> str:
    """A section as JSON, in one order."""
    return json.dumps(section, sort_keys=True)
