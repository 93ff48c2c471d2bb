"""A policy bundle as it comes from the fabric: believed for the operator's signature, never for who sent it (docs/protocol.md §8)."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from kairos.api.session import PolicyRecord
from kairos.constants import BUNDLE_MAX
from kairos.crypto import labels
from kairos.crypto.provider import Provider
from kairos.crypto.suites import Suite
from kairos.errors import BadMessage, Refused
from kairos.identity import transcript

MANIFEST = ".manifest"
SOURCE_PORT = "reads_source_port"  # in the manifest's metadata, put there by the operator's compiler
_UNPACKED_MAX = 4 * BUNDLE_MAX


@dataclass(frozen=True, slots=True)
class Bundle:
    """wasm: OPA's compilation of the rules; data: JSON text of `data`; rules: the Rego it was made of, by file name;
    reads_source_port: a decision on a flow may depend on the port that it comes from."""

    wasm: bytes
    data: bytes
    rules: Mapping[str, str] = field(default_factory=dict)
    reads_source_port: bool = True


def verify_untrusted(
    bundle: bytes,
    record: PolicyRecord,
    *,
    provider: Provider,
    suite: Suite,
    policy_key: bytes,
    tenant: str,
    current_version: int,
) -> None:
    """Signature by the pinned key, for this tenant, and newer than what is in force. Raises Refused."""
    if record.tenant != tenant:
        raise Refused("wrong-tenant", f"the policy bundle is for tenant {record.tenant}")
    if record.version <= current_version:
        raise Refused(
            "policy-stale", f"policy version {record.version} is not newer than {current_version}, which is in force"
        )
    if hashlib.sha384(bundle).digest() != record.sha384:
        raise Refused("policy-altered", f"the bytes of policy version {record.version} are not those that were signed")
    signed = transcript.policy_bundle(tenant, record.version, bundle)
    if not provider.verify(suite, policy_key, signed, record.signature, labels.POLICY_BUNDLE):
        raise Refused("policy-unsigned", f"policy version {record.version} is not signed by the pinned policy key")


def unpack_untrusted(bundle: bytes) -> Bundle:
    """The parts of an OPA bundle. Raises BadMessage."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(bundle)) as stream:
            unpacked = stream.read(_UNPACKED_MAX + 1)
        if len(unpacked) > _UNPACKED_MAX:
            raise BadMessage("a policy bundle that unpacks to more than 64 MiB")
        parts: dict[str, bytes] = {}
        with tarfile.open(fileobj=io.BytesIO(unpacked)) as archive:
            for member in archive:
                if member.issparse() or not 0 <= member.size <= len(unpacked):  # before so much is read, or asked for
                    raise BadMessage("a policy bundle with a file that is larger than the bundle")
                file = archive.extractfile(member) if member.isfile() else None
                if file is not None:
                    parts[member.name.strip("/")] = file.read()
        json.loads(parts["data.json"])
        rules = {name.rpartition("/")[2]: text.decode() for name, text in parts.items() if name.endswith(".rego")}
        return Bundle(parts["policy.wasm"], parts["data.json"], rules, _reads_source_port(parts.get(MANIFEST, b"{}")))
    except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        raise BadMessage(f"not a policy bundle: {error}") from None
    except KeyError as error:
        raise BadMessage(f"the policy bundle lacks {error}") from None


def _reads_source_port(manifest: bytes) -> bool:
    """Only a plain no is a no: a bundle of an older compiler does not say."""
    said = json.loads(manifest)
    metadata = said.get("metadata") if isinstance(said, dict) else None
    return not (isinstance(metadata, dict) and metadata.get(SOURCE_PORT) is False)
