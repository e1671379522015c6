"""Weights & Biases: one run, in the project given by its environment variables."""

from __future__ import annotations

import os

from sensitivity.loggers.base import Entry, client


class WandbLogger:
    """Logs to WANDB_PROJECT, `sensitivity` by default. With WANDB_MODE=offline it only writes to
    the folder wandb. A run that is already open in the program stays open."""

    name = "wandb"

    def __init__(self) -> None:
        self._wandb = client(self.name, "wandb")

    def log(self, entry: Entry) -> None:
        """Log settings as configuration, numbers and tags as the summary, and files as one
        artifact."""
        wandb = self._wandb
        with wandb.init(
            project=os.environ.get("WANDB_PROJECT", "sensitivity"),
            name=entry.title,
            config=dict(entry.settings),
            reinit="create_new",
        ) as run:
            run.log(dict(entry.metrics))
            run.summary.update(dict(entry.tags))
            files = wandb.Artifact(f"sensitivity-{run.id}", type="report")
            for file in entry.files:
                files.add_file(str(file))
            run.log_artifact(files)
