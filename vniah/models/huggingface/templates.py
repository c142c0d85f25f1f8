"""The chat template of a checkpoint: read from its folder, and run within bounds.

A template is a program of somebody else's. transformers runs it in jinja's sandbox, which keeps it
from files and from the attributes of objects, but not from endless loops and huge texts. So its
text is looked through first, and the lines that it runs are counted: a template that takes more
than its share of steps or memory is stopped, and its checkpoint is refused. What is left is one
single operation on large values, which can take a few GB before the next line is counted.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from types import FrameType
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from vniah.errors import ModelError, first_line, quoted
from vniah.models.configs import read_beside

if sys.platform != "win32":
    import resource

_MOST_CHARACTERS = 2**20  # of a template; the longest published ones have 20,000
_MOST_STEPS = 5_000_000  # lines run; a chat of 10,000 images takes some 600,000
_MOST_BYTES = 2**30  # of memory that a process may grow by
_MOST_OUTPUT = 2**28  # characters
_LARGEST_NUMBER = 10**6
_MOST_FACTORS = 4
_DIGITS = 3  # a factor has fewer
_WIDE_FORMAT = re.compile(r"[%:][^\sA-Za-z]*\d{5}")
# What a template is told that writes today's date (Mistral, Llama). If a prompt changed from day to
# day, so would the results of a run that goes on later.
_TODAY = date(2025, 1, 1)
_DATE_CODES = "aAbBdejmyY"
_KIBIBYTE = 1 if sys.platform == "darwin" else 1024  # the unit of ru_maxrss


class _TooMuch(jinja2.TemplateError):
    """A template that was stopped."""


def read_chat_template(folder: Path, tokenizer: Any) -> str:
    """The chat template of a checkpoint folder.

    That of the processor (chat_template.jinja, or chat_template.json before there was one) is
    used; without it that of the tokenizer, which may have several by names.

    Raises:
        ModelError: there is none, there are two, or it holds what no template needs.
    """
    own = folder / "chat_template.jinja"
    beside = read_beside(folder, "chat_template.json").get("chat_template")
    if own.is_file():
        if own.stat().st_size > _MOST_CHARACTERS:
            raise ModelError(f"{own} has more than {_MOST_CHARACTERS:,} bytes: it is no template")
        try:
            template: Any = own.read_text(encoding="utf-8")
        except ValueError as error:
            raise ModelError(f"{own} is not a text in UTF-8: {first_line(error)}") from error
        if beside is not None and beside.strip() != template.strip():
            raise ModelError(
                f"{folder} has two chat templates, chat_template.jinja and chat_template.json, "
                "which differ; remove one of them"
            )
    else:
        template = beside if beside is not None else tokenizer.chat_template
    if isinstance(template, Mapping):
        template = template.get("default")
    if not isinstance(template, str):
        raise ModelError(
            f"{folder} has no chat template (chat_template.jinja, or in tokenizer_config.json)"
        )
    if reason := _find_fault(template):
        raise ModelError(f"the chat template of {folder} {reason}")
    return template


def render(tokenizer: Any, template: str, chat: Sequence[Mapping[str, Any]], *, asks: bool) -> str:
    """The text of a chat, as on 1 January 2025 where the template writes the date.

    Args:
        tokenizer: of transformers.
        template: what `read_chat_template` gave.
        chat: messages with ``role`` and ``content``.
        asks: the text ends where the assistant begins to speak.

    Raises:
        ModelError: the template cannot write this chat, or takes too long or too much memory.
    """
    watch = _Watch()
    before = sys.gettrace()
    try:
        sys.settrace(watch)
        try:
            text = tokenizer.apply_chat_template(
                chat,
                chat_template=_with_date(template),
                tokenize=False,
                add_generation_prompt=asks,
            )
        finally:
            sys.settrace(before)
    # Whatever a template does wrong is its fault: it may raise nearly everything.
    except Exception as error:
        reason = watch.reason or first_line(error)
        raise ModelError(f"the chat template cannot write a question: {reason}") from error
    text = str(text)
    if len(text) > _MOST_OUTPUT:
        raise ModelError(f"the chat template writes {len(text):,} characters for one question")
    return text


def _with_date(template: str) -> str:
    """The template, with a function ``strftime_now`` of its own if it calls one."""
    if "strftime_now" not in template:
        return template
    written = {f"%{code}": _TODAY.strftime(f"%{code}") for code in _DATE_CODES}
    text = "format" + "".join(f".replace({code!r}, {part!r})" for code, part in written.items())
    macro = f"{{%- macro strftime_now(format) -%}}{{{{ {text} }}}}{{%- endmacro %}}"
    # A line break after a block is not written, so the template begins a line as it did before.
    return f"{macro}\n{template}"


class _Watch:
    """A trace function that counts the lines that are run, and ends what takes too much.

    Attributes:
        reason: why it has ended a template; None if it has not.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._num_steps = 0
        self._peak = _peak_bytes()

    def __call__(self, frame: FrameType, event: str, arg: Any) -> "_Watch":
        self._num_steps += 1
        if self._num_steps > _MOST_STEPS:
            self._end(f"it runs more than {_MOST_STEPS:,} lines")
        if self._num_steps % 8 == 0 and _peak_bytes() > self._peak + _MOST_BYTES:
            self._end(f"it takes more than {_MOST_BYTES // 2**30} GB of memory")
        return self

    def _end(self, reason: str) -> None:
        self.reason = reason
        raise _TooMuch(reason)


def _peak_bytes() -> int:
    """The most memory that this process has had."""
    if sys.platform == "win32":
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIBIBYTE


def _find_fault(template: str) -> str | None:
    """What no chat template needs, and a single operation of which could fill the memory."""
    if len(template) > _MOST_CHARACTERS:
        return f"has more than {_MOST_CHARACTERS:,} characters"
    try:
        tokens = [
            (kind, value)
            for _, kind, value in ImmutableSandboxedEnvironment().lex(template)
            if kind != "whitespace"
        ]
    except jinja2.TemplateError as error:
        return f"cannot be read: {first_line(error)}"
    num_factors = 0
    for at, (kind, value) in enumerate(tokens):
        if kind in ("integer", "float") and _is_large(value):
            return f"holds the number {quoted(value, 30)}, which no template needs"
        if kind == "string" and _WIDE_FORMAT.search(value):
            return f"formats a text to a great width: {quoted(value, 60)}"
        if kind == "operator" and value == "**":
            return "computes a power, which no template needs"
        if kind == "operator" and value == "*":
            num_factors += 1
            beside = [v for k, v in tokens[max(0, at - 1) : at + 2] if k == "integer"]
            if num_factors > _MOST_FACTORS or not any(len(v) < _DIGITS for v in beside):
                return "multiplies, which no template needs but by a small number"
    return None


def _is_large(number: str) -> bool:
    try:
        return len(number) > 20 or float(number.replace("_", "")) > _LARGEST_NUMBER
    except ValueError:  # hexadecimal and the like
        return True
