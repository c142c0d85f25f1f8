"""The seam to whoever composes sequences: what the forward pass has to know about its input."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from vniah.forward.kv_cache import Span


class SequenceInputs(Protocol):
    """The input of some sequences, which are named by their index from 0.

    A sequence is made of segments, of which the forward pass knows only how many tokens they have
    and which rows they become.

    Attributes:
        num_deepstack_layers: after so many of the decoder's first layers something is added to
            the rows (DeepStack, Meng et al. 2024); 0 for most decoders.
    """

    @property
    def num_deepstack_layers(self) -> int:
        """As above."""

    def size(self, segment: Any, /) -> int:
        """Tokens of a segment."""

    def embed(self, segments: Sequence[Any], start: int, stop: int) -> Tensor:
        """Input embeddings of the tokens ``start`` to ``stop - 1`` of some segments.

        Returns:
            ``[stop - start, H]`` in the decoder's dtype and on its device; the caller may
            overwrite it.
        """

    def add_deepstack(
        self, layer: int, hidden: Tensor, segments: Sequence[Any], start: int, stop: int
    ) -> None:
        """Adds in place what DeepStack adds after a layer.

        Args:
            layer: from 0, below ``num_deepstack_layers``.
            hidden: the rows of the tokens ``start`` to ``stop - 1``, ``[stop - start, H]``.
            segments: what they are tokens of.
            start: the first of the tokens.
            stop: one more than the last.
        """

    def token_ids(self, segments: Sequence[Any], start: int, stop: int) -> Tensor | None:
        """The ids of the tokens ``start`` to ``stop - 1``, if layers get something of them.

        Returns:
            ``[stop - start]``, with the id of the decoder's padding token for the tokens of frames;
            None for most decoders (`vniah.forward.layer_inputs`).
        """

    def images(self, segments: Sequence[Any], /) -> Sequence[Span]:
        """The tokens of each image in some segments, if the rows of an image see one another.

        Returns:
            Counted from the first token of the segments, ascending; empty for most decoders.
        """

    def positions(self, index: int) -> Tensor:
        """Position ids of a whole sequence, ``[T]``, or ``[3, T]`` for M-RoPE."""

    def positions_ahead(self, index: int, num_tokens: int) -> Tensor:
        """Position ids of a sequence's prompt and of ``num_tokens`` tokens that follow it."""

    def num_answer_rows(self, index: int) -> int:
        """How many rows at a sequence's end are read: one for each token of its answer."""


def deepstack_rows(inputs: SequenceInputs, segments: Sequence[Any], like: Tensor) -> Tensor | None:
    """All that DeepStack adds to the rows of some segments.

    Args:
        inputs: knows the segments.
        segments: all of their tokens.
        like: gives dtype, device and H, ``[..., H]``.

    Returns:
        ``[num_deepstack_layers, T, H]``, or None for a decoder without DeepStack.
    """
    if not inputs.num_deepstack_layers:
        return None
    num_tokens = sum(map(inputs.size, segments))
    added = like.new_zeros(inputs.num_deepstack_layers, num_tokens, like.shape[-1])
    for layer, rows in enumerate(added):
        inputs.add_deepstack(layer, rows, segments, 0, num_tokens)
    return added
