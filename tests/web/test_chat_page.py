"""The chat view in Chromium: with an engine whose words are known, with a server, and in the one-file page."""

import json

import pytest

import folio
from browser import browser  # noqa: F401  (a fixture)
from folio.base.home import Home
from folio.chat.messages import Message
from folio.chat.plain_text import written
from folio.formats import page as one_file
from folio.formats import trained_model
from folio.server.models import Models
from running import running
from test_writing_page import address, open_page  # noqa: F401  (fixtures)
from tiny_chat import write_chat_weights
from tiny_models import write_weights

WIDE, PHONE, NARROW = {"width": 1280, "height": 800}, {"width": 390, "height": 844}, {"width": 320, "height": 640}
CHAT = "mockEngine({chat: true})"


def send(page, text, waits=True):
    """Type a message and send it."""
    page.locator("#message").fill(text)
    page.locator("#message").press("Enter")
    if waits:
        answered(page)


def answered(page):
    """Wait until the engine is free; of several answers one may still have to be taken."""
    page.wait_for_function("page.chat.running === null")
    page.evaluate("page.chat.choosing ? null : page.chat._finished")


def shown(page):
    """The messages that a person sees: [(role, text)]; they are those of the conversation."""
    items = page.evaluate("""[...document.querySelectorAll(".message:not(.waiting)")].map((item) => [
        item.classList.contains("by-user") ? "user" : "assistant", item.querySelector(".message-text").textContent])""")
    assert items == page.evaluate("""page.chat.conversation.path().map((number) => {
        const {role, content} = page.chat.conversation.nodes[number];
        return [role, content];
    })""")
    return [tuple(item) for item in items]


def press(page, name, place=-1):
    """Press one of the buttons of a message."""
    page.locator(f"[data-does^={name}]").nth(place).click()


def asked(page, call=-1):
    """The messages of a request to the engine: [(role, content)]."""
    prompt = page.evaluate(f"engine.calls.at({call}).prompt")
    return [(message["role"], message["content"]) for message in prompt["messages"]]


def release(page, words):
    page.evaluate(f"engine.release({words})")
    page.wait_for_function(f"page.chat.running.tokens >= {words}")


def test_a_message_is_sent_by_enter_and_its_answer_grows_until_escape(open_page):
    page = open_page("mockEngine({chat: true, held: true})")
    assert page.evaluate("document.activeElement.id") == "message"
    page.keyboard.type("One")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    page.wait_for_selector(".waiting")
    assert page.locator("#send-label").inner_text() == "Stop" and page.locator("#message").input_value() == ""
    release(page, 2)
    [message, (role, begun)] = shown(page)
    assert message == ("user", "One\ntwo") and role == "assistant" and len(begun.split()) == 2
    assert asked(page) == [message]
    page.keyboard.press("Escape")
    answered(page)
    assert shown(page) == [message, ("assistant", begun)]
    assert page.locator("#send-label").inner_text() == "Send"
    page.keyboard.press("Enter")                        # nothing to send
    assert page.evaluate("engine.calls.length") == 1


def test_the_conversation_so_far_and_the_system_prompt_are_asked_with(open_page):
    page = open_page(CHAT)
    page.locator("#chat-system summary").click()
    page.locator("#system-text").fill("Be brief.")
    send(page, "One")
    send(page, "Two")
    conversation = shown(page)
    assert asked(page) == [("system", "Be brief."), *conversation[:3]]
    assert [role for role, _ in conversation] == ["user", "assistant"] * 2
    assert page.evaluate("engine.calls.at(-1).prompt.continues") is False
    assert "Cut off at the maximum length" in page.locator("#chat-status").inner_text()
    press(page, "go-on")
    answered(page)
    assert asked(page) == [("system", "Be brief."), *conversation]
    assert page.evaluate("engine.calls.at(-1).prompt.continues") is True
    assert shown(page)[:3] == conversation[:3]
    assert shown(page)[3][1].startswith(conversation[3][1]) and len(shown(page)[3][1]) > len(conversation[3][1])


def test_again_and_edits_are_versions_and_none_is_lost(open_page):
    page = open_page(CHAT)
    send(page, "One")
    first = shown(page)
    page.keyboard.press("Control+Shift+Enter")
    answered(page)
    second = shown(page)
    assert first[0] == second[0] and first[1] != second[1]
    assert page.locator(".fork:visible").inner_text().split() == ["‹", "2/2", "›"]
    page.keyboard.press("Alt+PageUp")
    assert shown(page) == first
    send(page, "Two")
    longer = shown(page)
    press(page, "edit", 0)
    page.locator(".message-field").fill("Uno")
    page.keyboard.press("Control+Enter")
    answered(page)
    assert shown(page)[0] == ("user", "Uno") and len(shown(page)) == 2 and asked(page) == [("user", "Uno")]
    press(page, "previous", 0)
    assert shown(page) == longer
    page.keyboard.press("ArrowUp")                      # the last message of the user, in place
    assert page.locator(".message-field").input_value() == "Two"
    page.keyboard.press("Escape")
    assert shown(page) == longer
    press(page, "edit")                                 # the model's words, corrected: nothing is asked
    calls = page.evaluate("engine.calls.length")
    page.locator(".message-field").fill("Better")
    page.locator(".message-editor .main").click()
    assert shown(page) == [*longer[:3], ("assistant", "Better")] and page.evaluate("engine.calls.length") == calls
    page.locator("#chat-new").click()
    assert shown(page) == [] and page.locator("#chat-empty").is_visible()
    send(page, "Other")
    assert page.locator("[data-number]").first.locator(".fork").inner_text().split() == ["‹", "3/3", "›"]


def test_one_of_several_answers_is_taken_and_whoever_asks_is_told(open_page):
    page = open_page(CHAT)
    page.evaluate("page.chat.onPrefer = (preference) => { window.preferred = preference; }")
    page.locator("#chat-count").select_option("3")
    send(page, "One")
    texts = page.locator(".answer-text").all_inner_texts()
    assert len(set(texts)) == 3 and page.locator("#send").is_disabled()
    page.keyboard.press("2")
    page.wait_for_function("!page.chat.choosing")
    assert shown(page) == [("user", "One"), ("assistant", texts[1].strip())]
    assert page.evaluate("preferred") == {"messages": [{"role": "user", "content": "One"}],
                                          "chosen": texts[1].strip(), "rejected": [texts[0].strip(), texts[2].strip()]}
    page.keyboard.press("Alt+PageUp")
    assert shown(page)[1] == ("assistant", texts[0].strip())
    page.evaluate("window.preferred = null")
    send(page, "Two")
    page.keyboard.press("Escape")
    page.wait_for_function("!page.chat.choosing")
    answered(page)
    assert len(shown(page)) == 4 and "kept as versions" in page.locator("#chat-status").inner_text()
    assert page.evaluate("preferred") is None


def test_a_failure_is_told_and_the_message_can_be_answered_again(open_page):
    page = open_page("mockEngine({chat: true, refusal: 'It cannot be done.'})")
    send(page, "One")
    assert page.locator("#notice-text").inner_text() == "It cannot be done."
    assert shown(page) == [("user", "One")]
    page.locator("#notice-close").click()
    assert page.evaluate("document.activeElement.id") == "message"
    press(page, "answer")
    answered(page)
    assert page.evaluate("engine.calls.length") == 2 and asked(page) == [("user", "One")]


def test_a_line_says_from_where_on_the_model_sees_the_conversation(open_page):
    page = open_page("mockEngine({chat: true, leftOut: 1})")
    for text in ("One", "Two", "Three"):
        send(page, text)
    order = page.evaluate("[...document.querySelectorAll('#messages > li')].map((item) => item.className)")
    assert order.index("chat-mark") == 2 and order.count("chat-mark") == 1
    assert page.locator(".chat-mark").inner_text() == "the model sees from here"


def test_the_conversation_and_the_view_are_kept_in_the_browser(open_page):
    page = open_page(CHAT)
    send(page, "One")
    kept = shown(page)
    page.locator("#chat-view").click()
    assert page.locator("#writing").is_visible() and not page.locator("#composer").is_visible()
    assert page.evaluate("document.activeElement.id") == "text"
    page.keyboard.type("A text")
    page.reload()
    page.wait_for_function("page.writing.engine !== null")
    assert page.locator("#text").input_value() == "A text" and not page.locator("#chat").is_visible()
    page.locator("#chat-view").click()
    assert shown(page) == kept
    page.evaluate("localStorage.setItem(`${page.chat.keeper.key}:conversation`, '{')")
    page.evaluate("page.chat.keeper.write = () => true; page.chat.keeper._pending = null")
    page.reload()
    page.wait_for_function("page.writing.engine !== null")
    assert "The conversation kept in this browser cannot be shown." in page.locator("#notice-text").inner_text()


def test_a_model_that_does_not_chat_has_the_writing_view_alone(open_page):
    page = open_page()
    assert not page.locator("#chat-view").is_visible() and not page.locator("#composer").is_visible()
    assert page.locator("#bar").is_visible()
    page.locator("#keys").click()
    assert not page.locator("#chat-keys").is_visible()


def opened(page, tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    page.locator("#file").set_input_files(tmp_path / name)


def test_files_hold_the_conversation_and_are_opened_again(open_page, tmp_path):
    page = open_page(CHAT)
    send(page, "> One\nmore")
    conversation = shown(page)
    files = []
    for button in ("#save-text", "#save-story"):
        page.locator("#save").click()
        with page.expect_download() as download:
            page.locator(button).click()
        files.append(download.value.path().read_text(encoding="utf-8"))
    text, saved = files
    assert text == written([Message(*message) for message in conversation])
    assert [tuple(message.values()) for message in json.loads(saved)["messages"]] == conversation
    opened(page, tmp_path, "other.txt", ">> Be kind.\n\n> Two?\n\nYes.\n")
    page.wait_for_function("page.chat.conversation.system === 'Be kind.'")
    assert page.locator("#system-text").is_visible() and page.locator("#system-text").input_value() == "Be kind."
    assert shown(page) == [("user", "Two?"), ("assistant", "Yes.")]
    press(page, "previous", 0)
    assert shown(page) == conversation                  # the text came as one version more
    opened(page, tmp_path, "messages.json", json.dumps({"messages": [{"role": "user", "content": "Three?"}]}))
    page.locator("#replace-panel button[value=replace]").click()
    page.wait_for_function("page.chat.conversation.nodes.length === 2")
    assert shown(page) == [("user", "Three?")]
    opened(page, tmp_path, "saved.json", saved)
    page.locator("#replace-panel button[value=replace]").click()
    page.wait_for_function("page.chat.conversation.nodes.length === 3")
    assert shown(page) == conversation
    opened(page, tmp_path, "broken.json", "{")
    page.wait_for_function("!page.at.notice.hidden")
    assert page.locator("#notice-text").inner_text().startswith("broken.json cannot be opened. It is not JSON")
    assert shown(page) == conversation


def test_an_edit_that_is_not_sent_yet_outlives_what_changes_around_it(open_page):
    page = open_page(CHAT)
    for text in ("One", "Two"):
        send(page, text)
    press(page, "edit", 0)
    page.locator(".message-field").fill("Uno")
    page.evaluate("page.connect()")                     # as when a server answers again
    assert page.locator(".message-field").input_value() == "Uno"
    assert page.evaluate("document.activeElement.className") == "message-field"
    press(page, "again")
    answered(page)
    assert page.locator(".message-field").input_value() == "Uno"
    page.locator(".message-editor .main").click()
    answered(page)
    assert shown(page)[0] == ("user", "Uno") and asked(page) == [("user", "Uno")]


def test_nothing_else_is_opened_while_an_answer_is_to_be_taken(open_page, tmp_path):
    page = open_page(CHAT)
    page.evaluate("page.chat.onPrefer = (preference) => { window.preferred = preference; }")
    page.locator("#chat-count").select_option("2")
    send(page, "One")
    for button in ("#open", "#chat-view", "#chat-new"):
        assert page.locator(button).is_disabled()
    page.evaluate("page.changed()")
    assert page.locator("#open").is_disabled()
    page.locator("#chat-system summary").click()
    page.locator("#system-text").fill("Be brief.")      # from the next answer on
    page.locator(".answer button").first.click()
    page.wait_for_function("!page.chat.choosing")
    assert [message["role"] for message in page.evaluate("preferred.messages")] == ["user"]
    for button in ("#open", "#chat-view", "#chat-new"):
        assert page.locator(button).is_enabled()


def test_of_an_answer_that_gave_way_to_a_new_conversation_nothing_comes_into_it(open_page):
    page = open_page("mockEngine({chat: true, held: true})")
    send(page, "One", waits=False)
    page.wait_for_selector(".waiting")
    page.evaluate("""() => {
        const run = page.chat.running;
        page.chat.restart();
        page.chat._take(run, {text: " late", bits: 1});
    }""")
    answered(page)
    assert shown(page) == []


def test_a_conversation_that_begins_with_an_answer_has_no_other_in_its_place(open_page, tmp_path):
    page = open_page("mockEngine({chat: true, leftOut: 1})")
    page.evaluate("page.useSettings({tokens: 5})")
    messages = [{"role": "assistant", "content": "Hello."}, {"role": "user", "content": "One"}]
    opened(page, tmp_path, "begun.jsonl", json.dumps({"messages": messages}) + "\n")
    page.wait_for_function("page.chat.conversation.nodes.length === 3")
    assert page.evaluate("page.writing.values") == {"tokens": 5}        # the file has no settings
    assert page.locator("[data-does^=again]").count() == 0
    press(page, "answer")
    answered(page)
    assert len(shown(page)) == 3 and page.locator("[data-does^=again]").count() == 1
    order = page.evaluate("[...document.querySelectorAll('#messages > li')].map((item) => item.className)")
    assert order.index("chat-mark") == 1                # the greeting alone was left out


def test_the_colors_of_the_text_leave_the_chat_alone(open_page):
    page = open_page(CHAT)
    page.locator("#chat-view").click()
    page.locator("input[value=surprise]").check(force=True)
    assert page.locator("#legend").is_visible()
    page.locator("#chat-view").click()
    assert page.locator("#legend").is_hidden()


@pytest.mark.parametrize("scheme, viewport", [("dark", WIDE), ("light", PHONE), ("light", WIDE)],
                         ids=["dark", "phone", "light"])
def test_axe_finds_no_violation(open_page, scheme, viewport):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = open_page("mockEngine({chat: true, leftOut: 1})", viewport=viewport, color_scheme=scheme)
    violations = []

    def check(state):
        page.wait_for_timeout(150)                      # what fades in has done so
        found = axe.Axe().run(page).response["violations"]
        violations.extend((state, one["id"], [node["html"] for node in one["nodes"]]) for one in found)
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"], state

    check("empty")
    for text in ("One", "Two " * 40):
        page.locator("#message").fill(text)
        page.locator("#send").click()
        answered(page)
    page.locator("#chat-system summary").click()
    press(page, "edit", 0)
    check("edited")
    page.keyboard.press("Escape")
    page.locator("#chat-count").select_option("4")
    page.locator("#message").fill("Three")
    page.locator("#send").click()
    answered(page)
    check("answers")
    page.keyboard.press("1")
    page.locator("#keys").click()
    check("keys")
    assert violations == []


def test_everything_is_reached_by_keyboard(open_page):
    page = open_page(CHAT)
    send(page, "One")
    page.keyboard.press("Control+Shift+Enter")
    answered(page)
    reached = set()
    for _ in range(26):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("""document.activeElement.id || document.activeElement.dataset.does?.split("-")[0]
            || document.activeElement.tagName"""))
    assert {"message", "send", "chat-new", "chat-count", "chat-view", "open", "save", "settings", "SUMMARY", "copy",
            "edit", "again", "previous"} <= reached


# --- Real models ---

@pytest.fixture(scope="module")
def home(tmp_path_factory):
    made = Home(tmp_path_factory.mktemp("project"))
    write_chat_weights(made)
    write_weights(made, "base", written_at=1_700_000_000)
    return made


@pytest.fixture
def real_page(browser):
    """Return a function: an address -> a page there; in the end nothing was said on a console."""
    contexts, said = [], []

    def open_it(url, **options):
        contexts.append(browser.new_context(viewport=WIDE, **options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.set_default_timeout(10_000)
        page.goto(url)
        return ready(page)
    yield open_it
    for context in contexts:
        context.close()
    assert said == []


def ready(page, expression="page.writing.engine !== null"):
    """Wait without wait_for_function, which needs eval: the policy of the pages forbids it."""
    for _ in range(1000):
        if page.evaluate(expression):
            return page
        page.wait_for_timeout(20)
    raise AssertionError(expression)


def talk(page, model):
    """Have a conversation at temperature 0, and check every answer against Python's."""
    page.evaluate("page.writing.values = {temperature: 0, tokens: 20}")
    conversation = []
    for text in ("ping", "tick", "who are you", "ping", "tick"):
        page.locator("#message").fill(text)
        page.locator("#send").click()
        ready(page, "page.chat.running === null")
        conversation.append(Message("user", text))
        answer = "".join(model.reply(conversation, temperature=0, tokens=20))
        conversation.append(Message("assistant", answer))
        assert shown(page) == [(message.role, message.content) for message in conversation]
    assert shown(page)[:4] == [("user", "ping"), ("assistant", "pong"), ("user", "tick"), ("assistant", "tock")]
    left_out = model.chat.fitted(conversation[:-1], model.net.context, 20)[1]
    assert page.evaluate("page.chat.turnsLeftOut") == left_out > 0
    assert page.locator(".chat-mark").count() == 1
    assert page.locator("#notice").is_hidden()
    page.locator("#message").fill("tick " * 100)
    page.locator("#send").click()
    ready(page, "page.chat.running === null")
    assert page.locator("#notice-text").inner_text().startswith("The last messages alone are longer than the 64 tokens")


def test_a_served_chat_model_answers_as_in_python(home, real_page):
    models = Models(home, home.weights("bell"))
    try:
        with running(models) as served:
            page = real_page(f"http://127.0.0.1:{served.port}/")
            talk(page, models.get_now("bell").model)
            page.locator("#view").click()
            ready(page, "document.body.classList.contains('shows-training')")
            assert page.locator("#view").inner_text() == "Chat" and not page.locator("#chat").is_visible()
            page.locator("#view").click()
            ready(page, "!document.body.classList.contains('shows-training')")
            assert page.locator("#chat").is_visible()
            page.set_viewport_size(NARROW)
            page.evaluate("page.at['voices-choice'].hidden = false")
            for _ in range(2):                          # in both views, with all that either has
                assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]
                page.locator("#chat-view").click()
            page.locator("#model").select_option("base")
            ready(page, "page.about.name === 'base'")
            assert page.locator("#writing").is_visible() and not page.locator("#chat-view").is_visible()
            page.close()                                # it would go on asking a server that ends
    finally:
        models.close()


def test_the_one_file_page_chats_without_a_network(home, real_page, tmp_path):
    path = tmp_path / "bell.html"
    one_file.write(trained_model.load(home.weights("bell")), path, "f32")
    content = path.read_text(encoding="utf-8")
    assert content.count("\nstartPage(engine);") == 1
    path.write_text(content.replace("\nstartPage(engine);", "\nwindow.page = startPage(engine);"), encoding="utf-8")
    page = real_page(path.as_uri(), offline=True)
    talk(page, folio.load(home.weights("bell")))
    page.locator("#chat-view").click()
    assert page.locator("#writing").is_visible()
