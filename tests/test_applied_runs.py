"""Runs with an intervention: two halves in one folder, in pairs, and what is said of them."""

import json
import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from chat_server import write_haystack
from question_sets import row, write_clip, write_lines
from runs import draw_quickly, make_run
from test_format_schema import require_described
from text_models import load_language_model

import vniah
from vniah import load_model, load_needles, load_results, run_sweep
from vniah.analysis.applied import applied_rows
from vniah.analysis.compare import compare
from vniah.analysis.report.command import command_of
from vniah.analysis.report.page import make_report
from vniah.analysis.sentences import format_summary
from vniah.analysis.statistics.intervention import intervention_effect
from vniah.analysis.statistics.paired import paired_difference
from vniah.analysis.table_formats import format_results
from vniah.analysis.verdict import controls_caption, verdict
from vniah.cli import main
from vniah.errors import (
    CheckError,
    InputError,
    ModelError,
    ResultsError,
    RunMismatchError,
    TaskError,
)
from vniah.grid import Grid
from vniah.haystacks.haystack import open_haystack
from vniah.haystacks.text import open_text
from vniah.needles.numbers import number_needles
from vniah.options.intervention import APPLIED
from vniah.options.precision import DEFAULT_PRECISION
from vniah.results import facet_results
from vniah.results.applied import applied_results
from vniah.sweep.estimate import estimate
from vniah.sweep.rescoring.rescoring import rescore
from vniah.sweep.throughput import Rates
from vniah.tasks.controls.applied import Applied

GRID = Grid.parse("1,6,12", "0,0.5,1")
INT8 = "vniah.interventions:int8_keys_values"
HALF = "vniah.interventions:every_second_token"


@contextmanager
def weaker(changes):
    """One layer writes much less, so that some needles are lost, and not all."""
    weight = changes.decoder.model.layers[0].mlp.down_proj.weight
    earlier = weight.data.clone()
    weight.data *= 0.1
    yield
    weight.data.copy_(earlier)


def sees_thirty_tokens(changes):
    changes.window(30)


def leaves_weights(changes):
    changes.decoder.model.layers[0].mlp.down_proj.weight.data *= 0.99


def leaves_settings(changes):
    changes.decoder.model.config.rms_norm_eps = 1e-3


def leaves_long_sequences(changes):
    """Nothing is another for sequences as short as those of the trial."""
    rotary = changes.decoder.model.rotary_emb
    own = rotary.forward
    rotary.forward = lambda x, position_ids: own(x, position_ids.clamp(max=5000))


def leaves_a_hook(changes):
    changes.decoder.model.layers[1].register_forward_hook(lambda *_: None)


@contextmanager
def other_pictures(changes):
    encode = changes.model.encode_frames
    changes.model.encode_frames = lambda frames: encode(frames) * 0.5
    yield
    del changes.model.encode_frames


@contextmanager
def in_its_own_pass_only(changes):
    """What vniah's forward pass does not do: the decoder's own forward scales its input."""
    changes.keys_values(lambda layer, keys, values: (keys, values))
    body = changes.decoder.model
    own = body.forward
    body.forward = lambda *given, inputs_embeds, **more: own(
        *given, inputs_embeds=inputs_embeds * 3 + 1, **more
    )
    yield
    del body.forward


@contextmanager
def no_numbers(changes):
    weight = changes.decoder.model.norm.weight
    saved = weight.data.clone()
    weight.data *= torch.nan
    yield
    weight.data.copy_(saved)


def doubles_frames_in_place(changes):
    changes.frames(lambda frames: frames.mul_(2))


@pytest.fixture(scope="module")
def model():
    return load_model("reference-short", device="cpu")


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    cards = load_needles("cards")
    folder = tmp_path_factory.mktemp("applied")
    haystack = open_haystack(write_haystack(folder / "greys", 12))

    def run(output, model=model, grid=GRID, **options):
        needles = options.pop("needles", cards.select(cards.ids[:4]))
        cache = folder / "cache"
        settings = {"output": output, "cache": cache, "progress": False, **options}
        return run_sweep(model, haystack, needles, grid, **settings)

    return run


@pytest.fixture(scope="module")
def plain(run, tmp_path_factory):
    return run(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def idle(run, tmp_path_factory):
    """With a function that does nothing."""
    return run(tmp_path_factory.mktemp("idle"), apply="vniah.interventions:nothing")


@pytest.fixture(scope="module")
def weak(run, tmp_path_factory):
    """With a function that some needles are lost by."""
    return run(tmp_path_factory.mktemp("weak"), apply=weaker)


def lines_of(folder):
    """The lines of a run as they stand in its file, without the seconds that they took."""
    found = []
    for line in (folder / "samples.jsonl").read_text().splitlines():
        found.append(json.dumps({**json.loads(line), "seconds": None}))
    return found


def copies(results):
    return [one for one in results.control_samples if one.control == APPLIED]


# --- both halves in one folder ---


@pytest.mark.parametrize("name", ["idle", "weak"])
def test_the_untouched_half_is_what_a_run_without_it_writes(request, plain, name):
    found = request.getfixturevalue(name)
    own = [line for line in lines_of(found.path) if f'"{APPLIED}"' not in line]
    assert own == lines_of(plain.path)
    assert found.samples == tuple(
        replace(one, seconds=other.seconds)
        for one, other in zip(plain.samples, found.samples, strict=True)
    )
    new = {"intervention", "controls", "sample_ids", "environment"}
    differing = {k for k in found.manifest if found.manifest[k] != plain.manifest.get(k)}
    assert differing == new
    assert found.manifest["sample_ids"].startswith(plain.manifest["sample_ids"])


def test_its_files_are_as_the_schemas_say(weak):
    require_described(weak.path)
    assert weak.manifest["environment"]["forward"]["applied"]["flops"] > 0


def test_every_sample_of_the_test_has_a_copy(weak):
    assert [one.sample_id for one in copies(weak)] == [
        f"{one.sample_id}/{APPLIED}" for one in weak.samples
    ]
    for one, copy in zip(weak.samples, copies(weak), strict=True):
        assert (copy.cell, copy.question, copy.answer) == (one.cell, one.question, one.answer)
        assert copy.fields == one.fields
    assert weak.num_planned_by_control[APPLIED] == len(weak.samples)


def test_what_does_nothing_makes_exactly_no_difference(idle):
    found = intervention_effect(idle)
    difference = found.whole.difference
    assert difference.estimate == 0 and found.logprob_change == 0
    assert difference.num_fallen == difference.num_risen == 0
    assert difference.num_pairs == len(idle.samples) == 36
    assert difference.p_value == 1
    for one, copy in zip(idle.samples, copies(idle), strict=True):
        assert (copy.logprob, copy.margin, copy.rank) == (one.logprob, one.margin, one.rank)


def test_the_model_is_as_before_afterwards(run, weak, idle, tmp_path):
    assert 0 < applied_results(weak).average < weak.average == 1
    again = run(tmp_path)
    assert [one.logprob for one in again.samples] == [one.logprob for one in idle.samples]


def test_int8_changes_little_and_fewer_tokens_much(run, plain, tmp_path):
    small = run(tmp_path / "int8", apply=INT8)
    changes = [
        abs(copy.logprob - one.logprob)
        for one, copy in zip(plain.samples, copies(small), strict=True)
    ]
    assert 0 < max(changes) < 0.2
    large = run(tmp_path / "half", apply=HALF)
    assert intervention_effect(large).whole.difference.num_fallen > 10
    forward = large.manifest["environment"]["forward"]
    assert forward["applied"]["flops"] < forward["flops"] - forward["applied"]["flops"]
    assert {"tree", "tree, applied"} <= forward["check"].keys()
    record = large.manifest["intervention"]
    assert record["function"] == HALF and len(record["sha256"]) == 64


def test_what_lies_beyond_a_forced_window_is_not_found(run, tmp_path):
    """A frame has 4 tokens, the question some 20, and the model 4 layers."""
    found = run(tmp_path, apply=sees_thirty_tokens)
    effect = intervention_effect(found)
    assert effect.by_length[1].after == 1 and effect.whole.after < 1
    assert {"tree", "tree, applied"} <= found.manifest["environment"]["forward"]["check"].keys()


@pytest.mark.parametrize("num_kept", [3, 40, -1])
def test_a_run_that_was_killed_goes_on(run, weak, tmp_path, num_kept):
    folder = shutil.copytree(weak.path, tmp_path / "run")
    lines = (folder / "samples.jsonl").read_bytes().splitlines(keepends=True)
    kept = lines[:num_kept]
    (folder / "samples.jsonl").write_bytes(b"".join(kept) + lines[-1][:20])
    again = run(folder, apply=weaker)
    assert again.is_complete
    assert sorted(lines_of(folder)) == sorted(lines_of(weak.path))
    before = (folder / "samples.jsonl").read_bytes()
    run(folder, apply=weaker)
    assert (folder / "samples.jsonl").read_bytes() == before, "nothing was left to do"


@pytest.mark.parametrize("other", [None, INT8])
def test_a_folder_holds_one_intervention(run, weak, other):
    with pytest.raises(RunMismatchError, match=r"controls|intervention\.function"):
        run(weak.path, **({} if other is None else {"apply": other}))


def test_another_source_is_another_intervention(run, weak, tmp_path):
    folder = shutil.copytree(weak.path, tmp_path / "run")
    text = (folder / "manifest.json").read_text()
    digest = weak.manifest["intervention"]["sha256"]
    (folder / "manifest.json").write_text(text.replace(digest, "0" * 64))
    with pytest.raises(RunMismatchError, match=r"intervention\.sha256"):
        run(folder, apply=weaker)


def test_generated_answers_are_judged_in_both_halves(run, tmp_path):
    grid = Grid.parse("6", "0,1")
    found = run(tmp_path, grid=grid, scorer="generate", apply=INT8, controls="none")
    assert found.is_complete and len(copies(found)) == 8
    assert {one.argmax_correct for one in copies(found)} == {True}
    half = run(tmp_path / "half", grid=grid, scorer="generate", apply=HALF, controls="none")
    assert intervention_effect(half).whole.after < 1
    again = rescore(half.path, output=tmp_path / "again", answer_rules="contains")
    assert len(copies(again.results)) == 8
    assert intervention_effect(again.results).function == HALF


def test_texts_are_read_with_changed_keys_and_values(tmp_path):
    language_model = load_language_model(tmp_path / "model")
    asked = (language_model, open_text(num_tokens=400), number_needles(2), Grid.parse("300", "0,1"))
    options = {"task": "niah", "progress": False, "controls": "none"}
    found = run_sweep(*asked, output=tmp_path / "run", apply=INT8, **options)
    assert found.is_complete and len(copies(found)) == 4
    assert intervention_effect(found).logprob_change != 0
    with pytest.raises(ModelError, match="changes frames, and the task shows text"):
        run_sweep(*asked, output=tmp_path / "other", apply=HALF, **options)


# --- what is refused before anything is measured ---


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (leaves_weights, "the parameter model.layers.0.mlp.down_proj.weight is another"),
        (leaves_settings, "config of the module decoder is another"),
        (leaves_long_sequences, "forward of the module model.rotary_emb is new"),
        (leaves_a_hook, "_forward_hooks of the module model.layers.1 is another"),
    ],
)
def test_a_model_that_stays_changed_is_refused(run, tmp_path, function, what):
    own = load_model("reference-short", device="cpu")
    reason = rf"{function.__name__} left the model changed \({what}\)"
    with pytest.raises(ModelError, match=reason):
        run(tmp_path / "run", model=own, apply=function)
    assert not (tmp_path / "run").exists()


def test_pictures_that_would_be_encoded_otherwise_are_refused(run, tmp_path):
    with pytest.raises(ModelError, match="other_pictures changes how pictures are encoded, and"):
        run(tmp_path / "run", apply=other_pictures)
    assert not (tmp_path / "run").exists()


def test_what_only_the_models_own_pass_does_is_found_beside_keys_and_values(run, tmp_path):
    with pytest.raises(CheckError, match=r"in_its_own_pass_only the forward pass does") as error:
        run(tmp_path / "run", apply=in_its_own_pass_only)
    assert "answer_logits" not in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_weights_that_are_not_finite_are_the_functions(run, tmp_path):
    reason = "with test_applied_runs:no_numbers the logits of reference-short are not finite"
    with pytest.raises(ModelError, match=reason):
        run(tmp_path / "run", apply=no_numbers)


def test_frames_that_are_changed_in_place_stay_as_they_were_in_the_cache(run, plain, tmp_path):
    grid = Grid.parse("6", "0,1")
    found = run(tmp_path / "run", grid=grid, apply=doubles_frames_in_place)
    again = run(tmp_path / "again", grid=grid)
    assert [one.logprob for one in found.samples] == [one.logprob for one in again.samples]
    assert not list(tmp_path.parent.rglob("*.damaged"))
    assert intervention_effect(found).logprob_change != 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"adaptive": DEFAULT_PRECISION}, "--adaptive chooses samples by scores, and --apply"),
        ({"share": "one-pass"}, "--share one-pass is approximate, and --apply"),
    ],
)
def test_what_does_not_go_with_it_is_refused(run, tmp_path, options, reason):
    with pytest.raises(InputError, match=reason):
        run(tmp_path / "never", apply=INT8, **options)
    assert not (tmp_path / "never").exists()


def test_stopping_early_does_not_go_with_it(run, plain, tmp_path):
    with pytest.raises(InputError, match="--stop-early chooses samples by scores, and --apply"):
        run(tmp_path / "never", apply=INT8, stop_early=plain)


def test_only_decoders_are_changed(run, tmp_path):
    chat = type("Chat", (), {"name": "c", "revision": "1", "answer": lambda *_: "7"})()
    with pytest.raises(InputError, match="changes a decoder that vniah runs, and c has none"):
        run(tmp_path / "never", model=chat, apply=INT8)


def test_the_name_of_its_control_is_taken(run, tmp_path):
    own = type("Own", (Applied,), {})()
    with pytest.raises(TaskError, match="applied is a control of vniah"):
        run(tmp_path, controls=[own])


# --- what is said ---


def planted(*, num_needles=12):
    """A run of 2 lengths and 3 depths: with the intervention the first needles fall at depth 0.5,
    and one that was wrong rises."""
    record = {"function": "mine:prune", "sha256": "0" * 64}
    before = make_run(
        num_needles=num_needles,
        outcome=lambda cell, k: not (k == 11 and cell.num_frames == 16),
        intervention=record,
    )
    after = make_run(
        num_needles=num_needles,
        outcome=lambda cell, k: not (k < 4 and float(cell.depth) == 0.5),
    )
    ids = " ".join(f"{one.sample_id}/{APPLIED}" for one in after.samples)
    manifest = {
        **before.manifest,
        "controls": [APPLIED],
        "sample_ids": f"{before.manifest['sample_ids']} {ids}",
    }
    made = tuple(
        replace(one, sample_id=f"{one.sample_id}/{APPLIED}", control=APPLIED)
        for one in after.samples
    )
    return replace(before, manifest=manifest, control_samples=made)


def test_the_difference_is_that_of_two_runs_of_the_same_samples():
    results = planted()
    found = intervention_effect(results)
    assert found.whole.before == pytest.approx(1 - 3 / 72)
    assert found.whole.after == pytest.approx(1 - 8 / 72)
    assert found.whole.difference == paired_difference(results, applied_results(results))
    assert found.whole.difference.estimate == pytest.approx(-5 / 72)
    assert (found.whole.difference.num_fallen, found.whole.difference.num_risen) == (8, 3)
    by_length = {length: part.difference.estimate for length, part in found.by_length.items()}
    assert by_length == pytest.approx({8: -4 / 36, 16: -1 / 36})
    by_row = {float(row): part.difference.estimate for row, part in found.by_row.items()}
    assert by_row == pytest.approx({0: 1 / 24, 0.5: -7 / 24, 1: 1 / 24})
    interval = found.whole.difference.interval
    assert interval.low < -5 / 72 < interval.high


def test_one_sentence_says_it_with_its_interval():
    text = format_summary(planted())[-1]
    assert text.startswith(
        "with mine:prune: average 0.9583 -> 0.8889, paired difference -0.0694 for these needles; "
    )
    assert "for needles like these (95 %, 12 needles)" in text
    assert text.endswith("11 of 72 samples have another outcome: 8 fell, 3 rose")


@pytest.mark.parametrize("is_right", [True, False])
def test_one_sample_has_another_outcome_or_none(is_right):
    results = planted()
    one = replace(results.control_samples[-1], correct=is_right)
    text = intervention_effect(replace(results, control_samples=(one,))).text
    assert "of 1 sample has another outcome" in text


def test_samples_without_a_score_are_left_out_and_counted():
    results = planted()
    broken = [replace(results.control_samples[0], correct=None, error="out of memory")]
    partial = replace(results, control_samples=(*broken, *results.control_samples[1:-1]))
    text = intervention_effect(partial).text
    assert "10 of 70 samples have another outcome: 8 fell, 2 rose" in text
    assert text.endswith("; 2 samples without a score in both halves are left out")
    nothing = replace(results, control_samples=())
    assert intervention_effect(nothing) is None
    assert not any("with mine" in line for line in format_summary(nothing))


def test_tables_have_the_difference_by_length_and_by_depth():
    results = planted()
    rows = applied_rows(results)
    assert [(row["num_frames"], row["row"]) for row in rows] == [
        *((None, None), (8, None), (16, None)),
        *((None, 0.0), (None, 0.5), (None, 1.0)),
    ]
    assert rows[4]["difference"] == pytest.approx(-7 / 24)
    frame = vniah.table(results, "applied")
    assert frame["difference"].tolist() == pytest.approx([row["difference"] for row in rows])
    text = format_results([results], "applied", "text")
    assert "depth 0.5" in text and "-0.292" in text and "with: mine:prune" in text
    for style in ("markdown", "latex", "csv", "json"):
        assert "prune" in format_results([results, results], "applied", style)
    with pytest.raises(ResultsError, match="have no intervention; give a run with --apply"):
        vniah.table(make_run(), "applied")


@pytest.mark.parametrize("style", ["text", "json"])
def test_a_table_of_a_run_that_was_stopped_before_the_second_half_says_so(style):
    stopped = replace(planned := planted(), control_samples=())
    assert intervention_effect(planned) is not None
    with pytest.raises(ResultsError, match="hold no sample yet that has a score with mine:prune"):
        format_results([stopped], "applied", style)


def test_controls_say_nothing_of_it(weak):
    results = planted()
    assert verdict(results) is None and controls_caption(results) == ()
    assert APPLIED not in " ".join(controls_caption(weak))
    assert not any(one.control == APPLIED for one in verdict(weak).findings)


def test_reports_have_its_table_and_its_command():
    html = make_report([planted()], pictures=False).html
    assert "With and without the intervention" in html and "paired difference -0.0694" in html
    words = command_of(planted().manifest).text
    assert words.endswith("--controls none --apply mine:prune")


def test_halves_are_compared_as_runs_are():
    results = planted()
    found = compare(results, applied_results(results), max_drop=0.1)
    assert not found.passed and found.is_paired and len(found.fallen) == 2
    assert found.candidate == "tiny with prune"
    assert compare(results, results).passed, "the halves without it"


def test_parts_of_a_run_have_no_other_half():
    results = planted()
    (part, *_) = facet_results(results, "needle_id").values()
    assert applied_results(part) is None and intervention_effect(part) is None
    assert format_results([part], "lengths", "text")


def test_an_estimate_counts_both_halves(model, plain):
    needles = load_needles("cards").select(plain.manifest["needles"]["ids"])
    rates = Rates(linear=1e12, attention=1e12, fetching=1e12)
    once, both = (estimate(model, needles, GRID, rates=rates, applies=flag) for flag in (0, 1))
    assert both.num_samples == once.num_samples + 36
    assert both.shared.flops.total == 2 * once.shared.flops.total
    assert both.one_pass is None
    assert any("36 samples are run once more" in note for note in both.notes)


# --- on the command line ---


def test_commands_say_what_an_intervention_changed(tmp_path, capsys, monkeypatch, own_cache):
    draw_quickly(monkeypatch)
    output = str(tmp_path / "run")
    grid = ["--frames", "4,8", "--depths", "0,1", "--controls", "none"]
    asked = ["run", "--model", "reference-short", *grid, "--output", output, "--quiet"]
    assert main([*asked, "--apply", HALF]) == 0
    out = capsys.readouterr().out
    assert f"with {HALF}: average 1.0000 -> " in out and "paired difference -" in out
    assert "without  with  difference" in out
    assert f"difference: {output}/difference.png" in out
    assert (tmp_path / "run" / "difference.png").exists()
    assert main(["compare", output, output, "--applied"]) == 1
    assert "with every_second_token" in capsys.readouterr().out
    assert main(["plot", output, "--kind", "difference"]) == 0
    assert main(["table", output, "--kind", "applied"]) == 0
    assert "4 frames" in capsys.readouterr().out
    assert main(["report", output]) == 0
    assert main(["show", output, "4/0/card-red-7/applied", "--output", f"{output}.png"]) == 0
    assert f"the run has it with {HALF}, which is not applied" in capsys.readouterr().out
    assert main([*asked, "--apply", INT8]) == 2
    assert "intervention.function" in capsys.readouterr().err


def test_questions_about_videos_have_both_halves(tmp_path, capsys, monkeypatch, own_cache):
    draw_quickly(monkeypatch)
    for name in ("a", "b"):
        write_clip(tmp_path / "set" / "videos" / f"{name}.mp4", 12)
    rows = [
        row("a", "one", [3, 7], "3"),
        row("a", "two", [3, 7], "7"),
        row("b", "three", [0, 1], 0),
    ]
    questions, output = write_lines(tmp_path / "set" / "questions.jsonl", rows), tmp_path / "run"
    asked = ["run", "--model", "reference-short", "--task", "vqa", "--haystack", questions.parent]
    options = ["--frames", "4", "--controls", "none", "--output", output, "--quiet"]
    words = ["--task-option", "answers=words", "--apply", HALF]
    assert main([str(one) for one in (*asked, *options, *words)]) == 0
    assert "for videos like these (95 %, 2 videos)" in capsys.readouterr().out
    results = load_results(output)
    assert len(copies(results)) == len(results.samples) == 3
    pairs = zip(results.samples, copies(results), strict=True)
    assert all(abs(one.logprob - copy.logprob) > 1e-3 for one, copy in pairs)


def test_a_file_of_runs_applies_to_some_of_them(tmp_path, capsys, monkeypatch, own_cache):
    for name in ("plot.save_heatmaps", "plot.save_difference_map", "report.save_report"):
        monkeypatch.setattr(f"vniah.analysis.{name}", lambda *given, **_: Path(given[-1]))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "from contextlib import contextmanager\n"
        "@contextmanager\n"
        "def weaker(changes):\n"
        "    weight = changes.decoder.lm_head.weight\n"
        "    earlier = weight.data.clone()\n"
        "    weight.data.zero_()\n"
        "    yield\n"
        "    weight.data.copy_(earlier)\n"
    )
    (tmp_path / "sweep.toml").write_text(
        """
        model = "reference-short"
        frames = [4, 8]
        depths = "0,1"
        controls = "none"
        quiet = true
        output = "out"
        [tasks.changed]
        task = "vniah"
        apply = "mine:weaker"
        [tasks.plain]
        task = "vniah"
        """
    )
    assert main(["run", "--config", "sweep.toml"]) == 0
    out = capsys.readouterr().out
    assert "changed with mine:weaker: average 1.0000 -> 0.0000, paired difference -1.0000" in out
    found = {run["name"]: run for run in json.loads(Path("out/sweep.json").read_text())["runs"]}
    changed, plain = (load_results(Path("out", name)) for name in found)
    assert [one.logprob for one in plain.samples] == [one.logprob for one in changed.samples]
    numbers = [found[name].get("intervention") for name in found]
    assert numbers[0]["difference"] == -1 and numbers[0]["low"] == -1 and numbers[1] is None


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--apply", "int8"], "--apply must be package.module:function, got 'int8'"),
        (["--apply", "vniah.interventions:int4"], "vniah.interventions has no 'int4'"),
        (["--apply", INT8, "--adaptive"], "cannot be combined with --adaptive"),
        (["--apply", INT8, "--share", "one-pass"], "cannot be combined with --share one-pass"),
        (["--apply", INT8, "--stop-early", "run"], "cannot be combined with --stop-early"),
        (["--apply", INT8, "--model", "openai:http://localhost:1#m"], "answers on a server"),
    ],
)
def test_what_cannot_be_applied_is_said_before_a_model_is_loaded(
    capsys, monkeypatch, options, reason
):
    monkeypatch.setattr("vniah.cli.sweeps.session.load_named_model", None)
    assert main(["run", "--frames", "4", "--depths", "0", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line


def test_compare_of_a_run_without_one_says_so(plain, capsys):
    assert main(["compare", str(plain.path), str(plain.path), "--applied"]) == 2
    assert "has no samples with an intervention" in capsys.readouterr().err


def test_a_loaded_run_is_the_run(weak):
    again = load_results(weak.path)
    assert again.samples == weak.samples and again.control_samples == weak.control_samples
    assert intervention_effect(again) == intervention_effect(weak)
