"""The key of a server: read from the environment, sent to the server, and never written."""

import os
import re
from dataclasses import dataclass, field

from vniah.errors import InputError

DEFAULT_KEY_VARIABLE = "OPENAI_API_KEY"

# Sent to local servers, which need a header and ignore its content.
_PLACEHOLDER = "none"
_HIDDEN = "[key]"

# A shorter key, such as EMPTY, is a placeholder too, and may occur in an answer by chance.
_LEAST_SECRET_LENGTH = 8

# Some servers show the beginning of a key that they refuse.
_SHOWN_LENGTH = 6


@dataclass(frozen=True)
class ApiKey:
    """A key and the variable that holds it; only `value` shows it, and ``repr`` does not.

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
        name = variable or DEFAULT_KEY_VARIABLE
        value = os.environ.get(name, "").strip()
        if not value:
            if variable is not None:
                raise InputError(f"the environment variable {variable} holds no key: set it")
            return cls(name, _PLACEHOLDER, is_set=False)
        if not value.isascii() or not value.isprintable() or " " in value:
            raise InputError(
                f"the environment variable {name} holds something that cannot be a key: it has "
                "white space or characters beyond ASCII in it"
            )
        return cls(name, value, is_set=True)

    def hide(self, text: str) -> str:
        """The text without the key and without anything that begins like it."""
        if not self.is_set:
            return text
        text = text.replace(self.value, _HIDDEN)
        if len(self.value) < _LEAST_SECRET_LENGTH:
            return text
        return re.sub(re.escape(self.value[:_SHOWN_LENGTH]) + r"[\w*.+/=-]*", _HIDDEN, text)

    def hide_in_answer(self, text: str) -> str:
        """The same for a model's answer, which may hold a short placeholder by chance."""
        return self.hide(text) if len(self.value) >= _LEAST_SECRET_LENGTH else text
