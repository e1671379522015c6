"""`sensitivity plan`: choose a skip-set."""

from __future__ import annotations

from sensitivity.cli.options import verb
from sensitivity.config import PlanSettings


@verb(PlanSettings, "plan")
def command(settings: PlanSettings) -> int:
    """Choose the layers to leave out of INT8 so that a target holds.

    DIRECTORY is a run directory made by `sensitivity scan`. What was measured before is used again:
    for another target of an earlier search the answer takes a second, where a set that was measured
    then meets it.

    Exit codes: 0 target met, 2 target missed, 1 error.
    """
    from sensitivity import api
    from sensitivity.cli.progress import bar
    from sensitivity.cli.render import show, show_frontier

    if settings.frontier:
        show_frontier(settings.directory)
        return 0
    plan = api.plan(settings, bar)
    show(settings.directory)
    return 0 if plan.met else 2
