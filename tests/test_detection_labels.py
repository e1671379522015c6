import json

import numpy as np
import pytest
from PIL import Image

from sensitivity.errors import TaskError
from sensitivity.tasks.detection_labels import (
    LabelForm,
    coco_images,
    labelled_areas,
    yolo_images,
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images" / "sub").mkdir(parents=True)
    (tmp_path / "labels" / "sub").mkdir(parents=True)
    for name in ("b.png", "a.png", "sub/c.png"):
        Image.new("RGB", (200, 100)).save(tmp_path / "images" / name)
    return tmp_path


def coco(folder, **changes):
    content = {
        "images": [
            {"id": 7, "file_name": "b.png", "width": 200, "height": 100},
            {"id": 3, "file_name": "a.png"},
        ],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}],
        "annotations": [
            {"image_id": 7, "category_id": 90, "bbox": [10, 20, 30, 40], "iscrowd": 1},
            {"image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4]},
        ],
    }
    (folder / "instances.json").write_text(json.dumps(content | changes))
    return folder / "instances.json", folder / "images"


def test_coco_images_are_read_in_order_with_classes_numbered_by_category_id(folder):
    labels = coco_images(*coco(folder))
    first, second = labels.images
    assert labels.names == ("person", "toothbrush")
    assert first.file.name == "b.png"
    assert first.boxes.tolist() == [[10, 20, 40, 60], [1, 2, 4, 6]]
    assert first.classes.tolist() == [1, 0]
    assert first.crowd.tolist() == [True, False]
    assert first.size == (200, 100)
    assert second.boxes.shape == (0, 4)
    assert second.size is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"images": [{"id": 7, "file_name": "z.png"}]},
            r"the 1 annotated images below .*, got 1 missing, first 'z\.png'",
        ),
        (
            {"annotations": [{"image_id": 7, "category_id": 5, "bbox": [0, 0, 1, 1]}]},
            r"name an image and a category of that file, got image 7 and category 5\.",
        ),
    ],
    ids=["missing-image", "unknown-category"],
)
def test_coco_files_that_do_not_fit_together_are_refused(folder, changes, message):
    with pytest.raises(TaskError, match=message):
        coco_images(*coco(folder, **changes))


def test_files_that_are_not_coco_are_refused(folder):
    with pytest.raises(TaskError, match=r"Expected COCO annotations at .*, got no such file"):
        coco_images(folder / "none.json", folder)
    (folder / "list.json").write_text("[]")
    with pytest.raises(TaskError, match="got none named annotations, categories, images"):
        coco_images(folder / "list.json", folder)
    (folder / "text.json").write_text("hello")
    with pytest.raises(TaskError, match="got a file that is not JSON"):
        coco_images(folder / "text.json", folder)


def test_yolo_images_are_sorted_and_boxes_and_outlines_are_in_pixels(folder):
    (folder / "labels" / "b.txt").write_text("1 0.5 0.5 0.2 0.4\n\n0 0.1 0.2 0.3 0.2 0.2 0.6\n")
    (folder / "labels" / "sub" / "c.txt").write_text("")
    labels = yolo_images(folder / "images", folder / "labels", ["cat", "dog"])
    assert [image.file.name for image in labels.images] == ["a.png", "b.png", "c.png"]
    np.testing.assert_allclose(labels.images[1].boxes, [[80, 30, 120, 70], [20, 20, 60, 60]])
    assert labels.images[1].classes.tolist() == [1, 0]
    assert not labels.images[1].crowd.any()
    assert len(labels.images[0].boxes) == len(labels.images[2].boxes) == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("cat 0.1 0.1 0.1 0.1", r"Expected numbers at .*a\.txt:1, got 'cat 0\.1"),
        (
            "2 0.1 0.1 0.1 0.1",
            r"Expected a class from 0 to 1 at .*a\.txt:1, got 2; check the class names",
        ),
        ("0.5 0.1 0.1 0.1 0.1", r"Expected a class from 0 to 1 at .*, got 0\.5"),
        (
            "0 0.1 0.1 0.1",
            r"Expected a class and 4 numbers, or a class and at least 3 points, at .*a\.txt:1",
        ),
        (
            "0 0.1 0.1 0.1 0.1 0.1 0.1 0.1",
            r"Expected a class and 4 numbers, or a class and at least 3 points",
        ),
    ],
    ids=["word", "class-too-high", "class-not-whole", "too-few", "odd-outline"],
)
def test_yolo_lines_that_cannot_be_read_are_named(folder, line, message):
    (folder / "labels" / "a.txt").write_text(line)
    with pytest.raises(TaskError, match=message):
        yolo_images(folder / "images", folder / "labels", ["cat", "dog"])


def test_a_missing_folder_and_missing_labels_are_told_apart(folder):
    with pytest.raises(
        TaskError, match=r"Expected a folder of images at .*nowhere, got nothing there"
    ):
        yolo_images(folder / "nowhere", folder / "labels", ["cat"])
    with pytest.raises(
        TaskError,
        match=r"Expected label files below .*labels for the 3 images below .*images, got none",
    ):
        yolo_images(folder / "images", folder / "labels", ["cat"])


OUTLINES, POINTS = LabelForm("outlines"), LabelForm("keypoints", 2, 3)
CORNERS = LabelForm("corners")
PAIRS = LabelForm("keypoints", 2, 2)


def yolo_image(folder, text, form):
    (folder / "labels" / "a.txt").write_text(text)
    return yolo_images(folder / "images", folder / "labels", ["cat", "dog"], form).images[0]


def test_outlines_and_key_points_of_yolo_files_are_in_pixels(folder):
    image = yolo_image(folder, "1 0.1 0.2 0.3 0.2 0.2 0.6\n", OUTLINES)
    np.testing.assert_allclose(image.outlines[0], [[20, 20, 60, 20, 40, 60]])
    np.testing.assert_allclose(image.boxes, [[20, 20, 60, 60]])
    image = yolo_image(folder, "1 0.5 0.5 0.2 0.4 0.1 0.2 2 0.3 0.4 0\n", POINTS)
    np.testing.assert_allclose(image.keypoints, [[[20, 20, 2], [60, 40, 0]]])
    assert image.areas is None
    np.testing.assert_allclose(labelled_areas(image), [40 * 40])
    image = yolo_image(folder, "1 0.5 0.5 0.2 0.4 0.1 0.2 -1 0.4\n", PAIRS)
    np.testing.assert_allclose(image.keypoints, [[[20, 20, 1], [-200, 40, 0]]])


def test_corners_of_rotated_boxes_are_in_pixels(folder):
    image = yolo_image(folder, "1 0.1 0.2 0.3 0.2 0.3 0.6 0.1 0.7\n", CORNERS)
    np.testing.assert_allclose(image.corners, [[[20, 20], [60, 20], [60, 60], [20, 70]]])
    np.testing.assert_allclose(image.boxes, [[20, 20, 60, 70]])
    ship = {"id": 12, "image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4]}
    outline = [[1, 2, 4, 2, 4, 6, 1, 6]]
    found = coco_images(*coco(folder, annotations=[ship | {"segmentation": outline}]), CORNERS)
    assert found.images[0].corners.tolist() == [[[1, 2], [4, 2], [4, 6], [1, 6]]]
    assert found.images[1].corners.shape == (0, 4, 2)
    with pytest.raises(TaskError, match="one polygon of 8 numbers, got another in annotation 12; "):
        coco_images(*coco(folder, annotations=[ship]), CORNERS)


def test_outlines_and_key_points_of_coco_are_read(folder):
    person = {"image_id": 7, "category_id": 1, "bbox": [1, 2, 30, 40]}
    shape = [[1, 2, 31, 2, 31, 42]]
    runs = {"size": [100, 200], "counts": [5, 9, 19986]}
    annotations = [
        person | {"segmentation": shape},
        person | {"segmentation": runs, "iscrowd": 1},
    ]
    image, empty = coco_images(*coco(folder, annotations=annotations), OUTLINES).images
    assert image.outlines == (shape, runs)
    assert empty.outlines == ()
    annotations = [person | {"keypoints": [4, 5, 2, 0, 0, 0], "area": 700}, person]
    image, empty = coco_images(*coco(folder, annotations=annotations), POINTS).images
    assert image.keypoints.tolist() == [[[4, 5, 2], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]]
    np.testing.assert_allclose(image.areas, [700, np.nan])
    np.testing.assert_allclose(labelled_areas(image), [700, 1200])
    np.testing.assert_allclose(labelled_areas(image, 0.53), [700, 0.53 * 1200])
    assert empty.keypoints.shape == (0, 2, 3)


@pytest.mark.parametrize(
    ("form", "line", "message"),
    [
        (CORNERS, "0 0.5 0.5 0.2 0.2", r"Expected a class and the 8 numbers of four corners at .*"),
        (OUTLINES, "0 0.5 0.5 0.2 0.2", r"Expected a class and at least 3 points, at .*a\.txt:1"),
        (
            POINTS,
            "0 0.5 0.5 0.2 0.2 0.1 0.1",
            r"and 2 key points of 3 numbers at .*a\.txt:1, .* 6 ",
        ),
    ],
)
def test_lines_without_what_the_model_gives_are_refused(folder, form, line, message):
    with pytest.raises(TaskError, match=message):
        yolo_image(folder, line, form)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (OUTLINES, "to hold a `segmentation` for a segmentation model, got none in annotation 12"),
        (POINTS, "Expected 2 key points of x, y and visibility for each object in .*, got 9 numb"),
    ],
)
def test_annotations_without_what_the_model_gives_are_refused(folder, form, message):
    person = {"id": 12, "image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4]}
    person |= {"keypoints": [0] * 9, "segmentation": []}
    with pytest.raises(TaskError, match=message):
        coco_images(*coco(folder, annotations=[person]), form)
