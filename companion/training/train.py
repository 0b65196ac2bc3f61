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
    learner, settings = Learner(model.train()).to(device), recipe.optimiser
    names, shapes = list(stages), {n: list(t.shape) for n, t in learner.state_dict().items()}
    identity = json.dumps({  # what decides the weights of a run, apart from the machine
        "seed": seed,
        "parameters": hashlib.sha256(json.dumps(shapes).encode()).hexdigest()[:12],
        "stages": {name: asdict(stage) for name, stage in stages.items()},
        "material": asdict(recipe.material),
        "optimiser": asdict(settings),
    })  # fmt: skip
    checkpoint, optimisers = folder / "checkpoint.pt", make_optimisers(learner, settings)
    progress = _resumed(checkpoint, identity, learner, optimisers) or Progress(names[0])

    def keep(loss: float, seconds: float) -> None:
        """Evaluate, and write down and save how far the run is."""
        learner.eval()
        began, error = time.monotonic(), evaluate(learner.model)
        learner.train()
        progress.seconds += seconds + time.monotonic() - began
        progress.record.append({
            "stage": progress.stage, "step": progress.step, "loss": round(loss, 4),
            "word_error": round(error, 4), "seconds": round(progress.seconds, 1),
        })  # fmt: skip
        state = {
            "run": identity,
            "learner": learner.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in optimisers],
            "progress": json.dumps(asdict(progress)),
        }
        with whole_or_absent(checkpoint) as place:
            torch.save(state, place)
        print(
            f"{folder.name} {progress.stage}: step {progress.step} of "
            f"{stages[progress.stage].steps}, loss {loss:.3f}, word error {error:.2f}",
            flush=True,
        )

    for name in names[names.index(progress.stage) :]:
        if progress.stage != name:
            progress.stage, progress.step = name, 0
            optimisers = make_optimisers(learner, settings)
        stage = stages[name]
        batches = batchers[name].batches(progress.step, full_window_from(stage, settings))
        losses, began = [], time.monotonic()
        while progress.step < stage.steps:
            fraction = schedule(progress.step, stage, settings)
            batch = to_device(next(batches), device)
            losses.append(update(learner, optimisers, batch, stage, settings, fraction).item())
            progress.step += 1
            if progress.step % recipe.checkpoint_every and progress.step < stage.steps:
                continue
            loss = sum(losses) / len(losses)
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"loss {loss} in stage {name} at step {progress.step}; the last good "
                    f"checkpoint is {checkpoint}; lower the learning rate"
                )
            keep(loss, time.monotonic() - began)
            losses, began = [], time.monotonic()
    return progress


def _resumed(
    checkpoint: Path, identity: str, learner: Learner, optimisers: Sequence[torch.optim.Optimizer]
) -> Progress | None:
    """Where the checkpoint was, with weights and optimisers as they were; None without one."""
    if not checkpoint.exists():
        return None
    saved = torch.load(checkpoint, map_location=learner.ctc.weight.device, weights_only=True)
    if saved["run"] != identity:
        raise ValueError(
            f"{checkpoint}: of another recipe or seed ({saved['run']}, asked for {identity}); "
            f"remove {checkpoint.parent} to train anew"
        )
    learner.load_state_dict(saved["learner"])
    for optimiser, state in zip(optimisers, saved["optimisers"], strict=True):
        optimiser.load_state_dict(state)
    return Progress(**json.loads(saved["progress"]))


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
