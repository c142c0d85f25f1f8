"""Tiny random checkpoints of transformers families, and what each computes by itself on pixels."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers
from PIL import Image
from qwen_families import QWEN_BUILDERS
from tiny_families import (
    CHATML,
    TEXT,
    Tiny,
    bare,
    build_tokenizer,
    tokenize,
)
from torch import Tensor
from transformers import PreTrainedTokenizerFast

CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 56,
    "patch_size": 14,
}
SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 70,
    "patch_size": 14,
    "vision_use_head": False,
}
# As the families write a turn; only what matters here of each template.
_VICUNA = (
    "{% for m in messages %}{{ m['role'] | upper }}: {% for c in m['content'] %}"
    "{% if c['type'] == 'video' %}<video>\n{% elif c['type'] == 'image' %}<image>\n"
    "{% else %}{{ c['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
_GEMMA = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>"
    "{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<start_of_image>{% else %}{{ c['text'] | trim }}{% endif %}"
    "{% endfor %}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
_IDEFICS = (
    "<|begin_of_text|>{% for m in messages %}{{ m['role'] | capitalize }}:"
    "{{ '' if m['content'][0]['type'] == 'image' else ' ' }}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)


def build(model_type: str, seed: int = 0) -> Tiny:
    """A tiny random checkpoint of a family."""
    torch.manual_seed(seed)
    tiny = BUILDERS[model_type]()
    for name, parameter in tiny.model.named_parameters():
        parameter.requires_grad_(False)
        if parameter.ndim >= 2:
            usual = 0.25 if tiny.is_harsh else 0.15
            parameter.normal_(0, 0.3 if "lm_head" in name else usual)
        elif "newline" in name or "bias" in name:
            parameter.normal_(0, 0.1)
        elif tiny.is_harsh and "norm" in name:
            parameter.uniform_(0.5, 1.5)
    for name, buffer in tiny.model.named_buffers():
        if tiny.is_harsh and "correction_bias" in name:
            buffer.normal_(0, 0.3)
    tiny.model.eval()
    tiny.model.tie_weights()
    return tiny


def _fill_video(tiny: Tiny, text: str, filled: str) -> Tensor:
    """The tokens of a rendered text, with what a processor writes in place of its video."""
    return tokenize(tiny, text.replace("<video>", filled))


def _llava_tokenizer() -> tuple[PreTrainedTokenizerFast, int, int]:
    """A tokenizer that has images and videos, and the ids of both."""
    tokenizer = build_tokenizer(
        ["<image>", "<video>"], image_token="<image>", video_token="<video>"
    )
    return tokenizer, *tokenizer.convert_tokens_to_ids(["<image>", "<video>"])


def _clip_processor() -> Any:
    """As the CLIP families preprocess: the shorter side scaled, the middle cut out."""
    return transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}
    )


def _cropped(frames: Sequence[Image.Image]) -> Tensor:
    """Pictures as a plain CLIP processor brings them to a square."""
    return _clip_processor()(images=list(frames), return_tensors="pt")["pixel_values"]


def _stretched(processor: Any, frames: Sequence[Image.Image], side: int) -> Tensor:
    """Pictures as a plain SigLIP processor of the same mean brings them to a square."""
    plain = transformers.SiglipImageProcessorPil(
        size={"height": side, "width": side},
        image_mean=processor.image_mean,
        image_std=processor.image_std,
        resample=processor.resample,
    )
    return plain(images=list(frames), return_tensors="pt")["pixel_values"]


def _build_llava() -> Tiny:
    tokenizer = build_tokenizer(["<image>", "<video>"], image_token="<image>")
    image = tokenizer.convert_tokens_to_ids("<image>")
    config = transformers.LlavaConfig(
        vision_config=CLIP,
        text_config={"model_type": "llama", "vocab_size": len(tokenizer), **TEXT},
        image_token_index=image,
        vision_feature_layer=-2,
    )
    processor = _clip_processor()

    def own(tiny: Tiny, shown: Sequence[Image.Image], text: str) -> dict[str, Any]:
        whole = transformers.LlavaProcessor(
            image_processor=tiny.image_processor,
            tokenizer=tiny.tokenizer,
            patch_size=14,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
        )
        return dict(whole(text=text, images=list(shown), return_tensors="pt"))

    model = transformers.LlavaForConditionalGeneration(config)
    return Tiny("llava", model, tokenizer, processor, _VICUNA, own, is_video=False)


def _build_llava_next_video() -> Tiny:
    tokenizer, image, video = _llava_tokenizer()
    config = transformers.LlavaNextVideoConfig(
        vision_config=CLIP,
        text_config={"model_type": "mistral", "vocab_size": len(tokenizer), **TEXT},
        image_token_index=image,
        video_token_index=video,
        spatial_pool_mode="average",
        spatial_pool_stride=2,
        vision_feature_layer=-2,
        image_grid_pinpoints=[[56, 112]],
    )
    config.text_config.sliding_window = None
    processor = transformers.LlavaNextImageProcessorPil(
        size={"shortest_edge": 56},
        crop_size={"height": 56, "width": 56},
        image_grid_pinpoints=[[56, 112]],
    )

    def own(tiny: Tiny, shown: Sequence[Image.Image], text: str) -> dict[str, Any]:
        pixels = _cropped(shown)[None]
        whole = bare(
            transformers.LlavaNextVideoProcessor,
            tiny.tokenizer,
            patch_size=14,
            video_token="<video>",
        )
        filled = whole.replace_video_token({"pixel_values_videos": pixels}, 0)
        return {"input_ids": _fill_video(tiny, text, filled), "pixel_values_videos": pixels}

    model = transformers.LlavaNextVideoForConditionalGeneration(config)
    return Tiny("llava_next_video", model, tokenizer, processor, _VICUNA, own)


def _build_llava_onevision() -> Tiny:
    tokenizer, image, video = _llava_tokenizer()
    config = transformers.LlavaOnevisionConfig(
        vision_config=SIGLIP,
        text_config={"model_type": "qwen2", "vocab_size": len(tokenizer), **TEXT},
        image_token_index=image,
        video_token_index=video,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[70, 140]],
    )
    processor = transformers.LlavaOnevisionImageProcessorPil(
        size={"height": 70, "width": 70}, image_grid_pinpoints=[[70, 140]]
    )

    def own(tiny: Tiny, shown: Sequence[Image.Image], text: str) -> dict[str, Any]:
        pixels = _stretched(tiny.image_processor, shown, 70)[None]
        whole = bare(
            transformers.LlavaOnevisionProcessor,
            tiny.tokenizer,
            num_image_tokens=25,
            video_token="<video>",
        )
        filled = whole.replace_video_token({"pixel_values_videos": pixels}, 0)
        return {"input_ids": _fill_video(tiny, text, filled), "pixel_values_videos": pixels}

    model = transformers.LlavaOnevisionForConditionalGeneration(config)
    template = CHATML.replace("VIDEO", "<video>\n")
    return Tiny("llava_onevision", model, tokenizer, processor, template, own)


def _build_video_llava() -> Tiny:
    tokenizer, image, video = _llava_tokenizer()
    config = transformers.VideoLlavaConfig(
        vision_config=CLIP,
        text_config={"model_type": "llama", "vocab_size": len(tokenizer), **TEXT},
        image_token_index=image,
        video_token_index=video,
    )
    processor = transformers.VideoLlavaImageProcessor(
        size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}
    )

    def own(tiny: Tiny, shown: Sequence[Image.Image], text: str) -> dict[str, Any]:
        pixels = _cropped(shown)[None]
        rows = (56 // 14) ** 2 + 1
        filled = "<video>" * (rows * len(shown))
        return {"input_ids": _fill_video(tiny, text, filled), "pixel_values_videos": pixels}

    model = transformers.VideoLlavaForConditionalGeneration(config)
    return Tiny("video_llava", model, tokenizer, processor, _VICUNA, own)


def _build_internvl() -> Tiny:
    names = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = build_tokenizer(list(names.values()), **names)
    context = tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    config = transformers.InternVLConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": [56, 56],
            "patch_size": [14, 14],
        },
        text_config={"model_type": "qwen2", "vocab_size": len(tokenizer), **TEXT},
        image_token_id=context,
        downsample_ratio=0.5,
    )
    processor = transformers.GotOcr2ImageProcessorPil(size={"height": 56, "width": 56})

    def own(tiny: Tiny, shown: Sequence[Image.Image], text: str) -> dict[str, Any]:
        pixels = _stretched(tiny.image_processor, shown, 56)
        whole = bare(
            transformers.InternVLProcessor,
            tiny.tokenizer,
            image_seq_length=4,
            start_image_token="<img>",
            end_image_token="</img>",
            image_token="<IMG_CONTEXT>",
        )
        filled = whole.replace_video_token({"pixel_values_videos": pixels[None]}, 0)
        return {"input_ids": _fill_video(tiny, text, filled), "pixel_values": pixels}

    model = transformers.InternVLForConditionalGeneration(config)
    template = CHATML.replace("VIDEO", "<video>\n")
    return Tiny("internvl", model, tokenizer, processor, template, own)


_IDEFICS_TOKENS = [
    "<fake_token_around_image>",
    "<image>",
    "<global-img>",
    "<end_of_utterance>",
    "<video>",
    "<|begin_of_text|>",
]


def _idefics_config(config_class: Any, tokenizer: Any) -> Any:
    return config_class(
        text_config={"model_type": "llama", "vocab_size": len(tokenizer), **TEXT},
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": 56,
            "patch_size": 14,
        },
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=2,
    )


_IDEFICS_SIZES = {
    "size": {"longest_edge": 112},
    "max_image_size": {"longest_edge": 56},
}


def _build_idefics3() -> Tiny:
    tokenizer = build_tokenizer(_IDEFICS_TOKENS)
    model = transformers.Idefics3ForConditionalGeneration(
        _idefics_config(transformers.Idefics3Config, tokenizer)
    )
    processor = transformers.Idefics3ImageProcessorPil(**_IDEFICS_SIZES)

    def own(tiny: Tiny, shown: Sequence[Image.Image], text: str) -> dict[str, Any]:
        whole = transformers.Idefics3Processor(
            image_processor=tiny.image_processor, tokenizer=tiny.tokenizer, image_seq_len=4
        )
        return dict(
            whole(
                text=text,
                images=[list(shown)],
                images_kwargs={"do_image_splitting": False},
                add_special_tokens=True,
                return_tensors="pt",
            )
        )

    return Tiny("idefics3", model, tokenizer, processor, _IDEFICS, own, is_video=False)


def _build_smolvlm() -> Tiny:
    from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE

    tokenizer = build_tokenizer(_IDEFICS_TOKENS)
    model = transformers.SmolVLMForConditionalGeneration(
        _idefics_config(transformers.SmolVLMConfig, tokenizer)
    )
    processor = transformers.SmolVLMImageProcessorPil(**_IDEFICS_SIZES)

    def own(tiny: Tiny, shown: Sequence[Image.Image], text: str) -> dict[str, Any]:
        pixels = _stretched(tiny.image_processor, shown, 56)[None]
        whole = bare(
            transformers.SmolVLMProcessor,
            tiny.tokenizer,
            image_seq_len=4,
            image_token="<image>",
            fake_image_token="<fake_token_around_image>",
            global_image_token="<global-img>",
        )
        metadata = type(
            "Metadata",
            (),
            {"fps": 1, "timestamps": list(range(len(shown))), "duration": len(shown)},
        )()
        given = {"pixel_values": pixels, "video_metadata": [metadata]}
        filled = whole.replace_video_token(given, 0)
        return {"input_ids": _fill_video(tiny, text, filled), "pixel_values": pixels}

    return Tiny("smolvlm", model, tokenizer, processor, DEFAULT_CHAT_TEMPLATE, own)


def _build_gemma3() -> Tiny:
    tokens = [
        "<start_of_image>",
        "<end_of_image>",
        "<image_soft_token>",
        "<start_of_turn>",
        "<end_of_turn>",
    ]
    tokenizer = build_tokenizer(
        tokens,
        boi_token="<start_of_image>",
        eoi_token="<end_of_image>",
        image_token="<image_soft_token>",
    )
    boi, eoi, image = tokenizer.convert_tokens_to_ids(tokens[:3])
    config = transformers.Gemma3Config(
        text_config={"vocab_size": len(tokenizer), "head_dim": 16, "sliding_window": 64, **TEXT},
        vision_config={**SIGLIP, "image_size": 56},
        mm_tokens_per_image=4,
        image_token_index=image,
        boi_token_index=boi,
        eoi_token_index=eoi,
    )
    processor = transformers.Gemma3ImageProcessorPil(size={"height": 56, "width": 56})

    def own(tiny: Tiny, shown: Sequence[Image.Image], text: str) -> dict[str, Any]:
        whole = transformers.Gemma3Processor(
            image_processor=tiny.image_processor, tokenizer=tiny.tokenizer, image_seq_length=4
        )
        begins = text.startswith(tiny.tokenizer.bos_token)
        return dict(
            whole(
                text=text,
                images=[list(shown)],
                add_special_tokens=not begins,
                return_tensors="pt",
            )
        )

    model = transformers.Gemma3ForConditionalGeneration(config)
    return Tiny("gemma3", model, tokenizer, processor, _GEMMA, own, is_video=False)


BUILDERS: dict[str, Callable[[], Tiny]] = {
    "llava": _build_llava,
    "llava_next_video": _build_llava_next_video,
    "llava_onevision": _build_llava_onevision,
    "video_llava": _build_video_llava,
    **QWEN_BUILDERS,
    "internvl": _build_internvl,
    "idefics3": _build_idefics3,
    "smolvlm": _build_smolvlm,
    "gemma3": _build_gemma3,
}
