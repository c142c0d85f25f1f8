"""Tiny random checkpoints in the LongVA and LLaVA-NeXT layout, for tests."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CLIPImageProcessorPil as CLIPImageProcessor
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers import SiglipImageProcessorPil as SiglipImageProcessor

WORDS = [
    "<unk>",
    "<s>",
    "<|im_start|>",
    "<|im_end|>",
    "system",
    "user",
    "assistant",
    "You",
    "are",
    "a",
    "helpful",
    ".",
    "find",
    "the",
    "red",
    "card",
    "what",
    "digit",
    "is",
    "on",
    "it",
    "?",
    "0",
    "1",
    "2",
    "3",
    "4",
    "5",
    "6",
    "7",
    "8",
    "9",
    "yes",
    "no",
    "[INST]",
    "[/INST]",
    "USER",
    ":",
    "ASSISTANT",
]
DECODERS = {
    "llava_qwen": (Qwen2Config, Qwen2ForCausalLM),
    "llava_mistral": (MistralConfig, MistralForCausalLM),
    "llava_llama": (LlamaConfig, LlamaForCausalLM),
}
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": len(WORDS),
    "max_position_embeddings": 4096,
}
ROPE_THETA = 5000.0
TOWER_SIZES = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
}
CLIP_SIZE = 32
# Five patches of 8 px in a row, and 4 px that belong to none, as 27 of 14 in 384.
SIGLIP_SIZE = 44
Family = Literal["clip", "siglip"]


def build_parts(
    model_type: str = "llava_qwen",
    *,
    tied: bool = False,
    seed: int = 0,
    family: Family = "clip",
    num_projections: int = 2,
) -> dict[str, Any]:
    """The modules of a checkpoint, in fp32 with weights large enough to tell things apart."""
    torch.manual_seed(seed)
    config_class, model_class = DECODERS[model_type]
    config = config_class(**SIZES, tie_word_embeddings=tied)
    if model_type == "llava_mistral":
        config.sliding_window = None
    config.rope_parameters = {"rope_type": "default", "rope_theta": ROPE_THETA}
    if family == "clip":
        tower = CLIPVisionModel(CLIPVisionConfig(**TOWER_SIZES, image_size=CLIP_SIZE, patch_size=8))
    else:
        tower = SiglipVisionModel(
            SiglipVisionConfig(**TOWER_SIZES, image_size=SIGLIP_SIZE, patch_size=8)
        )
    layers = [torch.nn.Linear(24, 32)]
    for _ in range(num_projections - 1):
        layers += [torch.nn.GELU(), torch.nn.Linear(32, 32)]
    projector = torch.nn.Sequential(*layers)
    parts = {"decoder": model_class(config), "tower": tower, "projector": projector}
    for module in parts.values():
        module.eval().requires_grad_(False)
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
    return parts


def write_checkpoint(
    folder: Path,
    model_type: str = "llava_qwen",
    *,
    tied: bool = False,
    num_shards: int = 1,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    family: Family = "clip",
    num_projections: int = 2,
    has_newline: bool = False,
    has_whole_tower: bool = False,
    **config_changes: Any,
) -> dict[str, Any]:
    """Saves a random checkpoint; returns its modules in fp32.

    A SigLIP tower is saved as LLaVA-NeXT does it, without its last layer and its head, unless the
    whole one is asked for.
    """
    parts = build_parts(
        model_type, tied=tied, seed=seed, family=family, num_projections=num_projections
    )
    folder.mkdir(parents=True, exist_ok=True)
    weights = _name_weights(parts, tied=tied, dtype=dtype)
    if family == "siglip" and not has_whole_tower:
        dropped = ("vision_model.head.", "vision_model.encoder.layers.2.")
        weights = {k: w for k, w in weights.items() if not any(part in k for part in dropped)}
    if has_newline:
        weights["model.image_newline"] = torch.randn(SIZES["hidden_size"]).to(dtype)
    _write_weights(folder, weights, num_shards)
    config = {
        **SIZES,
        "model_type": model_type,
        "architectures": ["LlavaForCausalLM"],
        "rope_theta": ROPE_THETA,
        "tie_word_embeddings": tied,
        "mm_vision_tower": "vision_tower",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_projector_type": f"mlp{num_projections}x_gelu",
        "mm_patch_merge_type": "unires" if family == "clip" else "spatial_unpad",
        "tokenizer_model_max_length": 4096,
        **config_changes,
    }
    (folder / "config.json").write_text(json.dumps(config))
    parts["tower"].config.save_pretrained(folder / "vision_tower")
    if family == "clip":
        square = {"height": CLIP_SIZE, "width": CLIP_SIZE}
        processor = CLIPImageProcessor(size={"shortest_edge": CLIP_SIZE}, crop_size=square)
    else:
        processor = SiglipImageProcessor(size={"height": SIGLIP_SIZE, "width": SIGLIP_SIZE})
    processor.save_pretrained(folder / "vision_tower")
    build_tokenizer().save_pretrained(folder)
    return parts


def spoil_weights(folder: Path, is_spoilt: Callable[[str], bool]) -> None:
    """Turns the stored weights with some names into NaN, and no file into another size."""
    for path in folder.glob("*.safetensors"):
        weights = load_file(path)
        spoilt = [name for name in weights if is_spoilt(name)]
        assert spoilt and len(spoilt) < len(weights)
        for name in spoilt:
            weights[name] = torch.full_like(weights[name], float("nan"))
        save_file(weights, path, metadata={"format": "pt"})


def change_config(folder: Path, **changes: Any) -> None:
    """Changes fields of a checkpoint's config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that knows `WORDS`, word by word."""
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([word for word in WORDS if word.startswith("<")])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def _name_weights(
    parts: dict[str, Any], *, tied: bool, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """The modules' weights under the names of the LongVA layout."""
    weights = {}
    for name, tensor in parts["tower"].state_dict().items():
        own = name if name.startswith("vision_model.") else f"vision_model.{name}"
        weights[f"model.vision_tower.vision_tower.{own}"] = tensor
    for name, tensor in parts["projector"].state_dict().items():
        weights[f"model.mm_projector.{name}"] = tensor
    for name, tensor in parts["decoder"].state_dict().items():
        if not (tied and name == "lm_head.weight"):
            weights[name] = tensor
    return {name: tensor.to(dtype).clone().contiguous() for name, tensor in weights.items()}


def _write_weights(folder: Path, weights: dict[str, torch.Tensor], num_shards: int) -> None:
    if num_shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(weights)
    index = {}
    for shard in range(num_shards):
        file_name = f"model-{shard + 1:05d}-of-{num_shards:05d}.safetensors"
        chosen = names[shard::num_shards]
        save_file({name: weights[name] for name in chosen}, folder / file_name)
        index |= dict.fromkeys(chosen, file_name)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": index})
    )
