"""What folio/training/plan.py estimates beside what is measured: seconds of processor time a step, and the peak of a process's memory.

    python benchmarks/plan.py                       # about two minutes
    python benchmarks/plan.py "--emb-len 512 --batch-size 4" "--optimizer adamw"

Each line is a process of its own, with one thread, that makes a few real steps on the text that comes along, with the flags of train.py.
The constants in folio/training/plan.py come from here: run it again where a step has changed, and put right what is off by more than a third.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
STEPS = 3
SETTINGS = ["--emb-len 64", "--emb-len 128", "--emb-len 128 --precision fp32", "--emb-len 128 --micro-batch-size 4", "--emb-len 128 --optimizer adamw",
            "--emb-len 128 --family classic", "--emb-len 256", "--emb-len 384 --batch-size 8"]


def measure(flags):
    """Print one line of the table."""
    import resource

    from folio.data import corpus
    from folio.training import plan, runs
    from folio.cli.command_line import Parser, chosen, given
    from folio.base.home import Home
    from Model_Params import ModelParams, Params, TextParams, TrainingParams, one_length
    parser = Parser("Steps with these settings.")
    parser.add_fields("training", TrainingParams)
    parser.add_fields("model", ModelParams, without=["vocab_size"])
    values = {"steps": STEPS, "threads": 1, "device": "cpu"} | given(parser.parse(flags.split()), ModelParams, TrainingParams)
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        tokenizer, text = corpus.open_corpus(home, TextParams(), [ROOT / "Train_Data" / "input.txt"])
        with runs.new_run(home, "plan", chosen(Params(), one_length(values)), tokenizer, text, time.perf_counter(), say=lambda text: None) as run:
            machine = plan.Machine.of(run.training)
            run.step()                                  # the first one is not like the others
            started_at = time.process_time()
            for _ in range(STEPS):
                run.step()
            seconds = (time.process_time() - started_at) / STEPS
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    expected = plan.seconds_per_step(run.params.model, run.training, machine), plan.memory_bytes(run.params.model, run.training, machine)
    print(f"| `{flags}` | {seconds:.3f} | {expected[0]:.3f} | {peak / 1e9:.2f} | {expected[1] / 1e9:.2f} |", flush=True)


def main():
    print("| flags | seconds a step | estimated | GB | estimated |\n| --- | --- | --- | --- | --- |", flush=True)
    for flags in sys.argv[1:] or SETTINGS:
        subprocess.run([sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r}); import plan; plan.measure({flags!r})"],
                       check=True)


if __name__ == "__main__":
    main()
