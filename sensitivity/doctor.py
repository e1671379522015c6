"""What is installed, what each missing package would add, and which runtimes work on this
machine."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass

from sensitivity.distribution import install_line
from sensitivity.errors import GuestError
from sensitivity.registry import MEMBER, guests, load, names, package_of


@dataclass(frozen=True)
class Package:
    """version: None where it is not installed."""

    name: str
    version: str | None
    purpose: str
    install: str


@dataclass(frozen=True)
class RuntimeState:
    """problem: why it cannot work here; None where it can. version: empty where it cannot work."""

    name: str
    version: str
    problem: str | None


@dataclass(frozen=True)
class Addition:
    """kind: in words, such as "planner". problem: why it cannot be used; None where it can."""

    package: str
    kind: str
    name: str
    problem: str | None


PURPOSES = {
    "onnxruntime": ("runs and times ONNX files on any CPU", install_line()),
    "torch": ("fake-quantized PyTorch models", install_line("modelopt")),
    "nvidia-modelopt": ("models calibrated with NVIDIA ModelOpt", install_line("modelopt")),
    "pillow": ("image folders as tasks", install_line("images")),
    "scikit-learn": ("the digits of `sensitivity demo`", install_line("demo")),
    "openvino": ("builds and times OpenVINO models", install_line("openvino")),
    "ai-edge-litert": ("reads .tflite files", install_line("tflite")),
    "ray": ("measures on a cluster with --ray", install_line("ray")),
    "mlflow": ("logs runs with --log mlflow", install_line("mlflow")),
    "wandb": ("logs runs with --log wandb", install_line("wandb")),
    "tensorboardX": ("logs runs with --log tensorboard", install_line("tensorboard")),
    "tensorrt": (
        "builds and times TensorRT engines",
        "pip install tensorrt, on a machine with an NVIDIA GPU",
    ),
    "tensorrt-rtx": ("NVIDIA's parser and builder judge files, without a GPU", install_line("rtx")),
}
OTHER_NAMES = {"tensorrt-rtx": ("tensorrt-rtx-cu12",), "tensorboardX": ("tensorboard",)}
"""Distributions that bring the same module where the one of this name is not installed."""


def packages() -> tuple[Package, ...]:
    """The packages that anything here needs, with the versions that are installed."""
    return tuple(
        Package(name, _version(name), purpose, install)
        for name, (purpose, install) in PURPOSES.items()
    )


def runtimes() -> tuple[RuntimeState, ...]:
    """Every runtime in the registry, tried for real: its library is imported."""
    states = []
    for name in names("runtimes"):
        try:
            runtime = load("runtimes", name)()
        except GuestError as error:
            states.append(RuntimeState(name, "", str(error)))
            continue
        problem = runtime.unavailable()
        states.append(RuntimeState(name, "" if problem else runtime.version(), problem))
    return tuple(states)


def additions() -> tuple[Addition, ...]:
    """What other installed packages bring for the families of the registry, each tried for real."""
    return tuple(
        Addition(package_of(entry), MEMBER[family], entry.name, _problem(family, entry.name))
        for family in MEMBER
        for entry in guests(family)
    )


def _problem(family: str, name: str) -> str | None:
    try:
        load(family, name)
    except GuestError as error:
        return str(error)
    return None


def _version(name: str) -> str | None:
    for distribution in (name, *OTHER_NAMES.get(name, ())):
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
