/* Allowed flows that are over, until the control side has asked for them: a ring, one mapping, touched as flows end. */
#include <stdlib.h>
#include <sys/mman.h>

#include "internal.h"

enum { ENDED_RING = 32768 };

struct ended_ring {
  pthread_mutex_t lock; /* guards what follows; taken under a flow stripe, and takes none itself */
  kdp_flow *flows;
  uint64_t put, taken, untold;
};

struct ended_ring *ended_new(void) {
  struct ended_ring *r = calloc(1, sizeof *r);
  if (r == NULL) return NULL;
  r->flows = mmap(NULL, sizeof(kdp_flow) * ENDED_RING, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  pthread_mutex_init(&r->lock, NULL);
  if (r->flows != MAP_FAILED) return r;
  r->flows = NULL;
  ended_free(r);
  return NULL;
}

void ended_free(struct ended_ring *r) {
  if (r == NULL) return;
  if (r->flows != NULL) munmap(r->flows, sizeof(kdp_flow) * ENDED_RING);
  pthread_mutex_destroy(&r->lock);
  free(r);
}

void ended_put(struct ended_ring *r, const kdp_flow *f) {
  pthread_mutex_lock(&r->lock);
  if (r->put - r->taken < ENDED_RING)
    r->flows[r->put++ % ENDED_RING] = *f;
  else
    r->untold++;
  pthread_mutex_unlock(&r->lock);
}

long kdp_ended(kdp_engine *e, kdp_flow *out, size_t max, uint64_t *untold) {
  struct ended_ring *r = e->ended;
  size_t n = 0;
  pthread_mutex_lock(&r->lock);
  while (n < max && r->taken < r->put) out[n++] = r->flows[r->taken++ % ENDED_RING];
  *untold = r->untold;
  r->untold = 0;
  pthread_mutex_unlock(&r->lock);
  return (long)n;
}
