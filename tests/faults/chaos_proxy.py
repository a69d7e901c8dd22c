"""A TCP proxy on loopback that breaks connections: what lies between us and every endpoint, at its worst."""

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


FAULTS = ("refuse", "reset", "half", "stall", "trickle", "garbage")
NO_LINGER = struct.pack("ii", 1, 0)


class ChaosProxy:
    """Forwards to a port of this machine; a connection carries a few replies, then meets its fault."""

    def __init__(self, upstream_port: int, *, seed: int, healthy_replies: int = 12) -> None:
        self.done: Counter[str] = Counter()
        """Faults so far, by name."""
        self.port = 0
        self._upstream_port = upstream_port
        self._dice = random.Random(seed)
        self._healthy_replies = healthy_replies

    async def serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await stop.wait()
        server.close()

    async def _carry(
        self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter
    ) -> None:
        fault = self._dice.choice(FAULTS)
        healthy = self._dice.randint(0, self._healthy_replies)
        if fault == "refuse" and healthy == 0:
            self._reset(client_out, fault)
            return
        server_in, server_out = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        up = asyncio.create_task(_forward(client_in, server_out))
        try:
            await self._carry_replies(server_in, client_in, client_out, fault, healthy)
        except (ConnectionError, TimeoutError):
            pass
        finally:
            up.cancel()
            for writer in (client_out, server_out):
                with contextlib.suppress(OSError):
                    writer.close()

    async def _carry_replies(
        self,
        server_in: asyncio.StreamReader,
        client_in: asyncio.StreamReader,
        client_out: asyncio.StreamWriter,
        fault: str,
        healthy: int,
    ) -> None:
        while reply := await server_in.read(1 << 16):
            if healthy > 0:
                healthy -= 1
                client_out.write(reply)
                await client_out.drain()
                continue
            if fault in ("refuse", "reset"):
                self._reset(client_out, "reset")
                return
            self.done[fault] += 1
            if fault == "half":
                client_out.write(reply[: len(reply) // 2])
            elif fault == "garbage":
                client_out.write(bytes(self._dice.randbytes(200)))
            elif fault == "stall":
                client_out.write(reply[: len(reply) - 7])
                await _until_gone(client_in)
            else:
                for byte in reply[:-1]:
                    client_out.write(bytes([byte]))
                    await client_out.drain()
                    await asyncio.sleep(0.02)
                await _until_gone(client_in)
            return

    def _reset(self, writer: asyncio.StreamWriter, fault: str) -> None:
        self.done[fault] += 1
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        writer.transport.abort()


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()


async def _until_gone(reader: asyncio.StreamReader) -> None:
    """The client has had enough; its own task reads what it sends, so only the end is seen here."""
    while not reader.at_eof():
        await asyncio.sleep(0.05)


@contextmanager
def chaos(upstream_port: int, **options: int) -> Iterator[ChaosProxy]:
    """A proxy in a thread of this process."""
    proxy = ChaosProxy(upstream_port, **options)
    ready, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    def live() -> None:
        loop.run_until_complete(proxy.serve(ready, stop))
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0.05))
        loop.close()

    thread = threading.Thread(target=live, daemon=True)
    thread.start()
    ready.wait()
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
