"""Loads a model by its name: embedded, a checkpoint folder, a hub id, a server, or a factory."""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from vniah.errors import InputError, ModelError, first_line, short_repr
from vniah.factories import accepts, call_factory, find_factory, is_factory
from vniah.files import embedded_dir, hash_text
from vniah.models.families import FAMILIES, UNREADABLE, find_family, llava_type
from vniah.models.hub import download
from vniah.models.packaged import PACKAGED, require_fetched
from vniah.models.server.client import ServerOptions, is_server, open_server
from vniah.options import DEFAULT_MODEL, LOAD_DEFAULTS, Dtype, Images, LoadIn, LoadOptions, Offload
from vniah.paths import user_path
from vniah.protocol import AnyModel, require_protocol

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
_EMBEDDED = {
    "reference-anyres": "a182d7c933ae6667",
    "reference-long": "7b9015325a36bc8a",
    "reference-short": "a29e6e9bce866d09",
    "reference-short-large-base": "ba5f553b77d48f9c",
    "reference-two-hops": "381cb1460377b9de",
}
"""The models that come with vniah, with their `vniah.models.contents.fingerprint`."""

# They were trained on answers of one word, which is one token, and not to end a text: after it they
# repeat it without end.
_EMBEDDED_ANSWER_TOKENS = 1


def load_model(
    source: str | Path = DEFAULT_MODEL,
    *,
    dtype: Dtype | None = None,
    device: str | None = None,
    rope_theta: float | None = None,
    rope_scaling: Mapping[str, Any] | str | None = None,
    prompt_template: str | None = None,
    offload: Offload = "auto",
    load_in: LoadIn | None = None,
    frame_size: tuple[int, int] | None = None,
    images: Images = "frames",
    shard_weights: "ProcessGroup | None" = None,
    server: ServerOptions | None = None,
) -> AnyModel:
    """The model that ``source`` names.

    Args:
        source: an embedded model (``"reference-long"``), one of
            `vniah.models.packaged.PACKAGED` (``"smollm2"``), a checkpoint folder, a hub id such as
            ``"lmms-lab/LongVA-7B"``, ``"openai:BASE_URL#MODEL"`` for a model behind a server, or
            ``"package.module:factory"``, a function, class or class method that returns a model.
            A factory gets, by keyword, those of the options below that differ from their defaults.
        dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``; by default as stored, and float32 on
            the CPU, whose kernels for half precision are slow.
        device: e.g. ``"cuda"``, ``"cuda:1"``, ``"mps"``, ``"cpu"``; by default CUDA where there is
            some, else the CPU.
        rope_theta: a RoPE base to use instead of the checkpoint's.
        rope_scaling: a RoPE scaling to use instead: ``"yarn:4"``, ``"linear:2"``, a mapping (or
            JSON) with transformers' keys, or ``"none"`` for no scaling at all.
        prompt_template: one of `vniah.models.llava.prompts.PROMPT_TEMPLATES`; by default the one
            that the checkpoint's family was trained with.
        offload: ``"always"`` keeps the weights of the decoder's layers in host memory and copies
            each layer to the device when it is needed, ``"never"`` keeps them on the device,
            ``"auto"`` in host memory only if they do not fit. The results are the same.
        load_in: ``"8bit"`` or ``"4bit"`` quantizes the weight matrices of the decoder's layers with
            bitsandbytes, which changes the results.
        frame_size: width and height in pixels to which frames are scaled, for families whose vision
            tower reads any size (such as Qwen-VL); by default about 392 x 392. With ``images``
            ``"grids"`` the size to which all pictures are brought, which has to be given.
        images: ``"grids"`` reads every picture as a checkpoint in the original LLaVA layout reads
            images: cut into grids of its tower's size (UniRes, AnyRes), instead of as a frame.
        shard_weights: processes that compute each forward pass together, those of
            ``mesh.context_group``. Each holds an equal part of every weight of the decoder's
            layers, and gathers a layer when it is needed. The results are the same.
        server: how requests are sent, for a model behind a server only.

    Raises:
        ModelError: there is no such model, or it cannot be loaded.
        InputError: an argument is not valid, or a factory does not take it.
        MissingDependencyError: ``load_in`` needs bitsandbytes, a server the package httpx2.
    """
    options = LoadOptions(
        dtype=dtype,
        device=device,
        rope_theta=rope_theta,
        rope_scaling=rope_scaling,
        prompt_template=prompt_template,
        offload=offload,
        load_in=load_in,
        frame_size=frame_size,
        images=images,
        shard_weights=shard_weights,
    )
    return open_model(str(source), options, server=server)


def open_model(
    source: str,
    options: LoadOptions,
    *,
    server: ServerOptions | None = None,
    has_decoder: bool = True,
) -> AnyModel:
    """The model that ``source`` names, as `load_model` finds it.

    Args:
        source: as `load_model`.
        options: how it is loaded.
        server: as `load_model`.
        has_decoder: False leaves the decoder of a checkpoint without weights. Such a model can
            only encode frames.

    Raises:
        ModelError: there is no such model, or it cannot be loaded.
        InputError: an option is not for this model.
        MissingDependencyError: ``load_in`` needs bitsandbytes, a server the package httpx2.
    """
    if is_server(source):
        if given := options.given():
            raise InputError(
                f"{' and '.join(given)} cannot be chosen for {source.partition('#')[0]}: the "
                "server decides that itself; leave it out"
            )
        return open_server(source, server)
    if server is not None:
        raise InputError(f"options of a server are for openai:BASE_URL#MODEL, not for {source!r}")
    if source in _EMBEDDED:
        return _load_embedded(source, options, has_decoder=has_decoder)
    load = partial(load_folder, options=options, has_decoder=has_decoder)
    if source in PACKAGED:
        return load(require_fetched(source), name=source, revision=PACKAGED[source].revision)
    folder = user_path(source, "a model")
    if folder.is_dir():
        return load(folder, name=folder.resolve().name)
    if is_factory(source):
        model = load_plug_in(source, options)
        require_protocol(model)
        return cast("AnyModel", model)
    if _HUB_ID.fullmatch(source):
        downloaded, commit = download(source)
        return load(downloaded, name=source, revision=commit)
    raise _no_model(source)


def is_hub_id(source: str) -> bool:
    """True if a text has the form of a hub id, ``owner/name``."""
    return _HUB_ID.fullmatch(source) is not None and not is_factory(source)


def require_folder(source: str) -> None:
    """Requires the folder of a model that is named by its path; looks at no other model.

    Raises:
        ModelError: there is no such folder.
        InputError: the text is empty, or can be no path.
    """
    if is_server(source) or is_factory(source) or source in (*_EMBEDDED, *PACKAGED):
        return
    folder = user_path(source, "a model")
    is_path = folder.exists() or (len(folder.parts) > 1 and _HUB_ID.fullmatch(source) is None)
    if is_path and not folder.is_dir():
        raise _no_model(source)


def config_folder(source: str) -> Path:
    """The folder with the configurations of a model; those of the hub come without the weights.

    Args:
        source: an embedded model, one of `vniah.models.packaged.PACKAGED`, a checkpoint folder or a
            hub id.

    Raises:
        ModelError: there is no such model, or it is no checkpoint.
        InputError: the text is empty, or can be no path.
    """
    if source in _EMBEDDED:
        return embedded_dir("models", source)
    if source in PACKAGED:
        return require_fetched(source)
    folder = user_path(source, "a model")
    if folder.is_dir():
        return folder
    if _HUB_ID.fullmatch(source) and not is_factory(source):
        return download(source, has_weights=False)[0]
    raise _no_model(source)


def _no_model(source: str) -> ModelError:
    return ModelError(
        f"there is no model {source!r}: give a checkpoint folder, a hub id (owner/name), "
        "package.module:factory, openai:BASE_URL#MODEL, or one of "
        f"{', '.join((*embedded_models(), *PACKAGED))}"
    )


def load_folder(
    folder: Path,
    *,
    name: str,
    revision: str | None = None,
    options: LoadOptions = LOAD_DEFAULTS,
    has_decoder: bool = True,
) -> AnyModel:
    """The model in a checkpoint folder, by the class of its family.

    Args:
        folder: holds config.json, safetensors and tokenizer files; or an adapter of peft, whose
            adapter_config.json names the model that it was trained for.
        name: for titles and manifests.
        revision: tells versions of the weights apart; by default a hash over the files.
        options: how it is loaded.
        has_decoder: as `open_model`.

    Raises:
        ModelError: its family is not known, or the folder cannot be loaded.
        InputError: an option is not for this family.
        MissingDependencyError: ``load_in`` needs bitsandbytes, an adapter of peft needs peft.
    """
    from vniah.models.adapters import find_adapter, require_adapter
    from vniah.models.checkpoints import find_device, reported
    from vniah.models.configs import read_config, require_known_layers
    from vniah.models.quantization import require_bitsandbytes

    adapter = find_adapter(folder)
    if adapter is not None and not (folder / "config.json").is_file():
        folder, revision = _find_base(folder, revision)
    config = read_config(folder)
    family = find_family(config)
    if family is None:
        found = short_repr(config.get("model_type"))
        why = UNREADABLE.get(str(config.get("model_type")))
        if why is not None:
            raise ModelError(
                f"{folder}/config.json has model_type {found}, which vniah does not read: {why}; "
                "it plugs in as package.module:factory, with an answer_logits method"
            )
        raise ModelError(
            f"{folder}/config.json has model_type {found}; supported are "
            f"{', '.join(FAMILIES)}. Any other model plugs in as package.module:factory"
        )
    require_known_layers(folder, config)
    if options.images != "frames" and llava_type(config) is None:
        raise InputError(
            f"images {options.images!r} is for checkpoints in the original LLaVA layout, which "
            f"{name} is not: leave it out (--images)"
        )
    if options.shard_weights is not None and not family.runs_in_ring:
        raise InputError(
            "shard_weights is for decoders of which several processes run a pass together, and "
            f"those of {name} ({family.model_type}) have layers of other kinds: {family.layers}; "
            "leave it out (--shard-weights)"
        )
    if options.load_in is not None:
        require_bitsandbytes(options.load_in)  # before anything is read
    if adapter is not None:
        require_adapter(adapter)
    device = find_device(options.device)
    dtype = options.dtype
    if dtype is None and device.type == "cpu":
        dtype = "float32"
    options = replace(options, device=str(device), dtype=dtype)
    model_class = family.import_class()
    with reported(folder, "the model in"):
        loaded = model_class.load(
            folder,
            name=name,
            revision=revision,
            options=options,
            adapter=adapter,
            has_decoder=has_decoder,
        )
    if loaded.revision in _EMBEDDED.values():
        loaded.max_new_tokens = _EMBEDDED_ANSWER_TOKENS
    return cast("AnyModel", loaded)


def _find_base(adapter: Path, revision: str | None) -> tuple[Path, str]:
    """The folder of the model that an adapter in a folder of its own was trained for.

    Args:
        adapter: the folder of the adapter.
        revision: of the adapter; by default a hash over its files.

    Returns:
        The folder, and a revision that tells versions of both apart.

    Raises:
        ModelError: there is no such model, or it is an adapter as well.
    """
    from vniah.models.adapters import (
        adapter_fingerprint,
        base_of,
        find_adapter,
        require_adapter,
        require_own_template,
    )
    from vniah.models.contents import fingerprint

    require_adapter(adapter)
    base = base_of(adapter)
    if Path(base).is_dir():
        folder, commit = Path(base), None
    elif _HUB_ID.fullmatch(base):
        folder, commit = download(base)
    else:
        raise ModelError(
            f"{adapter} holds an adapter for {base!r}, which is no folder here and no hub id; "
            "write into base_model_name_or_path of its adapter_config.json where the model lies"
        )
    if find_adapter(folder) is not None:
        raise ModelError(
            f"{adapter} holds an adapter for {base!r}, which has an adapter itself; merge that one "
            "into its model first"
        )
    require_own_template(adapter, folder)
    both = f"{commit or fingerprint(folder)} {revision or adapter_fingerprint(adapter)}"
    return folder, hash_text(both)[:16]


def embedded_models() -> tuple[str, ...]:
    """The names of the models that come with vniah."""
    return tuple(sorted(_EMBEDDED))


def _load_embedded(name: str, options: LoadOptions, *, has_decoder: bool) -> AnyModel:
    """A model that comes with vniah, if its files are those that were released."""
    from vniah.models.contents import fingerprint

    folder, expected = embedded_dir("models", name), _EMBEDDED[name]
    try:
        found = fingerprint(folder)
    except (ModelError, OSError) as error:
        raise ModelError(
            f"the model {name}, which comes with vniah, is damaged: {first_line(error)}. Install "
            "vniah again"
        ) from error
    if found != expected:
        raise ModelError(
            f"the model {name}, which comes with vniah, is damaged: the hash of the files in "
            f"{folder} is {found}, expected {expected}. Install vniah again"
        )
    return load_folder(folder, name=name, revision=found, options=options, has_decoder=has_decoder)


def load_plug_in(source: str, options: LoadOptions) -> Any:
    """What a factory gives, be it a model or not; `vniah.checks.conformance` says what it lacks.

    Args:
        source: ``package.module:factory``.
        options: those that differ from their defaults are passed on, by keyword.

    Raises:
        ModelError: there is no such factory, or it fails.
        InputError: it does not take an option that was given.
    """
    return call_factory(source, options.given(), ModelError)


def takes_option(source: str, name: str) -> bool:
    """True if the factory ``package.module:factory`` takes a keyword argument with that name.

    Raises:
        ModelError: there is no such factory.
    """
    return accepts(find_factory(source, ModelError), name)
