"""Controls are samples outside of the test that show whether its score can be trusted.

They are made from the samples of any task, so your own tasks have them as well. Controls do not
count in the score; they are shown in a table of their own. Each is one module.
"""

from vniah.tasks.controls.base import Control, Finding, Row
from vniah.tasks.controls.planning import CONTROLS, ChosenControls, choose_controls, plan_samples

__all__ = [
    "CONTROLS",
    "ChosenControls",
    "Control",
    "Finding",
    "Row",
    "choose_controls",
    "plan_samples",
]
