"""What tasks, models and engines agree on: segments, sequences of them, and kinds of model."""

from vniah.protocol.models import (
    AnyModel,
    ChatModel,
    DecoderModel,
    EncodingModel,
    VisionLanguageModel,
    class_path,
    class_record,
    require_protocol,
)
from vniah.protocol.segments import (
    Frames,
    FrameSegment,
    FrameSpan,
    Piece,
    Segment,
    TextSegment,
    TokenSequence,
    joined,
)

__all__ = [
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
    "class_path",
    "class_record",
    "joined",
    "require_protocol",
]
