"""The place where `vniah.protocol` was in the first version; its names are still found here."""

from vniah.protocol import (
    AnyModel,
    ChatModel,
    DecoderModel,
    EncodingModel,
    FrameSegment,
    TextSegment,
    TokenSequence,
    VisionLanguageModel,
)

__all__ = [
    "AnyModel",
    "ChatModel",
    "DecoderModel",
    "EncodingModel",
    "FrameSegment",
    "TextSegment",
    "TokenSequence",
    "VisionLanguageModel",
]
