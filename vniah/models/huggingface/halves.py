"""The parts of a checkpoint of transformers that a process reads: a half, or rows of the weights.

transformers reads a checkpoint as a whole. Here it is given a class that names the weights of one
half only, the decoder or what encodes frames for it, so that it neither reads nor misses those of
the other half, which stay on the meta device. All else is done as always: it renames weights, joins
those of experts, chooses dtypes and ties the head.

Where several processes share the weights of the decoder's layers, the class says so before they are
read, and transformers reads the rows of this process only. It would convert the rows of a process
as if they were the whole weight. So weights that are converted in a way that moves rows, such as
one that is cut into three, are read whole.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from vniah.errors import ModelError
from vniah.forward.sharding import describe_shares, own_part, rows_of_rank

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Half = Literal["decoder", "encoder"]
FindBody = Callable[[Any], Any]

_NEVER_RUN = ("audio_tower",)  # modules of which no weights are read


def inner_of(model: Any) -> Any:
    """The module that holds the decoder and what encodes frames: ``model.model``, or the model."""
    return getattr(model, "model", model)


def encoder_of(model: Any, find_body: FindBody) -> dict[str, nn.Module]:
    """What encodes frames: vision tower, projector and the like, by their names in `inner_of`.

    An audio tower is not among it: no frame goes through it.

    Args:
        model: of transformers.
        find_body: gives the decoder without its head.
    """
    beside = _beside_decoder(model, find_body)
    return {name: part for name, part in beside.items() if name not in _NEVER_RUN}


def _beside_decoder(model: Any, find_body: FindBody) -> dict[str, nn.Module]:
    """The modules that hold neither the decoder nor its head, by their names in `inner_of`."""
    body, head = find_body(model), model.get_output_embeddings()
    return {
        name: part
        for name, part in inner_of(model).named_children()
        if not {body, head} & set(part.modules())
    }


def unread_modules(model: Any, find_body: FindBody, half: Half | None) -> dict[str, nn.Module]:
    """The modules that are not of a half, by their names; none if there is no half.

    Weights that are in none of them, such as a newline row, are of both halves.
    """
    if half is None:
        return {}
    inner = inner_of(model)
    prefix = "" if inner is model else "model."
    of_encoder = encoder_of(model, find_body).keys()
    if half == "decoder":
        beside = _beside_decoder(model, find_body)
        return {f"{prefix}{name}": part for name, part in beside.items()}
    unread = {
        f"{prefix}{name}": part for name, part in inner.named_children() if name not in of_encoder
    }
    return unread if inner is model else {**unread, "lm_head": model.lm_head}


def class_of_half(model_class: Any, find_body: FindBody, half: Half) -> Any:
    """A class of transformers of which ``from_pretrained`` reads one half.

    Args:
        model_class: the class of the whole model.
        find_body: as `encoder_of`.
        half: ``"decoder"`` or ``"encoder"``.
    """

    def state_dict(self: Any, *args: Any, **kwargs: Any) -> Any:
        """The weights of this half: transformers looks here which there are."""
        others = tuple(f"{name}." for name in unread_modules(self, find_body, half))
        whole = model_class.state_dict(self, *args, **kwargs)
        return {key: weight for key, weight in whole.items() if not key.startswith(others)}

    return _subclass(model_class, state_dict=state_dict)


def class_with_shares(
    model_class: Any, find_body: FindBody, group: "ProcessGroup", stored: Iterable[str]
) -> Any:
    """A class of transformers of whose decoder layers ``from_pretrained`` reads a process's rows.

    Args:
        model_class: the class of the whole model, or of a half.
        find_body: as `encoder_of`.
        group: the processes that share the weights.
        stored: the names of the tensors in the checkpoint.
    """

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        model_class.__init__(self, *args, **kwargs)
        converted = _converted_by_rows(self, stored, group.size())
        whole = {id(weight) for name, weight in self.named_parameters() if name in converted}
        describe_shares(find_body(self).layers, group, is_whole=lambda weight: id(weight) in whole)

    def get_parameter(self: Any, target: str) -> Any:
        """A weight as a conversion of transformers compares its shape: with the rows it gets."""
        return own_part(model_class.get_parameter(self, target))

    return _subclass(model_class, __init__=__init__, get_parameter=get_parameter)


def _converted_by_rows(model: Any, stored: Iterable[str], num_ranks: int) -> set[str]:
    """The weights of a model that stored ones are made into by moving, joining or cutting rows.

    Args:
        model: on the meta device.
        stored: the names of the tensors in the checkpoint.
        num_ranks: number of processes that share the weights.

    Raises:
        ModelError: this version of transformers converts weights in another way.
    """
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, rename_source_key
    except ImportError as error:
        raise ModelError(
            "this version of transformers does not say how it converts weights, which "
            "shard_weights has to know: use 5.23, or leave out shard_weights (--shard-weights)"
        ) from error
    conversions: list[Any] = get_model_conversion_mapping(model)
    converters = [one for one in conversions if isinstance(one, WeightConverter)]
    renamings: list[Any] = [one for one in conversions if not isinstance(one, WeightConverter)]
    by_pattern = {pattern: one for one in converters for pattern in one.source_patterns}
    prefix, weights = model.base_model_prefix, model.state_dict()
    found = set()
    for name in stored:
        own, pattern = rename_source_key(name, renamings, converters, prefix, weights)
        if pattern is None:
            continue
        num_rows = len(weights[own]) if own in weights else 0
        has_all_some = bool(rows_of_rank(num_rows, num_ranks - 1, num_ranks).start < num_rows)
        operations, targets = by_pattern[pattern].operations, by_pattern[pattern].target_patterns
        if not all(_keeps_rows(one, has_all_some=has_all_some) for one in operations):
            found |= {own.replace(targets[0], target) for target in targets}
    return found


def _keeps_rows(operation: Any, *, has_all_some: bool) -> bool:
    """True if a conversion of some rows gives the same rows of what all rows are converted to.

    Args:
        operation: a step of the conversion.
        has_all_some: whether every process has a row at least.
    """
    kind = type(operation).__name__
    if kind == "MergeModulelist":  # each process gets its own of the tensors that become rows
        return bool(operation.dim == 0) and has_all_some
    if kind == "Transpose":
        return bool(min(operation.dim0, operation.dim1) >= 1)
    is_within = kind in ("Chunk", "Split", "Concatenate", "Interleave")
    return is_within and bool(operation.dim >= 1)


def _subclass(model_class: Any, **methods: Callable[..., Any]) -> Any:
    """A subclass of the same name and module, by which transformers knows how weights are named."""
    own = {**methods, "__module__": model_class.__module__}
    return type(model_class.__name__, (model_class,), own)
