"""The VMs of a world as Linux namespaces: each has its own network, processes and host name.

    with Network() as network:
        network.add("head", HEAD_ADDRESS)
        world = World(address=worker_address)
        with NamespaceVms(world, folder, network), network.call("head", lambda: FakeCompute(world)):
            ...

A VM finds its metadata server where Google has it, at 169.254.169.254. A cut link is a cut link.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.testing.fake_metadata import FakeMetadata
from cluster.testing.instances import Instance
from cluster.testing.network import METADATA_ADDRESS, Network
from cluster.testing.process_vms import ProcessVms, Vm
from cluster.testing.world import World


class NamespaceVms(ProcessVms):
    """Boots the VMs of a world in a network; a context manager.

    Args:
        world: Whose VMs; its `address` must be `network.worker_address`.
        folder: For the files of the VMs.
        network: Where they are.
        environment: As of `ProcessVms`.
        longest_seconds: As of `ProcessVms`.
        private_folders: Folders that each VM has for itself, in memory; Ray's temporary one should
            be among them.
    """

    def __init__(
        self,
        world: World,
        folder: Path,
        network: Network,
        *,
        environment: Mapping[str, str] | None = None,
        longest_seconds: float = 120.0,
        private_folders: Sequence[str] = ("/dev/shm",),
    ) -> None:
        super().__init__(world, folder, environment=environment, longest_seconds=longest_seconds)
        self._network = network
        self._private_folders = tuple(private_folders)

    def _metadata(self, instance: Instance, values: Mapping[str, str]) -> FakeMetadata:
        host = _host(instance)
        self._network.add(host, instance.address)
        return self._network.call(
            host, lambda: FakeMetadata(values, host=METADATA_ADDRESS, port=80)
        )

    def _command(self, instance: Instance, script: Path) -> list[str]:
        inner = super()._command(instance, script)
        return self._network.command(_host(instance), inner, self._private_folders)

    def _cut(self, vm: Vm, is_cut: bool) -> None:
        if vm.is_cut != is_cut:
            vm.is_cut = is_cut
            self._network.set_link(_host(vm.instance), up=not is_cut)

    def _turn_off(self, vm: Vm) -> None:
        super()._turn_off(vm)
        self._network.remove(_host(vm.instance))


def _host(instance: Instance) -> str:
    # a name can be used again while the former VM of it is still being turned off
    return f"{instance.name}-{instance.id[-6:]}"
