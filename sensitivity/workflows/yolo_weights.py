"""Weights files of the ultralytics package to a plain float model: read without running code,
fused, one output.

A `.pt` file is a pickle, which can hold any code. It is read by `torch.load(weights_only=True)`
with the classes that ultralytics itself allows; a file that needs others is refused unless the user
says that it is to be trusted.
"""

from __future__ import annotations

import os
import pickle
import re
import tempfile
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sensitivity import optional
from sensitivity.errors import MissingPackage, TaskError

TEMPLATES = {
    "models": "YOLOv5 or YOLOv7 from its own repository; see examples/06_yolov5 and "
    "examples/08_yolov7",
    "yolov6": "YOLOv6 from its own repository; see examples/07_yolov6",
}
"""First part of a class's module in the pickle -> whose file that is."""

KINDS = {
    "Detect": "detect", "v10Detect": "detect", "Segment": "segment", "Segment26": "segment",
    "Pose": "pose", "Pose26": "pose", "OBB": "obb", "OBB26": "obb", "Classify": "classify",
    "RTDETRDecoder": "detect", "WorldDetect": "detect",
}  # fmt: skip
"""Class of the last module -> what the model does. A class that is not here is refused."""


STARTS = (b"PK", b"\x80")
"""First bytes of what torch saves: a zip archive, or before torch 1.6 a pickle."""


@dataclass(frozen=True, eq=False)
class Yolo:
    """A float model of ultralytics in eval mode, with BatchNorm folded and branches
    re-parameterised.

    kind: "detect", "segment", "pose", "obb" (rotated boxes) or "classify". names: of the classes.
    stride: of the coarsest level, pixels.
    end2end: its one-to-one head is the one that is left; it gives corners of boxes that need no
    suppression. is_rtdetr: its queries do so, as parts of the input, of images that are stretched
    over it.
    repvgg: names of the modules that were re-parameterised.
    """

    model: Any
    kind: str
    names: tuple[str, ...]
    stride: int
    end2end: bool
    repvgg: tuple[str, ...]
    is_rtdetr: bool = False

    @property
    def chooses(self) -> bool:
        """Whether no box suppresses another."""
        return self.end2end or self.is_rtdetr

    @property
    def head(self) -> Any:
        """The last module, which gives boxes and classes."""
        return self.model.model[-1]


def load_yolo(weights: Path, *, end2end: bool = False, trust: bool = False) -> Yolo:
    """The model in a weights file of ultralytics.

    end2end: keep the one-to-one head (v10, 26) instead of the other. trust: run the code that the
    file holds. Raises MissingPackage, TaskError where the file is missing, damaged, of another
    repository or of a kind that is not served.
    """
    checkpoint = _checkpoint(weights, trust)
    model: Any = checkpoint.get("ema") or checkpoint.get("model")
    if checkpoint.get("modelopt"):
        raise TaskError(
            f"Expected float weights in {weights}, got a model that ultralytics has trained with "
            "quantization; give the weights from before that."
        )
    if not hasattr(model, "fuse"):
        raise TaskError(
            f"Expected {weights} to hold a whole model as ultralytics saves it, got "
            f"{_holds(checkpoint)}; "
            "build the model, load the state into it, and save {'model': model}."
        )
    return prepared(model.float().eval(), weights.name, end2end=end2end)


def prepared(model: Any, name: str, *, end2end: bool = False) -> Yolo:
    """Fold, re-parameterise and set for export a float model of ultralytics. name: for errors."""
    head = model.model[-1]
    kind = KINDS.get(type(head).__name__)
    if kind is None:
        raise TaskError(
            "Expected a YOLO that detects, segments, estimates poses, finds rotated boxes or "
            f"classifies, got {name} "
            f"with a head of class {type(head).__name__}; write a task file for it, see "
            "docs/tasks.md."
        )
    channels = next(
        module.in_channels for module in model.modules() if hasattr(module, "in_channels")
    )
    if channels != 3:
        raise TaskError(
            f"Expected a model of RGB images, got {name}, whose input has {channels} channels."
        )
    if end2end and getattr(head, "one2one_cv2", None) is None:
        raise TaskError(
            f"Expected a model with a one-to-one head (v10, 26) for --end2end, got {name} without "
            "one; leave it out."
        )
    is_rtdetr = type(head).__name__ == "RTDETRDecoder"
    if kind != "classify" and not is_rtdetr:
        model.end2end = end2end  # before fusing, which drops the other head
    if type(head).__name__ == "WorldDetect":
        _keep_classes(model, name)
    repvgg = tuple(
        name
        for name, module in model.named_modules()
        if type(module).__name__ in {"RepConv", "RepVGGDW"}
    )
    model = model.fuse(verbose=False)
    head.export = True  # gives its result alone, without the feature maps that it came from
    # computes anchors each time; keeping them ties an exported graph to one batch size
    head.dynamic = not is_rtdetr  # its anchors are of one size of image, and of any batch
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    left = bool(getattr(head, "end2end", False)) and not is_rtdetr
    # All candidates: which 300 are chosen, and in which order, turns on the last bit of near ties,
    # so a file that chooses could not be checked against the model.
    if left:
        head.postprocess = _every_candidate
    if is_rtdetr:
        head.postprocess = _every_query
    names = tuple(map(str, _names(model)))
    return Yolo(model, kind, names, int(max(model.stride)), left, repvgg, is_rtdetr)


def _keep_classes(model: Any, name: str) -> None:
    """Make a YOLO-World an ordinary detector of the classes that were set. Raises TaskError where
    none were."""
    known = model.txt_feats.shape[1]
    if known != len(_names(model)):
        raise TaskError(
            f"Expected a YOLO-World whose classes are set, got {name} with {len(_names(model))} "
            f"names and the texts of {known}; call set_classes([...]) of ultralytics on it and "
            "save it."
        )
    model.clip_model = None  # which made the texts, and is run no more


def give_raw(yolo: Yolo) -> None:
    """Make a detector give box bins [n, 4 * bins, anchors] and class logits [n, classes, anchors],
    not decoded."""
    if yolo.kind != "detect" or yolo.is_rtdetr:
        got = "an RT-DETR" if yolo.is_rtdetr else f"a model that does {yolo.kind}"
        raise TaskError(f"Expected a YOLO that detects for --output raw, got {got}; leave it out.")
    yolo.head.forward = types.MethodType(_raw_forward, yolo.head)


def _raw_forward(head: Any, x: Any) -> tuple[Any, Any]:
    found = head.forward_head(x, **(head.one2one if head.end2end else head.one2many))
    return found["boxes"], found["scores"]


def _every_candidate(candidates: Any) -> Any:
    """[n, anchors, 4 + classes] -> [n, 4 + classes, anchors], as the other heads give it."""
    return candidates.permute(0, 2, 1)


def _every_query(boxes: Any, scores: Any) -> Any:
    """[n, queries, 4] and [n, queries, classes] -> [n, 4 + classes, queries], as YOLOs give it."""
    return optional.torch.cat([boxes, scores], dim=2).permute(0, 2, 1)


def ultralytics() -> Any:
    """The package, imported so that it writes nothing to the home folder and installs nothing.
    Raises MissingPackage."""
    os.environ.setdefault(
        "YOLO_CONFIG_DIR", str(Path(tempfile.gettempdir()) / "sensitivity-ultralytics")
    )
    os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", YOLO_VERBOSE="false")
    try:
        import ultralytics
        import ultralytics.nn.tasks
    except ImportError:
        raise MissingPackage("ultralytics", "`sensitivity yolo`", "yolo") from None
    return ultralytics


def _checkpoint(weights: Path, trust: bool) -> dict[str, Any]:
    load: Any = ultralytics().nn.tasks.torch_safe_load
    if not weights.is_file() or weights.suffix != ".pt":
        got = (
            f"a {weights.suffix or 'folder'}"
            if weights.exists()
            else "nothing there (nothing is downloaded)"
        )
        also = (
            "; an ONNX file is analysed by `sensitivity run`" if weights.suffix == ".onnx" else ""
        )
        raise TaskError(
            f"Expected a weights file of ultralytics, ending in .pt, at {weights}, got {got}{also}."
        )
    with weights.open("rb") as file:
        if not file.read(2).startswith(STARTS):
            raise TaskError(
                f"Expected a weights file of ultralytics at {weights}, got a file that torch has "
                "not saved; it is damaged or another kind of file."
            )
    found = _classes(weights)
    whose = next(
        (
            whose
            for module, whose in TEMPLATES.items()
            if any(name.startswith(f"{module}.") for name in found)
        ),
        "",
    )
    if whose:
        raise TaskError(f"Expected weights of the ultralytics package, got {weights} of {whose}.")
    with tempfile.TemporaryDirectory() as folder:
        # By a name that ultralytics knows nothing of: a file called yolov5n.pt it takes for
        # another, and downloads that.
        link = Path(folder) / "weights.pt"
        link.symlink_to(weights.resolve())
        try:
            loaded, _ = load(str(link), safe_only=not trust)
        except Exception as error:
            raise _unreadable(weights, error, found, trust) from error
    return loaded if isinstance(loaded, dict) else {"model": loaded}


def _classes(weights: Path) -> list[str]:
    """Names of classes and functions that the file wants beyond those of torch's own tensors; none
    if it is damaged."""
    from torch.serialization import get_unsafe_globals_in_checkpoint

    try:
        return sorted(get_unsafe_globals_in_checkpoint(str(weights)))
    except (ValueError, RuntimeError, EOFError, pickle.UnpicklingError):
        return []


def _unreadable(weights: Path, error: Exception, found: list[str], trust: bool) -> TaskError:
    foreign = [
        name
        for name in found
        if name.partition(".")[0] not in {"ultralytics", "torch", "numpy", "builtins"}
    ]
    if not trust and foreign:
        return TaskError(
            f"Expected {weights} to hold classes of ultralytics and torch only, got "
            f"{', '.join(foreign[:3])}; add --trust-weights to run the code in it, if you know "
            "where the file is from."
        )
    said = re.sub(r"\S*/weights\.pt", weights.name, " ".join(str(error).split()))[:200].rstrip(".")
    return TaskError(
        f"Expected a weights file of ultralytics at {weights}, got one that cannot be read: {said}."
    )


def _holds(checkpoint: dict[str, Any]) -> str:
    if checkpoint and all(hasattr(value, "shape") for value in checkpoint.values()):
        return f"a state of {len(checkpoint)} tensors without the model"
    return f"the entries {', '.join(map(str, list(checkpoint)[:5])) or 'none'}"


def _names(model: Any) -> list[str]:
    names = model.names
    return [names[at] for at in sorted(names)] if isinstance(names, dict) else list(names)
