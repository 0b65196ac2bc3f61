"""Downloads that are checked, resumed, and given up soon where nobody answers."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pooch
import requests
from tqdm import tqdm

_PIECE = 1 << 18
_PATIENCE = 10.0  # seconds for a connection
_BROKEN = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
)


class UnreachableError(OSError):
    """A server that cannot be connected to."""


@dataclass(frozen=True)
class ResumedDownload:
    """A downloader for pooch that goes on where a broken connection left off.

    What has arrived stays in ``part``; after ``attempts`` connections in a row that brought
    nothing, requests' error is raised, and UnreachableError at once where there is no connection. A
    server without ranges starts over.
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
        patience = (min(_PATIENCE, self.timeout), self.timeout)
        try:
            response = requests.get(url, headers=headers, stream=True, timeout=patience)
        except requests.ConnectionError as error:
            host = urlsplit(url).netloc
            raise UnreachableError(f"{host} cannot be reached; check the network") from error
        with response:
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                return  # nothing is missing; the checksum tells whether it is right
            response.raise_for_status()
            resumed = response.status_code == requests.codes.partial_content
            start = start if resumed else 0
            total = start + int(response.headers.get("Content-Length", 0))
            bar = tqdm(
                desc=self.part.stem, total=total or None, initial=start, unit="B", unit_scale=True
            )
            with bar, self.part.open("ab" if resumed else "wb") as file:
                for piece in response.iter_content(_PIECE):
                    file.write(piece)
                    bar.update(len(piece))


def retrieve(url: str, folder: Path, checksum: str) -> Path:
    """The file behind a URL in ``folder``, downloaded unless it is there; its SHA-256 is verified.

    Where an algorithm stands before the checksum, as in ``md5:``, that is what it is of.
    What arrived before a failure stays beside it as NAME.part, and the next call goes on from it.
    Raises OSError where it cannot be had, ValueError where it is not the right one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = Path(urlsplit(url).path).name
    path = pooch.retrieve(
        url,
        known_hash=checksum if ":" in checksum else f"sha256:{checksum}",
        fname=name,
        path=folder,
        downloader=ResumedDownload(folder / f"{name}.part"),
    )
    return Path(path)
