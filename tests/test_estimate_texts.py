"""What is said before a run on text: of a model without its weights, and of a server."""

import re
from dataclasses import replace

import pytest
import torch
from test_text_haystacks import Reader
from text_models import save_language_model, tokenizer_of

from vniah.cli import main
from vniah.cli.display import format_requests
from vniah.errors import InputError, TaskError
from vniah.forward.kernels import CPU_KERNEL
from vniah.grid import Grid
from vniah.haystacks.text import open_text
from vniah.models.loading import load_folder
from vniah.models.outline import open_outline
from vniah.models.server.client import ServerOptions, open_server
from vniah.needles import load_needles
from vniah.needles.numbers import number_needles
from vniah.options import LoadOptions
from vniah.sweep.estimate import estimate
from vniah.sweep.requests import estimate_requests
from vniah.sweep.run import run_sweep
from vniah.sweep.throughput import Rates, measure_rates
from vniah.tasks import load_task
from vniah.tasks.controls import plan_samples

GRID = Grid.parse("200,300", "0,1")
RATES = Rates(linear=1e9, attention=1e9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_language_model(tmp_path_factory.mktemp("model") / "tiny")


def estimate_text(model, **options):
    settings = {"task": "niah", "rates": RATES, "haystack": open_text(num_tokens=300), **options}
    return estimate(model, number_needles(2), GRID, **settings)


def without_machine(found):
    """An estimate without what the machine has free at this moment."""

    def full(memory):
        return replace(memory, free=0, missing=0)

    one_pass = found.one_pass and replace(
        found.one_pass, memory=full(found.one_pass.memory), exact=full(found.one_pass.exact)
    )
    return replace(
        found,
        memory=full(found.memory),
        memory_alone=full(found.memory_alone),
        one_pass=one_pass,
        max_frames={},
    )


@pytest.mark.parametrize(
    "options",
    [LoadOptions(), LoadOptions(dtype="bfloat16", rope_theta=1e6), LoadOptions(offload="always")],
    ids=["plain", "bfloat16", "in host memory"],
)
def test_model_without_weights_costs_what_the_whole_one_does(folder, options):
    whole = load_folder(folder, name="tiny", options=options)
    outline = open_outline(str(folder), options)
    found = estimate_text(outline)
    assert without_machine(found) == without_machine(estimate_text(whole))
    assert outline.settings == whole.settings and found.memory.weights > 10_000
    # All weights but those of the first layer are one number each.
    parameters = outline.decoder.model.layers[1].parameters()
    assert all(one.untyped_storage().nbytes() <= 4 for one in parameters)
    assert not torch.equal(*(layer.mlp.up_proj.weight for layer in outline.decoder.model.layers))


def test_an_estimate_is_of_the_samples_that_a_run_has(folder, tmp_path):
    found = estimate_text(open_outline(str(folder), LoadOptions()))
    results = run_sweep(
        load_folder(folder, name="tiny"),
        open_text(num_tokens=300),
        number_needles(2),
        GRID,
        output=tmp_path / "run",
        task="niah",
        progress=False,
    )
    forward = results.manifest["environment"]["forward"]
    assert found.num_samples == results.num_planned == 12
    assert found.shared.num_passes == forward["passes"] < found.alone.num_passes
    assert found.shared.flops.total == forward["flops"]
    assert found.alone.flops.total == forward["flops_not_shared"]
    assert found.tokens_per_frame is None and 300 < found.max_tokens < 320
    assert found.max_frames[1] > 10_000


@pytest.mark.usefixtures("short_measurements")
@pytest.mark.parametrize("offload", ["never", "always"])
def test_rates_are_measured_without_weights(folder, offload):
    model = open_outline(str(folder), LoadOptions(offload=offload))
    rates = measure_rates(model, CPU_KERNEL, num_tokens=100)
    assert rates.linear > 1e6 and rates.attention > 1e6
    assert (rates.fetching < 1e15) == (offload == "always")


def test_models_that_have_to_be_loaded_have_no_outline(checkpoint, folder):
    assert open_outline(str(checkpoint), LoadOptions()) is None
    assert open_outline("reference-long", LoadOptions()) is None
    assert open_outline("package.module:factory", LoadOptions()) is None
    assert open_outline(str(folder), LoadOptions(load_in="8bit")) is None
    with pytest.raises(InputError, match="frame_size is for models that read frames, and tiny"):
        open_outline(str(folder), LoadOptions(frame_size=(4, 4)))


def test_tasks_that_models_cannot_read_are_refused(folder, needle_folder):
    model = open_outline(str(folder), LoadOptions())
    with pytest.raises(InputError, match="tiny is a language model, which reads text and no fr"):
        estimate(model, load_needles(needle_folder), Grid.parse("4", "0"), rates=RATES)
    with pytest.raises(TaskError, match="give a text and the model that reads it"):
        estimate_text(model, haystack=None)


def test_generated_answers_come_on_top(folder):
    model = open_outline(str(folder), LoadOptions())
    options = {"kind": "multi-value", "number": 2}
    found = estimate_text(model, task="niah-multi", task_options=options)
    assert "answers of up to 128 tokens are generated besides" in found.notes


# --- servers -------------------------------------------------------------------------------------


@pytest.fixture
def server(folder, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "-")
    options = ServerOptions(tokenizer=str(folder), max_tokens=9, max_requests=5)
    return open_server("openai:http://127.0.0.1:9#model", options)


def test_requests_and_tokens_of_a_server_are_counted(server):
    text = open_text(num_tokens=300)
    found = estimate_requests(server, number_needles(2), GRID, task="niah", haystack=text)
    assert (found.num_samples, found.num_pictures, found.max_tokens) == (12, 0, 300)
    assert found.num_prompt_tokens == sum(prompt_lengths(text))
    assert found.max_answer_tokens == 12 * 9
    said = format_requests(found)
    assert said.startswith("model: 12 requests\n  prompts: ")
    assert "--max-requests 5 ends before all are sent" in said


def prompt_lengths(text):
    """The tokens of each prompt, by the tokenizer itself."""
    task, read = load_task("niah"), text.read_by(Reader("bytes"), 300)
    samples = plan_samples(task, GRID, number_needles(2), read)
    return [len(tokenizer_of("bytes")(sample.prompt).input_ids) for sample in samples]


def test_pictures_of_a_server_are_counted(server, needle_folder):
    needles = load_needles(needle_folder)
    found = estimate_requests(server, needles, Grid.parse("4,8", "0,1"), controls="none")
    assert found.num_samples == 4 * len(needles)
    assert found.num_pictures == 2 * (5 + 9) * len(needles)
    assert found.num_prompt_tokens is None and "prompts" not in format_requests(found)


# --- the command line ----------------------------------------------------------------------------


@pytest.mark.usefixtures("short_measurements")
def test_the_command_line_estimates_texts(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "-")
    options = ["--task", "niah", "--tokens", "200,300", "--depths", "0,1"]
    one_pass = ["--window", "8", "--verify", "2"]
    assert main(["estimate", "--model", str(folder), *options, *one_pass]) == 0
    output = capsys.readouterr().out
    assert re.match(r"tiny: 30 samples of up to \d+ tokens\n\n", output)
    assert "  one pass, window of 8 tokens, approximate " in output
    assert "  and 2 branches exactly, too " in output
    assert re.search(r"\ntokens that fit into the free memory: [\d,]+ here", output)
    assert "encoding frames" not in output and "per frame" not in output
    server = ["--model", "openai:http://127.0.0.1:9#m", "--tokenizer", str(folder)]
    assert main(["estimate", *server, *options, "--max-tokens", "8"]) == 0
    assert "m: 30 requests\n" in capsys.readouterr().out
    assert main(["estimate", "--model", str(folder), *options, "--haystack", "none"]) == 2
    assert capsys.readouterr().err.startswith("vniah: error: there is no folder none of .txt files")
    assert not [*tmp_path.iterdir()]


@pytest.mark.usefixtures("short_measurements")
def test_a_sweep_of_texts_and_servers_is_estimated(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "-")
    (tmp_path / "sweep.toml").write_text(
        f"""
        task = "niah"
        depths = "0.5"
        tokens = "200"
        [models.base]
        model = "{folder}"
        [models.far]
        model = "openai:http://127.0.0.1:9#m"
        tokenizer = "{folder}"
        """
    )
    assert main(["estimate", "--config", "sweep.toml"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1][1] == "10" and int(lines[1][2]) > 200
    assert lines[2][1:] == ["10", "200", "requests", "-", "-", "-"]
    assert lines[3][:3] == ["2", "runs", "20"]
