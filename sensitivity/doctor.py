"""Which packages are installed, what the missing ones would add, and which runtimes work on this
machine."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass

from sensitivity.distribution import install_line
from sensitivity.errors import GuestError
from sensitivity.registry import MEMBER, guests, load, names, package_of


@dataclass(frozen=True)
class Package:
    """An optional package.

    version: None if it is not installed.
    purpose: what it is needed for.
    install: the command that installs it.
    """

    name: str
    version: str | None
    purpose: str
    install: str


@dataclass(frozen=True)
class RuntimeState:
    """Whether a runtime works on this machine.

    version: empty if it does not work.
    problem: why it does not work; None if it does.
    """

    name: str
    version: str
    problem: str | None


@dataclass(frozen=True)
class Addition:
    """A member of a family that another package adds.

    package: name and version of the package.
    kind: the family in words, such as "planner".
    problem: why it cannot be used; None if it can.
    """

    package: str
    kind: str
    name: str
    problem: str | None


PURPOSES = {
    "onnxruntime": ("runs and times ONNX files on any CPU", install_line()),
    "torch": ("fake-quantized PyTorch models", install_line("modelopt")),
    "nvidia-modelopt": ("models calibrated with NVIDIA ModelOpt", install_line("modelopt")),
    "pillow": ("image folders as tasks", install_line("images")),
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
"""Package -> other distributions that provide the same module."""


def packages() -> tuple[Package, ...]:
    """Return the optional packages with their installed versions."""
    return tuple(
        Package(name, _version(name), purpose, install)
        for name, (purpose, install) in PURPOSES.items()
    )


def runtimes() -> tuple[RuntimeState, ...]:
    """Return the state of every runtime in the registry, each tried by importing its library."""
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
    """Return what other installed packages add to the families of the registry, each tried by
    loading it."""
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
