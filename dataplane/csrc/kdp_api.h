/* The whole face of the data plane. cffi reads this file: plain declarations only.
 *
 * One engine a process. Per VNI one TUN; per (peer, VNI) one session, named by the index we chose; per session one
 * transmit key and up to KDP_EPOCHS receive keys. Two native threads move packets: "tx" from the TUNs to the network,
 * "rx" from the UDP socket to the TUNs. Python configures, and decides about new flows when told by an event.
 *
 * Functions return 0 or a negative errno unless said otherwise. Every function may be called from any thread. */
#ifndef KDP_API_H
#define KDP_API_H
#include <stddef.h>
#include <stdint.h>

typedef struct kdp_engine kdp_engine;

/* family 4 or 6 (0: none); port in host order; an IPv4 address stands in the first four bytes. */
typedef struct {
  uint8_t family;
  uint16_t port;
  uint8_t ip[16];
} kdp_addr;

enum { KDP_DENY = 0, KDP_ALLOW = 1, KDP_PENDING = 2 };
enum { KDP_PATH_NONE = 0, KDP_PATH_RELAY = 1, KDP_PATH_DIRECT = 2 };
enum { KDP_EVENT_FLOW = 1, KDP_EVENT_CONTROL = 2, KDP_EVENT_PATH = 3, KDP_EVENT_RELAY = 4, KDP_EVENT_TUN = 5 };
enum { KDP_END_NONE = 0, KDP_END_IDLE = 1, KDP_END_CLOSED = 2, KDP_END_CUT = 3, KDP_END_REPLACED = 4 };
/* not_after_ms: by CLOCK_BOOTTIME; from then on the engine acts as if the thing were not there. So keys, sessions, leases
 * and verdicts end in time even if the caller hangs. KDP_NEVER: only when the caller says so. */
#define KDP_NEVER UINT64_MAX
enum { KDP_NEXT_HOP_LOCAL = 0 }; /* FIB next hop: this VNI's TUN; any other value is a session index */

/* A flow as its initiator sees it. from_session: 0 when it entered through the TUN. ICMP echo ids are both ports.
 * ended: NONE while it lives; IDLE: no packet for too long; CLOSED: the same after FIN or RST; CUT: its session or VNI
 * went; REPLACED: the same ends began anew. */
typedef struct {
  uint64_t id; /* 0 when unused; never reused for another flow */
  uint32_t vni;
  uint32_t from_session;
  uint32_t from_vni; /* 0: it began in `vni`; else it came across from there, and the addresses are those seen here */
  uint8_t family;    /* 4 or 6 */
  uint8_t protocol;
  uint8_t icmp_type;
  uint8_t tcp_flags;
  uint16_t src_port;
  uint16_t dst_port;
  uint8_t src[16];
  uint8_t dst[16];
  uint8_t verdict;
  uint8_t ended;
  uint32_t rule;
  uint32_t generation;
  uint64_t packets[2]; /* [0] initiator to responder, [1] back */
  uint64_t bytes[2];
  uint64_t age_ms;  /* since it was opened */
  uint64_t idle_ms; /* since its last packet */
} kdp_flow;

/* transmit 0: a receive key, of which a session has up to KDP_EPOCHS; 1: the key that it sends under from now on. */
typedef struct {
  uint64_t not_after_ms;
  uint32_t session;
  uint32_t epoch;
  uint8_t transmit;
  uint8_t key[32];
  uint8_t iv[12];
} kdp_key;

/* FLOW: `flow` waits for kdp_flow_verdict. CONTROL: an authenticated PROBE, PROBE_ACK, KEEPALIVE or CLAIM. PATH: the peer of
 * `session` is now reached over `path`. RELAY: datagrams wait in relay queue `relay`. TUN: that of `vni` cannot be read,
 * for the reason `error`, and is tried again and again; error 0: it can. */
typedef struct {
  uint32_t type;
  uint32_t session;
  uint32_t relay;
  uint32_t vni;
  uint32_t error;
  uint8_t path;
  uint8_t control_type;
  uint16_t payload_len;
  uint16_t size; /* CONTROL: of the whole datagram; of a padded PROBE the payload is only the beginning */
  kdp_addr addr; /* family 0: it came through the relay */
  kdp_flow flow;
  uint8_t payload[1200];
} kdp_event;

/* aead: "auto", "ipsec-mb" or "openssl". NULL, and the reason in `error`, when it cannot be used or fails its self-test. */
kdp_engine *kdp_create(const char *aead, uint32_t max_flows, char *error, size_t error_len);
void kdp_destroy(kdp_engine *e); /* stops the threads, wipes every key */
const char *kdp_aead_name(kdp_engine *e);
const char *kdp_aead_unused(kdp_engine *e); /* why "auto" did not take ipsec-mb; "" when it did, or was not asked */
int kdp_event_fd(kdp_engine *e);            /* an eventfd, readable while events wait */
int kdp_set_udp(kdp_engine *e, int fd);     /* a bound, non-blocking UDP socket, duplicated; -1 takes it away */

int kdp_vni_add(kdp_engine *e, uint32_t vni, int tun_fd); /* tun_fd: IFF_VNET_HDR, duplicated */
int kdp_vni_remove(kdp_engine *e, uint32_t vni);          /* with its sessions, FIB and flows */
int kdp_fib_add(kdp_engine *e, uint32_t vni, uint8_t family, const uint8_t *prefix, uint8_t bits, uint32_t next_hop);
int kdp_fib_remove(kdp_engine *e, uint32_t vni, uint8_t family, const uint8_t *prefix, uint8_t bits);
/* An interconnect, one way: the addresses of `real`/bits in VNI `to` have, in `vni`, the names of `seen`/bits. A packet
 * for one of them crosses if its own source has a name there too; `seen` is a FIB entry of its own. */
int kdp_mapping_add(kdp_engine *e, uint32_t vni, uint8_t family, uint8_t bits, const uint8_t *seen, uint32_t to,
                    const uint8_t *real);
/* Our own address there: what a packet that crosses from there, and has no hop left, is answered by. */
int kdp_vni_router(kdp_engine *e, uint32_t vni, uint8_t family, const uint8_t *addr);
int kdp_mapping_remove(kdp_engine *e, uint32_t vni, uint8_t family, uint8_t bits, const uint8_t *seen);

/* The data plane chooses the local index, > 0. */
int kdp_session_add(kdp_engine *e, uint32_t vni, uint32_t *index);
int kdp_session_remote(kdp_engine *e, uint32_t index, uint32_t remote_index);
int kdp_session_cut(kdp_engine *e, uint32_t index); /* keys wiped, flows removed, when this returns */
/* Many at once: packets are stopped once for several of them. Returns how many there were. */
int kdp_sessions_cut(kdp_engine *e, const uint32_t *indexes, size_t count);
int kdp_session_until(kdp_engine *e, uint32_t index, uint64_t not_after_ms); /* KDP_NEVER until it is told */
/* A lease that the session has already is prolonged, or shortened. */
int kdp_session_lease(kdp_engine *e, uint32_t index, uint8_t family, const uint8_t *prefix, uint8_t bits,
                      uint64_t not_after_ms);
/* The keys of a rekey, of all its sessions. Those of sessions that are gone are left out. Returns how many were installed;
 * -EEXIST, and none is installed, when an epoch was installed before, since a counter never starts again under its key. */
int kdp_keys_install(kdp_engine *e, const kdp_key *keys, size_t count);
/* The receive keys of that epoch. Returns how many there were. */
int kdp_keys_retire(kdp_engine *e, uint32_t epoch, const uint32_t *sessions, size_t count);
/* follow: the path moves to where the newest authenticated datagram came from, PROBEs apart. */
int kdp_session_path(kdp_engine *e, uint32_t index, uint8_t kind, const kdp_addr *addr, uint32_t relay, int follow);
/* The largest datagram (UDP payload) that this very path carries, from 576 on; 0, and after each change of path: not known.
 * TCP is cut to fit; other packets that may not be fragmented are answered by "packet too big". */
int kdp_session_limit(kdp_engine *e, uint32_t index, uint16_t limit);
int kdp_session_stats(kdp_engine *e, uint32_t index, uint64_t *sent, uint64_t *received); /* datagrams */
/* Drops of drop_auth, drop_replay and drop_spoofed_source that named this session. */
int kdp_session_offences(kdp_engine *e, uint32_t index, uint64_t *forged, uint64_t *replayed, uint64_t *spoofed);

/* addr family 0: over the session's path. size: 0, or of the whole datagram, which is padded with zeros to it and, if it
 * leaves directly, must not be fragmented on its way. */
int kdp_control_send(kdp_engine *e, uint32_t index, uint8_t type, const uint8_t *payload, size_t len, uint16_t size,
                     const kdp_addr *addr, int via_relay);

int kdp_relay_add(kdp_engine *e, uint32_t relay);
int kdp_relay_remove(kdp_engine *e, uint32_t relay);
/* Whole `u16 length | datagram` records, oldest first. Returns the bytes written to `out`. */
long kdp_relay_take(kdp_engine *e, uint32_t relay, uint8_t *out, size_t cap);
/* The payload of one DATAGRAMS frame, handed over to the thread that receives. Returns the number of datagrams, or -EBADMSG
 * for a broken record: those before it are handed over. Never waits for the receiver: what finds no room is dropped. */
long kdp_relay_put(kdp_engine *e, uint32_t relay, const uint8_t *data, size_t len);
/* Returns when all that was handed over before has been received: for tests and measurements. */
void kdp_settle(kdp_engine *e);

int kdp_events(kdp_engine *e, kdp_event *out, int max); /* returns how many; clears the eventfd when none is left */
/* not_after_ms: of an ALLOW. The flow itself stays and can be decided again. */
int kdp_flow_verdict(kdp_engine *e, uint64_t flow, uint8_t verdict, uint32_t rule, uint32_t generation,
                     uint64_t not_after_ms);
/* Between these two, what verdicts release and what kdp_control_send makes waits, to leave together: at the end, or
 * when kdp_flush says so. */
void kdp_cork(kdp_engine *e);
void kdp_flush(kdp_engine *e);
void kdp_uncork(kdp_engine *e);
/* A page of the live flows, any order. *cursor: 0 begins; it is 0 again after the last. A flow that lives from the first page
 * to the last is in one of them. */
long kdp_flows(kdp_engine *e, uint32_t *cursor, kdp_flow *out, size_t max);
/* Those of these flows that live; `out` has room for all. */
long kdp_flows_find(kdp_engine *e, const uint64_t *ids, size_t count, kdp_flow *out);
/* Leaves in `ids` those of flows that live, and returns how many. */
long kdp_flows_alive(kdp_engine *e, uint64_t *ids, size_t count);
/* Allowed flows that ended since they were last asked for, oldest first; ages are those of the moment they ended.
 * untold: how many more ended since the last call than the ring holds. */
long kdp_ended(kdp_engine *e, kdp_flow *out, size_t max, uint64_t *untold);

int kdp_counters(kdp_engine *e, uint64_t *out, int max); /* returns how many there are */
const char *kdp_counter_name(int counter);               /* NULL past the last */
#endif
