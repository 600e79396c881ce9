"""The gate: which addresses may be dialled, against server-side request forgery (OWASP SSRF).

Asked by the connector with each resolved address right before it is dialled, at every redirect anew: a name
that was harmless when checked and is not when dialled (DNS rebinding) finds no gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    collapse_addresses,
    ip_address,
    ip_network,
)

from forebay.errors import InvalidValue

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an address is not dialled, and what would allow it; the parts of `OriginRefused`."""

    address: str
    reason: str
    remedy: str


@dataclass(frozen=True, slots=True)
class _Category:
    reason: str
    network: Network
    private: bool = False  # allowed by allow_private


def _category(network: str, reason: str, *, private: bool = False) -> _Category:
    return _Category(reason, ip_network(network), private)


# The IANA special-purpose registries for IPv4 and IPv6: what is not globally reachable, and a few that are
# but serve no content (protocol assignments). The narrower network comes first.
_CATEGORIES_V4 = (
    _category("0.0.0.0/8", "an unspecified address"),
    _category("10.0.0.0/8", "a private address", private=True),
    _category("100.64.0.0/10", "a carrier-grade NAT address", private=True),
    _category("127.0.0.0/8", "a loopback address", private=True),
    _category("169.254.0.0/16", "a link-local address"),
    _category("172.16.0.0/12", "a private address", private=True),
    _category("192.0.0.0/24", "a protocol assignment address"),
    _category("192.0.2.0/24", "a documentation address"),
    _category("192.88.99.0/24", "a 6to4 relay address"),
    _category("192.168.0.0/16", "a private address", private=True),
    _category("198.18.0.0/15", "a benchmarking address", private=True),
    _category("198.51.100.0/24", "a documentation address"),
    _category("203.0.113.0/24", "a documentation address"),
    _category("224.0.0.0/4", "a multicast address"),
    _category("255.255.255.255/32", "a broadcast address"),
    _category("240.0.0.0/4", "a reserved address"),
)
_CATEGORIES_V6 = (
    _category("::/128", "an unspecified address"),
    _category("::1/128", "a loopback address", private=True),
    _category("100::/64", "a discard address"),
    _category("2001:2::/48", "a benchmarking address"),
    _category("2001:db8::/32", "a documentation address"),
    _category("2001::/23", "a protocol assignment address"),
    _category("3fff::/20", "a documentation address"),
    _category("fc00::/7", "a private address", private=True),
    _category("fe80::/10", "a link-local address"),
    _category("fec0::/10", "a site-local address"),
    _category("ff00::/8", "a multicast address"),
)
# Global unicast; the rest of IPv6 is not assigned (RFC 4291 section 2.4).
_GLOBAL_V6 = IPv6Network("2000::/3")

# They hand out credentials of the machine to whoever asks, so no setting opens them.
_METADATA = frozenset(
    ip_address(address)
    for address in (
        "169.254.169.254",  # AWS, Azure, Google, Oracle, OpenStack, DigitalOcean and others
        "169.254.170.2",  # AWS ECS task credentials
        "169.254.170.23",  # AWS EKS pod identity
        "169.254.42.42",  # Scaleway (cloud-init's data source)
        "169.254.0.23",  # Tencent
        "100.100.100.200",  # Alibaba
        "192.0.0.192",  # Oracle Cloud at Customer
        # Azure's wire server: a public address, but virtual and the host's own. It serves the machine's goal
        # state and extension settings; AKS keeps pods from it since 2024 ("WireServing").
        "168.63.129.16",
        "fd00:ec2::254",  # AWS
        "fd00:ec2::23",  # AWS EKS pod identity
        "fd20:ce::254",  # Google
        "fd00:c1::a9fe:a9fe",  # Oracle
        "fd00:42::42",  # Scaleway
        "fd00:a9fe:a9fe::1",  # Akamai
        "fe80::a9fe:a9fe",  # OpenStack
    )
)
_METADATA_REASON = "a cloud metadata address"
_METADATA_REMEDY = "cloud metadata addresses are never fetched from"

_MAPPED = IPv6Network("::ffff:0:0/96")
_COMPATIBLE = IPv6Network("::/96")
_NAT64 = IPv6Network("64:ff9b::/96")
_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")
_SIX_TO_FOUR = IPv6Network("2002::/16")
_TEREDO = IPv6Network("2001::/32")


@dataclass(frozen=True, slots=True, init=False)
class Gate:
    """Which addresses may be dialled: only globally reachable ones, and what its settings add.

    *allow_networks* allows exactly these networks. *allow_private* allows loopback, private (RFC 1918 and
    unique local), carrier-grade NAT and benchmarking addresses. Cloud metadata addresses stay closed whatever
    is set. An IPv4 address inside an IPv6 one is judged like the IPv4 address itself. Equal settings make
    equal gates.
    """

    allow_networks: tuple[Network, ...]
    allow_private: bool

    def __init__(
        self,
        allow_networks: Sequence[str | IPv4Network | IPv6Network] = (),
        allow_private: bool = False,
    ) -> None:
        object.__setattr__(self, "allow_networks", parse_networks(allow_networks))
        object.__setattr__(self, "allow_private", allow_private)

    def check(self, address: str) -> Refusal | None:
        """Why *address*, a resolved one as text, is not dialled; `None`: it may be."""
        text, percent, _zone = address.partition("%")
        try:
            ip = IPv6Address(text) if percent else ip_address(text)
        except ValueError:
            shown = address if len(address) <= 60 else address[:57] + "..."
            return Refusal(shown, "not an IP address", "only resolved addresses are dialled")
        if isinstance(ip, IPv4Address):
            return self._check_v4(ip, address, inside="")
        return self._check_v6(ip, address)

    @property
    def policy_key(self) -> str:
        """Text that is the same for equal gates: the key of a connection pool, since kept connections are
        not checked again."""
        networks = ",".join(map(str, self.allow_networks))
        return f"{'private' if self.allow_private else 'public'}+{networks}"

    def _check_v4(self, ip: IPv4Address, address: str, *, inside: str) -> Refusal | None:
        if ip in _METADATA:
            return Refusal(address, _METADATA_REASON + inside, _METADATA_REMEDY)
        if self._is_allowed(ip):
            return None
        return self._judge(_category_of(ip, _CATEGORIES_V4), address, inside=inside)

    def _check_v6(self, ip: IPv6Address, address: str) -> Refusal | None:
        if ip in _METADATA:
            return Refusal(address, _METADATA_REASON, _METADATA_REMEDY)
        embedded = _embedded(ip)
        if not embedded:
            if self._is_allowed(ip):
                return None
            category = _category_of(ip, _CATEGORIES_V6)
            if category is None and ip not in _GLOBAL_V6:
                category = _Category("an address that is not assigned", IPv6Network(ip))
            return self._judge(category, address, inside="")
        refusals = [self._check_v4(v4, address, inside=f" ({v4} {how})") for how, v4 in embedded]
        refused = [refusal for refusal in refusals if refusal is not None]
        for refusal in refused:
            if refusal.remedy == _METADATA_REMEDY:
                return refusal
        # A mapped address is dialled as the IPv4 address, so only IPv4 networks speak for it.
        if not refused or (ip not in _MAPPED and self._is_allowed(ip)):
            return None
        return refused[0]

    def _is_allowed(self, ip: IPv4Address | IPv6Address) -> bool:
        return any(ip in network for network in self.allow_networks)

    def _judge(self, category: _Category | None, address: str, *, inside: str) -> Refusal | None:
        if category is None or (category.private and self.allow_private):
            return None
        remedy = f"allow it with --allow-network {category.network} (FOREBAY_ALLOW_NETWORKS)"
        return Refusal(address, category.reason + inside, remedy)


def parse_networks(networks: Sequence[str | IPv4Network | IPv6Network]) -> tuple[Network, ...]:
    """*networks* without overlaps, IPv4 first, in order; an IPv4-mapped one as its IPv4 network.

    Raises `InvalidValue` naming ``allow_networks`` for text that is not a network or has host bits set.
    """
    if isinstance(networks, str):  # a string is a sequence too; taken apart it would give no sensible message
        networks = [networks]
    parsed = [_parse_network(network) for network in networks]
    v4 = [network for network in parsed if isinstance(network, IPv4Network)]
    v6 = [network for network in parsed if isinstance(network, IPv6Network)]
    return (*collapse_addresses(v4), *collapse_addresses(v6))


def _parse_network(network: str | IPv4Network | IPv6Network) -> Network:
    expected = "a network such as 10.0.0.0/8 or fd00::/8"
    if isinstance(network, str):
        text = network.strip()
        try:
            network = ip_network(text, strict=False)
        except ValueError as error:
            raise InvalidValue("allow_networks", expected=expected, got=text) from error
        if "%" in text:
            raise InvalidValue("allow_networks", expected=f"{expected}, without a zone id", got=text)
        try:
            ip_network(text)
        except ValueError as error:
            # 10.1.2.3/8 may mean one address or all of 10/8: a guess would open too much.
            raise InvalidValue(
                "allow_networks", expected=f"{network} or {text.partition('/')[0]}", got=text
            ) from error
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        return IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - 96))
    return network


def _category_of(ip: IPv4Address | IPv6Address, categories: Sequence[_Category]) -> _Category | None:
    return next((category for category in categories if ip in category.network), None)


def _embedded(ip: IPv6Address) -> list[tuple[str, IPv4Address]]:
    """The IPv4 addresses that packets to *ip* may end at, each with how it is written into it."""
    bits = int(ip)
    last = IPv4Address(bits & 0xFFFFFFFF)
    if ip in _MAPPED:
        return [("as IPv4-mapped", last)]
    if ip in _NAT64:
        return [("through NAT64", last)]
    if ip in _LOCAL_NAT64:
        return [("through NAT64", v4) for v4 in _local_nat64(bits, last)]
    if ip in _SIX_TO_FOUR:
        return [("through 6to4", IPv4Address(bits >> 80 & 0xFFFFFFFF))]
    if ip in _TEREDO:
        server, client = IPv4Address(bits >> 64 & 0xFFFFFFFF), IPv4Address(bits & 0xFFFFFFFF ^ 0xFFFFFFFF)
        return [("as Teredo server", server), ("as Teredo client", client)]
    if ip in _COMPATIBLE and bits > 1:  # :: and ::1 have meanings of their own
        return [("as IPv4-compatible", last)]
    return []


def _local_nat64(bits: int, last: IPv4Address) -> list[IPv4Address]:
    """The candidates in 64:ff9b:1::/48, whose operator chooses the prefix length (RFC 8215).

    The last 32 bits (/96), and what a translator for /48, /56 or /64 would read (RFC 6052 section 2.2), but
    not 0.0.0.0/8, where the zeros of the other lengths are. This refuses rather too much; allowing the IPv6
    network itself is the way out.
    """
    others = (
        (bits >> 64 & 0xFFFF) << 16 | bits >> 40 & 0xFFFF,
        (bits >> 64 & 0xFF) << 24 | bits >> 32 & 0xFFFFFF,
        bits >> 24 & 0xFFFFFFFF,
    )
    found = [IPv4Address(other) for other in others if other >> 24]
    return found if found and not int(last) else [last, *found]
