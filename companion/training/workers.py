"""Train several models at once, each in a process of its own.

Not in ``__main__``: a spawned process does not import a package's ``__main__`` again, so it would
not find what it is to run.
"""

import multiprocessing
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import torch
from tqdm import tqdm

from companion.models.loading import choose_device
from companion.training.run import Job, Workshop, train_model
from companion.training.train import draw_bars_on


def train_all(
    jobs: Sequence[Job], workshop: Workshop, workers: int, threads: int
) -> dict[str, str]:
    """Train in worker processes; what failed, and why. One failure does not stop the others."""
    failed = {}
    context = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA
    lines = context.SimpleQueue()
    for line in range(workers):
        lines.put(line)
    with ProcessPoolExecutor(workers, context, _set_up, (context.RLock(), lines, threads)) as pool:
        running: dict[Future[Path], Job] = {
            pool.submit(train_model, job, workshop): job for job in jobs
        }
        for done in as_completed(running):
            name = running[done].name
            if error := done.exception():
                failed[name] = str(error)
            else:
                print(f"{name}: saved to {done.result()}", flush=True)
    return failed


def _set_up(lock: object, lines: "SimpleQueue[int]", threads: int) -> None:
    """What every worker process starts with: its line of the terminal, and its threads."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    tqdm.set_lock(lock)
    draw_bars_on(lines.get())
    torch.set_num_threads(threads)
    choose_device("auto")  # float32 as it says, in this process too


def _end_with_parent() -> None:
    """End this process when the one that started it is killed: two must not train one model."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
