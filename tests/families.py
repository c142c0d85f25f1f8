"""Tiny random checkpoints of transformers families, and what each computes by itself on pixels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
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
MROPE = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e6}
MARKS = ("<|im_start|>", "<|im_end|>")

# As the families write a turn; only what matters here of each template.
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'video' %}VIDEO{% elif c['type'] == 'image' %}IMAGE"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
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
GLM = (
    "[gMASK]<sop>\n{% for m in messages %}<|{{ m['role'] }}|>\n{% for c in m['content'] %}"
    "{% if c['type'] == 'video' %}<|begin_of_video|><|video|><|end_of_video|>"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
_IDEFICS = (
    "<|begin_of_text|>{% for m in messages %}{{ m['role'] | capitalize }}:"
    "{{ '' if m['content'][0]['type'] == 'image' else ' ' }}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
_CORPUS = ["What digit is on the red card? It is 7. You are a helpful assistant Frame1: seconds"]

# What is common to a family's own inputs: model, tokenizer, processor, pictures, text.
Own = Callable[["Tiny", Sequence[Image.Image], str], dict[str, Any]]


@dataclass(frozen=True)
class Tiny:
    """A family at a tiny size.

    Attributes:
        model_type: as in config.json.
        model: random weights, fp32.
        tokenizer: byte-level, with the family's special tokens.
        image_processor: the family's own.
        template: its chat template.
        own_inputs: called with this, pictures and the rendered text; what the family's own
            processor gives for them.
        frame_size: width and height, where any will do.
        is_video: what the message holds for the frames.
        deviation: of the random weights; norms have others than ones where it is given.
        head: deviation of the head's weights. Logits and their rounding grow with it.
        logit_scale: by what the authors multiply the logits that transformers' class gives.
    """

    model_type: str
    model: Any
    tokenizer: Any
    image_processor: Any
    template: str
    own_inputs: Own
    frame_size: tuple[int, int] | None = None
    is_video: bool = True
    deviation: float | None = None
    head: float = 0.3
    logit_scale: float = 1.0

    def save(self, folder: Path) -> Path:
        """A checkpoint folder as `save_pretrained` writes it."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)
        (folder / "chat_template.jinja").write_text(self.template)
        return folder

    def render(self, num_frames: int, question: str) -> str:
        """The chat template's text."""
        shown = [{"type": "video"}] if self.is_video else [{"type": "image"}] * num_frames
        content = [*shown, {"type": "text", "text": question}]
        return self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=self.template,
            tokenize=False,
            add_generation_prompt=True,
        )

    @torch.inference_mode()
    def own_logits(
        self, pictures: Sequence[Image.Image], question: str, answer_ids: Sequence[int]
    ) -> Tensor:
        """Logits that predict an answer, by the family's own processor and forward on pixels."""
        inputs = self.own_inputs(self, pictures, self.render(len(pictures), question))
        answer = torch.tensor([list(answer_ids)])
        ids = torch.cat([inputs["input_ids"], answer], 1)
        inputs = {**inputs, "input_ids": ids}
        for key, value in (("mm_token_type_ids", 0), ("token_type_ids", 0), ("attention_mask", 1)):
            if key in inputs:
                inputs[key] = torch.cat([inputs[key], torch.full_like(answer, value)], 1)
        positions = inputs.pop("find_positions", None)
        if positions is not None:
            inputs["position_ids"] = positions(ids)
        logits = self.model(**inputs).logits
        inner = getattr(self.model, "model", None)
        if hasattr(inner, "rope_deltas"):
            inner.rope_deltas = None  # state of the last call
        return logits[0, -len(answer_ids) - 1 : -1].float() * self.logit_scale


def build(model_type: str, seed: int = 0) -> Tiny:
    """A tiny random checkpoint of a family."""
    return with_random_weights(BUILDERS[model_type], seed)


def with_random_weights(builder: Callable[[], Tiny], seed: int = 0) -> Tiny:
    """What a builder makes, with weights that tell things apart."""
    torch.manual_seed(seed)
    tiny = builder()
    for name, parameter in tiny.model.named_parameters():
        parameter.requires_grad_(False)
        if parameter.ndim >= 2:
            parameter.normal_(0, tiny.head if "lm_head" in name else tiny.deviation or 0.15)
        elif name.endswith("A_log"):  # of gated delta layers
            parameter.uniform_(-3, 0.5)
        elif name.endswith("dt_bias"):
            parameter.uniform_(-2, 1)
        elif tiny.deviation is not None:
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
        elif "newline" in name or "bias" in name:
            parameter.normal_(0, 0.1)
    for name, buffer in tiny.model.named_buffers():
        if name.endswith("correction_bias"):  # by which experts are chosen
            buffer.normal_(0, 0.3)
    tiny.model.eval()
    tiny.model.tie_weights()
    return tiny


def pictures(num_frames: int, size: tuple[int, int], seed: int = 0) -> list[Image.Image]:
    """Pictures of noise, coarse enough to survive scaling; ``size`` is width and height."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (num_frames, 6, 6, 3), dtype=np.uint8)
    return [Image.fromarray(one).resize(size, Image.Resampling.BICUBIC) for one in coarse]


def build_tokenizer(tokens: Sequence[str], **named: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with special tokens; ``named`` gives some of them names."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>", *MARKS, *tokens]
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=named,
        additional_special_tokens=[*MARKS, *tokens],
    )


def bare(processor_class: Any, tokenizer: Any, **attributes: Any) -> Any:
    """A processor without its video processor, which needs torchvision: for the text it writes."""
    processor = object.__new__(processor_class)
    processor.tokenizer = tokenizer
    for name, value in attributes.items():
        setattr(processor, name, value)
    return processor


def tokenize(tiny: Tiny, text: str) -> Tensor:
    begins = text.startswith(tiny.tokenizer.bos_token)
    ids = tiny.tokenizer(text, add_special_tokens=not begins)["input_ids"]
    return torch.tensor([ids])


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


def stretched(processor: Any, frames: Sequence[Image.Image], side: int) -> Tensor:
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
        pixels = stretched(tiny.image_processor, shown, 70)[None]
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


QWEN_TOKENS = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
QWEN_NAMES = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
QWEN_TEMPLATE = CHATML.replace("VIDEO", "<|vision_start|><|video_pad|><|vision_end|>")


def qwen_ids(tokenizer: Any) -> dict[str, int]:
    start, end, image, video = tokenizer.convert_tokens_to_ids(QWEN_TOKENS)
    return {
        "image_token_id": image,
        "video_token_id": video,
        "vision_start_token_id": start,
        "vision_end_token_id": end,
    }


def qwen_video(tiny: Tiny, shown: Sequence[Image.Image]) -> dict[str, Tensor]:
    """A video of doubled frames: the patches of its frames, one after the other."""
    processed = tiny.image_processor(images=list(shown), do_resize=False, return_tensors="pt")
    _, height, width = processed["image_grid_thw"][0].tolist()
    return {
        "pixel_values_videos": processed["pixel_values"],
        "video_grid_thw": torch.tensor([[len(shown), height, width]]),
    }


def _own_qwen2(tiny: Tiny, shown: Sequence[Image.Image], text: str) -> dict[str, Any]:
    video = qwen_video(tiny, shown)
    merge = type("Merge", (), {"merge_size": 2})()
    whole = bare(
        transformers.Qwen2VLProcessor,
        tiny.tokenizer,
        video_processor=merge,
        video_token="<|video_pad|>",
    )
    filled = whole.replace_video_token(video, 0)
    ids = tokenize(tiny, text.replace("<|video_pad|>", filled))
    seconds = {"second_per_grid_ts": torch.tensor([1.0])}
    own = video | (seconds if tiny.model_type == "qwen2_5_vl" else {})

    def find_positions(ids: Tensor) -> Tensor:
        """The model's own, with the text behind the largest of the video, as in 4.57."""
        types = 2 * (ids == tiny.model.config.video_token_id).int()
        positions, _ = tiny.model.model.get_rope_index(
            ids, mm_token_type_ids=types, **{k: v for k, v in own.items() if "pixel" not in k}
        )
        end = int(types[0].nonzero()[-1]) + 1
        missing = int(positions[:, :, :end].max()) + 1 - int(positions[0, 0, end])
        positions[:, :, end:] += missing
        return positions

    return {"input_ids": ids, **own, "find_positions": find_positions}


def _build_qwen2_vl() -> Tiny:
    tokenizer = build_tokenizer(QWEN_TOKENS, **QWEN_NAMES)
    config = transformers.Qwen2VLConfig(
        text_config={"vocab_size": len(tokenizer), "rope_parameters": dict(MROPE), **TEXT},
        vision_config={
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 64,
            "num_heads": 4,
            "mlp_ratio": 2,
            "patch_size": 14,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
        },
        **qwen_ids(tokenizer),
    )
    model = transformers.Qwen2VLForConditionalGeneration(config)
    processor = transformers.Qwen2VLImageProcessorPil()
    return Tiny(
        "qwen2_vl", model, tokenizer, processor, QWEN_TEMPLATE, _own_qwen2, frame_size=(84, 56)
    )


def _build_qwen2_5_vl() -> Tiny:
    tokenizer = build_tokenizer(QWEN_TOKENS, **QWEN_NAMES)
    config = transformers.Qwen2_5_VLConfig(
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
            "tokens_per_second": 2,
        },
        **qwen_ids(tokenizer),
    )
    model = transformers.Qwen2_5_VLForConditionalGeneration(config)
    processor = transformers.Qwen2VLImageProcessorPil()
    return Tiny(
        "qwen2_5_vl", model, tokenizer, processor, QWEN_TEMPLATE, _own_qwen2, frame_size=(56, 84)
    )


def own_qwen3(tiny: Tiny, shown: Sequence[Image.Image], text: str) -> dict[str, Any]:
    """Seconds 0, 1, ... of a video whose frames are doubled; marks as up to transformers 4.57."""
    video = qwen_video(tiny, shown)
    merge = type("Merge", (), {"merge_size": 2, "temporal_patch_size": 2})()
    whole = bare(
        transformers.Qwen3VLProcessor,
        tiny.tokenizer,
        video_processor=merge,
        video_token="<|video_pad|>",
        vision_start_token="<|vision_start|>",
        vision_end_token="<|vision_end|>",
    )
    times = [second for second in range(len(shown)) for _ in range(2)]
    metadata = type("Metadata", (), {"frames_indices": times, "fps": 1})()
    filled = whole.replace_video_token({**video, "video_metadata": [metadata]}, 0)
    marked = "<|vision_start|><|video_pad|><|vision_end|>"
    assert marked in text
    ids = tokenize(tiny, text.replace(marked, filled))
    types = 2 * (ids == tiny.model.config.video_token_id).int()
    return {"input_ids": ids, **video, "mm_token_type_ids": types}


def qwen3_parts(tokenizer: Any) -> dict[str, Any]:
    return {
        "text_config": {
            "vocab_size": len(tokenizer),
            "head_dim": 16,
            "rope_parameters": {**MROPE, "mrope_interleaved": True},
            **TEXT,
        },
        "vision_config": {
            "depth": 3,
            "hidden_size": 32,
            "out_hidden_size": 64,
            "num_heads": 4,
            "intermediate_size": 64,
            "patch_size": 16,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1, 2],
        },
        **qwen_ids(tokenizer),
    }


def _build_qwen3_vl() -> Tiny:
    tokenizer = build_tokenizer(QWEN_TOKENS, **QWEN_NAMES)
    config = transformers.Qwen3VLConfig(**qwen3_parts(tokenizer))
    model = transformers.Qwen3VLForConditionalGeneration(config)
    processor = transformers.Qwen2VLImageProcessorPil(patch_size=16)
    return Tiny(
        "qwen3_vl", model, tokenizer, processor, QWEN_TEMPLATE, own_qwen3, frame_size=(96, 64)
    )


def _build_qwen3_vl_moe() -> Tiny:
    tokenizer = build_tokenizer(QWEN_TOKENS, **QWEN_NAMES)
    parts = qwen3_parts(tokenizer)
    experts = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}
    parts["text_config"] |= experts
    model = transformers.Qwen3VLMoeForConditionalGeneration(transformers.Qwen3VLMoeConfig(**parts))
    processor = transformers.Qwen2VLImageProcessorPil(patch_size=16)
    return Tiny(
        "qwen3_vl_moe", model, tokenizer, processor, QWEN_TEMPLATE, own_qwen3, frame_size=(64, 64)
    )


def _build_glm4v() -> Tiny:
    tokens = [
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
    tokenizer = build_tokenizer(tokens, image_token="<|image|>", video_token="<|video|>")
    ids = dict(zip(tokens, tokenizer.convert_tokens_to_ids(tokens), strict=True))
    rope = {**MROPE, "partial_rotary_factor": 1.0}
    config = transformers.Glm4vConfig(
        text_config={"vocab_size": len(tokenizer), "rope_parameters": rope, **TEXT},
        vision_config={
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
        image_token_id=ids["<|image|>"],
        video_token_id=ids["<|video|>"],
        image_start_token_id=ids["<|begin_of_image|>"],
        image_end_token_id=ids["<|end_of_image|>"],
        video_start_token_id=ids["<|begin_of_video|>"],
        video_end_token_id=ids["<|end_of_video|>"],
    )

    def own(tiny: Tiny, shown: Sequence[Image.Image], text: str) -> dict[str, Any]:
        video = qwen_video(tiny, shown)
        merge = type("Merge", (), {"merge_size": 2})()
        whole = bare(
            transformers.Glm4vProcessor,
            tiny.tokenizer,
            video_processor=merge,
            image_token="<|image|>",
            video_token="<|video|>",
            image_token_id=ids["<|image|>"],
            video_start_id=ids["<|begin_of_video|>"],
            video_end_id=ids["<|end_of_video|>"],
        )
        times = [second / 2 for second in range(2 * len(shown))]
        metadata = type("Metadata", (), {"timestamps": times, "fps": 2})()
        filled = whole.replace_video_token({**video, "video_metadata": [metadata]}, 0)
        read = tokenize(tiny, text.replace("<|video|>", filled))
        types = torch.tensor(whole.create_mm_token_type_ids(read.tolist()))
        return {"input_ids": read, **video, "mm_token_type_ids": types}

    model = transformers.Glm4vForConditionalGeneration(config)
    processor = transformers.Glm4vImageProcessorPil()
    return Tiny("glm4v", model, tokenizer, processor, GLM, own, frame_size=(84, 56))


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
        pixels = stretched(tiny.image_processor, shown, 56)
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
        pixels = stretched(tiny.image_processor, shown, 56)[None]
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
        text_config={
            "vocab_size": len(tokenizer),
            "head_dim": 16,
            "sliding_window": 10,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            **TEXT,
        },
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
    "qwen2_vl": _build_qwen2_vl,
    "qwen2_5_vl": _build_qwen2_5_vl,
    "qwen3_vl": _build_qwen3_vl,
    "qwen3_vl_moe": _build_qwen3_vl_moe,
    "glm4v": _build_glm4v,
    "internvl": _build_internvl,
    "idefics3": _build_idefics3,
    "smolvlm": _build_smolvlm,
    "gemma3": _build_gemma3,
}

from image_families import IMAGE_BUILDERS  # noqa: E402 - it is made of what stands above
from qwen_families import QWEN_BUILDERS  # noqa: E402

BUILDERS |= {**QWEN_BUILDERS, **IMAGE_BUILDERS}
