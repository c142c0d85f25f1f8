"""Needle sets: pictures to be found, each with a question that only it answers."""

from vniah.needles.bridges import Bridge
from vniah.needles.loading import EMBEDDED_SETS, load_needles
from vniah.needles.records import Distractor, Needle
from vniah.needles.sets import NeedleSet

__all__ = ["EMBEDDED_SETS", "Bridge", "Distractor", "Needle", "NeedleSet", "load_needles"]
