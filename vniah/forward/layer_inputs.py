"""Inputs of single layers: what a decoder gives each layer of a token, besides the token's row.

Gemma 4 has such inputs in its smaller sizes, as Gemma 3n before it (2025): of every token and for
every layer some numbers, made of the token's id, by an embedding of its own, and of the token's
input embedding, by a projection. For all layers together these are several times as long as the
row itself. So only ids and input embeddings are kept, and the numbers are computed for the rows
that go through a layer.

n rows, P numbers of a token for one layer.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from vniah.errors import ModelError
from vniah.forward.decoders import layer_input_size


@dataclass(frozen=True)
class LayerInputs:
    """What the inputs of all layers are made of, for some rows.

    Attributes:
        body: the decoder's stack of layers.
        embeddings: the rows before the first layer, ``[n, H]``.
        token_ids: whose embedding belongs to each row, ``[n]``; for the rows of a frame the
            decoder's padding token.
    """

    body: Any
    embeddings: Tensor
    token_ids: Tensor

    @classmethod
    def of(cls, body: Any, hidden: Tensor, token_ids: Tensor | None) -> "LayerInputs | None":
        """Those of some rows, with a copy of their embeddings; None for most decoders.

        Args:
            body: the decoder's stack of layers.
            hidden: input embeddings ``[n, H]``, which may be overwritten later.
            token_ids: as above; only read where the decoder needs them.

        Raises:
            ModelError: the decoder needs token ids, and there are none.
        """
        if not layer_input_size(body.config):
            return None
        if token_ids is None:
            raise ModelError(
                f"the decoder {body.config.model_type} gives each of its layers something of every "
                "token's id, and these rows come without; give the model an answer_logits method "
                "instead"
            )
        assert token_ids.shape == hidden.shape[:1]
        return cls(body, hidden.clone(), token_ids.to(hidden.device).long())

    def for_layer(self, index: int, rows: slice | Tensor) -> Tensor:
        """What a layer gets besides some of the rows, ``[n, P]``, or ``[B, n, P]`` for a batch."""
        body, size = self.body, layer_input_size(self.body.config)
        own = slice(index * size, (index + 1) * size)
        table, projection = body.embed_tokens_per_layer, body.per_layer_model_projection
        scale = table.embed_scale.to(table.weight.dtype)
        of_ids = table.weight[self.token_ids[rows], own] * scale
        projected = linear(self.embeddings[rows], projection.weight[own])
        projected = body.per_layer_projection_norm(
            projected * body.per_layer_model_projection_scale
        )
        found: Tensor = (projected + of_ids) * body.per_layer_input_scale
        return found


def joined_ids(parts: "list[Tensor | None]") -> Tensor | None:
    """The token ids of rows that follow one another; None if some are not known."""
    known = [part for part in parts if part is not None]
    return torch.cat(known) if known and len(known) == len(parts) else None
