"""One batch of pictures through a model's tower, and what identifies the embeddings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vniah.errors import ModelError
from vniah.files import cache_dir, hash_settings, slug
from vniah.protocol import EncodingModel, class_path, class_record

if TYPE_CHECKING:
    import numpy as np

BATCH_SIZE = 16
"""The number of pictures in every batch."""


def encode_batch(
    model: EncodingModel, images: "Sequence[np.ndarray]", *, size: int = BATCH_SIZE
) -> Tensor:
    """Encodes images in a batch of exactly ``size``, filled up with copies of the last image.

    Returns:
        ``[len(images), *frame_shape]`` on the CPU.

    Raises:
        ModelError: the model gives something else than embeddings of this shape.
    """
    filled = [*images, *[images[-1]] * (size - len(images))]
    encoded = model.encode_frames(filled)
    require_embeddings(model, encoded, size)
    return encoded[: len(images)].detach().cpu()


def require_embeddings(model: EncodingModel, encoded: object, num_frames: int) -> None:
    """Raises `ModelError` unless ``encoded`` can be the embeddings of ``num_frames`` frames."""
    if not isinstance(encoded, Tensor):
        raise ModelError(f"encode_frames of {model.name} gave {type(encoded).__name__}, no tensor")
    expected = (num_frames, *model.frame_shape)
    if tuple(encoded.shape) != expected:
        raise ModelError(
            f"encode_frames of {model.name} gave shape {tuple(encoded.shape)} for {num_frames} "
            f"frames; its frame_shape {tuple(model.frame_shape)} makes that {expected}"
        )
    if not torch.isfinite(encoded).all():
        raise ModelError(
            f"encode_frames of {model.name} gave NaN or infinity; try --dtype float32 or bfloat16"
        )


def identity_of(model: EncodingModel, source: Mapping[str, str]) -> dict[str, str]:
    """Everything that determines the embeddings; a model's attribute ``encoding`` adds to it."""
    dtype = getattr(model, "dtype", None)
    own: Mapping[str, str] = getattr(model, "encoding", {})
    return {
        "model": model.name,
        **class_record(model),
        "revision": model.revision,
        "dtype": "as the model gives" if dtype is None else str(dtype).removeprefix("torch."),
        "frame_shape": str(list(model.frame_shape)),
        **{key: str(value) for key, value in own.items()},
        **source,
    }


def default_directory(model: EncodingModel, identity: Mapping[str, str], label: str) -> Path:
    """The folder named by label and identity, or the one that version 0.1 has filled."""
    earlier = {**identity, "class": class_path(model)}
    folder, old = _folder(identity, label), _folder(earlier, label)
    return old if old.is_dir() and not folder.is_dir() else folder


def _folder(identity: Mapping[str, str], label: str) -> Path:
    return cache_dir() / "embeddings" / f"{slug(label)[:80]}-{hash_settings(identity)[:12]}"
