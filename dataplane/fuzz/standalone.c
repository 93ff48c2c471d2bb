/* Runs the inputs of files once each, for compilers without libFuzzer: `target FILE...` */
#include "fuzz.h"

int main(int argc, char **argv) {
  static uint8_t bytes[1 << 20];
  for (int i = 1; i < argc; i++) {
    FILE *file = fopen(argv[i], "rb");
    require(file != NULL, "an input that cannot be read");
    size_t len = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    LLVMFuzzerTestOneInput(bytes, len);
  }
  printf("%d inputs\n", argc - 1);
  return 0;
}
