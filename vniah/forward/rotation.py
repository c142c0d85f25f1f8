"""The angles by which RoPE rotates queries and keys, of all rows of a pass.

A decoder rotates by one set of angles, or by one for each kind of layer (Gemma 3). A set is a
cosine and a sine for each number of a head that is rotated, or one complex number for each pair
(Llama 4); a decoder may have none. Angles of main rows are computed in blocks, in fp32.

n rows, P numbers: those of a head that are rotated, or half as many complex ones.
"""

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from vniah.forward.decoders import reset_dynamic_rope
from vniah.forward.kv_cache import Span

# Rows whose angles are computed at once.
ROPE_BLOCK = 16384

Angles = Mapping[str, Tensor]
"""For each kind of layer its angles: ``[2, 1, n, P]`` cosines and sines, or ``[1, 1, n, P]``."""


def rotate(
    body: Any,
    layer_types: Sequence[str],
    hidden: Tensor,
    position_ids: Tensor,
    start: int,
    spans: Sequence[Span],
    others: Sequence[Tensor],
) -> tuple[Angles, Angles]:
    """The angles of this process's main rows, and of all others.

    Args:
        body: the decoder's stack of layers.
        layer_types: of all layers.
        hidden: a tensor of the rows' dtype and on their device.
        position_ids: of all main rows, ``[T]`` or ``[3, T]``.
        start: number of tokens before the main rows.
        spans: the tokens of this process's main rows.
        others: position ids of the rows that are no main rows.
    """
    rotary = getattr(body, "rotary_emb", None)
    if rotary is None:
        return {}, {}
    reset_dynamic_rope(body)
    if "layer_type" not in signature(rotary.forward).parameters:
        of_main, of_others = _rotate(rotary, hidden, position_ids, start, spans, others)
        return dict.fromkeys(layer_types, of_main), dict.fromkeys(layer_types, of_others)
    main, rest = {}, {}
    for kind in rotary.layer_types:

        def rotary_of(x: Tensor, positions: Tensor, kind: str = kind) -> Any:
            return rotary(x, positions, kind)

        main[kind], rest[kind] = _rotate(rotary_of, hidden, position_ids, start, spans, others)
    return main, rest


def num_angles(body: Any) -> int:
    """How many cosines and sines there are for a token, in all sets; a complex number is two."""
    rotary = getattr(body, "rotary_emb", None)
    if rotary is None:
        return 0
    names = [f"{kind}_inv_freq" for kind in getattr(rotary, "layer_types", ())] or ["inv_freq"]
    return sum(4 * int(getattr(rotary, name).numel()) for name in names)


def _rotate(
    rotary: Callable[[Tensor, Tensor], Any],
    hidden: Tensor,
    position_ids: Tensor,
    start: int,
    spans: Sequence[Span],
    others: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    num_main, device = position_ids.shape[-1], hidden.device
    positions = torch.cat([position_ids, *others], -1).to(device)
    own = [torch.arange(*span, device=device) - start for span in spans]
    rows = torch.cat(own).clamp(max=max(0, num_main - 1))  # padding gets the last row's position
    # The largest position goes with every block: some kinds of RoPE look at the largest of a call.
    last = positions.view(-1, positions.shape[-1]).amax(0).argmax()

    def angles(columns: Tensor) -> Tensor:
        part = positions[..., torch.cat([columns, last[None]])]
        shaped = part[None] if part.ndim == 1 else part[:, None]
        found = rotary(hidden[None], shaped)
        return torch.stack(found if isinstance(found, tuple) else (found,))[:, :, :-1]

    of_others = angles(torch.arange(num_main, positions.shape[-1], device=device))
    of_main = of_others.new_empty(*of_others.shape[:2], len(rows), of_others.shape[-1])
    for first in range(0, len(rows), ROPE_BLOCK):
        block = slice(first, first + ROPE_BLOCK)
        of_main[:, :, block] = angles(rows[block])
    return of_main, of_others


def rows_of(angles: Angles, rows: slice) -> Angles:
    """The angles of some rows; those that kinds share are still shared."""
    cut: dict[int, Tensor] = {id(x): x[:, :, rows] for x in angles.values()}
    return {kind: cut[id(x)] for kind, x in angles.items()}
