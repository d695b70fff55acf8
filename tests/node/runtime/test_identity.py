"""Real daemons whose identity, state, clock or connection is not what it should be."""

from __future__ import annotations

import shutil
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from cipherfleet_broker.mosquitto import find_mosquitto
from cipherfleet_deploy.local.processes import NODE_COMMAND
from cipherfleet_node.core.messages import Presence
from cipherfleet_node.core.wire import encode, topic_of
from cipherfleet_node.errors import ConfigError, IdentityClash, NothingExchanged
from cipherfleet_node.keys.key_files import read_keys
from cipherfleet_node.runtime.store import STARTED_FILE, STATE_FOLDER
from cipherfleet_node.settings.sections import Crypto
from tests.support.daemons import Daemons, clock_at, open_daemons, patched
from tests.support.faulty_path import FaultyPath
from tests.tools.flapping_path import flap

pytestmark = pytest.mark.fleet

NAMES = ["n1", "n2", "n3"]
# The epochs at the neighbours are no obstacle, so a node joins within a few rounds. A busy machine
# may take ten times as long as this one.
JOINS_WITHIN_S = 60.0


@pytest.fixture(params=["embedded", "mosquitto"])
def broker(request: pytest.FixtureRequest) -> str:
    if request.param == "mosquitto":
        try:
            find_mosquitto()
        except ConfigError as error:
            pytest.skip(f"THE RECOMMENDED BROKER WAS NOT TESTED: {error}")
    return str(request.param)


# -- two devices with one identity ----------------------------------------------------------------


def settle_clash(daemons: Daemons, one: str, other: str) -> list[str]:
    """Wait until a daemon of the two has ended; return the names of those that have, for good."""

    def ended() -> list[str]:
        return [name for name in (one, other) if daemons.exit_code(name) is not None]

    daemons.wait(lambda: bool(ended()), "end of one of two devices", 90)
    survivor = other if ended() == [one] else one
    daemons.wait_for_rounds([survivor], 6)
    return ended()


def test_the_copy_of_a_card_ends_and_the_card_goes_on(tmp_path: Path, broker: str) -> None:
    with open_daemons(tmp_path, broker=broker) as daemons:
        daemons.start(*NAMES)
        daemons.wait_for_rounds(NAMES, 3)
        daemons.copy("n1", "copy")
        daemons.start("copy")
        assert settle_clash(daemons, "n1", "copy") == ["copy"]
        assert daemons.exit_code("copy") == IdentityClash.exit_code
        assert "was there first" in daemons.log("copy")
        assert "another device was started later" in daemons.log("n1")
        daemons.wait_for_rounds(NAMES, 5)  # the neighbours accept the epochs of the card


def test_a_service_waits_before_it_ends_because_of_a_clash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else systemd would start it again every 20 s, and end the card's connection each time."""
    address = tmp_path / "notify"
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
        open_daemons(tmp_path) as daemons,
    ):
        manager.bind(str(address))
        manager.settimeout(90.0)
        daemons.start(*NAMES)
        daemons.wait_for_rounds(NAMES, 3)
        daemons.copy("n1", "copy")
        monkeypatch.setenv("NOTIFY_SOCKET", str(address))
        monkeypatch.setenv("WATCHDOG_USEC", "1000000")
        daemons.start("copy", command=NODE_COMMAND)  # a forked one has the environment of before
        heard = [b""]
        while not heard[-1].startswith(b"STATUS=another device"):
            heard.append(manager.recv(1000))
        assert b"STOPPING=1" not in heard  # systemd would end the wait after TimeoutStopSec
        assert manager.recv(1000) == manager.recv(1000) == b"WATCHDOG=1"
        daemons.wait_for_rounds(NAMES, 5)  # it has left the connection to the card
        assert daemons.exit_code("copy") is None
        assert daemons.signal("copy") == IdentityClash.exit_code


@pytest.mark.parametrize("clock", [1970, None], ids=["without a clock", "with a clock"])
def test_a_copy_of_an_earlier_start_ends_as_well(tmp_path: Path, clock: int | None) -> None:
    with open_daemons(tmp_path) as daemons:
        daemons.start(*NAMES)
        daemons.wait_for_rounds(NAMES, 3)
        daemons.copy("n1", "copy")
        daemons.signal("n1")
        daemons.start("n1")
        daemons.wait_for_rounds(NAMES, 3)
        daemons.start("copy", **({"command": clock_at(clock)} if clock else {}))
        assert settle_clash(daemons, "n1", "copy") == ["copy"]
        assert daemons.exit_code("copy") == IdentityClash.exit_code
        daemons.wait_for_rounds(NAMES, 5)


def test_of_two_copies_that_start_in_the_same_second_one_ends(tmp_path: Path) -> None:
    with open_daemons(tmp_path) as daemons:
        daemons.start("n2", "n3")
        daemons.copy("n1", "copy")
        daemons.start("n1", "copy")
        (ended,) = settle_clash(daemons, "n1", "copy")
        assert daemons.exit_code(ended) == IdentityClash.exit_code
        daemons.wait_for_rounds(["n2", "n3"], 5)


def test_a_card_whose_copy_has_ended_has_no_second_clash_with_itself(tmp_path: Path) -> None:
    with open_daemons(tmp_path) as daemons:
        daemons.start(*NAMES)
        daemons.wait_for_rounds(NAMES, 3)
        daemons.copy("n1", "copy")
        daemons.start("copy")
        settle_clash(daemons, "n1", "copy")
        for _ in range(2):
            assert daemons.signal("n1", signal.SIGKILL) < 0
            daemons.start("n1")
            daemons.wait_for_rounds(NAMES, 3)
        assert daemons.exit_code("n1") is None


def test_a_last_will_that_comes_late_is_taken_back(tmp_path: Path) -> None:
    """A broker may publish the will of an earlier connection of a node that is connected again."""
    with open_daemons(tmp_path) as daemons:
        daemons.start(*NAMES)
        daemons.wait_for_rounds(NAMES, 2)
        state, keys = daemons.state("n1"), read_keys(daemons.bundles["n1"], Crypto(key_bits=512))
        assert state is not None
        will = Presence("trial", "n1", state.epoch, "lost")
        heard: list[bytes] = []
        client = paho.Client(CallbackAPIVersion.VERSION2, "broker")
        client.on_message = lambda _client, _data, message: heard.append(bytes(message.payload))
        client.connect(daemons.broker.host, daemons.broker.port)
        client.loop_start()
        try:
            client.subscribe(topic_of(will), 1)
            daemons.wait(lambda: len(heard) == 1, "retained presence of n1")
            client.publish(topic_of(will), encode(will, keys.identity), 1, retain=True)
            daemons.wait(lambda: len(heard) == 3, "answer of n1 to its own will")
        finally:
            client.disconnect()
            client.loop_stop()
        assert heard[1] == encode(will, keys.identity)
        assert heard[2] == heard[0]  # it is ready, and says so once more
        assert daemons.exit_code("n1") is None


# -- connections that break -----------------------------------------------------------------------


def test_a_path_that_cuts_tls_connections_ends_no_daemon(tmp_path: Path) -> None:
    """`python -m tests.tools.flapping_path` does it for five minutes."""
    with FaultyPath() as path, open_daemons(tmp_path, path=path, tls=True) as daemons:
        flap(daemons, path, 20.0)
        assert path.cuts >= 4
        assert daemons.exit_code("n1") is None


def test_a_broker_that_crashes_six_times_ends_no_node(tmp_path: Path) -> None:
    """It runs for 2.5 s each time, too short a time to be accepted as a good connection."""
    with open_daemons(tmp_path) as daemons:
        daemons.start(*NAMES)
        daemons.wait_for_rounds(NAMES, 2)
        for _ in range(6):
            daemons.broker.kill()
            daemons.broker.restart()
            time.sleep(2.5)
        daemons.wait_for_rounds(NAMES, 3, JOINS_WITHIN_S)
        assert [daemons.exit_code(name) for name in NAMES] == [None] * 3


# -- states and clocks ----------------------------------------------------------------------------


def lose_state(daemons: Daemons, name: str, *more: str) -> None:
    for each in (STATE_FOLDER, *more):
        place = daemons.bundles[name] / each
        shutil.rmtree(place) if place.is_dir() else place.unlink()


@pytest.mark.parametrize(
    ("before", "after", "lost"),
    [
        (None, None, []),
        (2030, None, [STARTED_FILE]),
        (None, 1970, [STARTED_FILE]),
        (None, 2100, []),
        (2100, 1970, [STARTED_FILE]),
    ],
)
def test_a_node_that_has_lost_its_state_joins_again_under_any_clock(
    tmp_path: Path, before: int | None, after: int | None, lost: Sequence[str]
) -> None:
    commands = [{"command": clock_at(year)} if year else {} for year in (before, after)]
    with open_daemons(tmp_path) as daemons:
        daemons.start("n2", "n3")
        daemons.start("n1", **commands[0])
        daemons.wait_for_rounds(NAMES, 3)
        daemons.signal("n1")
        highest = daemons.state("n1")
        lose_state(daemons, "n1", *lost)
        daemons.start("n1", **commands[1])
        daemons.wait_for_rounds(NAMES, 3, JOINS_WITHIN_S)
        state = daemons.state("n1")
        assert state is not None
        assert highest is not None
        assert state.epoch > highest.epoch
        assert state.round > highest.round
        # The mark beside the state shows it, or the node's own presence at the broker.
        notice = "does not know the latest start" if lost else "its state is lost"
        assert notice in daemons.log("n1")


def test_a_state_put_back_from_a_copy_is_noticed(tmp_path: Path) -> None:
    with open_daemons(tmp_path) as daemons:
        daemons.start(*NAMES)
        daemons.wait_for_rounds(NAMES, 2)
        daemons.signal("n1")
        daemons.copy("n1", "image")
        daemons.start("n1")
        daemons.wait_for_rounds(NAMES, 3)
        daemons.signal("n1")
        lose_state(daemons, "n1")
        place, image = daemons.bundles["n1"], daemons.bundles["image"]
        shutil.copytree(image / STATE_FOLDER, place / STATE_FOLDER)
        daemons.start("n1")
        daemons.wait_for_rounds(NAMES, 3, JOINS_WITHIN_S)
        assert "the saved state does not know the latest start" in daemons.log("n1")
        assert daemons.exit_code("n1") is None


# -- stopping -------------------------------------------------------------------------------------


@pytest.mark.parametrize("closes", [True, False])
def test_a_node_closes_its_open_round_before_it_stops(tmp_path: Path, closes: bool) -> None:
    """With the guard off, the round whose answers have gone out is left without a result."""
    patch = "" if closes else "import cipherfleet_node.runtime.daemon as d; d.CLOSE_WITHIN_S = 0.0"
    # Without a period a round is always open.
    algorithm = "rounds: 1000000, answer_timeout_s: 4, start_timeout_s: 5"
    left_open = 0
    with open_daemons(tmp_path, algorithm=algorithm) as daemons:
        daemons.start("n2", "n3")
        for _ in range(3 if closes else 6):
            daemons.start("n1", command=patched(patch))
            daemons.wait_for_rounds(NAMES, 3)
            assert daemons.signal("n1") == 0
            state = daemons.state("n1")
            assert state is not None
            left_open += state.open_record is not None
            if left_open:
                break
    assert left_open == 0 if closes else left_open > 0


# -- sensors --------------------------------------------------------------------------------------

# A program that never ends while the file `hang` is in the node's folder.
HANGING = """{kind: command, timeout_s: 3,
       command: [sh, -c, "test -e hang && sleep 1000; echo '{\\"t\\": 20}'"]}"""


def rounds_within(daemons: Daemons, names: Sequence[str], seconds: float) -> int:
    before = sum(daemons.round(name) for name in names)
    time.sleep(seconds)
    return sum(daemons.round(name) for name in names) - before


def test_a_hung_sensor_does_not_slow_the_others_down(tmp_path: Path) -> None:
    """Before, a round waited for the sensor's whole timeout: a tenth of the rate."""
    algorithm = "period_s: 0.4, answer_timeout_s: 4, start_timeout_s: 10"
    with open_daemons(tmp_path, algorithm=algorithm, sensor=HANGING) as daemons:
        daemons.start(*NAMES)
        daemons.wait_for_rounds(NAMES, 3)
        for _ in range(4):  # another process may need the machine meanwhile
            undisturbed = rounds_within(daemons, ["n2", "n3"], 6.0)
            (daemons.bundles["n1"] / "hang").touch()
            time.sleep(1.0)
            disturbed = rounds_within(daemons, ["n2", "n3"], 6.0)
            (daemons.bundles["n1"] / "hang").unlink()
            if disturbed >= 0.9 * undisturbed:
                return
            time.sleep(4.0)
    raise AssertionError(f"{disturbed} rounds instead of {undisturbed}")


# -- alerts ---------------------------------------------------------------------------------------


def test_a_node_that_nobody_answers_gives_an_alert(tmp_path: Path) -> None:
    """Its stepsize is another one, so its neighbours refuse its queries."""
    algorithm = (
        "method: article, answer_timeout_s: 0.5, start_timeout_s: 1, period_s: 0.2, "
        "stepsize: {initial: 0.5}"
    )
    with open_daemons(tmp_path, algorithm=algorithm, exchange="pairwise") as daemons:
        file = daemons.bundles["n1"] / "node.yaml"
        text = file.read_text()
        assert "initial: 0.5" in text
        file.write_text(text.replace("initial: 0.5", "initial: 0.25"))
        daemons.start(*NAMES)
        alert = "no neighbour has answered this node"
        daemons.wait(lambda: alert in daemons.log("n1"), "alert")
        assert "although messages of n2, n3 arrive" in daemons.log("n1")
        beat = daemons.bundles["n1"] / "logs" / "heartbeat.json"
        daemons.wait(lambda: '"unanswered_s": 0' not in beat.read_text(), "alert in the heartbeat")
        assert alert not in daemons.log("n2")
        assert daemons.exit_code("n1") is None


@pytest.mark.parametrize("delay_s", [0.0])
def test_rounds_that_have_exchanged_nothing_do_not_end_well(tmp_path: Path, delay_s: float) -> None:
    """Every answer to n1 comes after its deadlines where the path is slow."""
    algorithm = "rounds: 6, answer_timeout_s: 0.5, start_timeout_s: 3"
    with (
        FaultyPath(delay_s=delay_s) as path,
        open_daemons(tmp_path, algorithm=algorithm, path=path) as daemons,
    ):
        daemons.start(*NAMES)
        daemons.wait(lambda: daemons.exit_code("n1") is not None, "end of n1")
        if delay_s:
            assert daemons.exit_code("n1") == NothingExchanged.exit_code, daemons.log("n1")
            assert "without a single answer" in daemons.log("n1")
        else:
            assert daemons.exit_code("n1") == 0


def test_too_few_descriptors_are_one_line(tmp_path: Path) -> None:
    patch = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (6, 6))"
    with open_daemons(tmp_path) as daemons:
        daemons.start("n1", command=patched(patch))
        daemons.wait(lambda: daemons.exit_code("n1") is not None, "end of the daemon")
        assert daemons.exit_code("n1") == 1
        assert "Traceback" not in daemons.log("n1")
        assert "too many open files" in daemons.log("n1").lower()
