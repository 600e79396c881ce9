"""Pictures: what their bytes say they are, and the bytes of those that programs draw."""

from __future__ import annotations


class Image:
    """A picture as bytes, to be sent as what they begin as: PNG, JPEG, GIF, WebP, AVIF or SVG."""

    data: bytes
    media_type: str

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        raise NotImplementedError
