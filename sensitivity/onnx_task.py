"""A task from an ONNX file and a path to data, without any code.

task = onnx_task("model.qdq.onnx", "coco/val")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sensitivity.config import Colours, DecodeName, TaskChoices
from sensitivity.errors import TaskError
from sensitivity.files import write_whole
from sensitivity.quantizers.onnx.float_model import float_runner
from sensitivity.quantizers.onnx.model import OnnxModel
from sensitivity.records import SPLITS, names_of
from sensitivity.tasks import onnx_arrays, onnx_data, onnx_decode
from sensitivity.tasks.agreement import METRIC, FloatBatches, FloatModel, agreement
from sensitivity.tasks.base import Batches, Task
from sensitivity.tasks.classification import Images, Labels, Top1, answer_lost
from sensitivity.tasks.detection import SIZES, DetectionScore, random_splits
from sensitivity.tasks.detection_labels import LabelForm, LabelledImage, LabelledImages, unlabelled
from sensitivity.tasks.detection_parts import MoreTruth
from sensitivity.tasks.detection_rotated import (
    Corners,
    RotatedScore,
    decode_rotated,
    rotated_rule,
)
from sensitivity.tasks.images import Size, image_files, sides
from sensitivity.tasks.load import Evaluator, load_evaluator
from sensitivity.tasks.onnx_arrays import CODES, Codes, Port
from sensitivity.tasks.onnx_data import Calibration
from sensitivity.tasks.onnx_metadata import Exported, exported_by_ultralytics
from sensitivity.tasks.onnx_pixels import (
    AS_USUAL,
    IMAGENET,
    RESIZE,
    ClassifierPixels,
    Layout,
    PixelChoices,
    Pixels,
    Scale,
    channels,
    scale_between,
)
from sensitivity.tasks.yolo_data import train_apart

DETECTION_BATCH, CLASSIFICATION_BATCH = 8, 50
CALIBRATION_SAMPLES = 128
"""Number of calibration samples if the user gives none; at most a fifth of the data."""

DTYPES = (
    *("float16", "float32", "float64", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)

TASK_FILE = '''\
"""What `sensitivity` made of {what}.

Change it where the file is meant otherwise; a task that measures something else needs a run
directory of its own.
"""

{imports}from sensitivity.onnx_task import onnx_task


def task():
    return onnx_task(
{arguments}    )
'''


@dataclass(frozen=True)
class ImageInput:
    """The image input of a file.

    size: (height, width) in pixels.
    dtype: numpy's name of the input's type.
    stored: the pixels that the levels of a quantized input represent; None if the file does not
        say.
    """

    size: tuple[int, int]
    layout: Layout
    dtype: str = "float32"
    stored: Scale | None = None


class File(Protocol):
    """What is read of an ONNX file. Its ports are those of an `onnxruntime.InferenceSession`."""

    path: Path

    @property
    def metadata(self) -> Mapping[str, str]: ...

    def get_inputs(self) -> Sequence[Any]: ...

    def get_outputs(self) -> Sequence[Any]: ...


@dataclass(frozen=True)
class Reading:
    """How a file takes images, what its outputs mean, and which samples calibrate it.

    decode, pixels: see `onnx_task`; what is None follows from the file.
    size: size of the images, for a file that leaves their sides open.
    images: folder of the COCO images; None if they are beside the annotations.
    calibration: None if the task has no split "calib".
    evaluator: the user's own metric, in place of the usual one for the data.
    """

    decode: DecodeName | None = None
    pixels: PixelChoices = AS_USUAL
    size: Size | None = None
    images: Path | None = None
    calibration: Calibration | None = None
    evaluator: Evaluator | None = None

    @property
    def set_aside(self) -> int:
        """Number of samples of the data that are in no split but "calib"."""
        return 0 if self.calibration is None else self.calibration.set_aside

    @property
    def source(self) -> Path | None:
        """Path of calibration samples that are not part of the data; None if there are none."""
        return None if self.calibration is None else self.calibration.source


def onnx_task(
    path: str | Path,
    data: str | Path,
    *,
    float_path: str | Path | None = None,
    decode: DecodeName | None = None,
    colours: Colours | None = None,
    top: float | None = None,
    mean: str | float | Sequence[float] | None = None,
    std: str | float | Sequence[float] | None = None,
    imgsz: Size | None = None,
    images: str | Path | None = None,
    custom_ops: str | Path | None = None,
    evaluator: str | None = None,
    evaluator_code: str | None = None,
    calib: str | Path | None = None,
    calib_samples: int = 0,
) -> Task:
    """Return the task of a Q/DQ file.

    It is detection for labelled boxes, and classification for class folders and arrays. Without
    labels, the float model's outputs take their place.

    path, float_path, custom_ops: as in `OnnxModel`.
    data: see `onnx_data.data_kind`. None of it may have been used for calibration.
    decode: format of a detector's output; None recognises it from its shape.
    colours: order of an image's colour channels; None takes the usual order.
    top: value of white. None takes 255 if a given mean or deviation has a value above 1, else 1.
    mean, std: of each channel in the file's order, or one number for all, on the scale of `top`.
    imgsz: size of the images for a file that leaves their sides open: one side, or (height, width).
    images: folder of the COCO images; None if they are beside the annotations.
    evaluator: a metric of your own, "my_eval.py:function", see `load_evaluator`.
    evaluator_code: digest of that file when the run began. Raises TaskError if it has changed
        since.
    calib: what the file was calibrated on: images, COCO annotations, a data YAML (its train part)
        or an .npz. Labels are not needed. None with `calib_samples` takes the train part of a data
        YAML, else samples of the data, which are then in no split but "calib".
    calib_samples: largest number of calibration samples, and at most a fifth of the data; 0 for
        none, or for 128 with `calib`.

    By default the pixels are those that the metadata of ultralytics names; else those that YOLO
    (RGB, 1) or YOLOX (BGR, 255) is trained with; for classifiers RGB with ImageNet's mean and
    deviation; for integer inputs a white of 255.

    Raises TaskError, OnnxFileError.
    """
    model = OnnxModel(path, float_path=float_path, custom_ops=custom_ops)
    samples = calib_samples or (CALIBRATION_SAMPLES if calib is not None else 0)
    source = None if calib is None else Path(calib)
    reading = Reading(
        decode,
        PixelChoices(colours, top, channels("mean", mean), channels("std", std)),
        imgsz,
        None if images is None else Path(images),
        Calibration(samples, source) if samples else None,
        None if evaluator is None else load_evaluator(evaluator, evaluator_code),
    )
    return task_of(model, Path(data), reading)


def task_of(model: File, data: Path, reading: Reading) -> Task:
    """Return the task of a model on data, with calibration samples as its split "calib".

    model: the file that the task receives, which may also be a float file.
    Raises TaskError.
    """
    task = _usual_task(model, data, reading)
    return task if reading.evaluator is None else reading.evaluator.judging(task)


def _usual_task(model: File, data: Path, reading: Reading) -> Task:
    """Return the task with the usual metric of its data."""
    exported = exported_by_ultralytics(model.metadata, model.path.name)
    reading = replace(reading, size=reading.size or exported.size)
    kind = onnx_data.data_kind(data)
    _check_kind(kind, exported, model.path.name)
    if kind == "boxes":
        form = LabelForm() if reading.evaluator is not None else exported.form
        labels = onnx_data.boxes(data, exported.names, reading.images, form)
        return _detection(model, labels, _with_train(reading, data, labels), exported)
    if kind == "folders":
        return _folders(model, onnx_data.folders(data), reading, exported)
    if kind == "images":
        return _unlabelled_images(model, data, reading, exported)
    if reading.pixels.any:
        raise TaskError(
            f"Expected colours, top, mean and std with images, got one of them with {data}, whose "
            "arrays are taken as they are; leave it out."
        )
    return _arrays(model, data, reading)


def _check_kind(kind: str, exported: Exported, name: str) -> None:
    """Raise TaskError for labels of another kind than the model's metadata asks for."""
    if not exported.task or kind in ("arrays", "images"):
        return
    is_classifier, has_folders = exported.task == "classify", kind == "folders"
    if is_classifier != has_folders:
        wanted, got = LABELS[is_classifier], LABELS[has_folders]
        raise TaskError(
            f"Expected --data with {wanted} for {name}, by its metadata a model of ultralytics for "
            f"{exported.task}, got {got}; give the data that it is validated on."
        )


LABELS = {True: "one folder of images per class", False: "labelled boxes"}
"""What the data must hold, by whether the model is a classifier."""


def _with_train(reading: Reading, data: Path, labels: LabelledImages) -> Reading:
    """Return the reading with the train part of a data YAML as calibration samples.

    It is unchanged if the user gave other samples, or if the train part is not apart from the data.
    """
    wanted = reading.calibration
    if wanted is None or wanted.source is not None:
        return reading
    described = onnx_data.described(data)
    if not train_apart(described, [image.file for image in labels.images]):
        return reading
    return replace(reading, calibration=replace(wanted, source=described))


def _arrays(model: File, data: Path, reading: Reading) -> Task:
    model_ports = ports(model)
    x: onnx_arrays.Inputs
    y: onnx_arrays.Inputs
    is_unlabelled = reading.evaluator is None and onnx_arrays.holds_only_inputs(data, model_ports)
    if is_unlabelled:
        x = onnx_arrays.inputs_alone(data, model_ports)
        y = np.zeros(onnx_arrays.count(x), np.int64)
    elif reading.evaluator is None:
        x, y = onnx_arrays.arrays(data, model_ports, _classes(model))
    else:
        x, y = onnx_arrays.samples(data, model_ports)
    splits: dict[str, Any] = dict(
        onnx_arrays.split_arrays(x, y, CLASSIFICATION_BATCH, set_aside=reading.set_aside)
    )
    if reading.calibration is not None and reading.source is not None:
        samples = reading.calibration.samples
        inputs = onnx_arrays.calibration_inputs(reading.source, model_ports, samples)
        first = next(iter(inputs.values())) if isinstance(inputs, dict) else inputs
        labels = _no_labels(first)
        splits["calib"] = onnx_arrays.ArrayBatches(inputs, labels, CLASSIFICATION_BATCH)
    if is_unlabelled:
        return _agreement(model, splits)
    return Task(model, splits, Top1(), metric="top-1", soft=answer_lost)


def ports(model: File) -> list[Port]:
    """Return the inputs of the file.

    Raises TaskError for a type that numpy does not have.
    """
    return [
        Port(item.name, _dtype(model, item), _sides(item.shape), _codes(model, item.name))
        for item in model.get_inputs()
    ]


def _codes(model: File, name: str) -> Codes | None:
    """Return the integer levels of an input as the file's metadata describes them.

    Returns None if it does not.
    """
    text = model.metadata.get(CODES.format(name))
    if text is None:
        return None
    dtype, scale, zero_point = text.split()
    return Codes(dtype, float(scale), int(zero_point))


def _dtype(model: File, item: Any) -> str:
    name = str(item.type).removeprefix("tensor(").removesuffix(")")
    name = {"float": "float32", "double": "float64"}.get(name, name)
    if name not in DTYPES:
        raise TaskError(
            f"Expected inputs of numbers that numpy has, got {item.type} for {item.name} of "
            f"{model.path.name}; write a task file, see docs/onnx.md."
        )
    return name


def _sides(shape: Sequence[Any]) -> tuple[int | None, ...]:
    return tuple(side if isinstance(side, int) else None for side in shape)


def _classes(model: File) -> int | None:
    """Return the number of classes in the file's output; None if its shape does not say."""
    shape = _sides(model.get_outputs()[0].shape)
    return shape[1] if len(shape) == 2 else None


def image_input(model: File, size: Size | None = None) -> ImageInput:
    """Return the file's input of colour images.

    size: size of the images, for a file that leaves their sides open.
    Raises TaskError if there is no such input, or if its size is unknown.
    """
    all_ports = ports(model)
    layout = image_layout(all_ports)
    listed = ", ".join(f"{item.name} {list(item.shape)}" for item in model.get_inputs())
    if layout is None:
        raise TaskError(
            f"Expected {model.path.name} to have one input of colour images, "
            f"[n, 3, height, width] or [n, height, width, 3], got {listed}; give its inputs as "
            "they are in an .npz, or write a task file, see docs/onnx.md."
        )
    shape = all_ports[0].shape
    height, width = shape[2:] if layout == "nchw" else shape[1:3]
    has_open_side = height is None or width is None
    if has_open_side and size is not None:
        height, width = sides(size)
    if height is None or width is None:
        raise TaskError(
            f"Expected to know the size of the images that {model.path.name} takes, got {listed}, "
            "whose sides are open; give it with --imgsz, as in 640 or 384,640 (height, width)."
        )
    return ImageInput(
        (height, width), layout, all_ports[0].dtype, _scale_of_codes(all_ports[0].codes)
    )


def _scale_of_codes(codes: Codes | None) -> Scale | None:
    """Return the pixels that 8-bit levels represent; None for a wider type or unusual pixels."""
    if codes is None or np.dtype(codes.dtype).itemsize > 1:
        return None
    return scale_between(*codes.ends)


def image_layout(inputs: Sequence[Port]) -> Layout | None:
    """Return the position of the colours in the only input of a file.

    Returns None if the file takes no colour images.
    """
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        return None
    _, first, _, last = inputs[0].shape
    if first == 3:
        return "nchw"
    return "nhwc" if last == 3 else None


def _agreement(model: File, splits: Mapping[str, Batches]) -> Task:
    """Return the task of a model on samples without labels; the float model's outputs take their
    place."""
    judged = dict(splits)
    if isinstance(model, OnnxModel):  # a float file itself is asked for its calibration samples
        known = FloatModel(float_runner(model), splits["rank"])
        judged |= {name: FloatBatches(splits[name], known) for name in SPLITS}
    return Task(model, judged, agreement, metric=METRIC)


def _unlabelled_images(model: File, data: Path, reading: Reading, exported: Exported) -> Task:
    if reading.evaluator is not None:
        raise TaskError(
            f"Expected labels in --data {data} for --evaluator to compare outputs with, got a "
            "folder of images alone; leave --evaluator out, and the float model's own outputs "
            "stand for them."
        )
    files = image_files(data)
    splits, _ = _image_splits(model, Images(files, _no_labels(files)), reading, exported)
    return _agreement(model, splits)


def _no_labels(samples: Sized) -> Labels:
    return np.zeros(len(samples), np.int64)


def _folders(model: File, samples: Images, reading: Reading, exported: Exported) -> Task:
    splits, description = _image_splits(model, samples, reading, exported)
    score = Top1(samples.classes, f"{description} {SAY_OTHERWISE}")
    return Task(model, splits, score, metric="top-1", soft=answer_lost)


def _image_splits(
    model: File, samples: Images, reading: Reading, exported: Exported
) -> tuple[dict[str, Batches], str]:
    """Return the images by split, as the model takes them, and a sentence on their pixels."""
    image, choices = image_input(model, reading.size), reading.pixels
    colours = choices.colours or "rgb"
    # ultralytics classifies images without normalization, and scales the shorter side to the crop.
    usual, resize = (Scale(), 1.0) if exported.task else (IMAGENET.ordered(colours), RESIZE)
    scale = choices.scale(image.stored or usual, image.dtype)
    transform = ClassifierPixels(image.size, colours, scale, image.dtype, resize)
    splits = onnx_data.split_folders(
        samples, transform, image.layout, CLASSIFICATION_BATCH, set_aside=reading.set_aside
    )
    files = _calibration_images(reading)
    if files:
        images = Images(files, _no_labels(files))
        splits["calib"] = onnx_data.ImageBatches(
            images, transform, CLASSIFICATION_BATCH, layout=image.layout
        )
    return dict(splits), pixels_in_words(colours, scale)


SAY_OTHERWISE = "Where the model was trained with others: --colours, --top, --mean and --std."


def pixels_in_words(colours: Colours, scale: Scale) -> str:
    """Return a sentence on the pixels that a file is given.

    >>> pixels_in_words("bgr", Scale(255.0))
    'It was given pixels in BGR from 0 to 255.'
    >>> pixels_in_words("rgb", IMAGENET)
    'It was given pixels in RGB from 0 to 1, less mean 0.485,0.456,0.406, by std 0.229,0.224,0.225.'
    """
    mean, std = (",".join(map("{:g}".format, values)) for values in (scale.mean, scale.std))
    moved = f", less mean {mean}, by std {std}" * scale.moves
    return f"It was given pixels in {colours.upper()} from 0 to {scale.top:g}{moved}."


def _detection(model: File, labels: LabelledImages, reading: Reading, exported: Exported) -> Task:
    image = image_input(model, reading.size)
    outputs = model.get_outputs()
    shapes, names = [output.shape for output in outputs], names_of(outputs)
    name = reading.decode or (
        "rtdetr" if exported.is_rtdetr else onnx_decode.decode_of_names(names)
    )
    if reading.evaluator is not None:
        name = name or "yolo"  # whose pixels are usual; it decodes the outputs itself
    if name is None:
        name = onnx_decode.decode_name(
            shapes, image.size, len(labels.names), more=exported.has_more
        )
    usual = onnx_decode.PIXELS[name]
    colours = reading.pixels.colours or usual.colours
    scale = reading.pixels.scale(image.stored or usual.scale, image.dtype)
    pixels = Pixels(colours, scale, image.layout, image.dtype)
    splits = _detection_splits(labels, reading)
    read_as = "" if reading.decode or exported.task else onnx_decode.reading(name, shapes)
    description = f"{read_as} {pixels_in_words(colours, pixels.scale)} {SAY_OTHERWISE}".strip()
    meaning = onnx_decode.meaning(name, image.size, labels, names)
    score, more = DetectionScore(labels.names, meaning, meaning.rule, description), None
    if reading.evaluator is None:
        score, more = _with_more(score, exported, labels, chosen=name == "end2end")
    stretched = name in onnx_decode.STRETCHED
    size = 1 if meaning.selects else DETECTION_BATCH  # a batch needs equally many boxes
    batches = {
        split: onnx_data.DetectionBatches(
            part, image.size, size, more, pixels=pixels, stretched=stretched
        )
        for split, part in splits.items()
    }
    return Task(model, batches, score, score.aggregate, metric=score.metric, soft=score.soft)


def _with_more(
    score: DetectionScore, exported: Exported, labels: LabelledImages, *, chosen: bool
) -> tuple[DetectionScore, MoreTruth | None]:
    """Return the score for all outputs of an ultralytics file, and the truth it needs besides
    boxes.

    chosen: whether the file selects its boxes itself.
    """
    if exported.task == "obb":
        decode = partial(decode_rotated, classes=len(labels.names), chosen=chosen)
        rule = rotated_rule(labels.images, suppress=not chosen)
        return RotatedScore(labels.names, decode, rule, score.reading), Corners()
    assert isinstance(score.decode, onnx_decode.Decode)
    part = exported.part(score.decode.size, labels.sigmas, chosen=chosen)
    return replace(score, part=part), part


def _detection_splits(
    labels: LabelledImages, reading: Reading
) -> dict[str, tuple[LabelledImage, ...]]:
    sizes = onnx_data.sizes_of(len(labels.images), reading.set_aside, SIZES)
    splits = random_splits(labels.images, sizes=sizes)
    files = _calibration_images(reading)
    if files:
        splits["calib"] = tuple(unlabelled(file) for file in files)
    return splits


def _calibration_images(reading: Reading) -> list[Path]:
    """Return calibration images that are not part of the data; empty if there are none."""
    calibration = reading.calibration
    if calibration is None or calibration.source is None:
        return []
    return onnx_data.calibration_images(calibration.source, calibration.samples)


def written_task(settings: TaskChoices, out: Path, made: Path | None = None) -> str:
    """Write a task file for the ONNX file of the settings into the run directory.

    Returns the reference of the task.

    made: the Q/DQ file in the run directory that was made from a float file; None for a Q/DQ file.
    Raises TaskError if the settings name no data.
    """
    arguments = _arguments(settings)
    if made is not None:
        arguments.setdefault("calib_samples", repr(CALIBRATION_SAMPLES))
        arguments["float_path"] = arguments["path"]
        arguments["path"] = f"Path(__file__).with_name({made.name!r})"
    lines = "".join(f"        {name}={value},\n" for name, value in arguments.items())
    content = TASK_FILE.format(
        what=f"{Path(settings.task).name} and --data {data_of(settings).name}",
        imports="" if made is None else "from pathlib import Path\n\n",
        arguments=lines,
    )
    write_whole(out / "task.py", content.encode())
    return f"{out / 'task.py'}:task"


def data_of(settings: TaskChoices) -> Path:
    """Return the data for an ONNX file.

    Raises TaskError if the settings name none.
    """
    if settings.data is None:
        raise TaskError(
            f"Expected --data with {settings.task}: COCO annotations, a data YAML, a folder with "
            "one folder of images per class, or an .npz "
            "with inputs x and labels y; or write a task file that names the ONNX file, see "
            "docs/onnx.md."
        )
    return settings.data


def _arguments(settings: TaskChoices) -> dict[str, str]:
    """Return the arguments of `onnx_task` as source text, without those that have the default."""
    paths = {
        "path": Path(settings.task),
        "data": data_of(settings),
        "float_path": settings.float_model,
        "calib": settings.calib,
    }
    arguments = {
        name: repr(str(_absolute(value))) for name, value in paths.items() if value is not None
    }
    values: dict[str, Any] = {
        "decode": settings.decode,
        "imgsz": settings.imgsz,
        "colours": settings.colours,
        "top": settings.top,
        "mean": channels("--mean", settings.mean),
        "std": channels("--std", settings.std),
        "calib_samples": settings.calib_samples,
    }
    if settings.evaluator is not None:
        evaluator = load_evaluator(settings.evaluator)
        values |= {"evaluator": evaluator.place, "evaluator_code": evaluator.code}
    return arguments | {name: repr(value) for name, value in values.items() if value is not None}


def _absolute(path: Path) -> Path:
    """Return the absolute path; a bare name of a data set that comes with ultralytics stays as it
    is."""
    is_bare = path.parent == Path()
    if is_bare and not path.exists():
        return path
    return path.resolve()


def reading_of(settings: TaskChoices, calibration: Calibration) -> Reading:
    """Return what the settings say about how to read a file.

    Raises TaskError for an invalid mean or deviation.
    """
    mean, std = channels("--mean", settings.mean), channels("--std", settings.std)
    pixels = PixelChoices(settings.colours, settings.top, mean, std)
    return Reading(
        settings.decode,
        pixels,
        settings.imgsz,
        calibration=calibration,
        evaluator=None if settings.evaluator is None else load_evaluator(settings.evaluator),
    )


def size_of(settings: TaskChoices, model: File) -> Size | None:
    """Return the size of the images for a file that leaves their sides open.

    It is that of the settings, else that of the file's metadata. Returns None if neither has one.
    """
    return settings.imgsz or exported_by_ultralytics(model.metadata, model.path.name).size
