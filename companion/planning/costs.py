"""What a Whisper of some size costs, counted: operations, weights, memory."""

from companion.benchmarks.throughput import SIZES, Size

FRAMES = 1500
"""The encoder's positions, of 30 s whatever the audio."""

POSITIONS = 448
LONGEST = POSITIONS - 4
"""The tokens at which a text is cut off, four of its positions being the prompt's."""

_OTHER_NAMES = {"large": "large-v3", "turbo": "large-v3-turbo"}
_OLD_LARGE = Size(1280, 32, 32)
_FLOAT = 4  # bytes
_HALF = 2


def size_of(name: str) -> Size | None:
    """The true size of one of OpenAI's names, as openai-whisper or transformers call it."""
    plain = name.split("/")[-1].removeprefix("faster-").removeprefix("whisper-").removesuffix(".en")
    if plain in ("large-v1", "large-v2"):
        return _OLD_LARGE
    return SIZES.get(_OTHER_NAMES.get(plain, plain))


def weights(size: Size) -> int:
    """The number of weights, the encoder's fixed positions among them."""
    width = size.width
    encoder = 3 * width * (size.mels + width) + width * (FRAMES + 4)
    encoder += size.encoder_layers * 12 * width * (width + 1)
    decoder = width * (size.vocabulary + POSITIONS + 2)
    return encoder + decoder + size.decoder_layers * width * (16 * width + 17)


def checkpoint_bytes(size: Size) -> int:
    """What a checkpoint weighs: OpenAI publishes half precision."""
    return _HALF * weights(size)


def encoding(size: Size) -> float:
    """Operations of hearing one window: encoder, and keys and values of cross-attention."""
    width = size.width
    convolutions = 6 * FRAMES * width * (2 * size.mels + width)
    layers = size.encoder_layers * (24 * FRAMES * width**2 + 4 * FRAMES**2 * width)
    return convolutions + layers + 4 * size.decoder_layers * FRAMES * width**2


def writing(size: Size) -> float:
    """Operations of one token."""
    layer = 28 * size.width**2 + 4 * FRAMES * size.width
    return size.decoder_layers * layer + 2 * size.vocabulary * size.width


def linearising(size: Size) -> float:
    """Proportional to the operations of all Jacobians at one token: D^3 per layer."""
    return float(size.decoder_layers * size.width**3)


def peak_memory(size: Size, batch: int, jacobians: bool) -> int:
    """Bytes of weights and of a batch of windows, texts of the longest.

    Weights in float32, at loading beside the file's; where Jacobians are measured those of a twin,
    and both decoders in float64. Of a window the widest layer of the encoder (eight numbers per
    position and channel), the keys and values of cross-attention and of the text, and what is
    recorded (eight numbers per token, layer and channel).
    """
    decoder = size.decoder_layers * 16 * size.width**2
    once = (_FLOAT + _HALF) * weights(size)
    if jacobians:
        once = 2 * (_FLOAT * weights(size) + 2 * _FLOAT * decoder)
    window = 8 * FRAMES * size.width
    window += size.decoder_layers * size.width * (2 * FRAMES + 8 * LONGEST)
    return once + batch * _FLOAT * window
