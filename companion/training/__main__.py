"""Train the models of the ladder that are missing: ``python -m companion.training``.

Several at once, each in a process of its own; what is killed goes on from its last checkpoint.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from companion.models.ladder import feature_extractor
from companion.models.loading import choose_device
from companion.training.material import prepare
from companion.training.recipe import Recipe, read_recipe
from companion.training.run import Job, Workshop, estimate_seconds, train_all

_CUDA_WORKERS = 12  # models of this size leave most of a data-centre GPU idle


def main() -> None:
    """Prepare the speech once, say how long it will take, then train every model asked for."""
    parser = argparse.ArgumentParser(prog="python -m companion.training", description=__doc__)
    parser.add_argument("--models", nargs="+", help="sizes of the recipe; all by default")
    parser.add_argument("--seeds", nargs="+", type=int, help="as the recipe says by default")
    parser.add_argument("--workers", type=int, help="models at once; one per core by default")
    parser.add_argument("--estimate", action="store_true", help="only say how long it will take")
    parser.add_argument("--recipe", type=Path, default=Path("params/training.yml"))
    parser.add_argument("--build", type=Path, default=Path("build/training"))
    parser.add_argument("--ladder", type=Path, default=Path("data/ladder"))
    arguments = parser.parse_args()
    recipe = read_recipe(arguments.recipe)
    device, cores = choose_device("auto"), os.cpu_count() or 1
    workers = arguments.workers or (_CUDA_WORKERS if device.type == "cuda" else cores)
    threads = max(1, cores // workers)  # small models gain little from a second
    torch.set_num_threads(threads)
    workshop = Workshop(recipe, arguments.build, arguments.ladder, device)
    jobs = []
    for job in _jobs(recipe, arguments.models, arguments.seeds):
        if workshop.is_trained(job):
            print(f"{job.name}: already trained, in {workshop.ladder / job.name}")
        else:
            jobs.append(job)
    if not jobs:
        return
    prepare(workshop.material, recipe.material, feature_extractor(recipe.window_seconds))
    _announce(jobs, workshop, workers)
    if arguments.estimate:
        return
    failed = train_all(jobs, workshop, workers, threads)
    if failed:
        sys.exit("\n".join(f"error: {name}: {reason}" for name, reason in failed.items()))


def _jobs(recipe: Recipe, sizes: Sequence[str] | None, seeds: Sequence[int] | None) -> list[Job]:
    """The models to train, first seeds first; by default all sizes with the recipe's seeds."""
    unknown = [size for size in sizes or () if size not in recipe.sizes]
    if unknown:
        sys.exit(f"error: no size {unknown[0]!r}; choose from {', '.join(recipe.sizes)}")
    jobs = [
        Job(size, seed)
        for size in sizes or recipe.sizes
        for seed in (range(recipe.sizes[size].seeds) if seeds is None else seeds)
    ]
    return sorted(jobs, key=lambda job: job.seed)


def _announce(jobs: Sequence[Job], workshop: Workshop, workers: int) -> None:
    """Say what will be trained and for how long, before it starts."""
    sizes = dict.fromkeys(job.size for job in jobs)
    seconds = {size: estimate_seconds(Job(size, 0), workshop) for size in sizes}
    apart = ", ".join(f"{size} {taken / 60:.0f} min" for size, taken in seconds.items())
    total = sum(seconds[job.size] for job in jobs) / min(workers, len(jobs))
    print(
        f"{len(jobs)} models on {workshop.device}, {workers} at once: about {total / 3600:.1f} h "
        f"({apart} each, timed on a few steps); after an interruption it goes on from the last "
        "checkpoint",
        flush=True,
    )


if __name__ == "__main__":
    main()
