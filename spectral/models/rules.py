"""Decoding rules: what a model may write, and how much. Rows of two rules are two experiments.

On the same weights and the same noise, Whisper writes "[BLANK_AUDIO]" where every token is allowed,
and an invented sentence where brackets are not.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from spectral.models.view import SpeechModel, Tokens


@dataclass(frozen=True)
class Rule:
    """How texts are decoded.

    ``forbids``: what openai-whisper and transformers forbid by default is forbidden, which is
    non-speech symbols ("(", the music note) and control tokens at every step, and a blank or the
    end at the first; and a text has at most half of the context. Without it, a text is of any text
    tokens, may be empty, and fills the whole context.
    """

    name: str
    forbids: bool

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

RULES: Mapping[str, Rule] = {rule.name: rule for rule in (OPENAI, UNRESTRICTED)}


def rule(name: str) -> Rule:
    """The rule of that name; raises ValueError, with those there are, for another."""
    if name not in RULES:
        raise ValueError(f"decoding is {name!r}; choose from {', '.join(RULES)}")
    return RULES[name]
