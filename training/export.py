"""Stage 5: writes checkpoints in the LLaVA-NeXT / LongVA layout: `python -m training.export`."""

import argparse
import json
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from transformers import CLIPVisionModel, Qwen2ForCausalLM

from training.align import Aligned, checkpoint_path
from training.optimization import load_modules
from training.recipe import MODELS_DIR, RECIPE, TEXTS, VARIANTS, Variant
from training.tokens import END, PAD, UNKNOWN, build_tokenizer, vocabulary
from vniah.files import atomic_path

_TOWER_PREFIX = "model.vision_tower.vision_tower.vision_model."


_SIDE = RECIPE.image_side
_ENCODINGS: dict[str, dict[str, Any]] = {
    "unires": {"image_aspect_ratio": "pad", "mm_patch_merge_type": "unires"},
    "anyres": {
        "image_aspect_ratio": "anyres",
        "image_grid_pinpoints": [[_SIDE, 2 * _SIDE], [2 * _SIDE, _SIDE], [2 * _SIDE, 2 * _SIDE]],
        "mm_patch_merge_type": "spatial",
    },
}


def model_config(variant: Variant) -> dict[str, Any]:
    """``config.json``: Qwen2 fields, and those that LLaVA adds."""
    words = vocabulary()
    return {
        "architectures": ["LlavaQwenForCausalLM"],
        "model_type": "llava_qwen",
        "torch_dtype": "float16",
        "vocab_size": len(words),
        "hidden_size": RECIPE.width,
        "intermediate_size": RECIPE.mlp_width,
        "num_hidden_layers": RECIPE.language_layers,
        "num_attention_heads": RECIPE.num_heads,
        "num_key_value_heads": RECIPE.num_heads,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": TEXTS[variant.text].rope_theta,
        "max_position_embeddings": RECIPE.max_positions,
        "tie_word_embeddings": True,
        "use_cache": True,
        "use_sliding_window": False,
        "attention_dropout": 0.0,
        "initializer_range": RECIPE.language_init_std,
        "bos_token_id": words.index(PAD),
        "eos_token_id": words.index(END),
        "pad_token_id": words.index(PAD),
        **_ENCODINGS[variant.encoding],
        "mm_hidden_size": RECIPE.width,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -1,
        "mm_vision_tower": "vision_tower",
        "use_mm_proj": True,
    }


def tower_config() -> dict[str, Any]:
    """``vision_tower/config.json``."""
    return {
        "architectures": ["CLIPVisionModel"],
        "model_type": "clip_vision_model",
        "hidden_size": RECIPE.width,
        "intermediate_size": RECIPE.mlp_width,
        "num_hidden_layers": RECIPE.tower_layers,
        "num_attention_heads": RECIPE.num_heads,
        "num_channels": 3,
        "image_size": RECIPE.image_side,
        "patch_size": RECIPE.patch_side,
        "projection_dim": 64,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "attention_dropout": 0.0,
        "torch_dtype": "float16",
    }


def preprocessor_config() -> dict[str, Any]:
    """``vision_tower/preprocessor_config.json``."""
    side = RECIPE.image_side
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }


def tokenizer_config() -> dict[str, Any]:
    """``tokenizer_config.json``."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": PAD,
        "eos_token": END,
        "pad_token": PAD,
        "unk_token": UNKNOWN,
        "model_max_length": RECIPE.max_positions,
        "clean_up_tokenization_spaces": False,
    }


def checkpoint_tensors(
    vision: CLIPVisionModel, projector: nn.Module, model: Qwen2ForCausalLM
) -> dict[str, Tensor]:
    """All weights, float16, under the names that LongVA checkpoints use."""
    named = {
        _TOWER_PREFIX + name.removeprefix("vision_model."): weight
        for name, weight in vision.state_dict().items()
    }
    named |= {f"model.mm_projector.{name}": w for name, w in projector.state_dict().items()}
    named |= {name: w for name, w in model.state_dict().items() if name != "lm_head.weight"}
    return {name: weight.half().contiguous() for name, weight in named.items()}


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def export(name: str) -> None:
    """Writes one checkpoint folder from what the stages before have trained."""
    variant = VARIANTS[name]
    aligned = Aligned(variant)
    projector = checkpoint_path(variant.projector or name)
    load_modules(projector, {"projector": aligned.projector}, steps=RECIPE.align_steps)
    with torch.no_grad():
        tensors = checkpoint_tensors(aligned.tower, aligned.projector, aligned.model)
        weights = save(tensors, metadata={"format": "pt"})
    files = {
        "config.json": _json(model_config(variant)),
        "vision_tower/config.json": _json(tower_config()),
        "vision_tower/preprocessor_config.json": _json(preprocessor_config()),
        "tokenizer.json": build_tokenizer().to_str(pretty=True).encode() + b"\n",
        "tokenizer_config.json": _json(tokenizer_config()),
        "model.safetensors": weights,
    }
    for file, content in files.items():
        with atomic_path(MODELS_DIR / name / file) as unfinished:
            unfinished.write_bytes(content)
    print(f"{sum(map(len, files.values())):,} bytes in {MODELS_DIR / name}")


def main() -> None:
    """Writes all checkpoint folders."""
    for name in VARIANTS:
        export(name)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
