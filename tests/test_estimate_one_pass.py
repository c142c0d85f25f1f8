"""What is said of a map from one pass before it runs, against what is measured."""

import json
import re
from dataclasses import replace

import pytest
import torch
from decoder_models import DecoderStandIn
from test_estimate import RATES, wide_decoder
from test_prefill import allocated_bytes, build_decoder
from text_models import load_language_model, save_language_model
from torch.utils.flop_counter import FlopCounterMode

from vniah.cli import main
from vniah.cli.display import format_estimate
from vniah.engines.inputs import compose_candidates
from vniah.engines.one_pass import PlannedMap
from vniah.engines.splicing import SplicedMap
from vniah.engines.trunks import find_trunk
from vniah.errors import InputError
from vniah.forward.costs import DecoderShape
from vniah.forward.prefill import CHUNK_SIZE
from vniah.grid import Grid
from vniah.haystacks.text import open_text
from vniah.needles import load_needles
from vniah.needles.numbers import number_needles
from vniah.options.approximation import EXACT, Approximation
from vniah.sweep.estimate import estimate
from vniah.sweep.estimate_one_pass import estimate_one_pass, map_memory, map_work
from vniah.sweep.run import run_sweep
from vniah.tasks.base import Sample
from vniah.tasks.placement import insert_needle
from vniah.tasks.vniah import VisualNeedle

GRID = Grid.parse("200,300", "0,0.5,1")


class Blank:
    """In place of a `FrameStore`: frames of zeros."""

    def __init__(self, size):
        self.size = size

    def read_runs(self, frames, **_):
        for span in frames.spans:
            yield torch.zeros(span.num_frames, 3, self.size)


def planned_map(decoder, *, window, max_rows):
    """Some needles at some places of two lengths, in parts of so many rows."""
    model = DecoderStandIn(decoder)
    model.frame_shape = (3, decoder.config.hidden_size)
    places = [(num, at, name) for num in (60, 120) for at in (0, 40, num) for name in "abcdef"]
    samples = [
        Sample(f"-/-/{n}", None, insert_needle(num, at, name), "what is it?", ("7", "13"))
        for n, (num, at, name) in enumerate(places)
    ]
    sequences = [one for sample in samples for one in compose_candidates(model, sample)]
    store = Blank(decoder.config.hidden_size)
    spliced = SplicedMap(model, sequences, find_trunk(model, samples), store, window=3 * window)
    parts = spliced.parts(range(len(sequences)), max_rows)
    return model, PlannedMap(sequences, spliced, parts, ())


def read(index, logits):
    """Logits that nobody keeps."""


@pytest.mark.parametrize(
    ("dtype", "changes", "window", "max_rows"),
    [
        (torch.float32, {}, 1, 10_000),
        (torch.bfloat16, {}, 30, 10_000),  # most rows are the windows'
        (torch.bfloat16, {"num_attention_heads": 16, "intermediate_size": 256}, 1, 10_000),
        (torch.float32, {"intermediate_size": 2048}, 1, 300),  # the trunk's keys are kept
    ],
)
def test_memory_of_a_map_is_what_it_allocates(dtype, changes, window, max_rows, tmp_path):
    decoder = wide_decoder("qwen2", dtype, num_hidden_layers=2, **changes)
    decoder.model.embed_tokens.to(dtype)
    model, planned = planned_map(decoder, window=window, max_rows=max_rows)
    spliced, parts = planned.spliced, planned.parts
    found = map_memory(model, planned, DecoderShape.of(decoder))
    past = spliced.keep_trunk(chunk_size=CHUNK_SIZE) if len(parts) > 1 else None
    assert (past is not None) == (max_rows == 300)
    assert found.store == (0 if past is None else past.store.num_bytes)
    largest = max(parts, key=len)
    spliced.run(largest[:1], read, chunk_size=CHUNK_SIZE, past=past)  # what is allocated once
    peak = allocated_bytes(
        lambda: spliced.run(largest, read, chunk_size=CHUNK_SIZE, past=past),
        tmp_path / "trace.json",
    )
    of_trunk = 8 * spliced.num_trunk  # position ids that are there before
    assert found.needed - found.store == pytest.approx(peak + of_trunk, rel=0.15)


def test_operations_of_a_map_are_those_that_torch_counts():
    decoder = build_decoder("qwen2")
    _, planned = planned_map(decoder, window=1, max_rows=10_000)
    shape, spliced = DecoderShape.of(decoder), planned.spliced
    (part,) = planned.parts
    with FlopCounterMode(display=False) as counter:
        spliced.run(part, read, chunk_size=512)
    counts = counter.get_flop_counts()["Global"]
    counted = counts[torch.ops.aten.mm] + counts.get(torch.ops.aten.addmm, 0)
    num_read = sum(len(one.answer_ids) for one in planned.sequences)
    head = 2 * num_read * shape.hidden_size * shape.vocab_size
    found = map_work(planned, shape, RATES)
    assert found.flops.linear + head == counted
    assert (found.num_passes, found.flops) == (1, spliced.flops(shape, part))
    assert found.num_tokens == spliced.num_trunk + sum(
        members[0].num_own + sum(one.suffix.num_tokens for one in members)
        for members in spliced.branches(part)
    )


def test_an_estimate_is_of_the_samples_that_an_approximate_run_has(tmp_path):
    model = load_language_model(tmp_path / "model", "bytes")
    text, needles = open_text(num_tokens=300), number_needles(2)
    settings = {"task": "niah", "window": 20, "verify": 3}
    found = estimate(model, needles, GRID, haystack=text, rates=RATES, **settings).one_pass
    results = run_sweep(
        *(model, text, needles, GRID),
        output=tmp_path / "run",
        share="one-pass",
        progress=False,
        **settings,
    )
    forward = results.manifest["environment"]["forward"]
    assert found.approximation == results.approximation
    assert found.work.flops.total == forward["flops"] > found.unverified.flops.total
    assert found.work.num_passes == forward["passes"]
    lines = (tmp_path / "run" / "samples.jsonl").read_text().splitlines()
    copies = [line for line in lines if json.loads(line)["control"] == "exact"]
    assert found.num_verified == len(copies) > 0


def test_every_way_is_estimated(checkpoint_model, needle_folder):
    needles = load_needles(str(needle_folder))
    found = estimate(checkpoint_model, needles, Grid.parse("40:200:40", "0:1:0.5"), rates=RATES)
    one = found.one_pass
    assert one.approximation.window == 1 and one.approximation.unit == "frames"
    flops = [work.flops.total for work in (one.unverified, one.work, found.shared, found.alone)]
    assert flops == sorted(flops) and len(set(flops)) == 4
    assert found.memory_alone.store == one.memory.store == 0 < found.memory.store
    text = format_estimate(found)
    assert re.search(r"prefixes once +by itself +one pass +its exact part\n", text)
    assert re.search(r"  one pass, window of 1 frame, approximate +1 ", text)
    assert "  and 12 branches exactly, too" in text
    times = [found.alone.flops.total / work.flops.total for work in (one.unverified, one.work)]
    said = re.search(r"approximate: (\S+) times fewer .* once; (\S+) and", text).groups()
    assert [float(number) for number in said] == pytest.approx(times, rel=0.05)


def test_a_wider_window_takes_more_and_a_whole_one_about_what_the_tree_takes(
    checkpoint_model, needle_folder
):
    needles, grid = load_needles(str(needle_folder)), Grid.parse("40:200:40", "0:1:0.5")
    settings = {"rates": RATES, "controls": "none"}
    found = [
        estimate(checkpoint_model, needles, grid, window=window, **settings)
        for window in (0, 1, 20, 200)
    ]
    flops = [one.one_pass.unverified.flops.total for one in found]
    assert flops == sorted(flops) and len(set(flops)) == 4
    # In the last of two layers most of its rows end early, where the tree's suffixes do not.
    assert 0.5 < flops[-1] / found[0].shared.flops.total < 1.2


def test_what_one_pass_cannot_do_is_a_note_unless_it_is_asked_for(checkpoint_model, needle_folder):
    settings = {"rates": RATES, "num_ranks": 2}
    asked = (checkpoint_model, load_needles(str(needle_folder)), Grid.parse("4,9", "0"))
    found = estimate(*asked, **settings)
    assert found.one_pass is None
    assert "not by one pass: states that all needles share are held by one process" in found.notes
    assert "one pass" not in format_estimate(found).split("note:")[0]
    with pytest.raises(InputError, match="held by one process"):
        estimate(*asked, share="one-pass", **settings)
    with pytest.raises(InputError, match="window must be 0 or more, got -1"):
        estimate(*asked, window=-1, rates=RATES)


def test_samples_that_are_all_run_exactly_take_what_the_tree_takes(checkpoint_model, needle_folder):
    needles, grid = load_needles(str(needle_folder)), Grid.parse("4,9", "0,0.5")
    tests = VisualNeedle().samples(grid, needles, None)
    copies = [replace(one, sample_id=f"{one.sample_id}/{EXACT}", control=EXACT) for one in tests]
    settings = {"attention": "auto", "rates": RATES}
    found = estimate_one_pass(checkpoint_model, (), copies, Approximation(), **settings)
    assert found.memory.needed == 0 < found.exact.needed
    assert found.unverified.flops.total == 0
    asked = {"controls": "none", "rates": RATES}
    assert found.work == estimate(checkpoint_model, needles, grid, **asked).shared


@pytest.fixture
def checkpoint_model(checkpoint):
    from vniah.models.loading import load_model

    return load_model(str(checkpoint), device="cpu")


@pytest.mark.usefixtures("short_measurements")
def test_the_command_estimates_the_way_of_each_run_of_a_sweep(tmp_path, monkeypatch, capsys):
    folder = save_language_model(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweep.toml").write_text(
        f"""
        model = "{folder}"
        depths = "0,0.5"
        tokens = "200,300"
        [tasks.alone]
        task = "niah"
        share = "none"
        [tasks.tree]
        task = "niah"
        [tasks.map]
        task = "niah"
        share = "one-pass"
        verify = 1
        """
    )
    assert main(["estimate", "--config", "sweep.toml"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:5]]
    found = {row[0].rsplit("__")[-1]: row for row in rows}
    assert int(found["map"][1]) > int(found["tree"][1]) == int(found["alone"][1])
    work = [float(found[name][3]) for name in ("map", "tree", "alone")]
    assert work == sorted(work) and len(set(work)) == 3
    assert rows[3][:3] == ["3", "runs", str(sum(int(row[1]) for row in rows[:3]))]
    assert float(rows[3][3]) == pytest.approx(sum(work), rel=0.01)
