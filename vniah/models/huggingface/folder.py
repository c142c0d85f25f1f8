"""A checkpoint folder of transformers as an adapter of its family."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from vniah.errors import ModelError
from vniah.forward.offload import keeps_in_host, move_all_but_layers, offload_layers
from vniah.models.checkpoints import count_stored, fingerprint, read_config, reported, weight_files
from vniah.models.huggingface import find_family
from vniah.models.huggingface.base import Parts, TransformersModel
from vniah.models.huggingface.prompt import read_chat_template
from vniah.models.quantization import quantize_layers
from vniah.models.vocabulary import find_stop_ids, load_tokenizer
from vniah.options import LoadIn, Offload

_MOST_LACKING = 1.5  # tied weights are stored once
_PREPROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
# As the families store them: language_model.model.layers.0, model.text_model.layers.0, ...
_DECODER_LAYER = re.compile(
    r"(?:model|(?:model\.)?(?:language_model|text_model)(?:\.model)?)\.layers\.(\d+)\."
)


def load_family(
    folder: Path,
    *,
    name: str,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    rope_theta: float | None = None,
    rope_scaling: Mapping[str, Any] | str | None = None,
    offload: Offload = "auto",
    load_in: LoadIn | None = None,
    frame_size: tuple[int, int] | None = None,
) -> TransformersModel:
    """The model in a checkpoint folder, by the adapter of its family.

    Args:
        folder: where config.json, safetensors, tokenizer and preprocessor files lie.
        name: for titles and manifests.
        revision: what tells its versions apart; by default a hash over its files.
        dtype: of the weights; by default as stored.
        device: where it runs; by default the CPU.
        rope_theta: a RoPE base to use instead of the checkpoint's.
        rope_scaling: a RoPE scaling to use instead (`vniah.models.rope.override_rope`).
        offload: as `vniah.models.loading.load_model`.
        load_in: as there.
        frame_size: width and height in pixels, for families whose tower reads any size.

    Raises:
        ModelError: something is missing or does not fit; the message names it.
        InputError: the RoPE that was asked for cannot be meant.
        MissingDependencyError: ``load_in`` needs bitsandbytes, or a prompt a package of its own.
    """
    raw = read_config(folder)
    adapter: Any = find_family(raw["model_type"])
    if raw.get("quantization_config"):
        raise ModelError(
            f"{folder}/config.json has a quantization_config: its weights are stored rounded, and "
            "that is not read; use the full checkpoint, with --load-in 8bit or 4bit"
        )
    weight_files(folder)
    tokenizer = load_tokenizer(folder)
    with reported(folder, "the image processor in"):
        image_processor = _load_image_processor(folder)
    model = _load_weights(folder, adapter.model_class, dtype)
    place_weights(model, adapter.find_body(model), device or torch.device("cpu"), offload, load_in)
    parts = Parts(
        name=name,
        revision=revision or fingerprint(folder),
        model=model,
        tokenizer=tokenizer,
        image_processor=image_processor,
        template=read_chat_template(folder, tokenizer),
        stop_ids=find_stop_ids(folder, tokenizer, model.generation_config.to_dict()),
        frame_size=frame_size,
        load_in=load_in,
    )
    with reported(folder, "the model in"):  # which encodes a blank frame
        loaded: TransformersModel = adapter(parts)
    if rope_theta is not None or rope_scaling is not None:
        loaded.override_rope(rope_theta, rope_scaling)
    return loaded


def place_weights(
    model: Any, body: Any, device: torch.device, offload: Offload, load_in: LoadIn | None
) -> None:
    """Brings a model from host memory to a device, its decoder's layers as they are asked for.

    Args:
        model: all of it.
        body: its decoder's stack of layers.
        device: where it computes.
        offload: as `load_family`.
        load_in: as there.
    """
    if load_in is not None:
        quantize_layers(body.layers, load_in, dtype=model.dtype, device=device)
        move_all_but_layers(model, body.layers, device)
    elif keeps_in_host(offload, [model], device, model.dtype):
        move_all_but_layers(model, body.layers, device)
        offload_layers(body, device)
    else:
        model.to(device)


def _load_image_processor(folder: Path) -> Any:
    """The image processor that computes with Pillow, alike on every machine, where there is one."""
    if not any((folder / name).is_file() for name in _PREPROCESSOR_FILES):
        raise ModelError(f"{folder} has no preprocessor_config.json")
    return transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")


def _load_weights(folder: Path, class_name: str, dtype: torch.dtype | None) -> Any:
    model_class = getattr(transformers, class_name, None)
    if model_class is None:
        raise ModelError(f"{folder} needs a newer transformers: this one has no {class_name}")
    with reported(folder, "the checkpoint"):
        _refuse_other_sizes(folder, model_class)
        model, found = model_class.from_pretrained(
            folder,
            dtype=dtype or "auto",
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are named below; it would only count them
        )
    for what in ("missing_keys", "mismatched_keys", "error_msgs"):
        _refuse_keys(folder, what.replace("_", " "), found.get(what) or ())
    # Weights that nothing reads may be left over from training; whole layers are another model.
    num_layers = model.config.get_text_config().num_hidden_layers
    surplus = [
        key
        for key in found.get("unexpected_keys") or ()
        if (layer := _DECODER_LAYER.match(key)) and int(layer[1]) >= num_layers
    ]
    _refuse_keys(folder, "layers that its config.json does not count", surplus)
    return model.requires_grad_(False).eval()


def _refuse_other_sizes(folder: Path, model_class: Any) -> None:
    """Raises `ModelError` where config.json describes a far larger model than the weights are.

    What it does not say of a part is transformers' default, often billions of weights; they would
    all be drawn at random before it could be said that they are missing.
    """
    with torch.device("meta"):
        model = model_class(transformers.AutoConfig.from_pretrained(folder))
    num_described = sum(parameter.numel() for parameter in model.parameters())
    num_stored = count_stored(folder)
    if num_described > _MOST_LACKING * num_stored:
        raise ModelError(
            f"{folder}/config.json describes {num_described:,} weights, its safetensors hold "
            f"{num_stored:,}: it lacks the sizes of a part, or the weights one"
        )


def _refuse_keys(folder: Path, what: str, keys: Iterable[Any]) -> None:
    """Raises `ModelError` with the first of some weights' names, if there is one."""
    if wrong := sorted(map(str, keys)):
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise ModelError(f"{folder} has {what}: {wrong[0]}{more}")
