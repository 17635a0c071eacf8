"""Models that are mixed on the command line: shares, colors, refusals, and the same text as one model at 0 and 1."""

import re
import shutil
import sys
from dataclasses import replace

import pytest

import run
from folio.base.errors import FolioError
from folio.chat.messages import USER, Message
from folio.chat.template import ChatTemplate, taught
from folio.cli import mixing
from folio.cli.chat_mode import ChatMode
from folio.cli.mixing import Mixer, legend, shares_of, style_of
from folio.cli.screen import Screen
from folio.cli.text_mode import TextMode
from folio.generation import voices
from Model_Params import GenerationParams
from test_text_mode import Terminal
from test_voices import TOKENIZER, model
from tiny_models import write_weights


@pytest.mark.parametrize("words, sentence", [
    (["letters"], "--mix letters names no share: write --mix letters=0.3."),
    (["=0.3"], "names no share"),
    (["letters="], "--mix letters=: nothing is no number; a share is one from 0 to 1"),
    (["letters=much"], "much is no number"),
    (["letters=nan"], "from 0 to 1"),
    (["letters=1.01"], "from 0 to 1"),
    (["letters=-0.1"], "from 0 to 1"),
    (["letters=0.1", "letters=0.2"], "--mix names letters twice"),
])
def test_shares_that_cannot_be_are_refused_in_a_sentence(words, sentence):
    with pytest.raises(FolioError, match=sentence):
        shares_of(words)


def test_the_blends_are_those_of_the_mixtures():
    assert mixing.BLENDS == voices.BLENDS


def colored_mode(monkeypatch, kind=TextMode, of=lambda model: model):
    """Return an interactive mode in a terminal with colors, with what `of` makes of the models night, letters, sea."""
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setattr(Screen, "width", 80)
    monkeypatch.setenv("NO_COLOR", "")
    monkeypatch.setenv("TERM", "xterm")
    others = {"letters": of(model(2, "letters")), "sea": of(model(3, "sea"))}
    mode = kind(of(model(1, "night")), GenerationParams(tokens=40, sampling_seed=1), 1, Screen())
    mode.mixer = Mixer(mode.model, others.__getitem__)

    def said(typed):
        before = len(sys.stdout.getvalue())
        mode.reply(typed)
        return re.sub(r"\x1b\[0m\x1b\[2m", "", sys.stdout.getvalue()[before:])    # a style is set anew for each word
    mode.said = said
    return mode


def test_models_are_mixed_and_taken_away_while_a_text_is_written(monkeypatch):
    mode = colored_mode(monkeypatch)
    assert "One model writes alone" in mode.said("/mix")
    assert "\x1b[36m" not in mode.said("The fox")
    assert mode.said("/mix letters=0.3 sea=0.2").strip() == \
        "night 50 %, \x1b[36mletters 30 %\x1b[0m, \x1b[33msea 20 %\x1b[0m"
    shown = mode.said("The fox")
    assert "\x1b[36m" in shown and "\x1b[33m" in shown
    expected = mode.model.complete("".join(turn.words + turn.answer for turn in mode.turns[:-1]) + mode.turns[-1].words,
                                   stream=1, tokens=40, sampling_seed=1)
    assert mode.turns[-1].answer == expected
    mode.samples = 2
    first, other = mode.said("The fox").split("/keep 2")
    assert "\x1b[36m" in first and "\x1b[36m" in other
    mode.samples = 1
    assert "night 50 %" in mode.said("/mix")
    mode.said("/mix letters=0.5 logits")
    assert mode.model.net.mix == voices.Mix((0.5, 0.5), "logits") and mode.model.voices == ("night", "letters")
    assert "night writes alone again" in mode.said("/mix none")
    assert mode.model is mode.mixer.model


def test_models_that_chat_are_mixed_and_taken_away_in_a_conversation(monkeypatch):
    tokenizer = taught(TOKENIZER)

    def chats(plain):
        return replace(model({"night": 1, "letters": 2, "sea": 3}[plain.name], plain.name, tokenizer),
                       chat=ChatTemplate(tokenizer))
    mode = colored_mode(monkeypatch, ChatMode, chats)
    assert "One model writes alone" in mode.said("/mix") and "\x1b[36m" not in mode.said("The fox?")
    asked = [*mode._messages(mode.turns), Message(USER, "Again?")]
    assert mode.said("/mix letters=0.5").strip() == "night 50 %, \x1b[36mletters 50 %\x1b[0m"
    assert "\x1b[36m" in mode.said("Again?")
    assert mode.turns[-1].answer == "".join(mode.model.reply(asked, stream=1, tokens=40, sampling_seed=1))
    assert "night writes alone again" in mode.said("/mix none") and mode.model is mode.mixer.model
    assert "\x1b[36m" not in mode.said("And now?")


def test_a_mix_that_cannot_be_leaves_the_model_as_it_is(monkeypatch):
    mode = colored_mode(monkeypatch)
    mode.said("/mix letters=0.5")
    before = mode.model
    for typed, sentence in [("/mix letters", "/mix letters names no share"), ("/mix letters=2", "from 0 to 1"),
                            ("/mix letters=0.7 sea=0.7", "above 1")]:
        assert sentence in mode.said(typed)
        assert mode.model is before


def test_there_are_more_models_than_colors():
    mixed = model(0, "night").mixed_with({str(number): model(number, str(number)) for number in range(1, 7)})
    assert style_of(mixed, "5") == style_of(mixed, "night") == style_of(model(0, "night")) == ""
    assert legend(mixed, False).startswith("night 100 %, 1 0 %")


def test_run_py_mixes_models_and_at_0_and_1_one_of_them_writes(home, monkeypatch, capsys):
    project = home("some text")
    for seed, name in enumerate(("night", "letters")):
        write_weights(project, name, seed)
    shutil.copy(project.weights("letters"), project.weights("sea"))

    def said(*words):
        monkeypatch.setattr(sys, "argv", ["run.py", "--home", str(project.folder), "--seed", "3", "--tokens", "20",
                                          *words, "ab"])
        run.main()
        return capsys.readouterr()
    night, letters = said("--weights", "night").out, said("--weights", "letters").out
    assert said("--weights", "night", "--mix", "letters=0").out == night != letters
    assert said("--weights", "night", "--mix", "letters=1", "--blend", "logits").out == letters
    mixed = said("--weights", "night", "--mix", "letters=0.25", "--mix", "sea=.25")
    assert "night 50 %, letters 25 %, sea 25 %" in mixed.err and "\x1b" not in mixed.out + mixed.err
    assert mixed.out == said("--weights", "night", "--mix", "letters=0.5").out      # sea is a copy of letters
    for words, sentence in [(["--mix", "night=0.5"], "night would be mixed with itself"),
                            (["--mix", "leters=0.5"], "no weights named leters; did you mean letters?"),
                            (["--mix", "letters=0.6", "--mix", "sea=0.6"], "sum to 1.2, above 1")]:
        with pytest.raises((FolioError, FileNotFoundError), match=sentence.replace("?", r"\?")):
            said("--weights", "night", *words)
    with pytest.raises(SystemExit):
        said("--blend", "logits")
    assert "--blend is for models that --mix names" in capsys.readouterr().err
