"""From outcomes to lines: scores of somebody's task, answers that are not UTF-8, and exit codes."""

import json
import re
import shutil
from dataclasses import replace

import pytest
from runs import cell

import vniah
from vniah.cli import main
from vniah.errors import TaskError
from vniah.grid import Grid
from vniah.needles import load_needles
from vniah.protocol import FrameSpan
from vniah.results import SampleResult, load_results
from vniah.scoring import Reading, Score
from vniah.sweep.outcomes import result_of
from vniah.sweep.run import Sweep, SweepOptions
from vniah.tasks import Sample, insert_needle

pytestmark = pytest.mark.usefixtures("quick_pictures")

ODD = "7 \udcff\x1b[2J"

SCORE = Score("7", (7,), True, -0.5, 1, 2.0, 0.1)


class Fixed:
    """A task that gives one score, whatever was read."""

    name = "fixed"
    axes = ("num_frames", "depth")

    def __init__(self, score=SCORE, **fields):
        self.given, self.fields = score, fields

    def samples(self, grid, needles, haystack):
        for place in grid.cells:
            for needle in needles:
                yield Sample(
                    place.prefix + needle.needle_id,
                    place,
                    insert_needle(place.num_frames, place.needle_index, needle.needle_id),
                    needle.question,
                    (needle.answer,),
                    fields=self.fields,
                )

    def score(self, sample, readings):
        return self.given


def asked():
    shown = (FrameSpan("haystack", 0, 8),)
    return Sample("8/0.5/red", cell(8, "0.5"), shown, "Which?", ("7",), fields={"needle_id": "red"})


def test_score_becomes_a_line_that_is_read_back():
    result = result_of(Fixed(), asked(), (Reading(0.1),))
    assert result.error is None and SampleResult.from_json(result.to_json()) == result


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": "first"}, "rank must be a whole number or null, got 'first'"),
        ({"rank": 0}, "rank must be"),
        ({"predicted_ids": (7, "x")}, r"predicted_ids\[1\] must be a whole number, got 'x'"),
        ({"predicted_ids": (2**70,)}, "is too large"),
        ({"prediction": b"7"}, "bytes is not JSON serializable"),
        ({"logprob": "x"}, "logprob must be a number or null, got 'x'"),
        ({"margin": float("nan")}, "not finite"),
        ({"prediction": "7" * 2**24}, "its line has 16,777,4"),
    ],
)
def test_score_that_cannot_be_written_is_the_error_of_its_sample(changes, message):
    result = result_of(Fixed(replace(SCORE, **changes)), asked(), (Reading(0.1),))
    assert result.correct is None and result.error is not None
    assert re.search(message, result.error)
    assert SampleResult.from_json(result.to_json()) == result


def test_error_of_a_model_is_cut_where_it_is_endless():
    result = result_of(Fixed(), asked(), "x" * 10**6)
    assert len(result.error) == 10_000
    assert result_of(Fixed(), asked(), "").error == "an error without a message"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"needle_index": 0},
            "contradicts itself: needle_index is 0, and the length 8 at depth 0.5",
        ),
        ({"needle_id": "no such needle"}, "contradicts itself: needle_id is 'no such needle'"),
        ({"seed": 2**64}, "the field 'seed' of the sample .* more than 64 bits"),
    ],
)
def test_sample_whose_line_would_be_refused_is_an_error_before_the_run(
    checkpoint, image_folder, needle_folder, fields, message
):
    parts = vniah.load_model(checkpoint), vniah.open_haystack(image_folder)
    with pytest.raises(TaskError, match=message):
        Sweep(
            *parts,
            load_needles(needle_folder),
            Grid.parse("8", "0.5"),
            SweepOptions(task=Fixed(**fields)),
        )


# --- the command ---------------------------------------------------------------------------------

SPEAKER = """
from pathlib import Path
from vniah.errors import ModelError

class Model:
    name, revision = "speaker \\udcfe", "1"

    def answer(self, frames, question):
        if len(frames) > int(Path("limit").read_text()):
            raise ModelError("too long \\udcfd")
        return "7 \\udcff\\x1b[2J"
"""


@pytest.fixture
def command(tmp_path, monkeypatch, image_folder, needle_folder):
    """Runs a plug-in that answers up to so many frames."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "speaker.py").write_text(SPEAKER)
    model = ["--model", "speaker:Model", "--controls", "none", "--output", "out"]
    place = ["--haystack", str(image_folder), "--needles", str(needle_folder)]

    def run(limit):
        (tmp_path / "limit").write_text(str(limit))
        return main(["run", *model, *place, "--frames", "4,8", "--depths", "0,1"])

    return run


def test_answers_that_are_not_utf8_are_written_drawn_and_gone_on_with(command, tmp_path, capsys):
    assert command(6) == 1
    out = capsys.readouterr().out
    assert "samples could not be run; the first: " in out and "too long \\udcfd" in out
    assert "over 2 of 4 cells" in out and "at 8 frames the mean is over 0 of 2 cells" in out
    results = load_results(tmp_path / "out")
    assert results.samples[0].prediction == ODD and results.name == "speaker \udcfe"
    first = (tmp_path / "out" / "samples.jsonl").read_bytes().splitlines()[0]
    assert json.loads(first.decode())["prediction"] == ODD

    assert command(60) == 0, "started again, without the limit"
    capsys.readouterr()
    lines = (tmp_path / "out" / "samples.jsonl").read_bytes().splitlines()
    assert len(lines) == load_results(tmp_path / "out").num_planned
    assert main(["plot", "out"]) == 0 and main(["compare", "out", "out"]) == 0
    assert "speaker \\udcfe" in capsys.readouterr().out


def test_folder_that_vanishes_under_a_run_is_one_line(command, tmp_path, capsys, monkeypatch):
    from vniah.results.run_folder import RunFolder

    append = RunFolder.append

    def remove_and_append(folder, *line):
        append(folder, *line)
        shutil.rmtree(folder.directory)

    monkeypatch.setattr(RunFolder, "append", remove_and_append)
    assert command(60) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "error:" in line)
    assert "out/samples.jsonl or its manifest was deleted or moved while the run was" in line
    assert not (tmp_path / "out").exists()
