"""Train models of the ladder from prepared speech, several at once, each saved whole or not at all.

Not in ``__main__``: a spawned process does not import a package's ``__main__`` again, so it would
not find what it is to run.
"""

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import mean

import jiwer
import torch
from transformers import WhisperForConditionalGeneration, WhisperTokenizer

from companion.models.decoding import greedy
from companion.models.ladder import (
    FRAMES_PER_SECOND,
    character_tokenizer,
    feature_extractor,
    initialise,
    ladder_config,
    save,
)
from companion.models.loading import choose_device
from companion.models.rules import UNRESTRICTED
from companion.models.transformers_model import TransformersModel
from companion.training.batches import Batch, Batcher, padded
from companion.training.material import Clips, load
from companion.training.recipe import Recipe, Stage
from companion.training.train import (
    Learner,
    full_window_from,
    make_optimisers,
    to_device,
    train,
    update,
)

_TIMED_STEPS = 2  # after one that warms up


@dataclass(frozen=True)
class Job:
    """One model to train: its size and seed."""

    size: str
    seed: int

    @property
    def name(self) -> str:
        """The model's name, and that of its folder."""
        return f"{self.size}-{self.seed}"


@dataclass(frozen=True)
class Workshop:
    """Where models are trained: the recipe, the folders of unfinished and finished ones, a device.

    The speech is in ``build/material``, a run's checkpoint in ``build/<name>``.
    """

    recipe: Recipe
    build: Path
    ladder: Path
    device: torch.device

    @property
    def material(self) -> Path:
        """The folder of the prepared speech."""
        return self.build / "material"

    def is_trained(self, job: Job) -> bool:
        """Whether the model is there already, with its checksums."""
        return (self.ladder / job.name / "SHA256SUMS").exists()


def train_all(
    jobs: Sequence[Job], workshop: Workshop, workers: int, threads: int
) -> dict[str, str]:
    """Train in worker processes; what failed, and why. One failure does not stop the others."""
    failed = {}
    context = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA
    with ProcessPoolExecutor(workers, context, _set_up, (threads,)) as pool:
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


def _set_up(threads: int) -> None:
    """What every worker process starts with."""

    def end_with_parent() -> None:  # two processes must not train one model
        if parent := multiprocessing.parent_process():
            parent.join()
            os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    choose_device("auto")  # float32 as it says, in this process too


def train_model(job: Job, workshop: Workshop) -> Path:
    """Train a model, going on from its checkpoint if there is one; returns the model's folder."""
    recipe, device = workshop.recipe, workshop.device
    tokenizer, extractor = character_tokenizer(), feature_extractor(recipe.window_seconds)
    model = new_model(job, recipe, tokenizer)
    batchers = make_batchers(job, workshop, tokenizer)
    held_back = recipe.material.development_utterances
    development = load(workshop.material, "sentences")[-held_back:]
    frames = extractor.n_samples // extractor.hop_length
    pairs = zip(development.mels, development.silence, strict=True)
    features = torch.stack([torch.from_numpy(padded(*pair, frames)) for pair in pairs]).to(device)

    def wer(trained: WhisperForConditionalGeneration) -> float:
        view = TransformersModel(job.name, trained, tokenizer, extractor)
        texts = [transcript.text for transcript in greedy(view, features, UNRESTRICTED)]
        return float(jiwer.wer(development.texts, texts))

    folder, target = workshop.build / job.name, workshop.ladder / job.name
    stages = recipe.curriculum(job.size)
    progress = train(model, batchers, stages, recipe, folder, wer, job.seed, device)
    record = {
        "size": job.size,
        "seed": job.seed,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "seconds": round(progress.seconds),
        "parameters": model.num_parameters(),
        "recipe": recipe.of(job.size),
        "record": progress.record,
    }
    save(target, model.cpu(), tokenizer, extractor, record)
    return target


def estimate_seconds(job: Job, workshop: Workshop) -> float:
    """Seconds that a whole training run takes on this device, from a few of its own batches.

    Evaluations at the checkpoints, and other work on the machine, come on top.
    """
    recipe, tokenizer = workshop.recipe, character_tokenizer()
    learner = Learner(new_model(job, recipe, tokenizer).train()).to(workshop.device)
    optimisers = make_optimisers(learner, recipe.optimiser)

    def seconds_per_step(stage: Stage, batches: Iterator[Batch]) -> float:
        taken = []
        for batch in islice(batches, 1 + _TIMED_STEPS):
            began = time.perf_counter()
            moved = to_device(batch, workshop.device)
            update(learner, optimisers, moved, stage, recipe.optimiser, fraction=0.0).item()
            taken.append(time.perf_counter() - began)
        return mean(taken[1:])

    batchers = make_batchers(job, workshop, tokenizer)
    total = 0.0
    for name, stage in recipe.curriculum(job.size).items():
        full = full_window_from(stage, recipe.optimiser)
        total += full * seconds_per_step(stage, batchers[name].batches(0, stage.steps))
        if full < stage.steps:
            total += (stage.steps - full) * seconds_per_step(stage, batchers[name].batches(0, 0))
    return total


def new_model(
    job: Job, recipe: Recipe, tokenizer: WhisperTokenizer
) -> WhisperForConditionalGeneration:
    """The model before its first step."""
    shape = recipe.sizes[job.size]
    sizes = (shape.width, shape.heads, shape.encoder_layers, shape.decoder_layers)
    config = ladder_config(*sizes, recipe.window_seconds, recipe.max_target_positions, tokenizer)
    return initialise(config, job.seed)


def make_batchers(job: Job, workshop: Workshop, tokenizer: WhisperTokenizer) -> dict[str, Batcher]:
    """The batches of every stage of a model's curriculum, without the development utterances."""
    recipe = workshop.recipe
    stages = recipe.curriculum(job.size)
    no_speech = load(workshop.material, "no_speech")
    kinds = {kind for stage in stages.values() for kind in stage.material}
    clips = {kind: load(workshop.material, kind) for kind in kinds}
    if "sentences" in clips:
        clips["sentences"] = clips["sentences"][: -recipe.material.development_utterances]
    full_window = recipe.window_seconds * FRAMES_PER_SECOND
    shuffled = recipe.sizes[job.size].shuffled_pairs
    return {
        name: Batcher(
            sum((clips[kind] for kind in stage.material), Clips([], [], [])),
            no_speech, stage, tokenizer, full_window, job.seed, shuffled,
        )
        for name, stage in stages.items()
    }  # fmt: skip
