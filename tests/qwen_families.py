"""Tiny random checkpoints of Qwen-Omni and GLM-V, and what each computes by itself on pixels."""

import json
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from families import (
    CHATML,
    GLM,
    MROPE,
    QWEN_NAMES,
    QWEN_TEMPLATE,
    QWEN_TOKENS,
    TEXT,
    Tiny,
    bare,
    build_tokenizer,
    own_qwen3,
    qwen3_parts,
    qwen_video,
    tokenize,
)
from PIL import Image
from safetensors.torch import load_file, save_file

_GLM_TOKENS = [
    "<|image|>",
    "<|video|>",
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
    "[gMASK]",
    "<sop>",
    "<|user|>",
    "<|assistant|>",
]


def _own_glm(tiny: Tiny, shown: Sequence[Image.Image], text: str) -> dict[str, Any]:
    """Seconds 0, 1, ... of a video whose frames are doubled."""
    video = qwen_video(tiny, shown)
    merge = type("Merge", (), {"merge_size": 2})()
    config = tiny.model.config
    own_class = "Glm46VProcessor" if tiny.model_type == "glm46v" else "Glm4vProcessor"
    whole = bare(
        getattr(transformers, own_class),
        tiny.tokenizer,
        video_processor=merge,
        image_token="<|image|>",
        video_token="<|video|>",
        image_token_id=config.image_token_id,
        video_start_id=config.video_start_token_id,
        video_end_id=config.video_end_token_id,
    )
    times = [second / 2 for second in range(2 * len(shown))]
    metadata = type("Metadata", (), {"timestamps": times, "fps": 2})()
    filled = whole.replace_video_token({**video, "video_metadata": [metadata]}, 0)
    read = tokenize(tiny, text.replace("<|video|>", filled))
    types = torch.tensor(whole.create_mm_token_type_ids(read.tolist()))
    return {"input_ids": read, **video, "mm_token_type_ids": types}


def _glm_parts(tokenizer: Any, text: dict[str, Any]) -> dict[str, Any]:
    ids = tokenizer.convert_tokens_to_ids(_GLM_TOKENS)
    names = ("image", "video", "image_start", "image_end", "video_start", "video_end")
    return {
        "text_config": {"vocab_size": len(tokenizer), **TEXT, **text},
        "vision_config": {
            "depth": 2,
            "hidden_size": 32,
            "out_hidden_size": 64,
            "num_heads": 4,
            "intermediate_size": 64,
            "patch_size": 14,
            "image_size": 112,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
        },
        **{f"{name}_token_id": token for name, token in zip(names, ids, strict=False)},
    }


_GLM_EXPERTS = {
    "head_dim": 16,
    "moe_intermediate_size": 32,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_group": 2,
    "topk_group": 1,
    "routed_scaling_factor": 1.5,
    "rope_parameters": {**MROPE, "mrope_section": [1, 1, 2], "partial_rotary_factor": 0.5},
}


def _glm_tiny(model_type: str, config_class: Any, model_class: Any, text: dict[str, Any]) -> Tiny:
    tokenizer = build_tokenizer(_GLM_TOKENS, image_token="<|image|>", video_token="<|video|>")
    model = model_class(config_class(**_glm_parts(tokenizer, text)))
    processor = transformers.Glm4vImageProcessorPil()
    return Tiny(model_type, model, tokenizer, processor, GLM, _own_glm, frame_size=(84, 56))


def _build_glm4v_moe() -> Tiny:
    tiny = _glm_tiny(
        "glm4v_moe",
        transformers.Glm4vMoeConfig,
        transformers.Glm4vMoeForConditionalGeneration,
        _GLM_EXPERTS,
    )
    return replace(tiny, deviation=0.25)


def _build_glm46v() -> Tiny:
    tiny = _glm_tiny(
        "glm46v",
        transformers.Glm46VConfig,
        transformers.Glm46VForConditionalGeneration,
        {"model_type": "glm4v_moe_text", **_GLM_EXPERTS},
    )
    processor = transformers.Glm46VImageProcessorPil()
    return replace(tiny, image_processor=processor, deviation=0.25)


_EXPERTS = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}


def _own_omni(tiny: Tiny, shown: Sequence[Image.Image], text: str) -> dict[str, Any]:
    """Without sound; the mask has transformers compute the positions of the video."""
    video = qwen_video(tiny, shown)
    merge = type("Merge", (), {"merge_size": 2})()
    token = tiny.tokenizer.video_token
    own_class = "Qwen3OmniMoeProcessor" if "qwen3" in tiny.model_type else "Qwen2_5OmniProcessor"
    whole = bare(
        getattr(transformers, own_class), tiny.tokenizer, video_processor=merge, video_token=token
    )
    filled = whole.replace_video_token(video, 0, load_audio_from_video=False)
    ids = tokenize(tiny, text.replace(token, filled))
    seconds = torch.tensor([1.0])  # groups of two frames at two frames per second
    mask = torch.ones_like(ids)
    return {"input_ids": ids, **video, "video_second_per_grid": seconds, "attention_mask": mask}


_OMNI_AUDIO = {
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "d_model": 16,
    "num_mel_bins": 8,
    "max_source_positions": 20,
    "output_dim": 64,
}


def _omni_ids(tokenizer: Any, names: Sequence[str]) -> dict[str, int]:
    """The ids of image, video, sound, and what stands before pictures and sound."""
    kinds = ("image", "video", "audio", "vision_start", "audio_start")
    tokens = tokenizer.convert_tokens_to_ids(list(names))
    return {f"{kind}_token_id": token for kind, token in zip(kinds, tokens, strict=True)}


def _build_qwen2_5_omni_thinker() -> Tiny:
    tokens = ["<|IMAGE|>", "<|VIDEO|>", "<|AUDIO|>", "<|vision_bos|>", "<|audio_bos|>"]
    tokenizer = build_tokenizer([*tokens, "<|vision_eos|>"], video_token="<|VIDEO|>")
    ids = _omni_ids(tokenizer, tokens)
    kinds = ("image", "video", "audio")
    config = transformers.Qwen2_5OmniThinkerConfig(
        text_config={"vocab_size": len(tokenizer), "rope_parameters": dict(MROPE), **TEXT},
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "out_hidden_size": 64,
            "num_heads": 4,
            "intermediate_size": 64,
            "patch_size": 14,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
        audio_config=dict(_OMNI_AUDIO),
        position_id_per_seconds=25,
        vision_start_token_id=ids["vision_start_token_id"],
        audio_start_token_id=ids["audio_start_token_id"],
        **{f"{kind}_token_index": ids[f"{kind}_token_id"] for kind in kinds},
    )
    return Tiny(
        "qwen2_5_omni_thinker",
        transformers.Qwen2_5OmniThinkerForConditionalGeneration(config),
        tokenizer,
        transformers.Qwen2VLImageProcessorPil(),
        CHATML.replace("VIDEO", "<|vision_bos|><|VIDEO|><|vision_eos|>"),
        _own_omni,
        frame_size=(56, 84),
        deviation=0.25,
    )


def _build_qwen3_omni_moe_thinker() -> Tiny:
    tokens = ["<|image_pad|>", "<|video_pad|>", "<|audio_pad|>"]
    tokens += ["<|vision_start|>", "<|audio_start|>"]
    tokenizer = build_tokenizer([*tokens, "<|vision_end|>"], video_token="<|video_pad|>")
    parts = qwen3_parts(build_tokenizer(QWEN_TOKENS))
    parts["text_config"] |= {"vocab_size": len(tokenizer), **_EXPERTS}
    config = transformers.Qwen3OmniMoeThinkerConfig(
        text_config=parts["text_config"],
        vision_config=parts["vision_config"],
        audio_config={**_OMNI_AUDIO, "downsample_hidden_size": 4},
        position_id_per_seconds=13,
        **_omni_ids(tokenizer, tokens),
    )
    return Tiny(
        "qwen3_omni_moe_thinker",
        transformers.Qwen3OmniMoeThinkerForConditionalGeneration(config),
        tokenizer,
        transformers.Qwen2VLImageProcessorPil(patch_size=16),
        QWEN_TEMPLATE,
        _own_omni,
        frame_size=(96, 64),
        deviation=0.25,
    )


class _WholeOmni(Tiny):
    """A thinker that is saved as published: inside of the model that also speaks."""

    def save(self, folder: Path) -> Path:
        super().save(folder)
        thinker = json.loads((folder / "config.json").read_text())
        whole = {
            "model_type": self.model_type,
            "architectures": [self.architecture],
            "enable_audio_output": True,
            "thinker_config": thinker,
            "talker_config": {"model_type": f"{self.model_type}_talker"},
        }
        (folder / "config.json").write_text(json.dumps(whole))
        weights = load_file(folder / "model.safetensors")
        named = {f"thinker.{name}": weight for name, weight in weights.items()}
        named |= {
            "talker.model.layers.0.self_attn.q_proj.weight": torch.ones(4, 4),
            "talker.model.layers.77.self_attn.q_proj.weight": torch.ones(4, 4),
            f"{self.speech}.decoder.weight": torch.ones(3, 3),
        }
        save_file(named, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    @property
    def architecture(self) -> str:
        """The class of the whole model."""
        name = type(self.model).__name__
        return name.replace("Thinker", "")

    @property
    def speech(self) -> str:
        """What makes sound of what the talker says."""
        return "code2wav" if "qwen3" in self.model_type else "token2wav"


def _whole(build_thinker: Callable[[], Tiny], model_type: str) -> Tiny:
    thinker = build_thinker()
    parts = {field.name: getattr(thinker, field.name) for field in fields(thinker)}
    return _WholeOmni(**{**parts, "model_type": model_type})


def _build_qwen2_5_omni() -> Tiny:
    return _whole(_build_qwen2_5_omni_thinker, "qwen2_5_omni")


def _build_qwen3_omni_moe() -> Tiny:
    return _whole(_build_qwen3_omni_moe_thinker, "qwen3_omni_moe")


_DELTA = {
    "head_dim": 16,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "rope_parameters": {
        **MROPE,
        "mrope_section": [2, 1, 1],
        "mrope_interleaved": True,
        "partial_rotary_factor": 0.5,
    },
}


def _qwen3_5_tiny(model_type: str, config_class: Any, model_class: Any, **text: Any) -> Tiny:
    tokenizer = build_tokenizer(QWEN_TOKENS, **QWEN_NAMES)
    parts = qwen3_parts(tokenizer)
    parts["text_config"] |= {**_DELTA, **text}
    del parts["vision_config"]["deepstack_visual_indexes"]
    model = model_class(config_class(**parts))
    processor = transformers.Qwen2VLImageProcessorPil(patch_size=16)
    return Tiny(
        model_type,
        model,
        tokenizer,
        processor,
        QWEN_TEMPLATE,
        own_qwen3,
        frame_size=(96, 64),
        deviation=0.2,
        head=0.15,
    )


def _build_qwen3_5() -> Tiny:
    return _qwen3_5_tiny(
        "qwen3_5", transformers.Qwen3_5Config, transformers.Qwen3_5ForConditionalGeneration
    )


def _build_qwen3_5_moe() -> Tiny:
    return _qwen3_5_tiny(
        "qwen3_5_moe",
        transformers.Qwen3_5MoeConfig,
        transformers.Qwen3_5MoeForConditionalGeneration,
        shared_expert_intermediate_size=32,
        **{**_EXPERTS, "moe_intermediate_size": 16},
    )


_MINICPM_NAMES = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "image_start_token": "<image>",
    "image_end_token": "</image>",
    "slice_start_token": "<slice>",
    "slice_end_token": "</slice>",
    "image_id_start_token": "<image_id>",
    "image_id_end_token": "</image_id>",
}


def _own_minicpm(tiny: Tiny, shown: Sequence[Image.Image], text: str) -> dict[str, Any]:
    """As the authors read videos: one slice a frame, which has the size that they choose for it."""
    processed = tiny.image_processor(images=list(shown), max_slice_nums=1, return_tensors="pt")
    whole = bare(
        transformers.MiniCPMV4_6Processor, tiny.tokenizer, video_slice_mode=True, **_MINICPM_NAMES
    )
    sizes = processed["target_sizes"]
    video = {
        "target_sizes_videos": sizes,
        "num_frames_per_video": [len(shown)],
        "grids_videos": np.array(processed["grids"]),
    }
    filled = whole.replace_video_token(video, 0, video_token_divisor=16)
    return {
        "input_ids": tokenize(tiny, text.replace("<|video_pad|>", filled)),
        "pixel_values_videos": processed["pixel_values"],
        "target_sizes_videos": sizes,
    }


def _build_minicpmv4_6() -> Tiny:
    tokenizer = build_tokenizer(list(_MINICPM_NAMES.values()), **_MINICPM_NAMES)
    image, video = tokenizer.convert_tokens_to_ids(["<|image_pad|>", "<|video_pad|>"])
    config = transformers.MiniCPMV4_6Config(
        text_config={
            "model_type": "qwen3_5_text",
            "vocab_size": len(tokenizer),
            **TEXT,
            **_DELTA,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": 112,
            "patch_size": 14,
        },
        insert_layer_id=1,
        image_token_id=image,
        video_token_id=video,
    )
    return Tiny(
        "minicpmv4_6",
        transformers.MiniCPMV4_6ForConditionalGeneration(config),
        tokenizer,
        transformers.MiniCPMV4_6ImageProcessorPil(scale_resolution=112),
        CHATML.replace("VIDEO", "<|video_pad|>"),
        _own_minicpm,
        frame_size=(168, 56),
        deviation=0.2,
        head=0.15,
    )


def _own_exaone(tiny: Tiny, shown: Sequence[Image.Image], text: str) -> dict[str, Any]:
    video = qwen_video(tiny, shown)
    merge = type("Merge", (), {"merge_size": 2})()
    whole = bare(
        transformers.Exaone4_5_Processor,
        tiny.tokenizer,
        video_processor=merge,
        video_token="<|video_pad|>",
    )
    filled = whole.replace_video_token(video, 0)
    return {"input_ids": tokenize(tiny, text.replace("<|video_pad|>", filled)), **video}


def _build_exaone4_5() -> Tiny:
    tokenizer = build_tokenizer(QWEN_TOKENS, **QWEN_NAMES)
    _, _, image, video = tokenizer.convert_tokens_to_ids(QWEN_TOKENS)
    config = transformers.Exaone4_5_Config(
        text_config={
            "model_type": "exaone4",
            "vocab_size": len(tokenizer),
            "sliding_window": 16,
            "sliding_window_pattern": 4,
            "head_dim": 16,
            **TEXT,
        },
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "out_hidden_size": 64,
            "num_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 64,
            "patch_size": 14,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
        image_token_id=image,
        video_token_id=video,
    )
    return Tiny(
        "exaone4_5",
        transformers.Exaone4_5_ForConditionalGeneration(config),
        tokenizer,
        transformers.Qwen2VLImageProcessorPil(),
        QWEN_TEMPLATE,
        _own_exaone,
        frame_size=(84, 56),
        deviation=0.25,
    )


QWEN_BUILDERS: dict[str, Callable[[], Tiny]] = {
    "qwen3_5": _build_qwen3_5,
    "qwen3_5_moe": _build_qwen3_5_moe,
    "exaone4_5": _build_exaone4_5,
    "minicpmv4_6": _build_minicpmv4_6,
    "qwen2_5_omni": _build_qwen2_5_omni,
    "qwen2_5_omni_thinker": _build_qwen2_5_omni_thinker,
    "qwen3_omni_moe": _build_qwen3_omni_moe,
    "qwen3_omni_moe_thinker": _build_qwen3_omni_moe_thinker,
    "glm4v_moe": _build_glm4v_moe,
    "glm46v": _build_glm46v,
}
