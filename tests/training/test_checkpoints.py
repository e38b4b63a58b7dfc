"""Damaged checkpoints: a resumed run ends with the bytes of an uninterrupted one, or with one line; never otherwise."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest
from running import read, run, write
from small_models import FIRST_LAYERS

from eexp.errors import EexpError
from eexp.training.resume import choose_checkpoint, loading_errors
from eexp.training.trainer import RunCallback

HOW = ("removed", "truncated", "zeroed", "replaced")
#: The files of a run that was killed after update 5, with checkpoints after updates 2 and 4. The best weights so far
#: are those of update 3. They were those of update 2 at the first checkpoint.
STATE = ["optimizer.pt", "rng_state.pth", "scheduler.pt", "trainer_state.json"]
WEIGHTS = ["adapter_config.json", "adapter_model.safetensors", "training_args.bin"]
FILES = [
    *(f"checkpoints/checkpoint-4/{name}" for name in sorted([*WEIGHTS, *STATE, "SHA256SUMS", "metrics.jsonl"])),
    *(f"checkpoints/best-3/{name}" for name in WEIGHTS),
    "checkpoints/run.json",
    "metrics.jsonl",
]


def _contents(directory: Path) -> dict[str, bytes]:
    return {str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def interrupted(data, tmp_path_factory) -> SimpleNamespace:
    """Return the directories of a run that was interrupted and of one that was not, and their command."""
    here = tmp_path_factory.mktemp("interrupted")
    few = write(here / "few", read(data["imitation"])[:8])
    held_out = write(here / "held-out", [{**e, "group": "other"} for e in read(data["imitation"])[-4:]])
    settings = ["--batch-size", 4, "--max-steps", 6, "--save-every", 2, "--lr", 0.015, "--seed", 1]
    settings += ["--validate", held_out, "--validate-every", 1, "--keep", "best", few]
    command = ["finetune", "-m", FIRST_LAYERS, "--rank", 2, *settings]
    run(*command, "-o", here / "whole").ok()
    on_log = RunCallback.on_log

    def fail_after_five(callback, args, state, control, logs=None, **rest) -> None:
        on_log(callback, args, state, control, logs, **rest)
        if state.global_step == 5:
            raise MemoryError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunCallback, "on_log", fail_after_five)
        run(*command, "-o", here / "cut").one_error(1, "out of memory")
    return SimpleNamespace(command=command, whole=_contents(here / "whole"), cut=here / "cut")


def _damage(file: Path, how: str) -> None:
    """Damage a file; one that is replaced gets the contents of the same file in checkpoint-2, or else other ones."""
    contents = file.read_bytes()
    other = file.parent.parent / "checkpoint-2" / file.name
    middle = range(len(contents) // 3, min(len(contents) // 3 + 4096, 2 * len(contents) // 3 + 1))
    if how == "removed":
        file.unlink()
    elif how == "truncated":
        file.write_bytes(contents[: len(contents) // 2])
    elif how == "zeroed":
        file.write_bytes(bytes(0 if i in middle else byte for i, byte in enumerate(contents)))
    elif "checkpoint-4" in file.parts and other.read_bytes() != contents:
        file.write_bytes(other.read_bytes())
    else:
        file.write_bytes(b"null")
    assert how == "removed" or file.read_bytes() != contents


def _resume(interrupted, directory: Path):
    """Resume a run; assert that it ends with the bytes of the uninterrupted one, or with one line."""
    result = run(*interrupted.command, "--resume", "-o", directory)
    if result.code:
        result.one_error(result.code, f"{directory}/checkpoints")
    else:
        assert "Traceback" not in result.err and _contents(directory) == interrupted.whole
    return result


def test_the_files_of_a_run(interrupted):
    """No file is left out below, and sha256sum agrees with the digests."""
    files = {name for name in _contents(interrupted.cut) if "checkpoint-2" not in name and "best-2" not in name}
    assert files == set(FILES)
    sums = interrupted.cut / "checkpoints" / "checkpoint-4" / "SHA256SUMS"
    check = ["sha256sum", "--check", "--strict", "checkpoint-4/SHA256SUMS"]
    assert not subprocess.run(check, cwd=interrupted.cut / "checkpoints", capture_output=True).returncode
    assert [line.split("/")[0].split()[-1] for line in sums.read_text().splitlines()] == [
        *["best-3"] * 3,
        *["checkpoint-4"] * 8,
        "run.json",
    ]


@pytest.mark.parametrize("how", HOW)
def test_no_damaged_checkpoint_is_chosen(interrupted, tmp_path, how):
    for name in FILES[:-2]:
        shutil.copytree(interrupted.cut, tmp_path / "cut")
        checkpoints, notes = tmp_path / "cut" / "checkpoints", []
        _damage(tmp_path / "cut" / name, how)
        assert choose_checkpoint(checkpoints, notes.append) == str(checkpoints / "checkpoint-2"), name
        (note,) = notes
        assert note.startswith(f"going on from {checkpoints / 'checkpoint-2'}; checkpoint-4 was removed, since ")
        assert name.rpartition("/")[2] in note or "SHA256SUMS" in note
        assert not (checkpoints / "checkpoint-4").exists()
        shutil.rmtree(tmp_path / "cut")


@pytest.mark.slow
@pytest.mark.parametrize("place", range(len(FILES)))
def test_a_run_is_resumed_from_whole_files_only(interrupted, tmp_path, place):
    """One kind of damage a file, in turn; the others are in the test of all."""
    shutil.copytree(interrupted.cut, tmp_path / "cut")
    _damage(tmp_path / "cut" / FILES[place], HOW[place % len(HOW)])
    result = _resume(interrupted, tmp_path / "cut")
    assert bool(result.code) == (FILES[place] == "checkpoints/run.json")
    assert (result.code == 0) == (result.err.count("going on from") == 1)


@pytest.mark.long
@pytest.mark.parametrize("how", [*HOW, "emptied"])
def test_a_run_is_resumed_from_whole_files_only_whatever_the_damage(interrupted, tmp_path, how):
    for name in FILES:
        shutil.copytree(interrupted.cut, tmp_path / "cut")
        if how == "emptied":
            (tmp_path / "cut" / name).write_bytes(b"")
        else:
            _damage(tmp_path / "cut" / name, how)
        _resume(interrupted, tmp_path / "cut")
        shutil.rmtree(tmp_path / "cut")


def test_without_a_whole_checkpoint_a_run_is_refused(interrupted, tmp_path):
    """It loses nothing: what is damaged stays as it is."""
    cut = shutil.copytree(interrupted.cut, tmp_path / "cut")
    checkpoints = cut / "checkpoints"
    (checkpoints / "checkpoint-4" / "scheduler.pt").unlink()
    _damage(checkpoints / "checkpoint-2" / "optimizer.pt", "zeroed")
    before = _contents(cut)
    error = run(*interrupted.command, "--resume", "-o", cut).one_error(1, "checkpoint-4/scheduler.pt is missing")
    assert f"no other checkpoint is whole; remove {checkpoints} to begin anew" in error and _contents(cut) == before
    shutil.rmtree(checkpoints)
    assert "going on from" not in run(*interrupted.command, "--resume", "-o", cut).ok().err
    assert _contents(cut) == interrupted.whole


def test_files_of_another_run_are_refused(interrupted, tmp_path):
    """A whole checkpoint of another run is none of this one; a file manager's hidden file does not matter."""
    cut = shutil.copytree(interrupted.cut, tmp_path / "cut")
    checkpoints = cut / "checkpoints"
    (checkpoints / "checkpoint-4" / ".DS_Store").write_bytes(b"\0")
    description = orjson.loads((checkpoints / "run.json").read_bytes())
    assert choose_checkpoint(checkpoints, [].append) == str(checkpoints / "checkpoint-4")
    (checkpoints / "run.json").write_bytes(orjson.dumps(description))
    with pytest.raises(EexpError, match=r"run\.json is not as it was written, and no other checkpoint is whole"):
        choose_checkpoint(checkpoints, [].append)
    shutil.copy(interrupted.cut / "checkpoints" / "run.json", checkpoints)
    (checkpoints / "checkpoint-4" / "model.safetensors").write_bytes(b"")
    notes: list[str] = []
    assert choose_checkpoint(checkpoints, notes.append) == str(checkpoints / "checkpoint-2")
    assert "checkpoint-4/model.safetensors is not in its SHA256SUMS" in notes[0]


def test_a_first_checkpoint_that_was_cut_off_is_begun_anew(interrupted, tmp_path):
    """It has no SHA256SUMS yet, unlike one that was damaged later."""
    cut = shutil.copytree(interrupted.cut, tmp_path / "cut")
    for name in ("checkpoint-2", "best-2"):
        shutil.rmtree(cut / "checkpoints" / name)
    (cut / "checkpoints" / "checkpoint-4" / "SHA256SUMS").rename(
        cut / "checkpoints" / "checkpoint-4" / "SHA256SUMS.part"
    )
    result = _resume(interrupted, cut)
    assert "beginning anew; checkpoint-4 was removed, since its SHA256SUMS is missing" in result.ok().err


def test_a_checkpoint_of_an_earlier_version_is_refused(interrupted, tmp_path):
    """Nothing says whether its files are whole. A run of that version without a checkpoint begins anew."""
    cut = shutil.copytree(interrupted.cut, tmp_path / "cut")
    checkpoints = cut / "checkpoints"
    for number in (2, 4):
        for name in ("SHA256SUMS", "metrics.jsonl"):
            (checkpoints / f"checkpoint-{number}" / name).unlink()
    description = orjson.loads((checkpoints / "run.json").read_bytes())
    assert description.pop("checkpoints") == "SHA256SUMS"
    (checkpoints / "run.json").write_bytes(orjson.dumps(description, option=orjson.OPT_INDENT_2))
    before = _contents(cut)
    error = run(*interrupted.command, "--resume", "-o", cut).one_error(1, "checkpoint-4: is of an earlier version")
    assert "finish the run with that version" in error and _contents(cut) == before
    for number in (2, 4):
        shutil.rmtree(checkpoints / f"checkpoint-{number}")
    _resume(interrupted, cut)


def test_a_checkpoint_that_cannot_be_loaded_is_one_line():
    """Its files are whole, but of another version of a library. torch's advice to load any pickle is left out."""
    advice = "Weights only load failed\nRe-running `torch.load` with `weights_only` set to `False` will likely succeed"
    for error, message in ((RuntimeError(advice), "Weights only load failed"), (EOFError(), "EOFError")):
        with pytest.raises(EexpError) as raised, loading_errors("run/checkpoint-4"):
            raise error
        assert str(raised.value) == f"run/checkpoint-4: cannot be loaded: {message}"
