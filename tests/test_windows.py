"""Windows behind needles: what each gives and costs, and what a run says whose own is too small."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from decoder_models import DecoderStandIn
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from test_format_schema import faults, validator
from test_prefill import build_decoder
from test_relays import FILM, NEEDLES, RelayReader, sweep

import vniah
from training.chains import RELAY_DISTANCE, WEIGHTS, ChainReader, chained_needles, chained_text
from vniah.analysis.plot.windows import draw_agreement, draw_cost, save_window_curve
from vniah.analysis.statistics.verification import verify
from vniah.analysis.verdict import NOTHING, verdict
from vniah.analysis.windows import WindowCurve, WindowTrial, doubling
from vniah.cli import main
from vniah.engines.one_pass import OnePassEngine
from vniah.errors import InputError, ModelError
from vniah.grid import Grid
from vniah.models.loading import load_model
from vniah.needles import load_needles
from vniah.sweep.windows import WindowTrials, measure_windows
from vniah.tasks.controls.exact import Agreement

ROOT = Path(__file__).resolve().parents[1]


def shipped(output, *, window):
    cards = load_needles("cards")
    return vniah.run_sweep(
        load_model("reference-long", device="cpu"),
        vniah.generated_haystack(12),
        cards.select(cards.ids[:5]),
        Grid.parse("6,12", depths="0,0.5"),
        output=output,
        share="one-pass",
        window=window,
        controls="none",
        progress=False,
    )


def test_a_shipped_model_without_a_window_is_noticed_and_a_window_mends_it(tmp_path, film):
    blind = shipped(tmp_path / "run", window=0)
    assert verify(blind).all.share < 0.5 and blind.average < 0.5
    (said,) = verdict(blind).conspicuous
    assert said.endswith(
        "only, the window is too small: a window of 1 frame agrees in 1.00 of these samples; run "
        "again with --window 1"
    )
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_bytes())
    assert faults(validator("manifest"), manifest) == []
    assert manifest["verification"]["enough_window"] == 1
    mended = shipped(tmp_path / "mended", window=1)
    assert verify(mended).all.share == 1.0 and verdict(mended).text == NOTHING
    assert "tried_windows" not in mended.manifest["verification"]
    corrected = verify(blind).corrected.these
    assert corrected.low <= mended.average <= corrected.high


@pytest.mark.parametrize(
    ("asked", "least", "most", "enough"),
    [("Bob", 1.0, 1.0, 0), ("Cleo", 0.0, 0.5, RELAY_DISTANCE)],
)
def test_a_trained_model_fails_where_it_reads_the_needle_by_way_of_the_haystack(
    tmp_path, asked, least, most, enough
):
    """Two hops it makes at the question; of three, one is made in the middle of the text."""
    needles = chained_needles(asked)
    found = vniah.run_sweep(
        *(ChainReader.load(ROOT / WEIGHTS), chained_text(96), needles.select(needles.ids[:4])),
        Grid.parse("48", depths="0,0.2,0.4", unit="tokens"),
        task="niah",
        output=tmp_path,
        share="one-pass",
        window=0,
        controls="none",
        progress=False,
    )
    record = verify(found)
    assert least <= record.all.share <= most
    assert all(sample.correct for sample in found.control_samples)  # the exact ones
    assert record.corrected.these.low <= 1.0 <= record.corrected.these.high
    assert found.manifest["verification"].get("enough_window", 0) == enough
    assert verdict(found).text.endswith(f"with --window {enough}" if enough else NOTHING)


def test_a_search_that_was_stopped_is_made_up_for_and_one_that_was_made_is_kept(
    tmp_path, monkeypatch, caplog
):
    def fail(self, window):
        raise ModelError("the sample a could not be run: out of memory: no room")

    monkeypatch.setattr("test_relays.FRAMES", "64")
    with monkeypatch.context() as patch:
        patch.setattr(WindowTrials, "at", fail)
        found = sweep(tmp_path, share="one-pass", window=0)
        assert "no larger window could be tried: the sample a could not be run" in caplog.text
        assert "tried_windows" not in found.manifest["verification"]
        assert verdict(found).text.endswith("the window is too small")
    again = sweep(tmp_path, share="one-pass", window=0)
    assert again.manifest["verification"]["enough_window"] == 16
    written = (tmp_path / "manifest.json").read_bytes()
    monkeypatch.setattr(WindowTrials, "at", fail)
    assert sweep(tmp_path, share="one-pass", window=0).samples == again.samples
    assert (tmp_path / "manifest.json").read_bytes() == written


def test_where_no_window_agrees_that_leaves_something_to_share_a_run_says_to_share_the_tree(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("test_relays.FRAMES", "15")  # the last of them is the relay
    monkeypatch.setattr("test_relays.FILM", FILM.__class__("late", FILM.pictures[-15:], "bb" * 32))
    found = sweep(tmp_path, share="one-pass", window=0)
    assert found.manifest["verification"]["enough_window"] is None
    assert verdict(found).text.endswith(
        "no window that leaves something to share agrees in 0.99 of these samples; run again "
        "without --share one-pass"
    )


@pytest.fixture(scope="module")
def curve(tmp_path_factory):
    return measure_windows(
        *(RelayReader(), FILM, NEEDLES, Grid.parse("32,96", depths="0,0.2,0.4")),
        windows=[8, 16, 0, 1000],
        verify=6,
        cache=tmp_path_factory.mktemp("cache"),
    )


def test_agreement_and_cost_grow_with_the_window_up_to_the_exact_pass(curve):
    assert [trial.window for trial in curve.trials] == [0, 8, 16, 96]
    assert [trial.agreement.share for trial in curve.trials[::2]] == [0.0, 1.0]
    flops = [trial.flops for trial in curve.trials]
    assert flops == sorted(flops) and flops[0] < min(curve.flops_of_tree, curve.flops_alone)
    assert curve.enough.window == 16 and curve.is_exact
    assert curve.num_samples == 42 and curve.whole.num_approximate == 0
    assert curve.verdict[0].startswith(
        "smallest window with an agreement of at least 0.99: 16 frames (1.000), with "
    )
    assert curve.verdict[1].endswith(" allowed): exact")


def test_a_whole_window_that_is_not_exact_is_said_to_be_wrong(monkeypatch, tmp_path):
    monkeypatch.setattr(OnePassEngine, "at_window", lambda self, window: None)
    found = measure_windows(
        *(RelayReader(), FILM, NEEDLES, Grid.parse("32", depths="0")),
        windows=[],
        verify=2,
        cache=tmp_path,
    )
    assert not found.is_exact and found.enough is None
    assert found.verdict[1].endswith("NOT exact, as it has to be")


@pytest.mark.parametrize(
    ("shares", "enough"),
    [((0, 10, 10), 1), ((10, 9, 10), None), ((10, 10, 10), 0), ((9, 9, 9), None)],
)
def test_enough_is_the_smallest_window_from_which_on_all_agree(shares, enough):
    trials = tuple(
        WindowTrial(window, Agreement(10, equal, None, None), 10, 1)
        for window, equal in enumerate(shares)
    )
    found = WindowCurve("m", "h", "1 cell", "tokens", 10, 1, 5, trials, 20, 30, 5, 0, 0.1)
    assert (None if found.enough is None else found.enough.window) == enough
    assert found.rows[1][2:4] == ("-", "-") and len({*map(len, found.rows)}) == 1


def test_windows_double():
    assert doubling(0, 9) == [0, 1, 2, 4, 8] and doubling(6, 13) == [6, 12]
    assert doubling(4, 4) == []


def test_a_curve_is_drawn(curve, tmp_path, quick_pictures):
    assert save_window_curve(curve, tmp_path / "windows.svg").stat().st_size > 10_000


@pytest.mark.parametrize("num_windows", [4, 1])
def test_axes_say_different_numbers_at_different_places(curve, num_windows):
    figure = Figure()
    axes = figure.subplots(1, 2)
    some = replace(curve, trials=curve.trials[-num_windows:])
    for ax, draw in zip(axes, (draw_agreement, draw_cost), strict=True):
        draw(some, ax)
        FigureCanvasAgg(figure).draw()
        assert ax.get_xlabel() == "Window behind each needle (frames)"
        for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
            texts = [label.get_text() for label in labels]
            assert len({*texts}) == len(texts) >= 1
    assert [float(line.get_ydata()[0]) for line in axes[1].lines[1:]] == [
        curve.flops_of_tree,
        curve.flops_alone,
    ]


class Chat:
    name, revision = "chat", "1"

    def answer(self, frames, question):
        return "7"


def changing():
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
    return DecoderStandIn(build_decoder("llama", rope_parameters=rope))


@pytest.mark.parametrize(
    ("make", "options", "why"),
    [
        (Chat, {}, "chat has no decoder .*check --one-pass needs a model with a decoder"),
        (changing, {}, "depends on the length"),
        (RelayReader, {"task": "niah-multi"}, "the task niah-multi"),
        (RelayReader, {"verify": 0}, "at least 1 branch is run exactly"),
    ],
)
def test_what_one_pass_cannot_do_is_refused_in_one_line(make, options, why):
    with pytest.raises((InputError, ModelError), match=why) as caught:
        measure_windows(
            make(), FILM, NEEDLES, Grid.parse("8", depths="0"), **{"verify": 1, **options}
        )
    assert "\n" not in str(caught.value)


def test_check_prints_a_table_and_draws_it(
    checkpoint, image_folder, needle_folder, tmp_path, capsys, quick_pictures
):
    asked = ["check", "--model", str(checkpoint), "--device", "cpu", "--quiet"]
    asked += ["--needles", str(needle_folder), "--haystack", str(image_folder)]
    assert main(asked) == 2
    assert "--haystack is for the check of one pass over a haystack" in capsys.readouterr().err
    picture = tmp_path / "windows.png"
    asked += ["--one-pass", "--windows", "0,2", "--verify", "2", "--output", str(picture)]
    assert main([*asked, "--frames", "4,8", "--depths", "0.5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert picture.is_file() and lines[-1] == f"windows: {picture}"
    heading = next(
        number for number, line in enumerate(lines) if line.startswith("window (frames)")
    )
    assert [line.split("  ")[-1] != "" for line in lines[heading : heading + 4]] == [True] * 4
    assert lines[heading + 3].strip().startswith("all 8  ")
    assert lines[-2].endswith(": exact")
