"""The residual stream before every decoder layer, for a text that is given."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from companion.models.view import SpeechModel, last_logits


@dataclass(frozen=True)
class Streams:
    """What the Jacobian kernels linearise at."""

    context: Tensor  # (1, S, width)
    hidden: tuple[Tensor, ...]  # before each layer, (1, positions, width)
    last: Tensor  # after the last layer, as the final norm takes it, (1, positions, width)
    text: slice  # the positions that predict the text's tokens


@torch.no_grad()
def residual_streams(model: SpeechModel, features: Tensor, tokens: Sequence[int]) -> Streams:
    """Run the decoder over prompt and ``tokens`` at once: features (1, mels, frames).

    A model's own tokens give the streams that it decoded with; another model's give its randomly
    initialised control's at equal length.
    """
    return streams_in(model, model.encode(features), tokens)


@torch.no_grad()
def streams_in(model: SpeechModel, context: Tensor, tokens: Sequence[int]) -> Streams:
    """:func:`residual_streams` where the context (1, S, width) is there."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, arguments: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        seen.append((arguments[0] if arguments else named["hidden_states"]).clone())

    watched = [*(layer.layer for layer in model.layers), model.final_norm]
    handles = [module.register_forward_pre_hook(keep, with_kwargs=True) for module in watched]
    row = torch.tensor([[*model.tokens.prompt, *tokens]], device=model.device)
    try:
        with last_logits(model):
            model.step(row, context, model.new_cache())
    finally:
        for handle in handles:
            handle.remove()
    first = len(model.tokens.prompt) - 1
    return Streams(context, tuple(seen[:-1]), seen[-1], slice(first, first + len(tokens)))
