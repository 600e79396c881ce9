"""Set-Cookie: what browsers keep as it was meant, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from forebay.core.cookies import format_set_cookie
from forebay.errors import InvalidHeader

PLAIN: dict[str, Any] = {
    "max_age_s": None, "expires": None, "domain": None, "path": None, "secure": False, "http_only": False,
    "same_site": None, "partitioned": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "more", "wanted"),
    [
        ("a", "", {}, "a="),
        ("a", '"b"', {}, 'a="b"'),
        ("a", "b", {"path": "/", "http_only": True, "same_site": "Lax"}, "a=b; Path=/; HttpOnly; SameSite=Lax"),
        ("a", "b", {"max_age_s": 0, "domain": "h.org"}, "a=b; Max-Age=0; Domain=h.org"),
        ("a", "b", {"expires": datetime(2026, 1, 2, tzinfo=UTC)}, "a=b; Expires=Fri, 02 Jan 2026 00:00:00 GMT"),
        ("__Host-a", "b", {"secure": True, "path": "/"}, "__Host-a=b; Path=/; Secure"),
        ("a", "b", {"secure": True, "same_site": "None", "partitioned": True}, "a=b; Secure; SameSite=None; Partitioned"),
    ],
)  # fmt: skip
def test_a_cookie(name: str, value: str, more: dict[str, Any], wanted: str) -> None:
    """RFC 6265bis section 4.1.1."""
    assert format_set_cookie(name, value, **(PLAIN | more)) == wanted


@pytest.mark.parametrize(
    ("name", "value", "more"),
    [
        ("", "b", {}),
        ("a b", "b", {}),
        ("a", "b;c", {}),
        ("a", "b,c", {}),
        ("a", "ä", {}),
        ("a", "b\r\n", {}),
        ("a", "b" * 4096, {}),
        ("a", "b", {"path": "/;x"}),
        ("a", "b", {"domain": "h\n"}),
        ("a", "b", {"same_site": "None"}),
        ("a", "b", {"same_site": "lax"}),
        ("a", "b", {"partitioned": True}),
        ("__Secure-a", "b", {}),
        ("__Host-a", "b", {"secure": True}),
        ("__host-a", "b", {"secure": True, "path": "/", "domain": "h"}),
        ("a", "b", {"expires": datetime(2026, 1, 2)}),  # noqa: DTZ001
    ],
)
def test_what_browsers_would_cut_or_drop_is_refused(name: str, value: str, more: dict[str, Any]) -> None:
    """And the value is not quoted back."""
    with pytest.raises(InvalidHeader) as caught:
        format_set_cookie(name, value, **(PLAIN | more))
    assert "b;c" not in str(caught.value)
