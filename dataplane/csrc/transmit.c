/* Inner packets out: cut a super-packet at gso_size, seal every piece as a datagram of its own, hand the datagrams to
 * the outbox (UDP, as GSO messages) or to a relay queue. docs/protocol.md section 6 gives the layout. */
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <stdlib.h>

#include "internal.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif

typedef struct {
  uint8_t kind;
  uint16_t template_len, gso_size, count;
} cut;

static void put_trailer(uint8_t *at, const cut *c, uint16_t index) {
  at[0] = c->kind, at[1] = (uint8_t)c->template_len;
  put16(at + 2, c->gso_size), put16(at + 4, index), put16(at + 6, c->count);
}

static void put_header(uint8_t *at, uint8_t type, const session *s, uint64_t counter) {
  at[0] = type, at[1] = 0;
  put16(at + 2, s->tx_epoch), put32(at + 4, atomic_load_explicit(&s->remote, memory_order_relaxed)),
      put64(at + 8, counter);
}

size_t transmit_max(const session *s) {
  uint16_t limit = atomic_load_explicit(&s->limit, memory_order_relaxed);
  return likely(limit == 0) ? SIZE_MAX : (size_t)limit - DATA_OVERHEAD;
}

/* Pieces of a SYN or RST would each begin or end the connection. Each piece gets a checksum of its own, so a packet whose own
 * is wrong would arrive repaired. */
static bool may_be_cut(const struct virtio_net_hdr *vnet, const uint8_t *data, size_t len, const packet *p) {
  if (p->protocol == IPPROTO_TCP && (p->tcp_flags & (TH_SYN | TH_RST)) != 0) return false;
  if (vnet->gso_type != VIRTIO_NET_HDR_GSO_NONE || (vnet->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) != 0) return true;
  size_t l4_len = len - p->l4;
  return checksum(data + p->l4, l4_len, pseudo_sum(p->family, p->src, p->dst, p->protocol, (uint32_t)l4_len)) == 0;
}

/* How the packet is cut, so that no piece with its headers is longer than `most`. Only TCP can be cut anywhere. false: it
 * cannot be carried. */
static bool plan(const struct virtio_net_hdr *vnet, const uint8_t *data, size_t len, const packet *p, size_t most,
                 cut *c) {
  uint8_t gso = vnet->gso_type & (uint8_t)~VIRTIO_NET_HDR_GSO_ECN;
  *c = (cut){.kind = vnet->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM ? SEG_PARTIAL : SEG_WHOLE, .count = 1};
  bool tcp = p->protocol == IPPROTO_TCP && (gso == VIRTIO_NET_HDR_GSO_TCPV4 || gso == VIRTIO_NET_HDR_GSO_TCPV6);
  bool udp = p->protocol == IPPROTO_UDP && gso == VIRTIO_NET_HDR_GSO_UDP_L4;
  size_t headers = (size_t)p->l4 + p->l4_header, step = vnet->gso_size;
  bool cuttable = !p->fragment && headers <= TEMPLATE_MAX && headers < len;
  if (gso == VIRTIO_NET_HDR_GSO_NONE) {
    if (likely(len <= most) || p->protocol != IPPROTO_TCP || !cuttable) return true;
    if (!may_be_cut(vnet, data, len, p)) return true;
    tcp = true, step = most - headers;
  }
  if (!(tcp || udp) || !cuttable || step == 0) return false;
  if (tcp && unlikely(headers + step > most)) step = most - headers;
  size_t count = (len - headers + step - 1) / step;
  if (count > 1 && !may_be_cut(vnet, data, len, p)) return false;
  if (count == 1) {
    c->kind = SEG_PARTIAL;
    return true;
  }
  c->kind = (uint8_t)(tcp ? (p->family == 4 ? SEG_TCP4 : SEG_TCP6) : (p->family == 4 ? SEG_UDP4 : SEG_UDP6));
  c->template_len = (uint16_t)headers, c->gso_size = (uint16_t)step, c->count = (uint16_t)count;
  return true;
}

typedef struct {
  uint8_t kind, ecn;
  uint32_t relay;
  struct sockaddr_storage to;
  socklen_t to_len;
} route;

static route route_of(session *s) {
  pthread_mutex_lock(&s->path_lock);
  route r = {.kind = s->path, .relay = s->relay, .to = s->to, .to_len = s->to_len};
  pthread_mutex_unlock(&s->path_lock);
  return r;
}

/* Room for one datagram of `len` bytes at the end of the outbox; flushed first when there is none. */
static uint8_t *outbox_room(kdp_engine *e, lane *l, size_t len) {
  if (l->out.used + len > OUTBOX_BYTES || l->out.count == BATCH) outbox_flush(e, l);
  return l->out.bytes + l->out.used;
}

/* The datagram written there joins the last message when size and address allow: one system call then sends both. */
static void outbox_add(lane *l, const route *r, size_t len) {
  outbox *o = &l->out;
  if (o->count > 0) {
    outbox_message *m = &o->message[o->count - 1];
    bool same = m->ecn == r->ecn && m->to_len == r->to_len && memcmp(&m->to, &r->to, r->to_len) == 0;
    if (same && !m->closed && len <= m->segment && m->segments < GSO_SEGMENTS_MAX && m->len + len <= UDP_PAYLOAD_MAX) {
      m->len += len, m->segments++, o->used += len;
      m->closed = len < m->segment;
      return;
    }
  }
  outbox_message *m = &o->message[o->count++];
  m->offset = o->used, m->len = len, m->segment = len, m->segments = 1, m->closed = false;
  memcpy(&m->to, &r->to, r->to_len);
  m->to_len = r->to_len, m->ecn = r->ecn;
  o->used += len;
}

/* Nothing leaves in the name of a session, or under a key, that is over. */
static bool may_seal(lane *l, const session *to) {
  if (unlikely(to->tx_key == NULL))
    count(l, C_drop_no_key);
  else if (unlikely(session_is_over(to, l->now_ms)))
    count(l, C_drop_expired_session);
  else if (unlikely(is_over(to->tx_not_after_ms, l->now_ms)))
    count(l, C_drop_expired_key);
  else
    return true;
  return false;
}

void transmit(kdp_engine *e, lane *l, session *to, const struct virtio_net_hdr *vnet, const uint8_t *data, size_t len,
              const packet *p) {
  cut c;
  if (unlikely(!plan(vnet, data, len, p, transmit_max(to), &c))) {
    count(l, C_drop_too_large);
    return;
  }
  if (unlikely(!may_seal(l, to))) return;
  route r = route_of(to);
  if (unlikely(r.kind == KDP_PATH_NONE || (r.kind == KDP_PATH_DIRECT && e->udp < 0))) {
    count(l, C_drop_no_path);
    return;
  }
  r.ecn = packet_ecn(data); /* RFC 6040: the outer header says whether the inner sender understands congestion marks */
  uint64_t counter = atomic_fetch_add_explicit(&to->tx_counter, c.count, memory_order_relaxed);
  const uint8_t *payload = data + c.template_len;
  size_t left = len - c.template_len, step = c.count == 1 ? left : c.gso_size;
  for (uint16_t index = 0; index < c.count; index++) {
    size_t piece = left < step ? left : step, plain = piece + c.template_len + TRAILER_LEN;
    uint8_t *at = outbox_room(e, l, HEADER_LEN + plain + TAG_LEN), *body = at + HEADER_LEN;
    memcpy(body, payload, piece);
    memcpy(body + piece, data, c.template_len);
    put_trailer(body + piece + c.template_len, &c, index);
    put_header(at, DG_DATA, to, counter + index);
    aead_seal(to->tx_key, counter + index, at, body, plain, body);
    if (r.kind == KDP_PATH_DIRECT)
      outbox_add(l, &r, HEADER_LEN + plain + TAG_LEN);
    else
      relay_queue_put(e, l, r.relay, at, HEADER_LEN + plain + TAG_LEN);
    payload += piece, left -= piece;
  }
  volume told = volume_of(vnet, len, p);
  count_n(l, C_tx_packets, told.packets);
  count_n(l, C_tx_bytes, told.bytes);
  count_n(l, C_tx_datagrams, c.count);
}

int transmit_control(kdp_engine *e, lane *l, session *to, uint8_t type, const uint8_t *payload, size_t len, size_t size,
                     const struct sockaddr_storage *addr, socklen_t addr_len, bool via_relay) {
  size_t plain = size > HEADER_LEN + len + TAG_LEN ? size - HEADER_LEN - TAG_LEN : len;
  if (to->tx_key == NULL) return -ENOKEY;
  if (!may_seal(l, to)) return -EKEYEXPIRED;
  route r = route_of(to);
  if (addr != NULL) r.kind = KDP_PATH_DIRECT, r.to = *addr, r.to_len = addr_len;
  if (via_relay) r.kind = KDP_PATH_RELAY;
  if (r.kind == KDP_PATH_NONE || (r.kind == KDP_PATH_DIRECT && e->udp < 0)) return -EHOSTUNREACH;
  uint64_t counter = atomic_fetch_add_explicit(&to->tx_counter, 1, memory_order_relaxed);
  uint8_t *at = outbox_room(e, l, HEADER_LEN + plain + TAG_LEN);
  put_header(at, type, to, counter);
  memcpy(at + HEADER_LEN, payload, len);
  memset(at + HEADER_LEN + len, 0, plain - len);
  aead_seal(to->tx_key, counter, at, at + HEADER_LEN, plain, at + HEADER_LEN);
  if (r.kind == KDP_PATH_DIRECT)
    outbox_add(l, &r, HEADER_LEN + plain + TAG_LEN);
  else
    relay_queue_put(e, l, r.relay, at, HEADER_LEN + plain + TAG_LEN);
  return 0;
}

/* A kernel or device that cannot segment, or a segment above the path's MTU, refuses the whole GSO message: its
 * datagrams may still go one by one, fragmented by IP where they must be. */
static void send_apart(kdp_engine *e, lane *l, const outbox_message *m) {
  const uint8_t *at = l->out.bytes + m->offset;
  for (size_t left = m->len; left > 0;) {
    size_t len = left < m->segment ? left : m->segment;
    if (sendto(e->udp, at, len, 0, (const struct sockaddr *)&m->to, m->to_len) < 0) count(l, C_drop_udp_send);
    at += len, left -= len;
  }
}

typedef union {
  char bytes[CMSG_SPACE(sizeof(uint16_t)) + CMSG_SPACE(sizeof(int))];
  struct cmsghdr align;
} send_control;

static void add_control(struct msghdr *h, int level, int type, const void *value, size_t len) {
  struct cmsghdr *c = (struct cmsghdr *)((char *)h->msg_control + h->msg_controllen);
  c->cmsg_level = level, c->cmsg_type = type, c->cmsg_len = CMSG_LEN(len);
  memcpy(CMSG_DATA(c), value, len);
  h->msg_controllen += CMSG_SPACE(len);
}

static void set_control(struct msghdr *h, const outbox_message *m, send_control *control) {
  uint16_t segment = (uint16_t)m->segment;
  int ecn = m->ecn;
  h->msg_control = control->bytes, h->msg_controllen = 0;
  if (m->segments > 1) add_control(h, IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof segment);
  if (ecn == ECN_NONE) return;
  const struct sockaddr_in6 *to = (const struct sockaddr_in6 *)&m->to;
  if (to->sin6_family == AF_INET6 && !IN6_IS_ADDR_V4MAPPED(&to->sin6_addr))
    add_control(h, IPPROTO_IPV6, IPV6_TCLASS, &ecn, sizeof ecn);
  else
    add_control(h, IPPROTO_IP, IP_TOS, &ecn, sizeof ecn);
}

void outbox_flush(kdp_engine *e, lane *l) {
  outbox *o = &l->out;
  struct mmsghdr messages[BATCH];
  struct iovec vectors[BATCH];
  send_control control[BATCH];
  for (int i = 0; i < o->count; i++) {
    outbox_message *m = &o->message[i];
    vectors[i] = (struct iovec){o->bytes + m->offset, m->len};
    messages[i].msg_hdr =
        (struct msghdr){.msg_name = &m->to, .msg_namelen = m->to_len, .msg_iov = &vectors[i], .msg_iovlen = 1};
    set_control(&messages[i].msg_hdr, m, &control[i]);
  }
  for (int sent = 0; sent < o->count;) {
    int n = sendmmsg(e->udp, messages + sent, (unsigned)(o->count - sent), 0);
    if (n <= 0) { /* the first one failed: the others may still go */
      const outbox_message *m = &o->message[sent];
      if (m->segments > 1 && (errno == EIO || errno == EINVAL || errno == EMSGSIZE))
        send_apart(e, l, m);
      else
        count_n(l, C_drop_udp_send, m->segments);
      n = 1;
    }
    sent += n;
  }
  o->count = 0;
  o->used = 0;
}

void batch_end(kdp_engine *e, lane *l) {
  outbox_flush(e, l);
  events_tell(e->events);
}

static void set_discovery(int udp, int ipv4, int ipv6) {
  setsockopt(udp, IPPROTO_IP, IP_MTU_DISCOVER, &ipv4, sizeof ipv4);
  setsockopt(udp, IPPROTO_IPV6, IPV6_MTU_DISCOVER, &ipv6, sizeof ipv6); /* refused by an IPv4 socket */
}

/* With "want", the kernel's default, a forged "fragmentation needed" stops segmentation offload to a peer for ten minutes. */
void ignore_path_mtu(int udp) {
  set_discovery(udp, IP_PMTUDISC_OMIT, IPV6_PMTUDISC_OMIT);
}

/* The option is the socket's: what another thread sends meanwhile goes whole as well, or is too large for the link. */
void outbox_flush_whole(kdp_engine *e, lane *l) {
  set_discovery(e->udp, IP_PMTUDISC_PROBE, IPV6_PMTUDISC_PROBE);
  outbox_flush(e, l);
  ignore_path_mtu(e->udp);
}
