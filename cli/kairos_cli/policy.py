"""`kairos policy ...`: check, test, compile, sign and push. The policy key is used here and nowhere else."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from kairos.api.problem import ProblemError
from kairos.api.session import PolicyRecord, PolicyUpload
from kairos.crypto import labels
from kairos.errors import KairosError
from kairos.identity import transcript
from kairos_cli.admin import AdminClient, at, client, tenant_of
from kairos_cli.fabric.operator import Operator
from kairos_cli.grants import load_grants
from kairos_cli.negation import traps
from kairos_cli.output import as_fields, as_json
from kairos_cli.source_port import reads_source_port

ENTRYPOINTS = tuple(
    f"kairos/{point}/decision" for point in ("admission", "session", "egress", "ingress", "interconnect")
)
# Asked where the rules are there: what shows near misses, and what isolates.
_OPTIONAL = {"why": "kairos/why/grants", "isolation": "kairos/isolation/decision"}
_TIMEOUT_S = 60


def check(options: argparse.Namespace) -> None:
    source, grants = source_of(options)
    compile_bundle(source, grants)
    _check(_rules(source, tests=True))
    print(f"{source}: nodes can run this policy")


def test(options: argparse.Namespace) -> None:
    source, _ = source_of(options)
    print(_opa("test", "--verbose", *_rules(source, tests=True)), end="")


def push(options: argparse.Namespace) -> None:
    record = push_policy(client(options), tenant_of(options), *source_of(options))
    if options.json:
        as_json(record)
    else:
        print(f"policy version {record.version} is in force at tenant {record.tenant}")


def show(options: argparse.Namespace) -> None:
    record = client(options).get(at(tenant_of(options), "policy"), PolicyRecord)
    if options.json:
        as_json(record)
    else:
        as_fields([("tenant", record.tenant), ("version", record.version), ("sha384", record.sha384.hex())])


def source_of(options: argparse.Namespace) -> tuple[Path, Path]:
    """The folder of the rules and the grants file that --source and --data name; else the shipped ones."""
    source = Path(options.source) if options.source else _shipped()
    return source, Path(options.data) if options.data else source / "grants.json"


def shipped_bundle() -> bytes:
    """The policy that comes with this program, compiled."""
    source = _shipped()
    return compile_bundle(source, source / "grants.json")


def push_policy(admin: AdminClient, tenant: str, source: Path, grants: Path) -> PolicyRecord:
    """Compiles, signs, pushes."""
    return push_bundle(admin, tenant, compile_bundle(source, grants))


def push_bundle(admin: AdminClient, tenant: str, bundle: bytes) -> PolicyRecord:
    """Signs it as the tenant's next version and pushes it."""
    record = sign(admin.operator, tenant, _current(admin, tenant) + 1, bundle)
    return admin.send("PUT", at(tenant, "policy"), PolicyUpload(record, bundle), PolicyRecord)


def compile_bundle(source: Path, grants: Path) -> bytes:
    """An OPA bundle with policy.wasm and the grants as its data, loaded once as every node will. Raises KairosError with
    OPA's own words, or the engine's."""
    from kairos_node.policy.bundle import unpack_untrusted
    from kairos_node.policy.wasm import Instance, Module

    data = load_grants(grants)
    rules = _rules(source, tests=False)
    _check(rules)
    modules = {
        rule: json.loads(_opa("parse", "--format", "json", "--json-include", "locations", rule)) for rule in rules
    }
    for rule, module in modules.items():
        for trap in traps(module):
            raise KairosError(
                f"{rule}:{trap}: is undefined, not true, when the input lacks what it reads; give the call a rule of its own, "
                "and negate that"
            )
    with tempfile.TemporaryDirectory() as folder:
        stage = Path(folder) / "policy"
        stage.mkdir()
        for rule in rules:
            shutil.copy(rule, stage)
        (stage / "data.json").write_bytes(data)
        bundle = Path(folder) / "bundle.tar.gz"
        asked = [*ENTRYPOINTS, *(each for name, each in _OPTIONAL.items() if (source / f"{name}.rego").exists())]
        entrypoints = [word for each in asked for word in ("-e", each)]
        # The paths stand in the module: named from here, the same rules are the same module, which nodes need not compile again.
        _opa("build", "--target", "wasm", *entrypoints, "--bundle", stage.name, "--output", bundle.name, folder=folder)
        compiled = _with_sources(bundle.read_bytes(), rules, reads_source_port(list(modules.values())))
    unpacked = unpack_untrusted(compiled)
    Instance(Module(unpacked.wasm), unpacked.data)
    return compiled


def _with_sources(bundle: bytes, rules: list[str], source_port: bool) -> bytes:
    """OPA leaves of a compiled rule only that it is in the WebAssembly. Whoever reads the bundle, and an OPA server that is to
    decide by it, needs the rules as they were written. source_port: may they depend on it? The manifest says so."""
    from kairos_node.policy.bundle import MANIFEST, SOURCE_PORT

    packed = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(bundle)) as old, tarfile.open(fileobj=packed, mode="w:gz") as new:
        for member in old:
            file = old.extractfile(member)
            if file is None or member.name.endswith(".rego"):
                continue
            data = file.read()
            if member.name.strip("/") == MANIFEST:
                data = json.dumps({**json.loads(data), "metadata": {SOURCE_PORT: source_port}}).encode()
            _add(new, member.name, data)
        for rule in map(Path, rules):
            _add(new, rule.name, rule.read_bytes())
    return packed.getvalue()


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def sign(operator: Operator, tenant: str, version: int, bundle: bytes) -> PolicyRecord:
    """The record whose signature every node checks against the key that its join token pinned."""
    from kairos_node.crypto import provider_named

    key = provider_named("cryptography").signing_key(operator.suite, operator.policy_seed)
    signature = key.sign(transcript.policy_bundle(tenant, version, bundle), labels.POLICY_BUNDLE)
    return PolicyRecord(tenant, version, hashlib.sha384(bundle).digest(), signature)


def _current(admin: AdminClient, tenant: str) -> int:
    try:
        return admin.get(at(tenant, "policy"), PolicyRecord).version
    except ProblemError as error:
        if error.code == "not-found" and "no policy" in str(error):
            return 0
        raise


def _check(rules: list[str]) -> None:
    """With the input's schema: a rule that reads a field which no input has would be undefined, silently."""
    _opa("check", "--strict", "--schema", str(_shipped() / "input.schema.json"), *rules)


def _shipped() -> Path:
    for shipped in (Path(__file__).parent / "policies", Path(__file__).parents[2] / "policies"):
        if (shipped / "flow.rego").exists():
            return shipped
    raise KairosError("this installation lacks the shipped policy; install kairos-red again")


def _rules(source: Path, tests: bool) -> list[str]:
    rules = sorted(str(path) for path in source.glob("*.rego") if tests or not path.stem.endswith("_test"))
    if not rules:
        raise KairosError(f"{source} has no .rego files")
    return rules


def _opa(*arguments: str, folder: str | None = None) -> str:
    """What it prints. folder: where it runs."""
    opa = shutil.which("opa") or str(Path(__file__).parents[2] / ".tools/bin/opa")
    try:
        done = subprocess.run(
            (opa, *arguments), capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, cwd=folder
        )
    except FileNotFoundError:
        raise KairosError(
            "this verb needs Open Policy Agent: put opa 1.x on the PATH, or run ./dev setup in the source tree"
        ) from None
    if done.returncode:
        raise KairosError(f"opa {arguments[0]}: {(done.stderr or done.stdout).strip()}")
    return done.stdout
