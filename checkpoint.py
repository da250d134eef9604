"""How does a run survive being cut?

    checkpoint = Checkpoint("runs/s10", config)      # says "resumed …" where there is something to go on from
    found = find_lr(…, checkpoint=checkpoint)
    history = fit(…, checkpoint=checkpoint)

After every epoch the whole state is written beside the old file, flushed to disk, and renamed over it: a cut at any
moment leaves a good file. The one before is kept as well.
"""

import contextlib
import copy
import io
import os
from pathlib import Path

import torch
from filelock import FileLock, Timeout

FORMAT = 1
LOCK_SECONDS = 8  # the workers of a process that was killed hold its lock for up to 5 seconds more


class CheckpointError(RuntimeError):
    """The output folder cannot be used: another run's checkpoint, another process, not writable."""


class Checkpoint:
    """The state of one run in one folder, and the lock that keeps a second process out of it.

    `state` is a dict of plain values and state dicts: config, range_test, history and, once training has begun,
    model, optimizer, scheduler, scaler.

    Args:
        folder: where the run's files are; made where it is missing.
        config: plain values that make the run what it is, `epochs` among them; a checkpoint with others is refused.
        resume: False starts over; the old checkpoint is kept as `checkpoint.replaced.pt`.
        device: its name, for people; going on on another one is allowed, and said.
        log: takes one line of text.

    Raises:
        CheckpointError: another process uses the folder, it cannot be written, or it holds another run.
    """

    def __init__(self, folder, config, resume=True, device="", log=print):
        self.folder, self.config, self.device, self.log = Path(folder), config, device, log
        self.path = self.folder / "checkpoint.pt"
        self.previous = self.folder / "checkpoint.previous.pt"
        self.lock = lock_folder(self.folder)
        if not resume:
            self.start_over()
        self.state = self.load()
        if self.state:
            self.refuse_other_run()
            self.log(self.summary())

    def load(self):
        """The newest good state on disk, or an empty one. A file that cannot be read is set aside, and that is said."""
        for path in (self.path, self.previous):
            content = self.read(path)
            if content is None:
                continue
            try:
                state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
                if state["format"] == FORMAT and {"config", "history"} <= state.keys():
                    return state
                reason = f"its format is {state['format']!r}, not {FORMAT}"
            except Exception as error:  # a damaged file can fail anywhere inside torch.load, in many ways
                reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
            aside = free_name(path.with_suffix(".damaged.pt"))
            path.replace(aside)
            self.log(f"{path} is no good checkpoint ({reason}): it is set aside as {aside.name}")
        return {}

    def read(self, path):
        """The file's bytes, or None where there is none. A disk that fails is no reason to set a good file aside."""
        try:
            return path.read_bytes() if path.exists() else None
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}; try again or give another --out") from None

    def refuse_other_run(self):
        there = self.state["config"]
        differ = [
            f"{key} is {there.get(key)!r} there and {self.config.get(key)!r} here"
            for key in {**there, **self.config}
            if there.get(key) != self.config.get(key)
        ]
        if differ:
            raise CheckpointError(
                f"{self.path} belongs to another run: {'; '.join(differ)}. "
                "Use the settings it was made with, another output folder (--out), or start over (--no-resume)."
            )

    def summary(self):
        done, epochs = len(self.state["history"]), self.config["epochs"]
        saved = sum(row["seconds"] for row in self.state["history"]) + self.state.get("range_seconds", 0)
        if done == epochs:
            return f"resumed {self.path}: the run is finished, {done} of {epochs} epochs; nothing is left to train"
        step = f"after epoch {done} of {epochs}" if done else "after the LR range test"
        before = self.state.get("device", self.device)
        moved = "" if before == self.device else f"; begun on {before}, it goes on on {self.device}"
        return f"resumed {step} from {self.path}: {saved:.0f} s saved{moved}"

    def start_over(self):
        self.previous.unlink(missing_ok=True)
        if self.path.exists():
            self.path.replace(self.folder / "checkpoint.replaced.pt")

    def save(self, **parts):
        """Add `parts` to the state and write it. Where the disk is full, that is said and the last good file stays."""
        parts = copy.deepcopy(parts)  # a state dict holds the living weights, and they move on
        self.state = {"history": [], **self.state, **parts}
        self.state |= dict(format=FORMAT, config=self.config, device=self.device)
        self.write(self.path, to_bytes(self.state), keep=self.previous)

    def write(self, path, content, keep=None):
        """Write a file of the run. Where that fails, a sentence says so: a run goes on without the file."""
        try:
            write_atomically(path, content, keep)
        except OSError as error:
            self.log(
                f"{path} could not be written ({error.strerror}): the run goes on; free some space to make it safe"
            )

    def release(self):
        """Let another process go on with the run in this folder."""
        if self.lock is not None:
            self.lock.release(force=True)

    def restore(self, **parts):
        """Load the state into model, optimizer, scheduler and scaler; returns the history so far."""
        for name, part in parts.items():
            if self.state[name]:  # a scaler that was not needed on the device before has no state
                part.load_state_dict(copy.deepcopy(self.state[name]))  # an optimizer takes the very tensors
        return list(self.state["history"])


def to_bytes(state):
    """Written to memory first: on a full disk, torch.save into a file can end the process."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getbuffer()


def write_atomically(path, content, keep=None):
    """Write bytes so that `path` holds either all of the old or all of the new, whenever the process is killed.

    Args:
        keep: path that the old file is moved to.

    Raises:
        OSError: no space, no permission; the old file is still there.
    """
    path = Path(path)
    beside = path.with_name(path.name + ".part")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
    if keep is not None and path.exists():
        path.replace(keep)
    beside.replace(path)


def free_name(path):
    """`path`, or the first of path-2, path-3, … that does not exist yet."""
    names = [path, *(path.with_name(f"{path.stem}-{n}{path.suffix}") for n in range(2, 1000))]
    return next(name for name in names if not name.exists())


def lock_folder(folder):
    """Keep other processes out of `folder` for as long as this process lives."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.resolve() / ".lock", timeout=LOCK_SECONDS, is_singleton=True)
        lock.acquire()  # again and again in a notebook: within one process it is one and the same lock
    except Timeout:
        raise CheckpointError(
            f"{folder} is in use by another process: wait for it, or choose another output folder"
        ) from None
    except NotImplementedError:  # some network drives have no locks
        return None
    except OSError as error:
        raise CheckpointError(f"the output folder {folder} cannot be written: {error.strerror}") from None
    return lock
