"""A simulated domain: its record, the line it stands on in the world, what a backend tells of it.

Values only. The checksum is over the bytes of the member `domain` as they stand on the line.
"""

import zlib
from typing import Any, Literal

import msgspec

from backends.interface import Domain, PluggedVbd, PluggedVif, StopReason
from idl.ids import DeviceId
from idl.vbd import Position
from idl.vif import Vif
from idl.wire import Fact

#: What the guest's agent says once the guest has run.
AGENT: dict[str, Any] = {"os": {"name": "simulated"}}

#: A vCPU that has run at all has run for this long, in seconds.
LEAST_RUN = 1e-6


class SimulatedVbd(PluggedVbd, frozen=True, kw_only=True, omit_defaults=True):
    """A plugged VBD. `layer` is the file its writes go to, where that is not its medium."""

    position: Position
    type: Literal["disk", "cdrom", "floppy"] = "disk"
    unpluggable: bool = True
    layer: str | None = None


class SimulatedVif(PluggedVif, frozen=True, kw_only=True, omit_defaults=True):
    """A plugged VIF with the configuration that it has in the domain."""

    config: Vif
    position: Position


class SimulatedPci(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """A device given to the domain."""

    address: str
    position: Position


class Record(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """Everything that is true of one domain.

    `ran` are vCPU seconds up to `running_since` (Unix seconds, None while no vCPU runs);
    `uptime` what the guest ran before it was restored. `restored` holds from a restore to the
    first unpause: until then the layers of the image are not this domain's. The last three are
    how the guest misbehaves.
    """

    id: str
    name: str
    created: float
    vm: str | None = None
    instance: str | None = None
    incarnation: str | None = None
    guest: str = "hvm"
    built: bool = False
    restored: bool = False
    paused: bool = True
    stopped: StopReason | None = None
    ran: float = 0.0
    running_since: float | None = None
    uptime: float = 0.0
    vcpus: int = 0
    memory_target: int = 0
    memory_actual: int = 0
    memory_limit: int = 0
    device_model: bool = False
    xsdata: dict[str, str] = {}
    vbds: dict[DeviceId, SimulatedVbd] = {}
    vifs: dict[DeviceId, SimulatedVif] = {}
    pcis: dict[DeviceId, SimulatedPci] = {}
    ignore_shutdown: bool = False
    uncooperative_balloon: bool = False
    hold_devices: bool = False


class Line(msgspec.Struct, frozen=True):
    """What a domain's file holds; `domain` is null where there is none any more."""

    checksum: str
    domain: msgspec.Raw


_lines = msgspec.json.Decoder(Line)
_records: "msgspec.json.Decoder[Record | None]" = msgspec.json.Decoder(Record | None)
_encoder = msgspec.json.Encoder()


def checksum(body: bytes | memoryview) -> str:
    """As it stands on the line."""
    return f"crc32:{zlib.crc32(body):08x}"


def encode(record: Record | None, at_least: int = 0) -> bytes:
    """The line of a record, padded so that it covers an earlier one of `at_least` bytes."""
    body = _encoder.encode(record)
    line = b'{"checksum":"%b","domain":%b}' % (checksum(body).encode(), body)
    return line.ljust(at_least - 1) + b"\n"


def decode(line: bytes) -> Record | None:
    """The record on a line; a file still empty holds none. Raises ValueError if damaged."""
    if not line.strip():
        return None
    found = _lines.decode(line)
    if checksum(memoryview(found.domain)) != found.checksum:
        raise ValueError("its checksum does not hold")
    return _records.decode(found.domain)


def vcpu_seconds(record: Record, now: float) -> float:
    """How long the vCPUs have run, at Unix time `now`."""
    if record.running_since is None:
        return record.ran
    return record.ran + max(0.0, now - record.running_since)


def observed(record: Record, now: float) -> Domain:
    """The domain as a backend tells of it."""
    booted = record.ran > 0
    return Domain(
        id=record.id,
        name=record.name,
        vm=record.vm,
        instance=record.instance,
        incarnation=record.incarnation,
        built=record.built,
        paused=record.paused,
        stopped=record.stopped,
        vcpu_seconds=vcpu_seconds(record, now),
        vcpus=record.vcpus,
        memory_target=record.memory_target,
        memory_actual=record.memory_actual,
        memory_limit=record.memory_limit,
        uncooperative_balloon=record.uncooperative_balloon,
        pv_drivers_detected=booted,
        device_model=record.device_model,
        guest_agent=AGENT if booted else {},
        vbds={
            device: PluggedVbd(medium=vbd.medium, detaching=vbd.detaching)
            for device, vbd in record.vbds.items()
        },
        vifs={
            device: PluggedVif(device=vif.device, media_present=vif.media_present)
            for device, vif in record.vifs.items()
        },
        pcis=list(record.pcis),
    )
