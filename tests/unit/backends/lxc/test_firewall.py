"""The text of an interface's table, and nft that takes it or does not."""

import time
from ipaddress import IPv6Address, ip_network
from pathlib import Path

import pytest

from backends.lxc import firewall
from idl.errors import DeadlineExceeded, NetworkError
from idl.vif import Bridge, Disabled, IpConfiguration, Locked, LockingMode, Rate, Unlocked, Vif

DEVICE, MAC, ALIAS = "xv0123456789ab", "02:00:00:00:00:01", "xenopsd default vm one 0"


def vif(mode: LockingMode | None = None, **fields: object) -> Vif:
    mode = Unlocked() if mode is None else mode
    return Vif(id="vm/0", mac=MAC, backend=Bridge(name="br0"), locking_mode=mode, **fields)


def rules(mode: LockingMode | None = None, **fields: object) -> list[str]:
    return (firewall.ruleset(vif(mode, **fields), DEVICE, ALIAS) or "").splitlines()


def chain(name: str, lines: list[str]) -> list[str]:
    start = lines.index(f"chain {name} {{")
    return lines[start + 1 : lines.index("}", start)]


def test_who_is_not_limited_needs_no_table():
    assert firewall.ruleset(vif(), DEVICE, ALIAS) is None


def test_a_table_takes_the_place_of_the_one_before():
    assert rules(Disabled())[:4] == [
        f"table netdev {DEVICE}",
        f"delete table netdev {DEVICE}",
        f"table netdev {DEVICE} {{",
        f'comment "{ALIAS}"',
    ]


def test_a_comment_is_cut_where_nftables_would_refuse_it():
    long = "xenopsd " + "v" * 200
    text = firewall.ruleset(vif(Disabled()), DEVICE, long) or ""
    assert f'comment "{long[:128]}"' in text


def test_disabled_drops_both_ways():
    for name, hook in (("from_guest", "ingress"), ("to_guest", "egress")):
        (base,) = chain(name, rules(Disabled()))
        assert base == f'type filter hook {hook} device "{DEVICE}" priority 0; policy drop;'


def test_a_rate_alone_only_limits():
    base, limit = chain("from_guest", rules(rate=Rate(kbps=80_000, burst=500)))
    assert base.endswith("policy accept;")
    assert limit == "limit rate over 10000000 bytes/second burst 500000 bytes drop"


def test_a_locked_one_is_limited_too():
    limit, accept = chain("pass", rules(Locked(), rate=Rate(kbps=8)))
    assert limit == "limit rate over 1000 bytes/second burst 66000 bytes drop"
    assert accept == "accept"


def test_locked_without_addresses_says_nothing():
    lines = rules(Locked())
    assert chain("from_guest", lines)[0].endswith("policy drop;")
    assert chain("speak_arp", lines) == []
    assert chain("speak_ip", lines) == ["udp sport 67 drop"]
    assert chain("speak_ip6", lines) == []


def test_with_dhcp_it_may_ask():
    asking = "ip saddr 0.0.0.0 udp sport 68 udp dport 67 goto pass"
    assert asking in rules(Locked(), ipv4=IpConfiguration(type="dhcp"))
    assert asking not in rules(Locked(), ipv4=IpConfiguration(type="static"))
    own = f"ip6 saddr {{ {firewall.link_local(MAC)}/128 }} goto listed_ip6"
    assert own in rules(Locked(), ipv6=IpConfiguration(type="dhcp"))
    assert own not in rules(Locked())


def test_only_the_listed_addresses_pass():
    lines = rules(Locked(ipv4=["10.0.0.2", "10.1.0.0/16"], ipv6=["fd00::2"]))
    assert "ip saddr { 10.0.0.2/32, 10.1.0.0/16 } goto pass" in chain("speak_ip", lines)
    (own,) = [one for one in chain("speak_ip6", lines) if "listed" in one]
    assert own == "ip6 saddr { fd00::2/128, fe80::ff:fe00:1/128 } goto listed_ip6"


def test_addresses_that_overlap_are_merged_as_nftables_wants_it():
    found = firewall.networks(["10.0.0.2", "10.0.0.0/24", "10.0.0.2", "10.0.1.0/24"])
    assert found == [ip_network("10.0.0.0/23")]


def test_an_address_with_a_prefix_length_stands_for_itself():
    assert firewall.networks(["10.0.0.2/24"]) == [ip_network("10.0.0.2/32")]


def test_what_is_no_address_is_refused():
    with pytest.raises(ValueError, match="1::2::3"):
        firewall.ruleset(vif(Locked(ipv6=["1::2::3"])), DEVICE, ALIAS)


def test_the_link_local_address_of_a_mac():
    assert firewall.link_local("02:00:00:00:00:01") == IPv6Address("fe80::ff:fe00:1")
    assert firewall.link_local("52:54:00:12:34:56") == IPv6Address("fe80::5054:ff:fe12:3456")


@pytest.mark.parametrize(
    ("rate", "most", "burst"),
    [
        (Rate(kbps=8), 1000, 66_000),
        (Rate(kbps=8_000, burst=100), 1_000_000, 100_000),
        (Rate(kbps=8_000_000), 1_000_000_000, 20_000_000),
        (Rate(kbps=2**31 - 1, burst=2**40), 2**32 - 1, 2**32 - 1),
    ],
)
def test_rates_as_the_kernel_counts_them(rate, most, burst):
    assert (firewall.bytes_a_second(rate), firewall.burst_bytes(rate)) == (most, burst)


@pytest.fixture
def nft(tmp_path, monkeypatch):
    """A program nft that does this."""

    def put(script: str) -> Path:
        program = tmp_path / "nft"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
        return program

    return put


def soon() -> float:
    return time.monotonic() + 10


def test_what_is_loaded(nft, tmp_path):
    nft(f'[ "$*" = "-f -" ] && cat > {tmp_path}/said')
    firewall.load("the rules", DEVICE, soon())
    assert (tmp_path / "said").read_text() == "the rules"


def test_a_refusal_says_why(nft):
    nft("echo Error: syntax error >&2; exit 1")
    with pytest.raises(NetworkError, match=f"{DEVICE}.*syntax error"):
        firewall.load("nonsense", DEVICE, soon())


def test_one_that_hangs_is_ended(nft):
    nft("exec sleep 60")
    with pytest.raises(DeadlineExceeded, match="nft"):
        firewall.load("rules", DEVICE, time.monotonic() + 0.2)


def test_a_host_without_nft_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NetworkError, match="install nftables"):
        firewall.load("rules", DEVICE, soon())
