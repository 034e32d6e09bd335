"""A client that is quick enough to load Envoy and misses nothing: every request is answered, or
counted as lost."""

import asyncio
import collections
import contextlib
import threading
import time


class Load:
    """POSTs completions on connections of their own, each with one request at a time."""

    def __init__(self, port, body, concurrency=32):
        """`body(number)` gives the bytes of a request."""
        self.port = port
        self.body = body
        self.concurrency = concurrency
        # Answers by status, and those that broke off (`lost`) or were never sent (`refused`).
        self.ends = collections.Counter()
        # The numbers of those that were not answered with 200.
        self.failed = []
        self.longest = 0.0
        self.number = 0
        self.limit = 0
        self.running = set()
        self.failure = None

    def run(self, count, deadline):
        """Sends so many requests and waits for their ends."""
        self.limit = self.number + count
        asyncio.run(self._run(deadline))

    @contextlib.contextmanager
    def going_on(self, deadline=120):
        """Keeps sending beside the scope; at its end every request gets its answer."""

        def run():
            try:
                asyncio.run(self._run(deadline))
            except AssertionError as error:
                self.failure = error

        self.limit = float("inf")
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.limit = 0
            thread.join(deadline)
        if self.failure:
            raise self.failure

    async def _run(self, deadline):
        self.over = asyncio.Event()
        self.running = set()
        try:
            async with asyncio.timeout(deadline):
                for _ in range(self.concurrency):
                    Connection(self)
                await self.over.wait()
        except TimeoutError:
            waiting = sum(connection.sent_at is not None for connection in self.running)
            raise AssertionError(f"{waiting} requests have no answer; ended: {self.ends}") from None


class Connection(asyncio.Protocol):
    """One after the other, over as many connections as the other side closes."""

    def __init__(self, load):
        self.load = load
        self.sent_at = None
        load.running.add(self)
        self.connecting = asyncio.create_task(self.connect())

    async def connect(self):
        loop = asyncio.get_running_loop()
        while self.load.number < self.load.limit:
            try:
                await loop.create_connection(lambda: self, "127.0.0.1", self.load.port)
                return
            except OSError:
                self.load.ends["refused"] += 1
                await asyncio.sleep(0.05)
        self.end()

    def end(self):
        self.load.running.discard(self)
        if not self.load.running:
            self.load.over.set()

    def connection_made(self, transport):
        self.transport = transport
        self.buffer = b""
        self.send()

    def send(self):
        if self.load.number >= self.load.limit:
            self.transport.close()
            return
        self.number = self.load.number
        body = self.load.body(self.number)
        self.load.number += 1
        self.sent_at = time.monotonic()
        self.transport.write(
            b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%s" % (len(body), body))

    def data_received(self, data):
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        head = self.buffer[:end].lower()
        place = head.find(b"content-length:")
        if place >= 0:
            if len(self.buffer) < end + int(head[place + 15:].split(b"\r\n", 1)[0]):
                return
        elif not self.buffer.endswith(b"\r\n0\r\n\r\n"):
            return
        self.ended(int(head[9:12]))
        self.buffer = b""
        self.send()

    def ended(self, how):
        self.load.ends[how] += 1
        if how != 200:
            self.load.failed.append(self.number)
        self.load.longest = max(self.load.longest, time.monotonic() - self.sent_at)
        self.sent_at = None

    def connection_lost(self, _):
        if self.sent_at is not None:
            self.ended("lost")
        self.connecting = asyncio.create_task(self.connect())
