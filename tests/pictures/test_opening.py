"""Every kind of picture file opens as RGB with the right pixels, or is refused with one line."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tessella.core.errors import InputError
from tessella.pictures.opening import MAX_PIXELS, decode_picture, open_picture, read_picture
from tessella.pictures.saving import check_picture_target, check_target, save_bytes, save_picture


def _ramp(width: int = 32, height: int = 16) -> Image.Image:
    values = np.linspace(0, 255, width * height).reshape(height, width)
    return Image.fromarray(np.stack([values, 255 - values, values / 2], -1).astype(np.uint8))


def _claim_size(path: Path, width: int, height: int) -> None:
    """Edit a PNG's header so that it claims another size, with a correct checksum."""
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    path.write_bytes(bytes(data))


def test_an_ordinary_picture_comes_back_unchanged(tmp_path):
    _ramp().save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    assert (picture.image.mode, picture.notes) == ("RGB", ())
    assert np.array_equal(np.asarray(picture.image), np.asarray(_ramp()))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.png", None, "^there is no file '[^']*missing.png'\\.$"),
        ("text.png", b"hello, this is no picture", "is not a picture that can be read"),
        ("empty.png", b"", "is empty \\(0 bytes\\)"),
        ("header.png", b"\x89PNG\r\n\x1a\n", "cannot be read as a picture|is not a picture"),
    ],
)
def test_files_that_are_no_pictures_are_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        open_picture(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_folder_and_an_impossible_name_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"^'[^']*' is a folder; give one picture file\.$"):
        open_picture(tmp_path)
    with pytest.raises(InputError, match=r"is not a file name|there is no file"):
        open_picture("a\0b.png")
    with pytest.raises(InputError, match=r"cannot be read|there is no file"):
        open_picture(tmp_path / ("x" * 5000))


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "webp", "tiff", "bmp"])
def test_a_truncated_file_is_refused_in_one_line(tmp_path, ending):
    rng = np.random.default_rng(0)
    path = tmp_path / f"a.{ending}"
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"is cut short|is damaged|cannot be read|not a picture") as caught:
        open_picture(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("width", "height"), [(30_000, 30_000), (9_000, 10_000), (2_000_000_000, 3)])
def test_a_huge_header_is_refused_with_size_and_limit(tmp_path, width, height):
    path = tmp_path / "bomb.png"
    _ramp().save(path)
    _claim_size(path, width, height)
    with pytest.raises(InputError, match=f"claims {width:,} x {height:,} pixels; allowed are 80 million"):
        open_picture(path)


def test_the_size_limit_lies_below_where_pillow_warns():
    assert MAX_PIXELS < Image.MAX_IMAGE_PIXELS


def test_one_pixel_opens(tmp_path):
    Image.new("RGB", (1, 1), (10, 20, 30)).save(tmp_path / "a.png")
    image = open_picture(tmp_path / "a.png")
    assert (image.size, image.getpixel((0, 0))) == ((1, 1), (10, 20, 30))


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    wide = np.array([[0, 257 * 100 + 60, 257 * 200 - 60, 65535]], np.uint16)
    for name in ("a.png", "a.tiff"):
        Image.fromarray(wide).save(tmp_path / name)
        assert np.asarray(open_picture(tmp_path / name))[0, :, 0].tolist() == [0, 100, 200, 255]


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        (np.int32, [0, 100, 255], [0, 100, 255]),
        (np.int32, [0, 25700, 65535], [0, 100, 255]),
        (np.float32, [0, 0.2, 1], [0, 51, 255]),
        (np.float32, [0, 51, 255], [0, 51, 255]),
    ],
)
def test_wide_values_are_scaled_by_the_range_they_use(tmp_path, dtype, values, expected):
    Image.fromarray(np.array([values], dtype)).save(tmp_path / "a.tiff")
    assert np.asarray(open_picture(tmp_path / "a.tiff"))[0, :, 0].tolist() == expected


@pytest.mark.parametrize("values", [[-1.0, 0.5, 1.0], [0.0, 1.0, 1e6], [0.0, float("nan"), 1.0]])
def test_values_without_a_meaning_are_refused(tmp_path, values):
    Image.fromarray(np.array([values], np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(InputError, match=r"its values run from|not finite"):
        open_picture(tmp_path / "a.tiff")


def test_cmyk_grey_and_palette_become_rgb(tmp_path):
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "cmyk.tiff")
    assert open_picture(tmp_path / "cmyk.tiff").getpixel((0, 0)) == (255, 0, 0)
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=95)
    red, green, blue = open_picture(tmp_path / "cmyk.jpg").getpixel((8, 8))
    assert red > 240 > 30 > max(green, blue)
    Image.new("L", (4, 4), 77).save(tmp_path / "grey.png")
    assert open_picture(tmp_path / "grey.png").getpixel((1, 1)) == (77, 77, 77)
    Image.new("1", (4, 4), 1).save(tmp_path / "bits.png")
    assert open_picture(tmp_path / "bits.png").getpixel((1, 1)) == (255, 255, 255)
    Image.new("RGB", (4, 4), (200, 10, 60)).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "p.png")
    assert open_picture(tmp_path / "p.png").getpixel((1, 1)) == (200, 10, 60)


def test_transparency_is_composited_on_white(tmp_path):
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 128))
    image.save(tmp_path / "a.png")
    opened = open_picture(tmp_path / "a.png")
    assert opened.getpixel((0, 0)) == (255, 255, 255)
    assert opened.getpixel((1, 0))[0] == pytest.approx(127, abs=1)
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([9, 9, 9, 200, 0, 0])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "p.png", transparency=bytes([0, 255]))
    opened = open_picture(tmp_path / "p.png")
    assert (opened.getpixel((0, 0)), opened.getpixel((1, 0))) == ((255, 255, 255), (200, 0, 0))
    Image.new("LA", (1, 1), (0, 0)).save(tmp_path / "la.png")
    assert open_picture(tmp_path / "la.png").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("ending", ["gif", "webp", "png"])
def test_an_animation_gives_its_first_frame_and_a_note(tmp_path, ending):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:], lossless=True)
    picture = read_picture(tmp_path / f"a.{ending}")
    assert picture.image.getpixel((4, 4)) == (255, 0, 0)
    assert picture.notes == (f"a.{ending} has several frames; the first one is used.",)


@pytest.mark.parametrize(("orientation", "corner"), [(1, (0, 0)), (3, (31, 15)), (6, (15, 0)), (8, (0, 31))])
def test_exif_rotation_is_honoured(tmp_path, orientation, corner):
    image = Image.new("RGB", (32, 16), "black")
    image.paste((255, 255, 255), (0, 0, 4, 4))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.png", exif=exif)
    opened = open_picture(tmp_path / "a.png")
    assert opened.size == ((16, 32) if orientation in (6, 8) else (32, 16))
    assert opened.getpixel(corner) == (255, 255, 255)
    assert np.asarray(opened).sum() == 255 * 3 * 16


def test_damaged_exif_does_not_hide_the_picture(tmp_path):
    _ramp().save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xffgarbage")
    assert open_picture(tmp_path / "a.jpg").size == (32, 16)


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "a.png"
    save_picture(_ramp(), target)
    before = target.read_bytes()
    assert np.array_equal(np.asarray(Image.open(target)), np.asarray(_ramp()))

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_bytes(b"half", target)
    assert target.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_targets_are_checked_before_any_work(tmp_path):
    assert check_picture_target(tmp_path / "a.PNG") == tmp_path / "a.PNG"
    with pytest.raises(InputError, match="there is no folder"):
        check_target(tmp_path / "no" / "a.png")
    with pytest.raises(InputError, match="it is a folder"):
        check_target(tmp_path)
    with pytest.raises(InputError, match=r"must end in .png, .jpg, .jpeg, .webp; got '.xyz'"):
        check_picture_target(tmp_path / "a.xyz")


def test_bytes_are_read_as_a_file_is() -> None:
    written = io.BytesIO()
    Image.new("RGB", (3, 2), (1, 2, 3)).save(written, "PNG")
    data = written.getvalue()
    assert decode_picture(data, "upload", ("PNG",)).image.getpixel((2, 1)) == (1, 2, 3)
    with pytest.raises(InputError, match="'upload' is not a picture that can be read"):
        decode_picture(data, "upload", ("JPEG",))
    with pytest.raises(InputError, match="'upload' claims 3 x 2 pixels; allowed are 5e-06 million in all"):
        decode_picture(data, "upload", max_pixels=5)
    with pytest.raises(InputError, match="'upload' is cut short"):
        decode_picture(data[:45], "upload")
