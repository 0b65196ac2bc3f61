"""Run a notebook with checked parameters, whole or not at all.

``python scripts/execute.py notebooks/x.ipynb build/x.ipynb --parameters params/ladder.yml``

The parameters are the section of the file that is named after the notebook. What is not in the
notebook's own parameters cell, or of another type, is an error; papermill alone would only warn.
The notebook runs into OUTPUT with the suffix .part.ipynb, which becomes OUTPUT when all is well and
is kept for reading when a cell fails.
"""

import argparse
import ast
import json
import logging
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

# Importing it compiles a grammar for some seconds; jsonschema, which papermill needs, does without.
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]

import papermill  # type: ignore[import-untyped]  # noqa: E402
from nbclient.exceptions import DeadKernelError  # noqa: E402
from papermill.exceptions import PapermillExecutionError  # type: ignore[import-untyped]  # noqa: E402

KERNEL = "python3"
TAG = "parameters"
CELL_TIMEOUT = 4 * 3600
_KINDS = {kind.__name__: kind for kind in (bool, int, float, str, list, dict)} | {
    "None": type(None)
}


class ExecutionError(ValueError):
    """A notebook that cannot be run, or that failed; the message is one line."""


@dataclass(frozen=True)
class Parameter:
    """A line of the parameters cell: ``name = default`` or ``name: int | None = default``."""

    name: str
    default: object
    kinds: tuple[type, ...]
    """The types that a value may have; empty for any, where the default is a bare None."""

    def problem(self, value: object) -> str | None:
        """What is wrong with a value, or None."""
        if not self.kinds or _is_one_of(value, self.kinds):
            return self._element_problem(value)
        return f"is {_described(value)}, expected {_named(self.kinds)}{_hint(value, self.kinds)}"

    def _element_problem(self, value: object) -> str | None:
        if not (isinstance(value, list) and isinstance(self.default, list) and self.default):
            return None
        kinds = tuple({type(element): None for element in self.default})
        for element in value:
            if not _is_one_of(element, kinds):
                expected = f"{_named(kinds)}{_hint(element, kinds)}"
                return f"contains {_described(element)}, expected every element to be {expected}"
        return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; errors are one line on standard error and exit status 1."""
    asked = _arguments(arguments)
    started = time.time()
    try:
        known = read_parameters(asked.notebook)
        values = read_section(asked.parameters, asked.notebook.stem) if asked.parameters else {}
        check(values, known, asked.notebook, str(asked.parameters))
        settings = read_settings(asked.set, known, asked.notebook)
        check(settings, known, asked.notebook, "--set")
        execute(asked.notebook, asked.output, {**values, **settings}, asked.cwd, asked.timeout)
        record_products(asked.output, asked.products, started)
    except (ExecutionError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"error: {asked.notebook}: interrupted", file=sys.stderr)
        return 130
    print(f"{asked.output}: done in {time.time() - started:.0f} s", file=sys.stderr)
    return 0


def read_parameters(notebook: Path) -> dict[str, Parameter]:
    """The parameters of a notebook by name, from its one cell tagged ``parameters``."""
    if not notebook.exists():
        raise ExecutionError(f"{notebook}: no such notebook")
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except (ValueError, KeyError, TypeError) as error:
        raise ExecutionError(f"{notebook}: not a notebook: {_one_line(error)}") from error
    tagged = [cell for cell in cells if TAG in cell["metadata"].get("tags", [])]
    if len(tagged) != 1:
        raise ExecutionError(
            f"{notebook}: {len(tagged)} cells are tagged {TAG!r}; tag exactly one, or its defaults "
            "would silently win"
        )
    try:
        found = [
            _parameter(statement) for statement in ast.parse("".join(tagged[0]["source"])).body
        ]
    except (SyntaxError, ValueError) as error:
        raise ExecutionError(
            f"{notebook}: the parameters cell takes lines `name = literal`: {_one_line(error)}"
        ) from error
    return {parameter.name: parameter for parameter in found}


def read_section(path: Path, name: str) -> dict[str, object]:
    """One section of a parameter file."""
    if not path.exists():
        raise ExecutionError(f"{path}: no such parameter file")
    try:
        sections = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ExecutionError(f"{path}: not YAML: {_one_line(error)}") from error
    section = sections.get(name) if isinstance(sections, dict) else None
    if not isinstance(section, dict):
        known = ", ".join(map(str, sections)) if isinstance(sections, dict) else "none"
        raise ExecutionError(f"{path}: no section {name!r}; there are: {known}")
    return {str(key): value for key, value in section.items()}


def read_settings(
    settings: Iterable[str], known: Mapping[str, Parameter], notebook: Path
) -> dict[str, object]:
    """Values of ``name=value`` texts: YAML, but taken literally where a string is expected."""
    found: dict[str, object] = {}
    for setting in settings:
        name, separator, text = setting.partition("=")
        if not separator:
            raise ExecutionError(f"--set {setting}: write it as name=value")
        literal = name in known and known[name].kinds == (str,)
        found[name] = text if literal else yaml.safe_load(text)
    return found


def check(
    values: Mapping[str, object], known: Mapping[str, Parameter], notebook: Path, source: str
) -> None:
    """Raise ExecutionError for a value that the notebook does not know, or of another type."""
    for name, value in values.items():
        if name not in known:
            raise ExecutionError(
                f"{source}: {notebook} has no parameter {name!r}; it has: {', '.join(known)}"
            )
        problem = known[name].problem(value)
        if problem:
            raise ExecutionError(f"{source}: {name} of {notebook} {problem}")


def execute(
    notebook: Path,
    output: Path,
    values: Mapping[str, object],
    cwd: Path,
    timeout: int = CELL_TIMEOUT,
) -> None:
    """Run a notebook with ``values`` in the folder ``cwd``; what it prints goes to the terminal."""
    logging.getLogger("papermill").setLevel(logging.ERROR)  # `check` has looked already, and better
    part = output.with_suffix(".part.ipynb")
    output.parent.mkdir(parents=True, exist_ok=True)
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", "30")  # a log file needs no animation
    try:
        papermill.execute_notebook(
            str(notebook),
            str(part),
            parameters=dict(values),
            cwd=str(cwd),
            kernel_name=KERNEL,
            language="python",
            progress_bar=False,
            stdout_file=sys.stdout,
            stderr_file=sys.stderr,
            execution_timeout=timeout,
            extra_arguments=["--log-level=CRITICAL"],  # the kernel warns at every start and stop
        )
    except PapermillExecutionError as error:
        what = f"{error.ename}: {_one_line(error.evalue)}"
        raise _failure(notebook, part, f"In [{error.exec_count}] failed: {what}") from error
    except TimeoutError as error:
        raise _failure(notebook, part, f"a cell took longer than {timeout} s") from error
    except DeadKernelError as error:
        what = "the kernel died, most often for want of memory"
        raise _failure(notebook, part, what) from error
    part.replace(output)


def record_products(output: Path, places: Iterable[Path], since: float) -> None:
    """List the files in ``places`` written since then in OUTPUT with the suffix .written."""
    found = (file for place in places for file in ([*place.glob("*")] or [place]))
    files = (file for file in found if file.is_file() and ".part" not in file.name)
    written = sorted(str(file) for file in files if file.stat().st_mtime >= since)
    output.with_suffix(".written").write_text("".join(f"{file}\n" for file in written))


def _parameter(statement: ast.stmt) -> Parameter:
    annotation: ast.expr | None = None
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target, value = statement.targets[0], statement.value
    elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
        target, value, annotation = statement.target, statement.value, statement.annotation
    else:
        raise ValueError(f"line {statement.lineno} is something else")
    if not isinstance(target, ast.Name):
        raise ValueError(f"line {statement.lineno} assigns to something else than a name")
    default = ast.literal_eval(value)
    if annotation is not None:
        return Parameter(target.id, default, tuple(_annotated(annotation)))
    return Parameter(target.id, default, () if default is None else (type(default),))


def _annotated(annotation: ast.expr) -> list[type]:
    """The types of ``int | None``; of ``list[int]`` it is list."""
    names = [part.split("[")[0].strip() for part in ast.unparse(annotation).split("|")]
    if unknown := [name for name in names if name not in _KINDS]:
        raise ValueError(f"the type {unknown[0]} is not one of {', '.join(_KINDS)}")
    return [_KINDS[name] for name in names]


def _is_one_of(value: object, kinds: Sequence[type]) -> bool:
    return type(value) in kinds or (type(value) is int and float in kinds)


def _named(kinds: Iterable[type]) -> str:
    return " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)


def _described(value: object) -> str:
    return "null" if value is None else f"the {type(value).__name__} {value!r}"


def _hint(value: object, kinds: Iterable[type]) -> str:
    """YAML reads 1e-3 as a string."""
    if not isinstance(value, str) or float not in kinds:
        return ""
    try:
        return f" (YAML wants a point in it: {float(value):.1e})"
    except ValueError:
        return ""


def _failure(notebook: Path, part: Path, what: str) -> ExecutionError:
    return ExecutionError(f"{notebook}: {what}; the notebook up to there: {part}")


def _one_line(error: object) -> str:
    return " ".join(str(error).split())


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python scripts/execute.py", description="Run a notebook with checked parameters."
    )
    parser.add_argument("notebook", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--parameters", type=Path, help="YAML with a section named as the notebook")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--cwd", type=Path, default=Path("notebooks"), help="where it runs")
    parser.add_argument("--timeout", type=int, default=CELL_TIMEOUT, help="seconds for one cell")
    parser.add_argument(
        "--products", type=Path, nargs="+", default=[], help="files, or folders of files, it writes"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
