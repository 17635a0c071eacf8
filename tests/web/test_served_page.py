"""The page of a server in Chromium, with the shipped model and small ones behind it, and no way to anywhere else."""

import json
import threading
import time
from contextlib import contextmanager

import pytest

from browser import browser  # noqa: F401  (a fixture)
from conftest import ROOT
from folio.base.home import Home
from folio.server import listening
from folio.server.app import create_app
from folio.server.models import Models
from folio.server.security import Access, Keys, Limits
from running import running
from tiny_models import write_weights

WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 360, "height": 740}
SEEN = "TIBBY:\nI heard it creak!\n\nVARROW:\nAnd did you hear it creak eleven times?"
KEY = "a-key-of-more-than-16-characters"


def report(step, **more):
    """A line of a run's log."""
    return {"step": step, "seconds": step / 10, "train_nats_per_byte": 3 - step / 200, "learning_rate": 0.01,
            "tokens_per_second": 9000 + step} | more


LOG = [report(step, **({"val_nats_per_byte": 3 - step / 300, "val_bpb": 4.3, "sample": f"a sample of step {step}"}
                       if step % 50 == 0 else {})) for step in range(10, 201, 10)]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    made = Home(tmp_path_factory.mktemp("project"))
    for folder in ("Train_Data", "Saved_Weights"):
        (made.folder / folder).mkdir()
    (made.train_data / "input.txt").write_bytes((ROOT / "Train_Data" / "input.txt").read_bytes())
    name = "weights-pretrained.pth"
    (made.saved_weights / name).write_bytes((ROOT / "Saved_Weights" / name).read_bytes())
    write_weights(made, "small", written_at=1_700_000_000)
    for run, scale in (("night", 1), ("dawn", 0.9)):
        made.log(run).write_text("".join(json.dumps(line | {"train_nats_per_byte": scale * line["train_nats_per_byte"]})
                                         + "\n" for line in LOG), encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def models(home):
    made = Models(home, home.weights("pretrained"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def server(models):
    with running(models) as served:
        yield served


@pytest.fixture
def open_page(browser, server):
    """Return a function that opens the page; in the end nothing was said on a console, nor asked of another server."""
    contexts, said, asked = [], [], []

    def open_it(viewport=WIDE, context=None, port=server.port, path="", **options):
        if context is None:
            context = browser.new_context(viewport=viewport, **options)
            contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"http://127.0.0.1:{port}/{path}")
        until(page, "page.writing.engine !== null || document.querySelector('dialog[open]') !== null")
        return page
    open_it.said = said
    yield open_it
    for context in contexts:
        context.close()
    assert said == [] and [url for url in asked if not url.startswith(("http://127.0.0.1:", "blob:"))] == []


def until(page, expression, seconds=20):
    """Wait until an expression is true; wait_for_function would need eval, which the page's policy forbids."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        page.wait_for_timeout(20)


def text_of(page):
    area, story = page.evaluate("[page.at.text.value, page.writing.story.text]")
    assert area == story
    return area


def idle(page):
    until(page, "page.writing.running === null")
    page.evaluate("page.writing._finished")


def settle(page, tokens=20, seed=7, **more):
    """Give an answer a length and a seed."""
    page.evaluate("(values) => { page.writing.values = values; }", {"tokens": tokens, "sampling_seed": seed} | more)


def color(page, name):
    page.locator(f"label:has(input[value={name}])").click()


def painted(page, name):
    return page.evaluate("(name) => [...(CSS.highlights.get(name) || [])].map((range) => range.toString())", name)


def test_an_answer_is_the_one_of_python_and_streams_into_the_text(open_page, models):
    page = open_page()
    settle(page, 40)
    page.keyboard.insert_text("MERRAN:\nThe sea")
    page.keyboard.press("Tab")
    until(page, "page.writing.story.text.length > 20")                  # before it is complete
    idle(page)
    model = models.get_now("pretrained").model
    assert text_of(page) == "MERRAN:\nThe sea" + model.complete("MERRAN:\nThe sea", tokens=40, sampling_seed=7)
    page.keyboard.press("Control+Shift+Enter")
    idle(page)
    assert page.locator("#fork-count").inner_text() == "2/2"
    page.keyboard.press("Alt+PageUp")
    assert page.locator("#fork-count").inner_text() == "1/2"


def test_several_answers_come_side_by_side_and_escape_stops_them(open_page, models):
    page = open_page()
    settle(page, 12)
    page.locator("#count").select_option("3")
    page.locator("#text").focus()
    page.keyboard.insert_text("A")
    page.keyboard.press("Tab")
    until(page, "document.querySelectorAll('.answer').length === 3 && page.writing.running === null")
    model = models.get_now("pretrained").model
    cards = page.locator(".answer-text").all_text_contents()
    assert cards == [model.complete("A", stream=stream, tokens=12, sampling_seed=7) for stream in range(3)]
    page.keyboard.press("2")
    idle(page)
    assert text_of(page) == "A" + cards[1]
    until(page, "!page.at.notice.hidden && page.at['notice-text'].textContent.includes('Train_Data/preferences.jsonl')")
    kept = [json.loads(line) for line in models.home.preferences.read_text("utf-8").splitlines()]
    assert kept == [{"prompt": "A", "chosen": cards[1], "rejected": cards[place]} for place in (0, 2)]
    settle(page, 4000)
    page.keyboard.press("Tab")
    until(page, "document.querySelectorAll('.answer-text')[2]?.textContent.length > 0")
    assert models.get_now("pretrained").engine.stats.running > 0
    page.keyboard.press("Escape")
    end = time.monotonic() + 10
    while models.get_now("pretrained").engine.stats.running:
        assert time.monotonic() < end
        page.wait_for_timeout(20)
    page.keyboard.press("Escape")                                       # the first one stops, this one closes
    idle(page)
    assert text_of(page) == "A" + cards[1]


def test_words_have_alternatives_and_the_view_has_its_mark(open_page, models):
    page = open_page()
    text = "The bell rang. " * 80
    page.keyboard.insert_text(text)
    until(page, "page.colors.viewStart > 0")
    assert page.locator("#view-mark").is_visible()
    page.keyboard.press("Alt+Enter")
    until(page, "page.at['others-list'].querySelectorAll('button').length === 10")
    likely = models.get_now("pretrained").model.next_token_probabilities(text)[0][0]
    page.keyboard.press("Enter")
    assert text_of(page) == text + likely


def test_surprise_is_painted_and_the_average_is_said_for_the_whole_text(open_page, models, plays):
    page = open_page()
    text = plays[480_000:486_000]               # held out, and longer than the window of the browser
    page.keyboard.insert_text(text)
    color(page, "surprise")
    until(page, "/[0-9] bits per byte$/.test(page.at.legend.textContent)")
    shown = float(page.locator("#legend").inner_text().split()[-4])
    assert shown == pytest.approx(models.get_now("pretrained").model.bits_per_byte(text), abs=0.1)
    assert len(painted(page, "surprise-4")) > 0


def test_copied_stretches_are_marked_with_their_place(open_page, plays):
    page = open_page()
    page.keyboard.insert_text(f"Hello xx yy zz.\n\n{SEEN}\n\nThis qq is new ww.")
    color(page, "copied")
    until(page, "page.at.legend.textContent.includes('longest copy')")
    line = plays[:plays.index(SEEN)].count("\n") + 1
    assert f"1 stretch; longest copy: 14 words, input.txt, line {line:,}" in page.locator("#legend").inner_text()
    assert "".join(painted(page, "copied")) == SEEN[:-1].replace("\n", "")
    page.locator(".legend-button").click()
    assert page.locator("#others").is_visible()
    assert page.locator(".copy-source mark").text_content() == SEEN[:-1]
    page.keyboard.press("Escape")
    page.locator("#text").focus()
    page.keyboard.press("Control+Home")
    page.keyboard.type("New. ")
    until(page, "page.sheet.text === page.colors._more.get('copied')._asked")
    until(page, "CSS.highlights.get('copied').size === 1")
    color(page, "off")
    assert painted(page, "copied") == []


def test_another_model_takes_over_and_is_remembered(open_page):
    page = open_page()
    page.keyboard.insert_text("abba")
    assert page.locator("#model option").all_inner_texts() == ["pretrained", "small"]
    page.locator("#model").select_option("small")
    until(page, "page.about.name === 'small'")
    assert "sees 32 tokens" in page.locator("#facts").inner_text()
    color(page, "copied")
    until(page, "page.at.legend.textContent.includes('do not say which text')")
    settle(page, 5)
    page.locator("#continue").click()
    idle(page)
    text = text_of(page)
    assert text.startswith("abba") and len(text) > 4
    page.reload()
    until(page, "page.writing.engine !== null")
    assert page.evaluate("page.about.name") == "small" and text_of(page) == text


def test_wrong_settings_and_refusals_are_one_sentence(open_page):
    page = open_page()
    page.locator("#settings").click()
    page.locator("#setting-tokens").fill("5000")
    page.locator("#settings-form .main").click()
    assert page.locator(".field-error:not(:empty)").inner_text() == "tokens must be at most 4096."
    page.keyboard.press("Escape")
    page.evaluate("page.writing.values = {top_p: 7}")
    page.keyboard.press("Control+Enter")
    until(page, "!page.at.notice.hidden")
    assert page.locator("#notice-text").inner_text().startswith("top_p=7 is above the largest value possible, 1")
    [said] = open_page.said                     # the browser names every response of status 400
    assert "400" in said
    open_page.said.clear()


def test_a_server_that_ends_and_comes_back_is_said_and_no_word_is_lost(open_page, home):
    with running(Models(home, home.weights("small")), grace=0.1) as first:
        page = open_page(port=first.port)
        page.evaluate("(ms) => { window.setTimeout = ((real) => (work, wait) => real(work, Math.min(wait, ms)))"
                      "(window.setTimeout); }", 200)
        settle(page, 4000, temperature=0)               # the likeliest tokens of this model never end
        page.keyboard.insert_text("The sea")
        page.keyboard.press("Tab")
        until(page, "page.writing.story.text.length > 60")
    until(page, "!page.at.notice.hidden")
    idle(page)
    sentence, written = page.locator("#notice-text").inner_text(), text_of(page)
    assert len(written) > 60 and sentence
    settle(page, 5)
    page.keyboard.press("Control+End")
    page.keyboard.press("Tab")
    until(page, "page.at['notice-text'].textContent.startsWith('The server does not answer')")
    idle(page)
    assert text_of(page) == written
    with running_at(Models(home, home.weights("small")), first.port):
        until(page, "page.at.notice.hidden")
        assert page.locator("#status").inner_text() == "The server answers again."
        page.keyboard.press("Control+End")
        page.keyboard.press("Tab")
        idle(page)
        assert text_of(page).startswith(written) and len(text_of(page)) > len(written)
        page.close()                            # it would ask the server that ends here
    assert all("ERR_" in said or "503" in said for said in open_page.said)       # 503: while the server was ending
    open_page.said.clear()


@contextmanager
def running_at(models, port):
    """As `running`, at a port that was used before."""
    listener, limits = listening.listen("127.0.0.1", port), Limits()
    server = listening.Server(create_app(models), limits, 0.1)
    thread = threading.Thread(target=server.serve_forever, args=(listener,), daemon=True)
    thread.start()
    yield
    server.end()
    thread.join(20)
    listener.close()


def test_a_second_tab_is_told_of(open_page):
    page = open_page()
    page.keyboard.insert_text("One")
    page.evaluate("page.keeper.writeNow()")
    second = open_page(context=page.context)
    assert text_of(second) == "One"
    second.keyboard.insert_text("Two ")
    second.evaluate("page.keeper.writeNow()")
    until(page, "!page.at.notice.hidden")
    assert "second window" in page.locator("#notice-text").inner_text()


def test_a_server_with_a_key_is_asked_with_it(open_page, home, tmp_path):
    (tmp_path / "keys").write_text(KEY + "\n", encoding="utf-8")
    with running(Models(home, home.weights("small")), access=Access(keys=Keys(tmp_path / "keys"))) as served:
        page = open_page(port=served.port)
        assert "This server wants an API key." in page.locator("dialog").last.inner_text()
        page.keyboard.press("Escape")
        until(page, "!page.at.notice.hidden")
        assert page.locator("#notice-text").inner_text().endswith("Reload the page to enter one.")
        page.reload()
        until(page, "document.querySelector('dialog[open]') !== null")
        page.locator("#api-key").fill("a-wrong-key-of-16-characters")
        page.keyboard.press("Enter")
        until(page, "document.querySelector('dialog[open] .panel-lead')?.textContent.includes('not right')")
        page.locator("#api-key").fill(KEY)
        page.keyboard.press("Enter")
        until(page, "page.writing.engine !== null")
        page.reload()
        until(page, "page.writing.engine !== null")
        page.close()
    assert all("401" in said for said in open_page.said)
    open_page.said.clear()


# --- The training view ---

def test_runs_are_shown_with_curves_and_samples_one_or_two(open_page):
    page = open_page()
    page.locator("#view").click()
    until(page, "document.querySelectorAll('.curve').length > 3")
    assert page.evaluate("location.hash") == "#training" and not page.locator("#text").is_visible()
    names = page.locator(".run-title").all_inner_texts()
    assert sorted(names) == ["dawn", "night", "pretrained", "small"]
    page.locator(".run-name", has_text="night").click()
    until(page, "document.querySelector('.run-card h2').textContent === 'night'")
    assert page.locator("blockquote").inner_text() == "a sample of step 200"
    page.locator("#run-slider").focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    assert page.locator("blockquote").inner_text() == "a sample of step 50"
    page.locator(".run", has_text="dawn").locator(".run-beside").click()
    until(page, "document.querySelectorAll('.run-card').length === 2")
    assert page.locator("blockquote").all_inner_texts() == ["a sample of step 200"] * 2
    assert page.locator(".readout").all_inner_texts() == [f"{name} 2.333 at step 200" for name in ("night", "dawn")]
    assert "night: 2.833 at step 50, 2.333 at step 200" in page.locator(".curves").first.get_attribute("aria-label")
    page.reload()
    until(page, "document.querySelectorAll('.curve').length > 3")
    page.go_back()
    until(page, "!document.body.classList.contains('shows-training')")
    assert page.evaluate("document.activeElement.id") == "text"


def test_a_run_that_trains_is_followed(open_page, home):
    from folio.base.files import only_one
    with only_one(home.lock("live"), "it trains"):
        home.log("live").write_text(json.dumps(LOG[0]) + "\n", encoding="utf-8")
        page = open_page(path="#training")
        asked = []
        page.on("request", lambda request: asked.append((time.monotonic(), request.url)))
        until(page, "document.querySelector('.run-card h2')?.textContent === 'live'")   # what trains comes first
        assert page.locator(".run-state.live").inner_text() == "running"
        with home.log("live").open("a", encoding="utf-8") as log:
            log.write("".join(json.dumps(line) + "\n" for line in LOG[1:5]) + '{"step": 60, "sec')
        until(page, "page.trainingView.logs.get('live').length === 5", seconds=8)
        home.log("live").write_text("".join(json.dumps(line) + "\n" for line in LOG[:2]), encoding="utf-8")
        until(page, "page.trainingView.logs.get('live').length === 2", seconds=8)       # resumed from an earlier step
        times = [when for when, url in asked if "/log?" in url]
        assert len(times) > 1 and all(later - earlier > 1 for earlier, later in zip(times, times[1:]))
    home.log("live").unlink()


# --- Looks ---

@pytest.mark.parametrize("viewport, scheme", [(WIDE, "light"), (WIDE, "dark"), (PHONE, "light"), (PHONE, "dark")])
def test_the_page_is_accessible_in_every_state(open_page, viewport, scheme):
    page = open_page(viewport, color_scheme=scheme)
    page.evaluate("(text) => { page.at.text.value = text; page.writing.takeIn(0); }", SEEN)
    color(page, "copied")
    until(page, "page.at.legend.textContent.includes('longest copy')")
    checked(page)
    page.locator(".legend-button").click()
    checked(page)
    page.keyboard.press("Escape")
    page.locator("#view").click()
    until(page, "document.querySelectorAll('.curve').length > 3")
    page.locator(".run-beside:enabled").first.click()
    until(page, "document.querySelectorAll('.run-card').length === 2")
    checked(page)


@pytest.mark.parametrize("viewport, scheme", [(WIDE, "light"), (WIDE, "dark"), (PHONE, "light"), (PHONE, "dark")])
def test_the_dialog_for_the_key_and_the_notice_of_a_lost_server_are_accessible(open_page, home, tmp_path, viewport,
                                                                               scheme):
    (tmp_path / "keys").write_text(KEY + "\n", encoding="utf-8")
    with running(Models(home, home.weights("small")), access=Access(keys=Keys(tmp_path / "keys"))) as served:
        page = open_page(viewport, port=served.port, color_scheme=scheme)
        checked(page)
        label, field = page.locator("label[for=api-key]").bounding_box(), page.locator("#api-key").bounding_box()
        assert label["y"] + label["height"] <= field["y"] - 4       # the ring of the field that has the focus
        page.locator("#api-key").fill("a-wrong-key-of-16-characters")
        page.keyboard.press("Enter")
        until(page, "document.querySelector('dialog[open] .panel-lead')?.textContent.includes('not right')")
        checked(page)
        page.locator("#api-key").fill(KEY)
        page.keyboard.press("Enter")
        until(page, "page.writing.engine !== null")
        page.keyboard.insert_text("The sea")
    page.keyboard.press("Tab")
    until(page, "page.at['notice-text'].textContent.startsWith('The server does not answer')")
    checked(page)
    page.close()
    assert all("ERR_" in said or "401" in said for said in open_page.said)
    open_page.said.clear()


def checked(page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    found = axe.Axe().run(page)
    assert [f"{each['id']}: {each['nodes'][0]['html']}" for each in found.response["violations"]] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it is wider than the window"


def test_several_models_write_together_and_each_one_s_tokens_have_its_color(open_page, home, models):
    write_weights(home, "letters", seed=2, written_at=1_700_000_000)
    page = open_page()
    page.locator("#model").select_option("small")
    until(page, "page.writing.settings.some(({name}) => name === 'mix letters')")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("mix letters").fill("0.5")
    page.get_by_role("button", name="Apply").click()
    assert page.evaluate("page.writing.values") == {"mix letters": 0.5}
    settle(page, **{"mix letters": 0.5})
    page.locator("#text").focus()
    page.keyboard.insert_text("ab cd")
    page.keyboard.press("Tab")
    until(page, "page.writing.story.text.length > 5")
    idle(page)
    mixed = models.get_now("small").model.mixed_with({"letters": models.get_now("letters").model}, {"letters": 0.5})
    assert text_of(page) == "ab cd" + mixed.complete("ab cd", tokens=20, sampling_seed=7).replace("\r", "")
    color(page, "voices")
    until(page, "(CSS.highlights.get('voice-1')?.size ?? 0) > 0")
    assert page.locator("#legend").text_content() == "Shaped most by: small 50 %letters 50 %"
    assert 0 < len("".join(painted(page, "voice-1"))) < len(text_of(page))
    color(page, "off")
    until(page, "(CSS.highlights.get('voice-1')?.size ?? 0) === 0")
