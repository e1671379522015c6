"""`--log`: what MLflow, Weights & Biases and TensorBoard hold after a run."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from support.commands import TASK, verb
from support.reporting_samples import complete, scan_only

from sensitivity.loggers.base import Entry
from sensitivity.loggers.mlflow import MlflowLogger
from sensitivity.loggers.tensorboard import TensorboardLogger
from sensitivity.loggers.wandb import WandbLogger
from sensitivity.registry import FAMILIES
from sensitivity.reporting.entry import entry_of

METRICS = {"drop": 0.0125, "drop_low": -0.25, "partial_ms": 3.5, "layers_out": 2.0}


@pytest.fixture
def entry(tmp_path: Path) -> Entry:
    files = tmp_path / "report.html", tmp_path / "plan.json"
    for file in files:
        file.write_text(f"all of {file.name}")
    settings = {"max-drop": "1pt", "skip": "a|b"}
    tags = {"accuracy": "met", "command": "sensitivity scan a.py\nsensitivity plan runs/a"}
    return Entry("my_task", settings, tags, METRICS, files, tmp_path)


def test_mlflow_holds_parameters_metrics_tags_and_files(
    entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: not logged for real")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("a", str(tmp_path / "kept")))
    with mlflow.start_run() as around:
        MlflowLogger().log(entry)
    (run,) = mlflow.search_runs(
        filter_string=f"tags.mlflow.parentRunId = '{around.info.run_id}'", output_format="list"
    )
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "my_task"
    assert run.data.params == entry.settings
    assert run.data.metrics == METRICS
    assert run.data.tags["accuracy"] == "met"
    kept = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="plan.json")
    assert Path(kept).read_text() == "all of plan.json"


def test_wandb_writes_a_run_offline(
    entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb", reason="wandb is not installed: not logged for real")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    told: list[Any] = []
    init = wandb.init
    monkeypatch.setattr(wandb, "init", lambda **given: told.append(init(**given)) or told[-1])
    WandbLogger().log(entry)
    (run,) = told
    assert run.config["max-drop"] == "1pt"
    assert run.name == "my_task"
    (stored,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    content = stored.read_bytes()
    for words in (b"partial_ms", b"accuracy", b"report.html", b"max-drop"):
        assert words in content
    assert wandb.run is None


def test_tensorboard_writes_scalars_and_texts(entry: Entry, tmp_path: Path) -> None:
    reason = "neither tensorboard nor tensorboardX is installed: not logged for real"
    pytest.importorskip("tensorboardX", reason=reason)
    from tensorboardX.proto.event_pb2 import Event

    TensorboardLogger().log(entry)
    (file,) = (tmp_path / "tensorboard").glob("events.out.tfevents.*")
    summaries = [
        value for record in records(file) for value in Event.FromString(record).summary.value
    ]
    scalars = {value.tag: value.simple_value for value in summaries if not value.HasField("tensor")}
    assert scalars == pytest.approx(METRICS)
    texts = {
        value.tag: str(value.tensor.string_val[0]) for value in summaries if value.tensor.dtype
    }
    assert r"| max-drop | 1pt |\n| skip | a\\|b |" in texts["settings/text_summary"]
    assert "| sensitivity scan a.py; sensitivity plan runs/a |" in texts["verdict/text_summary"]
    assert str(tmp_path / "plan.json") in texts["files/text_summary"]


def records(file: Path) -> Iterator[bytes]:
    """The records of an event file: each has its length and a checksum before it, and a checksum
    after it."""
    content, at = file.read_bytes(), 0
    while at < len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        yield content[at + 12 : at + 12 + length]
        at += 12 + length + 4


def test_an_entry_has_what_was_measured_and_leaves_out_what_was_not(tmp_path: Path) -> None:
    there, missing = tmp_path / "report.html", tmp_path / "bench.csv"
    there.touch()
    data = complete()
    assert data.plan is not None
    made = entry_of(replace(data, settings={"exact": "True"}), [there, missing], tmp_path)
    assert made.files == (there,)
    assert made.settings == {"exact": "True", "metric": data.metric}
    drop, partial = data.plan.metric.holdout_drop, data.timings[-1]
    assert made.metrics["layers_out"] == len(data.plan.skip)
    assert made.metrics["met"] == 1
    assert made.metrics["drop"] == drop.value
    assert (made.metrics["drop_low"], made.metrics["drop_high"]) == (drop.low, drop.high)
    assert made.metrics[f"{partial.variant}_ms"] == partial.median_ms
    assert made.metrics[f"{partial.variant}_speedup"] == partial.ratio.value
    assert made.metrics["float_metric"] == data.plan.metric.holdout_float.value
    scanned = entry_of(scan_only(5), [], tmp_path)
    assert scanned.metrics == {"layers": 5}
    named = entry_of(replace(data, name="fast"), [], tmp_path)
    assert named.title == f"{data.title}, fast"
    assert named.settings["plan"] == "fast"


class Told:
    """A tracker that keeps what it is given, or fails."""

    name = "wandb"
    entries: ClassVar[list[Entry]] = []
    fails = False

    def log(self, entry: Entry) -> None:
        if Told.fails:
            raise OSError("no way to\nthe server")
        Told.entries.append(entry)


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("logged") / "tiny"
    assert verb("scan", f"{TASK}:task", "--out", out) == 0
    return out


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> type[Told]:
    monkeypatch.setitem(FAMILIES["loggers"], "wandb", f"{__name__}:Told")
    monkeypatch.setattr(Told, "entries", [])
    return Told


def test_a_report_is_logged_with_its_files(
    scanned: Path, told: type[Told], capsys: pytest.CaptureFixture[str]
) -> None:
    assert verb("report", scanned, "--log", "wandb") == 0
    assert capsys.readouterr().out.endswith("Logged with wandb.\n")
    (entry,) = told.entries
    assert [file.name for file in entry.files] == ["scan.csv", "report.html"]
    assert entry.folder == scanned
    assert entry.tags["command"].startswith("sensitivity scan ")
    plan = ("--max-drop", "20pt", "--no-recalibrate", "--name", "fast")
    assert verb("plan", scanned, *plan) in (0, 2)
    assert verb("report", scanned, "--name", "fast", "--log", "wandb") == 0
    names = ["scan.csv", "report.html", "fast.json"]
    assert [file.name for file in told.entries[1].files] == names
    assert told.entries[1].folder == scanned / "plans" / "fast"


def test_a_tracker_that_fails_costs_nothing_of_the_run(
    scanned: Path,
    told: type[Told],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(told, "fails", True)
    (scanned / "report.html").unlink(missing_ok=True)
    assert verb("report", scanned, "--log", "wandb") == 1
    assert capsys.readouterr().err == (
        "Error: Expected wandb to accept the run, got OSError: no way to the server; everything "
        f"else is done: log it again with: sensitivity report {scanned} --log wandb\n"
    )
    assert (scanned / "report.html").exists()


@pytest.mark.parametrize("name", FAMILIES["loggers"])
def test_a_missing_client_is_reported_before_the_long_work(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("mlflow", "wandb", "tensorboardX", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, module, None)
    assert verb("run", f"{TASK}:task", "--out", tmp_path / "r", "--log", name) == 1
    said = capsys.readouterr().err
    assert f"Expected {name} to be installed for --log {name}; run: pip install" in said
    assert f"[{name}]" in said
    assert not (tmp_path / "r" / "run.json").exists()


def test_text_for_a_ci_service_is_not_logged(
    scanned: Path, told: type[Told], capsys: pytest.CaptureFixture[str]
) -> None:
    for form in ("junit", "netron"):
        assert verb("report", scanned, "--format", form, "--log", "wandb") == 1
        assert "Expected --log with the files that --format html writes" in capsys.readouterr().err
    assert not told.entries
