"""Measure one model on a corpus: batches of utterances, each kept as soon as it is done."""

import platform
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import NoReturn, TypeVar

import pyarrow as pa
import torch
from tqdm import tqdm

from companion.measurement.keys import Key, key_of, speech_digest
from companion.measurement.schemas import NONSPEECH
from companion.measurement.settings import Settings
from companion.measurement.store import merge, read_meta, write
from companion.measurement.texts import Batch, Row
from companion.models.loading import choose_device, load, weights_digest
from companion.models.view import SpeechModel
from companion.speech.corpus import UnusableUtterance, Utterance, find_utterances, read_wave
from companion.stress.conditions import condition, in_turn
from companion.stress.mixture import Mixture, Speakers

_PACKAGES = (
    "torch", "transformers", "tokenizers", "openai-whisper", "numpy", "scipy", "librosa", "av",
    "soundfile", "jiwer", "pyarrow",
)  # fmt: skip


def key_of_run(kind: str, settings: Settings, utterances: Iterable[Utterance]) -> Key:
    """What rows are keyed by, of settings and a corpus that are here."""
    weights = weights_digest(settings.model, settings.ladder)
    return key_of(kind, settings.plain(), weights, speech_digest(utterances))


def key_of_parts(key: Key, device: torch.device) -> dict[str, object]:
    """What parts of one file must have in common: the key, device, threads and versions."""
    return {
        "key": key,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "packages": {name: version(name) for name in _PACKAGES},
    }


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    folder = Path(__file__).parents[1]
    try:
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown: not a git checkout"
    return run.stdout.strip()


S = TypeVar("S", bound=Settings)
RowsOf = Callable[[SpeechModel, Batch, S], list[Row]]
Together = Callable[[Utterance], str]
"""Neighbours for which this is equal stay in one batch."""

by_utterance: Together = attrgetter("id")
by_speaker: Together = attrgetter("speaker")
"""Batches may be cut anywhere; or all utterances of a speaker are together."""

_CPU_ALLOCATOR = "can't allocate memory"  # torch has no class of error for it


@dataclass(frozen=True)
class Summary:
    """How a measurement went."""

    output: Path
    measured: int
    resumed: int
    skipped: dict[str, str]
    batch: int  # utterances measured at once; fewer than asked for where memory did not suffice

    def __str__(self) -> str:
        skipped = [f"  skipped {name}: {reason}" for name, reason in self.skipped.items()]
        return "\n".join([
            f"{self.output.name}: {self.measured} utterances measured ({self.resumed} of them "
            f"earlier), at most {self.batch} at once, {len(skipped)} skipped", *skipped,
        ])  # fmt: skip


def measure(
    kind: str, settings: S, rows_of: RowsOf[S], schema: pa.Schema, together: Together = by_utterance
) -> Summary:
    """Measure every utterance of a shard under every condition; write ``output``, with its key.

    ``rows_of`` makes the rows of a batch, with the columns of ``schema``. A killed run continues
    after its last finished batch; parts with another key, or of another device, are discarded.
    Where memory does not suffice batches become smaller; neighbours that belong ``together`` are
    never parted. Utterances that cannot be used are skipped, and their reasons stored with the
    rows. Raises RuntimeError where nothing at all could be measured.
    """
    corpus, clips = find_utterances(settings.corpus), settings.clips()
    every = batches(corpus.utterances, settings, together)
    every += batches(clips.utterances, settings, together, of_all=True)
    which, count = settings.shard  # of neighbours, about as many in every shard
    bounds = which * len(every) // count, (which + 1) * len(every) // count
    chosen = list(enumerate(every))[slice(*bounds)]
    device = choose_device(settings.device)
    model = load(settings.model, settings.ladder, device)
    key = key_of_run(kind, settings, [*corpus.utterances, *clips.utterances])
    of_parts = key_of_parts(key, device)
    dtype = str(model.dtype).removeprefix("torch.")
    threads = f" (threads: {of_parts['threads']})" if device.type == "cpu" else ""
    weights = f"{model.parameters / 1e6:.2f} million weights in {dtype}"
    tqdm.write(f"{model.name}: {weights} on {of_parts['device']}{threads}")
    skipped = {**corpus.rejected, **clips.rejected}
    parts, resumed = [], 0
    folder = settings.parts or settings.output.with_suffix(".parts")
    _discard_others(folder, of_parts)
    speakers = Speakers(corpus.utterances)
    halving = Halving(lambda batch: rows_of(model, batch, settings), settings.batch, together)
    wanted = [utterance.id for _, utterances in chosen for utterance in utterances]
    with tqdm(total=len(wanted), desc=settings.model, unit="utterance") as bar:
        for i, utterances in chosen:
            part = folder / f"{i:05d}.parquet"
            done = part.exists()
            if not done:
                batch, unusable = stressed(utterances, speakers, settings)
                write(halving.rows(batch), part, {**of_parts, "skipped": unusable}, schema)
            unusable = read_meta(part)["skipped"]
            resumed += done * (len(utterances) - len(unusable))
            skipped |= unusable
            parts.append(part)
            bar.update(len(utterances))
    measured = len({*wanted} - {*skipped})
    if measured == 0 and settings.shard[1] == 1:
        reason = next(iter(skipped.values()), "the folder is empty")
        raise RuntimeError(f"{settings.corpus}: no usable utterance; the first: {reason}")
    meta = {
        **of_parts, "python": platform.python_version(), "dtype": dtype, "commit": _commit(),
        "skipped": skipped,
    }  # fmt: skip
    if parts:
        merge(parts, settings.output, meta)
    else:  # more shards than batches
        write([], settings.output, meta, schema)
    if settings.parts is None:
        shutil.rmtree(folder, ignore_errors=True)  # there is none of a shard without utterances
    return Summary(settings.output, measured, resumed, skipped, halving.largest)


def batches(
    utterances: Sequence[Utterance], settings: Settings, together: Together = by_utterance,
    of_all: bool = False,
) -> list[Sequence[Utterance]]:  # fmt: skip
    """The utterances to measure, as many at once as the settings say, those ``together`` whole."""
    chosen = utterances if of_all else spread(utterances, settings.utterances)
    return pieces(chosen, settings.batch, together)


def pieces(
    utterances: Sequence[Utterance], size: int, together: Together
) -> list[Sequence[Utterance]]:
    """So many at once, or fewer, or more where these belong together."""
    parts: list[list[Utterance]] = []
    for _, members in groupby(utterances, together):
        group = list(members)
        if parts and len(parts[-1]) + len(group) <= size:
            parts[-1] += group
        else:
            parts.append(group)
    return list(parts)


def stressed(
    utterances: Sequence[Utterance], speakers: Speakers, settings: Settings
) -> tuple[Batch, dict[str, str]]:
    """The usable utterances' mixtures by condition, and why the others are not usable.

    Clips without a reference, of which a batch has all or none, are under no stress. Of conditions
    such as ``noise|hell`` every utterance is under one.
    """
    spoken = any(utterance.reference for utterance in utterances)
    names = settings.conditions if spoken else (NONSPEECH,)
    batch: dict[str, list[Mixture]] = {name: [] for name in names}
    unusable: dict[str, str] = {}
    for utterance in utterances:
        try:
            clean = Mixture.of(utterance, read_wave(utterance))
            mixtures = dict.fromkeys(names, clean)
            for name in names if spoken else ():
                stress = condition(in_turn(name, utterance.id, settings.seed))
                mixtures[name] = stress.apply(clean, speakers, settings.seed)
        except UnusableUtterance as error:
            unusable[utterance.id] = str(error)
            continue
        for name, mixture in mixtures.items():
            batch[name].append(mixture)
    return batch, unusable


def spread(utterances: Sequence[Utterance], count: int | None) -> Sequence[Utterance]:
    """``count`` utterances spread evenly over the corpus, so over its speakers; or all."""
    if count is None or count >= len(utterances):
        return utterances
    return [utterances[i * len(utterances) // count] for i in range(count)]


def _discard_others(folder: Path, wanted: Mapping[str, object]) -> None:
    for part in folder.glob("*.parquet"):
        try:
            meta = read_meta(part)
            if all(meta.get(name) == value for name, value in wanted.items()):
                continue
        except (ValueError, OSError):  # cut short, by a power failure say
            pass
        part.unlink()


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory does not suffice, on the GPU or the CPU."""
    kinds = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or _CPU_ALLOCATOR in str(error)


class Halving:
    """Rows of batches, in halves, quarters and so on once memory did not suffice for whole ones.

    ``largest`` is how many utterances are measured at once, more only where more belong together;
    it only ever shrinks. Raises MemoryError, naming the utterance, where one alone, or what belongs
    together, does not fit.
    """

    def __init__(
        self, rows_of: Callable[[Batch], list[Row]], largest: int, together: Together = by_utterance
    ) -> None:
        self._rows_of, self.largest, self._together = rows_of, largest, together

    def rows(self, batch: Batch) -> list[Row]:
        """The rows of a batch of utterances, its mixtures by condition."""
        utterances = [mixture.target for mixture in next(iter(batch.values()))]
        rows: list[Row] = []
        start = 0
        while start < len(utterances):
            piece = pieces(utterances[start:], self.largest, self._together)[0]
            stop = start + len(piece)
            try:
                rows += self._rows_of({name: side[start:stop] for name, side in batch.items()})
                start = stop
            except (RuntimeError, MemoryError) as error:
                if not is_lack_of_memory(error):
                    raise
                if len({*map(self._together, piece)}) == 1:
                    self._refuse(piece, error)
                self.largest = len(piece) // 2
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
        return rows

    def _refuse(self, piece: Sequence[Utterance], error: Exception) -> NoReturn:
        count = len(piece)
        what = "this one utterance" if count == 1 else f"the {count} utterances of its speaker"
        raise MemoryError(
            f"{piece[0].id}: not enough memory for {what} ({str(error).splitlines()[0]}); free "
            "memory, or take a smaller model or device=cpu"
        ) from error
