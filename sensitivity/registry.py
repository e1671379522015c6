"""Names of members of a family -> the classes behind them, imported only when asked for.

Besides the built-in members there are those of other packages, called guests here. A package adds a
member through an entry point whose group is `sensitivity.` followed by the family:

    [project.entry-points."sensitivity.planners"]
    halves = "my_package.planners:HalvesPlanner"
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from sensitivity.errors import GuestError, unknown_name

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

FAMILIES: dict[str, dict[str, str]] = {
    "quantizers": {
        "modelopt": "sensitivity.quantizers.torch.modelopt:ModelOptModel",
        "pytorch_quantization": (
            "sensitivity.quantizers.torch.pytorch_quantization:PytorchQuantizationModel"
        ),
        "pt2e": "sensitivity.quantizers.torch.pt2e:Pt2eModel",
        "onnx_qdq": "sensitivity.quantizers.onnx.qdq:OnnxQdqModel",
    },
    "signals": {
        "sqnr": "sensitivity.signals.distortion:SQNR",
        "kl": "sensitivity.signals.distortion:KL",
    },
    "planners": {
        "greedy": "sensitivity.planners.greedy:GreedyPlanner",
        "cost": "sensitivity.planners.cost:CostPlanner",
        "exhaustive": "sensitivity.planners.exhaustive:ExhaustivePlanner",
        "rule": "sensitivity.planners.rule:RulePlanner",
    },
    "runtimes": {
        "onnxruntime": "sensitivity.runtimes.onnxruntime:OnnxRuntime",
        "openvino": "sensitivity.runtimes.openvino:OpenVino",
        "tensorrt": "sensitivity.runtimes.tensorrt:TensorRt",
        "tensorrt_rtx": "sensitivity.runtimes.tensorrt:TensorRtRtx",
        "trtexec": "sensitivity.runtimes.trtexec:TrtExec",
    },
    "configs": {
        "ort": "sensitivity.exporters.configs.ort:OrtConfig",
        "modelopt": "sensitivity.exporters.configs.modelopt:ModelOptConfig",
        "modelopt-onnx": "sensitivity.exporters.configs.modelopt_onnx:ModelOptOnnxConfig",
        "nncf": "sensitivity.exporters.configs.nncf:NncfConfig",
        "aimet": "sensitivity.exporters.configs.aimet:AimetConfig",
        "quark": "sensitivity.exporters.configs.quark:QuarkConfig",
        "litert": "sensitivity.exporters.configs.litert:LitertConfig",
        "trtexec": "sensitivity.exporters.configs.trtexec:TrtexecConfig",
        "polygraphy": "sensitivity.exporters.configs.polygraphy:PolygraphyConfig",
        "rknn": "sensitivity.exporters.configs.rknn:RknnConfig",
    },
    "loggers": {
        "mlflow": "sensitivity.loggers.mlflow:MlflowLogger",
        "wandb": "sensitivity.loggers.wandb:WandbLogger",
        "tensorboard": "sensitivity.loggers.tensorboard:TensorboardLogger",
    },
    "rules": {},  # built-in rules are found by `rules.catalog`, topic by topic
}

MEMBER = {
    "quantizers": "source of quantized models",
    "signals": "signal",
    "planners": "planner",
    "runtimes": "runtime",
    "configs": "writer of another tool's settings",
    "loggers": "tracker of experiments",
    "rules": "lint rule",
}
"""Family -> what messages call a member of it."""

PROMISED = {
    "quantizers": (
        "source",
        "recognises",
        "disabled",
        "grid",
        "fingerprint",
        "remaining",
        "executed",
    ),
    "signals": ("name", "of"),
    "planners": ("name", "choose"),
    "runtimes": ("name", "unavailable", "version", "build"),
    "configs": ("name", "file", "reads", "write"),
    "loggers": ("name", "log"),
    "rules": ("code", "targets", "findings"),
}
"""Family -> attributes that a guest must have. The first one holds its name, which must equal the
name of its entry point."""


def names(family: str) -> tuple[str, ...]:
    """Return every name that a user may give: built-in ones first, then those of guests in
    alphabetical order. Imports no member."""
    foreign = sorted({entry.name for entry in guests(family)} - FAMILIES[family].keys())
    return (*FAMILIES[family], *foreign)


def load(family: str, name: str) -> Any:
    """Return the class registered under this name; for signals and rules, the object.

    Raises NamesError, with close names, if there is none. Raises GuestError if two packages
    register the name, or if the guest that does cannot be used.
    """
    entries = [entry for entry in guests(family) if entry.name == name]
    own = FAMILIES[family].get(name)
    if own is None and not entries:
        raise unknown_name(f"a name in {family}", name, names(family))
    if len(entries) + (own is not None) > 1:
        raise clash(family, name, entries, ours=own is not None)
    if own is None:
        return _loaded(family, entries[0])
    module, _, attribute = own.partition(":")
    return getattr(importlib.import_module(module), attribute)


def check_name(what: str, family: str, name: str, also: Sequence[str] = ()) -> None:
    """Raise NamesError, with close names, for a name that is neither in the family nor in
    `also`."""
    known = (*also, *names(family))
    if name not in known:
        raise unknown_name(what, name, known)


def guests(family: str) -> tuple[EntryPoint, ...]:
    """Return the entry points of installed packages for this family, sorted by name, without
    importing them."""
    return tuple(
        sorted(
            _entries(tuple(sys.path)).select(group=f"sensitivity.{family}"),
            key=lambda entry: entry.name,
        )
    )


def package_of(entry: EntryPoint) -> str:
    """Return the name and version of the package that an entry point belongs to."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown package"


def version_of_guest(family: str, name: str) -> dict[str, str]:
    """Return {package: version} of the package that adds this name; empty for a built-in name."""
    return {
        entry.dist.name: entry.dist.version
        for entry in guests(family)
        if entry.name == name and entry.dist
    }


def clash(family: str, name: str, entries: Sequence[EntryPoint], *, ours: bool) -> GuestError:
    """Return the error for a name that more than one package registers.

    ours: whether `sensitivity` itself is one of them.
    """
    packages = [package_of(entry) for entry in entries]
    who = " and ".join((["sensitivity itself"] if ours else []) + packages)
    return GuestError(
        f"Expected one package to give the {MEMBER[family]} {name!r}, got {who}; "
        f"uninstall {packages[0] if ours else 'one of them'}, or ask its author for another name."
    )


@cache
def _entries(path: tuple[str, ...]) -> Any:
    """Return the entry points of all packages, read once for each value of sys.path.

    path: value of sys.path, on which packages are searched for.
    """
    from importlib.metadata import entry_points  # slow; the top-level --help does not need it

    return entry_points()


def _loaded(family: str, entry: EntryPoint) -> Any:
    """Return what a guest adds.

    Raises GuestError if it cannot be imported, or lacks what its family promises.
    """

    def refused(must: str, got: str) -> GuestError:
        return GuestError(
            f"Expected the {MEMBER[family]} {entry.name!r} of {package_of(entry)} to {must}, got "
            f"{got}; upgrade that package, or uninstall it."
        )

    try:
        member = entry.load()
    except Exception as error:  # another package's import may raise anything
        reason = " ".join(str(error).split())[:200]
        raise refused(
            f"be importable from {entry.value}", f"{type(error).__name__}: {reason}"
        ) from error
    missing = [attribute for attribute in PROMISED[family] if not hasattr(member, attribute)]
    if missing:
        raise refused(f"have {', '.join(PROMISED[family])}", f"no {' and no '.join(missing)}")
    name_attribute = PROMISED[family][0]
    if getattr(member, name_attribute) != entry.name:
        raise refused(
            f"have {name_attribute} = {entry.name!r}, as it is registered",
            repr(getattr(member, name_attribute)),
        )
    return member
