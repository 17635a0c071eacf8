"""A process that serves very many clients: connections that are left, requests that come at once again and again."""

import asyncio
import time

import psutil
import pytest

from folio.base.home import Home
from folio.server.listening import room_for_connections
from folio.server.security import Limits
from running import ask, connect, within
from test_serve import answered, serving
from tiny_models import write_weights

OPENED = 10_000
COUNT = 1000                # requests at once
LARGEST_GROWTH = 5_000_000  # bytes over four rounds; 0.6 MB were measured, and 2 kB kept of each request make 8 MB


@pytest.fixture
def process(tmp_path):
    """A server's process, and what psutil says of it."""
    if room_for_connections(OPENED + 100) < OPENED + 100:
        pytest.skip("this user may not open 10,000 files")
    write_weights(Home(tmp_path), "tiny")
    with serving(Home(tmp_path), "--queue", str(COUNT)) as server:
        server.measured = psutil.Process(server.process.pid)
        yield server


@pytest.mark.slow
@pytest.mark.campaign
def test_ten_thousand_connections_that_are_left_keep_nobody_out_and_are_closed(process):
    files, left, longest = process.measured.num_fds(), [], 0.0
    try:
        for number in range(OPENED):
            left.append(connect(process.port, 30))
            if number % 1000 == 999:
                asked = time.monotonic()
                assert ask(process.port)[0] == 200
                longest = max(longest, time.monotonic() - asked)
                assert process.measured.num_fds() <= files + Limits().connections + 10
        assert longest < 5
        within(60, lambda: process.measured.num_fds() <= files + 10)
        assert ask(process.port, "/health")[0] == 200
    finally:
        for connection in left:
            connection.close()


@pytest.mark.slow
@pytest.mark.campaign
def test_memory_is_flat_over_a_thousand_requests_at_once_again_and_again(process):
    async def all_of():
        return await asyncio.gather(*(answered(process.port, number, leaves=number % 10 == 7)
                                      for number in range(COUNT)))

    def numbers():
        texts = asyncio.run(all_of())
        assert [number for number, text in enumerate(texts) if text is None] == list(range(7, COUNT, 10))
        within(30, lambda: b'folio_running{model="tiny"} 0.0' in ask(process.port, "/metrics")[2])
        return process.measured.memory_info().rss, process.measured.num_fds(), process.measured.num_threads()
    numbers()
    first, files, threads = numbers()
    found = [numbers() for _ in range(4)]
    assert found[-1][0] - first < LARGEST_GROWTH, (first, found)
    assert found[-1][1:] == (files, threads)
