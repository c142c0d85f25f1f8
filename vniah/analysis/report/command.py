"""The command that makes a run again, from its manifest.

A manifest has names and hashes of what lies in files, and not where they lie. So the command has
the name in the place of a path, and a remark says what to put there.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import Any, get_args

from vniah.files import embedded_dir
from vniah.models.packaged import PACKAGED
from vniah.needles.loading import comes_with_vniah
from vniah.options import CONTROL_NAMES, TASK_NAMES, Decoder, Dtype, Images, LoadIn, Sampling
from vniah.options.approximation import EXACT
from vniah.options.intervention import APPLIED
from vniah.options.rope import theta_label
from vniah.results.manifests import ADAPTIVE_KEY

_OWN_CLASSES = "vniah."
_FEWEST_IN_A_RANGE = 4


@dataclass(frozen=True)
class Command:
    """A command, and what has to be known to give it.

    Attributes:
        words: the arguments of ``vniah``; empty where no command makes the run again.
        remarks: sentences, the first of them on what the words cannot say.
    """

    words: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def text(self) -> str:
        """As it is typed into a shell."""
        return shlex.join(("vniah", *self.words)) if self.words else ""


def command_of(manifest: Mapping[str, Any]) -> Command:
    """The command that makes a run again.

    Args:
        manifest: of a run; empty for a published table, which no command makes.
    """
    if not manifest:
        return Command((), ("a published table: no command makes it",))
    if manifest["model"].get("answers") == "imported":
        remark = "the answers were made by another program, and read by: vniah import"
        return Command((), (remark,))
    words: list[str] = ["run"]
    remarks: list[str] = []
    of_samples = (_model, _haystack, _needles, _grid, _task, _controls)
    for part in (*of_samples, _scorer, _adaptive, _sharing, _intervention, _attention):
        for found in part(manifest):
            if isinstance(found, Remark):
                remarks.append(found.text)
            else:
                words += _plain(found)
    return Command(tuple(words), tuple(remarks))


@dataclass(frozen=True)
class Remark:
    """What the words of a command cannot say."""

    text: str


_Parts = Iterator[Sequence[str] | Remark]


def _plain(words: Sequence[str]) -> Iterator[str]:
    """An option and its values, of which none looks like an option itself."""
    option, *values = words
    if len(values) == 1 and values[0].startswith("-"):
        yield f"{option}={values[0]}"
        return
    yield option
    for value in values:
        yield f"./{value}" if value.startswith("-") else value


def _adaptive(manifest: Mapping[str, Any]) -> _Parts:
    record = manifest.get(ADAPTIVE_KEY)
    if record is not None:
        yield ("--adaptive",)
        yield "--precision", str(record["precision"])
        if "guess" in record:
            yield Remark(
                f"an earlier run said where to begin, at a length of {record['guess']:,}: give its "
                "folder with --screen"
            )


def _sharing(manifest: Mapping[str, Any]) -> _Parts:
    record = manifest.get("approximation")
    if record is not None:
        yield "--share", str(record["share"])
        yield from _given(record, {"window": "--window", "verify": "--verify"})


def _intervention(manifest: Mapping[str, Any]) -> _Parts:
    record = manifest.get("intervention")
    if record is not None:
        yield "--apply", str(record["function"])
        yield Remark(f"the sha256 of the file of {record['function']} is {record['sha256']}")


def _attention(manifest: Mapping[str, Any]) -> _Parts:
    if "attention_trace" in manifest:
        yield ("--trace-attention",)


def _model(manifest: Mapping[str, Any]) -> _Parts:
    model = manifest["model"]
    name = str(model["name"])
    if "base_url" in model:
        yield "--model", f"openai:{model['base_url']}#{name}"
        yield from _given(model, {"max_tokens": "--max-tokens", "frames_as": "--frames-as"})
        yield from _given(model, {"frame_size": "--frame-size", "tokenizer": "--tokenizer"})
        tokenizer = str(model.get("tokenizer", ""))
        if tokenizer and "/" not in tokenizer and tokenizer not in PACKAGED:
            yield Remark(f"in place of {tokenizer!r} give the folder of the tokenizer")
        return
    class_path = str(model.get("class", _OWN_CLASSES))
    if not class_path.startswith(_OWN_CLASSES):
        module, _, attribute = class_path.rpartition(".")
        yield "--model", f"{module}:{attribute}"
        yield Remark(
            f"the model is an object of {class_path}: give as --model the function that makes it, "
            "with the options that it takes"
        )
        return
    yield "--model", name
    if name not in PACKAGED and not embedded_dir("models", name).is_dir():
        yield Remark(
            f"in place of {name!r} give the folder where the model lies, or its hub id; revision "
            f"{model.get('revision', 'not known')} was measured"
        )
    if model.get("dtype") in get_args(Dtype):
        yield "--dtype", str(model["dtype"])
    if model.get("load_in") in get_args(LoadIn):
        yield "--load-in", str(model["load_in"])
    if "prompt_template" in model:
        yield "--prompt-template", str(model["prompt_template"])
    if "rope_theta" in model:
        yield "--rope-theta", theta_label(float(model["rope_theta"]))
    if "rope_scaling" in model:
        yield "--rope-scaling", str(model["rope_scaling"])
    if model.get("images") in get_args(Images)[1:]:
        yield "--images", str(model["images"])
        yield from _given(model, {"frame_size": "--frame-size"})
    if "adapter_weights" in model:
        yield Remark("the model is an adapter: give the folder of the adapter")
    reads_frames = manifest.get("axes", [""])[0] != "num_tokens"
    if reads_frames and "frame_unit" in model and "preprocessing" in model:
        yield Remark(
            f"frames were prepared so: {model['preprocessing']}; if that is not the default, give "
            "--frame-size"
        )


def _haystack(manifest: Mapping[str, Any]) -> _Parts:
    haystack = manifest["haystack"]
    name = str(haystack.get("name", "HAYSTACK"))
    if haystack.get("kind") == "generated":
        if '"seed": 0' not in str(haystack.get("recipe", '"seed": 0')):
            yield Remark(
                f"the haystack is the generated film {name}: write it with vniah haystack make "
                "--seed, or open it in Python with vniah.generated_haystack"
            )
        return
    if haystack.get("kind") == "prose":
        if not name.endswith("-seed0"):
            yield Remark(f"the haystack is the generated prose {name}: open it in Python")
        return
    first, plus, others = name.rpartition("+")
    is_several = bool(plus) and others.isdigit()
    yield "--haystack", *((first, f"and-{others}-more") if is_several else (name,))
    yield Remark(
        f"in place of {name!r} give the path of the haystack"
        + (", all of its files in their order" if is_several else "")
        + f"; its sha256 is {haystack.get('sha256', 'not known')}"
    )
    if haystack.get("sampling") in get_args(Sampling)[1:]:
        yield "--sampling", str(haystack["sampling"])
    if haystack.get("decoder") in get_args(Decoder)[1:]:
        yield "--decoder", str(haystack["decoder"])
    if str(haystack.get("keep_damaged", "false")).lower() == "true":
        yield ("--keep-damaged",)
    if "video_stream" in haystack:
        yield Remark(f"the files have several video streams: --stream, {haystack['video_stream']}")
    yield from _given(haystack, {"assume_fps": "--assume-fps", "dpi": "--dpi"})


def _needles(manifest: Mapping[str, Any]) -> _Parts:
    needles = manifest["needles"]
    name = str(needles.get("name", "NEEDLES"))
    yield "--needles", name
    if not comes_with_vniah(name):
        yield Remark(
            f"in place of {name!r} give the folder of the needle set, or its hub id; its sha256 is "
            f"{needles.get('sha256', 'not known')}"
        )


def _grid(manifest: Mapping[str, Any]) -> _Parts:
    grid = manifest["grid"]
    is_text = manifest.get("axes", ("",))[0] == "num_tokens"
    yield "--tokens" if is_text else "--frames", _range(grid["frames"])
    if "positions" in grid:
        yield "--positions", _range(grid["positions"])
        return
    depths = [str(depth) for depth in grid["depths"]]
    yield "--depths", ",".join(depths) if any("/" in one for one in depths) else _range(depths)
    if any("/" in depth for depth in depths):
        yield Remark("depths such as 1/3 can be given in Python only: vniah.Grid.of")


def _task(manifest: Mapping[str, Any]) -> _Parts:
    task = str(manifest.get("task", "vniah"))
    if task not in TASK_NAMES:
        yield "--task", "package.module:factory"
        yield Remark(
            f"the task {task!r} does not come with vniah: give as --task the function that makes it"
        )
    elif task != "vniah":
        yield "--task", task
    settings: Mapping[str, Any] = manifest.get("task_details", {}).get("settings", {})
    for name, value in settings.items():
        if value is not None:
            text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            yield "--task-option", f"{name}={text}"


def _controls(manifest: Mapping[str, Any]) -> _Parts:
    own = (EXACT, APPLIED)
    controls = [str(name) for name in manifest.get("controls", ()) if name not in own]
    known = [name for name in controls if name in CONTROL_NAMES]
    yield "--controls", ",".join(known) or "none"
    for name in controls:
        if name not in known:
            yield Remark(
                f"the control {name!r} does not come with vniah: add the function that makes it "
                "to --controls"
            )


def _scorer(manifest: Mapping[str, Any]) -> _Parts:
    scorer = manifest.get("scorer")
    if scorer is None or "base_url" in manifest["model"]:
        return
    yield "--scorer", "generate"
    yield from _given(scorer, {"max_new_tokens": "--max-new-tokens"})


def _given(record: Mapping[str, Any], names: Mapping[str, str]) -> _Parts:
    for name, option in names.items():
        if record.get(name) is not None:
            yield option, str(record[name])


def _range(values: Sequence[Any]) -> str:
    """Numbers as ``start:stop:step`` if there are several at equal distances, else as a list.

    >>> _range([0.0, 0.2, 0.4, 0.6]), _range([8, 16, 32])
    ('0:0.6:0.2', '8,16,32')
    """
    numbers = [Decimal(str(value)).normalize() for value in values]
    steps = {after - before for before, after in pairwise(numbers)}
    texts = [format(number, "f") for number in numbers]
    if len(numbers) >= _FEWEST_IN_A_RANGE and len(steps) == 1 and min(steps) > 0:
        return f"{texts[0]}:{texts[-1]}:{format(min(steps).normalize(), 'f')}"
    return ",".join(texts)
