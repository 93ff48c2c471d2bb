/* Queues of sealed datagrams that leave through the relay: Python takes whole batches. When one is full the oldest
 * datagrams go: a stale datagram is worth less than a fresh one, and the sender of a stream repeats either.
 *
 * A queue is a chain of chunks and holds none while it is empty, so an idle channel costs its few fields alone. Chunks
 * that become free are kept for the next queue that needs one: under load no memory is allocated. */
#include <stdlib.h>

#include "internal.h"

enum {
  CHUNK_BYTES = (1 << 15) - 16, /* with the link and an allocator's header no more than 32 KiB */
  SPARE_CHUNKS = 64,            /* kept for all queues together: 2 MiB */
  BUCKETS_MIN = 64,
};

typedef struct chunk {
  struct chunk *next;
  uint8_t bytes[CHUNK_BYTES];
} chunk;

typedef struct relay_queue {
  struct relay_queue *next; /* in its bucket */
  uint32_t id;
  bool told;            /* Python knows that something waits */
  pthread_mutex_t lock; /* guards `told` and all below */
  chunk *first, *last;  /* NULL while the queue is empty */
  size_t head, tail;    /* of the next byte to be taken in `first`, and of the next to be put in `last` */
  size_t used;          /* bytes of all records */
} relay_queue;

struct relay_table {
  relay_queue **buckets; /* by id & mask; they, mask and count are guarded by `config` */
  uint32_t mask, count;
  pthread_mutex_t spare_lock; /* guards the two below; taken under a queue's lock */
  chunk *spare;
  uint32_t spare_count;
};

/* -- chunks -------------------------------------------------------------------------------------------------------- */

static chunk *chunk_take(struct relay_table *t) {
  pthread_mutex_lock(&t->spare_lock);
  chunk *c = t->spare;
  if (c != NULL) t->spare = c->next, t->spare_count--;
  pthread_mutex_unlock(&t->spare_lock);
  if (c == NULL) c = malloc(sizeof *c);
  if (c != NULL) c->next = NULL;
  return c;
}

static void chunk_give_back(struct relay_table *t, chunk *c) {
  pthread_mutex_lock(&t->spare_lock);
  bool keep = t->spare_count < SPARE_CHUNKS;
  if (keep) c->next = t->spare, t->spare = c, t->spare_count++;
  pthread_mutex_unlock(&t->spare_lock);
  if (!keep) free(c);
}

static void chunks_free(chunk *c) {
  for (chunk *next; c != NULL; c = next) next = c->next, free(c);
}

/* -- the bytes of one queue; its lock is held ---------------------------------------------------------------------- */

/* Makes room behind the last record. false: no memory, and nothing is changed. */
static bool reserve(struct relay_table *t, relay_queue *q, size_t len) {
  size_t room = q->last == NULL ? 0 : CHUNK_BYTES - q->tail;
  chunk *more = NULL, **end = &more;
  for (; room < len; room += CHUNK_BYTES) {
    *end = chunk_take(t);
    if (*end == NULL) {
      for (chunk *next; more != NULL; more = next) next = more->next, chunk_give_back(t, more);
      return false;
    }
    end = &(*end)->next;
  }
  if (more == NULL) return true;
  if (q->last == NULL)
    q->first = q->last = more, q->head = q->tail = 0;
  else
    q->last->next = more;
  return true;
}

/* Into what was reserved. */
static void append(relay_queue *q, const uint8_t *src, size_t len) {
  while (len > 0) {
    if (q->tail == CHUNK_BYTES) q->last = q->last->next, q->tail = 0;
    size_t piece = CHUNK_BYTES - q->tail < len ? CHUNK_BYTES - q->tail : len;
    memcpy(q->last->bytes + q->tail, src, piece);
    q->tail += piece, q->used += piece;
    src += piece, len -= piece;
  }
}

/* The oldest `len` bytes; dst NULL: they are dropped. */
static void take(struct relay_table *t, relay_queue *q, uint8_t *dst, size_t len) {
  while (len > 0) {
    size_t piece = CHUNK_BYTES - q->head < len ? CHUNK_BYTES - q->head : len;
    if (dst != NULL) memcpy(dst, q->first->bytes + q->head, piece), dst += piece;
    q->head += piece, q->used -= piece, len -= piece;
    if (q->head < CHUNK_BYTES) continue;
    chunk *done = q->first;
    q->first = done->next, q->head = 0;
    if (q->last == done) q->last = NULL;
    chunk_give_back(t, done);
  }
  if (q->used > 0 || q->first == NULL) return;
  chunk_give_back(t, q->first);
  q->first = q->last = NULL;
}

static size_t record_len(const relay_queue *q) {
  const uint8_t *second = q->head + 1 < CHUNK_BYTES ? q->first->bytes + q->head + 1 : q->first->next->bytes;
  return 2 + ((size_t)q->first->bytes[q->head] << 8 | *second);
}

/* -- the queues; `config` is held ---------------------------------------------------------------------------------- */

struct relay_table *relays_new(void) {
  struct relay_table *t = calloc(1, sizeof *t);
  if (t == NULL) return NULL;
  t->mask = BUCKETS_MIN - 1;
  t->buckets = calloc(BUCKETS_MIN, sizeof(relay_queue *));
  pthread_mutex_init(&t->spare_lock, NULL);
  if (t->buckets != NULL) return t;
  relays_free(t);
  return NULL;
}

static void queue_free(relay_queue *q) {
  if (q == NULL) return;
  chunks_free(q->first);
  pthread_mutex_destroy(&q->lock);
  free(q);
}

void relays_free(struct relay_table *t) {
  if (t == NULL) return;
  for (uint32_t i = 0; t->buckets != NULL && i <= t->mask; i++)
    for (relay_queue *q = t->buckets[i], *next; q != NULL; q = next) next = q->next, queue_free(q);
  chunks_free(t->spare);
  pthread_mutex_destroy(&t->spare_lock);
  free(t->buckets);
  free(t);
}

/* Ids are given out one after the other, so their low bits spread them evenly. */
static relay_queue **place_of(const struct relay_table *t, uint32_t id) {
  relay_queue **at = &t->buckets[id & t->mask];
  while (*at != NULL && (*at)->id != id) at = &(*at)->next;
  return at;
}

/* Doubles the buckets when there is a queue for each. Without memory the chains grow instead. */
static void spread(struct relay_table *t) {
  if (t->count <= t->mask) return;
  uint32_t size = (t->mask + 1) * 2;
  relay_queue **wider = calloc(size, sizeof(relay_queue *));
  if (wider == NULL) return;
  for (uint32_t i = 0; i <= t->mask; i++) {
    for (relay_queue *q = t->buckets[i], *next; q != NULL; q = next) {
      next = q->next;
      q->next = wider[q->id & (size - 1)];
      wider[q->id & (size - 1)] = q;
    }
  }
  free(t->buckets);
  t->buckets = wider, t->mask = size - 1;
}

int kdp_relay_add(kdp_engine *e, uint32_t relay) {
  relay_queue *q = calloc(1, sizeof *q);
  if (q == NULL) return -ENOMEM;
  q->id = relay;
  pthread_mutex_init(&q->lock, NULL);
  config_write(e);
  relay_queue **at = place_of(e->relays, relay);
  bool taken = *at != NULL;
  if (!taken) {
    *at = q;
    e->relays->count++;
    spread(e->relays);
  }
  config_write_end(e);
  if (taken) queue_free(q);
  return taken ? -EEXIST : 0;
}

int kdp_relay_remove(kdp_engine *e, uint32_t relay) {
  config_write(e);
  relay_queue **at = place_of(e->relays, relay), *q = *at;
  if (q != NULL) *at = q->next, e->relays->count--;
  config_write_end(e);
  queue_free(q);
  return q == NULL ? -ENOENT : 0;
}

void relay_queue_put(kdp_engine *e, lane *l, uint32_t relay, const uint8_t *datagram, size_t len) {
  struct relay_table *t = e->relays;
  relay_queue *q = *place_of(t, relay);
  if (q == NULL) {
    count(l, C_drop_no_relay);
    return;
  }
  uint8_t prefix[2];
  put16(prefix, (uint32_t)len);
  pthread_mutex_lock(&q->lock);
  while (q->used + sizeof prefix + len > RELAY_BYTES) {
    take(t, q, NULL, record_len(q));
    count(l, C_drop_relay_full);
  }
  bool kept = reserve(t, q, sizeof prefix + len);
  if (kept) append(q, prefix, sizeof prefix), append(q, datagram, len);
  bool tell = kept && !q->told;
  if (tell) q->told = true;
  pthread_mutex_unlock(&q->lock);
  if (!kept) count(l, C_drop_relay_full);
  if (!tell) return;
  kdp_event event = {.type = KDP_EVENT_RELAY, .relay = relay};
  if (events_put(e->events, NULL, &event)) return;
  count(l, C_drop_event_full);
  pthread_mutex_lock(&q->lock);
  q->told = false; /* the next datagram tries again */
  pthread_mutex_unlock(&q->lock);
}

long kdp_relay_take(kdp_engine *e, uint32_t relay, uint8_t *out, size_t cap) {
  config_read(e);
  struct relay_table *t = e->relays;
  relay_queue *q = *place_of(t, relay);
  long taken = q == NULL ? -ENOENT : 0;
  if (q != NULL) {
    pthread_mutex_lock(&q->lock);
    while (q->used > 0) {
      size_t len = record_len(q);
      if ((size_t)taken + len > cap) break;
      take(t, q, out + taken, len);
      taken += (long)len;
    }
    q->told = q->used > 0; /* what is left is taken by the same caller's next call */
    pthread_mutex_unlock(&q->lock);
  }
  config_read_end(e);
  return taken;
}
