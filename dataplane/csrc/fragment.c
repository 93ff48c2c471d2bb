/* Later fragments carry no ports: they belong to the flow of the first fragment of the same packet.
 *
 * Each sender has a list of its own, so nobody's fragments push out those of another. It is made with the sender's first
 * fragment, and searched from end to end: there is no hash for which a peer could choose identifications that meet. */
#include <stdlib.h>

#include "internal.h"

enum { LIST = 128 /* packets of one sender whose fragments are under way */, LIFE_MS = 30000 /* as Linux waits */ };

typedef struct {
  uint8_t family, protocol, src[16], dst[16];
  uint32_t end; /* of the first fragment: no other may start before it */
  uint64_t until_ms, flow;
} fragment;

struct fragment_list {
  uint64_t names[LIST]; /* VNI and identification: a packet is remembered once in each VNI that it passes */
  fragment packets[LIST];
  uint32_t oldest;
};

static uint64_t name_of(uint32_t vni_id, const packet *p) {
  return (uint64_t)vni_id << 32 | p->fragment_id;
}

/* RFC 8200: later fragments of IPv6 may repeat another next header than the first. */
static uint8_t protocol_of(const packet *p) {
  return p->family == 4 ? p->protocol : 0;
}

static fragment *find(fragment_list *list, uint32_t vni_id, const packet *p) {
  size_t width = p->family == 4 ? 4 : 16;
  uint64_t name = name_of(vni_id, p);
  for (uint32_t i = 0; list != NULL && i < LIST; i++) {
    fragment *f = &list->packets[i];
    if (likely(list->names[i] != name || f->family != p->family || f->protocol != protocol_of(p))) continue;
    if (memcmp(f->src, p->src, width) == 0 && memcmp(f->dst, p->dst, width) == 0) return f;
  }
  return NULL;
}

void fragments_free(share *s) {
  free(s->fragments);
  s->fragments = NULL;
}

void fragment_remember(kdp_engine *e, const lane *l, share *s, uint64_t flow, uint32_t vni_id, const packet *p) {
  size_t width = p->family == 4 ? 4 : 16;
  pthread_mutex_lock(&e->fragment_lock);
  if (s->fragments == NULL) s->fragments = calloc(1, sizeof *s->fragments);
  fragment_list *list = s->fragments;
  fragment *f = find(list, vni_id, p);
  if (f == NULL && list != NULL) {
    list->names[list->oldest] = name_of(vni_id, p);
    f = &list->packets[list->oldest];
    list->oldest = (list->oldest + 1) % LIST;
    *f = (fragment){.family = p->family, .protocol = protocol_of(p)};
    memcpy(f->src, p->src, width);
    memcpy(f->dst, p->dst, width);
  }
  if (f != NULL) { /* NULL: no memory, so the later fragments are dropped */
    f->end = f->flow == flow && f->end > p->fragment_end ? f->end : p->fragment_end;
    f->flow = flow;
    f->until_ms = l->now_ms + LIFE_MS;
  }
  pthread_mutex_unlock(&e->fragment_lock);
}

uint64_t fragment_flow(kdp_engine *e, lane *l, share *s, uint32_t vni_id, const packet *p) {
  pthread_mutex_lock(&e->fragment_lock);
  const fragment *f = find(s->fragments, vni_id, p);
  bool known = f != NULL && f->until_ms > l->now_ms;
  uint64_t flow = known && p->fragment_start >= f->end ? f->flow : 0;
  pthread_mutex_unlock(&e->fragment_lock);
  if (flow == 0) count(l, known ? C_drop_overlapping_fragment : C_drop_unknown_fragment);
  return flow;
}
