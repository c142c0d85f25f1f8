"""What a server says is wrong: the sentence, the code and the fields in the body of an error.

There is no common form. OpenAI sends ``{"error": {"message", "code", "type", "param"}}``, vLLM the
same fields without the outer one, validators ``{"detail": [{"loc", "msg"}]}``, others a text, and
proxies a page in HTML.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from vniah.files import to_json
from vniah.schema import parse_json

# More of a body that is no JSON is not looked at.
_MOST_TEXT = 30_000
_MOST_HTML = 6_000
_MOST_ITEMS = 10

# What the code or the type of an error means where it is no number.
_STATUS_OF_WORDS = (
    (429, re.compile(r"rate.?limit|too.?many|quota|billing|credit", re.I)),
    (401, re.compile(r"authentication|api.?key|unauthorized", re.I)),
    (403, re.compile(r"permission|forbidden", re.I)),
    (404, re.compile(r"not.?found", re.I)),
    (400, re.compile(r"invalid|bad.?request|unsupported|unknown|context|too.?large", re.I)),
)
_UNKNOWN_STATUS = 500


@dataclass(frozen=True)
class Complaint:
    """What a server says is wrong.

    Attributes:
        text: a sentence.
        code: numbers and names of the kind of error; empty if there are none.
        fields: as `Refused`.
    """

    text: str
    code: str = ""
    fields: tuple[str, ...] = ()


def any_json(body: bytes) -> Any:
    """What the body of an error holds: JSON, or text."""
    try:
        return parse_json(body, cast("type[Any]", Any), ValueError, "")
    except ValueError:
        return plain_text(body)


def plain_text(body: bytes) -> str:
    """The text of a body that is no JSON; of a page in HTML, what a reader would see."""
    text = body[:_MOST_TEXT].decode("utf-8", "replace")
    if not text.lstrip().startswith("<"):
        return text
    text = re.sub(r"(?is)<(script|style)\b.*?</\1>", " ", text[:_MOST_HTML])
    return f"a page in HTML: {' '.join(re.sub(r'<[^<>]*>', ' ', text).split())}"


def read_complaint(content: Any) -> Complaint:
    """What is wrong, by the content of an error; servers put it into different places."""
    if isinstance(content, str):
        return Complaint(content.strip() or "no reason is given")
    if isinstance(content, list):
        found = [read_complaint(item) for item in content[:_MOST_ITEMS]]
        texts = "; ".join(one.text for one in found)
        return Complaint(texts, "", tuple(name for one in found for name in one.fields))
    if not isinstance(content, Mapping):
        return Complaint("no reason is given" if content is None else str(content))
    code = " ".join(str(v) for k in ("code", "type", "status") if (v := content.get(k)) is not None)
    fields = [content.get("param"), *_last(content.get("loc"))]
    names = tuple(name for name in fields if isinstance(name, str) and name)
    inner = next((v for k in ("error", "message", "detail", "msg") if (v := content.get(k))), None)
    if inner is None:
        return Complaint(to_json(content).decode("utf-8"), code, names)
    said = read_complaint(inner)
    text = f"{names[-1]}: {said.text}" if "loc" in content and names else said.text
    return Complaint(text, said.code or code, (*names, *said.fields))


def _last(place: object) -> list[Any]:
    """The field at the end of a path such as ``["body", "seed"]``."""
    return place[-1:] if isinstance(place, list) else []


def status_of(code: str) -> int:
    """The HTTP status that an error's code means; 500, which is tried again, if it is unknown."""
    if number := re.search(r"(?<!\w)[45]\d\d(?!\w)", code):
        return int(number[0])
    return next(
        (status for status, words in _STATUS_OF_WORDS if words.search(code)), _UNKNOWN_STATUS
    )
