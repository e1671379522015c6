import io

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from support.boxes import to_input

from sensitivity.errors import TaskError
from sensitivity.tasks.detection_images import (
    PAD,
    fit,
    image_size,
    letterbox,
    load_rgb,
    to_image,
)

sides = st.integers(1, 3000)


@given(sides, sides, st.sampled_from([32, 320, 640]))
@example(1, 3000, 32)
@example(3000, 1, 320)
def test_boxes_come_back_from_the_square_input_to_the_image(width, height, size):
    boxes = np.array(
        [[0, 0, width, height], [width * 0.2, height * 0.3, width * 0.7, height * 0.9]]
    )
    geometry = fit(width, height, size)
    placed = to_input(boxes, geometry)
    assert placed.min() >= 0
    assert placed.max() <= size
    np.testing.assert_allclose(to_image(placed, geometry), boxes, atol=1e-9 * max(width, height))


def test_boxes_are_cut_at_the_border_of_the_image_they_belong_to():
    geometry = np.stack([fit(640, 480, 320), fit(100, 200, 320)])
    boxes = np.broadcast_to([-50.0, -50, 400, 400], (2, 1, 4))
    assert to_image(boxes, geometry).tolist() == [[[0, 0, 640, 480]], [[0, 0, 100, 200]]]


@pytest.mark.parametrize(
    "shape", [(480, 640), (333, 500), (77, 31), (1, 900), (640, 640), (20, 10)], ids=str
)
def test_letterboxing_agrees_with_ultralytics_to_one_grey_level(shape, monkeypatch, tmp_path):
    pytest.importorskip("ultralytics", reason="needs the package ultralytics")
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    for name, value in {
        "YOLO_OFFLINE": "true",
        "YOLO_AUTOINSTALL": "false",
        "YOLO_VERBOSE": "false",
    }.items():
        monkeypatch.setenv(name, value)
    from ultralytics.data.augment import LetterBox

    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    ours, _ = letterbox(Image.fromarray(pixels), 320)
    theirs = LetterBox(320)(image=pixels)
    assert np.abs(ours.astype(int) - theirs).max() <= 1


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_images_of_any_mode_become_rgb_letterboxed_on_grey(mode, tmp_path):
    suffix = "tif" if mode == "CMYK" else "png"
    Image.new("RGB", (30, 10), (255, 255, 255)).convert(mode).save(tmp_path / f"a.{suffix}")
    pixels, _ = letterbox(load_rgb(tmp_path / f"a.{suffix}"), 32)
    assert pixels.shape == (32, 32, 3)
    assert (pixels[:10] == PAD).all()
    assert (pixels[12:20, 1:31] >= 253).all()


def test_a_rotated_photograph_is_turned_unless_its_labels_are_of_the_stored_pixels(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert image_size(tmp_path / "a.jpg") == (20, 40)
    assert load_rgb(tmp_path / "a.jpg").size == (20, 40)
    assert load_rgb(tmp_path / "a.jpg", (20, 40)).size == (20, 40)
    assert load_rgb(tmp_path / "a.jpg", (40, 20)).size == (40, 20)
    with pytest.raises(
        TaskError, match=r"a\.jpg to be 80x40 pixels as its annotations say, got 20x40"
    ):
        load_rgb(tmp_path / "a.jpg", (80, 40))


def test_files_that_are_no_images_or_cut_off_are_named(tmp_path):
    (tmp_path / "text.jpg").write_text("not an image")
    unknown = (
        r"Expected a readable image at .*text\.jpg, got: (cannot identify|a format "
        r"that Pillow does not know)"
    )
    with pytest.raises(TaskError, match=unknown):
        load_rgb(tmp_path / "text.jpg")
    broken = io.BytesIO()
    Image.new("RGB", (8, 8)).save(broken, "png")
    (tmp_path / "broken.png").write_bytes(broken.getvalue().replace(b"IDAT", b"ID\0T"))
    with pytest.raises(TaskError, match=r"Expected a readable image at .*broken\.png, got: "):
        load_rgb(tmp_path / "broken.png")
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(buffer, "jpeg")
    (tmp_path / "cut.jpg").write_bytes(buffer.getvalue()[:-800])
    with pytest.raises(
        TaskError, match=r"Expected a readable image at .*cut\.jpg, got: .*truncated"
    ):
        load_rgb(tmp_path / "cut.jpg")
