/* Packets of new flows, waiting for their verdicts: a few a flow, since a resolver asks twice and QUIC greets in several
 * datagrams. The number of flows that wait so is fixed, and a sender has at most as many of these places as are free, so
 * some always are. A flow knows its place, and gives it back with its verdict or its end. */
#include <openssl/crypto.h>
#include <stdlib.h>

#include "internal.h"

typedef struct {
  share *owner; /* of the flow */
  uint32_t count, taken, next;
  parked_packet *packets[PARKED_A_FLOW]; /* each allocated once in the place's life */
} place;

struct parking {
  pthread_mutex_t lock; /* guards all below, and `parked` of every share; new flows are rare, so it is not contended */
  uint32_t used, touched, free;
  uint64_t lost; /* packets whose flow ended before its verdict */
  place places[PARKED_FLOWS];
};

struct parking *parking_new(void) {
  struct parking *g = calloc(1, sizeof *g);
  if (g != NULL) pthread_mutex_init(&g->lock, NULL);
  return g;
}

void parking_free(struct parking *g) {
  if (g == NULL) return;
  for (int i = 0; i < PARKED_FLOWS * PARKED_A_FLOW; i++) {
    parked_packet *p = g->places[i / PARKED_A_FLOW].packets[i % PARKED_A_FLOW];
    if (p != NULL) OPENSSL_cleanse(p, sizeof *p);
    free(p);
  }
  pthread_mutex_destroy(&g->lock);
  free(g);
}

uint64_t parking_lost(struct parking *g) {
  pthread_mutex_lock(&g->lock);
  uint64_t lost = g->lost;
  pthread_mutex_unlock(&g->lock);
  return lost;
}

/* The lock is held. 0: there is no room for this sender. */
static uint32_t take_place(struct parking *g, share *owner) {
  if (owner->parked >= PARKED_FLOWS - g->used) return 0;
  uint32_t at = g->free;
  if (at == 0)
    at = ++g->touched;
  else
    g->free = g->places[at - 1].next;
  place *p = &g->places[at - 1];
  p->owner = owner;
  p->count = p->taken = 0;
  owner->parked++;
  g->used++;
  return at;
}

static bool put(place *at, const inner *in, uint32_t vni_id, const sender *from) {
  if (at->count == PARKED_A_FLOW) return false;
  parked_packet *p = at->packets[at->count];
  if (p == NULL) p = calloc(1, sizeof *p);
  if (p == NULL) return false;
  p->vni = vni_id, p->vnet = *in->vnet, p->len = (uint16_t)in->len;
  p->from = from->session == NULL ? 0 : from->session->index;
  p->across = from->across == NULL ? 0 : from->across->id;
  memcpy(p->data, in->data, in->len);
  at->packets[at->count++] = p;
  return true;
}

bool park(kdp_engine *e, share *owner, uint32_t *at, uint32_t vni_id, const sender *from, const inner *in) {
  struct parking *g = e->parking;
  if (in->len > PARKED_BYTES) return false;
  pthread_mutex_lock(&g->lock);
  if (*at == 0) *at = take_place(g, owner);
  place *p = *at == 0 ? NULL : &g->places[*at - 1];
  bool parked = p != NULL && put(p, in, vni_id, from);
  pthread_mutex_unlock(&g->lock);
  return parked;
}

bool unpark(kdp_engine *e, uint32_t at, parked_packet *out) {
  struct parking *g = e->parking;
  if (at == 0) return false;
  pthread_mutex_lock(&g->lock);
  place *p = &g->places[at - 1];
  bool found = p->taken < p->count;
  if (found) *out = *p->packets[p->taken++];
  pthread_mutex_unlock(&g->lock);
  return found;
}

void park_end(kdp_engine *e, uint32_t at) {
  struct parking *g = e->parking;
  if (at == 0) return;
  pthread_mutex_lock(&g->lock);
  place *p = &g->places[at - 1];
  g->lost += p->count - p->taken;
  p->owner->parked--;
  p->next = g->free;
  g->free = at;
  g->used--;
  pthread_mutex_unlock(&g->lock);
}

/* What let a packet in may have ended while it waited. The counter of its drop; C_COUNT: nothing has. An address that crossed is
 * not the one of its sender's lease. */
static int why_not_now(const lane *l, const vni *v, const sender *from, const packet *p) {
  if (from->session == NULL) return C_COUNT;
  if (session_is_over(from->session, l->now_ms)) return C_drop_expired_session;
  bool leased = from->across != NULL || speaks_for(l, v, from, p->family, p->src);
  return leased ? C_COUNT : C_drop_expired_lease;
}

/* A packet of a flow that was just decided. */
static void release(kdp_engine *e, lane *l, parked_packet *w, uint8_t verdict, uint64_t not_after_ms) {
  vni *v = vni_find(e, w->vni);
  sender from = {.session = w->from == 0 ? NULL : session_find(e, w->from),
                 .across = w->across == 0 ? NULL : vni_find(e, w->across)};
  bool cut = (w->from != 0 && from.session == NULL) || (w->across != 0 && from.across == NULL);
  packet p;
  if (v == NULL || cut || !packet_parse(w->data, w->len, &p)) {
    count(l, C_drop_denied); /* its sender was cut meanwhile */
  } else if (verdict == KDP_DENY) {
    count(l, C_drop_denied);
    reject(e, l, v, &from, w->data, w->len, &p);
  } else {
    int drop = is_over(not_after_ms, l->now_ms) ? C_drop_expired_verdict : why_not_now(l, v, &from, &p);
    if (drop == C_COUNT)
      forward_allowed(e, l, v, &from, &w->vnet, w->data, w->len, &p);
    else
      count(l, drop);
  }
}

int kdp_flow_verdict(kdp_engine *e, uint64_t id, uint8_t verdict, uint32_t rule, uint32_t generation,
                     uint64_t not_after_ms) {
  lane *l = &e->lanes[LANE_HOST];
  parked_packet waiting;
  uint32_t at = 0;
  if ((id & UINT32_MAX) == 0 || verdict > KDP_ALLOW) return -EINVAL;
  pthread_mutex_lock(&e->host_lock);
  config_read(e);
  l->now_ms = clock_ms();
  bool live = flows_decide(e, l, id, verdict, rule, generation, not_after_ms, &at);
  while (unpark(e, at, &waiting)) release(e, l, &waiting, verdict, not_after_ms);
  park_end(e, at);
  if (!e->corked) batch_end(e, l);
  config_read_end(e);
  pthread_mutex_unlock(&e->host_lock);
  return live ? 0 : -ENOENT;
}
