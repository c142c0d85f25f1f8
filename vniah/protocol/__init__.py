"""What tasks, models and engines agree on: segments, sequences of them, and kinds of model."""

from vniah.protocol.models import (
    AnyModel,
    ChatModel,
    DecoderModel,
    EncodingModel,
    VisionLanguageModel,
    class_path,
    class_record,
    needed_form,
    require_protocol,
)
from vniah.protocol.segments import (
    HAYSTACK,
    Frames,
    FrameSegment,
    FrameSpan,
    Piece,
    Segment,
    TextSegment,
    TokenSequence,
    blended_source,
    joined,
    needle_source,
)

__all__ = [
    "HAYSTACK",
    "AnyModel",
    "ChatModel",
    "DecoderModel",
    "EncodingModel",
    "FrameSegment",
    "FrameSpan",
    "Frames",
    "Piece",
    "Segment",
    "TextSegment",
    "TokenSequence",
    "VisionLanguageModel",
    "blended_source",
    "class_path",
    "class_record",
    "joined",
    "needed_form",
    "needle_source",
    "require_protocol",
]
