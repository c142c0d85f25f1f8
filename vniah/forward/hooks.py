"""What somebody changes of how a decoder's layers attend, for as long as a block runs.

Shapes: B sequences, n rows, Hk key heads, D numbers of a head.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor

from vniah.errors import ModelError
from vniah.forward.kinds.choosing import attention_of, kinds_of
from vniah.forward.kinds.full import FullAttention
from vniah.forward.kinds.latent import LatentAttention

KeysValuesChange = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Called with the number of a layer and the keys and values of some rows, each ``[B, Hk, n, D]``,
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
        change: is called for all rows that go through a layer, in pieces of any size; not for
            layers without attention.

    Raises:
        ModelError: a layer keeps something else than its keys and values.
    """
    modules = {}
    for index, (layer, kind) in enumerate(zip(body.layers, kinds_of(body), strict=True)):
        if isinstance(kind, LatentAttention):
            raise ModelError(
                f"layer {index} of the decoder {body.config.model_type} has {kind.name}, which it "
                "makes keys and values from again and again: they cannot be changed"
            )
        if kind.heads is not None:
            modules[index] = attention_of(layer)
    assert not any(module in _changes for module in modules.values()), "one change at a time"
    for index, module in modules.items():
        _changes[module] = partial(change, index)
    try:
        yield
    finally:
        for module in modules.values():
            del _changes[module]


def as_attended(module: Any, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The keys and values that rows attend to: as the layer gives them, unless they are changed.

    Args:
        module: the attention module of the layer.
        keys: ``[B, Hk, n, D]``, after RoPE.
        values: ``[B, Hk, n, D]``.
    """
    change = _changes.get(module)
    return (keys, values) if change is None else change(keys, values)


# By the decoder's stack of layers, which is all that is known where its own forward is run.
_windows: WeakKeyDictionary[Any, int] = WeakKeyDictionary()

_SLIDING = "sliding_attention"


@contextmanager
def window_forced(body: Any, num_tokens: int) -> Iterator[None]:
    """A block in which every layer of a decoder with full attention has a sliding window.

    Args:
        body: the decoder's stack of layers.
        num_tokens: how many tokens a row sees, itself included; at least 1.

    Raises:
        ModelError: a layer is of another kind.
    """
    assert num_tokens >= 1
    for index, kind in enumerate(kinds_of(body)):
        if not isinstance(kind, FullAttention) or kind.sees_images:
            raise ModelError(
                f"layer {index} of the decoder {body.config.model_type} has {kind.name}: a sliding "
                "window is for decoders of which all layers have full attention"
            )
    with ExitStack() as undo:
        _set(undo, body.config, "sliding_window", num_tokens, is_new=True)
        _set(undo, body.config, "layer_types", [_SLIDING] * len(body.layers), is_new=True)
        _set(undo, body, "has_sliding_layers", True)
        for layer in body.layers:
            # What some decoders, layers and modules repeat of the config.
            _set(undo, layer, "attention_type", _SLIDING)
            _set(undo, attention_of(layer), "layer_type", _SLIDING)
            _set(undo, attention_of(layer), "sliding_window", num_tokens, is_new=True)
        _windows[body] = num_tokens
        undo.callback(_windows.pop, body)
        yield


def forced_window(body: Any) -> int | None:
    """The sliding window that was given to a decoder without one; None for all others."""
    return _windows.get(body)


def _set(undo: ExitStack, owner: Any, name: str, value: Any, *, is_new: bool = False) -> None:
    """Sets an attribute that there is, or may be new, until the stack is closed."""
    if name in vars(owner):
        undo.callback(setattr, owner, name, vars(owner)[name])
    elif is_new:
        undo.callback(delattr, owner, name)
    else:
        return
    setattr(owner, name, value)
