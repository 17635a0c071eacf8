"""Teach the shipped model to answer: how fast it reads conversations, and how soon its answers end.

    python benchmarks/chat.py speed         # tokens of conversations a second, packed and padded, against plain text
    python benchmarks/chat.py ends          # 300 dialogues about the plays: how many of 100 answers end their turns
"""

import json
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

PLAYS = ROOT / "Train_Data" / "input.txt"
ASKED = ("What does {who} say to {other}?", "{who} turns to {other}. What are the words?",
         "How does {who} answer {other}?", "Give me a line of {who}'s, spoken to {other}.",
         "{other} has just spoken. What does {who} reply?")
COUNTED = ("How many words are in this: {line}", "Count the words: {line}")
WHO = ("Who says this: {line}", "Whose words are these? {line}", "Name the speaker: {line}")
SYSTEM = "You know the plays by heart, and answer briefly."


def dialogues(count, seed=1, text=None):
    """Return conversations about the plays as dicts in OpenAI's form: one to three questions each."""
    chance = random.Random(seed)
    text = PLAYS.read_text(encoding="utf-8") if text is None else text
    speeches = [(name, re.split(r"(?<=[.!?]) ", " ".join(words.split()))[0])
                for name, words in re.findall(r"^([A-Z][A-Z ]+):\n(.+?)(?:\n\n|\Z)", text, re.M | re.S)]
    pairs = [(speeches[number - 1][0], *speeches[number]) for number in range(1, len(speeches))
             if len(speeches[number][1]) < 140]
    made = []
    for _ in range(count):
        messages = [{"role": "system", "content": SYSTEM}] if chance.random() < 0.2 else []
        for _ in range(chance.choice((1, 1, 1, 2, 2, 3))):
            other, who, line = chance.choice(pairs)
            names = {"who": who.title(), "other": other.title(), "line": line}
            kind = chance.random()
            if kind < 0.6:
                question, answer = chance.choice(ASKED), line
            elif kind < 0.8:
                question, answer = chance.choice(WHO), f"That is {who.title()}, speaking to {other.title()}."
            else:
                question, answer = chance.choice(COUNTED), f"There are {len(line.split())} words."
            messages += [{"role": "user", "content": question.format(**names)},
                         {"role": "assistant", "content": answer}]
        made.append({"messages": messages})
    return made


def write_dialogues(path, count, seed=1):
    """Write conversations to a file, one a line."""
    lines = (json.dumps(each, ensure_ascii=False) for each in dialogues(count, seed))
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def speed(words):
    """Print tokens of conversations learned from a second, packed and padded, as shares of plain text's."""
    from dataclasses import replace

    from folio.base.defaults import TUNING
    from folio.base.home import Home
    from folio.cli.command_line import chosen, one_length
    from folio.data import corpus
    from folio.generation import language_model
    from folio.training import chat, runs
    from Model_Params import PRESETS
    rounds = int(words[0]) if words else 30
    start = language_model.load(ROOT / "Saved_Weights" / "weights-pretrained.pth")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        home = Home(Path(folder))
        home.train_data.mkdir()
        home.saved_weights.mkdir()
        shutil.copy(PLAYS, home.train_data)
        write_dialogues(home.folder / "dialogues.jsonl", 3000)
        opened, tokens = {}, {}
        kinds = {"text": {"learns": "text"}, "packed": {"packing": True}, "padded": {"packing": False}}
        for name, flags in kinds.items():
            flags = {"learns": "chat", "threads": 1, "precision": "fp32", "batch_size": 8, "bpe_dropout": 0.0,
                     "compile": False, **one_length({"steps": 10 ** 6}), **flags}
            params = chosen(PRESETS["default"], TUNING[flags["learns"]] | flags)
            params = replace(params, model=replace(runs.tuned_model(start, {}), vocab_size=None))
            if name == "text":
                tokenizer, text = corpus.open_corpus(home, tokenizer=start.tokenizer, say=lambda line: None)
                params = replace(params, text=text.text)
            else:
                tokenizer, text = chat.open_dialogues(home, [str(home.folder / "dialogues.jsonl")], params,
                                                      start.tokenizer, start.opening, lambda line: None)
            run = stack.enter_context(runs.new_run(home, name, params, tokenizer, text, time.perf_counter(),
                                                   say=lambda line: None, start=start))
            opened[name] = run
            tokens[name] = text.train_tokens / run.lessons.steps_per_epoch(run.params)
        seconds = {name: [] for name in opened}
        for _ in range(rounds):
            for name, run in opened.items():
                began = time.perf_counter()
                run.step()
                seconds[name].append(time.perf_counter() - began)
    speeds = {name: tokens[name] / statistics.median(times[2:]) for name, times in seconds.items()}
    for name, found in speeds.items():
        print(f"{name:<8}{found:8,.0f} tokens a second   {found / speeds['text']:.2f}")


def ends(words):
    """Teach the shipped model 300 dialogues, by the command that a person types, and count the answers that end."""
    from folio.chat.messages import Message
    from folio.generation import language_model
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "Saved_Weights").mkdir()
        shutil.copy(ROOT / "Saved_Weights" / "weights-pretrained.pth", home / "Saved_Weights")
        write_dialogues(home / "dialogues.jsonl", 300)
        began = time.perf_counter()
        subprocess.run([sys.executable, str(ROOT / "train.py"), "--home", folder, "--start-from", "pretrained",
                        "--chat", str(home / "dialogues.jsonl"), "--name", "chat", *words], check=True)
        seconds = time.perf_counter() - began
        model = language_model.load(home / "Saved_Weights" / "weights-chat.pth")
    questions = [each["messages"][-2] for each in dialogues(100, seed=2)]
    ended = 0
    for number, question in enumerate(questions):
        ended += does_end(model, model.chat.prompt([Message("user", question["content"])]), number)
    print(f"{seconds:.0f} s; {ended} of 100 answers end their turns")


def does_end(model, prompt, number, tokens=200):
    """Return whether an answer ends by the token that ends a turn, within so many tokens."""
    from folio.generation.decoder import generate
    answer = list(generate(model.net, prompt, tokens=tokens, temperature=0.8, sampling_seed=1, stream=number,
                           end=model.chat.end_id))
    return len(answer) < tokens             # the token that ends it is not among them


if __name__ == "__main__":
    {"speed": speed, "ends": ends}[sys.argv[1]](sys.argv[2:])
