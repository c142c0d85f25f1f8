"""A model by its name: embedded, a checkpoint folder, a hub id, or somebody's own factory."""

import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from vniah.errors import InputError, ModelError, VniahError, first_line
from vniah.files import embedded_dir
from vniah.models.server.client import ServerOptions, is_server, open_server
from vniah.options import DEFAULT_MODEL, DTYPES, LoadIn, Offload
from vniah.protocol import AnyModel, require_protocol
from vniah.rope_options import read_scaling, require_theta

if TYPE_CHECKING:
    import torch


_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_HUB_PATTERNS = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


def load_model(
    source: str | Path = DEFAULT_MODEL,
    *,
    dtype: str | None = None,
    device: str | None = None,
    rope_theta: float | None = None,
    rope_scaling: Mapping[str, Any] | str | None = None,
    prompt_template: str | None = None,
    offload: Offload = "auto",
    load_in: LoadIn | None = None,
    frame_size: tuple[int, int] | None = None,
    server: ServerOptions | None = None,
) -> AnyModel:
    """The model that ``source`` names.

    Args:
        source: an embedded model (``"reference-long"``), a checkpoint folder, a hub id such as
            ``"lmms-lab/LongVA-7B"``, ``"openai:BASE_URL#MODEL"``, a model behind a server, or
            ``"package.module:factory"``, a function or class that gives a model
            (``"package.module:Class.method"`` as well). Of the options below a factory gets, by
            keyword, those that are given; it is called without arguments else.
        dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``; by default as stored, and float32 on
            the CPU, whose kernels for half precision are slow.
        device: e.g. ``"cuda"``, ``"cuda:1"``, ``"mps"``, ``"cpu"``; by default CUDA where there is
            some.
        rope_theta: a RoPE base to use instead of the checkpoint's.
        rope_scaling: a RoPE scaling to use instead: ``"yarn:4"``, ``"linear:2"``, a mapping (or
            JSON) with transformers' keys, or ``"none"`` for no scaling at all.
        prompt_template: one of `vniah.models.llava.prompts.PROMPT_TEMPLATES`; by default the one
            that the checkpoint's family was trained with.
        offload: ``"always"`` keeps the weights of the decoder's layers in host memory and copies
            each layer to the device when it is its turn, ``"never"`` has them on the device,
            ``"auto"`` in host memory if they do not fit; the numbers are the same.
        load_in: ``"8bit"`` or ``"4bit"`` rounds the matrices of the decoder's layers, by
            bitsandbytes; the numbers are others.
        frame_size: width and height in pixels that frames are brought to, for families whose tower
            reads any size (Qwen-VL, GLM-V); by default about 392 x 392.
        server: how a server is asked; for no other model.

    Raises:
        ModelError: there is no such model, or it cannot be loaded.
        InputError: an argument cannot be meant, or a factory does not take it.
        MissingDependencyError: ``load_in`` needs bitsandbytes, a server the package openai.
    """
    text = str(source)
    rope_theta = None if rope_theta is None else require_theta(rope_theta)
    rope_scaling = None if rope_scaling is None else read_scaling(rope_scaling)
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    _refuse_impossible_weights(offload, load_in)
    options = _CheckpointOptions(
        dtype=dtype,
        device=device,
        rope_theta=rope_theta,
        rope_scaling=rope_scaling,
        prompt_template=prompt_template,
        offload=None if offload == "auto" else offload,
        load_in=load_in,
        frame_size=frame_size,
    )
    if is_server(text):
        if given := [name for name, value in vars(options).items() if value is not None]:
            raise InputError(
                f"{' and '.join(given)} cannot be asked of {text.partition('#')[0]}: a server "
                "decides that itself; leave it out"
            )
        return open_server(text, server)
    if server is not None:
        raise InputError(f"options of a server are for openai:BASE_URL#MODEL, not for {text!r}")
    if text in embedded_models():
        return _load_folder(embedded_dir("models", text), text, None, options)
    if text and Path(text).is_dir():
        return _load_folder(Path(text), Path(text).resolve().name, None, options)
    if is_factory(text):
        model = load_plug_in(text, vars(options))
        require_protocol(model)
        return cast("AnyModel", model)
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
    """What one may ask of a checkpoint; the defaults are the usual."""

    dtype: str | None = None
    device: str | None = None
    rope_theta: float | None = None
    rope_scaling: Mapping[str, Any] | None = None
    prompt_template: str | None = None
    offload: Offload | None = None
    load_in: LoadIn | None = None
    frame_size: tuple[int, int] | None = None


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
    from vniah.models.huggingface import FAMILIES
    from vniah.models.huggingface.folder import load_family
    from vniah.models.llava.model import MODEL_TYPES, LlavaModel, llava_type
    from vniah.models.quantization import require_bitsandbytes

    config = read_config(folder)
    model_type = llava_type(config) or config.get("model_type")
    if not isinstance(model_type, str) or model_type not in (*MODEL_TYPES, *FAMILIES):
        raise ModelError(
            f"{folder}/config.json has model_type {model_type!r}; supported are "
            f"{', '.join((*MODEL_TYPES, *FAMILIES))}. Any other model plugs in as "
            "package.module:factory"
        )
    if options.load_in is not None:
        require_bitsandbytes(options.load_in)  # before anything is read
    place = find_device(options.device)
    name_of_dtype = options.dtype
    if name_of_dtype is None and place.type == "cpu":
        name_of_dtype = "float32"
    asked: dict[str, Any] = {
        "name": name,
        "revision": revision,
        "dtype": None if name_of_dtype is None else getattr(torch, name_of_dtype),
        "device": place,
        "rope_theta": options.rope_theta,
        "rope_scaling": options.rope_scaling,
        "offload": options.offload or "auto",
        "load_in": options.load_in,
    }
    if model_type in FAMILIES:
        if options.prompt_template is not None:
            raise InputError(
                f"prompt_template is for checkpoints of {', '.join(MODEL_TYPES)}; one of "
                f"{model_type} brings its own chat template"
            )
        family = load_family(folder, **asked, frame_size=options.frame_size)
        return cast("AnyModel", family)
    if options.frame_size is not None:
        raise InputError(f"frame_size is for towers that read any size; that of {name} does not")
    return LlavaModel.load(folder, **asked, template=options.prompt_template)


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


def load_plug_in(source: str, options: Mapping[str, Any]) -> Any:
    """What a factory gives, whether it is a model or not; `vniah.checks.conformance` says what it
    lacks.

    Args:
        source: ``package.module:factory``.
        options: what was asked for, by keyword; None is the usual, and not handed on.

    Raises:
        ModelError: there is no such factory, or it fails.
        InputError: it does not take an option that was given.
    """
    factory = _find_factory(source)
    given = {name: value for name, value in options.items() if value is not None}
    if refused := [name for name in given if not _accepts(factory, name)]:
        raise InputError(
            f"{source} takes no {' and no '.join(refused)}, so it decides that itself: leave it "
            "out, or give the factory a keyword argument of that name"
        )
    try:
        return factory(**given)
    except VniahError:
        raise
    except Exception as error:  # somebody else's code; the cause stays attached
        raise ModelError(f"{source} failed: {type(error).__name__}: {error}") from error


def takes_option(source: str, name: str) -> bool:
    """Whether a factory, ``package.module:factory``, takes a keyword argument of that name.

    Raises:
        ModelError: there is no such factory.
    """
    return _accepts(_find_factory(source), name)


def _find_factory(source: str) -> Callable[..., Any]:
    module_name, _, factory_name = source.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ModelError(
            f"{source}: the module {module_name!r} cannot be imported: {error}"
        ) from error
    try:
        factory = attrgetter(factory_name)(module)
    except AttributeError as error:
        raise ModelError(f"{source}: {module_name} has no {factory_name!r}") from error
    if not callable(factory):
        raise ModelError(f"{source}: {factory_name} is not callable; give a function or a class")
    return cast("Callable[..., Any]", factory)


def _accepts(factory: Callable[..., Any], name: str) -> bool:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError:  # some functions of C do not say
        return False
    return any(
        parameter.kind is parameter.VAR_KEYWORD
        or (
            parameter.name == name
            and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        )
        for parameter in parameters
    )
