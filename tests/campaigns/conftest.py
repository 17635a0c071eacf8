"""The options of the campaigns, what leaves them out unless they are asked for, and the summary."""

import time

import pytest

from campaigns import engine, projects
from folio.base.parallel import cores

_SUMMARY = "campaign"
_SAMPLE_SEED = 1


def pytest_addoption(parser):
    group = parser.getgroup("campaigns")
    group.addoption("--campaign-seed", type=int, default=1, help="what all cases are drawn from (default: 1)")
    group.addoption("--campaign-scale", type=float, default=1.0, help="share of the cases to try (default: 1)")
    group.addoption("--campaign-case", type=int, help="try this case alone")


def pytest_collection_modifyitems(config, items):
    if "campaign" not in config.getoption("markexpr"):
        left_out = [item for item in items if item.get_closest_marker("campaign")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(params=["sample", pytest.param("full", marks=[pytest.mark.campaign, pytest.mark.slow])])
def attack(request, record_property):
    """attack(campaign, full, sample): try that many cases, or those of the command line; fails with those that fell."""
    option = request.config.getoption
    capture = request.config.pluginmanager.getplugin("capturemanager")
    shares_cores = hasattr(request.config, "workerinput")           # with the other workers of pytest-xdist

    def run(campaign, full, sample):
        is_full = request.param == "full"
        seed = option("campaign_seed", _SAMPLE_SEED) if is_full else _SAMPLE_SEED
        count = max(1, round(full * option("campaign_scale", 1.0))) if is_full else sample
        if count == 0:
            pytest.skip("it has no sample; -m campaign tries it")
        only = option("campaign_case", None)
        numbers = range(count) if only is None else [only]
        began = time.monotonic()
        processes = 1 if shares_cores or not is_full else cores()
        falls = []
        for number, fall in engine.run(campaign, numbers, seed, processes):
            if fall:
                falls.append((number, fall))
                if is_full:             # it takes minutes until the report
                    with capture.global_and_fixture_disabled():
                        print(f"\n{campaign.name}, case {number}: {fall[:300]}", end="", flush=True)
        seconds = time.monotonic() - began
        summary = f"{campaign.name}, seed {seed}: tried {len(numbers):,}, fell {len(falls):,} ({seconds:.0f} s)"
        record_property(_SUMMARY, summary)
        if falls:
            name = request.node.name.replace("sample", "full")
            again = f'python -m pytest {request.node.location[0]} -m campaign -k "{name}"'
            pytest.fail(f"{summary}\n{engine.report(falls)}\n"
                        f"Again: {again} --campaign-seed {seed} --campaign-case {min(falls)[0]}", pytrace=False)
    return run


def pytest_terminal_summary(terminalreporter):
    ended = [report for reports in terminalreporter.stats.values() for report in reports
             if getattr(report, "when", None) == "call"]
    lines = [value for report in ended for name, value in report.user_properties if name == _SUMMARY]
    if lines:
        terminalreporter.section("campaigns")
        for line in sorted(lines):
            terminalreporter.line(line)


@pytest.fixture(scope="session")
def trained_home(tmp_path_factory):
    """A project with a tokenizer, tokens, and a run "k"; it is copied, never changed."""
    return projects.trained(tmp_path_factory.mktemp("campaign") / "trained")
