"""From records to what people look at. Knows nothing of running."""

from advbench.report.compare import compare
from advbench.report.plots import comparison_figures, draw_figures
from advbench.report.tables import accuracy_table, record_summary, records_table

__all__ = ["accuracy_table", "compare", "comparison_figures", "draw_figures", "record_summary", "records_table"]
