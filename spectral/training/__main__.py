"""Train models of the ladder: ``python -m spectral.training --models xs m l --seeds 0``."""

import argparse
from pathlib import Path

import jiwer
import torch
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer

from spectral.models.decoding import greedy
from spectral.models.ladder import (
    FRAMES_PER_SECOND,
    feature_extractor,
    initialise,
    ladder_config,
    save,
)
from spectral.models.tokenizer import character_tokenizer
from spectral.models.transformers_model import TransformersModel
from spectral.training.batches import Batcher
from spectral.training.material import Clips, load, prepare
from spectral.training.recipe import Recipe, read_recipe
from spectral.training.train import train


def main() -> None:
    """Prepare the speech once, then train every model asked for, each resumable."""
    arguments = _arguments()
    recipe = read_recipe(arguments.recipe)
    for size in arguments.models:
        if size not in recipe.sizes:
            known = ", ".join(recipe.sizes)
            raise SystemExit(f"{arguments.recipe}: no size {size!r}; choose from {known}")
    torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer, extractor = character_tokenizer(), feature_extractor(recipe.window_seconds)
    material = arguments.build / "material"
    prepare(material, recipe.material, extractor)
    for size in arguments.models:
        for seed in arguments.seeds:
            _train_one(arguments, recipe, size, seed, tokenizer, extractor, device)


def _train_one(
    arguments: argparse.Namespace,
    recipe: Recipe,
    size: str,
    seed: int,
    tokenizer: WhisperTokenizer,
    extractor: WhisperFeatureExtractor,
    device: torch.device,
) -> None:
    name = f"{size}-{seed}"
    target = arguments.ladder / name
    if (target / "SHA256SUMS").exists():
        print(f"{name}: already trained, in {target}")
        return
    shape = recipe.sizes[size]
    config = ladder_config(
        width=shape.width,
        heads=shape.heads,
        encoder_layers=shape.encoder_layers,
        decoder_layers=shape.decoder_layers,
        window_seconds=recipe.window_seconds,
        max_target_positions=recipe.max_target_positions,
        tokenizer=tokenizer,
    )
    model = initialise(config, seed)
    print(f"{name}: {model.num_parameters() / 1e6:.2f} M parameters, on {device}", flush=True)
    material = arguments.build / "material"
    no_speech, sentences = load(material, "no_speech"), load(material, "sentences")
    kept = len(sentences.texts) - recipe.material.development_utterances
    development = _part(sentences, slice(kept, None))
    stages = recipe.curriculum(size)
    kinds = {kind for stage in stages.values() for kind in stage.material} - {"sentences"}
    clips = {kind: load(material, kind) for kind in kinds}
    clips["sentences"] = _part(sentences, slice(0, kept))
    full_window = recipe.window_seconds * FRAMES_PER_SECOND
    batchers = {
        name: Batcher(
            _joined([clips[kind] for kind in stage.material]),
            no_speech, stage, tokenizer, full_window, seed,
        )
        for name, stage in stages.items()
    }  # fmt: skip
    features = torch.stack(
        [
            torch.nn.functional.pad(
                torch.from_numpy(mel.astype("float32")),
                (0, full_window - mel.shape[1]),
                value=silence,
            )
            for mel, silence in zip(development.mels, development.silence, strict=True)
        ]
    ).to(device)

    def word_error(trained: WhisperForConditionalGeneration) -> float:
        view = TransformersModel(name, trained, tokenizer, extractor)
        said = [transcript.text for transcript in greedy(view, features)]
        return float(jiwer.wer(development.texts, said))

    folder = arguments.build / name
    folder.mkdir(parents=True, exist_ok=True)
    progress = train(model, batchers, stages, recipe, folder, word_error, seed, device)
    record = {
        "size": size,
        "seed": seed,
        "device": str(device),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "seconds": round(progress.seconds),
        "parameters": model.num_parameters(),
        "recipe": recipe.of(size),
        "record": progress.record,
    }
    save(target, model.cpu(), tokenizer, extractor, record)
    print(f"{name}: saved to {target}", flush=True)


def _joined(parts: list[Clips]) -> Clips:
    return Clips(
        [mel for part in parts for mel in part.mels],
        [text for part in parts for text in part.texts],
        [silence for part in parts for silence in part.silence],
    )


def _part(clips: Clips, part: slice) -> Clips:
    return Clips(clips.mels[part], clips.texts[part], clips.silence[part])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m spectral.training", description=__doc__)
    parser.add_argument("--models", nargs="+", default=["xs"], help="sizes of the recipe")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--recipe", type=Path, default=Path("params/training.yml"))
    parser.add_argument("--build", type=Path, default=Path("build/training"))
    parser.add_argument("--ladder", type=Path, default=Path("data/ladder"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


if __name__ == "__main__":
    main()
