/* Runs a target without libFuzzer: each input of the files once, and then `RUNS` changes of them, the same for the same seed.
 *
 *   target FINDINGS RUNS SEED FILE...     prints how many inputs it ran; one that ends the target is kept at FINDINGS */
#include <signal.h>

#include "fuzz.h"

enum { INPUT_MAX = 1024, CHANGES_MAX = 8 };

typedef struct {
  uint8_t bytes[INPUT_MAX];
  size_t len;
} sample;

static sample current;
static const char *findings;
static long executions;
static uint64_t state;

static void tell(void) {
  fprintf(stderr, "stat::number_of_executed_units: %ld\n", executions);
}

/* The sanitizers end the process in this way too (abort_on_error=1). */
static void keep(int signal_number) {
  FILE *file = fopen(findings, "wb");
  if (file != NULL) fwrite(current.bytes, 1, current.len, file), fclose(file);
  tell();
  signal(signal_number, SIG_DFL);
  raise(signal_number);
}

/* In an allocation of its own: a read past it is a read past an allocation. */
static void execute(void) {
  uint8_t *copy = exact_copy(current.bytes, current.len);
  executions++;
  LLVMFuzzerTestOneInput(copy, current.len);
  free(copy);
}

/* xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators"). Below `below`, which is not 0. */
static size_t draw(size_t below) {
  state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
  return (size_t)(state * 0x2545f4914f6cdd1du >> 32) % below;
}

static void insert(sample *s, size_t at, const uint8_t *bytes, size_t len) {
  if (len > INPUT_MAX - s->len) len = INPUT_MAX - s->len;
  memmove(s->bytes + at + len, s->bytes + at, s->len - at);
  memcpy(s->bytes + at, bytes, len);
  s->len += len;
}

static void erase(sample *s, size_t at, size_t len) {
  memmove(s->bytes + at, s->bytes + at + len, s->len - at - len);
  s->len -= len;
}

/* other: where pieces come from. */
static void change(sample *s, const sample *other) {
  uint8_t byte = (uint8_t)draw(256);
  size_t at = draw(s->len + 1), left = s->len - at, from = draw(other->len + 1);
  switch (draw(5)) {
    case 0: insert(s, at, &byte, 1); break;
    case 1: insert(s, at, other->bytes + from, draw(other->len - from + 1)); break;
    case 2: erase(s, at, draw((left < 16 ? left : 16) + 1)); break;
    case 3:
      if (left > 0) s->bytes[at] = byte;
      break;
    default:
      if (left > 0) s->bytes[at] ^= (uint8_t)(1 << byte % 8);
  }
}

static void read_sample(const char *path, sample *s) {
  FILE *file = fopen(path, "rb");
  require(file != NULL, "an input that cannot be read");
  s->len = fread(s->bytes, 1, sizeof s->bytes, file);
  fclose(file);
}

int main(int argc, char **argv) {
  require(argc >= 4, "usage: target FINDINGS RUNS SEED FILE...");
  size_t files = (size_t)argc - 4, count = files == 0 ? 1 : files;
  sample *samples = calloc(count, sizeof *samples);
  require(samples != NULL, "no memory for the inputs");
  findings = argv[1], state = strtoull(argv[3], NULL, 10) * 2 + 1;
  signal(SIGABRT, keep);
  for (size_t i = 0; i < files; i++) {
    read_sample(argv[4 + i], &samples[i]);
    current = samples[i];
    execute();
  }
  for (long runs = strtol(argv[2], NULL, 10); runs > 0; runs--) {
    current = samples[draw(count)];
    for (size_t changes = 1 + draw(CHANGES_MAX); changes > 0; changes--) change(&current, &samples[draw(count)]);
    execute();
  }
  free(samples);
  tell();
  return 0;
}
