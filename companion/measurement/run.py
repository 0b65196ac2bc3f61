"""Measure one model on a corpus: batches of utterances, each kept as soon as it is done."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
from tqdm import tqdm

from companion.measurement.memory import Batch, Halving, Together, by_utterance, fitting
from companion.measurement.provenance import described, key_of_parts, key_of_run, provenance
from companion.measurement.schemas import NONSPEECH
from companion.measurement.settings import Settings
from companion.measurement.store import merge, read_meta, write
from companion.measurement.texts import Row
from companion.models.loading import choose_device, load
from companion.models.view import SpeechModel
from companion.speech.corpus import UnusableUtterance, Utterance, find_utterances, read_wave
from companion.stress.conditions import condition, in_turn
from companion.stress.mixture import Mixture, Speakers

B = TypeVar("B")
S = TypeVar("S", bound=Settings)
RowsOf = Callable[[SpeechModel, Batch, S], list[Row]]


@dataclass(frozen=True)
class Summary:
    """How a measurement went."""

    output: Path
    measured: int
    resumed: int
    skipped: dict[str, str]
    batch: int  # utterances measured at once; fewer than asked for where memory did not suffice

    def __str__(self) -> str:
        lines = [
            f"{self.output.name}: {self.measured} utterances measured ({self.resumed} of them "
            f"earlier), at most {self.batch} at once, {len(self.skipped)} skipped"
        ]
        lines += [f"  skipped {name}: {reason}" for name, reason in self.skipped.items()]
        return "\n".join(lines)


def measure(
    kind: str,
    settings: S,
    rows_of: RowsOf[S],
    schema: pa.Schema,
    together: Together = by_utterance,
) -> Summary:
    """Measure every utterance under every condition; write ``output``, keyed as of this ``kind``.

    Of one shard only its utterances: the rows are the same whatever the number of shards.
    ``rows_of`` makes the rows of a batch, its mixtures by condition, with the columns of
    ``schema``. A killed run continues after its last finished batch; parts with another
    key, or of another device, are discarded. Where memory does not suffice for a batch, it
    and all later ones are measured in smaller pieces; neighbours that belong ``together`` are
    never parted. Utterances that cannot be used are skipped, and their reasons stored with the
    rows. Raises RuntimeError where nothing at all could be measured.
    """
    corpus = find_utterances(settings.corpus)
    clips = settings.clips()
    every = [
        *batches(corpus.utterances, settings, together),
        *(
            clips.utterances[i : i + settings.batch]
            for i in range(0, len(clips.utterances), settings.batch)
        ),
    ]
    chosen = of_shard(list(enumerate(every)), settings.shard)
    device = choose_device(settings.device)
    model = load(settings.model, settings.ladder, device)
    key = key_of_run(kind, settings, [*corpus.utterances, *clips.utterances])
    tqdm.write(described(model))
    of_parts = key_of_parts(key, device)
    skipped = {**corpus.rejected, **clips.rejected}
    parts, resumed = [], 0
    folder = settings.parts or settings.output.with_suffix(".parts")
    _discard_others(folder, of_parts)
    speakers = Speakers(corpus.utterances)
    pieces = Halving(lambda batch: rows_of(model, batch, settings), settings.batch, together)
    wanted = [utterance.id for _, utterances in chosen for utterance in utterances]
    with tqdm(total=len(wanted), desc=settings.model, unit="utterance") as bar:
        for i, utterances in chosen:
            part = folder / f"{i:05d}.parquet"
            done = part.exists()
            if not done:
                batch, unusable = stressed(utterances, speakers, settings)
                rows = pieces.rows(batch)
                write(rows, part, {**of_parts, "skipped": unusable}, schema)
            unusable = read_meta(part)["skipped"]
            resumed += done * (len(utterances) - len(unusable))
            skipped |= unusable
            parts.append(part)
            bar.update(len(utterances))
    measured = len(wanted) - sum(name in skipped for name in wanted)
    if measured == 0 and settings.shard[1] == 1:
        raise RuntimeError(f"{settings.corpus}: no usable utterance; the first: {_first(skipped)}")
    meta = {**provenance(key, model), "skipped": skipped}
    if parts:
        merge(parts, settings.output, meta)
    else:  # more shards than batches
        write([], settings.output, meta, schema)
    if settings.parts is None:
        shutil.rmtree(folder, ignore_errors=True)  # there is none of a shard without utterances
    return Summary(settings.output, measured, resumed, skipped, pieces.largest)


def of_shard(batches: Sequence[B], shard: Sequence[int]) -> Sequence[B]:
    """The batches of one shard: neighbours, about as many in every shard, in order."""
    which, count = shard
    return batches[which * len(batches) // count : (which + 1) * len(batches) // count]


def batches(
    utterances: Sequence[Utterance], settings: Settings, together: Together = by_utterance
) -> list[Sequence[Utterance]]:
    """The utterances to measure, as many at once as the settings say, those ``together`` whole."""
    chosen = spread(utterances, settings.utterances)
    found, start = [], 0
    while start < len(chosen):
        stop = start + fitting(chosen[start:], settings.batch, together)
        found.append(chosen[start:stop])
        start = stop
    return found


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
            mixtures = {
                name: _under(name, clean, speakers, settings.seed) if spoken else clean
                for name in names
            }
        except UnusableUtterance as error:
            unusable[utterance.id] = str(error)
            continue
        for name, mixture in mixtures.items():
            batch[name].append(mixture)
    return dict(batch), unusable


def _under(names: str, clean: Mixture, speakers: Speakers, seed: int) -> Mixture:
    return condition(in_turn(names, clean.target.id, seed)).apply(clean, speakers, seed)


def spread(utterances: Sequence[Utterance], count: int | None) -> Sequence[Utterance]:
    """``count`` utterances spread evenly over the corpus, so over its speakers; or all."""
    if count is None or count >= len(utterances):
        return utterances
    return [utterances[i * len(utterances) // count] for i in range(count)]


def _discard_others(folder: Path, wanted: Mapping[str, object]) -> None:
    for part in folder.glob("*.parquet"):
        try:
            found = read_meta(part)
            ours = all(found.get(name) == value for name, value in wanted.items())
        except (ValueError, OSError):  # cut short, by a power failure say
            ours = False
        if not ours:
            part.unlink()


def _first(skipped: dict[str, str]) -> str:
    return next(iter(skipped.values()), "the folder is empty")
