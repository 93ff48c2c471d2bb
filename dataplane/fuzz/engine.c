/* The whole engine by sequences: packets of peers and hosts, forged and cut datagrams, verdicts, keys, cuts, paths, interconnects
 * and age in any order. What is written to a host belongs to a flow that is allowed, or answers that host; what leaves is
 * authentic; each session is charged for the flows that it has; no counter goes back. */
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

static void check_written(rig *r) {
  static uint8_t got[PACKET_MAX];
  struct virtio_net_hdr vnet;
  packet p;
  for (int end = 0; end < 2; end++)
    for (size_t len; (len = rig_written(r, end, &vnet, got)) > 0;) {
      require_acceptable(&vnet, got, len);
      require(packet_parse(got, len, &p), "something that is no packet in the TUN");
      bool later = p.fragment && !p.first_fragment;
      require(later || answers(&p) || flows_allow(r->engine, end == 0 ? HERE : THERE, &p),
              "a flow that is not allowed");
    }
}

static void check_shares(rig *r) {
  static kdp_flow flows[FLOWS_MAX];
  long n = kdp_flows(r->engine, flows, FLOWS_MAX);
  for (int i = 0; i < 2; i++) {
    uint32_t index = i == 0 ? r->here_to_there : r->there_to_here, has = 0, waiting = 0;
    const session *s = session_find(r->engine, index);
    for (long f = 0; f < n; f++) {
      if (flows[f].from_session != index) continue;
      has++, waiting += flows[f].verdict == KDP_PENDING;
    }
    require(s->flows == has && s->waiting == waiting, "a session charged for what it has not");
  }
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
  size_t len = rig_take(r, bytes);
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

/* As the thread that reads the UDP socket does. */
static void receive_udp(rig *r, const kdp_addr *sender_address, const uint8_t *bytes, size_t len, uint8_t ecn) {
  kdp_engine *e = r->engine;
  lane *l = &e->lanes[LANE_HOST];
  origin from = {.ecn = ecn};
  struct sockaddr_storage address;
  addr_to_sockaddr(sender_address, &address, &from.from_len);
  from.from = &address;
  pthread_mutex_lock(&e->host_lock);
  pthread_mutex_lock(&e->receive_lock);
  pthread_rwlock_rdlock(&e->config);
  l->now_ms = clock_ms();
  receive(e, l, bytes, len, &from);
  run_flush(e, l);
  batch_end(e, l);
  pthread_rwlock_unlock(&e->config);
  pthread_mutex_unlock(&e->receive_lock);
  pthread_mutex_unlock(&e->host_lock);
}

static void from_peer(rig *r, input *in) {
  size_t len = make_datagram(r, in);
  uint8_t *exact = exact_copy(datagram, len);
  if (any(in, 2))
    receive_udp(r, any_address(in), exact, len, (uint8_t)any(in, 4));
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
    check_written(r);
  }
}

static void decide(rig *r, input *in) {
  static kdp_event events[16];
  int n = kdp_events(r->engine, events, (int)(1 + any(in, 16)));
  bool cork = any(in, 4) == 1;
  if (cork) kdp_cork(r->engine);
  for (int i = 0; i < n; i++) {
    if (events[i].type != KDP_EVENT_FLOW) continue;
    kdp_flow_verdict(r->engine, events[i].flow.id, any(in, 4) == 0 ? KDP_DENY : KDP_ALLOW, 1, 1);
    check_written(r);
  }
  if (cork) kdp_uncork(r->engine);
}

static void judge_again(rig *r, input *in) {
  static kdp_flow flows[FLOWS_MAX];
  long n = kdp_flows(r->engine, flows, FLOWS_MAX);
  if (n > 0) kdp_flow_verdict(r->engine, flows[any(in, (uint32_t)n)].id, (uint8_t)any(in, 2), 2, 2);
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

/* Later, as the flow table sees it. */
static void grow_old(rig *r, input *in) {
  kdp_engine *e = r->engine;
  lane *l = &e->lanes[LANE_HOST];
  pthread_mutex_lock(&e->host_lock);
  pthread_rwlock_wrlock(&e->config); /* the engine's own thread ages too */
  l->now_ms = clock_ms() + any(in, 1 << 22);
  flows_age(e, l);
  pthread_rwlock_unlock(&e->config);
  pthread_mutex_unlock(&e->host_lock);
}

static void send_control(rig *r, input *in) {
  static const uint8_t payload[64];
  uint32_t index = any(in, 2) ? r->here_to_there : r->there_to_here;
  uint16_t size = (uint16_t)(any(in, 2) ? 0 : any(in, 9000));
  kdp_control_send(r->engine, index, (uint8_t)(DG_PROBE + any(in, 4)), payload, any(in, sizeof payload), size,
                   any(in, 3) == 1 ? any_address(in) : NULL, (int)any(in, 2));
}

static void change_keys(rig *r, input *in) {
  static const uint8_t key[KEY_LEN] = {1, 2, 3}, iv[IV_LEN] = {4, 5, 6};
  epoch++;
  if (any(in, 2)) kdp_session_tx(r->engine, r->there_to_here, epoch, key, iv);
  if (any(in, 2)) kdp_session_rx(r->engine, r->there_to_here, epoch, key, iv);
  if (any(in, 4) == 1) kdp_session_retire(r->engine, r->there_to_here, epoch - 1);
}

static void step(rig *r, input *in) {
  switch (any(in, 16)) {
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
    case 12: grow_old(r, in); break;
    case 13: send_control(r, in); break;
    case 14: change_keys(r, in); break;
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
    step(r, &in);
    check_written(r);
    check_shares(r);
    if (any(&in, 4) == 1) check_all_that_left(r);
  }
  check_all_that_left(r);
  check_counters(r);
  clear_interconnects(r);
  rig_close(r);
  return 0;
}
