"""How long training will take: a few steps of every stage, timed before it starts."""

import time
from collections.abc import Iterator
from itertools import islice
from statistics import mean

from companion.models.tokenizer import character_tokenizer
from companion.training.batches import Batch
from companion.training.recipe import Stage
from companion.training.run import Job, Workshop, make_batchers, new_model
from companion.training.train import Learner, full_window_from, make_optimisers, to_device, update

_TIMED_STEPS = 2  # after one that warms up


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
