"""The writing page in Chromium, with an engine whose words are known: what a person does, and what comes of it."""

import json
import random

import pytest

from browser import browser  # noqa: F401  (a fixture)
from conftest import ROOT
from folio.formats.page import PAGE_SCRIPTS, PAGE_STYLES

WEB = ROOT / "folio" / "web"
SCRIPTS = [name for name in PAGE_SCRIPTS if name != "engine.js"]
WIDE, PHONE = {"width": 1200, "height": 800}, {"width": 360, "height": 740}
PLAY = "ACT I.\n\nMERRAN:\nThe sea is cold tonight, and the bell is under it.\n"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Return a function: an engine, as an expression -> the address of a page with it."""
    folder = tmp_path_factory.mktemp("page")
    engine = (ROOT / "tests" / "web" / "mock_engine.js").read_text(encoding="utf-8")
    scripts, style = ("\n".join((WEB / name).read_text(encoding="utf-8") for name in names)
                      for names in (SCRIPTS, PAGE_STYLES))

    def write(expression="mockEngine()"):
        start = f"window.engine = {expression};\nwindow.page = startPage(window.engine);"
        page = (WEB / "page.html").read_text(encoding="utf-8")
        for place, content in {"title": "plays", "model": "",
                               "style": f"<style>{style}</style>",
                               "scripts": f"<script>{scripts}\n{engine}\n{start}</script>"}.items():
            assert page.count(f"<!-- {place} -->") == 1
            page = page.replace(f"<!-- {place} -->", content)
        path = folder / f"{abs(hash(expression))}.html"
        path.write_text(page, encoding="utf-8")
        return path.as_uri()
    return write


@pytest.fixture
def open_page(browser, address):
    """Return a function that opens a page; in the end no page has said anything on its console or asked the network."""
    contexts, said, asked = [], [], []

    def open_it(engine="mockEngine()", context=None, viewport=WIDE, **options):
        if context is None:
            context = browser.new_context(viewport=viewport, **options)
            contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address(engine))
        page.wait_for_function("page.writing.engine !== null || !page.at.notice.hidden")
        return page
    yield open_it
    for context in contexts:
        context.close()
    assert said == [] and [url for url in asked if not url.startswith(("file:", "blob:"))] == []


def text_of(page):
    """The text that a person sees; the text area, the layer and the story must agree on it."""
    area, story, lines = page.evaluate(
        "[page.at.text.value, page.writing.story.text, [...page.at.layer.children].map((line) => line.textContent)]")
    assert area == story == "\n".join(lines)
    return area


def idle(page):
    page.wait_for_function("page.writing.running === null")
    page.evaluate("page.writing._finished")


def paste(page, text, html=""):
    """Paste a text with the keyboard's event, without the system's clipboard."""
    page.evaluate("""([text, html]) => {
        const clipboardData = new DataTransfer();
        clipboardData.setData("text/plain", text);
        clipboardData.setData("text/html", html);
        const event = new ClipboardEvent("paste", {clipboardData, bubbles: true, cancelable: true});
        document.activeElement.dispatchEvent(event);
    }""", [text, html])


def write_beginning(page, text=PLAY):
    page.locator("#text").focus()
    paste(page, text)


def all_have_begun(page):
    """Wait until every answer has some words."""
    page.wait_for_function("[...document.querySelectorAll('.answer-text')]"
                           ".every((card) => card.textContent.length > 4)")


def write_words(page, words):
    """Let a held engine write some words, and wait until they are in the text."""
    page.evaluate(f"engine.release({words})")
    page.wait_for_function(f"page.writing.running.tokens >= {words} && page.writing.running.queue === ''")


def painted(page, name):
    """The stretches of text that a highlight paints, without new lines: the layer has none."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return page.evaluate("(name) => [...(CSS.highlights.get(name) || [])].map((range) => range.toString())", name)


def test_tab_goes_on_from_the_caret_and_what_follows_stays(open_page):
    page = open_page()
    page.keyboard.type("One two END")
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
    page.keyboard.press("Tab")
    idle(page)
    text = text_of(page)
    assert text.startswith("One two ") and text.endswith(" END") and len(text.split()) > 8
    assert page.evaluate("engine.calls[0].prompt") == "One two"
    assert page.evaluate("page.at.text.selectionStart") == len(text) - 4           # the caret goes along
    assert page.evaluate("document.activeElement.id") == "text"
    page.keyboard.type("!")
    assert text_of(page) == text[:-4] + "! END"


def test_control_enter_and_the_button_go_on_too(open_page):
    page = open_page()
    page.keyboard.type("One")
    page.keyboard.press("Control+Enter")
    idle(page)
    before = text_of(page)
    page.locator("#continue").click()
    idle(page)
    assert text_of(page).startswith(before) and len(text_of(page)) > len(before)


def test_escape_stops_and_then_tab_leaves_the_text(open_page):
    page = open_page("mockEngine({held: true})")
    page.keyboard.type("One")
    page.keyboard.press("Tab")
    write_words(page, 3)
    text = text_of(page)
    assert len(text.split()) == 4 and page.locator("#continue-label").inner_text() == "Stop"
    page.keyboard.press("Escape")
    page.evaluate("engine.release(9)")
    idle(page)
    assert text_of(page) == text and page.locator("#continue-label").inner_text() == "Continue"
    page.keyboard.press("Escape")
    assert page.locator("#status").inner_text() == "Tab now leaves the text."
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "continue"
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.id") == "text"
    page.keyboard.press("Shift+Tab")                                                # leaves it backward at once
    assert page.evaluate("document.activeElement.id") != "text"


def test_a_person_edits_elsewhere_while_the_model_writes_and_takes_over_where_it_writes(open_page):
    page = open_page("mockEngine({held: true})")
    page.keyboard.type("Teh sea")
    page.keyboard.press("Tab")
    write_words(page, 3)
    page.evaluate("page.at.text.setSelectionRange(1, 3)")
    page.keyboard.type("he")
    assert page.evaluate("page.at.text.selectionStart") == 3
    before = text_of(page)
    page.evaluate("engine.release(3)")
    page.wait_for_function("page.writing.running.tokens === 6 && page.writing.running.queue === ''")
    assert text_of(page).startswith(before + " ") and page.evaluate("page.at.text.selectionStart") == 3
    page.keyboard.press("Control+End")
    page.keyboard.type("!")
    idle(page)
    assert len(text_of(page)[:-1].split()) == 8 and text_of(page).endswith("!")     # a word may end in a new line
    page.evaluate("engine.release(99)")
    page.locator("#retry").click()                                                  # the correction stays
    idle(page)
    assert text_of(page).startswith("The sea ") and "!" not in text_of(page)


@pytest.mark.parametrize("keys", [["x"], ["Backspace"], ["Shift+ArrowLeft", "Shift+ArrowLeft", "x"], ["Delete"]],
                         ids=" ".join)
def test_an_edit_where_the_model_writes_drops_the_words_that_are_not_shown_yet(open_page, keys):
    page = open_page("mockEngine({held: true})")
    write_beginning(page, "One END")
    page.evaluate("page.sheet.caret = 3")
    page.keyboard.press("Tab")
    write_words(page, 2)
    before, caret = text_of(page), page.evaluate("page.sheet.caret")
    page.evaluate("page.writing.running.queue = ' not shown'")
    for key in keys:
        page.keyboard.press(key)
    idle(page)
    expected = {"x": before[:caret] + "x" + before[caret:], "Backspace": before[:caret - 1] + before[caret:],
                "Delete": before[:caret] + before[caret + 1:]}[keys[-1]]
    if len(keys) > 1:
        expected = before[:caret - 2] + "x" + before[caret:]
    assert text_of(page) == expected


@pytest.mark.parametrize("count", ["1", "2"])
def test_what_is_typed_before_the_caret_while_the_engine_is_busy_is_in_the_prompt(open_page, count):
    page = open_page("mockEngine({held: true})")
    write_beginning(page, "One END")
    page.evaluate("page.sheet.caret = 3")
    page.keyboard.press("Tab")
    write_words(page, 1)
    page.locator("#count").select_option(count)
    page.evaluate("""() => {
        page.writing.move((story) => story.undo());         // stops; the engine hears of it a little later
        page.goOn();
        page.at.text.setRangeText("Zero, ", 0, 0, "preserve");
        page.writing.takeIn(performance.now());
    }""")
    page.evaluate("engine.release(99)")
    page.wait_for_function("page.writing.running === null")
    if count == "2":
        page.keyboard.press("1")
    idle(page)
    assert page.evaluate("engine.calls[1].prompt") == "Zero, One"
    assert text_of(page).startswith("Zero, One ") and text_of(page).endswith(" END")


def test_retry_keeps_all_versions_with_their_edits(open_page):
    page = open_page()
    page.keyboard.type("One")
    page.keyboard.press("Tab")
    idle(page)
    page.keyboard.type(" mine")
    texts = [text_of(page)]
    for _ in range(3):
        page.keyboard.press("Control+Shift+Enter")
        idle(page)
        texts.append(text_of(page))
    assert len(set(texts)) == 4 and page.locator("#fork-count").inner_text() == "4/4"
    for expected in reversed(texts[:-1]):
        page.keyboard.press("Alt+PageUp")
        assert text_of(page) == expected
    assert page.locator("#fork-count").inner_text() == "1/4" and page.locator("#previous").is_disabled()
    page.locator("#next").click()
    assert text_of(page) == texts[1]
    seeds = {call["settings"]["sampling_seed"] for call in page.evaluate("engine.calls")}
    assert len(seeds) == 4
    page.locator("#versions").click()
    branches = page.locator("#versions-list button")
    assert branches.count() == 4 and page.locator("#versions-list [aria-current]").count() == 1
    branches.last.click()
    assert text_of(page) == texts[0]


def test_undo_and_redo_go_through_typing_and_answers(open_page):
    page = open_page()
    page.keyboard.type("One")
    page.keyboard.press("Tab")
    idle(page)
    text = text_of(page)
    page.keyboard.press("Control+z")
    assert text_of(page) == "One"
    page.keyboard.press("Control+z")
    assert text_of(page) == "" and page.locator("#undo").is_disabled()
    page.keyboard.press("Control+Shift+Z")
    page.keyboard.press("Control+y")
    assert text_of(page) == text


def test_undo_puts_the_caret_where_the_answer_was(open_page):
    page = open_page()
    write_beginning(page, "One END")
    page.evaluate("page.sheet.caret = 3")
    for _ in range(2):
        page.keyboard.press("Tab")
        idle(page)
        answer = text_of(page)[3:-4]
        assert answer.startswith(" ")               # as what follows does: the texts alone do not say where it was
        page.keyboard.press("Control+z")
        assert page.evaluate("page.sheet.caret") == 3
        page.keyboard.press("Control+y")
        assert page.evaluate("page.sheet.caret") == 3 + len(answer)
        page.keyboard.press("Control+z")
    assert [call["prompt"] for call in page.evaluate("engine.calls")] == ["One", "One"]


KEYS = ["Tab", "Control+Enter", "Control+Shift+Enter", "Escape", "Alt+PageUp", "Alt+PageDown", "Alt+Enter", "Control+z",
        "Control+y", "1", "2", "a", " ", "Enter", "Backspace", "Delete", "ArrowLeft", "Control+ArrowLeft",
        "Shift+ArrowLeft", "Control+End", "Control+a"]
BUTTONS = ["#continue", "#retry", "#undo", "#redo", "#previous", "#next", "#others-list button", ".answer-end button"]


@pytest.mark.parametrize("seed", range(3))
def test_whatever_keys_and_buttons_are_pressed_no_version_is_lost_or_damaged(open_page, seed):
    choose = random.Random(seed)
    page, versions = open_page("mockEngine({delay: 1})"), 0
    write_beginning(page, "One")
    for step in range(120):
        action = choose.choice(KEYS + BUTTONS)
        page.locator("#count").evaluate("(select, count) => { select.value = count; }", choose.choice("111123"))
        if action in KEYS:
            page.keyboard.press(action)
        else:
            page.evaluate("(name) => document.querySelector(`${name}:not(:disabled)`)?.click()", action)
        text_of(page)
        opens, count = page.evaluate("(({story}) => [story.text === page.at.text.value, story.nodes.length])"
                                     "(storyFromJson(page.storyAsJson()))")
        assert opens and count >= versions, (step, action)
        versions = count


def test_several_answers_are_written_at_once_and_one_is_taken(open_page):
    page = open_page()
    write_beginning(page, "One")
    page.locator("#count").select_option("3")
    page.locator("#text").focus()
    page.keyboard.press("Tab")
    all_have_begun(page)
    page.wait_for_function("page.writing.running === null")
    cards = page.locator(".answer-text").all_text_contents()
    assert len(set(cards)) == 3 and text_of(page) == "One"
    assert all(" bits, " in facts for facts in page.locator(".answer-facts").all_inner_texts())
    page.keyboard.press("2")
    idle(page)
    assert text_of(page) == "One" + cards[1] and page.locator("#fork-count").inner_text() == "2/3"
    page.locator("#next").click()
    assert text_of(page) == "One" + cards[2]
    call = page.evaluate("engine.calls[0]")
    assert call["count"] == 3 and page.evaluate(
        "page.writing.story.nodes.slice(2).map(({details}) => [details.seed, details.stream])"
    ) == [[call["settings"]["sampling_seed"], stream] for stream in range(3)]


@pytest.mark.parametrize("close", [lambda page: page.keyboard.press("Escape"),
                                   lambda page: page.locator(".answers-end button").click()], ids=["key", "button"])
def test_answers_that_nobody_takes_are_kept(open_page, close):
    page = open_page("mockEngine({held: true})")
    write_beginning(page, "One")
    page.locator("#count").select_option("2")
    page.locator("#continue").click()
    page.evaluate("engine.release(3)")
    all_have_begun(page)
    page.keyboard.press("Escape")                                                   # stops, and leaves them there
    page.wait_for_function("page.writing.running === null")
    cards = page.locator(".answer-text").all_text_contents()
    close(page)
    page.wait_for_function("!page.writing.choosing")
    assert text_of(page) == "One" and page.locator("#answers").is_hidden()
    page.locator("#redo").click()
    assert text_of(page) == "One" + cards[1]
    page.locator("#previous").click()
    assert text_of(page) == "One" + cards[0]


def test_after_retry_the_answers_that_nobody_takes_are_found_by_the_keys_that_the_page_names(open_page):
    page = open_page()
    write_beginning(page, "One")
    page.keyboard.press("Tab")
    idle(page)
    text = text_of(page)
    page.locator("#count").select_option("3")
    page.locator("#text").focus()
    page.keyboard.press("Control+Shift+Enter")
    page.wait_for_function("page.writing.running === null && page.writing.choosing")
    last = page.locator(".answer-text").last.text_content()
    page.keyboard.press("Escape")
    idle(page)
    assert text_of(page) == text and page.locator("#redo").is_disabled()
    assert page.locator("#status").inner_text() == "All answers are kept: Versions lists them."
    for _ in range(3):
        page.locator("#next").click()
    assert text_of(page) == "One" + last


def test_answers_without_a_word_are_not_said_to_be_kept(open_page):
    page = open_page("mockEngine({held: true})")
    write_beginning(page, "One")
    page.locator("#count").select_option("2")
    page.locator("#continue").click()
    page.keyboard.press("Escape")
    page.wait_for_function("page.writing.running === null")
    page.keyboard.press("Escape")
    idle(page)
    page.wait_for_function("page.at.status.textContent === '1 word'")


def test_alternatives_to_a_text_that_has_changed_meanwhile_are_not_shown(open_page):
    page = open_page("""(() => {
        const engine = mockEngine(), {alternatives} = engine;
        engine.alternatives = (...request) => new Promise((resolve) => {
          engine.answer = () => resolve(alternatives(...request));
        });
        return engine;
    })()""")
    write_beginning(page, "One two")
    page.keyboard.press("Alt+Enter")
    assert page.locator("#others").is_visible()
    page.keyboard.type("!")
    page.evaluate("engine.answer()")
    page.wait_for_function("!page.at.others.matches(':popover-open')")
    page.keyboard.press("Enter")
    assert text_of(page) == "One two!\n"


def test_alternatives_of_a_word_by_keyboard_branch_the_text(open_page):
    page = open_page()
    write_beginning(page)
    page.evaluate("page.sheet.caret = page.sheet.text.indexOf('cold') + 1")
    page.keyboard.press("Alt+Enter")
    page.wait_for_selector("#others-list button")
    assert page.locator("#others-list button").count() == 10
    assert page.locator("#others-title").inner_text() == "Instead of “cold”" and painted(page, "word") == ["cold"]
    assert page.evaluate("engine.calls.at(-1).alternativesTo") == PLAY[:PLAY.index(" cold")]
    assert page.locator("#others-list small").all_inner_texts()[:2] == ["31 %", "20 %"]
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert text_of(page) == PLAY[:PLAY.index(" cold")] + " harbour" and page.locator("#others").is_hidden()
    assert page.evaluate("document.activeElement.id") == "text" and painted(page, "word") == []
    assert page.locator("#fork-count").inner_text() == "2/2"
    page.keyboard.press("Alt+PageUp")
    assert text_of(page) == PLAY


def test_an_alternative_is_not_put_into_a_text_that_has_changed_since(open_page):
    page = open_page()
    write_beginning(page, "One")
    page.keyboard.type(" two")
    page.evaluate("page.sheet.caret = 7")
    page.keyboard.press("Alt+Enter")
    page.wait_for_selector("#others-list button")
    page.locator("#undo").focus()                               # a keyboard leaves the menu open
    page.keyboard.press("Enter")
    assert text_of(page) == "One"
    page.locator("#others-list button").first.focus()
    page.keyboard.press("Enter")
    assert text_of(page) == "One" and page.locator("#others").is_hidden()
    assert page.evaluate("storyFromJson(page.storyAsJson()).story.text") == "One"


def test_an_alternative_shows_whether_it_goes_on_with_the_word_before_it(open_page):
    page = open_page()
    shown = page.evaluate("[[' of', 'key'], ['s', 'key'], ['s', 'key '], ['\\n', 'key'], ['  ', 'key'], ['.', 'key'], "
                          "['é', '日']].map(([piece, before]) => visiblePiece(piece, before))")
    assert shown == ["of", "…s", "s", "↵", "␣␣", ".", "…é"]


def test_with_colors_on_a_click_on_a_word_opens_its_alternatives(open_page):
    page = open_page()
    write_beginning(page)
    place = page.evaluate("(() => { const {left, top} = page.sheet.rectangleAt(page.sheet.text.indexOf('bell') + 1);"
                          "return [left + 2, top + 8]; })()")
    page.mouse.click(*place)
    assert page.locator("#others").is_hidden()                                      # colors are off
    page.locator("input[value=author]").check(force=True)
    page.mouse.click(*place)
    page.wait_for_selector("#others-list button")
    assert page.locator("#others-title").inner_text() == "Instead of “bell”"
    page.keyboard.press("Escape")
    assert page.locator("#others").is_hidden() and text_of(page) == PLAY


def test_colors_say_who_wrote_it_and_what_surprises(open_page):
    page = open_page()
    page.keyboard.type("One")
    page.keyboard.press("Tab")
    idle(page)
    answer = text_of(page)[3:].replace("\n", "")
    page.locator("input[value=author]").check(force=True)
    assert painted(page, "by-model") == [answer] and painted(page, "by-edited") == []
    page.locator("#text").focus()
    page.evaluate("page.sheet.caret = 6")
    page.keyboard.type("XYZ")
    assert painted(page, "by-edited") == ["XYZ"] and painted(page, "by-model") == [answer[:3], answer[3:]]
    page.locator("input[value=surprise]").check(force=True)
    page.wait_for_function("page.colors.surprise.known.size > 0")
    pieces = page.evaluate("engine.surprise(page.sheet.text)")
    for level, (low, high) in enumerate([(2, 4), (4, 7), (7, 10), (10, 1e9)], 1):
        expected = [one["text"].replace("\n", "") for one in pieces if low <= one["bits"] < high]
        assert painted(page, f"surprise-{level}") == expected
    assert painted(page, "by-model") == []
    page.locator("input[value=off]").check(force=True)
    assert painted(page, "surprise-1") == [] and page.locator("#legend").is_hidden()


def test_a_mark_shows_where_the_view_begins_with_paler_text_before_it(open_page):
    page = open_page("mockEngine({context: 20})")
    write_beginning(page, PLAY)
    page.wait_for_function("!page.at['view-mark'].hidden")
    begin = len(PLAY) - 20
    assert "".join(painted(page, "unseen")) == PLAY[:begin].replace("\n", "")
    mark, character = page.evaluate(f"[page.at['view-mark'].getBoundingClientRect().left, "
                                    f"page.sheet.rectangleAt({begin}).left]")
    assert abs(mark - character) < 6
    page.keyboard.press("Control+Home")
    page.wait_for_function("page.at['view-mark'].hidden")
    assert painted(page, "unseen") == []


def test_settings_have_the_sentences_of_the_engine_and_refuse_what_it_does_not_take(open_page):
    page = open_page()
    page.locator("#settings").click()
    assert page.locator("label[for=setting-top_k]").inner_text() == "top-k"
    assert page.locator("#setting-top_k-help").inner_text() == "Sample among this many likeliest tokens (default: all)."
    page.locator("#setting-tokens").fill("3")
    page.locator("#setting-top_p").fill("2")
    page.locator("#setting-stop").fill("\\n\\n\nEND")
    page.locator("#setting-sampling_seed").fill(str(2**63 - 1))
    page.keyboard.press("Tab")
    page.locator("#settings-form button[type=submit]").click()
    assert page.locator("#setting-top_p-error").inner_text() == "top-p must be at most 1."
    assert page.evaluate("document.activeElement.id") == "setting-top_p"
    page.locator("#setting-top_p").fill("0.5")
    page.keyboard.press("Enter")
    assert page.locator("#settings-panel").is_hidden()
    write_beginning(page, "One")
    page.keyboard.press("Tab")
    idle(page)
    assert len(text_of(page).split()) == 4
    settings = page.evaluate("(({sampling_seed, ...rest}) => ({...rest, seed: String(sampling_seed)}))"
                             "(engine.calls[0].settings)")
    assert settings == {"tokens": 3, "temperature": 0.8, "top_k": None, "top_p": 0.5, "stop": ["\n\n", "END"],
                        "seed": str(2**63 - 1)}


def test_a_whole_number_beyond_2_to_the_53_reaches_the_engine_as_a_number(open_page):
    page = open_page()
    page.locator("#settings").click()
    page.locator("#setting-tokens").fill(str(2**62))
    page.locator("#settings-form button[type=submit]").click()
    assert page.evaluate("JSON.parse(page.storyAsJson()).settings") == {"tokens": str(2**62)}
    assert page.evaluate("page.writing.engineSettings().tokens === 2n ** 62n")


def story_with_versions(page):
    """Write a text with two versions and a setting. -> its text"""
    page.evaluate("page.writing.values = {tokens: 5}")
    write_beginning(page, "Once <b>upon</b>\n\ta time 🙂")
    for key in ("Tab", "Control+Shift+Enter"):
        page.keyboard.press(key)
        idle(page)
    return text_of(page)


def test_saved_and_opened_again_it_is_exactly_the_same(open_page, tmp_path):
    page = open_page()
    text = story_with_versions(page)
    with page.expect_download() as download:
        page.keyboard.press("Control+s")
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    assert path.name == "once-b-upon-b.json"
    assert json.loads(path.read_text(encoding="utf-8"))["text"] == text
    other = open_page()
    other.locator("#file").set_input_files(path)
    other.wait_for_function("page.writing.story.text !== ''")
    assert text_of(other) == text and other.locator("#fork-count").inner_text() == "2/2"
    assert other.evaluate("page.storyAsJson()") == page.evaluate("page.storyAsJson()") == path.read_text("utf-8")
    with page.expect_download() as download:
        page.locator("#save").click()
        page.locator("#save-text").click()
    download.value.save_as(tmp_path / "text.txt")
    assert (tmp_path / "text.txt").read_bytes() == text.encode("utf-8")


def test_a_file_that_cannot_be_opened_is_named_and_changes_nothing(open_page, tmp_path):
    page = open_page()
    text = story_with_versions(page)
    for name, content, expected in [("a.json", b"{", "not JSON"), ("b.txt", b"\xff\xfe\xfa", "not text in UTF-8"),
                                    ("c.json", b'{"folio": "story", "version": 1, "versions": 3}', "no versions")]:
        path = tmp_path / name
        path.write_bytes(content)
        page.locator("#file").set_input_files(path)
        page.wait_for_function("!page.at.notice.hidden")
        assert page.locator("#notice-text").inner_text().startswith(f"{name} cannot be opened. It ")
        assert expected in page.locator("#notice-text").inner_text()
        page.locator("#notice-close").click()
    assert text_of(page) == text


def test_a_file_that_is_dropped_on_the_page_is_opened(open_page):
    page = open_page()
    is_free = page.evaluate("""() => {
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File(["Dropped"], "a.txt", {type: "text/plain"}));
        return document.body.dispatchEvent(new DragEvent("drop", {dataTransfer, bubbles: true, cancelable: true}));
    }""")
    assert not is_free                                          # the browser does not leave the page for the file
    page.wait_for_function("page.writing.story.text === 'Dropped'")
    assert text_of(page) == "Dropped"


def test_a_text_file_is_a_version_more_and_a_story_asks_first(open_page, tmp_path):
    page = open_page()
    text = story_with_versions(page)
    saved = tmp_path / "story.json"
    saved.write_text(page.evaluate("page.storyAsJson()"), encoding="utf-8")
    (tmp_path / "new.txt").write_bytes(b"New\r\ntext")
    page.locator("#file").set_input_files(tmp_path / "new.txt")
    page.wait_for_function("page.writing.story.text === 'New\\ntext'")
    page.locator("#undo").click()
    assert text_of(page) == text
    page.locator("#redo").click()
    page.locator("#file").set_input_files(saved)
    page.locator("#replace-panel button[value=cancel]").click()
    assert text_of(page) == "New\ntext"
    page.locator("#file").set_input_files(saved)
    with page.expect_download() as download:
        page.locator("#replace-panel button[value=save]").click()
    assert download.value.suggested_filename == "new.json"
    page.wait_for_function("page.writing.story.text !== 'New\\ntext'")
    assert text_of(page) == text


def test_a_reload_restores_text_versions_settings_and_theme(open_page):
    page = open_page()
    story_with_versions(page)
    page.locator("#theme").click()
    page.locator("#text").focus()
    page.evaluate("page.sheet.caret = 3")
    page.keyboard.type("x")
    text = text_of(page)
    kept = page.evaluate("page.storyAsJson()")
    page.reload()
    page.wait_for_function("page.writing.engine !== null")
    assert text_of(page) == text and page.evaluate("page.storyAsJson()") == kept
    assert page.evaluate("page.sheet.caret") == 4
    assert page.locator("#fork-count").inner_text() == "2/2"
    assert page.evaluate("document.documentElement.dataset.theme") == "light"


def test_settings_survive_a_page_that_is_closed_before_its_model_is_read(open_page):
    page = open_page()
    story_with_versions(page)
    kept = page.evaluate("page.storyAsJson()")
    page.evaluate("page.keeper.writeNow()")
    other = open_page("mockEngine({failure: 'The model in this page is damaged.'})", context=page.context)
    other.evaluate("""(kept) => {
        page.openStory(storyFromJson(kept));
        page.keeper.writeNow();
    }""", kept)
    assert other.evaluate("JSON.parse(page.keeper.read()).settings") == {"tokens": 5}


def test_a_kept_text_that_cannot_be_read_is_not_overwritten_where_there_is_no_room_for_a_copy(open_page):
    page = open_page("""(() => {
        const {setItem} = Storage.prototype;
        Storage.prototype.setItem = function (name, value) {
          if (name.endsWith(":damaged")) throw new DOMException("no", "QuotaExceededError");
          setItem.call(this, name, value);
        };
        localStorage.setItem(`folio:${location.pathname}:plays:story`, '{"folio": "story", "version": 2}');
        return mockEngine();
    })()""")
    assert "A newer page saved it" in page.locator("#notice-text").inner_text()
    page.keyboard.type("One")
    page.evaluate("page.keeper.writeNow()")
    assert page.evaluate("page.keeper.read()") == '{"folio": "story", "version": 2}'
    assert page.evaluate("page.keeper.hasFailed")


def test_a_theme_that_is_kept_does_not_hide_that_the_text_is_not(open_page):
    page = open_page("""(() => {
        const {setItem} = Storage.prototype;
        Storage.prototype.setItem = function (name, value) {
          if (name.endsWith(":story")) throw new DOMException("no", "QuotaExceededError");
          setItem.call(this, name, value);
        };
        return mockEngine();
    })()""")
    page.keyboard.type("One")
    page.evaluate("page.keeper.writeNow()")
    page.locator("#theme").click()
    assert page.evaluate("page.keeper.hasFailed")


def test_a_second_window_with_the_same_text_is_said(open_page):
    page = open_page()
    write_beginning(page, "One")
    page.evaluate("page.keeper.writeNow()")
    page.wait_for_timeout(500)          # Chromium takes a moment to tell another window what is stored
    other = open_page(context=page.context)
    assert text_of(other) == "One"
    other.keyboard.type("Two")
    page.wait_for_function("!page.at.notice.hidden")
    assert "second window" in page.locator("#notice-text").inner_text()


@pytest.mark.parametrize("storage, expected", [
    ("Storage.prototype.setItem = () => { throw new DOMException('no', 'QuotaExceededError'); };", "storage is full"),
    ("Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('no', 'SecurityError'); }});",
     "keep nothing"),
])
def test_a_storage_that_is_full_or_forbidden_is_said_and_not_fatal(open_page, storage, expected):
    page = open_page(f"(() => {{ {storage} return mockEngine(); }})()")
    write_beginning(page, "One")
    page.keyboard.press("Tab")
    idle(page)
    page.wait_for_function("!page.at.notice.hidden")
    assert expected in page.locator("#notice-text").inner_text() and len(text_of(page)) > 10


def test_a_model_that_cannot_be_read_is_said(open_page):
    page = open_page("mockEngine({failure: 'The model in this page is damaged: copy the file again.'})")
    assert page.locator("#notice-text").inner_text() == "The model in this page is damaged: copy the file again."
    assert page.locator("#continue").is_disabled()
    page.keyboard.type("One")
    assert text_of(page) == "One"


def test_text_is_never_html_and_paste_is_plain(open_page):
    hostile = "<img src=x onerror=\"document.title='no'\"><script>document.title='no'</script>"
    page = open_page("""(() => {
        const text = HOSTILE;
        return {
          ...mockEngine(),
          alternatives: async () => [{text, probability: 1}],
          async generate(prompt, {onPiece}) {
            onPiece(0, {text, bits: 1});
            return [{text, tokens: 1, seconds: 1, ended: "end"}];
          },
        };
    })()""".replace("HOSTILE", json.dumps(hostile).replace("</", "<\\/")))
    paste(page, hostile, html="<b>bold</b>")
    page.keyboard.press("Tab")
    idle(page)
    assert text_of(page) == hostile + hostile
    page.keyboard.press("Alt+Enter")
    page.wait_for_selector("#others-list button")
    assert hostile in page.locator("#others-list button").first.inner_text()
    page.keyboard.press("Escape")
    page.locator("#versions").click()
    assert page.title() == "plays" and page.locator("img").count() == 0


def test_an_input_method_composes_while_the_model_writes(open_page):
    page = open_page("mockEngine({held: true})")
    write_beginning(page, "One END")
    page.evaluate("page.sheet.caret = 3")
    page.keyboard.press("Tab")
    write_words(page, 3)
    page.keyboard.press("Control+Home")
    session = page.context.new_cdp_session(page)
    for composed in ("k", "ky", "kyo"):
        session.send("Input.imeSetComposition", {"text": composed, "selectionStart": len(composed),
                                                 "selectionEnd": len(composed)})
        assert page.evaluate("page.at.text.value").startswith(composed + "One")
        assert page.evaluate("page.at.layer.firstChild.textContent").startswith(composed + "One")
    page.evaluate("engine.release(99)")
    page.wait_for_function("page.writing.running.tokens === 12")
    assert len(page.evaluate("page.at.text.value").split()) == 5                   # they wait for the end of it
    session.send("Input.insertText", {"text": "你"})
    idle(page)
    text = text_of(page)
    assert text.startswith("你One ") and text.endswith(" END") and len(text.split()) == 14
    typed = page.evaluate("page.writing.story.nodes.map(({inserted}) => textOfRuns(inserted))")
    assert not any("ky" in text for text in typed)              # nothing provisional has become a version


def test_sentences_are_read_aloud_when_they_are_finished(open_page):
    page = open_page("""({...mockEngine(), async generate(prompt, {onPiece}) {
        for (const text of [" The sea", " is cold.", " A bell", " rings"]) {
          onPiece(0, {text, bits: 1});
          await new Promise((resolve) => setTimeout(resolve, 40));
        }
        return [{text: "", tokens: 4, seconds: 1, ended: "length"}];
    }})""")
    write_beginning(page, "One")
    page.keyboard.press("Tab")
    idle(page)
    assert page.locator("#spoken p").all_inner_texts() == ["The sea is cold.", "A bell rings"]
    assert page.locator("#spoken").get_attribute("aria-live") == "polite"


def test_selection_and_scroll_stay_where_they_are_while_it_writes(open_page):
    page = open_page("mockEngine({held: true})")
    write_beginning(page, "A line of the text\n" * 100)
    page.keyboard.press("Tab")
    write_words(page, 3)
    page.evaluate("window.scrollTo(0, 200)")
    page.evaluate("page.at.text.setSelectionRange(150, 160)")
    first = page.evaluate_handle("page.at.layer.firstChild.firstChild")
    page.evaluate("engine.release(99)")
    idle(page)
    assert page.evaluate("[page.at.text.selectionStart, page.at.text.selectionEnd, window.scrollY]") == [150, 160, 200]
    assert page.evaluate("(node) => node === page.at.layer.firstChild.firstChild", first)


def test_the_window_follows_an_answer_that_grows_out_of_it(open_page):
    page = open_page("mockEngine({delay: 3})")
    page.evaluate("page.writing.values = {tokens: 150}")
    write_beginning(page, "A line of the text\n" * 30)
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    page.keyboard.press("Tab")
    idle(page)
    # Scrolling takes a frame or two.
    page.wait_for_function("(([bottom, bar]) => 0 < bottom && bottom < bar)([page.sheet.rectangleAt(page.sheet.caret)"
                           ".bottom, page.at.bottom.getBoundingClientRect().top])", timeout=5000)


def test_letters_of_the_layer_lie_under_those_of_the_text_area(open_page):
    page = open_page(viewport=PHONE)
    texts = ["word " * 200, "x" * 400, "a\tb\t\tc " * 40, "AV To fi ffl. " * 60, "one  two   \n\n three\n" * 30,
             "日本語の文章です。" * 40, "🙂👩‍👩‍👧 é ñ " * 50, "שלום abc " * 40 + "\nabc שלום",
             "long-hyphen-ated/path " * 40]
    for text in texts:
        heights = page.evaluate("""(text) => {
            page.writing.replaceAll(text);
            page.at.text.style.minHeight = page.at.text.style.height = 0;
            const height = page.at.text.scrollHeight;
            page.at.text.style.minHeight = page.at.text.style.height = "";
            return [height, page.at.layer.lastChild.getBoundingClientRect().bottom
              - page.at.layer.firstChild.getBoundingClientRect().top];
        }""", text)
        assert heights[0] == heights[1], text


def test_a_text_of_200_kilobytes_stays_usable(open_page):
    page = open_page("mockEngine({delay: 1})")
    write_beginning(page, "The sea is cold tonight, and the bell is under it.\n" * 4000)
    page.keyboard.press("Control+Home")
    page.locator("input[value=author]").check(force=True)
    page.locator("#text").focus()
    changed = page.evaluate("""() => {
        const observer = new MutationObserver(() => {}), counts = [];
        observer.observe(page.at.layer, {childList: true});
        for (let key = 0; key < 12; key += 1) {
          document.execCommand("insertText", false, "a");
          page.at.layer.offsetHeight;
          counts.push(observer.takeRecords().reduce((sum, record) => sum + record.addedNodes.length, 0));
        }
        return counts;
    }""")
    assert max(changed) <= 2, changed       # a key draws its own line anew, not all 4,000
    page.keyboard.press("Control+End")
    page.keyboard.press("Tab")
    idle(page)
    assert len(text_of(page)) > 204_050


@pytest.mark.parametrize("scheme, viewport", [("dark", WIDE), ("light", PHONE)], ids=["wide", "phone"])
def test_axe_finds_no_violation(open_page, scheme, viewport):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = open_page("mockEngine({context: 30})", viewport=viewport, color_scheme=scheme)
    violations = []

    def check(state):
        page.wait_for_timeout(60)
        found = axe.Axe().run(page).response["violations"]
        violations.extend((state, one["id"], [node["html"] for node in one["nodes"]]) for one in found)
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"], state

    check("empty")
    story_with_versions(page)
    page.locator("input[value=author]").check(force=True)
    page.evaluate("page.tell('What went wrong.')")
    check("text")
    page.evaluate("page.alternatives.openAt(9)")
    page.wait_for_selector("#others-list button")
    check("alternatives")
    page.keyboard.press("Escape")
    page.locator("#count").select_option("4")
    page.locator("#continue").click()
    page.wait_for_function("page.writing.running === null")
    check("answers")
    page.keyboard.press("1")
    for panel in ("settings", "versions", "keys"):
        page.locator(f"#{panel}").click()
        check(panel)
        page.keyboard.press("Escape")
    assert violations == []


@pytest.mark.parametrize("width", [360, 800, 1020, 1100, 1600])
def test_the_header_keeps_its_order_and_fits_with_a_long_name_too(open_page, width):
    page = open_page(viewport={"width": width, "height": 700})
    for name in ("plays", "a_run_with_a_long_name_of_the_third_of_december_2026_" * 2):
        page.evaluate("(name) => page.describe({...page.about, name})", name)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        boxes = page.evaluate("""Object.fromEntries(["name", "facts", "colors", "tools"].map((part) => {
            const {left, right, top, bottom} = document.querySelector(`.${part}`).getBoundingClientRect();
            return [part, {left, right, top, bottom}];
        }))""")
        assert all(0 <= box["left"] and box["right"] <= width for box in boxes.values())
        if width > 1010:                                # one line
            order = list(boxes.values())
            assert all(one["right"] <= other["left"] for one, other in zip(order, order[1:]))
            assert max(box["top"] for box in order) < min(box["bottom"] for box in order)


def test_everything_is_reached_by_keyboard(open_page):
    page = open_page()
    write_beginning(page, "One")
    page.keyboard.press("Tab")
    idle(page)
    page.keyboard.press("Control+Shift+Enter")
    idle(page)
    page.keyboard.press("Escape")
    reached = []
    for _ in range(24):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.value"))
        if reached[-1] == "text":
            page.keyboard.press("Escape")
    assert {"continue", "retry", "previous", "undo", "count", "off", "versions", "open", "save", "settings", "keys",
            "theme", "text"} <= set(reached)
