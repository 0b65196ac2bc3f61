"""Say beforehand what a profile takes: ``python -m companion.planning params/whisper.yml``.

Downloads, disk, memory and time, from short timings on the machine at hand; no network.
"""

import argparse
import resource
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import torch
from tabulate import tabulate
from tqdm import tqdm
from transformers.utils.logging import disable_progress_bar

from companion.benchmarks.machine import machine
from companion.benchmarks.throughput import Size
from companion.benchmarks.timing import product_rate
from companion.models.loading import choose_device, is_here
from companion.planning.costs import LONGEST, checkpoint_bytes, peak_memory, size_of, weights
from companion.planning.probe import (
    PATIENCE,
    SHORT,
    Estimate,
    Timing,
    memory,
    time_model,
    timings,
)
from companion.planning.profile import LIBRISPEECH, Work, read_profile, utterances_of
from companion.speech.librispeech import BYTES

SMOKE = Path("data/smoke")
EVENING = 2 * 3600.0  # seconds
_LAYERS = 4  # of a model whose size is its own
Timings = Mapping[Size, tuple[str, Timing]]


def main() -> None:
    """Print the plan of the parameter file named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m companion.planning", description=__doc__)
    parser.add_argument("profile", type=Path, help="a file of params/")
    parser.add_argument("--utterances", type=int, help="instead of as many as the file says")
    parser.add_argument("--models", nargs="+", default=[], help="instead of those that it draws")
    arguments = parser.parse_args()
    disable_progress_bar()  # of loading weights: every model is loaded several times
    try:
        works = read_profile(arguments.profile, arguments.utterances, arguments.models)
        print(plan(works, arguments.profile.stem))
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")


def plan(works: Sequence[Work], profile: str) -> str:
    """The whole text; the profile's name is for the commands in it."""
    device = choose_device(str(works[0].values["device"]))
    absent = _absent(works)
    batch = max(work.batch for work in works)
    found = timings(list(absent.values()), batch, device) if absent else {}
    seconds = {
        (work.kind, name): _estimate(work, name, absent, found, device)
        for work in works
        for name in tqdm(work.models, desc=work.kind, leave=False)
    }
    described = machine(device, product_rate(device))
    total = Estimate(*(sum(getattr(one, side) for one in seconds.values()) for side in _SIDES))
    lines = [
        f"on {described['device']} ({device.type}, threads: {described['threads']}), float32",
        "",
        _table(works, absent, found, seconds),
        "",
        f"time      {_span(total)} to measure, one notebook after the other; drawing takes some "
        "minutes more",
        f"memory    {_bytes(memory(device))} there, {_bytes(_used(device))} used for this plan; "
        "batches halve where one does not fit",
        *_downloads(works, absent),
        f"disk      {_bytes(_disk(works, absent))} in the end, rows among it",
        "",
        *_evening(works, seconds, profile),
        *_assumptions(works, absent),
    ]
    return "\n".join(lines)


_SIDES = ("low", "high")


def _absent(works: Sequence[Work]) -> dict[str, Size]:
    """The true sizes of the models that are not there; ValueError for one whose size is unknown."""
    sizes = {}
    for work in works:
        for name in work.models:
            if is_here(name, work.ladder):
                continue
            size = size_of(name)
            if size is None:
                raise ValueError(
                    f"{name}: not there, and of unknown size; put it into {work.ladder}"
                )
            sizes[name] = size
    return sizes


def _estimate(
    work: Work, name: str, absent: Mapping[str, Size], found: Timings, device: torch.device
) -> Estimate:
    """Seconds of one notebook's run for one model."""
    speech, count = utterances_of(work)
    if name in absent:
        return found[absent[name]][1].estimate(work).times(count)
    seconds = time_model(name, work, speech, device)
    return Estimate(seconds, seconds).times(count)


def _table(
    works: Sequence[Work],
    absent: Mapping[str, Size],
    found: Timings,
    seconds: Mapping[tuple[str, str], Estimate],
) -> str:
    names = list(dict.fromkeys(name for work in works for name in work.models))
    counts = {work.kind: utterances_of(work)[1] for work in works}
    rows = []
    for name in names:
        size = absent.get(name)
        row: dict[str, str] = {"model": name}
        row["download"] = _bytes(checkpoint_bytes(size)) if size else "there"
        row["weights"] = f"{weights(size) / 1e6:.0f} M" if size else ""
        peaks = [peak_memory(size, work.batch, work.kind == "jacobians") for work in works if size]
        row["memory"] = _bytes(max(peaks)) if peaks else ""
        for work in works:
            label = f"{work.kind} ({counts[work.kind]})"
            row[label] = _span(seconds[work.kind, name]) if name in work.models else ""
        row["time is"] = found[size][0] if size else "timed"
        rows.append(row)
    return tabulate(rows, headers="keys")


def _evening(
    works: Sequence[Work], seconds: Mapping[tuple[str, str], Estimate], profile: str
) -> Iterator[str]:
    """What to do instead where all is a matter of days: so many utterances take an evening."""
    if sum(one.high for one in seconds.values()) <= EVENING:
        return
    fitting: dict[str, dict[str, int]] = {}
    for (kind, name), whole in seconds.items():
        count = next(utterances_of(work)[1] for work in works if work.kind == kind)
        fitting.setdefault(name, {})[kind] = min(count, int(count * EVENING / whole.high))
    yield f"In an evening, {_time(EVENING)} for one model and kind, at least so many utterances:"
    yield ""
    yield tabulate([{"model": name, **counts} for name, counts in fitting.items()], headers="keys")
    yield ""
    name, counts = next(iter(fitting.items()))
    kind, count = next(iter(counts.items()))
    command = f"PROFILE={profile} MODELS={name} N={count}"
    yield (
        f"`make measure {command}` (`make evidence` where rows lie in data/) begins with {kind}, "
        "and goes on where it was stopped."
    )
    yield ""


def _downloads(works: Sequence[Work], absent: Mapping[str, Size]) -> Iterator[str]:
    models = sum(checkpoint_bytes(size) for size in absent.values())
    speech = sum(BYTES.values()) if _missing_speech(works) else 0
    if not models + speech:
        yield "download  nothing: models and speech are there"
        return
    yield f"download  {_bytes(models + speech)}: checkpoints {_bytes(models)}, LibriSpeech " + (
        f"{_bytes(speech)} (`make librispeech`)" if speech else "is there"
    )


def _missing_speech(works: Sequence[Work]) -> bool:
    return not all(utterances_of(work)[0] for work in works)


def _disk(works: Sequence[Work], absent: Mapping[str, Size]) -> float:
    """Bytes that will be written: downloads, the unpacked speech, and the rows."""
    rows = 0.0
    for work in works:
        layers = [
            absent[name].decoder_layers if name in absent else _LAYERS for name in work.models
        ]
        rows += sum(map(work.rows, layers)) * utterances_of(work)[1] * _row_bytes(work.kind)
    speech = 2 * sum(BYTES.values()) if _missing_speech(works) else 0
    return rows + speech + sum(checkpoint_bytes(size) for size in absent.values())


def _used(device: torch.device) -> int:
    """The most bytes that this process had in use, on a CPU those of Python and all libraries."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _row_bytes(kind: str) -> float:
    """Of the rows that come with the project."""
    files = list((SMOKE / kind).glob("*.parquet"))
    return sum(file.stat().st_size for file in files) / sum(
        pq.read_metadata(file).num_rows for file in files
    )


def _assumptions(works: Sequence[Work], absent: Mapping[str, Size]) -> Iterator[str]:
    yield "Assumed:"
    if _missing_speech(works):
        yield f"- LibriSpeech's {LIBRISPEECH} utterances, each shorter than one window of 30 s."
    if absent:
        yield (
            f"- Times are from ... to: texts of {SHORT} tokens, or in every batch one that goes on "
            f"to {LONGEST}."
        )
        yield (
            "- Timed on random weights of the true size and on noise; a size that would take more "
            f"than {PATIENCE:.0f} s is extrapolated from the largest timed one by its operations."
        )
        yield (
            "- Checkpoints weigh two bytes per weight. Memory is counted, not measured: the "
            f"profile's batch, every text of {LONGEST} tokens."
        )
    if len(absent) < len({name for work in works for name in work.models}):
        yield "- Models that are there: a few utterances of the corpus, measured as they will be."
    yield "- Nothing else runs on the machine, and nothing has been measured yet."
    yield "- float32 throughout: spectra span nine decades, of which half precision has three."


def _span(seconds: Estimate) -> str:
    low, high = _time(seconds.low), _time(seconds.high)
    return low if low == high else f"{low} ... {high}"


def _time(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _bytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


if __name__ == "__main__":
    main()
