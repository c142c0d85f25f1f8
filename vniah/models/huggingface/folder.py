"""Reads a checkpoint folder in the layout of transformers."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from vniah.errors import ModelError
from vniah.forward.offload import keeps_in_host, move_all_but_layers, offload_layers
from vniah.forward.sharding import num_held_elsewhere, require_can_share, shard_layers
from vniah.models.adapters import adapter_record, merge_adapter, without_adapter
from vniah.models.checkpoints import find_device, reported, torch_dtype
from vniah.models.contents import fingerprint, generation_note
from vniah.models.deferred import DeferredWeights
from vniah.models.huggingface.halves import (
    FindBody,
    Half,
    class_of_half,
    class_with_shares,
    encoder_of,
    inner_of,
    unread_modules,
)
from vniah.models.huggingface.templates import read_chat_template
from vniah.models.quantization import quantize_layers
from vniah.models.vocabulary import find_stop_ids, load_tokenizer
from vniah.models.weights import count_stored, stored_tensors
from vniah.options import LoadOptions

_MOST_MISSING = 1.5  # tied weights are stored once
_PREPROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
# As checkpoints name them: language_model.model.layers.0, model.text_model.layers.0, ...
_DECODER_LAYER = re.compile(
    r"(?:model|(?:model\.)?(?:language_model|text_model)(?:\.model)?)\.layers\.(\d+)\."
)
# Adapters that were saved with the weights, not merged into them.
_OF_ADAPTER = re.compile(
    r"\.(?:lora_\w+|base_layer|modules_to_save|ia3_\w+|hada_\w+|lokr_\w+)(?:\.|$)"
)
# Buffers that older versions stored with the weights.
_BUFFERS = (".inv_freq", ".position_ids", ".num_batches_tracked", ".relative_position_index")


@dataclass(frozen=True)
class FamilyParts:
    """What was read from a checkpoint folder.

    Attributes:
        name: for titles and manifests.
        revision: a hash over its files, or the hub's commit.
        model: the transformers model, with its head.
        tokenizer: of transformers.
        image_processor: of transformers; the variant that computes with Pillow, if there are two.
            None for a language model.
        template: the chat template; empty for a language model.
        stop_ids: tokens that end an answer.
        frame_size: width and height in pixels that the user chose; None for the usual size.
        load_in: how the matrices of the decoder's layers are quantized, if they are.
        adapter: name and hash of the adapter that is merged into the weights, if there is one.
        generation_note: what of its generation_config.json is not applied, in a sentence.
        encoder: the weights of what encodes frames, if they are read later.
        folder: where all of this was read; None for a model without weights.
    """

    name: str
    revision: str
    model: Any
    tokenizer: Any
    image_processor: Any
    template: str
    stop_ids: tuple[int, ...]
    frame_size: tuple[int, int] | None = None
    load_in: str | None = None
    adapter: str | None = None
    generation_note: str | None = None
    encoder: DeferredWeights | None = None
    folder: Path | None = None


def read_parts(
    folder: Path,
    name: str,
    revision: str | None,
    options: LoadOptions,
    *,
    class_name: str,
    find_body: FindBody,
    pillow_processor: str | None = None,
    adapter: Path | None = None,
    reads_frames: bool = True,
    has_decoder: bool = True,
) -> FamilyParts:
    """Everything that a checkpoint folder holds, with the weights where they are to be.

    The weights of what encodes frames are read later, except with an adapter, which may change
    them: it is merged into the whole model.

    Args:
        folder: holds config.json, safetensors, tokenizer and preprocessor files, and has passed
            `vniah.models.contents.require_supported`.
        name: for titles and manifests.
        revision: tells versions of the weights apart; by default a hash over the files.
        options: how it is loaded; here no dtype means as stored, and no device the CPU.
        class_name: of the model, in transformers.
        find_body: gives the decoder's stack of layers in the model.
        pillow_processor: the class of transformers that reads the image processor's file, for
            families whose own needs torchvision.
        adapter: the folder of an adapter to merge into the weights.
        reads_frames: False for a language model, which has no image processor, and whose chat
            template is not used.
        has_decoder: False reads what encodes frames at once, and leaves the decoder without
            weights, except with an adapter.

    Raises:
        ModelError: something is missing or does not fit; the message names it.
        MissingDependencyError: ``load_in`` needs bitsandbytes.
    """
    tokenizer = load_tokenizer(folder)
    image_processor = None
    if reads_frames:
        with reported(folder, "the image processor in"):
            image_processor = load_image_processor(folder, pillow_processor)
    half: Half | None = None
    if reads_frames and adapter is None:
        half = "decoder" if has_decoder else "encoder"
    encoder = None
    if half == "decoder":
        encoder = DeferredWeights(
            folder, lambda: _read_encoder(folder, class_name, model, find_body, options)
        )
    if options.shard_weights is not None and has_decoder:
        require_can_share(name, adapter)
    with reported(folder, "the checkpoint"):
        _require_sizes(folder, _find_class(folder, class_name))
    model = _load_weights(folder, class_name, options, find_body, half)
    if adapter is not None:
        merge_adapter(model, adapter)
    _place_weights(model, find_body, options, half)
    return FamilyParts(
        name=name,
        revision=revision or fingerprint(folder),
        model=model,
        tokenizer=tokenizer,
        image_processor=image_processor,
        template=read_chat_template(folder, tokenizer) if reads_frames else "",
        stop_ids=find_stop_ids(tokenizer, model.generation_config.to_dict()),
        frame_size=options.frame_size,
        load_in=options.load_in,
        adapter=None if adapter is None else adapter_record(adapter),
        generation_note=generation_note(folder),
        encoder=encoder,
        folder=folder,
    )


def _read_encoder(
    folder: Path, class_name: str, model: Any, find_body: FindBody, options: LoadOptions
) -> None:
    """Gives a model what encodes frames, with its weights."""
    read = _load_weights(folder, class_name, options, find_body, "encoder")
    for name, part in encoder_of(read, find_body).items():
        setattr(inner_of(model), name, part.to(find_device(options.device or "cpu")))


def _place_weights(
    model: Any, find_body: FindBody, options: LoadOptions, half: Half | None
) -> None:
    """Moves the weights that were read from host memory to their device."""
    device, body = find_device(options.device or "cpu"), find_body(model)
    group = options.shard_weights
    unread = list(unread_modules(model, find_body, half).values())
    stays = nn.ModuleList([*unread, body.layers])
    if half == "encoder":
        move_all_but_layers(model, nn.ModuleList(unread), device)
    elif options.load_in is not None:
        quantize_layers(body.layers, options.load_in, dtype=model.dtype, device=device)
        move_all_but_layers(model, stays, device)
    elif group is not None:
        elsewhere = num_held_elsewhere(body.layers, group.size())
        in_host = keeps_in_host(options.offload, [model], device, model.dtype, elsewhere=elsewhere)
        move_all_but_layers(model, stays, device)
        shard_layers(body, group, device, in_host=in_host)
    elif keeps_in_host(options.offload, [model], device, model.dtype):
        move_all_but_layers(model, stays, device)
        offload_layers(body, device)
    else:
        move_all_but_layers(model, nn.ModuleList(unread), device)


def load_image_processor(folder: Path, name: str | None) -> Any:
    """The image processor; if there are two, that with Pillow, which is equal on every machine."""
    if not any((folder / name).is_file() for name in _PREPROCESSOR_FILES):
        raise ModelError(f"{folder} has no preprocessor_config.json")
    if name is not None:
        return getattr(transformers, name).from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    return transformers.AutoImageProcessor.from_pretrained(
        folder, backend="pil", trust_remote_code=False, local_files_only=True
    )


def _load_weights(
    folder: Path, class_name: str, options: LoadOptions, find_body: FindBody, half: Half | None
) -> Any:
    """The model with the weights of one half, or all, in host memory."""
    model_class = _find_class(folder, class_name)
    read_class = model_class if half is None else class_of_half(model_class, find_body, half)
    if options.shard_weights is not None and half != "encoder":
        stored = stored_tensors(folder).keys()
        read_class = class_with_shares(read_class, find_body, options.shard_weights, stored)
    with reported(folder, "the checkpoint"), without_adapter(folder) as base:
        model, found = read_class.from_pretrained(
            base,
            dtype=torch_dtype(options) or "auto",
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # named below; transformers only counts them
        )
    for what in ("missing_keys", "mismatched_keys", "error_msgs"):
        _require_no_keys(folder, what.replace("_", " "), found.get(what) or ())
    of_half = model.state_dict().keys()
    model.__class__ = model_class
    of_other = model.state_dict().keys() - of_half
    unexpected = [
        key for key in map(str, found.get("unexpected_keys") or ()) if key not in of_other
    ]
    if half == "encoder":  # of the decoder not even the names are made complete
        unexpected = [key for key in unexpected if _DECODER_LAYER.match(key) is None]
    _require_no_surplus(folder, model, unexpected)
    if half != "encoder":
        _require_tied_head(folder, model)
    return model.requires_grad_(False).eval()


def _find_class(folder: Path, name: str) -> Any:
    """The class of transformers with that name."""
    found = getattr(transformers, name, None)
    if found is None:
        raise ModelError(f"{folder} needs a newer transformers: this one has no {name}")
    return found


def _require_no_surplus(folder: Path, model: Any, unexpected: list[str]) -> None:
    """Raises `ModelError` if stored weights that the model has no place for would change it.

    Whole modules may be left over from training, such as the head of a tower that is not used.
    Weights in the layers of the decoder or of a module that has others (biases, scales), layers
    that are not counted, and adapters anywhere are parts of another model.
    """
    num_layers = model.config.get_text_config().num_hidden_layers
    layer_of = {key: layer for key in unexpected if (layer := _DECODER_LAYER.match(key))}
    surplus = [key for key, layer in layer_of.items() if int(layer[1]) >= num_layers]
    _require_no_keys(folder, "layers that its config.json does not count", surplus)
    owners = {
        name for name, module in model.named_modules() if list(module.parameters(recurse=False))
    }
    extra = [
        key
        for key in unexpected
        if _OF_ADAPTER.search(key)
        or ((key in layer_of or key.rpartition(".")[0] in owners) and not key.endswith(_BUFFERS))
    ]
    _require_no_keys(folder, "weights that the model of its config.json does not have", extra)


def _require_sizes(folder: Path, model_class: Any) -> None:
    """Raises `ModelError` if config.json describes a far larger model than the stored weights.

    Sizes that config.json does not give are transformers' defaults, often billions of weights. All
    of them would be initialized at random before an error could name the missing ones.
    """
    with torch.device("meta"):
        config = model_class.config_class.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
        model = model_class(config)
    num_described = sum(parameter.numel() for parameter in model.parameters())
    num_stored = count_stored(folder)
    if num_described > _MOST_MISSING * num_stored:
        raise ModelError(
            f"{folder}/config.json describes {num_described:,} weights, its safetensors hold "
            f"{num_stored:,}: config.json lacks the sizes of a part, or the weights lack a part"
        )


def _require_tied_head(folder: Path, model: Any) -> None:
    """Raises `ModelError` if the head is said to be tied, and other weights are stored for it."""
    if not getattr(model.config, "tie_word_embeddings", False):
        return
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    if head is not table and not torch.equal(head, table):
        raise ModelError(
            f"{folder}/config.json has tie_word_embeddings = True, but the weights of lm_head and "
            "of the embeddings differ; write false if the head is one of its own"
        )


def _require_no_keys(folder: Path, what: str, keys: Iterable[Any]) -> None:
    """Raises `ModelError` with the first of the names of weights, if there are any."""
    if wrong := sorted(map(str, keys)):
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise ModelError(f"{folder} has {what}: {wrong[0]}{more}")
