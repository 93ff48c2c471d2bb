/* Events for Python: a bounded ring of fixed records and an eventfd. Off the hot path, so a plain mutex serves. Python is
 * woken once for all that a batch of packets has put, not with the first of them. */
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "internal.h"

struct event_ring {
  pthread_mutex_t lock; /* guards all below */
  int fd;
  uint32_t head, count;
  _Atomic bool untold; /* somebody has put the first and not told yet */
  kdp_event events[EVENTS_MAX];
};

struct event_ring *events_new(void) {
  struct event_ring *r = calloc(1, sizeof *r);
  if (r == NULL) return NULL;
  r->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (r->fd < 0) {
    free(r);
    return NULL;
  }
  pthread_mutex_init(&r->lock, NULL);
  return r;
}

void events_free(struct event_ring *r) {
  if (r == NULL) return;
  close(r->fd);
  pthread_mutex_destroy(&r->lock);
  free(r);
}

int events_fd(struct event_ring *r) {
  return r->fd;
}

/* Few have a payload, which is most of the room. */
static void copy(kdp_event *to, const kdp_event *from) {
  memcpy(to, from, offsetof(kdp_event, payload) + from->payload_len);
}

bool events_put(struct event_ring *r, const kdp_event *event) {
  pthread_mutex_lock(&r->lock);
  bool room = r->count < EVENTS_MAX;
  if (r->count == 0) atomic_store_explicit(&r->untold, true, memory_order_relaxed);
  if (room) copy(&r->events[(r->head + r->count++) % EVENTS_MAX], event);
  pthread_mutex_unlock(&r->lock);
  return room;
}

/* Relaxed: whoever put sees its own store, and wakes Python if nobody has done so since. */
void events_tell(struct event_ring *r) {
  if (likely(!atomic_load_explicit(&r->untold, memory_order_relaxed))) return;
  if (atomic_exchange_explicit(&r->untold, false, memory_order_relaxed)) eventfd_write(r->fd, 1);
}

int events_take(struct event_ring *r, kdp_event *out, int max) {
  int taken = 0;
  pthread_mutex_lock(&r->lock);
  while (taken < max && r->count > 0) {
    copy(&out[taken++], &r->events[r->head]);
    r->head = (r->head + 1) % EVENTS_MAX;
    r->count--;
  }
  if (r->count == 0) eventfd_read(r->fd, &(eventfd_t){0});
  pthread_mutex_unlock(&r->lock);
  return taken;
}
