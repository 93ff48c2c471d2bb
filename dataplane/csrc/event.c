/* Events for Python: fixed records, and an eventfd. Off the hot path, so a plain mutex serves. Python is woken once for all
 * that a batch of packets has put, not with the first of them.
 *
 * Each sender has a queue of its own, which are served in turn: whatever one of them sends, the next event of another is
 * taken after at most one of each. The records are shared. A sender has at most EVENTS_A_SENDER of them, and at most as
 * many as are free, so some always are. */
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "internal.h"

typedef struct {
  kdp_event event;
  uint32_t next; /* index + 1 in a queue, or among the free; 0: the last */
} record;

struct event_queues {
  pthread_mutex_t lock; /* guards all below, and the event_queue of every share */
  int fd;
  uint32_t used, touched, free; /* records: in queues, ever used, the first of the free ones (index + 1) */
  event_queue relays;           /* that datagrams wait in a relay queue: one event each at most */
  event_queue *last;          /* served last of the senders that have events: their queues are a ring. NULL: none has */
  bool relay_is_next;         /* of the two kinds, every other event is of a relay queue */
  _Atomic bool untold;        /* somebody has put the first and not told yet */
  record records[EVENTS_MAX]; /* a fresh page until it is touched */
};

struct event_queues *events_new(void) {
  struct event_queues *q = calloc(1, sizeof *q);
  if (q == NULL) return NULL;
  q->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (q->fd < 0) {
    free(q);
    return NULL;
  }
  pthread_mutex_init(&q->lock, NULL);
  return q;
}

void events_free(struct event_queues *q) {
  if (q == NULL) return;
  close(q->fd);
  pthread_mutex_destroy(&q->lock);
  free(q);
}

int events_fd(struct event_queues *q) {
  return q->fd;
}

/* Few have a payload, which is most of the room. */
static void copy(kdp_event *to, const kdp_event *from) {
  memcpy(to, from, offsetof(kdp_event, payload) + from->payload_len);
}

/* -- the lock is held from here on --------------------------------------------------------------------------------- */

static uint32_t take_record(struct event_queues *q) {
  uint32_t at = q->free;
  q->used++;
  if (at == 0) return ++q->touched;
  q->free = q->records[at - 1].next;
  return at;
}

static void give_record(struct event_queues *q, uint32_t at) {
  q->records[at - 1].next = q->free;
  q->free = at;
  q->used--;
}

static void append(struct event_queues *q, event_queue *to, uint32_t at) {
  q->records[at - 1].next = 0;
  if (to->count++ == 0)
    to->first = at;
  else
    q->records[to->newest - 1].next = at;
  to->newest = at;
}

static void pop(struct event_queues *q, event_queue *from, kdp_event *out) {
  uint32_t at = from->first;
  copy(out, &q->records[at - 1].event);
  if (from->path == at) from->path = 0;
  from->first = q->records[at - 1].next;
  from->count--;
  give_record(q, at);
}

/* A sender that has its first event comes last in the turn. */
static void join_ring(struct event_queues *q, event_queue *fresh) {
  fresh->next = q->last == NULL ? fresh : q->last->next;
  if (q->last != NULL) q->last->next = fresh;
  q->last = fresh;
}

static void leave_ring(struct event_queues *q, event_queue *before) {
  event_queue *gone = before->next;
  before->next = gone->next;
  if (q->last == gone) q->last = before == gone ? NULL : before;
}

/* Something waits: when no sender has events, a relay queue has one. */
static void take_next(struct event_queues *q, kdp_event *out) {
  event_queue *before = q->last;
  bool of_relay = before == NULL || (q->relay_is_next && q->relays.count > 0);
  q->relay_is_next = !of_relay;
  if (of_relay) {
    pop(q, &q->relays, out);
    return;
  }
  event_queue *turn = before->next;
  pop(q, turn, out);
  if (turn->count == 0)
    leave_ring(q, before);
  else
    q->last = turn;
}

static bool has_room(const struct event_queues *q, const event_queue *of, bool relay) {
  return of->count < EVENTS_MAX - q->used && (relay || of->count < EVENTS_A_SENDER);
}

static bool put(struct event_queues *q, event_queue *to, const kdp_event *event) {
  bool path = event->type == KDP_EVENT_PATH, relay = to == &q->relays;
  if (path && to->path != 0) { /* only where it is now matters */
    copy(&q->records[to->path - 1].event, event);
    return true;
  }
  if (!has_room(q, to, relay)) return false;
  if (q->used == 0) atomic_store_explicit(&q->untold, true, memory_order_relaxed);
  uint32_t at = take_record(q);
  copy(&q->records[at - 1].event, event);
  if (to->count == 0 && !relay) join_ring(q, to);
  append(q, to, at);
  if (path) to->path = at;
  return true;
}

/* -- the face ------------------------------------------------------------------------------------------------------ */

bool events_put(struct event_queues *q, share *from, const kdp_event *event) {
  pthread_mutex_lock(&q->lock);
  bool room = put(q, from == NULL ? &q->relays : &from->events, event);
  pthread_mutex_unlock(&q->lock);
  return room;
}

/* Relaxed: whoever put sees its own store, and wakes Python if nobody has done so since. */
void events_tell(struct event_queues *q) {
  if (likely(!atomic_load_explicit(&q->untold, memory_order_relaxed))) return;
  if (atomic_exchange_explicit(&q->untold, false, memory_order_relaxed)) eventfd_write(q->fd, 1);
}

int events_take(struct event_queues *q, kdp_event *out, int max) {
  int taken = 0;
  pthread_mutex_lock(&q->lock);
  while (taken < max && q->used > 0) take_next(q, &out[taken++]);
  if (q->used == 0) eventfd_read(q->fd, &(eventfd_t){0});
  pthread_mutex_unlock(&q->lock);
  return taken;
}

void events_forget(struct event_queues *q, share *from) {
  kdp_event unused;
  event_queue *gone = &from->events;
  pthread_mutex_lock(&q->lock);
  if (gone->count > 0) {
    event_queue *before = q->last;
    while (before->next != gone) before = before->next;
    leave_ring(q, before);
  }
  while (gone->count > 0) pop(q, gone, &unused);
  pthread_mutex_unlock(&q->lock);
}
