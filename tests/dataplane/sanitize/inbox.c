/* What comes through the relay while the receiver stands still: nobody waits, a channel that floods keeps to its share,
 * and another still gets in. One thread does it all, so a call that waited would wait for ever.
 *
 *   inbox AEAD     prints what became of the datagrams and the counters as "name value" lines */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "internal.h"
#include "keys.h"

enum { VNI = 5, VICTIM = 2, FLOODER = 3, FRAMES = 64, RECORDS = 128, PAYLOAD = 1000 };

static kdp_engine *engine;
static aead_key *peer;
static uint64_t counters[4];

static void check(bool ok, const char *what) {
  if (ok) return;
  fprintf(stderr, "inbox: %s failed\n", what);
  exit(2);
}

static uint32_t open_session(uint32_t channel) {
  uint32_t index;
  check(kdp_session_add(engine, VNI, &index) == 0, "session_add");
  check(install_key(engine, index, 0, false) == 1, "session_rx");
  check(kdp_relay_add(engine, channel) == 0, "relay_add");
  return index;
}

static size_t put_record(uint8_t *out, uint32_t index, uint32_t channel) {
  static const uint8_t plain[PAYLOAD];
  uint8_t *datagram = out + 2;
  size_t len = HEADER_LEN + sizeof plain + TAG_LEN;
  put16(out, (uint32_t)len);
  datagram[0] = DG_KEEPALIVE, datagram[1] = 0;
  put16(datagram + 2, 0), put32(datagram + 4, index), put64(datagram + 8, counters[channel]++);
  aead_seal(peer, get64(datagram + 8), datagram, plain, sizeof plain, datagram + HEADER_LEN);
  return 2 + len;
}

static void put(uint32_t channel, const uint8_t *frame, size_t len, long datagrams) {
  check(kdp_relay_put(engine, channel, frame, len) == datagrams, "relay_put");
}

int main(int argc, char **argv) {
  char error[200];
  int pair[2];
  check(argc == 2, "usage: inbox AEAD;");
  engine = kdp_create(argv[1], 1 << 12, error, sizeof error);
  check(engine != NULL, error);
  peer = aead_key_new(key, iv);
  check(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair) == 0, "socketpair");
  check(kdp_vni_add(engine, VNI, pair[1]) == 0, "vni_add");
  uint32_t victim = open_session(VICTIM), flooder = open_session(FLOODER);
  uint8_t *frame = malloc(FRAME_MAX);
  config_write(engine); /* the receiver cannot go on */
  for (int i = 0; i < FRAMES; i++) {
    size_t used = 0;
    for (int j = 0; j < RECORDS; j++) used += put_record(frame + used, flooder, FLOODER);
    put(FLOODER, frame, used, RECORDS);
    if (i % 16 == 0) put(VICTIM, frame, put_record(frame, victim, VICTIM), 1);
  }
  config_write_end(engine);
  kdp_settle(engine);
  uint64_t sent, received;
  kdp_session_stats(engine, victim, &sent, &received);
  printf("victim_sent %llu\nvictim_received %llu\n", (unsigned long long)counters[VICTIM],
         (unsigned long long)received);
  kdp_session_stats(engine, flooder, &sent, &received);
  printf("flooder_sent %llu\nflooder_received %llu\n", (unsigned long long)counters[FLOODER],
         (unsigned long long)received);
  uint64_t values[C_COUNT];
  for (int i = 0, n = kdp_counters(engine, values, C_COUNT); i < n; i++)
    printf("%s %llu\n", kdp_counter_name(i), (unsigned long long)values[i]);
  kdp_destroy(engine);
  aead_key_free(peer);
  free(frame);
  close(pair[0]), close(pair[1]);
  return 0;
}
