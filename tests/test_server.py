"""The server engine against a stand-in for vLLM's server: what it sends, and what it makes of the responses."""

import json
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from conftest import RUNTIME

from stages.core.errors import UserError
from stages.inference.engines import ALTERNATIVES, Completion, Number, Request, Sampling, seed_of
from stages.inference.engines.server import ServerEngine
from stages.inference.store import Store

DIGEST = "0123456789abcdef" * 4
SAMPLING = Sampling(temperature=0.7, top_p=0.9, max_tokens=8, random_state=0, numbers=True)
REQUEST = Request("Which is larger?", (5, 6, 7), 1)
TOKENS = ["is", " ", "7", " or", " 8"]
CHOICE = {
    "index": 0,
    "text": "".join(TOKENS),
    "finish_reason": "stop",
    "logprobs": {
        "tokens": TOKENS,
        "text_offset": [20, 22, 23, 24, 27],
        "token_logprobs": [-0.1] * 5,
        "top_logprobs": [{token: -0.12345678, "9": -2.0} for token in TOKENS],
    },
}


class Server(ThreadingHTTPServer):
    """Serves one model, answers every completion with `choice`, and keeps what it was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.choice, self.received = dict(CHOICE), []

    def engine(self, tiny_model, digest: str = DIGEST) -> ServerEngine:
        url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        return ServerEngine(tiny_model, digest, RUNTIME.server.model_copy(update={"url": url, "retries": 0}))


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.respond({"object": "list", "data": [{"id": "lance-0123456789abcdef", "object": "model"}]})

    def do_POST(self) -> None:
        self.server.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        usage = {"prompt_tokens": 3, "completion_tokens": 6, "total_tokens": 9}
        self.respond({"id": "1", "object": "text_completion", "choices": [self.server.choice], "usage": usage})

    def respond(self, body: dict) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *arguments) -> None:
        """Print nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        Thread(target=server.serve_forever).start()
        yield server
        server.shutdown()


def test_a_request_is_sent_as_tokens_with_the_seed_of_its_draw(server, tiny_model):
    ((request, completion),) = server.engine(tiny_model).complete([REQUEST], SAMPLING)
    assert (request, completion) == (REQUEST, Completion("is 7 or 8", "stop", prompt_tokens=3, tokens=6))
    (body,) = server.received
    assert body == {
        "model": "lance-0123456789abcdef",
        "prompt": [5, 6, 7],
        "max_tokens": 8,
        "temperature": 0.7,
        "top_p": 0.9,
        "seed": seed_of(REQUEST.prompt, SAMPLING, 1),
        "logprobs": ALTERNATIVES,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
    }


@pytest.mark.parametrize(("prompt", "starts"), [("Which is larger?", [3, 4, 7]), ("3 + 4", [0, 3, 4, 7])])
def test_numbers_start_where_a_digit_or_the_token_after_one_stands(server, tiny_model, prompt, starts):
    request = Request(prompt, (5, 6, 7), 0)
    ((_, completion),) = server.engine(tiny_model).complete([request], SAMPLING)
    assert [number.start for number in completion.numbers] == starts
    assert completion.numbers[-1] == Number(7, {" 8": -0.123457, "9": -2.0})


def test_everywhere_is_at_every_token(server, tiny_model):
    everywhere = replace(SAMPLING, numbers="everywhere")
    ((_, completion),) = server.engine(tiny_model).complete([REQUEST], everywhere)
    assert [number.start for number in completion.numbers] == [0, 2, 3, 4, 7]


def test_half_of_a_surrogate_pair_in_an_answer_becomes_the_sign_for_a_part_of_one(server, tiny_model, tmp_path):
    likely = [*CHOICE["logprobs"]["top_logprobs"][:-1], {"\ud83d": -3.0}]
    server.choice |= {"text": "cut \ud83d", "logprobs": CHOICE["logprobs"] | {"top_logprobs": likely}}
    ((_, completion),) = server.engine(tiny_model).complete([REQUEST], SAMPLING)
    assert completion.text == "cut \ufffd"
    assert completion.numbers[-1].logprobs["\ufffd"] == -3.0
    store = Store(tmp_path / "store.sqlite", max_gb=1)
    store.put(b"key", completion)
    assert store.find([b"key"]) == {b"key": completion}


def test_a_server_without_log_probabilities_is_an_error_that_says_what_to_do(server, tiny_model):
    server.choice["logprobs"] = None
    with pytest.raises(UserError, match=r"runtime\.server\.url .* no log-probabilities.*review\.estimator: sampled"):
        list(server.engine(tiny_model).complete([REQUEST], SAMPLING))


def test_a_completion_that_the_server_ended_for_another_reason_is_an_error(server, tiny_model):
    server.choice["finish_reason"] = "content_filter"
    with pytest.raises(UserError, match=r"runtime\.server\.url .*'content_filter'.*turn off"):
        list(server.engine(tiny_model).complete([REQUEST], SAMPLING))


def test_a_server_with_another_model_is_an_error_that_says_how_to_start_the_right_one(server, tiny_model):
    with pytest.raises(
        UserError, match=r"serves lance-0123456789abcdef, not .*vllm serve .* lance-f{16} --dtype float32$"
    ):
        server.engine(tiny_model, "f" * 64)
