"""Decoder layers whose weights stay in host memory and are copied to the device in turn.

vniah's forward pass takes all rows through layer 0, then all through layer 1, so it needs every
layer's weights once. They are copied to the device when their layer is called; on CUDA the next
layer is copied while the present one computes. The device never holds more than two buffers, each
as large as a layer.

A layer finds its weights on the device whoever calls it: vniah's forward pass or the decoder's own.
Between two calls the decoder holds the weights in host memory, also after an error. Results are the
same to the last bit, as the same is computed on the same device from the same weights.

Only one thread at a time may use such a decoder, and it must not be moved or cast.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vniah.errors import ModelError
from vniah.forward.devices import USABLE, free_bytes, shares_host_memory
from vniah.options import Offload

# Of the memory that a run may take; the rest is for passes and frames.
_SHARE_FOR_WEIGHTS = 0.8

_ATTRIBUTE = "vniah_fetched_layers"
_ALIGNMENT = 256  # bytes; a multiple of the alignment of tensors that torch allocates on CUDA


class FetchedLayers(Protocol):
    """Layers whose weights lie elsewhere and are fetched in turn, each when it is called.

    From host memory (`OffloadedLayers`), or also from other processes
    (`vniah.forward.sharding.ShardedLayers`).
    """

    @property
    def device_bytes(self) -> int:
        """What they take on the device between two passes."""

    @property
    def pass_bytes(self) -> int:
        """What they take on the device besides, during a pass."""

    @property
    def host_bytes(self) -> int:
        """What they take in host memory."""

    @property
    def num_ranks(self) -> int:
        """Number of processes that share their weights; 1 where each has all of them."""

    def enter(self, index: int) -> None:
        """Has a layer use its weights on the device."""

    def leave(self, index: int) -> None:
        """Ends a call of a layer."""

    def release(self) -> None:
        """Ends a pass."""


def offload_layers(
    body: nn.Module, device: torch.device, layers: "FetchedLayers | None" = None
) -> None:
    """Has a decoder's layers keep their weights in host memory and compute on a device.

    Args:
        body: the decoder's stack of layers (``decoder.model``). The layers may be anywhere; all
            else that it holds must be on the device.
        device: the device on which the layers compute.
        layers: in place of all of the body's layers.
    """
    assert offloaded(body) is None
    found = layers or OffloadedLayers(body.layers, device)  # type: ignore[arg-type]
    setattr(body, _ATTRIBUTE, found)


def offloaded(body: Any) -> "FetchedLayers | None":
    """The layers of a decoder whose weights lie elsewhere; None if all are on the device."""
    found: FetchedLayers | None = getattr(body, _ATTRIBUTE, None)
    return found


@contextmanager
def released_after_pass(body: Any) -> Iterator[None]:
    """A block after which a decoder holds no more of its layers than between two passes."""
    try:
        yield
    finally:
        layers = offloaded(body)
        if layers is not None:
            layers.release()


@contextmanager
def layer_on_device(body: Any, index: int) -> Iterator[Any]:
    """A layer with its weights on the device, so that its parts can be called one by one."""
    layers, layer = offloaded(body), body.layers[index]
    if layers is None:
        yield layer
        return
    layers.enter(index)
    try:
        yield layer
    finally:
        layers.leave(index)


def keeps_in_host(
    offload: Offload,
    modules: Iterable[nn.Module],
    device: torch.device,
    dtype: torch.dtype,
    *,
    elsewhere: int = 0,
) -> bool:
    """Whether a decoder's layers are to stay in host memory.

    Args:
        offload: ``"auto"`` keeps them there if all weights would leave too little for a pass on a
            device that has a memory of its own.
        modules: everything that would be on the device; may be on the meta device.
        device: where they compute.
        dtype: of their weights.
        elsewhere: how many of these weights other processes hold.
    """
    if offload != "auto":
        return offload == "always"
    if shares_host_memory(device):
        return False
    num_weights = sum(p.numel() for module in modules for p in module.parameters()) - elsewhere
    return num_weights * dtype.itemsize > free_bytes(device) * USABLE * _SHARE_FOR_WEIGHTS


def require_host_room(layers: nn.Module, dtype: torch.dtype) -> None:
    """Raises `ModelError` unless the host has room for layers, which may be on the meta device."""
    needed = sum(p.numel() for p in layers.parameters()) * dtype.itemsize
    free = free_bytes(torch.device("cpu"))
    if needed > free * USABLE:
        raise ModelError(
            f"the decoder's layers take {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free in "
            "the memory of the host; use --load-in 4bit, or a larger machine"
        )


def move_all_but_layers(model: nn.Module, layers: nn.Module, device: torch.device) -> None:
    """Moves all parameters and buffers to a device, except for those of the decoder's layers."""
    inside = {id(module) for module in layers.modules()}
    moved: dict[int, nn.Parameter] = {}  # weights that are tied stay tied
    for module in model.modules():
        if id(module) in inside:
            continue
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if id(parameter) not in moved:
                    there = parameter.detach().to(device)
                    moved[id(parameter)] = nn.Parameter(there, parameter.requires_grad)
                module._parameters[name] = moved[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(device)


class OffloadedLayers:
    """The weights of all layers in host memory, and two places for them on the device.

    Args:
        layers: the decoder's; from now on a call of one finds its weights on the device.
        device: where they compute.
    """

    def __init__(self, layers: Iterable[nn.Module], device: torch.device) -> None:
        self.device = device
        self.num_fetched = 0
        self._layers = [_HostLayer(layer, is_pinned=device.type == "cuda") for layer in layers]
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        size = max(layer.num_bytes for layer in self._layers)
        self._latest, self._next = _Slot(size, device), _Slot(size, device)
        for index, layer in enumerate(layers):
            layer.register_forward_pre_hook(_without_arguments(partial(self.enter, index)))
            layer.register_forward_hook(
                _without_arguments(partial(self.leave, index)), always_call=True
            )

    @property
    def host_bytes(self) -> int:
        """What lies in host memory."""
        return sum(layer.num_bytes for layer in self._layers)

    @property
    def device_bytes(self) -> int:
        """What both places on the device take."""
        return self._latest.buffer.nbytes + self._next.buffer.nbytes

    @property
    def pass_bytes(self) -> int:
        """0: both places are there between two passes as well."""
        return 0

    @property
    def num_ranks(self) -> int:
        """1: the process has all of their weights."""
        return 1

    @property
    def held(self) -> tuple[int, ...]:
        """Which layers' weights are on the device, or on their way to it."""
        return tuple(s.index for s in (self._latest, self._next) if s.index is not None)

    def enter(self, index: int) -> None:
        """Has a layer use its weights on the device; begins to fetch those of the next one."""
        if self._latest.index != index:
            if self._next.index != index:
                self._fetch(index)
            self._latest, self._next = self._next, self._latest
            if self._latest.is_ready is not None:
                torch.cuda.current_stream(self.device).wait_event(self._latest.is_ready)
            if index + 1 < len(self._layers) and self._next.index != index + 1:
                self._fetch(index + 1)
        self._layers[index].use(self._latest.views)

    def leave(self, index: int) -> None:
        """Points the parameters of a layer to its weights in host memory again."""
        self._layers[index].put_back()

    def release(self) -> None:
        """Nothing: the weights of the last layers stay in both places."""

    def _fetch(self, index: int) -> None:
        """Copies a layer's weights into the buffer whose layer was computed last but one."""
        layer, slot = self._layers[index], self._next
        slot.index = None  # if the copy fails, the buffer must not be taken for its old layer
        target = slot.buffer[: layer.num_bytes]
        if self._stream is None:
            target.copy_(layer.flat)
        else:
            # The copy waits for all work that was queued so far, which may still read this buffer.
            self._stream.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(self._stream):
                target.copy_(layer.flat, non_blocking=True)
                slot.is_ready = self._stream.record_event()
        slot.index, slot.views = index, layer.views(slot.buffer)
        self.num_fetched += 1


class _Slot:
    """A place on the device for the weights of one layer."""

    def __init__(self, num_bytes: int, device: torch.device) -> None:
        self.buffer = torch.empty(num_bytes, dtype=torch.uint8, device=device)
        self.index: int | None = None
        self.views: list[Tensor] = []
        self.is_ready: torch.cuda.Event | None = None


class _HostLayer:
    """A layer's weights in one piece of host memory, and where in the layer they belong.

    Args:
        layer: its tensors are moved.
        is_pinned: has the memory locked, so that copies run beside the device's work.
    """

    def __init__(self, layer: nn.Module, *, is_pinned: bool) -> None:
        self._homes: list[tuple[dict[str, Any], str]] = [
            (held, name)
            for module in layer.modules()
            for held in (module._parameters, module._buffers)
            for name, tensor in held.items()
            if tensor is not None
        ]
        tensors = [held[name] for held, name in self._homes]
        sizes = [-(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT for tensor in tensors]
        starts = accumulate(sizes, initial=0)
        self._spans = [
            (slice(start, start + tensor.nbytes), tensor.dtype, tensor.shape)
            for start, tensor in zip(starts, tensors, strict=False)
        ]
        self.num_bytes = sum(sizes)
        self.flat = torch.empty(self.num_bytes, dtype=torch.uint8, pin_memory=is_pinned)
        self._own: list[Tensor] = []
        for tensor, view in zip(tensors, self.views(self.flat), strict=True):
            view.copy_(tensor.detach())
            is_parameter = isinstance(tensor, nn.Parameter)
            self._own.append(nn.Parameter(view, tensor.requires_grad) if is_parameter else view)
        self.put_back()

    def views(self, buffer: Tensor) -> list[Tensor]:
        """The layer's tensors in a buffer that is laid out like `flat`."""
        return [buffer[span].view(dtype).view(shape) for span, dtype, shape in self._spans]

    def use(self, tensors: Iterable[Tensor]) -> None:
        """Has the layer compute with tensors in the order of `views`."""
        for (held, name), tensor in zip(self._homes, tensors, strict=True):
            held[name] = tensor

    def put_back(self) -> None:
        """Has the layer hold its own weights."""
        self.use(self._own)


def _without_arguments(call: Callable[[], None]) -> Callable[..., None]:
    """A forward hook that looks at nothing."""
    return lambda *_: call()
