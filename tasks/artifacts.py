"""What a run leaves on the dashboard: a table per stage, a contact sheet, the funnel, a link to the report."""

from __future__ import annotations

from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)
from prefect.logging import get_run_logger

from dualforce_model import report
from dualforce_model.errors import Verdict
from dualforce_model.media import Clip
from dualforce_model.report.pictures import data_uri
from dualforce_model.store import ledger
from dualforce_model.store.remote import NotInStore, StoreError
from tasks import obtained, working_copy
from tasks.away import only_shown
from tasks.board import key_of
from tasks.run import Run

ON_SHEET = 24  # clips


def show_stage(run: Run, stage: str, counts: dict[str, int]) -> None:
    """The counts of a stage with every reason; of lists also what came of them, of the filter the faces it let through."""
    rows = ledger.read(run.dir, stage, ("status", "reason", "clip_id"))
    reasons = rows[rows["status"] != "accepted"].groupby(["status", "reason"]).size()
    table = [{"what": what, "items": count} for what, count in counts.items()]
    table += [{"what": f"{status}: {reason}", "items": int(count)} for (status, reason), count in reasons.items()]
    with only_shown():
        what = f"{run.config.name}: {stage} in {run.dir}"
        create_table_artifact(table, key=f"funnel-{key_of(stage)}", description=what)
    if stage in ("download", "source") and run.config.download.lists:
        came = obtained.table(obtained.count(run))
        what = f"{run.config.name}: what the lists promised, what came"
        with only_shown():
            create_table_artifact(came, key="expected-obtained", description=what)
    if stage == "quality":
        clips = [Clip(run.clips, name) for name in rows.loc[rows["status"] == "accepted", "clip_id"]]
        try:
            working_copy.fetch_clips(run, [clip.clip_id for clip in clips[:ON_SHEET]])
            sheet = data_uri(report.contact_sheet(clips, ON_SHEET), "image/jpeg")
        except (OSError, Verdict, NotInStore, StoreError) as error:
            # a clip was damaged since; the picture is no reason to stop the run
            get_run_logger().warning("no contact sheet: %s", error)
        else:
            with only_shown():
                create_image_artifact(sheet, key="contact-sheet", description=f"Accepted clips of {run.dir}")


def show_run(run: Run) -> None:
    """Write the report; link it, and show the funnel of the whole run."""
    page = report.render(run.dir)
    with only_shown():
        create_link_artifact(page.as_uri(), link_text="report", key="report", description=f"The report of {run.dir}")
        lines = [f"| {label} | {count} | {detail} |" for label, count, detail in report.funnel(run.dir)]
        table = "\n".join(["| step | count | left behind |", "|---|---|---|", *lines])
        create_markdown_artifact(table, key="funnel", description=f"What became of every source of {run.config.name}")
