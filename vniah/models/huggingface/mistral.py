"""Mistral 3: every line of a frame ends with a token of text, and the frame with another one.

The processor writes ``[IMG]`` for each token of a line, ``[IMG_BREAK]`` behind every line but the
last, and ``[IMG_END]`` behind the last. The rows of these tokens are those of the embedding table.
They are part of the encoded frame here, so that a frame is all rows that stand between two texts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vniah.errors import ModelError
from vniah.models.huggingface.any_size import AnySize
from vniah.models.huggingface.base import TransformersDecoderModel
from vniah.models.huggingface.folder import FamilyParts
from vniah.models.weights import read_rows

_TABLE = "embed_tokens.weight"
_BREAK, _END = "[IMG_BREAK]", "[IMG_END]"


class Mistral3(AnySize, TransformersDecoderModel):
    """Mistral Small 3.1, Ministral 3 and Mistral Small 4 (2025 and 2026): frames are images."""

    model_class = "Mistral3ForConditionalGeneration"
    placeholder = template_token = "[IMG]"
    is_video = False

    def __init__(self, parts: FamilyParts) -> None:
        self._folder = parts.folder
        vocabulary = parts.tokenizer.get_vocab()
        if missing := {_BREAK, _END} - vocabulary.keys():
            raise ModelError(
                f"the tokenizer has no token {min(missing)!r}, with which this family ends the "
                "lines of its frames"
            )
        self._line_ends = vocabulary[_BREAK], vocabulary[_END]
        super().__init__(parts)

    @property
    def _factor(self) -> int:
        config = self._model.config
        return int(config.vision_config.patch_size * config.spatial_merge_size)

    def _pixels(self, frames: Sequence[Image.Image]) -> Tensor:
        pixels: Tensor = self._image_processor(
            images=list(frames), do_resize=False, return_tensors="pt"
        )["pixel_values"]
        return pixels

    def _encode(self, frames: Sequence[Image.Image]) -> Tensor:
        (height, width), ends = self._grid, self._end_rows()
        encoded = []
        # One by one: the tower would make one sequence of them all, with a mask of its square.
        for pixels in self._pixels(frames).to(self.device, self.dtype):
            size = torch.tensor([pixels.shape[-2:]])
            (rows,) = self._model.get_image_features(pixels[None], size).pooler_output
            lines = torch.cat([rows.view(height, width, -1), ends[:, None]], dim=1)
            encoded.append(lines.flatten(0, 1))
        return torch.stack(encoded)

    def _described_tokens(self) -> int:
        height, width = self._grid
        return height * (width + 1)

    def _end_rows(self) -> Tensor:
        """The row that ends each line, ``[lines, hidden size]``."""
        table: Tensor = self._model.get_input_embeddings().weight
        if not table.is_meta:
            ends = table[list(self._line_ends)]
        else:  # only frames are encoded, and nothing else of the decoder is needed
            assert self._folder is not None
            ends = read_rows(self._folder, _TABLE, self._line_ends)
        num_lines, _ = self._grid
        return ends[[0] * (num_lines - 1) + [1]].to(self.device, self.dtype)

    def _frame_ids(self) -> Tensor:
        height, width = self._grid
        ids = torch.full((height, width + 1), self._mark)
        ids[:, -1] = self._line_ends[0]
        ids[-1, -1] = self._line_ends[1]
        return ids.flatten()

    def _encoder_outputs(self, embeds: Tensor) -> Mapping[str, Any]:
        height, width = self._grid
        lines = embeds.view(len(embeds), height, width + 1, -1)
        rows = lines[:, :, :-1].flatten(0, 2)
        return {"image": BaseModelOutputWithPooling(pooler_output=[rows])}
