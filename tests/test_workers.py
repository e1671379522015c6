"""Measuring in more than one process gives the results of one process, also if workers die."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.commands import TASK, verb
from support.onnx_models import float_file, labelled, static_file
from support.studies import study_of
from support.workers import FakeTask

from sensitivity import verbs
from sensitivity.config import UnitChoices
from sensitivity.errors import MissingPackage, SensitivityError, TaskError
from sensitivity.executors.base import Executor, Start, WorkerPool
from sensitivity.executors.local import LocalExecutor
from sensitivity.executors.ray import RayExecutor
from sensitivity.journal.journal import open_journal
from sensitivity.measure.measurer import Measurer
from sensitivity.measure.opening import Measures, Opening
from sensitivity.measure.parallel import ParallelMeasurer
from sensitivity.measure.raced import measured_signal
from sensitivity.measure.scan import Scan, scan
from sensitivity.session import open_session
from sensitivity.signals.base import Signal
from sensitivity.signals.distortion import SQNR
from sensitivity.testing.fakes import FakeSimulator
from sensitivity.worker import opened_worker

SUMS = "support.workers:sums"
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="ray is not installed"
)
KINDS = [
    pytest.param(LocalExecutor, id="processes"),
    pytest.param(lambda count: RayExecutor("local", count, 0), id="ray", marks=needs_ray),
]


@contextmanager
def crew(executor: Executor, count: int = 2, offset: int = 1) -> Iterator[WorkerPool]:
    with WorkerPool(executor, count, Start(SUMS, offset)) as made:
        yield made


@pytest.mark.parametrize("kind", KINDS)
def test_work_is_done_in_spite_of_workers_that_die_and_errors_come_back(
    kind: Any, tmp_path: Path
) -> None:
    with crew(kind(2)) as workers:
        jobs = [workers.submit(work) for work in (1, tmp_path / "died", 3, 4, 5, "lacks")]
        assert workers.result(jobs[4]) == 6
        assert [workers.result(job) for job in jobs[:5]] == [2, "done again", 4, 5, 6]
        with pytest.raises(SensitivityError, match="Expected some to be installed for sums"):
            workers.result(jobs[5])
        assert workers.result(workers.submit(7)) == 8


def test_work_that_kills_every_worker_is_given_up() -> None:
    with crew(LocalExecutor(2)) as workers:
        job = workers.submit("dies")
        with pytest.raises(SensitivityError) as error:
            workers.result(job)
    assert str(error.value) == (
        "Expected a worker to finish its part, got 3 that died of the same part, the last one: it "
        "ended with signal 9; use fewer --workers if memory is short, or none."
    )


def test_a_worker_that_cannot_begin_says_why() -> None:
    with (
        crew(LocalExecutor(2), offset=-1) as workers,
        pytest.raises(TaskError, match=r"^Expected an offset of at least 0, got -1\.$"),
    ):
        workers.result(workers.submit(1))


def test_workers_end_with_the_command_also_when_it_is_interrupted() -> None:
    with pytest.raises(KeyboardInterrupt), crew(LocalExecutor(1), count=1) as workers:  # noqa: PT012
        process = workers.result(workers.submit("pid"))
        os.kill(process, 0)
        raise KeyboardInterrupt
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_a_worker_that_died_idle_is_replaced() -> None:
    with crew(LocalExecutor(1), count=1) as workers:
        process = workers.result(workers.submit("pid"))
        os.kill(process, 9)
        time.sleep(0.1)
        assert workers.result(workers.submit(1)) == 2


@contextmanager
def measurer_of(
    told: FakeTask, path: Path, count: int, kind: Any = LocalExecutor
) -> Iterator[Measurer]:
    task = told.task()
    simulator = FakeSimulator(task.model)
    with open_journal(path, {"model": "fake"}, resume=True) as journal:
        if count == 1:
            yield Measurer(task, lambda _: simulator, journal)
            return
        with WorkerPool(kind(count), count, Start("support.workers:fake", told)) as workers:
            yield ParallelMeasurer(task, lambda _: simulator, journal, workers)
        assert simulator.calls == 0


def scanned(told: FakeTask, path: Path, count: int, kind: Any = LocalExecutor) -> tuple[Scan, int]:
    with measurer_of(told, path, count, kind) as measurer:
        return scan(study_of(measurer), "disable"), measurer.samples


def scores_in(path: Path) -> list[str]:
    return sorted(path.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("count", [2, 3])
def test_workers_measure_what_one_process_measures(tmp_path: Path, count: int) -> None:
    one = scanned(FakeTask(), tmp_path / "one", 1)
    assert scanned(FakeTask(), tmp_path / "more", count) == one
    assert scores_in(tmp_path / "more") == scores_in(tmp_path / "one")


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_killed_in_the_middle_changes_nothing(kind: Any, tmp_path: Path) -> None:
    one = scanned(FakeTask(), tmp_path / "one", 1)
    told = FakeTask(dies=tmp_path / "died")
    assert scanned(told, tmp_path / "more", 2, kind) == one
    assert (tmp_path / "died").exists()
    assert scores_in(tmp_path / "more") == scores_in(tmp_path / "one")


def test_an_error_in_a_worker_is_the_sentence_of_one_process(tmp_path: Path) -> None:
    said = []
    for count in (1, 2):
        with pytest.raises(TaskError) as error:
            scanned(FakeTask(fails=True), tmp_path / str(count), count)
        said.append(str(error.value))
    assert said[0] == said[1]
    assert said[0].startswith("Expected task.score to return on batch 3 of split 'rank', got Key")
    # What was measured before it is kept.
    one, two = ((tmp_path / name).read_text(encoding="utf-8").splitlines() for name in "12")
    assert two == [line for line in one if '"batch":3,"digest"' not in line]


def test_what_is_not_asked_for_is_not_written_down(tmp_path: Path) -> None:
    for count in (1, 2):
        with measurer_of(FakeTask(size=10), tmp_path / str(count), count) as measurer:
            variants = list(study_of(measurer).baselines.values())
            batches = measurer.stream(variants, "confirm", "a look")
            next(batches)
            next(batches)
            batches.close()
            assert len(measurer.known(variants[0], "confirm")) == 20
            measurer.scores(variants[:2], "confirm", "all")
    assert (tmp_path / "2").read_bytes() == (tmp_path / "1").read_bytes()


@pytest.mark.parametrize("signal", [SQNR, replace(SQNR, fitted=None)], ids=["fitted", "plain"])
def test_signals_and_their_samples_are_those_of_one_process(tmp_path: Path, signal: Signal) -> None:
    found = []
    for count in (1, 2):
        with measurer_of(FakeTask(size=5), tmp_path / str(count), count) as measurer:
            values = measured_signal(study_of(measurer), signal, 13)
            again = measured_signal(study_of(measurer), signal, 17)
            found.append((values, again, measurer.samples))
    assert found[0][:2] == found[1][:2]
    # Each process keeps float's outputs for itself, so two may run float twice on a batch.
    assert found[0][2] <= found[1][2]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with int8.onnx and data.npz."""
    folder = tmp_path_factory.mktemp("files")
    static_file(float_file(folder / "float.onnx"), folder / "int8.onnx")
    labelled(folder / "float.onnx", folder / "data.npz")
    return folder


def test_scan_and_plan_leave_the_same_files(files: Path) -> None:
    for count in (1, 2):
        out = files / f"run{count}"
        given = (files / "int8.onnx", "--data", files / "data.npz", "--out", out)
        assert verb("scan", *given, "--samples", 300, "--workers", count) == 0
        verb("plan", out, "--target", 0.95, "--workers", count)
    for name in ("scan.csv", "scan.json", "plan.json"):
        one, two = ((files / f"run{count}" / name).read_bytes() for count in (1, 2))
        assert one == two, name
    journals = [scores_in(files / f"run{count}" / "journal.jsonl") for count in (1, 2)]
    assert [line for line in journals[0] if '"open"' not in line] == [
        line for line in journals[1] if '"open"' not in line
    ]


def test_a_worker_refuses_another_model_or_other_data(files: Path, tmp_path: Path) -> None:
    task = tmp_path / "task.py"
    task.write_text(
        "from sensitivity.onnx_task import onnx_task\n\n\ndef task():\n"
        f"    return onnx_task({str(files / 'int8.onnx')!r}, {str(files / 'data.npz')!r})\n",
        encoding="utf-8",
    )
    choices = UnitChoices()
    with open_session(f"{task}:task", tmp_path / "r", resume=False, choices=choices) as session:
        head = {**session.measurer.journal.head, "model": "another"}
    opening = Opening(f"{task}:task", "task.py:task", Measures(head), 0, 2, None)
    with pytest.raises(TaskError) as error, opened_worker(opening):
        pass
    assert str(error.value).startswith(
        "Expected each worker to open the model and data of the run, got another: model was "
        '"another", is "'
    )


def test_a_number_of_workers_below_one_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert verb("scan", TASK, "--workers", 0) == 1
    assert "Expected --workers to be at least 1, got 0" in capsys.readouterr().err


def test_a_task_made_in_python_cannot_be_spread(files: Path, tmp_path: Path) -> None:
    from sensitivity.onnx_task import onnx_task

    task = onnx_task(files / "int8.onnx", files / "data.npz")
    with pytest.raises(SensitivityError) as error:
        verbs.scan(task, out=tmp_path / "run", workers=2)
    assert str(error.value) == (
        "Expected a task in a file for more than one process, each of which opens it, got one "
        "made in Python; give it as path/to/task.py:function, or leave out workers=."
    )


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="ray is installed")
def test_without_ray_its_option_says_how_to_install_it() -> None:
    with pytest.raises(MissingPackage, match="Expected ray to be installed for --ray; run: "):
        RayExecutor("auto", 2, 0)


@needs_ray
def test_a_cluster_with_too_few_cores_is_refused() -> None:
    with pytest.raises(SensitivityError, match="a core for each of --workers 1000, got "):
        RayExecutor("local", 1000, 0)


@needs_ray
def test_an_address_without_a_cluster_is_one_sentence() -> None:
    with pytest.raises(SensitivityError, match="Expected a Ray cluster at auto, got Conn"):
        RayExecutor("auto", 1, 0)
