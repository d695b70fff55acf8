"""Write the generated pages of docs/reference: `make reference`.

`fleet-yaml.md` comes from the types that check fleet.yaml: their JSON schema has types, ranges and
defaults, and the comments beside their fields say what a key means. `commands.md` comes from the
two programs. `--check` writes nothing; exit code 1 says that a page is not up to date.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import re
import sys
import tokenize
from collections.abc import Iterator, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import click
import msgspec
import yaml

from cipherfleet_node.errors import CipherfleetError
from cipherfleet_provisioning.fleet import file as fleet_file
from cipherfleet_provisioning.fleet.schema import fleet_schema
from cipherfleet_provisioning.topology import section as topology_section
from tests.tools.reference_examples import DESCRIPTIONS, EXAMPLES, EXIT_CODES, MEANINGS

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
NOTE = "<!-- Written by `make reference`; do not edit. -->\n\n"

Schema = Mapping[str, Any]


def main() -> int:
    """Write the pages, or say which are not up to date."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--check", action="store_true", help="write nothing")
    given = options.parse_args()
    old = [file for file, text in pages().items() if not file.exists() or file.read_text() != text]
    for file in old:
        print(f"{file.relative_to(ROOT)}: {'is not up to date' if given.check else 'written'}")
        if not given.check:
            file.write_text(pages()[file])
    return int(given.check and bool(old))


def pages() -> dict[Path, str]:
    """The text of each generated page."""
    return {
        REFERENCE / "fleet-yaml.md": NOTE + fleet_page(),
        REFERENCE / "commands.md": NOTE + commands_page(),
    }


# -- fleet.yaml -----------------------------------------------------------------------------------

SCHEMA_LINK = "../../provisioning/cipherfleet_provisioning/fleet/fleet.schema.json"
FLEET_HEAD = """# Every key of `fleet.yaml`

`fleet.yaml` describes one fleet: what is computed, by which nodes, over which links. A node gets
its part of it as `node.yaml`. `cipherfleet init DIR` writes a commented example, and
`cipherfleet check FILE` reports all mistakes at once, with line and column. Editors read the
[JSON Schema]({schema}), which `cipherfleet schema` prints.

A key without a default in these tables must be given. `-` as a default means: not given. In an
example, only the section itself is shown. [Choose the settings](../how-to/choose.md) says which
value fits which situation.
"""


def fleet_page() -> str:
    """The page of fleet.yaml: one section per type, in the order in which the schema has them."""
    schema = fleet_schema()
    types: Mapping[str, Schema] = schema["$defs"]
    places = places_of(types)
    comments = field_comments()
    text = FLEET_HEAD.format(schema=SCHEMA_LINK)
    for name, described in types.items():
        text += f"\n## {heading_of(name, described, places)}\n\n"
        text += f"{DESCRIPTIONS.get(name) or words_of(described['description'])}\n\n"
        text += key_table(name, described, comments[name], places)
        text += f"\n```yaml\n{example_of(name, described)}```\n"
    return text


def places_of(types: Mapping[str, Schema]) -> dict[str, str]:
    """Where fleet.yaml has each type first, for example algorithm.until."""
    places = {"FleetFile": ""}
    for name, described in types.items():
        for key, value in described.get("properties", {}).items():
            for inner in references(value):
                path = f"{places[name]}.{key}" if places[name] else key
                places.setdefault(inner, path)
    return places


def references(value: object) -> Iterator[str]:
    """The names of all types that a part of the schema refers to."""
    if isinstance(value, Mapping):
        if "$ref" in value:
            yield value["$ref"].rpartition("/")[2]
        for key, inner in value.items():
            if key != "discriminator":
                yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def heading_of(name: str, described: Schema, places: Mapping[str, str]) -> str:
    """The heading of a type: its place in the file, and its kind if there are several."""
    kind = described["properties"].get("kind", {}).get("enum", [])
    if name == "FleetFile":
        return "The file"
    place = f"`{places[name]}`"
    return f"{place} of kind `{kind[0]}`" if len(kind) == 1 and "Sensor" in name else place


def key_table(
    name: str, described: Schema, comments: Mapping[str, str], places: Mapping[str, str]
) -> str:
    """A table of the keys of a type."""
    rows = "| key | value | default | meaning |\n|---|---|---|---|\n"
    required = described.get("required", [])
    for key, value in described["properties"].items():
        default = "" if key in required else default_of(value)
        meaning = comments.get(key) or _note(value) or MEANINGS.get(f"{name}.{key}", "")
        cells = (f"`{key}`", kind_of(value, places), default, meaning or MEANINGS.get(key, ""))
        rows += f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"
    return rows


def _note(value: Schema) -> str:
    """What the schema itself says about a value, if anything."""
    options = [value, *value.get("anyOf", [])]
    return next((each["description"] for each in options if "description" in each), "")


def default_of(value: Schema) -> str:
    """The default as fleet.yaml would have it; a dash for a key that is not given."""
    default = value.get("default")
    return "-" if default is None else f"`{json.dumps(default, ensure_ascii=False)}`"


def kind_of(value: Schema, places: Mapping[str, str]) -> str:
    """Type and range of a value in words."""
    if "anyOf" in value:
        kinds = [kind_of(each, places) for each in value["anyOf"] if each.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "$ref" in value:
        place = places[value["$ref"].rpartition("/")[2]]
        return f"[`{place}`](#{anchor_of(place)})" if "Sensor" not in value["$ref"] else "a sensor"
    if "enum" in value:
        return ", ".join(f"`{each}`" for each in value["enum"])
    if value.get("type") == "array":
        return _list_of(value, places)
    if value.get("type") == "object":
        return f"mapping to {kind_of(value.get('additionalProperties') or {}, places)}"
    words = {"integer": "whole number", "number": "number", "boolean": "`true` or `false`"}
    return f"{words.get(value.get('type', ''), 'text')}{range_of(value)}"


def _list_of(value: Schema, places: Mapping[str, str]) -> str:
    if pair := value.get("prefixItems"):
        return f"list of {len(pair)}: {kind_of(pair[0], places)}"
    least = f", at least {value['minItems']}" if "minItems" in value else ""
    return f"list of {kind_of(value['items'], places)}{least}"


def range_of(value: Schema) -> str:
    """The range of a number, as the end of a sentence; nothing if there is none."""
    words = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
    }
    if value.get("minimum") == value.get("maximum") is not None:
        return f" {value['minimum']}"
    parts = [f"{words[key]} {value[key]:,g}" for key in words if key in value]
    return f", {', '.join(parts)}" if parts else ""


def anchor_of(heading: str) -> str:
    """The anchor of a heading as forges write it."""
    return re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-")


def example_of(name: str, described: Schema) -> str:
    """The example of a type as YAML. It is valid: otherwise msgspec raises ValidationError."""
    text = EXAMPLES[name]
    kinds = {each.__name__: each for each in section_types()}
    value = yaml.safe_load(text)
    given = value if name == "FleetFile" else _inner_value(value)
    if kind := described["properties"].get("kind", {}).get("enum", [])[:1]:
        given = given if "Sensor" not in name else {"kind": kind[0], **given}
    msgspec.convert(given, kinds[name])
    return text


def _inner_value(value: Any) -> Any:
    """The value of the innermost section of an example, which has one key per level above it."""
    inner = next(iter(value.values()))
    if isinstance(inner, list):
        return inner[0]
    deeper = next(iter(inner.values()))
    return _inner_value(inner) if len(inner) == 1 and isinstance(deeper, dict) else inner


def section_types() -> list[type[msgspec.Struct]]:
    """All types of the three modules that make up fleet.yaml."""
    from cipherfleet_node.settings import sections

    return [
        each
        for module in (fleet_file, topology_section, sections)
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, msgspec.Struct)
    ]


def field_comments() -> dict[str, dict[str, str]]:
    """For each type the comment of each field: the lines above it, or the one beside it."""
    from cipherfleet_node.settings import sections

    found: dict[str, dict[str, str]] = {}
    for module in (sections, topology_section, fleet_file):
        source = inspect.getsource(module)
        beside, above = comments_of(source)
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef):
                bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
                inherited = [found.get(base, {}) for base in bases]
                found[node.name] = {key: text for each in inherited for key, text in each.items()}
                for line in node.body:
                    if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                        text = _lines_above(line.lineno, above) or beside.get(
                            line.end_lineno or line.lineno, ""
                        )
                        if text:
                            found[node.name][line.target.id] = words_of(text)
    return found


def comments_of(source: str) -> tuple[dict[int, str], dict[int, str]]:
    """The comments of *source* by line: those beside code, and those on a line of their own."""
    beside: dict[int, str] = {}
    alone: dict[int, str] = {}
    for token in tokenize.generate_tokens(StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            is_alone = not token.line[: token.start[1]].strip()
            (alone if is_alone else beside)[token.start[0]] = token.string.lstrip("# ")
    return beside, alone


def _lines_above(line: int, comments: Mapping[int, str]) -> str:
    lines: list[str] = []
    while (line := line - 1) in comments:
        lines.insert(0, comments[line])
    return " ".join(lines)


def words_of(comment: str) -> str:
    """A docstring or comment of the code in the words of a YAML file."""
    words = re.sub(r"\bNone\b", "not given", " ".join(comment.split()))
    words = re.sub(r"\bTrue\b", "true", re.sub(r"\bFalse\b", "false", words))
    return words.replace("<", "&lt;")


# -- commands -------------------------------------------------------------------------------------

COMMANDS_HEAD = """# All commands and exit codes

`cipherfleet` runs on the operator's machine, `cipherfleet-node` on a device. Each command has
`--help`. With `--json` a command prints one object on standard output:
[JSON results](json-results.md) has the keys.
"""


def commands_page() -> str:
    """The page of commands: exit codes, then every command of both programs."""
    text = f"{COMMANDS_HEAD}\n## Exit codes\n\n| code | meaning |\n|---|---|\n"
    assert raised_codes() <= set(EXIT_CODES), "an exit code is not in EXIT_CODES"
    text += "".join(f"| {code} | {meaning} |\n" for code, meaning in sorted(EXIT_CODES.items()))
    text += "\n## cipherfleet\n" + "".join(click_sections())
    return text + "\n## cipherfleet-node\n" + "".join(argparse_sections())


def raised_codes() -> set[int]:
    """The exit codes of all exception classes of the project."""
    from cipherfleet_deploy.cli.main import cli

    names = cli.list_commands(click.Context(cli))  # importing a command imports its exceptions
    assert all(cli.get_command(click.Context(cli), name) for name in names)
    kinds, codes = [CipherfleetError], set()
    while kinds:
        kind = kinds.pop()
        codes.add(kind.exit_code)
        kinds += kind.__subclasses__()
    return codes


def click_sections() -> Iterator[str]:
    """A section for each command of `cipherfleet`."""
    from cipherfleet_deploy.cli.main import cli

    for path, command in walk(cli, ("cipherfleet",)):
        yield f"\n### `{' '.join(path)}`\n\n{help_text(command)}\n"
        if rows := list(option_rows(command)):
            yield "\n| argument | meaning |\n|---|---|\n" + "".join(rows)


def walk(group: click.Group, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command below *group* that is no group itself, with its words."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from walk(command, (*path, name))
        elif command is not None:
            yield (*path, name), command


def help_text(command: click.Command) -> str:
    """The help of *command* as Markdown: paragraphs, and its example as a block of code."""
    text, _, example = inspect.cleandoc(command.help or "").partition("\n\n\b\n")
    shown = re.sub(r"^Examples?:\n", "", example)
    words = text.replace("<", "&lt;").replace("\f", "")
    return f"{words}\n\n```text\n{inspect.cleandoc(shown)}\n```" if shown.strip() else words


def option_rows(command: click.Command) -> Iterator[str]:
    """A row of the table for each argument and option of *command*."""
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            if parameter.hidden:
                continue
            name = ", ".join([*parameter.opts, *parameter.secondary_opts])
            value = "" if parameter.is_flag else f" {parameter.make_metavar(_context(command))}"
            yield row(f"{name}{value}", parameter.help or "")
        else:
            must = "" if parameter.required else "may be left out"
            yield row(parameter.make_metavar(_context(command)), must)


def _context(command: click.Command) -> click.Context:
    return click.Context(command)


def row(name: str, text: str) -> str:
    """A row of a table of arguments."""
    cells = f"`{name}`".replace("|", "\\|"), text.replace("|", "\\|").replace("<", "&lt;")
    return f"| {cells[0]} | {cells[1]} |\n"


def argparse_sections() -> Iterator[str]:
    """A section for each command of `cipherfleet-node`."""
    from cipherfleet_node import __main__ as program

    parser = program._parser()
    (commands,) = (each for each in parser._actions if isinstance(each, argparse._SubParsersAction))
    for name, command in commands.choices.items():
        example = (command.epilog or "").removeprefix("example: ")
        shown, _, codes = example.partition("; ")
        note = f" {codes[0].upper()}{codes[1:]}." if codes else ""
        yield f"\n### `cipherfleet-node {name}`\n\n{command.description}{note}\n"
        yield f"\n```text\n{shown}\n```\n\n| argument | meaning |\n|---|---|\n"
        for action in command._actions:
            if not isinstance(action, argparse._HelpAction):
                value = "" if action.nargs == 0 else f" {action.dest.upper()}"
                yield row(
                    ", ".join(action.option_strings) + (value if action.option_strings else "")
                    or action.dest.upper(),
                    action.help or "",
                )


if __name__ == "__main__":
    sys.exit(main())
