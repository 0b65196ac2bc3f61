"""Time several ways to one result in turns, so that what slows the machine slows all of them."""

import argparse
import json
import os
import platform
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from companion.models.loading import load
from companion.models.openai_model import OpenAIModel
from companion.results.tables import write_text

T = TypeVar("T")

FOLDER = Path("data/benchmarks")
CORPUS = Path("data/corpus")
OURS = "ours"
_SHORT = 1.0  # seconds
_PAUSE = 0.3


@dataclass(frozen=True)
class Way:
    """One way to a result; ``fraction`` of the whole work is what a call of ``run`` does.

    ``repeats`` is how often it is timed, if not as often as the others.
    """

    run: Callable[[], object]
    fraction: float = 1.0
    repeats: int | None = None


@dataclass(frozen=True)
class Case:
    """One thing to compute, the ways to it (``ours`` among them), and what it costs.

    ``operations``: of ours, floating-point, one multiply-add being two; ``difference``: the largest
    between ours and a rival, relative to the largest entry.
    """

    name: str
    size: Mapping[str, int | str]
    ways: Mapping[str, Way]
    operations: float
    difference: Callable[[], float]


def measured(case: Case, repeats: int, device: torch.device) -> pd.DataFrame:
    """A row per way: median seconds of the whole work, quartiles, and the ratio to ours.

    Ways take turns. Each is called once before, and one that is done within ``_SHORT`` again
    before each of its turns: the others have emptied the caches meanwhile, and what a kernel does
    in a loop is what counts. A pause before every turn lets the threads of the way before fall
    asleep: those of numpy's library spin on for a while, on cores that are needed. One whose
    fraction is below one is extrapolated, and says so.
    ``peak_bytes`` is the most memory a call had in use, on CUDA alone.
    """
    seconds: dict[str, list[float]] = {name: [] for name in case.ways}
    peaks = dict.fromkeys(case.ways, 0)
    for turn in range(repeats + 1):
        for name, way in case.ways.items():
            if turn > (repeats if way.repeats is None else way.repeats):
                continue
            time.sleep(_PAUSE)
            taken, peak = _once(way, device)
            if turn and taken < _SHORT:
                taken, peak = _once(way, device)
            peaks[name] = max(peaks[name], peak)
            if turn:  # the first call warms up
                seconds[name].append(taken / way.fraction)
    rows = []
    for name, turns in seconds.items():
        low, median, high = np.percentile(turns, [25, 50, 75])
        rows.append(
            {"case": case.name, **case.size, "way": name, "median": median, "low": low,
             "high": high, "repeats": len(turns), "extrapolated_from": case.ways[name].fraction,
             "peak_bytes": peaks[name], "ratio": median / np.median(seconds[OURS]),
             "operations": case.operations}
        )  # fmt: skip
    return pd.DataFrame(rows).assign(difference=case.difference())


def product_rate(device: torch.device) -> float:
    """Floating-point operations per second of the machine's float32 matrix products, at best."""
    left, right = (torch.randn(2048, 2048, device=device) for _ in range(2))
    best = min(_once(Way(lambda: left @ right), device)[0] for _ in range(10))
    return 2 * 2048**3 / best


def _once(way: Way, device: torch.device) -> tuple[float, int]:
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    began = time.perf_counter()
    result = way.run()
    if cuda:
        torch.cuda.synchronize(device)
    taken = time.perf_counter() - began
    del result
    return taken, torch.cuda.max_memory_allocated(device) if cuda else 0


def machine(device: torch.device) -> dict[str, Any]:
    """The device in words, with the rate of its float32 matrix products in operations a second."""
    name = platform.processor() or platform.machine()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif (known := Path("/proc/cpuinfo")).exists():
        models = re.findall(r"(?m)^model name\s*: (.*)$", known.read_text())
        name = models[0].strip() if models else name
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "float32_product_rate": product_rate(device),
    }


def options(
    module: str, about: str | None, repeats: int, device: str = "auto"
) -> argparse.ArgumentParser:
    """What the commands of the benchmarks can be told."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=about)
    parser.add_argument("--device", default=device, help="auto, cpu or cuda")
    parser.add_argument("--repeats", type=int, default=repeats, help="turns that every way takes")
    return parser


def time_all(
    items: Iterable[T], timed: Callable[[T], pd.DataFrame], described: dict[str, Any], stem: str
) -> None:
    """The rows of all items, printed, and kept in data/benchmarks/stem.csv after every item.

    Beside them stem.json says which ``machine`` they were timed on.
    """
    table = pd.DataFrame()
    for item in tqdm(items, desc=described["device"]):
        table = pd.concat([table, timed(item)], ignore_index=True)
        write_text(FOLDER / f"{stem}.csv", table.to_csv(index=False, lineterminator="\n"))
        write_text(FOLDER / f"{stem}.json", json.dumps(described, indent=1) + "\n")
    print(table.to_string(index=False, float_format="{:.3g}".format, na_rep=""))


def of_openai(name: str, device: torch.device) -> OpenAIModel:
    """A model of openai-whisper."""
    model = load(name, Path("models"), device)
    assert isinstance(model, OpenAIModel)
    return model
