"""Model cards: what each model of the ladder is, how it was made, and what it can and cannot do."""

import json
import os
from pathlib import Path

import pandas as pd

from companion.results.tables import with_interval
from companion.speech.grammar import vocabulary
from companion.speech.synthesis import TRAINING_ACCENTS, TRAINING_VARIANTS

_CARD = """# {name}

A Whisper-architecture model of {parameters:.2f} M parameters, trained from scratch by this project
on speech that it synthesised: a miniature for experiments, no substitute for a speech recogniser.

| | |
|---|---|
| architecture | width {width}, {heads} heads, {encoder} + {decoder} layers (encoder + decoder), \
{window:g} s window, character tokens |
| training data | seeded sentences, jumbled and single words of a {words}-word lexicon, spoken by \
eSpeak NG in {accents} English accents and {variants} voice variants, 40 % of them with added \
noise; clips without speech |
| recipe | `params/training.yml`, size `{size}`: {stages} steps |
| seed | {seed} |
| compute | {minutes:.0f} min on {device}, {threads} thread(s), torch {torch} |
| at the end of training | loss {loss:.3f}, word error {development:.1f} % on held-back sentences |

## Word error on the embedded corpus, clean speech

{results}

## Limits

It has heard nothing but one synthesiser reading one phrase grammar: real voices, other words and
windows longer than {window:g} s are beyond it. Its hallucinations are real, but they are those of a
miniature; no number of it is a number of OpenAI's Whisper.
"""


def write_cards(folders: list[Path], errors: pd.DataFrame, output: Path) -> list[Path]:
    """A Markdown card per model, from its own folder and the rows of ``by_novelty``."""
    output.mkdir(parents=True, exist_ok=True)
    written = []
    for folder in folders:
        training = json.loads((folder / "training.json").read_text())
        config = json.loads((folder / "config.json").read_text())
        own = errors[errors.model == folder.name]
        results = own[["material", "n"]].assign(**{"word error (%)": with_interval(own, "wer", 1)})
        last = training["record"][-1]
        steps: dict[str, int] = {row["stage"]: row["step"] for row in training["record"]}
        text = _CARD.format(
            name=folder.name,
            parameters=training["parameters"] / 1e6,
            width=config["d_model"],
            heads=config["decoder_attention_heads"],
            encoder=config["encoder_layers"],
            decoder=config["decoder_layers"],
            window=config["max_source_positions"] / 50,
            words=len(vocabulary()),
            accents=len(TRAINING_ACCENTS),
            variants=len(TRAINING_VARIANTS),
            stages=", then ".join(f"{count} {name}" for name, count in steps.items()),
            loss=last["loss"],
            development=100 * last["wer"],
            minutes=training["seconds"] / 60,
            results=results.to_markdown(index=False),
            **{name: training[name] for name in ("size", "seed", "device", "threads", "torch")},
        )
        path = output / f"{folder.name}.md"
        part = path.with_suffix(".part")
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
        written.append(path)
    return written
