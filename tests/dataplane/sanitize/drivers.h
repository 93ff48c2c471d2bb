/* What the drivers share: checks, an engine with a VNI, the key of every session, sealed records, and the counters. */
#ifndef DRIVERS_H
#define DRIVERS_H
#include <stdio.h>
#include <stdlib.h>

#include "internal.h"

/* Of all sessions, both ways, without an end. */
static const uint8_t key[KEY_LEN] = {1, 2, 3}, iv[IV_LEN] = {4, 5, 6};

static inline void check(bool ok, const char *what) {
  if (ok) return;
  fprintf(stderr, "%s: failed: %s\n", program_invocation_short_name, what);
  exit(2);
}

static inline void open_pair(int pair[2]) {
  check(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair) == 0, "socketpair");
}

/* An engine with one VNI, whose TUN is tun[1]; what is written to tun[0] comes out of it. */
static inline kdp_engine *open_engine(const char *aead, uint32_t max_flows, uint32_t vni_id, int tun[2]) {
  char error[600];
  kdp_engine *e = kdp_create(aead, max_flows, error, sizeof error);
  check(e != NULL, error);
  open_pair(tun);
  check(kdp_vni_add(e, vni_id, tun[1]) == 0, "vni_add");
  return e;
}

/* Returns what kdp_keys_install does: 1 when it is in place. */
static inline int install_key(kdp_engine *e, uint32_t index, uint32_t epoch, bool transmit) {
  kdp_key k = {.not_after_ms = KDP_NEVER, .session = index, .epoch = epoch, .transmit = transmit};
  memcpy(k.key, key, sizeof key), memcpy(k.iv, iv, sizeof iv);
  return kdp_keys_install(e, &k, 1);
}

/* A datagram to that session. Returns its length. */
static inline size_t seal_datagram(aead_key *peer, uint8_t *out, uint8_t type, uint32_t epoch, uint32_t index,
                                   uint64_t counter, const uint8_t *plain, size_t len) {
  out[0] = type, out[1] = 0;
  put16(out + 2, epoch), put32(out + 4, index), put64(out + 8, counter);
  aead_seal(peer, counter, out, plain, len, out + HEADER_LEN);
  return HEADER_LEN + len + TAG_LEN;
}

/* The same under epoch 0, as a record of a DATAGRAMS frame. Returns its length. */
static inline size_t seal_record(aead_key *peer, uint8_t *out, uint8_t type, uint32_t index, uint64_t counter,
                                 const uint8_t *plain, size_t len) {
  size_t size = seal_datagram(peer, out + 2, type, 0, index, counter, plain, len);
  put16(out, (uint32_t)size);
  return 2 + size;
}

/* The plaintext of a datagram with one small TCP or UDP packet from 10.0.0.`from` to 10.0.0.1. */
enum { SMALL_PACKET = 40, SMALL_PLAIN = SMALL_PACKET + TRAILER_LEN };
static inline void make_small_packet(uint8_t plain[SMALL_PLAIN], uint8_t from, uint8_t protocol, uint8_t tcp_flags,
                                     uint16_t src_port, uint16_t dst_port) {
  memset(plain, 0, SMALL_PLAIN);
  plain[0] = 0x45, plain[3] = SMALL_PACKET, plain[8] = 64, plain[9] = protocol;
  memcpy(plain + 12, (uint8_t[]){10, 0, 0, from, 10, 0, 0, 1}, 8);
  put16(plain + 20, src_port), put16(plain + 22, dst_port);
  plain[32] = 5 << 4, plain[33] = tcp_flags;
  if (protocol == IPPROTO_UDP) put16(plain + 24, SMALL_PACKET - 20);
  plain[SMALL_PACKET + 7] = 1; /* WHOLE, one piece */
}

/* "name value" lines. */
static inline void print_counters(kdp_engine *e) {
  uint64_t values[C_COUNT];
  for (int i = 0, n = kdp_counters(e, values, C_COUNT); i < n; i++)
    printf("%s %llu\n", kdp_counter_name(i), (unsigned long long)values[i]);
}
#endif
