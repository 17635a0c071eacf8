"""The examples in the docstrings are true."""

import doctest
import importlib

import pytest

from test_layers import FILES

WITH_EXAMPLES = [module for module, path in FILES.items() if ">>> " in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_the_examples_in_a_module_are_true(module):
    results = doctest.testmod(importlib.import_module(module))
    assert results.attempted and not results.failed
