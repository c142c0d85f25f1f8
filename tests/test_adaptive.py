"""Adaptive sweeps: which cells are chosen, what is known from them, and how a sweep goes on.

The choice is tried on simulated models whose truth is known; the sweep itself on a model that looks
back no more than some frames.
"""

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from planted_models import DIGITS, PlantedChat, honest, write_needles
from runs import make_run, write_run
from scipy.special import ndtri

import vniah
from vniah.analysis.statistics.effective import find_effective_length
from vniah.analysis.statistics.partial import LengthBounds, PartialLength, partial_lengths
from vniah.analysis.table_formats import format_results
from vniah.analysis.table_layouts import layouts
from vniah.analysis.verdict import verdict
from vniah.cli import main
from vniah.errors import CannotCompareError, InputError
from vniah.grid import Cell, Grid
from vniah.haystacks.haystack import open_haystack
from vniah.models.loading import load_model
from vniah.needles import load_needles
from vniah.options.precision import DEFAULT_PRECISION, Precision
from vniah.results import load_results
from vniah.sweep.run import run_sweep
from vniah.sweep.search import coarse_places, next_cells

pytestmark = pytest.mark.usefixtures("quick_pictures", "checked_once")

LENGTHS = tuple(range(64, 1025, 64))
DEPTHS = tuple(Fraction(k, 5) for k in range(6))


class Simulated:
    """Outcomes ``[num_needles, num_lengths, num_depths]`` that are seen cell by cell."""

    def __init__(self, right, lengths=LENGTHS, depths=DEPTHS):
        self.right, self.lengths = right, lengths
        self.cells = [tuple(Cell(length, depth) for depth in depths) for length in lengths]
        self.rounds = []
        self.parts = [self.part(place, set()) for place in range(len(lengths))]

    def part(self, place, seen):
        cells = self.cells[place]
        rows = [row for row, cell in enumerate(cells) if cell in seen]
        outcomes = self.right[:, place]
        scores = {cells[k]: Fraction(int(outcomes[:, k].sum()), len(outcomes)) for k in rows}
        needles = np.tile(outcomes[:, rows].mean(axis=1), (2, 1)) if rows else None
        return PartialLength(self.lengths[place], cells, scores, needles)

    def search(self, precision=DEFAULT_PRECISION, guess=None):
        seen = set()
        while cells := next_cells(LengthBounds(self.parts, threshold=0.9), precision, guess):
            assert not seen & set(cells), "no cell is measured twice"
            seen |= set(cells)
            self.rounds.append(cells)
            for place in {self.lengths.index(cell.num_frames) for cell in cells}:
                self.parts[place] = self.part(place, seen)
        return LengthBounds(self.parts, threshold=0.9).find()

    def whole(self):
        everything = {cell for cells in self.cells for cell in cells}
        self.parts = [self.part(place, everything) for place in range(len(self.lengths))]
        return LengthBounds(self.parts, threshold=0.9).find()


def flat(means):
    """The same score at all depths."""
    return np.repeat(np.asarray(means, dtype=float)[:, None], len(DEPTHS), axis=1)


PLACE = np.arange(1, len(LENGTHS) + 1)
MIDDLE = np.where((np.arange(6) % 5 > 1)[None], np.clip(1.1 - 0.05 * PLACE, 0, 1)[:, None], 0.99)
TRUTHS = {
    "all right": flat(np.ones(16)),
    "all wrong": flat(np.zeros(16)),
    "sharp": flat(np.where(PLACE <= 6, 0.99, 0.2)),
    "gradual": flat(np.clip(0.9 - 0.02 * (PLACE - 5.3), 0, 1)),
    "slow": flat(0.9 - 0.004 * (PLACE - 8.3)),
    "on the threshold": flat(np.full(16, 0.9)),
    "just below": flat(np.full(16, 0.8999)),
    "lost in the middle": MIDDLE,
}


def draw(truth, num_needles, icc, rng):
    """Outcomes of needles that differ: ``icc`` is the share of the variance that is theirs."""
    effect = rng.standard_normal((num_needles, 1, 1)) * np.sqrt(icc)
    noise = rng.standard_normal((num_needles, *truth.shape)) * np.sqrt(1 - icc)
    return noise + effect < ndtri(truth)


def true_length(truth):
    good = truth.mean(axis=1) >= 0.9 - 1e-12
    num_good = len(good) if good.all() else int(np.argmin(good))
    return LENGTHS[num_good - 1] if num_good else 0


def is_in(length, low, high):
    return (low or 0) <= length <= (high or 0)


@pytest.mark.parametrize("name", TRUTHS)
def test_intervals_hold_although_lengths_were_chosen_by_the_scores(name):
    rng = np.random.default_rng(3)
    truth = TRUTHS[name]
    num_runs = num_held = num_in = 0
    for num_needles, icc in ((10, 0.3), (40, 0.0), (40, 0.3)):
        for _ in range(4):
            right = draw(truth, num_needles, icc, rng)
            found, whole = Simulated(right).search(), Simulated(right).whole()
            num_runs += 1
            num_held += is_in(true_length(truth), found.low, found.high)
            num_in += is_in(found.at_least or 0, whole.low, whole.high)
    assert num_held >= num_runs - 1, "96 of 100 or more in larger simulations"
    assert num_in == num_runs, "the length is in the interval of the whole grid"


@pytest.mark.parametrize("name", TRUTHS)
def test_a_guess_changes_what_it_costs_and_not_what_is_found(name):
    rng = np.random.default_rng(5)
    truth = TRUTHS[name]
    for _ in range(3):
        right = draw(truth, 40, 0.1, rng)
        whole = Simulated(right).whole()
        for guess in (0, whole.at_least or 0, 320, 1024, 5000):
            run = Simulated(right)
            found = run.search(guess=guess)
            assert is_in(found.at_least or 0, whole.low, whole.high)
            assert is_in(true_length(truth), found.low, found.high) or name == "on the threshold"


def test_a_right_guess_takes_fewer_rounds():
    right = draw(flat(np.where(PLACE <= 12, 1.0, 0.0)), 20, 0.0, np.random.default_rng(1))
    rounds = {}
    for guess in (None, 768, 64):
        run = Simulated(right)
        assert run.search(Precision.read("1"), guess).at_least == 768
        rounds[guess] = sum(map(len, run.rounds))
    assert rounds[768] < rounds[None]


@pytest.mark.parametrize("last", range(17))
def test_sharp_fall_is_found_exactly_where_the_precision_asks_for_it(last):
    right = np.broadcast_to((last >= PLACE)[None, :, None], (10, 16, 6))
    sim = Simulated(right)
    found, whole = sim.search(Precision()), Simulated(right).whole()
    expected = LENGTHS[last - 1] if last else None
    assert found.at_least == found.at_most == whole.at_least == expected
    assert sum(map(len, sim.rounds)) <= 30, "of 96 cells"


def test_precision_leaves_a_range_open_and_no_more():
    right = np.broadcast_to((PLACE <= 11)[None, :, None], (10, 16, 6))
    coarse, fine = Simulated(right), Simulated(right)
    found = coarse.search(Precision.read("50%"))
    assert found.at_least <= 704 <= found.at_most <= 1.5 * found.at_least
    exact = fine.search(Precision.read("64"))
    assert exact.at_least <= 704 <= exact.at_most <= exact.at_least + 64
    assert sum(map(len, coarse.rounds)) < sum(map(len, fine.rounds))


def test_depths_are_added_where_scores_differ():
    """Only the cells at depths 0.4 and 0.6 are wrong, at 640 frames and more."""
    right = np.ones((10, 16, 6), dtype=bool)
    right[:, 9:, 2:4] = False
    sim = Simulated(right)
    found = sim.search(Precision())
    assert found.at_least == found.at_most == 576
    assert len(sim.parts[8].scores) == 6, "the length that was found has all depths"
    assert len(sim.parts[15].scores) < 6, "what is too long has those that show it"
    assert len(sim.parts[12].scores) == 0, "and some lengths have none"


def test_late_depths_come_first_as_they_cost_least():
    sim = Simulated(np.zeros((10, 16, 6), dtype=bool))
    assert sim.search().at_most is None
    assert sim.rounds == [(Cell(64, Fraction(3, 5)), Cell(64, Fraction(1)))]


def test_one_cell_and_one_length_and_one_needle():
    for right in (np.ones((1, 1, 1), dtype=bool), np.zeros((1, 1, 1), dtype=bool)):
        sim = Simulated(right, (64,), (Fraction(0),))
        assert sim.search().at_least == (64 if right.all() else None)
        assert sim.rounds == [(Cell(64, Fraction(0)),)]


def test_coarse_lengths():
    assert coarse_places([5]) == (0,)
    assert coarse_places([10, 15, 19]) == (0, 2)
    assert coarse_places(list(range(200, 3001, 200))) == (0, 1, 3, 7, 14)


# --- what is known of lengths ---------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_bounds_of_a_complete_run_are_the_effective_length_and_its_interval(seed):
    rng = np.random.default_rng(seed)
    num_needles = int(rng.integers(3, 60))
    fall = rng.uniform(0.0, 0.4)

    def outcome(cell, k):
        if rng.random() < 0.02:
            return "out of memory"
        return bool(rng.random() > fall * cell.num_frames / 128)

    run = make_run("8:128:24", "0:1:0.5", num_needles=num_needles, outcome=outcome)
    found = LengthBounds(partial_lengths(run), threshold=0.9).find()
    known = find_effective_length(run)
    assert found.at_least == found.at_most == known.num_frames
    assert (found.low, found.high) == (known.low, known.high)


def adaptive_run(is_run, is_right, **options):
    """A run in memory whose manifest says that it is adaptive, with some of its cells."""
    return make_run(
        *("8:64:8", "0:1:0.25"),
        outcome=lambda cell, k: is_right(cell, k) if is_run(cell) else None,
        adaptive={"precision": "10%", "threshold": 0.9},
        **options,
    )


def test_bounds_hold_whatever_the_cells_that_were_not_run_had_given():
    rng = np.random.default_rng(0)
    outcomes = {}

    def is_right(cell, k):
        return outcomes.setdefault((cell, k), bool(rng.random() > cell.num_frames / 200))

    whole = make_run("8:64:8", "0:1:0.25", outcome=is_right)
    exact = {part.num_frames: part for part in partial_lengths(whole)}
    some = adaptive_run(lambda cell: rng.random() < 0.5, is_right)
    assert some.is_adaptive
    for part in partial_lengths(some):
        found = exact[part.num_frames]
        assert part.least <= found.mean <= part.most
        if part.scores:
            inner, outer = found.interval(0.95), part.interval(0.95)
            assert outer.low <= inner.low + 1e-9 and inner.high <= outer.high + 1e-9


def test_cell_whose_samples_are_not_all_there_counts_as_not_run():
    run = make_run(
        *("8,16", "0,1"),
        outcome=lambda cell, k: None if (cell.num_frames, k) == (16, 3) else True,
        adaptive={"precision": "10%", "threshold": 0.9},
    )
    first, second = partial_lengths(run)
    assert first.is_whole and not second.scores
    assert find_effective_length(run).at_most == 16


def test_summary_says_what_is_known_and_what_is_not():
    run = adaptive_run(lambda cell: cell.num_frames in (8, 16, 40), lambda c, k: c.num_frames < 40)
    summary = vniah.summarize(run)
    (line,) = summary.lines
    assert "with these needles 16 to 32 frames (32 s, 128 tokens), as not all lengths" in line
    assert line.endswith("with needles like these at most 32 frames (95 %)")
    assert summary.effective_length.short == ("16-32", "<= 32")
    assert set(summary.by_length) == {8, 16, 40}
    assert summary.needles_like_these is None and summary.depth_effects == ()


@pytest.mark.parametrize(
    ("is_run", "is_right", "text"),
    [
        (lambda cell: False, lambda c, k: True, "not known, no length is complete"),
        (lambda cell: cell.num_frames == 8, lambda c, k: False, "below 8 frames"),
        (lambda cell: cell.num_frames == 64, lambda c, k: False, "at most 56 frames"),
        (lambda cell: cell.num_frames == 8, lambda c, k: True, "8 to 64 frames"),
        (lambda cell: cell.num_frames == 64, lambda c, k: True, "at least 64 frames"),
    ],
)
def test_odd_adaptive_runs_have_a_summary(is_run, is_right, text):
    run = adaptive_run(is_run, is_right)
    assert text in vniah.summarize(run).effective_length.text
    assert all(isinstance(part, str) for part in vniah.summarize(run).effective_length.short)


# --- precision ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "frames"), [("10%", 50), ("12.5 %".replace(" ", ""), 62)])
def test_precision_as_a_share(text, frames):
    precision = Precision.read(text)
    assert precision.is_enough(500, 500 + frames) and not precision.is_enough(500, 501 + frames)
    assert Precision.read(str(precision)) == precision


@pytest.mark.parametrize("text", ["", "ten", "-5", "1.5", "101%", "1e3", "5%%", "nan", "٣%"])
def test_precision_that_cannot_be_meant_is_refused(text):
    with pytest.raises(InputError, match="precision"):
        Precision.read(text)


# --- a sweep --------------------------------------------------------------------------------------

FRAMES = (2, 4, 6, 8, 10, 12, 14, 16, 18, 20)
GRID = Grid.of(FRAMES, [0, 0.25, 0.5, 0.75, 1])
FINE = Precision.read("10%")


def short_sighted(seen, question):
    """Sees the last nine frames, the needle among them."""
    return honest(seen[-9:], question)


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("material")
    film = folder / "film"
    film.mkdir()
    for k in range(max(FRAMES)):
        Image.new("RGB", (8, 8), (40 + 5 * k,) * 3).save(film / f"{k:02d}.png")
    needles = load_needles(write_needles(folder / "cards", letters=False))
    return PlantedChat(short_sighted), open_haystack(film), needles


@pytest.fixture(scope="module")
def some(material, tmp_path_factory):
    return sweep(material, tmp_path_factory.mktemp("some"))


@pytest.fixture(scope="module")
def whole(material, tmp_path_factory):
    return run_sweep(*material, GRID, output=tmp_path_factory.mktemp("whole"), progress=False)


def lines_of(folder):
    rows = map(json.loads, (folder / "samples.jsonl").read_text().splitlines())
    return {row["sample_id"]: {**row, "seconds": None} for row in rows}


def sweep(material, output, **options):
    options = {"adaptive": FINE, "progress": False, **options}
    return run_sweep(*material, GRID, output=output, **options)


def test_adaptive_sweep_finds_the_length_of_the_whole_grid_by_some_of_its_lines(some, whole):
    found = load_results(some.path)
    everything = lines_of(whole.path)
    assert whole.num_planned > 2 * found.num_done
    assert all(everything[name] == line for name, line in lines_of(some.path).items())
    length = vniah.summarize(found).effective_length
    assert length.num_frames == length.at_most == vniah.summarize(whole).effective_length.num_frames
    record = found.manifest["adaptive"]
    assert (record["precision"], record["threshold"]) == ("10%", 0.9) and record["rounds"] > 3


def test_controls_are_those_of_the_lengths_that_were_measured(some):
    measured = {sample.num_frames for sample in some.samples}
    own = {s.num_frames for s in some.control_samples if s.control == "no-needle"}
    assert own == measured < set(FRAMES)
    assert sum(s.num_frames is None for s in some.control_samples) == len(DIGITS), "blind"
    found = verdict(some)
    assert found is not None and not found.gaps and "lacks" not in found.text


def test_sweep_killed_anywhere_goes_on_and_ends_the_same(material, some, tmp_path):
    first = lines_of(some.path)
    manifest = json.loads((some.path / "manifest.json").read_text())
    for num_lines in (0, 7, len(first) // 2, len(first) - 1):
        output = tmp_path / str(num_lines)
        output.mkdir()
        begun = {**manifest, "adaptive": {"precision": "10%", "threshold": 0.9}}
        (output / "manifest.json").write_text(json.dumps(begun))
        lines = (some.path / "samples.jsonl").read_text().splitlines(keepends=True)
        (output / "samples.jsonl").write_text("".join([*lines[:num_lines], '{"sample_id": "c']))
        sweep(material, output)
        assert list(lines_of(output).items()) == list(first.items()), "in the same order, too"
        again = json.loads((output / "manifest.json").read_text())
        assert again["adaptive"] == manifest["adaptive"]


def test_second_start_does_no_work(material, some, tmp_path):
    for name in ("manifest.json", "samples.jsonl"):
        (tmp_path / name).write_bytes((some.path / name).read_bytes())
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.json*")}
    seen = []
    sweep(material, tmp_path, on_progress=lambda *step: seen.append(step))
    assert seen == []
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.json*")} == before


def test_the_rest_is_measured_by_the_same_command_without_adaptive(material, some, whole, tmp_path):
    for name in ("manifest.json", "samples.jsonl"):
        (tmp_path / name).write_bytes((some.path / name).read_bytes())
    full = sweep(material, tmp_path, adaptive=None)
    assert full.is_complete and not full.is_adaptive
    assert lines_of(tmp_path) == lines_of(whole.path)
    assert full.manifest.keys() == whole.manifest.keys(), "nothing says that it was adaptive"
    assert vniah.summarize(full).lines == vniah.summarize(whole).lines


def test_results_that_are_there_do_not_change_what_is_chosen(material, some, whole, tmp_path):
    """An adaptive start on a whole run that was stopped, with other cells than it would choose."""
    alone = set(lines_of(some.path))
    (tmp_path / "begun").mkdir()
    for name in ("manifest.json", "samples.jsonl"):
        (tmp_path / "begun" / name).write_bytes((whole.path / name).read_bytes())
    path = tmp_path / "begun" / "samples.jsonl"
    lines = path.read_text().splitlines(keepends=True)[-30:]
    path.write_text("".join(lines))
    there = set(lines_of(path.parent))
    sweep(material, tmp_path / "begun")
    assert set(lines_of(path.parent)) == alone | there


def test_error_is_run_again_and_does_not_stop_the_sweep(material, tmp_path):
    _, haystack, needles = material
    failing = [True]

    def say(seen, question):
        return 7 if failing[0] and len(seen) == 9 else short_sighted(seen, question)

    model = PlantedChat(short_sighted)
    model._say = say
    found = sweep((model, haystack, needles), tmp_path)
    errors = [s for s in found.samples if s.error is not None]
    assert errors and {s.num_frames for s in errors} == {8}
    assert vniah.summarize(found).effective_length.num_frames == 6, "errors count as wrong"
    failing[0] = False
    again = sweep((model, haystack, needles), tmp_path)
    assert not any(s.error for s in again.samples)
    assert vniah.summarize(again).effective_length.num_frames == 8


def test_positions_are_refused(material, tmp_path):
    grid = Grid.of(FRAMES, positions=[0, 1])
    with pytest.raises(InputError, match=r"--adaptive cannot be combined with --positions"):
        run_sweep(*material, grid, output=tmp_path, adaptive=DEFAULT_PRECISION)


def test_manifest_with_an_odd_record_is_refused(tmp_path):
    folder = write_run(tmp_path / "run", adaptive={"precision": "10%", "threshold": 0.9})
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"10%"', "10"))
    with pytest.raises(vniah.VniahError, match=r"adaptive.precision|precision"):
        load_results(folder)


def test_rounds_of_a_decoder_give_the_numbers_of_the_whole_grid(
    checkpoint, image_folder, needle_folder, tmp_path, monkeypatch
):
    """Each round is planned by itself; the rounds here take every second cell."""
    sources = load_model(checkpoint, device="cpu"), open_haystack(image_folder)
    grid, order = Grid.of([3, 7, 12], [0, 0.3, 1]), []

    def next_of(bounds, precision, guess):
        known = {cell for length in bounds.lengths for cell in length.scores}
        order.append([cell for cell in grid.cells[::2] if cell not in known][:2])
        return tuple(order[-1])

    needles = load_needles(needle_folder)
    whole = run_sweep(*sources, needles, grid, output=tmp_path / "whole", progress=False)
    monkeypatch.setattr("vniah.sweep.adaptive.next_cells", next_of)
    some = run_sweep(
        *(*sources, needles, grid),
        output=tmp_path / "some",
        adaptive=DEFAULT_PRECISION,
        progress=False,
    )
    assert [len(cells) for cells in order] == [2, 2, 1, 0] and len(some.cells) == 5
    known = {line.sample_id: line for line in (*whole.samples, *whole.control_samples)}
    for line in (*some.samples, *some.control_samples):
        other = known[line.sample_id]
        assert line.predicted_ids == other.predicted_ids and line.correct == other.correct
        assert line.logprob == pytest.approx(other.logprob, abs=1e-4)
        assert line.fields == other.fields
    record = some.manifest["adaptive"]
    assert record["rounds"] == 3 and record["flops"] > 0
    assert record["flops_of_grid"] == whole.manifest["environment"]["forward"]["flops"]


# --- beside other runs ----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:of adaptive runs:UserWarning")
def test_adaptive_run_is_compared_in_the_cells_that_both_measured(some, whole, tmp_path):
    found = vniah.compare(whole, some)
    assert found.passed and len(found.changes) == len(some.cells)
    left_out = len(whole.cells) - len(some.cells)
    assert f"{len(some.cells)} cells that both measured are compared" in found.warning
    assert f"{left_out} cells of the baseline are left out" in found.warning
    backwards = vniah.compare(some, whole)
    assert backwards.num_apart == 0 and len(backwards.changes) == len(some.cells)


@pytest.mark.filterwarnings("ignore:of adaptive runs:UserWarning")
def test_rules_of_the_candidate_are_not_held_against_a_part_of_the_grid(some, whole):
    assert vniah.compare(whole, some, min_effective_length=8).passed
    assert not vniah.compare(whole, some, min_effective_length=10).passed
    assert vniah.compare(whole, some, floors={8: 0.9}).passed, "the length that was found"
    with pytest.raises(CannotCompareError, match="min_mean asks for an average over 50 cells, and"):
        vniah.compare(whole, some, min_mean=0.5)
    with pytest.raises(CannotCompareError, match="floors asks for an average over 5 cells, and"):
        vniah.compare(whole, some, floors={20: 0.1})


def test_adaptive_run_that_was_stopped_is_not_compared(some, whole, tmp_path):
    record = {"precision": "10%", "threshold": 0.9}
    stopped = replace(some, manifest={**some.manifest, "adaptive": record})
    with pytest.raises(CannotCompareError, match="is not complete"):
        vniah.compare(whole, stopped)
    assert "adaptive, not finished" in notes_below(stopped)


def test_runs_without_a_measured_cell_in_common_are_not_compared(whole, tmp_path):
    first, second = (
        replace(
            whole,
            samples=tuple(s for s in whole.samples if s.num_frames in lengths),
            manifest={
                **whole.manifest,
                "adaptive": {"precision": "1", "threshold": 0.9, "rounds": 1},
            },
        )
        for lengths in ((2, 4), (6, 8))
    )
    with pytest.raises(CannotCompareError, match="no measured cell in common"):
        vniah.compare(first, second)


def notes_below(results):
    return "\n".join(layouts([results], "cells")[0].notes)


def test_tables_and_pictures_say_what_was_not_measured(some):
    (table,) = layouts([some], "cells")
    text = f"measured {len(some.cells)} of 50 cells, chosen by their scores (adaptive): the average"
    assert text in notes_below(some)
    assert any("." in row for row in table.rows[1:])
    (by_needle,) = layouts([some], "needles")
    assert any("chosen by their scores (adaptive)" in note for note in by_needle.notes)
    record = json.loads(format_results([some], "lengths", "json"))["results"][0]
    length = vniah.summarize(some).effective_length
    assert record["effective_length"]["at_most"] == length.at_most
    rows = vniah.table(some, "lengths")
    partial = rows["num_cells"] < rows["num_planned_cells"]
    assert rows["score"][partial][1:].isna().all() and rows["low"][0] is not rows["score"][0]
    assert rows["low"][0] != rows["low"][0], "no interval of an average over chosen cells"
    ax = vniah.heatmap(some, Figure().subplots())
    shown = " ".join(text.get_text() for text in ax.figure.findobj(Text))
    assert f"measured {len(some.cells)} of 50 cells: adaptive" in shown.replace("\n", " ")
    drawn = np.ma.asarray(ax.collections[0].get_array())
    assert drawn.count() == len(some.cells), "the others are blank"


# --- the command line -----------------------------------------------------------------------------


def load_short_sighted():
    return PlantedChat(short_sighted)


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Options for a run of the model that looks back nine frames."""
    film = tmp_path / "film"
    film.mkdir()
    for k in range(max(FRAMES)):
        Image.new("RGB", (8, 8), (40 + 5 * k,) * 3).save(film / f"{k:02d}.png")
    monkeypatch.chdir(tmp_path)
    return [
        *("run", "--model", "test_adaptive:load_short_sighted", "--haystack", str(film)),
        *("--needles", str(write_needles(tmp_path / "cards", letters=False))),
        *("--frames", "2:20:2", "--depths", "0:1:0.25"),
    ]


def test_command_says_what_was_not_run_and_completes_it_later(command, capsys):
    assert main([*command, "--adaptive", "--precision", "0"]) == 0
    output = capsys.readouterr()
    assert "with these needles 8 frames (8 s" in output.out
    assert "of 50 cells, chosen by their scores (adaptive)" in output.out
    assert "; the same command without --adaptive measures the rest" in output.err
    assert main([*command, "--adaptive", "--precision", "0"]) == 0
    assert "nothing to do: what it takes is there already" in capsys.readouterr().out
    (folder,) = (path.parent for path in Path("results").glob("*/manifest.json"))
    num_lines = len(lines_of(folder))
    assert main(command) == 0
    assert "adaptive" not in capsys.readouterr().out
    assert len(lines_of(folder)) > num_lines and load_results(folder).is_complete


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--precision", "5%"], "--precision is for adaptive sweeps: add --adaptive"),
        (["--adaptive", "--precision", "half"], "a precision cannot be 'half': write a share such"),
        (["--adaptive", "--positions", "0,1"], "--adaptive cannot be combined with --positions"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_in_one_line(command, capsys, options, text):
    if "--positions" in options:
        command = command[: command.index("--depths")]
    assert main([*command, *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert text in line
