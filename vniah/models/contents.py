"""What lies in a checkpoint folder: what vniah reads of it, and what it must not pass over.

A file beside the weights may make another model of them: code, an adapter, a quantization, a
difference to other weights. Each kind is applied or refused by name, never left out in silence.
"""

import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from vniah.errors import ModelError, quoted, short_repr
from vniah.files import hash_file, hash_text
from vniah.models.configs import FILES, read_beside, read_config
from vniah.models.weights import ADAPTER_WEIGHTS, stored_tensors, weight_files

_SMALL_FILES = (".json", ".model", ".txt", ".jinja")
_LAYERS = ("num_hidden_layers", "depth")
_QUANTIZATION_KEYS = ("quantization_config", "compression_config", "quantization")
_QUANTIZATION_FILES = (
    "quantize_config.json",
    "quant_config.json",
    "quantization_config.json",
    "quanto_qmap.json",
    "quantization_map.json",
    "hf_quant_config.json",
    "qmodel.pt",
)
_TRAINED_FILES = ("non_lora_trainables.bin", "non_lora_trainables.safetensors")
# Adapters as other programs than peft name them, and differences to the weights.
_CHANGES = re.compile(r"(?:^|[-_.])(?:lora|adapters?|delta)(?:[-_.]|$)", re.IGNORECASE)
_DELTA = re.compile(r"(?:^|[-_.])delta(?:[-_.]v?\d[\w.-]*)?$", re.IGNORECASE)
_MOST_BYTES = 2**30  # of a tokenizer file; the largest published ones have 40 MB

# Settings of generate that change what greedy decoding gives, with the values that do not.
_GENERATION: Mapping[str, tuple[Any, ...]] = {
    "repetition_penalty": (1, None),
    "encoder_repetition_penalty": (1, None),
    "no_repeat_ngram_size": (0, None),
    "encoder_no_repeat_ngram_size": (0, None),
    "bad_words_ids": ([], None),
    "force_words_ids": ([], None),
    "suppress_tokens": ([], None),
    "begin_suppress_tokens": ([], None),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "forced_decoder_ids": ([], None),
    "sequence_bias": ({}, [], None),
    "min_length": (0, None),
    "min_new_tokens": (0, None),
    "exponential_decay_length_penalty": (None,),
    "stop_strings": ([], None),
    "guidance_scale": (1, None),
    "num_beams": (1, None),
    "penalty_alpha": (0, None),
    "dola_layers": (None,),
    "watermarking_config": (None,),
}


def require_supported(folder: Path, name: str) -> None:
    """Raises `ModelError` if a folder holds what vniah does not apply; the message names it.

    Reads every JSON file by its declared type, and the headers of the weights, before anything of
    the size that they describe is allocated.

    Args:
        folder: a checkpoint folder with config.json.
        name: of the model; the name of delta weights is all that tells them apart.
    """
    config = read_config(folder)
    _require_no_code(folder)
    _require_not_quantized(folder, config)
    _require_whole_model(folder, name)
    require_preprocessing(folder)
    num_stored = len(stored_tensors(folder))
    _require_layers(folder, num_stored)
    if (tower := tower_folder(folder, config.get("mm_vision_tower") or "")) is not None:
        _require_no_code(tower)
        _require_layers(tower, num_stored)
    for path in _small_files(folder):
        if path.stat().st_size > _MOST_BYTES:
            raise ModelError(f"{path} has more than {_MOST_BYTES:,} bytes: it is no such file")


def fingerprint(folder: Path) -> str:
    """A short hash over the content of configuration, tokenizer, weights and adapter."""
    inside = read_config(folder).get("mm_vision_tower")
    paths = _small_files(folder)
    if isinstance(inside, str) and (tower := tower_folder(folder, inside)) is not None:
        paths += _small_files(tower)
    paths += weight_files(folder)
    if (folder / ADAPTER_WEIGHTS).is_file():
        paths.append(folder / ADAPTER_WEIGHTS)
    return hash_files(folder, paths)


def hash_files(folder: Path, paths: list[Path]) -> str:
    """A short hash over the names and contents of files in a folder."""
    with ThreadPoolExecutor() as pool:
        names = (path.relative_to(folder).as_posix() for path in paths)
        digests = list(zip(names, pool.map(hash_file, paths), strict=True))
    return hash_text(repr(digests))[:16]


def tower_folder(folder: Path, name: str) -> Path | None:
    """The folder inside a checkpoint that describes its vision tower, if there is one."""
    try:
        inside = folder / name
        is_inside = inside.resolve().is_relative_to(folder.resolve()) and inside.is_dir()
    except (OSError, ValueError):  # a name that no file can have
        return None
    return inside if is_inside and inside.resolve() != folder.resolve() else None


def generation_note(folder: Path) -> str | None:
    """What of generation_config.json greedy decoding does not apply, in a sentence; else None."""
    values = read_beside(folder, "generation_config.json")
    found = [
        f"{key} = {short_repr(values[key])}"
        for key, neutral in _GENERATION.items()
        if values.get(key) not in neutral
    ]
    if not found:
        return None
    return (
        f"generation_config.json has {', '.join(found)}: answers are generated greedily without "
        "it, so they may differ from those of the model's own generate"
    )


def _small_files(folder: Path) -> list[Path]:
    return [
        path for path in sorted(folder.glob("*")) if path.suffix in _SMALL_FILES and path.is_file()
    ]


def _require_no_code(folder: Path) -> None:
    """Raises `ModelError` if a file names Python code of the checkpoint's that is to be run."""
    for name in FILES:
        for key, value in _walk(read_beside(folder, name)):
            if key == "auto_map" and value:
                code = next(iter(value.values())) if isinstance(value, dict) else value
                raise ModelError(
                    f"{folder / name} has an auto_map: the checkpoint needs Python code of its own "
                    f"({quoted(str(code), 80)}), which vniah never runs. Plug it in as "
                    "package.module:factory, or remove auto_map if the class of transformers is "
                    "the same"
                )


def _require_not_quantized(folder: Path, config: Mapping[str, Any]) -> None:
    advice = (
        "its weights are quantized, which vniah cannot read; use the full checkpoint, with "
        "--load-in 8bit or 4bit"
    )
    for key, value in _walk(config):
        if key in _QUANTIZATION_KEYS and value:
            raise ModelError(f"{folder}/config.json has a {key}: {advice}")
    for name in _QUANTIZATION_FILES:
        if (folder / name).exists():
            raise ModelError(f"{folder} has a {name}: {advice}")


def _require_whole_model(folder: Path, name: str) -> None:
    """Raises `ModelError` for differences to other weights, and for parts beside an adapter."""
    if _DELTA.search(name):
        raise ModelError(
            f"{name} holds delta weights by its name: differences to another model, to which they "
            "have to be added first; if it is the whole model, rename its folder"
        )
    used = {ADAPTER_WEIGHTS, *(path.name for path in weight_files(folder))}
    for path in sorted(folder.glob("*.safetensors")):
        if path.name not in used and _CHANGES.search(path.stem):
            raise ModelError(
                f"{folder} has a {path.name}: by its name an adapter or a difference to the "
                "weights, which is not applied; merge it into the model, or remove it if it was "
                "merged"
            )
    for trained in _TRAINED_FILES:
        if (folder / trained).exists():
            raise ModelError(
                f"{folder} has a {trained}: weights that were trained beside an adapter and are "
                "not applied; merge both into the model, and save it as safetensors"
            )


def require_preprocessing(folder: Path) -> None:
    """Raises `ModelError` if two files describe the image processor differently."""
    first = read_beside(folder, "processor_config.json").get("image_processor")
    second = read_beside(folder, "preprocessor_config.json")
    if not first or not second:
        return
    for key in sorted(first.keys() & second.keys() - {"processor_class"}):
        if not key.endswith("_type") and first[key] != second[key]:
            raise ModelError(
                f"{folder}: processor_config.json and preprocessor_config.json differ in {key}: "
                f"{quoted(str(first[key]), 60)} and {quoted(str(second[key]), 60)}; remove the "
                "one that is wrong"
            )


def _require_layers(folder: Path, num_stored: int) -> None:
    """Raises `ModelError` if config.json has more layers than there are tensors."""
    for key, value in _walk(read_config(folder)):
        if key in _LAYERS and type(value) is int and value > num_stored:
            raise ModelError(
                f"{folder}/config.json has {key} = {value}, and the weights are {num_stored} "
                "tensors: they are of another model"
            )


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    """All keys and values of an object and of the objects and lists in it."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            yield from item.items()
            stack += item.values()
        elif isinstance(item, list):
            stack += item
