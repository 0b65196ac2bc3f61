"""What a rule makes of a model's logits: the token to write, and how probable it was."""

from typing import NamedTuple

import torch
from torch import Tensor

from companion.models.rules import Rule, forbidden
from companion.models.view import SpeechModel


class Choice(NamedTuple):
    """The tokens chosen at one step, each tensor (rows,); log-probabilities in nats, float64.

    log_probability: after the rule's filters, as openai-whisper computes it: of all tokens that
    ``openai`` leaves, under ``unrestricted`` of all tokens there are. text_log_probability: of text
    tokens and the end alone. forbidden_mass: what the model, unfiltered, gives to the tokens that
    ``openai`` forbids at this step, whatever the rule.
    """

    token: Tensor
    log_probability: Tensor
    text_log_probability: Tensor
    forbidden_mass: Tensor


class Chooser:
    """Chooses the most probable token that a rule allows; of equals the one of lowest number."""

    def __init__(self, model: SpeechModel, rule: Rule) -> None:
        self._rule = rule
        self._parts = {first: _Parts(model, rule, first) for first in (True, False)}

    def __call__(self, logits: Tensor, first: bool) -> Choice:
        """From logits (rows, vocabulary), at the ``first`` step of a text or later."""
        parts = self._parts[first]
        # four sums that never overlap, so that none is a difference of nearly equal numbers
        text = logits.double().index_fill(-1, parts.other, -torch.inf).logsumexp(-1)
        unspoken, special, control = (
            logits[:, part].double().logsumexp(-1)
            for part in (parts.unspoken, parts.special, parts.control)
        )
        every = text.logaddexp(unspoken).logaddexp(special).logaddexp(control)
        value, token = logits.index_fill(-1, parts.unwritten, -torch.inf).max(-1)
        return Choice(
            token,
            value.double() - (text.logaddexp(special) if self._rule.forbids else every),
            value.double() - text.logaddexp(unspoken),
            (unspoken.logaddexp(control) - every).exp(),
        )


class _Parts:
    """A vocabulary by what ``openai`` makes of it at one step; all not named here is plain text."""

    def __init__(self, model: SpeechModel, rule: Rule, first: bool) -> None:
        tokens = model.tokens
        never, special = set(forbidden(tokens, first)), set(tokens.suppressed)

        def numbers(chosen: set[int]) -> Tensor:
            return torch.tensor(sorted(chosen), dtype=torch.long, device=model.device)

        self.unspoken = numbers(never - special)
        self.special = numbers(special - never)
        self.control = numbers(special & never)
        self.other = numbers(special | never)
        self.unwritten = numbers(set(rule.unwritten(tokens, first)))
