"""Texts from outside in Markdown."""

import re

from vniah.errors import printable


def escape_markdown(text: str) -> str:
    r"""The text in one line, shown by Markdown as it stands: ``"a\|b\_c"``."""
    text = re.sub(r"([\\`*_{}\[\]<>#|~&$])", r"\\\1", printable(text))
    text = re.sub(r"^([-+=])", r"\\\1", text)  # a list, or a heading
    return re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", text)
