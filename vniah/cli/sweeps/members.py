"""The runs of one command, as they were asked for."""

import argparse
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from vniah.cli.inputs import SERVER_FIELDS
from vniah.files import hash_text
from vniah.options import LOAD_DEFAULTS, LoadOptions
from vniah.options.rope import RopeChoice, rope_choices

_OF_THE_ROPE = ("rope_theta", "rope_scaling")


@dataclass(frozen=True)
class Member:
    """One run of a sweep.

    Attributes:
        name: of its folder inside that of the sweep.
        label: stands for it in tables and titles.
        options: all options of ``vniah run``; those of the RoPE are in ``rope``.
        rope: the RoPE to use.
        parts: what it measures, by the words ``model``, ``haystack`` and ``task``: the names that
            the file of the sweep gives them. Empty without a file.
    """

    name: str
    label: str
    options: argparse.Namespace
    rope: RopeChoice
    parts: tuple[tuple[str, str], ...] = ()

    @property
    def weights(self) -> Hashable:
        """Equal for members that can share one loaded model."""
        names = [option.name for option in fields(LoadOptions) if option.name not in _OF_THE_ROPE]
        names.remove("images")
        names.remove("shard_weights")  # of the whole sweep, and results are the same
        found = self._values("model", *names, *SERVER_FIELDS, "frames_as")
        if self._images == LOAD_DEFAULTS.images:
            return found  # without it, so that the index of an older sweep still holds
        # Pages bring the size at which they are read, unless it is given.
        of_pages = self.film if self.options.frame_size is None else None
        return (*found, self._images, of_pages)

    @property
    def film(self) -> Hashable:
        """Equal for members that read the same film in the same way."""
        names = ("haystack", "sampling", "decoder", "keep_damaged", "stream", "assume_fps")
        found = self._values(*names)
        if getattr(self.options, "dpi", None) is not None:
            found = (*found, self.options.dpi)
        return (*found, "pages") if self._images == "grids" else found

    @property
    def _images(self) -> str:
        """How pictures are read."""
        return str(getattr(self.options, "images", LOAD_DEFAULTS.images))

    @property
    def _is_approximate(self) -> bool:
        """Whether haystack states are shared by all needles; other ways give the same numbers."""
        return getattr(self.options, "share", None) == "one-pass"

    @property
    def settings(self) -> str:
        """Stands for what is measured, and how: equal for equal settings."""
        asked = self._values(
            *("needles", "needle_frames", "needle_style", "task", "task_option", "controls"),
            *("frames", "depths", "positions", "scorer", "max_new_tokens", "adaptive"),
            "precision",
            # Named only where it is given, so that the index of an older sweep still holds.
            *(["tokens"] if getattr(self.options, "tokens", None) is not None else []),
            *(["share", "window", "verify"] if self._is_approximate else []),
            *(["screen"] if getattr(self.options, "screen", None) is not None else []),
        )
        return hash_text(repr((self.weights, self.film, self.rope, asked, *self._intervention)))

    @property
    def _intervention(self) -> tuple[str, ...]:
        """What is applied, with the hash of its source; empty where nothing is."""
        name = getattr(self.options, "apply", None)
        if name is None:
            return ()
        from vniah.engines.interventions import Intervention

        return (repr(Intervention.of(name).record()),)

    def _values(self, *names: str) -> tuple[str, ...]:
        return tuple(repr(getattr(self.options, name, None)) for name in names)


@dataclass(frozen=True)
class Plan:
    """All runs of one command.

    Attributes:
        members: at least one, in the order in which tables name them.
        output: the folder for all of them; None for folders named after the settings of each.
        config: the file that describes them; None where the command line does.
        is_isolated: whether an error in one run leaves the others alone. Where the command line
            describes them it ends the command, as it is about what was just typed.
    """

    members: tuple[Member, ...]
    output: Path | None
    config: Path | None = None
    is_isolated: bool = False

    @property
    def is_single(self) -> bool:
        """Whether there is one run, which has the folder ``output`` for itself."""
        return not self.is_isolated and len(self.members) == 1

    def folder_of(self, member: Member) -> Path | None:
        """The folder of a run; None for one that is named after its settings."""
        if self.output is None or self.is_single:
            return self.output
        return self.output / member.name

    def groups(self) -> list[list[Member]]:
        """The runs by the weights that they need, in the order in which they run.

        Inside a group, runs with one RoPE follow one another, that of the checkpoint first.
        """
        found: dict[Hashable, list[Member]] = {}
        for member in self.members:
            found.setdefault(member.weights, []).append(member)
        return [_by_rope(group) for group in found.values()]


def _by_rope(group: Sequence[Member]) -> list[Member]:
    ropes = [member.rope for member in group]
    return sorted(group, key=lambda m: (m.rope != RopeChoice(), ropes.index(m.rope)))


def plan_of_options(options: argparse.Namespace) -> Plan:
    """The runs of a command line: one for each RoPE that it names.

    Raises:
        InputError: a RoPE is given twice.
    """
    choices = rope_choices(options.rope_theta, options.rope_scaling)
    members = [Member(choice.folder_name, choice.label, options, choice) for choice in choices]
    return Plan(tuple(members), options.output)
