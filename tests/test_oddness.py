"""How far needles stand out among the haystack's frames: against the definition, and in a run."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from caches import MeanModel
from PIL import Image

import vniah.embeddings.oddness
from vniah import Grid, generated_haystack, load_needles, run_sweep
from vniah.embeddings.encode import EncodedFrames
from vniah.embeddings.oddness import measure_oddness, oddness_record
from vniah.errors import CacheError
from vniah.haystacks.haystack import open_haystack
from vniah.protocol import FrameSpan, needle_source
from vniah.results import Results
from vniah.results.manifests import oddness_in
from vniah.tasks.controls import plan_samples
from vniah.tasks.placement import insert, needle_spans
from vniah.tasks.vniah import VisualNeedle


class Store:
    """Frames by source, each a row of a table; counts what is read."""

    def __init__(self, **tables: np.ndarray) -> None:
        self.tables = {name.replace("__", "/"): torch.tensor(t) for name, t in tables.items()}
        self.read: list[tuple[str, int]] = []

    def read_runs(self, frames, **_):
        for frame in frames:
            self.read.append((frame.source, frame.index))
            yield self.tables[frame.source][frame.index][None]


def cosine_distance(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one.reshape(-1, one.shape[-1]).mean(0), other.reshape(-1, one.shape[-1]).mean(0)
    return 1 - float(one @ other) / float(np.linalg.norm(one) * np.linalg.norm(other))


def by_definition(haystack: np.ndarray, needle: np.ndarray, indices: list[int]) -> float:
    """The slow way: every frame, every place."""

    def stands_out(frame, neighbours):
        return np.mean([cosine_distance(frame, haystack[k]) for k in neighbours])

    last = len(haystack) - 1
    others = [
        stands_out(haystack[i], [k for k in (i - 1, i + 1) if 0 <= k <= last])
        for i in range(last + 1)
    ]
    shares = []
    for p in indices:
        own = stands_out(needle, [k for k in (p - 1, p) if 0 <= k <= last])
        shares.append(np.mean([other < own for other in others]))
    return float(np.mean(shares))


def walk(num_frames: int, seed: int = 0) -> np.ndarray:
    """Embeddings of a film that changes little by little, ``[num_frames, 2, 6]``."""
    steps = np.random.default_rng(seed).normal(size=(num_frames, 2, 6)) * 0.3
    return 2 + np.cumsum(steps, axis=0)


def shown_at(index: int, num_frames: int, needle: str = "a") -> tuple[FrameSpan, ...]:
    return insert(num_frames, [(index, [FrameSpan(needle_source(needle), 0, 1)])])


def test_oddness_is_as_defined():
    haystack, needles = walk(40), walk(3, seed=1)
    store = Store(haystack=haystack, needles__a=needles[:1], needles__b=needles[1:2])
    indices = [0, 7, 20, 40]
    shown = [shown_at(p, 40, name) for p in indices for name in "ab"]
    found = measure_oddness(store, 40, shown)
    assert found == {
        name: pytest.approx(by_definition(haystack, needle, indices), abs=1e-4)
        for name, needle in zip("ab", needles, strict=False)
    }
    # places that many samples have in common count once
    assert measure_oddness(store, 40, shown * 3) == found


def test_a_needle_of_several_frames_is_held_against_the_haystack_beside_it():
    haystack, clip = walk(30), walk(2, seed=5)
    store = Store(haystack=haystack, needles__a=clip, needles__b=clip[:1])
    spans = insert(30, [(9, [FrameSpan("needles/a", 0, 2), FrameSpan("needles/b", 0, 1)])])
    found = measure_oddness(store, 30, [spans])
    first, second = (by_definition(haystack, frame, [9]) for frame in clip)
    assert found["b"] == pytest.approx(first, abs=1e-4)
    assert found["a"] == pytest.approx((first + second) / 2, abs=1e-4)


def test_a_frame_of_the_haystack_itself_does_not_stand_out():
    haystack = walk(50)
    store = Store(haystack=haystack, needles__a=haystack[10:11])
    # Between the frame itself and the next one it is nearer to its neighbours than most frames.
    assert measure_oddness(store, 50, [shown_at(11, 50)])["a"] < 0.3
    still = Store(haystack=np.repeat(haystack[:1], 50, 0), needles__a=haystack[:1])
    assert measure_oddness(still, 50, [shown_at(11, 50)]) == {"a": 0.0}


def test_nothing_is_said_where_there_is_nothing_to_compare():
    store = Store(haystack=walk(2), needles__a=walk(1))
    alone = (FrameSpan("needles/a", 0, 1),)
    assert measure_oddness(store, 2, [alone, ()]) == {}
    assert measure_oddness(store, 1, [shown_at(0, 1)]) == {}
    assert measure_oddness(store, 2, [(FrameSpan("haystack", 0, 2),)]) == {}


def test_a_long_haystack_costs_a_bounded_number_of_frames():
    haystack = walk(5000)
    names = [f"n{number}" for number in range(20)]
    tables = {f"needles__{name}": walk(1, seed=k) for k, name in enumerate(names)}
    store = Store(haystack=haystack, **tables)
    shown = [shown_at(p, 5000, name) for name in names for p in range(0, 5000, 50)]
    found = measure_oddness(store, 5000, shown)
    assert found.keys() == set(names)
    assert len(store.read) == len(set(store.read)) < 2100
    again = Store(haystack=haystack, **tables)
    assert measure_oddness(again, 5000, shown[::-1]) == found and len(again.read) < 2100
    whole = by_definition(haystack, walk(1, seed=3), list(range(0, 5000, 500)))
    assert found["n3"] == pytest.approx(whole, abs=0.15)


def test_embeddings_of_several_parts_are_held_by_the_first():
    """DeepStack features stand behind the embedding."""
    haystack, needle = walk(20), walk(1, seed=2)
    plain = Store(haystack=haystack, needles__a=needle)
    behind = [np.stack([part, walk(len(part), 9)], 1) for part in (haystack, needle)]
    deep = Store(haystack=behind[0], needles__a=behind[1])
    shown = [shown_at(8, 20)]
    assert measure_oddness(deep, 20, shown) == measure_oddness(plain, 20, shown)


class SeesTiles(MeanModel):
    """Encodes a frame as the mean colours of its 16 tiles."""

    name, frame_shape = "tiles", (16, 48)

    def encode_frames(self, frames):
        small = [
            np.asarray(Image.fromarray(f).resize((4, 4), Image.Resampling.BOX)) for f in frames
        ]
        values = torch.tensor(np.stack(small)).float().reshape(len(frames), 1, 48) - 128
        return values.repeat(1, 16, 1)


def test_cards_are_odd_in_the_generated_film_and_blended_ones_less(film):
    needles, haystack = load_needles("cards"), generated_haystack(64)
    found = {}
    for style in ("frame", "blended"):
        shown = [
            insert(64, [(p, needle_spans(needle, p, VisualNeedle(None, style)._look))])
            for needle in needles
            for p in (5, 30, 64)
        ]
        spans = [span for one in shown for span in one]
        frames = EncodedFrames.of(SeesTiles(), haystack, needles, 64, shown=spans)
        found[style] = oddness_record(frames, shown)["oddness"]
    assert found["frame"].keys() == found["blended"].keys() == set(needles.ids)
    assert np.mean([*found["frame"].values()]) > 0.9
    assert np.mean([*found["blended"].values()]) < 0.6
    assert all(found["blended"][name] < found["frame"][name] for name in needles.ids)


@pytest.mark.parametrize("error", [CacheError("the disk is gone"), RuntimeError("odd shapes")])
def test_a_run_goes_on_where_oddness_cannot_be_measured(monkeypatch, caplog, error):
    def fail(*args):
        raise error

    monkeypatch.setattr(vniah.embeddings.oddness, "measure_oddness", fail)
    with caplog.at_level(logging.WARNING):
        assert oddness_record(EncodedFrames(Store(), 3), []) == {}
    assert f"oddness of the needles could not be measured: {error}" in caplog.text


def test_a_run_records_oddness_and_results_give_it_back(image_folder, needle_folder, tmp_path):
    haystack, needles = open_haystack(image_folder), load_needles(needle_folder)
    results = run_sweep(
        MeanModel(), haystack, needles, Grid.parse("8", "0,1"), output=tmp_path, progress=False
    )
    assert results.oddness == results.manifest["environment"]["forward"]["oddness"]
    assert results.oddness.keys() == set(needles.ids)
    samples = plan_samples(VisualNeedle(), Grid.parse("8", "0,1"), needles, None, "none")
    frames = EncodedFrames.of(MeanModel(), haystack, needles, 8)
    expected = measure_oddness(frames.store, 8, [sample.shown for sample in samples])
    assert results.oddness == expected, "of the test, without controls"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, {}),
        ({"forward": {"oddness": {"a": 1}}}, {"a": 1.0}),
        ({"forward": {"oddness": {"a": 0.5, "b": "x", "c": 2, "d": None}}}, {"a": 0.5}),
        ({"forward": {"oddness": [1]}}, {}),
        ({"forward": {}, "later_starts": [{"forward": {"oddness": {"a": 0.5}}}]}, {"a": 0.5}),
        ({"later_starts": [{"forward": 3}, {}], "forward": {"oddness": {"a": 0.1}}}, {"a": 0.1}),
    ],
)
def test_oddness_is_read_from_whatever_a_manifest_holds(environment, expected):
    assert oddness_in({"environment": environment}) == expected


def test_one_line_says_how_far_needles_stand_out():
    from vniah.analysis.sentences import format_oddness

    found = {"a": 1.0, "b": 0.9}
    manifest = {"environment": {"forward": {"oddness": found}}}
    results = Results("mine", Path(), manifest)
    assert format_oddness(results) == (
        "oddness: 0.95 (from 0.90 to 1.00), the share of the haystack's frames that stand out less "
        "than a needle; 0.5 is a frame like any other"
    )
    assert format_oddness(Results("mine", Path(), {})) is None
