/* Datagrams in: find the session, open behind the payload gathered so far, check the replay window, gather segments of
 * one super-packet into a run, and forward a run as one packet when it ends. Nothing waits for a missing segment. */
#include <netinet/tcp.h>
#include <stdlib.h>

#include "internal.h"

static rx_epoch *epoch_find(session *s, uint16_t epoch) {
  for (int i = 0; i < KDP_EPOCHS; i++)
    if (s->rx[i] != NULL && (uint16_t)s->rx[i]->epoch == epoch) return s->rx[i];
  return NULL;
}

/* The header of what the run holds, written right before its payload. Returns the packet's start. */
static uint8_t *run_header(segment_run *r, struct virtio_net_hdr *vnet, size_t *len) {
  bool ipv4 = r->kind == SEG_TCP4 || r->kind == SEG_UDP4, tcp = r->kind == SEG_TCP4 || r->kind == SEG_TCP6;
  uint8_t *packet_start = r->buffer + r->start - r->template_len, *ip = packet_start;
  memcpy(ip, r->template, r->template_len);
  *len = r->template_len + r->len;
  packet p;
  if (ipv4) {
    size_t header = (size_t)(ip[0] & 15) * 4;
    if (header < 20 || header > r->template_len) return NULL;
    put16(ip + 2, (uint32_t)*len);
    put16(ip + 4, (uint32_t)get16(ip + 4) + r->first);
    put16(ip + 10, 0);
    put16(ip + 10, checksum(ip, header, 0));
  } else {
    if (r->template_len < 48) return NULL;
    put16(ip + 4, (uint32_t)(*len - 40));
  }
  if (!packet_parse(ip, *len, &p) || p.fragment || p.protocol != (tcp ? IPPROTO_TCP : IPPROTO_UDP) ||
      (size_t)p.l4 + p.l4_header != r->template_len)
    return NULL;
  uint8_t *l4 = ip + p.l4;
  size_t l4_len = *len - p.l4;
  if (tcp && r->total > 1 && (l4[13] & (TH_SYN | TH_RST)) != 0) return NULL; /* each piece would begin or end it anew */
  if (tcp) {
    put32(l4 + 4, get32(l4 + 4) + (uint32_t)r->first * r->gso_size);
    if (r->first + r->count < r->total) l4[13] &= (uint8_t)~(TH_FIN | TH_PUSH);
    if (r->first > 0) l4[13] &= 0x7f; /* CWR says it once */
  } else {
    put16(l4 + 4, (uint32_t)l4_len);
  }
  size_t field = tcp ? 16 : 6;
  put16(l4 + field, pseudo_sum(p.family, p.src, p.dst, p.protocol, (uint32_t)l4_len));
  *vnet =
      (struct virtio_net_hdr){.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = p.l4, .csum_offset = (uint16_t)field};
  if (r->count > 1) {
    uint8_t type = tcp ? (ipv4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6) : VIRTIO_NET_HDR_GSO_UDP_L4;
    if (tcp && l4[13] & 0x80) type |= VIRTIO_NET_HDR_GSO_ECN;
    vnet->gso_type = type, vnet->gso_size = r->gso_size, vnet->hdr_len = r->template_len;
  }
  return packet_start;
}

void run_flush(kdp_engine *e, lane *l) {
  segment_run *r = &l->run;
  if (r->count > 0) {
    struct virtio_net_hdr vnet;
    size_t len;
    uint8_t *data = run_header(r, &vnet, &len);
    if (unlikely(data == NULL))
      count_n(l, C_drop_bad_segment, r->count);
    else if (unlikely(!packet_set_congestion(data, len, r->ecn)))
      count_n(l, C_drop_congested, r->count);
    else
      forward(e, l, r->from->vni, r->from, &vnet, data, len);
  }
  r->count = 0;
  r->at = HEADROOM;
}

/* One complete packet, not gathered with others. */
static void whole(kdp_engine *e, lane *l, session *s, uint8_t kind, uint8_t ecn, uint8_t *data, size_t len) {
  struct virtio_net_hdr vnet = {0};
  if (unlikely(!packet_set_congestion(data, len, ecn))) {
    count(l, C_drop_congested);
    return;
  }
  if (kind == SEG_PARTIAL) {
    packet p;
    if (!packet_parse(data, len, &p) || p.fragment || (p.protocol != IPPROTO_TCP && p.protocol != IPPROTO_UDP)) {
      count(l, C_drop_bad_segment);
      return;
    }
    uint16_t field = p.protocol == IPPROTO_TCP ? 16 : 6;
    vnet.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, vnet.csum_start = p.l4, vnet.csum_offset = field;
    put16(data + p.l4 + field, pseudo_sum(p.family, p.src, p.dst, p.protocol, (uint32_t)(len - p.l4)));
  }
  forward(e, l, s->vni, s, &vnet, data, len);
}

/* `plain` was opened at the run's end (r->at). It extends the run, or the run is forwarded and it starts another. */
static void gather(kdp_engine *e, lane *l, session *s, uint32_t epoch, uint64_t counter, uint8_t ecn, uint8_t *plain,
                   size_t len) {
  segment_run *r = &l->run;
  if (unlikely(len < TRAILER_LEN)) goto bad;
  const uint8_t *trailer = plain + len - TRAILER_LEN;
  uint8_t kind = trailer[0], template_len = trailer[1];
  uint16_t gso_size = get16(trailer + 2), index = get16(trailer + 4), total = get16(trailer + 6);
  len -= TRAILER_LEN;
  if (kind <= SEG_PARTIAL) {
    size_t at = r->at;
    if (r->count > 0) run_flush(e, l);
    r->at = at; /* it still lies where it was opened */
    whole(e, l, s, kind, ecn, plain, len);
    r->at = HEADROOM;
    return;
  }
  if (unlikely(kind > SEG_UDP6 || template_len < 28 || template_len >= len || gso_size == 0 || index >= total))
    goto bad;
  size_t payload = len - template_len;
  const uint8_t *template = plain + payload;
  if (unlikely(payload > gso_size || (index + 1 < total && payload != gso_size))) goto bad;
  if (unlikely((size_t)gso_size * (size_t)(total - 1) + template_len >= PACKET_MAX)) goto bad;
  bool extends = r->count > 0 && r->from == s && r->epoch == epoch && r->super == counter - index && r->kind == kind &&
                 r->ecn == ecn && index == r->first + r->count && r->gso_size == gso_size && r->total == total &&
                 r->template_len == template_len && memcmp(r->template, template, template_len) == 0;
  if (!extends) {
    size_t start = (size_t)(plain - r->buffer);
    run_flush(e, l);
    r->from = s, r->epoch = epoch, r->super = counter - index, r->kind = kind, r->ecn = ecn, r->first = index,
    r->total = total;
    r->gso_size = gso_size, r->template_len = template_len, r->start = start, r->len = 0;
    memcpy(r->template, template, template_len);
  }
  r->count++;
  r->len += payload;
  r->at = r->start + r->len;
  if (index + 1 == total) run_flush(e, l);
  return;
bad:
  count(l, C_drop_bad_segment);
}

/* Only the newest datagram of the newest epoch moves a path: an old one that was kept and re-sent cannot. A PROBE moves
 * none: its sender does not know yet that the way back is open too. */
static void follow_path(kdp_engine *e, lane *l, session *s, const rx_epoch *k, uint64_t counter, const origin *o) {
  if ((int32_t)(k->epoch - s->newest_epoch) < 0 || (k->epoch == s->newest_epoch && counter < s->newest)) return;
  s->newest_epoch = k->epoch, s->newest = counter;
  if (!s->follow) return;
  uint8_t kind = o->from == NULL ? KDP_PATH_RELAY : KDP_PATH_DIRECT;
  if (likely(s->path == kind &&
             (o->from == NULL || (s->to_len == o->from_len && memcmp(&s->to, o->from, o->from_len) == 0))))
    return;
  pthread_mutex_lock(&s->path_lock);
  s->path = kind;
  atomic_store_explicit(&s->limit, 0, memory_order_relaxed);
  if (o->from != NULL)
    memcpy(&s->to, o->from, o->from_len), s->to_len = o->from_len;
  else
    s->relay = o->relay;
  pthread_mutex_unlock(&s->path_lock);
  kdp_event event = {.type = KDP_EVENT_PATH, .session = s->index, .relay = o->relay, .path = kind};
  if (o->from != NULL) sockaddr_to_addr(o->from, &event.addr);
  if (!events_put(e->events, &s->share, &event)) count(l, C_drop_event_full);
}

static void control(kdp_engine *e, lane *l, session *s, uint8_t type, const uint8_t *plain, size_t len,
                    const origin *o) {
  bool padded = type == DG_PROBE || type == DG_PROBE_ACK; /* to find out what the path carries */
  size_t told = len < CONTROL_MAX ? len : CONTROL_MAX;
  kdp_event event = {.type = KDP_EVENT_CONTROL,
                     .session = s->index,
                     .relay = o->relay,
                     .control_type = type,
                     .payload_len = (uint16_t)told,
                     .size = (uint16_t)(HEADER_LEN + len + TAG_LEN)};
  if (len > CONTROL_MAX && !padded) {
    count(l, C_drop_too_large);
    return;
  }
  memcpy(event.payload, plain, told);
  if (o->from != NULL) sockaddr_to_addr(o->from, &event.addr);
  if (!events_put(e->events, &s->share, &event)) count(l, C_drop_event_full);
}

void receive(kdp_engine *e, lane *l, const uint8_t *datagram, size_t len, const origin *o) {
  segment_run *r = &l->run;
  int drop;
  if (unlikely(len < HEADER_LEN + TAG_LEN)) {
    drop = C_drop_short;
    goto drop;
  }
  uint8_t type = datagram[0];
  if (unlikely(type < DG_DATA || type > DG_CLAIM || datagram[1] != 0 || len > PACKET_MAX)) {
    drop = C_drop_bad_header;
    goto drop;
  }
  session *s = session_find(e, get32(datagram + 4));
  if (unlikely(s == NULL)) {
    drop = C_drop_unknown_session;
    goto drop;
  }
  if (unlikely(session_is_over(s, l->now_ms))) {
    drop = C_drop_expired_session;
    goto drop;
  }
  rx_epoch *k = epoch_find(s, get16(datagram + 2));
  if (unlikely(k == NULL)) {
    drop = C_drop_unknown_epoch;
    goto drop;
  }
  if (unlikely(is_over(k->not_after_ms, l->now_ms))) {
    drop = C_drop_expired_key;
    goto drop;
  }
  uint64_t counter = get64(datagram + 8);
  size_t plain_len = len - HEADER_LEN - TAG_LEN;
  if (unlikely(r->at + plain_len > RUN_BYTES)) run_flush(e, l);
  uint8_t *plain = r->buffer + r->at;
  if (unlikely(!aead_open(k->key, counter, datagram, datagram + HEADER_LEN, plain_len, plain))) {
    atomic_fetch_add_explicit(&s->forged, 1, memory_order_relaxed);
    drop = C_drop_auth;
    goto drop;
  }
  if (unlikely(!replay_accept(&k->window, counter))) {
    atomic_fetch_add_explicit(&s->replayed, 1, memory_order_relaxed);
    drop = C_drop_replay;
    goto drop;
  }
  atomic_fetch_add_explicit(&s->rx_datagrams, 1, memory_order_relaxed);
  count(l, o->from == NULL ? C_rx_relay_datagrams : C_rx_datagrams);
  if (type != DG_PROBE) follow_path(e, l, s, k, counter, o);
  if (likely(type == DG_DATA))
    gather(e, l, s, k->epoch, counter, o->ecn, plain, plain_len);
  else
    control(e, l, s, type, plain, plain_len, o);
  return;
drop:
  count(l, drop);
}
