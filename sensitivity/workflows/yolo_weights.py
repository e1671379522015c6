"""Loads a weights file of the ultralytics package as a plain float model with fused layers and one
output.

A `.pt` file is a pickle, which can hold any code. It is read by `torch.load(weights_only=True)`
with the classes that ultralytics itself allows, so no code in it is run. A file that needs other
classes is refused unless the user trusts it.
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
"""First part of the module of a class in the pickle -> where such a file is from."""

KINDS = {
    "Detect": "detect", "v10Detect": "detect", "Segment": "segment", "Segment26": "segment",
    "Pose": "pose", "Pose26": "pose", "OBB": "obb", "OBB26": "obb", "Classify": "classify",
    "RTDETRDecoder": "detect", "WorldDetect": "detect",
}  # fmt: skip
"""Class of the last module -> what the model does. A model with another class is refused."""


STARTS = (b"PK", b"\x80")
"""First bytes of the files that torch saves: a zip archive, or a pickle before torch 1.6."""


@dataclass(frozen=True, eq=False)
class Yolo:
    """A float model of ultralytics in eval mode, with BatchNorm folded and branches
    re-parameterised.

    kind: "detect", "segment", "pose", "obb" (rotated boxes) or "classify".
    names: the class names.
    stride: input pixels per cell of the coarsest level.
    end2end: whether the one-to-one head was kept. It gives boxes as corners, which need no
        suppression.
    repvgg: names of the modules that were re-parameterised.
    is_rtdetr: whether the model is an RT-DETR. Its queries give boxes in fractions of the input,
        which need no suppression, and its images are stretched over the input.
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
        """Whether the model chooses its boxes itself, so that no box suppresses another."""
        return self.end2end or self.is_rtdetr

    @property
    def head(self) -> Any:
        """The last module, which gives the boxes and classes."""
        return self.model.model[-1]


def load_yolo(weights: Path, *, end2end: bool = False, trust: bool = False) -> Yolo:
    """Return the model in a weights file of ultralytics.

    weights: a file ending in .pt.
    end2end: whether to keep the one-to-one head (v10, 26) instead of the one-to-many head.
    trust: whether to run the code that the file holds.
    Raises MissingPackage without ultralytics, and TaskError if the file is missing, damaged, from
    another repository or of a kind that is not supported.
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
            f"{_content(checkpoint)}; build the model, load the state into it, and save "
            "{'model': model}."
        )
    return prepared(model.float().eval(), weights.name, end2end=end2end)


def prepared(model: Any, name: str, *, end2end: bool = False) -> Yolo:
    """Fold the BatchNorm layers of a float model of ultralytics, re-parameterise its branches, and
    set it up for export.

    name: how errors call the model.
    end2end: as in `load_yolo`.
    Raises TaskError for a model of a kind that is not supported.
    """
    head = model.model[-1]
    kind = _kind(model, name)
    if end2end and getattr(head, "one2one_cv2", None) is None:
        raise TaskError(
            f"Expected a model with a one-to-one head (v10, 26) for --end2end, got {name} without "
            "one; leave it out."
        )
    is_rtdetr = type(head).__name__ == "RTDETRDecoder"
    if kind != "classify" and not is_rtdetr:
        model.end2end = end2end  # Set before fusing, which drops the head that is not used.
    if type(head).__name__ == "WorldDetect":
        _keep_classes(model, name)
    repvgg = tuple(
        module_name
        for module_name, module in model.named_modules()
        if type(module).__name__ in {"RepConv", "RepVGGDW"}
    )
    model = model.fuse(verbose=False)
    head.export = True  # The head then gives its result alone, without its feature maps.
    # With `dynamic` a YOLO computes its anchors in each forward. Kept anchors would tie an exported
    # graph to one batch size, but those of an RT-DETR fit any batch.
    head.dynamic = not is_rtdetr
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    chooses = bool(getattr(head, "end2end", False)) and not is_rtdetr
    # The head gives all candidates instead of the best 300. The last bit of near ties decides which
    # are the best and in which order, so a file that chooses could not be checked against the
    # model.
    if chooses:
        head.postprocess = _every_candidate
    if is_rtdetr:
        head.postprocess = _every_query
    names = tuple(map(str, _names(model)))
    return Yolo(model, kind, names, int(max(model.stride)), chooses, repvgg, is_rtdetr)


def _kind(model: Any, name: str) -> str:
    """Return what the model does. Raises TaskError for a head that is not in `KINDS`, and for
    images that are not RGB."""
    head_class = type(model.model[-1]).__name__
    kind = KINDS.get(head_class)
    if kind is None:
        raise TaskError(
            "Expected a YOLO that detects, segments, estimates poses, finds rotated boxes or "
            f"classifies, got {name} with a head of class {head_class}; write a task file for it, "
            "see docs/tasks.md."
        )
    channels = next(
        module.in_channels for module in model.modules() if hasattr(module, "in_channels")
    )
    if channels != 3:
        raise TaskError(
            f"Expected a model of RGB images, got {name}, whose input has {channels} channels."
        )
    return kind


def _keep_classes(model: Any, name: str) -> None:
    """Turn a YOLO-World into an ordinary detector of the classes that were set. Raises TaskError if
    none were set."""
    classes = model.txt_feats.shape[1]
    if classes != len(_names(model)):
        raise TaskError(
            f"Expected a YOLO-World whose classes are set, got {name} with {len(_names(model))} "
            f"names and the texts of {classes}; call set_classes([...]) of ultralytics on it and "
            "save it."
        )
    model.clip_model = None  # It encoded the class names, and is not run any more.


def give_raw(yolo: Yolo) -> None:
    """Make a detector give box bins [n, 4 * bins, anchors] and class logits [n, classes, anchors]
    instead of decoded boxes. Raises TaskError for any other model."""
    if yolo.kind != "detect" or yolo.is_rtdetr:
        got = "an RT-DETR" if yolo.is_rtdetr else f"a model that does {yolo.kind}"
        raise TaskError(f"Expected a YOLO that detects for --output raw, got {got}; leave it out.")
    yolo.head.forward = types.MethodType(_raw_forward, yolo.head)


def _raw_forward(head: Any, x: Any) -> tuple[Any, Any]:
    branch = head.one2one if head.end2end else head.one2many
    outputs = head.forward_head(x, **branch)
    return outputs["boxes"], outputs["scores"]


def _every_candidate(candidates: Any) -> Any:
    """Turn [n, anchors, 4 + classes] into [n, 4 + classes, anchors], the form of the other
    heads."""
    return candidates.permute(0, 2, 1)


def _every_query(boxes: Any, scores: Any) -> Any:
    """Turn [n, queries, 4] and [n, queries, classes] into [n, 4 + classes, queries], the form of
    a YOLO."""
    return optional.torch.cat([boxes, scores], dim=2).permute(0, 2, 1)


def ultralytics() -> Any:
    """Import the ultralytics package so that it neither writes to the home folder nor installs
    anything. Raises MissingPackage."""
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
    """Return the content of a weights file; a model that was saved alone is under "model"."""
    load: Any = ultralytics().nn.tasks.torch_safe_load
    _check_file(weights)
    classes = _classes(weights)
    for module, repository in TEMPLATES.items():
        if any(name.startswith(f"{module}.") for name in classes):
            raise TaskError(
                f"Expected weights of the ultralytics package, got {weights} of {repository}."
            )
    with tempfile.TemporaryDirectory() as folder:
        # ultralytics loads the file under a name that it does not know: it downloads another file
        # in place of one that is called yolov5n.pt.
        link = Path(folder) / "weights.pt"
        link.symlink_to(weights.resolve())
        try:
            loaded, _ = load(str(link), safe_only=not trust)
        except Exception as error:
            raise _unreadable(weights, error, classes, trust) from error
    return loaded if isinstance(loaded, dict) else {"model": loaded}


def _check_file(weights: Path) -> None:
    """Raise TaskError unless there is a .pt file that torch has saved."""
    if not weights.is_file() or weights.suffix != ".pt":
        got = "nothing there (nothing is downloaded)"
        if weights.exists():
            got = f"a {weights.suffix or 'folder'}"
        if weights.suffix == ".onnx":
            got += "; an ONNX file is analysed by `sensitivity run`"
        raise TaskError(
            f"Expected a weights file of ultralytics, ending in .pt, at {weights}, got {got}."
        )
    with weights.open("rb") as file:
        if not file.read(2).startswith(STARTS):
            raise TaskError(
                f"Expected a weights file of ultralytics at {weights}, got a file that torch has "
                "not saved; it is damaged or another kind of file."
            )


def _classes(weights: Path) -> list[str]:
    """Return the names of the classes and functions that the file needs besides torch's own
    tensors; none if the file is damaged."""
    from torch.serialization import get_unsafe_globals_in_checkpoint

    try:
        return sorted(get_unsafe_globals_in_checkpoint(str(weights)))
    except (ValueError, RuntimeError, EOFError, pickle.UnpicklingError):
        return []


KNOWN_PACKAGES = frozenset({"ultralytics", "torch", "numpy", "builtins"})
"""Packages whose classes a weights file of ultralytics may hold."""


def _unreadable(weights: Path, error: Exception, classes: list[str], trust: bool) -> TaskError:
    """Return the error for a file that could not be loaded.

    classes: names of the classes that the file needs.
    """
    foreign = [name for name in classes if name.partition(".")[0] not in KNOWN_PACKAGES]
    if not trust and foreign:
        return TaskError(
            f"Expected {weights} to hold classes of ultralytics and torch only, got "
            f"{', '.join(foreign[:3])}; add --trust-weights to run the code in it, if you know "
            "where the file is from."
        )
    message = re.sub(r"\S*/weights\.pt", weights.name, " ".join(str(error).split()))
    shortened = message[:200].rstrip(".")
    return TaskError(
        f"Expected a weights file of ultralytics at {weights}, got one that cannot be read: "
        f"{shortened}."
    )


def _content(checkpoint: dict[str, Any]) -> str:
    """Return what a checkpoint holds in place of a model, for a message."""
    is_state = all(hasattr(value, "shape") for value in checkpoint.values())
    if checkpoint and is_state:
        return f"a state of {len(checkpoint)} tensors without the model"
    first_entries = ", ".join(map(str, list(checkpoint)[:5]))
    return f"the entries {first_entries or 'none'}"


def _names(model: Any) -> list[str]:
    """Return the class names in the order of their numbers."""
    names = model.names
    if isinstance(names, dict):
        return [names[number] for number in sorted(names)]
    return list(names)
