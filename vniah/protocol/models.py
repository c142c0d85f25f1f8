"""What a model has to be: small protocols, by what it reads and by who runs it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from vniah.errors import ModelError
from vniah.protocol.segments import FrameSegment, TokenSequence

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@runtime_checkable
class VisionLanguageModel(Protocol):
    """The first level: a model that runs one forward pass in its own way.

    Attributes:
        name: for the manifest and the heatmap's title.
        revision: whatever tells two versions of the weights apart.
        frame_shape: shape of one cached frame, e.g. ``(144, 3584)``: tokens x hidden size.
    """

    name: str
    revision: str
    frame_shape: tuple[int, ...]

    def encode_frames(self, frames: "Sequence[np.ndarray]") -> "Tensor":
        """Frames as the language model reads them, ``[num_frames, *frame_shape]``.

        Args:
            frames: RGB pictures, each uint8 ``[height, width, 3]``, at their full size.
        """

    def compose(self, frames: Sequence[FrameSegment], question: str, answer: str) -> TokenSequence:
        """The prompt around the frames: chat template, frames, question; and the answer's tokens.

        Prefix-stable: what it gives for the first k frames does not depend on what follows.
        """

    def answer_logits(self, sequence: TokenSequence, embeds: "Tensor") -> "Tensor":
        """Logits that predict the answer, ``[len(answer_ids), vocabulary]``, in one forward pass.

        Args:
            sequence: what `compose` gave.
            embeds: its frames in reading order, ``[num_frames, *frame_shape]``.
        """


class HasDecoder(Protocol):
    """What vniah needs to run a decoder layer by layer (`vniah.forward.prefill`).

    Attributes:
        decoder: a transformers causal language model such as ``Qwen2ForCausalLM``, or any object
            with its two parts: ``model`` (with ``config``, ``embed_tokens``, ``layers``, ``norm``
            and ``rotary_emb``) and ``lm_head``.

    An attribute ``shares_prefixes = False`` has every sequence run by itself. An attribute
    ``has_causal_positions = True`` promises that no position depends on what follows, so that a
    plan need not compare those of all sequences; a run that finds otherwise ends with an error.
    """

    name: str
    revision: str
    decoder: Any

    def position_ids(self, sequence: TokenSequence) -> "Tensor":
        """Position of every input row: ``[num_tokens]``, or ``[3, num_tokens]`` for M-RoPE.

        A token's position does not depend on what follows it; where it does, nothing is shared.
        """


@runtime_checkable
class DecoderModel(HasDecoder, Protocol):
    """The second level: a model that reads frames, whose decoder vniah runs.

    The same as `VisionLanguageModel`, with a transformers decoder in place of `answer_logits`; its
    attributes are those of `VisionLanguageModel` and `HasDecoder`.
    """

    frame_shape: tuple[int, ...]

    def encode_frames(self, frames: "Sequence[np.ndarray]") -> "Tensor":
        """As `VisionLanguageModel.encode_frames`."""

    def compose(self, frames: Sequence[FrameSegment], question: str, answer: str) -> TokenSequence:
        """As `VisionLanguageModel.compose`."""


@runtime_checkable
class LanguageModel(HasDecoder, Protocol):
    """The second level without pictures: a model that reads text, whose decoder vniah runs.

    Its attributes are those of `HasDecoder`. A model that reads frames as well may have these
    methods besides those of `DecoderModel`.
    """

    def compose_text(self, text: str, answer: str) -> TokenSequence:
        """The tokens of a text, which is the whole prompt, and those of an answer behind it.

        Texts that begin alike begin with equal segments, as far as their tokens are equal.
        """

    def token_ends(self, text: str) -> Sequence[int]:
        """For every token that `compose_text` gives a text, where it ends: the number of characters
        of the text up to there. A token that is not of the text, such as one that begins every
        prompt, ends at 0.
        """


@runtime_checkable
class ChatModel(Protocol):
    """The third level: a model that only answers in words, e.g. behind a server.

    An attribute ``needs_frames = True``, which models of any level may have, says that it cannot be
    asked a question without frames.
    """

    name: str
    revision: str

    def answer(self, frames: "Sequence[np.ndarray]", question: str) -> str:
        """The model's answer to the question about the frames (RGB uint8, in order)."""


def tokens_per_frame(model: "AnyModel") -> int | None:
    """The number of tokens that a model reads for a frame; None for a chat model."""
    frame_shape = getattr(model, "frame_shape", None)
    if frame_shape is None:
        return None
    return int(frame_shape[-2]) if len(frame_shape) > 1 else 1


# Manifests, caches and folder names of version 0.1 hold the names that these classes had then.
_EARLIER_NAMES = {
    "vniah.models.llava.model.LlavaModel": "vniah.models.llava.LlavaModel",
    "vniah.models.server.client.ServerModel": "vniah.models.server.ServerModel",
}


def class_record(model: "AnyModel") -> dict[str, str]:
    """The class of a plug-in model, for the manifest and the identity of caches.

    A model of vniah's own, whose ``encoding`` has an ``adapter`` with a version (``"llava 1"``), is
    recorded by that, so that its class can move; then there is nothing to add here.
    """
    if "adapter" in getattr(model, "encoding", {}):
        return {}
    return {"class": class_path(model)}


def class_path(model: object) -> str:
    """Module and name of an object's class, e.g. ``"my_models.Llava"``, as version 0.1 knew it."""
    path = f"{type(model).__module__}.{type(model).__qualname__}"
    return _EARLIER_NAMES.get(path, path)


# The levels that read cached frames; a chat model reads pictures.
EncodingModel = VisionLanguageModel | DecoderModel
# Those that read tokens, and give logits.
TokenModel = EncodingModel | LanguageModel
AnyModel = TokenModel | ChatModel


def needed_form(name: str, value: object) -> str | None:
    """What an attribute of a model has to be, if its value is something else; None if it is right.

    >>> needed_form("stop_ids", [2])
    'a tuple of token ids'

    Args:
        name: ``"name"``, ``"revision"``, ``"frame_shape"``, ``"max_new_tokens"`` or ``"stop_ids"``.
        value: what the model has.
    """
    if name in ("name", "revision"):
        return None if isinstance(value, str) else "text"
    if name == "max_new_tokens":
        return None if type(value) is int and value >= 1 else "a whole number from 1"
    numbers = value if isinstance(value, tuple) and all(type(n) is int for n in value) else None
    if name == "stop_ids":
        return "a tuple of token ids" if numbers is None else None
    assert name == "frame_shape", name
    return None if numbers and min(numbers) >= 1 else "a tuple of whole numbers from 1"


def require_protocol(model: Any) -> None:
    """Raises `ModelError` unless the object is a model of one of the three levels."""
    if isinstance(model, AnyModel):
        for name in ("name", "revision"):
            value = getattr(model, name)
            if form := needed_form(name, value):
                raise ModelError(
                    f"{name} of a {type(model).__name__} must be {form}, got {value!r}"
                )
        return
    needed = ("name", "revision", "frame_shape", "encode_frames", "compose", "answer_logits")
    missing = [name for name in needed if not hasattr(model, name)]
    raise ModelError(
        f"{type(model).__name__} is not a model: it lacks {', '.join(missing)} "
        "(or decoder and position_ids in place of answer_logits, or answer for a chat model; a "
        "language model without pictures has decoder, position_ids, compose_text and token_ends)"
    )
