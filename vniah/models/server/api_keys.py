"""The key of a server: read from the environment, sent to the server, and never written."""

import os
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from vniah.errors import InputError
from vniah.models.server.key_search import PART_LENGTH, KeySearch

DEFAULT_KEY_VARIABLE = "OPENAI_API_KEY"

# Sent to local servers, which need a header and ignore its content.
_PLACEHOLDER = "none"
_HIDDEN = "[key]"

# Some servers show the beginning of a key that they refuse, or mask all but some characters. An
# answer may hold so few by chance: "**red**".
_SHOWN_LENGTH = 6
_LEAST_MASKED = 3

_LEAST_LONG_LENGTH = 16

# What belongs to a part of a key that was found: the rest of it, or what masks the rest.
_BEHIND = re.compile(r"[\w*.+/=-]*")
_BEFORE = re.compile(r"[\w*+-]")


@dataclass(frozen=True)
class ApiKey:
    """A key and the variable that holds it; only `value` shows it, and ``repr`` does not.

    A key of less than 8 characters, such as EMPTY, is a placeholder for servers that want none.

    Attributes:
        variable: the environment variable.
        value: what is sent; a placeholder if the variable is not set.
        is_set: True if the variable is set.
    """

    variable: str
    value: str = field(repr=False)
    is_set: bool

    @classmethod
    def read(cls, variable: str | None) -> "ApiKey":
        """The key in an environment variable.

        Args:
            variable: its name; by default OPENAI_API_KEY, which need not be set.

        Raises:
            InputError: the given variable is not set, or its value cannot be a key.
        """
        name = DEFAULT_KEY_VARIABLE if variable is None else variable
        value = os.environ.get(name, "").strip() if "\0" not in name else ""
        if not value:
            if variable is None:
                return cls(name, _PLACEHOLDER, is_set=False)
            if re.fullmatch(r"[A-Z][A-Z0-9_]*", variable):
                raise InputError(f"the environment variable {variable} holds no key: set it")
            raise InputError(  # without the text, which may be the key itself
                "--api-key-env takes the name of an environment variable that holds the key, and "
                "there is no variable of the given name"
            )
        if not value.isascii() or not value.isprintable() or " " in value:
            raise InputError(
                f"the environment variable {name} holds something that cannot be a key: it has "
                "white space or characters beyond ASCII in it"
            )
        return cls(name, value, is_set=True)

    @property
    def is_long(self) -> bool:
        """False for keys such as lm-studio, which name a program and are no secret."""
        return len(self.value) >= _LEAST_LONG_LENGTH

    @cached_property
    def _search(self) -> KeySearch | None:
        is_secret = self.is_set and len(self.value) >= PART_LENGTH
        return KeySearch(self.value) if is_secret else None

    def hide(self, text: str) -> str:
        """A message without the key, its parts, and words that begin like it."""
        if not self.is_set:
            return text
        text = self._hide_parts(text, _LEAST_MASKED)
        if self._search is None:
            return re.sub(rf"(?<!\w){re.escape(self.value)}(?!\w)", _HIDDEN, text)
        return re.sub(re.escape(self.value[:_SHOWN_LENGTH]) + _BEHIND.pattern, _HIDDEN, text)

    def hide_in_answer(self, text: str) -> str:
        """A model's answer without the key and its parts; a placeholder may be there by chance."""
        return self._hide_parts(text, PART_LENGTH)

    def _hide_parts(self, text: str, least_masked: int) -> str:
        if self._search is None:
            return text
        shown, done = [], 0
        for start, end in self._search.spans(text, least_shown=least_masked):
            if end <= done:
                continue
            while start > done and _BEFORE.fullmatch(text[start - 1]):
                start -= 1
            behind = _BEHIND.match(text, end)
            assert behind is not None
            shown += [text[done:start], _HIDDEN]
            done = behind.end()
        return "".join((*shown, text[done:]))

    def hide_in_json(self, value: Any) -> Any:
        """A JSON value with the key hidden in all its texts, as in an answer."""
        if isinstance(value, str):
            return self.hide_in_answer(value)
        if isinstance(value, list):
            return [self.hide_in_json(item) for item in value]
        if isinstance(value, dict):
            return {name: self.hide_in_json(item) for name, item in value.items()}
        return value
