"""Suite KR5, and nodes whose crypto providers differ, end to end."""

from __future__ import annotations

from pathlib import Path

from overlay import running_overlay


def test_kr5_with_liboqs_at_one_end(tmp_path: Path) -> None:
    with running_overlay(tmp_path, "KR5", ("cryptography", "oqs", "cryptography")) as overlay:
        overlay.up(*overlay.hosts)
        for host in (overlay.alice, overlay.bob):
            assert host.reaches(overlay.address_of(overlay.gateway))
        tunnel = overlay.alice.tunnel()
        assert (tunnel["suite"], tunnel["tls_group"]) == ("KR5", "SecP384r1MLKEM1024")
        assert (tunnel["kem"], tunnel["signature"]) == ("ML-KEM-1024", "ML-DSA-87")
        peers = {each["peer"]: each["provider"] for each in overlay.gateway.status()["tunnels"]}
        assert peers[overlay.alice.node] == "oqs"
        assert peers[overlay.bob.node] == "cryptography"
