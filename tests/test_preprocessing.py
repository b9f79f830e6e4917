"""Our preprocessing against the libraries' own, and odd files against pixels worked out by hand.

docs/decisions/0005-preprocessing.md names what differs and why. Damaged and refused files, clips and
single rules of decoding are in test_images.py; here is what that file does not say.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import itertools
import math
import struct
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image, ImageCms, ImageFile

import harness.images
from harness.digest import canonical_json
from harness.errors import DatasetError, UnsafeInputError, UsageError
from harness.images import decode_rgb, prepare
from harness.protocol import PROTOCOLS, read_protocol
from harness.recipes import ImageRecipe

PHOTOS = Path(__file__).resolve().parents[2] / "shared" / "data" / "photos"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NORM = {"image_mean": list(MEAN), "image_std": list(STD)}
SQUASH, CROP, LETTERBOX = "squash", "shortest-side-centre-crop", "letterbox"
LEVEL = 1 / 255
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def recipe(resize, interpolation="bicubic", resolution=8, crop_fraction=1.0):
    return ImageRecipe(
        resize=resize, interpolation=interpolation, resolution=resolution, crop_fraction=crop_fraction
    )


def noise(height, width, channels=3, seed=0):
    shape = (height, width, channels)[: 3 if channels > 1 else 2]
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(image, file_format="PNG", **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def sides_by_hand(height, width, rule):
    """Height and width after scaling, in exact fractions."""
    frame = math.floor(Fraction(rule.resolution) / Fraction(str(rule.crop_fraction)))
    short, long = min(height, width), max(height, width)
    if rule.resize == SQUASH:
        return frame, frame
    if rule.resize == LETTERBOX:
        return tuple(max(1, round(Fraction(side * frame, long))) for side in (height, width))
    return tuple(
        frame if side == short else math.floor(Fraction(frame * side, short)) for side in (height, width)
    )


def by_hand(picture, rule):
    """(R, R, 3) float64 pixel values; the mean colour where there is no picture."""
    height, width = sides_by_hand(*picture.shape[:2], rule)
    scaled = np.asarray(Image.fromarray(picture).resize((width, height), FILTERS[rule.interpolation]))
    side = rule.resolution
    frame = np.tile(np.array(MEAN) * 255, (side, side, 1))
    cut = [slice(max(0, (n - side) // 2), max(0, (n - side) // 2) + side) for n in (height, width)]
    top, left = (max(0, (side - n) // 2) for n in (height, width))
    kept = scaled[cut[0], cut[1]]
    frame[top : top + kept.shape[0], left : left + kept.shape[1]] = kept
    return frame


def pixel_values(pixels):
    """Encoder input (3, R, R) back as (R, R, 3) values 0-255."""
    shape = (3, 1, 1)
    return ((np.asarray(pixels) * np.reshape(STD, shape) + np.reshape(MEAN, shape)) * 255).transpose(1, 2, 0)


def ours(picture, rule):
    return pixel_values(prepare([picture], rule, MEAN, STD)[0])


# Libraries


@pytest.fixture(scope="module", params=["generated", "photographs"])
def pictures(request):
    if request.param == "photographs":
        if not PHOTOS.is_dir():
            pytest.skip("the photographs (../shared/data/photos) are not here")
        files = sorted(PHOTOS.iterdir())[::3]
        return [np.asarray(Image.open(file).convert("RGB")) for file in files]
    shapes = [(30, 600), (600, 30), (100, 101), (333, 517), (451, 700), (224, 224), (226, 227), (384, 257)]
    coarse = [Image.fromarray(noise(max(2, h // 6), max(2, w // 6), seed=h)) for h, w in shapes]
    return [np.asarray(c.resize((w, h))) for c, (h, w) in zip(coarse, shapes, strict=True)]


def of_transformers(model, backend="_pil", **options):
    """An image processor of transformers as a function of a PIL image."""
    importlib.import_module("harness.torchvision_shim")
    pytest.importorskip("transformers", reason="transformers is not installed")
    module = importlib.import_module(f"transformers.models.{model}.image_processing{backend}_{model}")
    (name,) = (n for n in module.__all__ if "ImageProcessor" in n)
    processor = getattr(module, name)(**NORM, **options)
    return lambda image: processor(image, return_tensors="np")["pixel_values"][0]


def of_timm(crop, mode, interpolation):
    importlib.import_module("harness.torchvision_shim")
    data = pytest.importorskip("timm.data", reason="timm is not installed")
    cfg = {"input_size": (3, 224, 224), "crop_pct": crop, "crop_mode": mode, "interpolation": interpolation}
    cfg = data.resolve_data_config({}, pretrained_cfg={**cfg, "mean": MEAN, "std": STD})
    transform = data.create_transform(**cfg)
    return lambda image: transform(image).numpy()


def of_open_clip(mode, interpolation):
    importlib.import_module("harness.torchvision_shim")
    module = pytest.importorskip("open_clip.transform", reason="open_clip is not installed")
    # Its own filling is black; with the mean colour it can be compared to the edge.
    options = {"mean": MEAN, "std": STD, "fill_color": tuple(round(255 * m) for m in MEAN)}
    transform = module.image_transform(
        224, is_train=False, resize_mode=mode, interpolation=interpolation, **options
    )
    return lambda image: transform(image).numpy()


def differences(transform, rule, pictures, half_even=False):
    """Largest difference of each picture, 0-1. With `half_even` the library rounds half a pixel's offset to
    the even number: then its window lies one pixel further on where the surplus is 3 modulo 4.
    """
    side = rule.resolution
    for picture in pictures:
        theirs, mine = pixel_values(transform(Image.fromarray(picture))), ours(picture, rule)
        surplus = [n - side for n in sides_by_hand(*picture.shape[:2], rule)]
        down, right = (int(half_even and n > 0 and n % 4 == 3) for n in surplus)
        mine = mine[down:, right:]
        yield np.abs(mine - theirs[: side - down, : side - right]).max() / 255


PROCESSORS = [
    ("clip", {}, recipe(CROP, "bicubic", 224)),
    ("siglip", {}, recipe(SQUASH, "bicubic", 224)),
    ("siglip", {"resample": 2, "size": {"height": 384, "width": 384}}, recipe(SQUASH, "bilinear", 384)),
    ("vit", {}, recipe(SQUASH, "bilinear", 224)),
    ("bit", {"size": {"shortest_edge": 256}}, recipe(CROP, "bicubic", 224, 0.875)),
    ("convnext", {"size": {"shortest_edge": 224}}, recipe(CROP, "bicubic", 224, 0.875)),
    ("convnext", {"size": {"shortest_edge": 224}, "crop_pct": 0.95}, recipe(CROP, "bicubic", 224, 0.95)),
    ("convnext", {}, recipe(SQUASH, "bicubic", 384)),
    ("deit", {}, recipe(SQUASH, "bicubic", 224, 0.875)),
]
EXACT = 1e-5
"""Differences of float32 alone: these libraries resize with the same PIL."""


@pytest.mark.parametrize(("model", "options", "rule"), PROCESSORS)
def test_pixels_match_transformers_on_pil(pictures, model, options, rule):
    assert max(differences(of_transformers(model, **options), rule, pictures)) <= EXACT


@pytest.mark.parametrize("model", ["vit", "dinov3_vit"])
def test_pixels_match_transformers_on_torchvision(pictures, model):
    rule = recipe(SQUASH, "bilinear", 224)
    assert max(differences(of_transformers(model, backend=""), rule, pictures)) <= LEVEL + EXACT


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    ("mode", "resize", "crop"),
    [("center", CROP, c) for c in (0.875, 0.9, 0.95, 1.0)]
    + [("squash", SQUASH, 0.9), ("border", LETTERBOX, 1.0), ("border", LETTERBOX, 0.9)],
)
def test_pixels_match_timm(pictures, mode, resize, crop, interpolation):
    rule = recipe(resize, interpolation, 224, crop)
    found = differences(of_timm(crop, mode, interpolation), rule, pictures, half_even=True)
    assert max(found) <= LEVEL  # it fills with the mean colour rounded to 8 bits


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("mode", "resize"), [("shortest", CROP), ("longest", LETTERBOX), ("squash", SQUASH)])
def test_pixels_match_open_clip(pictures, mode, resize, interpolation):
    rule = recipe(resize, interpolation, 224)
    found = differences(of_open_clip(mode, interpolation), rule, pictures, half_even=True)
    assert max(found) <= LEVEL


# Odd files: name -> bytes, and the upright RGB picture in them


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(samples, depth, colour, *extra):
    """A PNG of 8- or 16-bit samples (H, W, C), written by hand."""
    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(f">u{depth // 8}").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def on_white(colour, alpha):
    mixed = colour.astype(float) * alpha[..., None] + 255.0 * (255 - alpha[..., None].astype(float))
    return np.floor(mixed / 255 + 0.5).astype(np.uint8)


def thrice(grey):
    return np.dstack([grey] * 3)


def blocks(channels, seed):
    """24 × 40 pixels in flat blocks of 8 × 8, which a JPEG of quality 100 keeps exactly."""
    coarse = noise(3, 5, channels, seed)
    return np.repeat(np.repeat(coarse, 8, axis=0), 8, axis=1)


def ink_on_paper(ink):
    ink = ink.astype(float)
    return np.rint((255 - ink[..., :3]) * (255 - ink[..., 3:]) / 255).astype(np.uint8)


def jpeg_of_ink(ink, marker=True, transform=0):
    data = encoded(Image.fromarray(ink, "CMYK"), "JPEG", quality=100, subsampling=0)
    start = data.index(b"\xff\xee\x00\x0eAdobe")
    adobe = data[start : start + 15] + bytes([transform]) if marker else b""
    return data[:start] + adobe + data[start + 16 :]


def deep_files():
    deep = np.random.default_rng(1).integers(0, 65536, (7, 9, 4)).astype(np.uint16)
    deep[0, 0] = (1000, 1000, 1000, 0)
    grey, high = deep[..., 0], (deep >> 8).astype(np.uint8)
    scaled = np.rint(grey / 257).astype(np.uint8)
    keyed = np.where(grey == 1000, 255, scaled).astype(np.uint8)
    key = chunk(b"tRNS", struct.pack(">H", 1000))
    with_alpha = deep[..., [0, 3]]
    return {
        "16-bit grey": (png(grey, 16, 0), thrice(scaled)),
        "16-bit grey with a transparent value": (png(grey, 16, 0, key), thrice(keyed)),
        "16-bit grey and alpha": (png(with_alpha, 16, 4), on_white(thrice(high[..., 0]), high[..., 3])),
        "16-bit colour": (png(deep[..., :3], 16, 2), high[..., :3]),
        "16-bit colour and alpha": (png(deep, 16, 6), on_white(high[..., :3], high[..., 3])),
        "16-bit TIFF": (encoded(Image.fromarray(grey), "TIFF"), thrice(scaled)),
    }


def mode_files():
    picture, alpha, grey = noise(7, 9), noise(7, 9, 1, seed=2), noise(7, 9, 1, seed=3)
    bits, index = grey > 127, noise(7, 9, 1, seed=4) % 5
    colours, entries = noise(1, 5, seed=5)[0], np.array([0, 255, 128, 7, 200], np.uint8)
    palette = Image.fromarray(index)
    palette.putpalette(colours.tobytes())
    key = picture[3, 4]
    keyed = np.where((picture == key).all(-1)[..., None], 255, picture).astype(np.uint8)
    colour_key = chunk(b"tRNS", struct.pack(">3H", *key.tolist()))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    with_alpha = np.dstack([picture, alpha])
    return {
        "grey": (encoded(Image.fromarray(grey)), thrice(grey)),
        "grey and alpha": (
            encoded(Image.fromarray(np.dstack([grey, alpha]), "LA")),
            on_white(thrice(grey), alpha),
        ),
        "1 bit": (encoded(Image.fromarray(bits)), thrice(np.where(bits, 255, 0).astype(np.uint8))),
        "palette": (encoded(palette), colours[index]),
        "palette with alpha": (
            encoded(palette, transparency=entries.tobytes()),
            on_white(colours[index], entries[index]),
        ),
        "colour and alpha": (encoded(Image.fromarray(with_alpha)), on_white(picture, alpha)),
        "WebP with alpha": (
            encoded(Image.fromarray(with_alpha), "WEBP", lossless=True, exact=True),
            on_white(picture, alpha),
        ),
        "transparent colour": (png(picture, 8, 2, colour_key), keyed),
        "colour profile": (encoded(Image.fromarray(picture), icc_profile=profile), picture),
    }


def ink_files():
    ink = blocks(4, seed=6)
    # In a YCCK file Y, Cb and Cr give the ink of three plates; PIL writes each sample inverted.
    y, cb, cr = (255.0 - ink[..., i] for i in range(3))
    plates = (
        y + 1.402 * (cr - 128),
        y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128),
        y + 1.772 * (cb - 128),
    )
    ycck = np.dstack([*(np.clip(np.rint(p), 0, 255) for p in plates), ink[..., 3]])
    return {
        "CMYK, Adobe": (jpeg_of_ink(ink), ink_on_paper(ink)),
        "CMYK, plain": (jpeg_of_ink(ink, marker=False), ink_on_paper(ink)),
        "YCCK": (jpeg_of_ink(ink, transform=2), ink_on_paper(ink=ycck)),
    }


def frame_files():
    frames = [Image.fromarray(noise(7, 9, seed=seed)) for seed in (7, 8, 9)]
    first, rest = np.asarray(frames[0]), frames[1:]
    flat = [Image.fromarray(thrice(blocks(1, seed=seed))) for seed in (10, 11)]
    index = noise(7, 9, 1, seed=12) % 5
    colours, drawn = noise(1, 5, seed=13)[0], [Image.fromarray((index + i) % 5) for i in range(3)]
    for image in drawn:
        image.putpalette(colours.tobytes())
    more = {"save_all": True, "append_images": rest}
    gif = {"save_all": True, "append_images": drawn[1:], "transparency": 2}
    seen = np.where((index == 2)[..., None], 255, colours[index]).astype(np.uint8)
    multi = {"quality": 100, "subsampling": 0, "save_all": True, "append_images": flat[1:]}
    return {
        "animated PNG": (encoded(frames[0], **more), first),
        # The picture for viewers that cannot move is not part of the animation, and is the one we take.
        "animated PNG with another still": (encoded(frames[0], default_image=True, **more), first),
        "animated WebP": (encoded(frames[0], "WEBP", lossless=True, **more), first),
        "animated GIF": (encoded(drawn[0], "GIF", **gif), seen),
        "MPO": (encoded(flat[0], "MPO", **multi), np.asarray(flat[0])),
    }


STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: np.rot90(upright, 2).transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
    9: lambda upright: upright,
}
"""EXIF orientation -> what is in the file; there is no 9."""


def turned_files():
    files = {}
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "PNG": {}, "WEBP": {"lossless": True}}
    for orientation, file_format in itertools.product(STORED, options):
        upright = thrice(blocks(1, seed=14)) if file_format == "JPEG" else noise(7, 9, seed=15)
        stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encoded(stored, file_format, exif=exif, **options[file_format])
        files[f"{file_format}, orientation {orientation}"] = (data, upright)
    return files


def thin_files():
    shapes = {"1 wide": (40, 1), "1 high": (1, 40), "1 × 1": (1, 1), "1:20": (6, 120), "20:1": (120, 6)}
    shapes |= {"1 × 20000": (1, 20000), "20000 × 1": (20000, 1)}
    pictures = {name: noise(*shape, seed=16) for name, shape in shapes.items()}
    return {name: (encoded(Image.fromarray(picture)), picture) for name, picture in pictures.items()}


ODD = {
    name: pair
    for files in (deep_files, mode_files, ink_files, frame_files, turned_files, thin_files)
    for name, pair in files().items()
}


RECIPES = [
    recipe(*row)
    for row in itertools.product((SQUASH, CROP, LETTERBOX), ("bicubic", "bilinear"), (8,), (1.0, 0.7))
]


@pytest.mark.parametrize("name", ODD)
def test_odd_file_is_decoded_and_prepared_exactly(name):
    data, upright = ODD[name]
    decoded = decode_rgb(data, name)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, upright)
    for rule in RECIPES:
        np.testing.assert_allclose(ours(decoded, rule), by_hand(upright, rule), atol=1e-3, err_msg=str(rule))


def test_long_strip_is_cut_out_without_scaling_all_of_it():
    strip = noise(1, 20_000, seed=17)
    middle = strip[:, 9_990:10_010]  # whole pixels, so that its centre is the strip's
    rule = recipe(CROP, "bicubic", 224)
    assert math.prod(sides_by_hand(1, 20_000, rule)) > 10 * harness.images.MAX_PIXELS
    assert np.abs(ours(strip, rule) - by_hand(middle, rule)).max() <= 1 + EXACT
    assert (
        np.abs(ours(strip.transpose(1, 0, 2), rule) - by_hand(middle, rule).transpose(1, 0, 2)).max()
        <= 1 + EXACT
    )


# Sums over formulas, so that no generator's version matters; wide, so that no Pillow scales it otherwise.
WIDE = np.fromfunction(lambda y, x, c: (x * 7 + y * 13 + x * y * (c + 1)) % 256, (60, 96, 3)).astype(np.uint8)
GOLDEN = {
    SQUASH: "7e50868019dfb29e",
    CROP: "2ec614d5e52357a6",
    LETTERBOX: "4aa36428d4056b43",
}


@pytest.mark.parametrize("resize", GOLDEN)
def test_pixels_do_not_move(resize):
    found = [np.rint(ours(WIDE, recipe(resize, f, 32, 0.875))).astype(np.uint8) for f in FILTERS]
    assert hashlib.sha256(b"".join(image.tobytes() for image in found)).hexdigest()[:16] == GOLDEN[resize]


@pytest.mark.skipif(int(PIL.__version__.split(".")[0]) < 13, reason="older Pillows scale across first")
def test_tall_image_is_scaled_down_before_across():
    tall, bicubic = noise(500, 300, seed=18), FILTERS["bicubic"]
    wanted = Image.fromarray(tall).resize((300, 224), bicubic).resize((224, 224), bicubic)
    np.testing.assert_allclose(ours(tall, recipe(SQUASH, "bicubic", 224)), np.asarray(wanted), atol=1e-3)


@pytest.mark.parametrize("resize", [SQUASH, CROP, LETTERBOX])
def test_place_in_a_batch_changes_nothing(resize):
    shapes = [(8, 8), (40, 9), (9, 40), (1, 30), (64, 48)]
    pictures = [noise(*shape, seed=i) for i, shape in enumerate(shapes)]
    before = [picture.copy() for picture in pictures]
    rule = recipe(resize, "bicubic", 8, 0.875)
    alone = [prepare([picture], rule, MEAN, STD)[0] for picture in pictures]
    for order in ((0, 1, 2, 3, 4), (4, 2, 0, 3, 1), (1, 1, 1, 0, 4, 1)):
        batch = prepare([pictures[i] for i in order], rule, MEAN, STD)
        for place, i in enumerate(order):
            np.testing.assert_array_equal(batch[place], alone[i])
    for picture, untouched in zip(pictures, before, strict=True):
        np.testing.assert_array_equal(picture, untouched)


# Damaged and refused files


def whole_files():
    image = Image.fromarray(np.asarray(Image.fromarray(noise(4, 6, seed=19)).resize((24, 16))))
    kinds = {
        "JPEG": ("JPEG", {}),
        "progressive JPEG": ("JPEG", {"progressive": True}),
        "PNG": ("PNG", {}),
        "WebP": ("WEBP", {}),
        "lossless WebP": ("WEBP", {"lossless": True}),
    }
    files = {name: encoded(image, *kind[:1], **kind[1]) for name, kind in kinds.items()}
    return files | {"CMYK JPEG": encoded(image.convert("CMYK"), "JPEG")}


WHOLE = whole_files()


@pytest.mark.parametrize("name", WHOLE)
def test_no_cut_file_is_decoded_even_where_a_library_allows_it(name, monkeypatch):
    data = WHOLE[name]
    assert decode_rgb(data, name).shape == (16, 24, 3)
    for length in range(len(data)):
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as lmms-eval does on import
        with pytest.raises(DatasetError, match=r"^s-1: image cannot be decoded"):
            decode_rgb(data[:length], "s-1")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


@pytest.mark.parametrize("allowed", [False, True])
def test_checksum_of_a_chunk_before_the_pixels_is_looked_at(allowed, monkeypatch):
    colour = noise(3, 3, seed=20)
    data = png(colour, 8, 2, chunk(b"tRNS", struct.pack(">3H", *colour[1, 1].tolist())))
    start = data.index(b"tRNS") + 4
    damaged = data[:start] + bytes([data[start] ^ 1]) + data[start + 1 :]
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", allowed)
    with pytest.raises(DatasetError, match="s-2"):
        decode_rgb(damaged, "s-2")


def inflated(name):
    """A small file that says it is huge."""
    side = 60_000
    small = Image.new("RGB", (16, 16))
    if name == "PPM":
        return f"P6 {side} {side} 255\n".encode()
    if name == "text":
        return png(noise(2, 2), 8, 2, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 22))))
    data = bytearray(encoded(small, name, **({"lossless": True} if name == "WEBP" else {})))
    place, value = {
        "JPEG": (data.find(b"\xff\xc0") + 5, struct.pack(">HH", side, side)),
        "GIF": (6, struct.pack("<HH", side, side)),
        "BMP": (18, struct.pack("<ii", side, side)),
        "WEBP": (21, struct.pack("<I", 16_382 | 16_382 << 14)),
    }[name]
    data[place : place + len(value)] = value
    return bytes(data)


@pytest.mark.parametrize("name", ["JPEG", "GIF", "BMP", "WEBP", "PPM"])
def test_small_file_of_a_huge_image_is_refused(name):
    with pytest.raises(UnsafeInputError, match=r"^s-3: image too large to decode"):
        decode_rgb(inflated(name), "s-3")


def test_small_file_of_a_huge_text_is_refused():
    with pytest.raises(DatasetError, match=r"^s-3: image cannot be decoded"):
        decode_rgb(inflated("text"), "s-3")


def other_formats():
    image = Image.fromarray(noise(16, 16, seed=21))
    cards = ("SIMPLE  =  T", "BITPIX  =  8", "NAXIS   =  2", "NAXIS1  =  1", "NAXIS2  =  1", "END")
    fits = "".join(card.ljust(80) for card in cards).encode().ljust(2880) + bytes(2880)
    psd = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 1, 1, 8, 3) + bytes(12) + struct.pack(">H", 0) + bytes(3)
    files = {"FITS": fits, "PSD": psd}
    return files | {name: encoded(image, name) for name in ("EPS", "ICO", "PCX", "TGA", "SGI", "JPEG2000")}


OTHER = other_formats()


@pytest.mark.parametrize("name", OTHER)
def test_whole_image_of_another_format_is_refused(name):
    with Image.open(io.BytesIO(OTHER[name])) as image:
        assert image.format == name  # Pillow would read it, whatever the file is called
    with pytest.raises(DatasetError, match=r"^s-4: image cannot be decoded"):
        decode_rgb(OTHER[name], "s-4")


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0)])
def test_image_without_pixels_is_refused(shape):
    with pytest.raises(DatasetError, match=r"^s-5: image cannot be decoded"):
        decode_rgb(png(np.zeros((*shape, 3), np.uint8), 8, 2), "s-5")


# The recipe


def test_field_added_later_is_hashed_only_where_it_is_used():
    bare = b'{"interpolation":"bicubic","resize":"squash","resolution":64}'
    assert canonical_json(recipe(SQUASH, "bicubic", 64)) == bare
    assert canonical_json(recipe(SQUASH, "bicubic", 64, 0.875)) == b'{"crop_fraction":0.875,' + bare[1:]


def mini_with(tmp_path, line):
    path = tmp_path / "mini.toml"
    text = (PROTOCOLS / "mini.toml").read_text(encoding="utf-8")
    path.write_text(text.replace("[image]\n", f"[image]\n{line}\n"), encoding="utf-8")
    return read_protocol(str(path))


def test_protocol_without_a_crop_keeps_its_digests(tmp_path):
    plain = read_protocol("mini")
    assert mini_with(tmp_path, "crop_fraction = 1").recipe_digests == plain.recipe_digests
    cropped = mini_with(tmp_path, "crop_fraction = 0.875")
    assert cropped.image.crop_fraction == 0.875
    moved = {k for k, v in cropped.recipe_digests.items() if v != plain.recipe_digests[k]}
    assert moved == {"feature", "probe", "adapter"}


@pytest.mark.parametrize("value", ["0", "0.2", "1.15", "true", "nan"])
def test_crop_out_of_range_is_refused(tmp_path, value):
    with pytest.raises(UsageError, match=r"image\.crop_fraction"):
        mini_with(tmp_path, f"crop_fraction = {value}")
