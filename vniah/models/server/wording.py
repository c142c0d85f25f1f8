"""The fields of a request that not every server takes, in the words that a server knows.

A server refuses such a field by HTTP 400 or 422, and says which. The request is then put in other
words, once for each field, and all later requests are sent so.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_SEED = 0
_LIMITS = ("max_tokens", "max_completion_tokens")

# A sentence that complains of a field. One that only shows the request names all of them.
_COMPLAINT = re.compile(
    r"unsupport|n[o']t support|unknown|unrecogni|unexpected|extra|not permitted|not allowed|invalid"
    r"|not accept|not valid|only|must|should|cannot|can't|deprecated|removed|instead"
    r"|has to|positive|\buse ",
    re.IGNORECASE,
)
_NEAR = 80

# A prompt that is too long is refused with the names of the limits, and is no matter of words.
_SIZE = re.compile(
    r"context|length|exceed|too (?:large|long|many|big|high)|(?:at|the) most|less than|maximum"
    r"|greater|between|larger",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Wording:
    """Fields of a request besides the model and the messages.

    Attributes:
        fields: their values.
        refused: the names of fields that the server has refused.
    """

    fields: Mapping[str, int]
    refused: tuple[str, ...] = ()

    @classmethod
    def first(cls, max_tokens: int) -> "Wording":
        """What most servers take: greedy decoding, and the most tokens of an answer."""
        return cls({"max_tokens": max_tokens, "temperature": 0, "seed": _SEED})

    @property
    def temperature(self) -> int | None:
        """What is asked for; None leaves it to the server."""
        return self.fields.get("temperature")

    def reworded(self, reason: str, named: Sequence[str] = ()) -> "Wording | None":
        """The wording for a server that refused this one; None if other words would not help.

        Args:
            reason: what the server said.
            named: the fields that it complains of, where it names them apart from the sentence.
        """

        def is_refused(name: str) -> bool:
            return name in named if named else _complains(reason, name)

        fields, refused = dict(self.fields), list[str]()
        for name in ("temperature", "seed"):
            if name in fields and is_refused(name):
                del fields[name]
                refused.append(name)
        limit = next(name for name in _LIMITS if name in fields)
        (other,) = set(_LIMITS) - {limit}
        is_about_limit = is_refused(limit) or _complains(reason, other)
        if is_about_limit and not _SIZE.search(reason) and other not in self.refused:
            fields[other] = fields.pop(limit)
            refused.append(limit)
        return Wording(fields, (*self.refused, *refused)) if refused else None

    def notes(self) -> list[str]:
        """What it means for the results, in sentences for the manifest."""
        notes = []
        if "temperature" in self.refused:
            notes.append(
                "the server refuses temperature 0: its answers are sampled at a temperature of its "
                "own, and another run may get others"
            )
        if "max_tokens" in self.refused:
            notes.append("the server refuses max_tokens: it was sent as max_completion_tokens")
        if "seed" in self.refused:
            notes.append("the server refuses seed: none was sent")
        return notes


def _complains(reason: str, name: str) -> bool:
    """True if a sentence complains of this field; ``"name": value`` only shows the request."""
    for match in re.finditer(rf"(?<!\w){name}(?!\w)(?!['\"]\s*:)", reason, re.IGNORECASE):
        around = reason[max(0, match.start() - _NEAR) : match.end() + _NEAR]
        if _COMPLAINT.search(around):
            return True
    return False
