# SPDX-License-Identifier: Apache-2.0
"""Every common encoding of a camera is converted right, compared with OpenCV, or refused with the reason."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lewm_model.robot.encodings import ENCODINGS, EncodingError, compressed_to_rgb, raw_to_rgb
from lewm_model.robot.observation import to_model_image

H, W = 12, 16
RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (H, W, 3), dtype=np.uint8)
SMOOTH = np.stack(np.broadcast_arrays(*np.meshgrid(np.arange(W) * 12, np.arange(H) * 15), 90), 2).astype(np.uint8)
ALPHA = RNG.integers(0, 256, (H, W, 1), dtype=np.uint8)
WIDE = PICTURE.astype(np.uint16) * 257  # the same colours in 16 bits
PATTERNS = {"rggb": "rg/gb", "bggr": "bg/gr", "gbrg": "gb/rg", "grbg": "gr/bg"}


def mosaic(rgb: np.ndarray, pattern: str) -> np.ndarray:
    """What a sensor with this colour filter sees, from the definition: first row / second row."""
    seen = np.empty(rgb.shape[:2], rgb.dtype)
    for i, row in enumerate(PATTERNS[pattern].split("/")):
        for j, colour in enumerate(row):
            seen[i::2, j::2] = rgb[i::2, j::2, "rgb".index(colour)]
    return seen


def pad(pixels: np.ndarray, padding: int) -> tuple[int, bytes]:
    """Step and data of rows that are padded with a value other than zero."""
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(len(pixels), -1)
    padded = np.concatenate([rows, np.full((len(rows), padding), 0xA5, np.uint8)], axis=1)
    return padded.shape[1], padded.tobytes()


def read(encoding: str, pixels: np.ndarray, padding: int = 0, big_endian: bool = False) -> np.ndarray:
    step, data = pad(pixels, padding)
    return raw_to_rgb(encoding, pixels.shape[1], pixels.shape[0], step, big_endian, data)


EXACT = {
    "rgb8": PICTURE,
    "bgr8": PICTURE[..., ::-1],
    "rgba8": np.concatenate([PICTURE, ALPHA], 2),
    "bgra8": np.concatenate([PICTURE[..., ::-1], ALPHA], 2),
    "rgb16": WIDE,
    "bgr16": WIDE[..., ::-1],
    "rgba16": np.concatenate([WIDE, ALPHA.astype(np.uint16)], 2),
    "bgra16": np.concatenate([WIDE[..., ::-1], ALPHA.astype(np.uint16)], 2),
}


@pytest.mark.parametrize("padding", [0, 1, 7])
@pytest.mark.parametrize("encoding", EXACT)
def test_colours_come_out_exactly_with_and_without_padded_rows(encoding: str, padding: int) -> None:
    np.testing.assert_array_equal(read(encoding, EXACT[encoding], padding), PICTURE)


@pytest.mark.parametrize("encoding", [name for name in EXACT if name.endswith("16")])
def test_big_endian_values_come_out_as_little_endian_ones(encoding: str) -> None:
    swapped = EXACT[encoding].astype(">u2")
    np.testing.assert_array_equal(read(encoding, swapped, 3, big_endian=True), PICTURE)
    if not encoding.startswith("rgba"):
        assert not np.array_equal(read(encoding, (EXACT[encoding] // 3).astype(">u2")), PICTURE // 3)


@pytest.mark.parametrize("encoding", ["rgb8", "bayer_rggb8", "yuv422"])
def test_bytes_have_no_order(encoding: str) -> None:
    pixels = PICTURE if encoding == "rgb8" else PICTURE[..., :2] if encoding == "yuv422" else PICTURE[..., 0]
    np.testing.assert_array_equal(read(encoding, pixels, big_endian=True), read(encoding, pixels))


@pytest.mark.parametrize("padding", [0, 5])
def test_grey_pictures_are_grey(padding: int) -> None:
    grey = PICTURE[..., 0]
    np.testing.assert_array_equal(read("mono8", grey, padding), np.repeat(grey[..., None], 3, 2))


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_16_bit_grey_is_scaled_as_opencv_scales(order: str) -> None:
    values = RNG.integers(0, 65536, (H, W)).astype(np.uint16)
    values[0, :3] = 0, 65535, 32768
    expected = cv2.convertScaleAbs(values.astype(np.float64), alpha=255 / 65535)
    rgb = read("mono16", values.astype(order), 2, big_endian=order == ">u2")
    np.testing.assert_array_equal(rgb, np.repeat(expected[..., None], 3, 2))


@pytest.mark.parametrize(
    ("encoding", "code"),
    [
        ("yuv422", cv2.COLOR_RGB2YUV_UYVY),
        ("uyvy", cv2.COLOR_RGB2YUV_UYVY),
        ("yuv422_yuy2", cv2.COLOR_RGB2YUV_YUY2),
        ("yuyv", cv2.COLOR_RGB2YUV_YUY2),
    ],
)
@pytest.mark.parametrize("padding", [0, 3])
def test_yuv422_is_the_inverse_of_opencvs_conversion(encoding: str, code: int, padding: int) -> None:
    pairs = np.repeat(SMOOTH[:, ::2], 2, axis=1)  # two pixels share their colour
    rgb = read(encoding, cv2.cvtColor(pairs, code), padding).astype(int)
    assert np.abs(rgb - pairs).max() <= 4  # YUV has fewer values than RGB


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_bayer_pictures_have_their_colours_back(pattern: str, bits: int) -> None:
    """Interpolation restores a picture whose colours change linearly, except at its edges."""
    scale = 1 if bits == 8 else 257
    rgb = read(
        f"bayer_{pattern}{bits}", mosaic(SMOOTH.astype(np.uint16 if bits == 16 else np.uint8) * scale, pattern), 2
    )
    error = np.abs(rgb.astype(int) - SMOOTH)[1:-1, 1:-1]
    assert error.max() <= 1
    one_colour = np.full((H, W, 3), [200, 30, 90], np.uint8)
    np.testing.assert_array_equal(read(f"bayer_{pattern}8", mosaic(one_colour, pattern)), one_colour)


@pytest.mark.parametrize(
    "encoding", ["rgb8", "bgr8", "rgba8", "bgra8", "mono8", "bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "yuv422"]
)
def test_cv_bridge_reads_the_same(encoding: str) -> None:
    bridge = pytest.importorskip("cv_bridge.boost.cv_bridge_boost", reason="cv_bridge is not installed")
    channels = ENCODINGS[encoding][0]
    pixels = RNG.integers(0, 256, (H, W, channels) if channels > 1 else (H, W), dtype=np.uint8)
    np.testing.assert_array_equal(read(encoding, pixels), bridge.cvtColor2(pixels, encoding, "rgb8"))


def test_the_last_rows_padding_may_be_missing() -> None:
    step, data = pad(PICTURE, 8)
    np.testing.assert_array_equal(raw_to_rgb("rgb8", W, H, step, False, data[:-8]), PICTURE)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"encoding": "32FC1"}, "'32FC1' cannot be read; send one of rgb8, "),
        ({"encoding": "8UC3"}, "'8UC3' cannot be read"),
        ({"encoding": ""}, "'' cannot be read"),
        ({"encoding": "jpeg"}, "'jpeg' cannot be read"),
        ({"width": 0}, "a 0 x 12 rgb8 image has no pixels"),
        ({"height": 0}, "a 16 x 0 rgb8 image has no pixels"),
        ({"step": 47}, "needs rows of 48 bytes, its step is 47"),
        ({"step": 0}, "needs rows of 48 bytes, its step is 0"),
        ({"height": 13}, "needs 624 bytes, it has 576"),
        ({"height": 2**32 - 1, "step": 2**32 - 1}, "bytes, it has 576"),
        ({"step": 49}, "with step 49 needs 587 bytes, it has 576"),
        ({"encoding": "mono16", "step": 16}, "needs rows of 32 bytes"),
        ({"encoding": "yuv422", "width": 15}, "half a pair of pixels"),
        ({"encoding": "bayer_rggb8", "width": 2}, "too small to interpolate its colours"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(changes: dict, reason: str) -> None:
    fields = {"encoding": "rgb8", "width": W, "height": H, "step": 3 * W, "big_endian": False, **changes}
    with pytest.raises(EncodingError) as refusal:
        raw_to_rgb(**fields, data=PICTURE.tobytes())
    assert reason in str(refusal.value)


@settings(max_examples=300, deadline=None)
@given(
    encoding=st.one_of(st.sampled_from(sorted(ENCODINGS)), st.text(max_size=12)),
    width=st.one_of(st.integers(0, 20), st.integers(0, 2**32 - 1)),
    height=st.one_of(st.integers(0, 20), st.integers(0, 2**32 - 1)),
    step=st.one_of(st.integers(0, 200), st.integers(0, 2**32 - 1)),
    big_endian=st.booleans(),
    data=st.binary(max_size=3000),
)
def test_whatever_a_message_says_the_answer_is_a_picture_or_a_reason(
    encoding: str, width: int, height: int, step: int, big_endian: bool, data: bytes
) -> None:
    try:
        rgb = raw_to_rgb(encoding, width, height, step, big_endian, data)
    except EncodingError as error:
        assert str(error)
    else:
        assert rgb.shape == (height, width, 3)
        assert rgb.dtype == np.uint8
        assert rgb.flags.c_contiguous


# ---- as messages -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
def test_the_nodes_read_messages_the_same_way(encoding: str, padding: int) -> None:
    messages = pytest.importorskip("lewm_ros.messages", reason="ROS 2's Python client is not installed (make setup)")
    from sensor_msgs.msg import Image

    channels, size, _ = ENCODINGS[encoding]
    pixels = RNG.integers(0, 256, (H, W * channels * size), dtype=np.uint8)
    step, data = pad(pixels, padding)
    for big_endian in (False, True):
        message = Image(encoding=encoding, width=W, height=H, step=step, is_bigendian=big_endian, data=data)
        expected = raw_to_rgb(encoding, W, H, step, big_endian, data)
        np.testing.assert_array_equal(messages.message_to_rgb(message), expected)
    with pytest.raises(messages.ImageError, match="needs rows of"):
        messages.message_to_rgb(Image(encoding=encoding, width=W, height=H, step=W * channels * size - 1, data=data))


def test_the_nodes_read_compressed_messages() -> None:
    messages = pytest.importorskip("lewm_ros.messages", reason="ROS 2's Python client is not installed (make setup)")
    from sensor_msgs.msg import CompressedImage

    message = CompressedImage(format="rgb8; png compressed bgr8", data=encoded(PICTURE, ".png"))
    np.testing.assert_array_equal(messages.message_to_rgb(message), PICTURE)
    with pytest.raises(messages.ImageError, match="cannot be decoded"):
        messages.message_to_rgb(CompressedImage(format="jpeg", data=b"none"))


# ---- compressed ------------------------------------------------------------------------------------------------------


def encoded(rgb: np.ndarray, suffix: str, *options: int) -> bytes:
    return cv2.imencode(suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), options)[1].tobytes()


def test_png_is_exact_and_jpeg_is_what_opencv_decodes() -> None:
    np.testing.assert_array_equal(compressed_to_rgb(encoded(PICTURE, ".png"), "rgb8; png compressed bgr8"), PICTURE)
    jpeg = encoded(SMOOTH, ".jpg", cv2.IMWRITE_JPEG_QUALITY, 95)
    expected = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    rgb = compressed_to_rgb(jpeg, "jpeg")
    np.testing.assert_array_equal(rgb, expected)
    assert np.abs(rgb.astype(int) - SMOOTH).mean() < 5


def test_grey_16_bit_and_transparent_pngs_become_rgb() -> None:
    grey = cv2.imencode(".png", PICTURE[..., 0])[1].tobytes()
    np.testing.assert_array_equal(compressed_to_rgb(grey), np.repeat(PICTURE[..., :1], 3, 2))
    wide = cv2.imencode(".png", WIDE[..., ::-1])[1].tobytes()
    assert np.abs(compressed_to_rgb(wide).astype(int) - PICTURE).max() <= 1
    clear = cv2.imencode(".png", np.concatenate([PICTURE[..., ::-1], ALPHA], 2))[1].tobytes()
    np.testing.assert_array_equal(compressed_to_rgb(clear), PICTURE)


def test_a_damaged_or_cut_off_picture_is_refused() -> None:
    jpeg, png = encoded(PICTURE, ".jpg"), encoded(PICTURE, ".png")
    for data, reason in [
        (b"", "0 bytes"),
        (b"no picture", "cannot be decoded"),
        (jpeg[: len(jpeg) // 2], "cut off"),
        (png[:30], "cannot be decoded"),
    ]:
        with pytest.raises(EncodingError, match=reason):
            compressed_to_rgb(data, "jpeg")
    with pytest.raises(EncodingError, match="depth picture"):
        compressed_to_rgb(png, "16UC1; compressedDepth png")
    assert compressed_to_rgb(jpeg + bytes(40)).shape == PICTURE.shape  # some cameras fill up with zeros


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), suffix=st.sampled_from([".png", ".jpg"]))
def test_flipped_bits_never_crash(seed: int, suffix: str) -> None:
    rng = np.random.default_rng(seed)
    data = bytearray(encoded(PICTURE, suffix))
    for _ in range(rng.integers(1, 6)):
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    try:
        rgb = compressed_to_rgb(bytes(data))
    except EncodingError:
        return
    assert rgb.dtype == np.uint8
    assert rgb.ndim == 3


def test_camera_node_encodes_compressed_pictures(tmp_path: Path) -> None:
    """With PNG, which loses nothing, the latent is that of the raw picture."""
    rclpy = pytest.importorskip("rclpy", reason="ROS 2's Python client is not installed (make setup)")
    from bundles import tiny_bundle
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.parameter import Parameter
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import CompressedImage, Image

    from lewm_model.robot.observation import to_model_image
    from lewm_model.runtime import load_runtime
    from lewm_ros.camera_node import CameraNode

    bundle = tiny_bundle(tmp_path / "tiny")
    size = bundle.model.image_size
    rclpy.init()
    camera, driver = CameraNode(), rclpy.create_node("driver")
    executor = SingleThreadedExecutor()
    executor.add_node(camera)
    executor.add_node(driver)
    latents: list[Image] = []
    try:
        parameters = {"model": str(bundle.folder), "compressed": True}
        camera.set_parameters([Parameter(name, value=value) for name, value in parameters.items()])
        camera.trigger_configure()
        camera.trigger_activate()
        assert camera.state_label == "active"
        driver.create_subscription(Image, "latent", latents.append, qos_profile_sensor_data)
        publisher = driver.create_publisher(CompressedImage, "camera/image_raw/compressed", qos_profile_sensor_data)
        message = CompressedImage(format="png", data=encoded(PICTURE, ".png"))
        message.header.stamp.sec = 7
        end = time.monotonic() + 20
        while not latents and time.monotonic() < end:
            publisher.publish(message)
            executor.spin_once(timeout_sec=0.1)
    finally:
        camera.deactivate()
        camera.cleanup()
        executor.shutdown()
        camera.destroy_node()
        driver.destroy_node()
        rclpy.try_shutdown()
    assert latents
    assert latents[0].header.stamp.sec == 7
    expected = load_runtime(bundle).encode(to_model_image(PICTURE, size))
    np.testing.assert_allclose(np.frombuffer(latents[0].data, np.float32), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("height", "width", "shape"), [(480, 640, (240, 320)), (1080, 1920, (270, 480)), (300, 400, (300, 400))]
)
def test_a_large_jpeg_is_decoded_smaller_and_makes_the_same_picture_of_the_model(
    height: int, width: int, shape: tuple[int, int]
) -> None:
    rng = np.random.default_rng(0)
    rgb = cv2.GaussianBlur(rng.integers(0, 256, (height, width, 3), np.uint8), (0, 0), 4)
    rgb = cv2.normalize(rgb, None, 0, 255, cv2.NORM_MINMAX)
    cv2.line(rgb, (20, 30), (width - 50, height - 40), (250, 20, 60), 20)
    jpeg = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    quick, whole = compressed_to_rgb(jpeg, enough=(96, 96)), compressed_to_rgb(jpeg)
    assert quick.shape[:2] == shape
    assert whole.shape == rgb.shape
    apart = np.abs(to_model_image(quick, 96).astype(int) - to_model_image(whole, 96))
    assert apart.mean() < 1.0 and np.percentile(apart, 99) <= 4
    png = cv2.imencode(".png", rgb[..., ::-1])[1].tobytes()
    np.testing.assert_array_equal(compressed_to_rgb(png, enough=(8, 8)), rgb)


def test_a_jpeg_that_a_driver_padded_is_whole() -> None:
    jpeg = cv2.imencode(".jpg", SMOOTH)[1].tobytes()
    np.testing.assert_array_equal(compressed_to_rgb(jpeg + bytes(4096)), compressed_to_rgb(jpeg))
    with pytest.raises(EncodingError, match="cut off"):
        compressed_to_rgb(jpeg[: len(jpeg) // 2] + bytes(4096))
