"""What a run was made of, opened again by its manifest as far as that says where things lie."""

from collections.abc import Mapping
from typing import Any, TypedDict

from vniah.errors import InputError, ResultsError, VniahError, short_repr
from vniah.grid import Grid
from vniah.haystacks.frames import AnyHaystack
from vniah.haystacks.haystack import Haystack, generated_haystack
from vniah.haystacks.text import PYDOC, TextHaystack, open_text
from vniah.needles import NeedleSet, load_needles
from vniah.needles.loading import comes_with_vniah
from vniah.results import Results
from vniah.schema import parse_json
from vniah.tasks.vqa.drawn import DRAWN_SEED, drawn_questions
from vniah.tasks.vqa.opening import QuestionVideos


class _Recipe(TypedDict):
    """What is read of the recipe of a generated film."""

    seed: int


def require_run(results: Results) -> Results:
    """The results, if they are those of a run.

    Raises:
        InputError: they are a published table.
    """
    if not results.manifest:
        raise InputError(f"{results.path} is a table without samples: give the folder of a run")
    return results


def task_of(results: Results) -> tuple[str, dict[str, str]]:
    """The name and the options of a run's task, if it is one that comes with vniah.

    Raises:
        InputError: it is another one.
    """
    from vniah.tasks import TASKS  # which imports the tasks

    name = str(results.manifest.get("task", "vniah"))
    if name not in TASKS:
        raise InputError(
            f"the run {results.path} is of the task {short_repr(name)}, which does not come with "
            "vniah: give --task package.module:factory, and its --task-option"
        )
    settings: Mapping[str, Any] = results.manifest.get("task_details", {}).get("settings", {})
    return name, {option: _as_option(value) for option, value in settings.items()}


def _as_option(value: object) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)


def grid_of(results: Results) -> Grid:
    """The grid of a run."""
    grid = results.grid
    assert grid is not None, "a run has a grid"
    return grid


def needles_of(
    results: Results, given: NeedleSet | None, *, may_accept_more: bool = False
) -> NeedleSet:
    """The needles of a run: those given, or a set that comes with vniah.

    Args:
        results: the run.
        given: what the user opened; None where nothing was given.
        may_accept_more: a set that was given may be another version of the run's, for whoever
            compares its questions and answers with those of the run.

    Raises:
        InputError: the manifest does not say where they lie, or they are others.
    """
    record = results.manifest["needles"]
    if not record["ids"]:
        return NeedleSet.none()
    name = record.get("name")
    is_own = given is None
    if given is None:
        if not comes_with_vniah(str(name)):
            raise InputError(
                f"the manifest of {results.path} holds the name of its needle set, "
                f"{short_repr(name)}, and not where it lies: give --needles"
            )
        given = load_needles(str(name))
    try:
        needles = given.select(record["ids"])
    except VniahError as error:
        raise InputError(f"these are not the needles of {results.path}: {error}") from error
    is_newer = may_accept_more and not is_own
    if not is_newer and needles.sha256 != record.get("sha256", needles.sha256):
        raise InputError(
            f"the needle set {given.name} is not that of {results.path}: its sha256 is "
            f"{needles.sha256}, that of the run {record['sha256']}; give the one by --needles"
        )
    return needles


def haystack_of(results: Results, given: Haystack | None, num_frames: int) -> Haystack:
    """The haystack of a run: the one given, or a generated film.

    Args:
        results: the run.
        given: what the user opened; None where nothing was given.
        num_frames: as many are needed.

    Raises:
        InputError: the manifest does not say where it lies, or it has other frames.
    """
    record = results.manifest["haystack"]
    if given is None:
        if record.get("kind") != "generated":
            raise _not_found(
                results, "haystack", ", with --sampling and the like where they were given to run"
            )
        given = generated_haystack(num_frames, seed=_seed(record))
    _require_same(results, given)
    return given


def text_of(results: Results, given: TextHaystack | None, num_tokens: int) -> TextHaystack:
    """The text of a run: the one given, generated prose, or CPython's reference.

    Args:
        results: the run.
        given: what the user opened; None where nothing was given.
        num_tokens: as many are needed.

    Raises:
        InputError: the manifest does not say where it lies, or it is another text.
    """
    record = results.manifest["haystack"]
    if given is None:
        if record.get("kind") not in ("prose", PYDOC):
            raise _not_found(results, "text")
        given = open_text(None if record["kind"] == "prose" else PYDOC, num_tokens=num_tokens)
    _require_same(results, given)
    return given


def questions_of(results: Results, given: QuestionVideos | None) -> QuestionVideos:
    """The question set of a run: the one given, or the drawn one.

    Args:
        results: the run.
        given: what the user opened; None where nothing was given.

    Raises:
        InputError: the manifest does not say where it lies, or it is another set.
    """
    if given is None:
        seed = DRAWN_SEED.fullmatch(str(results.manifest["haystack"].get("name")))
        if seed is None:
            raise _not_found(results, "question set")
        given = drawn_questions(seed=int(seed[1]))
    _require_same(results, given)
    return given


def _not_found(results: Results, what: str, how: str = "") -> InputError:
    """The error for a haystack that a manifest names without saying where it lies."""
    return InputError(
        f"the manifest of {results.path} holds the name of its {what}, "
        f"{short_repr(results.manifest['haystack'].get('name'))}, and not where it lies: give "
        f"--haystack{how}"
    )


def _require_same(results: Results, given: AnyHaystack) -> None:
    record = results.manifest["haystack"]
    for name, value in given.identity().items():
        if record.get(name) != value:
            raise InputError(
                f"the haystack {given.name} is not that of {results.path}: its {name} is "
                f"{short_repr(value)}, that of the run {short_repr(record.get(name))}; give "
                "--haystack and its options as to run"
            )


def _seed(record: Mapping[str, Any]) -> int:
    recipe = record.get("recipe")
    where = "the recipe of the run's haystack"
    return parse_json(recipe if isinstance(recipe, str) else "", _Recipe, ResultsError, where)[
        "seed"
    ]
