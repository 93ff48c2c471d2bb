"""Schemas only ever grow by a migration at the end: numbers have no gap, and one that was released does not change."""

from __future__ import annotations

import hashlib
from pathlib import Path

from kairos_control.store import database_schema, object_schema

MIGRATIONS = sorted((Path(__file__).parents[2] / "workers/migrations").glob("*.sql"))
# SHA-256 of each migration. A line is added with its migration and then stays: databases exist to which it was applied.
DATABASE = {
    "0001_records.sql": "a20cc3f6de48e80900b1674a123af49c406c9b90c070a073a05e514afb94d9bd",
    "0002_members.sql": "3d185d1aa44b429459199ee7ee00a460cb6c0eaac3da8dd00ccae1cf55401226",
    "0003_audit_segments.sql": "3fde864b86f61dc5a49bebb1f514e7fcefe81f3267a6ca2c39f9d5d62696ec25",
    "0004_interconnects.sql": "d970728ce028f5a6bdb548851b9050471ef803d2ac528e7c69f93f1b0c6af8ec",
    "0005_routes.sql": "68f743929a9f88097ab42a0e8d1ba015f21bd6d45992e8d1f7ed53a612bc0cfb",
    "0006_admins.sql": "4697fc9b8bd63d8caa78bade0204375e218f5f2b0c478ca9d5d2d5c9de7c9419",
    "0007_gateway_ranks.sql": "a160688ceaecfb6dbf65e97230ab7ab9a833f90219518a055511d5dcd9470e4f",
    "0008_refused_certificates.sql": "56529de4082dc6f78d2ae60a282fd56a87f75bbfc81e18ebc6d61d14ee8f8afc",
    "0009_audit_search.sql": "9d0f46a1291a689b13e0d23e72d490c0398547be7d894812603792e852d6189a",
    "0010_audit_retention.sql": "13a26beb46a590980a6fc22a755c889ed6f4cacca09af203e5c713c639c17e56",
    "0011_telemetry.sql": "6315906551d2e419d9346873e65635c6f5a376945e96e076960ad6d9b8dc8686",
    "0012_certificates.sql": "606a6d05a1fe32a58db50ee95a8f6c15134137a51cfba587174855d58171ab1a",
    "0013_audit_evidence.sql": "8c9947b56b74a9f66fe2f3fa4b5a8344cf397b74e5b96d677203c487219cf4b2",
    "0014_network_changes.sql": "a4217928818f090076d5c22c7112861283f9016fd736c7d004306b709c0eed55",
    "0015_placements.sql": "a4c5d5f91fc831272dc26325f1e4f90e07d51e01e915cdcc20ad4df26415c5cd",
}
OBJECT = {
    1: "e7fbe2a192839d37c535e5f1c87c76e9ffa09def4b87d9faf3090b5c8de621d1",
    2: "adbf136eff34b319c1e15adffe4f46637eb41c2075b88ebe018bf5dfb99bc07d",
    3: "dd660376021b817a4f98431b821e8f2317e2d8f85c8c0139c6cfdfbc702d9494",
    4: "4164e125eca82955164d93b05cee31ffe220f94578e85f450ddceaa8576047c9",
    5: "728e4119be8d2fc48f7083f35fcfaf9dc7dcf5fd105ba8001eed4dc8432383fa",
    6: "b8ddefbb41756af5a2064e45586ed6750c234e74cf4430906ed9a1945acd608d",
    7: "c2667bd4b843fb9d5f2d7fca3d8c14da506e44147a359ddd684a519318dca10d",
}


def digest(migration: object_schema.Migration) -> str:
    return hashlib.sha256("\n".join((migration.name, *migration.statements)).encode()).hexdigest()


def test_a_released_migration_of_the_database_never_changes() -> None:
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in MIGRATIONS} == DATABASE


def test_migrations_of_the_database_are_numbered_without_gaps_and_the_worker_knows_the_last() -> None:
    assert [path.name[:5] for path in MIGRATIONS] == [f"{number:04}_" for number in range(1, len(MIGRATIONS) + 1)]
    assert MIGRATIONS[-1].name == database_schema.NEWEST


def test_a_released_migration_of_an_object_never_changes() -> None:
    assert {migration.number: digest(migration) for migration in object_schema.MIGRATIONS} == OBJECT


def test_migrations_of_an_object_are_numbered_without_gaps() -> None:
    numbers = [migration.number for migration in object_schema.MIGRATIONS]
    assert numbers == list(range(1, len(numbers) + 1))
