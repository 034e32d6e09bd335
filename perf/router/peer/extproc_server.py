"""An external processor as it is commonly written in Python: grpc.aio, messages by protoc.

Reads the model from the body, takes the next of four endpoints, sends the body back and lets the
response through. Prints its port. `perf/peers` makes the two ext_proc_pb2 modules.
"""

import asyncio
import itertools
import json

import ext_proc_pb2 as pb
import ext_proc_pb2_grpc
import grpc

CHUNK_BYTES = 62_000
DESTINATION = "x-gateway-destination-endpoint"
ENDPOINTS = itertools.cycle(f"127.0.0.1:{port}" for port in range(8001, 8005))


def route(body):
    endpoint = next(ENDPOINTS)
    response = pb.ProcessingResponse()
    common = response.request_headers.response
    common.clear_route_cache = True
    headers = {
        DESTINATION: endpoint,
        "x-gateway-model-name": json.loads(body)["model"],
        "content-length": str(len(body)),
    }
    for name, value in headers.items():
        header = common.header_mutation.set_headers.add().header
        header.key, header.raw_value = name, value.encode()
    balancer = response.dynamic_metadata.fields["envoy.lb"].struct_value
    balancer.fields[DESTINATION].string_value = endpoint
    return response


def chunk(side, body, is_last):
    response = pb.ProcessingResponse()
    streamed = getattr(response, side).response.body_mutation.streamed_response
    streamed.body, streamed.end_of_stream = body, is_last
    return response


class ExternalProcessor(ext_proc_pb2_grpc.ExternalProcessorServicer):
    async def Process(self, requests, context):
        body = bytearray()
        async for request in requests:
            event = request.WhichOneof("request")
            if event == "request_body":
                body += request.request_body.body
                if not request.request_body.end_of_stream:
                    continue
                whole = bytes(body)
                yield route(whole)
                for start in range(0, len(whole), CHUNK_BYTES):
                    end = start + CHUNK_BYTES
                    yield chunk("request_body", whole[start:end], end >= len(whole))
            elif event == "response_headers":
                response = pb.ProcessingResponse()
                mutation = response.response_headers.response.header_mutation
                header = mutation.set_headers.add().header
                header.key, header.raw_value = "x-went-into-resp-headers", b"true"
                yield response
            elif event == "response_body":
                part = request.response_body
                yield chunk("response_body", part.body, part.end_of_stream)


async def main():
    server = grpc.aio.server(options=[("grpc.max_concurrent_streams", 10_000)])
    ext_proc_pb2_grpc.add_ExternalProcessorServicer_to_server(ExternalProcessor(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


asyncio.run(main())
