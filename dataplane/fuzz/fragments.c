/* Fragments of two VNIs' peers in any order, some of flows that are denied or not decided: a later fragment is written only if
 * the first of the same packet was seen and its flow is allowed when the fragment is. */
#include "rig.h"

enum { IDS = 4, PORTS = 2, STEPS_MAX = 40 };

/* By family, id and protocol: the ports of first fragments. An id may be used again while a packet of it still waits. */
static bool seen[2][IDS][2][PORTS + 1];
static uint8_t verdicts[2][2][PORTS + 1];

static size_t make_fragment(uint8_t *out, bool v4, bool tcp, uint32_t id, uint32_t offset, bool more, uint16_t port) {
  size_t headers = v4 ? 20 : 48, payload = offset == 0 ? 32 : 16;
  memset(out, 0, headers + payload);
  uint8_t protocol = tcp ? IPPROTO_TCP : IPPROTO_UDP;
  if (v4) {
    out[0] = 0x45, out[8] = 64, out[9] = protocol;
    put16(out + 4, id), put16(out + 6, offset | (more ? 0x2000 : 0));
    memcpy(out + 12, (uint8_t[]){10, 0, 0, 1, 10, 0, 0, 2}, 8);
  } else {
    out[0] = 0x60, out[6] = IPPROTO_FRAGMENT, out[7] = 64;
    out[8] = out[24] = 0xfd, out[23] = 1, out[39] = 2;
    out[40] = protocol, put16(out + 42, offset << 3 | more), put32(out + 44, id);
  }
  if (offset == 0) put16(out + headers, port), put16(out + headers + 2, 80), out[headers + 12] = 5 << 4;
  if (offset == 0 && !tcp) put16(out + headers + 4, 1000);
  fit_length(out, headers + payload);
  if (v4) put16(out + 10, checksum(out, 20, 0));
  return headers + payload;
}

static void put(rig *r, const uint8_t *ip, size_t len) {
  static uint8_t plain[128 + TRAILER_LEN], datagram[HEADER_LEN + sizeof plain + TAG_LEN];
  memcpy(plain, ip, len);
  memset(plain + len, 0, TRAILER_LEN), plain[len + 7] = 1;
  rig_put(r, datagram, rig_seal(r, DG_DATA, plain, len + TRAILER_LEN, datagram));
}

/* All that was written belongs to a packet whose first fragment was seen and whose flow is allowed. */
static void check_written(rig *r) {
  static uint8_t got[PACKET_MAX];
  struct virtio_net_hdr vnet;
  packet p;
  for (size_t len; (len = rig_written(r, 1, &vnet, got)) > 0;) {
    require(packet_parse(got, len, &p), "something that is no packet in the TUN");
    bool v4 = p.family == 4, tcp = p.protocol == IPPROTO_TCP;
    bool later = p.fragment && !p.first_fragment, may = false;
    for (int of = 0; of < 2; of++) /* RFC 8200: a later fragment of IPv6 may name another protocol than its first */
      for (uint16_t port = 1; port <= PORTS; port++)
        if (later ? (of == tcp || !v4) && seen[v4][p.fragment_id % IDS][of][port] : of == tcp && port == p.src_port)
          may |= verdicts[v4][of][port] == KDP_ALLOW;
    require(may, "a fragment of a flow that is not allowed, or without its first");
  }
}

static void decide(rig *r, input *in) {
  static kdp_event events[64];
  for (int n; (n = kdp_events(r->engine, events, 64)) > 0;)
    for (int i = 0; i < n; i++) {
      const kdp_flow *f = &events[i].flow;
      if (events[i].type != KDP_EVENT_FLOW || f->src_port == 0 || f->src_port > PORTS) continue;
      uint8_t verdict = any(in, 3) == 0 ? KDP_DENY : KDP_ALLOW;
      if (kdp_flow_verdict(r->engine, f->id, verdict, 1, 1, KDP_NEVER) == 0)
        verdicts[f->family == 4][f->protocol == IPPROTO_TCP][f->src_port] = verdict;
      check_written(r);
    }
}

/* A flow that lives is judged anew. */
static void judge_again(rig *r, input *in) {
  static kdp_flow flows[FLOWS_MAX];
  long n = rig_flows(r, flows);
  if (n <= 0) return;
  const kdp_flow *f = &flows[any(in, (uint32_t)n)];
  uint8_t verdict = any(in, 2) == 0 ? KDP_DENY : KDP_ALLOW;
  if (f->src_port == 0 || f->src_port > PORTS) return;
  verdicts[f->family == 4][f->protocol == IPPROTO_TCP][f->src_port] = verdict;
  require(kdp_flow_verdict(r->engine, f->id, verdict, 2, 2, KDP_NEVER) == 0, "a live flow that cannot be judged");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  input in = {data, size};
  rig *r = rig_open();
  memset(seen, 0, sizeof seen), memset(verdicts, KDP_DENY, sizeof verdicts);
  for (int step = 0; in.left > 0 && step < STEPS_MAX; step++) {
    uint8_t ip[128];
    bool v4 = any(&in, 2), tcp = any(&in, 2);
    uint32_t id = any(&in, IDS), offset = any(&in, 2) ? 0 : any(&in, 8);
    uint16_t port = (uint16_t)(1 + any(&in, PORTS));
    size_t len = make_fragment(ip, v4, tcp, id, offset, any(&in, 2), port);
    packet p;
    if (packet_parse(ip, len, &p) && p.first_fragment && p.fragment) seen[v4][id][tcp][port] = true;
    put(r, ip, len);
    check_written(r);
    if (any(&in, 2)) decide(r, &in);
    if (any(&in, 8) == 1) judge_again(r, &in);
    check_written(r);
  }
  rig_close(r);
  return 0;
}
