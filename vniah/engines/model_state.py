"""What a loaded model consists of: weights, modules, hooks, methods and settings.

Compared before and after a function of the user has changed a model, it tells whether, and where, a
model stays changed. No weights are kept, only sums of their bits.
"""

import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

_OF_TORCH = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")
_MOST_DEPTH = 6
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, range)


@dataclass(frozen=True, eq=False)
class _Same:
    """Anything else: equal only to itself, and a bound method to the same one of its object."""

    value: object

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Same):
            return False
        mine, its = self.value, other.value
        if hasattr(mine, "__self__") and hasattr(its, "__self__"):
            same_owner = mine.__self__ is its.__self__
            return same_owner and getattr(mine, "__func__", mine) == getattr(its, "__func__", its)
        return mine is its

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class ModelState:
    """What a model consists of at a moment.

    Attributes:
        parts: by a phrase that names it, what is compared of each part of the model.
        buffers: phrases of buffers that modules compute themselves. They may have another shape
            later, such as frequencies or masks for longer sequences.
        code: by a phrase, the methods of the classes of modules, and the functions beside them.
            There may be more of them later, as packages import lazily.
    """

    parts: Mapping[str, object]
    buffers: Collection[str]
    code: Mapping[str, object]

    @classmethod
    @torch.no_grad()
    def of(cls, model: Any) -> "ModelState":
        """That of a model of vniah with a decoder: all its modules, and its own attributes."""
        parts: dict[str, object] = {}
        buffers: set[str] = set()
        kinds: set[type] = {type(model)}
        seen: set[int] = set()
        for start, root in _roots(model):
            for path, module in root.named_modules():
                if id(module) in seen:
                    continue
                seen.add(id(module))
                kinds.add(type(module))
                name = ".".join(filter(None, (start, path))) or "decoder"
                parts[f"the module {name}"] = (_Same(module), _Same(type(module)))
                for key, tensor in module._parameters.items():
                    parts[f"the parameter {name}.{key}"] = _of_tensor(tensor)
                for key, tensor in module._buffers.items():
                    parts[phrase := f"the buffer {name}.{key}"] = _of_tensor(tensor)
                    if key in module._non_persistent_buffers_set:
                        buffers.add(phrase)
                for key, value in vars(module).items():
                    if key not in _OF_TORCH:
                        parts[f"{key} of the module {name}"] = _of_value(value)
        own = {
            name
            for kind in type(model).__mro__
            for name, value in vars(kind).items()
            if isinstance(value, cached_property)
        }
        for key, value in vars(model).items():
            if key not in own:
                is_plain = isinstance(value, _PLAIN)
                parts[f"the attribute {key} of the model"] = value if is_plain else _Same(value)
        return cls(parts, buffers, _of_code(kinds))

    def differing(self, other: "ModelState") -> Iterator[str]:
        """The names of the parts that are not the same in another state."""
        for name in {**self.parts, **other.parts}:
            if name not in self.parts or name not in other.parts:
                yield name
                continue
            mine, its = self.parts[name], other.parts[name]
            if name in self.buffers and name in other.buffers and _sizes_differ(mine, its):
                continue
            if mine != its:
                yield name
        for name in self.code.keys() & other.code.keys():
            if self.code[name] != other.code[name]:
                yield name

    def change_to(self, later: "ModelState", ignored: Collection[str] = ()) -> str | None:
        """The first part that is not the same later, in words; None if all are.

        Args:
            later: the state after changes were undone.
            ignored: parts that a model changes by itself.
        """
        for name in self.differing(later):
            if name in ignored:
                continue
            if name in self.code or name in self.parts.keys() & later.parts.keys():
                return f"{name} is another"
            return f"{name} is {'gone' if name in self.parts else 'new'}"
        return None


def _roots(model: Any) -> Iterator[tuple[str, nn.Module]]:
    """The decoder, and all other modules that a model has as attributes."""
    yield "", model.decoder
    for name, value in vars(model).items():
        if isinstance(value, nn.Module):
            yield name, value


def _of_code(kinds: Collection[type]) -> dict[str, object]:
    """The methods of classes, and the functions of the Python modules that they are in."""
    parts: dict[str, object] = {}
    files = set()
    for kind in {base for one in kinds for base in one.__mro__ if base is not object}:
        files.add(kind.__module__)
        for name, value in vars(kind).items():
            if callable(value):
                where = f"{kind.__module__}.{kind.__qualname__}"
                parts[f"{name} of the class {where}"] = _Same(value)
    for file in files:
        if file.partition(".")[0] in ("builtins", "torch", "typing", "abc"):
            continue
        for name, value in vars(sys.modules.get(file, object)).items():
            if callable(value) and not name.startswith("__"):
                parts[f"{name} of the Python module {file}"] = _Same(value)
    return parts


def _of_tensor(tensor: Tensor | None) -> object:
    """Shape, dtype and sums of the bits of a tensor; they are other ones if rows or columns swap
    places.
    """
    if tensor is None:
        return None
    if hasattr(tensor, "__tensor_flatten__"):  # made of others: shards, weights of few bits
        names, _ = tensor.__tensor_flatten__()
        return tuple(_of_value(getattr(tensor, name)) for name in names)
    shape, dtype = tuple(tensor.shape), tensor.dtype
    if tensor.is_meta or not tensor.numel():
        return (shape, dtype)
    bits = tensor.detach().as_subclass(Tensor)
    if bits.is_complex():
        bits = torch.view_as_real(bits)
    if bits.is_sparse or bits.is_quantized:
        return (shape, dtype)
    if not bits.ndim:
        bits = bits[None]
    size = bits.element_size()
    whole = bits.is_contiguous() and not (bits.storage_offset() * size) % 8
    if whole and not bits.shape[-1] * size % 8:
        bits = bits.view(torch.int64)  # fewer numbers to sum
    else:
        integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
        bits = bits.view(integers[size])
    if bits.ndim == 1:
        bits = bits[None]
    sums = [bits.flatten(0, -2).sum(axis, dtype=torch.int64) for axis in (0, 1)]
    return (shape, dtype, *(int((one * _odd(one)).sum()) for one in sums))


def _odd(like: Tensor) -> Tensor:
    return 2 * torch.arange(len(like), device=like.device) + 1


def _sizes_differ(one: object, other: object) -> bool:
    return isinstance(one, tuple) and isinstance(other, tuple) and one[:1] != other[:1]


def _of_value(value: Any, depth: int = 0) -> object:
    """What is compared of an attribute: numbers and texts by value, containers by what they hold,
    tensors as `_of_tensor`, and all else by what it is.
    """
    if isinstance(value, _PLAIN):
        return (type(value), repr(value))  # NaN is then equal to itself
    if isinstance(value, Tensor):
        return _of_tensor(value)
    if depth < _MOST_DEPTH:
        if isinstance(value, Mapping):
            return [(_of_value(k, depth + 1), _of_value(v, depth + 1)) for k, v in value.items()]
        if isinstance(value, list | tuple):
            return [_of_value(one, depth + 1) for one in value]
        if type(value).__name__.endswith("Config") and hasattr(value, "__dict__"):
            return (_Same(value), _of_value(vars(value), depth + 1))
    return _Same(value)
