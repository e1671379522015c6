"""The choice of a CUDA package, and cuda-bindings' error codes, with fakes: no GPU is touched."""

import sys
import types
from typing import Any

import numpy as np
import pytest

from sensitivity.errors import RuntimeUnavailable
from sensitivity.runtimes import cuda
from sensitivity.runtimes.cuda_bindings import BindingsCuda


class Broken:
    @staticmethod
    def problem() -> str | None:
        return "no driver"


class Works(Broken):
    @staticmethod
    def problem() -> str | None:
        return None


def packages(monkeypatch: pytest.MonkeyPatch, **classes: str) -> None:
    """Stand in for the real packages; the names must be importable."""
    monkeypatch.setattr(
        cuda, "PACKAGES", {name: f"{__name__}:{made}" for name, made in classes.items()}
    )


def test_the_first_package_that_works_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    packages(monkeypatch, json="Broken", csv="Works")
    assert cuda.cuda_problem() is None
    assert isinstance(cuda.open_cuda(), Works)


def test_where_none_works_each_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    packages(monkeypatch, json="Broken", no_such_package="Works")
    sentence = r"\(json: no driver; no_such_package is not installed\)"
    assert cuda.cuda_problem() == "no CUDA device can be used from Python " + sentence.replace(
        "\\", ""
    )
    with pytest.raises(RuntimeUnavailable, match=f"Expected a CUDA device, got: .*{sentence}"):
        cuda.open_cuda()


class Code:
    def __init__(self, name: str) -> None:
        self.name = name


class FakeRuntime(types.ModuleType):
    """cuda.bindings.runtime: calls return their error code first; `fails` names the call that gets
    one."""

    def __init__(self, fails: str = "") -> None:
        super().__init__("cuda.bindings.runtime")
        self.fails, self.calls = fails, []
        self.success = Code("cudaSuccess")
        self.values = {
            "cudaGetDeviceCount": 1,
            "cudaMalloc": 4096,
            "cudaStreamCreate": 5,
            "cudaGetDevice": 0,
        }
        self.values["cudaGetDeviceProperties"] = types.SimpleNamespace(name=b"Fake GPU")
        self.cudaError_t = types.SimpleNamespace(cudaSuccess=self.success)
        kinds = {"cudaMemcpyHostToDevice": "in", "cudaMemcpyDeviceToHost": "out"}
        self.cudaMemcpyKind = types.SimpleNamespace(**kinds)
        self.cudaStreamCaptureMode = types.SimpleNamespace(cudaStreamCaptureModeThreadLocal="local")

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cuda"):
            raise AttributeError(name)

        def call(*args: Any) -> tuple[Any, ...]:
            self.calls.append(name)
            return (Code("cudaErrorX") if name == self.fails else self.success), self.values.get(
                name, f"{name} value"
            )

        return call


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> FakeRuntime:
    made = FakeRuntime(getattr(request, "param", ""))
    for name in ("cuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", made)
    return made


def test_a_driver_that_answers_is_no_problem(fake: FakeRuntime) -> None:
    assert BindingsCuda.problem() is None
    fake.values["cudaGetDeviceCount"] = 0
    assert BindingsCuda.problem() == "no device"
    fake.fails = "cudaGetDeviceCount"
    assert BindingsCuda.problem() == "cudaErrorX"


def test_everything_that_was_made_is_freed(fake: FakeRuntime) -> None:
    device = BindingsCuda()
    assert (device.handle, device.device) == (5, "Fake GPU")
    buffer = device.allocate(64)
    device.copy_in(buffer, np.zeros(16, np.float32))
    device.captured(lambda: None)()
    device.close()
    made = [
        name
        for name in fake.calls
        if "Create" in name or name in ("cudaMalloc", "cudaGraphInstantiate")
    ]
    freed = [name for name in fake.calls if "Destroy" in name or name == "cudaFree"]
    assert sorted(made) == [
        "cudaEventCreate",
        "cudaEventCreate",
        "cudaGraphInstantiate",
        "cudaMalloc",
        "cudaStreamCreate",
    ]
    expected = [
        "cudaEventDestroy",
        "cudaEventDestroy",
        "cudaFree",
        "cudaGraphDestroy",
        "cudaGraphExecDestroy",
    ]
    assert sorted(freed) == [*expected, "cudaStreamDestroy"]


@pytest.mark.parametrize("fake", ["cudaMalloc"], indirect=True)
def test_an_error_code_becomes_a_sentence(fake: FakeRuntime) -> None:
    with pytest.raises(
        RuntimeUnavailable, match="Expected the CUDA call to succeed, got cudaErrorX"
    ):
        BindingsCuda().allocate(1)


def test_a_stream_does_not_stay_in_capture_mode_after_an_exception(fake: FakeRuntime) -> None:
    def fail() -> None:
        raise RuntimeUnavailable("the engine did not run")

    with pytest.raises(RuntimeUnavailable, match="the engine did not run"):
        BindingsCuda().captured(fail)
    assert "cudaStreamEndCapture" in fake.calls
