"""A text written in turns: what is typed, what the model sees, what is on the screen."""

import io
import os
import re
import sys
from dataclasses import asdict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from folio.base.errors import FolioError
from folio.cli.interactive import SETTINGS
from folio.cli.screen import Screen, warmth
from folio.cli.text_mode import TextMode
from Model_Params import GenerationParams


class Telling:
    """A LanguageModel that tells which stream of which text it was asked for, a letter at a time."""

    def __init__(self):
        self.asked, self.stop_at, self.tells = [], None, " <{length}.{stream}>"

    def stream_each(self, prompts, **settings):
        if "☃" in prompts[0]["prompt"]:
            raise FolioError("The model does not know '☃'.")
        self.asked.append((prompts, settings))
        return self._pieces(prompts)

    def _pieces(self, prompts):
        for place, each in enumerate(prompts):
            for count, letter in enumerate(self.tells.format(length=len(each["prompt"]), stream=each["stream"])):
                if count == self.stop_at:
                    raise KeyboardInterrupt
                yield place, letter

    def surprise(self, text):
        return [(letter, 1.0 if letter.isalpha() else 12.0) for letter in text]

    def next_token_probabilities(self, text):
        return [(" hands", 0.5), ("\n", 0.25), ("\x1b[2J", 0.125), *(("中", 0.01) for _ in range(20))]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def begin(monkeypatch):
    """begin(samples=1, colors=False, **settings) -> a TextMode; conversation.said(typed) -> what the screen shows
    then
    """
    def beginning(samples=1, colors=False, width=80, **settings):
        monkeypatch.setattr(sys, "stdout", Terminal())
        monkeypatch.setattr(Screen, "width", width)
        monkeypatch.setenv("NO_COLOR", "" if colors else "1")
        monkeypatch.setenv("TERM", "xterm")
        conversation = TextMode(Telling(), GenerationParams(**settings), samples, Screen())

        def said(*typed):
            before = len(sys.stdout.getvalue())
            for each in typed:
                conversation.reply(each)
            return sys.stdout.getvalue()[before:]
        conversation.said = said
        return conversation
    return beginning


def test_escapes_typed_behind_stop_are_what_they_stand_for(begin):
    story = begin()
    assert r"'\n\n'" in story.said(r"/stop \n\n")
    story.said(r"/stop \\n")
    assert story.params.stop == ("\n\n", r"\n")


# --- What the model sees ---

def test_words_begin_a_new_line_of_the_text_and_the_answer_goes_on_right_after_them(begin):
    story = begin()
    story.said("Once", "Twice")
    assert story.text == "Once <4.0>\nTwice <16.1>"
    assert [each[0]["prompt"] for each, _ in story.model.asked] == ["Once", "Once <4.0>\nTwice"]


def test_words_begin_no_new_line_where_the_text_ends_with_one(begin):
    story = begin()
    story.model.tells = " end.\n"
    story.said("Once", "Twice")
    assert story.text == "Once end.\nTwice end.\n"


@pytest.mark.parametrize("typed", ["", "  ", "/more"])
def test_enter_alone_goes_on_and_begins_a_text_where_there_is_none(begin, typed):
    story = begin()
    story.said(typed)
    assert story.text == " <0.0>"
    story.said(typed)
    assert story.text == " <0.0> <6.1>"


def test_what_is_on_the_screen_is_the_text(begin):
    story = begin()
    screen = story.said("Once", "Twice")
    assert screen.replace("\n\x1b[A\x1b[10C", "") == story.text + "\n"         # up again, to where the text ended


def test_where_something_stands_between_the_end_of_the_text_is_shown_again(begin, monkeypatch):
    story = begin()
    story.said("Once", "/temperature 1")
    assert story.said("Twice") == "\nTwice <16.1>\n"
    story.said("/temperature 1")
    assert story.said("") == "\nTwice <16.1> <23.2>\n"
    monkeypatch.setattr(Screen, "width", 60)                # the terminal may have moved its lines
    assert story.said("") == "\nTwice <16.1> <23.2> <30.3>\n"


def test_the_text_goes_on_where_it_ended_also_after_ctrl_c(begin):
    story = begin()
    story.said("Once")
    # as after Ctrl-C, during the answer or while words are asked for
    story.screen.end_line()
    assert story.said("") == "\x1b[A\x1b[10C <10.1>\n"
    story.said("/temperature 1")
    story.screen.end_line()
    assert story.said("") == "\nOnce <4.0> <10.1> <17.2>\n"


def test_below_what_was_typed_and_stays_there_is_an_empty_line(begin):
    story = begin()
    for typed in ("Once", "Twice", "/seed 1", "/seed 2", "/top"):
        story.screen.stay(below_typed=True)
        assert re.match("\n[^\n]", story.said(typed))


def test_two_slashes_are_text_that_begins_with_one(begin):
    story = begin()
    story.said("//home")
    assert story.text.startswith("/home <5")
    story.said("a\n/again")
    assert "\na\n/again <" in story.text


def test_the_settings_reach_the_model(begin):
    story = begin(tokens=5, stop=("x",))
    story.said("/temperature 0.3", "/top_p .5", "/Seed 7", "Once")
    assert story.model.asked[0][1] == asdict(GenerationParams(tokens=5, stop=("x",), temperature=0.3, top_p=0.5,
                                                              sampling_seed=7))


# --- Streams of a seed ---

def streams(story):
    return [[each["stream"] for each in prompts] for prompts, _ in story.model.asked]


def test_successive_answers_are_successive_streams_and_a_new_text_or_seed_begins_them_again(begin):
    story = begin(sampling_seed=5)
    story.said("Once", "", "/again", "/undo", "Twice")
    assert streams(story) == [[0], [1], [2], [3]]
    story.said("/new", "Once", "/seed 5", "Twice")
    assert streams(story)[4:] == [[0], [0]]


def test_again_answers_the_same_words_anew(begin):
    story = begin()
    story.said("Once", "Twice", "/again")
    assert story.text == "Once <4.0>\nTwice <16.2>" and len(story.turns) == 2
    story.said("/undo", "/again")
    assert story.text == "Once <4.3>"


def test_of_several_samples_the_text_goes_on_with_the_first_and_all_are_shown(begin):
    story = begin(samples=3)
    screen = story.said("Once")
    assert streams(story) == [[0, 1, 2]] and story.text == "Once <4.0>" and all(f"<4.{each}>" in screen
                                                                                for each in range(3))
    story.said("/again")
    assert streams(story)[1] == [3, 4, 5] and story.text == "Once <4.3>"


def test_beams_give_their_next_best_to_again_and_their_best_to_new_words(begin):
    story = begin(beams=4)
    story.said("Once", "/again", "Twice", "/again", "/again")
    assert streams(story) == [[0], [1], [0], [1], [2]]


def test_an_answer_that_is_the_same_again_or_empty_is_said(begin):
    story = begin()
    story.model.tells = " ever"
    assert "same answer" not in story.said("Once", "")
    assert "same answer" in story.said("/again")
    story.model.tells = ""
    assert "ends here" in story.said("")


# --- Taking back ---

def test_undo_takes_turn_after_turn_back_and_then_says_so(begin):
    story = begin()
    story.said("Once", "", "/undo")
    assert story.text == "Once <4.0>"
    assert "empty again" in story.said("/undo") and story.text == ""
    assert "nothing to take back" in story.said("/undo")


def test_undo_brings_back_the_text_before_new(begin):
    story = begin()
    story.said("Once", "/new", "/new")
    assert story.text == ""
    story.said("/undo")
    assert story.text == "Once <4.0>"


def test_ctrl_c_leaves_what_was_said_in_the_text(begin):
    story = begin()
    story.model.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        story.said("Once")
    assert story.text == "Once <4" and sys.stdout.getvalue() == "Once <4\n"
    story.model.stop_at = None
    story.said("")
    assert story.text == "Once <4 <7.1>"


def test_words_that_the_model_refuses_change_nothing(begin):
    story = begin()
    story.said("Once")
    assert "does not know '☃'" in story.said("☃") and story.text == "Once <4.0>"
    story.said("Twice")
    assert streams(story) == [[0], [1]]


def test_after_undo_the_end_of_the_text_is_shown_and_what_comes_next_stands_apart(begin):
    story = begin()
    story.model.tells = " end.\n"
    assert story.said("Once", "Twice", "/undo").endswith("the text ends:\nOnce end.\n")
    assert story.said("/undo", "Twice").endswith("empty again.\n\nTwice end.\n")


def test_nothing_to_do_again_is_a_sentence(begin):
    story = begin()
    for typed in ("/again", "/undo", "/surprise", "/save x.txt"):
        assert len(story.said(typed).strip().splitlines()) == 1


# --- Settings and commands ---

@pytest.mark.parametrize("typed, told", [
    ("/temperature -1", "below the smallest"), ("/temperature nan", "not a finite number"),
    ("/tokens x", "takes a whole number, and 'x'"),
    ("/tokens 1.5", "whole number"), ("/top-p 0", "above 0"), ("/top-k x", "whole number"),
    ("/seed none x", "whole number"),
    ("/temp 1", "/temperature"), ("/agian", "did you mean /again"), ("/zzzzzz", "no command /zzzzzz"),
    ("/", "no command /"), ("/save", "/save FILE"),
    ("/new now", "nothing behind"), ("/length-penalty 1", "beams"), ("/x\x1b[31m", "/x\\x1b[31m")])
def test_what_cannot_be_done_is_one_sentence_and_changes_nothing(begin, typed, told):
    story = begin()
    story.said("Once")
    params = story.params
    said = " ".join(story.said(typed).split())
    assert told in said and "\x1b" not in said
    assert (story.params, story.text) == (params, "Once <4.0>")


def test_beams_are_not_fewer_than_samples(begin):
    story = begin(samples=3)
    assert "--samples 3" in story.said("/beams 2") and story.params.beams is None


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_is_shown_set_and_taken_back_by_its_name(begin, name):
    story = begin(beams=3 if name == "length-penalty" else None)
    field = SETTINGS[name].name
    before = getattr(story.params, field)
    assert story.said(f"/{name}").strip().startswith(f"{name} ")
    assert SETTINGS[name].metadata["help"][:10] in story.said(f"/{name}")
    story.said(f"/{name} {'int8' if name == 'weight-precision' else 1}")
    assert getattr(story.params, field) == {"stop": ("1",), "weight-precision": "int8"}.get(name, 1)
    story.said(f"/{name} none")
    assert getattr(story.params, field) == before


def test_several_stop_texts_also_of_several_lines(begin):
    story = begin()
    assert story.said("/stop \n\n", "/stop THE END").endswith("stop '\\n\\n' 'THE END'\n")
    assert story.params.stop == ("\n\n", "THE END")


@pytest.mark.parametrize("width", range(1, 12))
@pytest.mark.parametrize("colors", [False, True])
def test_the_narrowest_terminal_shows_everything_too(begin, width, colors):
    story = begin(width=width, colors=colors)
    assert all(story.said(typed)
               for typed in ("Once 中🎭", "", "/seed 1", "/help", "/top", "/surprise", "/undo", "Twice", "/again"))


@pytest.mark.parametrize("width", [24, 40, 80, 200])
def test_help_names_every_command_and_setting_at_any_width(begin, width):
    lines = begin(width=width).said("/help").splitlines()
    assert all(len(line) <= width for line in lines) and (len(lines) < 40 or width < 80)
    assert {f"/{name}" for name in [*TextMode.commands, *SETTINGS]} <= {word for line in lines for word in line.split()}


# --- Saving ---

def test_save_writes_the_text_and_overwrites_only_when_told_twice(begin, tmp_path):
    story, path = begin(), tmp_path / "a b.txt"
    story.model.tells = " Grüße\0 中\n"
    story.said("Once", f"/save {path}")
    assert path.read_bytes() == "Once Grüße\0 中\n".encode()
    path.write_text("somebody else's")
    other = begin()
    assert "once more overwrites" in other.said("Mine", f"/save {path}") and path.read_text() == "somebody else's"
    other.said(f"/save {path}")
    assert path.read_text(encoding="utf-8") == "Mine <4.0>"


@pytest.mark.parametrize("name", [".", "x\0y", "/proc/nowhere/x\x1b[31m.txt"])
def test_what_cannot_be_saved_is_a_sentence(begin, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    story = begin()
    story.said("Once")
    said = story.said(f"/save {name}")
    assert said.strip() and "\x1b" not in said and "\0" not in said and list(tmp_path.iterdir()) == []
    assert story.text == "Once <4.0>"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with a name")
def test_save_replaces_no_pipe_or_device(begin, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    story = begin()
    said = story.said("Once", *2 * [f"/save {tmp_path / 'pipe'}"])
    # lines break where the folder's name wants it
    assert " ".join(said.split()).count("is no file") == 2 and (tmp_path / "pipe").is_fifo()


# --- What the model thinks ---

def test_top_is_a_table_of_the_ten_likeliest_and_commands_nothing(begin):
    story = begin()
    _, empty, *lines = story.said("/temperature 1", "/top").strip().splitlines()
    assert empty == ""
    assert len(lines) == 10 and "\x1b" not in "".join(lines)
    assert [line.split("  ")[0] for line in lines[:4]] == ["·hands", "⏎", "\\x1b[2J", "中"]
    assert {line.index("%") for line in lines[:3]} == {14}


def test_surprise_colors_the_unlikely_tokens_or_puts_the_probabilities_below(begin):
    story = begin(colors=True)
    story.said("ab")
    first, empty, scale = story.said("/surprise").strip().splitlines()
    assert first == f"ab{warmth(8.3)} \x1b[0m{warmth(8.3)}<2.0>\x1b[0m" and scale.count("\x1b[48;5;") == 3
    story = begin(width=40)
    story.said("ab")
    lines = story.said("/surprise").strip().splitlines()
    assert lines[:3] == ["a       b       ·      <      2", "50.0 %  50.0 %  0.0 %  0.0 %  0.0 %", ""]


TYPED = st.one_of(st.text(max_size=6),
                  st.sampled_from(["", "/again", "/undo", "/new", "/top", "/surprise", "/help", "/more", "☃", "//x"]),
                  st.builds("/{} {}".format, st.sampled_from(sorted(SETTINGS)),
                            st.one_of(st.text(max_size=4), st.floats().map(str), st.just("none"))))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(TYPED, max_size=8), st.integers(1, 3))
def test_whatever_is_typed_ends_no_conversation(begin, typed, samples):
    story = begin(samples=samples)
    for each in typed:
        screen = story.said(each)
        assert screen in ("",) or screen.endswith("\n")
        assert not set(screen.replace("\x1b[A\x1b[", "")) & set("\x1b\a\0\r")
        assert list(story.params.problems()) == []
    assert [story.text.count(turn.answer) > 0 for turn in story.turns] == [True] * len(story.turns)


def test_nothing_typed_or_written_commands_the_terminal(begin):
    story = begin()
    story.model.tells = "\x1b]0;title\a\0"
    screen = story.said("\x1b[31mred\0", "/surprise", "/undo", "/stop \x1b[31m", "/stop", "/help", "/save \x1b[31m/x",
                        "/\x1b[31m")
    assert not set(screen) & set("\x1b\a\0")
