"""The gate: every address that is not on the public internet is refused, in every spelling."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.errors import InvalidValue
from forebay.fetch.gate import Gate, Refusal, parse_networks

NEVER = "cloud metadata addresses are never fetched from"

# address, reason, network that the remedy names, whether allow_private allows it
CLOSED = [
    # IANA IPv4 special-purpose address registry
    ("0.0.0.0", "an unspecified address", "0.0.0.0/8", False),
    ("0.255.255.255", "an unspecified address", "0.0.0.0/8", False),
    ("10.0.0.0", "a private address", "10.0.0.0/8", True),
    ("10.255.255.255", "a private address", "10.0.0.0/8", True),
    ("100.64.0.0", "a carrier-grade NAT address", "100.64.0.0/10", True),
    ("100.127.255.255", "a carrier-grade NAT address", "100.64.0.0/10", True),
    ("127.0.0.1", "a loopback address", "127.0.0.0/8", True),
    ("127.255.255.255", "a loopback address", "127.0.0.0/8", True),
    ("169.254.0.1", "a link-local address", "169.254.0.0/16", False),
    ("169.254.255.255", "a link-local address", "169.254.0.0/16", False),
    ("172.16.0.0", "a private address", "172.16.0.0/12", True),
    ("172.31.255.255", "a private address", "172.16.0.0/12", True),
    ("192.0.0.1", "a protocol assignment address", "192.0.0.0/24", False),
    ("192.0.2.1", "a documentation address", "192.0.2.0/24", False),
    ("192.88.99.1", "a 6to4 relay address", "192.88.99.0/24", False),
    ("192.168.0.0", "a private address", "192.168.0.0/16", True),
    ("192.168.255.255", "a private address", "192.168.0.0/16", True),
    ("198.18.0.0", "a benchmarking address", "198.18.0.0/15", True),
    ("198.19.255.255", "a benchmarking address", "198.18.0.0/15", True),
    ("198.51.100.1", "a documentation address", "198.51.100.0/24", False),
    ("203.0.113.1", "a documentation address", "203.0.113.0/24", False),
    ("224.0.0.1", "a multicast address", "224.0.0.0/4", False),
    ("239.255.255.255", "a multicast address", "224.0.0.0/4", False),
    ("240.0.0.1", "a reserved address", "240.0.0.0/4", False),
    ("255.255.255.254", "a reserved address", "240.0.0.0/4", False),
    ("255.255.255.255", "a broadcast address", "255.255.255.255/32", False),
    # IANA IPv6 special-purpose address registry
    ("::", "an unspecified address", "::/128", False),
    ("::1", "a loopback address", "::1/128", True),
    ("100::1", "a discard address", "100::/64", False),
    ("2001:2::1", "a benchmarking address", "2001:2::/48", False),
    ("2001:20::1", "a protocol assignment address", "2001::/23", False),
    ("2001:db8::1", "a documentation address", "2001:db8::/32", False),
    ("3fff::1", "a documentation address", "3fff::/20", False),
    ("fc00::1", "a private address", "fc00::/7", True),
    ("fdff::1", "a private address", "fc00::/7", True),
    ("fe80::1", "a link-local address", "fe80::/10", False),
    ("fe80::1%eth0", "a link-local address", "fe80::/10", False),
    ("fe80::1%", "a link-local address", "fe80::/10", False),
    ("febf::1", "a link-local address", "fe80::/10", False),
    ("fec0::1", "a site-local address", "fec0::/10", False),
    ("ff02::1", "a multicast address", "ff00::/8", False),
    ("4000::1", "an address that is not assigned", "4000::1/128", False),
    ("5f00::1", "an address that is not assigned", "5f00::1/128", False),
    ("::ffff:0:1.2.3.4", "an address that is not assigned", "::ffff:0:102:304/128", False),
]

OPEN = [
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.0",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2000::",
    "2606:4700:4700::1111",
    "2a00:1450::1",
    "2001:4860:4860::8888",
    "2001:200::1",
    "3ffe:ffff::1",
]

# RFC 4291 2.5.5, RFC 6052, RFC 8215, RFC 3056, RFC 4380
FORMS = {
    "as IPv4-mapped": lambda v4: 0xFFFF << 32 | v4,
    "through NAT64": lambda v4: 0x64FF9B << 96 | v4,
    "through 6to4": lambda v4: 0x2002 << 112 | v4 << 80 | 1,
    "as Teredo server": lambda v4: 0x20010000 << 96 | v4 << 64 | 0x08080808 ^ 0xFFFFFFFF,
    "as Teredo client": lambda v4: 0x20010000 << 96 | 0x08080808 << 64 | v4 ^ 0xFFFFFFFF,
}
LOCAL_NAT64 = 0x64FF9B0001 << 80

METADATA = [
    "169.254.169.254",
    "169.254.170.2",
    "169.254.170.23",
    "169.254.42.42",
    "169.254.0.23",
    "100.100.100.200",
    "192.0.0.192",
    "168.63.129.16",
    "fd00:ec2::254",
    "fd00:ec2::23",
    "fd20:ce::254",
    "fd00:c1::a9fe:a9fe",
    "fd00:42::42",
    "fd00:a9fe:a9fe::1",
    "fe80::a9fe:a9fe",
    "fe80::a9fe:a9fe%eth0",
]

EVERYTHING = Gate(["0.0.0.0/0", "::/0"], allow_private=True)


def _form(how: str, v4: str | IPv4Address) -> str:
    return str(IPv6Address(FORMS[how](int(IPv4Address(v4)))))


@pytest.mark.parametrize(("address", "reason", "network", "private"), CLOSED)
def test_an_address_off_the_public_internet_is_refused(
    address: str, reason: str, network: str, private: bool
) -> None:
    """The refusal names the kind of address and exactly the network that would have to be allowed."""
    refusal = Refusal(address, reason, f"allow it with --allow-network {network} (FOREBAY_ALLOW_NETWORKS)")
    assert Gate().check(address) == refusal
    assert Gate(allow_private=True).check(address) == (None if private else refusal)
    assert Gate([network]).check(address) is None


@pytest.mark.parametrize("address", OPEN)
def test_a_public_address_is_dialled(address: str) -> None:
    """The neighbours of closed networks are open."""
    assert Gate().check(address) is None


@pytest.mark.parametrize("how", FORMS)
@pytest.mark.parametrize(("v4", "reason", "network", "private"), [row for row in CLOSED if ":" not in row[0]])
def test_an_ipv4_address_inside_an_ipv6_one_is_judged_itself(
    how: str, v4: str, reason: str, network: str, private: bool
) -> None:
    """No transition mechanism is a way around the gate; the refusal says which address is meant."""
    address = _form(how, v4)
    refusal = Refusal(
        address, f"{reason} ({v4} {how})", f"allow it with --allow-network {network} (FOREBAY_ALLOW_NETWORKS)"
    )
    assert Gate().check(address) == refusal
    assert Gate(allow_private=True).check(address) == (None if private else refusal)
    assert Gate([network]).check(address) is None


@pytest.mark.parametrize("how", FORMS)
def test_a_public_address_inside_an_ipv6_one_is_dialled(how: str) -> None:
    """NAT64 is how a phone reaches the IPv4 internet."""
    assert Gate().check(_form(how, "1.1.1.1")) is None


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("::127.0.0.1", "a loopback address (127.0.0.1 as IPv4-compatible)"),
        ("::a9fe:a9fe", "a cloud metadata address (169.254.169.254 as IPv4-compatible)"),
        ("::2", "an unspecified address (0.0.0.2 as IPv4-compatible)"),
        ("64:ff9b:1::127.0.0.1", "a loopback address (127.0.0.1 through NAT64)"),
    ],
)
def test_other_embedded_forms_are_judged_too(address: str, reason: str) -> None:
    """IPv4-compatible (deprecated) and local-use NAT64 addresses."""
    refusal = Gate().check(address)
    assert refusal is not None
    assert refusal.reason == reason


LOCAL_NAT64_READINGS = [
    # RFC 6052 section 2.2: where /48, /56, /64 and /96 put the address; bits 64 to 71 are zero
    lambda v4: (v4 >> 16) << 64 | (v4 & 0xFFFF) << 40,
    lambda v4: (v4 >> 24) << 64 | (v4 & 0xFFFFFF) << 32,
    lambda v4: v4 << 24,
    lambda v4: v4,
]


@pytest.mark.parametrize("reading", LOCAL_NAT64_READINGS)
def test_local_nat64_is_read_at_every_prefix_length(reading) -> None:  # type: ignore[no-untyped-def]
    """RFC 8215: the operator chooses the length, so an address must be harmless at each."""
    metadata = str(IPv6Address(LOCAL_NAT64 | reading(int(IPv4Address("169.254.169.254")))))
    refusal = EVERYTHING.check(metadata)
    assert refusal is not None
    assert refusal.remedy == NEVER
    loopback = str(IPv6Address(LOCAL_NAT64 | reading(int(IPv4Address("127.0.0.1")))))
    assert Gate().check(loopback) is not None
    public = str(IPv6Address(LOCAL_NAT64 | reading(int(IPv4Address("8.8.8.8")))))
    assert Gate().check(public) is None


def test_a_suffix_does_not_hide_what_local_nat64_leads_to() -> None:
    """A public address in the last bits is no cover for a closed one where a /48 translator reads."""
    hidden = LOCAL_NAT64 | 0xA9FE << 64 | 0xA9FE << 40 | int(IPv4Address("8.8.8.8"))
    refusal = Gate().check(str(IPv6Address(hidden)))
    assert refusal is not None
    assert refusal.remedy == NEVER


@pytest.mark.parametrize("address", METADATA)
def test_cloud_metadata_is_never_dialled(address: str) -> None:
    """No setting opens what hands out the machine's credentials."""
    assert Gate().check(address) == Refusal(address, "a cloud metadata address", NEVER)
    bare = address.partition("%")[0]
    for gate in (EVERYTHING, Gate([bare]), Gate(allow_private=True)):
        assert gate.check(address) == Refusal(address, "a cloud metadata address", NEVER)


@pytest.mark.parametrize("how", FORMS)
@pytest.mark.parametrize("v4", [address for address in METADATA if ":" not in address])
def test_cloud_metadata_is_never_dialled_through_ipv6(how: str, v4: str) -> None:
    """Also not in an embedded form, and also not when that very form is allowed."""
    address = _form(how, v4)
    for gate in (Gate(), EVERYTHING, Gate([address])):
        refusal = gate.check(address)
        assert refusal is not None
        assert refusal.remedy == NEVER
        assert refusal.reason == f"a cloud metadata address ({v4} {how})"


@pytest.mark.parametrize(
    "address",
    ["", "localhost", "127.1", "0x7f.0.0.1", "0177.0.0.1", "2130706433", "[::1]", "::1::", "%", "%eth0",
     "127.0.0.1%eth0", "8.8.8.8%eth0", " 8.8.8.8", "8.8.8.8\n", "\ud800", "１.1.1.1"],
)  # fmt: skip
def test_what_is_no_address_is_refused(address: str) -> None:
    """The gate guesses nothing: what it cannot read, it does not open."""
    refusal = EVERYTHING.check(address)
    assert refusal is not None
    assert refusal.reason == "not an IP address"


def test_a_refusal_of_long_text_is_short() -> None:
    """An error message stays readable whatever came in."""
    refusal = Gate().check("x" * 1000)
    assert refusal is not None
    assert len(refusal.address) == 60


# --- settings -----------------------------------------------------------------------------------------


def test_an_allowed_network_opens_exactly_itself() -> None:
    """Its neighbours stay closed, and allow_private is not implied."""
    gate = Gate(["10.1.0.0/16", "fd00:1::/32", "192.168.1.1"])
    assert gate.check("10.1.2.3") is None
    assert gate.check("10.2.0.0") is not None
    assert gate.check("fd00:1::5") is None
    assert gate.check("fd00:2::5") is not None
    assert gate.check("192.168.1.1") is None
    assert gate.check("192.168.1.2") is not None
    assert gate.check("127.0.0.1") is not None


def test_an_allowed_ipv6_network_speaks_for_tunnels_but_not_for_mapped_addresses() -> None:
    """A mapped address is dialled as IPv4, so IPv4 networks alone decide on it."""
    gate = Gate(["::/0"])
    assert gate.check("64:ff9b::7f00:1") is None
    assert gate.check("::ffff:127.0.0.1") is not None
    assert Gate(["::ffff:127.0.0.0/104"]).check("127.0.0.1") is None
    assert Gate(["::ffff:127.0.0.0/104"]).check("::ffff:127.0.0.1") is None


def test_networks_may_be_objects() -> None:
    """Text and ipaddress objects mean the same."""
    networks = (IPv4Network("10.0.0.0/8"), IPv6Network("fd00::/8"))
    assert Gate(networks) == Gate([" 10.0.0.0/8 ", "fd00::/8"])
    assert Gate(networks).allow_networks == networks


def test_one_network_may_be_given_alone() -> None:
    """A string is taken as one network, not as its characters."""
    assert parse_networks("10.0.0.0/8") == (IPv4Network("10.0.0.0/8"),)


@pytest.mark.parametrize(
    ("network", "hint"),
    [
        ("", "10.0.0.0/8"),
        ("localhost", "10.0.0.0/8"),
        ("10.0.0.0/33", "10.0.0.0/8"),
        ("10.0.0", "10.0.0.0/8"),
        ("010.0.0.0/8", "10.0.0.0/8"),
        ("10.1.2.3/8", "10.0.0.0/8 or 10.1.2.3"),
        ("fe80::1/10", "fe80::/10 or fe80::1"),
        ("fe80::1%eth0", "without a zone id"),
    ],
)
def test_text_that_is_no_network_is_refused(network: str, hint: str) -> None:
    """The error names the setting and a way out; host bits are not guessed away."""
    with pytest.raises(InvalidValue) as caught:
        Gate([network])
    assert caught.value.field == "allow_networks"
    assert hint in caught.value.expected
    assert caught.value.got == network


def test_equal_settings_make_equal_gates() -> None:
    """Order, overlap and spelling do not count: equal gates may share kept connections."""
    one = Gate(["10.0.0.0/9", "10.128.0.0/9", "fd00::/8", "10.1.0.0/16"])
    two = Gate(["FD00:0::/8", "10.0.0.0/8"])
    assert one == two
    assert hash(one) == hash(two)
    assert one.policy_key == two.policy_key == "public+10.0.0.0/8,fd00::/8"


def test_different_settings_have_different_keys() -> None:
    """A connection that one policy allowed is not kept for another."""
    gates = [Gate(), Gate(allow_private=True), Gate(["10.0.0.0/8"]), Gate(["10.0.0.0/8"], allow_private=True)]
    assert len({gate.policy_key for gate in gates}) == len(set(gates)) == 4


def test_a_gate_cannot_be_changed() -> None:
    """Its key would no longer say what it allows."""
    with pytest.raises(AttributeError):
        Gate().allow_private = True  # type: ignore[misc]


# --- properties ---------------------------------------------------------------------------------------

V4 = st.ip_addresses(v=4) | st.sampled_from([ip_address(row[0]) for row in CLOSED if ":" not in row[0]])
GATES = st.sampled_from(
    [Gate(), Gate(allow_private=True), Gate(["10.0.0.0/8", "224.0.0.0/4"]), Gate(["0.0.0.0/0"])]
)


@given(V4, GATES)
def test_every_form_of_an_ipv4_address_gets_the_same_verdict(v4: IPv4Address, gate: Gate) -> None:
    """The gate looks at where packets end, not at how the address is written."""
    verdict = gate.check(str(v4))
    for how in FORMS:
        embedded = gate.check(_form(how, v4))
        assert (embedded is None) == (verdict is None)
        if verdict is not None and embedded is not None:
            assert embedded.remedy == verdict.remedy
            assert embedded.reason.startswith(verdict.reason)


@given(st.ip_addresses())
def test_only_globally_reachable_addresses_pass(address: IPv4Address | IPv6Address) -> None:
    """What the closed gate lets through, the standard library calls global and not multicast."""
    if Gate().check(str(address)) is not None:
        return
    if isinstance(address, IPv6Address) and (address.sixtofour or address.teredo):
        return  # judged by what they embed; the standard library does not
    assert address.is_global
    assert not address.is_multicast


@given(st.text() | st.ip_addresses().map(lambda ip: f"{ip}%eth0"))
def test_any_text_gets_a_verdict(address: str) -> None:
    """The gate never raises: an exception in the connector would be no refusal."""
    Gate().check(address)
