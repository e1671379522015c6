"""Lets fine-tuning begin by itself only in the tests that are about it, since it takes minutes."""

from __future__ import annotations

from sensitivity.steps import fine_tune

is_enough = fine_tune.is_enough
"""The real test of whether a target is met without fine-tuning."""


def never_by_itself() -> None:
    """Let every plan do without fine-tuning, unless it asks for it."""
    fine_tune.is_enough = lambda *_: True  # type: ignore[assignment]
