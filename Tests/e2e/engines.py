"""Model servers that cost next to nothing, on loopback: `python engines.py [--broken HOW] PORT...`.

They answer completions at once, list their model and show metrics. What a body asks of them by its
`user` they do instead: `silent` (no answer), `close`, `garbage`, `torn` (half an answer). A stream
falls silent after its first event, and nobody is told the tokens of a text. Broken ones do to every
completion what a body could ask for; broken and silent they do not even show metrics.
"""

import argparse
import asyncio

MODEL = "llmd-sim"
ANSWER = (
    b'{"id":"cmpl-1","object":"text_completion","created":1700000000,"model":"llmd-sim","choices":'
    b'[{"index":0,"text":" hello","finish_reason":"length"}],'
    b'"usage":{"prompt_tokens":1024,"total_tokens":1025,"completion_tokens":1}}'
)
STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    b"9\r\ndata: 1\n\n\r\n"
)
broken = b""
# Requests that have come and have no whole answer yet.
open_count = 0


def whole(body, content_type=b"application/json"):
    return b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n%s" % (
        content_type, len(body), body)


def page():
    return b"".join(
        b'%s{model_name="llmd-sim"} %s\n' % sample
        for sample in [
            (b"vllm:num_requests_running", b"1"),
            (b"vllm:num_requests_waiting", b"0"),
            (b"vllm:kv_cache_usage_perc", b"0.25"),
            (b"engine_open_requests", b"%d" % open_count),
        ]
    )


class Engine(asyncio.Protocol):
    """One connection. Requests are not pipelined."""

    def connection_made(self, transport):
        self.transport = transport
        self.buffer = b""
        self.is_open = False

    def data_received(self, data):
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        head, body = self.buffer[:end], self.buffer[end:]
        place = head.lower().find(b"content-length:")
        if place >= 0:
            if len(body) < int(head[place + 15:].split(b"\r\n", 1)[0]):
                return
        elif b"chunked" in head and not body.endswith(b"0\r\n\r\n"):
            return
        self.buffer = b""
        self.answer(head.split(b" ", 2)[1], body)

    def connection_lost(self, _):
        global open_count
        open_count -= self.is_open

    def answer(self, path, body):
        global open_count
        if path.endswith(b"completions") or broken == b'"silent"':
            body += broken
        if path.endswith(b"/render") or b'"silent"' in body or b'"stream": true' in body:
            self.is_open = True
            open_count += 1
            if b'"stream": true' in body:
                self.transport.write(STREAM)
        elif path.endswith(b"/metrics"):
            self.transport.write(whole(page(), b"text/plain"))
        elif path.endswith(b"/models"):
            self.transport.write(
                whole(b'{"object":"list","data":[{"id":"llmd-sim","object":"model"}]}'))
        elif b'"close"' in body:
            self.transport.close()
        elif b'"garbage"' in body:
            self.transport.write(b"garbage\r\n\r\n")
            self.transport.close()
        elif b'"torn"' in body:
            self.transport.write(whole(ANSWER)[:-100])
            self.transport.close()
        else:
            self.transport.write(whole(ANSWER))


async def serve(ports):
    loop = asyncio.get_running_loop()
    for port in ports:
        await loop.create_server(Engine, "127.0.0.1", port, backlog=1024)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--broken", default="")
    parser.add_argument("ports", type=int, nargs="+")
    arguments = parser.parse_args()
    broken = b'"%s"' % arguments.broken.encode()
    asyncio.run(serve(arguments.ports))
