"""The output `exec`: the program gets the answer, and cannot hold up or outlive its time."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

import msgspec
import pytest

from cipherfleet_node.outputs.answer import Answer, Model
from cipherfleet_node.outputs.program import AnswerProgram
from cipherfleet_node.outputs.publisher import OutputFailed, OutputThread

from .test_file import ANSWER

LONG = msgspec.structs.replace(ANSWER, model=Model(values={f"x{i}": 0.5 for i in range(40_000)}))


def program(folder: Path, code: str, timeout_s: float = 60.0) -> AnswerProgram:
    return AnswerProgram([sys.executable, "-c", code], timeout_s, folder)


@pytest.mark.parametrize("answer", [ANSWER, LONG], ids=["short", "longer than a pipe"])
def test_the_program_gets_the_answer_as_json_in_the_folder_of_the_node(
    tmp_path: Path, answer: Answer
) -> None:
    program(
        tmp_path, "import sys, pathlib; pathlib.Path('got').write_text(sys.stdin.read())"
    ).publish(answer)
    assert msgspec.json.decode((tmp_path / "got").read_bytes(), type=Answer) == answer


def test_a_program_need_not_read_its_input(tmp_path: Path) -> None:
    program(tmp_path, "import sys; sys.stdin.close()").publish(LONG)


def test_a_program_that_prints_without_an_end_fills_no_memory(tmp_path: Path) -> None:
    program(tmp_path, "import sys; sys.stdout.write('x' * 50_000_000)").publish(ANSWER)


@pytest.mark.parametrize("answer", [ANSWER, LONG], ids=["short", "longer than a pipe"])
def test_a_program_that_hangs_is_killed_with_its_children(tmp_path: Path, answer: Answer) -> None:
    code = (
        "import subprocess, sys, time;"
        "child = 'import pathlib, time; time.sleep(4); pathlib.Path(\"alive\").touch()';"
        "subprocess.Popen([sys.executable, '-c', child]); time.sleep(600)"
    )
    with pytest.raises(OutputFailed, match="did not end within 2 s and was killed"):
        program(tmp_path, code, timeout_s=2.0).publish(answer)
    time.sleep(3.0)
    assert not (tmp_path / "alive").exists()


def test_what_a_program_has_started_ends_with_it(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys;"
        "child = 'import pathlib, time; time.sleep(2); pathlib.Path(\"alive\").touch()';"
        "subprocess.Popen([sys.executable, '-c', child])"
    )
    program(tmp_path, code).publish(ANSWER)
    time.sleep(2.5)
    assert not (tmp_path / "alive").exists()


def test_a_program_without_success_or_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputFailed, match="ended with code 3"):
        program(tmp_path, "raise SystemExit(3)").publish(ANSWER)
    for name in ("./missing", "no-such-program"):
        with pytest.raises(OutputFailed, match="is not an executable program"):
            AnswerProgram([name], 1.0, tmp_path).publish(ANSWER)


def test_the_log_says_why_a_program_fails_and_shows_nothing_of_the_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    thread = OutputThread("answer.exec", lambda: program(tmp_path, "raise SystemExit(3)"))
    with caplog.at_level(logging.WARNING):
        thread.put(ANSWER)
        thread.close()
        assert thread._thread is not None
        thread._thread.join(60.0)
    assert [record.getMessage() for record in caplog.records] == [
        "the output answer.exec fails: it ended with code 3; trying again with each answer"
    ]
