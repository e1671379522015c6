"""Weights & Biases: one run, in the project that its environment names."""

from __future__ import annotations

import os

from sensitivity.loggers.base import Entry, client


class WandbLogger:
    """WANDB_PROJECT says where, `sensitivity` by default; WANDB_MODE=offline writes to the folder
    wandb alone. A run that is open in the same program stays open."""

    name = "wandb"

    def __init__(self) -> None:
        self._wandb = client(self.name, "wandb")

    def log(self, entry: Entry) -> None:
        """Settings as configuration, numbers and tags as the summary, files as one artifact."""
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
