/* An engine for the targets that need one: two VNIs, each with a socket pair for its TUN and one session, which are each
 * other's peer. What leaves HERE for the relay can be put back and arrives THERE, and the reverse.
 *
 *   HERE    its host is 10.0.0.1 and fd::1, its session `there` leases 10.0.0.2 and fd::2
 *   THERE   its host is 10.0.0.2 and fd::2, its session `here` leases 10.0.0.1 and fd::1
 *
 * The engine's own threads have ended: rig_put and rig_read_tun do their work, one batch at a time, and its clock stands still until
 * rig_wait. So what an input does is the same each time. */
#ifndef RIG_H
#define RIG_H
#include "fuzz.h"

enum { HERE = 5, THERE = 6, RELAY = 1, FLOWS_MAX = 256 };

typedef struct {
  kdp_engine *engine;
  aead_key *key;                         /* of both sessions, both ways */
  uint32_t here_to_there, there_to_here; /* the session in HERE, the session in THERE */
  int tun[2];                            /* our ends: [0] of HERE, [1] of THERE */
  uint64_t counter;                      /* of the next datagram that is sealed for the session in THERE */
} rig;

rig *rig_open(void); /* fresh in all that matters; the same engine each time */
void rig_close(rig *r);

/* The engine's clock goes on, and flows whose life is over go. */
void rig_wait(rig *r, uint64_t ms);
/* The session of HERE, or that of THERE, is cut, and another takes its place. */
void rig_renew(rig *r, uint32_t vni_id);
/* Returns what kdp_keys_install does. */
int rig_install(rig *r, uint32_t index, uint32_t epoch, bool transmit, uint64_t not_after_ms);
/* All live flows; flows: FLOWS_MAX. Returns how many. */
long rig_flows(rig *r, kdp_flow *flows);

/* A datagram as the peer in HERE would send it to THERE, with the next counter. Returns its length. */
size_t rig_seal(rig *r, uint8_t type, const uint8_t *plain, size_t len, uint8_t *out);
/* These two are received when they return. The first takes records, and returns what kdp_relay_put does. */
long rig_put_frame(rig *r, const uint8_t *frame, size_t len);
long rig_put(rig *r, const uint8_t *datagram, size_t len);
/* As it comes from the UDP socket. */
void rig_put_udp(rig *r, const kdp_addr *from, uint8_t ecn, const uint8_t *datagram, size_t len);
/* What waits for the relay, as records; at most FRAME_MAX bytes. */
size_t rig_take(rig *r, uint8_t *frame);
/* What waits for the relay goes to the other VNI. */
void rig_pass(rig *r);

void rig_write_tun(rig *r, int end, const struct virtio_net_hdr *vnet, const uint8_t *data, size_t len);
void rig_read_tun(rig *r, uint32_t vni_id);
/* What the engine has written there: the length of the packet, 0 when there is none. data: PACKET_MAX bytes. */
size_t rig_written(rig *r, int end, struct virtio_net_hdr *vnet, uint8_t *data);

/* Decides all new flows. */
void rig_judge(rig *r, uint8_t verdict);
uint64_t rig_counter(rig *r, int counter);

/* A packet between the hosts of HERE and THERE, with headers that mostly fit each other. Returns its length. */
size_t any_packet(input *in, bool from_here, uint8_t *out, size_t payload_max);
/* The checksum of a TCP or UDP packet as it should be. */
void set_transport_checksum(uint8_t *ip, size_t len);
/* What the kernel asks of a packet that is written to a TUN. */
void require_acceptable(const struct virtio_net_hdr *vnet, const uint8_t *data, size_t len);
#endif
