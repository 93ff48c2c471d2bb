/* What the modules of the engine share. Read kdp_api.h first. */
#ifndef KDP_INTERNAL_H
#define KDP_INTERNAL_H
#include <errno.h>
#include <linux/virtio_net.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "kdp_api.h"

#ifndef VIRTIO_NET_HDR_GSO_UDP_L4 /* Linux 6.2 */
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* -- wire, docs/protocol.md section 6 ------------------------------------------------------------------------------ */
enum { DG_DATA = 1, DG_PROBE = 2, DG_PROBE_ACK = 3, DG_KEEPALIVE = 4, DG_CLAIM = 5 };
enum { SEG_WHOLE = 0, SEG_PARTIAL = 1, SEG_TCP4 = 2, SEG_TCP6 = 3, SEG_UDP4 = 4, SEG_UDP6 = 5 };
enum { HEADER_LEN = 16, TAG_LEN = 16, TRAILER_LEN = 8, IV_LEN = 12, KEY_LEN = 32, CONTROL_MAX = 1200 };
enum { DATA_OVERHEAD = HEADER_LEN + TRAILER_LEN + TAG_LEN };
enum { REPLAY_BITS = 8192 };

/* -- limits of this implementation --------------------------------------------------------------------------------- */
enum {
  KDP_EPOCHS = 4,        /* receive keys of a session: the current, the next, the old ones of the last seconds */
  PACKET_MAX = 65535,    /* an inner packet, super-packets included */
  TEMPLATE_MAX = 255,    /* hdr_len is one byte */
  RUN_BYTES = 1 << 18,   /* plaintext gathered before it must be forwarded */
  HEADROOM = 320,        /* before a run's payload: vnet header and the largest template */
  BATCH = 64,            /* packets read from a TUN, messages received, before the other side gets its turn */
  GSO_SEGMENTS_MAX = 64, /* UDP_MAX_SEGMENTS of kernels before 6.9 */
  UDP_PAYLOAD_MAX = 65000,
  TUN_BYTES = 1 << 18,    /* packets being joined, and one more behind them */
  OUTBOX_BYTES = 1 << 17, /* sealed datagrams that leave together: a writer of `config` waits for them to be sent */
  INBOX_BATCH = 1 << 18,  /* bytes out of the relay that are read before the UDP socket gets its turn */
  RELAY_BYTES = 1 << 20,
  FRAME_MAX = 1 << 18, /* what one DATAGRAMS frame carries */
  LIMIT_MIN = 576,     /* of a path: no IPv4 host takes less */
  SESSIONS_MAX = 1 << 16,
  VNIS_MAX = 1 << 12,
  EVENTS_MAX = 8192,
  EVENTS_A_SENDER = 1024,
  PARKED_FLOWS = 2048,
  PARKED_A_FLOW = 8,
  PARKED_BYTES = 2048,
  PENDING_LIFE_MS = 5000, /* a flow nobody decided, from its first packet on */
  ASK_AGAIN_MS = 1000,    /* whose question was lost, or not answered */
  FLOW_STRIPES = 64,
  FLOWS_A_SESSION = 1 << 16, /* and of any sender, at most as many as are free */
  WAITING_A_SESSION = 512,   /* flows without a verdict */
  WAITING_A_TUN = 1024,      /* it speaks for many hosts */
  ANSWER_EVERY_MS = 10,      /* RST and ICMP that we make, to one sender */
  ANSWERS_AT_ONCE = 100,
};

/* -- counters: every drop has a name ------------------------------------------------------------------------------- */
/* One counter a line, whatever the formatter makes of it. */
/* clang-format off */
#define KDP_COUNTER_LIST(X) \
  X(tx_packets) \
  X(tx_bytes) \
  X(tx_datagrams) \
  X(rx_packets) \
  X(rx_bytes) \
  X(rx_datagrams) \
  X(rx_relay_datagrams) \
  X(turned_around) \
  X(crossed) \
  X(flows_opened) \
  X(flows_denied) \
  X(flows_aged) \
  X(rejects_sent) \
  X(answers_limited) \
  X(tun_read_errors) \
  X(parked) \
  X(drop_short) \
  X(drop_bad_header) \
  X(drop_unknown_session) \
  X(drop_unknown_epoch) \
  X(drop_auth) \
  X(drop_replay) \
  X(drop_bad_segment) \
  X(drop_bad_packet) \
  X(drop_spoofed_source) \
  X(drop_no_route) \
  X(drop_no_key) \
  X(drop_no_path) \
  X(drop_denied) \
  X(drop_icmp_type) \
  X(drop_unsolicited_icmp) \
  X(drop_misdirected_icmp) \
  X(drop_unknown_fragment) \
  X(drop_overlapping_fragment) \
  X(drop_flow_table_full) \
  X(drop_flow_quota) \
  X(drop_undecided) \
  X(drop_pending) \
  X(drop_park_full) \
  X(drop_event_full) \
  X(drop_tun_write) \
  X(drop_udp_send) \
  X(drop_relay_full) \
  X(drop_inbox_full) \
  X(drop_no_relay) \
  X(drop_too_large) \
  X(drop_multicast) \
  X(drop_congested) \
  X(drop_expired_session) \
  X(drop_expired_key) \
  X(drop_expired_lease) \
  X(drop_expired_verdict) \
  X(drop_no_mapping) \
  X(drop_second_crossing) X(drop_hop_limit)
/* clang-format on */
enum {
#define X(name) C_##name,
  KDP_COUNTER_LIST(X)
#undef X
      C_COUNT
};

/* -- aead.c -------------------------------------------------------------------------------------------------------- */
typedef struct aead_key aead_key; /* scheduled once, read-only after */
int aead_open_library(const char *wanted, char *error, size_t error_len);
const char *aead_library(void);
const char *aead_unused_reason(void); /* why "auto" did not take the fastest; "" when it did, or was not asked */
/* -- aead_check.c: the self-test of the library in use. NULL, or what it does wrongly. */
const char *aead_check(void);
aead_key *aead_key_new(const uint8_t key[KEY_LEN], const uint8_t iv[IV_LEN]);
void aead_key_free(aead_key *k); /* wipes */
/* dst: len + TAG_LEN bytes; src == dst allowed. */
void aead_seal(aead_key *k, uint64_t counter, const uint8_t *aad, const uint8_t *src, size_t len, uint8_t *dst);
/* len without the tag, which stands behind src. false: not authentic, and dst[0..len) is wiped. */
bool aead_open(aead_key *k, uint64_t counter, const uint8_t *aad, const uint8_t *src, size_t len, uint8_t *dst);

/* -- replay.c: RFC 6479 -------------------------------------------------------------------------------------------- */
typedef struct {
  uint64_t next; /* highest counter accepted, plus one */
  uint64_t bits[REPLAY_BITS / 64 + 1];
} replay_window;
bool replay_accept(replay_window *w, uint64_t counter); /* false: seen, or left of the window */

/* -- fib.c: longest prefix, one hash table a VNI ------------------------------------------------------------------- */
typedef struct fib fib;
fib *fib_new(void);
void fib_free(fib *f);
int fib_set(fib *f, uint8_t family, const uint8_t *prefix, uint8_t bits, uint32_t next_hop);
int fib_unset(fib *f, uint8_t family, const uint8_t *prefix, uint8_t bits);
/* Only if it leads to `next_hop`. */
void fib_unset_hop(fib *f, uint8_t family, const uint8_t *prefix, uint8_t bits, uint32_t next_hop);
bool fib_find(const fib *f, uint8_t family, const uint8_t *addr, uint32_t *next_hop);

/* -- packet.c: the inner packet, never trusted --------------------------------------------------------------------- */
typedef struct {
  uint8_t family, protocol, icmp_type, tcp_flags;
  bool fragment, first_fragment; /* fragment: any part of a fragmented packet */
  bool icmp_error;               /* then embedded is the packet it is about */
  bool echo_request, echo_reply; /* no other ICMP message crosses a VNI */
  uint16_t l4;                   /* offset of the transport header */
  uint16_t src_port, dst_port;
  uint32_t fragment_id;
  uint32_t fragment_start, fragment_end; /* the bytes of the original packet's payload that this fragment carries */
  const uint8_t *src, *dst;
  uint16_t l4_header; /* length of the transport header: TCP and UDP only */
  const uint8_t *embedded;
  size_t embedded_len;
} packet;
bool packet_parse(const uint8_t *data, size_t len, packet *out);
bool packet_parse_embedded(const packet *outer, packet *out); /* lengths inside may exceed what is quoted */
uint16_t checksum(const uint8_t *data, size_t len, uint32_t sum);
uint32_t pseudo_sum(uint8_t family, const uint8_t *src, const uint8_t *dst, uint8_t protocol, uint32_t l4_len);
/* RFC 6040: congestion met on the way, told in the outer header, goes into the inner one. false: the inner sender would not
 * understand, so the packet must be dropped as the congested queue would have. */
enum { ECN_NONE = 0, ECN_ECT1 = 1, ECN_ECT0 = 2, ECN_CE = 3 };
uint8_t packet_ecn(const uint8_t *ip);
bool packet_set_congestion(uint8_t *ip, size_t len, uint8_t outer);
/* An answer that refuses `p`: TCP RST, or ICMP administratively prohibited. Returns its length, 0 when none is due. */
size_t packet_reject(const uint8_t *data, size_t len, const packet *p, uint8_t *out, size_t cap);
/* ICMP time exceeded, said by `router`; the same. */
size_t packet_expired(const uint8_t *data, size_t len, const packet *p, const uint8_t *router, uint8_t *out,
                      size_t cap);
/* ICMP fragmentation needed, or packet too big, said in the name of the destination; the same. */
size_t packet_too_big(const uint8_t *data, size_t len, const packet *p, size_t mtu, uint8_t *out, size_t cap);
/* An ICMP error is cut to the size that senders keep to (RFC 1812, RFC 4443). Returns its new length; 0: nothing of it is
 * left. */
size_t packet_shorten_error(uint8_t *data, size_t len, packet *p);
/* One hop less. false: it was the last. */
bool packet_spend_hop(uint8_t *ip);
/* The headers of a UDP packet say `len`; its checksum is left to the kernel. */
enum { UDP_HEADER = 8 };
void packet_set_udp_length(uint8_t *ip, size_t l4, size_t len);

/* A super-packet counts as what it becomes on a wire: who joined its segments, the kernel or we, makes no difference. */
typedef struct {
  uint64_t packets, bytes;
} volume;
volume volume_of(const struct virtio_net_hdr *vnet, size_t len, const packet *p);

/* An inner packet as it lies in memory, with what the kernel left undone. */
typedef struct {
  const struct virtio_net_hdr *vnet;
  const uint8_t *data;
  size_t len;
} inner;

static inline uint16_t get16(const uint8_t *p) {
  return (uint16_t)(p[0] << 8 | p[1]);
}
static inline uint32_t get32(const uint8_t *p) {
  return (uint32_t)get16(p) << 16 | get16(p + 2);
}
static inline uint64_t get64(const uint8_t *p) {
  return (uint64_t)get32(p) << 32 | get32(p + 4);
}
static inline void put16(uint8_t *p, uint32_t v) {
  p[0] = (uint8_t)(v >> 8), p[1] = (uint8_t)v;
}
static inline void put32(uint8_t *p, uint32_t v) {
  put16(p, v >> 16), put16(p + 2, v);
}
static inline void put64(uint8_t *p, uint64_t v) {
  put32(p, (uint32_t)(v >> 32)), put32(p + 4, (uint32_t)v);
}

/* -- engine structures --------------------------------------------------------------------------------------------- */
/* not_after_ms, here and below: by clock_ms, from then on it does not count. So all ends by itself when Python hangs. */
typedef struct {
  uint32_t epoch;
  uint64_t not_after_ms;
  aead_key *key;
  replay_window window;
} rx_epoch;

typedef struct {
  uint8_t family, bits;
  uint8_t prefix[16];
  _Atomic uint64_t not_after_ms; /* prolonged while packets read it; relaxed */
} lease;

/* The prefix `real` of VNI `to`, by the name it has here. */
typedef struct {
  uint32_t to;
  uint8_t family, bits;
  uint8_t seen[16], real[16];
} mapping;

/* FIB next hop of what is seen here of another VNI: this bit and that VNI's number. No session index has the bit. */
enum { CROSSING = 1u << 30 };

/* What one sender, a session or the TUN of a VNI, takes of what all of them share. */
typedef struct fragment_list fragment_list;
typedef struct event_queue {
  uint32_t first, newest, count; /* records of event.c, by index + 1 */
  uint32_t path;                 /* of these, the one that tells where the path is; 0: none does */
  struct event_queue *next;      /* in turn; valid while count > 0 */
} event_queue;

typedef struct {
  _Atomic uint32_t flows;   /* in the flow table */
  _Atomic uint32_t waiting; /* of these, those without a verdict */
  uint32_t parked;          /* of these, those with packets; guarded by the parking */
  event_queue events;       /* guarded by the event queues */
  fragment_list *fragments; /* guarded by fragment_lock; NULL: it has sent none */
  /* When the answers that it got would have been sent at their steady rate. Relaxed: it orders nothing else. */
  _Atomic uint64_t answered_ms;
} share;

typedef struct vni {
  uint32_t id;
  share share;  /* of its TUN */
  bool leaving; /* it was removed, and waits for its flows to be forgotten */
  int tun;
  uint32_t failures; /* of reading the TUN, without success since */
  uint64_t retry_ms; /* it is not waited for until then; 0: it is */
  fib *fib;
  mapping *mappings;
  size_t mapping_count;
  struct session *sessions;
  uint8_t router4[4], router6[16]; /* our own address, or zeros */
} vni;

typedef struct {
  uint8_t family, bits;
  uint8_t prefix[16];
} prefix_route;

typedef struct session {
  uint32_t index; /* 0: it was cut */
  uint32_t place; /* in the engine's sessions */
  vni *vni;
  struct session *next_of_vni, *next_cut;
  bool gone; /* it was cut, and its flows are forgotten: it can be freed */
  lease *leases;
  size_t lease_count;
  prefix_route *routes; /* that lead to it; some may have been changed or removed since */
  size_t route_count;
  uint32_t first_flow; /* index + 1 of the newest of its flows, 0: it has none; guarded by the flow table's free_lock */
  _Atomic uint32_t remote; /* relaxed, as those below */
  rx_epoch *rx[KDP_EPOCHS];
  aead_key *tx_key;
  uint32_t tx_epoch;
  uint64_t tx_not_after_ms;
  _Atomic uint64_t not_after_ms; /* of the session; prolonged while packets read it; relaxed */
  /* Relaxed is enough for those below: fetch_add gives each sender counters of its own, and that is all that is
   * asked of it. The keys they belong to are ordered by `config`. */
  _Atomic uint64_t tx_counter;
  _Atomic uint64_t rx_datagrams;
  _Atomic uint64_t forged, replayed, spoofed; /* as the counters of the lane, for this session alone */
  share share;
  _Atomic uint16_t limit; /* bytes of the largest datagram that the path carries; 0: not known */
  uint64_t newest;        /* highest counter of the newest epoch: only that one may move the path */
  uint32_t newest_epoch;
  /* The path is read by every sender and moved by the receiver: path_lock guards the three fields. */
  pthread_mutex_t path_lock;
  uint8_t path;
  bool follow;
  uint32_t relay;
  struct sockaddr_storage to;
  socklen_t to_len;
} session;

/* Where an inner packet comes from. session NULL: a TUN. across: the VNI it crossed from, NULL: it is in its own. */
typedef struct {
  session *session;
  vni *across;
} sender;

/* Of a sender whose packet is in VNI `in`. */
static inline share *share_of(const sender *from, vni *in) {
  if (from->session != NULL) return &from->session->share;
  return from->across != NULL ? &from->across->share : &in->share;
}

/* Datagrams on their way to the UDP socket: consecutive ones of one size to one address leave as one GSO message. */
typedef struct {
  size_t offset, len, segment, segments;
  bool closed; /* its last segment was short: nothing may follow in this message */
  uint8_t ecn;
  struct sockaddr_storage to;
  socklen_t to_len;
} outbox_message;

typedef struct {
  uint8_t *bytes;
  size_t used;
  int count;
  outbox_message message[BATCH];
} outbox;

/* A run of segments of one super-packet, being gathered. */
typedef struct {
  uint8_t *buffer;
  size_t at; /* where the next plaintext goes */
  session *from;
  uint64_t super; /* counter - index of its segments */
  uint32_t epoch;
  size_t start, len;
  uint16_t first, count, total, gso_size;
  uint8_t kind, template_len, ecn;
  uint8_t template[TEMPLATE_MAX];
} segment_run;

/* What one thread owns: no other thread writes here, so no lock and no shared cache line. The counters are atomic only
 * so that Python's reader sees whole values; each has one writer, so load and store need no lock prefix and no order. */
typedef struct lane {
  _Alignas(64) _Atomic uint64_t counters[C_COUNT];
  outbox out;
  segment_run run;
  uint64_t now_ms;
} lane;
enum { LANE_TX = 0, LANE_RX = 1, LANE_HOST = 2, LANES = 3 };

static inline uint64_t counted(const lane *l, int counter) {
  return atomic_load_explicit(&l->counters[counter], memory_order_relaxed);
}
static inline void count_n(lane *l, int counter, uint64_t n) {
  atomic_store_explicit(&l->counters[counter], counted(l, counter) + n, memory_order_relaxed);
}
static inline void count(lane *l, int counter) {
  count_n(l, counter, 1);
}

struct relay_table;
struct inbox;
struct flow_table;
struct ended_ring;
struct parking;
struct event_queues;

struct kdp_engine {
  /* Locks are taken in this order: host_lock, config, and below them one leaf at a time (a flow stripe, then free_lock;
   * a relay queue, then spare_lock; a path, the parking, the fragments, the events). The inbox has locks of its own,
   * under which no other is taken.
   *
   * config: the packet threads hold the read side for one batch, Python the write side for one change. It protects
   * vnis, sessions, FIBs, keys and the table of relay queues. Writers are preferred: a busy data plane cannot hold a cut
   * back. A packet thread that sees a writer wait ends its batch between two packets. */
  pthread_rwlock_t config;
  _Atomic uint32_t writers; /* that wait for `config` or hold it */
  vni *vnis[VNIS_MAX];
  session *sessions[SESSIONS_MAX]; /* by index & (SESSIONS_MAX - 1) */
  uint32_t session_turn;
  session *cut_sessions; /* without index and keys; each keeps its place in `sessions` until its flows are forgotten */
  struct relay_table *relays;
  int udp;
  int wake_tx, wake_rx;   /* eventfds that end a wait */
  int watch_tx, watch_rx; /* epolls: of the TUNs, of the UDP socket; each with its eventfd */
  uint32_t resting;       /* TUNs that are not waited for; the tx thread's, and a writer's of `config` */
  _Atomic bool stop;
  pthread_t tx_thread, rx_thread;
  bool threads;
  /* host_lock: LANE_HOST belongs to whoever holds it. */
  pthread_mutex_t host_lock;
  bool corked;                 /* what the host lane makes waits for more of it; guarded by host_lock */
  struct inbox *inbox;         /* of the rx thread, to which alone replay windows and gathering runs belong */
  uint8_t *tun_bytes;          /* of the tx thread: TUN_BYTES */
  struct udp_batch *udp_batch; /* of the rx thread */
  struct flow_table *flows;
  struct ended_ring *ended;
  pthread_mutex_t fragment_lock; /* guards the fragments of every share */
  struct parking *parking;
  struct event_queues *events;
  lane lanes[LANES];
};

uint64_t clock_ms(void); /* CLOCK_BOOTTIME: a life goes on in suspend */
static inline bool is_over(uint64_t not_after_ms, uint64_t now_ms) {
  return now_ms >= not_after_ms;
}
static inline bool session_is_over(const session *s, uint64_t now_ms) {
  return is_over(atomic_load_explicit(&s->not_after_ms, memory_order_relaxed), now_ms);
}

/* -- config.c: the lock ---------------------------------------------------------------------------------------------- */
void config_read(kdp_engine *e);
void config_read_end(kdp_engine *e);
void config_write(kdp_engine *e);
void config_write_end(kdp_engine *e);
static inline bool config_is_wanted(kdp_engine *e) {
  return atomic_load_explicit(&e->writers, memory_order_relaxed) != 0;
}
/* A packet thread lets the writers in. What it has made leaves before; what it looked up under `config` may be gone
 * after. */
void config_yield(kdp_engine *e, lane *l);

/* -- event.c ------------------------------------------------------------------------------------------------------- */
struct event_queues *events_new(void);
void events_free(struct event_queues *q);
int events_fd(struct event_queues *q);
/* from: whose event it is; NULL: a relay queue's. false: there is no room for it. */
bool events_put(struct event_queues *q, share *from, const kdp_event *event);
void events_tell(struct event_queues *q); /* due after all that was put */
int events_take(struct event_queues *q, kdp_event *out, int max);
void events_forget(struct event_queues *q, share *from); /* before the share goes */

/* -- flow.c -------------------------------------------------------------------------------------------------------- */
typedef enum { FLOW_PASS, FLOW_DROP, FLOW_REJECT } flow_answer;
struct flow_table *flows_new(uint32_t max);
void flows_free(struct flow_table *t);
/* Counts the packet and says what to do. A packet of a flow without a verdict is parked until there is one, or dropped; in
 * either case Python is asked. */
flow_answer flows_pass(kdp_engine *e, lane *l, vni *v, const sender *from, const packet *p, const inner *in);
/* Python has taken the question about this flow. false: it waits no more. */
bool flows_asked(kdp_engine *e, uint64_t id);
/* Whether the flow of `p` lives and has leave. Counts nothing. */
bool flows_allow(kdp_engine *e, const lane *l, uint32_t vni_id, const packet *p);
/* Sets the verdict of a live flow, and gives the place of its parked packets, 0 if it has none. false: it is gone. */
bool flows_decide(kdp_engine *e, lane *l, uint64_t id, uint8_t verdict, uint32_t rule, uint32_t generation,
                  uint64_t not_after_ms, uint32_t *parked);
/* At most so many flows of a session that had this index and has none now. true: there may be more. */
bool flows_forget_session(kdp_engine *e, const session *s, uint32_t index, int most);
/* Some buckets' flows of a VNI that is leaving, and what crossed from there; from `bucket` on, which is moved. true: there
 * are more. */
bool flows_forget_vni(kdp_engine *e, uint32_t vni_id, uint32_t *bucket);
/* Some of those whose time has come. true: there are more. */
bool flows_age(kdp_engine *e, lane *l);

/* -- ended.c ------------------------------------------------------------------------------------------------------- */
struct ended_ring *ended_new(void);
void ended_free(struct ended_ring *r);
void ended_put(struct ended_ring *r, const kdp_flow *f); /* a full ring keeps what it has and counts the rest */

/* -- fragment.c ---------------------------------------------------------------------------------------------------- */
void fragments_free(share *s);
/* `first` belongs to this flow. */
void fragment_remember(kdp_engine *e, const lane *l, share *s, uint64_t flow, uint32_t vni_id, const packet *first);
/* The flow of a later fragment; 0, and counted: its first was not seen, or overlaps it. */
uint64_t fragment_flow(kdp_engine *e, lane *l, share *s, uint32_t vni_id, const packet *later);

/* -- parked.c ------------------------------------------------------------------------------------------------------ */
typedef struct {
  uint32_t vni, from, across;
  uint16_t len;
  struct virtio_net_hdr vnet;
  uint8_t data[PARKED_BYTES];
} parked_packet;
struct parking *parking_new(void);
void parking_free(struct parking *g);
uint64_t parking_lost(struct parking *g); /* packets whose flow ended before its verdict */
/* at: the place of the flow, 0 until it has one. Called with the flow's stripe held, so that a packet is parked before the
 * verdict or not at all. */
bool park(kdp_engine *e, share *owner, uint32_t *at, uint32_t vni_id, const sender *from, const inner *in);
bool unpark(kdp_engine *e, uint32_t at, parked_packet *out); /* the oldest; false: none is left */
void park_end(kdp_engine *e, uint32_t at);                   /* 0: nothing happens */

/* -- relay.c ------------------------------------------------------------------------------------------------------- */
struct relay_table *relays_new(void);
void relays_free(struct relay_table *t);
void relay_queue_put(kdp_engine *e, lane *l, uint32_t relay, const uint8_t *datagram, size_t len);

/* -- inbox.c ------------------------------------------------------------------------------------------------------- */
struct inbox *inbox_new(void);
void inbox_free(struct inbox *b);
/* The receiver's: whole frames until `most` bytes are read. true: more are left. */
bool inbox_read(kdp_engine *e, lane *l, size_t most);

/* -- transmit.c ---------------------------------------------------------------------------------------------------- */
void transmit(kdp_engine *e, lane *l, session *to, const struct virtio_net_hdr *vnet, const uint8_t *data, size_t len,
              const packet *p);
int transmit_control(kdp_engine *e, lane *l, session *to, uint8_t type, const uint8_t *payload, size_t len, size_t size,
                     const struct sockaddr_storage *addr, socklen_t addr_len, bool via_relay);
void batch_end(kdp_engine *e, lane *l); /* what it has made, datagrams and events, goes */
void outbox_flush(kdp_engine *e, lane *l);
void outbox_flush_whole(kdp_engine *e, lane *l); /* nothing of it may be fragmented on the way */
/* The largest inner packet that the session's path carries; SIZE_MAX: not known. */
size_t transmit_max(const session *s);
/* No ICMP error changes how datagrams leave: it could be anyone's. */
void ignore_path_mtu(int udp);

/* -- receive.c ----------------------------------------------------------------------------------------------------- */
/* Where a datagram came from. from NULL: out of `relay`. ecn: the two bits of its outer IP header. */
typedef struct {
  const struct sockaddr_storage *from;
  socklen_t from_len;
  uint32_t relay;
  uint8_t ecn;
} origin;
void receive(kdp_engine *e, lane *l, const uint8_t *datagram, size_t len, const origin *o);
void run_flush(kdp_engine *e, lane *l);

/* -- forward.c ----------------------------------------------------------------------------------------------------- */
/* One inner packet, from the TUN (from == NULL) or from a session: source check, flow verdict, FIB, out. */
void forward(kdp_engine *e, lane *l, vni *v, session *from, const struct virtio_net_hdr *vnet, uint8_t *data,
             size_t len);
/* The same for a packet whose flow was just allowed. */
void forward_allowed(kdp_engine *e, lane *l, vni *v, const sender *from, const struct virtio_net_hdr *vnet,
                     uint8_t *data, size_t len, packet *p);
/* Whether the sender may have packets with this source address in VNI `v`. */
bool speaks_for(const lane *l, const vni *v, const sender *from, uint8_t family, const uint8_t *addr);
void reject(kdp_engine *e, lane *l, vni *v, const sender *from, const uint8_t *data, size_t len, const packet *p);

/* -- translate.c --------------------------------------------------------------------------------------------------- */
/* Renames both ends of a packet of `from`, in place, as `to` knows them. false: one of them has no name there. */
bool translate(const vni *from, const vni *to, const struct virtio_net_hdr *vnet, uint8_t *data, size_t len,
               const packet *p);

/* -- tun.c --------------------------------------------------------------------------------------------------------- */
/* A batch; buffer: TUN_BYTES. true: some were joined and none is left, so more are likely to come together. */
bool tun_read(kdp_engine *e, lane *l, vni *v, uint8_t *buffer);
/* Those that have rested after a failure are waited for again. */
void tuns_retry(kdp_engine *e, lane *l);
/* To the host; a UDP super-packet that it refuses is taken apart in place. */
void tun_write(lane *l, const vni *v, const struct virtio_net_hdr *vnet, uint8_t *data, size_t len, const packet *p);

/* -- config.c ------------------------------------------------------------------------------------------------------ */
void session_free(session *s); /* wipes its keys */
void vni_free(vni *v);         /* closes its TUN */

/* -- engine.c ------------------------------------------------------------------------------------------------------ */
vni *vni_find(kdp_engine *e, uint32_t id); /* NULL: there is none, or it is leaving */
session *session_find(kdp_engine *e, uint32_t index);
void addr_to_sockaddr(const kdp_addr *a, struct sockaddr_storage *s, socklen_t *len);
void sockaddr_to_addr(const struct sockaddr_storage *s, kdp_addr *a);
#endif
