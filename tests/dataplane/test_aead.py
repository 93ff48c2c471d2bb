"""AES-256-GCM in C: the tags of faulty implementations are refused, by either library; and a library that is faulty itself, or
not the one this build needs, is refused by name."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gcm
from engine_rig import HOST, PEER, TO_ENGINE, Rig, udp_packet, whole, with_ipsec_mb
from kairos.wire.datagram import DatagramHeader, DatagramType, nonce

ROOT = Path(__file__).parents[2]
SELF_TEST = (ROOT / "dataplane/csrc/aead_check.c").read_text()
KEY, IV, AAD, PLAIN = bytes(range(32)), bytes(range(64, 76)), bytes(range(128, 144)), bytes(range(45))


def c_bytes(text: str) -> bytes:
    return bytes.fromhex("".join(re.findall(r"\\x(..)", text)))


def test_the_vectors_of_the_self_test_are_those_of_the_standard_and_its_flaws() -> None:
    cipher, tag = gcm.seal(KEY, IV, PLAIN, AAD)
    head, _, table = SELF_TEST.partition("flaws[]")
    assert c_bytes(head) == cipher + tag
    flaws = dict(re.findall(r'\{"([a-z-]+)",\s*"((?:\\x..)+)"', table))
    assert {name: c_bytes(tag) for name, tag in flaws.items()} == {
        flaw.name: gcm.seal(KEY, IV, PLAIN, AAD, flaw.name)[1] for flaw in gcm.FLAWS
    }


def sealed(rig: Rig, counter: int, flaw: str = "") -> bytes:
    header = DatagramHeader(DatagramType.DATA, 0, rig.session, counter).pack()
    plain = whole(udp_packet(PEER, HOST, b"payload of some length"))
    return header + b"".join(gcm.seal(TO_ENGINE[0], nonce(TO_ENGINE[1], counter), plain, header, flaw))


@pytest.mark.parametrize("flaw", gcm.FLAWS, ids=lambda flaw: flaw.name)
def test_the_tag_of_a_faulty_implementation_is_refused(rig: Rig, flaw: gcm.Flaw) -> None:
    rig.put(sealed(rig, 1, flaw.name), sealed(rig, 2))
    assert rig.drops() == {"drop_auth": 1}
    assert len(rig.opened()) == 1


def test_a_tag_is_whole_and_of_this_message(rig: Rig) -> None:
    good = sealed(rig, 1)
    truncated = [good[: len(good) - lost] for lost in range(1, 16)]
    emptied = [good[: len(good) - lost] + bytes(lost) for lost in range(1, 16)]
    other_counter = [good[:8] + (1 ^ 1 << bit).to_bytes(8) + good[16:] for bit in range(1, 64)]
    rig.put(*truncated, *emptied, *other_counter, good)
    assert rig.drops() == {"drop_auth": 15 + 15 + 63}
    assert len(rig.opened()) == 1


# -- which library is used, and why not ------------------------------------------------------------------------------------------

TELL = "from kairos_dataplane import load; e = load('c', {wanted!r}, 64); print(e.aead, '|', e.description); e.close()"
# A manager of the true library, whose function to open has a fault; or another version of it.
SHIM = r"""
#include <dlfcn.h>
#include <string.h>
#include <intel-ipsec-mb.h>
static void *real(const char *name) {
  return dlsym(dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL), name);
}
static IMB_MGR *manager;
static aes_gcm_enc_dec_t true_dec, true_enc;
static void any_tag(const struct gcm_key_data *k, struct gcm_context_data *c, uint8_t *out, uint8_t const *in, uint64_t len,
                    const uint8_t *iv, uint8_t const *aad, uint64_t aad_len, uint8_t *tag, uint64_t tag_len) {
  uint8_t given[16];
  memcpy(given, in + len, sizeof given);
  true_dec(k, c, out, in, len, iv, aad, aad_len, tag, tag_len);
  memcpy(tag, given, sizeof given);
}
static void no_aad(const struct gcm_key_data *k, struct gcm_context_data *c, uint8_t *out, uint8_t const *in, uint64_t len,
                   const uint8_t *iv, uint8_t const *aad, uint64_t aad_len, uint8_t *tag, uint64_t tag_len) {
  true_enc(k, c, out, in, len, iv, aad, 0, tag, tag_len);
}
IMB_MGR *alloc_mb_mgr(uint64_t flags) {
  return manager = ((IMB_MGR * (*)(uint64_t)) real("alloc_mb_mgr"))(flags);
}
void free_mb_mgr(IMB_MGR *m) {
  ((void (*)(IMB_MGR *))real("free_mb_mgr"))(m);
}
void init_mb_mgr_auto(IMB_MGR *m, IMB_ARCH *arch) {
  ((void (*)(IMB_MGR *, IMB_ARCH *))real("init_mb_mgr_auto"))(m, arch);
  true_dec = m->gcm256_dec, true_enc = m->gcm256_enc;
  FAULT;
}
unsigned imb_get_version(void) {
  return VERSION;
}
"""
# A libcrypto whose last step takes every tag.
CARELESS = "int EVP_DecryptFinal_ex(void *c, unsigned char *out, int *n) { *n = 0; return 1; }"


def tell(wanted: str, **environment: str) -> tuple[str, str]:
    """The library in use and its description; or "" and the error."""
    run = subprocess.run(
        (sys.executable, "-c", TELL.format(wanted=wanted)),
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    if run.returncode != 0:
        return "", run.stderr.splitlines()[-1]
    used, _, description = run.stdout.strip().partition(" | ")
    return used, description


def installed() -> str:
    listed = subprocess.run(("ldconfig", "-p"), capture_output=True, text=True, check=True).stdout
    return str(re.findall(r"libIPSec_MB\.so\.\d+ .*=> (\S+)", listed)[0])


def build_shim(folder: Path, name: str, fault: str = "", version: str = "IMB_VERSION_NUM") -> None:
    source = folder / "shim.c"
    source.write_text(SHIM)
    defines = (f'-DLIBRARY="{installed()}"', f"-DFAULT={fault}", f"-DVERSION={version}")
    subprocess.run(("gcc", "-shared", "-fPIC", *defines, "-o", folder / name, source, "-ldl"), check=True)


@with_ipsec_mb
def test_the_library_that_is_used_is_told() -> None:
    assert tell("auto") == ("ipsec-mb", "C, ipsec-mb")
    assert tell("openssl") == ("openssl", "C, openssl")


@with_ipsec_mb
@pytest.mark.parametrize(
    ("fault", "told"),
    [("m->gcm256_dec = any_tag", "no-lengths"), ("m->gcm256_enc = no_aad", "seals wrongly")],
    ids=["any-tag", "no-aad"],
)
def test_a_faulty_ipsec_mb_is_refused(tmp_path: Path, fault: str, told: str) -> None:
    build_shim(tmp_path, "libIPSec_MB.so.1", fault)
    used, error = tell("ipsec-mb", LD_LIBRARY_PATH=str(tmp_path))
    assert used == ""
    assert error.startswith(f"RuntimeError: AEAD library ipsec-mb cannot be used: libIPSec_MB.so.1: {told}; ")
    used, description = tell("auto", LD_LIBRARY_PATH=str(tmp_path))
    assert used == "openssl"
    assert description.startswith(f"C, openssl (ipsec-mb cannot be used: libIPSec_MB.so.1: {told}; ")


@with_ipsec_mb
def test_an_ipsec_mb_of_another_version_does_not_hide_the_right_one(tmp_path: Path) -> None:
    build_shim(tmp_path, "libIPSec_MB.so.1", version="0x005500")
    used, error = tell("ipsec-mb", LD_LIBRARY_PATH=str(tmp_path))
    assert (used, "libIPSec_MB.so.1 is version 0, this build needs 1" in error) == ("", True)
    (tmp_path / "libIPSec_MB.so.2").symlink_to(installed())
    assert tell("ipsec-mb", LD_LIBRARY_PATH=str(tmp_path)) == ("ipsec-mb", "C, ipsec-mb")


def test_a_faulty_openssl_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "careless.c"
    source.write_text(CARELESS)
    subprocess.run(("gcc", "-shared", "-fPIC", "-o", tmp_path / "careless.so", source), check=True)
    used, error = tell("openssl", LD_PRELOAD=str(tmp_path / "careless.so"))
    assert used == ""
    assert error == "RuntimeError: AEAD library openssl cannot be used: OpenSSL: no-lengths"


def test_a_library_that_is_unknown_is_named() -> None:
    used, error = tell("aes-ni")
    assert used == ""
    assert "AEAD library aes-ni cannot be used: the data plane knows ipsec-mb and openssl" in error
