"""Tiny random checkpoints of families that read images, with weights large enough to tell.

Small weights hide errors: what a wrong mask, position or scale changes is then below the tolerance.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers
from families import (
    CHATML,
    SIGLIP,
    TEXT,
    Tiny,
    bare,
    build_tokenizer,
    stretched,
    tokenize,
    with_random_weights,
)
from PIL import Image
from transformers.modeling_outputs import BaseModelOutputWithPooling

DEVIATION = 0.25

_MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST]{% endif %}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}[IMG]{% else %}{{ c['text'] }}"
    "{% endif %}{% endfor %}{{ '[/INST]' if m['role'] == 'user' else eos_token }}{% endfor %}"
)


_LATENT = {
    "moe_intermediate_size": 32,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 12,
}
# Queries are scaled from the 16th position on, and again from the 32nd, and so on.
_SCALED_QUERIES = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 8.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.5,
}
_MISTRAL_DECODERS: dict[str, dict[str, Any]] = {
    "mistral": {"head_dim": 16, "sliding_window": None, **TEXT},
    "ministral3": {
        "head_dim": 16,
        **TEXT,
        "max_position_embeddings": 128,
        "rope_parameters": _SCALED_QUERIES,
    },
    "mistral4": {
        **_LATENT,
        **TEXT,
        "num_key_value_heads": 4,
        "max_position_embeddings": 128,
        "rope_parameters": {**_SCALED_QUERIES, "partial_rotary_factor": 1 / 3},
    },
}


def build_mistral3(decoder: str) -> Tiny:
    """Mistral 3 over one of its decoders, with random weights."""
    return with_random_weights(lambda: _build_mistral3(decoder))


def _build_mistral3(decoder: str = "mistral") -> Tiny:
    tokens = ["[IMG]", "[IMG_BREAK]", "[IMG_END]", "[INST]", "[/INST]"]
    tokenizer = build_tokenizer(tokens)
    config = transformers.Mistral3Config(
        text_config={
            "model_type": decoder,
            "vocab_size": len(tokenizer),
            **_MISTRAL_DECODERS[decoder],
        },
        vision_config={
            "model_type": "pixtral",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "head_dim": 8,
            "patch_size": 14,
            "image_size": 140,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
        tie_word_embeddings=False,
    )
    processor = transformers.PixtralImageProcessorPil(
        patch_size={"height": 14, "width": 14}, size={"longest_edge": 140}
    )

    def own(tiny: Tiny, shown: Sequence[Image.Image], text: str) -> dict[str, Any]:
        """As PixtralProcessor, which cannot be imported without torchvision."""
        images = tiny.image_processor(images=list(shown), patch_size=28, return_tensors="pt")
        for height, width in (images["image_sizes"] // 28).tolist():
            line = "[IMG!]" * width
            filled = "[IMG_BREAK]".join([line] * height) + "[IMG_END]"
            text = text.replace("[IMG]", filled, 1)
        return {"input_ids": tokenize(tiny, text.replace("[IMG!]", "[IMG]")), **images}

    return Tiny(
        "mistral3",
        transformers.Mistral3ForConditionalGeneration(config),
        tokenizer,
        processor,
        _MISTRAL,
        own,
        frame_size=(84, 56),
        is_video=False,
        deviation=0.2,
    )


_COHERE = (
    "{{ bos_token }}{% for m in messages %}<|START_OF_TURN_TOKEN|>"
    "{{ '<|CHATBOT_TOKEN|>' if m['role'] == 'assistant' else '<|USER_TOKEN|>' }}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE{% else %}{{ c['text'] }}"
    "{% endif %}{% endfor %}<|END_OF_TURN_TOKEN|>{% endfor %}"
    "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}"
)
_COHERE_TOKENS = [
    "<|START_OF_IMG|>",
    "<|END_OF_IMG|>",
    "<|IMG_PATCH|>",
    "<|IMG_LINE_BREAK|>",
    "TILE",
    "TILE_GLOBAL",
    "<image>",
    "<|START_OF_TURN_TOKEN|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|USER_TOKEN|>",
    "<|CHATBOT_TOKEN|>",
]


# The newer one has two layers with a window shorter than a prompt, and two without positions.
_COHERE_DECODERS: dict[str, dict[str, Any]] = {
    "cohere": {"use_qk_norm": True},
    "cohere2": {
        "head_dim": 16,
        "sliding_window": 24,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
}


def build_aya_vision(decoder: str) -> Tiny:
    """Aya Vision over one of its decoders, with random weights."""
    return with_random_weights(lambda: _build_aya_vision(decoder))


def _cohere_parts(tokenizer: Any, decoder: str = "cohere2") -> dict[str, Any]:
    return {
        "text_config": {
            "model_type": decoder,
            "vocab_size": len(tokenizer),
            "logit_scale": 0.5,
            **_COHERE_DECODERS[decoder],
            **TEXT,
        },
        "vision_config": {**SIGLIP, "image_size": 56},
        "tie_word_embeddings": False,
    }


def _build_aya_vision(decoder: str = "cohere2") -> Tiny:
    tokenizer = build_tokenizer(_COHERE_TOKENS)
    config = transformers.AyaVisionConfig(
        image_token_index=tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        alignment_intermediate_size=48,
        **_cohere_parts(tokenizer, decoder),
    )
    processor = transformers.GotOcr2ImageProcessorPil(size={"height": 56, "width": 56})

    def own(tiny: Tiny, shown: Sequence[Image.Image], text: str) -> dict[str, Any]:
        whole = transformers.AyaVisionProcessor(
            image_processor=tiny.image_processor,
            tokenizer=tiny.tokenizer,
            patch_size=14,
            img_size=56,
            downsample_factor=2,
        )
        return _of_processor(whole, tiny, shown, text)

    return Tiny(
        "aya_vision",
        transformers.AyaVisionForConditionalGeneration(config),
        tokenizer,
        processor,
        _COHERE.replace("IMAGE", "<image>"),
        own,
        is_video=False,
        deviation=DEVIATION,
        logit_scale=0.5,
    )


class Cohere2VisionImageProcessor(transformers.GotOcr2ImageProcessorPil):
    """Writes the file of the processor with this name, which needs torchvision."""

    patch_size = 2  # the tokens along a side of a tile


def _build_cohere2_vision() -> Tiny:
    names = {
        "boi_token": "<|START_OF_IMG|>",
        "eoi_token": "<|END_OF_IMG|>",
        "image_token": "<|IMG_PATCH|>",
        "img_line_break_token": "<|IMG_LINE_BREAK|>",
    }
    tokenizer = build_tokenizer(_COHERE_TOKENS, **names)
    config = transformers.Cohere2VisionConfig(
        image_token_id=tokenizer.image_token_id,
        alignment_intermediate_size=48,
        **_cohere_parts(tokenizer),
    )
    processor = Cohere2VisionImageProcessor(size={"height": 56, "width": 56})

    def own(tiny: Tiny, shown: Sequence[Image.Image], text: str) -> dict[str, Any]:
        whole = bare(
            transformers.Cohere2VisionProcessor,
            tiny.tokenizer,
            patch_size=2,
            image_token="<|IMG_PATCH|>",
            **{name: token for name, token in names.items() if name != "image_token"},
        )
        pixels = stretched(tiny.image_processor, shown, 56)
        filled = whole.replace_image_token({"num_patches": [1]}, 0)
        ids = tokenize(tiny, text.replace("<|IMG_PATCH|>", filled))
        return {"input_ids": ids, "pixel_values": pixels}

    return Tiny(
        "cohere2_vision",
        transformers.Cohere2VisionForConditionalGeneration(config),
        tokenizer,
        processor,
        _COHERE.replace("IMAGE", "<|IMG_PATCH|>"),
        own,
        is_video=False,
        deviation=DEVIATION,
        logit_scale=0.5,
    )


def _of_processor(
    whole: Any, tiny: Tiny, shown: Sequence[Image.Image], text: str, **options: Any
) -> dict[str, Any]:
    """What a processor of transformers gives for a text and its pictures."""
    begins = text.startswith(tiny.tokenizer.bos_token)
    processed = whole(
        text=[text],
        images=[list(shown)],
        add_special_tokens=not begins,
        return_tensors="pt",
        **options,
    )
    return dict(processed)


def _build_ovis2() -> Tiny:
    tokens = ["<image>", "<IMG_ATOM>", "<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>"]
    tokenizer = build_tokenizer([*tokens, "<IMG_END>"])
    ids = tokenizer.convert_tokens_to_ids([*tokens[1:], "<IMG_END>"])
    config = transformers.Ovis2Config(
        text_config={"model_type": "qwen2", "vocab_size": len(tokenizer), **TEXT},
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": 56,
            "patch_size": 14,
            "vocab_size": 45,
            "hidden_stride": 2,
            "num_visual_indicator_tokens": 5,
        },
        image_token_id=ids[0],
        visual_indicator_token_ids=ids[1:],
        vocab_size=len(tokenizer),
        hidden_size=TEXT["hidden_size"],
        tie_word_embeddings=False,
    )
    processor = transformers.Ovis2ImageProcessorPil(size={"height": 56, "width": 56})

    def own(tiny: Tiny, shown: Sequence[Image.Image], text: str) -> dict[str, Any]:
        whole = transformers.Ovis2Processor(
            image_processor=tiny.image_processor, tokenizer=tiny.tokenizer, image_seq_length=4
        )
        return _of_processor(whole, tiny, shown, text)

    return Tiny(
        "ovis2",
        transformers.Ovis2ForConditionalGeneration(config),
        tokenizer,
        processor,
        CHATML.replace("IMAGE", "<image>\n"),
        own,
        is_video=False,
        deviation=DEVIATION,
    )


def _build_video_llama_3() -> Tiny:
    tokenizer = build_tokenizer(["<|image_pad|>", "<|video_pad|>"])
    image, video = tokenizer.convert_tokens_to_ids(["<|image_pad|>", "<|video_pad|>"])
    config = transformers.VideoLlama3Config(
        text_config={"model_type": "qwen2", "vocab_size": len(tokenizer), **TEXT},
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "patch_size": 14,
        },
        image_token_id=image,
        video_token_id=video,
    )

    def own(tiny: Tiny, shown: Sequence[Image.Image], text: str) -> dict[str, Any]:
        processed = tiny.image_processor(
            images=list(shown), do_resize=False, merge_size=2, return_tensors="pt"
        )
        grid = processed["image_grid_thw"][:1] * torch.tensor([len(shown), 1, 1])
        inputs = {
            "pixel_values_videos": processed["pixel_values"],
            "video_grid_thw": grid,
            "video_merge_sizes": processed["image_merge_sizes"][:1],
            "video_compression_mask": torch.ones(int(grid.prod()) // 4, dtype=torch.bool),
        }
        whole = bare(transformers.VideoLlama3Processor, tiny.tokenizer, video_token="<|video_pad|>")
        metadata = type("Metadata", (), {"fps": 1, "timestamps": list(range(len(shown)))})()
        filled = whole.replace_video_token({**inputs, "video_metadata": [metadata]}, 0)
        return {"input_ids": tokenize(tiny, text.replace("<|video_pad|>", filled)), **inputs}

    return Tiny(
        "video_llama_3",
        transformers.VideoLlama3ForConditionalGeneration(config),
        tokenizer,
        transformers.VideoLlama3ImageProcessorPil(),
        CHATML.replace("VIDEO", "<|video_pad|>\n"),
        own,
        frame_size=(84, 56),
        deviation=DEVIATION,
    )


_LLAMA = (
    "{{ bos_token }}{% for m in messages %}<|header_start|>{{ m['role'] }}<|header_end|>\n\n"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<|image|>{% else %}{{ c['text'] }}"
    "{% endif %}{% endfor %}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|header_start|>assistant<|header_end|>\n\n{% endif %}"
)


class Llama4ImageProcessor(transformers.SiglipImageProcessorPil):
    """Writes the file of the processor with this name, which needs torchvision."""


def _build_llama4() -> Tiny:
    """Chunks and a floor scale shorter than a prompt; two layers in four without positions."""
    marks = ["<|image_start|>", "<|image|>", "<|patch|>", "<|image_end|>"]
    turns = ["<|header_start|>", "<|header_end|>", "<|eot|>"]
    tokenizer = build_tokenizer([*marks, *turns])
    begin, _, patch, end = tokenizer.convert_tokens_to_ids(marks)
    config = transformers.Llama4Config(
        text_config={
            "vocab_size": len(tokenizer),
            "head_dim": 16,
            "intermediate_size_mlp": 96,
            "num_local_experts": 4,
            "num_experts_per_tok": 1,
            "moe_layers": [1, 3],
            "no_rope_layers": [1, 0, 1, 0],
            "attention_chunk_size": 24,
            "floor_scale": 16,
            "attn_scale": 0.5,
            **TEXT,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": 56,
            "patch_size": 14,
            "vision_output_dim": 40,
            "projector_input_dim": 40,
            "projector_output_dim": 40,
            "pixel_shuffle_ratio": 0.5,
        },
        boi_token_index=begin,
        eoi_token_index=end,
        image_token_index=patch,
    )
    processor = Llama4ImageProcessor(
        size={"height": 56, "width": 56},
        resample=Image.Resampling.BILINEAR,
        image_mean=[0.5, 0.4, 0.5],
        image_std=[0.5, 0.5, 0.4],
    )

    def own(tiny: Tiny, shown: Sequence[Image.Image], text: str) -> dict[str, Any]:
        pixels = tiny.image_processor(
            images=list(shown), do_normalize=False, do_rescale=False, return_tensors="pt"
        )["pixel_values"]
        mean, deviation = (
            torch.tensor(channels).bfloat16()[:, None, None]
            for channels in (processor.image_mean, processor.image_std)
        )
        pixels = (pixels.bfloat16() * (1 / 255) - mean) / deviation
        whole = bare(
            transformers.Llama4Processor, tiny.tokenizer, patch_size=14, downsample_ratio=4
        )
        filled = whole.replace_image_token({"pixel_values": pixels, "aspect_ratios": [(1, 1)]}, 0)
        ids = tokenize(tiny, text.replace("<|image|>", filled))
        return {"input_ids": ids, "pixel_values": pixels.float()}

    return Tiny(
        "llama4",
        transformers.Llama4ForConditionalGeneration(config),
        tokenizer,
        processor,
        _LLAMA,
        own,
        is_video=False,
        deviation=DEVIATION,
    )


class Kimi_K25ImageProcessor(transformers.SiglipImageProcessorPil):
    """Writes the file of the processor with this name, which needs torchvision."""


def _build_kimi_k25() -> Tiny:
    marks = ["<|media_begin|>", "<|media_content|>", "<|media_end|>", "<|media_pad|>"]
    video = "<|kimi_k25_video_placeholder|>"
    tokenizer = build_tokenizer([*marks, video], video_token=video, image_token="<|media_pad|>")
    config = transformers.Kimi_K25Config(
        text_config={
            "model_type": "deepseek_v3",
            "vocab_size": len(tokenizer),
            **_LATENT,
            **TEXT,
            "num_key_value_heads": 4,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "patch_size": 14,
            "pos_emb_height": 6,
            "pos_emb_width": 6,
        },
        projection_hidden_size=32,
        image_token_id=tokenizer.convert_tokens_to_ids("<|media_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids(video),
        tie_word_embeddings=False,
    )
    processor = Kimi_K25ImageProcessor(image_mean=[0.5, 0.4, 0.5], image_std=[0.5, 0.5, 0.4])

    def own(tiny: Tiny, shown: Sequence[Image.Image], text: str) -> dict[str, Any]:
        """With the outputs of the tower: transformers fails to cut them for its own forward."""
        pixels = tiny.image_processor(images=list(shown), do_resize=False, return_tensors="pt")
        frames = pixels["pixel_values"]
        patches = torch.nn.functional.unfold(frames, 14, stride=14).transpose(1, 2)
        patches = patches.reshape(len(shown), 1, -1, 3, 14, 14).repeat(1, 4, 1, 1, 1, 1)
        grid = torch.tensor([[4, frames.shape[2] // 14, frames.shape[3] // 14]] * len(shown))
        inner = tiny.model.model
        tower = inner.vision_tower(patches.reshape(-1, 3, 14, 14), grid_thw=grid)
        rows = inner.mm_projector(tower.pooler_output)[:, 0]
        whole = bare(
            transformers.Kimi_K25Processor,
            tiny.tokenizer,
            video_processor=type("Sizes", (), {"merge_size": 2, "temporal_patch_size": 4})(),
            video_token=video,
        )
        seconds = [quarter / 4 for quarter in range(4 * len(shown))]
        metadata = type("Metadata", (), {"fps": 4, "timestamps": seconds})()
        given = {
            "num_chunks_per_video": [len(shown)],
            "video_grid_thw": grid,
            "video_metadata": [metadata],
        }
        filled = whole.replace_video_token(given, 0)
        return {
            "input_ids": tokenize(tiny, text.replace(video, filled)),
            "mm_encoder_outputs": {"video": BaseModelOutputWithPooling(pooler_output=[rows])},
        }

    return Tiny(
        "kimi_k25",
        transformers.Kimi_K25ForConditionalGeneration(config),
        tokenizer,
        processor,
        CHATML.replace("VIDEO", video),
        own,
        frame_size=(84, 56),
        deviation=DEVIATION,
    )


_GEMMA4 = (
    "{{ bos_token }}{% for m in messages %}<|turn>"
    "{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'video' %}\n\n<|video|>\n\n{% else %}{{ c['text'] | trim }}{% endif %}"
    "{% endfor %}<turn|>\n{% endfor %}{% if add_generation_prompt %}<|turn>model\n{% endif %}"
)
# Frames that see themselves and experts; keys of earlier layers and inputs of single layers.
GEMMA4_KINDS: dict[str, dict[str, Any]] = {
    "large": {
        "use_bidirectional_attention": "vision",
        "attention_k_eq_v": True,
        "num_global_key_value_heads": 1,
        "hidden_size_per_layer_input": 0,
        "enable_moe_block": True,
        "num_experts": 4,
        "top_k_experts": 2,
        "moe_intermediate_size": 16,
        "layer_types": ["sliding_attention"] * 2 + ["full_attention"] * 2,
    },
    "small": {
        "num_kv_shared_layers": 2,
        "hidden_size_per_layer_input": 8,
        "use_double_wide_mlp": True,
        "layer_types": ["sliding_attention"] + ["sliding_attention", "full_attention"] * 2,
    },
}


# The small ones have a tower for sound, which no frame goes through.
_HEARING = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "subsampling_conv_channels": [4, 4],
    "output_proj_dims": 16,
}


def build_gemma4(kind: str) -> Tiny:
    """Gemma 4 in one of its kinds, with random weights."""
    return with_random_weights(lambda: _build_gemma4(kind))


def _build_gemma4(kind: str = "large") -> Tiny:
    tokens = ["<|image>", "<image|>", "<|image|>", "<|video|>", "<|turn>", "<turn|>"]
    names = {"boi_token": "<|image>", "eoi_token": "<image|>", "image_token": "<|image|>"}
    tokenizer = build_tokenizer(tokens, **names)
    begin, end, image, video = tokenizer.convert_tokens_to_ids(tokens[:4])
    of_kind = GEMMA4_KINDS[kind]
    config = transformers.Gemma4Config(
        text_config={
            **TEXT,
            "vocab_size": len(tokenizer),
            "vocab_size_per_layer_input": len(tokenizer),
            "num_hidden_layers": len(of_kind["layer_types"]),
            "head_dim": 16,
            "global_head_dim": 32,
            "sliding_window": 10,
            "final_logit_softcapping": 30.0,
            **of_kind,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 8,
            "patch_size": 8,
            "position_embedding_size": 32,
            "use_clipped_linears": True,
            "standardize": kind == "large",
        },
        audio_config=_HEARING if kind == "small" else None,
        boi_token_id=begin,
        eoi_token_id=end,
        image_token_id=image,
        video_token_id=video,
        audio_token_id=len(tokenizer) + 1,
    )
    model = transformers.Gemma4ForConditionalGeneration(config)
    for name, parameter in model.named_parameters():
        if name.endswith("q_norm.weight") and "language_model" in name:
            parameter.data.fill_(0.5)  # scores are not divided, and rounding grows with them
    for name, buffer in model.named_buffers():
        if name.endswith(("layer_scalar", "std_scale")):
            buffer.uniform_(0.5, 1.5)
        elif name.endswith("std_bias"):
            buffer.normal_(0, 0.5)
        elif name.endswith(("_min", "_max")):
            buffer.fill_(2.0 if name.endswith("_max") else -2.0)

    def own(tiny: Tiny, shown: Sequence[Image.Image], text: str) -> dict[str, Any]:
        patches = tiny.image_processor(
            images=list(shown), do_resize=False, max_soft_tokens=70, return_tensors="pt"
        )
        whole = bare(
            transformers.Gemma4Processor,
            tiny.tokenizer,
            boi_token="<|image>",
            eoi_token="<image|>",
            video_token="<|video|>",
        )
        metadata = type("Metadata", (), {"fps": 1, "timestamps": list(range(len(shown)))})()
        num_tokens = patches["num_soft_tokens_per_image"][0]
        given = {"num_soft_tokens_per_video": [num_tokens], "video_metadata": [metadata]}
        ids = tokenize(tiny, text.replace("<|video|>", whole.replace_video_token(given, 0)))
        return {
            "input_ids": ids,
            "pixel_values_videos": patches["pixel_values"],
            "video_position_ids": patches["image_position_ids"],
            "num_frames_per_video": torch.tensor([len(shown)]),
            "mm_token_type_ids": 2 * (ids == video).long(),
        }

    return Tiny(
        "gemma4",
        model,
        tokenizer,
        transformers.Gemma4ImageProcessorPil(patch_size=8),
        _GEMMA4,
        own,
        frame_size=(72, 48),
        deviation=0.2,
    )


IMAGE_BUILDERS: dict[str, Callable[[], Tiny]] = {
    "mistral3": _build_mistral3,
    "aya_vision": _build_aya_vision,
    "cohere2_vision": _build_cohere2_vision,
    "gemma4": _build_gemma4,
    "kimi_k25": _build_kimi_k25,
    "llama4": _build_llama4,
    "ovis2": _build_ovis2,
    "video_llama_3": _build_video_llama_3,
}
