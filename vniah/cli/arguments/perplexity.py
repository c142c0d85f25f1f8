"""The arguments of ``perplexity measure``, ``perplexity table`` and ``perplexity plot``."""

import argparse
from typing import Any, get_args

from vniah.cli import perplexity, values
from vniah.cli.arguments.groups import (
    add_attention_option,
    add_cache_option,
    add_caption_option,
    add_command,
    add_model_options,
    add_overwrite_option,
    add_quiet_option,
    add_reading_options,
    add_width_option,
)
from vniah.grid import MAX_FRAMES
from vniah.options import TableFormat

DEFAULT_MODEL = "smollm2"
DEFAULT_DOCUMENTS = 4
_MOST_TOKENS = 10**7


def add_perplexity(verbs: Any) -> None:
    """``perplexity`` and its commands."""
    command = add_command(
        verbs, "perplexity", "measure how well a language model predicts each token of long texts"
    )
    own = command.add_subparsers(required=True, metavar="VERB")
    _add_measure(own)
    _add_table(own)
    _add_plot(own)


def _add_measure(verbs: Any) -> None:
    measure = add_command(
        verbs,
        "measure",
        "measure the negative log-likelihood of all tokens of some documents, each in one pass, "
        "alone or after the frames of a video",
    )
    add_model_options(measure, default=DEFAULT_MODEL)
    measure.set_defaults(model=DEFAULT_MODEL)
    measure.add_argument(
        "--tokens",
        type=values.whole(_MOST_TOKENS),
        required=True,
        metavar="N",
        help="the length of each document, e.g. 12288: beyond the training length, to see what "
        "comes behind it; with --frames, the tokens of these count as well",
    )
    measure.add_argument(
        "--documents",
        type=values.whole(10_000),
        default=DEFAULT_DOCUMENTS,
        metavar="K",
        help="how many documents, one after the other from the beginning of the text; several "
        "give an interval; default %(default)s",
    )
    measure.add_argument(
        "--haystack",
        type=values.source,
        default="pydoc",
        metavar="H",
        help="a folder of .txt files, a .txt, .jsonl or .parquet file, "
        "datasets:NAME[:CONFIG]#SPLIT.COLUMN, or pydoc, the language reference inside Python; "
        "default: %(default)s",
    )
    _add_bucket(measure)
    measure.add_argument(
        "--output",
        type=values.path,
        metavar="DIR",
        help="folder of the results; several RoPEs have one each in it. Default: one in results/, "
        "named after the settings",
    )
    add_overwrite_option(measure, "documents")
    add_attention_option(measure)
    add_quiet_option(measure)
    _add_frames(measure)
    measure.set_defaults(command=perplexity.measure_documents)


def _add_frames(measure: argparse.ArgumentParser) -> None:
    """--frames, --video, and how these are read."""
    group = measure.add_argument_group("for documents that follow the frames of a video")
    group.add_argument(
        "--frames",
        type=values.whole(MAX_FRAMES),
        metavar="N",
        help="every document follows the first N frames of --video, for a model that reads frames "
        "and text; what is predicted is still the text of --haystack only. Default: text alone",
    )
    group.add_argument(
        "--video",
        type=values.path,
        nargs="+",
        metavar="V",
        help="a video file, several that are joined in this order, a folder of images, or a PDF; "
        "default: a generated video",
    )
    add_cache_option(group)
    add_reading_options(group)


def _add_table(verbs: Any) -> None:
    table = add_command(verbs, "table", "write a table of the buckets of results")
    _add_results(table)
    _add_bucket(table)
    table.add_argument(
        "--format",
        choices=get_args(TableFormat),
        help="text, markdown, latex, csv or json; default: what the suffix of --output says, else "
        "text",
    )
    table.add_argument(
        "--output", type=values.path, metavar="FILE", help=".txt, .md, .tex, .csv or .json"
    )
    table.set_defaults(command=perplexity.tabulate)


def _add_plot(verbs: Any) -> None:
    plot = add_command(verbs, "plot", "draw the curves of results into one picture")
    _add_results(plot)
    _add_bucket(plot)
    plot.add_argument("--output", type=values.picture, metavar="FILE", help=".png, .pdf or .svg")
    plot.add_argument(
        "--training-length",
        type=values.whole(10**12),
        metavar="TOKENS",
        help="where the dotted line is; default: what the configuration of each model says",
    )
    add_width_option(plot)
    add_caption_option(plot)
    plot.set_defaults(command=perplexity.draw)


def _add_results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "results",
        nargs="+",
        type=values.path,
        metavar="RESULT",
        help="a folder that vniah perplexity measure has written, or one that holds several such "
        "folders",
    )


def _add_bucket(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bucket",
        type=values.whole(_MOST_TOKENS),
        metavar="B",
        help="positions of which a mean is shown; default: a power of two, of which the "
        "tokens that count have 8 to 16. What is stored does not depend on it",
    )
