// A process with so many bytes of data, every word of which is told by its place. It prints where they are and waits
// for the end of its input.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

int main(int argc, char **argv) {
	size_t bytes = argc == 2 ? strtoul(argv[1], NULL, 10) : 0;
	volatile uint64_t *data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (bytes == 0 || data == MAP_FAILED)
		return 1;
	// Page by page, as most memory comes to be.
	madvise((void *)data, bytes, MADV_NOHUGEPAGE);
	for (size_t place = 0; place < bytes / 8; place++)
		data[place] = place * 0x9e3779b97f4a7c15ull | 1;
	printf("%p\n", (void *)data);
	fflush(stdout);
	while (getchar() != EOF)
		;
	return 0;
}
