"""Measures how many operations per second a device computes, on the model's own layer."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from statistics import median
from typing import Any

import torch

from vniah.forward.attention import Kernel, KeyBlock, attend
from vniah.forward.costs import DecoderShape, active_weights
from vniah.forward.offload import layer_on_device, offloaded
from vniah.forward.prefill import CHUNK_SIZE, run_alone
from vniah.forward.prefix_tree import Cost
from vniah.protocol import HasDecoder

_MEASURED_SECONDS = 1.0  # for each rate

_MEASURED_KEYS = 16384

_LONG = 2 * _MEASURED_KEYS + CHUNK_SIZE


@dataclass(frozen=True)
class Rates:
    """Operations per second of a device, a multiplication and an addition being two.

    Attributes:
        linear: for the matrix products of a layer, with everything but attention.
        attention: for a chunk of queries that attends to itself and to the keys before it.
        fetching: bytes per second at which a layer's weights are fetched from host memory; infinite
            where the weights are on the device.
    """

    linear: float
    attention: float
    fetching: float = inf


@torch.inference_mode()
def measure_rates(model: HasDecoder, kernel: Kernel, *, num_tokens: int = _LONG) -> Rates:
    """Measures the rates of the model's device in the model's dtype.

    Args:
        model: the model whose first layer is run.
        kernel: computes the attention.
        num_tokens: length of a sequence; attention is measured for a chunk in its middle.
    """
    body, weight = model.decoder.model, model.decoder.lm_head.weight
    shape = DecoderShape.of(model.decoder)
    chunk = min(CHUNK_SIZE, num_tokens)
    rows = weight.new_empty(chunk, shape.hidden_size).normal_()
    num_earlier = min((num_tokens - chunk) // 2, _MEASURED_KEYS)
    q = weight.new_empty(1, shape.num_heads, chunk, shape.head_dim).normal_()
    keys = (2, 1, shape.num_kv_heads, chunk + num_earlier, shape.head_dim)
    k, v = weight.new_empty(keys).normal_()
    blocks = [KeyBlock(k[:, :, :chunk], v[:, :, :chunk], is_causal=True)]
    if num_earlier:
        blocks.append(KeyBlock(k[:, :, chunk:], v[:, :, chunk:]))
    pairs = Cost.of_rows(num_earlier, chunk).num_pairs
    in_rows = 2 * active_weights(body.layers[0], body.config) * chunk
    in_attention = 4 * shape.num_heads * shape.head_dim * pairs
    scale = shape.head_dim**-0.5
    with layer_on_device(body, 0):
        # As not only the matrix products take time.
        seconds_in_rows = _seconds(lambda: run_alone(model.decoder, 0, rows.clone()), weight.device)
    seconds_in_attention = _seconds(
        lambda: attend(q, blocks, kernel=kernel, scale=scale), weight.device
    )
    return Rates(
        in_rows / seconds_in_rows,
        in_attention / seconds_in_attention,
        _measure_fetching(body, weight.device),
    )


def _measure_fetching(body: Any, device: torch.device) -> float:
    """Bytes per second at which layers are fetched to the device, one after the other."""
    layers = offloaded(body)
    if layers is None or not layers.host_bytes:
        return inf

    def fetch_all() -> None:
        for index in range(len(body.layers)):
            with layer_on_device(body, index):
                pass

    return layers.host_bytes / _seconds(fetch_all, device)


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    """The median duration of a call; the calls go on for a fixed time, after one to warm up."""

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elif device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter()

    call()
    times = [clock()]
    while len(times) < 2 or times[-1] - times[0] < _MEASURED_SECONDS:
        call()
        times.append(clock())
    return median(stop - start for start, stop in pairwise(times))
