"""One `Settings` object: keyword arguments, environment names (``FOREBAY_*``) and the reference page derive
from it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from forebay.core.exchange import Limits
from forebay.core.retry import RetryPolicy
from forebay.core.urls import normalise_url
from forebay.errors import InvalidValue

_PROXY_SCHEMES = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")


def parse_size(text: str) -> int:
    """Bytes that *text* says: ``500M``, ``10G``, ``1.5T`` in binary units, ``10GB`` in decimal ones. Raises
    ValueError."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)(i?B)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise ValueError("a size such as 500M or 10G")
    base = 1000 if (match[3] or "").lower() == "b" else 1024
    return int(float(match[1]) * base ** " KMGT".index(match[2].upper() or " "))


def default_data() -> Path:
    """Where a user's content is kept when nothing else is said."""
    import platformdirs

    return Path(platformdirs.user_data_dir("forebay", appauthor=False))


def default_cache() -> Path:
    """Where what a server sent is kept when nothing else is said."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("forebay", appauthor=False))


class Settings(BaseSettings):
    """How a Forebay works. Each field is a keyword of `forebay.open` and, in capitals behind ``FOREBAY_``, an
    environment variable."""

    model_config = SettingsConfigDict(env_prefix="FOREBAY_", env_ignore_empty=True, extra="forbid", frozen=True)

    data: Path = Field(default_factory=default_data, description="The folder that holds everything.")
    max_downloads: int = Field(default=4, ge=1, le=1000, description="Downloads at once.")
    max_downloads_per_host: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="Downloads at once from one host, over all processes on the folder.",
    )
    max_attempts: int = Field(default=5, ge=1, description="Attempts in a row without progress before giving up.")
    backoff_base_s: float = Field(
        default=1.35, gt=0, description="The first wait between attempts; each next doubles."
    )
    backoff_max_s: float = Field(default=60.0, gt=0, description="The longest wait between attempts.")
    retry_after_max_s: float = Field(default=300.0, ge=0, description="The longest Retry-After that is honoured.")
    deadline_s: float | None = Field(default=None, gt=0, description="Time for a whole download; none: no limit.")
    connect_timeout_s: float = Field(default=30.0, gt=0, description="Time for a connection to be made.")
    stall_bytes_per_s: int = Field(
        default=64, ge=1, description="Slower than this for the stall window: the attempt fails."
    )
    stall_window_s: float = Field(default=60.0, gt=0, description="The stall window in seconds.")
    max_size_bytes: int | None = Field(default=None, gt=0, description="The largest content that is taken.")
    max_redirects: int = Field(default=10, ge=0, description="Redirects that are followed in one attempt.")
    quota_bytes: int | None = Field(
        default=None,
        gt=0,
        description="All content together; beyond it the least useful unpinned versions go.",
    )
    sweep_grace_s: float = Field(
        default=3600.0, ge=0, description="How long content that no version has any more is kept."
    )
    partial_keep_s: float = Field(
        default=7 * 86400.0, ge=0, description="How long an unfinished download can be resumed."
    )
    allow_private: bool = Field(
        default=True, description="Fetch from loopback and private networks (for a server the default is no)."
    )
    allow_networks: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Networks to fetch from in spite of the gate, such as 10.0.0.0/8."
    )
    proxy: str = Field(
        default="",
        repr=False,  # it may hold a password
        description="A proxy's URL, or 'environment' for HTTP_PROXY and friends. The proxy is then the gate: "
        "Forebay cannot check the addresses that it dials.",
    )
    user_agent: str = Field(default="forebay/0.1 (+https://github.com/forebay/forebay)", description="User-Agent.")

    max_upload_bytes: int | None = Field(default=None, gt=0, description="The largest upload that is taken.")
    max_uploads: int = Field(default=10_000, ge=1, description="Uploads that are not complete, of all owners.")
    max_uploads_per_owner: int = Field(default=1000, ge=1, description="The same of one owner (a token).")
    max_upload_bytes_per_owner: int | None = Field(
        default=None, gt=0, description="The uploads of one owner together, but for what is published."
    )
    upload_expiry_s: float = Field(
        default=86400.0, gt=0, description="How long an upload is kept after its last bytes came, unless published."
    )
    min_free_disk_bytes: int = Field(
        default=64 << 20, ge=0, description="Free space that uploads leave; beyond that they are refused."
    )

    @field_validator("allow_networks", "allow_hosts", "allow_origins", mode="before", check_fields=False)
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part for part in value.replace(",", " ").split() if part)
        return value

    @field_validator(
        "quota_bytes",
        "max_size_bytes",
        "max_upload_bytes",
        "max_upload_bytes_per_owner",
        "min_free_disk_bytes",
        "function_body_bytes",
        mode="before",
        check_fields=False,
    )
    @classmethod
    def _size(cls, value: Any) -> Any:
        return parse_size(value) if isinstance(value, str) else value

    @field_validator("proxy")
    @classmethod
    def _check_proxy(cls, value: str) -> str:
        scheme, separator, rest = value.partition("://")
        if value in ("", "environment") or (separator and rest and scheme.lower() in _PROXY_SCHEMES):
            return value
        # Never the value itself: a proxy's URL may hold a password.
        raise InvalidValue(
            "proxy", expected=f"'environment' or a URL of {', '.join(_PROXY_SCHEMES)}", got=scheme[:20]
        )

    def limits(self) -> Limits:
        """The bounds of one download."""
        retry = RetryPolicy(
            max_attempts=self.max_attempts,
            backoff_base_s=self.backoff_base_s,
            backoff_max_s=self.backoff_max_s,
            retry_after_max_s=self.retry_after_max_s,
        )
        return Limits(
            retry=retry,
            deadline_s=self.deadline_s,
            max_size_bytes=self.max_size_bytes,
            max_redirects=self.max_redirects,
        )


def default_workers() -> int:
    """How many processes a server answers with when nothing else is said."""
    # The fetch worker and the kernel's network work want some of a core, too.
    return min(4, os.cpu_count() or 1)


class ServerSettings(Settings):
    """How a server works: the settings of a folder with a server's defaults, and its own."""

    max_downloads: int = Field(default=16, ge=1, le=1000, description="Downloads at once.")
    max_downloads_per_host: int = Field(
        default=4,
        ge=1,
        le=1000,
        description="Downloads at once from one host, over all processes on the folder.",
    )
    allow_private: bool = Field(default=False, description="Fetch from loopback and private networks.")
    host: str = Field(default="127.0.0.1", min_length=1, description="The address to listen on.")
    port: int = Field(default=8008, ge=0, le=65535, description="The port to listen on; 0: any that is free.")
    workers: int = Field(default_factory=default_workers, ge=1, le=256, description="API processes.")
    tls_cert: Path | None = Field(default=None, description="A certificate with its chain (PEM): HTTPS.")
    tls_key: Path | None = Field(default=None, description="The certificate's key (PEM).")
    allow_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Names that the server answers for, besides its address; * for any."
    )
    allow_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Origins whose pages may upload, such as https://app.example.org; * for any."
    )
    insecure: bool = Field(
        default=False, description="Listen on an address that others reach although no token exists."
    )
    max_connections: int = Field(
        default=1024, ge=1, le=1_000_000, description="Connections at once; more wait to be accepted."
    )
    # A piece costs the event loop the same, whatever its size: 1 GiB in one PATCH takes 3.0 s in pieces of 64 KiB,
    # 1.9 s in these, 1.6 s in pieces of 1 MiB.
    receive_buffer_bytes: int = Field(
        default=256 << 10,
        ge=64 << 10,
        le=16 << 20,
        description="What a connection may hold of what it receives; over HTTP/1.1, of its head as well. "
        "More makes large uploads faster.",
    )
    drain_s: int = Field(
        default=20, ge=1, le=3600, description="How long answers may go on once the server was told to stop."
    )
    functions: str | None = Field(
        default=None,
        min_length=1,
        description="Functions to expose: a Python file, or `module:bay`; `file.py:bay` for one of several there.",
    )
    function_threads: int = Field(
        default=16, ge=1, le=1000, description="Functions that are no coroutines at once, in one API process."
    )
    function_queue: int = Field(
        default=64, ge=0, le=100_000, description="Calls that wait for such a thread; beyond that, 503."
    )
    function_time_limit_s: float = Field(
        default=60.0, gt=0, description="Until a function's answer has begun; then 504. Each may have its own."
    )
    function_stall_limit_s: float = Field(
        default=120.0,
        gt=0,
        description="For a function to go on with an answer that has begun, or its reader; then it is broken off.",
    )
    function_body_bytes: int = Field(
        default=1024**3, gt=0, description="The largest body of a call. JSON and forms without files: 16 MiB."
    )


class RemoteSettings(BaseSettings):
    """How a server is used. Each field is a keyword of `forebay.open` with a server's URL and, in capitals behind
    ``FOREBAY_``, an environment variable."""

    model_config = SettingsConfigDict(env_prefix="FOREBAY_", env_ignore_empty=True, extra="forbid", frozen=True)

    server: str = Field(description="The server's URL, such as http://127.0.0.1:8008.")
    token: SecretStr | None = Field(
        default=None,
        description="The token to show it. The variable is for the server of `FOREBAY_SERVER`, if that is set, and "
        "goes to no other.",
    )
    cache: Path = Field(default_factory=default_cache, description="The folder for content that it sent.")
    cache_bytes: int = Field(
        default=10 * 1024**3, gt=0, description="That content together; beyond it the least recently used goes."
    )
    fallback: Literal["none", "direct"] = Field(
        default="none", description="`direct`: fetch without the server when it cannot be reached."
    )
    server_timeout_s: float = Field(default=5.0, gt=0, description="Time for a connection to the server.")

    @field_validator("server")
    @classmethod
    def _check_server(cls, value: str) -> str:
        base = normalise_url(value)
        if "?" in base:
            raise InvalidValue("server", expected="a URL without a query", got=base.partition("?")[0] + "?…")
        return base.rstrip("/")

    @field_validator("token")
    @classmethod
    def _check_token(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not re.fullmatch(r"[\x21-\x7e]+", value.get_secret_value()):
            raise InvalidValue("token", expected="printable ASCII without spaces", got="something else")
        return value

    @field_validator("cache_bytes", mode="before")
    @classmethod
    def _size(cls, value: Any) -> Any:
        return parse_size(value) if isinstance(value, str) else value
