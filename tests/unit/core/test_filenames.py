"""File names from Content-Disposition (RFC 6266, RFC 8187) and URLs, made safe."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.core.fields import check_field
from forebay.core.filenames import (
    choose_filename,
    format_content_disposition,
    parse_content_disposition,
    safe_filename,
)

# --- RFC 6266 section 4, RFC 8187 section 3.2 ---------------------------------------------------------

DISPOSITIONS = [
    # absent and without a name
    (None, ("", None)),
    ("", ("", None)),
    ("inline", ("inline", None)),
    ("Attachment", ("attachment", None)),
    (" attachment ;", ("attachment", None)),
    ("attachment; filename=", ("attachment", None)),
    ('attachment; filename=""', ("attachment", None)),
    # section 5, the examples of the specification
    ("Attachment; filename=example.html", ("attachment", "example.html")),
    ('INLINE; FILENAME= "an example.html"', ("inline", "an example.html")),
    ("attachment; filename*= UTF-8''%e2%82%ac%20rates", ("attachment", "€ rates")),
    ("attachment; filename=\"EURO rates\"; filename*=utf-8''%e2%82%ac%20rates", ("attachment", "€ rates")),
    # filename* is preferred wherever it stands
    ("attachment; filename*=UTF-8'de'a%C3%A4.txt; filename=b.txt", ("attachment", "aä.txt")),
    ("attachment; filename*=iso-8859-1''a%E4.txt", ("attachment", "aä.txt")),
    ("attachment; filename*=\"UTF-8''quoted.txt\"", ("attachment", "quoted.txt")),
    ("attachment; filename*=UTF-8''na\xc3\xafve.txt", ("attachment", "naïve.txt")),
    # a broken filename* falls back
    ("attachment; filename*=UTF-8''%zz; filename=b.txt", ("attachment", "b.txt")),
    ("attachment; filename*=UTF-8''%E4.txt; filename=b.txt", ("attachment", "b.txt")),
    ("attachment; filename*=koi8-r''%E4.txt; filename=b.txt", ("attachment", "b.txt")),
    ("attachment; filename*=UTF-8''€.txt; filename=b.txt", ("attachment", "b.txt")),
    ("attachment; filename*=plain.txt; filename=b.txt", ("attachment", "b.txt")),
    ("attachment; filename*=UTF-8'plain.txt; filename=b.txt", ("attachment", "b.txt")),
    ("attachment; filename*=UTF-8''%; filename=b.txt", ("attachment", "b.txt")),
    ("attachment; filename*=UTF-8''", ("attachment", None)),
    # quoted-string
    (r'attachment; filename="a\"b\\c.txt"', ("attachment", 'a"b\\c.txt')),
    ('attachment; filename="a;b.txt"; x=y', ("attachment", "a;b.txt")),
    # what servers really send
    ("attachment; filename=my file.txt", ("attachment", "my file.txt")),
    ("attachment; filename=my file.txt ; size=3", ("attachment", "my file.txt")),
    ('attachment; filename="open.txt', ("attachment", "open.txt")),
    ('attachment; filename="open\\', ("attachment", "open")),
    ('attachment; filename="a.txt";', ("attachment", "a.txt")),
    ('attachment;;; filename="a.txt";;', ("attachment", "a.txt")),
    ('attachment filename="a.txt"', ("attachment", "a.txt")),
    ('attachment; "junk"; filename="a.txt"', ("attachment", "a.txt")),
    ("attachment; junk; filename=a.txt", ("attachment", "a.txt")),
    ('attachment; filename="a.txt" junk; filename=b.txt', ("attachment", "a.txt")),
    ("filename=a.txt", ("", "a.txt")),
    ("filename = a.txt", ("", "a.txt")),
    ('attachment; filename="na\xc3\xafve.txt"', ("attachment", "naïve.txt")),
    ('attachment; filename="na\xefve.txt"', ("attachment", "naïve.txt")),
    ('attachment; filename="日本.txt"', ("attachment", "日本.txt")),
]


@pytest.mark.parametrize(("value", "expected"), DISPOSITIONS)
def test_a_content_disposition_gives_type_and_name(value: str | None, expected: tuple[str, str | None]) -> None:
    """By the specification first, then by what servers really send."""
    assert parse_content_disposition(value) == expected


@given(st.text(alphabet=st.sampled_from("attachment; filename*=\"'\\%C3%A4utf-8\xe4€\n"), max_size=80) | st.text())
def test_any_disposition_is_taken(value: str) -> None:
    """No text makes the parser raise."""
    disposition, name = parse_content_disposition(value)
    assert disposition == disposition.lower()
    assert name != ""


@given(st.text(alphabet=st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1))
def test_a_quoted_name_comes_back(name: str) -> None:
    """RFC 9110 section 5.6.4: escaping in a quoted-string is undone exactly."""
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    assert parse_content_disposition(f'attachment; filename="{escaped}"') == ("attachment", name)


# --- safe names ---------------------------------------------------------------------------------------

SAFE = [
    ("report.pdf", "report.pdf"),
    ("/etc/passwd", "passwd"),
    ("..\\..\\boot.ini", "boot.ini"),
    ("a/b\\c", "c"),
    ("a/", None),
    ("..", None),
    (".", None),
    ("", None),
    (" . . ", None),
    ("\x00\n", None),
    ("a\x00b\r\nc\x7f\x85.txt", "abc.txt"),
    ("invoice\u202efdp.exe", "invoicefdp.exe"),
    ("\u2066a\u2069\u200f\ufeff.txt", "a.txt"),
    ("a\ud800.txt", "a.txt"),
    (".bashrc", "bashrc"),
    ("name. . ", "name"),
    ("\u3000name\u00a0", "name"),
    ("e\u0301.txt", "\u00e9.txt"),
    ('a<b>c:d"e|f?g*h', "a_b_c_d_e_f_g_h"),
    ("CON", "_CON"),
    ("nul.txt", "_nul.txt"),
    ("Com1.tar.gz", "_Com1.tar.gz"),
    ("LPT\u00b9", "_LPT\u00b9"),
    ("aux .h", "_aux .h"),
    ("conin$", "_conin$"),
    ("CONSOLE.txt", "CONSOLE.txt"),
    ("COM10", "COM10"),
    ("a" * 300, "a" * 255),
    ("a" * 300 + ".pdf", "a" * 251 + ".pdf"),
    ("é" * 200 + ".pdf", "é" * 125 + ".pdf"),
    ("a." + "b" * 300, "a." + "b" * 253),
    ("a" * 250 + "   b.pdf" + "c" * 9, "a" * 242 + ".pdf" + "c" * 9),
    ("a" * 249 + "    b.pdf", "a" * 249 + ".pdf"),
    ("CON" + " " * 300 + "x.txt", "_CON.txt"),
    ("NUL." + "a" * 251, "_NUL." + "a" * 250),
]


@pytest.mark.parametrize(("name", "expected"), SAFE)
def test_a_name_becomes_safe(name: str, expected: str | None) -> None:
    """One component, without what hides or harms, that Linux, macOS and Windows bear."""
    assert safe_filename(name) == expected


NASTY = st.text(
    st.sampled_from("./\\: \x00\n\u202e\u0301\ud800CONUL1$ae\u00e9日\U0001f600") | st.characters(),
    max_size=40,
)


@given(st.builds(lambda a, b, n: a + b * n, NASTY, NASTY, st.integers(0, 60)))
def test_a_safe_name_is_one_component_everywhere(name: str) -> None:
    """No separator, no control, no dots at the ends, NFC, at most 255 bytes; safe again as it is."""
    safe = safe_filename(name)
    if safe is None:
        return
    assert not set('/\\<>:"|?*') & set(safe)
    assert not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in safe)
    assert safe == safe.strip(". ")
    assert safe not in ("", ".", "..")
    assert len(safe.encode()) <= 255
    assert unicodedata.is_normalized("NFC", safe)
    assert safe_filename(safe) == safe


# --- the choice ---------------------------------------------------------------------------------------


def _extension(media_type: str) -> str | None:
    return {"application/pdf": ".pdf", "odd/evil": "/../x"}.get(media_type)


CHOICES = [
    ('attachment; filename="a/b.txt"', "https://h/c.bin", None, "b.txt"),
    ('attachment; filename=".."', "https://h/c.bin", None, "c.bin"),
    ("inline", "https://h/c.bin", None, "c.bin"),
    (None, "https://h/a/c%20d.bin?x=/y#z", None, "c d.bin"),
    (None, "https://h/a/c.bin//", None, "c.bin"),
    (None, "https://h/a/b%2Fc%5Cd.bin", None, "d.bin"),
    (None, "https://h/%E4.bin", None, "ä.bin"),
    (None, "https://h/%C3%A4.bin", None, "ä.bin"),
    (None, "https://h/%zz.bin", None, "%zz.bin"),
    (None, "https://h/..", "application/pdf", "download.pdf"),
    (None, "https://h/", "application/pdf", "download.pdf"),
    (None, "https://h", "application/pdf", "download.pdf"),
    (None, "https://h?a=b/c.txt", "application/pdf", "download.pdf"),
    (None, "https://h/", "text/odd", "download"),
    (None, "https://h/", None, "download"),
    (None, "https://h/", "odd/evil", "x"),
    (None, "not a url", None, "download"),
    (None, "https://h/\ud800", None, "\u00ed"),
]


@pytest.mark.parametrize(("disposition", "url", "media_type", "expected"), CHOICES)
def test_the_name_that_the_origin_proposes_comes_first(
    disposition: str | None, url: str, media_type: str | None, expected: str
) -> None:
    """Content-Disposition, else the end of the URL's path, else ``download`` with an extension."""
    name = choose_filename(
        content_disposition=disposition, url=url, media_type=media_type, extension_for=_extension
    )
    assert name == expected


@given(st.none() | st.text(), st.text(), st.none() | st.text())
def test_there_is_always_a_safe_name(disposition: str | None, url: str, media_type: str | None) -> None:
    """Whatever comes in, a name comes out that is its own safe name."""
    for address in (url, "https://h/" + url):
        name = choose_filename(
            content_disposition=disposition,
            url=address,
            media_type=media_type,
            extension_for=lambda kind: kind,
        )
        assert safe_filename(name) == name


# --- Content-Disposition to send: RFC 6266 section 4, RFC 8187 section 3.2 ----------------------------

SENT = [
    # the name is what content is saved as; the type is the origin's
    ("a.csv", None, 'inline; filename="a.csv"'),
    ("a.csv", "attachment; filename=b.csv", 'attachment; filename="a.csv"'),
    ("a.csv", "inline", 'inline; filename="a.csv"'),
    ("a.csv", "INLINE; size=5", 'inline; filename="a.csv"'),
    ("a.csv", "filename=b.csv", 'inline; filename="a.csv"'),
    # section 4.2: an unknown type is an attachment
    ("a.csv", 'form-data; name="x"', 'attachment; filename="a.csv"'),
    # without a name of ours, the origin's
    (None, 'attachment; filename="b c.csv"', 'attachment; filename="b c.csv"'),
    (
        None,
        "attachment; filename*=UTF-8''%e2%82%ac.csv",
        "attachment; filename=\"_.csv\"; filename*=UTF-8''%E2%82%AC.csv",
    ),
    (None, "attachment", "attachment"),
    (None, "inline;", "inline"),
    (None, None, None),
    (None, "", None),
    # dangerous ones
    (None, 'attachment; filename="../../etc/passwd"', 'attachment; filename="passwd"'),
    (None, 'attachment; filename="..\\\\evil.exe"', 'attachment; filename="evil.exe"'),
    (None, 'attachment; filename=".."', "attachment"),
    (None, 'inline; filename="a\r\nSet-Cookie: x"', 'inline; filename="aSet-Cookie_ x"'),
    ('a"; filename="b', None, 'inline; filename="a_; filename=_b"'),
    ("/tmp/x\u202egpj.exe", None, 'inline; filename="xgpj.exe"'),
    # what is not ASCII, and what some browsers would decode, has a second form
    ("März.csv", None, "inline; filename=\"M_rz.csv\"; filename*=UTF-8''M%C3%A4rz.csv"),
    ("50%41.csv", None, "inline; filename=\"50_41.csv\"; filename*=UTF-8''50%2541.csv"),
    ("50%.csv", None, 'inline; filename="50%.csv"'),
    ("💧 (1)'.csv", None, "inline; filename=\"_ (1)'.csv\"; filename*=UTF-8''%F0%9F%92%A7%20%281%29%27.csv"),
]


@pytest.mark.parametrize(("filename", "origin", "sent"), SENT)
def test_what_is_sent_is_always_written_anew(filename: str | None, origin: str | None, sent: str | None) -> None:
    """RFC 6266 section 4.3 and appendix D: a safe name, in ASCII, and as UTF-8 where that is not all of it."""
    assert format_content_disposition(filename, origin=origin) == sent


@given(st.none() | st.text(), st.none() | st.text())
def test_a_name_that_was_sent_comes_back(filename: str | None, origin: str | None) -> None:
    """Whatever it is made of, the field can be sent and says the safe name."""
    sent = format_content_disposition(filename, origin=origin)
    if sent is None:
        return
    check_field("Content-Disposition", sent)
    assert sent.isascii()
    disposition, name = parse_content_disposition(sent)
    assert disposition in ("inline", "attachment")
    proposed = parse_content_disposition(origin)[1]
    assert name == (safe_filename(filename or "") or safe_filename(proposed or ""))
