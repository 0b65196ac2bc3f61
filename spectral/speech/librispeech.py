"""Fetch LibriSpeech's test sets: ``python -m spectral.speech.librispeech data/librispeech``.

Panayotov et al. 2015, "Librispeech: an ASR corpus based on public domain audio books"; CC BY 4.0.
"""

import argparse
import shutil
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pooch
import requests
from tqdm import tqdm

MIRROR = "https://www.openslr.org/resources/12"
CHECKSUMS = {
    "test-clean": "39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23",
    "test-other": "d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29",
}
"""SHA-256 of every archive, ``<subset>.tar.gz``."""

_ROOT = "LibriSpeech"  # the folder inside every archive
_PIECE = 1 << 18
_BROKEN = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
)


class FetchError(RuntimeError):
    """An archive could not be had; the message says what is missing and where to put it."""


@dataclass(frozen=True)
class ResumedDownload:
    """A downloader for pooch that goes on where a broken connection left off.

    What has arrived stays in ``part``; after ``attempts`` connections in a row that brought
    nothing, requests' error is raised. A server without ranges starts over.
    """

    part: Path
    attempts: int = 5
    timeout: float = 30.0  # seconds without a byte

    def __call__(self, url: str, output_file: str, _: object) -> None:
        """Download ``url`` to ``output_file``."""
        failures = 0
        while True:
            before = self._size()
            try:
                self._go_on(url)
                break
            except _BROKEN as error:
                failures = 0 if self._size() > before else failures + 1
                if failures == self.attempts:
                    raise
                tqdm.write(f"{url}: {error}; going on from byte {self._size()}")
        shutil.move(self.part, output_file)

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _go_on(self, url: str) -> None:
        start = self._size()
        headers = {"Range": f"bytes={start}-", "Accept-Encoding": "identity"} if start else {}
        with requests.get(url, headers=headers, stream=True, timeout=self.timeout) as answer:
            if answer.status_code == requests.codes.requested_range_not_satisfiable:
                return  # nothing is missing; the checksum tells whether it is right
            answer.raise_for_status()
            resumed = answer.status_code == requests.codes.partial_content
            start = start if resumed else 0
            total = start + int(answer.headers.get("Content-Length", 0))
            bar = tqdm(
                desc=self.part.stem, total=total or None, initial=start, unit="B", unit_scale=True
            )
            with bar, self.part.open("ab" if resumed else "wb") as file:
                for piece in answer.iter_content(_PIECE):
                    file.write(piece)
                    bar.update(len(piece))


def fetch(folder: Path, subset: str, mirror: str = MIRROR, checksum: str | None = None) -> Path:
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
    url = f"{mirror.rstrip('/')}/{name}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        archive = pooch.retrieve(
            url,
            known_hash=f"sha256:{checksum}",
            fname=name,
            path=folder,
            downloader=ResumedDownload(folder / f"{name}.part"),
        )
    except (OSError, ValueError) as error:  # requests' errors are OSErrors, pooch's ValueErrors
        raise FetchError(
            f"{url}: {error}. The same command continues; or put the file (SHA-256 {checksum}) "
            f"into {folder}, or name another place with --mirror"
        ) from error
    _unpack(Path(archive), subset, target)
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
    parser = argparse.ArgumentParser(prog="python -m spectral.speech.librispeech")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--subsets", nargs="+", default=list(CHECKSUMS), choices=list(CHECKSUMS))
    parser.add_argument("--mirror", default=MIRROR, help="where <subset>.tar.gz are served")
    arguments = parser.parse_args()
    for subset in arguments.subsets:
        try:
            print(fetch(arguments.folder, subset, arguments.mirror))
        except FetchError as error:
            sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
