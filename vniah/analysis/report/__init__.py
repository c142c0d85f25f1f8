"""Reports: one HTML file with all that a run says, and all samples behind it.

``page`` puts a report together. What stands in it is made by ``maps`` (the heatmap as a table),
``tables`` (the other tables), ``samples`` (what the page's script shows of samples), ``needles``
(pictures), ``origin`` (what ran) and ``command`` (how to run it again); ``assets/`` has the
template, the style and the script.
"""

from vniah.analysis.report.page import Report, make_report, save_report

__all__ = ["Report", "make_report", "save_report"]
