"""Which cells of a run are measured."""

from vniah.grid import Cell
from vniah.results.plan import open_places
from vniah.results.records import Results


def measured_cells(results: Results) -> frozenset[Cell]:
    """The cells of which every planned sample of the test has a line, be it with an error."""
    cells = (found.cell for found in results.cells)
    if results.is_complete:
        return frozenset(cells)
    lines = (*results.samples, *results.control_samples)
    pending = open_places(results.manifest, {line.sample_id for line in lines})
    return frozenset(cell for cell in cells if cell.prefix not in pending)
