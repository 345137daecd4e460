"""From records to what people look at. Knows nothing of running."""

from advbench.report.compare import beside_others, compare
from advbench.report.plots import comparison_figures, draw_figures
from advbench.report.tables import accuracy_table, record_summary, records_table

__all__ = [
    "accuracy_table",
    "beside_others",
    "compare",
    "comparison_figures",
    "draw_figures",
    "record_summary",
    "records_table",
]
