"""Options that several commands have."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, get_args

from vniah.cli import values
from vniah.options import (
    ATTENTION_NAMES,
    CONTROL_NAMES,
    DEFAULT_DEPTHS,
    DEFAULT_MODEL,
    TASK_NAMES,
    Decoder,
    LoadOptions,
    Sampling,
)

DEFAULT_FRAMES = "32,64,128,256,512,1024"

# Options of a model of which ``run`` takes several, and those that are not plain text.
_SEVERAL = ("rope_theta", "rope_scaling")
_TYPES: Mapping[str, Callable[[str], Any]] = {
    "rope_theta": values.rope_thetas,
    "rope_scaling": values.rope_scalings,
    "frame_size": values.size,
}


def add_command(verbs: Any, name: str, text: str) -> argparse.ArgumentParser:
    """The parser of a command.

    Args:
        verbs: what commands are added to.
        name: of the command.
        text: what it does, as one line of the list of commands, and as the beginning of its help.
    """
    sentence = f"{text[0].upper()}{text[1:]}."
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=sentence)
    return parser


def add_model_options(parser: argparse.ArgumentParser, *, default: str = DEFAULT_MODEL) -> None:
    """--model, and the options of `LoadOptions`; ``default`` says what --model is by default."""
    parser.add_argument(
        "--model",
        type=values.source,
        default=DEFAULT_MODEL,
        metavar="M",
        help="embedded model, checkpoint folder, hub id, openai:BASE_URL#MODEL for a model behind "
        "a server, or package.module:factory, a function that returns a model and gets those of "
        f"the following options that are given; default: {default}",
    )
    add_load_options(parser)


def add_load_options(parser: argparse.ArgumentParser) -> None:
    """The options of `LoadOptions`: how a model is loaded."""
    for option in fields(LoadOptions):
        name = f"--{option.name.replace('_', '-')}"
        if option.metadata["is_flag"]:
            parser.add_argument(name, action="store_true", help=option.metadata["help"])
            continue
        parser.add_argument(
            name,
            type=_TYPES.get(option.name, str),
            default=() if option.name in _SEVERAL else option.default,
            choices=option.metadata["choices"],
            metavar=option.metadata["metavar"],
            help=option.metadata["help"],
        )


def add_config_option(parser: argparse.ArgumentParser, text: str) -> None:
    """--config, a file with settings of one run or of many."""
    parser.add_argument("--config", type=values.path, metavar="FILE", help=text)


def add_cache_option(parser: Any) -> None:
    """--cache, of the encoded frames."""
    parser.add_argument(
        "--cache",
        type=values.path,
        metavar="DIR",
        help="folder of the embedding cache; default: one in the user's cache",
    )


def add_haystack_options(parser: Any) -> None:
    """--haystack, and how it is read."""
    parser.add_argument(
        "--haystack",
        type=values.path,
        nargs="+",
        metavar="H",
        help="a video file, several that are joined in this order, a folder of images, or a PDF; "
        "default: a generated video. For a task of text a folder of .txt files, a file that "
        "ends in .txt, .jsonl or .parquet, datasets:NAME[:CONFIG]#SPLIT.COLUMN, or pydoc, the "
        "language reference inside Python; default: generated prose. For --task vqa a folder with "
        "a table and videos, or a table or datasets:NAME#SPLIT and the folder with its videos; "
        "default: a drawn set",
    )
    add_reading_options(parser)


def add_reading_options(parser: Any) -> None:
    """The options that say how a video, images or a PDF are read."""
    parser.add_argument(
        "--sampling",
        choices=get_args(Sampling),
        default="clock",
        help="how a video is sampled at 1 FPS; clock: frame k is on screen at second k; longva: "
        "every round(fps)-th picture, as published",
    )
    parser.add_argument(
        "--decoder",
        choices=get_args(Decoder),
        default="pyav",
        help="library that decodes the video; default: %(default)s",
    )
    parser.add_argument(
        "--stream",
        type=values.whole(1000),
        metavar="N",
        help="which video stream of the file is read, counted from 0 among its video streams; "
        "default: the one that players choose",
    )
    parser.add_argument(
        "--assume-fps",
        type=values.rate,
        metavar="F",
        help="pictures per second, such as 25 or 24000/1001, of a bare stream (.h264, .obu, "
        ".mjpeg), which holds no time stamps",
    )
    parser.add_argument(
        "--dpi",
        type=values.whole(2400),
        metavar="N",
        help="pixels per inch with which the pages of a PDF are drawn; default: 96",
    )
    parser.add_argument(
        "--keep-damaged",
        action="store_true",
        help="accept a damaged video; the results say so in a note",
    )


def add_needles_option(
    parser: argparse.ArgumentParser,
    *,
    text: str = "needle set; as for run",
    default: str | None = None,
) -> None:
    """--needles, with its help."""
    parser.add_argument("--needles", type=values.source, default=default, metavar="S", help=text)


def add_overwrite_option(parser: argparse.ArgumentParser, what: str) -> None:
    """--overwrite, for an output folder that holds ``what``."""
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help=f"discard the {what} in that folder and start again",
    )


def add_task_option(parser: Any, *, task: str = "vniah") -> None:
    """--task and --task-option; ``task`` is the default in words."""
    parser.add_argument(
        "--task",
        default="vniah",
        metavar="T",
        help=f"what is asked: {', '.join(TASK_NAMES)}, or package.module:factory for a task of "
        f"your own; default: {task}",
    )
    parser.add_argument(
        "--task-option",
        type=values.setting,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the task; may be given several times",
    )


def add_task_options(
    parser: Any, *, task: str = "vniah", controls: str | None = "those of the task"
) -> None:
    """--task, and what belongs to it; ``task`` and ``controls`` are their defaults in words.

    A command without controls has None for them.
    """
    add_task_option(parser, task=task)
    parser.add_argument(
        "--needle-frames",
        metavar="K",
        help="for how many frames (seconds) a needle is shown; default: one for a picture, all "
        "frames of a clip",
    )
    parser.add_argument(
        "--needle-style",
        metavar="S",
        help="frame: a needle is a frame of its own; blended: it is drawn into a frame of the "
        "haystack, so that it does not stand out. Default: frame",
    )
    if controls is None:
        return
    parser.add_argument(
        "--controls",
        default="default",
        metavar="C",
        help="samples that say whether the test can be believed: default, none, all, or names with "
        f"commas between them: {', '.join(CONTROL_NAMES)}, or package.module:factory for one of "
        f"your own; default: {controls}",
    )


def add_grid_options(
    parser: Any, *, frames: str = DEFAULT_FRAMES, depths: str = DEFAULT_DEPTHS
) -> None:
    """--frames or --tokens, with --depths or --positions.

    ``frames`` and ``depths`` are what help says of their defaults.
    """
    text = "start:stop:step, both ends included, or a comma list"
    lengths = parser.add_mutually_exclusive_group()
    lengths.add_argument(
        "--frames",
        default=DEFAULT_FRAMES,
        metavar="GRID",
        help=f"numbers of haystack frames: {text}; default {frames}",
    )
    lengths.add_argument(
        "--tokens",
        metavar="GRID",
        help="instead of --frames, for a task of text: numbers of all tokens before the answer, "
        "e.g. 512:8192:512",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--depths",
        default=DEFAULT_DEPTHS,
        metavar="GRID",
        help=f"depths of the needle in [0, 1]: {text}; default {depths}",
    )
    where.add_argument(
        "--positions",
        metavar="GRID",
        help="instead of --depths: insert the needle before these haystack frames, e.g. "
        "0:3000:200; a position is used with every number of frames that reaches it",
    )


def add_job_options(parser: argparse.ArgumentParser) -> None:
    """--context-parallel and --attn."""
    parser.add_argument(
        "--context-parallel",
        type=values.whole(4096),
        default=1,
        metavar="N",
        help="split each forward pass over N of the processes that torchrun started; default 1",
    )
    add_attention_option(parser)


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """The options of a model behind a server."""
    server = parser.add_argument_group("for --model openai:BASE_URL#MODEL")
    server.add_argument(
        "--frames-as",
        choices=["images", "video-jpeg"],
        help="images (default): each frame is a part of the message, which all servers support; "
        "video-jpeg: all frames are one video of JPEGs, for vLLM",
    )
    server.add_argument(
        "--max-tokens",
        type=values.whole(10**6),
        metavar="N",
        help="the most tokens of an answer; default 128",
    )
    server.add_argument(
        "--concurrency",
        type=values.whole(1000),
        metavar="N",
        help="the most requests at the same time; default 4",
    )
    server.add_argument(
        "--max-requests",
        type=values.whole(10**9),
        metavar="N",
        help="stop after this number of HTTP requests, retries included; the same command goes on",
    )
    server.add_argument(
        "--request-timeout",
        type=values.real(10**6),
        dest="timeout_seconds",
        metavar="S",
        help="the most seconds that an answer may take; default 600",
    )
    server.add_argument(
        "--request-retries",
        type=values.whole(1000),
        dest="num_retries",
        metavar="N",
        help="how often a question without an answer is sent again; default 5",
    )
    server.add_argument(
        "--api-key-env",
        dest="key_variable",
        metavar="NAME",
        help="environment variable that holds the key; default OPENAI_API_KEY",
    )
    server.add_argument(
        "--allow-no-usage",
        action="store_const",
        const=False,
        dest="needs_usage",
        help="accept a server that does not report how many tokens it read; then frames or text "
        "that it drops are not noticed",
    )
    add_tokenizer_option(server, "of the server's model")


def add_tokenizer_option(parser: Any, whose: str) -> None:
    """--tokenizer, with its help."""
    parser.add_argument(
        "--tokenizer",
        type=values.source,
        metavar="T",
        help="for a task of text, whose lengths are tokens: a folder or hub id with the tokenizer "
        f"{whose}, which counts them",
    )


def add_attention_option(parser: argparse.ArgumentParser) -> None:
    """--attn."""
    parser.add_argument(
        "--attn",
        choices=ATTENTION_NAMES,
        default="auto",
        help="attention kernel; auto: the fastest that gives correct results on the device; "
        "plain: the formula, without a kernel",
    )


def add_width_option(parser: argparse.ArgumentParser) -> None:
    """--width."""
    parser.add_argument(
        "--width",
        type=values.width,
        metavar="LENGTH",
        help="width of the whole picture, such as 8cm, 17cm or 3.5in; letters keep their size",
    )


def add_caption_option(parser: argparse.ArgumentParser) -> None:
    """--caption and --no-caption."""
    parser.add_argument(
        "--caption",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="write below a picture what is behind it (default), or leave it out",
    )


def add_quiet_option(parser: argparse.ArgumentParser) -> None:
    """--quiet."""
    parser.add_argument(
        "--quiet",
        action="store_true",
        help="print only results, paths, warnings and errors: no progress, no remarks on the way",
    )
