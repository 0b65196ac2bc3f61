"""Write requirements.lock and environment.yml from pyproject.toml; ``make lock`` calls this.

The versions are resolved by uv for every Python and platform that the project allows, with the
existing lock's versions where they still fit (``--upgrade`` forgets them). The CUDA libraries of
torch are left out: which of them there are depends on the build of torch, and pip finds them. So is
the extra of OpenAI's weights, which requirements.weights pins by hand, with hashes.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

LOCK, ENVIRONMENT, PROJECT = Path("requirements.lock"), Path("environment.yml"), "pyproject.toml"
LEFT_OUT = re.compile(r"^(nvidia-|cuda-|pip==)")
PYTHON = "3.12"
EXTRAS = ("companion", "test")
COMPILE = [
    *("pip", "compile", "--universal", "--fork-strategy", "fewest"),
    *(option for extra in EXTRAS for option in ("--extra", extra)),
    *("--annotation-style", "line", "--no-header", "--no-config", "--quiet"),
]

LOCK_HEADER = """\
# Every package of the environment, pinned; `make lock` writes this file from pyproject.toml (extras
# included) with `uv pip compile --universal`. torch's CUDA libraries are left out, so that its CPU
# and CUDA builds can both be installed with it.
"""

ENVIRONMENT_HEADER = """\
# The same environment for conda users; `make lock` writes this file from pyproject.toml.
#
#   conda env create --file environment.yml && conda activate {name}
#   make figures VENV="$CONDA_PREFIX"
#
# conda provides Python itself; the packages come from pip in the versions of requirements.lock, so
# that this environment and .venv hold the same.
"""


def main() -> None:
    """Resolve, then write both files."""
    LOCK.write_text(LOCK_HEADER + "".join(f"{line}\n" for line in resolve(sys.argv[1:])))
    with open(PROJECT, "rb") as file:
        project = tomllib.load(file)["project"]
    ENVIRONMENT.write_text(environment(project, LOCK.read_text()))


def resolve(options: list[str]) -> list[str]:
    """The pinned requirements, one per line."""
    if not LOCK.exists():
        LOCK.touch()
    command = [str(Path(sys.executable).with_name("uv")), *COMPILE, *options]
    subprocess.run([*command, "--output-file", str(LOCK), PROJECT], check=True)
    lines = LOCK.read_text().splitlines()
    return [line for line in lines if line and not LEFT_OUT.match(line) and line[0] != "#"]


def environment(project: dict[str, Any], lock: str) -> str:
    """The text of environment.yml: Python from conda, the direct dependencies from pip."""
    optional = project["optional-dependencies"]
    groups = [project["dependencies"], *(optional[extra] for extra in EXTRAS)]
    direct = sorted(name_of(text) for group in groups for text in group)
    pinned = [line.split()[0] for line in lock.splitlines() if line[0] != "#"]
    lines = [
        f"name: {project['name']}",
        "channels: [conda-forge]",
        "dependencies:",
        f"  - python={PYTHON}",
        "  - pip",
        "  - make",
        "  - pip:",
        f"      - --constraint {LOCK}",
        *(f"      - {pin}" for name in direct for pin in pinned if name_of(pin) == name),
        "      - --editable .",
    ]
    return ENVIRONMENT_HEADER.format(name=project["name"]) + "\n".join(lines) + "\n"


def name_of(requirement: str) -> str:
    """The normalised name of a requirement such as ``PyYAML>=6``."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement, maxsplit=1)[0]).lower()


if __name__ == "__main__":
    main()
