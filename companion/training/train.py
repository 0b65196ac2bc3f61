"""Train one model of the ladder: a curriculum, a CTC head, and a loop that can be resumed."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import WhisperForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from companion.measurement.store import whole_or_absent
from companion.training.batches import IGNORE, Batch, Batcher
from companion.training.muon import Muon
from companion.training.recipe import Optimiser, Recipe, Stage

REFERENCE_WIDTH = 128  # the width that a stage's learning rate is given for
_BETAS = (0.9, 0.98)
_LAST_LEARNING_RATE = 0.02  # of the highest, at the end of the cosine


@dataclass
class Progress:
    """Where a run stands: stage, steps done in it, its record so far and the seconds it took."""

    stage: str
    step: int = 0
    record: list[dict[str, object]] = field(default_factory=list)
    seconds: float = 0.0


class Learner(nn.Module):
    """A Whisper model and the CTC head that its encoder is trained with; the head is not kept."""

    def __init__(self, model: WhisperForConditionalGeneration) -> None:
        super().__init__()
        self.model = model
        self.blank = model.config.vocab_size
        self.ctc = nn.Linear(model.config.d_model, self.blank + 1)

    def loss(self, batch: Batch, ctc_weight: float) -> Tensor:
        """Cross-entropy of the next token plus ``ctc_weight`` times CTC on the encoder."""
        context = encode_window(self.model, batch.features)
        logits = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=context),
            decoder_input_ids=batch.inputs,
            use_cache=False,
        ).logits
        loss = functional.cross_entropy(
            logits.float().flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORE
        )
        return loss + ctc_weight * self._ctc_loss(context, batch.texts)

    def _ctc_loss(self, context: Tensor, texts: list[list[int]]) -> Tensor:
        log_probs = self.ctc(context).float().log_softmax(-1).transpose(0, 1)
        lengths = torch.tensor([len(text) for text in texts])
        targets = torch.tensor([token for text in texts for token in text], dtype=torch.long)
        frames = torch.full((len(texts),), context.shape[1])
        return functional.ctc_loss(
            log_probs, targets, frames, lengths, self.blank, zero_infinity=True
        )


def encode_window(model: WhisperForConditionalGeneration, features: Tensor) -> Tensor:
    """The encoder on a window shorter than its own: its table of positions is sliced.

    features (batch, mels, frames) -> (batch, frames / 2, width). The library's own forward pass
    insists on the full window, six times the work on the curriculum's first stage.
    """
    encoder = model.model.encoder
    hidden = functional.gelu(encoder.conv1(features))
    hidden = functional.gelu(encoder.conv2(hidden)).transpose(1, 2)
    hidden = hidden + encoder.embed_positions.weight[: hidden.shape[1]]
    for layer in encoder.layers:
        hidden = layer(hidden, None)
    return encoder.layer_norm(hidden)


def train(
    model: WhisperForConditionalGeneration,
    batchers: dict[str, Batcher],
    stages: dict[str, Stage],
    recipe: Recipe,
    folder: Path,
    evaluate: Callable[[WhisperForConditionalGeneration], float],
    seed: int,
    device: torch.device,
) -> Progress:
    """Run every stage in order, resuming from ``folder/checkpoint.pt``; returns the record.

    Raises ValueError for a checkpoint of another recipe, shape or seed.
    """
    torch.manual_seed(seed)
    learner = Learner(model.train()).to(device)
    optimisers = make_optimisers(learner, recipe.optimiser)
    names, shapes = list(stages), {n: list(t.shape) for n, t in learner.state_dict().items()}
    identity = json.dumps({  # what decides the weights of a run, apart from the machine
        "seed": seed,
        "parameters": hashlib.sha256(json.dumps(shapes).encode()).hexdigest()[:12],
        "stages": {name: asdict(stage) for name, stage in stages.items()},
        "material": asdict(recipe.material),
        "optimiser": asdict(recipe.optimiser),
    })  # fmt: skip
    checkpoint, progress = folder / "checkpoint.pt", Progress(names[0])
    run = _Run(learner, optimisers, checkpoint, identity, progress, recipe, device)
    run.resume()
    for name in names[names.index(run.progress.stage) :]:
        if run.progress.stage != name:
            run.progress.stage, run.progress.step = name, 0
            run.optimisers = make_optimisers(learner, recipe.optimiser)
        run.finish(stages[name], batchers[name], evaluate)
    return run.progress


@dataclass
class _Run:
    """All that a checkpoint holds, where it is, and how a stage is run from it."""

    learner: Learner
    optimisers: Sequence[torch.optim.Optimizer]
    checkpoint: Path
    identity: str
    progress: Progress
    recipe: Recipe
    device: torch.device

    def save(self) -> None:
        state = {
            "run": self.identity,
            "learner": self.learner.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "progress": json.dumps(asdict(self.progress)),
        }
        with whole_or_absent(self.checkpoint) as place:
            torch.save(state, place)

    def resume(self) -> None:
        """Go back to the checkpoint, if there is one."""
        if not self.checkpoint.exists():
            return
        saved = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        if saved["run"] != self.identity:
            raise ValueError(
                f"{self.checkpoint}: of another recipe or seed ({saved['run']}, asked for "
                f"{self.identity}); remove {self.checkpoint.parent} to train anew"
            )
        self.learner.load_state_dict(saved["learner"])
        for optimiser, state in zip(self.optimisers, saved["optimisers"], strict=True):
            optimiser.load_state_dict(state)
        self.progress = Progress(**json.loads(saved["progress"]))

    def finish(
        self,
        stage: Stage,
        batcher: Batcher,
        evaluate: Callable[[WhisperForConditionalGeneration], float],
    ) -> None:
        """Take the steps of a stage that are left."""
        learner, progress, settings = self.learner, self.progress, self.recipe.optimiser
        batches = batcher.batches(progress.step, full_window_from(stage, settings))
        losses, began = [], time.monotonic()
        while progress.step < stage.steps:
            fraction = schedule(progress.step, stage, settings)
            batch = to_device(next(batches), self.device)
            losses.append(update(learner, self.optimisers, batch, stage, settings, fraction).item())
            progress.step += 1
            if progress.step % self.recipe.checkpoint_every and progress.step < stage.steps:
                continue
            loss = sum(losses) / len(losses)
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"loss {loss} in stage {progress.stage} at step {progress.step}; "
                    f"the last good checkpoint is {self.checkpoint}; lower the learning rate"
                )
            learner.eval()
            error = evaluate(learner.model)
            learner.train()
            progress.seconds += time.monotonic() - began
            entry = {"stage": progress.stage, "step": progress.step, "loss": round(loss, 4)}
            entry |= {"word_error": round(error, 4), "seconds": round(progress.seconds, 1)}
            progress.record.append(entry)
            self.save()
            print(
                f"{self.checkpoint.parent.name} {progress.stage}: step {progress.step} of "
                f"{stage.steps}, loss {loss:.3f}, word error {error:.2f}",
                flush=True,
            )
            losses, began = [], time.monotonic()


def update(
    learner: Learner,
    optimisers: Sequence[torch.optim.Optimizer],
    batch: Batch,
    stage: Stage,
    settings: Optimiser,
    fraction: float,
) -> Tensor:
    """One step on one batch, at a fraction of the stage's learning rate; returns the loss.

    On CUDA products are taken in bfloat16 where autocast allows, weights and losses in float32.
    """
    highest = stage.learning_rate * (REFERENCE_WIDTH / learner.model.config.d_model) ** 0.5
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = highest * group["lr_fraction"] * fraction
    device = batch.features.device.type
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        loss = learner.loss(batch, stage.ctc_weight)
    learner.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(learner.parameters(), settings.clip_norm)
    for optimiser in optimisers:
        optimiser.step()
    return loss.detach()


def full_window_from(stage: Stage, settings: Optimiser) -> int:
    """The step from which on a stage's batches all have the full window, if it ever has it."""
    fraction = settings.full_window_last_share if stage.full_window_share else 0.0
    return int(stage.steps * (1 - fraction))


def schedule(step: int, stage: Stage, optimiser: Optimiser) -> float:
    """The learning rate at a step as a fraction of the highest: linear warm-up, then a cosine."""
    warm = min(1.0, (step + 1) / optimiser.warmup_steps)
    after = max(1, stage.steps - optimiser.warmup_steps)
    done = min(1.0, max(0.0, (step - optimiser.warmup_steps) / after))
    cosine = 0.5 * (1 + math.cos(math.pi * done))
    return warm * (_LAST_LEARNING_RATE + (1 - _LAST_LEARNING_RATE) * cosine)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on ``device``."""
    names = ("features", "inputs", "labels")
    return replace(batch, **{name: getattr(batch, name).to(device) for name in names})


def make_optimisers(learner: Learner, settings: Optimiser) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the matrices of the layers; AdamW for kernels, embeddings, CTC head and vectors."""
    trained = [(name, p) for name, p in learner.named_parameters() if p.requires_grad]
    inner = [p for name, p in trained if ".layers." in name and p.ndim == 2]
    known = {id(p) for p in inner}
    others = [p for _, p in trained if id(p) not in known]
    fraction, decay = settings.adamw_learning_rate_share, settings.weight_decay
    groups = [
        {"params": [p for p in others if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(
        [group | {"lr_fraction": fraction} for group in groups], lr=0.0, betas=_BETAS
    )
    muon = Muon([{"params": inner, "lr_fraction": 1.0}], lr=0.0, weight_decay=decay)
    return muon, adamw
