"""One page that explains what became of each clip of a run folder. It reads results and changes none of them."""

from dualforce_model.report.funnel import funnel
from dualforce_model.report.page import render
from dualforce_model.report.pictures import contact_sheet

__all__ = ["contact_sheet", "funnel", "render"]
