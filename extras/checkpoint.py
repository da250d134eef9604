"""Checkpoints: a run that is interrupted at any moment goes on after its last finished epoch.

    checkpoint = Checkpoint("runs/s10", config)             # says "resumed …" where there is
    something to go on from found = find_lr(…, checkpoint=checkpoint)
    history = fit(…, checkpoint=checkpoint)

After every epoch the whole state is written beside the old file, flushed to the disk, and renamed
over it. The file before that is kept as well.
"""

import copy
import io
import zipfile
from pathlib import Path

import torch

from extras.files import free_name, write_atomically
from extras.settings import lock_folder

FORMAT = 2
ADVICE = "use the settings it was made with, another folder, or start over (--no-resume, resume = False, make RESUME=no)"


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used: of another run, in use, not readable here."""


class Checkpoint:
    """The state of one run in one folder, which is locked against a second process.

    `state` is a dict of plain values and state dicts: config, choices, range_test, history,
    hyperparameters, model, optimizer, scheduler, scaler. `choices` may be others on resuming:
    loader, precision, device, world_size.

    Args:
        config: plain values that make the run what it is; a checkpoint with others is refused.
        resume: False starts over; the old checkpoint is kept as `checkpoint.replaced.pt`.

    Raises CheckpointError where another process uses the folder, it cannot be written, or it holds
    another run.
    """

    def __init__(self, folder, config, resume=True, log=print):
        self.folder, self.config, self.log = Path(folder).expanduser(), config, log
        self.path = self.folder / "checkpoint.pt"
        self.previous = self.folder / "checkpoint.previous.pt"
        self.choices, self.verified, self.known = {}, False, None
        try:
            self.lock = lock_folder(self.folder)
        except ValueError as error:
            raise CheckpointError(str(error)) from None
        if not resume:
            self.start_over()
        self.state = self.load()
        if self.state:
            refuse_differences(self.path, self.state["config"], config)
            self.log(self.summary())

    def before(self, name, asked="auto"):
        """The run's loader, precision or device before it was interrupted, or None; refuses another
        one.
        """
        before = self.state.get("choices", {}).get(name)
        if asked != "auto" and before not in (None, asked):
            refuse_differences(self.path, {name: before}, {name: asked})
        return before

    def load(self):
        """The newest good state on disk, or an empty one. A damaged file is set aside, and that is
        said.
        """
        for path in (self.path, self.previous):
            try:
                content = path.read_bytes() if path.exists() else b""
            except OSError as error:
                raise CheckpointError(
                    f"{path} cannot be read: {error.strerror}; try again"
                ) from None
            if content and is_intact(content):
                return self.unpack(path, content)
            if path.exists():
                aside = free_name(path.with_suffix(".damaged.pt"))
                path.replace(aside)
                self.log(f"{path} is damaged: it is set aside as {aside.name}")
        return {}

    def unpack(self, path, content):
        """The state in an undamaged file. One that is not ours is refused, but never moved away."""
        try:
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            if state["format"] == FORMAT:
                return state
            reason = f"its format is {state['format']}, not {FORMAT}"
        except Exception as error:  # torch.load has many
            reason = type(error).__name__
        raise CheckpointError(f"{path} cannot be read here ({reason}): {ADVICE}")

    def summary(self):
        done, epochs = len(self.state["history"]), self.config.get("epochs")
        saved = sum(row["seconds"] for row in self.state["history"]) + self.state.get(
            "range_seconds", 0
        )
        if done == epochs:
            return f"resumed {self.path}: the run is finished, {done} of {epochs} epochs; nothing is left to train"
        step = f"after epoch {done} of {epochs}" if done else "after the LR range test"
        return f"resumed {step} from {self.path}: {saved:.0f} s saved"

    def start_over(self):
        """Put the newest good checkpoint aside, and remove the one before it."""
        good = [
            path
            for path in (self.path, self.previous)
            if path.exists() and is_intact(path.read_bytes())
        ]
        if good:
            good[0].replace(free_name(self.folder / "checkpoint.replaced.pt"))
        for path in good[1:]:
            path.unlink()

    def release(self):
        """Let another process go on with the run in this folder; this object cannot be used any
        more.
        """
        if self.lock is not None:
            self.lock.release(force=True)
        self.lock, self.state = None, None

    def refuse_released(self):
        if self.state is None:
            raise CheckpointError(
                f"the checkpoint in {self.folder} was released: make a new Checkpoint"
            )

    def save(self, **parts):
        """Add `parts` to the state and write it. On a full disk that is said, and the last good
        file stays.

        Raises CheckpointError where it was released, or a part holds objects that could never be
        read again.
        """
        self.refuse_released()
        parts = copy.deepcopy(parts)  # a state dict holds the weights themselves, and they move on
        self.state = {"history": [], **self.state, **parts}
        self.state |= dict(format=FORMAT, config=self.config, choices=self.choices)
        content = to_bytes(self.state)
        if not self.verified:  # once: what cannot be read back is no checkpoint
            try:
                torch.load(io.BytesIO(content), weights_only=True)
            except Exception:
                cure = "give float(x) instead of a NumPy number, str(path) instead of a path"
                raise CheckpointError(
                    f"the state holds objects that cannot be read back: {cure}"
                ) from None
            self.verified = bool(self.state["history"])
        self.write(self.path, content, keep=self.previous)

    def write(self, path, content, keep=None):
        """Write a file of the run. Where that fails, a sentence says so, and the run goes on
        without the file.
        """
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content, keep)
        except OSError as error:
            self.log(
                f"{path} could not be written ({error.strerror}): the run goes on; free some space"
            )

    def restore(self, **parts):
        """Load the state into model, optimizer, scheduler and scaler, or store theirs at first;
        returns the history.

        Raises CheckpointError where a hyperparameter of optimizer or scheduler (LRMAX, say) is
        another than before.
        """
        self.refuse_released()
        movers = parts.get("optimizer"), parts.get("scheduler")
        fresh = hyperparameters(*movers)
        if "model" not in self.state:
            self.save(
                hyperparameters=fresh, **{name: part.state_dict() for name, part in parts.items()}
            )
            self.known = movers
            return []
        if (
            movers != self.known
        ):  # the very same objects, after Ctrl-C, have moved, and are only set back
            # an optimizer would take the old values without a word, and the figures would show the
            # new ones
            there = self.state["hyperparameters"]
            refuse_differences(self.path, there, {name: fresh.get(name) for name in there})
        self.known = movers
        for name, part in parts.items():
            if self.state.get(name):  # a scaler that was not needed before has no state
                part.load_state_dict(
                    copy.deepcopy(self.state[name])
                )  # an optimizer would keep these very tensors
        return list(self.state["history"])


def hyperparameters(optimizer, scheduler):
    """The plain values of an optimizer's groups and of a scheduler, as they are before the first
    step.
    """
    parts = {
        f"group {number}": group
        for number, group in enumerate(getattr(optimizer, "param_groups", ()))
    }
    if scheduler is not None:
        parts["the scheduler"] = scheduler.state_dict()
    found = {
        f"{name} of {part}": value for part, state in parts.items() for name, value in state.items()
    }
    plain = int | float | bool | str | tuple | list
    return copy.deepcopy(
        {
            name: v
            for name, v in found.items()
            if isinstance(v, plain) and not name.startswith("params ")
        }
    )


def refuse_differences(path, there, here):
    differ = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    if differ:
        said = "; ".join(
            f"{name} is {there.get(name)!r} there and {here.get(name)!r} here"
            for name in differ[:4]
        )
        raise CheckpointError(
            f"{path} belongs to another run: {said}. {ADVICE[0].upper()}{ADVICE[1:]}."
        )


def is_intact(content):
    """Is it a complete zip file, as torch.save writes them, with right checksums?"""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            return file.testzip() is None
    except Exception:
        return False


def to_bytes(state):
    """Written to memory first: on a full disk, torch.save into a file can end the process."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getbuffer()
