"""The whole error tree, in one module so that no code is given twice.

Each class has a stable ``code``, an HTTP ``status`` and says whether to retry.

Five families: `RequestError` (the caller's), `OriginError` (the upstream's), `StorageError` (ours),
`StateError` (misuse of the API) and `RemoteError` (of a server of Forebay, for its clients). The parts of an
error are attributes; ``str()`` builds the sentence, which says what was expected, what was got and the way out.
"""

from __future__ import annotations

from typing import ClassVar


class ForebayError(Exception):
    """Base of everything that Forebay raises on purpose."""

    code: ClassVar[str] = "forebay_error"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    @property
    def outward(self) -> str:
        """What is said of it to others: without a path of this machine, or what to type at a shell of it."""
        return str(self)


# --- the caller's -------------------------------------------------------------------------------------


class RequestError(ForebayError):
    """What was asked for cannot be done as asked; asking again the same way will not help."""

    code = "request_invalid"
    status = 422


class InvalidValue(RequestError):
    """A value that breaks its rule: names the field, the rule and what was got."""

    code = "value_invalid"

    def __init__(self, field: str, *, expected: str, got: object) -> None:
        super().__init__(field, expected, got)
        self.field, self.expected, self.got = field, expected, got

    def __str__(self) -> str:
        shown = repr(self.got)
        if len(shown) > 120:
            shown = shown[:117] + "..."
        return f"{self.field}: expected {self.expected}, got {shown}"


class InvalidUrl(RequestError):
    """A URL that Forebay does not fetch. *shown* must already be free of secrets."""

    code = "url_invalid"

    def __init__(self, shown: str, *, reason: str) -> None:
        super().__init__(shown, reason)
        self.shown, self.reason = shown, reason

    def __str__(self) -> str:
        return f"{self.shown!r} cannot be fetched: {self.reason}"


class UnknownRequest(RequestError):
    """No Request of this URL or id is registered."""

    code = "request_unknown"
    status = 404

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    @property
    def outward(self) -> str:
        """See `ForebayError.outward`."""
        return f"nothing is known of {self.name}"

    def __str__(self) -> str:
        return f"{self.outward}; `forebay ls` lists what is, `forebay get` fetches it"


class UnknownVersion(RequestError):
    """The Request is known, but not this version or tag of it."""

    code = "version_unknown"
    status = 404

    def __init__(self, url: str, *, wanted: str) -> None:
        super().__init__(url, wanted)
        self.url, self.wanted = url, wanted

    @property
    def outward(self) -> str:
        """See `ForebayError.outward`."""
        return f"{self.url} has no {self.wanted}"

    def __str__(self) -> str:
        return f"{self.outward}; `forebay log {self.url}` lists its versions"


class NotStored(RequestError):
    """Asked to stay offline, and no version is stored."""

    code = "not_stored"
    status = 504

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.url = url

    @property
    def outward(self) -> str:
        """See `ForebayError.outward`."""
        return f"{self.url} is not stored, and fetching it was not allowed (offline)"

    def __str__(self) -> str:
        return f"{self.outward}; leave out --offline"


class OriginRefused(RequestError):
    """The gate refuses an address; nothing was dialled. Names the setting that would allow it."""

    code = "origin_refused"
    status = 403

    def __init__(self, host: str, *, address: str, reason: str, remedy: str) -> None:
        super().__init__(host, address, reason, remedy)
        self.host, self.address, self.reason, self.remedy = host, address, reason, remedy

    def __str__(self) -> str:
        return f"{self.host} is at {self.address}, {self.reason}: refused; {self.remedy}"


class UnknownToken(RequestError):
    """No token has this name."""

    code = "token_unknown"
    status = 404

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"no token is named {self.name}; `forebay token ls` lists them"


class PreconditionFailed(RequestError):
    """The version is not the one that the caller's If-Match or If-Unmodified-Since is about."""

    code = "precondition_failed"
    status = 412

    def __str__(self) -> str:
        return "this is not the version that If-Match or If-Unmodified-Since names; without it, it would go out"


class RangeNotSatisfiable(RequestError):
    """No byte of the range that was asked for exists (RFC 9110 section 15.5.17)."""

    code = "range_not_satisfiable"
    status = 416

    def __str__(self) -> str:
        return "no byte of the range exists; Content-Range says how many there are"


# --- the caller's: what a server does not let them do -------------------------------------------------


class AccessDenied(RequestError):
    """A server refuses whoever asks; nothing was done."""

    code = "access_denied"
    status = 403


class HostInvalid(AccessDenied):
    """The Host field is missing, there twice, or no host (RFC 9112 section 3.2)."""

    code = "host_invalid"
    status = 400

    def __init__(self, *, got: str) -> None:
        super().__init__(got)
        self.got = got

    def __str__(self) -> str:
        return f"expected one Host field with a host and perhaps a port, got {self.got}"


class HostRefused(AccessDenied):
    """The Host field names a host that the server does not answer for: a page of another site may have
    pointed its own name at this address."""

    code = "host_refused"
    status = 421

    def __init__(self, host: str) -> None:
        super().__init__(host)
        self.host = host

    def __str__(self) -> str:
        return f"this server does not answer for {self.host}; if that is its name, start it with --allow-host"


class CrossSiteRefused(AccessDenied):
    """A page of another site sent this. *field* says so, with the value *got*."""

    code = "cross_site_refused"

    def __init__(self, *, field: str, got: str) -> None:
        super().__init__(field, got)
        self.field, self.got = field, got

    def __str__(self) -> str:
        shown = self.got if len(self.got) <= 120 else self.got[:117] + "..."
        return (
            f"a page of another site may not ask for this ({self.field}: {shown!r}); "
            "enter the URL yourself, or ask from a program"
        )


class TokenMissing(AccessDenied):
    """The server asks for a token, and none was sent."""

    code = "token_missing"
    status = 401

    def __str__(self) -> str:
        return (
            "this server asks for a token: send it as Bearer, or as the password of Basic with any user name; "
            "`forebay token add` makes one"
        )


class TokenInvalid(AccessDenied):
    """The Authorization field cannot be read, or its token is unknown or revoked."""

    code = "token_invalid"
    status = 401

    def __init__(self, *, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason  # never the secret

    def __str__(self) -> str:
        return f"{self.reason}; `forebay token ls` lists the tokens, `forebay token add` makes one"


class ScopeMissing(AccessDenied):
    """The token is good, but not for this: it lacks a scope."""

    code = "scope_missing"

    def __init__(self, scope: str) -> None:
        super().__init__(scope)
        self.scope = scope

    def __str__(self) -> str:
        return f"this needs a token with the scope {self.scope}; `forebay token add NAME --scope {self.scope}`"


class GroupRefused(AccessDenied):
    """The token is for the Requests of one group, and this is of another."""

    code = "group_refused"

    def __init__(self, *, own: str) -> None:
        super().__init__(own)
        self.own = own

    def __str__(self) -> str:
        return f"this token may use the group {self.own!r} only"


# --- the caller's: how a server is spoken to ------------------------------------------------------------


class BodyTooLarge(RequestError):
    """The body of what was sent is larger than any that is taken; it was not read."""

    code = "body_too_large"
    status = 413

    def __init__(self, *, limit_bytes: int) -> None:
        super().__init__(limit_bytes)
        self.limit_bytes = limit_bytes

    def __str__(self) -> str:
        return f"expected a body of at most {self.limit_bytes} bytes, got a larger one"


class BodyTooSlow(RequestError):
    """The body of what was sent did not arrive in time."""

    code = "body_too_slow"
    status = 408
    retryable = True

    def __init__(self, *, limit_s: float) -> None:
        super().__init__(limit_s)
        self.limit_s = limit_s

    def __str__(self) -> str:
        return f"expected the whole body within {self.limit_s:g} s; send it again"


class BodyInvalid(RequestError):
    """The body of what was sent is not JSON (RFC 8259), or no text that can be stored."""

    code = "body_invalid"
    status = 400

    def __str__(self) -> str:
        return (
            "expected a whole body of JSON in UTF-8, nested 64 levels at most, without lone surrogates, NaN or "
            "Infinity; got something else"
        )


class MediaTypeRefused(RequestError):
    """The body of what was sent is of a type that is not taken here."""

    code = "media_type_refused"
    status = 415

    def __init__(self, *, got: str, expected: str = "application/json") -> None:
        super().__init__(got, expected)
        self.got, self.expected = got, expected

    def __str__(self) -> str:
        return f"expected Content-Type: {self.expected}, got {self.got or 'none'!r}"


class CodingRefused(RequestError):
    """The body of what was sent has a coding that is not taken here."""

    code = "coding_refused"
    status = 415

    def __init__(self, *, got: str, expected: str) -> None:
        super().__init__(got, expected)
        self.got, self.expected = got, expected

    def __str__(self) -> str:
        return f"expected Content-Encoding: {self.expected}, got {self.got[:60]!r}; send it as it is"


class FormInvalid(RequestError):
    """The body of what was sent is not the form that it says it is."""

    code = "form_invalid"
    status = 400

    def __init__(self, *, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"expected a whole form of UTF-8 text and files: {self.reason}"


class UnknownPath(RequestError):
    """There is nothing at this path, whatever the method."""

    code = "path_unknown"
    status = 404

    def __str__(self) -> str:
        return "nothing is at this path; /docs lists what there is"


class MethodRefused(RequestError):
    """There is something at this path, but not for this method."""

    code = "method_refused"
    status = 405

    def __init__(self, *, allowed: tuple[str, ...]) -> None:
        super().__init__(allowed)
        self.allowed = allowed

    def __str__(self) -> str:
        return f"expected one of {', '.join(self.allowed)}"


class PortTaken(RequestError):
    """A server cannot listen where it was told to."""

    code = "port_taken"
    status = 500

    def __init__(self, *, address: str, port: int, reason: str) -> None:
        super().__init__(address, port, reason)
        self.address, self.port, self.reason = address, port, reason

    def __str__(self) -> str:
        return f"cannot listen on {self.address} port {self.port}: {self.reason}; choose another with --port"


# --- exposed functions --------------------------------------------------------------------------------


class UnknownFunction(RequestError):
    """No function of this name is exposed."""

    code = "function_unknown"
    status = 404

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"no function {self.name[:80]!r} is exposed; /docs lists those that are"


class FunctionsNotLoaded(RequestError):
    """What ``--functions`` names cannot be loaded, or has no functions in it."""

    code = "functions_not_loaded"
    status = 500

    def __init__(self, target: str, *, reason: str) -> None:
        super().__init__(target, reason)
        self.target, self.reason = target, reason

    def __str__(self) -> str:
        return f"the functions of {self.target} cannot be loaded: {self.reason}"


class FunctionFailed(ForebayError):
    """An exposed function failed. What went wrong is in the server's log, for it may name anything. *origin*: what
    it needed of somebody else could not be had; then ``code``, ``status`` and ``retryable`` are of that."""

    code = "function_failed"
    status = 500

    def __init__(self, *, origin: OriginError | None = None) -> None:
        super().__init__(origin)
        self.origin = origin
        if origin is not None:
            self.code, self.status = origin.code, origin.status  # type: ignore[misc]
            self.retryable = origin.retryable  # type: ignore[misc]

    def __str__(self) -> str:
        how = "the function failed" if self.origin is None else "what the function has to fetch could not be had"
        return f"{how}; the server's log says more, under this id"


class FunctionStalled(ForebayError):
    """A function did not go on with its answer, or nobody took it; it was broken off."""

    code = "function_stalled"
    status = 504
    retryable = True

    def __init__(self, *, limit_s: float) -> None:
        super().__init__(limit_s)
        self.limit_s = limit_s

    def __str__(self) -> str:
        return f"expected the answer to go on within {self.limit_s:g} s; it did not, and was broken off"


class FunctionsBusy(ForebayError):
    """All threads for functions are taken, and as many calls wait as may."""

    code = "functions_busy"
    status = 503
    retryable = True

    def __str__(self) -> str:
        return "too many calls run and wait already; try again a little later"


class FunctionTimeout(ForebayError):
    """A function did not begin its answer in time."""

    code = "function_timeout"
    status = 504
    retryable = True

    def __init__(self, *, limit_s: float) -> None:
        super().__init__(limit_s)
        self.limit_s = limit_s

    def __str__(self) -> str:
        return f"expected the function to begin its answer within {self.limit_s:g} s; it did not"


# --- the caller's: messages that cannot be built ------------------------------------------------------


class InvalidMessage(InvalidValue):
    """Something of a message that no message can have. To a client it is an error of the server."""

    code = "message_invalid"
    status = 500


class InvalidHeader(InvalidMessage):
    """A header field that would not arrive as it is."""

    code = "header_invalid"


class UnsupportedBody(RequestError):
    """A value that no body can be made of."""

    code = "body_unsupported"
    status = 500

    def __init__(self, kind: str, *, reason: str = "") -> None:
        super().__init__(kind, reason)
        self.kind, self.reason = kind, reason

    def __str__(self) -> str:
        return (
            f"no body can be made of {self.kind}{self.reason and ': '}{self.reason}; expected text, bytes, a dict, "
            "list, tuple, dataclass or model, an image, a Path, a binary file, a Response, or an iterator of bytes "
            "or text"
        )


class ClientGone(RequestError):
    """Whoever asked is not there any more, or broke off in the middle of a body."""

    code = "client_gone"
    status = 400

    def __str__(self) -> str:
        return "the client went away, or broke off what it sent; nobody reads an answer"


# --- the caller's: uploads ----------------------------------------------------------------------------


class UnknownUpload(RequestError):
    """No upload has this id, or it is somebody else's."""

    code = "upload_unknown"
    status = 404

    def __init__(self, uid: str) -> None:
        super().__init__(uid)
        self.uid = uid

    def __str__(self) -> str:
        return f"no upload {self.uid[:40]!r} is known; begin a new one"


class UploadExpired(RequestError):
    """The upload was not completed, published or used in time."""

    code = "upload_expired"
    status = 410

    def __init__(self, uid: str) -> None:
        super().__init__(uid)
        self.uid = uid

    def __str__(self) -> str:
        return f"the time of upload {self.uid} is over; begin a new one"


class UploadIncomplete(RequestError):
    """Something of the upload has not arrived. ``missing``: half-open spans of bytes, or of chunk numbers where
    ``counted`` is ``chunks``; empty while the length is not known."""

    code = "upload_incomplete"
    status = 409
    retryable = True

    def __init__(self, uid: str, *, missing: tuple[tuple[int, int], ...], counted: str = "bytes") -> None:
        super().__init__(uid, missing, counted)
        self.uid, self.missing, self.counted = uid, missing, counted

    def __str__(self) -> str:
        spans = ", ".join(f"{start} to {stop - 1}" for start, stop in self.missing[:5])
        more = f" and {len(self.missing) - 5} more spans" if len(self.missing) > 5 else ""
        which = f"{self.counted} {spans}{more} have" if self.missing else "its length has"
        return f"upload {self.uid} is not whole: {which} not arrived; send what is missing"


class FileChanged(RequestError):
    """A file was written while it was read to be put; nothing of it was published."""

    code = "file_changed"
    status = 409
    retryable = True

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"{self.path} changed while it was read, so nothing of it was published; put it when it is finished"


class UploadMismatch(RequestError):
    """What arrived is not what was declared: its size or its digest. The upload stays, for a retry."""

    code = "upload_mismatch"
    status = 422

    def __init__(self, uid: str, *, what: str, expected: str, got: str) -> None:
        super().__init__(uid, what, expected, got)
        self.uid, self.what, self.expected, self.got = uid, what, expected, got

    def __str__(self) -> str:
        return (
            f"upload {self.uid}: expected {self.what} {self.expected}, got {self.got}; it stays, to be mended or "
            "begun anew"
        )


class ChecksumMismatch(RequestError):
    """The bytes of one message do not have the checksum that came with them; they were dropped."""

    code = "upload_checksum_mismatch"
    status = 422
    retryable = True

    def __init__(self, *, algorithm: str, expected: str, got: str) -> None:
        super().__init__(algorithm, expected, got)
        self.algorithm, self.expected, self.got = algorithm, expected, got

    def __str__(self) -> str:
        return f"expected {self.algorithm} {self.expected}, got {self.got}; the bytes were dropped, send them again"


class OffsetMismatch(RequestError):
    """Bytes are not for the place where the upload goes on."""

    code = "upload_offset_mismatch"
    status = 409

    def __init__(self, *, expected: int, got: int) -> None:
        super().__init__(expected, got)
        self.expected, self.got = expected, got

    def __str__(self) -> str:
        return f"expected the bytes from offset {self.expected} on, got those from {self.got} on"


class LengthMismatch(RequestError):
    """The length of an upload is not what was said before, or less than what has arrived."""

    code = "upload_length_mismatch"
    status = 400

    def __init__(self, *, expected: str, got: int) -> None:
        super().__init__(expected, got)
        self.expected, self.got = expected, got

    def __str__(self) -> str:
        return f"expected a length of {self.expected} bytes, got {self.got}"


class UploadTooLarge(RequestError):
    """More bytes than an upload may have, or than were declared. What arrived before stays."""

    code = "upload_too_large"
    status = 413

    def __init__(self, *, limit_bytes: int, got: int) -> None:
        super().__init__(limit_bytes, got)
        self.limit_bytes, self.got = limit_bytes, got

    def __str__(self) -> str:
        return f"expected {self.limit_bytes} bytes at most, got {self.got}"


class UploadQuota(RequestError):
    """The uploads of one owner have more bytes together than they may."""

    code = "upload_quota"
    status = 413

    def __init__(self, *, limit_bytes: int, held_bytes: int, got: int) -> None:
        super().__init__(limit_bytes, held_bytes, got)
        self.limit_bytes, self.held_bytes, self.got = limit_bytes, held_bytes, got

    def __str__(self) -> str:
        return (
            f"expected uploads of {self.limit_bytes} bytes together at most: {self.held_bytes} are taken, "
            f"{self.got} more were asked for; publish or cancel others first"
        )


class TooManyUploads(RequestError):
    """As many uploads are open as may be, of one owner or in all."""

    code = "uploads_too_many"
    status = 429
    retryable = True

    def __init__(self, *, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit

    def __str__(self) -> str:
        return f"expected {self.limit} open uploads at most; complete or cancel others, or wait until they expire"


class UploadsBusy(RequestError):
    """So many chunks are on their way in that no more fit into memory."""

    code = "uploads_busy"
    status = 503
    retryable = True

    def __str__(self) -> str:
        return "expected fewer chunks at once; send this one again in a moment, or send smaller ones"


class UploadTaken(RequestError):
    """A newer writer has taken the upload over; nothing more is taken from this one."""

    code = "upload_taken"
    status = 409
    retryable = True

    def __init__(self, uid: str) -> None:
        super().__init__(uid)
        self.uid = uid

    def __str__(self) -> str:
        return f"upload {self.uid} was taken over by a newer message; ask for its offset and go on there"


class UploadLocked(RequestError):
    """Another message is making the upload whole, which takes its time."""

    code = "upload_locked"
    status = 423  # as tusd says it: tus-js-client tries again later, and after a 5xx it would send all anew
    retryable = True

    def __init__(self, uid: str) -> None:
        super().__init__(uid)
        self.uid = uid

    def __str__(self) -> str:
        return f"upload {self.uid} is being made whole, and may still be for a while; ask again"


class UploadVersionRefused(RequestError):
    """The message is of a version of an upload protocol that is not spoken here; nothing was done."""

    code = "upload_version_refused"
    status = 412

    def __init__(self, *, expected: str, got: str) -> None:
        super().__init__(expected, got)
        self.expected, self.got = expected, got

    def __str__(self) -> str:
        return f"expected {self.expected}, got {self.got[:40] or 'none'!r}"


class UploadStalled(RequestError):
    """The body of an upload came slower than `stall_bytes_per_s`; what came of it before stays."""

    code = "upload_stalled"
    status = 408
    retryable = True

    def __init__(self, *, least_bytes: int, limit_s: float) -> None:
        super().__init__(least_bytes, limit_s)
        self.least_bytes, self.limit_s = least_bytes, limit_s

    def __str__(self) -> str:
        return (
            f"expected {self.least_bytes} bytes or the end within {self.limit_s:g} s; what came before stays: ask "
            "for the offset and go on there"
        )


class UploadFinished(RequestError):
    """The upload is complete: nothing of it can change any more."""

    code = "upload_finished"
    status = 409

    def __init__(self, uid: str) -> None:
        super().__init__(uid)
        self.uid = uid

    def __str__(self) -> str:
        return f"upload {self.uid} is complete; begin a new one for other bytes"


class UploadFieldInvalid(InvalidValue):
    """A field of a message that is about an upload is missing, or has a value that cannot be."""

    code = "upload_field_invalid"
    status = 400


class ChunkInvalid(InvalidValue):
    """Something of a chunk that cannot be, or that contradicts the chunks before it."""

    code = "chunk_invalid"
    status = 400


# --- the upstream's -----------------------------------------------------------------------------------


# Of the cases of `OriginError`; and of other failures as another process wrote them down, by code and sentence.
_STATUS_OF = {
    "origin_stalled": 504, "origin_deadline": 504, "origin_unreachable": 504,
    "origin_refused": 403, "disk_full": 507, "storage_failed": 500, "storage_error": 500, "content_rotten": 500,
}  # fmt: skip


class OriginError(ForebayError):
    """The origin could not be used. ``detail`` is a sentence for people; ``code`` names the case.

    The cases (instances carry their own code):

    ========================== =====================================================================
    ``origin_unreachable``     no connection: name not found, refused, no route, TLS failed
    ``origin_cut``             the connection broke off in the middle of the answer
    ``origin_short``           fewer bytes than announced
    ``origin_stalled``         slower than the stall limit for the whole stall window
    ``origin_deadline``        not done within the deadline
    ``origin_status``          an answer that is no content (4xx, 5xx)
    ``origin_busy``            429 or 503 and no patience left
    ``origin_redirects``       a redirect loop, too many redirects, or one that leads nowhere
    ``origin_changed``         the representation changed during the download, again and again
    ``origin_range_invalid``   a 206 that does not match what was asked
    ``origin_ambiguous``       two lengths, or a length and chunks (RFC 9112 section 6.3)
    ``origin_header_too_large`` more header bytes than we read
    ``origin_answered_html``   a page where data was before
    ``origin_protocol``        not HTTP as RFC 9110 and RFC 9112 say it
    ========================== =====================================================================
    """

    code = "origin_error"
    status = 502

    def __init__(self, code: str, detail: str, *, retryable: bool = False) -> None:
        super().__init__(code, detail)
        self.code = code  # type: ignore[misc]
        self.retryable = retryable  # type: ignore[misc]
        self.detail = detail
        self.status = _STATUS_OF.get(code, self.status)  # type: ignore[misc]

    def __str__(self) -> str:
        return self.detail


class HashMismatch(OriginError):
    """The bytes are whole, but not the expected ones; they were dropped. With *kept*, that version has them."""

    code = "hash_mismatch"

    def __init__(self, url: str, *, algorithm: str, expected: str, got: str, kept: str | None = None) -> None:
        stored = "nothing was kept" if kept is None else f"version {kept} has that"
        super().__init__("hash_mismatch", f"{url}: expected {algorithm} {expected}, got {got}; {stored}")
        self.url, self.algorithm, self.expected, self.got = url, algorithm, expected, got


class ContentTooLarge(OriginError):
    """More bytes than ``max_size_bytes``."""

    def __init__(self, *, limit_bytes: int, size_bytes: int | None) -> None:
        said = "it is longer" if size_bytes is None else f"it is {size_bytes} bytes"
        super().__init__(
            "content_too_large", f"larger than the {limit_bytes} bytes allowed ({said}); raise max_size_bytes"
        )
        self.limit_bytes, self.size_bytes = limit_bytes, size_bytes


class FollowBroken(OriginError):
    """What was read while it landed will not be completed: the download started over, or failed."""

    code = "follow_broken"

    def __init__(self) -> None:
        super().__init__(
            "follow_broken",
            "the download of what is being read here was given up; what was read of it is void, so open it again",
            retryable=True,
        )


# --- ours ---------------------------------------------------------------------------------------------


class StorageError(ForebayError):
    """The folder or the catalog failed. What was committed before stays readable."""

    code = "storage_error"
    status = 500

    @property
    def outward(self) -> str:
        """What is said of it to others, without a path of this machine; `str` is for its log."""
        return "the storage failed; the log of the process that it failed in says how"


class DiskFull(StorageError):
    """No space left; the transfer stopped cleanly and can be resumed."""

    code = "disk_full"
    status = 507

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    @property
    def outward(self) -> str:
        """See `StorageError.outward`."""
        return "no space is left where the content is kept; everything stored stays readable"

    def __str__(self) -> str:
        return (
            f"no space left in {self.path}; everything stored stays readable. Free space (`forebay gc`), then retry"
        )


class DiskReserved(StorageError):
    """An upload would leave less free space than ``min_free_disk_bytes``; nothing was taken of it."""

    code = "disk_reserved"
    status = 507

    def __init__(self, *, asked_bytes: int, free_bytes: int) -> None:
        super().__init__(asked_bytes, free_bytes)
        self.asked_bytes, self.free_bytes = asked_bytes, free_bytes

    @property
    def outward(self) -> str:
        """See `StorageError.outward`."""
        return f"no space for {self.asked_bytes} bytes more; everything stored stays readable"

    def __str__(self) -> str:
        return (
            f"{self.outward}: {max(0, self.free_bytes)} are free beyond what is reserved (min_free_disk_bytes). "
            "Free space (`forebay gc`), then retry"
        )


class StorageFailed(StorageError):
    """An I/O error that is not a full disk."""

    code = "storage_failed"

    def __init__(self, what: str, *, reason: str) -> None:
        super().__init__(what, reason)
        self.what, self.reason = what, reason

    def __str__(self) -> str:
        return f"{self.what}: {self.reason}"


class ContentRotten(StorageError):
    """Stored bytes that no longer hash to their address, or are gone."""

    code = "content_rotten"

    def __init__(self, sha256: str, *, found: str) -> None:
        super().__init__(sha256, found)
        self.sha256, self.found = sha256, found

    @property
    def outward(self) -> str:
        """See `StorageError.outward`."""
        return str(self)

    def __str__(self) -> str:
        return f"content {self.sha256} is damaged ({self.found}); it is not served again. Fetch it anew"


class CatalogTooNew(StorageError):
    """The folder was written by a newer Forebay."""

    code = "catalog_too_new"

    def __init__(self, *, found: str, known: str) -> None:
        super().__init__(found, known)
        self.found, self.known = found, known

    def __str__(self) -> str:
        return f"the catalog has schema {self.found}, this Forebay knows {self.known}; upgrade Forebay"


# --- misuse -------------------------------------------------------------------------------------------


class StateError(ForebayError):
    """The API was used in a state in which that is not possible."""

    code = "state_invalid"
    status = 409

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail

    def __str__(self) -> str:
        return self.detail


class LeaseLost(StateError):
    """Another process has taken this fetch over; what this one has may not be committed."""

    code = "lease_lost"

    def __init__(self, request_id: str) -> None:
        super().__init__(f"the fetch of request {request_id} was taken over by another process")
        self.request_id = request_id


class HeadersAlreadySent(StateError):
    """The head of an answer is on its way: neither its fields nor its status can change."""

    code = "headers_sent"
    status = 500

    def __init__(self, what: str) -> None:
        super().__init__(f"the head has been sent; {what} must come before the first flush()")
        self.what = what


class ResponseFinished(StateError):
    """The answer has ended; nothing can be written any more."""

    code = "response_finished"
    status = 500

    def __init__(self) -> None:
        super().__init__("this response has been finished; write before finish()")


# --- a server of Forebay, for its clients -------------------------------------------------------------


class RemoteError(ForebayError):
    """A server of Forebay failed in a way that this Forebay has no class for. *code*, *status* and *detail* are
    the server's."""

    code = "remote_error"
    status = 502

    def __init__(self, code: str, detail: str, *, status: int = 502, retryable: bool = False) -> None:
        super().__init__(code, detail)
        self.code = code  # type: ignore[misc]
        self.status = status  # type: ignore[misc]
        self.retryable = retryable  # type: ignore[misc]
        self.detail = detail

    def __str__(self) -> str:
        return self.detail


class ServerUnreachable(RemoteError):
    """The server cannot be reached, or a proxy in front of it says so. *server* is its URL, None as long as that
    is not known where it is raised."""

    code = "server_unreachable"
    status = 503
    retryable = True

    def __init__(self, *, reason: str, server: str | None = None) -> None:
        super().__init__("server_unreachable", reason, status=503, retryable=True)
        self.reason, self.server = reason, server

    def __str__(self) -> str:
        return (
            f"{self.server or 'the server'} cannot be reached: {self.reason}; is `forebay serve` running there? "
            'With fallback="direct", fetching goes on without it'
        )


class ServerAnswerInvalid(RemoteError):
    """What answers is no server of Forebay, or one that this Forebay does not understand."""

    code = "server_answer_invalid"

    def __init__(self, detail: str) -> None:
        super().__init__("server_answer_invalid", detail)
