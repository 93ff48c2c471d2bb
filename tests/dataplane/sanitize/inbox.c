/* What comes through the relay while the receiver stands still: nobody waits, a channel that floods keeps to its share,
 * and another still gets in. One thread does it all, so a call that waited would wait for ever.
 *
 *   inbox AEAD     prints what became of the datagrams and the counters as "name value" lines */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "drivers.h"

enum { VNI = 5, VICTIM = 2, FLOODER = 3, FRAMES = 64, RECORDS = 128, PAYLOAD = 1000 };

static kdp_engine *engine;
static aead_key *peer;
static uint64_t counters[4];

static uint32_t open_session(uint32_t channel) {
  uint32_t index;
  check(kdp_session_add(engine, VNI, &index) == 0, "session_add");
  check(install_key(engine, index, 0, false) == 1, "session_rx");
  check(kdp_relay_add(engine, channel) == 0, "relay_add");
  return index;
}

static size_t put_record(uint8_t *out, uint32_t index, uint32_t channel) {
  static const uint8_t plain[PAYLOAD];
  return seal_record(peer, out, DG_KEEPALIVE, index, counters[channel]++, plain, sizeof plain);
}

static void put(uint32_t channel, const uint8_t *frame, size_t len, long datagrams) {
  check(kdp_relay_put(engine, channel, frame, len) == datagrams, "relay_put");
}

int main(int argc, char **argv) {
  int pair[2];
  check(argc == 2, "usage: inbox AEAD;");
  engine = open_engine(argv[1], 1 << 12, VNI, pair);
  peer = aead_key_new(key, iv);
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
  print_counters(engine);
  kdp_destroy(engine);
  aead_key_free(peer);
  free(frame);
  close(pair[0]), close(pair[1]);
  return 0;
}
