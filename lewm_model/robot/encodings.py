# SPDX-License-Identifier: Apache-2.0
"""Camera pictures to RGB: raw in a ROS encoding, or compressed as JPEG or PNG.

Any bytes give a picture or an `EncodingError` with the reason. Does not need ROS.
"""

from __future__ import annotations

import cv2
import numpy as np

# sensor_msgs/image_encodings.h: name -> channels, bytes per channel, OpenCV's conversion to RGB (None: it is RGB).
# OpenCV names a Bayer pattern by the second and third pixel of the second row, ROS by the first two rows.
_PLAIN: dict[str, tuple[int, int, int | None]] = {
    "rgb8": (3, 1, None),
    "rgba8": (4, 1, cv2.COLOR_RGBA2RGB),
    "bgr8": (3, 1, cv2.COLOR_BGR2RGB),
    "bgra8": (4, 1, cv2.COLOR_BGRA2RGB),
    "mono8": (1, 1, cv2.COLOR_GRAY2RGB),
    "rgb16": (3, 2, None),
    "rgba16": (4, 2, cv2.COLOR_RGBA2RGB),
    "bgr16": (3, 2, cv2.COLOR_BGR2RGB),
    "bgra16": (4, 2, cv2.COLOR_BGRA2RGB),
    "mono16": (1, 2, cv2.COLOR_GRAY2RGB),
}
_BAYER = {
    f"bayer_{pattern}{bits}": (1, bits // 8, code)
    for bits in (8, 16)
    for pattern, code in (
        ("rggb", cv2.COLOR_BayerBG2RGB),
        ("bggr", cv2.COLOR_BayerRG2RGB),
        ("gbrg", cv2.COLOR_BayerGR2RGB),
        ("grbg", cv2.COLOR_BayerGB2RGB),
    )
}
_YUV422 = {  # two pixels share their colour; since Jazzy the names are uyvy and yuyv
    "yuv422": (2, 1, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": (2, 1, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": (2, 1, cv2.COLOR_YUV2RGB_YUY2),
    "yuyv": (2, 1, cv2.COLOR_YUV2RGB_YUY2),
}
ENCODINGS: dict[str, tuple[int, int, int | None]] = {**_PLAIN, **_BAYER, **_YUV422}
MOST_PIXELS = 1 << 26  # 67 megapixels, of a compressed picture: a header of a few bytes can claim gigabytes
REDUCED = (  # how many times larger than needed a JPEG must be, and OpenCV's reduced decoding for it
    (16, cv2.IMREAD_REDUCED_COLOR_8),
    (8, cv2.IMREAD_REDUCED_COLOR_4),
    (4, cv2.IMREAD_REDUCED_COLOR_2),
)


class EncodingError(ValueError):
    """A picture that cannot be read; the message says why."""


def raw_to_rgb(
    encoding: str,
    width: int,
    height: int,
    step: int,
    big_endian: bool,
    data: bytes | bytearray | memoryview | np.ndarray,
) -> np.ndarray:
    """The picture of a sensor_msgs/Image, (height, width, 3) uint8 RGB.

    16-bit values are scaled by 255 / 65535, so a camera that uses 12 of 16 bits gives a dark picture. Rows may be
    padded.

    :param step: bytes from row to row.
    :param big_endian: byte order of 16-bit values.
    :raises EncodingError: an encoding that is not in `ENCODINGS`, no pixels, or sizes that do not fit the data.
    """
    if encoding not in ENCODINGS:
        raise EncodingError(f"image encoding {encoding!r} cannot be read; send one of {', '.join(ENCODINGS)}")
    channels, size, code = ENCODINGS[encoding]
    what = f"{width} x {height} {encoding} image"
    if width < 1 or height < 1:
        raise EncodingError(f"a {what} has no pixels; look at the camera driver")
    row = width * channels * size
    if step < row:
        raise EncodingError(f"a {what} needs rows of {row} bytes, its step is {step}; look at the camera driver")
    if encoding in _YUV422 and width % 2:
        raise EncodingError(f"a {what} has half a pair of pixels in each row; set an even width")
    if encoding in _BAYER and (width < 3 or height < 3):
        raise EncodingError(f"a {what} is too small to interpolate its colours")
    needed = step * (height - 1) + row  # the last row's padding may be missing
    buffer = np.frombuffer(data, np.uint8)
    if len(buffer) < needed:
        raise EncodingError(f"a {what} with step {step} needs {needed} bytes, it has {len(buffer)}")
    rows = np.lib.stride_tricks.as_strided(buffer, (height, row), (step, 1), writeable=False)
    dtype = np.dtype(np.uint8 if size == 1 else (">u2" if big_endian else "<u2"))
    pixels = np.ascontiguousarray(rows).view(dtype).reshape(height, width, channels)
    if size == 2:
        pixels = pixels.astype(np.uint16)
        if encoding not in _BAYER:
            pixels = _to_8_bits(pixels)
    if code is None:
        return np.ascontiguousarray(pixels)
    try:
        rgb = cv2.cvtColor(pixels, code)
    except cv2.error as error:
        raise EncodingError(f"a {what} cannot be converted: {error}") from error
    return _to_8_bits(rgb) if rgb.dtype == np.uint16 else rgb


def compressed_to_rgb(
    data: bytes | bytearray | memoryview | np.ndarray, description: str = "", enough: tuple[int, int] | None = None
) -> np.ndarray:
    """The picture of a sensor_msgs/CompressedImage, (H, W, 3) uint8 RGB.

    :param description: the message's `format`, by which depth pictures are refused; the rest is told from the bytes.
    :param enough: (height, width) in pixels to which it will be scaled down. A JPEG at least four times as large is
        decoded at a half, a quarter or an eighth of its size, still at least twice as large as needed, which is faster.
    :raises EncodingError: not a JPEG or PNG, a damaged one, or one of more than MOST_PIXELS.
    """
    if "compressedDepth" in description:
        raise EncodingError(f"a compressed image of format {description!r} is a depth picture; send a colour picture")
    buffer = np.frombuffer(data, np.uint8)
    size = _declared_size(buffer.tobytes())
    if size is None:
        raise EncodingError(
            f"a compressed image of {len(buffer)} bytes and format {description!r} cannot be decoded: no JPEG or PNG"
        )
    if (pixels := size[0] * size[1]) > MOST_PIXELS:
        raise EncodingError(
            f"a compressed image of {len(buffer)} bytes claims {pixels} pixels, {MOST_PIXELS} at most are read"
        )
    is_jpeg = bytes(buffer[:2]) == b"\xff\xd8"
    if is_jpeg and b"\xff\xd9" not in buffer.tobytes().rstrip(b"\0")[-256:]:  # some drivers pad with zeros
        raise EncodingError(f"a JPEG of {len(buffer)} bytes is cut off")  # OpenCV would fill the rest with grey
    flag = cv2.IMREAD_COLOR
    if is_jpeg and enough is not None:
        larger = min(size[0] // enough[0], size[1] // enough[1])  # times as large as is needed
        flag = next((reduced for least, reduced in REDUCED if larger >= least), flag)
    try:
        bgr = cv2.imdecode(buffer, flag | cv2.IMREAD_IGNORE_ORIENTATION) if len(buffer) else None
    except cv2.error as error:  # among others: absurd sizes in a damaged header
        raise EncodingError(f"a compressed image of {len(buffer)} bytes cannot be decoded: {error}") from error
    if bgr is None:
        raise EncodingError(f"a compressed image of {len(buffer)} bytes and format {description!r} cannot be decoded")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def _declared_size(data: bytes) -> tuple[int, int] | None:
    """Height and width in the header of a JPEG or PNG, (0, 0) where a JPEG's is incomplete; None for anything else.

    It has to be checked first, since OpenCV allocates what the header says before it decodes anything.
    """
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")
    if data[:2] != b"\xff\xd8":
        return None
    at = 2
    while (at := data.find(b"\xff", at)) >= 0 and at + 9 <= len(data):
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            return int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
        if marker == 0xDA:  # start of scan, without a frame
            break
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD9:  # markers without a length
            at += 1
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return 0, 0


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
