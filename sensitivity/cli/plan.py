"""`sensitivity plan`: choose a skip-set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sensitivity.cli import lazy
from sensitivity.cli.options import aside, long_verb
from sensitivity.config import PlanSettings

if TYPE_CHECKING:
    from sensitivity.cli.progress import Teller


@long_verb(PlanSettings, "plan")
def command(settings: PlanSettings, teller: Teller) -> int:
    """Choose the layers to leave out of INT8 so that a target holds.

    DIRECTORY is a run directory made by `sensitivity scan`. Earlier measurements are reused: a plan
    for another target of an earlier search takes a second, if a set that was measured then meets
    it. No plan replaces another: with --name it is written to plans/NAME.json, and an earlier
    plan.json for another target is kept in plans under a name of its own.

    Exit codes: 0 target met, 2 target missed, 1 error.
    """
    if settings.frontier:
        lazy.render.show_frontier(settings.directory, settings.name)
        return 0
    with aside():
        plan = lazy.api.plan(settings, teller)
    lazy.render.show(settings.directory, name=settings.name)
    return 0 if plan.met else 2
