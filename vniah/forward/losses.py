"""How well a decoder predicts the tokens of a long sequence, in one forward pass.

The logits of all tokens are never held at once: 100,000 tokens and a vocabulary of 150,000 would
have 60 GB of them. What is held is ``[T, H]``, the rows behind the last layer, which are read in
groups.

T tokens, H hidden size.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from vniah.forward.attention import Kernel
from vniah.forward.decoders import logits_of
from vniah.forward.kv_cache import Span
from vniah.forward.prefill import CHUNK_SIZE, prefill

_LOGIT_BYTES = 2**26  # of the logits that are held at once


@torch.inference_mode()
def token_losses(
    decoder: Any,
    hidden: Tensor,
    position_ids: Tensor,
    targets: Tensor,
    *,
    chunk_size: int = CHUNK_SIZE,
    head_rows: int | None = None,
    kernel: Kernel | None = None,
    images: Sequence[Span] = (),
    token_ids: Tensor | None = None,
    add_deepstack: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """The negative log-likelihoods of the last tokens, each given all tokens before it, in nats.

    Where these are all tokens but the first, which nothing predicts, their mean is the loss that
    transformers gives for ``labels = input_ids``.

    Args:
        decoder: as `vniah.forward.prefill.prefill`.
        hidden: input embeddings of the whole sequence, ``[T, H]``; overwritten.
        position_ids: ``[T]``, or ``[3, T]`` for M-RoPE.
        targets: ids of the last tokens of the sequence, ``[n]`` with n from 1 to T - 1.
        chunk_size: as `prefill`.
        head_rows: of how many tokens there are logits at once; by default as many as take 64 MB.
            Changes memory and speed, not the result.
        kernel: as `prefill`.
        images: as `prefill`.
        token_ids: as `prefill`.
        add_deepstack: as `prefill`.

    Returns:
        ``[n]`` fp32, on the CPU; computed in fp32 from the logits, whatever their dtype.

    Raises:
        ModelError: as `prefill`.
    """
    assert 1 <= len(targets) < len(hidden)
    prefill(
        decoder,
        hidden,
        position_ids,
        [],
        chunk_size=chunk_size,
        kernel=kernel,
        images=images,
        token_ids=token_ids,
        add_deepstack=add_deepstack,
        finishes=True,
    )
    if head_rows is None:
        head_rows = max(1, _LOGIT_BYTES // (4 * decoder.lm_head.weight.shape[0]))
    rows, targets = hidden[-len(targets) - 1 : -1], targets.to(hidden.device)
    losses = []
    for start in range(0, len(rows), head_rows):
        group = slice(start, start + head_rows)
        logits = logits_of(decoder, rows[group])
        losses.append(cross_entropy(logits, targets[group], reduction="none"))
    return torch.cat(losses).cpu()
