"""The numbers of the protocol (docs/protocol.md §10). Specification constants first, implementation limits after."""

# -- specification constants -----------------------------------------------------------------------------------------
PROTOCOL = "kairos/1"
CHALLENGE_BYTES = 32
CHALLENGE_LIFE_S = 60
SESSION_LIFE_S = 300  # at most; a fabric may give less
SESSION_LIFE_MIN_S = 15
SESSION_RENEW_AT_S = 200
CERTIFICATE_LIFE_S = 24 * 3600
POSTURE_EVERY_S = 30
POSTURE_LATE_S = 90  # an older report is none
CERTIFICATE_RENEW_AT = 2 / 3
CERTIFICATE_REPLACED_GRACE_S = 30  # that of a key that was rotated out: its tunnels have so long to be made anew
CLOCK_SKEW_S = 300
CLOCK_SKEW_REPORTED_S = 30
REKEY_AFTER_S = 120
OLD_EPOCH_KEPT_S = 10
MTU_BASE = 1_200  # bytes of a datagram that every direct path must carry
MTU_PROBE_TRIES = 3
MTU_CONFIRM_EVERY_S = 5
MTU_RAISE_AFTER_S = 600
VNI_MAX = (1 << 24) - 1

# -- implementation limits -------------------------------------------------------------------------------------------
BODY_MAX = 256 * 1024  # any JSON body; a request with an ML-DSA-87 key, certificate and posture is under 32 KiB
ENROLLMENT_MAX = 24 * 1024  # E1 and E4: a key or signature of ML-DSA-87 in base64, and a posture
NETWORK_MAX = 4 * 1024 * 1024  # one answer to GET /network; the fabric makes pages of about a quarter of it
REPORTS_MAX = 10  # posture reports of a device that an isolation rule may ask for in a row
POSTURE_MAX = 8 * 1024  # JSON text; it travels with every session to every gateway
PUSH_MAX = (
    16 * 1024 * 1024
)  # a Welcome tells a gateway of every session that lives: 10,000 of them with posture are about 8 MiB
BUNDLE_MAX = 16 * 1024 * 1024
CONTROL_MESSAGE_MAX = 256 * 1024  # one message inside TLS; CONFIG of 1,000 VNIs is about 200 KiB
CONTROL_MESSAGES_BURST = 100  # control messages that a tunnel takes at once
CONTROL_MESSAGES_PER_S = 10  # and afterwards; the handshake is five, a rekey three
STREAM_WAITING_MAX = 2 * CONTROL_MESSAGE_MAX  # bytes that a channel keeps for a peer that grants no credit
ADMISSION_WAIT_S = 5.0
PROBE_EVERY_S = 1.0
MTU_PROBE_WAIT_S = 0.5  # for the answer, before the next try
MTU_PRECISION = 16  # bytes at which a search ends
PROBE_LOST_AFTER_S = 3.0
HANDSHAKE_WAIT_S = 10.0
