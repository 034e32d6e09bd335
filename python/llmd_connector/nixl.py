"""An agent in the shape of NIXL's, so that code written for NIXL changes an import:

    from llmd_connector.nixl import nixl_agent, nixl_agent_config

It does not talk to NIXL's own agents: both ends change. Memory of the host is moved; memory of
GPUs and files is refused. Every call may come from any thread.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Optional, Union

from . import _abi
from .buffers import memory_of
from .engine import Engine
from .errors import (
    ConnectorError,
    InvalidArgument,
    NoSuchRegion,
    NotSupported,
    PeerDead,
    QueueFull,
)
from .events import EventKind
from .memory import Pool
from .nixl_lists import PreppedList, Registry, groups_of, nixlRegDList, nixlXferDList
from .nixl_parts import Remote, Request, nixl_agent_config
from .peer import Peer

__all__ = ["nixl_agent", "nixl_agent_config", "nixlRegDList", "nixlXferDList"]

log = logging.getLogger("llmd_connector")

# The names of NIXL's exceptions, where ours mean the same.
nixlBackendError = ConnectorError
nixlInvalidParamError = InvalidArgument
nixlNotFoundError = NoSuchRegion
nixlNotSupportedError = NotSupported
nixlRemoteDisconnectError = PeerDead

_MAGIC = b"LLMD-KV1"
_OPERATIONS = {"READ": _abi.READ, "WRITE": _abi.WRITE}
# Agents that release memory or a transfer wait until nothing touches it: a lease and more.
_RELEASE_SECONDS = 10.0


class nixl_agent:
    """Registers memory, knows other agents, moves blocks and brings notifications."""

    def __init__(
        self,
        agent_name: str,
        nixl_conf: Optional[nixl_agent_config] = None,
        instantiate_all: bool = False,
    ) -> None:
        config = nixl_conf or nixl_agent_config()
        self.name = agent_name
        self.backends = {name: index for index, name in enumerate(config.backends)}
        self.notifs: dict[str, list[bytes]] = {}
        self._config = config
        self._sender = len(agent_name.encode()).to_bytes(2, "little") + agent_name.encode()
        self._lock = threading.RLock()
        self._registry = Registry()
        self._remotes: dict[str, Remote] = {}
        self._arrived: list[tuple[str, bytes]] = []
        self._engine = Engine(admits_tracers=config.admits_tracers)
        self._port = self._engine.listen(config.host)

    def close(self) -> None:
        """Ends the agent. Also at the end of a `with`."""
        self._engine.close()

    def __enter__(self) -> "nixl_agent":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- Backends: there is one ----

    def get_plugin_list(self) -> list[str]:
        return ["LLMD"]

    def get_plugin_mem_types(self, backend: str) -> list[str]:
        return ["DRAM"]

    def get_plugin_params(self, backend: str) -> dict[str, str]:
        return {}

    get_backend_mem_types = get_plugin_mem_types
    get_backend_params = get_plugin_params

    def create_backend(self, backend: str, initParams: Optional[dict[str, str]] = None) -> None:
        self.backends.setdefault(backend, len(self.backends))

    # ---- Memory ----

    def get_reg_descs(
        self, descs: Any, mem_type: Optional[str] = None, is_sorted: bool = False
    ) -> nixlRegDList:
        return nixlRegDList.make(descs, mem_type)

    def get_xfer_descs(
        self, descs: Any, mem_type: Optional[str] = None, is_sorted: bool = False
    ) -> nixlXferDList:
        return nixlXferDList.make(descs, mem_type)

    def get_serialized_descs(self, descs: Union[nixlRegDList, nixlXferDList]) -> bytes:
        return descs.to_bytes()

    def deserialize_descs(self, serialized_descs: bytes) -> nixlXferDList:
        return nixlXferDList.from_bytes(serialized_descs)

    def register_memory(
        self,
        reg_list: Any,
        mem_type: Optional[str] = None,
        backends: Sequence[str] = (),
        is_sorted: bool = False,
    ) -> nixlRegDList:
        """Publishes memory: numpy arrays, tensors, (address, size, device, tag) tuples."""
        descs = self.get_reg_descs(reg_list, mem_type)
        pools: list[Pool] = []
        try:
            for memory in descs.memories():
                pools.append(self._engine.register(memory_of(memory)))
        except Exception:
            for pool in pools:
                pool.release()
            raise
        with self._lock:
            for pool in pools:
                self._registry.add(pool.address, pool.region, pool)
        return descs

    def deregister_memory(self, dereg_list: nixlRegDList, backends: Sequence[str] = ()) -> None:
        """Withdraws memory, and returns when nothing touches it any more."""
        generations = []
        with self._lock:
            for address, size in zip(dereg_list.addresses, dereg_list.lengths):
                pool = self._registry.remove(int(address), int(size))
                generations.append(pool.region.generation)
                pool.release()
        end = time.monotonic() + _RELEASE_SECONDS
        while any(generation in self._engine._lent for generation in generations):
            self._take_events()
            if time.monotonic() > end:
                raise ConnectorError("a peer of this host is still using the memory", -4)
            time.sleep(0.0005)

    # ---- Other agents ----

    def get_agent_metadata(self) -> bytes:
        """What another agent needs, for `add_remote_agent` there; again after each registration."""
        with self._lock:
            blob = {
                "name": self.name,
                "engine_id": self._engine.id.hex(),
                "host": self._config.host,
                "port": self._port,
                "regions": [(address, *region) for address, region in self._registry.entries()],
            }
        return _MAGIC + json.dumps(blob, separators=(",", ":")).encode()

    def add_remote_agent(self, metadata: bytes) -> str:
        """Takes another agent's metadata, or newer metadata of a known one; returns its name. It is
        connected to in the background."""
        if not metadata.startswith(_MAGIC):
            raise InvalidArgument("not the metadata of an agent of llmd_connector", -1)
        try:
            remote = Remote(json.loads(metadata[len(_MAGIC):]))
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidArgument(f"metadata that is not valid: {error}", -1) from error
        with self._lock:
            known = self._remotes.get(remote.name)
            if known is not None and known.engine_id == remote.engine_id:
                known.registry = remote.registry
            else:
                if known is not None and known.peer is not None:
                    known.peer.release()
                self._remotes[remote.name] = remote
                self._connect(remote)
        return remote.name

    def _connect(self, remote: Remote) -> Peer:
        if remote.peer is None or (remote.peer.error is not None and not remote.peer.is_up):
            remote.peer = self._engine.connect(
                remote.host, remote.port, paths=self._config.paths, expected_id=remote.engine_id)
        return remote.peer

    def _remote(self, name: str) -> Remote:
        with self._lock:
            if name == self.name:
                self.add_remote_agent(self.get_agent_metadata())
            if name not in self._remotes:
                raise NoSuchRegion(f"no agent is known by the name {name}", -5)
            return self._remotes[name]

    def make_connection(self, remote_agent: str, backends: Sequence[str] = ()) -> None:
        with self._lock:
            self._connect(self._remote(remote_agent))

    def check_remote_metadata(self, agent: str, descs: Optional[nixlXferDList] = None) -> bool:
        with self._lock:
            remote = self._remotes.get(agent)
            if remote is None:
                return False
            try:
                if descs is not None:
                    PreppedList(agent, descs, remote.registry)
            except NoSuchRegion:
                return False
            return True

    def remove_remote_agent(self, agent: str) -> None:
        with self._lock:
            remote = self._remotes.pop(agent, None)
            if remote is None:
                raise NoSuchRegion(f"no agent is known by the name {agent}", -5)
            if remote.peer is not None:
                remote.peer.release()

    # ---- Transfers ----

    def prep_xfer_dlist(
        self,
        agent_name: str,
        xfer_list: Any,
        mem_type: Optional[str] = None,
        backends: Sequence[str] = (),
        is_sorted: bool = False,
    ) -> PreppedList:
        """Finds the regions of descriptors, once for many transfers. The local side has the name
        "" or "NIXL_INIT_AGENT"."""
        descs = self.get_xfer_descs(xfer_list, mem_type)
        with self._lock:
            if agent_name in ("", "NIXL_INIT_AGENT"):
                return PreppedList("", descs, self._registry)
            return PreppedList(agent_name, descs, self._remote(agent_name).registry)

    def make_prepped_xfer(
        self,
        operation: str,
        local_xfer_side: PreppedList,
        local_indices: Any,
        remote_xfer_side: PreppedList,
        remote_indices: Any,
        notif_msg: Union[bytes, str] = b"",
        backends: Sequence[str] = (),
        skip_desc_merge: bool = False,
    ) -> Request:
        """A transfer of chosen descriptors of two lists, to be posted by `transfer`."""
        if operation not in _OPERATIONS:
            raise InvalidArgument(f"operation {operation}: READ or WRITE", -1)
        if local_xfer_side.agent or not remote_xfer_side.agent:
            raise InvalidArgument("a local side first, then a remote one", -1)
        groups = groups_of(local_xfer_side, local_indices, remote_xfer_side, remote_indices)
        message = self._message(notif_msg) if notif_msg else b""
        return Request(
            _OPERATIONS[operation], self._remote(remote_xfer_side.agent), groups, message)

    def initialize_xfer(
        self,
        operation: str,
        local_descs: nixlXferDList,
        remote_descs: nixlXferDList,
        remote_agent: str,
        notif_msg: Union[bytes, str] = b"",
        backends: Sequence[str] = (),
    ) -> Request:
        """A transfer of all descriptors of two lists."""
        local = self.prep_xfer_dlist("", local_descs)
        remote = self.prep_xfer_dlist(remote_agent, remote_descs)
        return self.make_prepped_xfer(operation, local, None, remote, None, notif_msg)

    def transfer(self, handle: Request, notif_msg: Union[bytes, str] = b"") -> str:
        """Posts: "DONE", "PROC" or "ERR"."""
        with self._lock:
            if handle.state == "PROC":
                raise InvalidArgument("the transfer is posted already", -1)
            if notif_msg:
                handle.message = self._message(notif_msg)
            handle.began = time.monotonic()
            handle.telemetry = SimpleNamespace(
                startTime=time.time_ns() // 1000, postDuration=0, xferDuration=0, totalBytes=0,
                descCount=sum(group.size for group in handle.groups))
            handle.waiting = list(handle.groups)
            handle.transfers = []
            handle.error = None
            handle.notices = 1 if handle.message else 0
            handle.state = "PROC"
            state = self._advance(handle)
            handle.telemetry.postDuration = int((time.monotonic() - handle.began) * 1e6)
            return state

    def check_xfer_state(self, handle: Request) -> str:
        """ "DONE", "PROC" or "ERR"; `handle.error` says what went wrong."""
        with self._lock:
            if not handle.state:
                raise InvalidArgument("the transfer was never posted", -1)
            return self._advance(handle)

    def _advance(self, request: Request) -> str:
        if request.state != "PROC":
            return request.state
        self._take_events()
        left = []
        for transfer in request.transfers:
            if transfer.event is None:
                left.append(transfer)
                continue
            request.telemetry.totalBytes += transfer.event.transferred_bytes
            request.error = request.error or transfer.event.error
        request.transfers = left
        try:
            self._post(request)
        except QueueFull:
            pass  # the rest is posted by a later call
        except ConnectorError as error:
            request.error = error
        if request.error is not None:
            # Final only when nothing touches the memory any more.
            request.waiting.clear()
            request.notices = 0
        if not request.transfers and not request.waiting and not request.notices:
            request.state = "DONE" if request.error is None else "ERR"
            request.telemetry.xferDuration = int((time.monotonic() - request.began) * 1e6)
            if request.error is not None:
                log.warning("transfer with %s: %s", request.remote.name, request.error)
        return request.state

    def _post(self, request: Request) -> None:
        if request.error is not None:
            return
        peer = self._connect(request.remote)
        while request.waiting:
            group = request.waiting[-1]
            # The only transfer carries the notification itself, or else it follows the last one.
            is_only = len(request.groups) == 1
            request.transfers.append(self._engine.submit(
                request.operation, peer, group.pool, group.region, local=group.local_ids,
                remote=group.remote_ids, local_planes=group.local_planes,
                remote_planes=group.remote_planes,
                notification=request.message if is_only else b""))
            request.waiting.pop()
            if is_only:
                request.notices = 0
        if request.notices and not request.transfers:
            request.transfers.append(self._engine.notify(peer, request.message))
            request.notices = 0

    def query_xfer_backend(self, handle: Request) -> str:
        return "LLMD"

    def get_xfer_telemetry(self, handle: Request) -> SimpleNamespace:
        """Of the last post: startTime, postDuration and xferDuration in microseconds, totalBytes,
        descCount."""
        return handle.telemetry

    def release_xfer_handle(self, handle: Request) -> None:
        """Cancels what is in flight, and returns when nothing touches the memory any more."""
        with self._lock:
            handle.waiting.clear()
            handle.notices = 0
            transfers = list(handle.transfers)
        for transfer in transfers:
            transfer.cancel()
        for transfer in transfers:
            transfer._wait(_RELEASE_SECONDS)
        with self._lock:
            self._advance(handle)

    def release_dlist_handle(self, handle: PreppedList) -> None:
        """Nothing: a list goes with its last reference."""

    # ---- Notifications ----

    def _message(self, text: Union[bytes, str]) -> bytes:
        message = self._sender + (text.encode() if isinstance(text, str) else bytes(text))
        if len(message) > _abi.NOTIFICATION_MAX:
            raise InvalidArgument(
                f"a notification of {len(message)} bytes with the agent's name; at most "
                f"{_abi.NOTIFICATION_MAX}", -1)
        return message

    def send_notif(
        self, remote_agent_name: str, notif_msg: Union[bytes, str], backend: Optional[str] = None
    ) -> None:
        """A message that belongs to no transfer."""
        with self._lock:
            peer = self._connect(self._remote(remote_agent_name))
        self._engine.notify(peer, self._message(notif_msg))

    def _take_events(self) -> None:
        for event in self._engine.poll():
            if event.kind is EventKind.NOTIFICATION and len(event.notification) >= 2:
                length = int.from_bytes(event.notification[:2], "little")
                name = event.notification[2:2 + length].decode(errors="replace")
                self._arrived.append((name, event.notification[2 + length:]))

    def get_new_notifs(self, backends: Sequence[str] = ()) -> dict[str, list[bytes]]:
        """Messages since the last call, by the name of the agent that sent them."""
        found: dict[str, list[bytes]] = {}
        with self._lock:
            self._take_events()
            for name, message in self._arrived:
                found.setdefault(name, []).append(message)
            self._arrived.clear()
        return found

    def update_notifs(self, backends: Sequence[str] = ()) -> dict[str, list[bytes]]:
        """All messages that nobody has taken from `notifs`."""
        for name, messages in self.get_new_notifs().items():
            self.notifs.setdefault(name, []).extend(messages)
        return self.notifs

    def check_remote_xfer_done(
        self,
        remote_agent_name: str,
        lookup_tag: bytes,
        backends: Sequence[str] = (),
        tag_is_prefix: bool = True,
    ) -> bool:
        """Whether a message with such a beginning, or part, has come; takes it from `notifs`."""
        messages = self.update_notifs().get(remote_agent_name, [])
        for index, message in enumerate(messages):
            if message.startswith(lookup_tag) if tag_is_prefix else lookup_tag in message:
                del messages[index]
                return True
        return False
