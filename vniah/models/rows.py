"""Rows of the decoder's input that no token of its vocabulary gives."""

import torch
from torch import Tensor, nn


def append_rows(embed_tokens: nn.Embedding, rows: Tensor) -> nn.Embedding:
    """An embedding table with further rows at its end.

    The row ``i`` of ``rows`` gets the token id ``embed_tokens.num_embeddings + i``. The given table
    is left as it is: a head that shares its weights goes on giving logits for the vocabulary only.

    Args:
        embed_tokens: ``[vocabulary, hidden size]``.
        rows: ``[num_rows, hidden size]``; brought to the table's dtype and device.
    """
    table = embed_tokens.weight
    assert rows.ndim == 2 and rows.shape[1] == table.shape[1], f"rows of shape {tuple(rows.shape)}"
    weight = torch.cat([table.detach(), rows.detach().to(table.device, table.dtype)])
    num_rows, width = weight.shape
    padding = embed_tokens.padding_idx
    return nn.Embedding(num_rows, width, padding_idx=padding, _weight=weight, _freeze=True)
