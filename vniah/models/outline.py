"""A model without its weights: what a pass costs is known from the sizes.

The configuration says how large every tensor is, and the tokenizer how a text is cut. Each tensor
is one number here, repeated, so that it has the shape, the dtype, the device and the size in bytes
of the real one and takes no memory. Only the first layer is there, with random numbers, since its
speed is measured. Nothing that such a model computes means anything.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import torch
import transformers
from torch import nn

from vniah.forward.costs import DecoderShape
from vniah.forward.offload import OffloadedLayers, keeps_in_host, offload_layers, offloaded
from vniah.forward.sharding import gathered_bytes, num_held_elsewhere, share_bytes
from vniah.models.adapters import find_adapter
from vniah.models.checkpoints import find_device, reported
from vniah.models.configs import read_config
from vniah.models.contents import require_supported
from vniah.models.deferred import DeferredWeights
from vniah.models.families import find_family
from vniah.models.hub import download
from vniah.models.huggingface.base import TransformersDecoderModel
from vniah.models.huggingface.folder import FamilyParts, load_image_processor
from vniah.models.huggingface.templates import read_chat_template
from vniah.models.huggingface.text import TextModel
from vniah.models.loading import is_hub_id
from vniah.models.packaged import PACKAGED, require_fetched
from vniah.models.vocabulary import find_stop_ids, load_tokenizer
from vniah.models.weights import stored_dtype
from vniah.options import LoadOptions
from vniah.paths import user_path
from vniah.protocol import AnyModel

_REVISION = "without weights"

Outline = TextModel | TransformersDecoderModel


def open_outline(
    source: str, options: LoadOptions, *, num_ranks: int = 1, is_measured: bool = True
) -> Outline | None:
    """A model as its configuration and its tokenizer describe it.

    Args:
        source: as for `vniah.models.loading.open_model`; a folder need not hold weights.
        options: how it would be loaded.
        num_ranks: number of processes that would share the weights of its layers.
        is_measured: whether its first layer gets numbers, so that its speed can be measured.

    Returns:
        None for a model that has to be loaded to be known: one in the original LLaVA layout, one
        whose frames only its vision tower knows, one with an adapter or with quantized weights, or
        one that is no checkpoint.

    Raises:
        ModelError: the checkpoint cannot be had, or cannot be loaded.
        InputError: an option is invalid, or not for this model.
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
    model_class = None if family is None else family.import_class()
    if model_class is None or not issubclass(model_class, Outline):
        return None
    model_class.require_options(options, name)
    if has_weights:
        require_supported(folder, name)
    with reported(folder, "the model in"):
        try:
            model = _outline(model_class, folder, name, options, has_weights=has_weights)
        except _NeedsWeightsError:
            return None
        _place(model.decoder, options, num_ranks, is_measured=is_measured)
    return model


def shape_on(model: AnyModel, num_ranks: int) -> DecoderShape:
    """The sizes of a model's decoder where so many processes run each pass together.

    They depend on it where these would share the weights of a model of `open_outline`.
    """
    decoder: Any = model.decoder  # type: ignore[union-attr]
    shape, layers = DecoderShape.of(decoder), offloaded(decoder.model)
    if not isinstance(layers, SharesWithoutWeights):
        return shape
    others = layers.on(num_ranks)
    return replace(
        shape,
        weight_bytes=shape.weight_bytes - layers.device_bytes + others.device_bytes,
        host_weight_bytes=others.host_bytes,
        gathered_bytes=others.pass_bytes,
        num_weight_ranks=num_ranks,
    )


def missing_bytes(model: AnyModel, shape: DecoderShape) -> int:
    """Bytes that the decoder will take on its device and does not take yet.

    Args:
        model: of `open_outline`, or any other, which has all of its weights.
        shape: of its decoder, by `shape_on`.
    """
    if model.revision != _REVISION:
        return 0
    decoder: Any = model.decoder  # type: ignore[union-attr]
    device, layers = decoder.lm_head.weight.device, offloaded(decoder.model)
    tensors = {id(p): p for part in (decoder.model, decoder.lm_head) for p in part.parameters()}
    there: int = 0
    if isinstance(layers, OffloadedLayers):  # whose places are on the device
        there = layers.device_bytes
        for parameter in decoder.model.layers.parameters():
            tensors.pop(id(parameter), None)
    storages = [t.untyped_storage() for t in tensors.values() if t.device == device]
    there += sum({one.data_ptr(): one.nbytes() for one in storages}.values())
    return max(0, shape.weight_bytes - there)


def _find_folder(source: str) -> tuple[Path, str, bool] | None:
    """A checkpoint's folder, the name of the model, and whether the weights lie in the folder."""
    if source in PACKAGED:
        return require_fetched(source), source, True
    folder = user_path(source, "a model")
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            return None
        return folder, folder.resolve().name, any(folder.glob("*.safetensors"))
    if is_hub_id(source):
        return download(source, has_weights=False)[0], source, False
    return None


def _outline(
    model_class: Any, folder: Path, name: str, options: LoadOptions, *, has_weights: bool
) -> Outline:
    tokenizer = load_tokenizer(folder)
    config = transformers.AutoConfig.from_pretrained(
        folder, trust_remote_code=False, local_files_only=True
    )
    device = find_device(options.device)
    dtype = _dtype(options, config, device, folder if has_weights else None)
    is_text = issubclass(model_class, TextModel)
    of_kind: Any = (
        transformers.AutoModelForCausalLM if is_text else transformers.AutoModelForImageTextToText
    )
    if type(config) not in of_kind._model_mapping:
        raise _NeedsWeightsError
    with torch.device("meta"):
        whole: Any = of_kind.from_config(config, dtype=dtype, trust_remote_code=False)
    if not is_text and type(whole).__name__ != model_class.model_class:
        raise _NeedsWeightsError
    whole.requires_grad_(False).eval()
    _fill_with_shapes(whole, device)
    parts = FamilyParts(
        name=name,
        revision=_REVISION,
        model=whole,
        tokenizer=tokenizer,
        image_processor=(
            None if is_text else load_image_processor(folder, model_class.pillow_processor)
        ),
        template="" if is_text else read_chat_template(folder, tokenizer),
        stop_ids=find_stop_ids(tokenizer),
        frame_size=options.frame_size,
        encoder=None if is_text else _NoEncoder(),
        folder=folder,
    )
    model: Outline = model_class(parts)
    body = model.decoder.model
    if hasattr(body, "rotary_emb"):
        body.rotary_emb = type(body.rotary_emb)(body.config).to(device)
    if options.rope_theta is not None or options.rope_scaling is not None:
        model.override_rope(options.rope_theta, options.rope_scaling)
    return model


def _place(decoder: Any, options: LoadOptions, num_ranks: int, *, is_measured: bool) -> None:
    """Puts layers where they would be, and gives the first one numbers."""
    body, weight = decoder.model, decoder.lm_head.weight
    device, layers = weight.device, body.layers
    elsewhere = num_held_elsewhere(layers, num_ranks) if num_ranks > 1 else 0
    parts = [body, decoder.lm_head]
    in_host = keeps_in_host(options.offload, parts, device, weight.dtype, elsewhere=elsewhere)
    is_copied = in_host and num_ranks == 1
    if is_measured or is_copied:
        _fill_with_numbers(layers[0], torch.device("cpu") if is_copied else device)
    if num_ranks > 1:
        offload_layers(body, device, SharesWithoutWeights(layers, num_ranks, in_host=in_host))
    elif in_host:
        offload_layers(body, device, LayersLikeTheFirst(layers, device))


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


class SharesWithoutWeights:
    """Layers without weights, as several processes would share them.

    Args:
        layers: the decoder's, of which the first may have numbers.
        num_ranks: number of processes.
        in_host: whether their rows would lie in host memory.
    """

    def __init__(self, layers: Sequence[nn.Module], num_ranks: int, *, in_host: bool) -> None:
        self.num_ranks = num_ranks
        self._layers = layers
        self._in_host = in_host

    def on(self, num_ranks: int) -> "SharesWithoutWeights":
        """The same for another number of processes; one has all weights."""
        return SharesWithoutWeights(self._layers, num_ranks, in_host=self._in_host)

    @property
    def device_bytes(self) -> int:
        """What would lie on the device between two passes."""
        return 0 if self._in_host else share_bytes(self._layers, self.num_ranks)

    @property
    def host_bytes(self) -> int:
        """What would lie in host memory."""
        return share_bytes(self._layers, self.num_ranks) if self._in_host else 0

    @property
    def pass_bytes(self) -> int:
        """What a pass would gather; one process without layers in host memory gathers nothing."""
        if self.num_ranks == 1 and not self._in_host:
            return 0
        return gathered_bytes(self._layers, self.num_ranks)

    def enter(self, index: int) -> None:
        """Nothing: the first layer is there."""

    def leave(self, index: int) -> None:
        """Nothing."""

    def release(self) -> None:
        """Nothing."""


class _NeedsWeightsError(Exception):
    """Something has to be computed to know the model."""


class _NoEncoder(DeferredWeights):
    """What encodes frames, of which there are no weights."""

    def __init__(self) -> None:
        pass

    @property
    def is_read(self) -> bool:
        """False."""
        return False

    def read(self, try_it: object) -> NoReturn:
        """Says that a frame cannot be encoded."""
        raise _NeedsWeightsError


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
