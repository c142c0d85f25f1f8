"""The file of a sweep: what it may hold, which runs it names, and one line for everything wrong."""

import argparse

import pytest

from vniah.cli.arguments import build_parser, parse
from vniah.cli.arguments.parser import commands
from vniah.cli.arguments.settings import COMMA_LISTS, OF_THE_COMMAND, ONLY_GIVEN, Settings
from vniah.cli.sweeps.config import AXES
from vniah.errors import InputError

(RUN,) = (parser for parser in commands(build_parser()) if parser.prog == "vniah run")


def plan_of(tmp_path, text, *arguments, command="run"):
    """The plan of a file, with what the command line adds."""
    path = tmp_path / "sweep.toml"
    path.write_text(text, encoding="utf-8")
    config = parse([command, "--config", str(path), *arguments]).sweep
    return config.plan(tmp_path / "out")


def names_of(tmp_path, text, *arguments):
    return [member.name for member in plan_of(tmp_path, text, *arguments).members]


def test_runs_are_all_combinations_in_the_order_of_the_file(tmp_path):
    text = """
        frames = "8,16"
        [models.base]
        model = "checkpoints/base"
        rope-theta = [1e6, 1e9]
        [models.tuned]
        model = "checkpoints/tuned"
        [[haystacks]]
        haystack = ["film.mp4", "second.mp4"]
        [[tasks]]
        task = "count"
        [[tasks]]
        name = "far"
        depths = [0]
    """
    assert names_of(tmp_path, text) == [
        "base__film-and-1-more__count__rope-theta-1e6",
        "base__film-and-1-more__count__rope-theta-1e9",
        "base__film-and-1-more__far__rope-theta-1e6",
        "base__film-and-1-more__far__rope-theta-1e9",
        "tuned__film-and-1-more__count",
        "tuned__film-and-1-more__far",
    ]


def test_one_model_is_loaded_for_all_its_runs_its_own_rope_first(tmp_path):
    text = """
        [models.changed]
        model = "a"
        rope-theta = 500
        [models.other]
        model = "a"
        dtype = "bfloat16"
        [models.plain]
        model = "a"
        [[tasks]]
        task = "vniah"
        [[tasks]]
        task = "count"
    """
    groups = [[member.name for member in g] for g in plan_of(tmp_path, text).groups()]
    assert groups == [
        [
            *("plain__generated__vniah", "plain__generated__count"),
            "changed__generated__vniah__rope-theta-500",
            "changed__generated__count__rope-theta-500",
        ],
        ["other__generated__vniah", "other__generated__count"],
    ]


def test_name_of_a_run_does_not_depend_on_what_else_there_is(tmp_path):
    one = names_of(tmp_path, 'models = ["owner/Model-7B"]\nframes = 8')
    two = names_of(
        tmp_path, 'models = ["x", "owner/Model-7B"]\ntasks = ["count", "vniah"]\nframes = 8'
    )
    assert one == ["Model-7B__generated__vniah"]
    assert set(one) < set(two)


def test_values_are_those_of_the_command_line(tmp_path):
    text = """
        frames = [8, 16.0]
        depths = "0:1:0.5"
        scorer = "generate"
        max-new-tokens = 4
        keep_damaged = true
        allow-no-usage = true
        controls = ["no-needle", "blind"]
        task-option = { num_distractors = [2, 4], preset = "published" }
        frame-size = "96x64"
        rope-scaling = [{ rope_type = "yarn", factor = 4 }, "none"]
        haystack = "a b.mp4"
    """
    arguments = [
        *("--frames", "8,16.0", "--depths", "0:1:0.5", "--scorer", "generate"),
        *("--max-new-tokens", "4", "--keep-damaged", "--allow-no-usage"),
        *("--controls", "no-needle,blind", "--task-option", "num_distractors=2,4"),
        *("--task-option", "preset=published", "--frame-size", "96x64"),
        *("--rope-scaling", '{"rope_type": "yarn", "factor": 4},none', "--haystack", "a b.mp4"),
    ]
    expected = vars(parse(["run", *arguments]))
    first, second = plan_of(tmp_path, text).members
    assert (first.rope.scaling["rope_type"], second.rope.scaling["rope_type"]) == (
        *("yarn", "default"),
    )
    found = vars(first.options)
    for name in expected.keys() - {"config", "sweep"}:
        assert found[name] == expected[name], name


def test_a_file_of_nothing_is_the_run_without_options(tmp_path):
    (member,) = plan_of(tmp_path, "").members
    expected = vars(parse(["run"]))
    assert member.name == "reference-long__generated__vniah"
    assert {name: vars(member.options)[name] for name in expected.keys() - {"sweep"}} == {
        name: expected[name] for name in expected.keys() - {"sweep"}
    }


def test_command_line_replaces_the_file_and_what_excludes_it(tmp_path):
    text = 'positions = "0,4"\ntask-option = ["a=1"]\nquiet = true\n[[tasks]]\nframes = 4'
    given = ["--frames", "8", "--depths", "0.5", "--task-option", "b=2", "--device", "cpu"]
    (member,) = plan_of(tmp_path, text, *given).members
    options = member.options
    assert (options.frames, options.depths, options.positions) == ("8", "0.5", None)
    assert options.task_option == [("b", "2")]
    assert (options.device, options.quiet) == ("cpu", True)


def test_options_of_the_whole_command_are_taken_from_the_file(tmp_path):
    path = tmp_path / "sweep.toml"
    path.write_text('output = "out"\nquiet = true\ncache = "frames"\n[tasks.a]\n')
    options = parse(["run", "--config", str(path), "--output", "own"])
    assert (str(options.output), options.quiet, str(options.cache)) == ("own", True, "frames")


def test_excluded_combinations_are_left_out(tmp_path):
    text = """
        tasks = ["count", "order", "vniah"]
        [models.a]
        [models.b]
        [[exclude]]
        model = "a"
        task = ["count", "order"]
    """
    assert names_of(tmp_path, text) == [
        "a__generated__vniah",
        *(f"b__generated__{task}" for task in ("count", "order", "vniah")),
    ]


def test_labels_say_in_what_the_runs_differ(tmp_path):
    text = 'tasks = ["count", "order"]\nrope-theta = "500,1e6"\nmodels = ["only"]'
    assert [member.label for member in plan_of(tmp_path, text).members] == [
        *("count, RoPE base 500", "count, RoPE base 1e6"),
        *("order, RoPE base 500", "order, RoPE base 1e6"),
    ]
    (alone,) = plan_of(tmp_path, 'models = ["only"]').members
    assert alone.label == "only"


BAD = {
    "no TOML": ("frames = ", "sweep.toml cannot be read as TOML: Invalid value"),
    "huge number": (f"frames = {'9' * 5000}", "a number in it has thousands of digits"),
    "unknown key": ("frame = 8", "sweep.toml: there is no setting 'frame'; do you mean frames?"),
    "unknown key far": ("zzz = 8", "settings are the options of vniah run"),
    "config": ('config = "a"', "there is no setting 'config'"),
    "twice": ("rope-theta = 5\nrope_theta = 6", "rope-theta is given twice, with - and with _"),
    "kind": ("dtype = true", "sweep.toml: dtype must be text or a number, got True"),
    "date": ("frames = 2020-01-01", "frames must be text or a number, got datetime.date"),
    "choice": ('dtype = "float3"', "dtype cannot be 'float3'; do you mean float32?"),
    "flag": ('keep-damaged = "yes"', "keep-damaged must be true or false, got 'yes'"),
    "overwrite": ("overwrite = true", "there is no setting 'overwrite'"),
    "number": ("max-new-tokens = 1.5", "max-new-tokens must be one whole number, got '1.5'"),
    "list": ('dtype = ["float32"]', "dtype must be text or a number, got ['float32']"),
    "empty list": ("frames = []", "frames must not be an empty list"),
    "nan": ("rope-theta = nan", "rope-theta must be one number, got 'nan'"),
    "object": ("rope-scaling = {factor = inf}", "rope-scaling must hold text and numbers"),
    "frames": ('frames = "x"', "__vniah: frames must be"),
    "excluded": (
        'depths = "0"\npositions = "1"',
        "depths cannot be combined with pos",
    ),
    "combined": ("max-new-tokens = 4", "add --scorer generate"),
    "table": ("[model]\nx = 1", "sweep.toml: model must be text or a number"),
    "tables": ("[[model]]\nx = 1", "sweep.toml: model must be text or a number"),
    "unknown table": ("[haystack2]\nx = 1", "there are no tables 'haystack2'; do you mean hayst"),
    "axis": ("models = 3", "models must be tables or a list, got 3"),
    "no models": ("models = []", "models must not be empty"),
    "entry": ("models = [3]", "models 1 must be a table or text, got 3"),
    "key of entry": ("[[tasks]]\n[[tasks]]\nfrmes = 3", "tasks 2: there is no setting 'frmes'"),
    "key of named": (
        "[tasks.a]\ndtype = 3",
        "tasks 'a': dtype cannot be '3'; there are flo",
    ),
    "of the sweep": ("[tasks.a]\noutput = 'x'", "tasks 'a': output is of the whole sweep"),
    "two names": ('models = ["a/b", "c/B"]', "another of the models is called 'B' too; give each"),
    "name": ('[[models]]\nname = "a/b"', "models 1: the name must be at most 60 letters"),
    "name of two": ('[models."a__b"]', "models 'a__b': the name must be at most 60 letters"),
    "long": (
        f"[models.'{'é' * 60}']\n[tasks.'{'é' * 60}']\n[haystacks.bbbbbbbbbbbbbb]",
        "255 bytes",
    ),
    "set twice": (
        "[models.a]\nframes = 8\n[tasks.b]\nframes = 9",
        "frames is set by * models 'a' and by * tasks 'b', which are combined",
    ),
    "set rivals": ("[models.a]\ndepths = 0\n[tasks.b]\npositions = 9", "positions is set by"),
    "rope twice": ("rope-theta = [1e6, 1000000]", "RoPE base 1e6 is given twice"),
    "rule": ("[[exclude]]\nmodels = 'a'", "exclude 1: there is no 'models' in a rule; do you mean"),
    "no rule": ("exclude = 3", "exclude 1 must be a table such as model = 'base', got 3"),
    "rule of nobody": (
        "[[exclude]]\ntask = 'vnia'",
        "none of the tasks is called 'vnia'; do",
    ),
    "rule in vain": (
        "[models.a]\n[models.b]\n[tasks.t]\n[[exclude]]\nmodel = 'a'\n[[exclude]]\nmodel = 'a'\n"
        "task = []",
        "exclude 2: task must be a name or names, got []",
    ),
    "everything": ("[[exclude]]\ntask = 'vniah'", "all runs are excluded"),
    "many": (
        f"models = {[f'm{k}' for k in range(40)]}\ntasks = {[f't{k}' for k in range(40)]}",
        "these are more than 1,000 runs",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_meant_is_one_line(tmp_path, name):
    text, message = BAD[name]
    with pytest.raises(InputError) as caught:
        plan_of(tmp_path, text)
    found = str(caught.value)
    assert "\n" not in found
    assert found.startswith((str(tmp_path / "sweep.toml"), "positions is set", "frames is set"))
    for part in message.split("*"):
        assert part.strip() in found


def test_a_rule_that_no_run_needs_is_refused(tmp_path):
    text = "[models.a]\n[models.b]\n" + "[[exclude]]\nmodel = 'a'\n" * 2
    assert names_of(tmp_path, text) == ["b__generated__vniah"]


def test_what_each_model_has_cannot_be_given_for_all(tmp_path):
    with pytest.raises(InputError, match="models 1 has a model of its own, so --model cannot"):
        plan_of(tmp_path, 'models = ["a"]', "--model", "b")


def test_missing_file_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"nowhere.toml' cannot be read: No such file"):
        parse(["run", "--config", str(tmp_path / "nowhere.toml")])


def test_file_sets_every_option_of_the_command_but_help_and_itself():
    settings = Settings(RUN, left_out=ONLY_GIVEN)
    options = {text for action in RUN._actions for text in action.option_strings}
    left_out = {"-h", "--help", *(f"--{name}" for name in ONLY_GIVEN)}
    assert {f"--{key}" for key in settings.keys} == options - left_out
    assert {*OF_THE_COMMAND, *COMMA_LISTS, *AXES.values()} <= settings.names
    # The words that a file has besides options; no option may ever be called so.
    assert settings.names.isdisjoint({*AXES, "exclude", "name"})


def test_settings_of_a_kind_that_no_option_has_yet_are_read():
    parser = argparse.ArgumentParser()
    parser.add_argument("--early", action="store_true")
    parser.add_argument("--size", nargs="+", type=int)
    settings = Settings(parser)
    assert settings.read({"early": True, "size": [1, 2]}, "f") == {"early": True, "size": [1, 2]}
    assert settings.read({"early": False, "size": 3}, "f") == {"early": False, "size": [3]}
