"""The arguments of every command, and what is said of those that cannot be meant."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn, get_args

from vniah.cli import commands
from vniah.cli.inputs import parse_size
from vniah.cli.run import run as run_command
from vniah.errors import InputError
from vniah.grid import parse_range
from vniah.options import ATTENTION_NAMES, DEFAULT_MODEL, LoadOptions, Scorer, Share
from vniah.options.rope import read_scalings, require_theta

DEFAULT_FRAMES = "32,64,128,256,512,1024"
DEFAULT_DEPTHS = "0:1:0.2"


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, like every other error."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}. See: {self.prog} --help")


def _checked(check: Callable[[str], Any]) -> Callable[[str], Any]:
    """An argparse type whose message is that of an `InputError`."""

    def convert(text: str) -> Any:
        try:
            return check(text)
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert


@_checked
def _path(text: str) -> Path:
    if not text:
        raise InputError("a path is needed, got an empty text")
    return Path(text).expanduser()


def _number(text: str) -> Fraction:
    try:
        (value,) = parse_range(text, "it")
    except ValueError as error:  # also of several
        raise InputError(f"must be one number, got {text!r}") from error
    return value


@_checked
def _size(text: str) -> tuple[int, int]:
    return parse_size(text, "it")


@_checked
def _whole(text: str) -> int:
    value = _number(text)
    if value.denominator != 1:
        raise InputError(f"must be one whole number, got {text!r}")
    return int(value)


@_checked
def _real(text: str) -> float:
    return float(_number(text))


@_checked
def _rope_thetas(text: str) -> tuple[float, ...]:
    return tuple(require_theta(float(_number(part))) for part in text.split(","))


# Options of a model of which ``run`` takes several, and those that are not plain text.
_SEVERAL = ("rope_theta", "rope_scaling")
_TYPES: Mapping[str, Callable[[str], Any]] = {
    "rope_theta": _rope_thetas,
    "rope_scaling": _checked(read_scalings),
    "frame_size": _size,
}


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command ``vniah``; each command's function is ``options.command``."""
    from vniah import __version__

    parser = _Parser(prog="vniah", description="How far can a long-context multimodal model see?")
    parser.set_defaults(by_all_processes=False)
    parser.add_argument("--version", action="version", version=f"vniah {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    for add in (
        _add_run,
        _add_check,
        _add_estimate,
        _add_encode,
        _add_models,
        _add_plot,
        _add_compare,
        _add_haystack,
    ):
        add(verbs)
    return parser


def _add_run(verbs: Any) -> None:
    run = verbs.add_parser("run", help="measure a grid of frames x depths, draw the heatmap")
    _add_model_options(run)
    _add_cache_option(run)
    _add_haystack_options(run)
    run.add_argument(
        "--needles",
        metavar="S",
        help="folder, embedded set (cards, counterfactual) or hub id; default: cards for an "
        "embedded model, counterfactual for others",
    )
    _add_task_options(run)
    _add_grid_options(run)
    run.add_argument("--output", type=_path, metavar="DIR", help="folder of the run")
    run.add_argument("--overwrite", action="store_true", help="start anew in that folder")
    run.add_argument(
        "--share",
        choices=get_args(Share),
        default="tree",
        help="tree: compute what questions begin with in common once; none: every one by itself",
    )
    run.add_argument(
        "--scorer",
        choices=get_args(Scorer),
        default="argmax",
        help="argmax: right at every position of the answer; generate: judge the text of greedy "
        "decoding, and say whether both agree. Chat models always generate",
    )
    run.add_argument(
        "--max-new-tokens",
        type=_whole,
        metavar="N",
        help="with --scorer generate: end after as many tokens; default 32",
    )
    _add_job_options(run)
    _add_server_options(run)
    run.set_defaults(command=run_command, by_all_processes=True)


def _add_encode(verbs: Any) -> None:
    encode = verbs.add_parser("encode", help="fill the embedding cache only")
    _add_model_options(encode)
    _add_cache_option(encode)
    _add_haystack_options(encode)
    encode.add_argument(
        "--frames", default=DEFAULT_FRAMES, metavar="GRID", help="encode as many as its largest"
    )
    encode.set_defaults(command=commands.encode)


def _add_models(verbs: Any) -> None:
    models = verbs.add_parser("models", help="which models there are, and what each can do")
    models.set_defaults(command=commands.models)


def _add_plot(verbs: Any) -> None:
    plot = verbs.add_parser("plot", help="draw heatmaps of runs or of published tables")
    plot.add_argument("results", nargs="+", type=_path, metavar="RESULT", help="run folder or JSON")
    plot.add_argument("--output", type=_path, metavar="FILE", help=".png, .pdf or .svg")
    plot.add_argument(
        "--training-length",
        type=_whole,
        metavar="TOKENS",
        help="draw a dotted line at the training length of the language model",
    )
    plot.add_argument(
        "--tokens-per-frame",
        type=_whole,
        metavar="N",
        help="for results that do not say it themselves, such as published tables (LongVA: 144)",
    )
    plot.set_defaults(command=commands.plot)


def _add_compare(verbs: Any) -> None:
    compare = verbs.add_parser("compare", help="exit 0 holds, 1 regression, 2 cannot compare")
    compare.add_argument("baseline", type=_path, metavar="BASELINE")
    compare.add_argument("candidate", type=_path, metavar="CANDIDATE")
    compare.add_argument(
        "--max-drop",
        type=_real,
        default=0.0,
        metavar="X",
        help="a cell may fall by as much, in [0, 1]; default 0",
    )
    compare.set_defaults(command=commands.compare)


def _add_haystack(verbs: Any) -> None:
    haystack = verbs.add_parser("haystack", help="make a haystack")
    haystack_verbs = haystack.add_subparsers(required=True, metavar="VERB", parser_class=_Parser)
    make = haystack_verbs.add_parser(
        "make", help="draw a video of scenes, the same for the same seed"
    )
    make.add_argument("path", type=_path, metavar="PATH", help="an .mp4 file")
    make.add_argument("--seconds", type=_whole, required=True, metavar="N")
    make.add_argument("--seed", type=_whole, default=0, metavar="S")
    make.add_argument("--fps", type=_whole, default=8, metavar="N")
    make.add_argument("--size", default="96x96", metavar="WxH")
    make.add_argument("--overwrite", action="store_true", help="replace an existing file")
    make.set_defaults(command=commands.make_haystack)


def _add_check(verbs: Any) -> None:
    check = verbs.add_parser(
        "check", help="what a model lacks or gets wrong; the forward pass against its own"
    )
    _add_model_options(check)
    _add_cache_option(check)
    check.add_argument("--needles", metavar="S", help="whose pictures are shown; as for run")
    _add_job_options(check)
    _add_server_options(check)
    check.set_defaults(command=commands.check, by_all_processes=True)


def _add_estimate(verbs: Any) -> None:
    estimate = verbs.add_parser(
        "estimate", help="memory, operations and time of a grid, before anything runs"
    )
    _add_model_options(estimate)
    estimate.add_argument("--needles", metavar="S", help="what is asked; as for run")
    _add_task_options(estimate)
    _add_grid_options(estimate)
    _add_job_options(estimate)
    estimate.set_defaults(command=commands.estimate)


def _add_job_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--context-parallel",
        type=_whole,
        default=1,
        metavar="N",
        help="run each pass over N of the processes that torchrun started",
    )
    parser.add_argument(
        "--attn",
        choices=ATTENTION_NAMES,
        default="auto",
        help="attention kernel; auto: the fastest that is right on the device; plain: the formula",
    )


def _add_task_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--task",
        default="vniah",
        metavar="T",
        help="what is asked: vniah, or package.module:factory for a task of your own",
    )
    parser.add_argument(
        "--controls",
        default="default",
        metavar="C",
        help="samples that say whether the test can be believed: default, none, or names such as "
        "no-needle (the questions on the plain haystack)",
    )


def _add_grid_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--frames", default=DEFAULT_FRAMES, metavar="GRID", help=_grid_help("frames")
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--depths", default=DEFAULT_DEPTHS, metavar="GRID", help=_grid_help("depths")
    )
    where.add_argument(
        "--positions",
        metavar="GRID",
        help="instead of --depths: insert the needle before these haystack frames, e.g. "
        "0:3000:200, wherever there are as many",
    )


def _grid_help(what: str) -> str:
    defaults = {"frames": DEFAULT_FRAMES, "depths": DEFAULT_DEPTHS}
    return f"start:stop:step with both ends, or a comma list; default {defaults[what]}"


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        metavar="M",
        help="embedded model, checkpoint folder, hub id, openai:BASE_URL#MODEL for one behind a "
        "server, or package.module:factory, which gets those of the following that are given",
    )
    for option in fields(LoadOptions):
        parser.add_argument(
            f"--{option.name.replace('_', '-')}",
            type=_TYPES.get(option.name, str),
            default=() if option.name in _SEVERAL else option.default,
            choices=option.metadata["choices"],
            metavar=option.metadata["metavar"],
            help=option.metadata["help"],
        )


def _add_server_options(parser: argparse.ArgumentParser) -> None:
    server = parser.add_argument_group("for --model openai:BASE_URL#MODEL")
    server.add_argument(
        "--frames-as",
        choices=["images", "video-jpeg"],
        help="images: a part of the message for each, which every server knows, the default; "
        "video-jpeg: all as one video of JPEGs, for vLLM",
    )
    server.add_argument(
        "--max-tokens", type=_whole, metavar="N", help="an answer may have as many; default 128"
    )
    server.add_argument(
        "--concurrency", type=_whole, metavar="N", help="requests at the same time; default 4"
    )
    server.add_argument(
        "--max-requests",
        type=_whole,
        metavar="N",
        help="stop after as many HTTP requests, each try of a question counts; the same command "
        "goes on",
    )
    server.add_argument(
        "--request-timeout",
        type=_real,
        dest="timeout_seconds",
        metavar="S",
        help="seconds that an answer may take; default 600",
    )
    server.add_argument(
        "--request-retries",
        type=_whole,
        dest="num_retries",
        metavar="N",
        help="how often a question without an answer is asked again; default 5",
    )
    server.add_argument(
        "--api-key-env",
        dest="key_variable",
        metavar="NAME",
        help="environment variable with the key; default OPENAI_API_KEY",
    )
    server.add_argument(
        "--allow-no-usage",
        action="store_const",
        const=False,
        dest="needs_usage",
        help="go on with a server that does not say how many tokens it read: frames that it drops "
        "go unseen",
    )


def _add_cache_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cache", type=_path, metavar="DIR", help="folder of the embedding cache")


def _add_haystack_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--haystack",
        nargs="+",
        metavar="H",
        help="video file, several files one after the other, or a folder of images; "
        "default: a generated one",
    )
    parser.add_argument(
        "--sampling",
        choices=["clock", "longva"],
        default="clock",
        help="clock: frame k shows second k; longva: every round(fps)-th frame, as published",
    )
    parser.add_argument("--decoder", choices=["pyav", "decord"], default="pyav")
    parser.add_argument(
        "--keep-damaged", action="store_true", help="go on with a damaged video, with a note"
    )
