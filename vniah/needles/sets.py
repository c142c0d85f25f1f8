"""Needle sets: needles in their order, everything that may be shown beside them, and a sha256."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from vniah.errors import NeedleError, counted
from vniah.files import hash_text
from vniah.needles.records import Distractor, Needle


@dataclass(frozen=True)
class NeedleSet:
    """Needles in their order, under a name.

    Args:
        name: what to call the set: the folder's name, or the hub id.
        source: what `load_needles` takes to load the set again.
        needles: those that are asked about: at least one, but in `NeedleSet.none`.
        distractors: pictures that are only shown beside needles.
        unselected: needles of the set that are not asked about in this selection. Their pictures
            may be shown as distractors, so that a sample shows the same in every selection.

    Attributes:
        sha256: identifies the set by the ids, questions, answers, accepted answers, choices and
            pictures of its needles, in order.

    Raises:
        NeedleError: there is no needle; two have the same id; or a needle names a distractor that
            is not in the set, or one that shows the same picture.
    """

    name: str
    source: str
    needles: tuple[Needle, ...]
    distractors: tuple[Distractor, ...] = ()
    unselected: tuple[Needle, ...] = ()
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        if not self.needles and self.source:
            raise NeedleError(f"needle set {self.name!r} holds no needle; it needs at least one.")
        ids = [picture.needle_id for picture in self._all]
        if len(set(ids)) < len(ids):
            repeated = sorted({name for name in ids if ids.count(name) > 1})
            raise NeedleError(
                f"needle set {self.name!r} has needle_id {repeated[0]!r} twice; "
                "give every needle an id of its own."
            )
        self._require_pictures()
        object.__setattr__(self, "sha256", _sha256_of_needles(self.needles))

    @classmethod
    def none(cls) -> "NeedleSet":
        """The set of a task that hides nothing, such as ``vqa``."""
        return cls("none", "", ())

    def __repr__(self) -> str:
        shown = ", ".join((*self.ids[:3], "...") if len(self) > 4 else self.ids)
        return f"<NeedleSet {self.name}, {counted(len(self), 'needle')}: {shown}>"

    def __len__(self) -> int:
        return len(self.needles)

    def __iter__(self) -> Iterator[Needle]:
        return iter(self.needles)

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the needles, in order."""
        return tuple(needle.needle_id for needle in self.needles)

    @property
    def pictures(self) -> Mapping[str, Needle | Distractor]:
        """Everything that samples may show, by its id: needles, selected or not, and distractors.

        The selected needles come first, in their order.
        """
        return {picture.needle_id: picture for picture in self._all}

    @property
    def declared_sha256(self) -> str | None:
        """Identifies what the needles declare beside `sha256`; None if they declare nothing.

        It covers their locators, and the ids and pictures of their distractors, in order, and their
        bridges with the pictures that they lead to. The task ``vniah`` uses none of them, so they
        are not part of `sha256`.
        """
        if not any(n.distractors or n.locator or n.bridge for n in self.needles):
            return None
        pictures = self.pictures
        records: list[list[object]] = []
        for needle in self.needles:
            named = [[name, pictures[name].image_sha256] for name in needle.distractors]
            records.append([needle.needle_id, needle.locator, named])
            if bridge := needle.bridge:
                target = [bridge.to, pictures[bridge.to].image_sha256]
                texts = [bridge.question, bridge.answer, bridge.choices, bridge.accepted]
                records[-1] += [target, texts]
        return hash_text(json.dumps(records, separators=(",", ":")))

    def select(self, ids: Sequence[str]) -> "NeedleSet":
        """The set of the needles with these ids, in the order of `ids`.

        The pictures of the others can still be shown as distractors.

        Raises:
            NeedleError: an id is unknown or given twice, or no id is given.
        """
        known = {needle.needle_id: needle for needle in self.needles}
        if unknown := [name for name in ids if name not in known]:
            raise NeedleError(
                f"needle set {self.name!r} has no needle {unknown[0]!r}; it has {', '.join(known)}."
            )
        others = tuple(needle for name, needle in known.items() if name not in ids)
        return replace(
            self,
            needles=tuple(known[name] for name in ids),
            unselected=(*others, *self.unselected),
        )

    @property
    def _all(self) -> Iterable[Needle | Distractor]:
        return (*self.needles, *self.unselected, *self.distractors)

    def _require_pictures(self) -> None:
        pictures = self.pictures
        for needle in (*self.needles, *self.unselected):
            for name in needle.distractors:
                if name not in pictures:
                    raise NeedleError(
                        f"the needle {needle.needle_id!r} names the distractor {name!r}, which the "
                        f"needle set {self.name!r} does not have; it has {_some(pictures)}."
                    )
                if pictures[name].image_sha256 == needle.image_sha256:
                    raise NeedleError(
                        f"the distractor {name!r} of the needle {needle.needle_id!r} shows the "
                        "same picture as the needle; name another one."
                    )
            if needle.bridge is not None and needle.bridge.to not in pictures:
                raise NeedleError(
                    f"the bridge of the needle {needle.needle_id!r} leads to {needle.bridge.to!r}, "
                    f"which the needle set {self.name!r} does not have; it has {_some(pictures)}."
                )


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join((*listed[:20], "...") if len(listed) > 20 else listed)


def _sha256_of_needles(needles: tuple[Needle, ...]) -> str:
    records: list[list[object]] = []
    for n in needles:
        records.append([n.needle_id, n.question, n.answer, n.choices, n.image_sha256])
        if (
            n.accepted
        ):  # left out where there are none, so that the sha256 of such sets stays the same
            records[-1].append(n.accepted)
    return hash_text(json.dumps(records, separators=(",", ":")))
