"""The parser of the command line, and the errors for invalid arguments."""

import argparse
import re
from collections.abc import Sequence
from functools import cache
from typing import Any, NoReturn

from vniah.cli.arguments.data import add_cache, add_haystack
from vniah.cli.arguments.exchange import (
    add_convert,
    add_export,
    add_import,
    add_rescore,
    add_schema,
)
from vniah.cli.arguments.measuring import (
    add_check,
    add_encode,
    add_estimate,
    add_models,
    add_run,
    add_show,
    add_watch,
)
from vniah.cli.arguments.perplexity import add_perplexity
from vniah.cli.arguments.results import add_compare, add_plot, add_report, add_table
from vniah.cli.arguments.settings import OF_THE_COMMAND, ONLY_GIVEN, Settings
from vniah.cli.printing import write_lines
from vniah.cli.sweeps.config import read_config
from vniah.errors import InputError

_VALUE = re.compile(r"-(/|\.?[0-9])")


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are raised, and printed in one line like all others."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.set_defaults(prog=self.prog)  # of the command that was given, the innermost

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message.removesuffix('.')}. See: {self.prog} --help")

    def _parse_optional(self, arg_string: str) -> Any:
        """None for values that are no option, though they begin with a dash.

        These are ids of samples without a place, ``-/-/red-7/blind``, and what begins with a
        negative number, ``-3cm``: an option that takes a number then says what it must be.
        """
        return None if _VALUE.match(arg_string) else super()._parse_optional(arg_string)

    def _print_message(self, message: str, file: Any = None) -> None:
        write_lines(message, file)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command line; ``options.command`` is the function of the command.

    Raises:
        InputError: a command, an option or a value is invalid.
    """
    options, unknown = _parser().parse_known_args(arguments)
    if unknown:  # the outer parser, which finds them, does not know whose options they are not
        raise InputError(f"unrecognized arguments: {' '.join(unknown)}. See: {options.prog} --help")
    if "config" in options:
        _read_sweep(options, arguments)
    return options


def _read_sweep(options: argparse.Namespace, arguments: Sequence[str] | None) -> None:
    """Gives the options of a command what its --config says, as ``sweep``.

    It is None where there is no file and the command needs none.

    Raises:
        InputError: the file cannot be read, or holds what cannot be meant.
    """
    options.sweep = None
    if options.config is None and options.prog.split()[-1] != "watch":
        return
    run = next(parser for parser in commands(_parser()) if parser.prog.endswith(" run"))
    settings = Settings(run, left_out=ONLY_GIVEN)
    given = {name: value for name, value in _given(arguments).items() if name in settings.names}
    options.sweep = read_config(options.config, settings, given)
    whole = vars(options.sweep.of_the_command)
    for name in OF_THE_COMMAND:
        setattr(options, name, whole[name])


def _given(arguments: Sequence[str] | None) -> dict[str, Any]:
    """The options that a command line names, without the defaults of the others."""
    parser = build_parser()
    for command in commands(parser):
        for action in command._actions:
            action.default = argparse.SUPPRESS
    found = vars(parser.parse_args(arguments))
    return {name: value for name, value in found.items() if name != "quiet" or value}


def commands(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """The parsers of the commands and of their own commands."""
    found = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                found += commands(command) or [command]
    return found


@cache
def _parser() -> argparse.ArgumentParser:
    """The parser of the command line, which nobody changes."""
    return build_parser()


def build_parser() -> argparse.ArgumentParser:
    """A new parser of the command line."""
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
        add_watch,
        add_models,
        add_plot,
        add_table,
        add_report,
        add_compare,
        add_rescore,
        add_convert,
        add_schema,
        add_export,
        add_import,
        add_perplexity,
        add_haystack,
        add_cache,
    ):
        add(verbs)
    return parser
