"""What a model has to be: token sequences made of segments, and three small protocols.

Everything that is asked is a `TokenSequence`. Tasks decide which frames are shown and what is
asked; the model decides how it reads them (`compose`). Segments compare by content, so two
sequences share exactly their common leading segments.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from vniah.errors import InputError, ModelError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@dataclass(frozen=True)
class TextSegment:
    """Text that the model reads.

    Attributes:
        token_ids: token ids, in the model's own vocabulary.
    """

    token_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        _require_tuple("the token_ids of a TextSegment", self.token_ids)


@dataclass(frozen=True)
class FrameSegment:
    """One cached picture, named by where it is from.

    Attributes:
        source: what holds it, e.g. ``"haystack/3f2a"`` or ``"needles/cards/red-7"``.
        index: its number in that source, from 0.
    """

    source: str
    index: int


@dataclass(frozen=True)
class TokenSequence:
    """All that one forward pass reads, and the answer that is scored.

    Attributes:
        segments: opening, frames with what stands around them, question: everything before the
            answer, in reading order.
        answer_ids: the tokens of the right answer; the model reads all but the last of them.
    """

    segments: tuple[TextSegment | FrameSegment, ...]
    answer_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        _require_tuple("the segments of a TokenSequence", self.segments)
        _require_tuple("the answer_ids of a TokenSequence", self.answer_ids)
        if not self.segments:
            raise InputError("a token sequence needs at least one segment before the answer")
        if not self.answer_ids:
            raise InputError("a token sequence needs at least one answer token, got none")

    @property
    def frames(self) -> tuple[FrameSegment, ...]:
        """The frames, in the order in which the model reads them."""
        return tuple(s for s in self.segments if isinstance(s, FrameSegment))

    @property
    def inputs(self) -> tuple[TextSegment | FrameSegment, ...]:
        """What goes in: the segments, then all answer tokens but the last."""
        if len(self.answer_ids) == 1:
            return self.segments
        return (*self.segments, TextSegment(self.answer_ids[:-1]))

    def num_tokens(self, tokens_per_frame: int) -> int:
        """Length of the input, with ``tokens_per_frame`` rows for each frame."""
        return sum(
            tokens_per_frame if isinstance(s, FrameSegment) else len(s.token_ids)
            for s in self.inputs
        )


def _require_tuple(what: str, found: object) -> None:
    if not isinstance(found, tuple):
        raise InputError(f"{what} must be a tuple, got {type(found).__name__}")


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


@runtime_checkable
class DecoderModel(Protocol):
    """The second level: vniah runs the decoder layer by layer (`vniah.forward.prefill`).

    The same as `VisionLanguageModel`, with a transformers decoder in place of `answer_logits`.

    Attributes:
        decoder: a transformers causal language model such as ``Qwen2ForCausalLM``, or any object
            with its two parts: ``model`` (with ``config``, ``embed_tokens``, ``layers``, ``norm``
            and ``rotary_emb``) and ``lm_head``.

    An attribute ``shares_prefixes = False`` has every sequence run by itself.
    """

    name: str
    revision: str
    frame_shape: tuple[int, ...]
    decoder: Any

    def encode_frames(self, frames: "Sequence[np.ndarray]") -> "Tensor":
        """As `VisionLanguageModel.encode_frames`."""

    def compose(self, frames: Sequence[FrameSegment], question: str, answer: str) -> TokenSequence:
        """As `VisionLanguageModel.compose`."""

    def position_ids(self, sequence: TokenSequence) -> "Tensor":
        """Position of every input row: ``[num_tokens]``, or ``[3, num_tokens]`` for M-RoPE.

        A token's position does not depend on what follows it; where it does, nothing is shared.
        """


@runtime_checkable
class ChatModel(Protocol):
    """The third level: a model that only answers in words, e.g. behind a server."""

    name: str
    revision: str

    def answer(self, frames: "Sequence[np.ndarray]", question: str) -> str:
        """The model's answer to the question about the frames (RGB uint8, in order)."""


def class_record(model: "AnyModel") -> dict[str, str]:
    """The class of a plug-in model, for the manifest and the identity of caches.

    A model whose ``encoding`` names its adapter and the adapter's version (``"llava 1"``) is
    recorded by that, so that its class can move; then there is nothing to add here.
    """
    if "adapter" in getattr(model, "encoding", {}):
        return {}
    return {"class": class_path(model)}


def class_path(model: object) -> str:
    """Module and name of an object's class, e.g. ``"my_models.Llava"``."""
    return f"{type(model).__module__}.{type(model).__qualname__}"


# The levels that read cached frames; a chat model reads pictures.
EncodingModel = VisionLanguageModel | DecoderModel
AnyModel = EncodingModel | ChatModel


def require_protocol(model: Any) -> None:
    """Raises `ModelError` unless the object is a model of one of the three levels."""
    if isinstance(model, AnyModel):
        for name in ("name", "revision"):
            if not isinstance(getattr(model, name), str):
                raise ModelError(
                    f"{type(model).__name__} has {name} = {getattr(model, name)!r}; it must be text"
                )
        return
    needed = ("name", "revision", "frame_shape", "encode_frames", "compose", "answer_logits")
    missing = [name for name in needed if not hasattr(model, name)]
    raise ModelError(
        f"{type(model).__name__} is not a model: it lacks {', '.join(missing)} "
        "(or decoder and position_ids in place of answer_logits, or answer for a chat model)"
    )
