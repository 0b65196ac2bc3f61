"""Both explorers in a real browser, where there is one: Chromium, and a running JupyterLab.

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
from contextlib import contextmanager
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
        """What the browser answers; events that come before are noted."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while (message := json.loads(self._socket.recv())).get("id") != self._number:
            self._note(message.get("method"), message.get("params", {}))
        assert "error" not in message, message
        result: dict[str, Any] = message["result"]
        return result

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
        result = self.call("Runtime.evaluate", **given, userGesture=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, done: Callable[[], object], reason: str) -> None:
        """Until something is so; fails with the reason where it never is."""
        _until(done, lambda: f"{reason}; the console: {self.errors}")

    def press(self, key: str, code: int) -> None:
        """A key, down and up."""
        for kind in ("keyDown", "keyUp"):
            event = {"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code}
            self.call("Input.dispatchKeyEvent", **event)

    def save(self, path: Path) -> None:
        """A screenshot of all that is in the page."""
        path.write_bytes(b64decode(self.call("Page.captureScreenshot")["data"]))


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def _running(command: list[str], folder: Path, **environment: str) -> Iterator[None]:
    with (folder / f"{Path(command[0]).name}.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=os.environ | environment, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


@pytest.fixture
def blank(tmp_path: Path) -> Iterator[Page]:
    """An empty page of a browser."""
    profile = tmp_path / "profile"
    flags = ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage")
    browser = [str(CHROMIUM), *(f"--{flag}" for flag in flags), "--remote-debugging-port=0"]
    browser += [f"--user-data-dir={profile}", "--window-size=1280,2200", "about:blank"]
    with _running(browser, tmp_path, HOME=str(tmp_path)):
        port_file = profile / "DevToolsActivePort"  # empty at first
        _until(lambda: port_file.exists() and port_file.read_text(), lambda: "no browser starts")
        debugger = port_file.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{debugger}/json") as response:
            tabs = json.load(response)
        yield Page(next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page"))


@pytest.fixture
def page(blank: Page, tmp_path: Path) -> Iterator[Page]:
    """A copy of the notebook, open in JupyterLab in the browser."""
    (tmp_path / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / "explore.ipynb", tmp_path / "notebooks")
    (tmp_path / "data").symlink_to(ROOT / "data")
    port = _free_port()
    options = {
        "ServerApp.ip": "127.0.0.1", "ServerApp.port": port, "ServerApp.root_dir": tmp_path,
        "ServerApp.open_browser": False, "ServerApp.allow_root": True, "IdentityProvider.token": "",
        "LabApp.expose_app_in_browser": True,
    }  # fmt: skip
    lab = [sys.executable, "-m", "jupyterlab", *(f"--{key}={options[key]}" for key in options)]
    with _running(lab, tmp_path, PYTHONPATH=str(ROOT), HOME=str(tmp_path)):
        _until(lambda: _responds(f"http://127.0.0.1:{port}/api"), lambda: "no JupyterLab starts")
        place = f"http://127.0.0.1:{port}/lab/tree/notebooks/explore.ipynb?reset"
        blank.call("Page.navigate", url=place)
        yield blank


def _until(done: Callable[[], object], reason: Callable[[], str]) -> None:
    end = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < end, reason()
        time.sleep(0.2)


def _responds(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except OSError:
        return False


NOTEBOOK = "[...(window.jupyterapp?.shell.widgets('main') ?? [])].find(w => w.sessionContext)"
PICTURES = "[...document.querySelectorAll('.widget-html img')].map(e => e.src)"
READY = "!!document.querySelector('.widget-hprogress')?.innerText.includes('ready')"
CHOOSE = """((label, value) => {
  const rows = [...document.querySelectorAll('.widget-dropdown, .widget-text')];
  const row = rows.find(e => e.innerText.startsWith(label) || e.textContent.startsWith(label));
  const control = row.querySelector('select, input');
  if (control.tagName == 'SELECT' && typeof value == 'number') control.selectedIndex = value;
  else control.value = value;
  control.dispatchEvent(new Event('change', {bubbles: true}));
  control.dispatchEvent(new Event('blur', {bubbles: true}));
})"""


def test_every_control_of_the_explorer_changes_pictures_in_a_browser(
    page: Page, tmp_path: Path
) -> None:
    shots = Path(os.environ.get("SCREENSHOTS", tmp_path))
    page.wait(lambda: page.value(f"!!{NOTEBOOK}?.sessionContext.session?.kernel"), "no kernel")
    page.value(f"(jupyterapp.shell.activateById({NOTEBOOK}.id), 1)")
    page.value("jupyterapp.commands.execute('notebook:run-all-cells').then(() => 1)")

    def settled(before: list[str], number: int) -> bool:
        now = page.value(PICTURES)
        changed = [a for a, b in zip(now, before, strict=True) if a != b] if before else now
        return len(changed) >= number and bool(page.value(READY))

    def moved(what: str, number: int, move: Callable[[], object]) -> None:
        before = page.value(PICTURES)
        move()
        page.wait(lambda: settled(before, number), f"another {what} changes no {number} pictures")

    def press(slider: int, key: str, code: int) -> None:
        page.value(f"document.querySelectorAll('.widget-slider .noUi-handle')[{slider}].focus()")
        page.press(key, code)

    page.wait(lambda: settled([], 3), "the explorer is not shown")
    page.save(shots / "opened.png")
    of_whisper = page.value("document.body.innerHTML.includes('>tiny.en</option>')")
    moved("stress", 3, lambda: page.value(f"{CHOOSE}('stress', 'hell')"))
    page.save(shots / "hell.png")
    moved("severity", 3, lambda: press(0, "ArrowLeft", 37))
    moved("layer", 1, lambda: page.value(f"{CHOOSE}('layer', 2)"))
    moved("token", 1, lambda: press(1, "ArrowRight", 39))
    moved("start", 3, lambda: page.value(f"{CHOOSE}('from (s)', '0.5')"))
    moved("utterance", 3, lambda: page.value(f"{CHOOSE}('utterance', 3)"))
    rule = int(of_whisper)  # of the ladder both rules may write the same
    moved("decoding", rule, lambda: page.value(f"{CHOOSE}('decoding', 'unrestricted')"))
    moved("model", 3, lambda: page.value(f"{CHOOSE}('model', 'xs-0')"))
    page.call("Page.setInterceptFileChooserDialog", enabled=True)
    page.value("document.querySelector('.widget-upload').click()")
    page.wait(lambda: page.value("1") and page.choosers, "no file can be chosen")
    chosen = {"files": [str(RECORDING)], "backendNodeId": page.choosers[0]}
    moved("recording", 3, lambda: page.call("DOM.setFileInputFiles", **chosen))
    page.save(shots / "uploaded.png")
    assert page.value("document.body.innerText.includes('not known')")
    assert page.value(f"document.body.innerHTML.includes('yours: {RECORDING.name}')")
    captions = page.value("[...document.querySelectorAll('.widget-html img')].map(e => e.alt)")
    for words, alt in zip(("listens most at", "by layer", "Eigenvalues"), captions, strict=True):
        assert words in alt
    assert page.errors == []


OFFLINE = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
LABELLED = """[...document.querySelectorAll('select, audio, svg, canvas, [tabindex]')].filter(e =>
  !(e.labels?.length || e.getAttribute('aria-label'))).map(e => e.outerHTML.slice(0, 80))"""
SHOWN = "document.querySelector('main').innerHTML"


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_static_explorer_works_by_keyboard_on_a_phone_and_a_screen(
    blank: Page, tmp_path: Path, width: int, scheme: str
) -> None:
    phone = {"mobile": width < 768, "deviceScaleFactor": 1}
    blank.call("Emulation.setDeviceMetricsOverride", width=width, height=900, **phone)
    preferred = [{"name": "prefers-color-scheme", "value": scheme}]
    blank.call("Emulation.setEmulatedMedia", features=preferred)
    blank.call("Network.enable")
    blank.call("Network.emulateNetworkConditions", **OFFLINE)
    blank.call("Page.navigate", url=(ROOT / "docs" / "explorer.html").as_uri())
    blank.wait(lambda: blank.value("document.querySelectorAll('svg').length >= 9"), "no charts")
    ready = "[...document.querySelectorAll('audio')].map(e => e.duration > 1)"
    blank.wait(lambda: blank.value(ready) == [True, True], "the sounds do not load")
    blank.wait(lambda: blank.value("document.querySelector('canvas')?.width == 240"), "no log-mel")
    assert blank.value(LABELLED) == []
    for name in ("utterance", "condition", "model", "layer"):
        before = blank.value(SHOWN)
        blank.value(f"document.getElementById('{name}').focus()")
        upwards = name == "condition"  # which begins with the last
        blank.press(*("ArrowUp", 38) if upwards else ("ArrowDown", 40))
        blank.wait(lambda old=before: blank.value(SHOWN) != old, f"{name} changes nothing")
    blank.value("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert blank.value("document.documentElement.scrollWidth") <= width
    small = "[...document.querySelectorAll('select, audio')].filter(e => e.offsetHeight < 44)"
    assert blank.value(f"{small}.length") == 0, "too small for a thumb"
    blank.save(Path(os.environ.get("SCREENSHOTS", tmp_path)) / f"static-{scheme}-{width}.png")
    assert blank.errors == []
