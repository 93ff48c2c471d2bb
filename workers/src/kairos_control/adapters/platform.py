"""Makes the platform from the Worker's environment."""

from __future__ import annotations

import base64
import os
import time
from typing import Any

import msgspec

from kairos.api.session import Cut
from kairos.crypto.suites import suite_named
from kairos.deployment import OBJECT_SOCKETS, SettingsError, issuer_seed_name, joined
from kairos.identity.certificate import parse_certificate_untrusted

from ..ports import Issuer, Platform, Settings
from ..store import database_schema
from .signatures import WebCryptoSignatures
from .storage import D1Databases, KvCache, Queue, R2Blobs


def settings_of(env: Any) -> Settings:
    """From the variables and secrets that kairos_cli/fabric/settings.py lists. Raises SettingsError if one is missing.

    The name of the seed's secret is derived from the issuing certificate, so a Worker whose seed and certificate do not
    belong together serves nothing.
    """

    def optional(name: str) -> str:
        return str(getattr(env, name, ""))

    def required(name: str) -> str:
        if not (value := optional(name)):
            raise SettingsError(f"{name} is missing among the variables and secrets; run: kairos fabric deploy")
        return value

    root, issuer = (base64.b64decode(joined(name, optional)) for name in ("ROOT_CERTIFICATE", "ISSUER_CERTIFICATE"))
    introspection = (required("INTROSPECTION_KEY"), optional("INTROSPECTION_KEY_PREVIOUS"))
    return Settings(
        suite=suite_named(required("SUITE")),
        trust_domain=required("TRUST_DOMAIN"),
        relay_url=required("RELAY_URL"),
        root=parse_certificate_untrusted(root),
        issuer=Issuer(parse_certificate_untrusted(issuer), base64.b64decode(required(issuer_seed_name(issuer)))),
        policy_key=base64.b64decode(required("POLICY_KEY")),
        admin_token_hash=required("ADMIN_TOKEN_SHA256"),
        previous_admin_token_hash=optional("ADMIN_TOKEN_SHA256_PREVIOUS"),
        internal_key=required("OBJECT_KEY"),
        introspection_keys=tuple(key for key in introspection if key),
        cut_key=required("CUT_KEY"),
        session_life_s=int(required("SESSION_LIFE_S")),
        object_sockets=int(optional("OBJECT_SOCKETS") or OBJECT_SOCKETS),  # 0.1 was deployed without it
    )


def platform_of(env: Any) -> Platform:
    settings = _settings(env)
    return Platform(
        settings=settings,
        databases=D1Databases(env),
        cache=KvCache(env.CACHE),
        blobs=R2Blobs(env.BLOBS),
        telemetry=Queue(env.TELEMETRY),
        sweeps=Queue(env.SWEEPS),
        signatures=WebCryptoSignatures(settings.suite),
        clock=time.time,
        entropy=os.urandom,
    )


class BoundRelay:
    """The relay Worker through its service binding."""

    def __init__(self, binding: Any, cut_key: str) -> None:
        self._binding = binding
        self._key = cut_key

    async def cut(self, cut: Cut) -> bool:
        try:
            answer = await self._binding.fetch(
                "http://relay/internal/cut",
                method="POST",
                body=msgspec.json.encode(cut).decode(),
                headers={"authorization": f"Bearer {self._key}", "content-type": "application/json"},
            )
        except Exception as error:  # any type: it depends on the bridge to JavaScript
            print(f"relay cut: {error}")
            return False
        return bool(answer.status == 204)


async def require_database(platform: Platform) -> None:
    """Raises a ProblemError while a database has another schema than this code expects. Once all fit, an isolate
    does not ask again."""
    if not _checked:
        for name in platform.databases.names:
            await database_schema.require(platform.databases.of(name), name)
        _checked.append(True)


_cached: list[Settings] = []
_checked: list[bool] = []


def _settings(env: Any) -> Settings:
    """Parsed once an isolate: variables do not change while it lives."""
    if not _cached:
        _cached.append(settings_of(env))
    return _cached[0]
