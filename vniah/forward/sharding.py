"""Decoder layers whose weights lie in parts on several processes, and are gathered in turn.

Each of n processes holds 1/n of the rows of every weight of a decoder's layers (ZeRO-3; Rajbhandari
et al. 2019, arXiv 1910.02054; torch's FSDP2). vniah's forward pass takes all rows through layer 0,
then all through layer 1, so a layer is gathered once a pass, whatever the length: before its first
chunk, while the layer before it computes. After its last chunk only the own part is kept. A process
holds its parts, the layer that computes, the one that is on its way to it, and for a moment a copy
of that one.

The results are the same to the last bit, as the same is computed from the same weights. All
processes of the group must make the same passes in the same order: gathering is a collective
operation. Embeddings, norm, head and vision tower are whole on every process.

FSDP2 gathers where a module's hooks say so, at every call. Here a layer is called once for each
chunk, and may be left by an exception, so its hooks are taken away and it is gathered by hand.

Only one thread at a time may use such a decoder, and it must not be moved or cast.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vniah.errors import InputError, ModelError
from vniah.forward.offload import offload_layers

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

# The layer that computes; the next one on its way; and what a library that sends it copies of it
# (gloo does, for the CPU), or a buffer that it frees late.
NUM_GATHERED = 3


def rows_of_rank(num_rows: int, rank: int, num_ranks: int) -> slice:
    """The rows of a weight that a process holds: as many as others, the last ones fewer or none."""
    most = -(-num_rows // num_ranks)
    return slice(min(rank * most, num_rows), min((rank + 1) * most, num_rows))


def describe_shares(
    layers: Iterable[nn.Module],
    group: "ProcessGroup",
    *,
    is_whole: Callable[[nn.Parameter], bool] = lambda weight: False,
) -> None:
    """Has layers on the meta device say which rows of their weights this process holds.

    A loader of weights reads no others. `shard_layers` takes what it has read.

    Args:
        layers: a decoder's, without weights.
        group: the processes that share them.
        is_whole: True for a weight that is to be read whole, as its rows cannot be read alone.

    Raises:
        ModelError: a weight is a single number, which has no rows.
    """
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, Shard

    mesh = DeviceMesh.from_group(group, "cpu")
    for layer in layers:
        for module, name, parameter in _places(layer):
            if is_whole(parameter):
                continue
            share = DTensor.from_local(
                _rows_of(parameter, name, group),
                mesh,
                [Shard(0)],
                run_check=False,
                shape=parameter.shape,
                stride=parameter.stride(),
            )
            module._parameters[name] = nn.Parameter(share, requires_grad=False)


def num_held_elsewhere(layers: Iterable[nn.Module], num_ranks: int) -> int:
    """How many of the numbers of all weights are not on a process while it computes."""
    sizes = [sum(p.numel() for p in layer.parameters()) for layer in layers]
    return max(0, sum(sizes) * (num_ranks - 1) // num_ranks - NUM_GATHERED * max(sizes))


def share_bytes(layers: Iterable[nn.Module], num_ranks: int) -> int:
    """What each of some processes holds of layers that they share.

    All hold equally many rows of a weight; where they do not divide, some are padding.
    """
    return sum(
        -(-len(weight) // num_ranks) * (weight.nbytes // max(1, len(weight)))
        for layer in layers
        for weight in layer.parameters()
    )


def gathered_bytes(layers: Iterable[nn.Module], num_ranks: int) -> int:
    """What gathered layers take during a pass, on each process."""
    return NUM_GATHERED * num_ranks * max(share_bytes([layer], num_ranks) for layer in layers)


def require_can_share(name: str, adapter: Path | None) -> None:
    """Requires weights that are used as they are stored.

    Args:
        name: of the model.
        adapter: the folder of an adapter that would be merged into its weights.

    Raises:
        InputError: an adapter would be, for which the weights would have to be whole.
    """
    if adapter is not None:
        raise InputError(
            f"shard_weights reads only a part of each weight of {name}, and the adapter in "
            f"{adapter} has to be merged into whole ones: merge it and save the model first, or "
            "leave out shard_weights (--shard-weights)"
        )


def own_part(weight: Tensor) -> Tensor:
    """The rows of a weight that this process holds, with their values if they have been read."""
    from torch.distributed.tensor import DTensor

    return weight.to_local() if isinstance(weight, DTensor) else weight


def rows_held(weight: Tensor) -> slice | None:
    """The rows of a weight that this process holds; None if it holds all of them."""
    from torch.distributed.tensor import DTensor

    if not isinstance(weight, DTensor):
        return None
    mesh = weight.device_mesh
    return rows_of_rank(len(weight), mesh.get_local_rank(), mesh.size())


def fill_share(weight: Tensor, rows: Tensor) -> nn.Parameter:
    """The parameter that takes the place of a weight of `describe_shares`, with its rows read.

    Args:
        weight: as `describe_shares` has made it.
        rows: those of `rows_held`, in host memory.
    """
    from torch.distributed.tensor import DTensor

    assert isinstance(weight, DTensor)
    share = DTensor.from_local(
        rows,
        weight.device_mesh,
        weight.placements,
        run_check=False,
        shape=weight.shape,
        stride=weight.stride(),
    )
    return nn.Parameter(share, requires_grad=False)


def shard_layers(
    body: nn.Module, group: "ProcessGroup", device: torch.device, *, in_host: bool = False
) -> None:
    """Has a decoder's layers keep this process's rows of their weights, and compute on a device.

    Args:
        body: the decoder's stack of layers (``decoder.model``). The weights of its layers are in
            host memory: whole, or what was read after `describe_shares`. All else that it holds
            must be on the device.
        group: the processes that share the weights, at least two. All of them make the same passes.
        device: where the layers compute.
        in_host: keeps the rows in host memory; they are copied to the device to be gathered.

    Raises:
        ModelError: a weight is a single number, which has no rows.
    """
    layers = ShardedLayers(body.layers, group, device, in_host=in_host)  # type: ignore[arg-type]
    offload_layers(body, device, layers)
    # A pass of the decoder's own ends here; vniah's forward pass calls the layers only.
    body.register_forward_hook(lambda *_: layers.release(), always_call=True)


class ShardedLayers:
    """The rows of all layers that this process holds, and up to two layers that are gathered.

    Args:
        layers: the decoder's; from now on a call of one finds its weights whole on the device.
        group: as `shard_layers`.
        device: as `shard_layers`.
        in_host: as `shard_layers`.

    Attributes:
        num_gathered: how often a layer has been gathered.
        num_ranks: number of processes that share the weights.
    """

    def __init__(
        self,
        layers: Iterable[nn.Module],
        group: "ProcessGroup",
        device: torch.device,
        *,
        in_host: bool = False,
    ) -> None:
        self.num_gathered = 0
        self.num_ranks = group.size()
        assert self.num_ranks > 1
        self._layers: list[Any] = list(layers)
        self._in_host = in_host
        self._latest: int | None = None
        self._arriving: set[int] = set()
        self._shard(group, device)
        for index, layer in enumerate(self._layers):
            layer.register_forward_pre_hook(_without_arguments(partial(self.enter, index)))

    @property
    def own_bytes(self) -> int:
        """What the rows of this process take."""
        shares = (p.to_local() for layer in self._layers for p in layer.parameters())
        return sum(share.untyped_storage().nbytes() for share in shares)

    @property
    def device_bytes(self) -> int:
        """What lies on the device between two passes."""
        return 0 if self._in_host else self.own_bytes

    @property
    def host_bytes(self) -> int:
        """What lies in host memory for the device."""
        return self.own_bytes if self._in_host else 0

    @property
    def pass_bytes(self) -> int:
        """What gathered layers take during a pass."""
        return gathered_bytes(self._layers, self.num_ranks)

    @property
    def held(self) -> tuple[int, ...]:
        """Which layers are whole, or on their way."""
        return (*(() if self._latest is None else (self._latest,)), *sorted(self._arriving))

    def enter(self, index: int) -> None:
        """Has a layer use its whole weights; begins to gather those of the next one."""
        if self._latest == index:
            return
        self.release()
        # Weights that were gathered in inference mode could not be gathered again outside of it.
        with torch.inference_mode(mode=False), torch.no_grad():
            self._gather(index)
            self._layers[index].unshard()  # waits for what arrives
            self._arriving.discard(index)
            self._latest = index
            if index + 1 < len(self._layers):
                self._gather(index + 1)

    def leave(self, index: int) -> None:
        """Nothing: the weights stay whole for the next chunk."""

    def release(self) -> None:
        """Has the layer that was computed last keep the rows of this process only."""
        if self._latest is not None:
            with torch.inference_mode(mode=False), torch.no_grad():
                self._layers[self._latest].reshard()
            self._latest = None

    def _gather(self, index: int) -> None:
        """Begins to gather a layer, unless it is on its way."""
        if index not in self._arriving:
            self._layers[index].unshard(async_op=True)
            self._arriving.add(index)
            self.num_gathered += 1

    def _shard(self, group: "ProcessGroup", device: torch.device) -> None:
        from torch.distributed.device_mesh import DeviceMesh
        from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

        mesh = DeviceMesh.from_group(group, device.type)
        policy = OffloadPolicy()
        if self._in_host:
            policy = CPUOffloadPolicy(pin_memory=device.type == "cuda")
        target = torch.device("cpu") if self._in_host else device
        for layer in self._layers:
            rows = _take_rows(layer, group)
            hooks = [set(held) for held in _hooks_of(layer)]
            fully_shard(layer, mesh=mesh, reshard_after_forward=False, offload_policy=policy)
            for held, earlier in zip(_hooks_of(layer), hooks, strict=True):
                for key in held.keys() - earlier:
                    del held[key]
            for module, name, parameter in _places(layer):
                _put_rows(module, name, parameter, rows.pop(0), target)
            for module in layer.modules():
                for name, buffer in module._buffers.items():
                    if buffer is not None:
                        module._buffers[name] = buffer.to(device)


def _places(layer: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    """The parameters of a layer, with the modules that hold them, and their names there."""
    for module in layer.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                yield module, name, parameter


def _hooks_of(layer: nn.Module) -> tuple[dict[int, Any], ...]:
    return layer._forward_pre_hooks, layer._forward_hooks


def _take_rows(layer: nn.Module, group: "ProcessGroup") -> list[Tensor]:
    """This process's rows of all weights of a layer, which is on the meta device afterwards."""
    from torch.distributed.tensor import DTensor

    found = []
    for module, name, parameter in _places(layer):
        if isinstance(parameter, DTensor):
            found.append(parameter.to_local().detach())
        else:
            found.append(_rows_of(parameter, name, group).clone())
        whole = torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")
        module._parameters[name] = nn.Parameter(whole, requires_grad=False)
    return found


def _rows_of(weight: nn.Parameter, name: str, group: "ProcessGroup") -> Tensor:
    """This process's rows of a whole weight."""
    if weight.ndim == 0:
        raise ModelError(
            f"the decoder's layers have a weight of one number, {name}, which cannot be shared "
            "out; leave out shard_weights (--shard-weights)"
        )
    return weight.detach()[rows_of_rank(len(weight), group.rank(), group.size())]


def _put_rows(
    module: nn.Module, name: str, parameter: Any, rows: Tensor, device: torch.device
) -> None:
    """Gives a sharded parameter on the meta device the rows of this process."""
    there = nn.Parameter(torch.empty_like(parameter, device=device), requires_grad=False)
    weight: Any = there
    with torch.no_grad():
        weight.to_local().copy_(rows)
    module._parameters[name] = there


def _without_arguments(call: Callable[[], None]) -> Callable[..., None]:
    """A forward hook that looks at nothing."""
    return lambda *_: call()
