"""The options that users have, with the values that each may take. Loads nothing heavy.

`LoadOptions` is the one definition of what can be chosen when a model is loaded. The command line,
`vniah.load_model`, plug-in factories and the loaders of checkpoints all take their names from it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from vniah.errors import InputError, short_repr
from vniah.options.rope import read_scaling, require_theta

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

ANYWHERE = ("auto", "plain")
# On CUDA in the order in which `vniah.forward.kernels.try_installed` tries them.
NAMES_BY_DEVICE = {
    "cpu": ("flash-cpu",),
    "cuda": ("flash-3", "flash-2", "varlen", "flash", "efficient", "cudnn"),
}
ATTENTION_NAMES = (*ANYWHERE, *(name for names in NAMES_BY_DEVICE.values() for name in names))

DEFAULT_MODEL = "reference-long"

Dtype = Literal["float32", "bfloat16", "float16"]

Offload = Literal["auto", "always", "never"]

LoadIn = Literal["8bit", "4bit"]

Images = Literal["frames", "grids"]
"""``frames``: pictures are read as frames of a video; ``grids``: as images are (UniRes, AnyRes)."""

Share = Literal["tree", "none", "one-pass"]
"""``tree``: common prefixes of samples are computed once; ``none``: every sample by itself; both
give the same numbers. ``one-pass``: haystack states are shared by all needles, which approximates
them (`vniah.options.approximation`)."""

Sampling = Literal["clock", "longva"]
"""``clock``: frame k is on screen k seconds after the first picture. ``longva``: the published
``range(0, num_pictures, round(fps))``."""

Decoder = Literal["pyav", "decord"]

PAGE_KINDS = ("pages", "pdf")
"""The kinds of haystack whose pictures are pages: a folder of them, or a PDF."""

Scorer = Literal["argmax", "generate"]

PictureKind = Literal[
    "heatmap", "lengths", "difference", "controls", "needles", "retention", "attention"
]
"""What a picture of results shows."""

Judged = Literal["all", "right", "wrong"]
"""Which samples a picture of attention shows."""

TableKind = Literal["lengths", "cells", "needles", "controls", "applied"]
"""What has a row in a table of results."""

LogFormat = Literal["inspect", "lmms-eval"]
"""Formats of other harnesses that results can be converted to."""

TableFormat = Literal["text", "markdown", "latex", "csv", "json"]

Palette = Literal["safe", "published"]
"""The colours of scores. ``safe``: for colour-blind readers and in grey. ``published``: those of
the paper, in which 0 and 1 are alike for many."""

SecondAxis = Literal["seconds", "tokens"]
"""What a heatmap can count above it, besides frames."""

PICTURE_WIDTHS = (2.0, 60.0)
"""The least and the largest width of a picture that a user may ask for, in inches."""

PICTURE_WIDTHS_TEXT = (
    f"from {PICTURE_WIDTHS[0]:g} to {PICTURE_WIDTHS[1]:g} inches "
    f"({PICTURE_WIDTHS[0] * 2.54:g} to {PICTURE_WIDTHS[1] * 2.54:g} cm)"
)

_MAX_SIDE = 8192

MAX_NEW_TOKENS = 32
"""How long a generated answer may be, unless the model or the user says otherwise."""

TASK_NAMES = (
    *("vniah", "localization", "vniah-d", "retrieve-all", "count", "order", "bridged"),
    *("niah", "niah-multi", "vqa"),
)
"""The keys of `vniah.tasks.TASKS`; help texts name them without loading the tasks."""

CONTROL_NAMES = ("no-needle", "option-rotation", "blind", "other-needle", "shuffled")
"""The keys of `vniah.tasks.controls.CONTROLS`."""

DEFAULT_DEPTHS = "0:1:0.2"
"""Of a grid on the command line."""

DEFAULT_QUANTIZER = 20
"""Of H.264, for the pictures of an export."""


def _shown(
    text: str, *, choices: Any = None, metavar: str | None = None, is_flag: bool = False
) -> dict[str, Any]:
    """What the command line says of a field of `LoadOptions`.

    Args:
        text: the help of its argument.
        choices: a `Literal` with the values it may have; by default any.
        metavar: what stands for the value in the help.
        is_flag: whether it is given there without a value.
    """
    return {
        "help": text,
        "choices": get_args(choices) or None,
        "metavar": metavar,
        "is_flag": is_flag,
    }


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How a model is loaded. Every field is an argument of the command line as well.

    A plug-in factory gets those that differ from their defaults, by keyword.

    Attributes:
        dtype: of the weights; by default as stored, and float32 on the CPU, whose kernels for half
            precision are slow.
        device: e.g. ``"cuda:1"``; by default CUDA where there is some, else the CPU.
        rope_theta: a RoPE base to use instead of the checkpoint's.
        rope_scaling: a RoPE scaling to use instead, as `vniah.options.rope.read_scaling` gives it;
            a text such as ``"yarn:4"`` is read.
        prompt_template: one of `vniah.models.llava.prompts.PROMPT_TEMPLATES`; by default the one
            that the checkpoint's family was trained with.
        offload: ``"always"`` keeps the weights of the decoder's layers in host memory and copies
            each layer to the device when it is needed, ``"never"`` keeps them on the device,
            ``"auto"`` in host memory only if they do not fit. The results are the same.
        load_in: ``"8bit"`` or ``"4bit"`` quantizes the weight matrices of the decoder's layers with
            bitsandbytes, which changes the results.
        frame_size: width and height in pixels to which frames are scaled, for families whose vision
            tower reads any size (such as Qwen-VL); by default about 392 x 392. With ``images``
            ``"grids"`` the size to which all pictures are brought, which has to be given.
        images: ``"frames"`` reads every picture as a frame of a video: as one picture of the vision
            tower's size. ``"grids"`` reads it as the checkpoint reads images: cut into grids of
            that size (UniRes, AnyRes), for checkpoints in the original LLaVA layout.
        shard_weights: processes that compute each forward pass together
            (`vniah.sweep.mesh.Mesh.context_group`). Each of them holds an equal part of every
            weight of the decoder's layers, and gathers a layer when it is needed. The results are
            the same. By default each process holds all weights.

    Raises:
        InputError: a value is not valid, or two of them cannot be combined.
    """

    dtype: Dtype | None = field(
        default=None,
        metadata=_shown(
            "number format of the weights; default: as stored, and float32 on the CPU",
            choices=Dtype,
        ),
    )
    device: str | None = field(
        default=None,
        metadata=_shown(
            "e.g. cuda, cuda:1, mps, cpu; default: cuda if there is one, else cpu", metavar="D"
        ),
    )
    rope_theta: float | None = field(
        default=None,
        metadata=_shown(
            "RoPE base to use instead of the checkpoint's; run and perplexity measure take "
            "several, such as 3e6,1e9, and measure with each",
            metavar="X",
        ),
    )
    rope_scaling: Mapping[str, Any] | str | None = field(
        default=None,
        metadata=_shown(
            "RoPE scaling to use instead of the checkpoint's: yarn:4, linear:2, none, or JSON with "
            "the keys of transformers; run and perplexity measure take several, such as "
            "none,yarn:4, and measure with each",
            metavar="S",
        ),
    )
    prompt_template: str | None = field(
        default=None,
        metadata=_shown(
            "chat template of a LLaVA checkpoint: qwen2, mistral, vicuna, llama3 or yi; default: "
            "that of the checkpoint's family",
            metavar="T",
        ),
    )
    offload: Offload = field(
        default="auto",
        metadata=_shown(
            "always: keep the weights of the decoder's layers in host memory and copy each layer "
            "to the device when it is needed; auto: only if they do not fit on the device",
            choices=Offload,
        ),
    )
    load_in: LoadIn | None = field(
        default=None,
        metadata=_shown(
            "quantize the weight matrices of the decoder's layers to 8 or 4 bits, with "
            "bitsandbytes; this changes the results",
            choices=LoadIn,
        ),
    )
    frame_size: tuple[int, int] | None = field(
        default=None,
        metadata=_shown(
            "width and height in pixels to which frames are scaled, for models that read any "
            "size; default: 392x392 or a little less, and 448x448 for servers; with --images grids "
            "that of the pages",
            metavar="WxH",
        ),
    )
    images: Images = field(
        default="frames",
        metadata=_shown(
            "grids: read every picture as a LLaVA checkpoint reads images, cut into grids of its "
            "tower's size (UniRes, AnyRes), for pages; a folder of images then counts as pages. "
            "Default: frames, as pictures of a video",
            choices=Images,
        ),
    )
    shard_weights: "ProcessGroup | None" = field(
        default=None,
        metadata=_shown(
            "with --context-parallel N: each of the N processes of a pass holds 1/N of the weights "
            "of the decoder's layers, and gathers a layer when it is needed",
            is_flag=True,
        ),
    )

    def __post_init__(self) -> None:
        for option in fields(self):
            choices, value = option.metadata["choices"], getattr(self, option.name)
            if choices and value != option.default and value not in choices:
                raise InputError(
                    f"{option.name} must be one of {', '.join(choices)}, got {value!r}"
                )
        if self.rope_theta is not None:
            object.__setattr__(self, "rope_theta", require_theta(self.rope_theta))
        if self.rope_scaling is not None:
            object.__setattr__(self, "rope_scaling", read_scaling(self.rope_scaling))
        if self.frame_size is not None:
            object.__setattr__(self, "frame_size", _require_size(self.frame_size))
        if self.load_in is not None and self.shard_weights is not None:
            raise InputError(
                f"shard_weights and load_in {self.load_in} cannot be combined: rows of weights in "
                f"{self.load_in} cannot be gathered; remove one"
            )
        if self.load_in is not None and self.offload == "always":
            raise InputError(
                f"offload always and load_in {self.load_in} cannot be combined: layers in "
                f"{self.load_in} stay on the device; remove one"
            )

    def given(self) -> dict[str, Any]:
        """The options that differ from their defaults, by name."""
        values = ((option, getattr(self, option.name)) for option in fields(self))
        return {option.name: value for option, value in values if value != option.default}


LOAD_DEFAULTS = LoadOptions()


def _require_size(size: Any) -> tuple[int, int]:
    sides = tuple(size) if isinstance(size, list | tuple) else ()
    if len(sides) != 2 or not all(type(side) is int and 0 < side <= _MAX_SIDE for side in sides):
        raise InputError(
            "frame_size must be a width and a height in pixels, such as (392, 392), each at most "
            f"{_MAX_SIDE:,}, got {short_repr(size)}"
        )
    return sides[0], sides[1]


@dataclass(frozen=True)
class Decoding:
    """When greedy decoding ends.

    Attributes:
        max_new_tokens: the most tokens that are generated, unless the longest accepted answer has
            more.
        stop_ids: tokens that end the text.
    """

    max_new_tokens: int = MAX_NEW_TOKENS
    stop_ids: tuple[int, ...] = ()

    def has_ended(self, tokens: Sequence[int], num_needed: int) -> bool:
        """True if no token follows these.

        Args:
            tokens: what was generated.
            num_needed: tokens of the longest accepted answer.
        """
        if tokens and tokens[-1] in self.stop_ids:
            return True
        return len(tokens) >= self.limit(num_needed)

    def limit(self, num_needed: int) -> int:
        """The most tokens that are generated; ``num_needed`` as in `has_ended`."""
        return max(self.max_new_tokens, num_needed)

    def without_stop(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """The tokens without the stop token at their end, if there is one."""
        ends = bool(tokens) and tokens[-1] in self.stop_ids
        return tuple(tokens[:-1] if ends else tokens)
