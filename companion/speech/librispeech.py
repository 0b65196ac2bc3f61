"""Fetch sets of LibriSpeech: ``python -m companion.speech.librispeech data/librispeech``.

Panayotov et al. 2015, "Librispeech: an ASR corpus based on public domain audio books"; CC BY 4.0.
The test sets are measured on; dev-clean and train-clean-5 (mini LibriSpeech) are what thresholds
are fitted on.
"""

import argparse
import shutil
import sys
import tarfile
from pathlib import Path

from companion.fetching import retrieve

SITE = "https://www.openslr.org/resources"
NUMBERS = {"train-clean-5": 31}
"""The number there of what is not LibriSpeech's own, 12."""

CHECKSUMS = {
    "test-clean": "39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23",
    "test-other": "d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29",
    "dev-clean": "76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3",
    "train-clean-5": "md5:5df7d4e78065366204ca6845bb08f490",
}
"""SHA-256 of every archive, ``<subset>.tar.gz``; of the last the MD5, all that is published.

Those of the last two are what others publish: the archives could not be fetched here.
"""

_ROOT = "LibriSpeech"  # the folder inside every archive


class FetchError(RuntimeError):
    """An archive could not be had; the message says what is missing and where to put it."""


def fetch(
    folder: Path, subset: str, mirror: str | None = None, checksum: str | None = None
) -> Path:
    """One subset of LibriSpeech below ``folder``, downloaded and unpacked unless it is there.

    An archive that already lies in ``folder`` is used; its checksum is verified either way. Returns
    the subset's folder, which exists only whole. Raises ValueError for an unknown subset,
    FetchError where the archive cannot be had or is not the right one.
    """
    if checksum is None:
        if subset not in CHECKSUMS:
            raise ValueError(f"no subset {subset!r}; choose from {', '.join(CHECKSUMS)}")
        checksum = CHECKSUMS[subset]
    target = folder / _ROOT / subset
    if target.exists():
        return target
    name = f"{subset}.tar.gz"
    url = f"{(mirror or f'{SITE}/{NUMBERS.get(subset, 12)}').rstrip('/')}/{name}"
    try:
        archive = retrieve(url, folder, checksum)
    except (OSError, ValueError) as error:  # requests' errors are OSErrors, pooch's ValueErrors
        raise FetchError(
            f"{url}: {error}. The same command continues; or put the file (checksum {checksum}) "
            f"into {folder}, or name another place with --mirror"
        ) from error
    _unpack(archive, subset, target)
    return target


def _unpack(archive: Path, subset: str, target: Path) -> None:
    """Unpack into a folder beside the target, which is renamed once it is whole."""
    unpacked = target.parent / f"{subset}.part"
    shutil.rmtree(unpacked, ignore_errors=True)
    try:
        with tarfile.open(archive) as tar:
            # refuses links and names that lead out of the folder, devices and the like
            tar.extractall(unpacked, filter="data")
    except (tarfile.TarError, EOFError, OSError) as error:
        shutil.rmtree(unpacked, ignore_errors=True)
        raise FetchError(f"{archive}: cannot be unpacked ({error}); remove it") from error
    inside = unpacked / _ROOT / subset
    if not inside.is_dir():
        shutil.rmtree(unpacked)
        raise FetchError(f"{archive}: holds no {_ROOT}/{subset}; remove it")
    inside.replace(target)
    shutil.rmtree(unpacked)


def main() -> None:
    """Fetch the subsets asked for, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m companion.speech.librispeech")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--subsets", nargs="+", default=list(CHECKSUMS), choices=list(CHECKSUMS))
    parser.add_argument("--mirror", help=f"where all <subset>.tar.gz are served, if not {SITE}")
    arguments = parser.parse_args()
    for subset in arguments.subsets:
        try:
            print(fetch(arguments.folder, subset, arguments.mirror))
        except FetchError as error:
            sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
