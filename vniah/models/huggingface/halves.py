"""The two halves of a checkpoint of transformers: the decoder, and what encodes frames for it.

transformers reads a checkpoint as a whole. Here it is given a class that names the weights of one
half only, so that it neither reads nor misses those of the other half, which stay on the meta
device. All else is done as always: it renames weights, joins those of experts, chooses dtypes and
ties the head.
"""

from collections.abc import Callable
from typing import Any, Literal

from torch import nn

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

    # transformers finds out how weights are renamed by the name and the module of the class.
    own = {"state_dict": state_dict, "__module__": model_class.__module__}
    return type(model_class.__name__, (model_class,), own)
