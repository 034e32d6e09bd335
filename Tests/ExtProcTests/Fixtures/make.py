"""Writes messages.json: ext-proc messages as Google's own protobuf serialises them.

    pip install xds-protos==1.85.0 && python make.py > messages.json

xds-protos carries Envoy's complete definitions, not the subset that the codec knows.
"""

import json

from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc


def add_headers(header_map, headers, raw=True):
    for key, value in headers:
        header = header_map.headers.add()
        header.key = key
        if raw:
            header.raw_value = value.encode()
        else:
            header.value = value


def request(name, build, **expect):
    message = ext_proc.ProcessingRequest()
    build(message)
    return {"name": name, "hex": message.SerializeToString(deterministic=True).hex(), **expect}


def response(name, build):
    message = ext_proc.ProcessingResponse()
    build(message)
    return {"name": name, "hex": message.SerializeToString(deterministic=True).hex()}


POST = [
    [":method", "POST"],
    [":path", "/v1/chat/completions"],
    ["content-type", "application/json"],
    ["x-empty", ""],
    ["x-long", "v" * 300],
]


def request_headers(m):
    add_headers(m.request_headers.headers, POST)
    m.attributes["envoy.filters.http.ext_proc"].fields["request.size"].number_value = 12.5
    m.protocol_config.request_body_mode = 4
    m.protocol_config.response_body_mode = 4
    m.protocol_config.send_body_without_waiting_for_header_response = True


def request_headers_get(m):
    add_headers(m.request_headers.headers, [[":method", "GET"], [":path", "/v1/models"]], raw=False)
    m.request_headers.end_of_stream = True


def subset(values):
    def build(m):
        add_headers(m.request_headers.headers, POST[:1])
        hint = m.metadata_context.filter_metadata["envoy.lb.subset_hint"]
        hint.fields["other"].number_value = 3
        if isinstance(values, str):
            hint.fields["x-gateway-destination-endpoint-subset"].string_value = values
        else:
            items = hint.fields["x-gateway-destination-endpoint-subset"].list_value
            for value in values:
                if value is None:
                    items.values.add().number_value = 4
                else:
                    items.values.add().string_value = value
        m.metadata_context.filter_metadata["other.filter"].fields["k"].bool_value = True
        m.metadata_context.typed_filter_metadata["typed"].value = b"opaque"

    return build


def response_headers(m):
    add_headers(
        m.response_headers.headers,
        [[":status", "200"], ["content-type", "text/event-stream"]],
    )
    m.metadata_context.filter_metadata["envoy.lb"].fields[
        "x-gateway-destination-endpoint-served"
    ].string_value = "10.0.0.7:8000"


def request_body(m):
    m.request_body.body = bytes(range(256)) * 2


def request_body_end(m):
    m.request_body.end_of_stream = True


def response_body_end(m):
    m.response_body.body = b"data: [DONE]\n\n"
    m.response_body.end_of_stream = True


def request_trailers(m):
    add_headers(m.request_trailers.trailers, [["t", "1"]])


def response_trailers(m):
    m.response_trailers.SetInParent()


REQUESTS = [
    request("request headers", request_headers, kind="requestHeaders", headers=POST, end=False),
    request(
        "request headers of a GET, string values",
        request_headers_get,
        kind="requestHeaders",
        headers=[[":method", "GET"], [":path", "/v1/models"]],
        end=True,
    ),
    request(
        "subset hint",
        subset(["10.0.0.7:8000", None, "10.0.0.8:8000"]),
        kind="requestHeaders",
        headers=POST[:1],
        end=False,
        subset=["10.0.0.7:8000", "10.0.0.8:8000"],
    ),
    request(
        "empty subset hint", subset([]), kind="requestHeaders", headers=POST[:1], end=False, subset=[]
    ),
    request(
        "subset hint as text",
        subset("10.0.0.7:8000, 10.0.0.8:8000"),
        kind="requestHeaders",
        headers=POST[:1],
        end=False,
        subset=["10.0.0.7:8000", "10.0.0.8:8000"],
    ),
    request(
        "response headers",
        response_headers,
        kind="responseHeaders",
        headers=[[":status", "200"], ["content-type", "text/event-stream"]],
        end=False,
        served="10.0.0.7:8000",
    ),
    request("request body", request_body, kind="requestBody", body=(bytes(range(256)) * 2).hex(), end=False),
    request("end of request body", request_body_end, kind="requestBody", body="", end=True),
    request("end of response body", response_body_end, kind="responseBody", body=b"data: [DONE]\n\n".hex(), end=True),
    request("request trailers", request_trailers, kind="requestTrailers"),
    request("response trailers", response_trailers, kind="responseTrailers"),
]


def set_header(mutation, key, value):
    header = mutation.set_headers.add().header
    header.key = key
    header.raw_value = value.encode()


def route(m):
    common = m.request_headers.response
    common.clear_route_cache = True
    set_header(common.header_mutation, "x-gateway-destination-endpoint", "10.0.0.7:8000")
    set_header(common.header_mutation, "content-length", "512")
    set_header(common.header_mutation, "x-long", "v" * 300)
    common.header_mutation.remove_headers.append("x-llm-d-inference-objective")
    m.dynamic_metadata.fields["envoy.lb"].struct_value.fields[
        "x-gateway-destination-endpoint"
    ].string_value = "10.0.0.7:8000"


def streamed(field, body, end):
    def build(m):
        out = getattr(m, field).response.body_mutation.streamed_response
        out.body = body
        out.end_of_stream = end

    return build


def seen(m):
    set_header(m.response_headers.response.header_mutation, "x-went-into-resp-headers", "true")


def immediate(m):
    m.immediate_response.status.code = 503
    set_header(m.immediate_response.headers, "content-type", "application/json")
    set_header(
        m.immediate_response.headers, "x-llm-d-request-dropped-reason", "rejected-no-endpoints"
    )
    m.immediate_response.body = b'{"error":{}}'


def trailers(field):
    return lambda m: getattr(m, field).SetInParent()


RESPONSES = [
    response("route", route),
    response("request body, 17000 bytes", streamed("request_body", b"a" * 17000, False)),
    response("request body, last", streamed("request_body", b"b" * 100, True)),
    response("request body, empty and last", streamed("request_body", b"", True)),
    response("response headers", seen),
    response("response body, 200 bytes", streamed("response_body", b"c" * 200, False)),
    response("request trailers", trailers("request_trailers")),
    response("response trailers", trailers("response_trailers")),
    response("immediate response", immediate),
]

print(json.dumps({"requests": REQUESTS, "responses": RESPONSES}, indent=1))
