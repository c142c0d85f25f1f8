"""Text from outside in HTML: visible, in its place, and never markup.

Jinja escapes what a template inserts. What it does not know is here: characters that cannot be
seen, and data for the page's script.
"""

import re
from base64 import b64encode
from hashlib import sha256
from typing import Any

from vniah.errors import printable
from vniah.files import to_json

_RTL = "\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff"
_RIGHT_TO_LEFT = re.compile(f"[{_RTL}](?:[{_RTL} ,.!?-]*[{_RTL}])?")
"""Words in the scripts of Unicode's blocks for right to left, and what joins them."""

_IN_SCRIPTS = re.compile("[<>&\u2028\u2029]")


def visible_text(text: str, most: int | None = None) -> str:
    r"""The text with its line ends, and every other character that cannot be seen as an escape.

    Marks that turn the order of letters around are such characters: ``"\u202e"``.

    Args:
        text: from anywhere.
        most: the most characters of it; of a longer one the beginning is kept, and how many are
            left out is said behind it. None keeps all.
    """
    left_out = 0 if most is None else len(text) - most
    if left_out > 0:
        kept = visible_text(text[:most])
        return f"{kept} \u2026 ({left_out:,} more character{'s' * (left_out != 1)})"
    return "\n".join(map(printable, text.splitlines() if "\r" in text else text.split("\n")))


def isolated(text: str) -> Any:
    """The text as markup, with each stretch that is written from right to left in a ``<bdi>``.

    For sentences, labels and paths, which are read from left to right and have names in them: else
    such a name would turn around the numbers, slashes and names beside it.
    """
    from markupsafe import Markup, escape

    shown = str(escape(visible_text(text)))
    return Markup(_RIGHT_TO_LEFT.sub(r"<bdi>\g<0></bdi>", shown))


def script_json(value: Any) -> str:
    """A value as JSON that can stand inside a ``<script>`` element, whatever its texts hold.

    ``<``, ``>`` and ``&`` are written as escapes, so neither ``</script>`` nor ``<!--`` can occur,
    and so are the line ends of Unicode.

    Raises:
        ValueError: a number is not finite.
    """
    text = to_json(value).decode()
    return _IN_SCRIPTS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def source_hash(text: str) -> str:
    """What a Content-Security-Policy calls an inline script or style: ``"'sha256-...'"``."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def data_uri(content: bytes, kind: str) -> str:
    """A file as an address, such as ``"data:image/png;base64,..."``."""
    return f"data:{kind};base64,{b64encode(content).decode()}"
