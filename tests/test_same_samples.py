"""Two runs with different grids have the same samples for the cells that they share.

In every task that comes with vniah: the same ids, frames, questions and answers, and by a model
whose logits depend on nothing but what it reads, the same lines in all bits.
"""

from collections.abc import Mapping
from fractions import Fraction

import pytest
import torch
from decoder_models import ids, rows_of
from hypothesis import given, settings
from hypothesis import strategies as st
from needle_sets import FRAME_TASKS, numbered_needles

from vniah.analysis.compare import compare
from vniah.errors import CannotCompareError, RunMismatchError
from vniah.grid import Grid
from vniah.haystacks.haystack import open_haystack
from vniah.needles import NeedleSet
from vniah.protocol import TextSegment, TokenSequence
from vniah.sweep.run import run_sweep
from vniah.tasks import load_task
from vniah.tasks.controls import plan_samples

# Besides the defaults, options under which more is drawn or placed.
OPTIONS: Mapping[str, Mapping[str, str]] = {
    "vniah": {"needle_frames": "2"},
    "vniah-d": {"distractors": "0,3", "distance": "20%,spread", "similarity": "far,2"},
    "retrieve-all": {"num_needles": "2,4", "spacing": "20%"},
    "count": {"counts": "0,3", "spacing": "2,20%", "answers": "words"},
    "order": {"num_needles": "2,3", "spacing": "20%"},
    "bridged": {"others": "0,1", "distance": "3,20%"},
}
CASES = [(name, {}) for name in FRAME_TASKS] + [(name, OPTIONS[name]) for name in OPTIONS]
NEEDLES = numbered_needles(6, distractors=4)

FRAMES = st.sets(st.integers(10, 30), min_size=1, max_size=2)
DEPTHS = st.sets(st.fractions(0, 1, max_denominator=10), min_size=1, max_size=2)
# Few samples and candidates, for each is run.
SMALL: Mapping[str, Mapping[str, str]] = {
    "retrieve-all": {"num_needles": "2"},
    "count": {"counts": "1,2"},
    "order": {"num_needles": "2"},
    "bridged": {"others": "0"},
    "localization": {"parts": "3"},
}


@pytest.mark.parametrize(("name", "options"), CASES)
@settings(max_examples=2, deadline=None)
@given(one=st.tuples(FRAMES, DEPTHS), other=st.tuples(FRAMES, DEPTHS), shared=st.data())
def test_samples_of_shared_cells_are_the_same(name, options, one, other, shared):
    num_frames = shared.draw(st.sampled_from(sorted(one[0])))
    depth = shared.draw(st.sampled_from(sorted(one[1])))
    grids = [
        Grid.of(one[0], one[1]),
        Grid.of(other[0] | {num_frames}, other[1] | {depth}),
        Grid.of([num_frames], [depth]),
    ]
    planned = []
    for grid in grids:
        samples = plan_samples(load_task(name, options), grid, NEEDLES, None, "none")
        planned.append({sample.sample_id: sample for sample in samples})
        assert len(planned[-1]) == len(samples)
    cells = {(num_frames, depth)}
    for found in planned[:2]:
        same = {k: v for k, v in found.items() if (v.num_frames, v.cell.depth) in cells}
        assert same and same == planned[2]
    for sample_id in planned[0].keys() & planned[1].keys():
        assert planned[0][sample_id] == planned[1][sample_id]


@pytest.mark.parametrize(
    "name", [name for name in OPTIONS if name not in ("retrieve-all", "order")]
)
def test_samples_of_a_selection_of_needles_are_the_same(name):
    """Groups are made of the needles that are selected; else a selection changes nothing."""
    grid = Grid.parse("20", "0,0.4")
    few = NEEDLES.select(["n4", "n2", "n0"])
    task = load_task(name, OPTIONS[name])
    whole = {one.sample_id: one for one in task.samples(grid, NEEDLES, None)}
    own = list(task.samples(grid, few, None))
    assert own and all(whole[one.sample_id] == one for one in own)


class Remembers:
    """Its logits are drawn from a checksum of all that it reads, and from nothing else."""

    name, revision = "remembers", "1"
    frame_shape = (1, 8)

    def encode_frames(self, frames):
        return torch.stack([rows_of(frame.tobytes(), 1)[:, :8] for frame in frames])

    def compose(self, frames, question, answer):
        return TokenSequence((*frames, TextSegment(ids(question))), ids(answer))

    def answer_logits(self, sequence, embeds):
        content = embeds.numpy().tobytes() + repr(sequence.segments).encode()
        return rows_of(content, len(sequence.answer_ids)).repeat(1, 2)


def sweep(name, grid, folder, haystack, needles=NEEDLES, **options):
    return run_sweep(
        Remembers(),
        haystack,
        needles,
        grid,
        output=folder,
        task=name,
        task_options=options,
        controls="none",
        progress=False,
    )


@pytest.mark.parametrize("name", FRAME_TASKS)
def test_lines_of_shared_cells_agree_in_all_bits(name, tmp_path, image_folder):
    haystack, needles, options = (
        open_haystack(image_folder),
        numbered_needles(3),
        SMALL.get(name, {}),
    )
    grids = {"large": Grid.parse("10,13", "0.5"), "small": Grid.parse("13", "0.5,1")}
    large, small = (
        sweep(name, grid, tmp_path / which, haystack, needles, **options)
        for which, grid in grids.items()
    )
    lines = {}
    for sample in (*large.samples, *small.samples):
        line = {**sample.record(), "seconds": None}
        assert sample.error is None
        if sample.num_frames == 13 and sample.depth == Fraction(1, 2):
            lines.setdefault(sample.sample_id, []).append(line)
    assert lines
    for both in lines.values():
        assert len(both) == 2 and both[0] == both[1]


# --- what the manifest says of it ----------------------------------------------------------------


def redeclared() -> NeedleSet:
    """The same needles, with other distractors."""
    return numbered_needles(6, distractors=3)


def test_run_with_other_distractors_is_another_run(tmp_path, image_folder):
    haystack, grid = open_haystack(image_folder), Grid.parse("10", "0.5")
    folders = [tmp_path / name for name in ("one", "other")]
    sweep("vniah-d", grid, folders[0], haystack, similarity="far")
    with pytest.raises(RunMismatchError, match=r"needles\.declared_sha256"):
        sweep("vniah-d", grid, folders[0], haystack, redeclared(), similarity="far")
    sweep("vniah-d", grid, folders[1], haystack, redeclared(), similarity="far")
    with pytest.raises(CannotCompareError, match=r"differ in needles\.declared_sha256"):
        compare(*folders)


def test_run_with_other_options_cannot_be_compared(tmp_path, image_folder):
    """Although its samples have the same ids."""
    haystack, grid = open_haystack(image_folder), Grid.parse("10", "0.5")
    folders = [tmp_path / "1", tmp_path / "2"]
    for folder in folders:
        sweep("vniah", grid, folder, haystack, needle_frames=folder.name)
    with pytest.raises(
        CannotCompareError, match=r"differ in task_details.settings.needle_frames: 1"
    ):
        compare(*folders)


def test_what_needles_declare_is_no_part_of_a_run_that_does_not_use_it(tmp_path, image_folder):
    haystack, grid = open_haystack(image_folder), Grid.parse("10", "0.5")
    plain = sweep("vniah", grid, tmp_path, haystack)
    assert "declared_sha256" not in plain.manifest["needles"]
    assert sweep("vniah", grid, tmp_path, haystack, redeclared()).is_complete, "it goes on"
