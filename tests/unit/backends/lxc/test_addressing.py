"""What a VIF's configuration says of addresses."""

import re
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

import pytest

from backends.lxc.addressing import METRIC, Addressing, addressing
from idl.vif import Bridge, IpConfiguration, Vif


def vif(position: int | None = 0, **fields: IpConfiguration) -> Vif:
    return Vif(id="vm/0", position=position, backend=Bridge(name="br0"), **fields)


def static(*addresses: str, gateway: str | None = None) -> IpConfiguration:
    return IpConfiguration(type="static", addresses=list(addresses), gateway=gateway)


def test_static_addresses_of_each_family():
    both = vif(
        ipv4=static("10.0.0.2/24", "10.0.1.2/16", gateway="10.0.0.1"),
        ipv6=static("fd00::2/64", gateway="fe80::1"),
    )
    assert addressing(both, "ipv4") == Addressing(
        (IPv4Interface("10.0.0.2/24"), IPv4Interface("10.0.1.2/16")), IPv4Address("10.0.0.1")
    )
    assert addressing(both, "ipv6") == Addressing(
        (IPv6Interface("fd00::2/64"),), IPv6Address("fe80::1")
    )


def test_without_a_prefix_length_an_address_is_alone():
    found = addressing(vif(ipv4=static("10.0.0.2")), "ipv4")
    assert found.addresses == (IPv4Interface("10.0.0.2/32"),)


@pytest.mark.parametrize("type", ["none", "dhcp"])
def test_what_is_not_static_configures_nothing(type):
    other = IpConfiguration(type=type, addresses=["10.0.0.2/24"], gateway="10.0.0.1")
    assert addressing(vif(ipv4=other), "ipv4") == Addressing()


def test_each_position_has_a_metric_of_its_own():
    metrics = [
        addressing(vif(position, ipv4=static(gateway="10.0.0.1")), "ipv4").metric
        for position in (None, 0, 1, 7)
    ]
    assert metrics == [METRIC, METRIC, METRIC + 1, METRIC + 7]


@pytest.mark.parametrize(
    ("family", "wrong"),
    [("ipv4", "fd00::2"), ("ipv6", "10.0.0.2"), ("ipv6", "1::2::3"), ("ipv4", "10.0.0.02")],
)
def test_an_address_of_the_other_family_or_of_none_is_refused(family, wrong):
    for configuration in (static(wrong), static(gateway=wrong)):
        with pytest.raises(ValueError, match=re.escape(wrong)):
            addressing(vif(**{family: configuration}), family)
