"""How sure a model was of each token that it wrote."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from companion.models.decoding import Transcript, windows
from companion.models.forcing import forced
from companion.models.view import SpeechModel


@torch.inference_mode()
def token_log_probabilities(
    model: SpeechModel, waves: Sequence[np.ndarray], transcripts: Sequence[Transcript]
) -> list[Tensor]:
    """Natural log-probability of every text token, by utterance: (T,), float64, on the CPU.

    The model is given what it wrote of these waves (samples,). As in ``text_log_probability``,
    what is no text has no probability. A window of text belongs to a window of audio.
    """
    pieces = [piece for wave in waves for piece in windows(wave, model.window_samples)]
    texts = [tokens for transcript in transcripts for tokens in transcript.windows]
    first, longest = len(model.tokens.prompt), max(map(len, texts))
    written = torch.full((len(texts), longest), model.tokens.end)
    for i, tokens in enumerate(texts):
        written[i, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
    written = written.to(model.device)
    context = model.encode(model.features(pieces))
    logits = forced(model, context, [tokens[:-1] for tokens in texts])
    suppressed = torch.tensor(model.tokens.suppressed, dtype=torch.long, device=model.device)
    scores = logits[:, first - 1 :].double().index_fill(-1, suppressed, -torch.inf).log_softmax(-1)
    chosen = iter(scores.gather(-1, written[..., None])[..., 0].cpu())
    return [
        torch.cat([next(chosen)[: len(tokens)] for tokens in transcript.windows])
        for transcript in transcripts
    ]
