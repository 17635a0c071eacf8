"""lm-eval measures a model through the server, and finds what the model itself says.

lm-eval needs packages that nothing else here needs; it has an environment of its own:

    python -m venv lm-eval && lm-eval/bin/pip install torch "lm_eval[api]==0.4.13"
    LM_EVAL=lm-eval/bin/lm_eval pytest -m slow tests/server/test_lm_eval.py
"""

import json
import math
import os
import shutil
import subprocess

import pytest

from tiny_server import NAME, serving

VARIABLE = "LM_EVAL"
ROLLING = """
task: own_text
dataset_path: json
dataset_kwargs: {data_files: {test: texts.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: bits_per_byte}]
"""
CHOICES = """
task: own_choices
dataset_path: json
dataset_kwargs: {data_files: {test: texts.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{text[:100]}}"
doc_to_choice: "{{[text[100:200], text[200:300]]}}"
doc_to_target: 0
target_delimiter: ""
"""


@pytest.mark.slow
def test_lm_eval_finds_what_the_model_says(tmp_path, plays):
    command = os.environ.get(VARIABLE) or shutil.which("lm_eval")
    if not command:
        pytest.skip(f"lm-eval is not installed, and {VARIABLE} does not name it")
    texts = [plays[start:start + 300] for start in (0, 5000, 200_000)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts),
                                          encoding="utf-8")
    for name, task in (("own_text", ROLLING), ("own_choices", CHOICES)):
        (tmp_path / f"{name}.yaml").write_text(task, encoding="utf-8")
    with serving(tmp_path / "project") as server:
        done = subprocess.run(
            [command, "run", "--model", "local-completions", "--tasks", "own_text,own_choices", "--include_path", ".",
             "--output_path", "out", "--log_samples", "--model_args",
             f"base_url={server.address}/v1/completions,model={NAME},tokenizer_backend=remote,max_length=258"],
            cwd=tmp_path, env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")},
            capture_output=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr
        [path] = (tmp_path / "out").rglob("results*.json")
        results = json.loads(path.read_text(encoding="utf-8"))["results"]
        bits = sum(bits for text in texts for _, bits in server.model.surprise(text))
        assert results["own_text"]["bits_per_byte,none"] == pytest.approx(
            bits / sum(len(text.encode("utf-8")) for text in texts), rel=1e-6)
        [path] = (tmp_path / "out").rglob("samples_own_choices*.jsonl")
        samples = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for sample in sorted(samples, key=lambda sample: sample["doc_id"]):
            text = texts[sample["doc_id"]]
            for [[found, _]], end in zip(sample["resps"], (text[100:200], text[200:300])):
                assert float(found) == pytest.approx(nats_of(server, text[:100], end), abs=1e-3)


def nats_of(server, text, end):
    """The log-probability of the end of a text, in the tokens that lm-eval sends: it encodes the beginning alone, too.

    To lm-eval, spaces between the two belong to the end.
    """
    encode = server.model.tokenizer.encode
    beginning = encode(text.rstrip())
    scores = server.engine.score([*beginning, *encode(text + end)[len(beginning):]]).result(60)
    return math.fsum(logprob for logprob, _ in scores[len(beginning):])
