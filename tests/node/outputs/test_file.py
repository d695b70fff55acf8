"""outputs/answer.json: who can read it, what a crash leaves, and what readers are given."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from cipherfleet_node import outputs
from cipherfleet_node.errors import AnswerUnavailable
from cipherfleet_node.outputs.answer import Answer, Model
from cipherfleet_node.outputs.file import AnswerFile, answer_file
from cipherfleet_node.runtime.synced_files import replace_synced

ANSWER = Answer(
    fleet="trial", node="n1", settled=True, round=4, at="2026-11-27T20:15:03Z", kind="ridge",
    digits=4, model=Model(target="pm25", intercept=2.0, coefficients={"pm10": 0.5, "rh": -0.1}),
)  # fmt: skip
# Writes ever longer answers until it is killed, and says when it has begun.
WRITER = """
import sys, msgspec
from pathlib import Path
from cipherfleet_node.outputs.file import AnswerFile
from cipherfleet_node.runtime.synced_files import replace_synced
from tests.node.outputs.test_file import numbered
output = AnswerFile(Path(sys.argv[1]), replace_synced)
for number in range(10**9):
    output.publish(numbered(number))
    if number == 0:
        print("begun", flush=True)
"""


def numbered(number: int) -> Answer:
    """An answer whose fields all follow from *number*; at times it is long."""
    values = {f"x{i}": float(number) for i in range(number % 2000)}
    return msgspec.structs.replace(ANSWER, round=number, model=Model(values=values))


def publish(folder: Path, answer: Answer = ANSWER) -> None:
    AnswerFile(folder, replace_synced).publish(answer)


def test_what_is_published_is_what_a_program_loads(tmp_path: Path) -> None:
    publish(tmp_path)
    loaded = outputs.load(tmp_path)
    assert loaded == ANSWER
    assert loaded.predict({"pm10": 40, "rh": 60}) == 2.0 + 20.0 - 6.0
    assert outputs.load(str(tmp_path)) == loaded


def test_the_group_can_read_the_file_and_others_cannot_under_every_umask(
    tmp_path: Path,
) -> None:
    before = os.umask(0o077)
    try:
        publish(tmp_path)
        publish(tmp_path)
    finally:
        os.umask(before)
    file = answer_file(tmp_path)
    assert file.stat().st_mode & 0o777 == 0o640
    assert file.parent.stat().st_mode & 0o777 == 0o750
    assert [each.name for each in file.parent.iterdir()] == ["answer.json"]


@pytest.mark.parametrize("seconds", [0.0, 0.02, 0.05, 0.1])
def test_a_writer_that_is_killed_leaves_a_whole_answer(tmp_path: Path, seconds: float) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"begun\n"
        try:
            writer.wait(seconds)
        except subprocess.TimeoutExpired:
            writer.send_signal(signal.SIGKILL)
    left = outputs.load(tmp_path)
    assert left == numbered(left.round)


def test_a_node_that_has_published_nothing_has_no_answer(tmp_path: Path) -> None:
    with pytest.raises(AnswerUnavailable, match="there is no answer yet") as refused:
        outputs.load(tmp_path)
    assert refused.value.exit_code == 7


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"fleet": 1}', b"\xff"])
def test_a_file_that_is_no_answer_is_an_error_with_a_remedy(tmp_path: Path, text: bytes) -> None:
    publish(tmp_path)
    answer_file(tmp_path).write_bytes(text)
    with pytest.raises(AnswerUnavailable, match="is not an answer of this version; remove it"):
        outputs.load(tmp_path)


def test_keys_of_a_later_version_are_ignored(tmp_path: Path) -> None:
    publish(tmp_path)
    file = answer_file(tmp_path)
    file.write_text(file.read_text().replace("{", '{"later": 1, ', 1))
    assert outputs.load(tmp_path) == ANSWER


def test_a_program_that_reads_the_file_needs_no_numpy(tmp_path: Path) -> None:
    publish(tmp_path)
    code = (
        "import sys, cipherfleet_node.outputs as outputs;"
        "outputs.load(sys.argv[1]).predict({'pm10': 1, 'rh': 2});"
        "print(sorted({'numpy', 'gmpy2', 'paho', 'yaml', 'cryptography'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
