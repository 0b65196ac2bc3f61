"""The training recipe: what params/training.yml says, as typed values."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Size:
    """The shape of one model of the ladder, how many steps each stage takes it, and seeds.

    ``shuffled_pairs`` makes a control that learns the language and cannot learn to listen.
    """

    width: int
    heads: int
    encoder_layers: int
    decoder_layers: int
    steps: dict[str, int]
    seeds: int
    shuffled_pairs: bool = False


@dataclass(frozen=True)
class Material:
    """What speech the models are trained on."""

    seed: int
    shard_size: int
    word_shards: int
    sentence_shards: int
    jumble_shards: int
    development_utterances: int
    no_speech_clips: int
    noise_share: float
    noise_snr_db: tuple[float, float]


@dataclass(frozen=True)
class Stage:
    """One stage of the curriculum; its learning rate is for width 128."""

    material: list[str]
    batch: int
    learning_rate: float
    ctc_weight: float
    full_window_share: float
    no_speech_share: float
    spec_augment: bool
    steps: int


@dataclass(frozen=True)
class Optimiser:
    """Muon and AdamW with a linear warm-up, a cosine decay and clipped gradients."""

    weight_decay: float
    adamw_learning_rate_share: float
    warmup_steps: int
    clip_norm: float
    full_window_last_share: float


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a trained model of the ladder is."""

    window_seconds: int
    max_target_positions: int
    sizes: dict[str, Size]
    material: Material
    stages: dict[str, dict[str, Any]]
    optimiser: Optimiser
    checkpoint_every: int

    def curriculum(self, size: str) -> dict[str, Stage]:
        """The stages that a model of this size goes through, in order."""
        steps = self.sizes[size].steps
        unknown = set(steps) - set(self.stages)
        if unknown:
            raise KeyError(f"size {size} has steps for {sorted(unknown)}, which are no stages")
        return {
            name: Stage(**stage, steps=steps[name])
            for name, stage in self.stages.items()
            if name in steps
        }

    def of(self, size: str) -> dict[str, Any]:
        """All that decides what a model of this size becomes, apart from seed and machine."""
        shape = asdict(self.sizes[size])
        del shape["seeds"]  # of them a model is one
        if not shape["shuffled_pairs"]:
            del shape["shuffled_pairs"]  # models older than it do not say so
        return {
            "window_seconds": self.window_seconds,
            "shape": shape,
            "stages": {name: asdict(stage) for name, stage in self.curriculum(size).items()},
            "material": asdict(self.material),
            "optimiser": asdict(self.optimiser),
        }


def read_recipe(path: Path) -> Recipe:
    """Read a recipe; raises TypeError naming the file and the unknown or missing key."""
    try:
        raw = yaml.safe_load(path.read_text())
        material = Material(**raw["material"])
        low, high = material.noise_snr_db
        typed = {
            "sizes": {name: Size(**size) for name, size in raw["sizes"].items()},
            "material": replace(material, noise_snr_db=(low, high)),
            "optimiser": Optimiser(**raw["optimiser"]),
        }
        recipe = Recipe(**raw | typed)
        for size in recipe.sizes:
            recipe.curriculum(size)  # now, and not after hours of preparation, for its stages' keys
    except (KeyError, TypeError) as error:
        raise TypeError(f"{path}: {error}; see companion.training.recipe for the keys") from error
    return recipe
