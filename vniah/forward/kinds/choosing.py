"""Which kind each layer of a decoder is: by what its config says, checked against its modules."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from vniah.errors import ModelError
from vniah.forward.attention import Heads
from vniah.forward.decoders import (
    ATTENTION_PARTS,
    ROTATING_HALVES,
    depends_on_length,
    require_supported,
)
from vniah.forward.kinds.base import LayerKind
from vniah.forward.kinds.full import FullAttention
from vniah.forward.kinds.latent import LatentAttention
from vniah.forward.kinds.recurrent import Recurrent
from vniah.forward.kinds.rowwise import Rowwise
from vniah.forward.kinds.shared import ReusedKeys, SharedKeys
from vniah.forward.kinds.window import ChunkedAttention, SlidingWindow
from vniah.forward.kv_cache import KeyValueCache, KeyValueStore, KVLocation, Layout

# Decoders that slide in all layers or in none, whatever else config.json says of single layers.
_SLIDE_EVERYWHERE = ("mistral", "ministral3")

_WAY_OUT = "give the model an answer_logits method instead"

# Decoders whose rows of an image see one another, where they read images.
_SEES_IMAGES: Mapping[str, tuple[str, ...]] = {
    "gemma3_text": ("full_attention", "sliding_attention"),
    "gemma4_text": ("sliding_attention",),
}


def kinds_of(body: Any) -> tuple[LayerKind, ...]:
    """The kind of every layer of a decoder's stack of layers.

    Raises:
        ModelError: a layer is of a kind that the forward pass does not know, or config and modules
            say different things.
    """
    config, stated = body.config, layer_types_of(body)
    if len(stated) != len(body.layers):
        raise ModelError(
            f"config.json states the kinds of {len(stated)} layers, and the decoder "
            f"{config.model_type} has {len(body.layers)}"
        )
    found: list[LayerKind] = []
    for index, (layer, name) in enumerate(zip(body.layers, stated, strict=True)):
        make = _KINDS.get(name)
        if make is None:
            raise ModelError(
                f"layer {index} of the decoder {config.model_type} is of the kind {name!r}; the "
                f"forward pass knows {', '.join(_KINDS)}; {_WAY_OUT}"
            )
        try:
            found.append(_with_shared_keys(make(config, layer, name), layer, found))
        except (_UnknownModule, AttributeError) as error:
            raise ModelError(
                f"layer {index} of the decoder {config.model_type} is stated as {name!r}, and "
                f"{error}; {_WAY_OUT}"
            ) from error
    return tuple(found)


def last_with_own_keys(kinds: Sequence[LayerKind]) -> int:
    """The number of the last layer that does not read in the memory of an earlier one.

    What main rows become behind it, nobody reads but they themselves.
    """
    return max(index for index, kind in enumerate(kinds) if kind.memory_kind == kind)


def require_runnable(decoder: Any) -> None:
    """Raises `ModelError` unless the forward pass runs the decoder exactly, all layers included."""
    require_supported(decoder)
    kinds_of(decoder.model)


def layer_types_of(body: Any) -> list[str]:
    """What config.json calls the kind of every layer."""
    stated = getattr(body.config, "layer_types", None)
    if stated is None:
        # Others have a window in their config, and do not look at it.
        slides = body.config.model_type in _SLIDE_EVERYWHERE
        slides = slides and body.config.sliding_window is not None
        stated = ["sliding_attention" if slides else "full_attention"] * len(body.layers)
    return list(stated)


def require_can_ring(body: Any) -> None:
    """Raises `ModelError` unless several processes can run a pass of the decoder together."""
    for index, kind in enumerate(kinds_of(body)):
        if not kind.runs_in_ring:
            raise ModelError(
                f"layer {index} of the decoder {body.config.model_type} has {kind.name}, which "
                "several processes cannot compute together; run it without --context-parallel"
            )


def require_can_splice(decoder: Any) -> None:
    """Raises `ModelError` unless rows can be spliced in at the distances of the real sequence."""
    body = decoder.model
    for index, kind in enumerate(kinds_of(body)):
        if not kind.can_splice:
            raise ModelError(
                f"states cannot be shared by whatever is put in between where a layer has "
                f"{kind.name}, as layer {index} of {body.config.model_type}; share the tree"
            )
    if depends_on_length(body):
        raise ModelError(
            f"RoPE of the kind {body.rotary_emb.rope_type!r} depends on the length of the "
            "sequence, so that its states cannot be shared; share the tree"
        )
    if body.config.model_type not in ROTATING_HALVES:
        raise ModelError(
            "states can be shared by whatever is put in between for the decoders "
            f"{', '.join(ROTATING_HALVES)}, not for {body.config.model_type}; share the tree"
        )


def heads_of(body: Any) -> Heads:
    """The attention heads of a decoder's stack of layers: those of the widest heads, if several."""
    heads = [kind.heads for kind in kinds_of(body) if kind.heads is not None]
    if not heads:
        raise ModelError(f"no layer of the decoder {body.config.model_type} has attention")
    return max(heads, key=lambda one: one.head_dim)


def sees_images(body: Any) -> bool:
    """Whether the rows of an image see one another in any layer."""
    return any(getattr(kind, "sees_images", False) for kind in kinds_of(body))


def open_cache(
    body: Any,
    layout: Layout,
    *,
    ends: Sequence[int],
    like: Tensor,
    kv_location: KVLocation,
    stop: int | None = None,
    rank: int = 0,
    directory: Path | None = None,
) -> KeyValueCache:
    """Room for what a pass stores of all layers.

    Args:
        body: the decoder's stack of layers.
        layout: the tokens that each rank stores.
        ends: the tokens before which later passes go on.
        like: a tensor of the dtype and on the device of the rows.
        kv_location: as `KeyValueStore`.
        stop: as `KeyValueCache`; by default one more than the last of the tokens.
        rank: the number of this rank.
        directory: as `KeyValueStore`.
    """
    ends = tuple(sorted(set(ends)))
    layers = [kind.stored(layout, rank, ends) for kind in kinds_of(body)]
    store = KeyValueStore(layers, like=like, kv_location=kv_location, directory=directory)
    last = max(span.stop for spans in layout.spans for span in spans)
    return KeyValueCache(store, layout, last if stop is None else stop, ends)


def _with_shared_keys(kind: LayerKind, layer: Any, earlier: Sequence[LayerKind]) -> LayerKind:
    """The kind of a layer, given whether it shares its keys, or uses those of an earlier layer."""
    module = attention_of(layer)
    is_reused = getattr(module, "is_kv_shared_layer", False)
    if not is_reused and not getattr(module, "store_full_length_kv", False):
        return kind
    if not isinstance(kind, FullAttention | SlidingWindow):
        raise _UnknownModule(f"its keys are shared, which is not known with {kind.name}")
    if not is_reused:
        return SharedKeys(kind)
    if SharedKeys(kind) not in earlier:
        raise _UnknownModule("it uses keys of an earlier layer, of which none is of its sizes")
    return ReusedKeys(kind)


class _UnknownModule(Exception):
    """A layer's modules are not those of the kind that its config states."""


def attention_of(layer: Any) -> Any:
    """The attention module of a layer, however it is called; None if it has none."""
    return next((found for name in ATTENTION_PARTS if (found := getattr(layer, name, None))), None)


def _checked_attention(layer: Any, name: str, window: int | None) -> Any:
    """The attention module of a layer, after what it says of itself was compared."""
    module = attention_of(layer)
    if module is None:
        raise _UnknownModule(f"has no attention, but {_names(layer)}")
    own_type = getattr(module, "layer_type", None) or name
    own_window = getattr(module, "sliding_window", window)
    if not getattr(module, "is_sliding", True):
        own_window = None
    if own_type != name:
        raise _UnknownModule(f"its module {type(module).__name__} is of the kind {own_type!r}")
    if own_window != window:
        raise _UnknownModule(
            f"its module {type(module).__name__} has a sliding window of {own_window}, "
            f"config.json one of {window}"
        )
    if not getattr(module, "is_causal", True):
        raise _UnknownModule(
            f"its module {type(module).__name__} attends in both directions, and the forward pass "
            "only to earlier tokens"
        )
    return module


def _heads(config: Any, module: Any) -> Heads:
    """Hq, Hk and D of an attention module."""
    num_heads = config.num_attention_heads
    return Heads(num_heads, num_heads // module.num_key_value_groups, module.head_dim)


def _sees_images(config: Any, name: str) -> bool:
    is_told = getattr(config, "use_bidirectional_attention", None) == "vision"
    if config.model_type == "gemma4_text" and not is_told:
        return False
    return name in _SEES_IMAGES.get(config.model_type, ())


def _counts_tokens(module: Any) -> bool:
    """Whether the layer asks how many tokens came before its rows."""
    return bool(getattr(module, "attn_temperature_tuning", False)) and not module.use_rope


def _full(config: Any, layer: Any, name: str) -> LayerKind:
    module = _checked_attention(layer, name, None)
    window = getattr(config, "sliding_window", None)
    if window is not None and config.model_type in _SLIDE_EVERYWHERE:
        raise _UnknownModule(
            f"a decoder of this type has a sliding window in all layers, here of {window} tokens, "
            "or in none"
        )
    if not hasattr(module, "expand_kv"):
        return FullAttention(
            *_heads(config, module),
            sees_images=_sees_images(config, name),
            counts_tokens=_counts_tokens(module),
        )
    return LatentAttention(
        num_heads=module.num_heads,
        head_dim=module.qk_head_dim,
        value_dim=module.v_head_dim,
        latent_dim=module.kv_lora_rank,
        rotated_dim=module.qk_rope_head_dim,
    )


def _sliding(config: Any, layer: Any, name: str) -> LayerKind:
    window = getattr(config, "sliding_window", None)
    if window is None:
        raise _UnknownModule("config.json gives it no window")
    module = _checked_attention(layer, name, window)
    says_so = hasattr(module, "sliding_window") or hasattr(module, "is_sliding")
    if not says_so and config.model_type not in _SLIDE_EVERYWHERE:
        raise _UnknownModule(f"its module {type(module).__name__} knows no sliding window")
    if hasattr(module, "expand_kv"):
        raise _UnknownModule("it keeps latents, which are known with full attention only")
    return SlidingWindow(window, *_heads(config, module), sees_images=_sees_images(config, name))


def _chunked(config: Any, layer: Any, name: str) -> LayerKind:
    module = _checked_attention(layer, name, None)
    if _counts_tokens(module):
        raise _UnknownModule("it scales its queries by the number of tokens, as full layers do")
    return ChunkedAttention(config.attention_chunk_size, *_heads(config, module))


def _linear(config: Any, layer: Any, name: str) -> LayerKind:
    """A gated delta rule or Mamba-2, by the class of its module."""
    module: Any = getattr(layer, "linear_attn", None) or getattr(layer, "mixer", None)
    kind = type(module).__name__
    if kind.endswith("GatedDeltaNet"):
        state = (module.num_v_heads, module.head_k_dim, module.head_v_dim)
        return Recurrent("gated delta rule", (module.conv_dim, module.conv_kernel_size), state)
    if kind.endswith("Mamba2Mixer"):
        state = (module.num_heads, module.head_dim, module.ssm_state_size)
        return Recurrent("Mamba-2", (module.conv_dim, module.conv_kernel_size), state)
    known = "gated delta rules and Mamba-2"
    raise _UnknownModule(f"its module is {kind}; of linear attention, {known} are known")


def _convolution(config: Any, layer: Any, name: str) -> LayerKind:
    module: Any = getattr(layer, "conv", None)
    if not type(module).__name__.endswith("ShortConv"):
        raise _UnknownModule(f"its module is {type(module).__name__}, no known short convolution")
    return Recurrent("short convolution", (config.hidden_size, module.conv_kernel_size), None)


def _rowwise(config: Any, layer: Any, name: str) -> LayerKind:
    module = getattr(layer, "mixer", None)
    if not type(module).__name__.endswith(("MLP", "MoE", "MOE")):
        raise _UnknownModule(f"its module is {type(module).__name__}, no known feed-forward layer")
    return Rowwise()


def _names(layer: Any) -> str:
    return ", ".join(name for name, _ in layer.named_children())


_KINDS: Mapping[str, Callable[[Any, Any, str], LayerKind]] = {
    "full_attention": _full,
    "sliding_attention": _sliding,
    "chunked_attention": _chunked,
    "linear_attention": _linear,
    "conv": _convolution,
    "mlp": _rowwise,
    "moe": _rowwise,
}

KNOWN_LAYERS = tuple(_KINDS)
"""What config.json may call the kind of a layer."""
