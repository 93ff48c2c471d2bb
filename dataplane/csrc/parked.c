/* Packets of new flows, waiting for their verdicts: a few a flow, since a resolver asks twice and QUIC greets in several
 * datagrams; the number of flows that wait is fixed. A slot whose flow was never decided is taken over once that flow has
 * aged out. Called with the flow's stripe held, so that a packet is parked before the verdict or not at all. */
#include <openssl/crypto.h>
#include <stdlib.h>

#include "internal.h"

typedef struct {
  uint64_t flow; /* 0: free */
  uint64_t since_ms;
  uint32_t count, taken;
  parked_packet *packets[PARKED_A_FLOW]; /* each allocated once in the slot's life */
} slot;

enum { NEARBY = 16 };

struct parking {
  pthread_mutex_t lock; /* guards all below; new flows are rare, so it is not contended */
  slot slots[PARKED_FLOWS];
};

struct parking *parking_new(void) {
  struct parking *g = calloc(1, sizeof *g);
  if (g != NULL) pthread_mutex_init(&g->lock, NULL);
  return g;
}

void parking_free(struct parking *g) {
  if (g == NULL) return;
  for (int i = 0; i < PARKED_FLOWS * PARKED_A_FLOW; i++) {
    parked_packet *p = g->slots[i / PARKED_A_FLOW].packets[i % PARKED_A_FLOW];
    if (p != NULL) OPENSSL_cleanse(p, sizeof *p);
    free(p);
  }
  pthread_mutex_destroy(&g->lock);
  free(g);
}

static bool put(slot *s, const inner *in, uint32_t vni_id, const sender *from) {
  if (s->count == PARKED_A_FLOW) return false;
  parked_packet *p = s->packets[s->count];
  if (p == NULL) p = s->packets[s->count] = calloc(1, sizeof *p);
  if (p == NULL) return false;
  p->vni = vni_id, p->vnet = *in->vnet, p->len = (uint16_t)in->len;
  p->from = from->session == NULL ? 0 : from->session->index;
  p->across = from->across == NULL ? 0 : from->across->id;
  memcpy(p->data, in->data, in->len);
  s->count++;
  return true;
}

/* A flow's place is one of these few, so that two flows hardly ever want the same one while others are free. */
static slot *nearby(struct parking *g, uint64_t flow, int i) {
  return &g->slots[((flow * 0x9e3779b97f4a7c15u >> 32) + (uint64_t)i) % PARKED_FLOWS];
}

static slot *slot_of(struct parking *g, uint64_t flow) {
  for (int i = 0; i < NEARBY; i++)
    if (nearby(g, flow, i)->flow == flow) return nearby(g, flow, i);
  return NULL;
}

static slot *free_slot(struct parking *g, uint64_t flow, uint64_t now_ms) {
  for (int i = 0; i < NEARBY; i++) {
    slot *s = nearby(g, flow, i);
    if (s->flow != 0 && (int64_t)(now_ms - s->since_ms) <= PENDING_LIFE_MS) continue;
    s->flow = flow, s->since_ms = now_ms, s->count = s->taken = 0;
    return s;
  }
  return NULL;
}

bool park(kdp_engine *e, const lane *l, uint64_t flow, uint32_t vni_id, const sender *from, const inner *in) {
  struct parking *g = e->parking;
  if (in->len > PARKED_BYTES) return false;
  pthread_mutex_lock(&g->lock);
  slot *s = slot_of(g, flow);
  if (s == NULL) s = free_slot(g, flow, l->now_ms);
  bool parked = s != NULL && put(s, in, vni_id, from);
  pthread_mutex_unlock(&g->lock);
  return parked;
}

bool unpark(kdp_engine *e, uint64_t flow, parked_packet *out) {
  struct parking *g = e->parking;
  pthread_mutex_lock(&g->lock);
  slot *s = slot_of(g, flow);
  bool found = s != NULL && s->taken < s->count;
  if (found)
    *out = *s->packets[s->taken++];
  else if (s != NULL)
    s->flow = 0;
  pthread_mutex_unlock(&g->lock);
  return found;
}

/* A packet of a flow that was just decided. */
static void release(kdp_engine *e, lane *l, parked_packet *w, uint8_t verdict) {
  vni *v = vni_find(e, w->vni);
  sender from = {.session = w->from == 0 ? NULL : session_find(e, w->from),
                 .across = w->across == 0 ? NULL : vni_find(e, w->across)};
  bool cut = (w->from != 0 && from.session == NULL) || (w->across != 0 && from.across == NULL);
  packet p;
  if (v == NULL || cut || !packet_parse(w->data, w->len, &p)) {
    count(l, C_drop_denied); /* its sender was cut meanwhile */
  } else if (verdict == KDP_ALLOW) {
    forward_allowed(e, l, v, &from, &w->vnet, w->data, w->len, &p);
  } else {
    count(l, C_drop_denied);
    reject(e, l, v, &from, w->data, w->len, &p);
  }
}

int kdp_flow_verdict(kdp_engine *e, uint64_t id, uint8_t verdict, uint32_t rule, uint32_t generation) {
  lane *l = &e->lanes[LANE_HOST];
  parked_packet waiting;
  if ((id & UINT32_MAX) == 0 || verdict > KDP_ALLOW) return -EINVAL;
  pthread_mutex_lock(&e->host_lock);
  pthread_rwlock_rdlock(&e->config);
  l->now_ms = clock_ms();
  bool live = flows_decide(e, l, id, verdict, rule, generation);
  while (unpark(e, id, &waiting)) {
    if (live)
      release(e, l, &waiting, verdict);
    else
      count(l, C_drop_pending);
  }
  if (!e->corked) batch_end(e, l);
  pthread_rwlock_unlock(&e->config);
  pthread_mutex_unlock(&e->host_lock);
  return live ? 0 : -ENOENT;
}
