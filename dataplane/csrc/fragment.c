/* Later fragments carry no ports: they belong to the flow of the first fragment of the same packet. */
#include <stdlib.h>

#include "internal.h"

enum { SLOTS = 1024, LIFE_MS = 30000 /* as long as Linux waits for the rest */ };

typedef struct {
  uint32_t vni, id;
  uint8_t family, protocol, src[16], dst[16];
  uint64_t until_ms, flow;
} fragment;

struct fragments {
  pthread_mutex_t lock; /* guards the slots */
  fragment slots[SLOTS];
};

/* The same packet is remembered once in each VNI that it passes. */
static uint32_t slot_of(uint32_t vni, const packet *p) {
  size_t last = p->family == 4 ? 0 : 12;
  uint32_t h = p->fragment_id ^ vni * 0x9e3779b1u ^ get32(p->src + last) * 0xc2b2ae35u ^ get32(p->dst + last);
  h *= 0x85ebca6bu;
  return (h ^ h >> 15) % SLOTS;
}

struct fragments *fragments_new(void) {
  struct fragments *t = calloc(1, sizeof *t);
  if (t != NULL) pthread_mutex_init(&t->lock, NULL);
  return t;
}

void fragments_free(struct fragments *t) {
  if (t == NULL) return;
  pthread_mutex_destroy(&t->lock);
  free(t);
}

void fragment_remember(kdp_engine *e, const lane *l, uint64_t flow, uint32_t vni, const packet *p) {
  struct fragments *t = e->fragments;
  size_t width = p->family == 4 ? 4 : 16;
  fragment f = {.vni = vni, .id = p->fragment_id, .family = p->family, .protocol = p->protocol, .flow = flow};
  f.until_ms = l->now_ms + LIFE_MS;
  memcpy(f.src, p->src, width), memcpy(f.dst, p->dst, width);
  pthread_mutex_lock(&t->lock);
  t->slots[slot_of(vni, p)] = f;
  pthread_mutex_unlock(&t->lock);
}

uint64_t fragment_flow(kdp_engine *e, const lane *l, uint32_t vni, const packet *p) {
  struct fragments *t = e->fragments;
  size_t width = p->family == 4 ? 4 : 16;
  pthread_mutex_lock(&t->lock);
  const fragment *f = &t->slots[slot_of(vni, p)];
  bool known = f->until_ms > l->now_ms && f->vni == vni && f->id == p->fragment_id && f->family == p->family &&
               f->protocol == p->protocol && memcmp(f->src, p->src, width) == 0 && memcmp(f->dst, p->dst, width) == 0;
  uint64_t flow = known ? f->flow : 0;
  pthread_mutex_unlock(&t->lock);
  return flow;
}
