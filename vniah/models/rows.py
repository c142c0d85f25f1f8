"""Rows of a decoder's input that no token gives, such as the one that ends a video."""

import torch
from torch import Tensor, nn


def append_rows(embed_tokens: nn.Embedding, rows: Tensor) -> nn.Embedding:
    """The table with further rows at its end; their ids go on from ``num_embeddings``.

    A head that is tied to the table keeps the old one.

    Args:
        embed_tokens: ``[vocabulary, hidden size]``.
        rows: ``[n, hidden size]``.
    """
    weight = torch.cat([embed_tokens.weight, rows.to(embed_tokens.weight)])
    num_rows, width = weight.shape
    table = nn.Embedding(num_rows, width, _weight=weight.detach())
    return table.requires_grad_(False)
