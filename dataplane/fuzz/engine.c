/* The whole engine by sequences: packets of peers and hosts, forged and cut datagrams, verdicts, keys, cuts, deadlines, paths,
 * interconnects and age in any order. What is written to a host belongs to a flow that is allowed, or answers that host; what leaves
 * is authentic; nothing is taken from, delivered for, or sealed by a session whose time is over; each sender is charged for the
 * flows that it has, and a cut ends these and no others; no counter goes back. */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <unistd.h>

#include "rig.h"

enum { STEPS_MAX = 60, PACKET = 2048 };

static uint8_t packet_bytes[PACKET + 512], datagram[HEADER_LEN + PACKET + 512 + TRAILER_LEN + TAG_LEN];
static uint64_t counters[C_COUNT];
static uint32_t epoch;
static int udp, sink_socket;
static kdp_addr sink_address = {.family = 4, .ip = {127, 0, 0, 1}};
/* Nothing is sent there: the socket is of IPv4. */
static const kdp_addr address6 = {.family = 6, .port = 9, .ip = {[15] = 1}};
static const kdp_addr mapped = {.family = 6, .port = 9, .ip = {[10] = 0xff, [11] = 0xff, 127, 0, 0, 1}};

static const kdp_addr *any_address(input *in) {
  const kdp_addr *choices[] = {&sink_address, &sink_address, &address6, &mapped};
  return choices[any(in, 4)];
}

static int loopback_socket(uint16_t *port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t len = sizeof address;
  int made = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
  require(made >= 0 && bind(made, (struct sockaddr *)&address, len) == 0, "a socket that cannot be had");
  require(getsockname(made, (struct sockaddr *)&address, &len) == 0, "a socket without an address");
  *port = ntohs(address.sin_port);
  return made;
}

static void open_sockets(rig *r) {
  uint16_t port;
  if (sink_socket != 0) return;
  udp = loopback_socket(&port), sink_socket = loopback_socket(&sink_address.port);
  require(kdp_set_udp(r->engine, udp) == 0, "a socket that is not taken");
}

/* -- what must hold ------------------------------------------------------------------------------------------------ */

static bool answers(const packet *p) {
  return p->icmp_error || (p->protocol == IPPROTO_TCP && p->tcp_flags & TH_RST);
}

/* ended: a flow whose initiator may not have packets delivered any more; NULL: there is none. */
static void check_written(rig *r, const kdp_flow *ended) {
  static uint8_t got[PACKET_MAX];
  static lane l;
  struct virtio_net_hdr vnet;
  packet p;
  l.now_ms = clock_ms();
  for (int end = 0; end < 2; end++)
    for (size_t len; (len = rig_written(r, end, &vnet, got)) > 0;) {
      require_acceptable(&vnet, got, len);
      require(packet_parse(got, len, &p), "something that is no packet in the TUN");
      bool later = p.fragment && !p.first_fragment;
      require(later || answers(&p) || flows_allow(r->engine, &l, end == 0 ? HERE : THERE, &p),
              "a flow that is not allowed");
      require(ended == NULL || answers(&p) || memcmp(p.src, ended->src, p.family == 4 ? 4 : 16) != 0,
              "a packet delivered for a sender whose time is over");
    }
}

/* index: of the session; 0: the TUN of the VNI. */
static void check_share(const share *of, uint32_t index, uint32_t vni_id, const kdp_flow *flows, long n) {
  uint32_t has = 0, waiting = 0;
  for (const kdp_flow *f = flows; f < flows + n; f++) {
    bool own = f->from_session == index && (index != 0 || (f->from_vni != 0 ? f->from_vni : f->vni) == vni_id);
    has += own, waiting += own && f->verdict == KDP_PENDING;
  }
  require(of->flows == has && of->waiting == waiting, "a sender charged for what it has not");
  require(of->parked <= waiting, "more flows with packets that wait than flows that wait");
  require(of->events.count <= EVENTS_A_SENDER, "more events of a sender than it may have");
}

static void check_shares(rig *r) {
  static kdp_flow flows[FLOWS_MAX];
  long n = rig_flows(r, flows);
  check_share(&session_find(r->engine, r->here_to_there)->share, r->here_to_there, HERE, flows, n);
  check_share(&session_find(r->engine, r->there_to_here)->share, r->there_to_here, THERE, flows, n);
  check_share(&vni_find(r->engine, HERE)->share, 0, HERE, flows, n);
  check_share(&vni_find(r->engine, THERE)->share, 0, THERE, flows, n);
}

/* What a session may do now, and has done. */
typedef struct {
  uint32_t index;
  bool over, cannot_seal;
  uint64_t sent, received;
} standing;

static standing standing_of(rig *r, uint32_t index) {
  const session *s = session_find(r->engine, index);
  standing now = {.index = index, .over = session_is_over(s, clock_ms())};
  now.cannot_seal = now.over || s->tx_key == NULL || is_over(s->tx_not_after_ms, clock_ms());
  require(kdp_session_stats(r->engine, index, &now.sent, &now.received) == 0, "a session without statistics");
  return now;
}

static void check_standing(rig *r, uint32_t index, const standing *before) {
  standing now = standing_of(r, index);
  if (now.index != before->index) return;
  require(!before->over || !now.over || now.received == before->received, "taken from a session that is over");
  require(!before->cannot_seal || !now.cannot_seal || now.sent <= before->sent, "sealed after the end");
}

static void check_counters(rig *r) {
  uint64_t now[C_COUNT];
  kdp_counters(r->engine, now, C_COUNT);
  for (int i = 0; i < C_COUNT; i++) require(now[i] >= counters[i], "a counter that went back");
  memcpy(counters, now, sizeof counters);
}

static void check_left(rig *r, const uint8_t *at, size_t size) {
  static uint8_t plain[PACKET_MAX];
  require(size >= HEADER_LEN + TAG_LEN, "a datagram that is too short");
  require(aead_open(r->key, get64(at + 8), at, at + HEADER_LEN, size - HEADER_LEN - TAG_LEN, plain), "a wrong tag");
  uint32_t to = get32(at + 4);
  require(to == r->here_to_there || to == r->there_to_here || to == 0, "a datagram for nobody");
}

/* To the relay, and to the address of a direct path. */
static void check_all_that_left(rig *r) {
  static uint8_t bytes[FRAME_MAX];
  for (size_t len; (len = rig_take(r, bytes)) > 0;)
    for (size_t at = 0; at < len; at += 2 + (size_t)get16(bytes + at)) check_left(r, bytes + at + 2, get16(bytes + at));
  for (ssize_t n; (n = recv(sink_socket, bytes, sizeof bytes, 0)) > 0;) check_left(r, bytes, (size_t)n);
}

/* -- steps --------------------------------------------------------------------------------------------------------- */

/* Addresses behind the interconnect are those of the other VNI, one network further. */
static size_t make_packet(input *in, bool from_here) {
  size_t len = any_packet(in, from_here, packet_bytes, any(in, 8) == 0 ? PACKET - 200 : 100);
  bool v4 = packet_bytes[0] >> 4 == 4;
  if (any(in, 3) == 1) packet_bytes[v4 ? 18 : 31] = (uint8_t)any(in, 3); /* the destination's network */
  if (any(in, 3) == 1) packet_bytes[v4 ? 8 : 7] = 9;
  if (v4)
    put16(packet_bytes + 10, 0),
        put16(packet_bytes + 10, checksum(packet_bytes, (size_t)(packet_bytes[0] & 15) * 4, 0));
  set_transport_checksum(packet_bytes, len);
  if (any(in, 16) == 1) packet_bytes[any(in, (uint32_t)len)] = (uint8_t)any(in, 256);
  return len;
}

static size_t make_datagram(rig *r, input *in) {
  static uint8_t plain[PACKET + 512 + TRAILER_LEN];
  size_t len = make_packet(in, true);
  memcpy(plain, packet_bytes, len);
  memset(plain + len, 0, TRAILER_LEN), plain[len] = (uint8_t)any(in, 2), plain[len + 7] = 1;
  uint8_t type = any(in, 8) == 1 ? (uint8_t)any(in, 7) : (uint8_t)DG_DATA;
  if (any(in, 16) == 1) r->counter += any(in, 1000) - 500u;
  size_t size = rig_seal(r, type, plain, len + TRAILER_LEN, datagram);
  if (any(in, 16) == 1) datagram[any(in, (uint32_t)size)] ^= (uint8_t)(1 << any(in, 8));
  return any(in, 16) == 1 ? any(in, (uint32_t)size) : size;
}

static void from_peer(rig *r, input *in) {
  size_t len = make_datagram(r, in);
  uint8_t *exact = exact_copy(datagram, len);
  if (any(in, 2))
    rig_put_udp(r, any_address(in), (uint8_t)any(in, 4), exact, len);
  else
    rig_put(r, exact, len);
  free(exact);
}

/* What a kernel says of a packet that it left unfinished: it does not lie. */
static struct virtio_net_hdr any_offload(input *in, size_t len) {
  struct virtio_net_hdr vnet = {0};
  packet p;
  bool offloads = any(in, 2), super = any(in, 2);
  if (!offloads || !packet_parse(packet_bytes, len, &p) || p.fragment || p.l4_header == 0) return vnet;
  bool tcp = p.protocol == IPPROTO_TCP;
  size_t headers = (size_t)p.l4 + p.l4_header;
  vnet.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, vnet.csum_start = p.l4, vnet.csum_offset = tcp ? 16 : 6;
  uint16_t size = (uint16_t)(64 + any(in, 1500));
  if (!super || len - headers <= size) return vnet;
  vnet.gso_size = size, vnet.hdr_len = (uint16_t)headers;
  vnet.gso_type =
      tcp ? (p.family == 4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6) : VIRTIO_NET_HDR_GSO_UDP_L4;
  if (tcp && p.tcp_flags & 0x80) vnet.gso_type |= VIRTIO_NET_HDR_GSO_ECN;
  return vnet;
}

static void from_host(rig *r, input *in) {
  bool here = any(in, 2);
  size_t len = make_packet(in, here);
  struct virtio_net_hdr vnet = any_offload(in, len);
  for (uint32_t times = any(in, 8) == 1 ? 3 : 1; times > 0; times--) rig_write_tun(r, !here, &vnet, packet_bytes, len);
  rig_read_tun(r, here ? HERE : THERE);
}

/* As rig_pass, and looks at what each datagram did: the next one may end the flow of this one. */
static void pass(rig *r) {
  static uint8_t frame[FRAME_MAX];
  size_t len = rig_take(r, frame);
  for (size_t at = 0; at < len; at += 2 + (size_t)get16(frame + at)) {
    rig_put(r, frame + at + 2, get16(frame + at));
    check_written(r, NULL);
  }
}

/* From now on, soon, or never. */
static uint64_t any_deadline(input *in) {
  uint32_t choice = any(in, 6);
  return choice == 1 ? clock_ms() : choice == 2 ? clock_ms() + 1 + any(in, 5000) : KDP_NEVER;
}

/* Whether the session that began this flow has no leave any more for what it sends. */
static bool has_ended(rig *r, const kdp_flow *f) {
  if (f->from_session == 0) return false;
  const session *s = session_find(r->engine, f->from_session);
  if (s == NULL || session_is_over(s, clock_ms())) return true;
  for (size_t i = 0; f->from_vni == 0 && i < s->lease_count; i++)
    if (s->leases[i].family == f->family) return is_over(s->leases[i].not_after_ms, clock_ms());
  return false;
}

static void decide(rig *r, input *in) {
  static kdp_event events[16];
  int n = kdp_events(r->engine, events, (int)(1 + any(in, 16)));
  bool cork = any(in, 4) == 1;
  if (cork) kdp_cork(r->engine);
  for (int i = 0; i < n; i++) {
    if (events[i].type != KDP_EVENT_FLOW) continue;
    const kdp_flow *f = &events[i].flow;
    kdp_flow_verdict(r->engine, f->id, any(in, 4) == 0 ? KDP_DENY : KDP_ALLOW, 1, 1, any_deadline(in));
    check_written(r, has_ended(r, f) ? f : NULL);
  }
  if (cork) kdp_uncork(r->engine);
}

static void judge_again(rig *r, input *in) {
  static kdp_flow flows[FLOWS_MAX];
  long n = rig_flows(r, flows);
  if (n == 0) return;
  const kdp_flow *f = &flows[any(in, (uint32_t)n)];
  require(kdp_flow_verdict(r->engine, f->id, (uint8_t)any(in, 2), 2, 2, any_deadline(in)) == 0, "a live flow refused");
  check_written(r, has_ended(r, f) ? f : NULL);
}

/* Each flow is found by its id until it ends, and an id is that of no other flow. */
static void look_up(rig *r, input *in) {
  static kdp_flow flows[FLOWS_MAX];
  static uint64_t ids[FLOWS_MAX + 1];
  kdp_flow found;
  long n = rig_flows(r, flows);
  for (long i = 0; i < n; i++) ids[i] = flows[i].id;
  ids[n] = (uint64_t)any(in, 4) << 32 | any(in, FLOWS_MAX + 2);
  bool lives = false;
  for (long i = 0; i < n; i++) lives |= ids[i] == ids[n];
  require(kdp_flows_find(r->engine, ids + n, 1, &found) == lives, "a flow found that does not live, or the reverse");
  require(!lives || found.id == ids[n], "another flow found");
  require(kdp_flows_alive(r->engine, ids, (size_t)n + 1) == n + lives, "a flow that is listed and does not live");
}

static void change_path(rig *r, input *in) {
  uint32_t index = any(in, 2) ? r->here_to_there : r->there_to_here;
  uint8_t kind = (uint8_t)any(in, 3);
  kdp_session_path(r->engine, index, kind, any_address(in), any(in, 8) == 1 ? 99 : RELAY, (int)any(in, 2));
  kdp_session_limit(r->engine, index, (uint16_t)(any(in, 2) ? 0 : LIMIT_MIN + any(in, 1000)));
}

static void change_interconnect(rig *r, input *in) {
  uint32_t here = any(in, 2) ? HERE : THERE, there = here == HERE ? THERE : HERE;
  uint8_t network = (uint8_t)(1 + any(in, 2));
  const uint8_t seen4[16] = {10, 0, network}, real4[16] = {10}, seen6[16] = {0xfd, [7] = network}, real6[16] = {0xfd};
  if (any(in, 3) > 0) {
    kdp_mapping_add(r->engine, here, 4, 24, seen4, there, real4);
    kdp_mapping_add(r->engine, here, 6, 64, seen6, there, real6);
  } else {
    kdp_mapping_remove(r->engine, here, 4, 24, seen4);
    kdp_mapping_remove(r->engine, here, 6, 64, seen6);
  }
}

static void clear_interconnects(rig *r) {
  for (uint8_t network = 1; network <= 2; network++)
    for (uint32_t id = HERE; id <= THERE; id++) {
      kdp_mapping_remove(r->engine, id, 4, 24, (uint8_t[16]){10, 0, network});
      kdp_mapping_remove(r->engine, id, 6, 64, (uint8_t[16]){0xfd, [7] = network});
    }
}

static void change_lives(rig *r, input *in) {
  static const uint8_t host4[2][16] = {{10, 0, 0, 1}, {10, 0, 0, 2}},
                       host6[2][16] = {{0xfd, [15] = 1}, {0xfd, [15] = 2}};
  bool here = any(in, 2);
  uint32_t index = here ? r->here_to_there : r->there_to_here, what = any(in, 3);
  if (what == 0) kdp_session_until(r->engine, index, any_deadline(in));
  if (what == 1) kdp_session_lease(r->engine, index, 4, host4[here], 32, any_deadline(in));
  if (what == 2) kdp_session_lease(r->engine, index, 6, host6[here], 128, any_deadline(in));
}

static void send_control(rig *r, input *in) {
  static const uint8_t payload[64];
  uint32_t index = any(in, 2) ? r->here_to_there : r->there_to_here;
  uint16_t size = (uint16_t)(any(in, 2) ? 0 : any(in, 9000));
  kdp_control_send(r->engine, index, (uint8_t)(DG_PROBE + any(in, 4)), payload, any(in, sizeof payload), size,
                   any(in, 3) == 1 ? any_address(in) : NULL, (int)any(in, 2));
}

static void change_keys(rig *r, input *in) {
  uint32_t index = any(in, 2) ? r->here_to_there : r->there_to_here;
  epoch++;
  if (any(in, 2)) require(rig_install(r, index, epoch, true, any_deadline(in)) == 1, "a key that is not taken");
  if (any(in, 2)) require(rig_install(r, index, epoch, false, any_deadline(in)) == 1, "a key that is not taken");
  if (any(in, 4) == 1) kdp_keys_retire(r->engine, epoch - 1, &index, 1);
}

/* What waits for the relay is of the sessions before. */
static void renew(rig *r, input *in) {
  check_all_that_left(r);
  rig_renew(r, any(in, 2) ? HERE : THERE);
}

static void step(rig *r, input *in) {
  switch (any(in, 19)) {
    case 0:
    case 1:
    case 2:
    case 3: from_peer(r, in); break;
    case 4:
    case 5:
    case 6: from_host(r, in); break;
    case 7:
    case 8: decide(r, in); break;
    case 9: judge_again(r, in); break;
    case 10: change_path(r, in); break;
    case 11: change_interconnect(r, in); break;
    case 12: rig_wait(r, any(in, 2) ? any(in, 10000) : any(in, 1 << 22)); break;
    case 13: send_control(r, in); break;
    case 14: change_keys(r, in); break;
    case 15: change_lives(r, in); break;
    case 16: look_up(r, in); break;
    case 17: renew(r, in); break;
    default: pass(r);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  input in = {data, size};
  rig *r = rig_open();
  open_sockets(r);
  while (recv(sink_socket, datagram, sizeof datagram, 0) > 0) continue; /* of sessions that were cut since */
  epoch = 0;
  for (int steps = 0; in.left > 0 && steps < STEPS_MAX; steps++) {
    standing here = standing_of(r, r->here_to_there), there = standing_of(r, r->there_to_here);
    step(r, &in);
    check_written(r, NULL);
    check_standing(r, r->here_to_there, &here), check_standing(r, r->there_to_here, &there);
    check_shares(r);
    if (any(&in, 4) == 1) check_all_that_left(r);
  }
  check_all_that_left(r);
  check_counters(r);
  clear_interconnects(r);
  rig_close(r);
  return 0;
}
