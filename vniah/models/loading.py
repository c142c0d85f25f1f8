"""A model by its name: embedded, a checkpoint folder, a hub id, or somebody's own factory."""

import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from vniah.errors import InputError, ModelError, VniahError, first_line
from vniah.models.protocol import AnyModel
from vniah.models.server import ServerOptions, is_server, open_server
from vniah.paths import embedded_dir

if TYPE_CHECKING:
    import torch

DEFAULT_MODEL = "reference-long"

_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_HUB_PATTERNS = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
_DTYPES = ("float32", "bfloat16", "float16")


def load_model(
    source: str | Path = DEFAULT_MODEL,
    *,
    dtype: str | None = None,
    device: str | None = None,
    rope_theta: float | None = None,
    prompt_template: str | None = None,
    server: ServerOptions | None = None,
) -> AnyModel:
    """The model that ``source`` names.

    Args:
        source: an embedded model (``"reference-long"``), a checkpoint folder, a hub id such as
            ``"lmms-lab/LongVA-7B"``, or ``"package.module:factory"``, a function without arguments
            that returns a model; or ``"openai:BASE_URL#MODEL"``, a model behind a server.
        dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``; by default as stored, and float32 on
            the CPU, whose kernels for half precision are slow.
        device: e.g. ``"cuda"``, ``"cuda:1"``, ``"cpu"``; by default CUDA where there is some.
        rope_theta: a RoPE base to use instead of the checkpoint's.
        prompt_template: one of `vniah.models.prompts.PROMPT_TEMPLATES`; by default the one that the
            checkpoint's family was trained with.
        server: how a server is asked; for no other model.

    Raises:
        ModelError: there is no such model, or it cannot be loaded.
        InputError: an argument cannot be meant.
    """
    text = str(source)
    if rope_theta is not None and not 1 < rope_theta < float("inf"):
        raise InputError(f"rope_theta must be a number above 1, got {rope_theta}")
    if dtype is not None and dtype not in _DTYPES:
        raise InputError(f"dtype must be one of {', '.join(_DTYPES)}, got {dtype!r}")
    options = _CheckpointOptions(dtype, device, rope_theta, prompt_template)
    if is_server(text):
        if options != _CheckpointOptions():
            raise InputError(
                "dtype, device, rope_theta and prompt_template are for checkpoints; "
                "a server decides them itself"
            )
        return open_server(text, server)
    if server is not None:
        raise InputError(f"options of a server are for openai:BASE_URL#MODEL, not for {text!r}")
    if text in embedded_models():
        return _load_folder(embedded_dir("models", text), text, None, options)
    if text and Path(text).is_dir():
        return _load_folder(Path(text), Path(text).resolve().name, None, options)
    if is_factory(text):
        if options != _CheckpointOptions():
            raise InputError(
                "dtype, device, rope_theta and prompt_template are for checkpoints; "
                f"{text} decides them itself"
            )
        return _call_factory(text)
    if _HUB_ID.fullmatch(text):
        folder, commit = _download(text)
        return _load_folder(folder, text, commit, options)
    raise ModelError(
        f"there is no model {text!r}: give a checkpoint folder, a hub id (owner/name), "
        f"package.module:factory, openai:BASE_URL#MODEL, or one of {', '.join(embedded_models())}"
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
    """What one may ask of a checkpoint; None is the usual."""

    dtype: str | None = None
    device: str | None = None
    rope_theta: float | None = None
    prompt_template: str | None = None


def _load_folder(
    folder: Path, name: str, revision: str | None, options: _CheckpointOptions
) -> AnyModel:
    import torch

    from vniah.models.checkpoints import read_config
    from vniah.models.llava import MODEL_TYPES, LlavaModel

    model_type = read_config(folder).get("model_type")
    if model_type not in MODEL_TYPES:
        raise ModelError(
            f"{folder}/config.json has model_type {model_type!r}; supported are "
            f"{', '.join(MODEL_TYPES)}. Any other model plugs in as package.module:factory"
        )
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
