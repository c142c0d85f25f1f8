"""Which checkpoints vniah loads: one row for every ``model_type`` of a config.json.

This is data only, so that it can be listed without loading torch. The class named in a row says how
a frame is encoded, which text stands around the frames, and which positions the rows have.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

_LLAVA = "llava.model:LlavaModel"
_LLAVA_FRAME = "one picture, patches pooled"
_LLAVA_TOKENS = "144; 169 to 210"
_POOLED = "one video frame, patches pooled two by two"
_GROUP = "one group of two equal video frames, one second"
_TEXT = "huggingface.text:TextModel"
_TEXT_FRAME = "none: it reads text"
_GROUP_WITH_TIME = f"{_GROUP}, with its timestamp"
_INTO_THE_VIDEO = (
    "transformers 5 gives the text after a video positions inside of the video's own; here they "
    "come behind it, as the authors describe it and transformers 4.57 has it"
)
_MARKS_TWICE = (
    "the processor of transformers 5.23 writes vision_start and vision_end around the video and "
    "around every frame; here, as in that of the authors, they are around frames only"
)
_WITHOUT_MASK = (
    "without an attention mask, transformers' forward gives the rows of frames positions of text; "
    "generate and vniah give one"
)

_LOGIT_SCALE = (
    "the class of transformers 5.23 for the whole model leaves out logit_scale, by which that of "
    "the language model alone multiplies its logits, and so does vniah"
)


@runtime_checkable
class HasFamily(Protocol):
    """A model of one of the families.

    Attributes:
        family: its row of the table.
    """

    family: "Family"


VERIFIED_WITH = "5.23.0"
"""The version of transformers with whose forward passes the tests compare all families."""


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
        layers: the kinds of layer of its decoder in the published checkpoints.
        one_pass: whether ``--share one-pass`` can be asked for.
        rope: in which layers ``--rope-theta`` and ``--rope-scaling`` change something.
        note: where an answer of transformers is known to differ from what the authors of the model
            describe, or from what vniah gives it; empty if nothing is known.
    """

    model_type: str
    class_name: str
    frame_unit: str
    tokens: str
    sharing: str = "tree"
    has_decoder: bool = True
    layers: str = "full"
    one_pass: bool = True
    rope: str = "all"
    note: str = ""

    @property
    def runs_in_ring(self) -> bool:
        """Whether several processes can run a pass together: ``--context-parallel``."""
        return self.has_decoder and self.layers == "full"

    def import_class(self) -> Any:
        """The class that loads and runs these checkpoints."""
        module, _, name = self.class_name.partition(":")
        return getattr(importlib.import_module(f"vniah.models.{module}"), name)


def _text(model_type: str, layers: str, *, one_pass: bool = False, rope: str = "all") -> Family:
    """A language model without a vision tower."""
    return Family(model_type, _TEXT, _TEXT_FRAME, "0", layers=layers, one_pass=one_pass, rope=rope)


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
    Family("qwen2_vl", "huggingface.qwen:Qwen2VL", _GROUP, "196", note=_INTO_THE_VIDEO),
    Family("qwen2_5_vl", "huggingface.qwen:Qwen25VL", _GROUP, "196", note=_INTO_THE_VIDEO),
    Family("qwen3_vl", "huggingface.qwen:Qwen3VL", _GROUP_WITH_TIME, "144", note=_MARKS_TWICE),
    Family(
        "qwen3_vl_moe",
        "huggingface.qwen:Qwen3VLMoe",
        _GROUP_WITH_TIME,
        "144",
        note=_MARKS_TWICE,
    ),
    Family(
        "qwen3_5",
        "huggingface.qwen:Qwen35",
        _GROUP_WITH_TIME,
        "144",
        layers="gated delta, full",
        one_pass=False,
        note=_MARKS_TWICE,
    ),
    Family(
        "qwen3_5_moe",
        "huggingface.qwen:Qwen35Moe",
        _GROUP_WITH_TIME,
        "144",
        layers="gated delta, full",
        one_pass=False,
        note=_MARKS_TWICE,
    ),
    Family(
        "minicpmv4_6",
        "huggingface.minicpm:MiniCPMV46",
        "one video frame, not cut into slices",
        "64",
        layers="gated delta, full",
        one_pass=False,
        note="the processor of transformers 5.23 cuts large frames into slices and writes the "
        "number of an image before a video, unless it is told not to, as the authors do; here "
        "it is neither",
    ),
    Family(
        "qwen2_5_omni",
        "huggingface.omni:Qwen25Omni",
        _GROUP,
        "196",
        one_pass=False,
        note=_WITHOUT_MASK,
    ),
    Family(
        "qwen2_5_omni_thinker",
        "huggingface.omni:Qwen25Omni",
        _GROUP,
        "196",
        one_pass=False,
        note=_WITHOUT_MASK,
    ),
    Family(
        "qwen3_omni_moe",
        "huggingface.omni:Qwen3OmniMoe",
        _GROUP,
        "144",
        one_pass=False,
        note=_WITHOUT_MASK,
    ),
    Family(
        "qwen3_omni_moe_thinker",
        "huggingface.omni:Qwen3OmniMoe",
        _GROUP,
        "144",
        one_pass=False,
        note=_WITHOUT_MASK,
    ),
    Family(
        "exaone4_5",
        "huggingface.exaone:Exaone45",
        _GROUP,
        "196",
        layers="sliding, full",
        one_pass=False,
        rope="sliding",
    ),
    Family("glm4v", "huggingface.glm:Glm4v", _GROUP_WITH_TIME, "196", one_pass=False),
    Family("glm4v_moe", "huggingface.glm:Glm4vMoe", _GROUP_WITH_TIME, "196", one_pass=False),
    Family("glm46v", "huggingface.glm:Glm46V", _GROUP_WITH_TIME, "196", one_pass=False),
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
        note="this is said of its decoder mistral; over ministral3 there is no --share one-pass, "
        "and over mistral4, which has latent attention, no --context-parallel either",
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
        layers="sliding, full; images see themselves",
        one_pass=False,
        rope="full",
    ),
    Family(
        "gemma4",
        "huggingface.gemma4:Gemma4",
        "one video frame, with its time",
        "64",
        layers="sliding, full; images see themselves",
        one_pass=False,
        rope="full",
    ),
    Family(
        "aya_vision",
        "huggingface.cohere:AyaVision",
        "one image, one tile",
        "169",
        note=_LOGIT_SCALE,
        layers="sliding, full",
        one_pass=False,
        rope="sliding",
    ),
    Family(
        "cohere2_vision",
        "huggingface.cohere:Cohere2Vision",
        "one image, one tile",
        "256",
        note=_LOGIT_SCALE,
        layers="sliding, full",
        one_pass=False,
        rope="sliding",
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
        note="its processor leaves out patches that look as in the frame before; here all are "
        "kept, so that a frame is the same whatever stands before it",
    ),
    Family(
        "llama4",
        "huggingface.llama:Llama4",
        "one image, one tile, in its own shape",
        "144",
        layers="chunked, full",
        one_pass=False,
        rope="chunked",
    ),
    Family(
        "kimi_k25",
        "huggingface.kimi:KimiK25",
        "one group of four equal video frames, one second, with its time",
        "196",
        note="get_video_features of transformers 5.23 fails for groups of several frames; here "
        "tower and projector are called by themselves",
        layers="latent",
        one_pass=False,
    ),
    # Language models without a vision tower.
    _text("llama", "full", one_pass=True),
    _text("mistral", "full", one_pass=True),
    _text("qwen2", "full", one_pass=True),
    _text("qwen3", "full", one_pass=True),
    _text("cohere2", "sliding, full", rope="sliding"),
    _text("deepseek_v3", "latent"),
    _text("exaone4", "sliding, full", rope="sliding"),
    _text("gemma3_text", "sliding, full", rope="full"),
    _text("gpt_oss", "sliding, full"),
    _text("lfm2", "short convolution, full"),
    _text("ministral3", "full"),
    _text("nemotron_h", "Mamba-2, full, feed-forward", rope="none"),
    _text("qwen3_5_text", "gated delta, full"),
)

FAMILIES: Mapping[str, Family] = {family.model_type: family for family in _ROWS}
LLAVA_TYPES = tuple(name for name, family in FAMILIES.items() if family.class_name == _LLAVA)
"""The types of the original LLaVA layout."""

_SPARSE = "its layers attend to the keys that an index chooses, for each row others"
_CROSS = "its layers attend to an encoder's rows, which are no part of the sequence"
UNREADABLE: Mapping[str, str] = {
    **dict.fromkeys(("dots3_note", "glm5_next", "minimax_m3_vl", "mistral_large4"), _SPARSE),
    **dict.fromkeys(("mllama", "florence2", "pix2struct", "udop", "t5gemma2"), _CROSS),
    "molmo2": "all frames of a prompt attend to one another, so that no two prompts share a prefix",
    "paligemma": "all tokens of a prompt attend to one another, so that no two share a prefix",
    **dict.fromkeys(
        ("inkling2", "inkling_mm_model"), "its attention adds a bias that depends on the positions"
    ),
    "gemma3n": "its layers mix several streams of rows, and share keys with earlier layers",
    "gemma4_unified": "transformers 5.23 builds one mask for images in its forward pass, and "
    "another when it generates",
}
"""Types of image-text models of transformers 5.23 that are refused, and why."""

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
