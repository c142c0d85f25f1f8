"""What the controls of a run say about its score, in words."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from vniah.analysis.windows import window_advice
from vniah.errors import counted, first_line, short_repr
from vniah.options.approximation import DEFAULT_VERIFIED, EXACT
from vniah.options.intervention import APPLIED
from vniah.results import Results, SampleResult
from vniah.results.manifests import VERIFICATION_KEY
from vniah.tasks.controls import CONTROLS, Control, Finding
from vniah.tasks.controls.exact import Exact

NOTHING = "nothing conspicuous"

_NO_BREAK = "\u00a0"


@dataclass(frozen=True)
class ControlFinding:
    """What came out of one control.

    Attributes:
        control: its name.
        summary: what was measured, in one line.
        verdict: what is conspicuous, in a few words; None if nothing is.
        otherwise: what is conspicuous if no control has a verdict.
    """

    control: str
    summary: str
    verdict: str | None
    otherwise: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What the controls of a run say about its score.

    Attributes:
        findings: one for each control that can say something, in the order of the run.
        gaps: why controls say less than they should, such as samples that could not be run.
        is_approximate: whether the scores of the test that controls are held against are.
    """

    findings: tuple[ControlFinding, ...]
    gaps: tuple[str, ...] = ()
    is_approximate: bool = False

    @property
    def conspicuous(self) -> tuple[str, ...]:
        """What is conspicuous, each once."""
        found = [one.verdict for one in self.findings if one.verdict is not None]
        if not found:
            found = [one.otherwise for one in self.findings if one.otherwise is not None]
        return tuple(dict.fromkeys(found))

    @property
    def text(self) -> str:
        """The verdict in one line: what is conspicuous, or that nothing is."""
        parts = list(self.conspicuous)
        if not self.findings:
            parts = ["none, as no control has a result"]
        elif not parts:
            parts = [NOTHING if not self.gaps else f"{NOTHING} in what was run"]
        return "; ".join([*parts, *self.gaps])

    @property
    def lines(self) -> tuple[str, ...]:
        """A line for each finding, then the verdict."""
        found = [f"{one.control}: {one.summary}" for one in self.findings]
        if self.is_approximate and any(one.control != EXACT for one in self.findings):
            found = [
                "scores of the test, where controls are held against them, are approximate",
                *found,
            ]
        return (*found, f"verdict: {self.text}")


def verdict(results: Results, controls: Sequence[Control] = ()) -> Verdict | None:
    """The verdict of the controls of a run; docs/controls.md states the rules.

    Args:
        results: a run, also one that was loaded from its folder.
        controls: those of your own, which the run's manifest knows by their names only. Without
            them they are in the table, and say nothing here.

    Returns:
        None if the run has no controls, as published tables.
    """
    names = [name for name in results.manifest.get("controls", ()) if name != APPLIED]
    if not names:
        return None
    known: Mapping[str, Control] = {
        **CONTROLS,
        EXACT: Exact(DEFAULT_VERIFIED),
        **{one.name: one for one in controls},
    }
    rows: dict[str, list[SampleResult]] = {name: [] for name in names}
    for sample in results.control_samples:
        rows.setdefault(str(sample.control), []).append(sample)
    findings, gaps = [], _gaps(results, rows)
    for name in names:
        if name in known:
            found = _finding(known[name], results.samples, rows)
            if isinstance(found, str):
                gaps.append(found)
            elif found is not None:
                found = _with_advice(found, name, results)
                if results.is_approximate and name != EXACT:
                    found = _by_approximate_scores(found)
                findings.append(ControlFinding(name, **asdict(found)))
    return Verdict(tuple(findings), tuple(gaps), results.is_approximate)


def _by_approximate_scores(found: Finding) -> Finding:
    """The same, with a verdict that says that the scores of the test are approximate."""
    verdict, otherwise = (
        None if text is None else f"{text} (by approximate scores)"
        for text in (found.verdict, found.otherwise)
    )
    return Finding(found.summary, verdict, otherwise)


def _with_advice(found: Finding, name: str, results: Results) -> Finding:
    """Of an approximate run whose window is too small: which other was found to be enough."""
    tried = results.manifest.get(VERIFICATION_KEY, {}).get("tried_windows")
    approximation = results.approximation
    if name != EXACT or found.verdict is None or approximation is None or not tried:
        return found
    enough, last = results.manifest[VERIFICATION_KEY].get("enough_window"), tried[-1]
    share = None if enough is None else last["equal"] / last["samples"]
    return replace(
        found, verdict=f"{found.verdict}: {window_advice(enough, share, approximation.unit)}"
    )


def _finding(
    control: Control, tests: Sequence[SampleResult], rows: Mapping[str, Sequence[SampleResult]]
) -> Finding | str | None:
    """What a control finds; or, in one line, what is wrong with it."""
    others = {other: some for other, some in rows.items() if other != control.name}
    what = f"finding() of the control {control.name}"
    try:
        found: object = control.finding(tests, rows[control.name], others)
    except Exception as error:  # noqa: BLE001  # somebody's control, at the end of a whole run
        return f"{what} failed: {type(error).__name__}: {first_line(error)}"
    if found is None or isinstance(found, Finding):
        return found
    return f"{what} gave {short_repr(found)}, not a Finding"


def controls_caption(results: Results) -> tuple[str, ...]:
    """Lines for below a picture: each control's share of right answers, and the verdict.

    They are not wrapped; a name and its number have a space between them that does not break.
    """
    found = verdict(results)
    if found is None:
        return ()
    shares = []
    for name in dict.fromkeys(score.control for score in results.controls):
        if name == APPLIED:  # which is told by its difference
            continue
        scores = [score for score in results.controls if score.control == name]
        num_samples = sum(score.num_samples for score in scores)
        if num_samples:
            num_correct = sum(score.num_correct for score in scores)
            shares.append(f"{name} {num_correct / num_samples:.2f}")
    if (debiased := results.debiased) is not None:
        shares.append(f"options in all orders {debiased.score:.2f} (chance {debiased.chance:.2f})")
    text = ", ".join(share.replace(" ", _NO_BREAK) for share in shares)
    return tuple(filter(None, (text, f"verdict: {found.text}")))


def _gaps(results: Results, rows: Mapping[str, Sequence[SampleResult]]) -> list[str]:
    """What the test and each control lack: samples without a line, and of controls errors."""
    gaps = [results.progress] if results.progress else []
    for name, num_planned in results.num_planned_by_control.items():
        num_scored = sum(row.correct is not None for row in rows.get(name, ()))
        if results.is_adaptive:  # controls are run where the test is
            num_planned = len(rows.get(name, ()))
        if num_scored < num_planned:
            missing = counted(num_planned - num_scored, "sample")
            gaps.append(f"{name} lacks {missing} of {num_planned:,}")
    return gaps
