"""Controls with a network's singular values, against what they are said to keep and to lose."""

import numpy as np
import pytest
import torch
from checkpoints import dimensions, random_whisper
from torch import Tensor, nn

from companion.models.capture import COMPONENTS, capture
from companion.models.controls import draw_seed, haar, matrices, spectrum_preserving
from companion.models.decoding import Transcript
from companion.models.forcing import feed
from companion.models.openai_model import OpenAIModel
from companion.models.view import SpeechModel

CPU = torch.device("cpu")
SEED = 5
LIBRARIES = ("transformers", "openai")


@pytest.fixture(scope="module", params=LIBRARIES)
def model(request: pytest.FixtureRequest, tiny: SpeechModel) -> SpeechModel:
    if request.param == "transformers":
        return tiny
    whisper = random_whisper(dimensions(32, 4, 2, 51864, 80))
    with torch.no_grad():
        for name, weight in whisper.named_parameters():
            if name.endswith("bias") or "ln" in name:
                weight.normal_()
    return OpenAIModel("random", whisper)


def state(network: SpeechModel) -> dict[str, Tensor]:
    """All weights, and what else a network is made of, as they are now."""
    module = network.module
    return {
        name: value.detach().clone()
        for name, value in (*module.named_parameters(), *module.named_buffers())
        if not value.is_sparse  # of openai-whisper, which heads align words
    }


def redrawn(network: SpeechModel) -> list[Tensor]:
    return [weight.detach().clone() for weight in matrices(network)]


def test_every_linear_map_and_convolution_keeps_its_singular_values(model: SpeechModel) -> None:
    """Layer by layer: a name that is redrawn is one of a map, and none of these is left out."""
    before = state(model)
    after = state(spectrum_preserving(model, 0, SEED))
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    maps = {
        f"{name}.weight" for name, module in model.module.named_modules()
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d)
    }  # fmt: skip
    assert moved == maps & before.keys() - {"proj_out.weight"}
    assert len(moved) > 20
    for name in moved:
        trained, drawn = (np.linalg.svd(s[name].flatten(1).numpy(), compute_uv=False) for s in
                      (before, after))  # fmt: skip
        np.testing.assert_allclose(trained, drawn, atol=1e-5 * trained[0])


def test_directions_are_forgotten(model: SpeechModel) -> None:
    """The squared cosine between old and new leading singular vectors is 1 / D on average."""
    for side in range(2):
        cosines = []
        for draw in range(8):
            for trained, drawn in zip(
                matrices(model), matrices(spectrum_preserving(model, draw, SEED)), strict=True
            ):
                pair = [torch.linalg.svd(w.detach().flatten(1).double()) for w in (trained, drawn)]
                u, v = ((left.mT if side == 0 else right)[0] for left, _, right in pair)
                cosines.append(len(u) * float(u @ v) ** 2)
        error = np.sqrt(2 / len(cosines))  # of the mean of squared normal variates
        assert abs(np.mean(cosines) - 1) < 4 * error


def test_orthogonal_matrices_are_uniformly_distributed() -> None:
    """Of the orthogonal group: the trace has mean 0 and variance 1, and the square's has mean 1."""
    rng = torch.Generator().manual_seed(0)
    drawn = torch.stack([haar(4, 4, rng) for _ in range(4000)]).double()
    trace = drawn.diagonal(dim1=1, dim2=2).sum(1)
    square = (drawn @ drawn).diagonal(dim1=1, dim2=2).sum(1)
    assert abs(float(trace.mean())) < 4 / 4000**0.5
    assert abs(float(trace.var()) - 1) < 0.1
    assert abs(float(square.mean()) - 1) < 0.1
    tall = haar(6, 3, rng).double()
    torch.testing.assert_close(tall.mT @ tall, torch.eye(3).double(), atol=1e-6, rtol=0)


def test_draws_repeat_differ_and_leave_the_model_and_the_generator_alone(
    model: SpeechModel,
) -> None:
    before, generator = state(model), torch.random.get_rng_state()
    drawn = [
        spectrum_preserving(model, draw, seed)
        for draw, seed in ((0, SEED), (1, SEED), (0, SEED + 1), (0, SEED))
    ]
    for first, second, reseeded, repeated in zip(*map(redrawn, drawn), strict=True):
        assert torch.equal(first, repeated)
        assert (first - second).abs().max() > 1e-3
        assert (first - reseeded).abs().max() > 1e-3
    assert torch.equal(generator, torch.random.get_rng_state())
    after = state(model)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_models_of_one_architecture_have_draws_of_their_own(tiny: SpeechModel) -> None:
    seeds = {
        draw_seed(name, draw, seed) for name in ("a", "b") for draw in (0, 1) for seed in (0, 1)
    }
    assert len(seeds) == 8
    assert draw_seed("/models/a", 1, 2) == draw_seed("a", 1, 2), "wherever it lies"


def test_a_control_hears_and_is_recorded_as_any_network(model: SpeechModel) -> None:
    """Its own components are recorded, not those of the model that it was copied from."""
    time = np.arange(24_000) / 16_000
    wave = (0.3 * np.sin(2 * np.pi * 330 * time)).astype(np.float32)
    text = Transcript("", tuple(model.encode_text("one two three four")))
    recorded = []
    for network in (model, spectrum_preserving(model, 0, SEED)):
        with capture(network) as recording:
            feed(network, [wave], [text])
        recorded.append({part: recording.text_rows(part, [text])[0] for part in COMPONENTS})
    for part in COMPONENTS:
        trained, control = (rows[part] for rows in recorded)
        assert control.shape == trained.shape
        assert control.isfinite().all()
        assert (trained - control).abs().max() > 1e-3
