"""Rules for `encode_frames`: shape, dtype, and that an embedding depends on its frame alone."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vniah.checks.findings import Examination, Finding, call, note, relative_change, rounding
from vniah.embeddings.batches import require_embeddings
from vniah.engines.agreement import TOLERANCES
from vniah.errors import ModelError
from vniah.needles import NeedleSet


def make_pictures(needles: NeedleSet) -> list[np.ndarray]:
    """Three different pictures, the last of another size; RGB uint8 ``[height, width, 3]``."""
    pictures = (np.array(needle.frames[0]) for needle in needles)
    first = next(pictures)
    second = next((p for p in pictures if not np.array_equal(p, first)), first[::-1, ::-1])
    height = len(first) - len(first) // 3
    return [first, np.ascontiguousarray(second), np.ascontiguousarray(255 - first[:height, ::-1])]


class FrameTrial:
    """A model that encodes frames, and pictures to try it with.

    Args:
        model: the model that is examined.
        pictures: from `make_pictures`.
    """

    def __init__(self, model: Any, pictures: Sequence[np.ndarray]) -> None:
        self.model = model
        self.pictures = pictures

    @cached_property
    def alone(self) -> list[Tensor]:
        """Every picture encoded in a call of its own; should be ``[1, *frame_shape]`` each."""
        return [self.encode([picture]) for picture in self.pictures]

    def encode(self, pictures: Sequence[np.ndarray]) -> Any:
        """The model's result for copies of the pictures."""
        return call(self.model, "encode_frames", [picture.copy() for picture in pictures])


def examine_frames(examination: Examination, trial: FrameTrial) -> bool:
    """Applies all rules; returns True if the encoded frames can be used."""
    return (
        examination.apply(trial, _encodes_each)
        and examination.apply(trial, _is_repeatable)
        and examination.apply(trial, _encodes_several)
        and examination.apply(
            trial, _depends_on_the_frame_alone, _tells_apart, _keeps_pictures, _has_its_dtype
        )
    )


def _encodes_each(trial: FrameTrial) -> Iterator[Finding]:
    shapes = [tuple(e.shape) if isinstance(e, Tensor) else None for e in trial.alone]
    expected = (1, *trial.model.frame_shape)
    if expected in shapes and None not in shapes and len(set(shapes)) > 1:
        other = next(index for index, shape in enumerate(shapes) if shape != expected)
        yield Finding(
            f"encode_frames gives shape {expected} for a frame of "
            f"{_size(trial.pictures[shapes.index(expected)])} pixels, and {shapes[other]} for one "
            f"of {_size(trial.pictures[other])}; bring every frame to one size"
        )
        return
    for encoded in trial.alone:
        require_embeddings(trial.model, encoded, 1)
        if not encoded.is_floating_point():
            yield Finding(f"encode_frames gives {encoded.dtype}; it must be a floating-point dtype")


def _size(picture: np.ndarray) -> str:
    return f"{picture.shape[1]} x {picture.shape[0]}"


def _is_repeatable(trial: FrameTrial) -> Iterator[Finding]:
    first = trial.alone[0]
    found = relative_change(first, trial.encode(trial.pictures[:1]))
    if found > rounding(first):
        yield Finding(
            f"encode_frames gives another result for the same frame in a second call "
            f"(changed by {found:.0%} of its largest value); if it is in training mode, where "
            "dropout is on, call eval()"
        )


def _encodes_several(trial: FrameTrial) -> Iterator[Finding]:
    alike = [trial.pictures[0]] * 3
    require_embeddings(trial.model, trial.encode(alike), 3)
    try:
        require_embeddings(trial.model, trial.encode(trial.pictures), 3)
    except ModelError as error:
        sizes = " and ".join(dict.fromkeys(map(_size, trial.pictures)))
        yield Finding(
            f"encode_frames cannot take frames of different sizes in one call ({sizes} pixels: "
            f"{error}); needles differ in size, so bring every frame to one size by itself"
        )


def _depends_on_the_frame_alone(trial: FrameTrial) -> Iterator[Finding]:
    together = trial.encode(trial.pictures)
    turned = trial.encode([*trial.pictures[1:], trial.pictures[0]])
    by_order = relative_change(together, torch.cat([turned[-1:], turned[:-1]]))
    by_others = relative_change(torch.cat(trial.alone), together)
    if by_order > rounding(together):
        what, found = "in another order", by_order
    elif by_others > rounding(together):
        what, found = "by itself than together with others", by_others
    else:
        return
    yield Finding(
        f"encode_frames gives another result for a frame {what} (changed by {found:.1%} of the "
        "largest value): what is cached would depend on how frames were batched; encode every "
        "frame by itself",
        # A model that computes in half precision and returns float32 differs by about this much.
        is_fatal=found > max(TOLERANCES.values()),
    )


def _tells_apart(trial: FrameTrial) -> Iterator[Finding]:
    if all(torch.equal(one, other) for one, other in pairwise(trial.alone)):
        yield note("encode_frames gives the same for three different pictures")


def _keeps_pictures(trial: FrameTrial) -> Iterator[Finding]:
    given = [picture.copy() for picture in trial.pictures]
    call(trial.model, "encode_frames", given)
    if not all(map(np.array_equal, given, trial.pictures)):
        yield Finding("encode_frames changes the pictures that it is given; let it work on copies")


def _has_its_dtype(trial: FrameTrial) -> Iterator[Finding]:
    stated, found = getattr(trial.model, "dtype", None), trial.alone[0].dtype
    if stated is not None and str(stated).removeprefix("torch.") != str(found)[len("torch.") :]:
        yield note(
            f"dtype is {stated}, but encode_frames gives {found}: the cache and the manifest will "
            "say the first"
        )
