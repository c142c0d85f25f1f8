"""A language model without its weights: what a pass over a text costs is known from its sizes.

The configuration says how large every tensor is, and the tokenizer how a text is cut. Each tensor
is one number here, repeated, so that it has the shape, the dtype, the device and the size in bytes
of the real one and takes no memory. Only the first layer is there, with random numbers, since its
speed is measured. Nothing that such a model computes means anything.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from vniah.forward.offload import OffloadedLayers, keeps_in_host, offload_layers
from vniah.models.adapters import find_adapter
from vniah.models.checkpoints import find_device, reported
from vniah.models.configs import read_config
from vniah.models.contents import require_supported
from vniah.models.families import find_family
from vniah.models.hub import download
from vniah.models.huggingface.folder import FamilyParts
from vniah.models.huggingface.text import TextModel
from vniah.models.loading import is_hub_id
from vniah.models.packaged import PACKAGED, require_fetched
from vniah.models.vocabulary import find_stop_ids, load_tokenizer
from vniah.models.weights import stored_dtype
from vniah.options import LoadOptions
from vniah.paths import user_path

_REVISION = "without weights"


def open_outline(source: str, options: LoadOptions) -> TextModel | None:
    """A language model as its configuration and its tokenizer describe it.

    Args:
        source: as for `vniah.models.loading.open_model`.
        options: how it would be loaded.

    Returns:
        None for a model that has to be loaded to be known: one that reads frames, one with an
        adapter or with quantized weights, or one that is no checkpoint.

    Raises:
        ModelError: the checkpoint cannot be had, or cannot be loaded.
        InputError: an option is invalid, or not for a language model.
    """
    if options.load_in is not None:
        return None
    found = _find_folder(source)
    if found is None:
        return None
    folder, name, has_weights = found
    if find_adapter(folder) is not None:
        return None
    family = find_family(read_config(folder))
    if family is None or family.import_class() is not TextModel:
        return None
    TextModel.require_options(options, name)
    if has_weights:
        require_supported(folder, name)
    with reported(folder, "the model in"):
        return _outline(folder, name, options, has_weights=has_weights)


def _find_folder(source: str) -> tuple[Path, str, bool] | None:
    """A checkpoint's folder, the name of the model, and whether the weights lie in the folder."""
    if source in PACKAGED:
        return require_fetched(source), source, True
    folder = user_path(source, "a model")
    if folder.is_dir():
        return (folder, folder.resolve().name, True) if (folder / "config.json").is_file() else None
    if is_hub_id(source):
        return download(source, has_weights=False)[0], source, False
    return None


def _outline(folder: Path, name: str, options: LoadOptions, *, has_weights: bool) -> TextModel:
    tokenizer = load_tokenizer(folder)
    config = transformers.AutoConfig.from_pretrained(
        folder, trust_remote_code=False, local_files_only=True
    )
    device = find_device(options.device)
    dtype = _dtype(options, config, device, folder if has_weights else None)
    with torch.device("meta"):
        decoder: Any = transformers.AutoModelForCausalLM.from_config(
            config, dtype=dtype, trust_remote_code=False
        )
    decoder.requires_grad_(False).eval()
    body = decoder.model
    is_in_host = keeps_in_host(options.offload, [decoder], device, dtype)
    _fill_with_shapes(decoder, device)
    _fill_with_numbers(body.layers[0], torch.device("cpu") if is_in_host else device)
    body.rotary_emb = type(body.rotary_emb)(config).to(device)
    if is_in_host:
        offload_layers(body, device, LayersLikeTheFirst(body.layers, device))
    parts = FamilyParts(
        name=name,
        revision=_REVISION,
        model=decoder,
        tokenizer=tokenizer,
        image_processor=None,
        template="",
        stop_ids=find_stop_ids(tokenizer),
    )
    model = TextModel(parts)
    if options.rope_theta is not None or options.rope_scaling is not None:
        model.override_rope(options.rope_theta, options.rope_scaling)
    return model


def _dtype(
    options: LoadOptions, config: Any, device: torch.device, folder: Path | None
) -> torch.dtype:
    """The dtype in which the model would be loaded."""
    if options.dtype is not None:
        chosen: torch.dtype = getattr(torch, options.dtype)
        return chosen
    if device.type == "cpu":
        return torch.float32
    stored: torch.dtype | None = getattr(config, "dtype", None)
    if stored is None:
        return torch.float32 if folder is None else stored_dtype(folder)
    return stored


def _fill_with_shapes(model: nn.Module, device: torch.device) -> None:
    """Gives all parameters one number each on the device; weights that are tied stay tied."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if id(parameter) not in made:
                    one = torch.zeros((), dtype=parameter.dtype, device=device)
                    made[id(parameter)] = nn.Parameter(one.expand(parameter.shape), False)
                module._parameters[name] = made[id(parameter)]


def _fill_with_numbers(layer: nn.Module, device: torch.device) -> None:
    """Gives the parameters of a layer random numbers, on which its speed does not depend."""
    for module in layer.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                numbers = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
                module._parameters[name] = nn.Parameter(numbers.normal_(std=0.02), False)


class LayersLikeTheFirst(OffloadedLayers):
    """Layers in host memory of which only the first is there; each call fetches it anew.

    Args:
        layers: the decoder's, which are all of one size.
        device: where they compute.
    """

    def __init__(self, layers: Sequence[nn.Module], device: torch.device) -> None:
        super().__init__(layers[:1], device)
        self._num_layers = len(layers)

    @property
    def host_bytes(self) -> int:
        """What would lie in host memory."""
        return self._num_layers * super().host_bytes

    def enter(self, index: int) -> None:
        """As `OffloadedLayers.enter`; the weights are fetched each time, as of other layers."""
        self._latest.index = self._next.index = None
        super().enter(0)

    def leave(self, index: int) -> None:
        """As `OffloadedLayers.leave`."""
        super().leave(0)
