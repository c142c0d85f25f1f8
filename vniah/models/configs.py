"""The JSON files of a checkpoint folder, read by declared types.

The types name what vniah itself reads, and the sizes that decide how large a model is: these have
bounds, so that no number in a file makes a command allocate memory or loop without end. All other
keys are kept; transformers checks those that it reads.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypedDict, TypeVar, cast

from msgspec import Meta, Struct, field

from vniah.errors import ModelError, short_repr
from vniah.schema import INT_BOUND, read_json

T = TypeVar("T")

# Tokenizers without a largest length write 10**30, as a float's digits.
_LIMIT_BOUND = 10**31

_Width = Annotated[int, Meta(ge=1, le=2**18)] | None
_Count = Annotated[int, Meta(ge=1, le=2**12)] | None
_FromZero = Annotated[int, Meta(ge=0, le=2**12)] | None
_Pixels = Annotated[int, Meta(ge=1, le=2**13)]
_Sides = _Pixels | list[_Pixels] | None
_Length = Annotated[int, Meta(ge=1, le=2**40)] | None
_Share = Annotated[float, Meta(gt=0, le=1)] | None
_TokenId = int | None


class LayerSizes(TypedDict, total=False):
    """What of `Sizes` is different in one layer."""

    head_dim: _Width
    num_key_value_heads: _Count


class Sizes(TypedDict, total=False):
    """How large a decoder or a tower is, and its RoPE; also in ``text_config`` and the like."""

    hidden_size: _Width
    intermediate_size: _Width
    moe_intermediate_size: _Width
    intermediate_size_mlp: _Width
    alignment_intermediate_size: _Width
    projection_hidden_size: _Width
    projector_input_dim: _Width
    projector_output_dim: _Width
    vision_output_dim: _Width
    embed_dim: _Width
    out_hidden_size: _Width
    projection_dim: _Width
    num_hidden_layers: _Count
    depth: _Count
    num_attention_heads: _Count
    num_heads: _Count
    num_key_value_heads: _Count
    head_dim: _Width
    global_head_dim: _Width
    per_layer_config: dict[str, LayerSizes] | None
    num_global_key_value_heads: _Count
    num_kv_shared_layers: _FromZero
    hidden_size_per_layer_input: Annotated[int, Meta(ge=0, le=2**18)] | None
    vocab_size_per_layer_input: Annotated[int, Meta(ge=1, le=2**24)] | None
    pooling_kernel_size: _Count
    position_embedding_size: Annotated[int, Meta(ge=1, le=2**24)] | None
    kv_lora_rank: _Width
    q_lora_rank: _Width
    qk_nope_head_dim: _Width
    qk_rope_head_dim: _Width
    v_head_dim: _Width
    pos_emb_height: _Count
    pos_emb_width: _Count
    pos_emb_time: _Count
    num_experts: _FromZero
    num_experts_per_tok: _FromZero
    top_k_experts: _FromZero
    num_local_experts: _FromZero
    n_routed_experts: _FromZero
    n_shared_experts: _FromZero
    shared_expert_intermediate_size: _Width
    linear_num_key_heads: _Count
    linear_num_value_heads: _Count
    linear_key_head_dim: _Width
    linear_value_head_dim: _Width
    linear_conv_kernel_dim: _Count
    num_channels: _Count
    in_channels: _Count
    vocab_size: Annotated[int, Meta(ge=1, le=2**24)] | None
    image_size: _Sides
    patch_size: _Sides
    temporal_patch_size: _Count
    spatial_merge_size: _Count
    num_position_embeddings: Annotated[int, Meta(ge=1, le=2**24)] | None
    max_position_embeddings: _Length
    tokens_per_second: Annotated[float, Meta(gt=0, le=2**16)] | None
    rope_theta: float | None
    rope_scaling: dict[str, Any] | None
    rope_parameters: dict[str, Any] | None
    partial_rotary_factor: _Share
    rms_norm_eps: float | None
    tie_word_embeddings: bool | None
    eos_token_id: _TokenId | list[int]


class AudioSizes(TypedDict, total=False):
    """How large an audio tower is, which is built although no weights of it are read."""

    d_model: _Count
    encoder_layers: _Count
    encoder_attention_heads: _Count
    encoder_ffn_dim: _Width
    num_mel_bins: _Count
    max_source_positions: _Count
    output_dim: _Width
    downsample_hidden_size: _Width


class ThinkerConfig(Sizes, total=False):
    """The part of an omni model that reads frames and writes text; also a config.json by itself."""

    text_config: Sizes | None
    vision_config: Sizes | None
    audio_config: AudioSizes | None
    position_id_per_seconds: Annotated[float, Meta(gt=0, le=2**16)] | None


class ModelConfig(ThinkerConfig, total=False):
    """A config.json; the fields ``mm_...`` are those of the original LLaVA layout."""

    model_type: str
    architectures: list[str] | None
    auto_map: dict[str, Any] | None
    thinker_config: ThinkerConfig | None
    processor_class: str | None
    mm_vision_tower: str | None
    mm_vision_select_layer: int
    mm_projector_type: str
    mm_spatial_pool_mode: str | None
    mm_spatial_pool_stride: int | None
    mm_newline_position: str | None
    mm_patch_merge_type: str | None


class GenerationConfig(TypedDict, total=False):
    """A generation_config.json."""

    eos_token_id: _TokenId | list[int]


class AddedToken(Struct, forbid_unknown_fields=True):
    """A token of a tokenizer_config.json; of other fields the tokenizers library only prints."""

    content: str
    lstrip: bool = False
    normalized: bool = True
    rstrip: bool = False
    single_word: bool = False
    special: bool = False
    id: int | None = None
    type: str | None = field(default=None, name="__type")


class TokenizerConfig(TypedDict, total=False):
    """A tokenizer_config.json."""

    auto_map: dict[str, Any] | None
    tokenizer_class: str | None
    processor_class: str | None
    model_max_length: float | None
    added_tokens_decoder: dict[str, AddedToken] | None
    bos_token: str | AddedToken | None
    eos_token: str | AddedToken | None
    unk_token: str | AddedToken | None
    pad_token: str | AddedToken | None


_Extent = Annotated[int, Meta(ge=1, le=2**31)]
_Extents = _Extent | list[_Extent] | dict[str, _Extent | None] | None
_Channels = Annotated[list[float], Meta(min_length=1, max_length=16)] | float | None


class ImageProcessorConfig(TypedDict, total=False):
    """A preprocessor_config.json, or what a processor_config.json says of the image processor."""

    auto_map: dict[str, Any] | None
    image_processor_type: str | None
    processor_class: str | None
    size: _Extents
    crop_size: _Extents
    image_mean: _Channels
    image_std: _Channels
    rescale_factor: float | None
    patch_size: _Sides | dict[str, _Pixels]
    merge_size: _Count
    temporal_patch_size: _Count
    max_soft_tokens: _Count


class ProcessorConfig(TypedDict, total=False):
    """A processor_config.json."""

    auto_map: dict[str, Any] | None
    image_processor: ImageProcessorConfig | None
    processor_class: str | None
    video_processor: ImageProcessorConfig | None


class ChatTemplateFile(TypedDict):
    """A chat_template.json."""

    chat_template: str


class AdapterConfig(TypedDict, total=False):
    """An adapter_config.json, as peft writes it."""

    peft_type: str
    base_model_name_or_path: str | None
    r: Annotated[int, Meta(ge=1, le=2**13)] | None
    target_modules: Annotated[str, Meta(max_length=2000)] | list[str] | None
    layer_replication: list[Any] | None


# Files that vniah or transformers read of every checkpoint folder that has them.
FILES: Mapping[str, Any] = {
    "config.json": ModelConfig,
    "generation_config.json": GenerationConfig,
    "tokenizer_config.json": TokenizerConfig,
    "special_tokens_map.json": dict,
    "added_tokens.json": dict,
    "preprocessor_config.json": ImageProcessorConfig,
    "video_preprocessor_config.json": ImageProcessorConfig,
    "processor_config.json": ProcessorConfig,
    "chat_template.json": ChatTemplateFile,
    "adapter_config.json": AdapterConfig,
}


def read_config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """The ``config.json`` of a checkpoint folder, or another one of `FILES`.

    Raises:
        ModelError: it is missing, no JSON or of another form; the message names the field.
    """
    if not (folder / name).is_file():
        raise ModelError(f"{folder} has no {name}: it is not a checkpoint folder")
    return cast("dict[str, Any]", read_file(folder / name, FILES[name]))


def read_beside(folder: Path, name: str) -> dict[str, Any]:
    """The content of one of `FILES`; empty if the folder does not have it."""
    return read_config(folder, name) if (folder / name).is_file() else {}


def named_processor(folder: Path) -> str | None:
    """The processor that a checkpoint names, looked for as AutoProcessor of transformers does."""
    files = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
    for name in (*files, "config.json"):
        if found := read_beside(folder, name).get("processor_class"):
            return str(found)
    return None


def read_file(path: Path, kind: type[T]) -> T:
    """The content of a JSON file, which must be of the declared type.

    Raises:
        ModelError: it cannot be read, or is of another form.
    """
    bound = _LIMIT_BOUND if path.name == "tokenizer_config.json" else INT_BOUND
    return read_json(path, kind, ModelError, int_bound=bound)


def require_known_layers(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises `ModelError` for a decoder with a kind of layer that the forward pass does not know.

    transformers has other kinds, and says of an unknown one only what it knows.

    Args:
        folder: where the configuration was read.
        config: of the whole model, or of a language model.
    """
    from vniah.forward.kinds.choosing import KNOWN_LAYERS  # loads torch, and not all need it

    whole = config.get("thinker_config") or config
    text = whole.get("text_config") or whole
    stated = text.get("layer_types")
    if not isinstance(stated, list):
        return
    for index, name in enumerate(stated):
        if name not in KNOWN_LAYERS:
            raise ModelError(
                f"{folder}/config.json says that layer {index} of the decoder is of the kind "
                f"{short_repr(name)}; the forward pass knows {', '.join(KNOWN_LAYERS)}; a model "
                "with others plugs in as package.module:factory, with an answer_logits method"
            )
    num_layers = text.get("num_hidden_layers")
    if num_layers is not None and num_layers != len(stated):
        raise ModelError(
            f"{folder}/config.json states the kinds of {len(stated)} layers (layer_types), and "
            f"num_hidden_layers = {num_layers}"
        )
