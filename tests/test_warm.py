"""A forked kernel is one like any other, ends with who asked for it, and is never waited for."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import warm
from jupyter_client.manager import start_new_kernel

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks are for Linux alone")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """A server that has imported what one notebook imports, and what it could not it has passed."""
    monkeypatch.setenv("JUPYTER_PATH", "")
    cells = [{"source": ["import no_such_module\n", "%magic\n", "from xdrlib2 import no\n"]}]
    cells.append({"source": ["import colorsys"]})
    (tmp_path / "any.ipynb").write_text(json.dumps({"cells": cells}))
    running = warm.start(tmp_path)
    assert running is not None
    yield running
    running.kill()
    running.wait()


class Kernel:
    """A kernel, and the values of expressions in it."""

    def __init__(self, **options: Any) -> None:
        self.manager, self.client = start_new_kernel(startup_timeout=300, **options)
        self.pid = int(self.value("__import__('os').getpid()"))

    def value(self, expression: str) -> str:
        asked = {"value": expression}
        reply = self.client.execute("", user_expressions=asked, reply=True, timeout=120)
        return reply["content"]["user_expressions"]["value"]["data"]["text/plain"]

    def end(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel()


def test_a_kernel_is_a_fork_in_the_folder_and_environment_of_who_asks(
    server: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    kernel = Kernel(cwd=str(tmp_path), env={**os.environ, "ASKED": "yes"})
    assert psutil.Process(kernel.pid).ppid() == server.pid
    assert kernel.value("'colorsys' in __import__('sys').modules") == "True"
    assert kernel.value("__import__('os').getcwd()") == repr(str(tmp_path))
    assert kernel.value("__import__('os').environ['ASKED']") == "'yes'"
    asked = kernel.client.execute("import time\nprint('here', flush=True)\ntime.sleep(300)")
    while kernel.client.get_iopub_msg(timeout=120)["msg_type"] != "stream":
        pass
    kernel.manager.interrupt_kernel()
    while (reply := kernel.client.get_shell_msg(timeout=120))["parent_header"]["msg_id"] != asked:
        pass
    assert reply["content"]["ename"] == "KeyboardInterrupt"
    kernel.end()
    _gone(kernel.pid)


@pytest.mark.parametrize("busy", [False, True])
def test_a_kernel_ends_when_what_asked_for_it_is_killed(
    busy: bool, server: subprocess.Popen[bytes]
) -> None:
    kernel = Kernel()
    if busy:
        kernel.client.execute("while True: pass")
    (asker,) = (p for p in psutil.Process().children() if str(warm.HERE) in p.cmdline()[2:])
    asker.kill()
    _gone(kernel.pid)
    kernel.end()


def test_a_server_that_is_killed_takes_no_kernel_with_it_and_is_done_without(
    server: subprocess.Popen[bytes],
) -> None:
    before = Kernel()
    os.kill(server.pid, signal.SIGKILL)
    server.wait()
    after = Kernel()
    assert before.value("1 + 1") == after.value("1 + 1") == "2"
    assert "ipykernel_launcher" in " ".join(psutil.Process(after.pid).cmdline())
    for kernel in (before, after):
        kernel.end()
        _gone(kernel.pid)


def _gone(pid: int) -> None:
    deadline = time.monotonic() + 60
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the kernel is still at work"
        time.sleep(0.1)
