"""A ``python`` that starts at once: a fork of a server that has imported what it will need.

``serve`` starts the server, which imports the modules that it is given and runs nothing itself;
``python`` writes the command. It takes the arguments of ``python``, ends as the fork does, by a
signal too, and its fork ends with it. Linux alone: elsewhere the command is the usual one.
"""

import contextlib
import gc
import importlib
import os
import runpy
import select
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve()


def serve(folder: Path, *modules: str) -> subprocess.Popen[bytes]:
    """Start a server whose socket is in a folder, and which ends with the calling process."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "socket"))
    listener.listen(64)
    server = subprocess.Popen(
        [sys.executable, str(HERE), str(listener.fileno()), *modules],
        stdin=subprocess.PIPE, pass_fds=[listener.fileno()], start_new_session=True,
    )  # fmt: skip
    listener.close()
    return server


def python(command: Path, server: Path | None, *first: str) -> None:
    """Write a command that is ``python`` with these first arguments; the usual one of no server."""
    words = [sys.executable]
    if server and sys.platform == "linux":
        words += ["-IS", str(HERE), str(server / "socket"), str(command.parent)]
    words += first
    command.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    command.chmod(0o755)


def _serve(listener: socket.socket, modules: list[str]) -> None:
    del sys.path[0]  # this file's folder
    for name in modules:
        importlib.import_module(name)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while sys.stdin not in (ready := select.select([listener, sys.stdin], [], [])[0]):
        if listener in ready:
            asker, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _keep(asker)
            asker.close()


def _keep(asker: socket.socket) -> None:
    """Run what is asked for in a fork; say how it ended, and end it where nobody asks any more."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, files, *_ = socket.recv_fds(asker, 1 << 20, 3)
    pid = os.fork()
    if pid == 0:
        asker.close()
        for file, number in zip(files, range(3), strict=True):
            os.dup2(file, number)
            os.close(file)
        _become(message.decode().split("\0"))
    for file in files:
        os.close(file)
    ended = os.pidfd_open(pid)
    if ended not in select.select([asker, ended], [], [])[0]:
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(OSError):
        asker.sendall(str(os.waitpid(pid, 0)[1]).encode())
    os._exit(0)


def _become(words: list[str]) -> None:
    """Run as ``python`` does in a folder, with a command to start others, variables, arguments."""
    os.setpgid(0, 0)
    folder, command, count, *rest = words
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(word.split("=", 1) for word in rest[: int(count)])
    arguments = rest[int(count) :]
    sys.executable = command
    sys.path[:0] = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    status = 1
    try:
        if arguments[0] == "-m":
            sys.argv = arguments[1:]
            sys.path.insert(0, folder)
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments
            sys.path.insert(0, str(Path(arguments[0]).resolve().parent))
            runpy.run_path(arguments[0], run_name="__main__")
        status = 0
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _ask(at: str, folder: str, arguments: list[str]) -> None:
    """Stand for the fork until it ends, and end as it did."""
    server = socket.socket(socket.AF_UNIX)
    server.connect(at)
    environment = [f"{name}={value}" for name, value in os.environ.items()]
    words = [os.getcwd(), f"{folder}/python", str(len(environment)), *environment, *arguments]
    socket.send_fds(server, ["\0".join(words).encode()], [0, 1, 2])
    ended = os.waitstatus_to_exitcode(int(server.recv(16) or 1 << 8))
    if ended < 0:
        os.kill(os.getpid(), -ended)
    sys.exit(ended)


if __name__ == "__main__":
    if sys.argv[1].isdigit():
        _serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
    else:
        _ask(sys.argv[1], sys.argv[2], sys.argv[3:])
