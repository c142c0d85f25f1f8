"""Perplexity by position: documents, losses, folders, buckets, tables, pictures, the commands."""

import csv
import io
import json
from dataclasses import replace
from math import exp, log
from pathlib import Path

import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator
from matplotlib.figure import Figure
from scipy import stats
from text_models import KINDS, load_language_model
from tokenizers.processors import TemplateProcessing

from vniah.analysis.perplexity import (
    default_bucket,
    format_perplexity,
    perplexity_between,
    perplexity_by_position,
    perplexity_labels,
    summarize_perplexity,
)
from vniah.analysis.perplexity_tables import format_perplexities
from vniah.analysis.plot import perplexity_curves, save_perplexity_curves
from vniah.cli import main
from vniah.engines import document_losses as losing
from vniah.engines.document_losses import document_losses
from vniah.engines.documents import cut_documents
from vniah.errors import (
    CheckError,
    HaystackTooShortError,
    InputError,
    ModelError,
    ResultsError,
    RunMismatchError,
)
from vniah.haystacks.text import TextHaystack, find_sentence_ends, open_text
from vniah.results import RunFolder, format_schema, load_results, load_run
from vniah.results.perplexity import (
    DocumentLosses,
    PerplexityResults,
    _Document,
    _Settings,
    load_perplexity,
)
from vniah.results.sample_file import locked
from vniah.sweep import perplexity as measuring
from vniah.sweep.perplexity import measure_perplexity

PROSE = open_text(num_tokens=3000)
RESULTS = Path(__file__).resolve().parents[1] / "results"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return load_language_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def measured(tiny, tmp_path_factory):
    """Three documents of 70 tokens."""
    output = tmp_path_factory.mktemp("measured") / "out"
    return measure_perplexity(
        tiny, PROSE, num_tokens=70, num_documents=3, output=output, progress=False
    )


def made(nats, *, first=1, trained=None, name="m", path="out", **model) -> PerplexityResults:
    """Results with given losses, ``[num_documents, num_tokens]``."""
    found = tuple(
        DocumentLosses(number, 0, 1, first, np.array(row, dtype=np.float64))
        for number, row in enumerate(nats)
    )
    model |= {"name": name} | ({} if trained is None else {"trained_tokens": trained})
    settings = {
        "format_version": 1,
        "model": model,
        "haystack": {"name": "text"},
        "num_tokens": first + len(nats[0]),
    }
    return PerplexityResults(Path(path), settings, found)


# --- documents -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_documents_begin_with_sentences_and_share_nothing(kind, tmp_path):
    model = load_language_model(tmp_path, kind)
    cut = cut_documents(model, PROSE, 61)
    found = [next(cut) for _ in range(4)]
    ends, before = {0, *find_sentence_ends(PROSE.body)}, 0
    for one in found:
        assert one.start >= before
        assert not PROSE.body[one.start].isspace()
        assert len(PROSE.body[: one.start].rstrip()) in ends, "a sentence begins there"
        whole = model._tokenizer(PROSE.body[one.start : one.start + 2000])["input_ids"]
        tokens = (*one.sequence.pieces[0].token_ids, *one.sequence.answer_ids)
        assert tokens == tuple(whole[:61]) and one.first == 1
        before = one.stop
    assert [one.number for one in found] == [0, 1, 2, 3]


def test_a_token_before_every_text_is_what_the_first_one_is_predicted_from(tmp_path):
    model = load_language_model(tmp_path)
    plain = next(cut_documents(model, PROSE, 20))
    model._tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="</s> </s> $A", special_tokens=[("</s>", model._tokenizer.eos_token_id)]
    )
    found = next(cut_documents(model, PROSE, 20))
    assert found.first == 2 and len(found.sequence.answer_ids) == 18
    whole = (*plain.sequence.pieces[0].token_ids, *plain.sequence.answer_ids)
    assert found.sequence.answer_ids == whole[:18], "all tokens of the text count"
    assert len(next(cut_documents(model, PROSE, 3)).sequence.answer_ids) == 1
    with pytest.raises(InputError, match=r"of 2 tokens has none that is predicted.*at least 3"):
        next(cut_documents(model, PROSE, 2))


def test_a_text_that_is_too_short_is_refused_before_anything_is_measured(tiny, tmp_path):
    body = "It rained. Then it was dry. "
    short = TextHaystack("short", "text", "0", body)
    with pytest.raises(HaystackTooShortError, match=r"short has 1 document of 9 tokens .* 2 are n"):
        measure_perplexity(tiny, short, num_tokens=9, num_documents=2, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    empty = TextHaystack("empty", "text", "0", "")
    with pytest.raises(HaystackTooShortError, match="empty has 0 documents"):
        next(cut_documents(tiny, empty, 5))


def test_a_text_without_sentences_is_cut_all_the_same(tiny):
    rain = TextHaystack("rain", "text", "0", "rain and more rain " * 40)
    cut = cut_documents(tiny, rain, 30)
    one, other = next(cut), next(cut)
    assert one.start == 0 and one.stop <= other.start < one.stop + 2


# --- losses --------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_tokens", [2, 3, 37, 300])
def test_the_mean_is_the_loss_of_transformers(tiny, num_tokens):
    document = next(cut_documents(tiny, PROSE, num_tokens))
    found = document_losses(tiny, document.sequence, chunk_size=7)
    ids = torch.tensor([*document.sequence.pieces[0].token_ids, *document.sequence.answer_ids])
    with torch.inference_mode():
        loss = tiny.decoder(input_ids=ids[None], labels=ids[None], use_cache=False).loss
    assert found.shape == (num_tokens - 1,)
    torch.testing.assert_close(found.mean(), loss, atol=1e-5, rtol=1e-5)


def test_stored_losses_are_those_that_were_computed(tiny, measured):
    cut = cut_documents(tiny, PROSE, 70)
    stored = load_perplexity(measured.path)
    for one in stored.documents:
        document = next(cut)
        assert (one.number, one.start, one.stop) == (
            *(document.number, document.start),
            document.stop,
        )
        expected = document_losses(tiny, document.sequence).numpy()
        assert np.array_equal(one.nats.astype(np.float32), expected)
    assert stored.manifest["model"]["revision"] == tiny.revision
    assert stored.manifest["environment"]["check"]["tokens"] == 69
    assert stored.trained_tokens == 2048


def test_memory_that_runs_out_makes_chunks_smaller_then_is_one_line(tiny, monkeypatch):
    document, sizes = next(cut_documents(tiny, PROSE, 50)), []
    own = losing.token_losses

    def losses(*arguments, chunk_size, **options):
        sizes.append(chunk_size)
        if chunk_size > 512 or "never" in sizes:
            raise RuntimeError("CUDA out of memory")
        return own(*arguments, chunk_size=chunk_size, **options)

    expected = document_losses(tiny, document.sequence)
    monkeypatch.setattr(losing, "token_losses", losses)
    assert torch.equal(document_losses(tiny, document.sequence), expected)
    assert sizes == [2048, 1024, 512]
    sizes.append("never")
    with pytest.raises(ModelError, match="a pass over 50 tokens does not fit into the memory of"):
        document_losses(tiny, document.sequence)


def test_schemas_describe_what_is_written(measured):
    content = json.loads((measured.path / "perplexity.json").read_bytes())
    document = json.loads((measured.path / "document-0001.json").read_bytes())
    settings, losses = (
        Draft202012Validator(format_schema(name)) for name in ("perplexity", "document")
    )
    assert settings.is_valid(content) and losses.is_valid(document)
    for found, one in ((settings, content), (losses, document)):
        for name in one:
            assert not found.is_valid({**one, name: [[one[name]]]}), name
            left = {key: value for key, value in one.items() if key != name}
            assert not found.is_valid(left) or name in ("kind", "definition", "environment"), name
        assert not found.is_valid({**one, "unknown": 1})
    check = content["environment"]["check"]
    for name in check:
        changed = {**content, "environment": {"check": {**check, name: "x"}}}
        assert not settings.is_valid(changed), name
    # What is read of the files is described, with its bounds.
    declared = format_schema("perplexity")["properties"]
    assert {*_Settings.__annotations__} <= {*declared}
    assert {*_Document.__annotations__} == {*format_schema("document")["properties"]}
    assert not losses.is_valid({**document, "nats": []})
    assert not losses.is_valid({**document, "nats": [-0.5]})


def test_numbers_that_overflow_are_never_stored(tiny, tmp_path, monkeypatch):
    own = measuring.document_losses
    bad = torch.tensor([1.0, float("nan"), float("inf")])
    monkeypatch.setattr(measuring, "document_losses", lambda *a, **k: own(*a, **k) + bad)
    with pytest.raises(ModelError, match=r"no finite probability at position 2 of document 0, and"):
        measure_perplexity(tiny, PROSE, num_tokens=4, num_documents=1, output=tmp_path / "out")
    assert not list(tmp_path.rglob("document*"))


def test_a_forward_pass_that_differs_from_the_models_own_is_refused(tiny, tmp_path, monkeypatch):
    own = losing.token_losses
    monkeypatch.setattr(losing, "token_losses", lambda *a, **k: own(*a, **k) + 0.01)
    with pytest.raises(CheckError, match="other losses in vniah's forward pass than in its own"):
        measure_perplexity(tiny, PROSE, num_tokens=40, num_documents=1, output=tmp_path / "out")


# --- folders -------------------------------------------------------------------------------------


def test_documents_that_are_done_are_not_done_again(tiny, measured, monkeypatch):
    before = {path.name: path.stat().st_mtime_ns for path in measured.path.glob("*.json")}
    lost = measured.path / "document-0001.json"
    text = lost.read_text()
    lost.unlink()
    asked = []
    own = measuring.document_losses

    def losses(model, sequence, **options):
        asked.append(sequence)
        return own(model, sequence, **options)

    monkeypatch.setattr(measuring, "document_losses", losses)

    def again(num):
        return measure_perplexity(
            tiny, PROSE, num_tokens=70, num_documents=num, output=measured.path, progress=False
        )

    found = again(3)
    assert len(asked) == 1 and lost.read_text() == text
    assert len(again(2).documents) == 3, "those that are there stay"
    assert len(asked) == 1 and len(found.documents) == 3
    after = {path.name: path.stat().st_mtime_ns for path in measured.path.glob("*.json")}
    assert {name for name in before if before[name] != after[name]} == {lost.name}


def test_a_text_under_another_name_goes_on_in_its_folder(tiny, measured, tmp_path):
    folder = copied(measured, tmp_path)
    renamed = replace(PROSE, name="renamed")
    found = measure_perplexity(
        tiny, renamed, num_tokens=70, num_documents=4, output=folder, progress=False
    )
    assert len(found.documents) == len(load_perplexity(folder).documents) == 4
    assert load_perplexity(folder).haystack_name == PROSE.name


def test_only_one_process_writes_to_a_folder(tiny, measured, tmp_path):
    folder = copied(measured, tmp_path)
    with locked(folder), pytest.raises(ResultsError, match="another process is writing to"):
        measure_perplexity(
            tiny, PROSE, num_tokens=70, num_documents=4, output=folder, progress=False
        )
    assert len(load_perplexity(folder).documents) == 3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"num_tokens": 71},
            "holds a measurement of perplexity with num_tokens = 70, this one has 71",
        ),
        ({"haystack": open_text(num_tokens=3000, seed=1)}, "haystack.sha256"),
    ],
)
def test_another_measurement_needs_another_folder(tiny, measured, changed, message):
    asked = {"haystack": PROSE, "num_tokens": 70, **changed}
    with pytest.raises(RunMismatchError, match=message):
        measure_perplexity(tiny, num_documents=1, output=measured.path, progress=False, **asked)


def copied(measured, tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in measured.path.glob("*.json"):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def change(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_overwrite_discards_what_is_there(tiny, measured, tmp_path):
    folder = copied(measured, tmp_path)
    found = measure_perplexity(
        *(tiny, PROSE), num_tokens=9, num_documents=1, output=folder, overwrite=True, progress=False
    )
    assert len(found.documents) == len(load_perplexity(folder).documents) == 1


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("document-0001.json", lambda p: p.write_text("{"), "cannot be read as JSON.*delete the"),
        ("document-0001.json", lambda p: change(p, nats=[]), "nats.*; delete the file, and measu"),
        ("document-0001.json", lambda p: change(p, nats=[-1.0]), "nats"),
        ("document-0001.json", lambda p: change(p, nats=[0.5]), "has 1 tokens from position 1 on"),
        ("document-0001.json", lambda p: change(p, document=2), "of another folder or document"),
        ("document-0001.json", lambda p: change(p, settings="0"), "of another folder or document"),
        ("perplexity.json", lambda p: p.unlink(), "has no perplexity.json: it is not what"),
        ("perplexity.json", lambda p: change(p, num_tokens=0), "num_tokens.*; put the file back"),
        ("perplexity.json", lambda p: change(p, format_version=9), "format_version 9; this vniah"),
        ("perplexity.json", lambda p: change(p, num_tokens=71), "of another folder or document"),
    ],
)
def test_what_is_damaged_is_refused_in_one_line(measured, tmp_path, capsys, name, damage, message):
    folder = copied(measured, tmp_path)
    damage(folder / name)
    with pytest.raises(ResultsError, match=message):
        load_perplexity(folder)
    assert main(["perplexity", "table", str(folder)]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_documents_without_their_settings_are_not_gone_on_with(tiny, measured, tmp_path):
    folder = copied(measured, tmp_path)
    (folder / "perplexity.json").unlink()
    with pytest.raises(ResultsError, match=r"has document-0000.json but no perplexity.json"):
        measure_perplexity(tiny, PROSE, num_tokens=70, num_documents=1, output=folder)


def test_folders_of_runs_and_of_perplexity_are_told_apart(tiny, measured, tmp_path):
    with pytest.raises(
        ResultsError, match="holds perplexity and no run: read it with vniah perplexity t"
    ):
        load_results(measured.path)
    with pytest.raises(ResultsError, match="holds perplexity, and a run needs a folder of its own"):
        RunFolder(measured.path, load_run(RESULTS / "reference-long").manifest)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ResultsError, match="is the folder of a run, and perplexity needs one"):
        measure_perplexity(tiny, PROSE, num_tokens=9, num_documents=1, output=tmp_path)


# --- buckets -------------------------------------------------------------------------------------


def test_buckets_begin_at_multiples_and_hold_every_token_once():
    results = made([np.arange(1, 10), np.arange(1, 10) + 1])  # positions 1 to 9
    found = perplexity_by_position(results, 4)
    assert [(one.start, one.stop, one.num_tokens) for one in found] == [
        *((1, 4, 3), (4, 8, 4)),
        (8, 10, 2),
    ]
    assert [one.nats for one in found] == [2.5, 6.0, 9.0]
    assert found[0].perplexity == pytest.approx(exp(2.5))
    whole = perplexity_between(results, 0, 100)
    assert whole.nats == pytest.approx(sum(one.nats * one.num_tokens for one in found) / 9)
    assert (whole.start, whole.stop) == (1, 10)
    assert perplexity_between(results, 10, 20) is None
    assert len(perplexity_by_position(results, 1)) == 9
    assert len(perplexity_by_position(results, 1000)) == 1


def test_a_bucket_before_the_first_token_that_counts_is_left_out():
    found = perplexity_by_position(made([[1.0, 2.0, 3.0]], first=6), 4)
    assert [(one.start, one.stop) for one in found] == [(6, 9)], "one token would be too few"
    found = perplexity_by_position(made([[1.0, 2.0, 3.0, 4.0]], first=6), 4)
    assert [(one.start, one.stop) for one in found] == [(6, 8), (8, 10)]


def test_intervals_are_those_of_t_over_documents():
    nats = np.random.default_rng(0).gamma(2, size=(5, 8))
    (one,) = perplexity_by_position(made(nats), 16)
    low, high = stats.t.interval(
        0.95, 4, loc=nats.mean(), scale=nats.mean(axis=1).std(ddof=1) / np.sqrt(5)
    )
    assert (one.interval.low, one.interval.high) == (pytest.approx(low), pytest.approx(high))
    (alone,) = perplexity_by_position(made(nats[:1]), 16)
    assert alone.interval is None
    (wide,) = perplexity_by_position(made([[0.1], [9.0]]), 16)
    assert wide.interval.low == 0.0, "no loss is below 0"


@pytest.mark.parametrize("num_tokens", [2, 3, 16, 17, 70, 2048, 2049, 10_000])
def test_default_buckets_are_few_and_powers_of_two(num_tokens):
    results = made([np.ones(num_tokens - 1)])
    size = default_bucket(results)
    assert size & (size - 1) == 0
    assert len(perplexity_by_position(results)) <= 16
    assert num_tokens < 9 or len(perplexity_by_position(results)) >= 8


def test_default_buckets_are_8_to_16_wherever_a_text_begins():
    found = {
        (num, len(perplexity_by_position(made([np.ones(num)], first=first))))
        for num in (*range(1, 34), 127, 128, 129)
        for first in (1, 2, 5, 8, 11, 133)
    }
    assert {number for num, number in found if num >= 8} == {*range(8, 17)}
    assert all(number == num for num, number in found if num < 8)


@pytest.mark.parametrize(
    ("perplexity", "text"),
    [
        *((1, "1.00"), (9.994, "9.99"), (9.996, "10.0"), (99.96, "100"), (999.6, "1,000")),
        *((123_456, "123,456"), (1.5e6, "1.50e+06")),
    ],
)
def test_perplexities_are_written_with_three_digits(perplexity, text):
    (one,) = perplexity_by_position(made([[log(perplexity)]]), 9)
    assert format_perplexity(one) == text


@pytest.mark.parametrize("size", [0, -1, 10**8])
def test_sizes_that_no_bucket_has_are_refused(size):
    with pytest.raises(InputError, match="a bucket has from 1 to 10,000,000 positions, got"):
        perplexity_by_position(made([[1.0]]), size)


def test_without_a_document_there_is_nothing_to_say(tmp_path):
    empty = PerplexityResults(tmp_path, made([[1.0]]).manifest, ())
    for ask in (perplexity_by_position, summarize_perplexity, perplexity_curves):
        with pytest.raises(ResultsError, match="holds no document yet"):
            ask(empty)


def test_the_summary_tells_what_comes_beyond_the_training_length():
    results = made([[log(10)] * 7 + [log(5000)] * 8], trained=8)
    assert summarize_perplexity(results) == [
        "perplexity 275 (5.6170 nats per token) over 1 document of 16 tokens",
        "10.0 up to the training length of 8 tokens, 5,000 beyond it",
    ]
    assert len(summarize_perplexity(made([[1.0] * 3], trained=4))) == 1


# --- tables and pictures -------------------------------------------------------------------------


def test_labels_say_how_ropes_differ():
    results = [made([[1.0]], rope_theta=theta) for theta in (1e5, 1e6, 1e6)]
    assert perplexity_labels(results[:2]) == ("m, RoPE base 1e5", "m, RoPE base 1e6")
    repeated = ("m, RoPE base 1e6 in out (1)", "m, RoPE base 1e6 in out (2)")
    assert perplexity_labels(results)[1:] == repeated


def test_tables_of_several_results_in_all_formats():
    results = [made([[1.0] * 7, [2.0] * 7], name="a|b"), made([[800.0] * 7], name="a|b", path="o")]
    assert perplexity_labels(results) == ("a|b in out", "a|b in o")
    text = format_perplexities(results, "text", 4)
    assert text.splitlines()[1].split() == ["1", "to", "3", "4.48", "[1.00", "to", "2,574]", *ABOVE]
    assert r"a\|b in out" in format_perplexities(results, "markdown", 4)
    assert r"\toprule" in format_perplexities(results, "latex", 4)
    rows = list(csv.DictReader(io.StringIO(format_perplexities(results, "csv", 4))))
    assert [(row["start"], row["stop"]) for row in rows] == [("1", "4"), ("4", "8")] * 2
    assert rows[0]["nats"] == "1.5" and rows[2]["perplexity"] == rows[2]["nats_low"] == ""
    content = json.loads(format_perplexities(results, "json", 4))
    assert content["rows"][2]["perplexity"] is None and content["rows"][2]["nats"] == 800
    assert content["results"][0]["num_documents"] == 2


ABOVE = ["above", "1e304"]


def test_the_curve_stands_in_the_middle_of_buckets_with_a_line_at_the_training_length(tmp_path):
    nats = [[log(10)] * 7 + [log(5000)] * 8, [log(20)] * 7 + [log(8000)] * 8]
    ax = perplexity_curves(made(nats, trained=8), Figure().subplots(), bucket=4)
    line, *_ = ax.get_lines()
    assert list(line.get_xdata()) == [2, 6, 10, 14]
    assert line.get_ydata() == pytest.approx([200**0.5] * 2 + [4e7**0.5] * 2)
    assert ax.get_yscale() == "log"
    (dotted,) = (one for one in ax.get_lines() if one.get_linestyle() == ":")
    assert list(dotted.get_xdata()) == [8, 8]
    texts = [text.get_text().replace("\n", " ") for text in ax.texts]
    assert "training length" in texts
    assert any("2 documents of 16 tokens of text" in text for text in texts)
    assert ax.get_xlim() == (0, 16)


def test_a_curve_of_perplexities_that_are_alike_begins_at_zero():
    ax = perplexity_curves(made([[3.0] * 15], trained=16), Figure().subplots())
    assert ax.get_yscale() == "linear" and ax.get_ylim()[0] == 0
    assert "training length" not in [text.get_text() for text in ax.texts]
    ax = perplexity_curves(made([[3.0] * 15]), Figure().subplots(), training_tokens=3)
    assert "training length" in [text.get_text() for text in ax.texts]


def caption_of(ax):
    return max((text.get_text() for text in ax.texts), key=len).replace("\n", " ")


def test_documents_of_other_lengths_have_buckets_of_their_own_in_the_caption():
    long, short = made([[1.0] * 1012], path="long"), made([[1.0] * 511], path="short")
    text = caption_of(perplexity_curves([long, short], Figure().subplots()))
    own = "mean over the tokens of 64 positions (53 and 63 at the ends of a line), each in one pass"
    assert f"m in long: {own}" in text
    own = "mean over the tokens of 32 positions (31 at the ends of a line), each in one pass"
    assert f"m in short: {own}" in text
    alike = caption_of(perplexity_curves([long, short], Figure().subplots(), bucket=32))
    assert "pass" in alike and "long: mean over" not in alike
    assert alike.count("mean over the tokens of 32 positions (21 and 31 at the ends") == 1
    for size, of_long in ((10_000, "1,012"), (600, "413 and 599")):
        text = caption_of(perplexity_curves([long, short], Figure().subplots(), bucket=size))
        assert f"m in long: mean over the tokens of {of_long} positions, each" in text
        assert "m in short: mean over the tokens of 511 positions, each" in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, None),  # another model that cuts the text at the same characters
        ({"stop": 2}, "differ"),
        ({"tokens": 4}, "may differ"),
        ({"text": "other"}, "may differ"),
        ({"name": "m", "text": "other"}, None),  # one model on two texts
    ],
)
def test_results_of_other_tokenizers_are_said_not_to_be_comparable(change, said):
    one, other = made([[1.0] * 3]), made([[2.0] * change.get("tokens", 3)], name="n", path="o")
    documents = tuple(replace(d, stop=change.get("stop", 1)) for d in other.documents)
    manifest = {**other.manifest, "haystack": {"name": change.get("text", "text")}}
    manifest["model"] = {"name": change.get("name", "n")}
    runs = [one, replace(other, documents=documents, manifest=manifest)]
    wanted = f"the tokenizers {said} between these:"
    texts = [format_perplexities(runs, style) for style in ("text", "markdown", "latex", "json")]
    texts.append(caption_of(perplexity_curves(runs, Figure().subplots())))
    assert all((wanted in text.replace("\n", " ")) == (said is not None) for text in texts)
    assert said is not None or "tokenizer" not in "".join(texts)


def test_models_of_one_tokenizer_stand_together_in_what_is_said():
    runs = [made([[1.0]], name="a"), made([[1.0] * 2], name="b"), made([[1.0]], name="c")]
    note = format_perplexities(runs, "text").splitlines()
    assert any(
        "the tokenizers may differ between these: a; c | b. Perplexity is" in x for x in note
    )


def test_what_leaves_the_axes_and_marks_without_room():
    few = made([[1.0] * 192, [3.0] * 192, [1.5] * 192])  # three documents, whose band is wide
    ax = perplexity_curves(few, Figure().subplots())
    assert "t-interval over documents, which goes on beyond the axes" in caption_of(ax)
    assert ax.get_lines()[0].get_marker() == "o"
    ax = perplexity_curves(few, Figure().subplots(), bucket=1)
    line = ax.get_lines()[0]
    assert line.get_marker() in ("", "None") and line.get_linewidth() < 1
    alike = made([[1.0] * 9, [1.01] * 9, [1.02] * 9])
    assert "beyond" not in caption_of(perplexity_curves(alike, Figure().subplots()))


def test_both_axes_group_their_digits():
    ax = perplexity_curves(made([[7.3] * 2047]), Figure().subplots())
    assert ax.get_yscale() == "linear"
    labels = (ax.yaxis.get_major_formatter()(1500.0), ax.xaxis.get_major_formatter()(1013.0))
    assert labels == ("1,500", "1,013")


def test_hostile_names_and_endless_numbers_are_drawn(tmp_path):
    odd = [made([[900.0] * 4, [1.0] * 4], name="$x^2$\u202e\x1b[1m\u6f22"), made([[1.0]])]
    path = save_perplexity_curves(odd, tmp_path / "odd.svg")
    assert "perplexities above 1e+100 are drawn there" in path.read_text()
    with pytest.raises(InputError, match="from 1 to 28 lines, got 0 results"):
        save_perplexity_curves([], tmp_path / "none.png")


# --- the commands --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    load_language_model(folder)
    return folder


def test_measure_then_table_then_plot(checkpoint, tmp_path, capsys, quick_pictures):
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text(PROSE.body[:6000])
    out = tmp_path / "out"
    asked = ["perplexity", "measure", "--model", str(checkpoint), "--haystack", str(texts)]
    asked += ["--tokens", "90", "--documents", "2", "--output", str(out), "--quiet"]
    assert main(asked) == 0
    captured = capsys.readouterr()
    assert captured.err == "" and f"results: {out}" in captured.out
    assert "over 2 documents of 90 tokens" in captured.out
    assert (out / "perplexity.png").read_bytes()[:4] == b"\x89PNG"
    assert main([*asked, "--tokens", "91"]) == 2
    assert "perplexity with num_tokens = 90, this one has 91" in capsys.readouterr().err
    assert main(["perplexity", "table", str(out), "--output", str(tmp_path / "a.md")]) == 0
    assert (tmp_path / "a.md").read_text().startswith("| positions | perplexity |")
    assert main(["perplexity", "table", str(out), "--bucket", "30", "--format", "csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 1 + 3
    asked = ["perplexity", "plot", str(out), str(out), "--output", str(tmp_path / "both.svg")]
    assert main([*asked, "--training-length", "50", "--width", "9cm"]) == 0
    assert "training length" in (tmp_path / "both.svg").read_text()


def test_several_ropes_are_measured_by_one_command(
    checkpoint, tmp_path, capsys, monkeypatch, quick_pictures
):
    monkeypatch.chdir(tmp_path)
    asked = ["perplexity", "measure", "--model", str(checkpoint), "--tokens", "40", "--quiet"]
    asked += ["--documents", "1", "--rope-theta", "500,10000"]
    asked += ["--rope-scaling", "none,linear:2", "--output", "out"]
    assert main(asked) == 0
    printed = capsys.readouterr().out
    names = [
        f"rope-theta-{base}_rope-scaling-{kind}"
        for base in ("500", "10000")
        for kind in ("none", "linear-2")
    ]
    found = [load_perplexity(tmp_path / "out" / name) for name in names]
    said = [one.manifest["model"].get("rope_scaling") for one in found]
    assert [one.manifest["model"]["rope_theta"] for one in found] == [500, 500, 1e4, 1e4]
    assert said == [None, '{"factor":2.0,"rope_type":"linear"}'] * 2
    assert len({one.documents[0].nats.tobytes() for one in found}) == 4
    header = next(line for line in printed.splitlines() if line.startswith("positions"))
    assert header.count("RoPE base") == 4 and printed.count("results: out/") == 4
    assert (tmp_path / "out" / "perplexity.png").is_file()
    assert not list(tmp_path.glob("out/*/perplexity.png"))
    # The folder that holds them is all of them, and its picture is none.
    (tmp_path / "out" / "perplexity.png").unlink()
    assert main(["perplexity", "plot", "out"]) == 0
    assert (tmp_path / "out" / "perplexity.png").is_file()
    assert main(["perplexity", "table", "out", f"out/{names[0]}"]) == 0
    header = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("positions"))
    assert header.count("RoPE base") == 5
    assert main(["perplexity", "table", *map(str, sorted(Path("out").iterdir()))]) == 2
    assert "out/perplexity.png is a file; give the folder that" in capsys.readouterr().err
    # One alone is the same as one of several, and goes on in its folder.
    alone = [*asked[:-6], "--rope-theta", "500", "--rope-scaling", "none"]
    assert main([*alone, "--output", f"out/{names[0]}"]) == 0
    assert "nothing" not in capsys.readouterr().err
    assert main([*asked[:-1], f"out/{names[1]}"]) == 2
    assert "the results of several RoPEs need a folder of its own" in capsys.readouterr().err


def test_several_ropes_without_an_output_have_folders_of_their_own(
    checkpoint, tmp_path, monkeypatch, quick_pictures
):
    monkeypatch.chdir(tmp_path)
    asked = ["perplexity", "measure", "--model", str(checkpoint), "--tokens", "20", "--quiet"]
    assert main([*asked, "--documents", "1", "--rope-theta", "500,600"]) == 0
    pictures = list(tmp_path.glob("results/*.png"))
    assert len(pictures) == 1 and len(list(tmp_path.glob("results/*/perplexity.json"))) == 2
    # A scaling that the model cannot have is found before the first is measured.
    impossible = '{"rope_type":"yarn","factor":4,"original_max_position_embeddings":1.5}'
    assert main([*asked, "--output", "out", "--rope-scaling", f"none,{impossible}"]) == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tokens", "1"], "a document has from 2 to 10,000,000 tokens"),
        (["--tokens", "9", "--bucket", "0"], "a bucket has from 1 to 10,000,000 positions, got 0"),
        (["--tokens", "300000", "--bucket", "1"], "buckets of 1 position would be 300,000"),
        (["--tokens", "9", "--documents", "0"], "number of documents must be from 1 to 10,000"),
        (["--tokens", "9", "--haystack", "/nowhere"], "there is no folder /nowhere"),
        (["--tokens", "9"], "smollm2 is not on this machine yet: fetch it"),
        (["--tokens", "9", "--model", "openai:http://127.0.0.1:9#x"], "reads text alone"),
        (["--tokens", "9", "--rope-theta", "1e4,10000"], "RoPE base 1e4 is given twice"),
        (
            ["--tokens", "9", "--rope-theta", ",".join(map(str, range(2, 31)))],
            "name 29 RoPEs, and one picture has at most 28 curves",
        ),
    ],
)
def test_what_cannot_be_measured_is_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["perplexity", "measure", *arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert list(tmp_path.iterdir()) == []
