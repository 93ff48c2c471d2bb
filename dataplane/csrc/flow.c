/* The flow table: one verdict a 5-tuple and VNI, found in one lookup, in both directions.
 *
 * Memory is one mapping, touched as flows come; nothing is allocated afterwards. Buckets are chains of entry indexes,
 * guarded by stripes of locks. A session's flows are a list, so that cutting it costs its own flows only, and a stripe's
 * are on a timer wheel, so that ageing costs the flows that end.
 *
 * A sender (a session, or the TUN of a VNI) has at most as many flows as are free, so some always are: k floods at once
 * leave one part in k + 1 of the table to all others. A full share refuses the flooder, nothing is evicted. The same holds
 * for the places where packets and questions wait for a verdict. */
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "internal.h"

enum { NONE = UINT32_MAX, AGE_STEP = 256, VNI_STEP = 4096 };
/* The wheel of a stripe: its flows by the tick in which their life may be over, 262 s ahead; who lives longer is looked at
 * again then. A flow whose life was prolonged by a packet is not moved: it is put where it belongs once its slot comes. */
enum { TICK_MS = 512, WHEEL_SLOTS = 512 };

typedef struct {
  uint32_t vni;
  uint8_t family, protocol;
  uint16_t low_port, high_port;
  uint8_t low[16], high[16];
} flow_key;

/* Flows in a list, by index + 1; 0: none. */
typedef struct {
  uint32_t next, previous;
} flow_link;

typedef struct {
  flow_key key;
  bool initiator_is_low, closing, established;
  bool asking; /* without a verdict: the question is on its way to Python */
  uint8_t verdict, icmp_type, tcp_flags;
  uint16_t wheel_slot;
  uint32_t turn; /* of this slot: makes ids unique */
  uint32_t next, from, across, rule, generation;
  uint32_t parked; /* the place of its packets that wait; 0: none do */
  flow_link wheel; /* in a slot of its stripe's wheel; guarded by the stripe */
  flow_link owned; /* in its session's flows; guarded by free_lock */
  share *owner;    /* of the sender that opened it, which goes after its flows */
  uint64_t opened_ms, last_ms, asked_ms;
  uint64_t not_after_ms; /* from then on an allow does not count; by clock_ms */
  uint64_t packets[2], bytes[2];
} flow;

typedef struct {
  uint64_t tick; /* the next one to be looked at */
  uint32_t slots[WHEEL_SLOTS];
} flow_wheel;

struct flow_table {
  uint32_t max, mask;
  uint64_t secret[2]; /* of the hash */
  uint32_t *buckets;  /* index + 1 of the first entry, guarded by its stripe; 0, a fresh page: empty */
  flow *entries;
  /* bucket + 1 of each live entry, 0 of a free one: set under the bucket's stripe, read to find that stripe. */
  _Atomic uint32_t *homes;
  pthread_mutex_t stripes[FLOW_STRIPES];
  flow_wheel wheels[FLOW_STRIPES]; /* each guarded by its stripe */
  pthread_mutex_t free_lock;       /* guards free_head, fresh, live, and the list of each session's flows */
  uint32_t free_head, fresh, live;
};

/* Zeroed memory that takes room only where it is touched. */
static void *pages(size_t size) {
  void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return at == MAP_FAILED ? NULL : at;
}

struct flow_table *flows_new(uint32_t max) {
  struct flow_table *t = calloc(1, sizeof *t);
  if (t == NULL) return NULL;
  t->max = max, t->mask = 1;
  while (t->mask < max) t->mask <<= 1;
  t->entries = pages(sizeof(flow) * max);
  t->buckets = pages(sizeof(uint32_t) * t->mask);
  t->homes = pages(sizeof(uint32_t) * max);
  t->mask--;
  t->free_head = NONE;
  for (int i = 0; i < FLOW_STRIPES; i++) {
    pthread_mutex_init(&t->stripes[i], NULL);
    t->wheels[i].tick = clock_ms() / TICK_MS;
  }
  pthread_mutex_init(&t->free_lock, NULL);
  bool keyed = getrandom(t->secret, sizeof t->secret, 0) == sizeof t->secret;
  t->secret[1] |= 1;
  if (keyed && t->entries != NULL && t->buckets != NULL && t->homes != NULL) return t;
  flows_free(t);
  return NULL;
}

void flows_free(struct flow_table *t) {
  if (t == NULL) return;
  for (int i = 0; i < FLOW_STRIPES; i++) pthread_mutex_destroy(&t->stripes[i]);
  pthread_mutex_destroy(&t->free_lock);
  if (t->entries != NULL) munmap(t->entries, sizeof(flow) * t->max);
  if (t->buckets != NULL) munmap(t->buckets, sizeof(uint32_t) * (t->mask + 1));
  if (t->homes != NULL) munmap((void *)t->homes, sizeof(uint32_t) * t->max);
  free(t);
}

static uint64_t mix(uint64_t a, uint64_t b) {
  unsigned __int128 product = (unsigned __int128)a * b;
  return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Keyed: a peer chooses addresses and ports, but cannot know which of them meet in one bucket. */
static uint32_t bucket_of(const struct flow_table *t, const flow_key *k) {
  uint64_t h = t->secret[0], word;
  const uint8_t *bytes = (const uint8_t *)k;
  _Static_assert(sizeof(flow_key) == 44, "no padding: keys are compared and hashed as bytes");
  for (size_t i = 0; i + 8 <= sizeof *k; i += 8) {
    memcpy(&word, bytes + i, 8);
    h = mix(h ^ word, t->secret[1]);
  }
  uint32_t last;
  memcpy(&last, bytes + 40, 4);
  return (uint32_t)mix(h ^ last, t->secret[1]) & t->mask;
}

static pthread_mutex_t *stripe_of(struct flow_table *t, uint32_t bucket) {
  return &t->stripes[bucket % FLOW_STRIPES];
}

/* Which end of an echo asks is part of its key: a request of the other end with the same identifier is a flow of its own. */
enum { ASKED_BY_LOW = 1, ASKED_BY_HIGH = 2 };

static bool is_icmp(uint8_t protocol) {
  return protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6;
}

/* true: the source is the low end. */
static bool make_key(uint32_t vni_id, const packet *p, flow_key *k) {
  size_t width = p->family == 4 ? 4 : 16;
  int order = memcmp(p->src, p->dst, width);
  bool source_low = order < 0 || (order == 0 && p->src_port <= p->dst_port);
  memset(k, 0, sizeof *k);
  k->vni = vni_id, k->family = p->family, k->protocol = p->protocol;
  k->low_port = source_low ? p->src_port : p->dst_port, k->high_port = source_low ? p->dst_port : p->src_port;
  if (p->echo_request || p->echo_reply) k->high_port = source_low == p->echo_request ? ASKED_BY_LOW : ASKED_BY_HIGH;
  memcpy(k->low, source_low ? p->src : p->dst, width);
  memcpy(k->high, source_low ? p->dst : p->src, width);
  return source_low;
}

static flow *find(struct flow_table *t, uint32_t bucket, const flow_key *k) {
  for (uint32_t at = t->buckets[bucket]; at != 0; at = t->entries[at - 1].next)
    if (memcmp(&t->entries[at - 1].key, k, sizeof *k) == 0) return &t->entries[at - 1];
  return NULL;
}

static uint64_t id_of(const struct flow_table *t, const flow *f) {
  return (uint64_t)f->turn << 32 | (uint64_t)(f - t->entries + 1);
}

/* -- a session's flows --------------------------------------------------------------------------------------------- */

/* The session keeps its place, though not its index, for as long as it has flows. */
static session *opener_of(kdp_engine *e, const flow *f) {
  return f->from == 0 ? NULL : e->sessions[f->from & (SESSIONS_MAX - 1)];
}

/* free_lock is held, here and below. */
static void own(struct flow_table *t, session *owner, flow *f) {
  uint32_t self = (uint32_t)(f - t->entries) + 1;
  f->owned = (flow_link){.next = owner->first_flow};
  if (owner->first_flow != 0) t->entries[owner->first_flow - 1].owned.previous = self;
  owner->first_flow = self;
}

static void disown(struct flow_table *t, session *owner, const flow *f) {
  flow_link link = f->owned;
  if (link.next != 0) t->entries[link.next - 1].owned.previous = link.previous;
  if (link.previous != 0)
    t->entries[link.previous - 1].owned.next = link.next;
  else
    owner->first_flow = link.next;
}

/* -- the wheel; the flow's stripe is held -------------------------------------------------------------------------- */

/* When its life is over: a decision nobody gave, whatever packets come meanwhile; without another packet, a denial, a
 * closed TCP flow, one-sided flows, everything else. */
static uint64_t ends_at(const flow *f) {
  uint64_t limit = 60000;
  if (f->verdict == KDP_PENDING) return f->opened_ms + PENDING_LIFE_MS;
  if (f->verdict == KDP_DENY)
    limit = 10000;
  else if (f->key.protocol == IPPROTO_TCP)
    limit = f->closing ? 10000 : f->established ? 3600000 : 60000;
  else if (f->key.protocol == IPPROTO_UDP)
    limit = f->established ? 180000 : 60000;
  return f->last_ms + limit;
}

static flow_wheel *wheel_of(struct flow_table *t, uint32_t bucket) {
  return &t->wheels[bucket % FLOW_STRIPES];
}

static void wheel_add(struct flow_table *t, flow_wheel *w, flow *f) {
  uint64_t due = ends_at(f) / TICK_MS + 1;
  if (due < w->tick) due = w->tick;
  if (due > w->tick + WHEEL_SLOTS - 2) due = w->tick + WHEEL_SLOTS - 2;
  uint32_t self = (uint32_t)(f - t->entries) + 1;
  f->wheel_slot = (uint16_t)(due % WHEEL_SLOTS);
  uint32_t *slot = &w->slots[f->wheel_slot];
  f->wheel = (flow_link){.next = *slot};
  if (*slot != 0) t->entries[*slot - 1].wheel.previous = self;
  *slot = self;
}

static void wheel_remove(struct flow_table *t, flow_wheel *w, const flow *f) {
  if (f->wheel.next != 0) t->entries[f->wheel.next - 1].wheel.previous = f->wheel.previous;
  if (f->wheel.previous != 0)
    t->entries[f->wheel.previous - 1].wheel.next = f->wheel.next;
  else
    w->slots[f->wheel_slot] = f->wheel.next;
}

/* Its life has become shorter. */
static void wheel_move(struct flow_table *t, uint32_t bucket, flow *f) {
  wheel_remove(t, wheel_of(t, bucket), f);
  wheel_add(t, wheel_of(t, bucket), f);
}

/* -- entries ------------------------------------------------------------------------------------------------------- */

/* NULL, and counted: the table is full, or the sender has its share. */
static flow *take_entry(struct flow_table *t, lane *l, share *of, bool of_session) {
  flow *f = NULL;
  pthread_mutex_lock(&t->free_lock);
  uint32_t own = atomic_load_explicit(&of->flows, memory_order_relaxed), left = t->max - t->live;
  if (own >= left || (of_session && own >= FLOWS_A_SESSION)) {
    count(l, left == 0 ? C_drop_flow_table_full : C_drop_flow_quota);
    goto out;
  }
  if (t->free_head != NONE) {
    f = &t->entries[t->free_head];
    t->free_head = f->next;
  } else {
    f = &t->entries[t->fresh++];
  }
  t->live++;
  atomic_fetch_add_explicit(&of->flows, 1, memory_order_relaxed);
out:
  pthread_mutex_unlock(&t->free_lock);
  return f;
}

/* Each thread has a clock of its own, so what another one wrote may lie ahead. */
static uint64_t since(uint64_t now_ms, uint64_t then_ms) {
  return now_ms > then_ms ? now_ms - then_ms : 0;
}

static void describe(const struct flow_table *t, const flow *f, uint64_t now, kdp_flow *out) {
  const flow_key *k = &f->key;
  bool low = f->initiator_is_low;
  *out = (kdp_flow){.id = id_of(t, f),
                    .vni = k->vni,
                    .from_session = f->from,
                    .from_vni = f->across,
                    .family = k->family,
                    .protocol = k->protocol,
                    .icmp_type = f->icmp_type,
                    .tcp_flags = f->tcp_flags,
                    .src_port = low || is_icmp(k->protocol) ? k->low_port : k->high_port,
                    .dst_port = low && !is_icmp(k->protocol) ? k->high_port : k->low_port,
                    .verdict = f->verdict,
                    .rule = f->rule,
                    .generation = f->generation,
                    .age_ms = since(now, f->opened_ms),
                    .idle_ms = since(now, f->last_ms)};
  memcpy(out->src, low ? k->low : k->high, 16);
  memcpy(out->dst, low ? k->high : k->low, 16);
  memcpy(out->packets, f->packets, sizeof out->packets);
  memcpy(out->bytes, f->bytes, sizeof out->bytes);
}

static void waits_no_more(const flow *f) {
  atomic_fetch_sub_explicit(&f->owner->waiting, 1, memory_order_relaxed);
}

/* Its stripe is held and it is already out of its chain and its wheel. */
static void give_back(kdp_engine *e, flow *f, uint8_t why) {
  struct flow_table *t = e->flows;
  if (f->verdict == KDP_ALLOW) {
    kdp_flow over;
    describe(t, f, clock_ms(), &over);
    over.ended = why == KDP_END_IDLE && f->closing ? KDP_END_CLOSED : why;
    ended_put(e->ended, &over);
  }
  if (f->verdict == KDP_PENDING) waits_no_more(f);
  park_end(e, f->parked);
  atomic_fetch_sub_explicit(&f->owner->flows, 1, memory_order_relaxed);
  session *opener = opener_of(e, f);
  pthread_mutex_lock(&t->free_lock);
  t->live--;
  if (opener != NULL) disown(t, opener, f);
  uint32_t turn = f->turn + 1;
  atomic_store_explicit(&t->homes[f - t->entries], 0, memory_order_relaxed); /* ordered by the stripe */
  memset(f, 0, sizeof *f);
  f->turn = turn;
  f->next = t->free_head;
  t->free_head = (uint32_t)(f - t->entries);
  pthread_mutex_unlock(&t->free_lock);
}

static bool is_opening(uint8_t protocol, uint32_t tcp_flags) {
  return protocol == IPPROTO_TCP && (tcp_flags & (TH_SYN | TH_ACK)) == TH_SYN;
}

static void account(flow *f, bool source_low, const packet *p, const inner *in, uint64_t now) {
  int way = source_low == f->initiator_is_low ? 0 : 1;
  volume told = volume_of(in->vnet, in->len, p);
  f->packets[way] += told.packets, f->bytes[way] += told.bytes, f->last_ms = now;
  if (way == 1) f->established = true;
  if (p->protocol == IPPROTO_TCP && (p->tcp_flags & (TH_RST | TH_FIN))) f->closing = true;
}

/* The stripe is held: the verdict cannot come before the packet stands where it will be looked for. */
static void wait_for_verdict(kdp_engine *e, lane *l, flow *f, const sender *from, const inner *in, int otherwise) {
  bool parked = park(e, f->owner, &f->parked, f->key.vni, from, in);
  count(l, parked ? C_parked : otherwise);
}

/* Python decides. The stripe is held: the question is put before it can be answered. `of` pays: whose packet asks. */
static void ask(kdp_engine *e, lane *l, flow *f, share *of) {
  kdp_event event = {.type = KDP_EVENT_FLOW, .session = f->from};
  describe(e->flows, f, l->now_ms, &event.flow);
  f->asked_ms = l->now_ms;
  f->asking = events_put(e->events, of, &event);
  if (!f->asking) count(l, C_drop_event_full); /* a later packet asks again */
}

static void open_flow(kdp_engine *e, lane *l, const flow_key *k, uint32_t bucket, bool source_low, vni *v,
                      const sender *from, const packet *p, const inner *in) {
  struct flow_table *t = e->flows;
  session *owner = from->session;
  share *of = share_of(from, v);
  uint32_t waiting = atomic_load_explicit(&of->waiting, memory_order_relaxed);
  if (waiting >= (owner != NULL ? WAITING_A_SESSION : WAITING_A_TUN)) {
    count(l, C_drop_undecided);
    return;
  }
  flow *f = take_entry(t, l, of, owner != NULL);
  if (f == NULL) return;
  atomic_fetch_add_explicit(&of->waiting, 1, memory_order_relaxed);
  uint32_t turn = f->turn;
  *f = (flow){.key = *k,
              .turn = turn,
              .owner = of,
              .initiator_is_low = source_low,
              .verdict = KDP_PENDING,
              .icmp_type = p->icmp_type,
              .tcp_flags = p->tcp_flags,
              .from = owner == NULL ? 0 : owner->index,
              .across = from->across == NULL ? 0 : from->across->id,
              .opened_ms = l->now_ms,
              .next = t->buckets[bucket]};
  __atomic_store_n(&t->buckets[bucket], (uint32_t)(f - t->entries) + 1, __ATOMIC_RELAXED); /* see bucket_is_empty */
  atomic_store_explicit(&t->homes[f - t->entries], bucket + 1, memory_order_relaxed);      /* ordered by the stripe */
  if (owner != NULL) {
    pthread_mutex_lock(&t->free_lock);
    own(t, owner, f);
    pthread_mutex_unlock(&t->free_lock);
  }
  account(f, source_low, p, in, l->now_ms);
  wheel_add(t, wheel_of(t, bucket), f);
  count(l, C_flows_opened);
  wait_for_verdict(e, l, f, from, in, C_drop_park_full);
  ask(e, l, f, of);
}

static bool has_leave(const flow *f, uint64_t now_ms) {
  return f->verdict == KDP_ALLOW && !is_over(f->not_after_ms, now_ms);
}

bool flows_allow(kdp_engine *e, const lane *l, uint32_t vni_id, const packet *p) {
  struct flow_table *t = e->flows;
  flow_key k;
  make_key(vni_id, p, &k);
  uint32_t bucket = bucket_of(t, &k);
  pthread_mutex_lock(stripe_of(t, bucket));
  const flow *f = find(t, bucket, &k);
  bool allowed = f != NULL && has_leave(f, l->now_ms);
  pthread_mutex_unlock(stripe_of(t, bucket));
  return allowed;
}

/* The error counts for its flow in the direction in which it goes, against that of the packet it is about. It says nothing
 * of whether the other end answers. */
static void account_error(flow *f, bool quoted_source_low, const packet *error, const inner *in, uint64_t now) {
  int way = quoted_source_low == f->initiator_is_low ? 1 : 0;
  volume told = volume_of(in->vnet, in->len, error);
  f->packets[way] += told.packets, f->bytes[way] += told.bytes, f->last_ms = now;
}

/* An ICMP error is about a packet of an allowed flow, goes to the source of that packet, and comes from where the packet
 * went. So it says nothing to anyone but the two ends of the flow, whatever it quotes. */
static flow_answer pass_error(kdp_engine *e, lane *l, const vni *v, const sender *from, const packet *p,
                              const inner *in) {
  struct flow_table *t = e->flows;
  packet quoted;
  flow_key k;
  int drop = C_drop_unsolicited_icmp;
  if (p->fragment || !packet_parse_embedded(p, &quoted) || (quoted.fragment && !quoted.first_fragment) ||
      quoted.family != p->family)
    goto drop;
  bool source_low = make_key(v->id, &quoted, &k);
  bool directed =
      memcmp(p->dst, quoted.src, p->family == 4 ? 4 : 16) == 0 && speaks_for(l, v, from, quoted.family, quoted.dst);
  uint32_t bucket = bucket_of(t, &k);
  pthread_mutex_lock(stripe_of(t, bucket));
  flow *f = find(t, bucket, &k);
  bool allowed = f != NULL && has_leave(f, l->now_ms);
  if (allowed && directed) account_error(f, source_low, p, in, l->now_ms);
  pthread_mutex_unlock(stripe_of(t, bucket));
  if (allowed && directed) return FLOW_PASS;
  if (allowed) drop = C_drop_misdirected_icmp;
drop:
  count(l, drop);
  return FLOW_DROP;
}

/* A SYN is a new attempt unless it repeats the one that opened the flow: a flow that was taken up in the middle, as one
 * is after a failover, may have the leave of its responder's peer, and that leave is not for what the responder begins.
 * A refusal is for the end that was refused: the other end's packet is an attempt of its own. */
static bool begins_anew(const flow *f, bool source_low, const packet *p) {
  bool from_initiator = source_low == f->initiator_is_low;
  if (p->echo_reply) return false;
  if (is_opening(p->protocol, p->tcp_flags)) return !from_initiator || !is_opening(f->key.protocol, f->tcp_flags);
  return !from_initiator && f->verdict == KDP_DENY && !f->established;
}

/* The bucket's stripe is held. */
static void drop_flow(kdp_engine *e, uint32_t bucket, flow *f, uint8_t why) {
  struct flow_table *t = e->flows;
  uint32_t *at = &t->buckets[bucket];
  while (&t->entries[*at - 1] != f) at = &t->entries[*at - 1].next;
  __atomic_store_n(at, f->next, __ATOMIC_RELAXED); /* see bucket_is_empty */
  wheel_remove(t, wheel_of(t, bucket), f);
  give_back(e, f, why);
}

/* The live flow of that id, with its stripe held; NULL, and no lock, when it is gone. Under the stripe of its home it can
 * neither go nor come. */
static flow *lock_flow(struct flow_table *t, uint64_t id, pthread_mutex_t **stripe) {
  uint32_t slot = (uint32_t)id - 1;
  if (slot >= t->max) return NULL;
  uint32_t home = atomic_load_explicit(&t->homes[slot], memory_order_relaxed);
  if (home == 0) return NULL;
  *stripe = stripe_of(t, home - 1);
  pthread_mutex_lock(*stripe);
  flow *f = &t->entries[slot];
  if (atomic_load_explicit(&t->homes[slot], memory_order_relaxed) == home && id_of(t, f) == id) return f;
  pthread_mutex_unlock(*stripe);
  return NULL;
}

/* A later fragment fares as its flow does now: it may wait with the first, and falls with it. */
static flow_answer pass_fragment(kdp_engine *e, lane *l, vni *v, const sender *from, const packet *p, const inner *in) {
  pthread_mutex_t *stripe;
  uint64_t id = fragment_flow(e, l, share_of(from, v), v->id, p);
  if (id == 0) return FLOW_DROP;
  flow *f = lock_flow(e->flows, id, &stripe);
  if (f == NULL) {
    count(l, C_drop_unknown_fragment);
    return FLOW_DROP;
  }
  flow_key k;
  account(f, make_key(v->id, p, &k), p, in, l->now_ms);
  uint8_t verdict = f->verdict;
  bool leave = has_leave(f, l->now_ms);
  if (verdict == KDP_PENDING) wait_for_verdict(e, l, f, from, in, C_drop_pending);
  pthread_mutex_unlock(stripe);
  if (verdict == KDP_DENY) count(l, C_drop_denied);
  if (verdict == KDP_ALLOW && !leave) count(l, C_drop_expired_verdict);
  return leave ? FLOW_PASS : FLOW_DROP;
}

flow_answer flows_pass(kdp_engine *e, lane *l, vni *v, const sender *from, const packet *p, const inner *in) {
  struct flow_table *t = e->flows;
  if (p->icmp_error) return pass_error(e, l, v, from, p, in);
  if (p->fragment && !p->first_fragment) return pass_fragment(e, l, v, from, p, in);
  if (is_icmp(p->protocol) && !p->echo_request && !p->echo_reply) {
    count(l, C_drop_icmp_type);
    return FLOW_DROP;
  }
  flow_key k;
  bool source_low = make_key(v->id, p, &k);
  uint32_t bucket = bucket_of(t, &k);
  pthread_mutex_t *stripe = stripe_of(t, bucket);
  flow_answer answer = FLOW_PASS;
  pthread_mutex_lock(stripe);
  flow *f = find(t, bucket, &k);
  if (unlikely(f != NULL && begins_anew(f, source_low, p))) {
    drop_flow(e, bucket, f, KDP_END_REPLACED);
    f = NULL;
  }
  if (unlikely(f != NULL && f->closing && is_opening(p->protocol, p->tcp_flags) && f->verdict == KDP_ALLOW &&
               since(l->now_ms, f->last_ms) > 1000)) {
    f->closing = false; /* the port pair is used again: same ends, same rule */
  }
  if (unlikely(f == NULL && p->echo_reply)) {
    count(l, C_drop_unsolicited_icmp);
    answer = FLOW_DROP;
  } else if (unlikely(f == NULL)) {
    open_flow(e, l, &k, bucket, source_low, v, from, p, in);
    answer = FLOW_DROP;
  } else {
    bool closing = f->closing;
    account(f, source_low, p, in, l->now_ms);
    if (unlikely(f->closing != closing)) wheel_move(t, bucket, f);
    if (unlikely(f->verdict == KDP_PENDING)) {
      wait_for_verdict(e, l, f, from, in, C_drop_pending);
      if (!f->asking && since(l->now_ms, f->asked_ms) >= ASK_AGAIN_MS) ask(e, l, f, share_of(from, v));
      answer = FLOW_DROP;
    } else if (unlikely(f->verdict == KDP_DENY)) {
      count(l, C_drop_denied);
      answer = FLOW_REJECT;
    } else if (unlikely(is_over(f->not_after_ms, l->now_ms))) {
      count(l, C_drop_expired_verdict);
      answer = FLOW_DROP;
    }
  }
  if (p->fragment && (f = find(t, bucket, &k)) != NULL)
    fragment_remember(e, l, share_of(from, v), id_of(t, f), v->id, p);
  pthread_mutex_unlock(stripe);
  return answer;
}

/* Peeked at without its stripe, so the head is stored and loaded whole and in no order: a flow that another thread is
 * just adding may be missed. Nobody adds a flow of a VNI that is being removed. */
static bool bucket_is_empty(const struct flow_table *t, uint32_t bucket) {
  return __atomic_load_n(&t->buckets[bucket], __ATOMIC_RELAXED) == 0;
}

/* The first of the session's flows is removed. false: it has none. Between the two locks another thread may age it. */
static bool forget_first(kdp_engine *e, const session *s, uint32_t index) {
  struct flow_table *t = e->flows;
  pthread_mutex_lock(&t->free_lock);
  uint32_t first = s->first_flow;
  pthread_mutex_unlock(&t->free_lock);
  if (first == 0) return false;
  uint32_t home = atomic_load_explicit(&t->homes[first - 1], memory_order_relaxed);
  if (home == 0) return true;
  pthread_mutex_lock(stripe_of(t, home - 1));
  flow *f = &t->entries[first - 1];
  bool same = atomic_load_explicit(&t->homes[first - 1], memory_order_relaxed) == home && f->from == index;
  if (same) drop_flow(e, home - 1, f, KDP_END_CUT);
  pthread_mutex_unlock(stripe_of(t, home - 1));
  return true;
}

bool flows_forget_session(kdp_engine *e, const session *s, uint32_t index, int most) {
  while (most > 0 && forget_first(e, s, index)) most--;
  return most == 0;
}

bool flows_forget_vni(kdp_engine *e, uint32_t vni_id, uint32_t *bucket) {
  struct flow_table *t = e->flows;
  for (int i = 0; i < VNI_STEP; i++) {
    if (*bucket > t->mask) return false;
    uint32_t here = (*bucket)++;
    if (bucket_is_empty(t, here)) continue;
    pthread_mutex_lock(stripe_of(t, here));
    for (uint32_t at = t->buckets[here], next; at != 0; at = next) {
      flow *f = &t->entries[at - 1];
      next = f->next;
      if (f->key.vni == vni_id || f->across == vni_id) drop_flow(e, here, f, KDP_END_CUT);
    }
    pthread_mutex_unlock(stripe_of(t, here));
  }
  return true;
}

/* The flows of one slot whose life is over go, the others to where they belong. At most `budget` are looked at. */
static int age_slot(kdp_engine *e, lane *l, flow_wheel *w, int budget) {
  struct flow_table *t = e->flows;
  uint32_t slot = (uint32_t)(w->tick % WHEEL_SLOTS), aged = 0;
  while (w->slots[slot] != 0 && budget > 0) {
    flow *f = &t->entries[w->slots[slot] - 1];
    budget--;
    if (l->now_ms > ends_at(f)) {
      uint32_t home = atomic_load_explicit(&t->homes[f - t->entries], memory_order_relaxed);
      drop_flow(e, home - 1, f, KDP_END_IDLE);
      aged++;
      continue;
    }
    wheel_remove(t, w, f);
    w->tick++; /* not into this slot again: the furthest is one short of a turn from here */
    wheel_add(t, w, f);
    w->tick--;
  }
  count_n(l, C_flows_aged, aged);
  return budget;
}

bool flows_age(kdp_engine *e, lane *l) {
  struct flow_table *t = e->flows;
  uint64_t now = l->now_ms / TICK_MS;
  int budget = AGE_STEP;
  for (uint32_t i = 0; i < FLOW_STRIPES && budget > 0; i++) {
    flow_wheel *w = &t->wheels[i];
    pthread_mutex_lock(&t->stripes[i]);
    if (w->tick + WHEEL_SLOTS < now) w->tick = now - WHEEL_SLOTS; /* after a suspend one turn is enough */
    for (; w->tick <= now; w->tick++) {
      budget = age_slot(e, l, w, budget);
      if (budget == 0) break; /* the rest of the slot, next time */
    }
    pthread_mutex_unlock(&t->stripes[i]);
  }
  return budget == 0;
}

bool flows_asked(kdp_engine *e, uint64_t id) {
  pthread_mutex_t *stripe;
  flow *f = lock_flow(e->flows, id, &stripe);
  if (f == NULL) return false;
  bool waits = f->verdict == KDP_PENDING;
  f->asking = false;
  pthread_mutex_unlock(stripe);
  return waits;
}

bool flows_decide(kdp_engine *e, lane *l, uint64_t id, uint8_t verdict, uint32_t rule, uint32_t generation,
                  uint64_t not_after_ms, uint32_t *parked) {
  pthread_mutex_t *stripe;
  flow *f = lock_flow(e->flows, id, &stripe);
  if (f == NULL) return false;
  if (f->verdict == KDP_PENDING) waits_no_more(f);
  f->verdict = verdict, f->rule = rule, f->generation = generation, f->not_after_ms = not_after_ms;
  wheel_move(e->flows, atomic_load_explicit(&e->flows->homes[f - e->flows->entries], memory_order_relaxed) - 1, f);
  *parked = f->parked;
  f->parked = 0;
  pthread_mutex_unlock(stripe);
  if (verdict == KDP_DENY) count(l, C_flows_denied);
  return true;
}

long kdp_flows(kdp_engine *e, uint32_t *cursor, kdp_flow *out, size_t max) {
  struct flow_table *t = e->flows;
  uint64_t now = clock_ms();
  size_t n = 0;
  pthread_mutex_lock(&t->free_lock);
  uint32_t end = t->fresh;
  pthread_mutex_unlock(&t->free_lock);
  for (; *cursor < end && n < max; ++*cursor) {
    uint32_t home = atomic_load_explicit(&t->homes[*cursor], memory_order_relaxed);
    if (home == 0) continue;
    pthread_mutex_lock(stripe_of(t, home - 1));
    if (atomic_load_explicit(&t->homes[*cursor], memory_order_relaxed) == home)
      describe(t, &t->entries[*cursor], now, &out[n++]);
    pthread_mutex_unlock(stripe_of(t, home - 1));
  }
  if (*cursor >= end) *cursor = 0;
  return (long)n;
}

long kdp_flows_find(kdp_engine *e, const uint64_t *ids, size_t count, kdp_flow *out) {
  uint64_t now = clock_ms();
  long found = 0;
  for (size_t i = 0; i < count; i++) {
    pthread_mutex_t *stripe;
    const flow *f = lock_flow(e->flows, ids[i], &stripe);
    if (f == NULL) continue;
    describe(e->flows, f, now, &out[found++]);
    pthread_mutex_unlock(stripe);
  }
  return found;
}

long kdp_flows_alive(kdp_engine *e, uint64_t *ids, size_t count) {
  long alive = 0;
  for (size_t i = 0; i < count; i++) {
    pthread_mutex_t *stripe;
    if (lock_flow(e->flows, ids[i], &stripe) == NULL) continue;
    pthread_mutex_unlock(stripe);
    ids[alive++] = ids[i];
  }
  return alive;
}
