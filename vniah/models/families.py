"""Which models vniah brings, and what it can do with each: the table of ``vniah models``."""

from dataclasses import dataclass

from vniah.models.huggingface import FAMILIES, find_family
from vniah.models.huggingface.base import TransformersDecoderModel, TransformersModel

_LLAVA_TOKENS = "144; 169 to 210"


@dataclass(frozen=True)
class Family:
    """One row of the table.

    Attributes:
        model_type: in config.json, or how a model of the kind is named.
        frame: what one frame is.
        tokens: of a frame in the published checkpoints, without the text around it.
        sharing: what questions may compute together.
        has_decoder: whether vniah runs the decoder: the tree, ``--context-parallel``, offloading.
        has_rope: whether RoPE's base and scaling can be overridden.
        verified: against what its logits were compared in the tests.
    """

    model_type: str
    frame: str
    tokens: str
    sharing: str
    has_decoder: bool
    has_rope: bool
    verified: str


def list_families() -> tuple[Family, ...]:
    """All families, the original LLaVA layout first."""
    from vniah.models.llava.model import MODEL_TYPES

    original = [
        Family(
            model_type,
            "one picture, patches pooled",
            _LLAVA_TOKENS,
            "tree",
            has_decoder=True,
            has_rope=True,
            verified="the rules of the original package, written again",
        )
        for model_type in MODEL_TYPES
    ]
    others = []
    for model_type in FAMILIES:
        adapter = find_family(model_type)
        assert issubclass(adapter, TransformersModel)
        others.append(
            Family(
                model_type,
                adapter.frame_unit,
                adapter.usual_tokens,
                adapter.sharing,
                has_decoder=issubclass(adapter, TransformersDecoderModel),
                has_rope=True,
                verified="its own forward on pixels",
            )
        )
    return (*original, *others)
