"""Weights that several processes share, against processes that have all of them: equal bits."""

import gc
import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import transformers
from checkpoints import SIZES, write_checkpoint
from families import build
from jobs import JOB, run_ranks, start_torchrun
from safetensors.torch import load_file, save_file
from test_estimate import runner_of
from test_prefill import build_decoder, embeddings, three_rows
from test_ring import start_ranks, two_passes

from vniah.cli import main
from vniah.errors import InputError, ModelError
from vniah.forward import runner
from vniah.forward.costs import DecoderShape
from vniah.forward.offload import offload_layers, offloaded
from vniah.forward.prefill import answer_logits
from vniah.forward.prefix_tree import Branch, Suffix
from vniah.forward.ring import Ring
from vniah.forward.sharding import (
    gathered_bytes,
    num_held_elsewhere,
    own_part,
    require_can_share,
    rows_of_rank,
    shard_layers,
)
from vniah.models.huggingface import halves
from vniah.models.loading import load_model
from vniah.models.outline import SharesWithoutWeights
from vniah.models.weights import stored_tensors
from vniah.options import LoadOptions
from vniah.results import load_results

pytestmark = pytest.mark.distributed

CPU = torch.device("cpu")
# A trunk, what is kept of it, and a branch: 16 rows a chunk, so one chunk and many.
LENGTHS = {"qwen2": ((37, 21, 18), (1, 1, 1)), "qwen3": ((1, 1, 1),), "qwen2_vl": ((1, 1, 1),)}
# Rows of which 2 and 4 ranks have unequal numbers, or none: 5 are 2, 2, 1 and 0.
UNEVEN = {"intermediate_size": 5}


def build_sharded(family, *, in_host=False, **changes):
    decoder = build_decoder(family, **changes)
    shard_layers(decoder.model, dist.group.WORLD, CPU, in_host=in_host)
    return decoder


def run_all_ways(rank, size):
    for family, each in LENGTHS.items():
        whole = build_decoder(family, **UNEVEN)
        both = [build_sharded(family, in_host=in_host, **UNEVEN) for in_host in (False, True)]
        for lengths in each:
            expected = two_passes(whole, *lengths, Ring(dist.group.WORLD))
            for shared in both:
                found = two_passes(shared, *lengths, Ring(dist.group.WORLD))
                assert all(map(torch.equal, found, expected)), (family, lengths)
        for shared in both:
            layers = offloaded(shared.model)
            assert layers.num_gathered == len(each) * 2 * 3, "each layer once a pass"
            assert layers.held == (), "nothing is whole between two passes"


@pytest.mark.parametrize("size", [2, 4])
def test_ring_gives_the_same_bits(size):
    start_ranks(size, run_all_ways)


def run_modes(rank, size):
    whole, shared = build_decoder("qwen2"), build_sharded("qwen2")
    ids, rows = torch.arange(20)[None], embeddings(40)
    for mode in (torch.inference_mode, torch.no_grad, torch.inference_mode):
        with mode():
            assert torch.equal(shared(ids).logits, whole(ids).logits), "the decoder's own pass"
        one, other = (
            answer_logits(decoder, rows.clone(), torch.arange(40), num_rows=3, chunk_size=16)
            for decoder in (whole, shared)
        )
        assert torch.equal(one, other), "without a ring: each rank has all rows"
    layers = offloaded(shared.model)
    assert layers.held == ()

    def fail(*_):
        raise KeyError("in the middle")

    handle = shared.model.layers[1].mlp.register_forward_hook(fail)
    for call in (lambda: shared(ids), lambda: answer_logits(shared, rows, ids[0], num_rows=1)):
        with torch.inference_mode(), pytest.raises((KeyError, ModelError)):
            call()
    handle.remove()
    assert layers.held == (2,), "it was on its way"
    with torch.inference_mode():
        assert torch.equal(shared(ids).logits, whole(ids).logits), "after an error"


def test_own_pass_and_passes_after_errors_give_the_same_bits():
    start_ranks(2, run_modes)


def gather_mixed(rank, size):
    """Weights in several formats, a single row, none at all, and a buffer."""
    decoders = [build_decoder("qwen2") for _ in range(2)]
    for decoder in decoders:
        torch.manual_seed(1)
        for layer in decoder.model.layers:
            layer.in_fp64 = torch.nn.Parameter(torch.randn(7, 3, dtype=torch.float64))
            layer.in_bf16 = torch.nn.Parameter(torch.randn(1, 5).bfloat16(), requires_grad=False)
            layer.empty = torch.nn.Parameter(torch.randn(0, 4))
            layer.register_buffer("constant", torch.arange(3))
    whole, shared = decoders
    shard_layers(shared.model, dist.group.WORLD, CPU)
    layers = offloaded(shared.model)
    for _ in range(2):
        for index, layer in enumerate(whole.model.layers):
            layers.enter(index)
            gathered = shared.model.layers[index]
            for name, tensor in layer.named_parameters():
                found = gathered.get_parameter(name)
                assert found.dtype == tensor.dtype and torch.equal(found, tensor), name
            assert gathered.constant.tolist() == [0, 1, 2]


def test_weights_of_all_formats_and_sizes_are_gathered_as_they_were():
    start_ranks(3, gather_mixed)


def test_pass_that_runs_out_of_memory_is_not_tried_again_by_one_process_alone(monkeypatch):
    """The others would wait for the layers of a second pass for ever."""
    decoder = build_decoder("qwen2")
    calls = []

    def run_out(*args, **options):
        calls.append(1)
        raise MemoryError

    monkeypatch.setattr(runner, "prefill", run_out)
    branch = Branch(0, (9,), 9, (Suffix(9, (2,), 2, (0,)),))
    offload_layers(decoder.model, CPU, SharesWithoutWeights(decoder.model.layers, 2, in_host=False))
    with pytest.raises(ModelError, match="out of memory: 11 tokens need about"):
        runner_of(decoder, chunk_size=512, num_tokens=20).run(branch)
    assert calls == [1]


# --- memory --------------------------------------------------------------------------------------


def storages():
    """Bytes of all tensors on the CPU that Python can see; views count once."""
    found = {}
    for one in gc.get_objects():
        if type(one) in (torch.Tensor, torch.nn.Parameter) and one.device == CPU:
            storage = one.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


def measure_memory(rank, size):
    wide = {"intermediate_size": 4096, "num_hidden_layers": 10}
    whole = build_decoder("qwen2", **wide)
    in_layer = sum(p.nbytes for p in whole.model.layers[0].parameters())
    in_layers = sum(p.nbytes for p in whole.model.layers.parameters())
    rows = embeddings(8)

    def run(decoder):
        return answer_logits(decoder, rows.clone(), torch.arange(8), num_rows=1)

    del whole
    gc.collect()
    before = storages()
    shared = build_sharded("qwen2", **wide)
    besides = sum(p.nbytes for name, p in shared.named_parameters() if ".layers." not in name)
    gc.collect()
    layers, shape = offloaded(shared.model), DecoderShape.of(shared)
    # Of the real tensors that lie in memory: a share of every layer, and nothing else of them.
    held = storages() - before - besides
    assert held == pytest.approx(in_layers / size, rel=0.02)
    assert layers.own_bytes == pytest.approx(in_layers / size, rel=0.001)
    assert shape.weight_bytes == besides + layers.own_bytes
    assert (shape.num_weight_ranks, shape.host_weight_bytes) == (size, 0)
    assert shape.gathered_bytes == layers.pass_bytes == pytest.approx(3 * in_layer, rel=0.001)

    def require_at_most(num_layers):
        # A thread of gloo frees what it has sent a moment after that.
        deadline = time.monotonic() + 20
        while (now := storages() - before - besides - held) > num_layers * in_layer:
            assert time.monotonic() < deadline, f"{now / in_layer} layers"
            time.sleep(0.01)
        return now / in_layer

    seen = []
    for layer in shared.model.layers[:-1]:
        layer.mlp.register_forward_hook(lambda *_: seen.append(require_at_most(2.1)))
    shared.model.layers[-1].mlp.register_forward_hook(lambda *_: seen.append(require_at_most(1.1)))
    run(shared)
    assert min(seen[:-1]) > 1.9 and seen[-1] > 0.9, "the layer that computes, and the next one"
    gc.collect()
    require_at_most(0.1)


@pytest.mark.parametrize("size", [2, 4])
def test_rank_holds_its_share_and_two_layers(size):
    """While one computes; when the next one has arrived there is a copy of it for a moment."""
    start_ranks(size, measure_memory)


@pytest.mark.parametrize("num_rows", [0, 1, 5, 8, 9])
def test_rows_of_all_ranks_are_all_rows(num_rows):
    for size in (1, 2, 3, 4, 7):
        held = [range(num_rows)[rows_of_rank(num_rows, rank, size)] for rank in range(size)]
        assert [row for rows in held for row in rows] == list(range(num_rows))
        assert max(map(len, held)) == -(-num_rows // size)


def test_what_is_elsewhere_is_all_but_a_share_and_three_layers():
    layers = [torch.nn.Linear(10, 30, bias=False) for _ in range(8)]
    assert num_held_elsewhere(layers, 4) == 8 * 300 * 3 // 4 - 900
    assert num_held_elsewhere(layers[:1], 2) == 0, "all of it is there when it computes"
    assert gathered_bytes(layers, 4) == 3 * 32 * 10 * 4, "30 rows are sent as 32"


# --- what is read of a checkpoint ----------------------------------------------------------------


def compare_loaded(rank, size, folders):
    for folder in folders:
        whole = load_model(folder, device="cpu")
        config = whole.decoder.model.config
        rows = torch.randn(40, config.hidden_size, generator=torch.Generator().manual_seed(1))
        positions = three_rows(40) if "vl" in config.model_type else torch.arange(40)
        for offload in ("auto", "always")[: 4 // size]:
            counted = count_read_bytes()
            shared = load_model(
                folder, device="cpu", shard_weights=dist.group.WORLD, offload=offload
            )
            one, other = (
                answer_logits(m.decoder, rows.clone(), positions, num_rows=3, chunk_size=16)
                for m in (whole, shared)
            )
            assert torch.equal(one, other), folder
            weights = list(whole.decoder.model.layers.parameters())
            layers = offloaded(shared.decoder.model)
            is_in_host = offload == "always"
            assert (layers.host_bytes > 0, layers.device_bytes > 0) == (is_in_host, not is_in_host)
            # With padding, as every rank has as many rows.
            padded = sum(-(-len(p) // size) * p[:1].nbytes for p in weights)
            assert layers.own_bytes == padded < 0.6 * sum(p.nbytes for p in weights)
            total = torch.tensor(counted())
            dist.all_reduce(total)
            assert int(total) == sum(p.nbytes for p in weights), "each row by one rank"


def count_read_bytes():
    """Counts what is read of decoder layers from here on, by vniah and by transformers."""
    from transformers.distributed.sharding_utils import DtensorShardOperation

    import vniah.models.weights as own

    fill, shard = own.fill_share, DtensorShardOperation.shard_tensor
    read = []

    def filled(weight, rows):
        read.append(rows.nbytes)
        return fill(weight, rows)

    def sharded(*args, **options):
        found = shard(*args, **options)
        read.append(0 if found is None else found.nbytes)
        return found

    own.fill_share, DtensorShardOperation.shard_tensor = filled, sharded

    def stop():
        own.fill_share, DtensorShardOperation.shard_tensor = fill, shard
        return sum(read)

    return stop


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The layout of LLaVA, tied and with uneven rows; one of transformers; one with experts."""
    folder = tmp_path_factory.mktemp("checkpoints")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "intermediate_size", 5)
        write_checkpoint(folder / "llava", num_shards=2, tied=True)
    for model_type in ("qwen2_vl", "qwen3_vl_moe"):
        build(model_type).save(folder / model_type)
    return sorted(map(str, folder.iterdir()))


@pytest.mark.parametrize("size", [2, 4])
def test_each_rank_reads_its_rows_and_no_others(folders, size):
    start_ranks(size, compare_loaded, folders)


def test_weights_whose_rows_a_conversion_moves_are_read_whole(monkeypatch):
    from transformers import conversion_mapping
    from transformers.core_model_loading import (
        Chunk,
        Concatenate,
        MergeModulelist,
        Transpose,
        WeightConverter,
    )

    def convert(source, target, *operations):
        return WeightConverter(source, target, operations=list(operations))

    layer = "model.layers.0."
    mapping = [
        convert("self_attn.qkv.weight", [f"self_attn.{n}_proj.weight" for n in "qkv"], Chunk(0)),
        convert("mlp.up.weight", "mlp.up_proj.weight", Transpose(0, 1)),
        convert(["mlp.*.one", "mlp.*.two"], "mlp.down_proj.weight", MergeModulelist(0),
                Concatenate(1)),
    ]  # fmt: skip
    monkeypatch.setattr(conversion_mapping, "get_model_conversion_mapping", lambda model: mapping)
    stored = [f"{layer}{name}" for name in
              ("self_attn.qkv.weight", "mlp.up.weight", "mlp.0.one", "mlp.0.two",
               "mlp.gate_proj.weight")]  # fmt: skip
    found = halves._converted_by_rows(build_decoder("qwen2"), stored, 2)
    assert found == {
        f"{layer}{name}.weight"
        for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.up_proj")
    }


def load_converted(rank, size, folder):
    """A checkpoint of which one weight is stored transposed, and is converted when it is read."""
    from transformers import conversion_mapping
    from transformers.core_model_loading import Transpose, WeightConverter

    expected = load_model(folder, device="cpu").decoder.model.layers[1].mlp.up_proj.weight
    path = Path(folder).with_name(f"converted-{rank}")
    path.mkdir()
    for file in Path(folder).iterdir():
        if file.suffix != ".safetensors":
            (path / file.name).write_bytes(file.read_bytes())
    weights = load_file(Path(folder) / "model.safetensors")
    for name in weights:
        if name.endswith("mlp.up_proj.weight"):
            weights[name] = weights[name].T.contiguous()
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    found = conversion_mapping.get_model_conversion_mapping

    def with_one_more(*args, **options):
        name = "mlp.up_proj.weight"
        return [*found(*args, **options), WeightConverter(name, name, operations=[Transpose(0, 1)])]

    conversion_mapping.get_model_conversion_mapping = with_one_more
    transformers.modeling_utils.get_model_conversion_mapping = with_one_more
    model = load_model(path, device="cpu", shard_weights=dist.group.WORLD)
    offloaded(model.decoder.model).enter(1)
    assert torch.equal(model.decoder.model.layers[1].mlp.up_proj.weight, expected)


def test_weight_that_is_transposed_when_it_is_read_is_right(folders):
    start_ranks(2, load_converted, next(name for name in folders if name.endswith("qwen2_vl")))


def load_experts(rank, size, folder):
    """Experts that are stored one by one, each for the process that holds it."""
    group = dist.group.WORLD
    whole = transformers.Qwen3MoeForCausalLM.from_pretrained(folder).model.layers
    read_class = halves.class_with_shares(
        transformers.Qwen3MoeForCausalLM, lambda model: model.model, group,
        stored_tensors(Path(folder)),
    )  # fmt: skip
    found = read_class.from_pretrained(folder).model
    parts = {name: own_part(weight) for name, weight in found.layers.named_parameters()}
    for name, weight in whole.named_parameters():
        rows = rows_of_rank(len(weight), rank, size)
        is_whole = size == 3 and "experts" in name  # of 4 experts the third of 3 would have none
        assert torch.equal(parts[name], weight if is_whole else weight[rows]), name
    shard_layers(found, group, CPU)
    for index in range(2):
        offloaded(found).enter(index)
        for name, weight in whole[index].named_parameters():
            assert torch.equal(found.layers[index].get_parameter(name), weight), name


@pytest.mark.parametrize("size", [2, 3])
def test_experts_that_are_stored_one_by_one_are_read_by_who_holds_them(size, tmp_path):
    config = transformers.Qwen3MoeConfig(
        hidden_size=16, intermediate_size=24, moe_intermediate_size=8, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, num_experts=4, vocab_size=30, head_dim=8,
    )  # fmt: skip
    transformers.Qwen3MoeForCausalLM(config).save_pretrained(tmp_path / "model")
    assert any("experts.3.up_proj" in name for name in stored_tensors(tmp_path / "model"))
    start_ranks(size, load_experts, str(tmp_path / "model"))


# --- what cannot be ------------------------------------------------------------------------------


def refuse(rank, size, gemma):
    group = dist.group.WORLD
    with pytest.raises(InputError, match="shard_weights and load_in 4bit cannot be combined"):
        LoadOptions(load_in="4bit", shard_weights=group)
    with pytest.raises(InputError, match=r"shard_weights cannot be chosen for openai:"):
        load_model("openai:http://localhost:1#x", shard_weights=group)
    with pytest.raises(InputError, match=r"shard_weights"):
        load_model("test_jobs:FirstLevel", shard_weights=group)
    with pytest.raises(InputError, match="layers of other kinds: sliding, full; images see"):
        load_model(gemma, device="cpu", shard_weights=group)
    decoder = build_decoder("qwen2")
    decoder.model.layers[0].gain = torch.nn.Parameter(torch.ones(()))
    with pytest.raises(ModelError, match="a weight of one number, gain, which cannot be shared"):
        shard_layers(decoder.model, group, CPU)


def test_what_cannot_be_shared_is_refused(tmp_path):
    start_ranks(2, refuse, str(build("gemma3").save(tmp_path / "gemma")))
    with pytest.raises(InputError, match="the adapter in a has to be merged into whole ones"):
        require_can_share("m", Path("a"))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["run"], "one process computes it alone; add --context-parallel N, under torchrun"),
        (["check"], "one process computes it alone; add --context-parallel N, under torchrun"),
        (["run", "--context-parallel", "2"], "--context-parallel 2 needs as many processes"),
        (["show"], "and this command runs in one process; leave it out"),
        (["run", "--context-parallel", "2", "--load-in", "8bit"], "--context-parallel 2 needs"),
    ],
)
def test_one_process_shares_no_weights(command, message, checkpoint, capsys, monkeypatch):
    for name in JOB:
        monkeypatch.delenv(name, raising=False)
    options = ["--model", str(checkpoint), "--device", "cpu", "--shard-weights"]
    assert main([*command, *options]) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("vniah: error")]
    assert message in line


def test_watch_shares_no_weights(tmp_path, capsys):
    assert main(["watch", str(tmp_path), "--shard-weights"]) == 2
    assert "--shard-weights is for vniah run in a job of several" in capsys.readouterr().err


# --- the real command ----------------------------------------------------------------------------

# The tiny checkpoint, which says who runs it and stops after some samples, for ever.
HOLDING = """
import os, time
from itertools import count
from pathlib import Path
from vniah.models.loading import load_model

def load(shard_weights=None, **options):
    Path("pid-" + os.environ["RANK"]).write_text(str(os.getpid()))
    model = load_model(os.environ["TINY"], shard_weights=shard_weights, **options)
    plain, number = model.decode, count()
    def decode(ids):
        if next(number) == int(os.environ.get("HOLD_AFTER", -1)):
            time.sleep(600)
        return plain(ids)
    model.decode = decode
    return model
"""
COMMAND = "import sys, vniah.cli\nsys.exit(vniah.cli.main())\n"


@pytest.fixture
def command(checkpoint, image_folder, needle_folder, tmp_path, monkeypatch, own_cache):
    """A script and the arguments of a run by pairs of processes, in a folder with both."""
    monkeypatch.chdir(tmp_path)
    for name in JOB:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TINY", str(checkpoint))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "holding.py").write_text(HOLDING)
    (tmp_path / "command.py").write_text(COMMAND)
    return [
        *(str(tmp_path / "command.py"), "run", "--model", "holding:load", "--device", "cpu"),
        *("--haystack", str(image_folder), "--needles", str(needle_folder)),
        *("--frames", "20,30", "--positions", "0,5,20", "--context-parallel", "2"),
    ]


def end_of(job, output):
    job.join(200)
    job.kill()
    return job.exitcode, Path(f"{output}.err").read_text()


def samples_of(folder):
    return [{**vars(sample), "seconds": None} for sample in load_results(folder).samples]


def forward_record(folder):
    return json.loads((folder / "manifest.json").read_text())["environment"]["forward"]


@pytest.mark.slow
def test_run_of_torchrun_is_killed_and_goes_on_with_the_same_samples(
    command, tmp_path, monkeypatch
):
    whole = start_torchrun(2, [*command, "--output", "whole"], tmp_path / "whole")
    code, err = end_of(whole, tmp_path / "whole")
    assert code == 0, err
    command += ["--shard-weights", "--output", "shared"]
    monkeypatch.setenv("HOLD_AFTER", "7")
    job = start_torchrun(2, command, tmp_path / "first")
    written, deadline = tmp_path / "shared", time.monotonic() + 200
    while sum(p.read_bytes().count(b"\n") for p in written.glob("samples*.jsonl")) < 7:
        assert job.is_alive() and time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(int((tmp_path / "pid-1").read_text()), signal.SIGKILL)
    code, err = end_of(job, tmp_path / "first")
    assert code != 0
    num_before = load_results(written).num_done
    assert 7 <= num_before < len(samples_of(tmp_path / "whole"))

    monkeypatch.delenv("HOLD_AFTER")
    # Two pairs, which take what is left in turns, and share the weights inside each.
    job = start_torchrun(4, [*command, "--offload", "always"], tmp_path / "second")
    code, err = end_of(job, tmp_path / "second")
    assert code == 0, err
    assert "layers shared by 2 processes in host memory, gathered one by one" in err
    assert samples_of(written) == samples_of(tmp_path / "whole"), "to the last bit"
    record = forward_record(written)
    assert (record["layer_weights_shared_by"], record["context_parallel"]) == (2, 2)
    manifest = json.loads((written / "manifest.json").read_text())
    (later,) = manifest["environment"]["later_starts"]
    assert later["forward"]["processes"] == 4 and later["forward"]["layer_weights_on"] == "host"
    assert "layer_weights_shared_by" not in forward_record(tmp_path / "whole")


def work_of_four(rank, folder, sources):
    from vniah.grid import Grid
    from vniah.haystacks.haystack import open_haystack
    from vniah.needles import load_needles
    from vniah.sweep.mesh import open_mesh
    from vniah.sweep.run import run_sweep

    checkpoint, images, needles = sources
    grid = Grid.of([5, 9, 20], [0, 0.3])
    with open_mesh(context_parallel=2) as mesh:
        for name, group in (("whole", None), ("shared", mesh.context_group)):
            model = load_model(checkpoint, device="cpu", shard_weights=group)
            run_sweep(
                model, open_haystack(images), load_needles(needles), grid, output=folder / name,
                mesh=mesh, progress=False,
            )  # fmt: skip


def test_two_workers_that_make_unequal_numbers_of_passes_share_weights_inside_each(
    checkpoint, image_folder, needle_folder, tmp_path, own_cache
):
    run_ranks(work_of_four, 4, tmp_path, (checkpoint, image_folder, needle_folder))
    assert samples_of(tmp_path / "shared") == samples_of(tmp_path / "whole") != []
    record = forward_record(tmp_path / "shared")
    assert (record["processes"], record["layer_weights_shared_by"]) == (4, 2)
