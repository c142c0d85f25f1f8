"""A model by its name: embedded, a checkpoint folder, a hub id, or somebody's own factory."""

import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from vniah.errors import InputError, ModelError, VniahError, first_line
from vniah.models.protocol import AnyModel
from vniah.paths import embedded_dir

if TYPE_CHECKING:
    import torch

DEFAULT_MODEL = "reference-long"

Offload = Literal["auto", "always", "never"]
LoadIn = Literal["8bit", "4bit"]
DTYPES = ("float32", "bfloat16", "float16")

_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_HUB_PATTERNS = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


def load_model(
    source: str | Path = DEFAULT_MODEL,
    *,
    dtype: str | None = None,
    device: str | None = None,
    rope_theta: float | None = None,
    prompt_template: str | None = None,
    offload: Offload = "auto",
    load_in: LoadIn | None = None,
) -> AnyModel:
    """The model that ``source`` names.

    Args:
        source: an embedded model (``"reference-long"``), a checkpoint folder, a hub id such as
            ``"lmms-lab/LongVA-7B"``, or ``"package.module:factory"``, a function without arguments
            that returns a model.
        dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``; by default as stored, and float32 on
            the CPU, whose kernels for half precision are slow.
        device: e.g. ``"cuda"``, ``"cuda:1"``, ``"mps"``, ``"cpu"``; by default CUDA where there is
            some.
        rope_theta: a RoPE base to use instead of the checkpoint's.
        prompt_template: one of `vniah.models.prompts.PROMPT_TEMPLATES`; by default the one that the
            checkpoint's family was trained with.
        offload: ``"always"`` keeps the weights of the decoder's layers in host memory and copies
            each layer to the device when it is its turn, ``"never"`` has them on the device,
            ``"auto"`` in host memory if they do not fit; the numbers are the same.
        load_in: ``"8bit"`` or ``"4bit"`` rounds the matrices of the decoder's layers, by
            bitsandbytes; the numbers are others.

    Raises:
        ModelError: there is no such model, or it cannot be loaded.
        InputError: an argument cannot be meant.
        MissingDependencyError: ``load_in`` needs bitsandbytes.
    """
    text = str(source)
    if rope_theta is not None and not 1 < rope_theta < float("inf"):
        raise InputError(f"rope_theta must be a number above 1, got {rope_theta}")
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    _refuse_impossible_weights(offload, load_in)
    options = _CheckpointOptions(dtype, device, rope_theta, prompt_template, offload, load_in)
    if text in embedded_models():
        return _load_folder(embedded_dir("models", text), text, None, options)
    if text and Path(text).is_dir():
        return _load_folder(Path(text), Path(text).resolve().name, None, options)
    if is_factory(text):
        if options != _CheckpointOptions():
            raise InputError(
                "dtype, device, rope_theta, prompt_template, offload and load_in are for "
                f"checkpoints; {text} decides them itself"
            )
        return _call_factory(text)
    if _HUB_ID.fullmatch(text):
        folder, commit = _download(text)
        return _load_folder(folder, text, commit, options)
    raise ModelError(
        f"there is no model {text!r}: give a checkpoint folder, a hub id (owner/name), "
        f"package.module:factory, or one of {', '.join(embedded_models())}"
    )


def is_factory(source: str) -> bool:
    """Whether it names a function, ``package.module:factory``."""
    return _FACTORY.fullmatch(source) is not None


def embedded_models() -> tuple[str, ...]:
    """Names of the models that come with vniah."""
    root = embedded_dir("models")
    return tuple(sorted(path.name for path in root.iterdir() if (path / "config.json").is_file()))


@dataclass(frozen=True)
class _CheckpointOptions:
    """What one may ask of a checkpoint; the defaults are the usual."""

    dtype: str | None = None
    device: str | None = None
    rope_theta: float | None = None
    prompt_template: str | None = None
    offload: Offload = "auto"
    load_in: LoadIn | None = None


def _refuse_impossible_weights(offload: str, load_in: str | None) -> None:
    if offload not in get_args(Offload):
        raise InputError(f"offload must be one of {', '.join(get_args(Offload))}, got {offload!r}")
    if load_in is not None and load_in not in get_args(LoadIn):
        raise InputError(f"load_in must be one of {', '.join(get_args(LoadIn))}, got {load_in!r}")
    if load_in is not None and offload == "always":
        raise InputError(
            f"offload always and load_in {load_in} do not go together: layers in {load_in} stay on "
            "the device; leave one of them away"
        )


def _load_folder(
    folder: Path, name: str, revision: str | None, options: _CheckpointOptions
) -> AnyModel:
    import torch

    from vniah.models.checkpoints import read_config
    from vniah.models.llava import MODEL_TYPES, LlavaModel
    from vniah.models.quantization import require_bitsandbytes

    model_type = read_config(folder).get("model_type")
    if model_type not in MODEL_TYPES:
        raise ModelError(
            f"{folder}/config.json has model_type {model_type!r}; supported are "
            f"{', '.join(MODEL_TYPES)}. Any other model plugs in as package.module:factory"
        )
    if options.load_in is not None:
        require_bitsandbytes(options.load_in)  # before anything is read
    place = find_device(options.device)
    dtype = options.dtype
    if dtype is None and place.type == "cpu":
        dtype = "float32"
    return LlavaModel.load(
        folder,
        name=name,
        revision=revision,
        dtype=None if dtype is None else getattr(torch, dtype),
        device=place,
        rope_theta=options.rope_theta,
        template=options.prompt_template,
        offload=options.offload,
        load_in=options.load_in,
    )


def find_device(name: str | None) -> "torch.device":
    """The device of that name; without one CUDA where there is some, else the CPU.

    Raises:
        InputError: there is no such device here.
    """
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).fill_(1)
        if device.type == "meta" or (device.type == "cpu" and device.index):
            raise RuntimeError("not a device that computes")
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device {name!r} cannot be used here; try cpu") from error
    return device


def _download(hub_id: str) -> tuple[Path, str]:
    """A hub repository's folder, without pickles, and its commit."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=_HUB_PATTERNS))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"{hub_id!r} is no folder here, and the hub does not give it: {first_line(error)}"
        ) from error
    return folder, folder.name


def _call_factory(text: str) -> AnyModel:
    module_name, _, factory_name = text.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ModelError(
            f"{text}: the module {module_name!r} cannot be imported: {error}"
        ) from error
    factory = getattr(module, factory_name, None)
    if factory is None:
        raise ModelError(f"{text}: {module_name} has no {factory_name!r}")
    if not callable(factory):
        raise ModelError(f"{text}: {factory_name} is not callable; give a function or a class")
    try:
        model = factory()
    except VniahError:
        raise
    except Exception as error:  # somebody else's code; the cause stays attached
        raise ModelError(f"{text} failed: {type(error).__name__}: {error}") from error
    require_protocol(model)
    return cast("AnyModel", model)


def require_protocol(model: Any) -> None:
    """Raises `ModelError` unless the object is a model of one of the three levels."""
    if isinstance(model, AnyModel):
        for name in ("name", "revision"):
            if not isinstance(getattr(model, name), str):
                raise ModelError(
                    f"{type(model).__name__} has {name} = {getattr(model, name)!r}; it must be text"
                )
        return
    needed = ("name", "revision", "frame_shape", "encode_frames", "compose", "answer_logits")
    missing = [name for name in needed if not hasattr(model, name)]
    raise ModelError(
        f"{type(model).__name__} is not a model: it lacks {', '.join(missing)} "
        "(or decoder and position_ids in place of answer_logits, or answer for a chat model)"
    )
