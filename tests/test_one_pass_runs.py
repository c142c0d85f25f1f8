"""Runs by one pass: exact where they have to be, verified, and never mixed with exact ones."""

import json
import shutil
from dataclasses import replace

import pytest
from chat_server import write_haystack
from needle_sets import FRAME_TASKS
from test_niah import samples_of
from text_models import load_language_model

from vniah import load_model, load_needles, load_results, run_sweep
from vniah.analysis.statistics.verification import verify
from vniah.engines.base import EngineOptions
from vniah.engines.choosing import choose_engine
from vniah.errors import InputError, RunMismatchError, TaskError
from vniah.grid import Grid
from vniah.haystacks.haystack import open_haystack
from vniah.haystacks.text import open_text
from vniah.needles.numbers import number_needles
from vniah.options.approximation import EXACT, Approximation
from vniah.options.precision import DEFAULT_PRECISION
from vniah.sweep.outcomes import result_of
from vniah.tasks import load_task
from vniah.tasks.base import Sample
from vniah.tasks.controls import plan_samples
from vniah.tasks.controls.exact import Exact, branch_of

GRID = Grid.parse("1,6,12", "0,0.5,1")
WHOLE = 12
"""A window that reaches the question at every length."""


@pytest.fixture(scope="module")
def model():
    return load_model("reference-short", device="cpu")


@pytest.fixture(scope="module")
def needles():
    cards = load_needles("cards")
    return cards.select(cards.ids[:2])


@pytest.fixture(scope="module")
def haystack(tmp_path_factory):
    return open_haystack(write_haystack(tmp_path_factory.mktemp("film") / "greys", 12))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def run(model, haystack, needles, cache):

    def run(output, grid=GRID, needles=needles, **options):
        return run_sweep(
            model,
            haystack,
            needles,
            grid,
            output=output,
            cache=cache,
            progress=False,
            **options,
        )

    return run


@pytest.fixture(scope="module")
def tree(run, tmp_path_factory):
    return run(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="module")
def blind(run, tmp_path_factory):
    """Without a window, which the embedded models cannot do without."""
    return run(tmp_path_factory.mktemp("blind"), share="one-pass", window=0, verify=6)


def by_id(samples):
    return {sample.sample_id: sample for sample in samples}


def require_equal(found, expected):
    assert found.keys() == expected.keys()
    for key, one in expected.items():
        assert found[key].correct == one.correct and found[key].rank == one.rank
        assert found[key].logprob == pytest.approx(one.logprob, abs=1e-4)
        assert found[key].approximate is None


def test_a_whole_window_gives_what_the_tree_gives(run, tree, tmp_path):
    found = run(tmp_path, share="one-pass", window=WHOLE)
    require_equal(by_id(found.samples), by_id(tree.samples))
    others = [sample for sample in found.control_samples if sample.control != EXACT]
    require_equal(by_id(others), by_id(tree.control_samples))
    assert verify(found).all.share == 1.0


def test_nothing_is_approximate_but_what_stands_behind_a_needle(blind, tree):
    exact = by_id(tree.samples)
    marked = {sample.sample_id for sample in blind.samples if sample.approximate}
    behind = [s for s in blind.samples if s.cell.needle_index < s.num_frames]
    # With one frame of haystack there is more to compute than to share: it is run exactly.
    assert marked == {sample.sample_id for sample in behind if sample.num_frames > 1}
    others = [sample for sample in blind.samples if sample.sample_id not in marked]
    assert len(others) == 3 * 2 + 2 * 2
    for sample in others:
        assert sample.logprob == pytest.approx(exact[sample.sample_id].logprob, abs=1e-4)
    differences = [abs(one.logprob - exact[one.sample_id].logprob) for one in blind.samples]
    assert max(differences) > 1
    lines = map(json.loads, (blind.path / "samples.jsonl").read_text().splitlines())
    of_tests = [line for line in lines if line["control"] is None]
    assert {line["sample_id"] for line in of_tests if line.get("approximate")} == marked


def test_copies_are_run_exactly(blind, tree):
    exact = by_id(tree.samples)
    copies = [sample for sample in blind.control_samples if sample.control == EXACT]
    assert copies and sum(copy.fields["num_draws"] for copy in copies) >= 6
    for copy in copies:
        one = exact[copy.sample_id.removesuffix(f"/{EXACT}")]
        assert copy.logprob == pytest.approx(one.logprob, abs=1e-4)
        assert copy.approximate is None and copy.correct == one.correct


def test_a_run_says_how_far_it_agrees(blind):
    assert blind.manifest["approximation"] == {
        "share": "one-pass",
        "window": 0,
        "window_unit": "frames",
        "verify": 6,
    }
    found = verify(blind)
    assert found.record().items() <= blind.manifest["verification"].items()
    assert blind.manifest["verification"]["enough_window"] == 1
    assert found.all.share < 0.9 and found.num_draws == 6
    assert "approximate: one pass, window of 0 frames" in blind.name
    forward = blind.manifest["environment"]["forward"]
    assert forward["share"] == "one-pass"
    assert forward["exact_samples"] == found.all.num_pairs
    assert forward["check"]["one pass, whole window"]["max_difference"] < 1e-3
    assert 0 < forward["flops_of_exact_samples"] < forward["flops"] < forward["flops_not_shared"]


def test_the_corrected_mean_covers_the_exact_one(blind, tree):
    found = verify(blind)
    assert abs(blind.average - tree.average) > 0.1
    assert found.corrected.these.low <= tree.average <= found.corrected.these.high
    for length, corrected in found.corrected_by_length.items():
        at_length = [s.correct for s in tree.samples if s.num_frames == length]
        exact = sum(at_length) / len(at_length)
        assert corrected.these.low <= exact <= corrected.these.high


@pytest.mark.parametrize(
    ("options", "setting"),
    [({}, "approximation"), ({"share": "one-pass", "window": 1, "verify": 6}, "window = 0")],
)
def test_a_folder_never_holds_both(run, blind, options, setting):
    with pytest.raises(RunMismatchError, match=setting):
        run(blind.path, **options)
    assert load_results(blind.path).samples == blind.samples


def test_a_run_that_was_stopped_goes_on(run, blind, tmp_path):
    shutil.copytree(blind.path, tmp_path / "a")
    path = tmp_path / "a" / "samples.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[::3]) + lines[1][:40])
    again = run(tmp_path / "a", share="one-pass", window=0, verify=6)
    assert again.is_complete
    expected = by_id(blind.samples)
    for key, sample in by_id(again.samples).items():
        assert sample.logprob == pytest.approx(expected[key].logprob, abs=1e-4)
    assert again.manifest["verification"]["samples"] == verify(blind).all.num_pairs


@pytest.mark.parametrize("name", FRAME_TASKS)
def test_tasks_of_frames_run_on_it_without_knowing(model, name, haystack, cache):
    needles = load_needles("cards")
    few = needles if name == "bridged" else needles.select(needles.ids[:3])
    own = {"order": {"num_needles": "2"}, "count": {"counts": "1,2"}}
    task = load_task(name, own.get(name))
    samples = plan_samples(task, Grid.parse("8,12", "0.5"), few, haystack)
    shown = [span for sample in samples for span in sample.shown]
    found = {}
    for share in ("tree", "one-pass"):
        engine = choose_engine(
            model, EngineOptions(share=share, approximation=Approximation(WHOLE + 40))
        )
        engine.prepare(haystack, few, 12, shown=shown, cache=cache)
        num_batches = engine.plan(samples, [True] * len(samples))
        results = [result for batch in range(num_batches) for result in engine.run(batch)]
        found[share] = by_id(result_of(task, *result) for result in results)
    require_equal(found["one-pass"], found["tree"])


def test_text_runs_on_it(tmp_path):
    model = load_language_model(tmp_path, "bytes")
    grid = Grid.parse("250,400", "0,1", unit="tokens")
    found = run_sweep(
        model,
        open_text(num_tokens=400),
        number_needles(2),
        grid,
        task="niah",
        output=tmp_path / "run",
        share="one-pass",
        verify=2,
        progress=False,
    )
    assert found.approximation == Approximation(32, 2, "tokens")
    assert "window of 32 tokens" in found.name and found.is_complete
    assert verify(found).num_draws == 2


def test_what_cannot_be_shared_is_refused(model, needles, run, tmp_path):
    def refuse(match, error=InputError, **options):
        with pytest.raises(error, match=match):
            run(tmp_path / "never", **options)

    refuse("window is of runs that share .* leave out --window 2", window=2)
    refuse("leave out --verify 3", share="tree", verify=3)
    refuse("at least 1 branch is run exactly", share="one-pass", verify=0)
    refuse("--adaptive chooses samples", share="one-pass", adaptive=DEFAULT_PRECISION)
    refuse("leave out --scorer generate", share="one-pass", scorer="generate")
    refuse(
        "more than one step from needle to needle",
        share="one-pass",
        window=0,
        task="bridged",
        needles=load_needles("cards"),
    )
    assert not (tmp_path / "never").exists()
    chat = type("Chat", (), {"name": "c", "revision": "1", "answer": lambda *_: "7"})()
    with pytest.raises(InputError, match="one-pass needs a model with a decoder"):
        choose_engine(chat, EngineOptions(share="one-pass"))


def test_an_adaptive_run_begins_where_an_approximate_one_says(run, blind, tmp_path):
    found = run(tmp_path / "run", adaptive=DEFAULT_PRECISION, screen=blind)
    assert found.manifest["adaptive"]["guess"] == 1
    assert found.approximation is None and found.is_finished
    with pytest.raises(InputError, match="add --adaptive, or leave out --screen"):
        run(tmp_path / "other", screen=blind.path)
    text = replace(blind, axis="tokens")
    with pytest.raises(InputError, match="lengths count tokens, and those of this sweep frames"):
        run(tmp_path / "other", adaptive=DEFAULT_PRECISION, screen=text)


def test_the_name_of_its_control_is_taken(run, tmp_path):
    own = type("Own", (Exact,), {})(1)
    with pytest.raises(TaskError, match="exact is a control of vniah"):
        run(tmp_path, controls=[own])


def test_branches_are_prefixes_of_one_another():
    samples, _ = samples_of("bytes", grid=Grid.parse("250,400", "0,1"))
    assert len({branch_of(sample) for sample in samples}) >= 4
    nothing = Sample("-/-/x/blind", None, (), "what?", ("7",), control="blind")
    assert branch_of(nothing) == (None,)
