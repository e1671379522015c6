"""TensorBoard: event files in the folder `tensorboard` of the run."""

from __future__ import annotations

from collections.abc import Mapping

from sensitivity.loggers.base import Entry, client


class TensorboardLogger:
    """Writes with torch and tensorboard, or with tensorboardX, which needs neither of them."""

    name = "tensorboard"

    def __init__(self) -> None:
        self._client = client(self.name, "torch.utils.tensorboard", "tensorboardX")

    def log(self, entry: Entry) -> None:
        """Log numbers as scalars, and settings and the rest as tables of text.

        TensorBoard stores no files, so the paths of the files are logged instead.
        """
        files = {file.name: str(file) for file in entry.files}
        texts = {"settings": entry.settings, "verdict": entry.tags, "files": files}
        with self._client.SummaryWriter(str(entry.folder / "tensorboard")) as writer:
            for name, value in entry.metrics.items():
                writer.add_scalar(name, value)
            for name, rows in texts.items():
                writer.add_text(name, _table(rows))


def _table(rows: Mapping[str, str]) -> str:
    """Return names and values as a Markdown table."""
    lines = []
    for key, value in rows.items():
        cell = value.replace("|", "\\|").replace("\n", "; ")
        lines.append(f"| {key} | {cell} |")
    return "\n".join(["| | |", "|---|---|", *lines])
