"""The page's routes: files, answers, measurements, copied stretches, the runs of a project."""

import json
import math
import re
import threading
import time

import pytest

from conftest import ROOT
from folio.base.home import Home
from folio.evaluation.suffixes import longest_match, suffix_array
from folio.formats import page as one_file
from folio.generation.decoder import window_start
from folio.generation.engine import Event, TokenEvent
from folio.server import copies, page, training
from Model_Params import GenerationParams
from node_program import run_node
from running import connect, within
from tiny_server import post, refused, serving

SETTINGS = {"tokens": 30, "sampling_seed": str(2 ** 53 + 1), "temperature": 1.1, "top_p": 0.97, "stop": ["\n\n\n"]}
SEEN = """TIBBY:
I heard it creak!

VARROW:
And did you hear it creak eleven times?"""
REPORTS = [{"step": step, "seconds": step / 10, "train_nats_per_byte": 3 - step / 100} for step in range(10, 101, 10)]
REPORTS[4] |= {"val_nats_per_byte": 2.5, "sample": "ab\u2028c"}
REPORTS[9] |= {"val_nats_per_byte": float("inf")}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    home = Home(folder)
    home.train_data.mkdir()
    (home.train_data / "input.txt").write_bytes((ROOT / "Train_Data" / "input.txt").read_bytes())
    with serving(folder, body_bytes=300_000, most_tokens=5000) as served:
        home.log("night").write_text("".join(json.dumps(report) + "\n" for report in REPORTS) + '{"step": 1',
                                     encoding="utf-8")
        yield served


def events_of(response):
    """The values of a stream of server-sent events."""
    parts = response.content.decode("utf-8").split("\n\n")
    assert parts.pop() == "" and all(part.startswith("data: ") and "\n" not in part for part in parts)
    assert parts.pop() == "data: [DONE]"
    return [json.loads(part[len("data: "):]) for part in parts]


def answers(server, **body):
    """The pieces and the results of answers."""
    *pieces, last = events_of(server.client.post("/folio/generate", json=body))
    return [piece for event in pieces for piece in event["pieces"]], last["result"]


# --- Files ---

def test_the_page_and_all_its_files_are_served_and_kept_by_the_browser(server):
    response = server.client.get("/")
    policy = response.headers["content-security-policy"]
    assert response.status_code == 200 and policy.startswith("default-src 'self';") and "unsafe" not in policy
    assert "<!-- " not in response.text
    paths = re.findall(r'(?:src|href)="([^"]+)"', response.text)
    assert len(paths) == len(page.SCRIPTS) + len(page.STYLES) + 1
    assert all(path.startswith("/folio/web/") for path in paths)
    for path in ["/", *paths]:
        first = server.client.get(path)
        assert first.status_code == 200 and first.content
        again = server.client.get(path, headers={"if-none-match": f'"other", W/{first.headers["etag"]}'})
        assert (again.status_code, again.content) == (304, b"")
        assert server.client.get(path, headers={"if-none-match": '"other"'}).status_code == 200


def test_nothing_in_the_page_needs_more_than_its_policy_allows(server):
    text = server.client.get("/").text
    assert re.findall(r"<script(?![^>]* src=)|<style| style=| on[a-z]+=|https?:", text) == []
    for name in page.SCRIPTS:
        script = (one_file.WEB / name).read_text(encoding="utf-8")
        assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|\beval\(|new Function", script) == []


@pytest.mark.parametrize("name", ["nothing.js", "page.html", "worker.js", "..%2f..%2ftrain.py", "%2e%2e/app.py"])
def test_no_other_file_is_served(server, name):
    assert server.client.get(f"/folio/web/{name}").status_code == 404


# --- Answers ---

def test_the_texts_are_those_of_python_and_of_the_one_file_page(server):
    settings = SETTINGS | {"sampling_seed": 2 ** 53 + 1}
    for prompt in ("MERRAN:\n", "The old king spo", ""):
        pieces, results = answers(server, prompt=prompt, settings=SETTINGS, count=2, stream=3)
        for index, result in enumerate(results):
            assert result["text"] == server.model.complete(prompt, stream=3 + index, **settings), prompt
            assert "".join(text for place, text, _, _ in pieces if place == index) == result["text"]
            assert sum(tokens for place, _, _, tokens in pieces if place == index) == result["tokens"] == 30
            assert (result["seed"], result["stream"]) == (str(2 ** 53 + 1), 3 + index)
            assert result["ended"] == "length" and result["seconds"] > 0


def test_bits_are_what_the_model_itself_gives_a_token(server):
    pieces, _ = answers(server, prompt="The sea ", settings={"tokens": 1, "temperature": 3, "sampling_seed": 1})
    [(_, text, bits, tokens)] = pieces
    likely = dict(reversed(server.model.next_token_probabilities("The sea ")))
    assert tokens == 1 and bits == pytest.approx(-math.log2(likely[text]), rel=1e-3)


def test_an_answer_ends_as_it_does_in_the_one_file_page(server):
    stop = {"tokens": 200, "sampling_seed": 3, "stop": ["e"]}
    [result] = answers(server, prompt="MERRAN:\n", settings=stop)[1]
    assert result["ended"] == "stop" and "e" not in result["text"]
    [empty] = answers(server, prompt="A", settings={"tokens": 0})[1]
    assert (empty["text"], empty["tokens"], empty["ended"]) == ("", 0, "length")
    end = server.model.tokenizer.end_of_text
    found = page.Answers(server.model, GenerationParams(sampling_seed=1), 3)
    word, last = TokenEvent(65, b"A", -math.log(4), (), 0), TokenEvent(end, b"", -9.0, (), 1)
    assert found.add([Event(0, "", (word,)), Event(1, "B", (word,), "length"),
                      Event(2, "", (last,), "stop")]) == [[1, "B", 2.0, 1]]
    assert found.running == {0}
    assert found.add([Event(0, "A", (word, last), "stop")]) == [[0, "A", 4.0, 2]]
    assert [result["ended"] for result in found.results] == ["end", "length", "end"]
    assert [result["tokens"] for result in found.results] == [2, 1, 0]


def test_rows_are_free_soon_after_a_client_is_gone(server):
    with server.client.stream("POST", "/folio/generate", json={
            "prompt": "A", "count": 8, "settings": {"tokens": 5000, "sampling_seed": 1}}) as response:
        next(response.iter_bytes())
        assert server.engine.stats.running > 0
    until = time.monotonic() + 10
    while server.engine.stats.running:
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_client_that_leaves_before_its_request_has_a_place_leaves_nothing_behind(server, monkeypatch):
    submit, taken, begun, may_go_on = server.engine.submit, [], threading.Event(), threading.Event()

    def slow(request):
        begun.set()
        assert may_go_on.wait(20)
        taken.append(submit(request))
        return taken[-1]
    monkeypatch.setattr(server.engine, "submit", slow)
    body = json.dumps({"prompt": "A" * 20_000, "count": 8, "settings": {"tokens": 5000, "sampling_seed": 1}}).encode()
    host, port = server.address.removeprefix("http://").split(":")
    with connect(int(port)) as connection:
        connection.sendall(f"POST /folio/generate HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
                           f"content-length: {len(body)}\r\n\r\n".encode() + body)
        assert begun.wait(20)
    within(10, lambda: server.app.state.activity.in_flight == 0)
    may_go_on.set()
    within(10, lambda: taken and taken[0].is_cancelled)
    within(10, lambda: server.engine.stats.running == server.engine.stats.waiting == 0)


@pytest.mark.parametrize("path, body, message", [
    ("generate", {"prompt": 1}, "prompt should be of type str."),
    ("generate", {"prompt": "a", "count": 9}, "count=9 is not a number of answers from 1 to 8."),
    ("generate", {"prompt": "a", "count": True}, "count should be of type int."),
    ("generate", {"prompt": "a", "stream": -1}, "stream=-1 is not from 0 to 127."),
    ("generate", {"prompt": "a", "settings": {"tokens": -5}}, "tokens=-5 is below the smallest value possible, 0."),
    ("generate", {"prompt": "a", "settings": {"tokens": 5001}}, "tokens=5001 is above what this server writes at most, "
                                                                "5000."),
    ("generate", {"prompt": "a", "settings": {"beams": 2}}, "There is no setting beams"),
    ("generate", {"prompt": "a", "settings": {"stop": [""]}}, "A stop string is empty"),
    ("generate", {"prompt": "a", "settings": {"stop": "no"}}, "stop='no' should be a list."),
    ("generate", {"prompt": "a", "settings": {"sampling_seed": "1e3"}}, "sampling_seed='1e3' should be of type int."),
    ("generate", {"prompt": "a", "settings": {"top_p": [1]}}, "top_p=[1] should be of type float."),
    ("generate", {"prompt": "a", "more": 1}, "There is no field more here."),
    ("generate", {"prompt": "\ud800"}, "prompt has half a surrogate pair, which is no character."),
    ("prefer", {"prompt": "a", "chosen": "b", "rejected": [1]}, "rejected"),
    ("prefer", {"prompt": "a", "chosen": " ", "rejected": ["b"]}, "An empty answer cannot be kept."),
    ("prefer", {"messages": [{"role": "judge"}], "chosen": "b", "rejected": ["c"]}, "role"),
    ("view", {}, "text should be of type str."),
    ("surprise", {"text": None}, "text should be of type str."),
    ("surprise", [], "The body of the request is not a JSON object."),
    ("alternatives", {"text": "a", "count": 0}, "count=0 is not from 1 to 100."),
    ("copies", {"text": "a", "model": 1}, "model should be the name of a model."),
    ("copies", b"{", "The body of the request is not JSON."),
    ("copies", b"[" * 10_000, "The body of the request is not JSON."),
])
def test_what_cannot_be_done_is_said_in_a_sentence(server, path, body, message):
    assert message in refused(server, f"/folio/{path}", body)["message"]


def test_the_answer_that_a_person_takes_is_kept_in_the_project(server):
    path = server.models.home.preferences
    assert post(server, "/folio/prefer", prompt="Once", chosen=" upon", rejected=[" a", " the"])["kept"] == 2
    asked = [{"role": "user", "content": "How many?"}]
    found = post(server, "/folio/prefer", messages=asked, chosen="3", rejected=["4"])
    assert found == {"kept": 1, "file": "Train_Data/preferences.jsonl"}
    assert [json.loads(line)["rejected"] for line in path.read_text("utf-8").splitlines()] == [" a", " the", "4"]
    path.unlink()


def test_an_unknown_model_and_an_unknown_setting_are_named(server):
    error = refused(server, "/folio/view", {"text": "a", "model": "pretraine"}, 404)
    assert "pretrained" in error["message"] and error["code"] == "model_not_found"
    assert refused(server, "/folio/generate", {"prompt": "a", "settings": {"top_q": 1}})["message"].startswith(
        "There is no setting top_q")


# --- Measurements ---

def test_the_model_says_what_it_is_and_which_others_there_are(server):
    found = server.client.get("/folio/describe").json()
    assert found == server.client.get("/folio/describe?model=pretrained").json()
    assert found["models"] == ["pretrained"] and found["about"]["name"] == "pretrained"
    assert found["about"]["parameters"] == 1066624 and found["about"]["context"] == 256
    expected = [field | ({"high": 5000} if field["name"] == "tokens" else {}) for field in one_file.settings()]
    assert found["settings"] == json.loads(json.dumps(expected))


def test_measurements_are_those_of_python(server, plays):
    text = plays[20_000:21_500]
    assert post(server, "/folio/surprise", text="")["pieces"] == []
    pieces = post(server, "/folio/surprise", text=text)["pieces"]
    assert [piece for piece, _ in pieces] == [piece for piece, _ in server.model.surprise(text)]
    assert [bits for _, bits in pieces] == pytest.approx([bits for _, bits in server.model.surprise(text)], abs=1e-3)
    likely = post(server, "/folio/alternatives", text=text[:700], count=5)["pieces"]
    expected = server.model.next_token_probabilities(text[:700])[:5]
    assert [piece for piece, _ in likely] == [piece for piece, _ in expected]


def test_the_view_begins_where_the_window_begins_in_the_units_of_javascript(server, plays):
    text = "\U0001f600é" + plays[20_000:22_000]
    ids = server.model.tokenizer.encode(text)
    seen = server.model.tokenizer.decode(ids[window_start(len(ids), 256):])
    assert post(server, "/folio/view", text=text)["start"] == 1 + len(text) - len(seen) > 1
    many = "\U0001f600" * 400                   # four tokens each: the window begins inside of one
    start = post(server, "/folio/view", text=many)["start"]
    assert start % 2 == 0 and start // 2 == math.ceil(window_start(len(server.model.tokenizer.encode(many)), 256) / 4)


# --- Copied stretches ---

def copied(server, text):
    """What the server finds, when it has read the training text."""
    until = time.monotonic() + 30
    while (found := post(server, "/folio/copies", text=text))["state"] == "reading":
        assert time.monotonic() < until
        time.sleep(0.05)
    return found


def test_copied_stretches_have_file_line_and_words(server, plays):
    before, after = "\U0001f600 Nobody wrote zzz this. ", " And qqq that is new."
    found = copied(server, before + SEEN + after)
    assert (found["state"], found["searched"], found["least_words"]) == ("ready", 1.0, copies.LEAST_WORDS)
    [stretch] = found["stretches"]
    text = (before + SEEN + after).encode("utf-16-le")
    assert text[2 * stretch["from"]:2 * stretch["to"]].decode("utf-16-le") == SEEN[:-1] == stretch["source"]
    assert (stretch["file"], stretch["words"]) == ("input.txt", 14)
    assert plays.split("\n")[stretch["line"] - 1:][:5] == SEEN.split("\n")
    assert plays.count(stretch["before"] + stretch["source"] + stretch["after"]) == 1
    assert copied(server, "Not a word of this has ever been in any play of theirs.")["stretches"] == []


def test_a_text_that_is_not_the_models_is_not_compared_with(server):
    finder = copies.Copies(server.models.home)
    assert finder.find(SEEN, None)["state"] == "missing"
    while (found := finder.find(SEEN, {"text_fingerprint": "another"}))["state"] == "reading":
        time.sleep(0.02)
    assert found["reason"] == "This model learned from another text than the one that is here."
    assert finder.find(SEEN, server.model.learned_from)["state"] == "ready"


def test_places_are_those_in_each_file(home):
    lines = [f"L{number:03} is the number of this line, which is one of many here" for number in range(200)]
    made = home({"a.txt": "\n".join(lines[:50]) + "\n<|endoftext|>\n" + "\n".join(lines[50:100]) + "\n",
                 "b.jsonl": "".join(json.dumps({"text": line}) + "\n" for line in lines[100:150]),
                 "c.txt": "\r\n".join(lines[150:]) + "\r\n"})
    text = copies.TrainingText(made)
    for number, place in [(0, ("a.txt", 1)), (44, ("a.txt", 45)), (50, ("a.txt", 52)), (94, ("a.txt", 96)),
                          (100, ("b.jsonl", 1)), (131, ("b.jsonl", 32)), (160, ("c.txt", 11))]:
        [stretch] = copies.stretches(text, lines[number])
        assert (stretch["file"], stretch["line"]) == place, number
        assert stretch["source"] == lines[number]
    assert copies.stretches(text, lines[199]) != [] and copies.stretches(text, lines[199])[0]["source"] != lines[199]


def test_parts_of_the_training_text_overlap(home, monkeypatch):
    monkeypatch.setattr(copies, "PART_BYTES", 1000)
    monkeypatch.setattr(copies, "LONGEST", 200)
    words = [f"w{number}x" for number in range(2000)]
    content = "\n".join(" ".join(words[start:start + 10]) for start in range(0, 2000, 10))
    text = copies.TrainingText(home(content))
    assert len(text.parts) > 5
    for first in range(0, 1700, 7):
        passage = "new " + content[content.index(words[first]):content.index(words[first + 12])] + " new"
        [stretch] = copies.stretches(text, passage)
        assert (stretch["words"], stretch["file"], stretch["line"]) == (12, "input.txt", first // 10 + 1)


def test_a_copied_word_is_whole_in_both_texts(home):
    text = copies.TrainingText(home("the old king spoke of his seafaring days\n" + "x y z\n" * 100))
    [stretch] = copies.stretches(text, "So the old king spoke of his sea")
    assert (stretch["words"], stretch["source"]) == (6, "the old king spoke of his")
    assert longest_match(b"banana", suffix_array(b"banana"), b"nab") == (2, 4)


def test_where_there_is_no_text_or_no_longer_the_same_it_is_said(home):
    made = home("one two three four five six seven\n" * 20)
    finder, learned = copies.Copies(made), {"text_fingerprint": copies.TrainingText(made).fingerprint}
    while (found := finder.find("one two three four five six", learned))["state"] == "reading":
        time.sleep(0.01)
    assert [stretch["words"] for stretch in found["stretches"]] == [6]
    (made.train_data / "input.txt").write_text("another text than before\n" * 30, encoding="utf-8")
    while (found := finder.find("one two three four five six", learned))["state"] == "reading":
        time.sleep(0.01)
    assert found["state"] == "missing" and "another text" in found["reason"]
    (made.train_data / "input.txt").unlink()
    assert "no training text" in finder.find("one", learned)["reason"]


# --- Runs ---

def test_the_runs_of_the_project_are_listed_without_paths(server):
    runs = {run["name"]: run for run in server.client.get("/folio/runs").json()["runs"]}
    assert set(runs) == {"pretrained", "night"} and set(runs["night"]) == {*training.SHOWN, "has_log"}
    assert (runs["night"]["state"], runs["night"]["steps"], runs["night"]["has_log"]) == ("log only", 100, True)
    assert runs["pretrained"]["bits_per_byte"] == pytest.approx(2.0214, abs=1e-4) and not runs["pretrained"]["has_log"]
    assert str(server.models.home.folder) not in json.dumps(runs)


def test_the_log_of_a_run_is_sent_from_a_step_on(server):
    def log(after):
        response = server.client.get("/folio/runs/night/log", params={"after": after})
        assert response.headers["content-type"] == "application/x-ndjson"
        assert response.content.count(b"\n") == len(lines := response.text.split("\n")) - 1
        return [json.loads(line) for line in lines[:-1]]
    assert log(-1) == [*REPORTS[:9], REPORTS[9] | {"val_nats_per_byte": None}]
    assert [report["step"] for report in log(80)] == [90, 100] and log(100) == []
    assert log(101)[0]["step"] == 10            # the run was resumed from an earlier step: all of it
    assert server.client.get("/folio/runs/night/log").text.count("\n") == 10
    assert server.client.get("/folio/runs/pretrained/log").content == b""       # it may come


@pytest.mark.parametrize("path, status", [("/folio/runs/dawn/log", 404), ("/folio/runs/night/log?after=x", 400),
                                          ("/folio/runs/..%2f..%2fnight/log", 404),
                                          ("/folio/runs/night/log?after=" + "9" * 30, 400)])
def test_a_log_that_is_not_there_is_refused(server, path, status):
    response = server.client.get(path)
    assert response.status_code == status and response.json()["error"]["message"]


@pytest.mark.parametrize("unit", ["byte", "pair"])
def test_a_long_log_is_thinned_but_keeps_its_evaluations(unit):
    score = f"val_nats_per_{unit}"
    reports = [{"step": step} | ({score: 1.0} if step % 999 == 0 else {}) for step in range(10_000)]
    found = training.thinned(reports, most=100)
    assert 100 <= len(found) <= 115 and found[-1] == reports[-1]
    assert [report for report in found if score in report] == reports[::999]
    assert training.thinned(reports[:50], most=100) == reports[:50]


# --- The engine in JavaScript ---

def test_no_part_of_a_stream_is_lost_wherever_it_is_cut(tmp_path):
    values = [{"pieces": [[0, "é\u2028\U0001f600\n\n", 1.5, 1]]}, {"pieces": []}, {"result": [{"text": "data: x"}]}]
    stream = ": a comment\r\n\r\n" + "".join(f"data: {json.dumps(value, ensure_ascii=number == 1)}{end}{end}"
                                             for number, (value, end) in enumerate(zip(values, ("\n", "\r\n", "\n"))))
    found = run_node(tmp_path, ["server_engine.js"], """
        const bytes = new TextEncoder().encode(cases.stream), found = [];
        for (let cut = 0; cut <= bytes.length; cut += 1) {
          const body = new ReadableStream({start(controller) {
            for (const part of [bytes.slice(0, cut), bytes.slice(cut, cut + 1), bytes.slice(cut + 1)]) {
              controller.enqueue(part);
            }
            controller.close();
          }});
          const events = [];
          for await (const event of serverEvents(body)) events.push(event);
          found.push(events);
        }
        return found;""", {"stream": stream})
    assert len(found) > len(stream) and all(events == values for events in found)


def test_of_a_long_text_its_end_is_sent_and_begins_at_fixed_places(tmp_path):
    starts = run_node(tmp_path, ["server_engine.js"], """
        return [cases.map((length) => sentFrom("a".repeat(length))), sentFrom("a" + "\\u{1f600}".repeat(150000)),
          withTexts({seed: 2n ** 60n, tokens: 3, stop: ["x"]})];""", [0, 250_000, 250_001, 300_000, 300_001])
    assert starts == [[0, 0, 50_000, 50_000, 100_000], 99_999, {"seed": str(2 ** 60), "tokens": 3, "stop": ["x"]}]
