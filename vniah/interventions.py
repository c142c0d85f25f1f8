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
    changes.keys_values(lambda layer, keys, values: (_rounded(keys, 127), _rounded(values, 127)))


def int4_keys_values(changes: "Changes") -> None:
    """The same in 4 bits."""
    changes.keys_values(lambda layer, keys, values: (_rounded(keys, 7), _rounded(values, 7)))


def sliding_window(changes: "Changes") -> None:
    """Every token sees itself and the 1,023 before it, in all layers."""
    changes.window(1024)


def _rounded(rows: "Tensor", largest: int) -> "Tensor":
    """Each row by a scale of its own to whole numbers from ``-largest`` to ``largest``."""
    scale = rows.abs().amax(-1, keepdim=True).clamp(min=1e-8) / largest
    return (rows / scale).round() * scale


def every_second_token(changes: "Changes") -> None:
    """Every second token of a frame is dropped, beginning with the second one."""
    changes.frames(lambda frames: frames[:, ::2])
