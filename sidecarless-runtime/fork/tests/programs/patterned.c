// A process whose memory is known: what a test expects to read of it is told by the address alone. It prints where its
// groups of pages are and waits for the end of its input. A group is 16 pages of its own, every seventh page of all
// being zeros, and one page of a file, FILE, which nobody may read from it.
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, OWN = 16, GROUP = OWN + 1 };

static uint64_t pattern(uint64_t address) { return address / PAGE % 7 == 0 ? 0 : address * 0x9e3779b97f4a7c15ull | 1; }

int main(int argc, char **argv) {
	if (argc != 3)
		return 2;
	size_t groups = strtoul(argv[1], NULL, 10);
	int file = open(argv[2], O_RDONLY);
	char *base = mmap(NULL, groups * GROUP * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (file < 0 || base == MAP_FAILED)
		return 1;
	volatile char sum = 0;
	for (size_t group = 0; group < groups; group++) {
		char *start = base + group * GROUP * PAGE;
		for (uint64_t *word = (uint64_t *)start; word < (uint64_t *)(start + OWN * PAGE); word++)
			*(volatile uint64_t *)word = pattern((uint64_t)word);
		char *secret = mmap(start + OWN * PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, file, 0);
		if (secret == MAP_FAILED)
			return 1;
		sum += *secret;
	}
	printf("%p\n", (void *)base);
	fflush(stdout);
	while (getchar() != EOF)
		;
	return 0;
}
