"""How a frame's patches become rows of the decoder's input: projection, pooling, newlines.

As LLaVA-NeXT does it for video (``llava/model/llava_arch.py``, main branch). Patches are projected
first, then pooled on their grid: ``average`` and ``max`` drop what is left over at the right and at
the bottom (27 patches in a row become 13), ``bilinear`` rounds up (14). The learnt row
``model.image_newline`` then stands

    grid         after every row of the pooled patches: 14 x 15 = 210 rows of a frame
    frame        after every frame
    one_token    once, after the last frame: no part of any frame
    no_token     nowhere

and it is used only where ``mm_patch_merge_type`` begins with "spatial", for ``one_token`` only
where it holds "unpad".
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from vniah.errors import ModelError, short_repr

PoolMode = Literal["average", "max", "bilinear"]
NewlinePosition = Literal["grid", "frame", "one_token", "no_token"]

_USUAL_STRIDE = 2
_MLP = re.compile(r"mlp([1-9]\d?)x_gelu")


@dataclass(frozen=True)
class FrameLayout:
    """How a frame's patches become rows of the decoder's input.

    Attributes:
        side: patches in a row of the tower's grid, and rows of it.
        mode: how patches are pooled.
        stride: how many patches are pooled into one, along each side.
        newline: where the newline row is inserted.
    """

    side: int
    mode: PoolMode = "average"
    stride: int = _USUAL_STRIDE
    newline: NewlinePosition = "no_token"

    @property
    def pooled_side(self) -> int:
        """Pooled patches in a row."""
        share = self.side / self.stride
        return math.ceil(share) if self.mode == "bilinear" else math.floor(share)

    @property
    def num_rows(self) -> int:
        """Rows of one frame, with its newlines."""
        newlines = {"grid": self.pooled_side, "frame": 1}.get(self.newline, 0)
        return self.pooled_side**2 + newlines

    @property
    def has_newline(self) -> bool:
        """True if the newline row is used."""
        return self.newline != "no_token"

    @property
    def description(self) -> str:
        """The layout in words, which is part of a cache's identity."""
        pooling = f"{self.stride}x{self.stride} {self.mode} pooling"
        return pooling + {"grid": ", newline after each row", "frame": ", newline at the end"}.get(
            self.newline, ""
        )

    def rows(self, patches: Tensor, newline: Tensor | None) -> Tensor:
        """The rows of frames: ``[num_frames, num_rows, hidden size]``.

        Args:
            patches: projected, ``[num_frames, side * side, hidden size]``, row by row.
            newline: ``[hidden size]``; may be None if no newline is part of a frame.
        """
        grid = patches.reshape(len(patches), self.side, self.side, -1).permute(0, 3, 1, 2)
        pooled = self._pool(grid).permute(0, 2, 3, 1)  # [frame, row, column, hidden]
        if self.newline == "grid":
            assert newline is not None
            ends = newline.expand(*pooled.shape[:2], 1, -1)
            return torch.cat([pooled, ends], 2).flatten(1, 2)
        rows = pooled.flatten(1, 2)
        if self.newline == "frame":
            assert newline is not None
            return torch.cat([rows, newline.expand(len(rows), 1, -1)], 1)
        return rows.contiguous()

    def _pool(self, grid: Tensor) -> Tensor:
        if self.mode == "average":
            return nn.functional.avg_pool2d(grid, self.stride)
        if self.mode == "max":
            return nn.functional.max_pool2d(grid, self.stride)
        return nn.functional.interpolate(grid, size=(self.pooled_side,) * 2, mode="bilinear")


def read_layout(
    raw: Mapping[str, Any],
    folder: Path,
    *,
    side: int,
    usual_mode: PoolMode | None,
    usual_newline: NewlinePosition,
) -> FrameLayout:
    """The layout that a checkpoint's config.json describes.

    Args:
        raw: the content of config.json.
        folder: the checkpoint's folder, for error messages.
        side: patches in a row of the tower's grid.
        usual_mode: the pooling if config.json names none; None if it has to name one.
        usual_newline: where the newline is inserted if config.json does not say it.

    Raises:
        ModelError: a field has a value that vniah does not read.
    """
    mode: PoolMode | None = raw.get("mm_spatial_pool_mode") or usual_mode
    if mode is None or mode not in get_args(PoolMode):
        raise ModelError(
            f"{folder}/config.json has mm_spatial_pool_mode = {short_repr(mode)}; vniah "
            f"reads {_listed(get_args(PoolMode))}"
        )
    stride = raw.get("mm_spatial_pool_stride")
    stride = _USUAL_STRIDE if stride is None else stride
    if type(stride) is not int or not 1 <= stride <= side:
        raise ModelError(
            f"{folder}/config.json has mm_spatial_pool_stride = {short_repr(stride)}; it must be a "
            f"number from 1 to {side}, the patches in a row of its vision tower"
        )
    return FrameLayout(side, mode, stride, _read_newline(raw, folder, usual=usual_newline))


def _read_newline(
    raw: Mapping[str, Any], folder: Path, *, usual: NewlinePosition
) -> NewlinePosition:
    newline: NewlinePosition = raw.get("mm_newline_position") or usual
    if newline not in get_args(NewlinePosition):
        raise ModelError(
            f"{folder}/config.json has mm_newline_position = {short_repr(newline)}; vniah "
            f"reads {_listed(get_args(NewlinePosition))}"
        )
    merge = str(raw.get("mm_patch_merge_type") or "flat")
    if not merge.startswith("spatial") or (newline == "one_token" and "unpad" not in merge):
        return "no_token"
    return newline


def _listed(values: tuple[str, ...]) -> str:
    return ", ".join(map(repr, values))


def build_projector(
    raw: Mapping[str, Any], folder: Path, tower_width: int, decoder_width: int
) -> nn.Module:
    """The projector, which brings patches to the decoder's width; its weights are not loaded.

    Args:
        raw: the content of config.json.
        folder: the checkpoint's folder, for error messages.
        tower_width: size of a patch's features.
        decoder_width: the decoder's hidden size.

    Raises:
        ModelError: the configured kind is not one that vniah reads.
    """
    kind = raw.get("mm_projector_type", "mlp2x_gelu")
    if kind == "linear":
        return nn.Linear(tower_width, decoder_width)
    mlp = _MLP.fullmatch(str(kind))
    if mlp is None:
        raise ModelError(
            f"{folder}/config.json has mm_projector_type = {short_repr(kind)}; vniah reads "
            "'linear', 'mlp2x_gelu' and the like"
        )
    layers: list[nn.Module] = [nn.Linear(tower_width, decoder_width)]
    for _ in range(1, int(mlp[1])):
        layers += [nn.GELU(), nn.Linear(decoder_width, decoder_width)]
    return nn.Sequential(*layers)
