/* Queues of sealed datagrams that leave through the relay: Python takes whole batches. When one is full the oldest
 * datagrams go: a stale datagram is worth less than a fresh one, and the sender of a stream repeats either. */
#include <stdlib.h>

#include "internal.h"

typedef struct relay_queue {
  struct relay_queue *next;
  uint32_t id;
  pthread_mutex_t lock; /* guards all below */
  uint64_t head, tail;  /* positions that only grow; the byte lies at position % RELAY_BYTES */
  bool told;            /* Python knows that something waits */
  uint8_t bytes[RELAY_BYTES];
} relay_queue;

static relay_queue *find(kdp_engine *e, uint32_t id) {
  for (relay_queue *q = e->relays; q != NULL; q = q->next)
    if (q->id == id) return q;
  return NULL;
}

static void ring_write(relay_queue *q, uint64_t at, const uint8_t *src, size_t len) {
  size_t offset = at % RELAY_BYTES, first = RELAY_BYTES - offset < len ? RELAY_BYTES - offset : len;
  memcpy(q->bytes + offset, src, first);
  memcpy(q->bytes, src + first, len - first);
}

static void ring_read(const relay_queue *q, uint64_t at, uint8_t *dst, size_t len) {
  size_t offset = at % RELAY_BYTES, first = RELAY_BYTES - offset < len ? RELAY_BYTES - offset : len;
  memcpy(dst, q->bytes + offset, first);
  memcpy(dst + first, q->bytes, len - first);
}

static size_t record_len(const relay_queue *q, uint64_t at) {
  uint8_t len[2];
  ring_read(q, at, len, 2);
  return 2 + (size_t)get16(len);
}

int kdp_relay_add(kdp_engine *e, uint32_t relay) {
  relay_queue *q = calloc(1, sizeof *q);
  if (q == NULL) return -ENOMEM;
  q->id = relay;
  pthread_mutex_init(&q->lock, NULL);
  pthread_rwlock_wrlock(&e->config);
  bool taken = find(e, relay) != NULL;
  if (!taken) q->next = e->relays, e->relays = q;
  pthread_rwlock_unlock(&e->config);
  if (taken) free(q);
  return taken ? -EEXIST : 0;
}

int kdp_relay_remove(kdp_engine *e, uint32_t relay) {
  pthread_rwlock_wrlock(&e->config);
  relay_queue **at = &e->relays;
  while (*at != NULL && (*at)->id != relay) at = &(*at)->next;
  relay_queue *q = *at;
  if (q != NULL) *at = q->next;
  pthread_rwlock_unlock(&e->config);
  free(q);
  return q == NULL ? -ENOENT : 0;
}

void relay_free_all(kdp_engine *e) {
  for (relay_queue *q = e->relays, *next; q != NULL; q = next) next = q->next, free(q);
  e->relays = NULL;
}

void relay_queue_put(kdp_engine *e, lane *l, uint32_t relay, const uint8_t *datagram, size_t len) {
  relay_queue *q = find(e, relay);
  if (q == NULL) {
    count(l, C_drop_no_relay);
    return;
  }
  pthread_mutex_lock(&q->lock);
  while (q->tail - q->head + 2 + len > RELAY_BYTES) {
    q->head += record_len(q, q->head);
    count(l, C_drop_relay_full);
  }
  uint8_t prefix[2];
  put16(prefix, (uint32_t)len);
  ring_write(q, q->tail, prefix, 2);
  ring_write(q, q->tail + 2, datagram, len);
  q->tail += 2 + len;
  bool tell = !q->told;
  q->told = true;
  pthread_mutex_unlock(&q->lock);
  if (tell) {
    kdp_event event = {.type = KDP_EVENT_RELAY, .relay = relay};
    if (!events_put(e->events, NULL, &event)) {
      count(l, C_drop_event_full);
      pthread_mutex_lock(&q->lock);
      q->told = false; /* the next datagram tries again */
      pthread_mutex_unlock(&q->lock);
    }
  }
}

long kdp_relay_take(kdp_engine *e, uint32_t relay, uint8_t *out, size_t cap) {
  pthread_rwlock_rdlock(&e->config);
  relay_queue *q = find(e, relay);
  long taken = q == NULL ? -ENOENT : 0;
  if (q != NULL) {
    pthread_mutex_lock(&q->lock);
    while (q->head < q->tail) {
      size_t len = record_len(q, q->head);
      if ((size_t)taken + len > cap) break;
      ring_read(q, q->head, out + taken, len);
      taken += (long)len;
      q->head += len;
    }
    q->told = q->head < q->tail; /* what is left is taken by the same caller's next call */
    pthread_mutex_unlock(&q->lock);
  }
  pthread_rwlock_unlock(&e->config);
  return taken;
}

long kdp_relay_put(kdp_engine *e, uint32_t relay, const uint8_t *data, size_t len) {
  lane *l = &e->lanes[LANE_HOST];
  long read = 0;
  pthread_mutex_lock(&e->host_lock);
  pthread_mutex_lock(&e->receive_lock);
  pthread_rwlock_rdlock(&e->config);
  l->now_ms = clock_ms();
  while (len > 0) {
    if (len < 2 || get16(data) > len - 2) {
      read = -EBADMSG;
      break;
    }
    size_t size = get16(data);
    receive(e, l, data + 2, size, &(origin){.relay = relay});
    data += 2 + size, len -= 2 + size, read++;
  }
  run_flush(e, l);
  batch_end(e, l);
  pthread_rwlock_unlock(&e->config);
  pthread_mutex_unlock(&e->receive_lock);
  pthread_mutex_unlock(&e->host_lock);
  return read;
}
