from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from harness.errors import DatasetError, UnsafeInputError
from harness.images import decode_clip, decode_rgb, prepare
from harness.recipes import ImageRecipe

MEAN, STD = (0.5, 0.4, 0.3), (0.5, 0.25, 0.2)


def encoded(image, file_format="PNG", **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def recipe(resize="squash", resolution=8, interpolation="bicubic"):
    return ImageRecipe(resize=resize, interpolation=interpolation, resolution=resolution)


def denormalised(pixels):
    mean, std = np.array(MEAN).reshape(3, 1, 1), np.array(STD).reshape(3, 1, 1)
    return (pixels * std + mean) * 255


def test_png_is_read_bit_for_bit():
    picture = noise(5, 7)
    decoded = decode_rgb(encoded(Image.fromarray(picture)), "a")
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, picture)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_undone(orientation, file_format):
    # The upper left quarter of the upright picture is red, the rest is blue.
    upright = np.zeros((32, 48, 3), dtype=np.uint8)
    upright[..., 2] = 255
    upright[:16, :24] = (255, 0, 0)
    inverse = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]
    stored = Image.fromarray(upright)
    if inverse is not None:
        stored = stored.transpose(Image.Transpose(inverse))
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode_rgb(encoded(stored, file_format, exif=exif), "a")
    assert decoded.shape == (32, 48, 3)
    np.testing.assert_allclose(decoded[4, 4], (255, 0, 0), atol=8)
    np.testing.assert_allclose(decoded[28, 40], (0, 0, 255), atol=8)


def test_grey_is_repeated_over_channels():
    grey = noise(4, 4)[..., 0]
    np.testing.assert_array_equal(decode_rgb(encoded(Image.fromarray(grey)), "a"), np.dstack([grey] * 3))


def test_sixteen_bit_grey_is_scaled_to_eight():
    deep = np.array([[0, 257, 65535], [128, 129, 32896]], dtype=np.uint16)
    decoded = decode_rgb(encoded(Image.fromarray(deep)), "a")
    np.testing.assert_array_equal(decoded[..., 1], [[0, 1, 255], [0, 1, 128]])


def test_transparency_lies_on_white():
    picture = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 128]]], dtype=np.uint8)
    decoded = decode_rgb(encoded(Image.fromarray(picture)), "a")
    np.testing.assert_array_equal(decoded[0, :2], [[255, 0, 0], [255, 255, 255]])
    np.testing.assert_allclose(decoded[0, 2], 127, atol=1)


def test_palette_with_a_transparent_entry_lies_on_white():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    decoded = decode_rgb(encoded(image, transparency=1), "a")
    np.testing.assert_array_equal(decoded[0], [[10, 20, 30], [255, 255, 255]])


def test_cmyk_and_bilevel_become_rgb():
    assert decode_rgb(encoded(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "JPEG"), "a")[0, 0, 0] > 200
    np.testing.assert_array_equal(decode_rgb(encoded(Image.new("1", (2, 2), 1)), "a"), 255)


def test_floating_point_pixels_are_refused():
    with pytest.raises(DatasetError, match="s-1: image has no defined brightness range"):
        decode_rgb(encoded(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF"), "s-1")


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "BMP"])
def test_truncated_image_names_the_sample(file_format):
    data = encoded(Image.fromarray(noise(64, 64)), file_format)
    with pytest.raises(DatasetError, match=r"^s-7: image cannot be decoded"):
        decode_rgb(data[: len(data) // 2], "s-7")


def test_flipped_bit_in_a_png_is_found_by_its_checksum():
    data = bytearray(encoded(Image.fromarray(noise(64, 64))))
    data[len(data) // 2] ^= 1
    with pytest.raises(DatasetError, match="s-8"):
        decode_rgb(bytes(data), "s-8")


@pytest.mark.parametrize("data", [b"", b"not an image", b"%!PS-Adobe-3.0 EPSF", b"<svg/>"])
def test_other_bytes_are_refused(data):
    with pytest.raises(DatasetError, match="s-9"):
        decode_rgb(data, "s-9")


def png_header(width, height):
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + body
        + struct.pack(">I", zlib.crc32(body))
        + (struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT")))
    )


@pytest.mark.parametrize("side", [8_001, 9_600, 30_000])
def test_decompression_bomb_is_refused_unread(side):
    with pytest.raises(UnsafeInputError, match="s-2: image too large"):
        decode_rgb(png_header(side, side), "s-2")


@pytest.mark.parametrize("resize", ["squash", "shortest-side-centre-crop", "letterbox"])
def test_image_of_the_target_size_is_not_resampled(resize):
    pictures = [noise(8, 8, seed) for seed in range(3)]
    pixels = prepare(pictures, recipe(resize), MEAN, STD)
    assert pixels.shape == (3, 3, 8, 8)
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(denormalised(pixels).transpose(0, 2, 3, 1), np.stack(pictures), atol=1e-3)


def test_centre_crop_of_a_matching_side_only_cuts():
    picture = noise(8, 15)
    pixels = prepare([picture], recipe("shortest-side-centre-crop"), MEAN, STD)
    np.testing.assert_allclose(denormalised(pixels[0]).transpose(1, 2, 0), picture[:, 3:11], atol=1e-3)


def test_squash_equals_pillow():
    picture = noise(20, 33)
    wanted = np.asarray(Image.fromarray(picture).resize((8, 8), Image.Resampling.BILINEAR))
    pixels = prepare([picture], recipe("squash", interpolation="bilinear"), MEAN, STD)
    np.testing.assert_allclose(denormalised(pixels[0]).transpose(1, 2, 0), wanted, atol=1e-3)


def test_letterbox_pads_with_the_mean_colour():
    pixels = prepare([np.full((16, 32, 3), 255, np.uint8)], recipe("letterbox"), MEAN, STD)
    assert (pixels[0, :, :2] == 0).all()
    assert (pixels[0, :, 6:] == 0).all()
    np.testing.assert_allclose(denormalised(pixels[0])[:, 2:6], 255, atol=1e-3)


@pytest.mark.parametrize("resize", ["squash", "shortest-side-centre-crop", "letterbox"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 4000), (4000, 1), (3, 5)])
def test_odd_shapes_fit_the_frame(resize, shape):
    pixels = prepare([noise(*shape)], recipe(resize), MEAN, STD)
    assert pixels.shape == (1, 3, 8, 8)
    assert np.isfinite(pixels).all()


def write_clip(path, num_frames, size=32, rate=10, index_first=False):
    import av

    options = {"movflags": "+faststart"} if index_first else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 2_000_000
        for i in range(num_frames):
            grey = np.full((size, size, 3), 20 + 200 * i // num_frames, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())


def brightness(frames):
    return [float(frame.mean()) for frame in frames]


def test_frames_stand_at_the_centres_of_equal_spans(tmp_path):
    path = tmp_path / "clip.mp4"
    write_clip(path, 20)
    frames = decode_clip(path, 4)
    # Centres are at 0.25, 0.75, 1.25 and 1.75 s, so frames 2, 7, 12 and 17 are on screen.
    np.testing.assert_allclose(brightness(frames), [20 + 200 * i // 20 for i in (2, 7, 12, 17)], atol=4)
    assert frames[0].shape == (32, 32, 3)
    assert brightness(decode_clip(path.read_bytes(), 4)) == brightness(frames)


def test_short_clip_repeats_pictures(tmp_path):
    write_clip(tmp_path / "clip.mp4", 2)
    found = brightness(decode_clip(tmp_path / "clip.mp4", 8))
    assert len(found) == 8
    np.testing.assert_allclose(found, [20] * 4 + [120] * 4, atol=4)


@pytest.mark.parametrize("index_first", [False, True])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_truncated_clip_names_the_sample(tmp_path, share, index_first):
    write_clip(tmp_path / "clip.mp4", 30, index_first=index_first)
    data = (tmp_path / "clip.mp4").read_bytes()
    with pytest.raises(DatasetError, match=r"^q-3: clip cannot be decoded"):
        decode_clip(data[: int(len(data) * share)], 4, where="q-3")


def test_clip_whose_pictures_were_zeroed_is_refused(tmp_path):
    write_clip(tmp_path / "clip.mp4", 30)
    data = bytearray((tmp_path / "clip.mp4").read_bytes())
    start = data.index(b"mdat") + 8
    length = struct.unpack(">I", data[start - 12 : start - 8])[0]
    middle = start + length // 2
    data[middle : start + length - 8] = bytes(start + length - 8 - middle)
    with pytest.raises(DatasetError, match="q-4"):
        decode_clip(bytes(data), 4, where="q-4")


@pytest.mark.parametrize("data", [b"", b"no video here"])
def test_other_bytes_are_no_clip(data):
    with pytest.raises(DatasetError, match="q-5"):
        decode_clip(data, 4, where="q-5")


def test_missing_clip_is_a_dataset_error(tmp_path):
    with pytest.raises(DatasetError, match=r"absent\.mp4"):
        decode_clip(tmp_path / "absent.mp4", 4)
