"""Decoding rules: what a model may write, and how much. Rows of two rules are two experiments.

On the same weights and the same noise, Whisper writes "[BLANK_AUDIO]" where every token is allowed,
and an invented sentence where brackets are not.

openai-whisper's `decode` of a padded window gives the same tokens as `openai`. transformers'
`generate` forbids the same by a checkpoint's generation_config.json, and differs in its limit: it
fills the whole context where openai-whisper stops at half. openai-whisper's `transcribe` pads the
log-mel with zeros and not the audio with silence, so that its rules hear the rest of a window
differently.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from companion.models.view import SpeechModel, Tokens


@dataclass(frozen=True)
class Rule:
    """How texts are decoded.

    ``forbids``: what openai-whisper and transformers forbid by default is forbidden, which is
    non-speech symbols ("(", the music note) and control tokens at every step, and a blank or the
    end at the first; and a text has at most half of the context. Without it, a text is of any text
    tokens, may be empty, and fills the whole context. What remains is openai-whisper's
    ``transcribe``, which decodes such texts itself, window by window; ``timestamps``: the next
    window begins where the last whole segment ended; ``temperatures``: tried in turn while a text
    is too repetitive or improbable, and silence is skipped, by its own thresholds;
    ``previous_text``: each window is given the text so far. A single temperature above zero is
    sampled at here. ``no_repeat``: no run of so many tokens is written twice, as transformers'
    ``no_repeat_ngram_size`` has it; 0 for any.
    """

    name: str
    forbids: bool
    timestamps: bool = False
    temperatures: tuple[float, ...] = (0.0,)
    previous_text: bool = False
    no_repeat: int = 0

    @property
    def by_library(self) -> bool:
        """Whether openai-whisper itself decodes, so that nothing is recorded meanwhile."""
        return self.timestamps or self.previous_text or len(self.temperatures) > 1

    @property
    def options(self) -> dict[str, Any]:
        """The options of ``transcribe``."""
        once = len(self.temperatures) == 1
        thresholds = ("compression_ratio_threshold", "logprob_threshold", "no_speech_threshold")
        return {
            "temperature": self.temperatures,
            "without_timestamps": not self.timestamps,
            "condition_on_previous_text": self.previous_text,
            **{name: None for name in thresholds if once},
        }

    def limit(self, model: SpeechModel) -> int:
        """How many tokens a model may write after its prompt."""
        context = model.limit + len(model.tokens.prompt)
        return min(context // 2, model.limit) if self.forbids else model.limit

    def unwritten(self, tokens: Tokens, first: bool) -> tuple[int, ...]:
        """The tokens that may not be chosen, at the ``first`` step or later."""
        return forbidden(tokens, first) if self.forbids else tokens.suppressed


def forbidden(tokens: Tokens, first: bool) -> tuple[int, ...]:
    """What openai-whisper forbids by default, at the ``first`` step of a text or later."""
    beginning = (*tokens.blank, tokens.end) if first else ()
    return tuple(sorted({*tokens.non_speech, *tokens.control, *beginning}))


OPENAI = Rule("openai", forbids=True)
"""openai-whisper's default without timestamps: what users run."""

UNRESTRICTED = Rule("unrestricted", forbids=False)
"""Every text token, at every step: what the ladder is measured with."""

_TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)

RULES: Mapping[str, Rule] = {
    rule.name: rule
    for rule in (
        OPENAI,
        UNRESTRICTED,
        Rule("timestamps", forbids=True, timestamps=True),
        Rule("temperatures", forbids=True, temperatures=_TEMPERATURES),
        Rule("previous-text", forbids=True, timestamps=True, previous_text=True),
        Rule("transcribe", True, True, _TEMPERATURES, True),
    )
}
"""By name; the last is all that openai-whisper's ``transcribe`` does by default."""


def rule(name: str) -> Rule:
    """The rule of that name; raises ValueError, with those there are, for another."""
    if name not in RULES:
        raise ValueError(f"decoding is {name!r}; choose from {', '.join(RULES)}")
    return RULES[name]


def recorded(rule: Rule) -> Rule:
    """The rule itself; raises ValueError for one under which nothing inside can be recorded."""
    if rule.by_library:
        raise ValueError(
            f"decoding is {rule.name!r}, by which openai-whisper itself decodes: texts alone are "
            f"measured, by listening; choose {OPENAI.name} or {UNRESTRICTED.name}"
        )
    return rule
