"""HTTP/2 clients without TLS: of a gateway, and, as Envoy is, of an external processor."""

import select
import socket
import struct
import time

import h2.config
import h2.connection
import h2.events
from protobuf import field, fields


class HTTP2Client:
    """One connection. Streams stay open until they are reset or the other side ends them."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = h2.connection.H2Connection(
            h2.config.H2Configuration(header_encoding="utf-8"))
        # What came, by stream.
        self.data = {}
        self.ended = set()
        self.is_closed = False
        self.has_pong = False
        self.connection.initiate_connection()
        self.flush()

    def flush(self):
        self.socket.sendall(self.connection.data_to_send())

    def open(self, path, headers=()):
        stream = self.connection.get_next_available_stream_id()
        self.data[stream] = b""
        self.connection.send_headers(stream, [
            (":method", "POST"), (":path", path), (":scheme", "http"), (":authority", "a"),
            *headers,
        ])
        return stream

    def send(self, stream, data, end=False):
        self.connection.send_data(stream, data, end)

    def reset(self, stream):
        # The other side may have ended it a moment before.
        if stream not in self.ended:
            self.connection.reset_stream(stream, 8)

    def ping(self):
        """Returns when the other side has read all that was sent."""
        self.has_pong = False
        self.connection.ping(b"llmd e2e")
        self.wait(lambda: self.has_pong, "no answer to a ping")

    def close(self):
        self.socket.close()

    def wait(self, condition, what, deadline=20.0):
        """Sends what is to be sent and takes what comes until `condition()`."""
        end = time.monotonic() + deadline
        self.flush()
        while not condition():
            assert not self.is_closed and time.monotonic() < end, what
            if select.select([self.socket], [], [], 0.01)[0]:
                self.take(self.socket.recv(1 << 16))

    def take(self, received):
        self.is_closed = not received
        for event in self.connection.receive_data(received):
            match event:
                case h2.events.DataReceived():
                    self.data[event.stream_id] += event.data
                    self.connection.acknowledge_received_data(
                        event.flow_controlled_length, event.stream_id)
                case h2.events.StreamEnded() | h2.events.StreamReset():
                    self.ended.add(event.stream_id)
                case h2.events.PingAckReceived():
                    self.has_pong = True
                case h2.events.ConnectionTerminated():
                    self.is_closed = True
        self.flush()


class DataPlane(HTTP2Client):
    """Envoy's end of `ext_proc` streams, in full-duplex mode."""

    def begin(self, path="/v1/completions"):
        """A stream with the head of a request."""
        stream = self.open(
            "/envoy.service.ext_proc.v3.ExternalProcessor/Process",
            [("content-type", "application/grpc"), ("te", "trailers")])
        self.tell(stream, field(2, self.headers({":method": "POST", ":path": path})))
        return stream

    def tell(self, stream, message):
        self.send(stream, struct.pack(">BI", 0, len(message)) + message)

    def body(self, stream, data, end=True):
        self.tell(stream, field(4, field(1, data) + (b"\x10\1" if end else b"")))

    def respond(self, stream, data):
        """The head of a response and a piece of its body."""
        self.tell(stream, field(3, self.headers({":status": "200"})))
        self.tell(stream, field(5, field(1, data)))

    @staticmethod
    def headers(values):
        return field(1, b"".join(
            field(1, field(1, name.encode()) + field(3, value.encode()))
            for name, value in values.items()))

    def messages(self, stream):
        """The whole messages that came, each as {field: content}."""
        rest = self.data[stream]
        while len(rest) >= 5:
            length = struct.unpack(">I", rest[1:5])[0]
            if len(rest) < 5 + length:
                return
            yield dict(fields(rest[5:5 + length]))
            rest = rest[5 + length:]

    def destination(self, stream):
        """Where the request is to go; None as long as nothing is decided."""
        for message in self.messages(stream):
            assert 7 not in message, message
            if 1 not in message:
                continue
            mutation = dict(fields(dict(fields(message[1]))[1]))[2]
            for number, option in fields(mutation):
                header = dict(fields(dict(fields(option)).get(1, b""))) if number == 1 else {}
                if header.get(1) == b"x-gateway-destination-endpoint":
                    return header[3].decode()
        return None

    def decide(self, body, deadline=20.0):
        """Asks for one decision, and leaves."""
        stream = self.begin()
        self.body(stream, body)
        self.wait(lambda: self.destination(stream), "no decision", deadline)
        self.reset(stream)
        self.flush()
        return self.destination(stream)
