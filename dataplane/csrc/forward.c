/* One inner packet: does its source belong to its sender, does its flow have leave, where does it go. */
#include "internal.h"

enum { IPV6_MTU_MIN = 1280 };

static bool matches(const lease *le, uint8_t family, const uint8_t *addr) {
  if (le->family != family) return false;
  int whole = le->bits / 8, rest = le->bits % 8;
  if (memcmp(le->prefix, addr, (size_t)whole) != 0) return false;
  return rest == 0 || ((le->prefix[whole] ^ addr[whole]) >> (8 - rest)) == 0;
}

static bool source_is_leased(const session *s, const packet *p) {
  for (size_t i = 0; i < s->lease_count; i++)
    if (matches(&s->leases[i], p->family, p->src)) return true;
  return false;
}

static bool is_multicast(const packet *p) {
  return p->family == 4 ? p->dst[0] >= 224 : p->dst[0] == 0xff || (p->dst[0] == 0xfe && (p->dst[1] & 0xc0) == 0x80);
}

/* A new flow, whose first packet waits: Python decides. */
static void ask(kdp_engine *e, lane *l, const sender *from, const kdp_flow *opened) {
  uint32_t index = from->session == NULL ? 0 : from->session->index;
  kdp_event event = {.type = KDP_EVENT_FLOW, .session = index, .flow = *opened};
  if (!events_put(e->events, &event)) count(l, C_drop_event_full); /* the flow ages out and its sender tries again */
}

/* In VNI `v`: has its flow leave there? */
static void forward_flow(kdp_engine *e, lane *l, vni *v, const sender *from, const struct virtio_net_hdr *vnet,
                         uint8_t *data, size_t len, packet *p) {
  kdp_flow opened;
  switch (flows_pass(e, l, v->id, from, p, &(inner){vnet, data, len}, &opened)) {
    case FLOW_PASS: forward_allowed(e, l, v, from, vnet, data, len, p); break;
    case FLOW_ASK: ask(e, l, from, &opened); break;
    case FLOW_REJECT: reject(e, l, v, from, data, len, p); break;
    case FLOW_DROP: break; /* or parked: counted where it was seen */
  }
}

static void answer(kdp_engine *e, lane *l, vni *v, const sender *from, uint8_t *data, size_t len, const packet *p) {
  const struct virtio_net_hdr vnet = {0};
  if (from->session == NULL)
    tun_write(l, v, &vnet, data, len, p);
  else
    transmit(e, l, from->session, &vnet, data, len, p);
}

static void expire(kdp_engine *e, lane *l, vni *v, const sender *from, const uint8_t *data, size_t len,
                   const packet *p) {
  uint8_t error[256];
  packet parsed;
  count(l, C_drop_hop_limit);
  size_t error_len = packet_expired(data, len, p, p->family == 4 ? v->router4 : v->router6, error, sizeof error);
  if (error_len > 0 && packet_parse(error, error_len, &parsed)) answer(e, l, v, from, error, error_len, &parsed);
}

/* Over an interconnect, once: there it is a flow of the other VNI, with a verdict of its own. */
static void cross(kdp_engine *e, lane *l, vni *v, const sender *from, uint32_t other, const struct virtio_net_hdr *vnet,
                  uint8_t *data, size_t len, packet *p) {
  vni *to = vni_find(e, other);
  if (from->across != NULL) {
    count(l, C_drop_second_crossing);
  } else if (!packet_spend_hop(data)) {
    expire(e, l, v, from, data, len, p);
  } else if (to == NULL || !translate(v, to, vnet, data, len, p)) {
    count(l, C_drop_no_mapping);
  } else {
    forward_flow(e, l, to, &(sender){from->session, v}, vnet, data, len, p);
  }
}

/* A refusal of `p` in the destination's name, as its sender knows that. */
static void answer_refusal(kdp_engine *e, lane *l, vni *v, const sender *from, uint8_t *refusal, size_t len) {
  const struct virtio_net_hdr vnet = {0};
  packet parsed;
  if (len == 0 || !packet_parse(refusal, len, &parsed)) return;
  if (from->across != NULL && !translate(v, from->across, &vnet, refusal, len, &parsed)) return;
  count(l, C_rejects_sent);
  answer(e, l, from->across == NULL ? v : from->across, from, refusal, len, &parsed);
}

/* What its path cannot carry whole, cannot be cut, and has a sender who must be told (RFC 1191, RFC 8201). All else that is
 * too large goes as it is, and IP fragments the datagram around it. */
static bool must_shrink(const session *to, const struct virtio_net_hdr *vnet, const uint8_t *data, size_t len,
                        const packet *p) {
  size_t most = transmit_max(to);
  if (likely(most == SIZE_MAX)) return false;
  size_t size = vnet->gso_type == VIRTIO_NET_HDR_GSO_NONE ? len : (size_t)p->l4 + p->l4_header + vnet->gso_size;
  if (size <= most || p->protocol == IPPROTO_TCP) return false;
  return p->family == 4 ? (data[6] & 0x40) != 0 : size > IPV6_MTU_MIN;
}

static void refuse_size(kdp_engine *e, lane *l, vni *v, const sender *from, const session *to, const uint8_t *data,
                        size_t len, const packet *p) {
  uint8_t refusal[256];
  size_t most = transmit_max(to), mtu = p->family == 6 && most < IPV6_MTU_MIN ? IPV6_MTU_MIN : most;
  count(l, C_drop_too_large);
  answer_refusal(e, l, v, from, refusal, packet_too_big(data, len, p, mtu, refusal, sizeof refusal));
}

void forward_allowed(kdp_engine *e, lane *l, vni *v, const sender *from, const struct virtio_net_hdr *vnet,
                     uint8_t *data, size_t len, packet *p) {
  uint32_t next_hop;
  if (unlikely(!fib_find(v->fib, p->family, p->dst, &next_hop))) goto no_route;
  if (unlikely(next_hop & CROSSING)) {
    cross(e, l, v, from, next_hop & ~(uint32_t)CROSSING, vnet, data, len, p);
    return;
  }
  if (unlikely(from->across != NULL)) count(l, C_crossed);
  if (next_hop == KDP_NEXT_HOP_LOCAL) {
    if (from->session == NULL && from->across == NULL) goto no_route; /* came out of this very TUN */
    tun_write(l, v, vnet, data, len, p);
    return;
  }
  session *to = session_find(e, next_hop);
  if (unlikely(to == NULL || to == from->session || to->vni != v)) goto no_route;
  if (unlikely(must_shrink(to, vnet, data, len, p))) {
    refuse_size(e, l, v, from, to, data, len, p);
    return;
  }
  if (from->session != NULL && from->across == NULL) count(l, C_turned_around);
  transmit(e, l, to, vnet, data, len, p);
  return;
no_route:
  count(l, C_drop_no_route);
}

void reject(kdp_engine *e, lane *l, vni *v, const sender *from, const uint8_t *data, size_t len, const packet *p) {
  uint8_t refusal[256];
  answer_refusal(e, l, v, from, refusal, packet_reject(data, len, p, refusal, sizeof refusal));
}

void forward(kdp_engine *e, lane *l, vni *v, session *from, const struct virtio_net_hdr *vnet, uint8_t *data,
             size_t len) {
  packet p;
  if (unlikely(!packet_parse(data, len, &p))) {
    count(l, C_drop_bad_packet);
    return;
  }
  if (unlikely(is_multicast(&p))) {
    count(l, C_drop_multicast);
    return;
  }
  if (from != NULL && unlikely(!source_is_leased(from, &p))) {
    atomic_fetch_add_explicit(&from->spoofed, 1, memory_order_relaxed);
    count(l, C_drop_spoofed_source);
    return;
  }
  forward_flow(e, l, v, &(sender){from, NULL}, vnet, data, len, &p);
}
