r"""Wrappers: what models and their templates write around an answer without it being part of it.

| wrapper | example | what is left |
|---|---|---|
| reasoning before the answer | ``<think>3 or 7?</think>7`` | ``7`` |
| reasoning that does not end | ``<think>3 or 7? It is 7`` | nothing: there is no answer |
| tokens that begin or end a turn | ``7<|im_end|>``, ``<s>7</s>`` | ``7``, up to the first end |
| any token in bars at the very end | ``7<|end_of_response|>`` | ``7`` |
| boxes | ``\boxed{7}``, ``<|begin_of_box|>7<|end_of_box|>`` | ``7`` |
| tags of markup, or with a word for an answer | ``<b>7</b>``, ``<digit>7</digit>`` | ``7`` |
| formulas | ``$7$``, ``\(\text{yellow}\)`` | ``7``, ``yellow`` |
| code fences | three backticks, ``7``, three backticks | ``7`` |
| JSON with one field that names an answer | ``{"answer": "7"}`` | ``7`` |

Reasoning is dropped and never searched. All others are taken off only where they stand around the
whole text, or around all that follows "Answer:" and the like: ``It is not \boxed{7}`` stays as it
is, and so is wrong. Up to eight may be nested.
"""

import json
import re

_REASON = r"(?:seed:)?(?:think|thinking|thoughts?|reasoning|reason|analysis|scratchpad|reflection)"
_MARK = re.compile(
    rf"(?P<open><{_REASON}\s*>|\[THINK\]|◁think▷|<\|begin_of_thought\|>|<\|START_THINKING\|>"
    r"|<\|channel\|>\s*(?:analysis|commentary)\b|<\|channel>\s*thought\b)"
    rf"|(?P<close></{_REASON}\s*>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>|<\|END_THINKING\|>"
    r"|<\|channel\|>\s*final\s*<\|message\|>|<channel\|>)"
    r"|(?P<end><\|(?:im_end|im_sep|eot_id|eot|eom_id|end|end_of_text|endoftext|end_of_turn"
    r"|end_of_utterance|end▁of▁sentence|endofturn|END_OF_TURN_TOKEN|END_RESPONSE|return|user"
    r"|observation|diff_marker|pad)\|>"
    r"|</s>|<(?:end_of_turn|end_of_utterance|eos|eot|turn\||pad|EOT|eod|\|eos\||\|eod\|)>"
    r"|\[EOS\]|\[\|endofturn\|\]|\[PAD\])"
    r"|(?P<start><s>|<bos>|\[BOS\]|<\|(?:begin_of_text|startoftext|begin▁of▁sentence)\|>"
    r"|<\|im_start\|>(?:\s*assistant\b)?|<\|assistant\|>|<start_of_turn>(?:\s*model\b)?"
    r"|<\|turn>(?:\s*model\b)?|<\|start_header_id\|>\s*assistant\s*<\|end_header_id\|>"
    r"|<\|start\|>(?:assistant)?|<\|START_RESPONSE\|>|<\|message\|>|\[\|assistant\|\])",
    re.IGNORECASE,
)

# Tokens of other families at the very end of a text; those that end a box belong to the box.
_OTHER_END = re.compile(
    r"(?:<\|(?!(?:end_of_box|box_end|end_of_solution|end_of_answer)\|)[^\s<>|]{1,40}\|>"
    r"|<eo[a-z]>|\[(?:EOT|EOD|UNUSED_TOKEN_\d{1,9})\])\Z",
    re.IGNORECASE,
)
_LONGEST_END = 50
_MOST_ENDS = 100

_AROUND = "*_ \t\r\n"
_BEHIND = ".!,;"
_TAG = re.compile(
    r"<(?P<name>[a-z][\w-]{0,40})>(?P<inner>.*)</(?P=name)>",
    re.DOTALL | re.IGNORECASE,
)
_MARKUP = ("b", "strong", "i", "em", "u", "code", "p", "span", "box", "boxed", "final")
_PAIRS = (
    ("<|begin_of_box|>", "<|end_of_box|>"),
    ("<|box_start|>", "<|box_end|>"),
    ("<|begin_of_solution|>", "<|end_of_solution|>"),
    ("<|begin_of_answer|>", "<|end_of_answer|>"),
    ("$$", "$$"),
    ("$", "$"),
    ("\\(", "\\)"),
    ("\\[", "\\]"),
)
_COMMAND = re.compile(
    r"\\{1,2}(?:boxed|fbox|text(?:bf|it|tt|rm|sf)?|math(?:bf|rm|it|tt|sf)|emph)\s*\{(?P<inner>.*)\}",
    re.DOTALL,
)
_FENCE = re.compile(r"(`{3,}|~{3,})(?:[\w+-]{0,40}[ \t]*\n)?")

_MOST_JSON = 10_000
_KEY_OF_ANSWER = re.compile(
    r"(?:the|my)?(?:final|correct|right|best|predicted|selected|chosen|short)?"
    r"(?:answers?|options?|choices?|predictions?|responses?|results?|outputs?|values?|labels?"
    r"|letters?|words?|digits?|numbers?|colou?rs?|names?|objects?|shapes?|counts?|text)"
    r"(?:text|letter|value)?"
)


def final_text(text: str) -> str:
    """What a model says in its turn: without reasoning, and without what follows its end.

    Args:
        text: all that was generated, as `vniah.answers.folding.visible` gives it.

    Returns:
        The text after the reasoning, if there is some; empty if the reasoning does not end.

    >>> final_text("<think>3 or 7?</think> 7<|im_end|>")
    ' 7'
    >>> final_text("<think>it is 7")
    ''
    """
    begin, is_reasoning = 0, False
    for mark in _MARK.finditer(text):
        if mark["close"]:
            begin, is_reasoning = mark.end(), False
        elif is_reasoning:
            continue
        elif mark["open"]:
            is_reasoning = True
        elif mark["start"] and not text[begin : mark.start()].strip():
            begin = mark.end()
        else:
            return text[begin : mark.start()]
    return "" if is_reasoning else _without_other_ends(text[begin:])


def _without_other_ends(text: str) -> str:
    for _ in range(_MOST_ENDS):
        text = text.rstrip()
        mark = _OTHER_END.search(text, max(0, len(text) - _LONGEST_END))
        if mark is None:
            break
        text = text[: mark.start()]
    return text


def unwrap(text: str) -> str | None:
    r"""What stands inside of a wrapper that is around the whole text; None if there is none.

    >>> unwrap(r"**\boxed{\text{yellow}}**.")
    '\\text{yellow}'
    """
    text = text.strip()
    if fence := _FENCE.match(text):
        inner = text[fence.end() : -len(fence[1])]
        return inner if text.endswith(fence[1]) and fence[1] not in inner else None
    text = text.strip(_AROUND).rstrip(_BEHIND).strip(_AROUND)
    tag = _TAG.fullmatch(text)
    if tag and (tag["name"].lower() in _MARKUP or _names_answer(tag["name"])):
        inner = tag["inner"]
        return None if f"</{tag['name']}>".lower() in inner.lower() else inner
    if command := _COMMAND.fullmatch(text):
        return command["inner"] if _is_balanced(command["inner"]) else None
    for left, right in _PAIRS:
        if text.startswith(left) and text.endswith(right) and len(text) > len(left + right):
            inner = text[len(left) : -len(right)]
            return inner if left not in inner and right not in inner else None
    return _only_field(text)


def _is_balanced(text: str) -> bool:
    """Whether every closing brace follows an opening one of its own."""
    depth = 0
    for character in text:
        depth += (character == "{") - (character == "}")
        if depth < 0:
            return False
    return depth == 0


def _only_field(text: str) -> str | None:
    """The value of a JSON object with one field, if its key is a word for an answer."""
    if not (text.startswith("{") and text.endswith("}") and len(text) <= _MOST_JSON):
        return None
    try:
        pairs = json.loads(
            text, object_pairs_hook=tuple, parse_int=str, parse_float=str, parse_constant=str
        )
    except (ValueError, RecursionError):
        return None
    if len(pairs) != 1:
        return None
    ((key, value),) = pairs
    return value if _names_answer(key) and isinstance(value, str) else None


def _names_answer(key: str) -> bool:
    """Whether a key or a tag is a word for an answer: ``final_answer``, ``Digit``."""
    return _KEY_OF_ANSWER.fullmatch(re.sub(r"[\s_-]", "", key).casefold()) is not None
