"""`cipherfleet provision seed`: write a card that turns the device it is put into into a node."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import AS_JSON, print_result

if TYPE_CHECKING:
    from cipherfleet_deploy.cards.card import SeedResult

FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command()
@click.argument("node")
@click.argument("home", metavar="DIR", type=click.Path(path_type=Path, exists=True))
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
    "--wheels",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="folder of wheels to install from; without it the image must contain cipherfleet",
)
@click.option(
    "--replace", is_flag=True, help="this card replaces another card, of this or another node"
)
@AS_JSON
def seed(
    node: str,
    home: Path,
    image: Path | None,
    boot: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Write NODE of the set DIR onto a card.

    Writes a cloud-init seed to the boot partition of Raspberry Pi OS or Ubuntu. The partition is in
    an image or is mounted. Settings that are already on the card are kept. Everything is read back
    and compared. Each identity belongs to one card: without --replace, a second card is refused
    with exit code 6.

    \b
    Example:
      cipherfleet provision seed attic my-set --image raspios.img --wheels wheels
    """
    if (image is None) == (boot is None):
        raise click.UsageError("give one place to write to: --image FILE or --boot FOLDER")
    # Imported here: --help and usage errors must not wait for these imports.
    from cipherfleet_deploy.cards.boot_partition import open_folder, open_image
    from cipherfleet_deploy.cards.card import Extras, find_bundle, write_seed
    from cipherfleet_deploy.cards.identity import hardware_serial

    bundle = find_bundle(node, home)
    if image is not None:
        volume, hardware = open_image(image), hardware_serial(image)
    else:
        assert boot is not None
        volume, hardware = open_folder(boot), ""
    result = write_seed(bundle, volume, Extras(**given), hardware)
    print_result(result, _show, as_json=as_json)


def _show(result: SeedResult, _console: object) -> None:
    click.echo(
        f"wrote {result.node} onto {result.written_to}: {result.files} files, "
        f"{result.bytes / 1e6:.1f} MB, read back; card {result.card}"
    )
    if result.private_keys:
        click.echo("the card carries private keys until its first boot: keep it safe until then")
