/* Events for Python: a bounded ring of fixed records and an eventfd. Off the hot path, so a plain mutex serves. */
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "internal.h"

struct event_ring {
  pthread_mutex_t lock; /* guards all below */
  int fd;
  uint32_t head, count;
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

bool events_put(struct event_ring *r, const kdp_event *event) {
  pthread_mutex_lock(&r->lock);
  bool room = r->count < EVENTS_MAX, wake = r->count == 0;
  if (room) r->events[(r->head + r->count++) % EVENTS_MAX] = *event;
  pthread_mutex_unlock(&r->lock);
  if (room && wake) eventfd_write(r->fd, 1);
  return room;
}

int events_take(struct event_ring *r, kdp_event *out, int max) {
  int taken = 0;
  pthread_mutex_lock(&r->lock);
  while (taken < max && r->count > 0) {
    out[taken++] = r->events[r->head];
    r->head = (r->head + 1) % EVENTS_MAX;
    r->count--;
  }
  if (r->count == 0) eventfd_read(r->fd, &(eventfd_t){0});
  pthread_mutex_unlock(&r->lock);
  return taken;
}
