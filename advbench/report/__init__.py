"""From records to what people look at. Knows nothing of running."""

from advbench.report.compare import compare
from advbench.report.figures import convergence, draw_figures, triplets
from advbench.report.tables import accuracy_table, record_summary, records_table

__all__ = ["accuracy_table", "compare", "convergence", "draw_figures", "record_summary", "records_table", "triplets"]
