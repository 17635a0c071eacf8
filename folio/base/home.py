"""The three folders of a project, and the names of the files of a run."""

import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Home:
    """A project: everything the scripts read and write lies below `folder`. Two projects never touch each other."""
    folder: Path

    @property
    def train_data(self):
        return self.folder / "Train_Data"

    @property
    def tokens(self):
        return self.train_data / "tokens"

    @property
    def downloads(self):
        return self.train_data / "downloads"

    @property
    def tokenizer(self):
        return self.folder / "tokenizer_save"

    def kept_tokenizer(self, fingerprint):
        """A folder for a tokenizer that init.py replaced while runs still needed it."""
        return self.tokenizer / f"before-{fingerprint}"

    @property
    def saved_weights(self):
        return self.folder / "Saved_Weights"

    def weights(self, name):
        """What run.py needs: parameters, tokenizer and the best weights."""
        return self.saved_weights / f"weights-{name}.pth"

    def resume(self, name):
        """What train.py --resume needs to go on exactly."""
        return self.saved_weights / f"resume-{name}.pth"

    def log(self, name):
        """One JSON line a report."""
        return self.saved_weights / f"log-{name}.jsonl"

    def tensorboard(self, name):
        """A folder: the log once more, as events for TensorBoard."""
        return self.saved_weights / "tensorboard" / name

    def lock(self, name):
        """Held by the process that trains this run."""
        return self.saved_weights / f".lock-{name}"

    @property
    def history(self):
        """What was typed in run.py."""
        return self.saved_weights / ".history"

    @property
    def compiled(self):
        """What torch.compile has made, so that a second run need not make it again."""
        return self.saved_weights / ".compiled"

    def newest(self, pattern):
        """The files in Saved_Weights that match, e.g. "weights-*.pth", the newest first; no folders, pipes, or links to nothing."""
        found = []
        for path in self.saved_weights.glob(pattern):
            with suppress(OSError):             # it may vanish at any moment
                status = path.stat()
                if stat.S_ISREG(status.st_mode):
                    found.append((status.st_mtime_ns, path.name, path))
        return [path for _, _, path in sorted(found, reverse=True)]
