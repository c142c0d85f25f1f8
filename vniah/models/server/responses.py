"""Parses the responses of a server: a reply, a failure to be retried, or one of two errors.

a text                                               `Reply`
no response, 408, 409, 429, 5xx, a reply without text    `TryAgain`: sent again after a while
400, 413, 422 and the like, no text within the limit     `ModelError`: this question fails
401, 403, 404, no money left                             `ServerError`: the run stops
"""

import email.utils
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vniah.errors import ModelError, ServerError, VniahError
from vniah.models.server.api_keys import ApiKey

if TYPE_CHECKING:
    import openai

_MAX_TEXT = 300
_TRANSIENT = (408, 409, 429)


@dataclass(frozen=True)
class Reply:
    """A server's answer.

    Attributes:
        text: the text that the model wrote.
        prompt_tokens: how many tokens the server read, if it says so.
        seconds: from the request to the answer.
    """

    text: str
    prompt_tokens: int | None = None
    seconds: float = 0.0


class TryAgain(Exception):
    """The request failed, but may succeed if it is sent again.

    Args:
        error: what to raise if it is not sent again.
        retry_after_seconds: how long to wait before, if the server says so.
    """

    def __init__(self, error: VniahError, retry_after_seconds: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.retry_after_seconds = retry_after_seconds


class Refused(Exception):
    """The server rejected the request (HTTP 400 or 422).

    Args:
        error: what to raise if the request cannot be changed.
        text: the server's reason.
    """

    def __init__(self, error: ModelError, text: str) -> None:
        super().__init__(str(error))
        self.error = error
        self.text = text


@dataclass(frozen=True)
class ResponseParser:
    """Turns the responses of a server into replies and exceptions, none of which shows the key.

    Attributes:
        base_url: the address of the server.
        model_id: the model that requests name.
        key: the key that requests carry; it is hidden in all texts.
        timeout_seconds: how long a response may take.
    """

    base_url: str
    model_id: str
    key: ApiKey
    timeout_seconds: float

    def failure(self, error: "openai.OpenAIError") -> Exception:
        """The exception to raise for an error of the client."""
        import openai

        if isinstance(error, openai.APITimeoutError):
            return TryAgain(
                ModelError(f"no answer from {self.base_url} within {self.timeout_seconds:g} s")
            )
        if isinstance(error, openai.APIConnectionError):
            cause = error.__cause__ or error
            reason = self._line(str(cause) or type(cause).__name__)
            if type(cause).__name__ == "ConnectError":
                text = f"cannot connect to {self.base_url}: {reason}. Does the server run?"
                return TryAgain(ServerError(text))
            return TryAgain(ModelError(f"{self.base_url} broke off the connection: {reason}"))
        if isinstance(error, openai.APIStatusError):
            return self._of_status(error)
        return ModelError(f"{self.base_url} could not be asked: {self._line(str(error))}")

    def _of_status(self, error: "openai.APIStatusError") -> Exception:
        status, text = error.status_code, self._line(_reason(error))
        if status == 401:  # what servers say here often shows a part of the key
            return ServerError(
                f"{self.base_url} refuses the key in {self.key.variable} (HTTP 401)"
                if self.key.is_set
                else f"{self.base_url} wants a key (HTTP 401): set {self.key.variable}"
            )
        if status == 403:
            return ServerError(f"{self.base_url} refuses to answer (HTTP 403): {text}")
        if status == 404:
            return ServerError(
                f"{self.base_url} has no model {self.model_id!r}, or is not the address of an "
                f"API (HTTP 404): {text}"
            )
        if status == 429 and error.code == "insufficient_quota":
            return ServerError(f"{self.base_url} answers no more (HTTP 429): {text}")
        failed = ModelError(f"HTTP {status} from {self.base_url}: {text}")
        if status in _TRANSIENT or status >= 500:
            return TryAgain(failed, _retry_after(error.response.headers))
        return Refused(failed, text) if status in (400, 422) else failed

    def read(self, body: str, seconds: float) -> Reply:
        """The answer in the body of a response.

        Raises:
            TryAgain: the body holds no answer.
            ModelError: the body holds no answer, and a further request would not help.
        """
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):
            raise self._no_text(f"gave something that is no JSON: {self._line(body)!r}") from None
        content = content if isinstance(content, dict) else {}
        choices = content.get("choices")
        first = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(first, dict):
            raise self._no_text("gave no choices")
        message = first.get("message")
        words = message.get("content") if isinstance(message, dict) else None
        finish = first.get("finish_reason")
        if not words and finish == "length":
            raise ModelError(
                f"{self.model_id} used up its tokens before its first word; raise --max-tokens"
            )
        if not words and finish == "content_filter":
            raise ModelError(f"{self.base_url} held the answer back: content_filter")
        if not isinstance(words, str):
            raise self._no_text(f"gave content of type {type(words).__name__}, not text")
        return Reply(self.key.hide_in_answer(words), _prompt_tokens(content), seconds)

    def _no_text(self, what: str) -> TryAgain:
        return TryAgain(ModelError(f"{self.base_url} {what}"))

    def _line(self, text: str) -> str:
        """The text in one line of bounded length; the key is hidden before the text is cut."""
        line = " ".join(self.key.hide(text).split())
        return line if len(line) <= _MAX_TEXT else f"{line[:_MAX_TEXT]}..."


def _reason(error: "openai.APIStatusError") -> str:
    """The message of the server, without what the client adds."""
    body = error.body
    if isinstance(body, Mapping):
        message = body.get("message") or body.get("detail")
        return message if isinstance(message, str) else json.dumps(body)
    return body if isinstance(body, str) and body else error.message


def _prompt_tokens(content: Mapping[str, Any]) -> int | None:
    usage = content.get("usage")
    tokens = usage.get("prompt_tokens") if isinstance(usage, Mapping) else None
    return tokens if type(tokens) is int and tokens > 0 else None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from the header ``retry-after``: a number, or a date."""
    text = headers.get("retry-after")
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
