"""Task files with one mistake each, for `bad_inputs.py`. A function VERB__MISTAKE is given to that
verb."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sensitivity import EvaluateTask, Task
from sensitivity.quantizers.onnx.model import OnnxModel

NUMBER = 3


def model() -> OnnxModel:
    return OnnxModel(Path(__file__).with_name("int8.onnx"))


def hits(outputs: Any, targets: Any) -> Any:
    return (np.asarray(outputs).argmax(1) == targets) * 1.0


def score(outputs: Any, targets: Any) -> Any:
    return hits(outputs, targets)


def batches(seed: int, count: int = 2) -> list[tuple[Any, Any]]:
    rng = np.random.default_rng(2).spawn(seed + 1)[seed]
    return [
        (rng.normal(size=(10, 4)).astype(np.float32), rng.integers(0, 3, 10)) for _ in range(count)
    ]


def data() -> dict[str, Any]:
    return {split: batches(seed) for seed, split in enumerate(("rank", "confirm", "holdout"))}


def scan_good() -> Task:
    return Task(model(), data(), score, metric="hits")


def scan__function_with_an_argument(path: str) -> Task:
    raise AssertionError(path)


def scan__raises() -> Task:
    raise KeyError("labels")


def scan__recursion() -> Task:
    return scan__recursion()


def scan__exits() -> Task:
    raise SystemExit(3)


def scan__returns_none() -> None:
    return None


def scan__returns_a_dict() -> dict[str, Any]:
    return {"model": model()}


def scan__returns_the_class() -> type:
    return Task


def scan__generator() -> Iterator[Task]:
    yield scan_good()


async def scan_coroutine() -> Task:
    return scan_good()


def scan__returns_a_coroutine() -> Any:
    return scan_coroutine()


def scan__model_is_none() -> Task:
    return replace(scan_good(), model=None)


def scan__model_is_a_path() -> Task:
    return replace(scan_good(), model="int8.onnx")


def scan__model_without_quantizers() -> Task:
    import torch

    return replace(scan_good(), model=torch.nn.Linear(4, 3).eval())


def scan__model_in_training_mode() -> Task:
    import torch

    return replace(scan_good(), model=torch.nn.Linear(4, 3))


def scan__data_is_none() -> Task:
    return replace(scan_good(), data=None)


def scan__data_is_a_list() -> Task:
    return replace(scan_good(), data=batches(0))


def scan__split_missing() -> Task:
    return replace(scan_good(), data={"rank": batches(0), "confirm": batches(1)})


def scan__split_empty() -> Task:
    return replace(scan_good(), data=data() | {"holdout": []})


def scan__split_is_a_generator() -> Task:
    return replace(scan_good(), data=data() | {"rank": (batch for batch in batches(0))})


def scan__split_is_none() -> Task:
    return replace(scan_good(), data=data() | {"rank": None})


def scan__split_is_a_number() -> Task:
    return replace(scan_good(), data=data() | {"rank": 3})


def scan__split_is_an_array() -> Task:
    return replace(scan_good(), data=data() | {"rank": np.zeros((10, 4), np.float32)})


def scan__batch_without_targets() -> Task:
    return replace(scan_good(), data=data() | {"rank": [inputs for inputs, _ in batches(0)]})


def scan__batch_of_three() -> Task:
    return replace(scan_good(), data=data() | {"rank": [(*batch, None) for batch in batches(0)]})


def scan__batch_is_none() -> Task:
    return replace(scan_good(), data=data() | {"confirm": [None]})


def scan__inputs_are_none() -> Task:
    return replace(scan_good(), data=data() | {"rank": [(None, np.zeros(10))]})


def scan__inputs_are_text() -> Task:
    return replace(scan_good(), data=data() | {"rank": [("image.jpg", 1)]})


def scan__inputs_of_single_samples() -> Task:
    return replace(scan_good(), data=data() | {"rank": [(np.zeros(4, np.float32), 1)]})


def scan__inputs_of_another_shape() -> Task:
    return replace(
        scan_good(), data=data() | {"rank": [(np.zeros((10, 7), np.float32), np.zeros(10))]}
    )


def scan__inputs_of_another_type() -> Task:
    return replace(
        scan_good(), data=data() | {"rank": [(np.zeros((10, 4), np.int64), np.zeros(10))]}
    )


def scan__inputs_of_another_name() -> Task:
    return replace(
        scan_good(),
        data=data() | {"rank": [({"image": np.zeros((10, 4), np.float32)}, np.zeros(10))]},
    )


def scan__two_inputs() -> Task:
    x = np.zeros((10, 4), np.float32)
    return replace(scan_good(), data=data() | {"rank": [((x, x), np.zeros(10))]})


def scan__later_batch_of_another_shape() -> Task:
    return replace(
        scan_good(),
        data=data() | {"rank": [*batches(0), (np.zeros((10, 7), np.float32), np.zeros(10))]},
    )


class Broken(list[Any]):
    """Batches of which the second cannot be read."""

    def __iter__(self) -> Iterator[Any]:
        yield self[0]
        raise OSError(5, "Input/output error", "images/0001.jpg")


class Short(list[Any]):
    """Fewer batches than len() says."""

    def __len__(self) -> int:
        return 5


class Long(list[Any]):
    """More batches than len() says."""

    def __len__(self) -> int:
        return 1


class Liar(list[Any]):
    """A len() that fails."""

    def __len__(self) -> int:
        raise ValueError("no idea")


def scan__data_that_cannot_be_read() -> Task:
    return replace(scan_good(), data=data() | {"rank": Broken(batches(0))})


def scan__data_shorter_than_its_len() -> Task:
    return replace(scan_good(), data=data() | {"rank": Short(batches(0))})


def scan__data_longer_than_its_len() -> Task:
    return replace(scan_good(), data=data() | {"rank": Long(batches(0))})


def scan__len_that_raises() -> Task:
    return replace(scan_good(), data=data() | {"rank": Liar(batches(0))})


class Other:
    """Batches that are different on each pass."""

    def __init__(self) -> None:
        self.seed = 0

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[Any]:
        self.seed += 1
        return iter(batches(self.seed))


def scan__data_that_changes() -> Task:
    return replace(scan_good(), data=data() | {"rank": Other()})


def scored(value: Any) -> Task:
    return replace(scan_good(), score=lambda outputs, targets: value)


def scan__score_is_none() -> Task:
    return replace(scan_good(), score=None)


def scan__score_raises() -> Task:
    def score(outputs: Any, targets: Any) -> Any:
        raise IndexError("no such class")

    return replace(scan_good(), score=score)


def scan__score_of_one_argument() -> Task:
    return replace(scan_good(), score=lambda outputs: outputs)


def scan__score_returns_none() -> Task:
    return scored(None)


def scan__score_returns_a_number() -> Task:
    return scored(0.5)


def scan__score_returns_text() -> Task:
    return scored("good")


def scan__score_returns_a_dict() -> Task:
    return scored({"top1": np.zeros(10)})


def scan__score_returns_fewer() -> Task:
    return scored(np.zeros(9))


def scan__score_returns_ragged_lists() -> Task:
    return scored([[1.0, 2.0]] + [[1.0]] * 9)


def scan__score_returns_not_a_number() -> Task:
    return scored(np.full(10, np.nan))


def scan__score_returns_infinity() -> Task:
    return scored(np.full(10, np.inf))


def scan__score_returns_complex_numbers() -> Task:
    return scored(np.full(10, 1j))


def scan__score_of_another_shape_each_time() -> Task:
    def score(outputs: Any, targets: Any) -> Any:
        return np.zeros((10, int(abs(float(np.asarray(outputs).sum())) * 1e6) % 5 + 1))

    return replace(scan_good(), score=score, aggregate=lambda scores: float(scores.mean()))


def scan__aggregate_is_none() -> Task:
    return replace(scan_good(), aggregate=None)


def scan__aggregate_raises() -> Task:
    def aggregate(scores: Any) -> float:
        raise ZeroDivisionError("division by zero")

    return replace(scan_good(), aggregate=aggregate)


def scan__aggregate_returns_not_a_number() -> Task:
    return replace(scan_good(), aggregate=lambda scores: float("nan"))


def scan__aggregate_returns_text() -> Task:
    return replace(scan_good(), aggregate=lambda scores: "good")


def scan__aggregate_returns_none() -> Task:
    return replace(scan_good(), aggregate=lambda scores: None)


def scan__aggregate_returns_many() -> Task:
    return replace(scan_good(), aggregate=lambda scores: scores)


def scan__metric_is_a_number() -> Task:
    return replace(scan_good(), metric=3)


def scan__full_scale_of_zero() -> Task:
    return replace(scan_good(), full_scale=0)


def scan__full_scale_negative() -> Task:
    return replace(scan_good(), full_scale=-1.0)


def scan__full_scale_not_a_number() -> Task:
    return replace(scan_good(), full_scale=float("nan"))


def scan__full_scale_is_text() -> Task:
    return replace(scan_good(), full_scale="100 %")


def scan__finish_is_no_function() -> Task:
    return replace(scan_good(), finish="later")


def evaluated(value: Any) -> EvaluateTask:
    return EvaluateTask(model(), lambda switched: value)


def scan__evaluate_is_none() -> EvaluateTask:
    return EvaluateTask(model(), None)


def scan__evaluate_raises() -> EvaluateTask:
    def evaluate(switched: Any) -> float:
        raise KeyError("mAP")

    return EvaluateTask(model(), evaluate)


def scan__evaluate_returns_none() -> EvaluateTask:
    return evaluated(None)


def scan__evaluate_returns_text() -> EvaluateTask:
    return evaluated("42 %")


def scan__evaluate_returns_not_a_number() -> EvaluateTask:
    return evaluated(float("nan"))


def scan__evaluate_returns_many() -> EvaluateTask:
    return evaluated(np.zeros(3))
