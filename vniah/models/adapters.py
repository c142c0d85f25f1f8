"""Adapters (LoRA and the like) beside a checkpoint's weights, or in a folder of their own.

An adapter changes the model, so it is applied or refused by name. transformers loads it with peft;
then it is merged into the weights, so that every way to run the decoder sees plain matrices.
"""

import importlib.util
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from vniah.errors import MissingDependencyError, ModelError
from vniah.files import hash_file
from vniah.models.checkpoints import reported
from vniah.models.configs import read_config
from vniah.models.contents import hash_files
from vniah.models.weights import ADAPTER_WEIGHTS, read_header

_CONFIG_NAME = "adapter_config.json"
_PICKLED = ("adapter_model.bin", "adapter_model.pt")
_TEMPLATES = ("chat_template.jinja", "chat_template.json")
# Kinds that add rows to the prompt instead of changing weights cannot be merged.
_PROMPT_KINDS = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "MULTITASK_PROMPT_TUNING", "CPT")


def find_adapter(folder: Path) -> Path | None:
    """The folder itself if an adapter lies in it, else None.

    Raises:
        ModelError: there are weights of an adapter without their configuration.
    """
    if (folder / _CONFIG_NAME).is_file():
        return folder
    if (folder / ADAPTER_WEIGHTS).exists():
        raise ModelError(f"{folder} has {ADAPTER_WEIGHTS} without {_CONFIG_NAME}, which is needed")
    return None


def base_of(folder: Path) -> str:
    """Where the model lies that an adapter was trained for, as its adapter_config.json says.

    Raises:
        ModelError: it does not say it.
    """
    base = read_config(folder, _CONFIG_NAME).get("base_model_name_or_path")
    if not base:
        raise ModelError(
            f"{folder} holds an adapter only, and its {_CONFIG_NAME} names no "
            "base_model_name_or_path; write there the folder or hub id of the model"
        )
    return str(base)


def require_own_template(adapter: Path, base: Path) -> None:
    """Raises `ModelError` if an adapter's folder has another chat template than its model."""
    for name in _TEMPLATES:
        own, other = adapter / name, base / name
        if own.is_file() and not (other.is_file() and own.read_bytes() == other.read_bytes()):
            raise ModelError(
                f"the adapter in {adapter} has a {name} that its model in {base} does not have; "
                "put the adapter beside the weights of its model, with the template that is right"
            )


def require_adapter(folder: Path) -> None:
    """Raises an error, before anything is loaded, if an adapter cannot be applied.

    Raises:
        ModelError: it is of a kind that cannot be merged, or its weights are not in safetensors.
        MissingDependencyError: peft is not installed.
    """
    config = read_config(folder, _CONFIG_NAME)
    kind = str(config.get("peft_type") or "LORA")
    if kind.upper() in _PROMPT_KINDS:
        raise ModelError(
            f"{folder / _CONFIG_NAME} describes an adapter of the kind {kind}, which is no change "
            "of weights and cannot be merged into them; plug the model in as "
            "package.module:factory"
        )
    if config.get("layer_replication"):
        raise ModelError(
            f"{folder / _CONFIG_NAME} has a layer_replication: it makes another decoder of the "
            "model; merge it, and save the whole model"
        )
    if not (folder / ADAPTER_WEIGHTS).is_file():
        pickled = next((name for name in _PICKLED if (folder / name).exists()), None)
        hint = "" if pickled is None else f" ({pickled} is a pickle, which vniah never loads)"
        raise ModelError(f"{folder} has {_CONFIG_NAME}, but no {ADAPTER_WEIGHTS}{hint}")
    read_header(folder / ADAPTER_WEIGHTS)
    if not _has_peft():
        raise MissingDependencyError(
            "peft", extra="adapters", purpose=f"the adapter beside the weights in {folder}"
        )


def merge_adapter(model: Any, folder: Path) -> None:
    """Adds an adapter to the weights of a transformers model, in place.

    Args:
        model: with its weights in host memory.
        folder: holds adapter_config.json and adapter_model.safetensors.

    Raises:
        ModelError: a weight of the adapter has no place in the model, or is missing.
    """
    # It says on being imported that it lacks kernels, and peft imports it where it is installed.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    with reported(folder, "the adapter in"):
        found = model.load_adapter(
            str(folder), use_safetensors=True, adapter_kwargs={"local_files_only": True}
        )
        for what in ("unexpected_keys", "missing_keys", "mismatched_keys", "error_msgs"):
            if wrong := sorted(map(str, getattr(found, what, None) or ())):
                raise ModelError(
                    f"the adapter in {folder} does not fit the model: {what.replace('_', ' ')}: "
                    f"{wrong[0]}" + (f" and {len(wrong) - 1} more" if len(wrong) > 1 else "")
                )
        _merge(model)
    model.requires_grad_(False).eval()


def adapter_record(folder: Path) -> str:
    """An adapter for the manifest: the name of its folder, and the start of its weights' sha256."""
    return f"{folder.resolve().name} {hash_file(folder / ADAPTER_WEIGHTS)[:16]}"


def adapter_fingerprint(folder: Path) -> str:
    """A short hash over an adapter's configuration and weights."""
    return hash_files(folder, [folder / _CONFIG_NAME, folder / ADAPTER_WEIGHTS])


@contextmanager
def without_adapter(folder: Path) -> Iterator[Path]:
    """The same folder as transformers would see it without the adapter in it.

    Where peft is installed, transformers loads an adapter with the weights, and then reports what
    is missing of the adapter only, not of the weights.
    """
    if not (folder / _CONFIG_NAME).is_file():
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="vniah-base-") as place:
        for path in folder.iterdir():
            if path.is_file() and not path.name.startswith("adapter_"):
                (Path(place) / path.name).symlink_to(path.resolve())
        yield Path(place)


def _has_peft() -> bool:
    return importlib.util.find_spec("peft") is not None


def _merge(model: nn.Module) -> None:
    """Adds the adapter's matrices to those that they stand beside, and takes its modules out."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    for name, module in list(model.named_modules()):
        parent_name, _, child = name.rpartition(".")
        if isinstance(module, AuxiliaryTrainingWrapper):
            plain = module.unload_and_optionally_merge_module(
                merge=True, safe_merge=True, adapter_names=None
            )
        elif isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
            plain = module.get_base_layer()
        else:
            continue
        setattr(model.get_submodule(parent_name), child, plain)
