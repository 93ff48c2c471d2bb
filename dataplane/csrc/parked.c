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

static bool put(slot *s, const inner *in, uint32_t vni, const sender *from) {
  if (s->count == PARKED_A_FLOW) return false;
  parked_packet **p = &s->packets[s->count];
  if (*p == NULL) *p = calloc(1, sizeof **p);
  if (*p == NULL) return false;
  (*p)->vni = vni, (*p)->vnet = *in->vnet, (*p)->len = (uint16_t)in->len;
  (*p)->from = from->session == NULL ? 0 : from->session->index;
  (*p)->across = from->across == NULL ? 0 : from->across->id;
  memcpy((*p)->data, in->data, in->len);
  s->count++;
  return true;
}

bool park(kdp_engine *e, const lane *l, uint64_t flow, uint32_t vni, const sender *from, const inner *in) {
  struct parking *g = e->parking;
  if (in->len > PARKED_BYTES) return false;
  pthread_mutex_lock(&g->lock);
  slot *s = &g->slots[flow % PARKED_FLOWS];
  if (s->flow != flow && (s->flow == 0 || (int64_t)(l->now_ms - s->since_ms) > PENDING_LIFE_MS))
    s->flow = flow, s->since_ms = l->now_ms, s->count = s->taken = 0;
  bool parked = s->flow == flow && put(s, in, vni, from);
  pthread_mutex_unlock(&g->lock);
  return parked;
}

bool unpark(kdp_engine *e, uint64_t flow, parked_packet *out) {
  struct parking *g = e->parking;
  pthread_mutex_lock(&g->lock);
  slot *s = &g->slots[flow % PARKED_FLOWS];
  bool found = s->flow == flow && s->taken < s->count;
  if (found)
    *out = *s->packets[s->taken++];
  else if (s->flow == flow)
    s->flow = 0;
  pthread_mutex_unlock(&g->lock);
  return found;
}
