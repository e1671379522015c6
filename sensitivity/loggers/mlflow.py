"""MLflow: one run, in the experiment and on the server given by MLflow's environment variables."""

from __future__ import annotations

from sensitivity.loggers.base import Entry, client


class MlflowLogger:
    """Logs to MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME. Inside an active run, it logs a child
    run."""

    name = "mlflow"

    def __init__(self) -> None:
        self._mlflow = client(self.name, "mlflow")

    def log(self, entry: Entry) -> None:
        """Log settings as parameters, numbers as metrics, files as artifacts and the rest as
        tags."""
        mlflow = self._mlflow
        with mlflow.start_run(run_name=entry.title, nested=True):
            mlflow.log_params(dict(entry.settings))
            mlflow.set_tags(dict(entry.tags))
            mlflow.log_metrics(dict(entry.metrics))
            for file in entry.files:
                mlflow.log_artifact(str(file))
