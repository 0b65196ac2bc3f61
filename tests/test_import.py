"""What ``import spectral`` promises."""

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import companion
import spectral

PACKAGE = Path(spectral.__file__).parent
COMPANION = Path(companion.__file__).parent


def _imports(path: Path) -> Iterator[str]:
    """The modules that a file imports anywhere, by their whole names."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


IMPORTS = """
import importlib, pkgutil, socket, sys
def refused(*_, **__):
    raise AssertionError("the network was asked for on import")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refused
import torch
before = {name.split(".")[0] for name in sys.modules} | set(sys.stdlib_module_names)
import spectral
after = {name.split(".")[0] for name in sys.modules}
print(*sorted(after - before))
import companion
for package in (spectral, companion):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
print("all")
"""


def test_importing_spectral_needs_only_torch_and_nothing_fetches_when_it_is_imported() -> None:
    """Every module there is, and with them all that notebooks import, without a network."""
    words = [sys.executable, "-c", IMPORTS]
    run = subprocess.run(words, capture_output=True, text=True, check=False)
    assert run.stdout.splitlines() == ["spectral", "all"], run.stderr


def test_no_kernel_imports_anything_but_torch() -> None:
    """In any module, at any depth; pandas alone, by those who ask for a frame."""
    names = [name for path in PACKAGE.rglob("*.py") for name in _imports(path)]
    imported = {name.partition(".")[0] for name in names}
    assert imported - set(sys.stdlib_module_names) == {"spectral", "torch", "pandas"}


def test_the_packages_of_the_companion_import_each_other_one_way() -> None:
    """Those of speech know nothing of models, those of measuring nothing of figures, and so on."""
    graph: dict[str, set[str]] = {}
    for path in COMPANION.rglob("*.py"):
        package = path.relative_to(COMPANION).parts[0].removesuffix(".py")
        names = [name.split(".") for name in _imports(path) if name.startswith("companion.")]
        graph.setdefault(package, set()).update({name[1] for name in names} - {package})
    order = [*TopologicalSorter(graph).static_order()]  # CycleError says who imports whom
    assert order.index("speech") < order.index("models") < order.index("measurement")
    assert order.index("measurement") < order.index("results") < order.index("figures")


def test_every_kernel_is_importable_from_spectral_and_documented() -> None:
    for name in spectral.__all__:
        documentation = getattr(spectral, name).__doc__
        assert documentation is not None
        if isinstance(getattr(spectral, name), type):
            continue
        for part in ("Raises ", ">>> ", *inspect.signature(getattr(spectral, name)).parameters):
            assert part in documentation, f"{name} says nothing of {part}"
