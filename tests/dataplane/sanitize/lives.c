/* How long flows live, by a clock of its own: opens a flow of each kind, then lets time pass and prints after how many
 * seconds each was aged, as "name seconds" lines. Then cuts one of two sessions that have as many flows as they may.
 *
 *   lives AEAD FLOWS     FLOWS: of each of the two sessions */
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "drivers.h"

enum { VNI = 5, RELAY = 1, ALICE = 2, BOB = 3, HORIZON_S = 4000 };

static kdp_engine *engine;
static aead_key *peer;
static uint32_t sessions[4];
static uint64_t counters[4];
static uint8_t frame[FRAME_MAX];

static uint32_t open_session(uint8_t host) {
  uint32_t index;
  const uint8_t address[16] = {10, 0, 0, host};
  check(kdp_session_add(engine, VNI, &index) == 0, "session_add");
  kdp_session_lease(engine, index, 4, address, 32, KDP_NEVER);
  kdp_fib_add(engine, VNI, 4, address, 32, index);
  check(install_key(engine, index, 0, false) == 1, "session_rx");
  return index;
}

/* A packet from that host to 10.0.0.1. Returns the length of its record. */
static size_t put_record(uint8_t *out, uint8_t from, uint8_t protocol, uint8_t flags, uint16_t src_port) {
  uint8_t plain[SMALL_PLAIN];
  make_small_packet(plain, from, protocol, flags, src_port, 80);
  return seal_record(peer, out, DG_DATA, sessions[from], counters[from]++, plain, sizeof plain);
}

static void send_packet(uint8_t from, uint8_t protocol, uint8_t flags, uint16_t src_port) {
  check(kdp_relay_put(engine, RELAY, frame, put_record(frame, from, protocol, flags, src_port)) == 1, "relay_put");
  kdp_settle(engine);
}

static void judge(uint8_t verdict) {
  static kdp_event events[64];
  for (int n; (n = kdp_events(engine, events, 64)) > 0;)
    for (int i = 0; i < n; i++)
      if (events[i].type == KDP_EVENT_FLOW)
        check(kdp_flow_verdict(engine, events[i].flow.id, verdict, 1, 1, KDP_NEVER) == 0, "verdict");
}

static long flows_of(uint32_t index) {
  static kdp_flow flows[1 << 17];
  long found = 0, n = kdp_flows(engine, &(uint32_t){0}, flows, 1 << 17);
  for (long i = 0; i < n; i++) found += flows[i].from_session == index;
  return found;
}

static bool lives(uint16_t src_port) {
  static kdp_flow flows[64];
  long n = kdp_flows(engine, &(uint32_t){0}, flows, 64);
  for (long i = 0; i < n; i++)
    if (flows[i].src_port == src_port) return true;
  return false;
}

static void let_time_pass(void) {
  static const char *const names[] = {"udp", "tcp", "closed", "denied", "pending"};
  static lane clock; /* counts and time alone */
  uint64_t began = clock_ms();
  bool told[5] = {false};
  send_packet(ALICE, IPPROTO_UDP, 0, 1);
  send_packet(ALICE, IPPROTO_TCP, TH_SYN, 2);
  send_packet(ALICE, IPPROTO_TCP, TH_SYN, 3);
  judge(KDP_ALLOW);
  send_packet(ALICE, IPPROTO_TCP, TH_RST, 3);
  send_packet(ALICE, IPPROTO_TCP, TH_SYN, 4);
  judge(KDP_DENY);
  send_packet(ALICE, IPPROTO_TCP, TH_SYN, 5);
  for (uint64_t second = 1; second < HORIZON_S; second++) {
    clock.now_ms = began + second * 1000;
    config_read(engine);
    while (flows_age(engine, &clock)) continue;
    config_read_end(engine);
    for (uint16_t i = 0; i < 5; i++)
      if (!told[i] && !lives((uint16_t)(i + 1))) {
        told[i] = true;
        printf("%s %llu\n", names[i], (unsigned long long)second);
      }
  }
}

static void cut_one(long flows) {
  for (uint8_t host = ALICE; host <= BOB; host++) {
    for (long at = 0; at < flows;) {
      size_t used = 0;
      for (int i = 0; i < 256 && at < flows; i++)
        used += put_record(frame + used, host, IPPROTO_TCP, TH_SYN, (uint16_t)++at);
      check(kdp_relay_put(engine, RELAY, frame, used) > 0, "relay_put");
      kdp_settle(engine);
      judge(KDP_ALLOW);
    }
  }
  check(flows_of(sessions[ALICE]) == flows && flows_of(sessions[BOB]) == flows, "to open the flows");
  check(kdp_session_cut(engine, sessions[ALICE]) == 0, "session_cut");
  printf("cut %ld\nleft %ld\n", flows_of(sessions[ALICE]), flows_of(sessions[BOB]));
  check(kdp_sessions_cut(engine, (uint32_t[]){sessions[BOB], sessions[BOB], sessions[ALICE], 99}, 4) == 1,
        "sessions_cut");
  printf("after %ld\n", flows_of(sessions[BOB]));
}

int main(int argc, char **argv) {
  int pair[2];
  check(argc == 3, "usage: lives AEAD FLOWS;");
  engine = open_engine(argv[1], 1 << 17, VNI, pair);
  peer = aead_key_new(key, iv);
  kdp_fib_add(engine, VNI, 4, (uint8_t[16]){10, 0, 0, 1}, 32, KDP_NEXT_HOP_LOCAL);
  check(kdp_relay_add(engine, RELAY) == 0, "relay_add");
  sessions[ALICE] = open_session(ALICE), sessions[BOB] = open_session(BOB);
  cut_one(strtol(argv[2], NULL, 10));
  sessions[ALICE] = open_session(ALICE), counters[ALICE] = 0;
  let_time_pass();
  kdp_destroy(engine);
  aead_key_free(peer);
  close(pair[0]), close(pair[1]);
  return 0;
}
