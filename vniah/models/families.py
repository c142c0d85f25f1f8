"""Which checkpoints vniah loads: one row for every ``model_type`` of a config.json.

This is data only, so that it can be listed without loading torch. The class named in a row says how
a frame is encoded, which text stands around the frames, and which positions the rows have.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_LLAVA = "llava.model:LlavaModel"
_LLAVA_FRAME = "one picture, patches pooled"
_LLAVA_TOKENS = "144; 169 to 210"
_POOLED = "one video frame, patches pooled two by two"
_GROUP = "one group of two equal video frames, one second"
_TEXT = "huggingface.text:TextModel"
_TEXT_FRAME = "none: it reads text"
_GROUP_WITH_TIME = f"{_GROUP}, with its timestamp"


@dataclass(frozen=True)
class Family:
    """The checkpoints with one ``model_type``.

    Attributes:
        model_type: as config.json says it.
        class_name: module and class in `vniah.models`; the class loads a folder by its ``load``.
        frame_unit: what one frame of the haystack is to the model.
        tokens: tokens of a frame in the published checkpoints, without the text around it.
        sharing: which samples may share computation: ``"tree"`` for common prefixes, ``"none"`` if
            every sample runs by itself.
        has_decoder: whether vniah runs the decoder layer by layer, which the tree and
            ``--context-parallel`` need.
    """

    model_type: str
    class_name: str
    frame_unit: str
    tokens: str
    sharing: str = "tree"
    has_decoder: bool = True

    def import_class(self) -> Any:
        """The class that loads and runs these checkpoints."""
        module, _, name = self.class_name.partition(":")
        return getattr(importlib.import_module(f"vniah.models.{module}"), name)


_ROWS = (
    # The original layout of the LLaVA authors.
    Family("llava_qwen", _LLAVA, _LLAVA_FRAME, _LLAVA_TOKENS),
    Family("llava_mistral", _LLAVA, _LLAVA_FRAME, _LLAVA_TOKENS),
    Family("llava_llama", _LLAVA, _LLAVA_FRAME, _LLAVA_TOKENS),
    # The layout of transformers.
    Family("llava", "huggingface.llava:Llava", "one image, all patches", "576"),
    Family("llava_next_video", "huggingface.llava:LlavaNextVideo", _POOLED, "144"),
    Family(
        "llava_onevision",
        "huggingface.llava:LlavaOnevision",
        f"{_POOLED}; one newline row after the last",
        "196",
    ),
    Family(
        "video_llava",
        "huggingface.llava:VideoLlava",
        "one video frame, all patches and the class token",
        "257",
    ),
    Family("qwen2_vl", "huggingface.qwen:Qwen2VL", _GROUP, "196"),
    Family("qwen2_5_vl", "huggingface.qwen:Qwen25VL", _GROUP, "196"),
    Family("qwen3_vl", "huggingface.qwen:Qwen3VL", _GROUP_WITH_TIME, "144"),
    Family("qwen3_vl_moe", "huggingface.qwen:Qwen3VLMoe", _GROUP_WITH_TIME, "144"),
    Family("glm4v", "huggingface.qwen:Glm4v", _GROUP_WITH_TIME, "196"),
    Family(
        "internvl",
        "huggingface.internvl:InternVL",
        "one video frame, one tile, with its number",
        "256",
    ),
    Family(
        "mistral3",
        "huggingface.mistral:Mistral3",
        "one image, with a row that ends each of its lines",
        "210",
    ),
    Family("idefics3", "huggingface.idefics:Idefics3", "one image, not split", "169"),
    Family(
        "smolvlm",
        "huggingface.idefics:SmolVLM",
        "one video frame, not split, with its time",
        "64 to 81",
        sharing="tree, among equal numbers of frames",
    ),
    Family(
        "gemma3",
        "huggingface.gemma:Gemma3",
        "one image, not panned",
        "256",
    ),
    Family(
        "gemma4",
        "huggingface.gemma4:Gemma4",
        "one video frame, with its time",
        "64",
    ),
    Family(
        "aya_vision",
        "huggingface.cohere:AyaVision",
        "one image, one tile",
        "169",
    ),
    Family(
        "cohere2_vision",
        "huggingface.cohere:Cohere2Vision",
        "one image, one tile",
        "256",
    ),
    Family(
        "ovis2",
        "huggingface.ovis:Ovis2",
        "one image, one tile, with rows of visual indicators",
        "259",
    ),
    Family(
        "video_llama_3",
        "huggingface.video_llama:VideoLlama3",
        "one video frame, not compressed, with its time",
        "196",
    ),
    Family(
        "llama4",
        "huggingface.llama:Llama4",
        "one image, one tile, in its own shape",
        "144",
    ),
    Family(
        "kimi_k25",
        "huggingface.kimi:KimiK25",
        "one group of four equal video frames, one second, with its time",
        "196",
    ),
    # Language models without a vision tower.
    Family("llama", _TEXT, _TEXT_FRAME, "0"),
    Family("mistral", _TEXT, _TEXT_FRAME, "0"),
    Family("qwen2", _TEXT, _TEXT_FRAME, "0"),
    Family("qwen3", _TEXT, _TEXT_FRAME, "0"),
)

REFUSED: Mapping[str, str] = {
    "gemma4_unified": (
        "in the forward pass transformers builds other masks for its images than to generate, so "
        "that there is no one right answer to compare with"
    ),
}
"""Why vniah has no class for a ``model_type`` that looks like one that it has."""

FAMILIES: Mapping[str, Family] = {family.model_type: family for family in _ROWS}
LLAVA_TYPES = tuple(name for name, family in FAMILIES.items() if family.class_name == _LLAVA)
"""The types of the original LLaVA layout."""

# Some checkpoints of the original layout say "llava", as those of transformers' own layout do.
_TYPE_OF_ARCHITECTURE = {
    "LlavaQwenForCausalLM": "llava_qwen",
    "LlavaMistralForCausalLM": "llava_mistral",
    "LlavaLlamaForCausalLM": "llava_llama",
}


def llava_type(raw: Mapping[str, Any]) -> str | None:
    """Which of `LLAVA_TYPES` a config.json describes; None if it is another kind of model."""
    model_type = raw.get("model_type")
    if model_type == "llava":
        architectures = raw.get("architectures") or [None]
        return _TYPE_OF_ARCHITECTURE.get(str(architectures[0]))
    return model_type if model_type in LLAVA_TYPES else None


def find_family(raw: Mapping[str, Any]) -> Family | None:
    """The family that a config.json describes; None if vniah has no class for it."""
    name = llava_type(raw) or raw.get("model_type")
    return FAMILIES.get(name) if isinstance(name, str) else None
