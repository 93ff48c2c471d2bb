"""Every domain-separation label of the protocol, in one place.

Signature contexts are ML-DSA context strings (FIPS 204 §5.2): one a step, so a signature made for one step verifies in
no other. Derivation labels feed HKDF-Expand.
"""

# ML-DSA contexts
REQUEST = b"kairos/1 request"
ENROLL_RESPONSE = b"kairos/1 enroll response"
ROTATE_KEY = b"kairos/1 rotate key"
ADMISSION_VERDICT = b"kairos/1 admission verdict"
TUNNEL_OFFER = b"kairos/1 tunnel offer"
TUNNEL_ANSWER = b"kairos/1 tunnel answer"
POLICY_BUNDLE = b"kairos/1 policy bundle"
ISOLATION_RECEIPT = b"kairos/1 isolation receipt"
AUDIT_HEAD = b"kairos/1 audit head"
ISSUER_PROOF = b"kairos/1 issuer proof"

# TLS exporter (RFC 8446 §7.5)
TLS_EXPORTER = b"EXPORTER-kairos/1 tunnel"

# HKDF
TUNNEL_SALT = b"kairos/1 tunnel secret"
TUNNEL_SECRET = b"kairos/1 epoch secret"
VNI_KEY = b"kairos/1 vni key"
