/* Datagrams out of the relay, on their way to the thread that receives. Python leaves whole frames here and goes on at
 * once: replay windows and gathering runs belong to the receiver alone, and nobody waits for it.
 *
 * One ring of bytes. Putters take turns by `put_lock`; the one taker, the receiver, takes no lock. `tail` is stored
 * after a frame's bytes and loaded before they are read; `head` is stored after they were read and loaded before others
 * are written over them. Both stores, `told` and `settling` are in the one order of sequentially consistent operations,
 * so that of two threads which each write one of them and then read the other, at least one sees what the other wrote.
 *
 * A channel may have no more waiting here than would still be free: one that floods keeps to half of the ring, and there
 * is always room for the others. What is refused is counted, by the receiver. */
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "internal.h"

enum { INBOX_BYTES = 1 << 22 /* sixteen of the largest frames */, SHARES = 4096 };

typedef struct {
  uint32_t relay, len; /* len SKIP: nothing more before the end of the ring */
} frame_header;
enum { SKIP = UINT32_MAX };

struct inbox {
  pthread_mutex_t put_lock; /* putters, one at a time */
  pthread_mutex_t settle_lock;
  pthread_cond_t settled;    /* with settle_lock: `head` has moved */
  _Atomic uint32_t settling; /* how many wait for that */
  uint8_t *bytes;
  _Atomic uint32_t waiting[SHARES];   /* bytes of the channels whose number ends in these bits */
  _Atomic uint64_t refused;           /* datagrams */
  _Alignas(64) _Atomic uint64_t tail; /* positions that only grow; a byte lies at position % INBOX_BYTES */
  _Alignas(64) _Atomic uint64_t head; /* stored by the receiver alone */
  _Alignas(64) _Atomic bool told;     /* the receiver was woken and has not looked yet */
};

struct inbox *inbox_new(void) {
  struct inbox *b = aligned_alloc(64, (sizeof *b + 63) / 64 * 64);
  if (b == NULL) return NULL;
  memset(b, 0, sizeof *b);
  pthread_mutex_init(&b->put_lock, NULL);
  pthread_mutex_init(&b->settle_lock, NULL);
  pthread_cond_init(&b->settled, NULL);
  b->bytes = mmap(NULL, INBOX_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (b->bytes != MAP_FAILED) return b;
  b->bytes = NULL;
  inbox_free(b);
  return NULL;
}

void inbox_free(struct inbox *b) {
  if (b == NULL) return;
  if (b->bytes != NULL) munmap(b->bytes, INBOX_BYTES);
  pthread_mutex_destroy(&b->put_lock);
  pthread_mutex_destroy(&b->settle_lock);
  pthread_cond_destroy(&b->settled);
  free(b);
}

/* Room of a frame with its header: headers stay aligned, and one always fits before the end. */
static size_t room_of(size_t len) {
  return (sizeof(frame_header) + len + 7) & ~(size_t)7;
}

static bool put(struct inbox *b, uint32_t relay, const uint8_t *data, size_t len) {
  pthread_mutex_lock(&b->put_lock);
  uint64_t tail = atomic_load_explicit(&b->tail, memory_order_relaxed);
  size_t at = tail % INBOX_BYTES, left = INBOX_BYTES - at, room = room_of(len), skipped = left < room ? left : 0;
  size_t room_left = INBOX_BYTES - (size_t)(tail - atomic_load(&b->head));
  _Atomic uint32_t *waiting = &b->waiting[relay % SHARES];
  bool fits = skipped + room + atomic_load_explicit(waiting, memory_order_relaxed) + room <= room_left;
  if (fits) {
    if (skipped > 0) memcpy(b->bytes + at, &(frame_header){.len = SKIP}, sizeof(frame_header));
    uint8_t *to = b->bytes + (tail + skipped) % INBOX_BYTES;
    memcpy(to, &(frame_header){.relay = relay, .len = (uint32_t)len}, sizeof(frame_header));
    memcpy(to + sizeof(frame_header), data, len);
    atomic_fetch_add_explicit(waiting, (uint32_t)room, memory_order_relaxed);
    atomic_store(&b->tail, tail + skipped + room);
  }
  pthread_mutex_unlock(&b->put_lock);
  return fits;
}

/* How many bytes of `data` are whole records; `datagrams`: how many these are. */
static size_t whole_records(const uint8_t *data, size_t len, long *datagrams) {
  size_t at = 0;
  for (*datagrams = 0; len - at >= 2 && get16(data + at) <= len - at - 2; ++*datagrams)
    at += 2 + (size_t)get16(data + at);
  return at;
}

long kdp_relay_put(kdp_engine *e, uint32_t relay, const uint8_t *data, size_t len) {
  struct inbox *b = e->inbox;
  long datagrams;
  if (len > FRAME_MAX) return -EMSGSIZE;
  size_t whole = whole_records(data, len, &datagrams);
  if (whole > 0 && !put(b, relay, data, whole))
    atomic_fetch_add_explicit(&b->refused, (uint64_t)datagrams, memory_order_relaxed);
  if (whole > 0 && !atomic_exchange(&b->told, true)) eventfd_write(e->wake_rx, 1);
  return whole < len ? -EBADMSG : datagrams;
}

static void read_frame(kdp_engine *e, lane *l, uint32_t relay, const uint8_t *data, size_t len) {
  const origin from = {.relay = relay};
  for (size_t at = 0; at < len; at += 2 + (size_t)get16(data + at)) {
    receive(e, l, data + at + 2, get16(data + at), &from);
    if (unlikely(config_is_wanted(e))) config_yield(e, l);
  }
}

static void tell_settling(struct inbox *b) {
  if (likely(atomic_load(&b->settling) == 0)) return;
  pthread_mutex_lock(&b->settle_lock);
  pthread_cond_broadcast(&b->settled);
  pthread_mutex_unlock(&b->settle_lock);
}

bool inbox_read(kdp_engine *e, lane *l, size_t most) {
  struct inbox *b = e->inbox;
  if (atomic_load_explicit(&b->told, memory_order_relaxed)) atomic_store(&b->told, false);
  uint64_t head = atomic_load_explicit(&b->head, memory_order_relaxed), tail = atomic_load(&b->tail), began = head;
  uint64_t refused = atomic_exchange_explicit(&b->refused, 0, memory_order_relaxed);
  if (unlikely(refused > 0)) count_n(l, C_drop_inbox_full, refused);
  while (head < tail && head - began < most) {
    const uint8_t *at = b->bytes + head % INBOX_BYTES;
    frame_header h;
    memcpy(&h, at, sizeof h);
    if (h.len == SKIP) {
      head += INBOX_BYTES - head % INBOX_BYTES;
      continue;
    }
    read_frame(e, l, h.relay, at + sizeof h, h.len);
    head += room_of(h.len);
    atomic_fetch_sub_explicit(&b->waiting[h.relay % SHARES], (uint32_t)room_of(h.len), memory_order_relaxed);
    atomic_store(&b->head, head);
  }
  run_flush(e, l);
  if (head != began) tell_settling(b);
  return head < tail;
}

void kdp_settle(kdp_engine *e) {
  struct inbox *b = e->inbox;
  uint64_t until = atomic_load(&b->tail);
  pthread_mutex_lock(&b->settle_lock);
  atomic_fetch_add(&b->settling, 1);
  while (atomic_load(&b->head) < until) pthread_cond_wait(&b->settled, &b->settle_lock);
  atomic_fetch_sub(&b->settling, 1);
  pthread_mutex_unlock(&b->settle_lock);
  config_write(e); /* what the receiver was about has left with its batch */
  config_write_end(e);
}
