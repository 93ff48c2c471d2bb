/* The TUN. UDP packets of one flow and one size that wait there together are joined to one super-packet: it is judged,
 * routed and written once at either end, where a system call for each packet is what small packets cost. On the network
 * each remains a datagram of its own. */
#include <sys/epoll.h>
#include <unistd.h>

#include "internal.h"

enum { RETRY_FIRST_MS = 100, RETRY_LAST_MS = 5000, RETRY_DOUBLINGS = 8, FAILURES_TOLD = 4 };
enum { UDP4_HEADERS = 28, UDP6_HEADERS = 48, IP4_DF = 0x4000, SUPER_MAX = 65000 };

/* Packets that are being joined: the first with its headers, of the others the payload behind it. */
typedef struct {
  struct virtio_net_hdr vnet; /* of the first */
  uint8_t *data;
  size_t headers, len;
  uint16_t size, count; /* payload bytes of each but the last, which may be shorter; count 0: there is no train */
} train;

/* What others may join. The checksum must be ours to make: one that came over a wire is not repaired by being computed
 * again. */
static bool may_lead(const struct virtio_net_hdr *vnet, const uint8_t *data, size_t len, train *t) {
  packet p;
  if (vnet->gso_type != VIRTIO_NET_HDR_GSO_NONE || !(vnet->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)) return false;
  if (!packet_parse(data, len, &p) || p.protocol != IPPROTO_UDP || p.fragment) return false;
  size_t headers = (size_t)p.l4 + p.l4_header;
  if (headers != (p.family == 4 ? UDP4_HEADERS : UDP6_HEADERS) || headers >= len) return false;
  if (get16(data + p.l4 + 4) != len - p.l4) return false;
  *t = (train){.vnet = *vnet, .headers = headers, .len = len, .size = (uint16_t)(len - headers), .count = 1};
  return true;
}

/* RFC 6864: the id of an IPv4 packet that must not be fragmented says nothing; the others are numbered one by one. */
static bool same_flow4(const train *t, const uint8_t *data, size_t len) {
  const uint8_t *first = t->data;
  bool numbered = get16(first + 6) == IP4_DF || get16(data + 4) == (uint16_t)(get16(first + 4) + t->count);
  return numbered && get16(data + 2) == len && get16(data + 24) == len - 20 && memcmp(data, first, 2) == 0 &&
         memcmp(data + 6, first + 6, 4) == 0 && memcmp(data + 12, first + 12, 12) == 0;
}

static bool same_flow6(const train *t, const uint8_t *data, size_t len) {
  const uint8_t *first = t->data;
  return get16(data + 4) == len - 40 && get16(data + 44) == len - 40 && memcmp(data, first, 4) == 0 &&
         memcmp(data + 6, first + 6, 38) == 0;
}

/* A flow that nobody has decided yet waits packet by packet: a super-packet is too large to be parked. */
static bool is_allowed(kdp_engine *e, const lane *l, const vni *v, const train *t) {
  packet p;
  return packet_parse(t->data, t->len, &p) && flows_allow(e, l, v->id, &p);
}

static bool extends(kdp_engine *e, const lane *l, const vni *v, const train *t, const struct virtio_net_hdr *vnet,
                    const uint8_t *data, size_t len) {
  if (t->count == 0 || t->count == GSO_SEGMENTS_MAX || len <= t->headers) return false;
  size_t payload = len - t->headers;
  bool full = t->len == t->headers + (size_t)t->size * t->count; /* none but the last may be short */
  if (!full || payload > t->size || t->len + payload > SUPER_MAX) return false;
  if (memcmp(vnet, &t->vnet, sizeof *vnet) != 0) return false;
  if (!(t->headers == UDP4_HEADERS ? same_flow4(t, data, len) : same_flow6(t, data, len))) return false;
  return t->count > 1 || is_allowed(e, l, v, t);
}

static bool forward_train(kdp_engine *e, lane *l, vni *v, train *t) {
  bool joined = t->count > 1;
  if (joined) {
    packet_set_udp_length(t->data, t->headers - UDP_HEADER, t->len);
    t->vnet.gso_type = VIRTIO_NET_HDR_GSO_UDP_L4, t->vnet.gso_size = t->size;
    t->vnet.hdr_len = (uint16_t)t->headers;
  }
  if (t->count > 0) forward(e, l, v, NULL, &t->vnet, t->data, t->len);
  t->count = 0;
  return joined;
}

static void tell(kdp_engine *e, lane *l, vni *v, int error) {
  kdp_event event = {.type = KDP_EVENT_TUN, .vni = v->id, .error = (uint32_t)error};
  if (!events_put(e->events, &v->share, &event)) count(l, C_drop_event_full);
}

/* The interface may have been taken away, or the kernel may be out of memory for a moment. It would be ready all the time,
 * so it is not waited for until it is tried again. */
static void rest(kdp_engine *e, lane *l, vni *v, int error) {
  count(l, C_tun_read_errors);
  uint64_t pause = v->failures < RETRY_DOUBLINGS ? (uint64_t)RETRY_FIRST_MS << v->failures : RETRY_LAST_MS;
  v->retry_ms = l->now_ms + (pause < RETRY_LAST_MS ? pause : RETRY_LAST_MS);
  e->resting++;
  epoll_ctl(e->watch_tx, EPOLL_CTL_DEL, v->tun, NULL);
  if (++v->failures == FAILURES_TOLD) tell(e, l, v, error);
}

static void recover(kdp_engine *e, lane *l, vni *v) {
  if (v->failures >= FAILURES_TOLD) tell(e, l, v, 0);
  v->failures = 0;
}

void tuns_retry(kdp_engine *e, lane *l) {
  for (uint32_t i = 0; i < VNIS_MAX && e->resting > 0; i++) {
    vni *v = e->vnis[i];
    if (v == NULL || v->retry_ms == 0 || v->retry_ms > l->now_ms) continue;
    struct epoll_event watch = {.events = EPOLLIN, .data.u32 = v->id};
    v->retry_ms = 0;
    e->resting--;
    if (epoll_ctl(e->watch_tx, EPOLL_CTL_ADD, v->tun, &watch) != 0) rest(e, l, v, errno);
  }
}

bool tun_read(kdp_engine *e, lane *l, vni *v, uint8_t *buffer) {
  train t = {.count = 0};
  bool joined = false, drained = false;
  struct virtio_net_hdr vnet;
  for (int i = 0; i < BATCH && !config_is_wanted(e); i++) {
    uint8_t *end = t.count == 0 ? buffer : t.data + t.len, *data = end + sizeof vnet;
    ssize_t n = read(v->tun, end, sizeof vnet + PACKET_MAX);
    if (unlikely(n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))) rest(e, l, v, n == 0 ? ENODEV : errno);
    drained = n <= 0;
    if (drained) break;
    if (unlikely(v->failures > 0)) recover(e, l, v);
    if (unlikely(n <= (ssize_t)sizeof vnet)) {
      count(l, C_drop_bad_packet);
      continue;
    }
    size_t len = (size_t)n - sizeof vnet;
    memcpy(&vnet, end, sizeof vnet);
    if (extends(e, l, v, &t, &vnet, data, len)) {
      memmove(end, data + t.headers, len - t.headers);
      t.len += len - t.headers, t.count++;
      continue;
    }
    joined |= forward_train(e, l, v, &t);
    if (may_lead(&vnet, data, len, &t))
      t.data = memmove(buffer, data, len);
    else
      forward(e, l, v, NULL, &vnet, data, len);
  }
  joined |= forward_train(e, l, v, &t);
  return joined && drained;
}

/* A kernel before 6.2 refuses a UDP super-packet: its datagrams go one by one, each with its headers right before its
 * payload, over what has been written. */
static void write_apart(lane *l, const vni *v, const struct virtio_net_hdr *super, uint8_t *data, size_t len,
                        const packet *p) {
  struct virtio_net_hdr vnet = *super;
  vnet.gso_type = VIRTIO_NET_HDR_GSO_NONE, vnet.gso_size = vnet.hdr_len = 0;
  size_t headers = (size_t)p->l4 + UDP_HEADER, size = super->gso_size;
  for (size_t at = headers; at < len; at += size) {
    uint8_t *piece = data + at - headers;
    size_t piece_len = headers + (len - at < size ? len - at : size);
    if (at > headers) memmove(piece, piece - size, headers);
    if (at > headers && p->family == 4) put16(piece + 4, (uint32_t)get16(piece + 4) + 1);
    packet_set_udp_length(piece, p->l4, piece_len);
    tun_write(l, v, &vnet, piece, piece_len, p);
  }
}

static bool is_udp_super(const struct virtio_net_hdr *vnet, const packet *p) {
  return vnet->gso_type == VIRTIO_NET_HDR_GSO_UDP_L4 && vnet->gso_size > 0 && p->l4_header == UDP_HEADER;
}

void tun_write(lane *l, const vni *v, const struct virtio_net_hdr *vnet, uint8_t *data, size_t len, const packet *p) {
  struct iovec parts[2] = {{(void *)(uintptr_t)vnet, sizeof *vnet}, {data, len}};
  if (likely(writev(v->tun, parts, 2) >= 0)) {
    volume told = volume_of(vnet, len, p);
    count_n(l, C_rx_packets, told.packets);
    count_n(l, C_rx_bytes, told.bytes);
  } else if (is_udp_super(vnet, p) && (errno == EINVAL || errno == EMSGSIZE)) {
    write_apart(l, v, vnet, data, len, p);
  } else {
    count(l, C_drop_tun_write);
  }
}
