"""The parts of a checkpoint in the original LLaVA layout, and their weights.

Where weights lie in the checkpoint:

    model.vision_tower.vision_tower.vision_model.*   the tower, fine-tuned: never the stock one
    model.mm_projector.{0,2,...}.{weight,bias}       Linear, GELU, Linear, ...
    model.image_newline                              one row, in "unpad" checkpoints
    model.embed_tokens, model.layers.*, ..., lm_head the decoder

A ``rope_scaling`` in config.json (or transformers 5's ``rope_parameters``) is what the decoder
gets, and the manifest names it. The published class of llava_qwen, that of LongVA, sets it to None
whatever config.json says, so checkpoints that it saved have none. Where somebody has written one
since, ``none`` as rope_scaling gives what that class would read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from vniah.errors import InputError, ModelError, first_line, short_repr
from vniah.forward.offload import keeps_in_host, offload_layers, require_host_room
from vniah.forward.sharding import (
    describe_shares,
    num_held_elsewhere,
    require_can_share,
    shard_layers,
)
from vniah.models.adapters import merge_adapter
from vniah.models.checkpoints import find_device, reported, torch_dtype
from vniah.models.deferred import DeferredWeights
from vniah.models.families import llava_type
from vniah.models.llava.frame_layout import build_projector, read_layout
from vniah.models.llava.frame_reader import FrameReader, PictureReader
from vniah.models.llava.grid_rows import GridReader
from vniah.models.llava.grids import read_rule
from vniah.models.llava.towers import Tower, build_tower
from vniah.models.quantization import quantize_layers
from vniah.models.rope import stored_parameters
from vniah.models.weights import load_weights, stored_dtype
from vniah.options import LOAD_DEFAULTS, LoadOptions

_DECODERS: Mapping[str, tuple[type[Any], type[Any], str]] = {
    "llava_qwen": (Qwen2Config, Qwen2ForCausalLM, "qwen2"),
    "llava_mistral": (MistralConfig, MistralForCausalLM, "mistral"),
    "llava_llama": (LlamaConfig, LlamaForCausalLM, "vicuna"),
}

_TOWER_PREFIX = "model.vision_tower.vision_tower."
_PROJECTOR_PREFIX = "model.mm_projector."
_NEWLINE_NAME = "model.image_newline"
_UNUSED_PREFIXES = ("model.vision_resampler.",)
_NOT_FOR_THE_DECODER = frozenset(
    {
        "model_type",
        "architectures",
        "auto_map",
        "transformers_version",
        "torch_dtype",
        "dtype",
        "rope_scaling",
        "rope_theta",
        "rope_parameters",
    }
)
_DECODER_FOREIGN_PREFIXES = (
    "mm_",
    "image_",
    "tune_",
    "freeze_",
    "unfreeze_",
    "use_mm",
    "tokenizer_",
    "vision_",
)


@dataclass(frozen=True)
class CheckpointParts:
    """The modules of a checkpoint.

    Attributes:
        decoder: the transformers causal language model.
        tower: the vision tower with its preprocessing.
        projector: brings the tower's features to the decoder's width.
        newline: holds the newline row as ``"row"``, if frames have one.
        reader: turns pictures into rows of the decoder's input.
    """

    decoder: Any
    tower: Tower
    projector: nn.Module
    newline: nn.ParameterDict
    reader: PictureReader


def build_parts(
    raw: Mapping[str, Any], folder: Path, options: LoadOptions = LOAD_DEFAULTS
) -> CheckpointParts:
    """The modules that a config.json describes, on the meta device: without weights.

    The options say how pictures are read.
    """
    config_class, model_class, _ = _DECODERS[llava_type(raw) or raw["model_type"]]
    with reported(folder, "the model that config.json describes in"):
        tower = build_tower(raw, folder)
    reader = _find_reader(raw, folder, tower, options)
    with torch.device("meta"), reported(folder, "the model that config.json describes in"):
        decoder = model_class(_decoder_config(raw, config_class, folder))
        width = decoder.config.hidden_size
        projector = build_projector(raw, folder, tower.hidden_size, width)
        newline = nn.ParameterDict()
        if reader.has_newline:
            newline["row"] = nn.Parameter(torch.empty(width))
    return CheckpointParts(decoder, tower, projector, newline, reader)


def load_parts(
    parts: CheckpointParts,
    raw: Mapping[str, Any],
    folder: Path,
    options: LoadOptions,
    adapter: Path | None = None,
    *,
    has_decoder: bool = True,
) -> DeferredWeights:
    """Reads the weights of the decoder; the options say where its layers are kept.

    An adapter, if its folder is given, is merged into the decoder before its layers are moved.

    Args:
        parts: what `build_parts` gave.
        raw: the content of config.json.
        folder: the checkpoint's.
        options: how it is loaded.
        adapter: the folder of an adapter.
        has_decoder: False leaves the decoder without weights.

    Returns:
        The weights of tower and projector, which are not read yet.
    """
    dtype = torch_dtype(options) or stored_dtype(folder)
    device = find_device(options.device or "cpu")
    decoder, tower, reader = parts.decoder, parts.tower, parts.reader
    modules = {
        "decoder": decoder,
        "tower": tower.module,
        "projector": parts.projector,
        "newline": parts.newline,
    }
    layers, group = decoder.model.layers, options.shard_weights if has_decoder else None
    elsewhere = 0
    if group is not None:
        require_can_share(folder.name, adapter)
        elsewhere = num_held_elsewhere(layers, group.size())
        describe_shares(layers, group)
    is_offloaded = options.load_in is None and keeps_in_host(
        options.offload, modules.values(), device, dtype, elsewhere=elsewhere
    )
    if is_offloaded and has_decoder and group is None:
        require_host_room(layers, dtype)
    waits = is_offloaded or options.load_in is not None or group is not None
    rename = partial(_rename, tower=tower, has_newline=reader.has_newline)

    def load_encoder() -> None:
        of_encoder = {part: modules[part] for part in ("tower", "projector")}

        def rename_some(name: str) -> tuple[str, str] | None:
            target = rename(name)
            return target if target is not None and target[0] in of_encoder else None

        load_weights(folder, of_encoder, rename=rename_some, dtype=dtype, device=device)
        tower.finish(device)

    encoder = DeferredWeights(folder, load_encoder)
    load_weights(
        folder,
        modules,
        rename=rename,
        dtype=dtype,
        device=device,
        read=("decoder", "newline") if has_decoder else ("newline",),
        optional=frozenset({"decoder.lm_head.weight", "newline.row"}),
        stays_in_host=_is_layer if waits else lambda part, name: False,
    )
    _require_newline(parts.newline, reader, folder)
    if not has_decoder:
        parts.projector.to(dtype)  # it is named by the cache before it is read
        return encoder
    _finish_decoder(decoder, raw, folder, device)
    if adapter is not None:
        merge_adapter(decoder, adapter)
    if group is not None:
        shard_layers(decoder.model, group, device, in_host=is_offloaded)
    elif is_offloaded:
        offload_layers(decoder.model, device)
    elif options.load_in is not None:
        quantize_layers(layers, options.load_in, dtype=dtype, device=device)
    return encoder


def usual_template(raw: Mapping[str, Any]) -> str:
    """The name of the prompt template with which the checkpoint's family was trained."""
    return _DECODERS[llava_type(raw) or raw["model_type"]][2]


def require_readable(raw: Mapping[str, Any], folder: Path) -> None:
    """Raises `ModelError` if config.json describes something that vniah does not support."""
    expected: Mapping[str, tuple[Any, tuple[Any, ...]]] = {
        "mm_vision_select_feature": ("patch", ("patch",)),
        "mm_resampler_type": (None, (None, "spatial_pool")),
        "add_faster_video": (False, (False, None)),
        "s2": (False, (False, None)),
        "mm_use_im_start_end": (False, (False, None)),
        "mm_use_im_patch_token": (False, (False, None)),
    }
    for key, (default, readable) in expected.items():
        if raw.get(key, default) not in readable:
            raise ModelError(
                f"{folder}/config.json has {key} = {short_repr(raw[key])}; vniah "
                f"reads {readable[0]!r}"
            )


def _find_reader(
    raw: Mapping[str, Any], folder: Path, tower: Tower, options: LoadOptions
) -> PictureReader:
    """What turns pictures into rows, as the options and config.json say.

    Raises:
        InputError: pictures are to be read as grids, and it is not said at which size, or the
            checkpoint does not read images so.
    """
    if options.images == "frames":
        return frame_reader(raw, folder, tower)
    if options.frame_size is None:
        raise InputError(
            "images 'grids' needs a frame_size, to which all pictures are brought: give width and "
            "height, such as 816x1056 for a page (--frame-size); pages of --haystack bring their "
            "own"
        )
    rule = read_rule(raw, folder, tower_size=tower.image_size, side=tower.side)
    reader = GridReader(tower, rule, options.frame_size)
    assert reader.layout  # raises where nothing of such a picture would be left
    return reader


def frame_reader(raw: Mapping[str, Any], folder: Path, tower: Tower) -> FrameReader:
    """What reads pictures as frames of a video: pooling and newlines of a frame.

    A missing field means what the published V-NIAH runs did with CLIP towers: average pooling and
    no newline. With SigLIP it means what the code of LLaVA-NeXT does: a newline after all frames,
    and no pooling that would be the usual one.
    """
    layout = read_layout(
        raw,
        folder,
        side=tower.side,
        usual_mode=None if tower.is_siglip else "average",
        usual_newline="one_token" if tower.is_siglip else "no_token",
    )
    return FrameReader(tower, layout)


def _decoder_config(raw: Mapping[str, Any], config_class: type[Any], folder: Path) -> Any:
    """The decoder's configuration, out of the checkpoint's flat one."""
    values = {
        key: value
        for key, value in raw.items()
        if key not in _NOT_FOR_THE_DECODER and not key.startswith(_DECODER_FOREIGN_PREFIXES)
    }
    if config_class is MistralConfig:
        values["sliding_window"] = None  # these checkpoints were trained and published without
    config = config_class(**values)
    try:
        config.rope_parameters = stored_parameters(config, raw)
    except InputError as error:  # here the value is not the user's
        raise ModelError(f"{folder}/config.json cannot be used: {first_line(error)}") from error
    return config


def _finish_decoder(
    decoder: Any, raw: Mapping[str, Any], folder: Path, device: torch.device
) -> None:
    """Ties the head, and computes the RoPE frequencies in fp32, which no checkpoint holds."""
    if decoder.lm_head.weight.is_meta:
        if not raw.get("tie_word_embeddings", False):
            raise ModelError(f"{folder} lacks the weight 'lm_head.weight'")
        decoder.lm_head.weight = decoder.model.embed_tokens.weight
    elif raw.get("tie_word_embeddings") and not torch.equal(
        decoder.lm_head.weight, decoder.model.embed_tokens.weight
    ):
        raise ModelError(
            f"{folder}/config.json has tie_word_embeddings = True, but the weights of lm_head and "
            "of the embeddings differ; write false if the head is one of its own"
        )
    body = decoder.model
    body.rotary_emb = type(body.rotary_emb)(decoder.config).to(device)
    assert body.rotary_emb.inv_freq.dtype == torch.float32
    leftover = [n for n, t in decoder.named_buffers() if t.is_meta]
    assert not leftover, f"buffers without values: {leftover}"


def _require_newline(newline: nn.ParameterDict, reader: PictureReader, folder: Path) -> None:
    """Raises `ModelError` if the newline row is used and the checkpoint has none."""
    if any(row.is_meta for row in newline.values()):
        raise ModelError(
            f"{folder} lacks the weight {_NEWLINE_NAME!r}, which {reader.newline_field} needs"
        )


def _rename(name: str, *, tower: Tower, has_newline: bool) -> tuple[str, str] | None:
    """(part, name in the transformers class) for a tensor's name; None if it is not used."""
    if name == _NEWLINE_NAME:
        return ("newline", "row") if has_newline else None
    if name.startswith(_UNUSED_PREFIXES) or name.endswith("rotary_emb.inv_freq"):
        return None
    if name.startswith(_TOWER_PREFIX):
        own = tower.rename(name.removeprefix(_TOWER_PREFIX))
        return None if own is None else ("tower", own)
    if name.startswith(_PROJECTOR_PREFIX):
        return "projector", name.removeprefix(_PROJECTOR_PREFIX)
    return "decoder", name


def _is_layer(part: str, name: str) -> bool:
    """True if a weight belongs to one of the decoder's layers."""
    return part == "decoder" and name.startswith("model.layers.")


def config_for_tokenizer(raw: Mapping[str, Any]) -> Any:
    """The configuration to give to the tokenizer; None if it can read config.json itself.

    The tokenizer knows no model of this type, so it fails to read the type's RoPE scaling.
    """
    if not (raw.get("rope_scaling") or raw.get("rope_parameters")):
        return None
    return PreTrainedConfig.from_dict({k: v for k, v in raw.items() if not k.startswith("rope_")})
