"""The stack of `llmd up` as its clients see it."""

import concurrent.futures
import itertools
import uuid

import openai
import pytest
from conftest import get, metrics, post, total

MODEL = "llmd-sim"


def fresh_prompt():
    """At least 64 tokens and a first word that no earlier prompt had."""
    return f"{uuid.uuid4()} " + "The quick brown fox jumps over the lazy dog. " * 4


def test_lists_models(stack):
    assert MODEL in [model.id for model in stack.client().models.list()]


def test_completes(stack):
    answer = stack.client().completions.create(model=MODEL, prompt=fresh_prompt(), max_tokens=12)
    assert answer.choices[0].text
    assert answer.usage.completion_tokens == 12
    assert answer.choices[0].finish_reason == "length"


def test_chats(stack):
    answer = stack.client().chat.completions.create(
        model=MODEL,
        messages=[
            {"role": "system", "content": "You are terse."},
            {"role": "user", "content": fresh_prompt()},
        ],
        max_tokens=12,
    )
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12


@pytest.mark.parametrize("chat", [False, True])
def test_streams_what_it_answers_unstreamed(stack, chat):
    client = stack.client()
    prompt = fresh_prompt()
    if chat:
        arguments = {"messages": [{"role": "user", "content": prompt}]}
        create = client.chat.completions.create
    else:
        arguments = {"prompt": prompt}
        create = client.completions.create
    # So many that some come apart however busy the machine is.
    arguments |= {"model": MODEL, "max_tokens": 300, "seed": 7, "temperature": 0,
                  "extra_body": {"ignore_eos": True}}
    whole = create(**arguments).choices[0]
    pieces, usage = [], None
    stream = create(**arguments, stream=True, stream_options={"include_usage": True})
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            pieces.append(choice.delta.content or "" if chat else choice.text)
    assert "".join(pieces) == (whole.message.content if chat else whole.text)
    assert len([piece for piece in pieces if piece]) > 5
    assert usage.completion_tokens == 300


@pytest.mark.parametrize("stream", [False, True])
def test_prefills_on_one_engine_and_decodes_on_another(stack, stream):
    status, headers, _ = post(
        stack.port,
        "/v1/completions",
        {"model": MODEL, "prompt": fresh_prompt(), "max_tokens": 16, "stream": stream},
    )
    assert status == 200
    prefill, decode = headers["x-llmd-prefill"], headers["x-llmd-decode"]
    assert prefill.startswith("prefill-") and decode.startswith("decode-")
    samples = metrics(stack.engine_port(decode))
    assert total(samples, "llmd_sim_kv_transfer_bytes_total") > 0
    assert total(samples, "llmd_sim_kv_transfer_mismatches_total") == 0


def test_same_prefix_goes_where_it_is_cached(stack):
    prompt = fresh_prompt()
    chosen = set()
    for _ in range(6):
        body = {"model": MODEL, "prompt": prompt, "max_tokens": 4}
        status, headers, _ = post(stack.port, "/v1/completions", body)
        assert status == 200
        chosen.add(headers["x-llmd-decode"])
    assert len(chosen) == 1


def test_warm_prompt_is_not_prefilled_elsewhere(stack):
    body = {"model": MODEL, "prompt": fresh_prompt(), "max_tokens": 4}
    assert "x-llmd-prefill" in post(stack.port, "/v1/completions", body)[1]
    assert "x-llmd-prefill" not in post(stack.port, "/v1/completions", body)[1]


def test_unknown_model_is_404(stack):
    with pytest.raises(openai.NotFoundError) as error:
        stack.client().completions.create(model="nothing", prompt="a")
    assert "nothing" in error.value.message


def test_metrics_of_the_gateway(stack):
    post(stack.port, "/v1/completions", {"model": MODEL, "prompt": "x", "max_tokens": 1})
    samples = metrics(stack.metrics_port)
    assert total(samples, "llm_d_epp_request_total", model_name=MODEL) >= 1
    assert total(samples, "llm_d_epp_ready_endpoints") == 4


def test_many_at_once(stack):
    client = stack.client()

    def ask(number):
        answer = client.completions.create(
            model=MODEL, prompt=f"{number} {fresh_prompt()}", max_tokens=8
        )
        return answer.usage.completion_tokens

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        assert list(pool.map(ask, range(100))) == list(itertools.repeat(8, 100))


def test_health(stack):
    assert get(stack.port, "/health")[0] == 200
