"""The help of every command says what it does, and tells the truth about defaults."""

import argparse

import pytest

from vniah.cli.arguments import build_parser
from vniah.cli.show import DEFAULT_SHOWN_DEPTHS, DEFAULT_SHOWN_FRAMES
from vniah.options import CONTROL_NAMES, DEFAULT_MODEL, TASK_NAMES
from vniah.tasks import TASKS
from vniah.tasks.controls import CONTROLS


def _commands(parser: argparse.ArgumentParser, name: str = "vniah"):
    yield name, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb, command in action.choices.items():
                yield from _commands(command, f"{name} {verb}")


_IN_OTHER_WORDS = {"controls"}  # "those of the task"
COMMANDS = dict(_commands(build_parser()))


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_a_command_does_and_its_defaults(name):
    parser = COMMANDS[name]
    assert parser.description and parser.description[-1] in ".?"
    assert "None" not in parser.format_help()
    for action in parser._actions:
        said = (action.help or "") % {"default": action.default}
        is_told = isinstance(action.default, str | int | float)
        is_told = is_told and not isinstance(action.default, bool)
        if "default" in said and is_told and action.dest not in _IN_OTHER_WORDS:
            assert f"{action.default}".removesuffix(".0") in said


def test_help_of_show_names_its_own_defaults():
    text = " ".join(COMMANDS["vniah show"].format_help().split())
    assert f"that of the run, else {DEFAULT_MODEL}" in text
    assert f"or of the run, else {DEFAULT_SHOWN_FRAMES}" in text
    assert f"likewise, else {DEFAULT_SHOWN_DEPTHS}" in text
    assert "0:1:0.2" not in text, "that is the default of run"


def test_help_names_every_task_and_control():
    assert set(TASKS) == set(TASK_NAMES) and set(CONTROLS) == set(CONTROL_NAMES)
    text = " ".join(COMMANDS["vniah run"].format_help().split()).replace("- ", "-")
    assert ", ".join(TASK_NAMES) in text
    assert ", ".join(CONTROL_NAMES) in text
