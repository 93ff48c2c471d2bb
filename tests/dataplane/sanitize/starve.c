/* Refuses what the engine asks of the system and of its libraries, one request after another, and then all from one on: what was
 * called reports it, nothing is left half done or leaks, and no plaintext leaves where sealing failed.
 *
 * Link with: -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=aligned_alloc,--wrap=mmap,--wrap=eventfd
 * Link with: -Wl,--wrap=epoll_create1,--wrap=epoll_ctl,--wrap=fcntl,--wrap=getrandom,--wrap=pthread_create,--wrap=setsockopt
 * Link with: -Wl,--wrap=sendmmsg,--wrap=sendto,--wrap=EVP_CIPHER_CTX_new,--wrap=EVP_CipherInit_ex,--wrap=EVP_EncryptInit_ex
 * Link with: -Wl,--wrap=EVP_EncryptUpdate,--wrap=EVP_EncryptFinal_ex,--wrap=EVP_CIPHER_CTX_ctrl,--wrap=EVP_DecryptInit_ex
 * Link with: -Wl,--wrap=EVP_DecryptUpdate
 *
 *   starve AEAD     prints how many requests there are */
#include <arpa/inet.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "drivers.h"

enum { VNI = 5, OTHER = 6, RELAY = 1 };

/* Requests until one is refused; 0: none is. Of the engine's own threads only the receiver asks for anything, while we wait. */
static _Atomic long left;
static _Atomic bool all_after, refused_one;
static _Atomic int error_number; /* of a refused system call */
static _Atomic bool created;     /* the self-test of a library, before that, asks OpenSSL for thousands of things */

static bool refused(void) {
  if (left == 0 || (left > 1 && --left > 0)) return false;
  left = all_after ? 1 : 0;
  refused_one = true;
  errno = error_number;
  return true;
}

static bool refused_later(void) {
  return created && refused();
}

/* `name` as the engine calls it: refused, or as it is. */
#define WRAP_IF(type, refused, name, refusal, parameters, arguments) \
  type __real_##name parameters;                                     \
  type __wrap_##name parameters {                                    \
    return refused() ? (refusal) : __real_##name arguments;          \
  }

#define WRAP(type, name, refusal, parameters, arguments) WRAP_IF(type, refused, name, refusal, parameters, arguments)

WRAP(void *, malloc, NULL, (size_t n), (n))
WRAP(void *, calloc, NULL, (size_t n, size_t m), (n, m))
WRAP(void *, realloc, NULL, (void *p, size_t n), (p, n))
WRAP(void *, aligned_alloc, NULL, (size_t a, size_t n), (a, n))
WRAP(void *, mmap, MAP_FAILED, (void *a, size_t n, int p, int f, int d, off_t o), (a, n, p, f, d, o))
WRAP(int, eventfd, -1, (unsigned n, int f), (n, f))
WRAP(int, epoll_create1, -1, (int f), (f))
WRAP(int, epoll_ctl, -1, (int e, int op, int d, struct epoll_event *v), (e, op, d, v))
WRAP(ssize_t, getrandom, -1, (void *p, size_t n, unsigned f), (p, n, f))
WRAP(int, pthread_create, EAGAIN, (pthread_t * t, const pthread_attr_t *a, void *(*f)(void *), void *v), (t, a, f, v))
WRAP(int, setsockopt, -1, (int d, int l, int o, const void *v, socklen_t n), (d, l, o, v, n))
WRAP(int, sendmmsg, -1, (int d, struct mmsghdr *m, unsigned n, int f), (d, m, n, f))
WRAP(ssize_t, sendto, -1, (int d, const void *p, size_t n, int f, const struct sockaddr *a, socklen_t l),
     (d, p, n, f, a, l))
WRAP_IF(EVP_CIPHER_CTX *, refused_later, EVP_CIPHER_CTX_new, NULL, (void), ())
WRAP_IF(int, refused_later, EVP_CipherInit_ex, 0,
        (EVP_CIPHER_CTX * c, const EVP_CIPHER *t, ENGINE *e, const uint8_t *k, const uint8_t *i, int enc),
        (c, t, e, k, i, enc))
WRAP_IF(int, refused_later, EVP_EncryptInit_ex, 0,
        (EVP_CIPHER_CTX * c, const EVP_CIPHER *t, ENGINE *e, const uint8_t *k, const uint8_t *i), (c, t, e, k, i))
WRAP_IF(int, refused_later, EVP_EncryptUpdate, 0, (EVP_CIPHER_CTX * c, uint8_t *o, int *n, const uint8_t *i, int len),
        (c, o, n, i, len))
WRAP_IF(int, refused_later, EVP_EncryptFinal_ex, 0, (EVP_CIPHER_CTX * c, uint8_t *o, int *n), (c, o, n))
WRAP_IF(int, refused_later, EVP_CIPHER_CTX_ctrl, 0, (EVP_CIPHER_CTX * c, int t, int a, void *p), (c, t, a, p))
WRAP_IF(int, refused_later, EVP_DecryptInit_ex, 0,
        (EVP_CIPHER_CTX * c, const EVP_CIPHER *t, ENGINE *e, const uint8_t *k, const uint8_t *i), (c, t, e, k, i))
WRAP_IF(int, refused_later, EVP_DecryptUpdate, 0, (EVP_CIPHER_CTX * c, uint8_t *o, int *n, const uint8_t *i, int len),
        (c, o, n, i, len))

int __real_fcntl(int fd, int command, ...);
int __wrap_fcntl(int fd, int command, ...) {
  va_list rest;
  va_start(rest, command);
  int argument = va_arg(rest, int);
  va_end(rest);
  return refused() ? -1 : __real_fcntl(fd, command, argument);
}

static const uint8_t address[16] = {10, 0, 0, 2}, own[16] = {10, 0, 0, 1};
static const char *aead;
static aead_key *peer;
static int pair[2], udp;
static uint64_t counter;

/* A call that was refused something fails; one that was not, does not. */
static bool did(int result, const char *what) {
  bool starved = refused_one;
  refused_one = false;
  check(starved ? result < 0 : result == 0, what);
  return result == 0;
}

/* The same for a call that can do without. */
static void did_anyhow(int result, const char *what) {
  check(refused_one || result == 0, what);
  refused_one = false;
}

/* A key that cannot be made is told as a lack of memory. */
static bool set_keys(kdp_engine *e, uint32_t index) {
  int receive = install_key(e, index, 0, false);
  bool received = did(receive == 1 ? 0 : receive, "a receive key");
  int transmit_key = install_key(e, index, 0, true);
  return did(transmit_key == 1 ? 0 : transmit_key, "a transmit key") && received;
}

static bool set_up(kdp_engine *e, uint32_t *index) {
  if (!did(kdp_vni_add(e, VNI, pair[1]), "vni_add") || !did(kdp_vni_add(e, OTHER, pair[1]), "vni_add")) return false;
  if (!did(kdp_relay_add(e, RELAY), "relay_add") || !did(kdp_session_add(e, VNI, index), "session_add")) return false;
  bool leased = did(kdp_session_lease(e, *index, 4, address, 32, KDP_NEVER), "session_lease");
  did(kdp_mapping_add(e, VNI, 4, 24, address, OTHER, own), "mapping_add");
  did(kdp_fib_add(e, VNI, 4, own, 32, KDP_NEXT_HOP_LOCAL), "fib_add");
  for (uint8_t i = 0; i < 40; i++) {
    const uint8_t prefix[16] = {10, 1, i};
    bool added = did(kdp_fib_add(e, VNI, 4, prefix, 24, *index), "fib_add");
    int result = i % 8 == 1 ? kdp_fib_remove(e, VNI, 4, prefix, 24) : 0;
    check(result == (i % 8 == 1 && !added ? -ENOENT : 0), "a route that was not added and is there, or the reverse");
  }
  return set_keys(e, *index) && leased;
}

/* What cannot be sealed is wiped, or is not sent; that of a peer is not taken. */
static void exchange(kdp_engine *e, uint32_t index) {
  static const uint8_t secret[64] = "a plaintext";
  static uint8_t frame[4096];
  uint8_t record[2 + HEADER_LEN + sizeof secret + TAG_LEN];
  kdp_session_path(e, index, KDP_PATH_RELAY, NULL, RELAY, 0);
  check(kdp_control_send(e, index, DG_KEEPALIVE, secret, sizeof secret, 0, NULL, 1) == 0, "control_send");
  long len = kdp_relay_take(e, RELAY, frame, sizeof frame);
  check(len < 0 || memmem(frame, (size_t)len, secret, 11) == NULL, "a plaintext left");
  long before = left;
  left = 0;
  seal_record(peer, record, DG_KEEPALIVE, index, counter++, secret, sizeof secret);
  left = before;
  refused_one = false;
  uint64_t was[C_COUNT], is[C_COUNT];
  kdp_counters(e, was, C_COUNT);
  kdp_relay_put(e, RELAY, record, sizeof record);
  kdp_settle(e);
  kdp_counters(e, is, C_COUNT);
  check(is[refused_one ? C_drop_auth : C_rx_relay_datagrams] > was[refused_one ? C_drop_auth : C_rx_relay_datagrams],
        "a datagram taken that could not be opened, or the reverse");
  refused_one = false;
}

/* Datagrams of one size leave as one message; when that is refused, one by one. */
static void send_directly(kdp_engine *e, uint32_t index) {
  kdp_addr to = {.family = 4, .port = 9, .ip = {127, 0, 0, 1}};
  did_anyhow(kdp_set_udp(e, udp), "set_udp");
  kdp_cork(e);
  for (int i = 0; i < 4; i++) kdp_control_send(e, index, DG_KEEPALIVE, key, sizeof key, 0, &to, 0);
  kdp_uncork(e);
  kdp_control_send(e, index, DG_PROBE, key, sizeof key, 1200, &to, 0);
  refused_one = false;
}

static void live(void) {
  char error[600] = "";
  uint32_t index = 0;
  counter = 0;
  kdp_engine *e = kdp_create(aead, 64, error, sizeof error);
  check((e != NULL) == !refused_one && (e != NULL) == (error[0] == 0), "create");
  refused_one = false;
  created = e != NULL;
  if (e == NULL) return;
  if (set_up(e, &index)) exchange(e, index), send_directly(e, index);
  if (index != 0) kdp_session_cut(e, index);
  kdp_vni_remove(e, VNI);
  kdp_relay_remove(e, RELAY);
  refused_one = created = false;
  kdp_destroy(e);
}

int main(int argc, char **argv) {
  static const int errors[] = {ENOMEM, EIO, EINVAL, EMSGSIZE};
  struct sockaddr_in any_port = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  char error[600];
  long requests = 0;
  check(argc == 2, "usage: starve AEAD");
  aead = argv[1];
  check(aead_open_library(aead, error, sizeof error) == 0, error);
  peer = aead_key_new(key, iv);
  open_pair(pair);
  udp = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
  check(udp >= 0 && bind(udp, (struct sockaddr *)&any_port, sizeof any_port) == 0, "socket");
  for (size_t i = 0; i < 2 * sizeof errors / sizeof *errors; i++) {
    all_after = i % 2 == 1;
    error_number = errors[i / 2];
    for (long n = 1;; n++) {
      left = n;
      live();
      bool reached = left == 0 || (all_after && left == 1);
      left = 0;
      if (!reached) break;
      requests = n;
    }
  }
  printf("requests %ld\n", requests);
  aead_key_free(peer);
  close(pair[0]), close(pair[1]), close(udp);
  return 0;
}
