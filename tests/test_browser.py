"""The explorer in a real browser, where there is one: Chromium against a running JupyterLab.

Set CHROMIUM to the command of a Chromium that is not on the path.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import websocket

ROOT = Path(__file__).parents[1]
CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
RECORDING = next((ROOT / "data" / "corpus" / "116").rglob("*.flac"))
PATIENCE = 240  # seconds

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here; install one, or set CHROMIUM to its command"
)


class Page:
    """A page of the browser by its DevTools protocol; ``errors`` are what its console said."""

    def __init__(self, address: str) -> None:
        self._socket = websocket.create_connection(address, timeout=60, suppress_origin=True)
        self._number = 0
        self.errors: list[str] = []
        self.choosers: list[int] = []
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """What the browser transcripts; events that come before are noted."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while (message := json.loads(self._socket.recv())).get("id") != self._number:
            self._note(message.get("method"), message.get("params", {}))
        assert "error" not in message, message
        answer: dict[str, Any] = message["result"]
        return answer

    def _note(self, event: str, about: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(about["exceptionDetails"])[:500])
        elif event == "Log.entryAdded" and about["entry"]["level"] == "error":
            self.errors.append(f"{about['entry']['text']} {about['entry'].get('url', '')}")
        elif event == "Runtime.consoleAPICalled" and about["type"] == "error":
            self.errors.append(json.dumps(about["args"])[:500])
        elif event == "Page.fileChooserOpened":
            self.choosers.append(about["backendNodeId"])

    def value(self, script: str) -> Any:
        """What an expression is in the page."""
        given = {"expression": script, "returnByValue": True, "awaitPromise": True}
        answer = self.call("Runtime.evaluate", **given, userGesture=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, what: Callable[[], object], reason: str) -> None:
        """Until something is so; fails with the reason where it never is."""
        end = time.monotonic() + PATIENCE
        while not what():
            assert time.monotonic() < end, f"{reason}; the console: {self.errors}"
            time.sleep(0.2)

    def save(self, path: Path) -> None:
        """A screenshot of all that is in the page."""
        path.write_bytes(b64decode(self.call("Page.captureScreenshot")["data"]))


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _started(command: list[str], folder: Path, **environment: str) -> subprocess.Popen[bytes]:
    with (folder / f"{Path(command[0]).name}.log").open("wb") as log:
        return subprocess.Popen(
            command, cwd=folder, env=os.environ | environment, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """A copy of the notebook, open in JupyterLab in the browser."""
    (tmp_path / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / "explore.ipynb", tmp_path / "notebooks")
    (tmp_path / "data").symlink_to(ROOT / "data")
    port, profile = _free_port(), tmp_path / "profile"
    options = {
        "ServerApp.ip": "127.0.0.1", "ServerApp.port": port, "ServerApp.root_dir": tmp_path,
        "ServerApp.open_browser": False, "ServerApp.allow_root": True, "IdentityProvider.token": "",
        "LabApp.expose_app_in_browser": True,
    }  # fmt: skip
    lab = [sys.executable, "-m", "jupyterlab", *(f"--{key}={options[key]}" for key in options)]
    flags = ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage")
    browser = [str(CHROMIUM), *(f"--{flag}" for flag in flags), "--remote-debugging-port=0"]
    browser += [f"--user-data-dir={profile}", "--window-size=1280,2200", "about:blank"]
    started = []
    try:
        started.append(_started(lab, tmp_path, PYTHONPATH=str(ROOT), HOME=str(tmp_path)))
        started.append(_started(browser, tmp_path, HOME=str(tmp_path)))
        _until(lambda: _answers(f"http://127.0.0.1:{port}/api"), "JupyterLab does not answer")
        _until((profile / "DevToolsActivePort").exists, "the browser does not start")
        debugger = (profile / "DevToolsActivePort").read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{debugger}/json") as answer:
            tabs = json.load(answer)
        found = Page(next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page"))
        place = f"http://127.0.0.1:{port}/lab/tree/notebooks/explore.ipynb?reset"
        found.call("Page.navigate", url=place)
        yield found
    finally:
        for process in started:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


def _until(done: Callable[[], object], reason: str) -> None:
    end = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < end, reason
        time.sleep(0.2)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except OSError:
        return False


NOTEBOOK = "[...(window.jupyterapp?.shell.widgets('main') ?? [])].find(w => w.sessionContext)"
PICTURES = "[...document.querySelectorAll('img.widget-image')].map(e => e.src)"
READY = "!!document.querySelector('.widget-hprogress')?.innerText.includes('ready')"


def test_the_explorer_runs_in_a_browser(page: Page, tmp_path: Path) -> None:
    """Open, run all, choose another stress, move the severity, upload: pictures change."""
    shots = Path(os.environ.get("SCREENSHOTS", tmp_path))
    page.wait(lambda: page.value(f"!!{NOTEBOOK}?.sessionContext.session?.kernel"), "no kernel")
    page.value(f"(jupyterapp.shell.activateById({NOTEBOOK}.id), 1)")
    page.value("jupyterapp.commands.execute('notebook:run-all-cells').then(() => 1)")

    def changed(before: list[str], number: int = 2) -> Callable[[], bool]:
        def done() -> bool:
            now = page.value(PICTURES)
            new = [a for a, b in zip(now, before, strict=True) if a != b] if before else now
            return len(new) == number and bool(page.value(READY))

        return done

    page.wait(changed([]), "the explorer is not shown")
    page.save(shots / "opened.png")
    before = page.value(PICTURES)
    page.value(
        "(() => { const e = [...document.querySelectorAll('.widget-dropdown')]"
        ".find(e => e.innerText.startsWith('stress')).querySelector('select');"
        "e.value = 'hell'; e.dispatchEvent(new Event('change', {bubbles: true})); })()"
    )
    page.wait(changed(before), "another stress changes no picture")
    page.save(shots / "hell.png")
    before = page.value(PICTURES)
    page.value("document.querySelector('.widget-slider .noUi-handle').focus()")
    for kind in ("keyDown", "keyUp"):
        page.call(
            "Input.dispatchKeyEvent", type=kind, key="ArrowLeft", code="ArrowLeft",
            windowsVirtualKeyCode=37,
        )  # fmt: skip
    page.wait(changed(before), "another severity changes no picture")
    before = page.value(PICTURES)
    page.call("Page.setInterceptFileChooserDialog", enabled=True)
    page.value("document.querySelector('.widget-upload').click()")
    page.wait(lambda: page.value("1") and page.choosers, "no file can be chosen")
    page.call("DOM.setFileInputFiles", files=[str(RECORDING)], backendNodeId=page.choosers[0])
    page.wait(changed(before), "a recording of one's own changes no picture")
    page.save(shots / "uploaded.png")
    assert page.value("document.body.innerText.includes('not known')")
    assert page.value(f"document.body.innerHTML.includes('yours: {RECORDING.name}')")
    assert page.errors == []
