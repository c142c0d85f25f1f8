"""The arguments of the commands that give samples and results to others, and take answers."""

from typing import Any, get_args

from vniah.cli import converting, exchange, rescoring, values
from vniah.cli.arguments.groups import (
    add_command,
    add_grid_options,
    add_haystack_options,
    add_needles_option,
    add_overwrite_option,
    add_quiet_option,
    add_task_options,
    add_tokenizer_option,
)
from vniah.options import DEFAULT_QUANTIZER, LogFormat
from vniah.results.format_schema import SchemaFile


def add_export(verbs: Any) -> None:
    """``export``."""
    export = add_command(
        verbs,
        "export",
        "write the samples of a grid as videos or texts with questions, for other harnesses and "
        "hosted models",
    )
    add_haystack_options(export)
    add_needles_option(
        export,
        text="folder, embedded set (cards, counterfactual) or hub id; default: "
        f"{exchange.DEFAULT_NEEDLES}, and numbers for a task of text",
    )
    add_task_options(export)
    add_grid_options(export)
    add_tokenizer_option(export, "of the model that is to answer")
    export.add_argument(
        "--output", type=values.path, required=True, metavar="DIR", help="folder for the export"
    )
    add_overwrite_option(export, "export")
    export.add_argument(
        "--frame-size",
        type=values.size,
        metavar="WxH",
        help="width and height of the videos in pixels; pictures are fitted into it undistorted, "
        "with black bars; default: those of the haystack's first frame",
    )
    export.add_argument(
        "--quantizer",
        type=values.whole(51),
        default=DEFAULT_QUANTIZER,
        metavar="Q",
        help="of H.264, from 1 to 51; a smaller one gives better pictures and larger files; "
        "default: %(default)s",
    )
    add_quiet_option(export)
    export.set_defaults(command=exchange.export)


def add_import(verbs: Any) -> None:
    """``import``."""
    parser = add_command(
        verbs,
        "import",
        "make a run of the answers that came back to an export, with its heatmap",
    )
    parser.add_argument(
        "answers",
        type=values.path,
        metavar="ANSWERS",
        help="JSON lines with sample_id and prediction, or a .csv or .tsv with these columns",
    )
    parser.add_argument(
        "--export",
        type=values.path,
        required=True,
        metavar="DIR",
        help="folder of the export that was answered",
    )
    parser.add_argument(
        "--model-name", required=True, metavar="NAME", help="who answered, for titles and tables"
    )
    parser.add_argument(
        "--model-revision", metavar="TEXT", help="which version of the model answered"
    )
    parser.add_argument(
        "--output",
        type=values.path,
        required=True,
        metavar="RUN",
        help="folder for the results; answers to further samples are added to it",
    )
    add_overwrite_option(parser, "results")
    add_quiet_option(parser)
    parser.set_defaults(command=exchange.import_answers)


def add_convert(verbs: Any) -> None:
    """``convert``."""
    convert = add_command(
        verbs, "convert", "write a run as a log of Inspect, or as results of lmms-eval"
    )
    convert.add_argument("result", type=values.path, metavar="RESULT", help="folder of a run")
    convert.add_argument(
        "--to",
        choices=get_args(LogFormat),
        required=True,
        help="the format: that of inspect_ai, or that of lmms-eval with --log_samples",
    )
    convert.add_argument(
        "--output",
        type=values.path,
        required=True,
        metavar="PATH",
        help="for inspect a .eval or .json file; for lmms-eval a folder",
    )
    convert.set_defaults(command=converting.convert)


def add_schema(verbs: Any) -> None:
    """``schema``."""
    schema = add_command(
        verbs, "schema", "print the JSON schema of a file of runs, or of results of perplexity"
    )
    schema.add_argument(
        "file",
        choices=get_args(SchemaFile),
        help="manifest, or samples (a line of them), of a run; perplexity, or document, of a "
        "result of vniah perplexity",
    )
    schema.add_argument(
        "--format-version",
        type=values.whole(10**9),
        metavar="N",
        help="version of the format, as manifest.json and perplexity.json carry it; default: the "
        "newest",
    )
    schema.set_defaults(command=converting.schema)


def add_rescore(verbs: Any) -> None:
    """``rescore``."""
    rescore = add_command(
        verbs,
        "rescore",
        "judge the answers of a run by other rules, without a model, and write them as a new run",
    )
    rescore.add_argument("result", type=values.path, metavar="RESULT", help="folder of a run")
    rescore.add_argument(
        "--output", type=values.path, required=True, metavar="RUN", help="folder for the new run"
    )
    rescore.add_argument(
        "--answer-rules",
        metavar="RULE",
        help="for what a model wrote: whole (all of it is the answer), exact (letter for letter), "
        "begins, contains, or package.module:factory for one of your own; for log-probabilities: "
        "argmax, rank:K, margin:X, probability:P; for options asked in several orders: circular "
        "(right in each). By default the rule of the run, as this version has it",
    )
    rescore.add_argument(
        "--accept",
        type=values.accepted,
        action="append",
        default=[],
        metavar="ANSWER=TEXT",
        help="a text that counts as an answer of the needles, e.g. 7=seven; may be repeated",
    )
    add_needles_option(
        rescore,
        text="folder or hub id of the run's needle set, where it does not come with vniah; it may "
        "accept more answers than when the run was made",
    )
    rescore.add_argument(
        "--export",
        type=values.path,
        metavar="DIR",
        help="of imported answers: the folder of the export, in place of --needles",
    )
    rescore.add_argument(
        "--task",
        metavar="T",
        help="package.module:factory of the run's task, where it does not come with vniah",
    )
    rescore.add_argument(
        "--task-option",
        type=values.setting,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of that task; may be given several times",
    )
    rescore.add_argument(
        "--list",
        type=values.whole(10**6),
        default=5,
        metavar="N",
        help="list so many samples of each kind of change; default: %(default)s",
    )
    add_overwrite_option(rescore, "results")
    add_quiet_option(rescore)
    rescore.set_defaults(command=rescoring.rescore)
