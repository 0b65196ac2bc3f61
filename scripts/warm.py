"""Kernels that start at once: forks of a server that has imported what notebooks import.

``start()`` serves them to all that the calling process runs, for as long as it lives. Jupyter finds
them under the name of the usual kernel, ``python3``. Where no server answers, the usual one
starts. A kernel outlives the server, not who asked for it. On Linux alone: elsewhere a fork of a
process with many libraries is not safe.
"""

import atexit
import gc
import importlib
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from threading import Thread, main_thread

HERE = Path(__file__).resolve()


def start(notebooks: Path = HERE.parent.parent / "notebooks") -> subprocess.Popen[bytes] | None:
    """Start a server, which forks the kernels that are started from now on, here or by a child."""
    if sys.platform != "linux":
        return None
    folder = Path(tempfile.mkdtemp(prefix="warm-"))  # readable by this user alone
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    spec = folder / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    asking = [sys.executable, "-IS", str(HERE), str(folder / "socket"), "-f", "{connection_file}"]
    text = {"argv": asking, "display_name": "Python 3", "language": "python"}
    spec.write_text(json.dumps(text), encoding="utf-8")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "socket"))
    listener.listen(64)
    os.environ["JUPYTER_PATH"] = os.pathsep.join(
        [str(folder), *filter(None, [os.environ.get("JUPYTER_PATH")])]
    )
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",  # as in every job; libraries read it when they are loaded
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "JPY_PARENT_PID": "",  # kernels are not to end with the server, but as `obey` says
    }
    server = subprocess.Popen(
        [sys.executable, str(HERE), str(listener.fileno()), str(notebooks)],
        stdin=subprocess.PIPE,  # its end tells that this process was killed
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=environment, pass_fds=[listener.fileno()], start_new_session=True,
    )  # fmt: skip
    atexit.register(server.kill)
    listener.close()
    return server


def serve(listener: socket.socket, notebooks: Path) -> None:
    """Import, then fork a kernel for whoever connects, until standard input ends."""
    del sys.path[0]  # this script's folder
    preload(notebooks)
    gc.freeze()  # what is collected in a fork would be copied there first
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    while sys.stdin not in (ready := select.select([listener, sys.stdin], [], [])[0]):
        if listener in ready:
            asker, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                become_kernel(asker)
            asker.close()


def preload(notebooks: Path) -> None:
    """Import all that notebooks import, and what ``companion`` imports only where it is used."""
    import_as_in("import ipykernel.kernelapp")
    for path in sorted(notebooks.glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            import_as_in("".join(cell["source"]))
    for name, module in sorted(sys.modules.items()):
        if name.startswith("companion.") and module.__file__:
            import_as_in(Path(module.__file__).read_text(encoding="utf-8"))


def import_as_in(text: str) -> None:
    """Import as the lines of a text do; what fails here fails there, and is told there."""
    for name, wanted in re.findall(r"(?m)^ *(?:from|import) ([\w.]+)(?: import ([\w, ]+))?", text):
        try:
            module = importlib.import_module(name)
            for attribute in wanted.split(","):  # some packages import only what is asked for
                getattr(module, attribute.strip(), None)
        except Exception:
            continue


def become_kernel(asker: socket.socket) -> None:
    """Run a kernel here, as the process at the other end would, until that one ends."""
    with asker.makefile(encoding="utf-8") as file:
        asked = json.loads(file.readline())
    asker.sendall(b"k")
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    Thread(target=obey, args=(asker,), daemon=True).start()
    importlib.import_module("ipykernel.kernelapp").launch_new_instance(argv=asked["arguments"])
    os._exit(0)  # tidying up would copy all that is shared with the server


def obey(asker: socket.socket) -> None:
    """Interrupt this process for every byte that comes, and kill it when no more can come."""
    while asker.recv(1):
        signal.pthread_kill(main_thread().ident or 0, signal.SIGINT)
    os.killpg(0, signal.SIGKILL)


def ask(at: str, arguments: list[str]) -> None:
    """Stand for the kernel that the server forks, until it ends; be one where no server answers."""
    parent = os.getppid()
    asked = {"arguments": arguments, "folder": os.getcwd(), "environment": {**os.environ}}
    try:
        server = socket.socket(socket.AF_UNIX)
        server.connect(at)
        server.sendall(json.dumps(asked).encode() + b"\n")
        served = server.recv(1)
    except OSError:
        served = b""
    if not served:
        os.execv(sys.executable, [sys.executable, "-m", "ipykernel_launcher", *arguments])
    signal.signal(signal.SIGINT, lambda *_: server.send(b"i"))
    while os.getppid() == parent and not select.select([server], [], [], 1.0)[0]:
        pass


if __name__ == "__main__":
    if sys.argv[1].isdigit():
        serve(socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[2]))
    else:
        ask(sys.argv[1], sys.argv[2:])
