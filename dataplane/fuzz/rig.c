#include "rig.h"

#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

static const uint8_t key[KEY_LEN] = {1, 2, 3}, iv[IV_LEN] = {4, 5, 6};
static const uint8_t host4[2][16] = {{10, 0, 0, 1}, {10, 0, 0, 2}}, host6[2][16] = {{0xfd, [15] = 1}, {0xfd, [15] = 2}};

enum { BETWEEN_MS = 1 << 22 /* from one input to the next: more than any flow lives */ };

static rig one;
static uint64_t now_ms = 1ull << 50; /* ahead of each real clock: the threads may have read that before they ended */

/* The linker gives this clock to the engine (-Wl,--wrap=clock_ms). */
uint64_t __wrap_clock_ms(void);
uint64_t __wrap_clock_ms(void) {
  return now_ms;
}

static int add_vni(rig *r, uint32_t id, int host) {
  int pair[2], size = 1 << 22;
  require(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair) == 0, "a socket pair that cannot be made");
  setsockopt(pair[1], SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size);
  require(kdp_vni_add(r->engine, id, pair[1]) == 0, "a VNI that cannot be added");
  close(pair[1]);
  kdp_fib_add(r->engine, id, 4, host4[host], 32, KDP_NEXT_HOP_LOCAL);
  kdp_fib_add(r->engine, id, 6, host6[host], 128, KDP_NEXT_HOP_LOCAL);
  return pair[0];
}

static void end_threads(kdp_engine *e) {
  atomic_store(&e->stop, true);
  eventfd_write(e->wake_tx, 1), eventfd_write(e->wake_rx, 1);
  pthread_join(e->tx_thread, NULL), pthread_join(e->rx_thread, NULL);
  e->threads = false;
}

static void make_engine(rig *r) {
  char error[600];
  r->engine = kdp_create("auto", FLOWS_MAX, error, sizeof error);
  require(r->engine != NULL, error);
  end_threads(r->engine);
  r->key = aead_key_new(key, iv);
  require(r->key != NULL, "a key that cannot be made");
  kdp_relay_add(r->engine, RELAY);
  r->tun[0] = add_vni(r, HERE, 0), r->tun[1] = add_vni(r, THERE, 1);
}

static uint32_t add_session(rig *r, uint32_t id, int peer) {
  uint32_t index;
  require(kdp_session_add(r->engine, id, &index) == 0, "a session that cannot be added");
  kdp_session_lease(r->engine, index, 4, host4[peer], 32, KDP_NEVER);
  kdp_session_lease(r->engine, index, 6, host6[peer], 128, KDP_NEVER);
  kdp_fib_add(r->engine, id, 4, host4[peer], 32, index);
  kdp_fib_add(r->engine, id, 6, host6[peer], 128, index);
  require(rig_install(r, index, 0, false, KDP_NEVER) == 1, "a receive key that is not taken");
  require(rig_install(r, index, 0, true, KDP_NEVER) == 1, "a transmit key that is not taken");
  kdp_session_path(r->engine, index, KDP_PATH_RELAY, NULL, RELAY, 0);
  return index;
}

int rig_install(rig *r, uint32_t index, uint32_t epoch, bool transmit, uint64_t not_after_ms) {
  kdp_key k = {.not_after_ms = not_after_ms, .session = index, .epoch = epoch, .transmit = transmit};
  memcpy(k.key, key, sizeof key), memcpy(k.iv, iv, sizeof iv);
  return kdp_keys_install(r->engine, &k, 1);
}

static void introduce(rig *r) {
  kdp_session_remote(r->engine, r->here_to_there, r->there_to_here);
  kdp_session_remote(r->engine, r->there_to_here, r->here_to_there);
  r->counter = 0;
}

rig *rig_open(void) {
  rig *r = &one;
  if (r->engine == NULL) make_engine(r);
  now_ms = (now_ms / BETWEEN_MS + 2) * BETWEEN_MS;
  r->here_to_there = add_session(r, HERE, 1), r->there_to_here = add_session(r, THERE, 0);
  introduce(r);
  return r;
}

/* The session's own list of its flows leads to those of the table, and to no other. */
static void cut(rig *r, uint32_t index) {
  static kdp_flow before[FLOWS_MAX], after[FLOWS_MAX];
  long had = rig_flows(r, before), others = 0;
  require(kdp_session_cut(r->engine, index) == 0, "a session that cannot be cut");
  long has = rig_flows(r, after);
  for (long i = 0; i < had; i++) others += before[i].from_session != index;
  for (long i = 0; i < has; i++) require(after[i].from_session != index, "a flow that outlived its session");
  require(has == others, "a flow that another session's cut has ended");
}

void rig_renew(rig *r, uint32_t vni_id) {
  uint32_t *index = vni_id == HERE ? &r->here_to_there : &r->there_to_here;
  cut(r, *index);
  *index = add_session(r, vni_id, vni_id == HERE ? 1 : 0);
  introduce(r);
}

void rig_wait(rig *r, uint64_t ms) {
  kdp_engine *e = r->engine;
  lane *l = &e->lanes[LANE_TX];
  now_ms += ms;
  config_read(e);
  l->now_ms = now_ms;
  while (flows_age(e, l)) continue;
  config_read_end(e);
}

long rig_flows(rig *r, kdp_flow *flows) {
  uint32_t cursor = 0;
  long n = kdp_flows(r->engine, &cursor, flows, FLOWS_MAX);
  require(cursor == 0, "more flows than the table holds");
  return n;
}

static void drain(rig *r) {
  static uint8_t sink[FRAME_MAX];
  static kdp_event events[64];
  static kdp_flow flows[FLOWS_MAX];
  uint64_t untold;
  while (kdp_events(r->engine, events, 64) > 0) continue;
  while (kdp_ended(r->engine, flows, FLOWS_MAX, &untold) > 0) continue;
  for (int end = 0; end < 2; end++)
    while (read(r->tun[end], sink, sizeof sink) > 0) continue;
  while (rig_take(r, sink) > 0) continue;
}

static void forget_flows(kdp_engine *e, uint32_t vni_id) {
  uint32_t bucket = 0;
  config_read(e);
  while (flows_forget_vni(e, vni_id, &bucket)) continue;
  const share *of_tun = &vni_find(e, vni_id)->share;
  require(of_tun->flows == 0 && of_tun->waiting == 0 && of_tun->parked == 0, "a TUN charged for what it has not");
  config_read_end(e);
}

void rig_close(rig *r) {
  static kdp_flow flows[FLOWS_MAX];
  cut(r, r->here_to_there), cut(r, r->there_to_here);
  forget_flows(r->engine, HERE), forget_flows(r->engine, THERE);
  drain(r);
  require(rig_flows(r, flows) == 0, "a flow that outlived its VNI");
}

size_t rig_seal(rig *r, uint8_t type, const uint8_t *plain, size_t len, uint8_t *out) {
  out[0] = type, out[1] = 0;
  put16(out + 2, 0), put32(out + 4, r->there_to_here), put64(out + 8, r->counter);
  aead_seal(r->key, r->counter++, out, plain, len, out + HEADER_LEN);
  return HEADER_LEN + len + TAG_LEN;
}

/* -- as the packet threads do it ------------------------------------------------------------------------------------ */

static lane *begin(kdp_engine *e, int which) {
  config_read(e);
  e->lanes[which].now_ms = now_ms;
  return &e->lanes[which];
}

static void end(kdp_engine *e, lane *l) {
  batch_end(e, l);
  config_read_end(e);
}

long rig_put_frame(rig *r, const uint8_t *frame, size_t len) {
  long n = kdp_relay_put(r->engine, RELAY, frame, len);
  lane *l = begin(r->engine, LANE_RX);
  require(!inbox_read(r->engine, l, SIZE_MAX), "a frame that is left");
  end(r->engine, l);
  return n;
}

long rig_put(rig *r, const uint8_t *datagram, size_t len) {
  uint8_t *record = malloc(2 + len);
  if (record == NULL) return 0;
  put16(record, (uint32_t)len);
  memcpy(record + 2, datagram, len);
  long n = rig_put_frame(r, record, 2 + len);
  free(record);
  return n;
}

void rig_put_udp(rig *r, const kdp_addr *from, uint8_t ecn, const uint8_t *datagram, size_t len) {
  struct sockaddr_storage address;
  origin o = {.from = &address, .ecn = ecn};
  addr_to_sockaddr(from, &address, &o.from_len);
  lane *l = begin(r->engine, LANE_RX);
  receive(r->engine, l, datagram, len, &o);
  run_flush(r->engine, l);
  end(r->engine, l);
}

void rig_read_tun(rig *r, uint32_t vni_id) {
  static uint8_t buffer[TUN_BYTES];
  lane *l = begin(r->engine, LANE_TX);
  tun_read(r->engine, l, vni_find(r->engine, vni_id), buffer);
  end(r->engine, l);
}

size_t rig_take(rig *r, uint8_t *frame) {
  long n = kdp_relay_take(r->engine, RELAY, frame, FRAME_MAX);
  return n > 0 ? (size_t)n : 0;
}

void rig_pass(rig *r) {
  static uint8_t frame[FRAME_MAX];
  size_t len = rig_take(r, frame);
  uint8_t *exact = exact_copy(frame, len);
  require(rig_put_frame(r, exact, len) >= 0, "a frame of ours that is broken");
  free(exact);
}

void rig_write_tun(rig *r, int end, const struct virtio_net_hdr *vnet, const uint8_t *data, size_t len) {
  struct iovec parts[2] = {{(void *)(uintptr_t)vnet, sizeof *vnet}, {(void *)(uintptr_t)data, len}};
  if (writev(r->tun[end], parts, 2) < 0) require(errno == EAGAIN, "a TUN that takes nothing");
}

size_t rig_written(rig *r, int end, struct virtio_net_hdr *vnet, uint8_t *data) {
  struct iovec parts[2] = {{vnet, sizeof *vnet}, {data, PACKET_MAX}};
  ssize_t n = readv(r->tun[end], parts, 2);
  if (n <= 0) return 0;
  require(n > (ssize_t)sizeof *vnet, "an empty packet in the TUN");
  return (size_t)n - sizeof *vnet;
}

void rig_judge(rig *r, uint8_t verdict) {
  static kdp_event events[64];
  for (int n; (n = kdp_events(r->engine, events, 64)) > 0;)
    for (int i = 0; i < n; i++)
      if (events[i].type == KDP_EVENT_FLOW) kdp_flow_verdict(r->engine, events[i].flow.id, verdict, 1, 1, KDP_NEVER);
}

uint64_t rig_counter(rig *r, int counter) {
  uint64_t values[C_COUNT];
  kdp_counters(r->engine, values, C_COUNT);
  return values[counter];
}

/* -- packets ------------------------------------------------------------------------------------------------------- */

enum { TCP = IPPROTO_TCP, UDP = IPPROTO_UDP };

static size_t any_ip_header(input *in, bool from_here, uint8_t *out, uint8_t *protocol, size_t *extra) {
  int src = from_here ? 0 : 1;
  bool v4 = any(in, 2) == 0;
  uint8_t choices[] = {TCP, UDP, v4 ? IPPROTO_ICMP : IPPROTO_ICMPV6, 99};
  *protocol = choices[any(in, 4)];
  *extra = any(in, 8) == 0 ? (v4 ? 4 : 8) * (size_t)any(in, 3) : 0;
  size_t len = (v4 ? 20 : 40) + *extra;
  memset(out, 0, len);
  if (v4) {
    out[0] = (uint8_t)(0x40 | len / 4), out[1] = (uint8_t)any(in, 4), out[8] = (uint8_t)any(in, 3), out[9] = *protocol;
    put16(out + 4, any(in, 4)), put16(out + 6, any(in, 3) == 0 ? any(in, 65536) : 0x4000);
    memcpy(out + 12, host4[src], 4), memcpy(out + 16, host4[!src], 4);
    memset(out + 20, 1, *extra);
  } else {
    out[0] = 0x60, out[1] = (uint8_t)(any(in, 4) << 4), out[6] = *extra > 0 ? 0 : *protocol,
    out[7] = (uint8_t)any(in, 3);
    memcpy(out + 8, host6[src], 16), memcpy(out + 24, host6[!src], 16);
    if (*extra > 0) out[40] = *protocol, out[41] = (uint8_t)(*extra / 8 - 1);
  }
  return len;
}

size_t any_packet(input *in, bool from_here, uint8_t *out, size_t payload_max) {
  uint8_t protocol;
  size_t extra, l4 = any_ip_header(in, from_here, out, &protocol, &extra), options = 0;
  uint16_t from = (uint16_t)any(in, 3), to = (uint16_t)any(in, 3);
  size_t payload = payload_max == 0 ? 0 : any(in, (uint32_t)payload_max), transport = 8;
  if (protocol == TCP) options = any(in, 4) == 0 ? 4 * (size_t)any(in, 11) : 0, transport = 20 + options;
  uint8_t *at = out + l4;
  memset(at, 0, transport);
  put16(at, from_here ? from : to), put16(at + 2, from_here ? to : from);
  if (protocol == TCP)
    put32(at + 4, any(in, 65536)), at[12] = (uint8_t)(transport / 4 << 4), at[13] = (uint8_t)any(in, 256);
  if (protocol == UDP) put16(at + 4, (uint32_t)(8 + payload));
  if (protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6) at[0] = (uint8_t)any(in, 256), put16(at + 4, from);
  for (size_t i = 0; i < payload; i++) at[transport + i] = (uint8_t)(i * 7 + from);
  if (in->left > 0 && any(in, 8) == 0) { /* a quotation, or whatever else comes */
    size_t given = in->left < payload ? in->left : payload;
    for (size_t i = 0; i < given; i++) at[transport + i] = (uint8_t)any(in, 256);
  }
  size_t len = l4 + transport + payload;
  fit_length(out, len);
  if (out[0] >> 4 == 4) put16(out + 10, checksum(out, (size_t)(out[0] & 15) * 4, 0));
  set_transport_checksum(out, len);
  return len;
}

void set_transport_checksum(uint8_t *ip, size_t len) {
  packet p;
  if (!packet_parse(ip, len, &p) || p.fragment) return;
  bool tcp = p.protocol == TCP, udp = p.protocol == UDP,
       icmp = p.protocol == IPPROTO_ICMP || p.protocol == IPPROTO_ICMPV6;
  if (!tcp && !udp && !icmp) return;
  uint8_t *field = ip + p.l4 + (tcp ? 16 : udp ? 6 : 2);
  put16(field, 0);
  uint16_t sum = transport_residue(ip, len, &p);
  put16(field, udp && sum == 0 ? 0xffff : sum);
}

void require_acceptable(const struct virtio_net_hdr *vnet, const uint8_t *data, size_t len) {
  packet p;
  require(packet_parse(data, len, &p), "something that is no packet in the TUN");
  require(header_sum_is_right(data) || vnet->gso_type == VIRTIO_NET_HDR_GSO_NONE,
          "a super-packet with a wrong checksum");
  if (vnet->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
    require((size_t)vnet->csum_start + vnet->csum_offset + 2 <= len && vnet->csum_start == p.l4, "a checksum nowhere");
  if (vnet->gso_type == VIRTIO_NET_HDR_GSO_NONE) return;
  uint8_t gso = vnet->gso_type & (uint8_t)~VIRTIO_NET_HDR_GSO_ECN;
  size_t headers = (size_t)p.l4 + p.l4_header;
  require(vnet->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM, "a super-packet whose checksum is made already");
  require(vnet->hdr_len == headers && !p.fragment, "a super-packet with wrong headers");
  require(vnet->gso_size > 0 && len - headers > vnet->gso_size, "a super-packet of one segment");
  bool tcp4 = gso == VIRTIO_NET_HDR_GSO_TCPV4 && p.family == 4 && p.protocol == TCP;
  bool tcp6 = gso == VIRTIO_NET_HDR_GSO_TCPV6 && p.family == 6 && p.protocol == TCP;
  require(tcp4 || tcp6 || (gso == VIRTIO_NET_HDR_GSO_UDP_L4 && p.protocol == UDP), "a super-packet of another kind");
}
