"""The arguments of every command, and the errors for invalid ones."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, NoReturn, get_args

from vniah.cli import caches, commands, values
from vniah.cli.printing import write_lines
from vniah.cli.run import run as run_command
from vniah.errors import InputError
from vniah.grid import MAX_FRAMES
from vniah.options import (
    ATTENTION_NAMES,
    DEFAULT_MODEL,
    Decoder,
    LoadOptions,
    Sampling,
    Scorer,
    Share,
)

DEFAULT_FRAMES = "32,64,128,256,512,1024"
DEFAULT_DEPTHS = "0:1:0.2"


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are raised, and printed in one line like all others."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.set_defaults(prog=self.prog)  # of the command that was given, the innermost

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message.removesuffix('.')}. See: {self.prog} --help")

    def _print_message(self, message: str, file: Any = None) -> None:
        write_lines(message, file)


# Options of a model of which ``run`` takes several, and those that are not plain text.
_SEVERAL = ("rope_theta", "rope_scaling")
_TYPES: Mapping[str, Callable[[str], Any]] = {
    "rope_theta": values.rope_thetas,
    "rope_scaling": values.rope_scalings,
    "frame_size": values.size,
}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command line; ``options.command`` is the function of the command.

    Raises:
        InputError: a command, an option or a value is invalid.
    """
    options, unknown = build_parser().parse_known_args(arguments)
    if unknown:  # the outer parser, which finds them, does not know whose options they are not
        raise InputError(f"unrecognized arguments: {' '.join(unknown)}. See: {options.prog} --help")
    return options


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    from vniah import __version__

    parser = _Parser(prog="vniah", description="How far can a long-context multimodal model see?")
    parser.set_defaults(by_all_processes=False, quiet=False)
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
        _add_cache,
    ):
        add(verbs)
    return parser


def _add_quiet_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--quiet",
        action="store_true",
        help="print only results, paths, warnings and errors: no progress, no remarks on the way",
    )


def _add_run(verbs: Any) -> None:
    run = verbs.add_parser("run", help="measure a grid of frames x depths and draw the heatmap")
    _add_model_options(run)
    _add_cache_option(run)
    _add_haystack_options(run)
    run.add_argument(
        "--needles",
        type=values.source,
        metavar="S",
        help="folder, embedded set (cards, counterfactual) or hub id; default: cards for an "
        "embedded model, counterfactual for others",
    )
    _add_task_options(run)
    _add_grid_options(run)
    run.add_argument(
        "--output",
        type=values.path,
        metavar="DIR",
        help="folder for the results; default: one in results/, named after the settings",
    )
    run.add_argument(
        "--overwrite",
        action="store_true",
        help="discard the results in that folder and start again",
    )
    run.add_argument(
        "--share",
        choices=get_args(Share),
        default="tree",
        help="tree: compute the common prefixes of samples only once; none: compute every sample "
        "by itself. The results are the same",
    )
    run.add_argument(
        "--scorer",
        choices=get_args(Scorer),
        default="argmax",
        help="argmax: a sample is correct if the most probable token is right at every position "
        "of the answer; generate: score the text of greedy decoding, and report whether both "
        "agree. Chat models always generate",
    )
    run.add_argument(
        "--max-new-tokens",
        type=values.whole(100_000),
        metavar="N",
        help="with --scorer generate: the most tokens of an answer; default 32, and for the "
        "embedded models 1, as they never end a text",
    )
    _add_job_options(run)
    _add_server_options(run)
    _add_quiet_option(run)
    run.set_defaults(command=run_command, by_all_processes=True)


def _add_encode(verbs: Any) -> None:
    encode = verbs.add_parser("encode", help="only fill the embedding cache")
    _add_model_options(encode)
    _add_cache_option(encode)
    _add_haystack_options(encode)
    encode.add_argument(
        "--frames",
        default=DEFAULT_FRAMES,
        metavar="GRID",
        help="encode as many frames as the largest number in this grid",
    )
    _add_quiet_option(encode)
    encode.set_defaults(command=commands.encode)


def _add_models(verbs: Any) -> None:
    models = verbs.add_parser("models", help="list the supported models and what each can do")
    models.set_defaults(command=commands.models)


def _add_plot(verbs: Any) -> None:
    plot = verbs.add_parser("plot", help="draw the heatmaps of runs or of published tables")
    plot.add_argument(
        "results",
        nargs="+",
        type=values.path,
        metavar="RESULT",
        help="a run's folder, or a JSON table",
    )
    plot.add_argument("--output", type=values.path, metavar="FILE", help=".png, .pdf or .svg")
    plot.add_argument(
        "--training-length",
        type=values.whole(10**12),
        metavar="TOKENS",
        help="draw a dotted line at this training length of the language model",
    )
    plot.add_argument(
        "--tokens-per-frame",
        type=values.whole(10**6),
        metavar="N",
        help="tokens of a frame, for results that do not say it, such as published tables "
        "(LongVA: 144)",
    )
    plot.set_defaults(command=commands.plot)


def _add_compare(verbs: Any) -> None:
    compare = verbs.add_parser(
        "compare",
        help="compare two runs; exit code 0: no cell fell, 1: regression, 2: not comparable",
    )
    compare.add_argument(
        "baseline", type=values.path, metavar="BASELINE", help="folder of a run, or published table"
    )
    compare.add_argument(
        "candidate", type=values.path, metavar="CANDIDATE", help="the same, to compare with it"
    )
    compare.add_argument(
        "--max-drop",
        type=values.real(100),
        default=0.0,
        metavar="X",
        help="by how much the score of a cell may fall, in [0, 1]; default 0",
    )
    compare.set_defaults(command=commands.compare)


def _add_haystack(verbs: Any) -> None:
    haystack = verbs.add_parser("haystack", help="make a haystack")
    haystack_verbs = haystack.add_subparsers(required=True, metavar="VERB", parser_class=_Parser)
    make = haystack_verbs.add_parser(
        "make", help="draw a video of random scenes; the same seed gives the same video"
    )
    make.add_argument("path", type=values.path, metavar="PATH", help="an .mp4 file")
    for name, default, most, metavar, text in (
        ("seconds", None, MAX_FRAMES, "N", "length of the video"),
        ("seed", 0, 2**63 - 1, "S", "which video is drawn; default 0"),
        ("fps", 8, 1000, "N", "frames per second; default 8"),
    ):
        make.add_argument(
            f"--{name}",
            type=values.whole(most),
            required=default is None,
            default=default,
            metavar=metavar,
            help=text,
        )
    make.add_argument(
        "--size",
        type=values.size,
        default=(96, 96),
        metavar="WxH",
        help="width and height in pixels; default 96x96",
    )
    make.add_argument("--overwrite", action="store_true", help="replace an existing file")
    _add_quiet_option(make)
    make.set_defaults(command=commands.make_haystack)


def _add_cache(verbs: Any) -> None:
    cache = verbs.add_parser("cache", help="list or remove cached frames and generated films")
    cache_verbs = cache.add_subparsers(required=True, metavar="VERB", parser_class=_Parser)
    show = cache_verbs.add_parser("list", help="what is cached, how large it is, when it was used")
    show.add_argument(
        "--verify", action="store_true", help="read every byte and compare it with its checksum"
    )
    show.set_defaults(command=caches.list_caches)
    prune = cache_verbs.add_parser("prune", help="remove cached files that vniah wrote")
    which = prune.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--older-than", type=values.real(1e6), metavar="DAYS", help="what was last used before that"
    )
    which.add_argument(
        "--damaged",
        action="store_true",
        help="files that are damaged, and those that were set aside; reads every byte",
    )
    which.add_argument("--all", action="store_true", help="everything")
    prune.add_argument(
        "--dry-run", action="store_true", help="only say what would be removed and freed"
    )
    prune.set_defaults(command=caches.prune_caches)
    for verb in (show, prune):
        verb.add_argument(
            "--cache", type=values.path, metavar="DIR", help="folder; default: the user's cache"
        )


def _add_check(verbs: Any) -> None:
    check = verbs.add_parser(
        "check",
        help="say what a model lacks, and compare the forward pass of vniah with the model's own",
    )
    _add_model_options(check)
    _add_cache_option(check)
    check.add_argument(
        "--needles",
        type=values.source,
        metavar="S",
        help="needle set whose pictures are shown to the model; as for run",
    )
    _add_job_options(check)
    _add_server_options(check)
    _add_quiet_option(check)
    check.set_defaults(command=commands.check, by_all_processes=True)


def _add_estimate(verbs: Any) -> None:
    estimate = verbs.add_parser(
        "estimate", help="estimate the memory, operations and time that a grid takes"
    )
    _add_model_options(estimate)
    estimate.add_argument(
        "--needles", type=values.source, metavar="S", help="needle set; as for run"
    )
    _add_task_options(estimate)
    _add_grid_options(estimate)
    _add_job_options(estimate)
    _add_quiet_option(estimate)
    estimate.set_defaults(command=commands.estimate)


def _add_job_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--context-parallel",
        type=values.whole(4096),
        default=1,
        metavar="N",
        help="split each forward pass over N of the processes that torchrun started; default 1",
    )
    parser.add_argument(
        "--attn",
        choices=ATTENTION_NAMES,
        default="auto",
        help="attention kernel; auto: the fastest that gives correct results on the device; "
        "plain: the formula, without a kernel",
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
        "0:3000:200; a position is used with every number of frames that reaches it",
    )


def _grid_help(what: str) -> str:
    defaults = {"frames": DEFAULT_FRAMES, "depths": DEFAULT_DEPTHS}
    return f"{what}: start:stop:step, both ends included, or a comma list; default {defaults[what]}"


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        type=values.source,
        default=DEFAULT_MODEL,
        metavar="M",
        help="embedded model, checkpoint folder, hub id, openai:BASE_URL#MODEL for a model behind "
        "a server, or package.module:factory, a function that returns a model and gets those of "
        "the following options that are given; default: %(default)s",
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
        help="accept a server that does not report how many tokens it read; then frames that it "
        "drops are not noticed",
    )


def _add_cache_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cache",
        type=values.path,
        metavar="DIR",
        help="folder of the embedding cache; default: one in the user's cache",
    )


def _add_haystack_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--haystack",
        type=values.path,
        nargs="+",
        metavar="H",
        help="a video file, several that are joined in this order, or a folder of images; "
        "default: a generated video",
    )
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
        "--keep-damaged",
        action="store_true",
        help="accept a damaged video; the results say so in a note",
    )
