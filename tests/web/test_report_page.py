"""python -m folio.report: the file about a tiny run that was really trained, in Chromium; and runs that lack something.

The text has HTML in it, so everything that shows it has to escape it.
"""

import json
import os
import re
import shutil
import signal
import sys

import numpy as np
import pytest

from browser import browser  # noqa: F401  (a fixture)
from conftest import ROOT, refusal, run_python, run_script
from folio import evaluate, report
from folio.base.errors import FolioError
from folio.base.home import Home
from folio.cli.command_line import sentence
from folio.evaluation import baselines
from folio.evaluation.copying import Copying, MatchLengths
from folio.evaluation.passages import TokenCosts
from folio.formats import run_log
from folio.formats.run_list import Run
from folio.pictures import report_page, report_sections
from folio.pictures.html import data_element, element, joined
from tiny_models import write_weights
from tokenizer import BPETokenizer
from training_runs import run_train, wait_for

WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 360, "height": 740}
NAME = "night"
LINES = ["<b>Merran</b> said: <script>alert(1)</script> & so on.", "The wheel </script> is still, and № 7 is away.",
         "Кто там? <img src=x onerror=alert(2)> Никого.", "\"Four hundred,\" said Sevane; 'good', said the miller."]
TEXT = "".join(f"{number}. {LINES[number * 7 % 4]}\n" for number in range(600))
SECTIONS = ["What came out", "Yardsticks", "Learning", "What it wrote while it learned", "What surprises it",
            "Hardest passages", "Does it copy?", "Tokens by script", "Settings"]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with a run that was trained."""
    home = Home(tmp_path_factory.mktemp("project"))
    home.train_data.mkdir()
    (home.train_data / "input.txt").write_text(TEXT, encoding="utf-8")
    size = ["--num-layers", "1", "--num-heads", "2", "--emb-len", "32", "--block-size", "32"]
    length = ["--steps", "20", "--eval-interval", "5", "--sample-tokens", "30", "--threads", "1"]
    for script, words in (("init.py", ["--vocab-size", "320"]), ("train.py", ["--name", NAME, *size, *length])):
        done = run_script(script, "--home", home.folder, *words)
        assert done.returncode == 0, done.stderr
    return home


@pytest.fixture(scope="module")
def written(project):
    """The report that the command writes, as a process of its own."""
    done = run_python("-m", "folio.report", NAME, "--home", project.folder, "--samples", "2")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    path = project.saved_weights / f"report-{NAME}.html"
    assert re.fullmatch(rf"{NAME}: a report of \d+ kB, for any browser -> {re.escape(str(path))}\n", done.stdout)
    return path


@pytest.fixture
def open_report(browser):  # noqa: F811
    """Return a function that opens a report; in the end it asked for nothing, and said nothing on the console."""
    contexts, said, asked = [], [], []

    def open_it(path, viewport=WIDE, scheme="light"):
        context = browser.new_context(viewport=viewport, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector(".part")
        return page
    yield open_it
    for context in contexts:
        context.close()
    assert said == [] and [url for url in asked if not url.startswith("file:")] == []
    assert len(asked) == len(contexts)


def run_report(monkeypatch, capsys, *words):
    """Run the command in this process. -> exit code, stdout, stderr"""
    monkeypatch.setattr(sys, "argv", ["report.py", *map(str, words)])
    try:
        report.main()
    except (ValueError, OSError) as error:              # as the front door does
        print(sentence(error), file=sys.stderr)
        return 1, *capsys.readouterr()
    return 0, *capsys.readouterr()


def point_at(page, index, run=0):
    """Move the pointer to a piece of a passage, in the middle of the window."""
    piece = page.locator(".passage").nth(run).locator("> span").nth(index)
    x, y = piece.evaluate("""(span) => {
        span.scrollIntoView({block: "center"});
        const {left, top, width, height} = span.getClientRects()[0];
        return [left + width / 2, top + height / 2];
    }""")
    page.mouse.move(x, y)


# --- The file ---

def test_all_sections_are_there_and_the_file_is_small(written, open_report):
    page = open_report(written)
    assert page.locator("h2").all_inner_texts() == SECTIONS
    assert page.locator(".missing").all_inner_texts() == []
    assert page.title() == f"{NAME}: report" and page.locator("h1").inner_text() == NAME
    assert written.stat().st_size < 500_000
    assert not re.search(r"(?:src|href)=", written.read_text(encoding="utf-8").split("<body>")[0])


def test_what_the_text_says_shows_as_itself(written, open_report):
    page = open_report(written)
    passage = page.locator(".passage").inner_text().replace("⏎", "")
    assert passage.strip() in TEXT and len(passage) > 1000
    assert "<b>Merran</b> said: <script>alert(1)</script> & so on." in passage
    assert page.evaluate("document.querySelectorAll('script').length") == 2         # the data, and the program
    assert page.evaluate("document.querySelectorAll('.report :is(img, b + script)').length") == 0


def test_pointing_at_a_piece_says_what_it_cost_and_what_was_expected(written, open_report):
    page = open_report(written)
    [pieces] = page.evaluate("RUNS.map((run) => run.pieces)")
    hardest = max(range(len(pieces)), key=lambda index: pieces[index][0])
    point_at(page, hardest)
    shown, bits = page.locator(".readout-line").inner_text(), pieces[hardest][0]
    assert f"{bits:.1f} bits, 1 chance in {round(2 ** bits):,}." in shown or abs(bits % 0.1 - 0.05) < 0.01
    assert page.locator(".readout-line q").count() == report.EXPECTED
    assert page.locator(".passage > span").nth(hardest).get_attribute("class").startswith("surprise-")
    page.mouse.move(2, 2)
    assert page.locator(".readout-line").inner_text() == page.locator(".readout-line").get_attribute("data-default")


def test_the_arrow_keys_go_from_piece_to_piece(written, open_report):
    page = open_report(written)
    page.locator(".passage").focus()
    for key, place in (("ArrowRight", 0), ("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1)):
        page.keyboard.press(key)
        assert page.evaluate("[...document.querySelectorAll('.passage > span')]"
                             ".findIndex((span) => span.classList.contains('here'))") == place
    page.keyboard.press("Tab")
    assert page.locator(".here").count() == 0


def test_the_cost_of_the_passage_is_that_of_the_model(project, written, open_report):
    from folio.generation.language_model import load
    page = open_report(written)
    [pieces] = page.evaluate("RUNS.map((run) => run.pieces)")
    for bits, expected in pieces:
        likelihoods = [likely for _, likely in expected]
        assert likelihoods == sorted(likelihoods, reverse=True) and sum(likelihoods) <= 1.001
        assert 2 ** -bits <= 1.01 * likelihoods[0] + 0.001              # nothing is likelier than the likeliest
    text = "".join(page.locator(".passage > span").all_text_contents()).replace("⏎", "")
    measured = load(project.weights(NAME)).surprise(text)
    assert sum(bits for _, bits in measured) == pytest.approx(sum(bits for bits, _ in pieces), rel=0.05)
    assert float(page.locator(".readout-line").inner_text().split()[1]) == pytest.approx(
        sum(bits for bits, _ in pieces) / len(text.encode("utf-8")), abs=0.01)


def test_the_yardsticks_are_those_of_evaluate(project, written, open_report, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "--weights", NAME, "--home", str(project.folder), "--samples=0",
                                      "--json"])
    evaluate.main()
    found = json.loads(capsys.readouterr().out)
    page = open_report(written)
    rows = page.locator("#yardsticks tbody tr").evaluate_all(
        "(rows) => rows.map((row) => [...row.children].map((cell) => cell.textContent))")
    own, yardsticks = found["bits_per_byte"], found["baselines"]
    assert rows == [["the model", "", f"{own:.3f}", ""], *(
        [each["name"], "", f"{each['bits_per_byte']:.3f}", f"{own / each['bits_per_byte']:.2f}"]
        for each in yardsticks["measured"])]
    assert page.locator("#yardsticks .verdict").inner_text() == f"In plain words: {found['quality']}."
    assert f"In plain words: {found['quality']}." in page.locator("#summary .lead").inner_text()
    assert page.locator("#yardsticks .extent").inner_text() == (
        f"Measured on {found['bytes']:,} bytes of held-out text; the training text has "
        f"{yardsticks['train_bytes']:,} bytes.")


def test_the_slider_moves_through_the_samples_of_the_log(project, written, open_report):
    page = open_report(written)
    samples = [line for line in run_log.read(project.log(NAME)) if "sample" in line]
    assert page.locator("#slider").get_attribute("max") == str(len(samples) - 1) and len(samples) >= 3
    assert page.locator("#sample-title").inner_text() == "After 20 steps"
    page.locator("#slider").focus()
    page.keyboard.press("Home")
    assert page.locator("#sample-title").inner_text() == f"After {samples[0]['step']} steps"
    shown = page.evaluate("document.querySelector('#sample-texts blockquote').textContent")
    assert shown == page.evaluate("RUNS[0].samples[0][1]") and shown.replace("\\", "")[:3] in samples[0]["sample"]
    lines = page.evaluate("[...document.querySelectorAll('.cursor')].map((line) => Number(line.getAttribute('x1')))")
    assert len(lines) == 3 and all(52 < x < 1100 for x in lines)


def test_curves_over_steps_and_over_time(project, written, open_report):
    page = open_report(written)
    last = run_log.read(project.log(NAME))[-1]
    readout = page.locator(".readout").all_inner_texts()
    assert readout[0] == f"validation text {last['val_nats_per_byte']:.3f} at step 20"
    assert "0 steps" in page.locator("#loss-curves .tick").all_text_contents()
    page.locator("input[value=seconds]").check()
    assert any(re.fullmatch("0 (seconds|minutes)", tick)
               for tick in page.locator("#loss-curves .tick").all_text_contents())
    assert "seconds" in page.locator("#loss-curves svg").get_attribute("aria-label")


def test_tokens_by_script_names_the_scripts_of_the_text(written, open_report):
    page = open_report(written)
    rows = page.locator(".scripts tbody tr").evaluate_all(
        "(rows) => rows.map((row) => [...row.children].map((cell) => cell.textContent))")
    shares = {name: [float(share.split()[-2]) if "%" in share else 0 for share in cells[:2]] for name, *cells in rows}
    assert {"Latin", "Cyrillic", "punctuation", "digits", "parts of characters"} <= set(shares)
    assert all(abs(sum(each[place] for each in shares.values()) - 100) < 1 for place in (0, 1))
    assert shares["Latin"][1] > shares["Cyrillic"][1] > 0 == shares["parts of characters"][1]


def test_settings_are_those_of_the_run(written, open_report):
    page = open_report(written)
    own = page.locator("#settings tbody tr").evaluate_all(
        "(rows) => rows.map((row) => [...row.children].map((cell) => cell.textContent))")
    values = {name: value for name, value, _ in own}
    assert values["vocab-size"] == "320" and values["block-size"] == "32" and values["steps"] == "20"
    assert all(meaning for _, _, meaning in own)
    page.locator("summary").click()
    assert page.get_by_text("weight-decay", exact=True).is_visible()


@pytest.mark.parametrize("scheme, viewport", [("dark", WIDE), ("light", PHONE)], ids=["wide", "phone"])
def test_axe_finds_no_violation(written, open_report, scheme, viewport):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = open_report(written, viewport, scheme)
    page.locator("summary").click()
    point_at(page, 5)
    found = axe.Axe().run(page).response["violations"]
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]


def test_the_button_changes_the_theme(written, open_report):
    page = open_report(written)
    color = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(color)
    page.locator("#theme").click()
    dark = page.evaluate(color)
    page.locator("#theme").click()
    assert dark != light == page.evaluate(color)


# --- Several runs, and runs that lack something ---

@pytest.fixture(scope="module")
def twins(project, tmp_path_factory):
    """The project with a second run: the same weights, and a log with losses that are higher by 1."""
    home = Home(tmp_path_factory.mktemp("twins") / "home")
    shutil.copytree(project.folder, home.folder)
    shutil.copy(home.weights(NAME), home.weights("dawn"))
    home.log("dawn").write_text("".join(
        json.dumps(line | {"val_nats_per_byte": line["val_nats_per_byte"] + 1} if "val_nats_per_byte" in line else line)
        + "\n" for line in run_log.read(home.log(NAME))), encoding="utf-8")
    return home


def test_two_runs_side_by_side(twins, open_report, tmp_path, monkeypatch, capsys):
    path = tmp_path / "two.html"
    code, out, err = run_report(monkeypatch, capsys, "--home", twins.folder, "dawn", NAME, "--to", path, "--samples", 0)
    assert (code, err) == (0, "") and out.startswith(f"dawn, {NAME}: a report of ")
    page = open_report(path)
    assert page.locator("h1 .run-tag").all_inner_texts() == ["dawn", NAME]
    one, two = page.locator(".readout").all_inner_texts()
    values = [float(re.search(r"\d+\.\d+", words)[0]) for words in (one, two)]
    assert one.startswith("dawn ") and two.startswith(NAME) and abs(values[0] - values[1] - 1) < 0.0011
    assert page.locator("#sample-texts figure").count() == 2
    one, two = page.locator(".passage").all_inner_texts()
    assert one == two and len(one) > 1000
    assert page.locator("#copying .missing, #copying .lead").all_inner_texts() == [
        "Copies were not looked for (--samples 0)."]
    point_at(page, 4, run=1)
    assert "bits" in page.locator(".readout-line").nth(1).inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= WIDE["width"]


def test_runs_that_differ_in_settings_have_these_in_the_table():
    runs = [report_page.RunReport(Run(name, settings={"emb_len": size, "seed": 1}), [])
            for name, size in (("one", 64), ("two", 128))]
    assert report_sections.differing(runs) == ["emb_len"]
    assert "emb-len" in report_sections.summary(runs) and "seed" not in report_sections.summary(runs)


@pytest.fixture
def odd(project, tmp_path):
    """A project without text that has a run of each kind."""
    home = Home(tmp_path / "odd")
    home.saved_weights.mkdir(parents=True)
    shutil.copy(project.weights(NAME), home.weights("weights"))
    shutil.copy(project.log(NAME), home.log("log"))
    home.weights("damaged").write_bytes(b"no weights at all")
    write_weights(home, "imported")
    return home


def sections_of(page):
    """{heading: all text of its section}"""
    return dict(page.locator(".part").evaluate_all(
        "(parts) => parts.map((part) => [part.querySelector('h2').textContent, part.innerText])"))


def test_a_run_without_its_text_says_so(odd, open_report, tmp_path, monkeypatch, capsys):
    path = tmp_path / "odd.html"
    assert run_report(monkeypatch, capsys, "--home", odd.folder, "weights", "--to", path, "--samples", 1)[0] == 0
    found = sections_of(open_report(path))
    for name in ("Yardsticks", "What surprises it", "Hardest passages", "Does it copy?"):
        assert "There is no held-out text here to measure on" in found[name]
    assert "There is no log of this run here" in found["Learning"]
    assert "Here is what it writes now" in found["What it writes"] and "Latin" in found["Tokens by script"]


def test_a_log_alone_is_drawn(odd, open_report, tmp_path, monkeypatch, capsys):
    path = tmp_path / "odd.html"
    assert run_report(monkeypatch, capsys, "--home", odd.folder, "log", "--to", path)[0] == 0
    page = open_report(path)
    found = sections_of(page)
    assert page.locator(".curve").count() >= 4 and page.locator("#slider").is_enabled()
    assert "There are no weights of this run here" in found["What surprises it"]
    assert "block-size\t32" in found["Settings"]                        # from the first report


def test_a_log_without_settings_says_so(odd, open_report, tmp_path, monkeypatch, capsys):
    odd.log("log").write_text('{"step": 5, "seconds": 1.0}\n', encoding="utf-8")
    path = tmp_path / "odd.html"
    assert run_report(monkeypatch, capsys, "--home", odd.folder, "log", "--to", path)[0] == 0
    assert "No file of this run says what it was trained with." in sections_of(open_report(path))["Settings"]


def test_damaged_weights_are_told_and_not_run(odd, open_report, tmp_path, monkeypatch, capsys):
    path = tmp_path / "odd.html"
    assert run_report(monkeypatch, capsys, "--home", odd.folder, "damaged", "--to", path)[0] == 0
    found = sections_of(open_report(path))
    assert "The files of this run are damaged." in found["What came out"]
    assert "is not a valid Folio checkpoint" in found["Hardest passages"]


def test_an_imported_model_is_measured_on_the_text_of_the_project(twins, open_report, tmp_path, monkeypatch, capsys):
    write_weights(twins, "imported")
    path = tmp_path / "imported.html"
    assert run_report(monkeypatch, capsys, "--home", twins.folder, "imported", "--to", path, "--samples", 1)[0] == 0
    page = open_report(path)
    found = sections_of(page)
    assert "This model was imported" in found["What came out"] and "state" in found["What came out"]
    assert page.locator(".passage").inner_text().replace("⏎", "").strip() in TEXT
    twins.weights("imported").unlink()


def test_a_run_that_went_on_with_other_settings_says_so():
    log = [{"step": 5, "settings": {"steps": 50, "seed": 1}}, {"step": 50},
           {"step": 60, "settings": {"steps": 90, "seed": 1, "patience": 3}}, {"step": 61, "settings": None}]
    assert list(report.changes_of_settings(log)) == [
        "Settings that changed by step 60: steps from 50 to 90, patience from – to 3."]


def test_a_run_that_was_stopped_says_how_to_go_on():
    stopped = report_page.RunReport(Run("night", state="unfinished", go_on="python train.py --resume --name night",
                                        steps=40, planned_steps=100), [])
    page = report_sections.summary([stopped])
    assert "was stopped before its end. To continue: python train.py --resume" in page and "40 of 100" in page


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGINT")
def test_a_run_that_was_interrupted_is_reported_as_far_as_it_came(project, open_report, tmp_path, monkeypatch, capsys):
    home = Home(tmp_path / "home")
    shutil.copytree(project.folder, home.folder)
    process = run_train(home, "--name", "cut", "--steps", 100_000, "--emb-len", 16, "--num-layers", 1, "--num-heads", 1,
                        "--eval-interval", 5, "--sample-tokens", 20, "--threads", 1, "--no-compile", "--precision",
                        "fp32")
    wait_for(process, lambda: any("sample" in line for line in run_log.read(home.log("cut"))))
    process.send_signal(signal.SIGINT)
    assert "To continue: python train.py --resume --name cut" in process.communicate(timeout=60)[0]
    path = tmp_path / "cut.html"
    assert run_report(monkeypatch, capsys, "--home", home.folder, "--to", path, "--samples", 1)[0] == 0   # the newest
    page = open_report(path)
    found = sections_of(page)
    last = run_log.read(home.log("cut"))[-1]["step"]
    assert "This run was stopped before its end." in found["What came out"]
    assert f"To continue: python train.py --resume --name cut --home {home.folder}" in found["What came out"]
    assert f"steps\n{last:,}" in found["What came out"] and "In plain words: " in found["Yardsticks"]
    assert "emb-len\t16" in found["Settings"] and page.locator("#slider").get_attribute("max") is not None


# --- What is refused ---

def test_a_foreign_file_is_left_as_it_is_and_a_report_is_replaced(odd, tmp_path, monkeypatch, capsys):
    path = tmp_path / "page.html"
    path.write_text("<p>mine", encoding="utf-8")
    code, out, err = run_report(monkeypatch, capsys, "--home", odd.folder, "log", "--to", path)
    assert (code, out) == (1, "") and "is not a report of Folio" in err and path.read_text("utf-8") == "<p>mine"
    path.unlink()
    for _ in range(2):
        assert run_report(monkeypatch, capsys, "--home", odd.folder, "log", "--to", path)[0] == 0


def test_what_cannot_be_done_is_one_sentence(odd, tmp_path):
    empty = refusal(run_python("-m", "folio.report", "--home", tmp_path / "empty"))
    assert "There is no run in" in empty and "python train.py" in empty
    assert not (tmp_path / "empty").exists()


@pytest.mark.parametrize("words, problem", [
    (["wieghts"], "There is no run wieghts; did you mean weights?"),
    (["log", "--device", "warp"], None)])
def test_an_unknown_name_is_told(odd, words, problem, monkeypatch, capsys):
    code, out, err = run_report(monkeypatch, capsys, "--home", odd.folder, *words)
    assert (code == 1 and problem in err) if problem else code == 0         # a log needs no device


def test_more_runs_than_fit_are_refused(tmp_path):
    home = Home(tmp_path)
    home.saved_weights.mkdir()
    for number in range(report_sections.MAX_RUNS + 1):
        home.log(f"run{number}").write_text('{"step": 1}\n', encoding="utf-8")
    with pytest.raises(FolioError, match="7 runs are too many for one report: name 6 or fewer"):
        report.find_runs(home, ["run*"])
    assert [run.name for run in report.find_runs(home, ["run3", "run1", "run3"])] == ["run3", "run1"]


# --- Parts ---

def test_no_text_ends_the_element_it_is_in():
    bad = "</script><!-- <b> \x1b[31m \udc80"
    assert "<" not in re.sub(r"^<script[^>]*>|</script>$", "", data_element("data", [bad]))
    assert element("p", bad, title=bad).count("<") == 2 and '"</' not in element("p", title='"</')
    joined(element("p", bad)).encode("utf-8")


def test_names_and_settings_of_a_run_are_escaped(tmp_path, open_report):
    bad = "<img src=x onerror=alert(1)></script><b>"
    log = [{"step": 1, "seconds": 1.0, "val_nats_per_byte": 2.0, "sample": bad}]
    run = Run(bad, state="log only", settings={"pattern": bad}, differs={"pattern": bad}, problems=[bad])
    path = tmp_path / "bad.html"
    path.write_text(report_page.report_page([report_page.RunReport(run, log, dict.fromkeys(report.MEASURED, bad))],
                                            helps={"pattern": bad}, made=bad), encoding="utf-8")
    page = open_report(path)
    assert page.locator("h1").inner_text() == page.locator("#sample-texts blockquote").inner_text() == bad
    assert page.evaluate("document.querySelectorAll('img, main script').length") == 0


def test_the_typical_passage_costs_what_the_whole_text_does():
    tokenizer = BPETokenizer([])
    tokens = np.frombuffer(b"aaaa\n" * 60, np.uint8).astype(np.int64)
    nats = np.ones(300, np.float32)
    nats[:100], nats[200:] = 9, 5
    costs = TokenCosts(tokens, nats, nats > 0, np.ones(300, np.int64))
    start = report.typical_start(costs, tokenizer, 50)
    assert start % 5 == 0 and abs(nats[start:start + 50].mean() - nats.mean()) < 0.2
    assert report.typical_start(costs, tokenizer, 1000) == 0                # longer than the text


@pytest.mark.parametrize("mean, longest, verdict", [
    (8.0, 24, "It copies no more than held-out text does."), (10.1, 24, "It copies more than held-out text does."),
    (8.0, 500, "its longest copy has 500 bytes, and held-out text's 22")])
def test_one_long_copy_is_told_even_if_the_mean_is_that_of_held_out_text(mean, longest, verdict):
    found = Copying(MatchLengths(6000, mean, longest, ""), MatchLengths(6000, 8.0, 22, ""), 1, 1)
    assert verdict in report_sections.copying_verdict(found)


def test_the_levels_of_surprise_are_those_of_the_writing_page():
    source = (ROOT / "folio" / "web" / "surprise.js").read_text(encoding="utf-8")
    assert f"SURPRISE_LEVELS = {list(report_sections.SURPRISE_LEVELS)};" in source


def test_numbers_that_json_does_not_have_are_left_out():
    log = [{"step": 1, "seconds": float("nan"), "learning_rate": float("inf"), "tokens_per_second": "many"}]
    [run] = report_page.data_of([report_page.RunReport(Run("night"), log)])["runs"]
    assert run["curves"]["step"] == [1] and run["curves"]["seconds"] == run["curves"]["learning_rate"] == [None]


def test_a_long_log_is_thinned_and_an_old_one_has_its_loss_in_nats():
    log = [{"step": step, "val_bpb" if step % 9 == 0 else "train_loss": 1.0, "sample": "x"} for step in range(1, 9001)]
    [run] = report_page.data_of([report_page.RunReport(Run("night"), log)])["runs"]
    curves = run["curves"]
    assert 1000 < len(curves["step"]) <= 2 * report_page.MOST_REPORTS + 2 and curves["step"][-1] == 9000
    losses = {step: loss for step, loss in zip(curves["step"], curves["val_nats_per_byte"]) if loss is not None}
    assert len(losses) == 1000 and set(losses.values()) == {0.693147}
    assert len(run["samples"]) <= report_page.MOST_SAMPLES + 1 and run["samples"][-1][0] == 9000


def test_a_long_held_out_text_is_measured_in_part(twins, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "MEASURED_TOKENS", 900)
    monkeypatch.setattr(baselines, "LEARNED_BYTES", 5000)
    path = tmp_path / "part.html"
    assert run_report(monkeypatch, capsys, "--home", twins.folder, NAME, "--to", path, "--samples", 0)[0] == 0
    page = path.read_text("utf-8")
    assert re.search(r"Measured on the first 900 of [\d,]+ tokens of the held-out text\.", page)
    measured = int(re.search(r"Measured on ([\d,]+) bytes of held-out text; ", page)[1].replace(",", ""))
    assert 900 < measured < len(TEXT.encode("utf-8")) / 20
    assert "The yardsticks have seen only the first 5,000 of" in page


@pytest.mark.slow
def test_the_report_on_the_shipped_model_is_small(tmp_path):
    done = run_python("-m", "folio.report", "pretrained", "--to", tmp_path / "shipped.html")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "shipped.html").stat().st_size < 300_000             # 2 MB are allowed
