"""Scoped credentials: what each may do, whose tenant it sees, how it is named, ended and kept."""

from __future__ import annotations

import msgspec
import pytest
from scope_matrix import ALL, credential, violations

from control_plane import ControlPlane
from kairos.api.admin import Page, Tenant
from kairos.api.problem import ProblemError
from kairos.identity.admin_credential import AdminCredential


def test_the_scope_matrix_has_no_violation(plane: ControlPlane) -> None:
    tried, found = violations(plane)
    assert tried > 12 * len(ALL)
    assert found == []


def test_an_administrator_of_one_tenant_sees_that_one(plane: ControlPlane) -> None:
    plane.admin("POST", "/v1/tenants", {"tenant": "rival"})
    viewer = str(credential(plane, "viewer", "acme"))
    page = plane.admin("GET", "/v1/tenants", type_=Page, token=viewer)
    assert msgspec.convert(page.items, list[Tenant]) == [Tenant("acme", int(plane.now))]


def test_a_tenant_that_does_not_exist_is_no_news_to_another_tenants_administrator(plane: ControlPlane) -> None:
    plane.admin("POST", "/v1/tenants", {"tenant": "rival"})
    said = []
    for name in ("rival", "unheard"):
        with pytest.raises(ProblemError) as refusal:
            plane.admin("GET", f"/v1/tenants/{name}", token=str(credential(plane, "tenant-admin", "acme")))
        said.append((refusal.value.code, str(refusal.value)))
    assert said[0] == said[1]
    assert said[0][0] == "out-of-scope"


def test_the_audit_names_the_administrator(plane: ControlPlane) -> None:
    token = str(credential(plane, "operator", "acme"))
    plane.admin("POST", "/v1/tenants/acme/vnis", {"name": "lab", "prefixes": ["10.9.0.0/24"]}, token=token)
    assert plane.audited("vni.created")[-1]["actor"] == "admin:somebody"
    assert plane.audited("admin.created")[-1]["actor"] == "root"


def test_a_refused_administrator_is_audited_by_name(plane: ControlPlane) -> None:
    viewer = str(credential(plane, "viewer", "acme"))
    with pytest.raises(ProblemError, match="its role would have to be operator"):
        plane.admin("DELETE", "/v1/tenants/acme/vnis/office", token=viewer)
    assert plane.audited("request.refused")[-1]["actor"] == "admin:somebody"


@pytest.mark.parametrize("name", ["acme", ""])
def test_a_revoked_credential_is_worth_nothing_with_the_next_call(plane: ControlPlane, name: str) -> None:
    made = credential(plane, "viewer", name)
    plane.admin("GET", "/v1/tenants/acme", token=str(made))
    plane.admin("DELETE", f"/v1/tenants/{name}/admins/{made.admin}" if name else f"/v1/admins/{made.admin}")
    with pytest.raises(ProblemError) as refusal:
        plane.admin("GET", "/v1/tenants/acme", token=str(made))
    assert refusal.value.code == "unauthorized"
    assert plane.audited("admin.revoked")[-1]["tenant"] == "acme"


def test_a_credential_ends(plane: ControlPlane) -> None:
    token = str(credential(plane, "viewer", "acme", life_s=60))
    plane.now += 59
    plane.admin("GET", "/v1/tenants/acme", token=token)
    plane.now += 1
    with pytest.raises(ProblemError) as refusal:
        plane.admin("GET", "/v1/tenants/acme", token=token)
    assert refusal.value.code == "unauthorized"


def test_nobody_makes_a_credential_that_outlives_the_own_one(plane: ControlPlane) -> None:
    token = str(credential(plane, "tenant-admin", "acme", life_s=60))
    credential(plane, "viewer", "acme", by=token, life_s=60)
    with pytest.raises(ProblemError) as refusal:
        credential(plane, "viewer", "acme", by=token, life_s=61)
    assert refusal.value.code == "invalid"


def test_the_secret_is_kept_as_its_hash(plane: ControlPlane) -> None:
    made = credential(plane, "viewer", "acme")
    kept = repr(plane.state())
    assert made.secret.hex() not in kept
    assert str(made) not in kept
    wrong = AdminCredential(made.admin, bytes(32))
    with pytest.raises(ProblemError):
        plane.admin("GET", "/v1/tenants/acme", token=str(wrong))
