"""The tests that openai-python brings with it, against our server. They are in its sdist alone, not in the package:

    pip download --no-deps --no-binary openai openai==3.57.0 && tar xf openai-3.57.0.tar.gz
    OPENAI_PYTHON_TESTS=openai-3.57.0 pytest -m slow tests/server/test_openai_suite.py
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tiny_server import NAME, serving

VARIABLE = "OPENAI_PYTHON_TESTS"
FILES = ("test_completions.py", "test_models.py", "chat/test_completions.py")
MODELS = ("gpt-3.5-turbo-instruct", "gpt-6-astra", "model")         # whose names the tests ask for
# What OpenAI stores, deletes and lists for an account, and requests whose values only OpenAI's mock server takes:
# logit_bias {"foo": 0}, a suffix, audio, functions.
LEFT_OUT = ("with_all_params", "not path_params and (delete or update)", "chat and list",
            "chat and retrieve and not path_params")
# The clients of the sdist's own conftest, which needs packages that nothing else here needs.
CONFTEST = '''
import asyncio
import inspect
import os

import openai
import pytest


def options(request):
    wanted = getattr(request, "param", True)
    strict = wanted if isinstance(wanted, bool) else wanted.get("strict", True)
    return dict(base_url=os.environ["TEST_API_BASE_URL"], api_key="none", max_retries=0,
                _strict_response_validation=strict)


@pytest.fixture
def client(request):
    with openai.OpenAI(**options(request)) as found:
        yield found


@pytest.fixture
def async_client(request):
    return openai.AsyncOpenAI(**options(request))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    if inspect.iscoroutinefunction(pyfuncitem.obj):
        async def call():
            fixtures = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
            try:
                await pyfuncitem.obj(**fixtures)
            finally:
                await fixtures["async_client"].close()
        asyncio.run(call())
        return True
'''


@pytest.mark.slow
def test_the_clients_own_tests_pass(tmp_path):
    if VARIABLE not in os.environ:
        pytest.skip(f"{VARIABLE} does not name the unpacked sdist of openai-python")
    tests = tmp_path / "tests"
    shutil.copytree(Path(os.environ[VARIABLE]) / "tests", tests)
    (tests / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    weights = tmp_path / "project" / "Saved_Weights"
    with serving(tmp_path / "project") as server:
        for name in MODELS:
            shutil.copy(weights / f"weights-{NAME}.pth", weights / f"weights-{name}.pth")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "--tb=line", "-p", "no:cacheprovider", "-c", os.devnull,
             "--rootdir", tmp_path, *(tests / "api_resources" / name for name in FILES),
             "-k", " and ".join(f"not ({words})" for words in LEFT_OUT)],
            cwd=tmp_path, env={**os.environ, "TEST_API_BASE_URL": server.address + "/v1"}, capture_output=True,
            encoding="utf-8")
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 100, done.stdout
