"""Fetching LibriSpeech from a server that truncates, corrupts, stalls, and lacks ranges."""

import hashlib
import io
import re
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile

from companion import fetching
from companion.fetching import ResumedDownload
from companion.speech import librispeech
from companion.speech.corpus import find_utterances, read_wave
from companion.speech.librispeech import CHECKSUMS, FetchError, fetch

SUBSET = "test-clean"


def flac(seconds: float) -> bytes:
    file = io.BytesIO()
    rng = np.random.default_rng(0)
    soundfile.write(file, 0.1 * rng.standard_normal(int(16_000 * seconds)), 16_000, format="FLAC")
    return file.getvalue()


def archive(
    files: dict[str, bytes], change: Callable[[tarfile.TarInfo], None] | None = None
) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if change:
                change(info)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


CHAPTER = f"LibriSpeech/{SUBSET}/1089/134686/1089-134686"
WHOLE = archive(
    {
        f"{CHAPTER}.trans.txt": b"1089-134686-0000 HE HOPED THERE WOULD BE STEW\n",
        f"{CHAPTER}-0000.flac": flac(2.0),
    }
)
DIGEST = hashlib.sha256(WHOLE).hexdigest()


class Server:
    """Serves one archive; ``plan``: how many bytes each request gets before it breaks off."""

    def __init__(self, content: bytes) -> None:
        self.content, self.plan, self.ranges, self.stall = content, list[int](), True, False
        self.asked: list[str | None] = []
        self._released = threading.Event()
        handler = type("Handler", (BaseHTTPRequestHandler,), {
            "do_GET": lambda request: self.respond(request), "log_message": lambda *_: None,
        })  # fmt: skip
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def respond(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        self.asked.append(wanted)
        start = int(re.findall(r"\d+", wanted)[0]) if wanted and self.ranges else 0
        if start and start >= len(self.content):
            request.send_error(416)
            return
        body = self.content[start:]
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        give = self.plan.pop(0) if self.plan else len(body)
        request.wfile.write(body[:give])
        request.wfile.flush()
        if self.stall and give < len(body):
            self._released.wait(20)

    def close(self) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(fetching, "_PIECE", 500)  # a piece that is not whole is lost
    server = Server(WHOLE)
    yield server
    server.close()


def test_a_subset_is_fetched_unpacked_and_read_as_any_other_corpus(
    server: Server, tmp_path: Path
) -> None:
    folder = fetch(tmp_path, SUBSET, server.url, DIGEST)
    assert folder == tmp_path / "LibriSpeech" / SUBSET
    (utterance,) = find_utterances(folder).utterances
    assert utterance.reference == "HE HOPED THERE WOULD BE STEW"
    assert read_wave(utterance).shape == (32_000,)
    assert fetch(tmp_path, SUBSET, server.url, DIGEST) == folder
    assert len(server.asked) == 1, "what is there is not fetched again"
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("ranges", [True, False])
def test_a_connection_that_breaks_goes_on_where_it_was_or_without_ranges_starts_over(
    server: Server, tmp_path: Path, ranges: bool
) -> None:
    server.plan, server.ranges = [1000, 2000, 0] if ranges else [1000], ranges
    fetch(tmp_path, SUBSET, server.url, DIGEST)
    assert server.asked == [None, "bytes=1000-", *(["bytes=3000-"] * 2 if ranges else [])]
    assert (tmp_path / f"{SUBSET}.tar.gz").read_bytes() == WHOLE


def test_a_server_that_stalls_is_given_up_and_the_rest_comes_later(
    server: Server, tmp_path: Path
) -> None:
    server.plan, server.stall = [1000], True
    part = tmp_path / "archive.part"
    ResumedDownload(part, timeout=0.3)(f"{server.url}/archive", str(tmp_path / "out"), None)
    assert (tmp_path / "out").read_bytes() == WHOLE
    assert server.asked == [None, "bytes=1000-"]


def test_a_server_that_never_gives_more_is_an_error_that_keeps_what_came(
    server: Server, tmp_path: Path
) -> None:
    server.plan = [1000] + [0] * 9
    with pytest.raises(FetchError, match=rf"The same command continues; .*{DIGEST}.* --mirror"):
        fetch(tmp_path, SUBSET, server.url, DIGEST)
    assert (tmp_path / f"{SUBSET}.tar.gz.part").read_bytes() == WHOLE[:1000]
    server.plan = []
    assert fetch(tmp_path, SUBSET, server.url, DIGEST).is_dir()


def test_a_corrupt_archive_is_refused_and_fetched_anew(server: Server, tmp_path: Path) -> None:
    server.content = WHOLE[:500] + b"?" + WHOLE[501:]
    with pytest.raises(FetchError, match="hash of downloaded file"):
        fetch(tmp_path, SUBSET, server.url, DIGEST)
    assert not list(tmp_path.iterdir())
    server.content = WHOLE
    assert fetch(tmp_path, SUBSET, server.url, DIGEST).is_dir()


def test_no_server_at_all_names_what_is_missing_and_where_to_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = "http://127.0.0.1:9"
    message = rf"{missing}/{SUBSET}.tar.gz: 127.0.0.1:9 cannot be reached; .*{CHECKSUMS[SUBSET]}"
    with pytest.raises(FetchError, match=message):
        fetch(tmp_path, SUBSET, missing)
    (tmp_path / f"{SUBSET}.tar.gz").write_bytes(WHOLE)
    assert fetch(tmp_path, SUBSET, missing, DIGEST).is_dir()
    monkeypatch.setattr("sys.argv", ["fetch", str(tmp_path / "x"), "--mirror", missing])
    with pytest.raises(SystemExit, match=f"error: {missing}"):
        librispeech.main()


def test_a_checksum_may_be_of_another_algorithm_and_an_unknown_subset_is_named(
    server: Server, tmp_path: Path
) -> None:
    md5 = "md5:" + hashlib.md5(WHOLE).hexdigest()
    assert fetch(tmp_path / "right", SUBSET, server.url, md5).is_dir()
    with pytest.raises(FetchError, match="hash of downloaded file"):
        fetch(tmp_path / "wrong", SUBSET, server.url, "md5:" + "0" * 32)
    with pytest.raises(ValueError, match="no subset 'test-noisy'; choose from test-clean"):
        fetch(tmp_path, "test-noisy")


def symlink(info: tarfile.TarInfo) -> None:
    info.type, info.linkname = tarfile.SYMTYPE, "/etc"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("../outside", None, "cannot be unpacked"),
        (f"LibriSpeech/{SUBSET}/link", symlink, "cannot be unpacked"),
        ("README", None, "holds no LibriSpeech/test-clean"),
    ],
)
def test_an_archive_that_leads_out_of_its_folder_or_is_of_something_else_is_refused(
    server: Server,
    tmp_path: Path,
    name: str,
    change: Callable[[tarfile.TarInfo], None] | None,
    message: str,
) -> None:
    transcript = {} if name == "README" else {f"{CHAPTER}.trans.txt": b""}
    server.content = archive({name: b"", **transcript}, change)
    folder = tmp_path / "deep" / "folder"
    with pytest.raises(FetchError, match=message):
        fetch(folder, SUBSET, server.url, hashlib.sha256(server.content).hexdigest())
    assert not (folder / "LibriSpeech" / SUBSET).exists()
    assert not list(tmp_path.rglob("outside"))
