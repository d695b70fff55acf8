"""JSON Schemas of the objects that commands print with `--json`, generated from their types.

docs/reference/json-results.md explains the keys.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoints, entry_points

import msgspec

FLEET_FILE = "fleet"  # the name of the schema of fleet.yaml
# The modules are imported on use: the command line reads only the names.
RESULTS = {
    "run-result": "cipherfleet_deploy.local.results:RunResult",
    "check-result": "cipherfleet_deploy.check.check:CheckResult",
    "init-result": "cipherfleet_deploy.cli.init:InitResult",
    "doctor-result": "cipherfleet_deploy.doctor:DoctorResult",
    "watch-result": "cipherfleet_deploy.watch.watch:WatchResult",
    "bundle-result": "cipherfleet_deploy.provision_results:BundleResult",
    "broker-result": "cipherfleet_deploy.broker_setup:BrokerResult",
    "enroll-result": "cipherfleet_deploy.provision_results:EnrollResult",
    "update-result": "cipherfleet_deploy.provision_results:UpdateResult",
    "rotate-result": "cipherfleet_deploy.provision_results:RotateResult",
    "replace-result": "cipherfleet_deploy.provision_results:ReplaceResult",
    "revoke-result": "cipherfleet_deploy.provision_results:RevokeResult",
    "seed-result": "cipherfleet_deploy.cards.card:SeedResult",
    "seed-all-result": "cipherfleet_deploy.cards.tray:SeedAllResult",
    "up-result": "cipherfleet_deploy.containers.results:UpResult",
    "status-result": "cipherfleet_deploy.containers.results:StatusResult",
    "down-result": "cipherfleet_deploy.containers.results:DownResult",
    "compose-result": "cipherfleet_deploy.containers.results:ComposeResult",
    "stack-result": "cipherfleet_deploy.containers.results:StackResult",
    "answer-result": "cipherfleet_node.outputs.answer:Answer",  # of cipherfleet-node
    "sense-result": "cipherfleet_node.doctor.sense:SenseResult",  # of cipherfleet-node
    "image-result": "cipherfleet_deploy.containers.results:ImageResult",
}


@cache
def _other_results() -> EntryPoints:
    """The results of the harness and the lab, which this package never imports."""
    return entry_points(group="cipherfleet.results")


def schema_names() -> list[str]:
    """Return the names of all schemas; only names are read."""
    return [FLEET_FILE, *RESULTS, *sorted(_other_results().names)]


def load_result(name: str) -> type[msgspec.Struct]:
    """Import and return the struct of the result *name*."""
    found: type[msgspec.Struct]
    if name in RESULTS:
        module, _, struct = RESULTS[name].partition(":")
        found = getattr(import_module(module), struct)
    else:
        found = _other_results()[name].load()
    return found


def make_schema(name: str) -> str:
    """Return the JSON Schema (2020-12) of the result *name*, or of fleet.yaml, as text.

    That of fleet.yaml has the options of the sensor plug-ins that are installed here.
    """
    from cipherfleet_provisioning.fleet import schema

    if name == FLEET_FILE:
        return json.dumps(schema.installed_schema(), indent=1) + "\n"
    return json.dumps(schema.make_schema(load_result(name), f"cipherfleet {name}"), indent=1) + "\n"
