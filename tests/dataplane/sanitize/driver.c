/* Feeds the engine with noise under a sanitizer: sealed plaintexts that are random, or packets with a few bytes changed;
 * datagrams with flipped bits; frames that are cut; UDP messages of many datagrams, joined as the kernel does
 * (GSO, and GRO at the engine's socket); packets from the TUN with offloads that lie, or in crowds that are joined. Meanwhile another thread rekeys, cuts sessions, takes an interconnect away and back, lists flows
 * and decides about them.
 *
 *   driver AEAD SEED ROUNDS     prints the counters as "name value" lines; the sanitizer ends it at the first fault */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/udp.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "drivers.h"

#ifndef UDP_GRO
#define UDP_SEGMENT 103
#define UDP_GRO 104
#endif

enum { VNI = 5, OTHER = 6, RELAY = 1, FRAME = 1 << 18 };

static kdp_engine *engine;
static aead_key *peer;
static _Atomic uint32_t live_session, live_epoch;
static _Atomic bool stop;
static uint64_t state;

static uint32_t any(uint32_t below) { /* splitmix64: the same noise for the same seed; main thread only */
  uint64_t z = state += 0x9e3779b97f4a7c15ull;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull, z = (z ^ z >> 27) * 0x94d049bb133111ebull;
  return (uint32_t)((z ^ z >> 31) % below);
}

static uint32_t open_session(void) {
  uint32_t index;
  const uint8_t from4[16] = {10, 0, 0, 2}, from6[16] = {0xfd, [15] = 2};
  check(kdp_session_add(engine, VNI, &index) == 0, "session_add");
  kdp_session_remote(engine, index, 77);
  kdp_session_lease(engine, index, 4, from4, 32, KDP_NEVER);
  kdp_session_lease(engine, index, 6, from6, 128, KDP_NEVER);
  kdp_fib_add(engine, VNI, 4, from4, 32, index);
  kdp_fib_add(engine, VNI, 6, from6, 128, index);
  check(install_key(engine, index, 0, false) == 1, "session_rx");
  check(install_key(engine, index, 0, true) == 1, "session_tx");
  kdp_session_path(engine, index, KDP_PATH_RELAY, NULL, RELAY, 1);
  return index;
}

/* What stands in `there` as {10.0.0, fd::} stands here one network further. */
static void join(uint32_t here, uint8_t by, uint32_t there) {
  kdp_mapping_add(engine, here, 4, 24, (uint8_t[16]){10, 0, by}, there, (uint8_t[16]){10});
  kdp_mapping_add(engine, here, 6, 64, (uint8_t[16]){0xfd, [7] = by}, there, (uint8_t[16]){0xfd});
}

static void add_vni(uint32_t id, int tun, uint8_t bits4, uint8_t bits6) {
  check(kdp_vni_add(engine, id, tun) == 0, "vni_add");
  kdp_fib_add(engine, id, 4, (uint8_t[16]){10, 0, 0, 1}, bits4, KDP_NEXT_HOP_LOCAL);
  kdp_fib_add(engine, id, 6, (uint8_t[16]){0xfd, [15] = 1}, bits6, KDP_NEXT_HOP_LOCAL);
}

/* -- packets that look right, then do not ------------------------------------------------------------------------- */

static size_t make_packet(uint8_t *out, bool from_peer) {
  bool v4 = any(2);
  size_t ip = v4 ? 20 : 40, payload = any(4) == 0 ? any(3000) : any(200);
  uint8_t network = any(4) == 0 ? (uint8_t)(1 + any(2)) : 0;
  uint8_t protocol = (uint8_t[]){6, 17, v4 ? 1 : 58, 44, 0, 99}[any(6)];
  size_t len = ip + 20 + payload;
  memset(out, 0, len);
  out[0] = v4 ? 0x45 : 0x60;
  if (v4) {
    put16(out + 2, (uint32_t)len), out[8] = (uint8_t)any(4), out[9] = protocol;
    if (any(8) == 0) put16(out + 6, any(65536));
    memcpy(out + 12, (uint8_t[]){10, 0, 0, from_peer ? 2 : 1}, 4),
        memcpy(out + 16, (uint8_t[]){10, 0, network, from_peer ? 1 : 2}, 4);
  } else {
    put16(out + 4, (uint32_t)(len - 40)), out[6] = protocol, out[7] = (uint8_t)any(4);
    out[8] = out[24] = 0xfd, out[31] = network, out[23] = from_peer ? 2 : 1, out[39] = from_peer ? 1 : 2;
  }
  uint8_t *l4 = out + ip;
  put16(l4, any(4)), put16(l4 + 2, any(4)), l4[12] = (uint8_t)((5 + any(3)) << 4), l4[13] = (uint8_t)any(256);
  if (protocol == 1 || protocol == 58) l4[0] = (uint8_t)any(16);
  for (uint32_t changes = any(4); changes > 0; changes--) out[any((uint32_t)(len < 80 ? len : 80))] = (uint8_t)any(256);
  return any(16) == 0 ? any((uint32_t)len) + 1 : len;
}

static size_t make_plain(uint8_t *out) {
  if (any(5) == 0) {
    size_t len = any(1500);
    for (size_t i = 0; i < len; i++) out[i] = (uint8_t)any(256);
    return len;
  }
  size_t len = make_packet(out, true);
  uint8_t kind = (uint8_t)any(8);
  uint32_t headers = (uint32_t[]){0, 28, 40, 48, 60, 255}[any(6)], count = 1 + any(4);
  if (kind > SEG_PARTIAL && headers < len) { /* the template goes behind the payload */
    uint8_t template[256];
    memcpy(template, out, headers);
    memmove(out, out + headers, len - headers);
    memcpy(out + len - headers, template, headers);
  }
  uint8_t *trailer = out + len;
  trailer[0] = kind, trailer[1] = (uint8_t)headers;
  put16(trailer + 2, any(3) ? (uint32_t)(len - headers) : any(65536));
  put16(trailer + 4, any(3) ? any(count) : any(65536)), put16(trailer + 6, any(8) ? count : any(65536));
  return len + TRAILER_LEN;
}

static uint64_t counter; /* of the next datagram that is made */

static size_t make_datagram(uint8_t *out) {
  uint8_t plain[4096];
  uint8_t type = any(12) ? DG_DATA : (uint8_t)any(6);
  size_t len = make_plain(plain);
  uint64_t number = any(200) ? counter++ : (uint64_t)any(1 << 20) << any(44);
  len = seal_datagram(peer, out, type, atomic_load(&live_epoch), atomic_load(&live_session), number, plain, len);
  if (any(10) == 0) out[any((uint32_t)len)] ^= (uint8_t)(1 << any(8));
  return any(30) == 0 ? any((uint32_t)len) : len;
}

/* -- the ways in --------------------------------------------------------------------------------------------------- */

static void put_frame(uint8_t *frame) {
  size_t used = 0;
  for (uint32_t n = 1 + any(20); n > 0; n--) {
    size_t len = make_datagram(frame + used + 2);
    put16(frame + used, any(200) ? (uint32_t)len : any(65536));
    used += 2 + len;
  }
  if (any(20) == 0) used -= any((uint32_t)used);
  uint8_t *exact = malloc(used + 1); /* so that a read past the frame is a read past an allocation */
  memcpy(exact, frame, used);
  kdp_relay_put(engine, RELAY, exact, used);
  free(exact);
}

static int udp, peer_udp;
static struct sockaddr_in engine_address;
static long joined; /* messages of several datagrams that came to the peer as one */

static int loopback_socket(struct sockaddr_in *address) {
  int made = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
  socklen_t len = sizeof *address;
  *address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  check(made >= 0 && bind(made, (struct sockaddr *)address, len) == 0, "socket");
  check(getsockname(made, (struct sockaddr *)address, &len) == 0, "getsockname");
  return made;
}

static void open_udp(void) {
  struct sockaddr_in peer_address;
  int on = 0;
  socklen_t len = sizeof on;
  udp = loopback_socket(&engine_address), peer_udp = loopback_socket(&peer_address);
  check(kdp_set_udp(engine, udp) == 0, "set_udp");
  check(getsockopt(udp, IPPROTO_UDP, UDP_GRO, &on, &len) == 0 && on == 1, "GRO");
  check(setsockopt(peer_udp, IPPROTO_UDP, UDP_GRO, &on, sizeof on) == 0, "GRO of the peer");
}

/* Datagrams of one size and one plaintext, as segments that follow each other; the last may be shorter. */
static void put_udp(void) {
  static uint8_t plain[4096], bytes[1 << 16];
  size_t len = make_plain(plain), size = HEADER_LEN + len + TAG_LEN, used = 0;
  for (uint32_t n = 1 + any(GSO_SEGMENTS_MAX); n > 0 && used + size <= UDP_PAYLOAD_MAX; n--, used += size) {
    uint8_t *at = bytes + used;
    if (len >= TRAILER_LEN && any(8)) put16(plain + len - 4, (uint32_t)(used / size));
    seal_datagram(peer, at, DG_DATA, atomic_load(&live_epoch), atomic_load(&live_session), counter++, plain, len);
  }
  if (used > size && any(4) == 0) used -= any((uint32_t)size);
  union {
    char room[CMSG_SPACE(sizeof(uint16_t))];
    struct cmsghdr align;
  } control = {0};
  struct iovec part = {bytes, used};
  struct msghdr message = {.msg_name = &engine_address, .msg_namelen = sizeof engine_address, .msg_iov = &part};
  message.msg_iovlen = 1, message.msg_control = control.room, message.msg_controllen = sizeof control.room;
  struct cmsghdr *c = CMSG_FIRSTHDR(&message);
  c->cmsg_level = IPPROTO_UDP, c->cmsg_type = UDP_SEGMENT, c->cmsg_len = CMSG_LEN(sizeof(uint16_t));
  memcpy(CMSG_DATA(c), &(uint16_t){(uint16_t)size}, sizeof(uint16_t));
  if (sendmsg(peer_udp, &message, 0) < 0) check(errno == EAGAIN || errno == EMSGSIZE, "sendmsg");
}

static void drain_udp(void) {
  static uint8_t sink[1 << 16];
  char control[CMSG_SPACE(sizeof(int))];
  for (;;) {
    struct iovec part = {sink, sizeof sink};
    struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t n = recvmsg(peer_udp, &m, 0);
    if (n < 0) return;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c != NULL; c = CMSG_NXTHDR(&m, c)) {
      int size = 0;
      if (c->cmsg_type == UDP_GRO) memcpy(&size, CMSG_DATA(c), sizeof size);
      if (size > 0 && size < n) joined++;
    }
  }
}

static void put_tun(int tun) {
  uint8_t bytes[sizeof(struct virtio_net_hdr) + 4096];
  struct virtio_net_hdr vnet = {0};
  if (any(2)) {
    vnet.flags = (uint8_t)any(2), vnet.gso_type = (uint8_t[]){0, 1, 3, 4, 5, 0x81}[any(6)];
    vnet.gso_size = (uint16_t)(any(4) ? 1 + any(1500) : any(65536)), vnet.hdr_len = (uint16_t)any(100);
  }
  memcpy(bytes, &vnet, sizeof vnet);
  size_t len = make_packet(bytes + sizeof vnet, false);
  if (write(tun, bytes, sizeof vnet + len) < 0 && errno != EAGAIN) check(false, "write to the TUN");
}

/* UDP packets that can be joined, with some between them that cannot. Network 1 is across the interconnect. */
static void put_crowd(int tun) {
  uint8_t bytes[sizeof(struct virtio_net_hdr) + 1500] = {0}, *ip = bytes + sizeof(struct virtio_net_hdr);
  struct virtio_net_hdr vnet = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 20, .csum_offset = 6};
  uint8_t network = (uint8_t)any(2), port = (uint8_t)any(16);
  size_t usual = any(1400);
  for (uint32_t n = 0, crowd = any(100); n < crowd; n++) {
    size_t payload = any(20) ? usual : any(1400), len = 28 + payload;
    memcpy(bytes, &vnet, sizeof vnet);
    ip[0] = 0x45, ip[1] = any(40) == 0, ip[8] = 9, ip[9] = 17;
    put16(ip + 2, (uint32_t)len), put16(ip + 4, any(40) ? n : any(65536)), put16(ip + 6, any(40) ? 0 : any(65536));
    memcpy(ip + 12, (uint8_t[]){10, 0, 0, 1, 10, 0, network, 2, 0, port, 0, (uint8_t)(any(40) == 0)}, 12);
    put16(ip + 24, any(40) ? (uint32_t)payload + 8 : any(65536));
    if (write(tun, bytes, sizeof vnet + len) < 0) return; /* full */
  }
}

static void drain(int tun) {
  static uint8_t sink[1 << 17];
  while (read(tun, sink, sizeof sink) > 0) continue;
  while (kdp_relay_take(engine, RELAY, sink, sizeof sink) > 0) continue;
  drain_udp();
}

/* -- the daemon ---------------------------------------------------------------------------------------------------- */

static void *daemon_main(void *unused) {
  static kdp_event events[64];
  static kdp_flow flows[256];
  uint32_t epoch = 0, turn = 0;
  while (!atomic_load(&stop)) {
    int n = kdp_events(engine, events, 64);
    for (int i = 0; i < n; i++)
      if (events[i].type == KDP_EVENT_FLOW && ++turn % 8 != 0)
        kdp_flow_verdict(engine, events[i].flow.id, turn % 3 == 0 ? KDP_DENY : KDP_ALLOW, 1, 1, KDP_NEVER);
    uint32_t index = atomic_load(&live_session);
    epoch++;
    install_key(engine, index, epoch, false);
    install_key(engine, index, epoch, true);
    atomic_store(&live_epoch, epoch);
    if (epoch % 7 == 0) kdp_keys_retire(engine, epoch - 3, &index, 1);
    if (epoch % 9 == 0) kdp_mapping_remove(engine, OTHER, 4, 24, (uint8_t[16]){10, 0, 2});
    if (epoch % 9 == 1) join(OTHER, 2, VNI);
    if (epoch % 50 == 0) {
      kdp_session_cut(engine, index);
      atomic_store(&live_session, open_session());
      atomic_store(&live_epoch, epoch = 0);
    }
    if (epoch % 13 == 0) kdp_session_until(engine, index, clock_ms());
    if (epoch % 13 == 1) kdp_session_until(engine, index, KDP_NEVER);
    if (epoch % 17 == 0) kdp_session_lease(engine, index, 4, (uint8_t[16]){10, 0, 0, 2}, 32, clock_ms() + epoch % 2);
    if (epoch % 17 == 1) kdp_session_lease(engine, index, 4, (uint8_t[16]){10, 0, 0, 2}, 32, KDP_NEVER);
    kdp_flows_alive(engine, (uint64_t[]){epoch, 1ull << 32 | epoch}, 2);
    kdp_flows_find(engine, (uint64_t[]){epoch, 1ull << 32 | epoch}, 2, flows);
    long listed = kdp_flows(engine, &(uint32_t){0}, flows, 256);
    if (listed > 0)
      kdp_flow_verdict(engine, flows[epoch % (uint32_t)listed].id, KDP_ALLOW, 2, 2, epoch % 5 == 0 ? 0 : KDP_NEVER);
    kdp_control_send(engine, index, DG_KEEPALIVE, key, sizeof key, 0, NULL, 0);
    kdp_control_send(engine, index, DG_PROBE, key, sizeof key, (uint16_t)(epoch % 9000), NULL, 0);
    kdp_session_limit(engine, index, (uint16_t)(epoch % 3 == 0 ? 0 : 576 + epoch % 900));
    usleep(200); /* the packet threads get their turns */
  }
  return unused;
}

int main(int argc, char **argv) {
  char error[200];
  check(argc == 4, "usage: driver AEAD SEED ROUNDS;");
  state = strtoull(argv[2], NULL, 10);
  engine = kdp_create(argv[1], 1 << 12, error, sizeof error);
  check(engine != NULL, error);
  peer = aead_key_new(key, iv);
  int pair[2], other[2];
  open_pair(pair);
  open_pair(other);
  setsockopt(other[1], SOL_SOCKET, SO_SNDBUF, &(int){1}, sizeof(int)); /* refuses super-packets above 4.5 KB */
  add_vni(VNI, pair[1], 32, 128), add_vni(OTHER, other[1], 24, 64);
  join(VNI, 1, OTHER), join(OTHER, 2, VNI);
  check(kdp_relay_add(engine, RELAY) == 0, "relay_add");
  open_udp();
  atomic_store(&live_session, open_session());
  pthread_t daemon;
  check(pthread_create(&daemon, NULL, daemon_main, NULL) == 0, "thread");
  uint8_t *frame = malloc(FRAME);
  for (long round = strtol(argv[3], NULL, 10); round > 0; round--) {
    if (any(2))
      put_frame(frame);
    else
      put_udp();
    if (round % 8 == 0) kdp_settle(engine); /* else most would find no room */
    put_tun(any(4) ? pair[0] : other[0]);
    if (any(40) == 0) put_crowd(pair[0]);
    if (any(4) == 0) drain(pair[0]), drain(other[0]);
  }
  atomic_store(&stop, true);
  pthread_join(daemon, NULL);
  printf("joined %ld\n", joined);
  print_counters(engine);
  kdp_vni_remove(engine, VNI);
  kdp_relay_remove(engine, RELAY);
  kdp_destroy(engine);
  aead_key_free(peer);
  free(frame);
  close(pair[0]), close(pair[1]), close(other[0]), close(other[1]), close(udp), close(peer_udp);
  return 0;
}
