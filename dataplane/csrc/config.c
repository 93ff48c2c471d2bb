/* Changes of configuration. Most take the write side of `config`, so no packet is in flight while they act. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "internal.h"

void vni_free(vni *v) {
  if (v == NULL) return;
  fib_free(v->fib);
  free(v->mappings);
  fragments_free(&v->share);
  if (v->tun >= 0) close(v->tun);
  free(v);
}

/* -- the lock -------------------------------------------------------------------------------------------------------- */

void config_read(kdp_engine *e) {
  pthread_rwlock_rdlock(&e->config);
}

void config_read_end(kdp_engine *e) {
  pthread_rwlock_unlock(&e->config);
}

/* Relaxed: a packet thread that does not see it at once sees it a packet later. */
void config_write(kdp_engine *e) {
  atomic_fetch_add_explicit(&e->writers, 1, memory_order_relaxed);
  pthread_rwlock_wrlock(&e->config);
}

void config_write_end(kdp_engine *e) {
  pthread_rwlock_unlock(&e->config);
  atomic_fetch_sub_explicit(&e->writers, 1, memory_order_relaxed);
}

void config_yield(kdp_engine *e, lane *l) {
  batch_end(e, l);
  config_read_end(e);
  config_read(e);
}

/* -- VNIs ------------------------------------------------------------------------------------------------------------ */

/* Takes a place in the table and is watched from then on. */
static int vni_enter(kdp_engine *e, vni *v) {
  uint32_t at = v->id % VNIS_MAX;
  for (uint32_t i = 0; i < VNIS_MAX && e->vnis[at] != NULL && e->vnis[at]->id != v->id; i++) at = (at + 1) % VNIS_MAX;
  if (e->vnis[at] != NULL) return e->vnis[at]->id == v->id ? -EEXIST : -ENOSPC;
  struct epoll_event watch = {.events = EPOLLIN, .data.u32 = v->id};
  if (epoll_ctl(e->watch_tx, EPOLL_CTL_ADD, v->tun, &watch) != 0) return -errno;
  e->vnis[at] = v;
  return 0;
}

int kdp_vni_add(kdp_engine *e, uint32_t id, int tun_fd) {
  int tun = fcntl(tun_fd, F_DUPFD_CLOEXEC, 0);
  if (tun < 0) return -errno;
  vni *v = calloc(1, sizeof *v);
  if (v == NULL) {
    close(tun);
    return -ENOMEM;
  }
  v->id = id, v->tun = tun, v->fib = fib_new();
  int result = -ENOMEM;
  if (v->fib != NULL) {
    config_write(e);
    result = vni_enter(e, v);
    config_write_end(e);
  }
  if (result != 0) vni_free(v);
  return result;
}

static void rx_epoch_free(rx_epoch *k) {
  if (k == NULL) return;
  aead_key_free(k->key);
  free(k);
}

/* Nobody reads them any more. */
static void session_wipe(session *s) {
  for (int i = 0; i < KDP_EPOCHS; i++) rx_epoch_free(s->rx[i]), s->rx[i] = NULL;
  aead_key_free(s->tx_key), s->tx_key = NULL;
}

void session_free(session *s) {
  if (s == NULL) return;
  session_wipe(s);
  free(s->leases);
  fragments_free(&s->share);
  free(s->routes);
  pthread_mutex_destroy(&s->path_lock);
  free(s);
}

/* -- cuts ------------------------------------------------------------------------------------------------------------ */

enum { CUTS_A_WRITE = 16, FLOWS_A_READ = 64 };

/* Under the write side. From here on no packet finds the session: what is left of it is its flows. */
static void session_unlink(kdp_engine *e, session *s) {
  events_forget(e->events, &s->share);
  session **at = &s->vni->sessions;
  while (*at != s) at = &(*at)->next_of_vni;
  *at = s->next_of_vni;
  for (size_t i = 0; i < s->route_count; i++)
    fib_unset_hop(s->vni->fib, s->routes[i].family, s->routes[i].prefix, s->routes[i].bits, s->index);
  for (int i = 0; i < LANES; i++)
    if (e->lanes[i].run.from == s) e->lanes[i].run.count = 0, e->lanes[i].run.from = NULL;
  s->index = 0;
  s->next_cut = e->cut_sessions, e->cut_sessions = s;
}

/* Under the write side: those whose flows are forgotten leave their places. */
static void sessions_reap(kdp_engine *e) {
  for (session **at = &e->cut_sessions; *at != NULL;) {
    session *s = *at;
    if (!s->gone) {
      at = &s->next_cut;
      continue;
    }
    *at = s->next_cut;
    e->sessions[s->place] = NULL;
    session_free(s);
  }
}

/* Its flows go under the read side, some at a time, so that packets go on. */
static void session_bury(kdp_engine *e, session *s, uint32_t index) {
  session_wipe(s);
  for (bool more = true; more;) {
    config_read(e);
    more = flows_forget_session(e, s, index, FLOWS_A_READ);
    if (!more) s->gone = true; /* read under the write side; from then on another cut may free it */
    config_read_end(e);
  }
}

int kdp_sessions_cut(kdp_engine *e, const uint32_t *indexes, size_t count) {
  int found = 0;
  for (size_t from = 0; from < count; from += CUTS_A_WRITE) {
    session *cut[CUTS_A_WRITE];
    size_t size = count - from < CUTS_A_WRITE ? count - from : CUTS_A_WRITE;
    config_write(e);
    sessions_reap(e);
    for (size_t i = 0; i < size; i++) {
      cut[i] = session_find(e, indexes[from + i]);
      if (cut[i] != NULL) session_unlink(e, cut[i]), found++;
    }
    config_write_end(e);
    for (size_t i = 0; i < size; i++)
      if (cut[i] != NULL) session_bury(e, cut[i], indexes[from + i]);
  }
  return found;
}

int kdp_session_cut(kdp_engine *e, uint32_t index) {
  return kdp_sessions_cut(e, &index, 1) == 1 ? 0 : -ENOENT;
}

static void vni_unlink(kdp_engine *e, vni *v) {
  uint32_t hole = v->id % VNIS_MAX;
  while (e->vnis[hole] != v) hole = (hole + 1) % VNIS_MAX;
  e->vnis[hole] = NULL;
  for (uint32_t at = (hole + 1) % VNIS_MAX; e->vnis[at] != NULL; at = (at + 1) % VNIS_MAX) { /* close the gap */
    vni *moved = e->vnis[at];
    uint32_t home = moved->id % VNIS_MAX;
    if ((at - home) % VNIS_MAX < (at - hole) % VNIS_MAX) continue;
    e->vnis[hole] = moved, e->vnis[at] = NULL, hole = at;
  }
  events_forget(e->events, &v->share);
}

/* Under the write side: no packet finds it any more. It keeps its place, and its share of the flow table, until its flows
 * are forgotten. */
static void vni_leave(kdp_engine *e, vni *v) {
  v->leaving = true;
  epoll_ctl(e->watch_tx, EPOLL_CTL_DEL, v->tun, NULL);
  if (v->retry_ms != 0) e->resting--, v->retry_ms = 0;
}

int kdp_vni_remove(kdp_engine *e, uint32_t id) {
  vni *v;
  for (uint32_t last = 1; last != 0;) { /* its sessions first, each as any other is cut */
    config_write(e);
    v = vni_find(e, id);
    last = v == NULL || v->sessions == NULL ? 0 : v->sessions->index;
    if (v != NULL && last == 0) vni_leave(e, v);
    config_write_end(e);
    if (last != 0) kdp_session_cut(e, last);
  }
  if (v == NULL) return -ENOENT;
  uint32_t bucket = 0;
  for (bool more = true; more;) {
    config_read(e);
    more = flows_forget_vni(e, id, &bucket);
    config_read_end(e);
  }
  config_write(e);
  vni_unlink(e, v);
  config_write_end(e);
  vni_free(v);
  return 0;
}

/* -- routes ---------------------------------------------------------------------------------------------------------- */

/* The session learns which routes lead to it: its cut removes them without a look at all the others. */
static int remember_route(session *s, uint8_t family, const uint8_t *prefix, uint8_t bits) {
  prefix_route route = {.family = family, .bits = bits};
  memcpy(route.prefix, prefix, family == 4 ? 4 : 16);
  for (size_t i = 0; i < s->route_count; i++)
    if (memcmp(&s->routes[i], &route, sizeof route) == 0) return 0;
  prefix_route *grown = realloc(s->routes, (s->route_count + 1) * sizeof *grown);
  if (grown == NULL) return -ENOMEM;
  s->routes = grown;
  grown[s->route_count++] = route;
  return 0;
}

static int route_add(kdp_engine *e, uint32_t id, uint8_t family, const uint8_t *prefix, uint8_t bits,
                     uint32_t next_hop) {
  vni *v = vni_find(e, id);
  if (v == NULL) return -ENOENT;
  session *to = next_hop == KDP_NEXT_HOP_LOCAL ? NULL : session_find(e, next_hop);
  int result = fib_set(v->fib, family, prefix, bits, next_hop);
  if (result != 0 || to == NULL || to->vni != v) return result;
  result = remember_route(to, family, prefix, bits);
  if (result != 0) fib_unset(v->fib, family, prefix, bits);
  return result;
}

int kdp_fib_add(kdp_engine *e, uint32_t id, uint8_t family, const uint8_t *prefix, uint8_t bits, uint32_t next_hop) {
  config_write(e);
  int result = route_add(e, id, family, prefix, bits, next_hop);
  config_write_end(e);
  return result;
}

int kdp_fib_remove(kdp_engine *e, uint32_t id, uint8_t family, const uint8_t *prefix, uint8_t bits) {
  config_write(e);
  vni *v = vni_find(e, id);
  int result = v == NULL ? -ENOENT : fib_unset(v->fib, family, prefix, bits);
  config_write_end(e);
  return result;
}

static size_t mapping_place(const vni *v, uint8_t family, uint8_t bits, const uint8_t *seen) {
  size_t at = 0, width = family == 4 ? 4 : 16;
  while (at < v->mapping_count && (v->mappings[at].family != family || v->mappings[at].bits != bits ||
                                   memcmp(v->mappings[at].seen, seen, width) != 0))
    at++;
  return at;
}

int kdp_mapping_add(kdp_engine *e, uint32_t id, uint8_t family, uint8_t bits, const uint8_t *seen, uint32_t to,
                    const uint8_t *real) {
  if ((family != 4 && family != 6) || bits > (family == 4 ? 32 : 128) || to == 0 || to >= CROSSING || to == id)
    return -EINVAL;
  mapping fresh = {.to = to, .family = family, .bits = bits};
  memcpy(fresh.seen, seen, family == 4 ? 4 : 16), memcpy(fresh.real, real, family == 4 ? 4 : 16);
  config_write(e);
  vni *v = vni_find(e, id);
  int result = v == NULL ? -ENOENT : mapping_place(v, family, bits, seen) < v->mapping_count ? -EEXIST : 0;
  mapping *grown = result != 0 ? NULL : realloc(v->mappings, (v->mapping_count + 1) * sizeof *grown);
  if (grown != NULL) v->mappings = grown;
  if (result == 0) result = grown == NULL ? -ENOMEM : fib_set(v->fib, family, seen, bits, CROSSING | to);
  if (result == 0) v->mappings[v->mapping_count++] = fresh;
  config_write_end(e);
  return result;
}

int kdp_vni_router(kdp_engine *e, uint32_t id, uint8_t family, const uint8_t *addr) {
  if (family != 4 && family != 6) return -EINVAL;
  config_write(e);
  vni *v = vni_find(e, id);
  if (v != NULL && family == 4) memcpy(v->router4, addr, 4);
  if (v != NULL && family == 6) memcpy(v->router6, addr, 16);
  config_write_end(e);
  return v == NULL ? -ENOENT : 0;
}

int kdp_mapping_remove(kdp_engine *e, uint32_t id, uint8_t family, uint8_t bits, const uint8_t *seen) {
  if ((family != 4 && family != 6) || bits > (family == 4 ? 32 : 128)) return -EINVAL;
  config_write(e);
  vni *v = vni_find(e, id);
  size_t at = v == NULL ? 0 : mapping_place(v, family, bits, seen);
  int result = v == NULL || at == v->mapping_count ? -ENOENT : fib_unset(v->fib, family, seen, bits);
  if (result == 0) v->mappings[at] = v->mappings[--v->mapping_count];
  config_write_end(e);
  return result;
}

int kdp_session_add(kdp_engine *e, uint32_t id, uint32_t *index) {
  session *s = calloc(1, sizeof *s);
  if (s == NULL) return -ENOMEM;
  pthread_mutex_init(&s->path_lock, NULL);
  atomic_init(&s->not_after_ms, KDP_NEVER);
  int result = -ENOSPC;
  config_write(e);
  sessions_reap(e);
  s->vni = vni_find(e, id);
  if (s->vni == NULL) result = -ENOENT;
  /* The upper half of the index is a turn: a late datagram of a session that was cut does not meet its successor. */
  for (uint32_t i = 0; s->vni != NULL && i < SESSIONS_MAX && result != 0; i++) {
    uint32_t next = ++e->session_turn & (CROSSING - 1);
    if (next == 0 || e->sessions[next & (SESSIONS_MAX - 1)] != NULL) continue;
    s->index = next, s->place = next & (SESSIONS_MAX - 1);
    e->sessions[s->place] = s;
    s->next_of_vni = s->vni->sessions, s->vni->sessions = s;
    *index = next;
    result = 0;
  }
  config_write_end(e);
  if (result != 0) session_free(s);
  return result;
}

/* Packets go on until the matching end, found or not. NULL: no such session. */
static session *session_read(kdp_engine *e, uint32_t index) {
  config_read(e);
  return session_find(e, index);
}

static int session_read_end(kdp_engine *e, const session *s) {
  config_read_end(e);
  return s == NULL ? -ENOENT : 0;
}

/* Stops the packets until the matching unlock, found or not. NULL: no such session. */
static session *session_lock(kdp_engine *e, uint32_t index) {
  config_write(e);
  return session_find(e, index);
}

static int session_unlock(kdp_engine *e, int result) {
  config_write_end(e);
  return result;
}

static lease *lease_find(session *s, uint8_t family, const uint8_t *prefix, uint8_t bits) {
  for (size_t i = 0; i < s->lease_count; i++) {
    lease *le = &s->leases[i];
    if (le->family == family && le->bits == bits && memcmp(le->prefix, prefix, family == 4 ? 4 : 16) == 0) return le;
  }
  return NULL;
}

static int lease_add(session *s, uint8_t family, const uint8_t *prefix, uint8_t bits, uint64_t not_after_ms) {
  lease *grown = realloc(s->leases, (s->lease_count + 1) * sizeof *grown);
  if (grown == NULL) return -ENOMEM;
  s->leases = grown;
  grown[s->lease_count] = (lease){.family = family, .bits = bits, .not_after_ms = not_after_ms};
  memcpy(grown[s->lease_count++].prefix, prefix, family == 4 ? 4 : 16);
  return 0;
}

int kdp_session_lease(kdp_engine *e, uint32_t index, uint8_t family, const uint8_t *prefix, uint8_t bits,
                      uint64_t not_after_ms) {
  if ((family != 4 && family != 6) || bits > (family == 4 ? 32 : 128)) return -EINVAL;
  config_read(e);
  session *s = session_find(e, index);
  lease *known = s == NULL ? NULL : lease_find(s, family, prefix, bits);
  if (known != NULL) atomic_store_explicit(&known->not_after_ms, not_after_ms, memory_order_relaxed);
  config_read_end(e);
  if (known != NULL) return 0;
  s = session_lock(e, index);
  return session_unlock(e, s == NULL ? -ENOENT : lease_add(s, family, prefix, bits, not_after_ms));
}

int kdp_session_until(kdp_engine *e, uint32_t index, uint64_t not_after_ms) {
  session *s = session_read(e, index);
  if (s != NULL) atomic_store_explicit(&s->not_after_ms, not_after_ms, memory_order_relaxed);
  return session_read_end(e, s);
}

/* -- keys ------------------------------------------------------------------------------------------------------------ */

/* A key that is scheduled and not yet in place; afterwards, what it took the place of. */
typedef struct {
  rx_epoch *rx;
  aead_key *tx;
} key_change;

static rx_epoch *rx_epoch_new(const kdp_key *k) {
  rx_epoch *fresh = calloc(1, sizeof *fresh);
  aead_key *key = fresh == NULL ? NULL : aead_key_new(k->key, k->iv);
  if (key == NULL) {
    free(fresh);
    return NULL;
  }
  fresh->epoch = k->epoch, fresh->not_after_ms = k->not_after_ms, fresh->key = key;
  return fresh;
}

static bool prepare(key_change *c, const kdp_key *k) {
  if (k->transmit)
    c->tx = aead_key_new(k->key, k->iv);
  else
    c->rx = rx_epoch_new(k);
  return c->tx != NULL || c->rx != NULL;
}

/* A window never starts again, nor does a counter under its key. */
static bool was_installed(const session *s, const kdp_key *k) {
  if (k->transmit) return s->tx_key != NULL && s->tx_epoch >= k->epoch;
  for (int i = 0; i < KDP_EPOCHS; i++)
    if (s->rx[i] != NULL && s->rx[i]->epoch == k->epoch) return true;
  return false;
}

/* A receive key takes a free slot, or that of the oldest epoch. */
static void install(session *s, const kdp_key *k, key_change *c) {
  if (k->transmit) {
    aead_key *replaced = s->tx_key;
    s->tx_key = c->tx, s->tx_epoch = k->epoch, s->tx_not_after_ms = k->not_after_ms;
    atomic_store_explicit(&s->tx_counter, 0, memory_order_relaxed); /* ordered by the lock */
    c->tx = replaced;
    return;
  }
  int slot = 0;
  for (int i = 0; i < KDP_EPOCHS; i++) {
    if (s->rx[slot] == NULL) break;
    if (s->rx[i] == NULL || s->rx[i]->epoch < s->rx[slot]->epoch) slot = i;
  }
  rx_epoch *replaced = s->rx[slot];
  s->rx[slot] = c->rx;
  c->rx = replaced;
}

int kdp_keys_install(kdp_engine *e, const kdp_key *keys, size_t count) {
  key_change *changes = calloc(count, sizeof *changes);
  int result = 0;
  if (changes == NULL && count > 0) return -ENOMEM;
  for (size_t i = 0; i < count && result >= 0; i++)
    if (!prepare(&changes[i], &keys[i])) result = -ENOMEM;
  if (result == 0) {
    config_write(e);
    for (size_t i = 0; i < count; i++) {
      const session *s = session_find(e, keys[i].session);
      if (s != NULL && was_installed(s, &keys[i])) result = -EEXIST;
    }
    for (size_t i = 0; i < count && result >= 0; i++) {
      session *s = session_find(e, keys[i].session);
      if (s != NULL) install(s, &keys[i], &changes[i]), result++;
    }
    config_write_end(e);
  }
  for (size_t i = 0; i < count; i++) rx_epoch_free(changes[i].rx), aead_key_free(changes[i].tx);
  free(changes);
  return result;
}

int kdp_keys_retire(kdp_engine *e, uint32_t epoch, const uint32_t *sessions, size_t count) {
  rx_epoch **retired = calloc(count, sizeof *retired);
  int result = 0;
  if (retired == NULL && count > 0) return -ENOMEM;
  config_write(e);
  for (size_t i = 0; i < count; i++) {
    session *s = session_find(e, sessions[i]);
    for (int j = 0; s != NULL && j < KDP_EPOCHS; j++)
      if (s->rx[j] != NULL && s->rx[j]->epoch == epoch) retired[i] = s->rx[j], s->rx[j] = NULL, result++;
  }
  config_write_end(e);
  for (size_t i = 0; i < count; i++) rx_epoch_free(retired[i]);
  free(retired);
  return result;
}

/* -- paths ----------------------------------------------------------------------------------------------------------- */

int kdp_session_path(kdp_engine *e, uint32_t index, uint8_t kind, const kdp_addr *addr, uint32_t relay, int follow) {
  if (kind > KDP_PATH_DIRECT || (kind == KDP_PATH_DIRECT && (addr == NULL || addr->family == 0))) return -EINVAL;
  session *s = session_lock(e, index);
  if (s != NULL) {
    s->path = kind, s->relay = relay, s->follow = follow != 0; /* no packet in flight: path_lock is not needed */
    atomic_store_explicit(&s->limit, 0, memory_order_relaxed);
    if (kind == KDP_PATH_DIRECT) addr_to_sockaddr(addr, &s->to, &s->to_len);
  }
  return session_unlock(e, s == NULL ? -ENOENT : 0);
}

/* What packets may see change between one and the next needs no writer. */
int kdp_session_limit(kdp_engine *e, uint32_t index, uint16_t limit) {
  if (limit != 0 && limit < LIMIT_MIN) return -EINVAL;
  session *s = session_read(e, index);
  if (s != NULL) atomic_store_explicit(&s->limit, limit, memory_order_relaxed);
  return session_read_end(e, s);
}

int kdp_session_remote(kdp_engine *e, uint32_t index, uint32_t remote_index) {
  session *s = session_read(e, index);
  if (s != NULL) atomic_store_explicit(&s->remote, remote_index, memory_order_relaxed);
  return session_read_end(e, s);
}

int kdp_session_stats(kdp_engine *e, uint32_t index, uint64_t *sent, uint64_t *received) {
  const session *s = session_read(e, index);
  if (s != NULL) {
    *sent = atomic_load_explicit(&s->tx_counter, memory_order_relaxed);
    *received = atomic_load_explicit(&s->rx_datagrams, memory_order_relaxed);
  }
  return session_read_end(e, s);
}

int kdp_session_offences(kdp_engine *e, uint32_t index, uint64_t *forged, uint64_t *replayed, uint64_t *spoofed) {
  const session *s = session_read(e, index);
  if (s != NULL) {
    *forged = atomic_load_explicit(&s->forged, memory_order_relaxed);
    *replayed = atomic_load_explicit(&s->replayed, memory_order_relaxed);
    *spoofed = atomic_load_explicit(&s->spoofed, memory_order_relaxed);
  }
  return session_read_end(e, s);
}

int kdp_control_send(kdp_engine *e, uint32_t index, uint8_t type, const uint8_t *payload, size_t len, uint16_t size,
                     const kdp_addr *addr, int via_relay) {
  struct sockaddr_storage to;
  socklen_t to_len = 0;
  if (len > CONTROL_MAX || size > UDP_PAYLOAD_MAX || type < DG_PROBE || type > DG_CLAIM) return -EINVAL;
  bool directed = addr != NULL && addr->family != 0;
  if (directed) addr_to_sockaddr(addr, &to, &to_len);
  lane *l = &e->lanes[LANE_HOST];
  int result = -ENOENT;
  pthread_mutex_lock(&e->host_lock);
  config_read(e);
  l->now_ms = clock_ms();
  session *s = session_find(e, index);
  if (size > 0) outbox_flush(e, l); /* of the others each may be fragmented */
  if (s != NULL)
    result = transmit_control(e, l, s, type, payload, len, size, directed ? &to : NULL, to_len, via_relay != 0);
  if (size > 0 && l->out.count > 0) outbox_flush_whole(e, l);
  if (!e->corked) batch_end(e, l);
  config_read_end(e);
  pthread_mutex_unlock(&e->host_lock);
  return result;
}

void kdp_cork(kdp_engine *e) {
  pthread_mutex_lock(&e->host_lock);
  e->corked = true;
  pthread_mutex_unlock(&e->host_lock);
}

void kdp_flush(kdp_engine *e) {
  pthread_mutex_lock(&e->host_lock);
  config_read(e);
  batch_end(e, &e->lanes[LANE_HOST]);
  config_read_end(e);
  pthread_mutex_unlock(&e->host_lock);
}

void kdp_uncork(kdp_engine *e) {
  pthread_mutex_lock(&e->host_lock);
  e->corked = false;
  pthread_mutex_unlock(&e->host_lock);
  kdp_flush(e);
}
