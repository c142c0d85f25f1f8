"""Positions of M-RoPE: time, height and width of every row (Qwen2-VL, Wang et al. 2024, 2.1).

A row of text has its place in all three. A frame's rows have their own height and width, counted
from where the frame, or the video that it is part of, begins. Text goes on after the largest
position that there was.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vniah.protocol import FrameSpan, Piece, TokenSequence

PositionRows = NDArray[np.int64]


def frames_as_images(sequence: TokenSequence, grid: tuple[int, int]) -> Tensor:
    """Every frame stands for itself, as in Qwen3-VL and GLM-4V: ``[3, num_tokens]``.

    Args:
        sequence: what is read.
        grid: rows and columns of a frame.
    """
    blocks: list[PositionRows] = []
    position = 0
    for piece in sequence.input_pieces:
        if isinstance(piece, FrameSpan):
            num_before, num_after = len(piece.before), len(piece.after)
            behind = num_before + max(grid)
            unit = np.concatenate(
                [_text(0, num_before), num_before + _frame(grid), _text(behind, num_after)], 1
            )
            begins = position + np.arange(piece.num_frames) * (behind + num_after)
            blocks.append((begins[:, None] + unit[:, None]).reshape(3, -1))
            position += piece.num_frames * (behind + num_after)
        else:
            blocks.append(_text(position, len(piece.token_ids)))
            position += len(piece.token_ids)
    return torch.from_numpy(np.concatenate(blocks, 1))


def frames_as_video(sequence: TokenSequence, grid: tuple[int, int], *, interval: int) -> Tensor:
    """Frames that follow one another make up a video, as in Qwen2-VL: ``[3, num_tokens]``.

    Text after it begins behind the largest position of the video, which is its time as soon as it
    is long. transformers 5.23 lets it begin behind the first frame instead, inside of the video's
    own times; 4.57 and the authors' description have it as here.

    Args:
        sequence: what is read.
        grid: rows and columns of a frame.
        interval: positions from one frame to the next.
    """
    blocks: list[PositionRows] = []
    position = begin = number = 0
    was_frame = False
    for piece in _without_text_around(sequence):
        if isinstance(piece, FrameSpan):
            if not was_frame:
                begin, number = position, 0
            times = (number + np.arange(piece.num_frames)) * interval
            rows = np.repeat(_frame(grid)[:, None], piece.num_frames, 1) + begin
            rows[0] += times[:, None]
            blocks.append(rows.reshape(3, -1))
            number += piece.num_frames
            position = max(begin + (number - 1) * interval + 1, begin + max(grid))
        else:
            blocks.append(_text(position, len(piece.token_ids)))
            position += len(piece.token_ids)
        was_frame = isinstance(piece, FrameSpan)
    return torch.from_numpy(np.concatenate(blocks, 1))


def _without_text_around(sequence: TokenSequence) -> Iterator[Piece]:
    """What is read, with the text between frames in pieces of its own."""
    for piece in sequence.input_pieces:
        if isinstance(piece, FrameSpan) and piece.has_text:
            yield from map(piece.part, range(piece.num_parts()))
        else:
            yield piece


def _text(position: int, num_tokens: int) -> PositionRows:
    """Positions of text, ``[3, num_tokens]``."""
    return np.tile(np.arange(position, position + num_tokens, dtype=np.int64), (3, 1))


def _frame(grid: tuple[int, int]) -> PositionRows:
    """Positions of a frame's rows from where it begins, ``[3, rows x columns]``."""
    rows, columns = np.indices(grid).reshape(2, -1)
    return np.stack([np.zeros_like(rows), rows, columns]).astype(np.int64)
