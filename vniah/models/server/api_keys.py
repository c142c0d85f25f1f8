"""The key of a server: read from the environment, sent to the server, and written nowhere."""

import os
import re
from dataclasses import dataclass, field

from vniah.errors import InputError

DEFAULT_KEY_VARIABLE = "OPENAI_API_KEY"

# What local servers are given: they want a header and do not look at it.
_PLACEHOLDER = "none"
_HIDDEN = "[key]"

# A shorter one, such as EMPTY, is a placeholder too, and may well be a word of an answer.
_LEAST_SECRET_LENGTH = 8

# Servers like to show the beginning of a key that they refuse.
_SHOWN_LENGTH = 6


@dataclass(frozen=True)
class ApiKey:
    """A key and where it was found; neither ``repr`` nor anything else but `value` shows it.

    Attributes:
        variable: the environment variable.
        value: what is sent; a placeholder where the variable is not set.
        is_set: whether the variable is.
    """

    variable: str
    value: str = field(repr=False)
    is_set: bool

    @classmethod
    def read(cls, variable: str | None) -> "ApiKey":
        """The key in an environment variable.

        Args:
            variable: by default OPENAI_API_KEY, which need not be set; one that is named must be.

        Raises:
            InputError: the variable that was named is not set, or its value cannot be a key.
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
        """A text without the key, and without what begins like it."""
        if not self.is_set:
            return text
        text = text.replace(self.value, _HIDDEN)
        if len(self.value) < _LEAST_SECRET_LENGTH:
            return text
        return re.sub(re.escape(self.value[:_SHOWN_LENGTH]) + r"[\w*.+/=-]*", _HIDDEN, text)

    def hide_in_answer(self, text: str) -> str:
        """The same for a model's words, which may hold a short placeholder by chance."""
        return self.hide(text) if len(self.value) >= _LEAST_SECRET_LENGTH else text
