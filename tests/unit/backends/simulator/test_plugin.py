import msgspec
import pytest

from backends.interface import Available, Settings
from backends.registry import load
from backends.simulator.plugin import Options, Plugin
from idl.errors import HypervisorError


def test_it_runs_anywhere_and_any_hypervisor_comes_before_it():
    assert load("simulator").probe() == Available(rank=0)


def test_its_world_is_under_the_state_directory_unless_it_is_told_otherwise(tmp_path):
    for options, world in (
        (Options(), tmp_path / "state" / "simulator"),
        (Options(world=str(tmp_path / "elsewhere")), tmp_path / "elsewhere"),
    ):
        settings = Settings(
            instance="default", state_dir=tmp_path / "state", run_dir=tmp_path, options=options
        )
        Plugin().open(settings).close()
        assert (world / "host.json").exists()


def test_a_world_that_cannot_be_made_is_a_hypervisor_error(tmp_path):
    (tmp_path / "file").touch()
    settings = Settings(
        instance="default",
        state_dir=tmp_path,
        run_dir=tmp_path,
        options=Options(world=str(tmp_path / "file" / "world")),
    )
    with pytest.raises(HypervisorError):
        Plugin().open(settings)


def test_closing_twice_is_closing_once(rig):
    rig.backend.watch(lambda vm: None)
    rig.backend.close()
    rig.backend.close()


@pytest.mark.parametrize("memory", [-1, 2**62 + 1])
def test_the_host_has_no_memory_that_cannot_be(memory):
    with pytest.raises(msgspec.ValidationError, match="memory_total"):
        msgspec.convert({"memory_total": memory}, Options)
