"""`cipherfleet provision seed`: a card that becomes a node by being put into a device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .options import AS_JSON

FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command()
@click.argument("node")
@click.argument("home", metavar="DIR", type=click.Path(path_type=Path, exists=True))
@click.option("--user-data", type=FILE, help="cloud-config in place of the card's own")
@click.option("--network", type=FILE, help="network-config (netplan) in place of the card's own")
@click.option("--image", type=click.Path(path_type=Path), help="image file, or a card in a reader")
@click.option("--boot", type=click.Path(path_type=Path), help="folder of a mounted boot partition")
@click.option(
    "--wheels",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="folder of wheels to install from; else the image must hold cipherfleet already",
)
@click.option("--replace", is_flag=True, help="this card takes the place of another one")
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

    It becomes a cloud-init seed in the boot partition of Raspberry Pi OS or Ubuntu, in an image or
    mounted. Settings that are on the card already stay. Everything is read back. One identity
    belongs to one card: a second one is refused with exit code 6 unless --replace is said.

    \b
    Example:
      cipherfleet provision seed attic my-set --image raspios.img --wheels wheels
    """
    if (image is None) == (boot is None):
        raise click.UsageError("say where to write: --image FILE or --boot FOLDER")
    # Imported here: --help and mistakes in the command line must not wait for them.
    from cipherfleet_deploy.cards.boot_partition import open_folder, open_image
    from cipherfleet_deploy.cards.card import Extras, find_source, hardware_serial, write_seed

    source = find_source(node, home)
    if image is not None:
        volume, hardware = open_image(image), hardware_serial(image)
    else:
        assert boot is not None
        volume, hardware = open_folder(boot), ""
    told = write_seed(source, volume, Extras(**given), hardware)
    if as_json:
        click.echo(json.dumps(told))
        return
    click.echo(
        f"wrote {told['node']} onto {told['written_to']}: {told['files']} files, "
        f"{told['bytes'] / 1e6:.1f} MB, read back; card {told['card']}"
    )
    if told["private_keys"]:
        click.echo("it carries private keys until its first boot: keep it safe until then")
