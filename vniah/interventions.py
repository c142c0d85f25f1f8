"""Interventions to begin with: ``--apply vniah.interventions:int8_keys_values``.

Each is a function of a `vniah.engines.interventions.Changes`, and a pattern for one of your own.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from vniah.engines.interventions import Changes


def nothing(changes: "Changes") -> None:
    """Changes nothing: the difference has to be 0."""


def int8_keys_values(changes: "Changes") -> None:
    """Keys and values in 8 bits and back, with a scale for each token and key head."""

    def rounded(rows: "Tensor") -> "Tensor":
        scale = rows.abs().amax(-1, keepdim=True).clamp(min=1e-8) / 127
        return (rows / scale).round() * scale

    changes.keys_values(lambda layer, keys, values: (rounded(keys), rounded(values)))


def every_second_token(changes: "Changes") -> None:
    """Every second token of a frame is dropped, beginning with the second one."""
    changes.frames(lambda frames: frames[:, ::2])
