"""Changes the RoPE of a loaded decoder, and says which one it uses.

Works on any decoder body of transformers 5 with ``config.rope_parameters`` and one ``rotary_emb``.
The angles are those of transformers: the body's rotary class is built again from the changed
configuration, so an overridden body equals one that was built with these parameters.

What belongs to the decoder and not to the scaling stays: ``mrope_section``,
``partial_rotary_factor`` and the like. Where layers of different kinds have RoPEs of their own
(Gemma 3), that of the layers with full attention is meant: the others see a short window, in which
positions are never far apart.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from vniah.errors import InputError, ModelError, first_line
from vniah.options.rope import (
    OFF,
    ORIGINAL_KEY,
    SCALING_KEYS,
    Scaling,
    as_reals,
    read_scaling,
    require_theta,
    scaling_text,
)

FULL_ATTENTION = "full_attention"

# Kinds that need the length for which the decoder was trained.
_FROM_ORIGINAL = ("yarn", "llama3", "longrope")
# Keys that say how the dimensions of a decoder's heads are divided; no scaling can change it.
_OF_THE_DECODER = ("mrope_section", "mrope_interleaved", "partial_rotary_factor")
# A kind that is no scaling: it says which dimensions of a head are rotated (Gemma 4).
_OF_A_PART = "proportional"
# Decoders with it (Ministral 3, Mistral 4) scale their queries by how often a position exceeds the
# original length, which they read from the parameters of every kind of RoPE.
_QUERY_SCALE = "llama_4_scaling_beta"
# The attribute in which a body keeps the RoPE with which it was loaded.
_OWN = "vniah_own_rope"
_TRANSFORMERS_LOG = "transformers.modeling_rope_utils"


def override_rope(
    body: Any, *, theta: float | None = None, scaling: Mapping[str, Any] | str | None = None
) -> None:
    """Gives a decoder body another RoPE, in place.

    Base or scaling, if not given, is the one with which the body was loaded, whatever an earlier
    call has set; so a call without either restores the original. After an error the body is
    unchanged.

    Args:
        body: the ``model`` of a transformers causal language model, or the text model of a
            multimodal one; on the meta device its new RoPE is there too.
        theta: the base.
        scaling: transformers' keys, or a text as `vniah.options.rope` reads it;
            ``"none"`` switches a scaling off. Where the kind needs the length that the decoder was
            trained for and the scaling does not name it, it is the configuration's
            ``original_max_position_embeddings``, else its ``max_position_embeddings``.

    Raises:
        InputError: the base or the scaling is invalid, or not possible for this decoder.
        ModelError: the body has no RoPE that can be changed.
    """
    own = _own_parameters(body)
    wanted = dict(_of_full_attention(own))
    if theta is not None:
        wanted["rope_theta"] = require_theta(theta)
    if scaling is not None:
        wanted = _scaled_parameters(body.config, wanted, read_scaling(scaling))
    if scaling is not None and _of_full_attention(own).get("rope_type") == _OF_A_PART:
        raise InputError(
            f"rope_scaling cannot be given to {body.config.model_type}, whose RoPE is of the kind "
            f"{_OF_A_PART!r}: it rotates a part of each head, and no scaling of transformers "
            "keeps that; another rope_theta is possible"
        )
    is_nested = _of_full_attention(own) is not own
    if is_nested and scaling is not None and wanted["rope_type"] == "dynamic":
        raise InputError(
            f"rope_scaling of the kind 'dynamic' cannot be given to {body.config.model_type}: its "
            "layers have RoPEs of several kinds, which would remember longer sequences"
        )
    _rebuild(body, {**own, FULL_ATTENTION: wanted} if is_nested else wanted)


def rope_settings(body: Any) -> dict[str, float | str]:
    """The RoPE that the body uses, for the manifest: ``rope_theta`` and, if set, ``rope_scaling``.

    The scaling is compact JSON with sorted keys.
    """
    found = _of_full_attention(body.config.rope_parameters)
    settings: dict[str, float | str] = {"rope_theta": float(found["rope_theta"])}
    if found.get("rope_type", OFF) != OFF:
        keys = SCALING_KEYS & found.keys() - {"type"}
        scaling = {key: found[key] for key in keys if found[key] is not None}
        settings["rope_scaling"] = scaling_text(as_reals(scaling))
    return settings


def stored_parameters(config: Any, raw: Mapping[str, Any]) -> dict[str, Any]:
    """The ``rope_parameters`` that a config.json describes, in the old form or the new one.

    Args:
        config: of the decoder; not changed.
        raw: with ``rope_theta`` and ``rope_scaling``, or ``rope_parameters``; the base is 10,000 if
            nothing says it.

    Raises:
        InputError: the scaling is unknown, not whole, or transformers would warn of it.
    """
    new = raw.get("rope_parameters") or {}
    scaling = dict(raw.get("rope_scaling") or new)
    theta = scaling.pop("rope_theta", None)
    theta = raw.get("rope_theta") or theta or new.get("rope_theta", 10000.0)
    own = {"rope_type": OFF, "rope_theta": require_theta(theta)}
    if not scaling:
        return own
    kind = scaling.get("type", OFF)
    return _scaled_parameters(config, own, read_scaling({"rope_type": kind, **scaling}))


def _scaled_parameters(config: Any, own: Mapping[str, Any], scaling: Scaling) -> dict[str, Any]:
    """A decoder's parameters for one kind of layers, with another scaling."""
    kept = {key: value for key, value in own.items() if key not in SCALING_KEYS}
    for key in sorted(scaling.keys() & {*kept, *_OF_THE_DECODER}):
        if scaling[key] != kept.get(key):
            raise InputError(
                f"rope_scaling has {key} = {scaling[key]!r}, but this decoder was trained with "
                f"{kept.get(key)!r}; leave it out"
            )
    parameters = {**kept, **scaling}
    if scaling["rope_type"] in _FROM_ORIGINAL:
        parameters[ORIGINAL_KEY] = _original_length(config, own, scaling)
    if scaling["rope_type"] == "longrope" and "factor" not in scaling:
        # What transformers takes, and advises to write down.
        parameters["factor"] = config.max_position_embeddings / parameters[ORIGINAL_KEY]
    _validate(config, parameters, scaling)
    if own.get(_QUERY_SCALE) is not None:
        given, used = scaling.get(ORIGINAL_KEY), own[ORIGINAL_KEY]
        if given not in (None, used):
            raise InputError(
                f"rope_scaling has {ORIGINAL_KEY} = {given}, but this decoder also scales its "
                f"queries by that of its configuration, {used}; leave it out"
            )
        parameters[ORIGINAL_KEY] = used
    return parameters


def _original_length(config: Any, own: Mapping[str, Any], scaling: Scaling) -> int:
    of_config = getattr(config, ORIGINAL_KEY, None)  # transformers prefers it to all others
    given = scaling.get(ORIGINAL_KEY)
    if of_config is not None and given not in (None, of_config):
        raise InputError(
            f"rope_scaling has {ORIGINAL_KEY} = {given}, but transformers uses that of the "
            f"configuration, {of_config}; leave it out"
        )
    largest = getattr(config, "max_position_embeddings", None)
    length = given or of_config or own.get(ORIGINAL_KEY) or largest
    if length is None:
        raise InputError(
            f"rope_scaling of the kind {scaling['rope_type']!r} needs "
            f"{ORIGINAL_KEY}, which the configuration of this decoder does not give; write "
            "the scaling as a JSON object that has it"
        )
    return int(length)


def _validate(config: Any, parameters: Mapping[str, Any], scaling: Scaling) -> None:
    """Has transformers check the parameters; its warnings are errors here."""
    checked = deepcopy(config)
    checked.rope_parameters = dict(parameters)
    # transformers compares the factor with max_position_embeddings, as if the configuration were
    # extended already. Here the user gives the factor, and nothing else depends on that length.
    if scaling["rope_type"] == "yarn":
        checked.max_position_embeddings = parameters[ORIGINAL_KEY]
    elif scaling["rope_type"] == "llama3":
        checked.max_position_embeddings = parameters[ORIGINAL_KEY] + 1
    with _warnings_of_transformers() as warnings:
        try:
            checked.validate_rope()
        except (KeyError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
            warnings.append(str(error.args[0]) if error.args else first_line(error))
    if warnings:
        raise InputError(f"rope_scaling {scaling_text(scaling)}: {warnings[0]}")


@contextmanager
def _warnings_of_transformers() -> Iterator[list[str]]:
    """Collects what transformers warns of RoPE parameters, instead of printing it."""
    log = logging.getLogger(_TRANSFORMERS_LOG)
    said: list[str] = []

    class Gatherer(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    handler, level, propagates = Gatherer(logging.WARNING), log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.WARNING)
    log.propagate = False
    try:
        yield said
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagates


def _own_parameters(body: Any) -> dict[str, Any]:
    """The RoPE parameters with which the body was loaded; the first call stores them."""
    found = getattr(getattr(body, "config", None), "rope_parameters", None)
    if not found or getattr(body, "rotary_emb", None) is None:
        raise ModelError(
            f"the decoder {type(body).__name__} has no RoPE that can be changed: it lacks "
            "config.rope_parameters or rotary_emb"
        )
    if not hasattr(body, _OWN):
        setattr(body, _OWN, deepcopy(dict(found)))
    return deepcopy(dict(getattr(body, _OWN)))


def _of_full_attention(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters of the layers with full attention, or of all if there is only one kind."""
    if not any(isinstance(value, Mapping) for value in parameters.values()):
        return parameters
    found = parameters.get(FULL_ATTENTION)
    if not isinstance(found, Mapping):
        raise ModelError(
            f"the decoder has RoPEs for {', '.join(parameters)}, but none for {FULL_ATTENTION}"
        )
    return found


def _rebuild(body: Any, parameters: Mapping[str, Any]) -> None:
    """Builds the body's rotary embedding again, with the same class and on the same device."""
    import torch

    config, rotary = body.config, body.rotary_emb
    before = config.rope_parameters
    device = next(rotary.buffers()).device
    config.rope_parameters = deepcopy(dict(parameters))
    try:
        rebuilt = type(rotary)(config).to(device).train(rotary.training)
        _require_same_size(rotary, rebuilt)
        scales = _latent_scales(body)
    except (KeyError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
        config.rope_parameters = before
        raise InputError(
            f"transformers cannot make this RoPE for {config.model_type}: {first_line(error)}"
        ) from error
    assert all(b.dtype == torch.float32 for b in rebuilt.buffers() if b.is_floating_point())
    body.rotary_emb = rebuilt
    for module, scale in scales:
        module.scaling = scale


def _require_same_size(rotary: Any, rebuilt: Any) -> None:
    """Raises `ValueError` if the new RoPE rotates more or fewer dimensions than the old one."""
    earlier = {name: buffer.shape for name, buffer in rotary.named_buffers()}
    for name, buffer in rebuilt.named_buffers():
        if buffer.shape != earlier.get(name, buffer.shape):
            raise ValueError(
                f"it would rotate {2 * buffer.shape[-1]} dimensions of a head in place of "
                f"{2 * earlier[name][-1]}"
            )


def _latent_scales(body: Any) -> list[tuple[Any, float]]:
    """The modules of latent attention, each with the scale of its scores by the new parameters.

    They compute it from the parameters of a RoPE of the kind yarn when they are built.
    """
    import torch

    modules = [getattr(layer, "self_attn", None) for layer in getattr(body, "layers", ())]
    latent: list[Any] = [module for module in modules if hasattr(module, "expand_kv")]
    with torch.device("meta"):
        scales = {kind: kind(body.config, 0).scaling for kind in {type(one) for one in latent}}
    return [(module, scales[type(module)]) for module in latent]
