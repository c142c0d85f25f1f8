"""The files of examples/ci are true: commands parse, settings are read, the gate can fall."""

import os
import re
import runpy
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from runs import write_run

from vniah.analysis.compare.rules import make_rules
from vniah.cli.arguments import parse
from vniah.errors import InputError

FOLDER = Path(__file__).parent.parent / "examples" / "ci"
WORKFLOW = yaml.safe_load((FOLDER / "long-context.yml").read_text(encoding="utf-8"))
STEPS = WORKFLOW["jobs"]["retrieval"]["steps"]


def commands() -> list[list[str]]:
    """The commands of vniah in the workflow and on the page, as a shell splits them."""
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
    scripts = [*blocks, *(step["run"] for step in STEPS if "run" in step)]
    found = []
    for line in "\n".join(scripts).splitlines():
        words = shlex.split(line.split(" > ")[0].split(" || ")[0])
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words.pop(0)
        if words and words[0] == "vniah":
            found.append(words[1:])
    return found


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A folder with the files where the page says that they go."""
    shutil.copytree(FOLDER, tmp_path / "ci")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands_parse_with_the_files_that_they_name(repository):
    parsed = [parse(command) for command in commands()]
    names = [options.prog for options in parsed]
    assert {f"vniah {name}" for name in ("run", "estimate", "compare", "report", "watch")} <= {
        *names
    }
    assert len(names) >= 9
    for options in parsed:
        if options.prog == "vniah run":
            (member,) = options.sweep.plan(Path("out")).members
            assert member.options.model == options.model
            assert member.name == "candidate__film__find"


def test_folder_of_the_run_is_named_as_everywhere_in_the_files():
    for path in FOLDER.iterdir():
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        assert set(re.findall(r"\w+__\w+__\w+", text)) <= {"candidate__film__find"}, path.name


def test_a_misspelled_setting_of_the_file_would_be_found(repository):
    path = repository / "ci" / "nightly.toml"
    path.write_text(path.read_text().replace("depths", "depth"))
    with pytest.raises(InputError, match="there is no setting 'depth'; do you mean depths"):
        parse(["run", "--config", "ci/nightly.toml"])


def test_rules_are_read():
    rules = make_rules(FOLDER / "gate.toml", {})
    assert rules.significance == 0.005
    assert rules.floors == {200: 0.95}


def test_what_failed_is_compared_too():
    names = [step.get("name", "") for step in STEPS]
    measure = next(step for step in STEPS if step.get("id") == "measure")
    for step in STEPS[STEPS.index(measure) + 1 : names.index("Compare with the baseline") + 1]:
        assert step["if"] == "${{ !cancelled() && steps.measure.outcome != 'skipped' }}"


def test_ten_newest_runs_stay_on_the_disk_of_the_runner(tmp_path):
    numbers = [*range(95, 107), 7]
    for name in (*numbers, "baseline"):
        (tmp_path / str(name) / "run").mkdir(parents=True)
    environment = {"RUNS": f"{tmp_path}/7", "GITHUB_RUN_ID": "7", "PATH": os.environ["PATH"]}
    script = STEPS[-1]["run"]
    subprocess.run(["bash", "-e", "-c", script], env=environment, check=True)
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == {"baseline", "7", *map(str, range(97, 107))}
    subprocess.run(["bash", "-e", "-c", script], env=environment, check=True)
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_workflow_is_careful():
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert WORKFLOW["concurrency"] == {"group": "long-context", "cancel-in-progress": False}
    assert WORKFLOW["jobs"]["retrieval"]["runs-on"] == ["self-hosted", "gpu"]
    used = [step["uses"] for step in STEPS if "uses" in step]
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", action) for action in used)
    # What anybody may type into a form is a variable of the shell, never a part of its text.
    assert not any("${{" in step.get("run", "") for step in STEPS)


def test_example_for_pytest_holds_and_falls(repository, monkeypatch):
    from vniah.analysis import compare

    grid = {"frames": "200:1000:200", "depths": "0:1:0.2", "num_needles": 20}
    write_run(repository / "ci" / "baseline", **grid)
    good = write_run(repository / "good", **grid, outcome=lambda cell, k: k or cell.depth > 0)
    bad = write_run(repository / "bad", **grid, outcome=lambda cell, k: k > 9)
    test = runpy.run_path(str(repository / "ci" / "test_long_context.py"))
    check = test["test_the_checkpoint_still_finds_needles"]
    monkeypatch.setenv("VNIAH_CANDIDATE", str(good))
    check()
    assert compare.compare("ci/baseline", good, rules="ci/gate.toml").changes
    monkeypatch.setenv("VNIAH_CANDIDATE", str(bad))
    with pytest.raises(AssertionError, match="regression"):
        check()
