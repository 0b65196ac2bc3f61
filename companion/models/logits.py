"""What a rule makes of a model's logits: the token to write, and how probable it was."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from companion.models.rules import Rule, forbidden
from companion.models.view import SpeechModel


class Choice(NamedTuple):
    """The tokens chosen at one step, and their numbers as in ``Transcript``, each (rows,)."""

    token: Tensor
    log_probability: Tensor
    text_log_probability: Tensor
    forbidden_mass: Tensor


class Chooser:
    """Chooses the most probable token that a rule allows; of equals the one of lowest number."""

    def __init__(self, model: SpeechModel, rule: Rule) -> None:
        self._rule = rule
        self._parts = {first: _parts(model, rule, first) for first in (True, False)}

    def __call__(self, logits: Tensor, first: bool, preference: Tensor | None = None) -> Choice:
        """From logits (rows, vocabulary), and what is added to them for the choice alone."""
        other, unwritten, *parts = self._parts[first]
        # four sums that never overlap, so that none is a difference of nearly equal numbers
        text = logits.double().index_fill(-1, other, -torch.inf).logsumexp(-1)
        unspoken, special, control = (logits[:, part].double().logsumexp(-1) for part in parts)
        every = text.logaddexp(unspoken).logaddexp(special).logaddexp(control)
        allowed = logits.index_fill(-1, unwritten, -torch.inf)
        token = (allowed if preference is None else allowed + preference).max(-1).indices
        value = logits.gather(-1, token[:, None])[:, 0]
        return Choice(
            token,
            value.double() - (text.logaddexp(special) if self._rule.forbids else every),
            value.double() - text.logaddexp(unspoken),
            (unspoken.logaddexp(control) - every).exp(),
        )


class Preference:
    """What a rule adds to the logits of each text beside what it forbids at every step.

    Of a temperature t, t times Gumbel noise, so that the largest sum is a sample of softmax of
    logits / t (Gumbel 1954); each row draws by its own seed, whatever the batch. Of ``no_repeat``,
    minus infinity for every token that would repeat a run of the text so far.
    """

    def __init__(self, rule: Rule, seeds: Sequence[int]) -> None:
        self._rule, self._temperature = rule, rule.temperatures[0]
        self._draws = [torch.Generator().manual_seed(seed) for seed in seeds]

    def keep(self, rows: Sequence[int]) -> None:
        self._draws = [self._draws[i] for i in rows]

    def __call__(self, logits: Tensor, texts: Sequence[Sequence[int]]) -> Tensor | None:
        """Of logits (rows, vocabulary) and the tokens so far; None where nothing is added."""
        if not (self._temperature or self._rule.no_repeat):
            return None
        added = torch.zeros_like(logits)
        if self._temperature:
            size = logits.shape[-1]
            drawn = [torch.empty(size).exponential_(generator=draw) for draw in self._draws]
            added -= self._temperature * torch.stack(drawn).log().to(logits)
        for row, text in enumerate(texts if self._rule.no_repeat else ()):
            added[row, repeating(text, self._rule.no_repeat)] = -torch.inf
        return added


def repeating(tokens: Sequence[int], size: int) -> list[int]:
    """The tokens by which the last run of ``size`` tokens would be one that is there already."""
    last = tuple(tokens[len(tokens) - size + 1 :])
    runs = (tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1))
    return sorted({token for *before, token in runs if tuple(before) == last})


def _parts(model: SpeechModel, rule: Rule, first: bool) -> list[Tensor]:
    """Token numbers at one step: all but plain text, and what the rule leaves unwritten.

    Then the first's parts by what ``openai`` makes of them: text that nobody speaks, special tokens
    that it allows, and control tokens.
    """
    tokens = model.tokens
    never, special = set(forbidden(tokens, first)), set(tokens.suppressed)
    unwritten = set(rule.unwritten(tokens, first))
    parts = (special | never, unwritten, never - special, special - never, special & never)
    return [torch.tensor(sorted(part), dtype=torch.long, device=model.device) for part in parts]
