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
