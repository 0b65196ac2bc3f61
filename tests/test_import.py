"""What ``import spectral`` promises."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import spectral

PACKAGE = Path(spectral.__file__).parent


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
    imported = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(str(node.module).split(".")[0])
    assert imported - set(sys.stdlib_module_names) == {"spectral", "torch", "pandas"}


def test_every_kernel_is_importable_from_spectral_and_documented() -> None:
    for name in spectral.__all__:
        documentation = getattr(spectral, name).__doc__
        assert documentation is not None
        if isinstance(getattr(spectral, name), type):
            continue
        for part in ("Raises ", ">>> ", *inspect.signature(getattr(spectral, name)).parameters):
            assert part in documentation, f"{name} says nothing of {part}"
