"""Pictures: what their bytes say they are, and the bytes of those that programs hold or draw.

Neither Pillow nor matplotlib is imported for it: who hands in a picture of theirs has done that already.
"""

from __future__ import annotations

import io
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from forebay.errors import UnsupportedBody

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

# The HTML standard's and WHATWG MIME Sniffing's signatures (section 6.1); AVIF's is a brand of ISO 23000-22.
_SIGNATURES = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png"),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"GIF8[79]a"), "image/gif"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "image/webp"),
    (re.compile(rb"....ftypavi[fs]", re.DOTALL), "image/avif"),
    (re.compile(rb"....ftyp(?:mif1|msf1|miaf)....(?:....)*?avi[fs]", re.DOTALL), "image/avif"),
)
_SVG = re.compile(
    # Atomic: a thousand comments have one way to be read, not two to the thousandth.
    r"\ufeff?\s*+(?:<\?xml[^>]*+>\s*+)?(?>(?><!--.*?-->|<!DOCTYPE\s+svg[^>\[]*+(?:\[[^\]]*+\])?\s*+>)\s*+)*+"
    r"<(?:[A-Za-z_][\w.-]*:)?svg[\s/>]",
    re.DOTALL,
)
_HEAD_BYTES = 4096
_AS_PNG = {"CMYK": "RGB", "YCbCr": "RGB", "HSV": "RGB", "LAB": "RGB", "RGBX": "RGB", "RGBa": "RGBA", "PA": "RGBA"}


@dataclass(frozen=True, slots=True, init=False)
class Image:
    """A picture as bytes, to be sent as what they begin as: PNG, JPEG, GIF, WebP, AVIF or SVG.

    Raises `UnsupportedBody` for anything else, however it is named.
    """

    data: bytes
    media_type: str

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        if not isinstance(data, bytes | bytearray | memoryview):
            raise UnsupportedBody(type(data).__name__, reason="an Image is made of the bytes of one")
        kind = picture_type(bytes(data[:_HEAD_BYTES]))
        if kind is None:
            raise UnsupportedBody("an Image", reason="it begins neither as PNG, JPEG, GIF, WebP, AVIF nor SVG")
        object.__setattr__(self, "data", bytes(data))
        object.__setattr__(self, "media_type", kind)


def picture_type(head: bytes) -> str | None:
    """The media type of a picture that begins with *head*; None: it is none that browsers show."""
    for signature, kind in _SIGNATURES:
        if signature.match(head[:64]):
            return kind
    return "image/svg+xml" if _SVG.match(head.decode("utf-8", "ignore")) else None


def drawn(value: object) -> tuple[bytes, str] | None:
    """A Pillow image or a matplotlib figure as bytes, with their media type; None: it is neither."""
    pillow = sys.modules.get("PIL.Image")
    if pillow is not None and isinstance(value, pillow.Image):
        return _encoded(value)
    figures = sys.modules.get("matplotlib.figure")
    if figures is not None and isinstance(value, figures.Figure):
        buffer = io.BytesIO()
        value.savefig(buffer, format="png")
        return buffer.getvalue(), "image/png"
    return None


def _encoded(picture: Picture) -> tuple[bytes, str]:
    """*picture* in the format that it was read in; one that was made here as PNG, which loses nothing."""
    import PIL.Image

    PIL.Image.init()
    # What phones write: a JPEG with another one behind it.
    form = "JPEG" if picture.format == "MPO" else picture.format or "PNG"
    kind = PIL.Image.MIME.get(form, "")
    if form not in PIL.Image.SAVE or not kind.startswith("image/"):
        form, kind = "PNG", "image/png"
    if form == "PNG" and picture.mode in _AS_PNG:
        # Only what has colours that PNG can have: of numbers (F), nobody but their author knows what they mean.
        picture = picture.convert(_AS_PNG[picture.mode])
    # Without these it would look other than it does here: rotated, or in other colours.
    known = picture.info
    options: dict[str, Any] = {name: known[name] for name in ("exif", "icc_profile") if known.get(name)}
    if getattr(picture, "is_animated", False) and form != "JPEG":
        options["save_all"] = True
    buffer = io.BytesIO()
    try:
        picture.save(buffer, form, **options)
    except (OSError, ValueError, KeyError) as error:
        raise UnsupportedBody(f"a picture of mode {picture.mode}", reason=f"as {form}: {error}") from error
    return buffer.getvalue(), kind
