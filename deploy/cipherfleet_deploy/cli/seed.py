"""`cipherfleet provision seed`: write cards that turn the devices they are put into into nodes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import AS_JSON, print_result

if TYPE_CHECKING:
    from cipherfleet_deploy.cards.boot_partition import Volume
    from cipherfleet_deploy.cards.card import Extras, SeedResult
    from cipherfleet_deploy.cards.tray import SeedAllResult

FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@dataclass(frozen=True)
class Destination:
    """Where cards are written to: exactly one of *image* and *boot* is given."""

    image: Path | None
    boot: Path | None
    out: Path | None  # a folder for copies of the image

    def open_card(self) -> tuple[Volume, str]:
        """Return the boot partition and the serial number of the card. Raises ConfigError."""
        from cipherfleet_deploy.cards.boot_partition import open_folder, open_image
        from cipherfleet_deploy.cards.identity import hardware_serial

        if self.image is not None:
            return open_image(self.image), hardware_serial(self.image)
        assert self.boot is not None
        return open_folder(self.boot), ""

    def __str__(self) -> str:
        return str(self.image or self.boot)


@click.command()
@click.argument("words", metavar="[NODE] DIR", nargs=-1, required=True)
@click.option(
    "--all", "for_all", is_flag=True, help="write the cards of all nodes that have none yet"
)
@click.option("--user-data", type=FILE, help="use this cloud-config instead of the card's own")
@click.option(
    "--network", type=FILE, help="use this network-config (netplan) instead of the card's own"
)
@click.option(
    "--image", type=click.Path(path_type=Path), help="write to this image file or card reader"
)
@click.option(
    "--boot", type=click.Path(path_type=Path), help="write to this mounted boot partition"
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="with --all: copy the image to NODE.img in this folder, and write to the copies",
)
@click.option(
    "--wheels",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="folder of wheels to install from; without it and --python, the image must contain "
    "cipherfleet",
)
@click.option(
    "--python",
    metavar="VERSION",
    help="Python version of the image, such as 3.13: collect the wheels for it in DIR/wheels",
)
@click.option(
    "--replace", is_flag=True, help="this card replaces another card, of this or another node"
)
@AS_JSON
def seed(
    words: tuple[str, ...],
    for_all: bool,
    image: Path | None,
    boot: Path | None,
    out: Path | None,
    python: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Write cards for the nodes of the set DIR.

    Writes a cloud-init seed to the boot partition of Raspberry Pi OS or Ubuntu. The partition is in
    an image or is mounted. Settings that are already on the card are kept. Everything is read back
    and compared. Each identity belongs to one card: without --replace, a second card is refused
    with exit code 6.

    With --all and --out, writes an image for each node that has no card yet. With --all alone, asks
    for one card after the other.

    \b
    Example:
      cipherfleet provision seed attic my-set --image raspios.img --python 3.13
      cipherfleet provision seed --all my-set --image raspios.img --out cards --python 3.13
    """
    node, home = _node_and_home(words, for_all=for_all)
    place = Destination(image, boot, out)
    _check_usage(place, for_all=for_all, python=python, **given)
    # Imported here: --help and usage errors must not wait for these imports.
    from cipherfleet_deploy.cards.card import Extras, find_bundle, write_seed
    from cipherfleet_deploy.cards.wheels import collect_wheels

    if python is not None:
        given["wheels"] = collect_wheels(home, python, _report)
    extras = Extras(**given)
    if for_all:
        print_result(_seed_all(home, place, extras), _show_all, as_json=as_json)
        return
    bundle = find_bundle(node, home)
    volume, hardware = place.open_card()
    print_result(write_seed(bundle, volume, extras, hardware), _show, as_json=as_json)


def _node_and_home(words: tuple[str, ...], *, for_all: bool) -> tuple[str, Path]:
    expected = ["DIR"] if for_all else ["NODE", "DIR"]
    if len(words) != len(expected):
        raise click.UsageError(f"give {' and '.join(expected)}, found: {' '.join(words)}")
    home = Path(words[-1])
    if not home.exists():
        raise click.UsageError(f"DIR {str(home)!r} does not exist")
    return words[0], home


def _check_usage(
    place: Destination,
    *,
    for_all: bool,
    python: str | None,
    wheels: Path | None,
    replace: bool,
    **_others: object,
) -> None:
    problems = {
        "give one place to write to: --image FILE or --boot FOLDER": (
            (place.image is None) == (place.boot is None)
        ),
        "give --wheels or --python, not both": wheels is not None and python is not None,
        "--out is for --all with --image": (
            place.out is not None and (place.image is None or not for_all)
        ),
        "--replace is for one NODE, not for --all": replace and for_all,
        "--all writes to copies of an image file: give a folder for them with --out": (
            for_all and place.out is None and place.image is not None and place.image.is_file()
        ),
    }
    for text, is_wrong in problems.items():
        if is_wrong:
            raise click.UsageError(text)


def _seed_all(home: Path, place: Destination, extras: Extras) -> SeedAllResult:
    from cipherfleet_deploy.cards.tray import seed_images, seed_in_turn

    if place.out is not None:
        assert place.image is not None
        return seed_images(home, place.image, place.out, extras, _report)

    def ask(node: str) -> bool:
        question = f"card of {node}: is it in {place}? (n leaves this node out)"
        return click.confirm(question, default=True, err=True)

    return seed_in_turn(home, place.open_card, ask, extras, _report)


def _report(text: str) -> None:
    click.echo(text, err=True)


def _show_all(result: SeedAllResult, console: object) -> None:
    for each in result.seeds:
        _show(each, console)
    if result.had_cards:
        click.echo(
            f"had a card or an enrolled device already: {', '.join(result.had_cards)} (for another "
            "card: cipherfleet provision seed NODE DIR --replace)"
        )
    if result.skipped:
        click.echo(f"left out: {', '.join(result.skipped)}")
    click.echo(f"cards written: {len(result.seeds)}")


def _show(result: SeedResult, _console: object) -> None:
    click.echo(
        f"wrote {result.node} onto {result.written_to}: {result.files} files, "
        f"{result.bytes / 1e6:.1f} MB, read back; card {result.card}"
    )
    if result.private_keys:
        click.echo("the card carries private keys until its first boot: keep it safe until then")
