"""The parser of the command line, and the errors for invalid arguments."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from vniah.cli.arguments.data import add_cache, add_haystack
from vniah.cli.arguments.exchange import add_convert, add_export, add_import
from vniah.cli.arguments.measuring import (
    add_check,
    add_encode,
    add_estimate,
    add_models,
    add_run,
    add_show,
)
from vniah.cli.arguments.results import add_compare, add_plot, add_report, add_table
from vniah.cli.printing import write_lines
from vniah.errors import InputError


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are raised, and printed in one line like all others."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.set_defaults(prog=self.prog)  # of the command that was given, the innermost

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message.removesuffix('.')}. See: {self.prog} --help")

    def _parse_optional(self, arg_string: str) -> Any:
        """None for the id of a sample without a place, ``-/-/red-7/blind``: it is no option."""
        return None if arg_string.startswith("-/") else super()._parse_optional(arg_string)

    def _print_message(self, message: str, file: Any = None) -> None:
        write_lines(message, file)


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
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (
        add_run,
        add_show,
        add_check,
        add_estimate,
        add_encode,
        add_models,
        add_plot,
        add_table,
        add_report,
        add_compare,
        add_convert,
        add_export,
        add_import,
        add_haystack,
        add_cache,
    ):
        add(verbs)
    return parser
