"""What somebody changes of the keys and values of a decoder's layers, for as long as a block runs.

Shapes: n rows, Hkv key heads, D numbers of a head.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor

KeysValuesChange = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Called with the number of a layer and the keys and values of some rows, each ``[1, Hkv, n, D]``,
keys after RoPE; gives those that the rows attend to in their place, of the same shapes."""

# By the attention module of a layer, as the layer's attention function is told nothing else.
_changes: WeakKeyDictionary[Any, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = (
    WeakKeyDictionary()
)


@contextmanager
def keys_values_changed(body: Any, change: KeysValuesChange) -> Iterator[None]:
    """A block in which every layer attends to changed keys and values, stored ones included.

    Args:
        body: the decoder's stack of layers.
        change: is called for all rows that go through a layer, in pieces of any size.
    """
    modules = [layer.self_attn for layer in body.layers]
    assert not any(module in _changes for module in modules), "one change at a time"
    for index, module in enumerate(modules):
        _changes[module] = partial(change, index)
    try:
        yield
    finally:
        for module in modules:
            del _changes[module]


def as_attended(module: Any, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The keys and values that rows attend to: as the layer gives them, unless they are changed.

    Args:
        module: the attention module of the layer.
        keys: ``[1, Hkv, n, D]``, after RoPE.
        values: ``[1, Hkv, n, D]``.
    """
    change = _changes.get(module)
    return (keys, values) if change is None else change(keys, values)
