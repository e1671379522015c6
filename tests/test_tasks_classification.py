"""Classifiers from folders and arrays: which samples go where, how they are read, and the errors
when they cannot be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import sensitivity.tasks.classification as classification
from sensitivity.errors import TaskError
from sensitivity.records import SPLITS
from sensitivity.tasks.batches import batch_digest
from sensitivity.tasks.classification import (
    SIZES,
    ImageBatches,
    Top1,
    answer_lost,
    classification_task,
    from_arrays,
    from_folder,
    images_by_class,
    random_parts,
    top1,
)
from sensitivity.tasks.images import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    centre_crop,
    image_files,
    read_rgb,
)
from sensitivity.tasks.load import check_task, load_task

EXAMPLES = Path(__file__).parent.parent / "examples"
COUNTS = {"calib": 4, "rank": 6, "confirm": 5, "holdout": 5}


def paint(file: Path, value: int, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value, 0, 255 - value)).save(file)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """20 images in the classes ant, bee and cow; the red of each is its own number."""
    for number in range(20):
        paint(tmp_path / ["cow", "ant", "bee"][number % 3] / f"{number:02}.png", number)
    return tmp_path


def red(image: Image.Image) -> np.ndarray:
    return np.asarray(image, np.float32)[:1, :1, 0]


def seen(batches) -> list[int]:
    return [int(value) for inputs, _ in batches for value in inputs.flatten()]


def test_classes_are_numbered_in_alphabetical_order(folder):
    images = images_by_class(folder)
    named = {
        file.parent.name: int(label)
        for file, label in zip(images.files, images.labels, strict=True)
    }
    assert named == {"ant": 0, "bee": 1, "cow": 2}
    assert images.classes == 3


def test_every_image_lands_in_one_split_with_its_own_label(folder):
    splits = from_folder(folder, transform=red, sizes=COUNTS, batch=4)
    assert {name: len(seen(batches)) for name, batches in splits.items()} == COUNTS
    assert sorted(number for batches in splits.values() for number in seen(batches)) == list(
        range(20)
    )
    for batches in splits.values():
        for inputs, targets in batches:
            assert [[2, 0, 1][int(value) % 3] for value in inputs.flatten()] == targets.tolist()


def test_the_same_seed_gives_the_same_splits_and_another_gives_others(folder):
    first, again, other = (
        from_folder(folder, transform=red, sizes=COUNTS, seed=seed) for seed in (0, 0, 1)
    )
    assert seen(first["rank"]) == seen(again["rank"])
    assert seen(first["rank"]) != seen(other["rank"])


def test_batches_are_the_same_on_each_pass(folder):
    batches = from_folder(folder, transform=red, sizes=COUNTS, batch=4)["rank"]
    digests = [[batch_digest(*batch) for batch in batches] for _ in range(2)]
    assert digests[0] == digests[1]
    assert len(batches) == len(digests[0]) == 2


def test_images_are_read_when_their_batch_is_asked_for_and_kept(folder):
    read: list[int] = []

    def transform(image):
        read.append(1)
        return red(image)

    batches = from_folder(folder, transform=transform, sizes=COUNTS, batch=2)["rank"]
    assert read == []
    next(iter(batches))
    assert len(read) == 2
    seen(batches)
    seen(batches)
    assert len(read) == 6


def test_images_beyond_the_cache_are_read_again(folder, monkeypatch):
    monkeypatch.setattr(classification, "CACHE_BYTES", 3 * 4)  # three values of four bytes
    batches = ImageBatches(images_by_class(folder), red)
    assert seen(batches) == seen(batches)
    assert len(batches._kept) == 3


def test_a_flat_folder_takes_its_labels_from_a_function(tmp_path):
    for number in range(20):
        paint(tmp_path / f"{number % 4}_{number}.png", number)
    splits = from_folder(
        tmp_path, transform=red, label=lambda file: int(file.name[0]), sizes=COUNTS
    )
    for inputs, targets in splits["rank"]:
        assert [int(value) % 4 for value in inputs.flatten()] == targets.tolist()


def test_arrays_and_tensors_are_split_alike():
    x, y = np.arange(20.0).reshape(20, 1), np.arange(20) % 3
    splits = from_arrays(x, y, sizes=COUNTS, batch=4)
    tensors = from_arrays(torch.from_numpy(x), torch.from_numpy(y), sizes=COUNTS, batch=4)
    assert sorted(number for batches in splits.values() for number in seen(batches)) == list(
        range(20)
    )
    for name, batches in splits.items():
        assert [batch_digest(*batch) for batch in batches] == [
            batch_digest(*batch) for batch in tensors[name]
        ]
        assert all((inputs.flatten() % 3 == targets).all() for inputs, targets in batches)


@given(n=st.integers(4, 500), seed=st.integers(0, 99))
def test_parts_never_meet(n, seed):
    sizes = {"calib": 1, "rank": 0.3, "confirm": 0.25, "holdout": 0.25} if n < 10 else SIZES
    parts = random_parts(n, sizes, seed)
    together = np.concatenate(list(parts.values()))
    assert len(set(together.tolist())) == len(together) <= n
    assert list(parts) == list(sizes)


def test_a_part_is_in_random_order_so_that_its_first_samples_are_a_fair_draw():
    rank = random_parts(1000, SIZES, 0)["rank"]
    assert abs(rank[:100].mean() - 500) < 100


@pytest.mark.parametrize(
    ("sizes", "got"),
    [
        ({"rank": 10, "confirm": 5, "holdout": 6}, "rank 10, confirm 5, holdout 6"),
        ({"rank": 1, "confirm": 0.01}, "0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes, got):
    with pytest.raises(TaskError, match=f"that add up to at most 20, got .*{got}"):
        random_parts(20, sizes, 0)


def test_the_task_has_the_scored_splits_and_what_ranges_are_calibrated_on(folder):
    splits = from_folder(folder, transform=red, sizes=COUNTS)
    task = classification_task(torch.nn.Identity().eval(), splits)
    check_task(task)
    assert set(task.data) == {*SPLITS, "calib"}
    assert set(classification_task(task.model, {**splits, "train": []}).data) == {*SPLITS, "calib"}
    assert task.metric == "top-1"


def test_top1_is_one_where_the_highest_output_is_the_targets():
    outputs = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
    assert top1(outputs, torch.tensor([1, 1, 1])).tolist() == [1.0, 0.0, 1.0]
    assert classification_task(None, {}).aggregate(
        top1(outputs, torch.tensor([1, 1, 1]))
    ) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("score", "outputs", "got"),
    [
        (
            Top1(3),
            torch.zeros(2, 10),
            "Expected the model to have 3 outputs, one for each class of the data, got 10",
        ),
        (top1, torch.zeros(2, 2), "Expected the model to have at least 3 outputs"),
        (top1, torch.zeros(2, 3, 4), r"got shape \(2, 3, 4\)"),
        (top1, {"logits": 1}, "got a dict"),
        (top1, torch.tensor([[0.0, 1, 2], [0, float("nan"), 1]]), "got NaN for sample 1"),
    ],
    ids=["other-classes", "too-few", "shape", "dict", "nan"],
)
def test_outputs_that_do_not_fit_the_labels_are_refused(score, outputs, got):
    with pytest.raises(TaskError, match=got):
        score(outputs, torch.tensor([2, 0]))


def test_an_empty_class_folder_is_named(folder):
    (folder / "dog").mkdir()
    with pytest.raises(TaskError, match=r"every class folder .* got none in dog"):
        images_by_class(folder)


def test_a_flat_folder_without_labels_learns_of_label(tmp_path):
    paint(tmp_path / "a.png", 1)
    with pytest.raises(TaskError, match="got 1 images and no folder; pass label="):
        from_folder(tmp_path, transform=red)


def test_a_folder_without_images_is_reported(tmp_path):
    with pytest.raises(TaskError, match="got none that end in .bmp"):
        from_folder(tmp_path, transform=red, label=lambda file: 0)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(
        TaskError, match="Expected a folder of images at .*/nowhere, got nothing there"
    ):
        from_folder(tmp_path / "nowhere", transform=red)


@pytest.mark.parametrize(
    "y", [np.zeros(19, int), np.zeros((20, 3), int), np.zeros(20), np.array(["a"] * 20)]
)
def test_labels_that_are_no_class_indices_are_refused(y):
    with pytest.raises(TaskError, match="one class index for each of the 20 samples, got"):
        from_arrays(np.zeros((20, 1)), y)


def test_images_of_several_shapes_are_refused_by_file(tmp_path):
    paint(tmp_path / "a" / "1.png", 1)
    paint(tmp_path / "a" / "2.png", 1, size=(9, 8))
    with pytest.raises(TaskError, match=r"got \(8, 8, 3\) and then \(8, 9, 3\) for .*2\.png"):
        seen(ImageBatches(images_by_class(tmp_path), np.asarray))


@pytest.mark.parametrize("content", [b"no image", None], ids=["text", "cut-off"])
def test_a_broken_image_is_named(tmp_path, content):
    paint(tmp_path / "a.png", 1, size=(200, 200))
    (tmp_path / "a.png").write_bytes(content or (tmp_path / "a.png").read_bytes()[:100])
    with pytest.raises(TaskError, match=r"Expected a readable image at .*a\.png"):
        read_rgb(tmp_path / "a.png")


def test_grey_images_become_three_channels(tmp_path):
    paint(tmp_path / "grey.png", 7, mode="L")
    assert np.asarray(read_rgb(tmp_path / "grey.png")).tolist() == np.full((8, 8, 3), 7).tolist()


def test_hidden_files_and_other_endings_are_no_images(folder):
    (folder / "ant" / ".hidden.png").write_bytes(b"")
    (folder / ".thumbs").mkdir()
    (folder / "ant" / "notes.txt").write_text("")
    assert len(image_files(folder)) == 20
    assert images_by_class(folder).classes == 3


def test_the_centre_is_cropped_and_normalised():
    image = Image.fromarray(np.arange(36, dtype=np.uint8).reshape(6, 6).repeat(3).reshape(6, 6, 3))
    made = centre_crop(2, mean=(0, 0, 0), std=(1, 1, 1 / 255))(image)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made[2], [[14, 15], [20, 21]], rtol=1e-6)
    np.testing.assert_allclose(made[0] * 255, made[2], rtol=1e-6)


def test_pixels_are_kept_and_their_values_are_those_of_the_transform_bit_for_bit(tmp_path):
    """Values of float32 take four times the memory: 0.6 GB for 1,000 images of 224x224."""
    drawn = np.random.default_rng(0).integers(0, 256, (2, 40, 30, 3), dtype=np.uint8)
    for name, pixels in zip("ab", drawn, strict=True):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "1.png")
    batches = ImageBatches(images_by_class(tmp_path), centre_crop(24))
    (first, _), (again, _) = next(iter(batches)), next(iter(batches))
    assert [kept.dtype for kept in batches._kept.values()] == [np.uint8] * 2
    cropped = drawn[:, 8:32, 3:27].astype(np.float32) / 255
    mean, std = np.float32(IMAGENET_MEAN), np.float32(IMAGENET_STD)
    expected = ((cropped - mean) / std).transpose(0, 3, 1, 2)
    assert np.array_equal(first, expected)
    assert np.array_equal(again, expected)
    one = read_rgb(tmp_path / "a" / "1.png")
    assert np.array_equal(batches.transform(one), expected[0])


def test_the_shorter_side_is_scaled():
    assert centre_crop(4, resize=5)(Image.new("RGB", (20, 10))).shape == (3, 4, 4)


def test_images_smaller_than_the_crop_are_refused():
    with pytest.raises(TaskError, match="at least 9x9 pixels to crop from, got 8x8; pass resize=9"):
        centre_crop(9)(Image.new("RGB", (8, 8)))


@pytest.mark.parametrize("example", ["01_mobilenet", "02_resnet20"])
def test_an_example_without_its_assets_says_what_they_must_hold(example, monkeypatch):
    monkeypatch.delenv("SENSITIVITY_ASSETS", raising=False)
    with pytest.raises(
        TaskError, match="Expected SENSITIVITY_ASSETS to name a folder with weights/.*got nothing"
    ):
        load_task(f"{EXAMPLES}/{example}/task.py")


@pytest.mark.skipif(
    "SENSITIVITY_ASSETS" not in os.environ,
    reason="SENSITIVITY_ASSETS is unset: no weights, no images",
)
@pytest.mark.parametrize(
    ("example", "layers", "batches", "rank"),
    [
        ("01_mobilenet", 28, {"rank": 6, "confirm": 5, "holdout": 5}, 300),
        ("02_resnet20", 20, {"rank": 10}, 1000),
    ],
    ids=["mobilenet", "resnet20"],
)
def test_an_example_is_a_calibrated_model_with_its_splits(example, layers, batches, rank):
    from sensitivity.quantizers.base import check_calibrated
    from sensitivity.quantizers.base import layers as layers_of
    from sensitivity.quantizers.torch.modelopt import ModelOptModel

    task = load_task(f"{EXAMPLES}/{example}/task.py")
    source = ModelOptModel(task.model)
    check_calibrated(source.quantizers)
    assert len(layers_of(source.quantizers)) == layers
    assert {name: len(task.data[name]) for name in batches} == batches
    inputs, targets = next(iter(task.data["rank"]))
    with torch.no_grad(), source.disabled(quantizer.name for quantizer in source.quantizers):
        accuracy = task.score(task.model(inputs), targets).mean()
    assert accuracy > 0.3
    files = [set(task.data[split].images.files) for split in SPLITS]
    assert len(files[0]) == rank
    assert not files[0] & files[1] | files[0] & files[2] | files[1] & files[2]


def drawn(temperature: float, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits float64[n, 10], and labels as likely as these over the temperature say."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (n, 10))
    powers = np.exp(logits / temperature)
    labels = [generator.choice(10, p=row / row.sum()) for row in powers]
    return logits, np.array(labels)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.5])
def test_labels_tell_how_sure_a_network_should_be(temperature: float) -> None:
    logits, labels = drawn(temperature, 2000)
    (found,) = answer_lost.fit(np.split(logits, 4), np.split(labels, 4))
    assert found == pytest.approx(temperature, rel=0.08)
    powers = np.exp(logits)
    shares = powers / powers.sum(axis=1, keepdims=True)
    assert answer_lost.fit([shares], [labels]) == pytest.approx((found,), rel=0.02)


def test_the_temperature_is_that_of_torch_s_cross_entropy() -> None:
    logits, labels = drawn(1.7, 2000, seed=1)
    given, wanted = torch.from_numpy(logits), torch.from_numpy(labels)
    log_t = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_t], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(given / log_t.exp(), wanted)
        loss.backward()
        return loss

    optimizer.step(closure)
    (found,) = answer_lost.fit([given], [wanted])
    assert found == pytest.approx(float(log_t.exp()), abs=0.06)  # two digits, and a weak prior


def test_close_second_answers_tell_what_they_lose() -> None:
    """Two batches of four samples in all: close and right, close and wrong with the second right,
    close with neither right, and not close."""
    shares = np.array([[0.4, 0.3, 0.3], [0.1, 0.5, 0.4], [0.45, 0.2, 0.35], [0.7, 0.2, 0.1]])
    labels = np.array([0, 2, 1, 0])
    logits = 2 * np.log(shares)
    fitted = answer_lost.fitted((2.0,))
    counted, believed = fitted.ties(np.split(logits, 2), np.split(labels, 2))
    assert counted.tolist() == [1, -1, 0, 0]
    assert believed == pytest.approx([0.1, 0.1, 0.1, 0])
    second = np.array([[0, 1, 0], [0, 0, 1], [0, 0, 1], [0, 1, 0.0]])
    assert fitted(logits, second)[:3] == pytest.approx(believed[:3]), "as of a variant's answers"


@pytest.mark.parametrize(
    ("targets", "got"),
    [
        ([0, -100, 1], "got 3 targets from -100 to 1;"),
        ([0, 255, 1], "got 3 targets from 0 to 255;"),
        ([[1, 0], [0, 1], [1, 0]], "got 6 targets from 0 to 1;"),
        (None, "got 1 targets of object;"),
    ],
)
def test_targets_that_are_no_class_indices_are_refused(targets: Any, got: str) -> None:
    with pytest.raises(TaskError, match="Expected one class index of 0 to 1 for each of 3") as said:
        answer_lost.fit([np.zeros((3, 2))], [np.array(targets)])
    assert got in str(said.value)


def test_one_class_alone_has_no_second_answer() -> None:
    counted, believed = answer_lost.ties([np.ones((3, 1))], [np.zeros(3, int)])
    assert counted.tolist() == believed.tolist() == [0, 0, 0]


def test_few_labels_leave_a_network_as_sure_as_it_is() -> None:
    logits, labels = drawn(1.0, 3)
    right = logits.argmax(axis=1)
    assert 0.4 < answer_lost.fit([logits], [right])[0] < 1.0
    assert answer_lost.fit([logits[:0]], [labels[:0]]) == (1.0,)


def test_a_network_that_is_too_sure_expects_to_lose_less_once_it_is_fitted() -> None:
    logits, other = np.array([[2.0, 1.0, 0.0]]), np.array([[1.0, 2.0, 0.0]])
    assert answer_lost.fitted((2.0,))(logits, other)[0] < answer_lost(logits, other)[0]
