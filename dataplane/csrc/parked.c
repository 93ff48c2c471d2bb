/* First packets of new flows, waiting for their verdicts: one a flow, in a fixed number of slots. A slot whose flow was
 * never decided is taken over once that flow has aged out. */
#include <openssl/crypto.h>
#include <stdlib.h>

#include "internal.h"

struct parking {
  pthread_mutex_t lock; /* guards all below; new flows are rare, so it is not contended */
  struct {
    uint64_t since_ms;
    parked_packet *packet; /* allocated once in the slot's life; flow 0: free */
  } slots[PARKED_MAX];
};

struct parking *parking_new(void) {
  struct parking *g = calloc(1, sizeof *g);
  if (g != NULL) pthread_mutex_init(&g->lock, NULL);
  return g;
}

void parking_free(struct parking *g) {
  if (g == NULL) return;
  for (int i = 0; i < PARKED_MAX; i++) {
    if (g->slots[i].packet != NULL) OPENSSL_cleanse(g->slots[i].packet, sizeof *g->slots[i].packet);
    free(g->slots[i].packet);
  }
  pthread_mutex_destroy(&g->lock);
  free(g);
}

bool park(kdp_engine *e, const lane *l, uint64_t flow, uint32_t vni, uint32_t from, const struct virtio_net_hdr *vnet,
          const uint8_t *data, size_t len) {
  struct parking *g = e->parking;
  bool parked = false;
  if (len > PARKED_BYTES) return false;
  pthread_mutex_lock(&g->lock);
  typeof(&g->slots[0]) slot = &g->slots[flow % PARKED_MAX];
  if (slot->packet == NULL) slot->packet = calloc(1, sizeof *slot->packet);
  parked_packet *p = slot->packet;
  if (p != NULL && (p->flow == 0 || (int64_t)(l->now_ms - slot->since_ms) > PENDING_LIFE_MS)) {
    p->flow = flow, p->vni = vni, p->from = from, p->vnet = *vnet, p->len = (uint16_t)len;
    memcpy(p->data, data, len);
    slot->since_ms = l->now_ms;
    parked = true;
  }
  pthread_mutex_unlock(&g->lock);
  return parked;
}

bool unpark(kdp_engine *e, uint64_t flow, parked_packet *out) {
  struct parking *g = e->parking;
  pthread_mutex_lock(&g->lock);
  parked_packet *p = g->slots[flow % PARKED_MAX].packet;
  bool found = p != NULL && p->flow == flow;
  if (found) *out = *p, p->flow = 0;
  pthread_mutex_unlock(&g->lock);
  return found;
}
