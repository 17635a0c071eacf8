"""Compare the predictions of folio/training/plan.py with measurements: processor time per step, and peak memory.

    python benchmarks/plan.py                       # about two minutes
    python benchmarks/plan.py "--emb-len 512 --batch-size 4" "--optimizer adamw"

Each line is a process of its own with one thread, which makes a few real steps on the repository's text with the flags
of train.py. The constants in folio/training/plan.py come from here: run it again when a step has changed, and correct
what is off by more than a third.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
STEPS = 3
SETTINGS = ["--emb-len 64", "--emb-len 128", "--emb-len 128 --precision fp32", "--emb-len 128 --micro-batch-size 4",
            "--emb-len 128 --optimizer adamw", "--emb-len 128 --family classic", "--emb-len 256",
            "--emb-len 384 --batch-size 8"]


def measure(flags):
    """Print one line of the table: a process with these flags of train.py."""
    import resource

    from folio.base.home import Home
    from folio.cli.command_line import Parser, chosen, given, one_length
    from folio.data import corpus
    from folio.training import plan, runs
    from Model_Params import ModelParams, Params, TextParams, TrainingParams
    parser = Parser("Steps with these settings.")
    parser.add_fields("training", TrainingParams)
    parser.add_fields("model", ModelParams, without=["vocab_size"])
    told = given(parser.parse(flags.split()), ModelParams, TrainingParams)
    values = {"steps": STEPS, "threads": 1, "device": "cpu"} | told
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        tokenizer, text = corpus.open_corpus(home, TextParams(), [ROOT / "Train_Data" / "input.txt"])
        params = chosen(Params(), one_length(values))
        with runs.new_run(home, "plan", params, tokenizer, text, time.perf_counter(), say=lambda words: None) as run:
            model, training, resources = run.params.model, run.training, plan.Resources.of(run.training)
            run.step()                                  # the first step also takes memory and makes kernels
            started_at = time.process_time()
            for _ in range(STEPS):
                run.step()
            seconds = (time.process_time() - started_at) / STEPS
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    expected_seconds = plan.seconds_per_step(model, training, resources)
    expected_peak = plan.memory_bytes(model, training, resources)
    print(f"| `{flags}` | {seconds:.3f} | {expected_seconds:.3f} | {peak / 1e9:.2f} | {expected_peak / 1e9:.2f} |",
          flush=True)


def main():
    print("| flags | seconds a step | estimated | GB | estimated |\n| --- | --- | --- | --- | --- |", flush=True)
    for flags in sys.argv[1:] or SETTINGS:
        code = f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r}); import plan; plan.measure({flags!r})"
        subprocess.run([sys.executable, "-c", code], check=True)


if __name__ == "__main__":
    main()
