"""The three folders of a project, and the names of the files in them."""

import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Home:
    """A project: everything the scripts read and write lies below `folder`. Projects are independent of each other."""
    folder: Path

    @property
    def train_data(self):
        """The text to train on."""
        return self.folder / "Train_Data"

    @property
    def tokens(self):
        """The text as tokens; see folio.data.token_files."""
        return self.train_data / "tokens"

    @property
    def preferences(self):
        """The choices among several answers; see folio.chat.choices. No text to train on."""
        return self.train_data / "preferences.jsonl"

    @property
    def downloads(self):
        """Texts that init.py has downloaded."""
        return self.train_data / "downloads"

    @property
    def tokenizer(self):
        """The tokenizer's files; see tokenizer.py."""
        return self.folder / "tokenizer_save"

    def kept_tokenizer(self, fingerprint):
        """Return the folder for a tokenizer that was replaced while unfinished runs needed it."""
        return self.tokenizer / f"before-{fingerprint}"

    @property
    def saved_weights(self):
        """The files of runs."""
        return self.folder / "Saved_Weights"

    def weights(self, name):
        """Return the path of what run.py needs: parameters, tokenizer and the best weights."""
        return self.saved_weights / f"weights-{name}.pth"

    def resume(self, name):
        """Return the path of what train.py --resume needs to continue a run exactly."""
        return self.saved_weights / f"resume-{name}.pth"

    def log(self, name):
        """Return the path of the log: one JSON line per report."""
        return self.saved_weights / f"log-{name}.jsonl"

    def tensorboard(self, name):
        """Return the folder with the log as events for TensorBoard."""
        return self.saved_weights / "tensorboard" / name

    @property
    def tracking(self):
        """The folder for what experiment trackers keep (train.py --track)."""
        return self.saved_weights / "tracking"

    def lock(self, name):
        """Return the lock file that the process holds that trains this run."""
        return self.saved_weights / f".lock-{name}"

    @property
    def history(self):
        """The history of what was typed in run.py."""
        return self.saved_weights / ".history"

    @property
    def compiled(self):
        """The cache of torch.compile, so that a second run does not compile again."""
        return self.saved_weights / ".compiled"

    def newest(self, pattern):
        """Return the ordinary files in Saved_Weights that match a pattern, e.g. "weights-*.pth", newest first."""
        found = []
        for path in self.saved_weights.glob(pattern):
            with suppress(OSError):             # it may be removed at any moment
                status = path.stat()
                if stat.S_ISREG(status.st_mode):
                    found.append((status.st_mtime_ns, path.name, path))
        return [path for _, _, path in sorted(found, reverse=True)]
