"""Positions of M-RoPE: time, height and width of every row (Qwen2-VL, Wang et al. 2024, 2.1).

A row of text has its place in all three. A frame's rows have their own height and width, counted
from where the frame, or the video that it is part of, begins. Text goes on after the largest
position that there was.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vniah.protocol import FrameSegment, TextSegment, TokenSequence


def frames_as_images(sequence: TokenSequence, grid: tuple[int, int]) -> Tensor:
    """Every frame stands for itself, as in Qwen3-VL and GLM-4V: ``[3, num_tokens]``.

    Args:
        sequence: what is read.
        grid: rows and columns of a frame.
    """
    starts, position = [], 0
    for segment in sequence.inputs:
        starts.append(position)
        position += max(grid) if isinstance(segment, FrameSegment) else len(segment.token_ids)
    return _fill(sequence.inputs, starts, starts, grid)


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
    times, places = [], []
    position = begin = number = 0
    was_frame = False
    for segment in sequence.inputs:
        is_frame = isinstance(segment, FrameSegment)
        if is_frame and not was_frame:
            begin, number = position, 0
        times.append(begin + number * interval if is_frame else position)
        places.append(begin if is_frame else position)
        if isinstance(segment, TextSegment):
            position += len(segment.token_ids)
        else:
            position = max(times[-1] + 1, begin + max(grid))
            number += 1
        was_frame = is_frame
    return _fill(sequence.inputs, times, places, grid)


def _fill(
    segments: Sequence[TextSegment | FrameSegment],
    times: Sequence[int],
    places: Sequence[int],
    grid: tuple[int, int],
) -> Tensor:
    """Rows of positions from those at which the segments begin."""
    height, width = grid
    is_frame = np.array([isinstance(segment, FrameSegment) for segment in segments], bool)
    lengths = np.array(
        [height * width if isinstance(s, FrameSegment) else len(s.token_ids) for s in segments],
        np.int64,
    )
    first = np.cumsum(lengths) - lengths
    inside = np.arange(int(lengths.sum())) - np.repeat(first, lengths)
    of_frame = np.repeat(is_frame, lengths)
    time = np.repeat(np.array(times, np.int64), lengths) + np.where(of_frame, 0, inside)
    place = np.repeat(np.array(places, np.int64), lengths)
    rows = place + np.where(of_frame, inside // width, inside)
    columns = place + np.where(of_frame, inside % width, inside)
    return torch.from_numpy(np.stack([time, rows, columns]))
