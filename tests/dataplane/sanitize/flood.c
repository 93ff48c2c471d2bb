/* One peer floods a gateway with SYNs, each of another flow, while another peer has flows that live and opens new ones. A
 * daemon in a thread of its own allows the one's flows and denies the other's, as fast as it can.
 *
 *   flood AEAD PACKETS     prints what became of them and the counters as "name value" lines */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "drivers.h"

enum { VNI = 5, RELAY = 1, VICTIM = 2, ATTACKER = 3 }; /* the last byte of their addresses */
enum { LIVE_FLOWS = 1000, SYNS_A_FRAME = 512, FRAMES_A_NEW_FLOW = 16, FRAME = 1 << 17, WAIT_S = 20 };

static kdp_engine *engine;
static aead_key *peer;
static _Atomic bool stop;
static uint32_t victim, attacker;
static uint64_t counters[2]; /* of the datagrams that each has sent */

static uint32_t open_session(uint8_t host) {
  uint32_t index;
  const uint8_t address[16] = {10, 0, 0, host};
  check(kdp_session_add(engine, VNI, &index) == 0, "session_add");
  kdp_session_remote(engine, index, 70u + host);
  kdp_session_lease(engine, index, 4, address, 32, KDP_NEVER);
  kdp_fib_add(engine, VNI, 4, address, 32, index);
  check(install_key(engine, index, 0, false) == 1, "session_rx");
  check(install_key(engine, index, 0, true) == 1, "session_tx");
  kdp_session_path(engine, index, KDP_PATH_RELAY, NULL, RELAY, 1);
  return index;
}

/* A record of a DATAGRAMS frame with one small TCP packet to 10.0.0.1. Returns its length. */
static size_t put_record(uint8_t *out, uint8_t from, uint8_t flags, uint16_t src_port, uint16_t dst_port) {
  uint8_t plain[SMALL_PLAIN];
  make_small_packet(plain, from, IPPROTO_TCP, flags, src_port, dst_port);
  uint32_t index = from == VICTIM ? victim : attacker;
  return seal_record(peer, out, DG_DATA, index, counters[from == VICTIM]++, plain, sizeof plain);
}

static long drain(int tun) {
  static uint8_t sink[1 << 16];
  long packets = 0;
  while (read(tun, sink, sizeof sink) > 0) packets++;
  return packets;
}

static void *daemon_main(void *unused) {
  static kdp_event events[64];
  while (!atomic_load(&stop)) {
    int n = kdp_events(engine, events, 64);
    for (int i = 0; i < n; i++)
      if (events[i].type == KDP_EVENT_FLOW)
        kdp_flow_verdict(engine, events[i].flow.id, events[i].session == victim ? KDP_ALLOW : KDP_DENY, 1, 1,
                         KDP_NEVER);
    if (n == 0) usleep(100);
  }
  return unused;
}

static void put(uint8_t *frame, size_t len) {
  check(kdp_relay_put(engine, RELAY, frame, len) >= 0, "relay_put");
  kdp_settle(engine);
}

static long wait_for(int tun, long delivered, long sent) {
  for (time_t until = time(NULL) + WAIT_S; delivered < sent && time(NULL) < until; usleep(1000))
    delivered += drain(tun);
  return delivered;
}

static long live_flows_of(uint32_t index, size_t max) {
  kdp_flow *flows = malloc(max * sizeof *flows);
  long live = 0, n = kdp_flows(engine, &(uint32_t){0}, flows, max);
  for (long i = 0; i < n; i++) live += flows[i].from_session == index && flows[i].verdict == KDP_ALLOW;
  free(flows);
  return live;
}

static long resident_kb(void) {
  long pages = 0;
  FILE *statm = fopen("/proc/self/statm", "r");
  check(statm != NULL && fscanf(statm, "%*d %ld", &pages) == 1, "statm");
  fclose(statm);
  return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

int main(int argc, char **argv) {
  int pair[2];
  check(argc == 3, "usage: flood AEAD PACKETS;");
  engine = open_engine(argv[1], 1 << 20, VNI, pair);
  peer = aead_key_new(key, iv);
  kdp_fib_add(engine, VNI, 4, (uint8_t[16]){10, 0, 0, 1}, 32, KDP_NEXT_HOP_LOCAL);
  check(kdp_relay_add(engine, RELAY) == 0, "relay_add");
  victim = open_session(VICTIM), attacker = open_session(ATTACKER);
  pthread_t daemon;
  check(pthread_create(&daemon, NULL, daemon_main, NULL) == 0, "thread");

  uint8_t *frame = malloc(FRAME);
  long delivered = 0, sent = 0;
  for (; sent < LIVE_FLOWS; delivered = wait_for(pair[0], delivered, sent)) /* one by one: each is answered first */
    put(frame, put_record(frame, VICTIM, 0x02, (uint16_t)++sent, 80));
  long before_kb = resident_kb(), opened = sent, syns = strtol(argv[2], NULL, 10);
  for (long syn = 0, frames = 1; syn < syns; frames++) {
    size_t used = 0;
    for (int i = 0; i < SYNS_A_FRAME && syn < syns; i++, syn++)
      used += put_record(frame + used, ATTACKER, 0x02, (uint16_t)syn, (uint16_t)(syn >> 16));
    used += put_record(frame + used, VICTIM, 0x10, (uint16_t)(1 + frames % LIVE_FLOWS), 80);
    sent++;
    if (frames % FRAMES_A_NEW_FLOW == 0) used += put_record(frame + used, VICTIM, 0x02, (uint16_t)++opened, 80), sent++;
    put(frame, used);
    delivered += drain(pair[0]);
  }
  delivered = wait_for(pair[0], delivered, sent);
  printf("victim_sent %ld\nvictim_delivered %ld\nvictim_opened %ld\n", sent, delivered, opened);
  printf("victim_live %ld\ngrown_kb %ld\n", live_flows_of(victim, 1 << 20), resident_kb() - before_kb);
  atomic_store(&stop, true);
  pthread_join(daemon, NULL);
  print_counters(engine);
  kdp_destroy(engine);
  aead_key_free(peer);
  free(frame);
  close(pair[0]), close(pair[1]);
  return 0;
}
