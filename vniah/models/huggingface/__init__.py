"""Checkpoints of transformers, one adapter per family, found by ``model_type`` in config.json.

An adapter says how a frame is encoded, what the prompt is around the frames, and what positions
rows have; all else is common (`base`).
"""

import importlib
from collections.abc import Mapping

FAMILIES: Mapping[str, str] = {
    "llava": "llava:Llava",
    "llava_next_video": "llava:LlavaNextVideo",
    "llava_onevision": "llava:LlavaOnevision",
    "video_llava": "llava:VideoLlava",
    "qwen2_vl": "qwen:Qwen2VL",
    "qwen2_5_vl": "qwen:Qwen25VL",
    "qwen3_vl": "qwen:Qwen3VL",
    "qwen3_vl_moe": "qwen:Qwen3VLMoe",
    "glm4v": "qwen:Glm4v",
    "internvl": "internvl:InternVL",
    "idefics3": "idefics:Idefics3",
    "smolvlm": "idefics:SmolVLM",
    "gemma3": "gemma:Gemma3",
}
"""The adapter of every ``model_type``, as module and class in this room."""


def find_family(model_type: str) -> type:
    """The adapter class of a ``model_type`` that `FAMILIES` has."""
    module, _, name = FAMILIES[model_type].partition(":")
    found: type = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    return found
