/* The engine: its configuration, and the two threads that move packets. */
#include "internal.h"

#include <fcntl.h>
#include <netinet/udp.h>
#include <openssl/crypto.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#ifndef UDP_GRO
#define UDP_GRO 104
#endif
enum { UDP_BATCH = 16, AGE_EVERY_MS = 200 };
/* Small packets that come in crowds are let come together, as network cards do: else their sender pays for our waking
 * with each of them. A packet that comes alone does not wait. */
enum { GATHER_NS = 100000 };
/* Datagrams in one round that are a crowd, and how long after the last crowd the next one is expected. */
enum { CROWD = 32, CROWD_MS = 20 };

uint64_t clock_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_BOOTTIME, &t);
  return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

vni *vni_find(kdp_engine *e, uint32_t id) {
  for (uint32_t i = 0; i < VNIS_MAX; i++) { /* open addressing from id */
    vni *v = e->vnis[(id + i) % VNIS_MAX];
    if (v == NULL) return NULL;
    if (v->id == id) return v->leaving ? NULL : v;
  }
  return NULL;
}

session *session_find(kdp_engine *e, uint32_t index) {
  session *s = e->sessions[index & (SESSIONS_MAX - 1)];
  return s != NULL && s->index == index ? s : NULL;
}

void addr_to_sockaddr(const kdp_addr *a, struct sockaddr_storage *s, socklen_t *len) {
  memset(s, 0, sizeof *s);
  if (a->family == 4) {
    struct sockaddr_in *in = (struct sockaddr_in *)s;
    in->sin_family = AF_INET, in->sin_port = htons(a->port);
    memcpy(&in->sin_addr, a->ip, 4);
    *len = sizeof *in;
  } else {
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)s;
    in6->sin6_family = AF_INET6, in6->sin6_port = htons(a->port);
    memcpy(&in6->sin6_addr, a->ip, 16);
    *len = sizeof *in6;
  }
}

void sockaddr_to_addr(const struct sockaddr_storage *s, kdp_addr *a) {
  memset(a, 0, sizeof *a);
  if (s->ss_family == AF_INET) {
    const struct sockaddr_in *in = (const struct sockaddr_in *)s;
    a->family = 4, a->port = ntohs(in->sin_port);
    memcpy(a->ip, &in->sin_addr, 4);
  } else {
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)s;
    bool mapped = IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr); /* IPv4 on a dual-stack socket */
    a->family = mapped ? 4 : 6, a->port = ntohs(in6->sin6_port);
    memcpy(a->ip, (const uint8_t *)&in6->sin6_addr + (mapped ? 12 : 0), mapped ? 4 : 16);
  }
}

/* -- the packet threads -------------------------------------------------------------------------------------------- */

/* A thread of SCHED_BATCH does not take the processor from the one that wakes it. Amid crowds that lets the program which
 * fills the TUN go on to fill it; at other times we want to be there at once. */
typedef struct {
  uint64_t crowd_ms;
  bool patient;
} patience;

static void learn_patience(patience *p, uint64_t now_ms, uint64_t datagrams) {
  if (datagrams >= CROWD) p->crowd_ms = now_ms;
  bool patient = now_ms - p->crowd_ms < CROWD_MS;
  if (likely(patient == p->patient)) return;
  p->patient = patient;
  sched_setscheduler(0, patient ? SCHED_BATCH : SCHED_OTHER, &(struct sched_param){0});
}

static void *tx_main(void *argument) {
  kdp_engine *e = argument;
  lane *l = &e->lanes[LANE_TX];
  patience crowds = {0, false};
  struct epoll_event ready[BATCH];
  uint64_t aged_ms = 0;
  bool ageing = false; /* more flows than one round may take */
  while (!atomic_load_explicit(&e->stop, memory_order_acquire)) {
    int n = epoll_wait(e->watch_tx, ready, BATCH, ageing ? 0 : AGE_EVERY_MS);
    bool gathering = false;
    uint64_t before = counted(l, C_tx_datagrams);
    l->now_ms = clock_ms();
    config_read(e);
    for (int i = 0; i < n; i++) {
      if (unlikely(config_is_wanted(e))) config_yield(e, l);
      if (ready[i].data.u32 == UINT32_MAX) {
        eventfd_read(e->wake_tx, &(eventfd_t){0});
        continue;
      }
      vni *v = vni_find(e, ready[i].data.u32); /* by id: it may have gone since epoll_wait */
      if (v != NULL) gathering |= tun_read(e, l, v, e->tun_bytes);
    }
    batch_end(e, l);
    if (ageing || l->now_ms - aged_ms >= AGE_EVERY_MS) {
      aged_ms = l->now_ms;
      ageing = flows_age(e, l);
      if (unlikely(e->resting > 0)) tuns_retry(e, l);
    }
    config_read_end(e);
    learn_patience(&crowds, l->now_ms, counted(l, C_tx_datagrams) - before);
    if (gathering) nanosleep(&(struct timespec){.tv_nsec = GATHER_NS}, NULL);
  }
  return NULL;
}

typedef struct udp_batch {
  struct mmsghdr messages[UDP_BATCH];
  struct iovec vectors[UDP_BATCH];
  struct sockaddr_storage from[UDP_BATCH];
  char control[UDP_BATCH][3 * CMSG_SPACE(sizeof(int))];
  uint8_t bytes[UDP_BATCH][PACKET_MAX + 1];
} udp_batch;

/* What the kernel tells beside the bytes: the size of the datagrams it has joined, and the ECN bits they all had. */
static size_t read_control(struct msghdr *m, size_t len, uint8_t *ecn) {
  size_t size = len;
  for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c != NULL; c = CMSG_NXTHDR(m, c)) {
    int value = 0;
    if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TOS) {
      *ecn = *CMSG_DATA(c) & 3; /* one byte, unlike the others */
      continue;
    }
    memcpy(&value, CMSG_DATA(c), sizeof value);
    if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_TCLASS) *ecn = value & 3;
    if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO && value > 0) size = (size_t)value;
  }
  return size;
}

static void read_udp(kdp_engine *e, lane *l) {
  udp_batch *b = e->udp_batch;
  for (int i = 0; i < UDP_BATCH; i++) {
    b->vectors[i] = (struct iovec){b->bytes[i], PACKET_MAX + 1};
    b->messages[i].msg_hdr = (struct msghdr){.msg_name = &b->from[i],
                                             .msg_namelen = sizeof b->from[i],
                                             .msg_iov = &b->vectors[i],
                                             .msg_iovlen = 1,
                                             .msg_control = b->control[i],
                                             .msg_controllen = sizeof b->control[i]};
  }
  int n = recvmmsg(e->udp, b->messages, UDP_BATCH, MSG_DONTWAIT, NULL);
  for (int i = 0; i < n; i++) {
    struct msghdr *m = &b->messages[i].msg_hdr;
    origin from = {.from = &b->from[i], .from_len = m->msg_namelen};
    size_t left = b->messages[i].msg_len, size = read_control(m, left, &from.ecn);
    for (uint8_t *at = b->bytes[i]; left > 0;) {
      size_t len = left < size ? left : size;
      receive(e, l, at, len, &from);
      at += len, left -= len;
      if (unlikely(config_is_wanted(e))) config_yield(e, l);
    }
  }
  run_flush(e, l);
}

static void *rx_main(void *argument) {
  kdp_engine *e = argument;
  lane *l = &e->lanes[LANE_RX];
  bool more = false; /* of what came through the relay */
  while (!atomic_load_explicit(&e->stop, memory_order_acquire)) {
    struct epoll_event ready;
    if (epoll_wait(e->watch_rx, &ready, 1, more ? 0 : 1000) == 1 && ready.data.fd == e->wake_rx)
      eventfd_read(e->wake_rx, &(eventfd_t){0});
    l->now_ms = clock_ms();
    config_read(e);
    more = inbox_read(e, l, INBOX_BATCH);
    if (e->udp >= 0) read_udp(e, l);
    batch_end(e, l);
    config_read_end(e);
  }
  return NULL;
}

/* Signals are for the program that loaded us: the threads take none from it. */
static bool start_threads(kdp_engine *e) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  bool tx = pthread_create(&e->tx_thread, NULL, tx_main, e) == 0;
  bool rx = tx && pthread_create(&e->rx_thread, NULL, rx_main, e) == 0;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (tx && !rx) {
    atomic_store(&e->stop, true);
    pthread_join(e->tx_thread, NULL);
  }
  return rx;
}

/* -- life ---------------------------------------------------------------------------------------------------------- */

kdp_engine *kdp_create(const char *aead, uint32_t max_flows, char *error, size_t error_len) {
  if (aead_open_library(aead, error, error_len) != 0) return NULL;
  kdp_engine *e = aligned_alloc(64, (sizeof *e + 63) / 64 * 64);
  if (e == NULL) goto fail;
  memset(e, 0, sizeof *e);
  pthread_rwlockattr_t attributes;
  pthread_rwlockattr_init(&attributes);
  pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
  pthread_rwlock_init(&e->config, &attributes);
  pthread_mutex_init(&e->host_lock, NULL);
  pthread_mutex_init(&e->fragment_lock, NULL);
  e->udp = e->wake_tx = e->wake_rx = e->watch_tx = e->watch_rx = -1;
  e->wake_tx = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  e->wake_rx = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  e->watch_tx = epoll_create1(EPOLL_CLOEXEC);
  e->watch_rx = epoll_create1(EPOLL_CLOEXEC);
  e->relays = relays_new();
  e->inbox = inbox_new();
  e->flows = flows_new(max_flows);
  e->ended = ended_new();
  e->parking = parking_new();
  e->events = events_new();
  e->tun_bytes = malloc(TUN_BYTES);
  e->udp_batch = malloc(sizeof *e->udp_batch);
  bool ok = e->relays != NULL && e->inbox != NULL && e->flows != NULL && e->ended != NULL && e->parking != NULL &&
            e->events != NULL && e->tun_bytes != NULL && e->udp_batch != NULL;
  for (int i = 0; i < LANES; i++) {
    e->lanes[i].out.bytes = malloc(OUTBOX_BYTES);
    e->lanes[i].run.buffer = malloc(RUN_BYTES + PACKET_MAX);
    e->lanes[i].run.at = HEADROOM;
    ok = ok && e->lanes[i].out.bytes != NULL && e->lanes[i].run.buffer != NULL;
  }
  struct epoll_event tx_wake = {.events = EPOLLIN, .data.u32 = UINT32_MAX};
  struct epoll_event rx_wake = {.events = EPOLLIN, .data.fd = e->wake_rx};
  ok = ok && epoll_ctl(e->watch_tx, EPOLL_CTL_ADD, e->wake_tx, &tx_wake) == 0 &&
       epoll_ctl(e->watch_rx, EPOLL_CTL_ADD, e->wake_rx, &rx_wake) == 0;
  if (!ok) goto fail;
  if (!start_threads(e)) goto fail;
  e->threads = true;
  return e;
fail:
  snprintf(error, error_len, "not enough memory or file descriptors for the data plane");
  kdp_destroy(e);
  return NULL;
}

void kdp_destroy(kdp_engine *e) {
  if (e == NULL) return;
  if (e->threads) {
    atomic_store_explicit(&e->stop, true, memory_order_release);
    eventfd_write(e->wake_tx, 1);
    eventfd_write(e->wake_rx, 1);
    pthread_join(e->tx_thread, NULL);
    pthread_join(e->rx_thread, NULL);
  }
  for (uint32_t i = 0; i < SESSIONS_MAX; i++) session_free(e->sessions[i]); /* those that were cut as well */
  for (uint32_t i = 0; i < VNIS_MAX; i++) vni_free(e->vnis[i]);
  relays_free(e->relays);
  inbox_free(e->inbox);
  flows_free(e->flows);
  ended_free(e->ended);
  parking_free(e->parking);
  events_free(e->events);
  free(e->tun_bytes);
  free(e->udp_batch);
  for (int i = 0; i < LANES; i++) {
    if (e->lanes[i].run.buffer != NULL) OPENSSL_cleanse(e->lanes[i].run.buffer, RUN_BYTES + PACKET_MAX);
    free(e->lanes[i].out.bytes);
    free(e->lanes[i].run.buffer);
  }
  const int descriptors[] = {e->udp, e->watch_tx, e->watch_rx, e->wake_tx, e->wake_rx};
  for (size_t i = 0; i < sizeof descriptors / sizeof *descriptors; i++)
    if (descriptors[i] >= 0) close(descriptors[i]);
  pthread_rwlock_destroy(&e->config);
  pthread_mutex_destroy(&e->host_lock);
  pthread_mutex_destroy(&e->fragment_lock);
  free(e);
}

const char *kdp_aead_name(kdp_engine *e) {
  (void)e;
  return aead_library();
}

const char *kdp_aead_unused(kdp_engine *e) {
  (void)e;
  return aead_unused_reason();
}

int kdp_event_fd(kdp_engine *e) {
  return events_fd(e->events);
}
int kdp_events(kdp_engine *e, kdp_event *out, int max) {
  int taken, kept = 0;
  do {
    taken = events_take(e->events, out, max);
    for (int i = 0; i < taken; i++) {
      if (out[i].type == KDP_EVENT_FLOW && !flows_asked(e, out[i].flow.id)) continue;
      if (i != kept) out[kept] = out[i];
      kept++;
    }
  } while (taken > 0 && kept == 0);
  return kept;
}

int kdp_set_udp(kdp_engine *e, int fd) {
  int own = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0), on = 1, size = 1 << 23;
  if (fd >= 0 && own < 0) return -errno;
  if (own >= 0) {
    setsockopt(own, IPPROTO_UDP, UDP_GRO, &on, sizeof on); /* without it datagrams come one by one: slower, right */
    ignore_path_mtu(own);
    setsockopt(own, IPPROTO_IP, IP_RECVTOS, &on, sizeof on);
    setsockopt(own, IPPROTO_IPV6, IPV6_RECVTCLASS, &on, sizeof on); /* refused by an IPv4 socket */
    if (setsockopt(own, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size) != 0)
      setsockopt(own, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    if (setsockopt(own, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size) != 0)
      setsockopt(own, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
  }
  config_write(e);
  int old = e->udp;
  /* Taken out by hand: closing is not enough while the caller's own descriptor keeps the socket open. */
  if (old >= 0) epoll_ctl(e->watch_rx, EPOLL_CTL_DEL, old, NULL);
  if (own >= 0) epoll_ctl(e->watch_rx, EPOLL_CTL_ADD, own, &(struct epoll_event){.events = EPOLLIN, .data.fd = own});
  e->udp = own;
  config_write_end(e);
  if (old >= 0) close(old);
  return 0;
}

/* -- counters ------------------------------------------------------------------------------------------------------ */

static const char *const counter_names[] = {
#define X(name) #name,
    KDP_COUNTER_LIST(X)
#undef X
};

const char *kdp_counter_name(int counter) {
  return counter >= 0 && counter < C_COUNT ? counter_names[counter] : NULL;
}

int kdp_counters(kdp_engine *e, uint64_t *out, int max) {
  for (int c = 0; c < C_COUNT && c < max; c++) {
    out[c] = 0;
    for (int i = 0; i < LANES; i++) out[c] += counted(&e->lanes[i], c);
  }
  if (max > C_drop_pending) out[C_drop_pending] += parking_lost(e->parking);
  return C_COUNT;
}
